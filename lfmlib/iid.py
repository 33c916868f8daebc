"""Are the entries of a weight matrix independent, and identically distributed?

Two questions, each asked in several ways. *Independence*: correlations of neighbours along rows, columns and diagonals;
and, because the order of neurons is arbitrary, correlations between whole rows and between whole columns.
*Identity*: how much of the spread of log (w - μ)² goes with the row, the column, or the place in the matrix.

Every figure is an effect size that does not grow with the matrix, and comes with its null: the central 95 % of it on
independent Gaussian entries. The nulls are closed forms, exact or good from some thousand entries on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import fft, optimize, special, stats

LAGS = 20
"""Lags along rows, columns and diagonals, and of the Ljung–Box statistic."""
BINS = 16
"""Equally filled classes of the mutual information."""
BLOCKS = 8
"""Blocks a side of the grid that patches are looked for with."""
LEAST = 2 * LAGS
"""Rows and columns that a matrix needs."""
_Z = stats.norm.ppf(0.975)
_KURTOSIS = 4.0  # excess kurtosis of log χ² with one degree of freedom, ψ'''(1/2) / ψ'(1/2)²


@dataclass(frozen=True)
class IID:
    """How far a matrix (r, c) is from independent, identically distributed entries.

    Attributes:
        lag_row, lag_col, lag_diagonal: correlation of neighbours inside a row, inside a column, and down the diagonal.
        lag_max: the largest absolute correlation in any of these directions at lags 1 to 20.
        ljung_box: root mean square of the first 20 autocorrelations of the entries, read row after row; Ljung and Box
            (1978) weigh the lags.
        runs_z: Wald–Wolfowitz runs above and below the median, read row after row, in standard deviations; negative
            where equal signs keep together.
        mutual_information: bits that an entry tells of its right neighbour, over 16 equally filled classes, less the
            bias of the plug-in estimate (Miller 1955).
        row_corr, col_corr: mean squared correlation between different rows, between different columns.
        row_share, col_share: share of the variance of log (w - μ)² that row means, column means explain; entries equal
            to the mean are left out.
        block_share: share that an 8 × 8 grid of blocks explains of what rows and columns leave.
        row_drift, col_drift: Spearman correlation of a row's, a column's mean log (w - μ)² with its number.
        null: figure → its central 95 % on independent Gaussian entries.
    """

    lag_row: float
    lag_col: float
    lag_diagonal: float
    lag_max: float
    ljung_box: float
    runs_z: float
    mutual_information: float
    row_corr: float
    col_corr: float
    row_share: float
    col_share: float
    block_share: float
    row_drift: float
    col_drift: float
    null: Mapping[str, tuple[float, float]] = field(repr=False)


def iid(matrix) -> IID:
    """Measure how far the entries of ``matrix`` are from independent and identically distributed.

    Args:
        matrix: two-dimensional torch tensor or array of numbers, at least 40 rows and columns.

    Raises:
        ValueError: it has another shape, values that are not finite, or is constant along a row or column throughout.
    """
    w = _checked(matrix)
    rows, columns, diagonal = (lag_correlations(w, along) for along in ("row", "column", "diagonal"))
    row_share, col_share, block_share, row_drift, col_drift = _identity(w)
    row_corr, col_corr = mean_squared_correlations(w)
    return IID(
        lag_row=float(rows[0]),
        lag_col=float(columns[0]),
        lag_diagonal=float(diagonal[0]),
        lag_max=float(np.abs([rows, columns, diagonal]).max()),
        ljung_box=math.sqrt(ljung_box(w.ravel()) / (w.size * LAGS)),
        runs_z=runs_z(w.ravel()),
        mutual_information=mutual_information(w[:, :-1].ravel(), w[:, 1:].ravel()),
        row_corr=row_corr,
        col_corr=col_corr,
        row_share=row_share,
        col_share=col_share,
        block_share=block_share,
        row_drift=row_drift,
        col_drift=col_drift,
        null=null(*w.shape),
    )


def null(r: int, c: int) -> dict[str, tuple[float, float]]:
    """Central 95 % of every figure of `IID` on r × c independent Gaussian entries."""
    n, blocks, classes = r * c, (BLOCKS - 1) ** 2, (BINS - 1) ** 2
    told = (stats.chi2.ppf([0.025, 0.975], classes) - classes) / (2 * n * math.log(2))
    box = np.sqrt(stats.chi2.ppf([0.025, 0.975], LAGS) / (n * LAGS))
    return {
        "lag_row": _around(0, 1 / math.sqrt(r * (c - 1))),
        "lag_col": _around(0, 1 / math.sqrt((r - 1) * c)),
        "lag_diagonal": _around(0, 1 / math.sqrt((r - 1) * (c - 1))),
        "lag_max": (_largest(r, c, 0.025), _largest(r, c, 0.975)),
        "ljung_box": tuple(box.tolist()),
        "runs_z": _around(0, 1),
        "mutual_information": tuple(told.tolist()),
        "row_corr": _correlation_null(r, c),
        "col_corr": _correlation_null(c, r),
        "row_share": _share_null(r - 1, c, n),
        "col_share": _share_null(c - 1, r, n),
        "block_share": _share_null(blocks, n / BLOCKS**2, n),
        "row_drift": _around(0, 1 / math.sqrt(r - 1)),
        "col_drift": _around(0, 1 / math.sqrt(c - 1)),
    }


def lag_correlations(w: np.ndarray, along: str, lags: int = LAGS) -> np.ndarray:
    """Pearson correlation of the entries of ``w`` (r, c) with those 1 to ``lags`` places further.

    Args:
        w: float64.
        along: "row" (neighbours in a row), "column" or "diagonal" (one down, one right).
        lags: how many, fewer than places.
    """
    if along == "diagonal":
        return np.array([np.corrcoef(w[:-k, :-k].ravel(), w[k:, k:].ravel())[0, 1] for k in range(1, lags + 1)])
    x = (w if along == "row" else w.T) - w.mean()
    r, c = x.shape
    length = 2 * fft.next_fast_len((c + lags + 1) // 2, real=True)  # even, and zeros enough that nothing wraps around
    spectrum = np.zeros(length // 2 + 1)
    for some in np.array_split(x, max(1, x.size // 2_000_000)):  # some at a time: the transforms are twice as large
        spectrum += np.square(np.abs(fft.rfft(some, length))).sum(0)
    products = fft.irfft(spectrum, length)[1 : lags + 1]  # sums of x[i, j] x[i, j + k]
    # the exact means and variances of what is paired: all but the last, all but the first k columns
    sums, squares = x.sum(0), np.square(x).sum(0)
    k = np.arange(1, lags + 1)
    count = r * (c - k)
    left, right = np.cumsum(sums)[c - k - 1], np.cumsum(sums[::-1])[c - k - 1]
    left2, right2 = np.cumsum(squares)[c - k - 1], np.cumsum(squares[::-1])[c - k - 1]
    return (products - left * right / count) / np.sqrt((left2 - left**2 / count) * (right2 - right**2 / count))


def ljung_box(x: np.ndarray, lags: int = LAGS) -> float:
    """Ljung and Box's statistic Q of a series; χ² with ``lags`` degrees of freedom on independent values."""
    x = x - x.mean()
    n, total = len(x), np.dot(x, x)
    correlations = np.array([np.dot(x[:-k], x[k:]) for k in range(1, lags + 1)]) / total
    return float(n * (n + 2) * np.sum(correlations**2 / (n - np.arange(1, lags + 1))))


