"""Damage planted into copies of a model's own matrices, and whether it is called by its name."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import torch

from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..surveys.arrangements import arrangement
from ..surveys.values import survey
from .order import Likeness
from .states import bytes_reversed, examine


def self_test(part: Checkpoint, seed: int) -> pd.DataFrame:
    """Plant damage into copies of a model's own matrices, and say which state `examine` calls it.

    Args:
        part: a checkpoint whose first matrices are copied.
        seed: of noise and of the order of entries.

    Returns:
        One row for each kind of damage in `PLANTED`: tensor, planted, called ("nothing" where it was not noticed).
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


def exchanges(likeness: Likeness, seed: int, most: int = 12) -> pd.DataFrame:
    """Exchange two layers in thought, pair after pair, and say which pair is named first.

    Args:
        likeness: of layers in order.
        seed: of the choice of pairs.
        most: largest number of pairs.

    Returns:
        One row for each pair: first, second (depths), called ("right", "wrong" or "nothing").
    """
    depths, rows = likeness.depths, []
    pairs = list(combinations(range(len(depths)), 2))
    for i, j in (pairs[k] for k in np.random.default_rng(seed).permutation(len(pairs))[:most]):
        place = np.arange(len(depths))
        place[[i, j]] = j, i
        named = likeness.moved(place).order().exchanged.head(1)
        right = [(depths[i], depths[j])] == list(zip(named["first"], named["second"], strict=True))
        called = "nothing" if named.empty else "right" if right else "wrong"
        rows.append({"first": depths[i], "second": depths[j], "called": called})
    return pd.DataFrame(rows)


PLANTED = {
    "zeroed": lambda w, generator: torch.zeros_like(w),
    "swapped": lambda w, generator: bytes_reversed(w),
    "untrained": lambda w, generator: (w.float().std() * torch.randn(w.shape, generator=generator)).to(w.dtype),
    "shuffled": lambda w, generator: w.flatten()[torch.randperm(w.numel(), generator=generator)].reshape(w.shape),
}
"""State → the damage that the self-test plants: a function of a matrix and a generator."""
