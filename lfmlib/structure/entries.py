"""Are the entries of a weight matrix independent, and identically distributed?

*Independence* is measured by correlations of neighbours along rows, columns and diagonals, and, because the order of
neurons is arbitrary, between whole rows and between whole columns; *identity* by how much of the variance of
log (w - μ)² the row, the column, or the position in the matrix explain.

Every figure but `runs_z` is an effect size that does not grow with the matrix, and each comes with its null, its
central 95 % on independent entries (see `lfmlib.structure.entry_laws`); `lfmlib.experiments.calibration` measures how
good these are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from ..distribution.jackknife import jackknife_error
from ..options import check
from .controls import measure_controls
from .dependence import BINS, LAGS, lag_correlations, ljung_box, neighbour_information, runs_z
from .entry_laws import heavy_lag_laws, information_law, laws
from .inputs import entries_of, is_floating
from .likeness import Alike, alike, alike_at_width, transpose_correlation
from .scales import scales
from .sums import Sums

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
        row_alike_64, col_alike_64: `row_alike` and `col_alike` on 64 × 64 submatrices, which matrices of unlike size
            are compared by (see `lfmlib.structure.likeness`). A side shorter than 64 is taken whole.
        transpose_corr: correlation of the entries off the diagonal with those across it, 1 of a symmetric matrix; NaN
            where the matrix is not square.
        null: figure → its central 95 % on independent entries: of the figures above, and of the properties below.
        p: figure → two-sided p-value under that null; effect sizes come first.
        interval: figure → its 95 % confidence interval; empty unless asked for.
        controls: name of the control → its `IID`, for each control asked for.
        shape: (r, c).
        expected: "both_share" and "block_share" → their value on independent entries, as many of them zero.

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
    row_alike_64: float
    col_alike_64: float
    transpose_corr: float
    null: Mapping[str, tuple[float, float]] = field(repr=False)
    p: Mapping[str, float] = field(repr=False)
    interval: Mapping[str, tuple[float, float]] = field(default_factory=dict, repr=False)
    controls: Mapping[str, IID] = field(default_factory=dict, repr=False)
    shape: tuple[int, int] = field(default=(0, 0), repr=False)
    expected: Mapping[str, float] = field(default_factory=dict, repr=False)

    @property
    def lag_one(self) -> float:
        """The largest absolute correlation of neighbours, in any direction."""
        return max(abs(self.lag_row), abs(self.lag_col), abs(self.lag_diagonal))

    @property
    def row_alike(self) -> float:
        """`row_corr` over its value on noise, 1 / (c - 1). It grows with the width of rows that are alike, and is too
        small where rows keep away from each other, 0 where they are orthogonal."""
        return self.row_corr * (self.shape[1] - 1)

    @property
    def col_alike(self) -> float:
        """`col_corr` over its value on noise, 1 / (r - 1); as `row_alike`."""
        return self.col_corr * (self.shape[0] - 1)

    @property
    def both_share(self) -> float:
        """Share of the variance of log (w - μ)² that row and column means explain together."""
        return self.row_share + self.col_share

    @property
    def unequal(self) -> float:
        """`both_share` minus its value on noise, (r + c - 2) / (rc - 1) where no entry is zero."""
        return self.both_share - self.expected["both_share"]

    @property
    def block_excess(self) -> float:
        """`block_share` minus its value on noise."""
        return self.block_share - self.expected["block_share"]

    def table(self) -> pd.DataFrame:
        """One row per figure: value, interval (low, high) if it was asked for, null (null_low, null_high), and p."""
        rows = {}
        for name in (*FIGURES, *FURTHER):
            if name not in self.p:  # there is no transpose
                continue
            low, high = self.interval.get(name, (math.nan, math.nan))
            rows[name] = (getattr(self, name), low, high, *self.null[name], self.p[name])
        columns = ["value", "low", "high", "null_low", "null_high", "p"]
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
        return frame if self.interval else frame.drop(columns=["low", "high"])


FURTHER = ("row_alike_64", "col_alike_64", "transpose_corr")
"""Figures of `IID` that records of earlier measurements do not hold."""
FIGURES = tuple(one.name for one in fields(IID) if one.type == "float" and one.name not in FURTHER)
"""Names of the other figures of `IID`."""
SUMS = ("lag_one", "row_alike", "col_alike", "both_share", "unequal", "block_excess")
"""Properties of `IID` that have a null too."""


def iid(matrix, *, seed: int = 0, controls: str | Iterable[str] = (), intervals: bool = False) -> IID:
    """Measure how far the entries of ``matrix`` are from independent and identically distributed.

    Time: a few passes over the entries and two Gram matrices of the smaller side. Memory: two float32 copies of the
    matrix (of a float64 one float64).

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
    check(seed=seed, controls=controls or ())
    w = entries_of(matrix)
    if intervals and min(w.shape) < 50:
        raise ValueError(
            f"found shape {w.shape}: intervals leave out a tenth of the rows and of the columns, and need 50 of each; "
            "leave out intervals=True"
        )
    found = measured(w)
    return replace(
        found,
        interval=_intervals(w, found) if intervals else {},
        controls=measure_controls(matrix if is_floating(matrix) else w, controls, iid, seed=seed),
    )


