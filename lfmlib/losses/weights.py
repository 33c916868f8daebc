"""Weights that a loss depends on, changed in place and restored to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

Weights = Mapping[str, torch.Tensor]
"""Name → tensor."""


@contextmanager
def restored(weights: Weights) -> Iterator[dict[str, torch.Tensor]]:
    """A context that gives copies of the weights; on leaving it the weights have these values again, to the bit.

    Args:
        weights: name → tensor, which may be changed in place meanwhile.
    """
    before = {name: w.detach().clone() for name, w in weights.items()}
    try:
        yield before
    finally:
        with torch.no_grad():
            for name, w in weights.items():
                w.copy_(before[name])


def rng(seed: Sequence[int], name: str) -> np.random.Generator:
    """The source of a draw for the matrix of that name.

    Args:
        seed: numbers, of the draw.
        name: of the matrix.
    """
    return np.random.default_rng([*seed, *name.encode()])
