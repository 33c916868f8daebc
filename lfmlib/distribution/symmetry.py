"""How far a distribution is from its own mirror image about its mean."""

from __future__ import annotations

import math

import numpy as np

from .sketch import Sketch


def asymmetry(x) -> float:
    """Kolmogorov–Smirnov distance between W - μ and μ - W, with μ the mean of W: 0 for a symmetric distribution.

    Exact zeros are left out: where many weights were set to zero, they would be held against their mirror image at 2μ.
    Exact for 8- and 16-bit types. For float32 it is the largest distance at cell edges and at their mirror images,
    inside cells the values taken to be spread evenly, as `Sketch.cdf` does: off by at most the share of the largest
    cell, for a smooth density by far less. Noise has about 0.8 / √n; in bfloat16, what rounding costs, about 0.002, if
    that is more.

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes.

    Returns:
        Between 0 and 1; NaN where there are no values but zero, or all are equal.
    """
    sketch = Sketch.of(x)
    if not sketch.count or sketch.std == 0:
        return math.nan
    cells = sketch.cells
    kept = (cells.lower > 0) | (cells.upper < 0)  # a cell that touches zero holds nothing else that counts
    count, lower, upper, value = (part[kept] for part in (cells.count, cells.lower, cells.upper, cells.value))
    n, upto = int(count.sum()), np.cumsum(count)
    centre = sketch.mean * (sketch.count / n)
    if not sketch.grid.wide:
        # The difference of the two functions steps at v - μ and at μ - v: #{w ≤ v} - #{w ≥ 2μ - v} after the first,
        # and after the second #{w ≤ 2μ - v} - #{w ≥ v}.
        below, mirror = np.concatenate([[0], upto]), 2 * centre - value
        first = upto - (n - below[np.searchsorted(value, mirror, side="left")])
        second = below[np.searchsorted(value, mirror, side="right")] - (n - below[:-1])
        return float(max(np.abs(first).max(), np.abs(second).max()) / n)
    knots = np.stack([np.maximum(lower, sketch.min), np.minimum(upper, sketch.max)], axis=1).ravel()
    shares = np.stack([upto - count, upto], axis=1).ravel() / n
    edges = np.concatenate([lower, upper])
    here, there = (np.interp(at, knots, shares, left=0.0, right=1.0) for at in (edges, 2 * centre - edges))
    return float(np.abs(here + there - 1).max())
