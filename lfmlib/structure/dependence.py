"""Dependence between the entries of a matrix: between neighbours, and between whole rows and columns."""

from __future__ import annotations

import math

import numpy as np

LAGS = 20
"""Number of lags along rows, columns and diagonals, and in the Ljung–Box statistic."""
BINS = 16
"""Equally filled classes of each variable, for mutual information."""


STEPS = {"row": (0, 1), "column": (1, 0), "diagonal": (1, 1)}
"""Direction of a lag → its step down and to the right."""


def lag_correlations(w: np.ndarray, along: str, lags: int = LAGS) -> np.ndarray:
    """Pearson correlation of entries with those 1 to ``lags`` positions further on.

    Args:
        w: float64 ``(r, c)``.
        along: "row" (neighbours in a row), "column" or "diagonal" (one down and one right).
        lags: number of lags, below r and c.

    Returns:
        float64 ``(lags,)``.
    """
    return _lags(w, (along,), lags)[0]


def all_lag_correlations(w: np.ndarray, lags: int = LAGS) -> np.ndarray:
    """`lag_correlations` along rows, columns and diagonals, ``(3, lags)``, in less time than one by one."""
    return _lags(w, tuple(STEPS), lags)


def _lags(w: np.ndarray, directions: tuple[str, ...], lags: int) -> np.ndarray:
    r, c = w.shape
    padded = np.zeros((r, c + lags))  # zeros keep pairs from wrapping around into the next row
    x, flat = padded[:, :c], padded.ravel()
    np.subtract(w, w.mean(), out=x)
    k = np.arange(1, lags + 1)
    sums = [_Sums(x, lags), _Sums(np.square(x), lags)]
    found = []
    for down, right in (STEPS[along] for along in directions):
        steps = k * (down * (c + lags) + right)
        products = np.array([np.dot(flat[:-step], flat[step:]) for step in steps])
        # sums and sums of squares of both partners: without the last, and the first, k rows or columns
        left, left2, other, other2 = (one.without(side, down, right) for side in (0, 1) for one in sums)
        count = (r - k * down) * (c - k * right)
        variances = np.maximum([left2 - left**2 / count, other2 - other**2 / count], 0.0)
        spread = np.sqrt(variances[0]) * np.sqrt(variances[1])  # their product might underflow
        covariance = products - left * other / count
        found.append(np.divide(covariance, spread, out=np.zeros(lags), where=spread > 0))
    return np.array(found)


class _Sums:
    """Sums of the entries of a matrix without its outermost rows and columns."""

    def __init__(self, values: np.ndarray, lags: int):
        rows, columns = values.sum(1), values.sum(0)
        self.total = rows.sum()
        ends = (slice(None, None, -1), slice(None))  # the last ones first, and the first ones
        self.rows = [rows[end][:lags].cumsum() for end in ends]
        self.columns = [columns[end][:lags].cumsum() for end in ends]
        self.corners = [values[end, end][:lags, :lags].cumsum(0).cumsum(1).diagonal() for end in ends]

    def without(self, side: int, down: int, right: int) -> np.ndarray:
        """Without the last (``side`` 0) or first (1) k rows if ``down``, and k columns if ``right``; k = 1 to lags."""
        return self.total - down * self.rows[side] - right * self.columns[side] + down * right * self.corners[side]


def ljung_box(x: np.ndarray, lags: int = LAGS) -> float:
    """Ljung and Box's (1978) statistic Q of a series; χ² with ``lags`` degrees of freedom on independent values."""
    x = x - x.mean()
    n, total = len(x), np.dot(x, x)
    correlations = np.array([np.dot(x[:-k], x[k:]) for k in range(1, lags + 1)]) / total
    return float(n * (n + 2) * np.sum(correlations**2 / (n - np.arange(1, lags + 1))))


def runs_z(x: np.ndarray) -> float:
    """Number of Wald–Wolfowitz runs above and below the median, standardized; values at the median are left out.

    Where all others lie on one side of it, those at the median are the other side, as of a matrix of two values.
    """
    middle = np.median(x)
    above, level = x > middle, x == middle
    if level.any():
        others = above[~level]
        if others.any() and not others.all():
            above = others
        elif not others.any():
            above = level
    n, ups = len(above), int(above.sum())
    both = 2 * ups * (n - ups)
    if not both:
        return math.nan
    expected = both / n + 1
    variance = both * (both - n) / (n**2 * (n - 1))
    return float((1 + np.count_nonzero(above[1:] != above[:-1]) - expected) / math.sqrt(variance))


def mutual_information(x: np.ndarray, y: np.ndarray, bins: int = BINS) -> float:
    """Mutual information in bits between paired entries of two matrices of one shape, over ``bins`` equally filled
    classes of each, less the plug-in estimate's bias (Miller 1955)."""
    return information_and_freedom(x, y, bins)[0]


def information_and_freedom(x: np.ndarray, y: np.ndarray, bins: int = BINS) -> tuple[float, int]:
    """`mutual_information`, and its degrees of freedom: (filled classes of x - 1) (filled classes of y - 1).

    Where many entries are equal, such as zeros, several edges of classes fall together, and fewer classes are filled.
    """
    step = max(1, x.size // 100_000)
    while math.gcd(step, x.shape[-1]) > 1:  # so that the sample for the class edges covers all columns
        step += 1
    x, y = np.ravel(x), np.ravel(y)
    edges = np.quantile(x[::step], np.arange(1, bins) / bins)
    place = np.searchsorted(edges, x) * bins + np.searchsorted(edges, y)
    joint = np.bincount(place, minlength=bins * bins).reshape(bins, bins) / len(x)
    alone = np.outer(joint.sum(1), joint.sum(0))
    seen = joint > 0
    rows, columns = int((joint.sum(1) > 0).sum()), int((joint.sum(0) > 0).sum())
    freedom = (rows - 1) * (columns - 1)
    bias = freedom / (2 * len(x) * math.log(2))
    return float(np.sum(joint[seen] * np.log2(joint[seen] / alone[seen])) - bias), freedom