def measured(w: np.ndarray, sums: Sums | None = None, likeness: tuple[Alike, Alike] | None = None) -> IID:
    """`IID` of entries as `entries_of` gives them, without intervals and controls.

    Args:
        w: float32 or float64 ``(r, c)``.
        sums: of w over `LAGS` lags, if they are at hand.
        likeness: mean squared correlations of rows and of columns, if they are at hand.
    """
    found, own, expected = _figures(w, sums or Sums.of(w, LAGS), likeness)
    every = laws(*w.shape) | own
    return IID(
        **found,
        null=_bands(every, w.shape, expected),
        p={
            name: min(1.0, float(2 * min(every[name].cdf(value), every[name].sf(value))))
            for name, value in found.items()
            if name in every
        },
        interval={},
        controls={},
        shape=w.shape,
        expected=expected,
    )


def _figures(
    w: np.ndarray, sums: Sums, likeness: tuple[Alike, Alike] | None = None
) -> tuple[dict[str, float], dict[str, Any], dict[str, float]]:
    """The figures; the laws of those whose law is not that of Gaussian entries; and what `IID` calls expected."""
    lags = lag_correlations(sums)
    parts = scales(w, sums.mean)
    rows, columns = likeness or alike(w, sums)
    rows_64, columns_64 = alike_at_width(w)
    information, freedom = neighbour_information(w)
    figures = {
        "lag_row": float(lags[0, 0]),
        "lag_col": float(lags[1, 0]),
        "lag_diagonal": float(lags[2, 0]),
        "lag_max": float(np.abs(lags).max()),
        "ljung_box": math.sqrt(ljung_box(sums) / (w.size * LAGS)),
        "runs_z": runs_z(w),
        "mutual_information": information,
        "row_corr": rows.value,
        "col_corr": columns.value,
        "row_share": parts.row_share,
        "col_share": parts.col_share,
        "block_share": parts.block_share,
        "row_drift": parts.row_drift,
        "col_drift": parts.col_drift,
        "row_alike_64": rows_64.value,
        "col_alike_64": columns_64.value,
        "transpose_corr": transpose_correlation(w),
    }
    r, c = w.shape
    own: dict[str, Any] = {
        "row_corr": rows.law(1 / (c - 1)),
        "col_corr": columns.law(1 / (r - 1)),
        "row_alike_64": rows_64.law(1.0),
        "col_alike_64": columns_64.law(1.0),
    }
    if freedom < (BINS - 1) ** 2:
        own["mutual_information"] = information_law(freedom, r * (c - 1))
    _, square, _, biquadrate = sums.rows.sum(1)
    own |= heavy_lag_laws(r, c, w.size * biquadrate / square**2) | dict(parts.laws)
    return figures, own, dict(parts.expected)


def _intervals(w: np.ndarray, whole: IID) -> dict[str, tuple[float, float]]:
    found = {name: getattr(whole, name) for name in (*FIGURES, *FURTHER)}
    errors = []
    for axis, length in enumerate(w.shape):
        parts = np.array_split(np.arange(length), JACKKNIFE_GROUPS)
        left = (np.delete(w, part, axis=axis) for part in parts)
        without = pd.DataFrame([_figures(some, Sums.of(some, LAGS))[0] for some in left])
        errors.append(pd.Series(jackknife_error(without), without.columns))
    half = special.stdtrit(JACKKNIFE_GROUPS - 1, 0.975) * np.maximum(*errors)
    ends = {name: (value - float(half[name]), value + float(half[name])) for name, value in found.items()}
    if not math.isnan(value := found["transpose_corr"]):  # without some rows there is no transpose: Fisher's (1921)
        z = math.atanh(max(-1 + 1e-12, min(value, 1 - 1e-12)))
        half = special.ndtri(0.975) / math.sqrt(w.size / 2)
        ends["transpose_corr"] = math.tanh(z - half), math.tanh(z + half)
    return ends


def null(r: int, c: int) -> dict[str, tuple[float, float]]:
    """Central 95 % of every figure of `IID`, and of `SUMS`, on r × c independent Gaussian entries."""
    every = laws(r, c)
    return _bands(every, (r, c), {name: float(every[name].mean()) for name in ("both_share", "block_share")})


def _bands(every: Mapping[str, Any], shape: tuple[int, int], expected: Mapping[str, float]) -> dict:
    """The central 95 % of each law, and of what is made of them."""
    ends = {name: tuple(float(end) for end in law.ppf([0.025, 0.975])) for name, law in every.items()}
    for side, length in (("row", shape[1]), ("col", shape[0])):
        ends[f"{side}_alike"] = tuple(end * (length - 1) for end in ends[f"{side}_corr"])
    for name, share in (("unequal", "both_share"), ("block_excess", "block_share")):
        ends[name] = tuple(end - expected[share] for end in ends[share])
    return ends
