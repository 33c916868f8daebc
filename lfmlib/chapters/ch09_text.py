"""How much noise a causal model of the reader's stands, and its base, on a text of theirs: chapter 9's measurements."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ..deltas import stand_ins
from ..experiments.radius import CLOSED, UNITS
from ..findings.markup import code
from ..lab.tuning import body
from ..losses.tolerance import radius
from .ch09_radius import UNIT_NAMES, WHICH, times
from .own_text import OwnText, Text, asked, loaded

LOSSES = 5
"""How often a loss is asked for until a radius is found, about."""


def measured(
    model: str, base: str, revision: str, text: Text, *, seed: int = 0, profile: str = "default"
) -> pd.DataFrame:
    """Noise radii of a causal model on parts of a text; with its base also those of the base, and of the base plus
    noise as large as ΔW. It says how long it will take, and shows progress.

    Args:
        model, base: causal models, as `lfmlib.chapters.own_text.loaded` takes them; the base may be "".
        revision: of the model.
        text: from `lfmlib.chapters.own_text.read`.
        seed: of the noise.
        profile: of the chapter.

    Returns:
        A row for each model ``which`` ("base", "tuned", "random"), ``unit`` of the noise (of `UNITS`: a model's own
        standard deviations, or those of the base) and part of the text, the ``draw``: ``radius``, ``own`` loss and that
        ``prior``; ``tokens`` of a part. None without a text.

    Raises:
        ValueError: there is a text and no model; the model or the base cannot be asked, or have other matrices; or one
            foretells a part of the text no better than the frequencies of its tokens.
    """
    if not text:
        return pd.DataFrame({"which": []})
    if not model:
        raise ValueError("`text` was given without a model: expected `-p model …`, a causal model to foretell it")
    tuned, encode = loaded(model, revision)
    task = asked(text, encode, tuned)
    start = loaded(base)[0] if base else None
    tried = [("tuned", tuned), ("base", start), ("random", start)] if start is not None else [("tuned", tuned)]
    sizes = _sizes(tuned if start is None else start)
    moved = _moved(start, tuned) if start is not None else {}
    parts, units = task.parts(profile), UNITS[:2] if base else UNITS[:1]
    started = time.perf_counter()
    task.evaluate(tuned, **parts[0])
    count = sum(len(parts) * (1 if which == "base" else len(units)) for which, _ in tried)
    minutes = (time.perf_counter() - started) * count * LOSSES / 60
    rows: list[dict] = []
    with tqdm(total=count, desc=f"{count} noise radii, {minutes:.0f} min or more", leave=False) as bar:
        for which, one in tried:
            if which == "random":
                _shake(one, moved, seed)
            for unit in units:
                if (which, unit) == ("base", "base"):  # its own is the same
                    rows += [row | {"unit": unit} for row in rows if row["which"] == which]
                    continue
                for draw, some in enumerate(parts):
                    found = _of_part(task, one, some, None if unit == "own" else sizes, [seed, draw])
                    rows.append({"which": which, "unit": unit, "draw": draw, **found})
                    bar.update()
    return pd.DataFrame(rows)


def _of_part(task: OwnText, model: nn.Module, some: dict, sizes: dict | None, seed: list[int]) -> dict:
    own, prior = task.evaluate(model, **some)["loss"], task.prior(**some)
    if not own < prior:
        raise ValueError(
            f"a model has {own:.2f} nats a token on a part of this text, and the frequencies of tokens {prior:.2f}: "
            "there is nothing that noise could take from it. Expected a text of a kind it can foretell"
        )
    found = radius(
        lambda: task.evaluate(model, **some)["loss"],
        _matrices(model),
        CLOSED * (prior - own),
        draws=1,
        seed=int(np.random.SeedSequence(seed).generate_state(1)[0]),
        std=sizes,
    )
    return {"radius": found["radius"].item(), "own": own, "prior": prior, "tokens": some["most"] * task.length}


def _matrices(model: nn.Module) -> dict[str, torch.Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in body(model)["name"]}


def _sizes(model: nn.Module) -> dict[str, float]:
    return {name: w.detach().std(correction=0).item() for name, w in _matrices(model).items()}


def _moved(base: nn.Module, tuned: nn.Module) -> dict[str, float]:
    """Standard deviation of ΔW, by matrix."""
    before, after = _matrices(base), _matrices(tuned)
    if other := {name for name in before | after if name not in before or before[name].shape != after[name].shape}:
        raise ValueError(f"model and base are no pair: {min(other)} is of one alone, or of another shape")
    return {name: (after[name] - before[name]).detach().std(correction=0).item() for name in before}


@torch.no_grad()
def _shake(model: nn.Module, sizes: dict[str, float], seed: int) -> None:
    """Add noise as large as ΔW to the matrices, in place."""
    for name, w in _matrices(model).items():
        w.copy_(stand_ins.added(w, sizes[name], np.random.default_rng([seed, 23, *name.encode()])))


def told(rows: pd.DataFrame, text: Text) -> str:
    """What came out, in sentences; without a text, how to ask.

    Args:
        rows: from `measured`.
        text: the text.
    """
    if not len(rows):
        return (
            "No text was given. `-p text file.txt` measures the radius of a causal model, `-p model …`, on a text of "
            "yours. With `-p base …` it measures that of its base too, and says how long that takes before it begins."
        )
    own = rows[rows["unit"] == UNITS[0]]
    sizes = own.groupby("which")["radius"].median()
    losses = own.groupby("which")["own"].mean()
    words = "; ".join(
        f"{name} **{sizes[which]:.3g}** σ (its loss is {losses[which]:.3f} nats a token)"
        for which, name in WHICH.items()
        if which in sizes
    )
    said = (
        f"{code(text.name)}, {rows['draw'].nunique()} parts of {int(rows['tokens'].iloc[0]):,} tokens, by the "
        f"frequencies of the text’s own tokens {rows['prior'].mean():.3f} nats a token. A tenth of the gap is closed "
        f"by noise of: {words}."
    )
    ratios = []
    for which in ("tuned", "random"):
        for unit, some in rows.groupby("unit", sort=False):
            wide = some.pivot(index="draw", columns="which", values="radius")
            if "base" in wide and which in wide:
                logs = np.log(wide[which] / wide["base"])  # none where a radius is 0 or infinite
                ratios.append(f"{WHICH[which]} / W₀ {UNIT_NAMES[unit]} {times(logs.where(np.isfinite(logs)))}")
    if ratios:
        said += (
            f" Ratios, geometric means over the parts with 95 % intervals: {'; '.join(ratios)}. The intervals are about"
            " parts and noise, not about trainings: F8 takes fine-tunes of several seeds, and one pair is not judged."
        )
    return said
