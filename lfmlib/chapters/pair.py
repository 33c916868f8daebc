"""The pair that a chapter on fine-tuning looks at: the reader's own, or MiniLM and a fine-tune of it made here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from .. import findings
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..deltas.comparison import compare, delta
from ..deltas.opening import opened_pair
from ..experiments.finetuning import DECAY, FULL_RATES, TASKS, TOY_BATCH, plan
from ..findings.markup import code, plain
from ..lab.train import start_of, train
from .names import NAMES


def pair(model: str, base: str, revision: str, profile: str, seed: int) -> tuple[Checkpoint, Checkpoint, str]:
    """The pair a chapter looks at, and what it says of it: the reader's own, or `example`.

    Args:
        model, base, revision: the chapter's parameters; without a base there is no pair.
        profile, seed: of the chapter.
    """
    if model and base:
        before, after = opened_pair(base, model, revision=revision or None)
        return before, after, f"The pair: **{plain(after.name)}**, tuned from **{plain(before.name)}**."
    before, after = example(profile, seed)
    words = f"The pair: **{after.name}**, trained here or fetched from the lab’s cache."
    if model or base:
        given, missing = (model, "base") if model else (base, "model")
        words += f" {code(given)} was given without `-p {missing} …`; ΔW needs both, so it is not looked at."
    return before, after, words


def example(profile: str, seed: int) -> tuple[Checkpoint, Checkpoint]:
    """A pair to look at: MiniLM and a full fine-tune of it, as in the record; quick: a toy ViT."""
    model = "vit" if profile == "quick" else "minilm"
    cell = {
        "part": "plain",
        "model": model,
        **TASKS[model],
        "lr": FULL_RATES[model],
        "weight_decay": DECAY,
        "seed": seed,
    }
    config = plan(cell | ({"steps": 8, "batch": TOY_BATCH} if profile == "quick" else {}))
    base, tuned = (open_checkpoint(one) for one in (start_of(config), train(config, snapshots=0).model))
    name = NAMES["minilm"] if model == "minilm" else "a toy ViT"
    return replace(base, name=name), replace(tuned, name=f"{name}, tuned for “{cell['task']}”")


def rounding(base: Checkpoint, tuned: Checkpoint, rows: pd.DataFrame, most: int = 12) -> pd.DataFrame:
    """What storing a pair in bfloat16 does to ΔW and to noise in its place, at its own size and at a tenth of it.

    Args:
        base, tuned: the pair.
        rows: of `lfmlib.compare`, for the pair itself; at most so many of them, evenly chosen, are looked at.
        most: see there.

    Returns:
        Medians over these matrices of std_delta, rounding_std, zeros, kl_bits and qq_r2.
    """
    new, moved = {}, {}
    for name in rows.iloc[:: -(-len(rows) // most)]["tensor"]:
        moved[name] = delta(base, tuned, name)
        new[name] = tuned.read(name)[: len(moved[name])].float()
    columns = ["std_delta", "rounding_std", "zeros", "kl_bits", "qq_r2"]
    found = {"as it is": rows.loc[rows["tensor"].isin(new), columns].astype(float).median()}
    for share, words in ((1.0, ""), (0.1, ", a tenth")):
        stored = [{name: (new[name] - s * moved[name]).bfloat16() for name in new} for s in (1.0, 1.0 - share)]
        table = compare(*stored, controls=["noise"], progress=False)
        for kind, name in (("none", "ΔW"), ("noise", "noise")):
            part = table.loc[table["control"] == kind, columns].astype(float)
            found[f"{name} in bfloat16{words}"] = part.median()
    return pd.DataFrame(found).T


def lost(small: pd.DataFrame) -> str:
    """Whether noise that went through the same rounding still passes for Gaussian, in a sentence; from `rounding`."""
    noise = small.loc[["noise in bfloat16", "noise in bfloat16, a tenth"]]
    words = [
        f"{size} the R² of noise is {value:.3f}: {'passed' if value >= findings.QQ_BOUND else '**failed**'}"
        for size, value in zip(("at its own size", "at a tenth of it"), noise["qq_r2"], strict=True)
    ]
    whole, (_, tenth) = small.loc["as it is"], noise["std_delta"]
    told = np.hypot(0.1 * whole["std_delta"], np.sqrt(2) * noise["rounding_std"].iloc[0])
    return (
        f"After rounding, {'; '.join(words)}. What noise fails says nothing of ΔW. The floor of both roundings, and a "
        f"tenth of ΔW, make a standard deviation of {told:.3g}; found: {tenth:.3g}."
    )


def main_effect(weights: pd.DataFrame) -> str:
    """How the change of the std compares with the size of ΔW, in sentences.

    Args:
        weights: rows of `lfmlib.compare`.
    """
    change = (weights["std_gain"] / weights["std_base"]).median()
    scaled = (weights["corr"] ** 2).median()
    return (
        f"The standard deviation changed by **{change:+.3%}** in the median matrix, while the weights moved by "
        f"{weights['moved'].median():.2%} of their size. The part of ΔW’s variance that only rescales W₀, the squared "
        f"correlation of the two, is {scaled:.2g} in the median."
        f"{' Whatever ΔW mainly does, it is not that.' if scaled < 0.5 else ''}"
    )
