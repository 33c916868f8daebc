"""Dependence between the entries of a matrix: between neighbours, and between whole rows and columns."""

from __future__ import annotations

import math

import numpy as np

LAGS = 20
"""Number of lags along rows, columns and diagonals, and in the Ljung–Box statistic."""
BINS = 16
"""Equally filled classes of each variable, for mutual information."""


def lag_correlations(w: np.ndarray, along: str, lags: int = LAGS) -> np.ndarray:
    """Pearson correlation of entries with those 1 to ``lags`` positions further on.

    Args:
        w: float64 ``(r, c)``.
        along: "row" (neighbours in a row), "column" or "diagonal" (one down and one right).
        lags: number of lags, below r and c.

    Returns:
        float64 ``(lags,)``.
    """
    down, right = {"row": (0, 1), "column": (1, 0), "diagonal": (1, 1)}[along]
    r, c = w.shape
    padded = np.zeros((r, c + lags))  # zeros keep pairs from wrapping around into the next row
    padded[:, :c] = w - w.mean()
    x, flat = padded[:, :c], padded.ravel()
    steps = np.arange(1, lags + 1) * (down * (c + lags) + right)
    products = np.array([np.dot(flat[:-step], flat[step:]) for step in steps])
    moments = []  # sums and sums of squares of both partners: without the last, and the first, k rows or columns
    squared = np.square(x)
    for side in (1, -1):
        for values in (x, squared):
            moments.append(_sums_without(values[::side, ::side], down, right, lags))
    left, left2, other, other2 = moments
    k = np.arange(1, lags + 1)
    count = (r - k * down) * (c - k * right)
    return (products - left * other / count) / np.sqrt((left2 - left**2 / count) * (other2 - other**2 / count))


def _sums_without(values: np.ndarray, down: int, right: int, lags: int) -> np.ndarray:
    """Sums of ``values`` without the last k rows (if ``down``) and the last k columns (if ``right``), k = 1 to lags."""
    rows, columns = values[::-1].sum(1)[:lags].cumsum(), values[:, ::-1].sum(0)[:lags].cumsum()
    corner = values[::-1, ::-1][:lags, :lags].cumsum(0).cumsum(1).diagonal()
    return values.sum() - down * rows - right * columns + down * right * corner


def ljung_box(x: np.ndarray, lags: int = LAGS) -> float:
    """Ljung and Box's (1978) statistic Q of a series; χ² with ``lags`` degrees of freedom on independent values."""
    x = x - x.mean()
    n, total = len(x), np.dot(x, x)
    correlations = np.array([np.dot(x[:-k], x[k:]) for k in range(1, lags + 1)]) / total
    return float(n * (n + 2) * np.sum(correlations**2 / (n - np.arange(1, lags + 1))))


def runs_z(x: np.ndarray) -> float:
    """Number of Wald–Wolfowitz runs above and below the median, standardized; values at the median are left out."""
    middle = np.median(x)
    above = x[x != middle] > middle
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
    step = max(1, x.size // 100_000)
    while math.gcd(step, x.shape[-1]) > 1:  # so that the sample for the class edges covers all columns
        step += 1
    x, y = np.ravel(x), np.ravel(y)
    edges = np.quantile(x[::step], np.arange(1, bins) / bins)
    place = np.searchsorted(edges, x) * bins + np.searchsorted(edges, y)
    joint = np.bincount(place, minlength=bins * bins).reshape(bins, bins) / len(x)
    alone = np.outer(joint.sum(1), joint.sum(0))
    seen = joint > 0
    filled = (joint.sum(1) > 0).sum() * (joint.sum(0) > 0).sum()
    rows, columns = (joint.sum(1) > 0).sum(), (joint.sum(0) > 0).sum()
    bias = (filled - rows - columns + 1) / (2 * len(x) * math.log(2))
    return float(np.sum(joint[seen] * np.log2(joint[seen] / alone[seen])) - bias)


def mean_squared_correlations(w: np.ndarray) -> tuple[float, float]:
    """Mean squared Pearson correlation between different rows, and between different columns."""
    return _between_rows(w), _between_rows(w.T)


def _between_rows(w: np.ndarray) -> float:
    x = w - w.mean(1, keepdims=True)
    norms = np.sqrt(np.square(x).sum(1, keepdims=True))
    vary = norms[:, 0] > 1e-12 * np.sqrt(np.square(w).sum(1))  # what is left of a constant row is rounding
    x = x[vary] / norms[vary]
    r = len(x)
    if r < 2:
        raise ValueError("fewer than two rows, or columns, vary: there is nothing to compare; leave this matrix out")
    gram = x @ x.T if r <= x.shape[1] else x.T @ x  # both have the same sum of squares
    return float((np.square(gram).sum() - r) / (r * (r - 1)))
