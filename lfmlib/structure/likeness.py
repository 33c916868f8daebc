"""Are the rows of a matrix alike, and its columns? Mean squared correlations, and the correlation with the transpose.

The mean squared correlation between rows of c independent entries is 1 / (c - 1) whatever their law, so that its ratio
to that value grows with the width where the correlations are the same. Matrices of different width are compared on
submatrices of one width.

A squared correlation is above noise where rows or columns share something, and *below* it where they keep away from
each other: the rows of an orthogonal matrix have none at all.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
import torch
from scipy import special

from .gram import products_in, triangle
from .sums import Sums

WIDTH = 64
"""Rows and columns of the submatrices on which matrices of different size are compared."""
TILES = 64
"""Largest number of these submatrices."""
FAR = 100.0
"""Rows whose mean squared lies this many times farther from that of the matrix than their variance: power sums about
the matrix's mean would lose more than four digits of their moments."""
NEAR = 4.0
"""The same, for products of entries less the matrix's mean, of which that of the lines' own means is taken away."""
_LINES_AT_ONCE = 512  # whose products are scaled together
_SEED = 64


class Normal(NamedTuple):
    """A Gaussian law with the methods of scipy's frozen ones, which take a hundred times as long to make."""

    centre: float
    std: float

    def cdf(self, x: float) -> float:
        """Share of the law up to x."""
        return float(special.ndtr((x - self.centre) / self.std))

    def sf(self, x: float) -> float:
        """Share of the law beyond x."""
        return float(special.ndtr((self.centre - x) / self.std))

    def ppf(self, levels) -> list[float]:
        """Quantiles."""
        return [self.centre + self.std * float(special.ndtri(level)) for level in levels]

    def mean(self) -> float:
        """Mean."""
        return self.centre


class Alike(NamedTuple):
    """A mean squared correlation, and its variance on independent entries."""

    value: float
    variance: float

    def law(self, expected: float) -> Normal:
        """Its distribution on independent entries, of mean ``expected``; a mean of many, taken to be Gaussian."""
        return Normal(expected, math.sqrt(max(self.variance, 1e-24)))


def alike(w: np.ndarray, sums: Sums | None = None, smaller: Alike | None = None) -> tuple[Alike, Alike]:
    """Mean squared Pearson correlation between different rows, and columns, of a matrix ``(r, c)``.

    Rows and columns that are constant are left out. Products of entries are made in float32 where `products_in` says
    so, which changes a correlation by some 1e-7.

    Args:
        w: float32 or float64.
        sums: of w, if they are at hand.
        smaller: what `from_products` says of the smaller side's lines, the rows of a square matrix.

    Raises:
        ValueError: fewer than two of them vary.
    """
    sums = sums or Sums.of(w, 0)
    near = int(w.shape[0] <= w.shape[1])
    rows, columns = (smaller if smaller and axis == near else _of_whole(w, sums, axis) for axis in (1, 0))
    if rows is None or columns is None:
        raise ValueError("fewer than two rows, or columns, vary: there is nothing to compare; leave this matrix out")
    return rows, columns


