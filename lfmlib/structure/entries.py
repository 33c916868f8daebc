"""Are the entries of a weight matrix independent, and identically distributed?

*Independence* is measured by correlations of neighbours along rows, columns and diagonals, and, because the order of
neurons is arbitrary, between whole rows and between whole columns; *identity* by how much of the variance of
log (w - μ)² the row, the column, or the position in the matrix explain.

Every figure but `runs_z` is an effect size that does not grow with the matrix, and each comes with its null, its
central 95 % on independent Gaussian entries. The null distributions are closed forms, exact or good from some thousand
entries on; `lfmlib.experiments.calibration` measures how good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache

import numpy as np
import pandas as pd
import scipy  # scipy.stats loads at its first use: importing it takes half as long as torch
import torch
from scipy import optimize, special

from ..distribution.formats import as_array
from .controls import measure_controls
from .dependence import (
    BINS,
    LAGS,
    lag_correlations,
    ljung_box,
    mean_squared_correlations,
    mutual_information,
    runs_z,
)
from .gram import check_range

BLOCKS_PER_SIDE = 8
"""Blocks along each side of the grid that `IID.block_share` is computed on."""
MIN_SIDE = 2 * LAGS
"""Rows and columns that a matrix must have at least."""
JACKKNIFE_GROUPS = 10
"""Groups of rows, and of columns, that the jackknife of intervals leaves out one by one."""


@dataclass(frozen=True)
class IID:
    """How far a matrix (r, c) is from independent, identically distributed entries.

    Attributes:
        lag_row, lag_col, lag_diagonal: correlation of neighbours inside a row, inside a column, and down the diagonal.
        lag_max: the largest absolute correlation in any of these directions at lags 1 to 20.
        ljung_box: root mean square of the first 20 autocorrelations of the entries, read row after row; Ljung and Box
            (1978) weigh the lags.
        runs_z: number of Wald–Wolfowitz runs above and below the median, read row after row, standardized; negative if
            neighbours tend to lie on the same side.
        mutual_information: bits between an entry and its right neighbour, over 16 equally filled classes, less the bias
            of the plug-in estimate (Miller 1955).
        row_corr, col_corr: mean squared correlation between different rows, and between different columns. Unequal
            scales of rows raise col_corr, and those of columns row_corr, without dependence; compare with the control
            "rescaled".
        row_share, col_share: share of the variance of log (w - μ)² that row means, and column means, explain; entries
            equal to zero, or to the mean, are left out.
        block_share: share that an 8 × 8 grid of blocks explains of the variance that rows and columns leave.
        row_drift, col_drift: Spearman correlation of a row's, a column's mean log (w - μ)² with its number.
        null: figure → its central 95 % on independent Gaussian entries.
        p: figure → two-sided p-value under that null; effect sizes come first.
        interval: figure → its 95 % confidence interval; empty unless asked for.
        controls: name of the control → its `IID`, for each control asked for.
        shape: (r, c).

    Examples:
        >>> matrix = np.random.default_rng(0).standard_normal((256, 512))
        >>> found = lfmlib.iid(matrix * np.linspace(0.5, 2, 256)[:, None])
        >>> found.table().loc[["lag_row", "row_share"], ["value", "null_high"]].round(2)
                   value  null_high
        lag_row    -0.00       0.01
        row_share   0.11       0.00
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
    p: Mapping[str, float] = field(repr=False)
    interval: Mapping[str, tuple[float, float]] = field(default_factory=dict, repr=False)
    controls: Mapping[str, IID] = field(default_factory=dict, repr=False)
    shape: tuple[int, int] = field(default=(0, 0), repr=False)

    @property
    def lag_one(self) -> float:
        """The largest absolute correlation of neighbours, in any direction."""
        return max(abs(self.lag_row), abs(self.lag_col), abs(self.lag_diagonal))

    @property
    def row_alike(self) -> float:
        """`row_corr` over its value on noise, 1 / (c - 1)."""
        return self.row_corr * (self.shape[1] - 1)

    @property
    def col_alike(self) -> float:
        """`col_corr` over its value on noise, 1 / (r - 1)."""
        return self.col_corr * (self.shape[0] - 1)

    @property
    def both_share(self) -> float:
        """Share of the variance of log (w - μ)² that row and column means explain together."""
        return self.row_share + self.col_share

    @property
    def unequal(self) -> float:
        """`both_share` minus its value on noise, (r + c - 2) / (rc - 1)."""
        r, c = self.shape
        return self.both_share - (r + c - 2) / (r * c - 1)

    def table(self) -> pd.DataFrame:
        """One row per figure: value, interval (low, high) if it was asked for, null (null_low, null_high), and p."""
        rows = {}
        for name in FIGURES:
            low, high = self.interval.get(name, (math.nan, math.nan))
            rows[name] = (getattr(self, name), low, high, *self.null[name], self.p[name])
        columns = ["value", "low", "high", "null_low", "null_high", "p"]
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
        return frame if self.interval else frame.drop(columns=["low", "high"])


