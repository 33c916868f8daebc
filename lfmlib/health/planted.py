"""Damage that the report looks for: layers out of their order; and how well it sees what is planted into the model."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import torch

from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..surveys.arrangements import arrangement
from ..surveys.values import survey
from . import order
from .states import examine


def self_test(part: Checkpoint, seed: int) -> pd.DataFrame:
    """Damage planted into copies of this model's own matrices, and what it is called.

    Args:
        part: from `lfmlib.chapters.ch13_report.chosen`.
        seed: of noise and of the order of entries.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, tensors = [], {}
    names = [info.name for info in part.tensors if info.dtype in ("float32", "bfloat16", "float16")]
    for name, (state, damage) in zip(names, PLANTED.items(), strict=False):
        tensors[name] = damage(part.read(name), generator)
        rows.append({"tensor": name, "planted": state})
    if not rows:
        return pd.DataFrame(columns=["tensor", "planted", "called"])
    damaged = open_checkpoint(tensors)
    table = survey(damaged, progress=False)
    arranged = arrangement(damaged, controls=["permuted"], progress=False)
    called = examine(damaged, table, arranged).set_index("tensor")["state"]
    return pd.DataFrame(rows).assign(called=[called.get(row["tensor"], "nothing") for row in rows])


def layers(checkpoint: Checkpoint, states: pd.DataFrame, sample: int, seed: int) -> str:
    """Whether the layers stand in their order, those without a state of `lfmlib.health.states.examine`, in a
    sentence."""
    hurt = sorted(_hurt(states))
    out = f" Left out: layer{'s' if len(hurt) > 1 else ''} {', '.join(map(str, hurt))}." if hurt else ""
    found = order.profiles(checkpoint, _rows(checkpoint, sample), hurt)
    try:
        result = order.layer_order(found, seed=seed)
    except ValueError as error:
        return f"Whether layers stand in their order cannot be told: {error}.{out}"
    alike = (
        f"column norms of neighbouring layers correlate by {result.neighbours:.2f} in the mean, those of distant ones "
        f"by {result.distant:.2f}"
    )
    if not result.judged:
        return f"Whether layers stand in their order cannot be told: {alike}.{out}"
    if result.exchanged.empty:
        return f"**No two layers look exchanged**: {alike}, and no exchange makes neighbours more alike.{out}"
    best = result.exchanged.iloc[0]
    return (
        f"**Layers {best['first']:.0f} and {best['second']:.0f} look exchanged**: {alike}, and putting them back "
        f"raises the sum over neighbours by {best['gain']:.2f} (z = {best['z']:.1f}).{out}"
    )


def exchange_test(checkpoint: Checkpoint, states: pd.DataFrame, sample: int, seed: int, most: int = 12) -> str:
    """Pairs of layers exchanged in thought, and how many are named rightly, in a sentence.

    Where the model's own layers look exchanged, they are put back before.
    """
    found = order.profiles(checkpoint, _rows(checkpoint, sample), _hurt(states))
    depths = next(iter(found.values())).index if found else []
    count = len(depths)
    if count < 4:
        return "With fewer than four layers of a kind, no exchange can be seen."
    back = np.arange(count)
    own = order.layer_order(found, seed=seed).exchanged
    if len(own):
        i, j = (int(depths.get_loc(own.iloc[0][end])) for end in ("first", "second"))
        back[[i, j]] = j, i
    pairs = list(combinations(range(count), 2))
    tried = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))[:most]]
    right = wrong = 0
    for i, j in tried:
        place = back.copy()
        place[[i, j]] = place[[j, i]]
        moved = {role: one.iloc[place].set_axis(depths) for role, one in found.items()}
        named = order.layer_order(moved, seed=seed).exchanged
        hit = len(named) and (named.iloc[0]["first"], named.iloc[0]["second"]) == (depths[i], depths[j])
        right, wrong = right + bool(hit), wrong + bool(len(named) and not hit)
    before = ", put in order before" if len(own) else ""
    return (
        f"Of {len(tried)} exchanges of two layers of this model{before}, **{right} are named rightly**, "
        f"{wrong} wrongly, and {len(tried) - right - wrong} are not seen."
    )


def _hurt(states: pd.DataFrame) -> set[int]:
    """Depths of layers with a matrix that is looked at for their order and says nothing of it; pruned ones still do."""
    hurt = states["role"].isin(order.READERS) & (states["state"] != "pruned")
    return set(states.loc[hurt, "depth"].dropna().astype(int))


def _rows(checkpoint: Checkpoint, sample: int) -> int:
    """Rows of a matrix to look at for the order of layers: few where only a sample is wanted, and they must travel."""
    widest = max((info.shape[1] for info in checkpoint.tensors if info.role in order.READERS), default=1)
    return max(16, min(512, sample // (4 * widest))) if sample and checkpoint.traffic is not None else 512


def _turned(w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return (
        w.contiguous()
        .view(torch.uint8)
        .reshape(-1, w.element_size())
        .flip(1)
        .contiguous()
        .view(w.dtype)
        .reshape(w.shape)
    )


def _fresh(w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return (w.float().std() * torch.randn(w.shape, generator=generator)).to(w.dtype)


def _mixed(w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return w.flatten()[torch.randperm(w.numel(), generator=generator)].reshape(w.shape)


PLANTED = {
    "zeroed": lambda w, generator: torch.zeros_like(w),
    "swapped": _turned,
    "untrained": _fresh,
    "shuffled": _mixed,
}
"""Damage that the self-test plants."""