def alike_at_width(w: np.ndarray, width: int = WIDTH, tiles: int = TILES) -> tuple[Alike, Alike]:
    """`alike` inside ``width`` × ``width`` submatrices, over their value on noise.

    The average over up to ``tiles`` submatrices, which have no entry in common; their rows and columns are chosen with
    a fixed seed. A side shorter than ``width`` is taken whole.
    """
    rng = np.random.default_rng(_SEED)
    sides = [min(width, size) for size in w.shape]
    rows, columns = (
        rng.permutation(size)[: size - size % side].reshape(-1, side) for size, side in zip(w.shape, sides, strict=True)
    )
    place = rng.permutation(len(rows) * len(columns))[:tiles]
    part = w[rows[place // len(columns)][:, :, None], columns[place % len(columns)][:, None, :]].astype(np.float64)
    found = []
    for axis, length in ((2, sides[1]), (1, sides[0])):
        one = _between(part, axis) or Alike(1 / (length - 1), 0.0)  # where nothing varies
        found.append(Alike(one.value * (length - 1), one.variance * (length - 1) ** 2))
    return found[0], found[1]


def _between(w: np.ndarray, axis: int) -> Alike | None:
    """Mean squared correlation of the rows (``axis`` 2) or columns (1) of each of the matrices ``(m, r, c)``, over all
    pairs; None where there is none."""
    mean = w.mean(axis, keepdims=True)
    x = w - mean
    second, peak, vary = line_moments(x, mean.squeeze(axis), axis)
    x *= np.expand_dims(np.divide(1.0, np.sqrt(second), out=np.zeros_like(second), where=vary), axis)
    return over_pairs(w.shape[axis], sum(_gram_square(one) for one in x), peak, vary)


def _of_whole(w: np.ndarray, sums: Sums, axis: int) -> Alike | None:
    """`_between` the rows (``axis`` 1) or columns (0) of one large matrix, whose products are made block by block."""
    mean, second, peak, vary = _moments_from_sums(w, sums, axis)
    scale = np.divide(1.0, np.sqrt(second), out=np.zeros_like(second), where=vary)
    z = _standardized(w, sums.mean + mean * sums.unit, scale / sums.unit, axis)
    total = sum(
        2 * float(product.square().sum(dtype=torch.float64)) - float(product[:, rows].square().sum(dtype=torch.float64))
        for rows, product in triangle(z if w.shape[0] <= w.shape[1] else z.T)
    )
    return over_pairs(w.shape[axis], total, peak[None], vary[None])


def from_products(products: torch.Tensor, mean: float, std: float, sums: Sums) -> Alike | None:
    """Mean squared correlation of the lines of a matrix's smaller side, from the inner products of its entries less
    their mean, which a spectrum needs as well.

    A correlation differs by some 1e-7 from that of lines that are centred and scaled before they are multiplied.

    Args:
        products: from `lfmlib.structure.gram.Matrix.products`, with its ``mean`` and ``std``.
        mean, std: see there.
        sums: of the same matrix.

    Returns:
        None where a line is constant, or so far from the mean of all that its products are known too coarsely.
    """
    sides = [some.shape[1] for some in (sums.rows, sums.columns)]
    lines, n = (sums.rows, sides[1]) if sides[0] <= sides[1] else (sums.columns, sides[0])
    centre, second, peak = _power_moments(lines, n)
    if not (second > n * centre**2 / NEAR).all():
        return None
    centre = torch.as_tensor((centre * sums.unit + sums.mean - mean) / std, device=products.device)
    scale = torch.as_tensor(std / (np.sqrt(second) * sums.unit), device=products.device)
    total = float(len(scale))  # of each line with itself
    for start in range(0, len(scale), _LINES_AT_ONCE):
        rows = slice(start, min(start + _LINES_AT_ONCE, len(scale)))
        part = products[rows, : rows.stop] - n * centre[rows, None] * centre[: rows.stop]
        part.mul_(scale[rows, None]).mul_(scale[: rows.stop])
        total += 2 * float(part.tril(start - 1).square().sum())
    return over_pairs(n, total, peak[None], np.ones((1, len(peak)), bool))


def _power_moments(powers: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of lines of n entries, from their power sums ``(4, lines)``: mean, sum of squares about it, and the sum of fourth
    powers about it over the square of that."""
    first, square, cube, biquadrate = powers
    mean = first / n
    second = square - n * mean**2
    fourth = biquadrate - 4 * mean * cube + 6 * mean**2 * square - 3 * n * mean**4
    return mean, second, np.divide(fourth, second**2, out=np.zeros_like(second), where=second > 0)


def _moments_from_sums(w: np.ndarray, sums: Sums, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each row (``axis`` 1) or column (0): its mean, counted as in `Sums`, and what `line_moments` says of it."""
    n = w.shape[axis]
    mean, second, peak = _power_moments(sums.rows if axis else sums.columns, n)
    vary = np.ones(len(mean), bool)
    far = np.flatnonzero(~(second > n * mean**2 / FAR))  # constant ones, too
    for some in np.array_split(far, 1 + len(far) // 64):
        part = w.take(some, 1 - axis).astype(np.float64) / sums.unit
        own = part.mean(axis)
        second[some], peak[some], vary[some] = line_moments(part - np.expand_dims(own, axis), own, axis)
        mean[some] = own - sums.mean / sums.unit
    return mean, second, peak, vary


def _standardized(w: np.ndarray, shift: np.ndarray, factor: np.ndarray, axis: int) -> torch.Tensor:
    """Each row (``axis`` 1) or column (0) less a number of its own, times another; in the type of `products_in`."""
    shift, factor = np.expand_dims(shift, axis), np.expand_dims(factor, axis)
    z = torch.empty(w.shape, dtype=products_in(w.shape, torch.float32 if w.dtype == np.float32 else torch.float64))
    step = max(1, (1 << 16) // w.shape[1])
    for start in range(0, len(w), step):
        rows = slice(start, start + step)
        own = rows if axis else slice(None)
        z[rows] = torch.from_numpy((w[rows] - shift[own]) * factor[own])
    return z


def line_moments(x: np.ndarray, mean: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of values less their ``mean`` along an axis: sum of x², sum of x⁴ over its square, and whether they vary: what is
    left of constant ones is rounding."""
    squares = np.square(x)
    second = squares.sum(axis)
    vary = second > 1e-24 * (second + x.shape[axis] * np.square(mean))
    unit = np.divide(1.0, second, out=np.zeros_like(second), where=vary)
    squares *= np.expand_dims(unit, axis)  # their squares might underflow
    return second, np.square(squares, out=squares).sum(axis), vary


def over_pairs(n: int, total: float, peak: np.ndarray, vary: np.ndarray) -> Alike | None:
    """The mean squared correlation over all pairs of rows in each of several matrices, and its variance over all orders
    of the entries of each row (Pitman 1937, J. R. Stat. Soc. Suppl. 4); squared correlations of different pairs are
    uncorrelated.

    Args:
        n: entries of a row.
        total: sum of the squared correlations of every row with every row, itself included.
        peak: of each row less its mean, the sum of fourth powers over the squared sum of squares, ``(matrices, rows)``.
        vary: which rows are not constant.
    """
    count = vary.sum(1)
    pairs = float((count * (count - 1)).sum()) / 2
    if not pairs:
        return None
    tails = ((n + 1) * (n * peak - 3) + 6) * (n - 1) / ((n - 2) * (n - 3)) * vary  # Fisher's k₄ / k₂² of each row
    products = float((np.square(tails.sum(1)) - np.square(tails).sum(1)).sum()) / (2 * pairs)
    power = 3 / (n**2 - 1) * (1 + products * (n - 2) * (n - 3) / (3 * n * (n - 1) ** 2))
    value = (total - float(count.sum())) / (2 * pairs)
    return Alike(value, max(power - 1 / (n - 1) ** 2, 0.0) / pairs)


def _gram_square(x: np.ndarray) -> float:
    """Sum of the squared inner products of the rows of x, or of its columns, which is the same."""
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    return float(np.vdot(gram, gram))


def transpose_correlation(w: np.ndarray) -> float:
    """Correlation of the entries off the diagonal with those across it: 1 of a symmetric matrix, -1 of an antisymmetric
    one. NaN where the matrix is not square.

    Args:
        w: float32 or float64 ``(r, c)``.
    """
    r, c = w.shape
    if r != c:
        return math.nan
    pairs, mean = r * (r - 1) / 2, float(w.mean(dtype=np.float64))
    total, square, product = _across(w, mean, 1 / max(float(w.max()) - mean, mean - float(w.min()), 1e-300))
    mean = total / (2 * pairs)
    variance = square / (2 * pairs) - mean**2
    return float((product / pairs - mean**2) / variance) if variance > 0 else 0.0


@numba.njit(nogil=True, cache=True)
def _across(w, mean, scale):
    """Sum and sum of squares of the entries off the diagonal, and sum of their products with those across it; tile by
    tile, so that what lies across is in the cache."""
    total = square = product = 0.0
    side = 64
    for top in range(0, w.shape[0], side):
        for left in range(0, top + 1, side):
            for i in range(top, min(top + side, w.shape[0])):
                for j in range(left, min(left + side, i)):
                    x, y = (w[i, j] - mean) * scale, (w[j, i] - mean) * scale
                    total += x + y
                    square += x * x + y * y
                    product += x * y
    return total, square, product


def transpose_law(r: int) -> Normal:
    """Distribution of `transpose_correlation` on r × r independent entries."""
    pairs = r * (r - 1) / 2
    return Normal(-1 / (2 * pairs - 1), 1 / math.sqrt(pairs))
