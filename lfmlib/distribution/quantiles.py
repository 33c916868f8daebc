"""Distribution function and quantiles of a sketch, see `Sketch.cdf` and `Sketch.quantile`.

Inside a wide cell of float32 values are taken to be spread evenly. Exact zeros, the smallest and the largest value are
known apart: a pruned tensor's zeros are one value, not a cell of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .sketch import Sketch


def share_up_to(sketch: Sketch, x: np.ndarray) -> np.ndarray:
    """Share of the values that are at most ``x``; the sketch is not empty."""
    cells, half = sketch.cells, sketch.grid.patterns // 2
    below = np.concatenate([[0], np.cumsum(cells.count)])
    if not sketch.grid.wide:
        return below[np.searchsorted(cells.value, x, side="right")] / sketch.count
    i = np.minimum(np.searchsorted(cells.upper, x, side="left"), cells.count.size - 1)
    lower, upper = np.maximum(cells.lower[i], sketch.min), np.minimum(cells.upper[i], sketch.max)
    width = upper - lower
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = np.where(width > 0, np.clip((x - lower) / width, 0, 1), x >= upper)
    share = (below[i] + inside * cells.count[i]) / sketch.count
    up_to_zero = sketch.patterns[half:].sum() + sketch.sums[4, 0]
    return np.where(x == 0, up_to_zero / sketch.count, share)


def ranked(sketch: Sketch, rank: np.ndarray) -> np.ndarray:
    """The value of each rank, an integer from 0, the smallest value, to count - 1, the largest."""
    cells, half = sketch.cells, sketch.grid.patterns // 2
    below = np.cumsum(cells.count)
    i = np.searchsorted(below, rank, side="right")
    if not sketch.grid.wide:
        return cells.value[i]
    inside = (rank - (below[i] - cells.count[i]) + 0.5) / cells.count[i]
    values = np.clip(cells.lower[i] + inside * (cells.upper[i] - cells.lower[i]), sketch.min, sketch.max)
    negative = sketch.patterns[half:].sum() - sketch.sums[4, half]
    values = np.where((rank >= negative) & (rank < negative + sketch.zeros), 0.0, values)
    return np.where(rank == 0, sketch.min, np.where(rank == sketch.count - 1, sketch.max, values))
