"""What chapter 12 merges, the reader’s own models or two of the lab, and what it says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from .. import findings
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..deltas.partners import partners
from ..experiments.fine_tunes import Siblings
from ..findings.markup import code, plain
from ..merging import methods

EXAMPLE = ("parity", "rotation")
"""Tasks whose fine-tunes the chapter merges where the reader names no models."""


def example(base: str, tuned: str, profile: str) -> tuple[Checkpoint, list[Checkpoint], str]:
    """What a chapter merges, and what it says of it: the reader’s own, or two ViT of the lab, without their heads.

    Args:
        base: of the reader’s models; without it there is nothing that ΔW could be taken from.
        tuned: their names, with commas between.
        profile: of the chapter.
    """
    names = [name.strip() for name in tuned.split(",") if name.strip()]
    if base and names:
        before, *models = (open_checkpoint(name) for name in (base, *names))
        return (
            before,
            models,
            f"**{plain(before.name)}**, and tuned from it: {', '.join(plain(one.name) for one in models)}.",
        )
    cell = {"model": "vit", "seed": 0} | ({"steps": 20, "toy": True} if profile == "quick" else {})
    made = Siblings(cell, EXAMPLE)
    before = replace(open_checkpoint(made.base), name="the lab ViT")
    models = [
        replace(open_checkpoint({name: made.base[name] + one[name] for name in one}), name=f"tuned for “{task}”")
        for task, one in made.deltas.items()
    ]
    words = f"**{before.name}**, {' and '.join(one.name for one in models)}, trained here or fetched from the cache."
    if base or names:
        given, missing = ("base", "tuned a,b") if base else ("tuned", "base …")
        words += f" `{given}` was given without `-p {missing}`; merging takes both, so it is not looked at."
    return before, models, words


def fullest(table: pd.DataFrame) -> str:
    """The matrix whose outliers have the largest share of its squared norm; of several, or without any, the first."""
    some = table[table["size"] > 0]
    return some.loc[some["energy"].idxmax(), "tensor"]


def average(base: Checkpoint, models: Sequence[Checkpoint], name: str) -> torch.Tensor:
    """The mean of the ΔW of one matrix."""
    start = base.stored[name].load().float()
    deltas = [partners(base, one)[name]().float() - start for one in models]
    return methods.combine(deltas, "average", [1.0] * len(deltas))


def outliers(table: pd.DataFrame) -> str:
    """How many matrices of an average have outliers, and what these are, in a sentence.

    Args:
        table: from `lfmlib.overlap`.
    """
    some = table[table["outliers"] > 0]
    if some.empty:
        return (
            f"In the average of these ΔW **none** of {len(table)} matrices has outliers: there is nothing to amplify."
        )
    most = some.loc[some["energy"].idxmax()]
    return (
        f"In the average of these ΔW **{len(some)} of {len(table)}** matrices have outliers. In {code(most['tensor'])} "
        f"they are {most['outliers']:.2%} of the entries, with {most['energy']:.1%} of the squared norm; they reach "
        f"out to {most['reach']:.1f} times the core (in the single ΔW, {most['reach_single']:.1f} times). In the "
        f"median over all matrices they have {table['energy'].median():.2%} of the squared norm."
    )


def conflict(table: pd.DataFrame, count: int) -> str:
    """How alike ΔW are, and how often their signs conflict, beside what chance gives, in a sentence."""
    if count < 2:
        return "There is one model, so there is nothing to reconcile: its ΔW is scaled and amplified."
    alike = f"{table['alike'].median():+.3f} (from {table['alike'].min():+.3f} to {table['alike'].max():+.3f})"
    chance = 1 - 2.0 ** (1 - count)
    return (
        f"Of {len(table)} matrices, in the median: cosine of two ΔW **{alike}**, chance gives 0 ± "
        f"{(table['numel'] ** -0.5).median():.3f}; signs conflict in **{table['conflict'].median():.1%}** of the "
        f"entries, by chance in {chance:.1%}."
    )


def by_role(table: pd.DataFrame) -> pd.DataFrame:
    """Medians of what ΔW have in common, by role."""
    names = {"size": "size of ΔW", "alike": "cosine", "conflict": "signs conflict", "outliers": "outliers",
             "energy": "of the norm²", "factor": "factor"}  # fmt: skip
    return findings.by_role(table)[list(names)].median().rename(columns=names).rename_axis(None)


def written(place: Path) -> str:
    """What a merge wrote, in a sentence."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    listed = ", ".join(code(path.relative_to(place)) for path in files[:6])
    return (
        f"Written to {code(place.name)}: {len(files)} files, {size / 1e6:.1f} MB ({listed}{' …' if files[6:] else ''})."
    )
