"""Bits per weight that are lost by coding values with the Gaussian of their own mean and standard deviation.

They are counted on a histogram whose cells are at least a tenth of a standard deviation wide and cut no cell of the
storage type: `kl_bits` over those within six standard deviations and two open tails, `tail_bits` inside these tails.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from scipy import special

from .sketch import Sketch

MIN_CELL_STD = 0.1
"""Smallest width of a coding cell, in standard deviations."""
TAIL_START_STD = 6.0
"""Distance from the mean, in standard deviations, at which the two open tail cells begin."""
MAX_CENTRAL_CELL_STD = 0.3
"""Width of a float32's cell at the mean, in standard deviations, beyond which no shape can be told."""
_LN2 = math.log(2)


def coding_cells(sketch: Sketch, width: float = MIN_CELL_STD) -> tuple[np.ndarray, np.ndarray]:
    """The histogram that `kl_bits` is computed on, without the open tails.

    Args:
        sketch: at least two different values.
        width: smallest width of a cell in standard deviations.

    Returns:
        edges: float64 ``(cells + 1,)``, from about -6 to 6 standard deviations, each an edge of the storage type's
            own cells, so that no value's rounding cell is cut.
        counts: int64 ``(cells,)``.

    Examples:
        >>> sketch = lfmlib.Sketch.of(np.random.default_rng(0).standard_normal(65536))
        >>> edges, counts = lfmlib.coding_cells(sketch, 0.5)
        >>> len(edges) - len(counts), int(counts.sum())
        (1, 65536)
    """
    picked = _pick_edges(sketch.grid.edges, sketch.mean, sketch.std, TAIL_START_STD, width)
    return sketch.grid.edges[picked], np.diff(sketch.grid_below[picked])


@numba.njit(nogil=True, cache=True)
def _pick_edges(edges, mean, std, reach, width):
    """Indices of edges from -reach to reach std about the mean, each at least ``width`` std after the one before."""
    picked = [min(np.searchsorted(edges, mean - reach * std), edges.size - 2)]
    step = width * std * (1 - 1e-9)  # an edge that is too near by rounding alone is taken
    while edges[picked[-1]] < mean + reach * std and picked[-1] < edges.size - 1:
        after = np.searchsorted(edges, edges[picked[-1]] + step)
        picked.append(min(max(after, picked[-1] + 1), edges.size - 1))
    return np.array(picked)


def tells_shape(sketch: Sketch) -> bool:
    """Whether the cells of a float32 are narrow enough about the mean to tell a shape: up to `MAX_CENTRAL_CELL_STD`
    wide, as they are while abs(mean) is below some 40 to 80 std. Types of 8 and 16 bits have a cell for each value.

    Args:
        sketch: at least two different values.

    Examples:
        >>> from lfmlib.distribution.bits import tells_shape
        >>> noise = np.random.default_rng(0).standard_normal(65536)
        >>> tells_shape(lfmlib.Sketch.of(noise)), tells_shape(lfmlib.Sketch.of(noise + 200))
        (True, False)
    """
    if not sketch.grid.wide:
        return True
    z = (coding_cells(sketch)[0] - sketch.mean) / sketch.std
    return bool(z.size >= 2 and np.diff(z)[np.searchsorted(z[1:-1], 0)] <= MAX_CENTRAL_CELL_STD)


def kl_and_tail_bits(sketch: Sketch) -> tuple[float, float]:
    """`kl_bits` and `tail_bits` of at least two different values (see `lfmlib.distribution.distances.Normality`)."""
    n, cells = sketch.count, sketch.cells
    edges, counts = coding_cells(sketch)
    z = (edges - sketch.mean) / sketch.std
    model = np.concatenate([[special.ndtr(z[0])], _gaussian_mass(z[:-1], z[1:]), [special.ndtr(-z[-1])]])
    left, right = (int(cells.count[side].sum()) for side in (cells.upper <= edges[0], cells.lower >= edges[-1]))
    share = np.concatenate([[left], counts, [right]]) / n
    seen = share > 0
    kl = np.sum(share[seen] * np.log2(share[seen] / model[seen]))
    kl -= (seen.sum() - 3) / (2 * n * _LN2)
    return float(kl), _one_tail_bits(sketch, z[-1], +1) + _one_tail_bits(sketch, z[0], -1)


def _gaussian_mass(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Standard Gaussian mass between a and b, computed on the side of zero where the difference does not cancel."""
    return np.where(a > 0, special.ndtr(-a) - special.ndtr(-b), special.ndtr(b) - special.ndtr(a))


def _one_tail_bits(sketch: Sketch, start: float, side: int) -> float:
    """Bits per weight lost by coding the values beyond ``start`` (in std; above it for ``side`` +1, below for -1) with
    the Gaussian's own tail."""
    cells = sketch.cells
    lower, upper = (cells.lower - sketch.mean) / sketch.std, (cells.upper - sketch.mean) / sketch.std
    if side > 0:
        beyond = lower >= start * (1 - 1e-12)
        inner, outer, count = lower[beyond], upper[beyond], cells.count[beyond]
    else:
        start = -start
        beyond = -upper >= start * (1 - 1e-12)
        inner, outer, count = -upper[beyond][::-1], -lower[beyond][::-1], cells.count[beyond][::-1]
    if not count.size:
        return 0.0
    inner, outer, count = _join_cells(inner, outer, count, MIN_CELL_STD)
    log_outer = special.log_ndtr(-outer)
    log_inner = special.log_ndtr(-inner)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_model = log_inner + np.log1p(-np.exp(log_outer - log_inner)) - special.log_ndtr(-start)
    share = count / count.sum()
    return float(count.sum() / sketch.count * np.sum(share * (np.log(share) - log_model)) / _LN2)


@numba.njit(nogil=True, cache=True)
def _join_cells(inner, outer, count, width):
    """Join occupied tail cells, outwards from the mean, into cells at least ``width`` wide."""
    joined_inner, joined_outer, joined = np.empty(inner.size), np.empty(inner.size), np.zeros(inner.size, np.int64)
    last = -1
    for i in range(inner.size):
        if last < 0 or inner[i] >= joined_outer[last]:
            last += 1
            joined_inner[last] = inner[i]
            joined_outer[last] = max(outer[i], inner[i] + width)
        joined_outer[last] = max(joined_outer[last], outer[i])
        joined[last] += count[i]
    return joined_inner[: last + 1], joined_outer[: last + 1], joined[: last + 1]
