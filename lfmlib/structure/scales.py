"""Have the rows, the columns and the blocks of a matrix one scale? Shares of the variance of log (w - μ)².

Exact zeros say nothing about scale and are left out, which leaves rows and columns of unequal numbers of entries. The
nulls are then those of the same values in random places among the entries that are left: the first two moments of a
quadratic form under permutation are known exactly (Pitman 1938, Biometrika 29), whatever the law of the values, and a
beta law has them. Where nothing is left out they are the beta laws of the analysis of variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import scipy

from .likeness import Normal
from .sums import REORDERED

BLOCKS_PER_SIDE = 8
"""Blocks along each side of the grid that `Scales.block_share` is computed on."""
MIN_KNOWN = 64
"""Entries that must be left for there to be something to explain."""
NEGLIGIBLE_VARIANCE = 1e-20
"""Variance of log (w - μ)² that is rounding, or a mean next to entries of one absolute value."""


@dataclass(frozen=True)
class Scales:
    """What rows, columns and blocks explain of the variance of log (w - μ)².

    Attributes:
        row_share, col_share, block_share, row_drift, col_drift: as of `lfmlib.structure.entries.IID`.
        expected: "both_share" (the sum of the first two) and "block_share" → their value on independent entries.
        laws: figure → its distribution on independent entries, of those that `dense_laws` does not give; and that of
            "both_share".
    """

    row_share: float = 0.0
    col_share: float = 0.0
    block_share: float = 0.0
    row_drift: float = 0.0
    col_drift: float = 0.0
    expected: Mapping[str, float] = field(default_factory=dict)
    laws: Mapping[str, Any] = field(default_factory=dict)


def dense_laws(r: int, c: int) -> dict[str, Any]:
    """Figure of `Scales` → its distribution on r × c independent entries other than zero."""
    n = r * c
    return {
        "row_share": share_law(r - 1, n),
        "col_share": share_law(c - 1, n),
        "both_share": share_law(r + c - 2, n),
        "block_share": share_law((BLOCKS_PER_SIDE - 1) ** 2, n - r - c + 2),
        "row_drift": scipy.stats.norm(0, 1 / math.sqrt(r - 1)),
        "col_drift": scipy.stats.norm(0, 1 / math.sqrt(c - 1)),
    }


def share_law(freedom: int, n: int):
    """Distribution of the share of n values' variance that group means with ``freedom`` degrees of freedom explain.

    It is exact for Gaussian values. The logarithm of a square is far from Gaussian, but for groups of equal size its
    kurtosis cancels from the variance of the share.
    """
    return scipy.stats.beta(freedom / 2, (n - 1 - freedom) / 2)


def scales(w: np.ndarray, mean: float) -> Scales:
    """Measure what rows, columns and blocks explain.

    The blocks' share is of the variance that rows and columns leave; where fewer than two entries stand for each of
    these, they leave nothing that can be told, and it is a share of the whole.

    Args:
        w: float32 or float64 ``(r, c)``, not constant.
        mean: of all entries.
    """
    w = np.ascontiguousarray(w)
    cuts = tuple(np.linspace(0, size, BLOCKS_PER_SIDE + 1).astype(int) for size in w.shape)
    sums = tuple(np.zeros((2, size)) for size in w.shape)
    blocks, powers = np.zeros((2, BLOCKS_PER_SIDE, BLOCKS_PER_SIDE)), np.zeros(5)
    _add_logarithms(w, mean, math.log(_first_size(w, mean)), cuts, sums, blocks, powers)
    known, one, two, three, four = powers.tolist()
    n, whole = int(known), w.size
    if n < MIN_KNOWN:
        return _nothing(*w.shape)
    centre = one / n
    total = two - n * centre**2
    if total <= NEGLIGIBLE_VARIANCE * whole:
        return _nothing(*w.shape)
    counts = [one[0] for one in sums]
    means = [np.divide(some, count, out=np.zeros_like(some), where=count > 0) - centre for count, some in sums]
    row_share, col_share = (float(count @ mean**2) / total for count, mean in zip(counts, means, strict=True))
    row_drift, col_drift = (
        _drift(mean[count > 0], np.flatnonzero(count > 0)) for count, mean in zip(counts, means, strict=True)
    )
    groups = sum(int(np.count_nonzero(count)) for count in counts)
    sparse = n - 1 < 2 * (groups - 2)
    rest = total * (1.0 if sparse else 1 - row_share - col_share)
    block = _Blocks.of(blocks[0], blocks[1] - centre * blocks[0])
    block_share = block.explained / rest if rest > 1e-12 * total else 0.0
    if n == whole:
        expected = {"both_share": (groups - 2) / (n - 1), "block_share": block.freedom / (n - groups + 1)}
        return Scales(row_share, col_share, block_share, row_drift, col_drift, expected)
    fourth = four - 4 * centre * three + 6 * centre**2 * two - 3 * n * centre**4
    inverse = [np.divide(1.0, count, out=np.zeros_like(count), where=count > 0) for count in counts]
    laws = _sparse_laws(inverse, _crossed(w, mean, *inverse), n, fourth / total**2, block, sparse)
    expected = {name: float(laws[name].mean()) for name in ("both_share", "block_share")}
    return Scales(row_share, col_share, block_share, row_drift, col_drift, expected, laws)


@numba.njit(nogil=True, cache=True)
def _first_size(w, mean):
    """The distance from the mean of the first entry that is neither zero nor the mean; 1 where there is none."""
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            if w[i, j] != 0 and w[i, j] != mean:
                return abs(w[i, j] - mean)
    return 1.0


@numba.njit(nogil=True, cache=True, fastmath=REORDERED)
def _crossed(w, mean, rows, columns):
    """Sum of the products of a number of the row and one of the column, over the same entries."""
    total = 0.0
    for i in range(w.shape[0]):
        along = 0.0
        for j in range(w.shape[1]):
            along += columns[j] if w[i, j] != 0 and w[i, j] != mean else 0.0
        total += rows[i] * along
    return total


@numba.njit(nogil=True, cache=True, fastmath=REORDERED)
def _add_logarithms(w, mean, start, cuts, sums, blocks, powers):
    """Sum y = log (w - mean)² - 2 ``start`` over the entries that are neither zero nor the mean.

    Args:
        w, mean: as in `scales`.
        start: that of one entry, half of it, so that those of entries of one absolute value are 0 exactly.
        cuts: where blocks of rows begin, and the last ends, and where those of columns do.
        sums: of the rows ``(2, r)`` and of the columns ``(2, c)``: number and sum, added to.
        blocks: the same of the blocks, ``(2, blocks, blocks)``.
        powers: sums of y⁰ to y⁴, added to.
    """
    (row_cuts, column_cuts), (rows, columns) = cuts, sums
    y = np.empty(w.shape[1])
    known = np.empty(w.shape[1])
    for block in range(row_cuts.size - 1):
        for i in range(row_cuts[block], row_cuts[block + 1]):
            for j in range(w.shape[1]):
                size = abs(w[i, j] - mean)
                there = w[i, j] != 0 and size != 0
                known[j] = 1.0 if there else 0.0
                # of the absolute value rather than of its square, which may underflow
                y[j] = 2.0 * (math.log(size) - start) if there else 0.0
            for j in range(w.shape[1]):
                columns[0, j] += known[j]
                columns[1, j] += y[j]
            for part in range(column_cuts.size - 1):
                one = two = three = four = count = 0.0
                for j in range(column_cuts[part], column_cuts[part + 1]):
                    square = y[j] * y[j]
                    count += known[j]
                    one += y[j]
                    two += square
                    three += square * y[j]
                    four += square * square
                rows[0, i] += count
                rows[1, i] += one
                blocks[0, block, part] += count
                blocks[1, block, part] += one
                powers[0] += count
                powers[1] += one
                powers[2] += two
                powers[3] += three
                powers[4] += four


def _nothing(r: int, c: int) -> Scales:
    """Where all absolute values are equal, or too few are left: every figure is 0, and of noise as well."""
    names = ("row_share", "col_share", "both_share", "block_share", "row_drift", "col_drift")
    return Scales(
        expected={"both_share": (r + c - 2) / (r * c - 1), "block_share": 0.0},
        laws={name: certain(0.0) for name in names},
    )


def certain(value: float) -> Normal:
    """The law of a figure that has one value, on noise as well."""
    return Normal(value, 1e-9)


@dataclass(frozen=True)
class _Blocks:
    """What a grid of blocks explains beyond its own rows and columns of blocks.

    Attributes:
        explained: the sum of squares.
        freedom: degrees of freedom.
        diagonal: sum of the squared diagonal elements of the projection.
    """

    explained: float
    freedom: int
    diagonal: float

    @classmethod
    def of(cls, places: np.ndarray, sums: np.ndarray) -> _Blocks:
        """Of the number of values in each block, and their sum; the values are centred."""
        root, unit = np.sqrt(places.ravel()), np.eye(BLOCKS_PER_SIDE)
        lines = np.hstack([np.kron(unit, np.ones((BLOCKS_PER_SIDE, 1))), np.kron(np.ones((BLOCKS_PER_SIDE, 1)), unit)])
        left, strength, _ = np.linalg.svd(root[:, None] * lines, full_matrices=False)
        left = left[:, strength > 1e-9 * strength[0]]
        there = root > 0
        scaled = np.divide(sums.ravel(), root, out=np.zeros_like(root), where=there)
        explained = float(scaled @ scaled - np.square(left.T @ scaled).sum())
        own = (there - np.square(left).sum(1))[there]
        return cls(max(explained, 0.0), int(there.sum()) - left.shape[1], float(own**2 @ (1 / root[there] ** 2)))


def _sparse_laws(
    inverse: list[np.ndarray], common: float, n: int, fourth: float, block: _Blocks, sparse: bool
) -> dict[str, Any]:
    """The laws of all figures where entries are left out.

    Args:
        inverse: one over the number of entries of each row, and of each column; 0 where there is none.
        common: sum of the products of both over the entries: the trace of the product of both projections, plus 1.
        n, fourth, block, sparse: as in `scales`.
    """
    groups = [int(np.count_nonzero(one)) for one in inverse]
    laws = {}
    for name, one, filled in zip(("row", "col"), inverse, groups, strict=True):
        form = _Form(filled - 1, filled - 1, float(one.sum()) - (2 * filled - 1) / n)
        laws[f"{name}_share"] = _beta(*form.moments(n, fourth))
        laws[f"{name}_drift"] = Normal(0.0, 1 / math.sqrt(max(filled - 1, 1)))
    freedom = sum(groups) - 2
    diagonal = float(inverse[0].sum() + inverse[1].sum()) + (4 - 4 * sum(groups)) / n + 2 * common
    both = _Form(freedom, freedom + 2 * (common - 1), diagonal)
    laws["both_share"] = _beta(*both.moments(n, fourth), most=2.0)
    # The blocks' share exceeds x where a form of blocks, plus x times that of rows and columns, exceeds x: its variance
    # is that of this form at the mean. The two overlap as by chance.
    left = n - 1 - (0 if sparse else freedom)
    mean = block.freedom / left
    part = 0.0 if sparse else mean
    form = _Form(
        block.freedom + part * freedom,
        block.freedom + part**2 * both.square + 2 * part * block.freedom * sum(groups) / n,
        block.diagonal + part**2 * both.diagonal + 2 * part * block.freedom * freedom / n,
    )
    laws["block_share"] = _beta(mean, form.moments(n, fourth)[1] * ((n - 1) / left) ** 2)
    return laws


@dataclass(frozen=True)
class _Form:
    """A quadratic form y'Ay of centred values, of a symmetric A with A1 = 0: the traces of A and of A², and the sum of
    the squared elements of its diagonal."""

    trace: float
    square: float
    diagonal: float

    def moments(self, n: int, fourth: float) -> tuple[float, float]:
        """Mean and variance of y'Ay / y'y over all orders of the n values.

        Args:
            n: number of values.
            fourth: sum of the fourth powers of the values over the square of the sum of their squares.
        """
        t, q, d = self.trace, self.square, self.diagonal
        pairs = n * (n - 1)
        second = d * fourth / n + 4 * d * fourth / pairs + (t**2 + 2 * q - 3 * d) * (1 - fourth) / pairs
        second += (12 * d - 2 * t**2 - 4 * q) * (2 * fourth - 1) / (pairs * (n - 2))
        second += (t**2 + 2 * q - 6 * d) * (3 - 6 * fourth) / (pairs * (n - 2) * (n - 3))
        return t / (n - 1), second - (t / (n - 1)) ** 2


def _beta(mean: float, variance: float, most: float = 1.0):
    """The beta law on [0, most] of a mean and a variance; `certain` where there is no room for one."""
    m, v = mean / most, variance / most**2
    if not (0 < m < 1 and 1e-18 < v < m * (1 - m)):
        return certain(mean)
    weight = m * (1 - m) / v - 1
    return scipy.stats.beta(m * weight, (1 - m) * weight, 0, most)


def _drift(means: np.ndarray, numbers: np.ndarray) -> float:
    """Spearman correlation of means with row or column numbers; 0 if there is nothing to order."""
    return float(scipy.stats.spearmanr(means, numbers).statistic) if len(means) > 1 and np.ptp(means) > 0 else 0.0
