"""Damage planted into copies of a model's own matrices, and whether it is called by its name."""

from __future__ import annotations

import pandas as pd
import torch

from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..surveys.arrangements import arrangement
from ..surveys.values import survey
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