FIGURES = tuple(one.name for one in fields(IID) if one.type == "float")
"""Names of the figures of `IID`."""


def iid(matrix, *, seed: int = 0, controls: str | Iterable[str] = (), intervals: bool = False) -> IID:
    """Measure how far the entries of ``matrix`` are from independent and identically distributed.

    Time: a few dozen passes over the entries and two Gram matrices of the smaller side. Memory: about five float64
    copies of the matrix.

    Args:
        matrix: two-dimensional torch tensor or array of numbers, at least 40 rows and columns.
        seed: of the controls.
        controls: names of `lfmlib.structure.controls.CONTROLS` to measure in the same way, into ``controls`` of the
            result.
        intervals: add 95 % intervals from a delete-a-group jackknife with Student's t, of ten groups of rows or of
            columns, whichever interval is wider. Takes twenty times as long, and needs 50 rows and columns.

    Raises:
        ValueError: the matrix has another shape, is constant or not finite; a control is unknown.

    Examples:
        >>> matrix = np.random.default_rng(0).standard_normal((256, 512))
        >>> round(lfmlib.iid(matrix).row_share, 2)
        0.0
        >>> found = lfmlib.iid(matrix * np.linspace(0.5, 2, 256)[:, None], controls="permuted")
        >>> round(found.row_share, 2), round(found.controls["permuted"].row_share, 2)
        (0.11, 0.0)
    """
    w = _as_float64(matrix)
    if intervals and min(w.shape) < 50:
        raise ValueError(
            f"found shape {w.shape}: intervals leave out a tenth of the rows and of the columns, and need 50 of each; "
            "leave out intervals=True"
        )
    found, laws = _figures(w), _laws(*w.shape)
    return IID(
        **found,
        null=null(*w.shape),
        p={name: float(2 * min(law.cdf(found[name]), law.sf(found[name]))) for name, law in laws.items()},
        interval=_intervals(w, found) if intervals else {},
        controls=measure_controls(matrix if _is_floating(matrix) else w, controls, iid, seed=seed),
        shape=w.shape,
    )


def _figures(w: np.ndarray) -> dict[str, float]:
    rows, columns, diagonal = (lag_correlations(w, along) for along in ("row", "column", "diagonal"))
    row_share, col_share, block_share, row_drift, col_drift = _identity(w)
    row_corr, col_corr = mean_squared_correlations(w)
    return {
        "lag_row": float(rows[0]),
        "lag_col": float(columns[0]),
        "lag_diagonal": float(diagonal[0]),
        "lag_max": float(np.abs([rows, columns, diagonal]).max()),
        "ljung_box": math.sqrt(ljung_box(w.ravel()) / (w.size * LAGS)),
        "runs_z": runs_z(w.ravel()),
        "mutual_information": mutual_information(w[:, :-1], w[:, 1:]),
        "row_corr": row_corr,
        "col_corr": col_corr,
        "row_share": row_share,
        "col_share": col_share,
        "block_share": block_share,
        "row_drift": row_drift,
        "col_drift": col_drift,
    }


