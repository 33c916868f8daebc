"""How far a distribution is from its own mirror image about its mean."""

from __future__ import annotations

import math

import numpy as np

from .sketch import Sketch


def asymmetry(x) -> float:
    """Kolmogorov–Smirnov distance between W - μ and μ - W, with μ the mean of W: 0 for a symmetric distribution.

    Exact for 8- and 16-bit types. For float32 it is the largest distance at cell edges and at their mirror images,
    inside cells the values taken to be spread evenly, as `Sketch.cdf` does: off by at most the share of the largest
    cell, for a smooth density by far less. Noise has about 0.8 / √n; in bfloat16, what rounding costs, about 0.002, if
    that is more.

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes.

    Returns:
        Between 0 and 1; NaN where there are no values or all are equal.
    """
    sketch = Sketch.of(x)
    if not sketch.count or sketch.std == 0:
        return math.nan
    cells, n, centre = sketch.cells, sketch.count, sketch.mean
    upto = np.cumsum(cells.count)
    if not sketch.grid.wide:
        # The difference of the two functions steps at v - μ and at μ - v: #{w ≤ v} - #{w ≥ 2μ - v} after the first,
        # and after the second #{w ≤ 2μ - v} - #{w ≥ v}.
        below, mirror = np.concatenate([[0], upto]), 2 * centre - cells.value
        first = upto - (n - below[np.searchsorted(cells.value, mirror, side="left")])
        second = below[np.searchsorted(cells.value, mirror, side="right")] - (n - below[:-1])
        return float(max(np.abs(first).max(), np.abs(second).max()) / n)
    edges = np.concatenate([cells.lower, cells.upper])
    return float(np.abs(_below(sketch, edges) + _below(sketch, 2 * centre - edges) - 1).max())


def _below(sketch: Sketch, x: np.ndarray) -> np.ndarray:
    """Share of the values below x, linear inside the cells of a wide grid."""
    cells = sketch.cells
    knots = np.stack([np.maximum(cells.lower, sketch.min), np.minimum(cells.upper, sketch.max)], axis=1).ravel()
    upto = np.cumsum(cells.count)
    shares = np.stack([upto - cells.count, upto], axis=1).ravel() / sketch.count
    return np.interp(x, knots, shares, left=0.0, right=1.0)
