"""Dependence between the entries of a matrix and their neighbours: correlations, runs, and mutual information."""

from __future__ import annotations

import math

import numba
import numpy as np

from .sums import Sums

LAGS = 20
"""Number of lags along rows, columns and diagonals, and in the Ljung–Box statistic."""
BINS = 16
"""Equally filled classes of each variable, for mutual information."""
_EDGE_SAMPLE = 100_000  # entries, about, whose quantiles are the edges of the classes


STEPS = {"row": (0, 1), "column": (1, 0), "diagonal": (1, 1)}
"""Direction of a lag → its step down and to the right."""


def lag_correlations(sums: Sums) -> np.ndarray:
    """Pearson correlation of entries with those 1 to ``lags`` positions further on.

    Returns:
        float64 ``(3, lags)``: along rows (neighbours in a row), columns, and diagonals (one down and one right).
    """
    r, c, lags = sums.rows.shape[1], sums.columns.shape[1], len(sums.wrapped)
    k, found = np.arange(1, lags + 1), []
    for products, (down, right) in zip(sums.products, STEPS.values(), strict=True):
        # sums and sums of squares of both partners: without the last, and the first, k rows or columns
        one, one2, two, two2 = (sums.without(power, side, down, right) for side in (0, 1) for power in (1, 2))
        count = (r - k * down) * (c - k * right)
        variances = np.maximum([one2 - one**2 / count, two2 - two**2 / count], 0.0)
        spread = np.sqrt(variances[0]) * np.sqrt(variances[1])  # their product might underflow
        covariance = products - one * two / count
        found.append(np.divide(covariance, spread, out=np.zeros(lags), where=spread > 0))
    return np.array(found)


def ljung_box(sums: Sums) -> float:
    """Ljung and Box's (1978) statistic Q of the entries, read row after row; χ² with as many degrees of freedom as
    there are lags where they are independent."""
    n, lags = sums.rows.shape[1] * sums.columns.shape[1], len(sums.wrapped)
    correlations = (sums.products[0] + sums.wrapped) / sums.rows[1].sum()
    return float(n * (n + 2) * np.sum(correlations**2 / (n - np.arange(1, lags + 1))))


def runs_z(w: np.ndarray) -> float:
    """Number of Wald–Wolfowitz runs above and below the median, standardized; values at the median are left out.

    Where all others lie on one side of it, those at the median are the other side, as of a matrix of two values.

    Args:
        w: float32 or float64, of any shape; read row after row.
    """
    x = np.ravel(w)
    ordered = np.partition(x, half := x.size // 2)
    upper = float(ordered[half])
    middle = upper if x.size % 2 else (float(ordered[:half].max()) + upper) / 2
    ups, levels, changes, level_changes = _runs(x, middle)
    n = x.size - levels
    if levels and ups in (0, n):
        n, ups, changes = x.size, levels, level_changes
    both = 2 * ups * (n - ups)
    if not both:
        return math.nan
    expected = both / n + 1
    variance = both * (both - n) / (n**2 * (n - 1))
    return float((1 + changes - expected) / math.sqrt(variance))


@numba.njit(nogil=True, cache=True)
def _runs(x, middle):
    """How many values lie above ``middle``, and at it; how often the others change sides, and all between at it and
    not."""
    ups = levels = changes = level_changes = 0
    side = level = -1
    for i in range(x.size):
        at = 1 if x[i] == middle else 0
        level_changes += level >= 0 and at != level
        level = at
        levels += at
        if not at:
            up = 1 if x[i] > middle else 0
            changes += side >= 0 and up != side
            side = up
            ups += up
    return ups, levels, changes, level_changes


def neighbour_information(w: np.ndarray, bins: int = BINS) -> tuple[float, int]:
    """Mutual information in bits between entries and their right neighbours, over ``bins`` classes that the former
    fill equally, less the plug-in estimate's bias (Miller 1955).

    Where many entries are equal, such as zeros, several edges of classes fall together, and fewer classes are filled.

    Args:
        w: float32 or float64 ``(r, c)``, two columns or more.

    Returns:
        Bits, and degrees of freedom: (filled classes of entries - 1) (filled classes of neighbours - 1).
    """
    w = np.ascontiguousarray(w)
    pairs, width = w.shape[0] * (w.shape[1] - 1), w.shape[1] - 1
    step = max(1, pairs // _EDGE_SAMPLE)
    while math.gcd(step, width) > 1:  # so that the sample for the class edges covers all columns
        step += 1
    sample = np.arange(0, pairs, step)
    edges = np.quantile(w[sample // width, sample % width].astype(np.float64), np.arange(1, bins) / bins)
    counts = np.zeros((bins, bins), np.int64)
    _count_pairs(w, edges, counts)
    joint = counts / pairs
    alone = np.outer(joint.sum(1), joint.sum(0))
    seen = joint > 0
    rows, columns = int((joint.sum(1) > 0).sum()), int((joint.sum(0) > 0).sum())
    freedom = (rows - 1) * (columns - 1)
    bias = freedom / (2 * pairs * math.log(2))
    return float(np.sum(joint[seen] * np.log2(joint[seen] / alone[seen])) - bias), freedom


@numba.njit(nogil=True, cache=True)
def _count_pairs(w, edges, counts):
    """Add to ``counts`` (classes, classes) how often an entry of one class has a right neighbour of another; a class
    ends at its edge, which belongs to it."""
    place = np.empty(w.shape[1], np.uint8)
    for i in range(w.shape[0]):
        row = w[i]
        place[:] = 0
        for edge in edges:
            for j in range(row.size):
                place[j] += np.uint8(row[j] > edge)
        for j in range(row.size - 1):
            counts[place[j], place[j + 1]] += 1