def _intervals(w: np.ndarray, found: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    errors = []
    for axis, length in enumerate(w.shape):
        parts = np.array_split(np.arange(length), JACKKNIFE_GROUPS)
        without = pd.DataFrame([_figures(np.delete(w, part, axis=axis)) for part in parts])
        # the square root of (g - 1) / g times the sum of squares, for g groups
        errors.append(math.sqrt((JACKKNIFE_GROUPS - 1) ** 2 / JACKKNIFE_GROUPS) * without.std())
    half = special.stdtrit(JACKKNIFE_GROUPS - 1, 0.975) * np.maximum(*errors)
    return {name: (value - float(half[name]), value + float(half[name])) for name, value in found.items()}


def null(r: int, c: int) -> dict[str, tuple[float, float]]:
    """Central 95 % of every figure of `IID` on r × c independent Gaussian entries."""
    ends = {name: law.ppf([0.025, 0.975]) for name, law in _laws(r, c).items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


@lru_cache(maxsize=256)
def _laws(r: int, c: int) -> dict:
    """Figure → its distribution on r × c independent Gaussian entries, with methods of scipy's frozen ones."""
    n, classes = r * c, (BINS - 1) ** 2
    return {
        "lag_row": scipy.stats.norm(0, 1 / math.sqrt(r * (c - 1))),
        "lag_col": scipy.stats.norm(0, 1 / math.sqrt((r - 1) * c)),
        "lag_diagonal": scipy.stats.norm(0, 1 / math.sqrt((r - 1) * (c - 1))),
        "lag_max": _LargestLag(r, c),
        "ljung_box": scipy.stats.chi(LAGS, scale=1 / math.sqrt(n * LAGS)),
        "runs_z": scipy.stats.norm(),
        "mutual_information": scipy.stats.chi2(classes, *(np.array([-classes, 1]) / (2 * r * (c - 1) * math.log(2)))),
        "row_corr": _correlation_law(r, c),
        "col_corr": _correlation_law(c, r),
        "row_share": _share_law(r - 1, n),
        "col_share": _share_law(c - 1, n),
        "block_share": _share_law((BLOCKS_PER_SIDE - 1) ** 2, n - r - c + 2),
        "row_drift": scipy.stats.norm(0, 1 / math.sqrt(r - 1)),
        "col_drift": scipy.stats.norm(0, 1 / math.sqrt(c - 1)),
    }


class _LargestLag:
    """Distribution of the largest absolute correlation over directions and lags, which are independent Gaussians."""

    def __init__(self, r: int, c: int):
        k = np.arange(1, LAGS + 1)
        self.roots = np.sqrt(np.concatenate([r * (c - k), (r - k) * c, (r - k) * (c - k)]))

    def cdf(self, x: float) -> float:
        return math.exp(np.log(special.erf(max(x, 1e-300) * self.roots / math.sqrt(2))).sum())

    def sf(self, x: float) -> float:
        return -math.expm1(np.log1p(-special.erfc(max(x, 1e-300) * self.roots / math.sqrt(2))).sum())

    def ppf(self, levels) -> list[float]:
        return [optimize.brentq(lambda x, q=q: self.cdf(x) - q, 1e-9, 1.0) for q in levels]


def _correlation_law(r: int, c: int):
    """Distribution of the mean squared correlation of r independent rows of c entries.

    Squared correlations are Beta(1/2, (c - 2)/2) and pairwise independent; their mean is taken to be Gaussian.
    """
    variance = 2 * (c - 2) / ((c - 1) ** 2 * (c + 1))
    return scipy.stats.norm(1 / (c - 1), math.sqrt(variance / (r * (r - 1) / 2)))


def _share_law(freedom: int, n: int):
    """Distribution of the share of n values' variance that group means with ``freedom`` degrees of freedom explain.

    It is exact for Gaussian values. The logarithm of a square is far from Gaussian, but for groups of equal size its
    kurtosis cancels from the variance of the share.
    """
    return scipy.stats.beta(freedom / 2, (n - 1 - freedom) / 2)


def _identity(w: np.ndarray) -> tuple[float, float, float, float, float]:
    """row_share, col_share, block_share, row_drift and col_drift of `IID`, from y = log (w - μ)²."""
    square = np.square(w - w.mean())
    known = (square > 0) & (w != 0)  # exact zeros say nothing about scale
    y = np.log(square, out=np.zeros_like(square), where=known)
    y -= y.sum() / max(known.sum(), 1)
    y[~known] = 0.0
    total = np.square(y).sum()
    if total <= 1e-20 * w.size:  # all abs(w - μ) are equal: no variance to explain
        return 0.0, 0.0, 0.0, 0.0, 0.0
    counts, means, shares = [], [], []
    for axis in (1, 0):
        count = known.sum(axis)
        mean = y.sum(axis) / np.maximum(count, 1)
        counts.append(count)
        means.append(mean)
        shares.append(float(np.sum(count * mean**2) / total))
    left = np.where(known, y - means[0][:, None] - means[1][None, :], 0.0)
    cut = [np.linspace(0, size, BLOCKS_PER_SIDE + 1).astype(int)[:-1] for size in w.shape]
    sums, places = (np.add.reduceat(np.add.reduceat(one, cut[0], 0), cut[1], 1) for one in (left, known))
    rest = np.square(left).sum()
    block = np.sum(sums**2 / np.maximum(places, 1)) / rest if rest > 1e-12 * total else 0.0
    row_drift, col_drift = (
        _drift(mean[count > 0], np.flatnonzero(count > 0)) for mean, count in zip(means, counts, strict=True)
    )
    row_share, col_share = shares
    return row_share, col_share, float(block), row_drift, col_drift


def _drift(means: np.ndarray, numbers: np.ndarray) -> float:
    """Spearman correlation of means with row or column numbers; 0 if there is nothing to order."""
    return float(scipy.stats.spearmanr(means, numbers).statistic) if len(means) > 1 and np.ptp(means) > 0 else 0.0


def _as_float64(matrix) -> np.ndarray:
    if isinstance(matrix, torch.Tensor):
        if matrix.layout is not torch.strided or matrix.is_complex():
            kind = "complex" if matrix.is_complex() else f"stored as {matrix.layout}"
            raise ValueError(f"found a tensor that is {kind}: expected real numbers, stored densely; convert it first")
        w = matrix.detach().cpu().double().numpy()
    else:
        array = as_array(matrix)
        if np.iscomplexobj(array):
            raise ValueError("found complex entries: expected real numbers; take their parts apart first")
        try:
            w = array.astype(float, copy=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"found entries of type {array.dtype}: expected numbers; convert them first") from error
    if w.ndim != 2 or min(w.shape) < MIN_SIDE:
        raise ValueError(
            f"found shape {tuple(w.shape)}: expected a matrix of at least {MIN_SIDE} rows and columns; leave it out"
        )
    if not np.isfinite(w).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(w)):,} of {w.size:,} entries are not finite: mend them first")
    if np.ptp(w) == 0:
        raise ValueError("all entries are equal: there is no variation to test; leave this matrix out")
    check_range(np.abs(w).max())
    return w


def _is_floating(matrix) -> bool:
    """Whether entries are of a floating type, as controls need."""
    if isinstance(matrix, torch.Tensor):
        return matrix.is_floating_point()
    dtype = np.asarray(matrix).dtype
    return dtype.kind == "f" or dtype.name.startswith(("bfloat16", "float8"))