def runs_z(x: np.ndarray) -> float:
    """Wald and Wolfowitz's runs above and below the median, standardized; values at the median are left out."""
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
    """Mutual information in bits of two series, over equally filled classes, less the plug-in estimate's bias."""
    edges = np.quantile(np.concatenate([x[:: max(1, len(x) // 100_000)]]), np.arange(1, bins) / bins)
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
    x = (x / np.where(norms > 0, norms, 1.0))[norms[:, 0] > 0]
    r = len(x)
    gram = x @ x.T if r <= x.shape[1] else x.T @ x  # the squares of both sum to the same
    return float((np.square(gram).sum() - r) / (r * (r - 1)))


def _identity(w: np.ndarray) -> tuple[float, float, float, float, float]:
    """Shares of rows, columns and blocks, and drifts of rows and columns, of y = log (w - μ)²."""
    square = np.square(w - w.mean())
    known = square > 0
    y = np.log(square, out=np.zeros_like(square), where=known)
    y -= y.sum() / known.sum()
    y[~known] = 0.0
    total = np.square(y).sum()
    counts, means, shares = [], [], []
    for axis in (1, 0):
        count = known.sum(axis)
        mean = y.sum(axis) / np.maximum(count, 1)
        counts.append(count), means.append(mean), shares.append(np.sum(count * mean**2) / total)
    left = np.where(known, y - means[0][:, None] - means[1][None, :], 0.0)
    cut = [np.linspace(0, size, BLOCKS + 1).astype(int)[:-1] for size in w.shape]
    sums, places = (np.add.reduceat(np.add.reduceat(one, cut[0], 0), cut[1], 1) for one in (left, known))
    block = np.sum(sums**2 / np.maximum(places, 1)) / np.square(left).sum()
    drifts = [
        stats.spearmanr(mean[count > 0], np.flatnonzero(count > 0)) for mean, count in zip(means, counts, strict=True)
    ]
    return (*map(float, shares), float(block), *(float(drift.statistic) for drift in drifts))


def _checked(matrix) -> np.ndarray:
    w = matrix.detach().cpu().double().numpy() if isinstance(matrix, torch.Tensor) else np.asarray(matrix, dtype=float)
    if w.ndim != 2 or min(w.shape) < LEAST:
        raise ValueError(f"found shape {tuple(w.shape)}: expected a matrix of at least {LEAST} rows and columns")
    if not np.isfinite(w).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(w)):,} of {w.size:,} entries are not finite: mend them first")
    if np.ptp(w) == 0:
        raise ValueError("all entries are equal: there is no variation to test")
    return w


def _around(mean: float, std: float) -> tuple[float, float]:
    return float(mean - _Z * std), float(mean + _Z * std)


def _largest(r: int, c: int, level: float) -> float:
    """Quantile of the largest absolute correlation at all lags; correlations at different lags are independent."""
    k = np.arange(1, LAGS + 1)
    roots = np.sqrt(np.concatenate([r * (c - k), (r - k) * c, (r - k) * (c - k)]))
    wanted = math.log(level)
    return optimize.brentq(lambda t: np.log(special.erf(t * roots / math.sqrt(2))).sum() - wanted, 1e-9, 1.0)


def _correlation_null(r: int, c: int) -> tuple[float, float]:
    """Squared correlations of independent rows are Beta(1/2, (c - 2)/2), and pairwise independent."""
    variance = 2 * (c - 2) / ((c - 1) ** 2 * (c + 1))
    return _around(1 / (c - 1), math.sqrt(variance / (r * (r - 1) / 2)))


def _share_null(freedom: float, each: float, n: int) -> tuple[float, float]:
    """Share that group means explain: ``freedom`` degrees of freedom, groups of ``each`` entries, n in all."""
    mean = freedom / (n - 1)
    variance = (2 * freedom + _KURTOSIS * freedom / each) / n**2
    spread = math.sqrt(variance)
    quantiles = stats.gamma.ppf([0.025, 0.975], mean**2 / variance, scale=variance / mean)  # close to χ²
    return tuple(float(q) for q in quantiles) if spread else (mean, mean)
