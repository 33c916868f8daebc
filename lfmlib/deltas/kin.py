"""Whether W and W₀ belong together, by what their values have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import torch

from ..checkpoints.checkpoint import Checkpoint, CheckpointError

MIN_KINSHIP = 0.2
"""Median correlation of W and W₀ below which two checkpoints are no fine-tune of one another."""
KINSHIP_MATRICES, KINSHIP_ROWS = 16, 64
"""Matrices, and rows of each, in which W and W₀ are correlated before anything is measured or written."""
MIN_PAIRED_VALUES = 4096
"""Entries that a matrix needs to be looked at: of fewer a correlation, or a share of signs, says little."""

Loads = Sequence[Callable[[], Sequence[torch.Tensor]]]
"""Calls that each load a W and its W₀, laid over each other."""


def refuse_strangers(base: Checkpoint, tuned: Checkpoint, pairs: Loads) -> None:
    """Raise ValueError where W and W₀ correlate no more than those of unrelated models do.

    Args:
        base, tuned: for their names.
        pairs: some of them are looked at. What cannot be read is left to whoever measures it.
    """
    if (middle := median_kinship(pairs)) < MIN_KINSHIP:
        raise ValueError(
            f"the tuned model ({tuned.name}) is no fine-tune of the base ({base.name}): their matrices correlate by "
            f"{middle:.3f} in the median, as unrelated models do; expected at least {MIN_KINSHIP}. Name the model it "
            "was fine-tuned from"
        )


def stored_pairs(base: Checkpoint, theirs: Mapping[str, Callable[[], torch.Tensor]]) -> Loads:
    """Of the large matrices that a base stores, calls that load those of a model, ``theirs``, and its own."""
    large = [
        name for name, one in base.stored.items() if len(one.shape) == 2 and math.prod(one.shape) >= MIN_PAIRED_VALUES
    ]
    return [partial(_loaded, theirs[name], base.stored[name].load) for name in large]


def _loaded(*loads: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    return [load().cpu() for load in loads]


def median_kinship(pairs: Loads) -> float:
    """The median `kinship` of some of these pairs, evenly spread; 1 where none can be read."""
    found = []
    for load in pairs[:: max(1, -(-len(pairs) // KINSHIP_MATRICES))]:
        with suppress(OSError, CheckpointError):
            found.append(kinship(*load()))
    return float(np.median(found)) if found else 1.0


def kinship(new: torch.Tensor, old: torch.Tensor) -> float:
    """Correlation of some rows of W and W₀, of values that are finite in both; 1 where one side is constant."""
    a, b = (w[:: max(1, len(w) // KINSHIP_ROWS)].double().flatten() for w in (new, old))
    finite = a.isfinite() & b.isfinite()
    a, b = a[finite] - a[finite].mean(), b[finite] - b[finite].mean()
    norm = float(a.norm() * b.norm())
    return float(a @ b) / norm if norm > 0 else 1.0
