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

import numpy as np
from scipy import special

WIDTH = 64
"""Rows and columns of the submatrices on which matrices of different size are compared."""
TILES = 64
"""Largest number of these submatrices."""
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


def alike(w: np.ndarray) -> tuple[Alike, Alike]:
    """Mean squared Pearson correlation between different rows, and columns, of a matrix ``(r, c)``.

    Rows and columns that are constant are left out.

    Raises:
        ValueError: fewer than two of them vary.
    """
    rows, columns = _between(w[None], 2), _between(w[None], 1)
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
    part = w[rows[place // len(columns)][:, :, None], columns[place % len(columns)][:, None, :]]
    found = []
    for axis, length in ((2, sides[1]), (1, sides[0])):
        one = _between(part, axis) or Alike(1 / (length - 1), 0.0)  # where nothing varies
        found.append(Alike(one.value * (length - 1), one.variance * (length - 1) ** 2))
    return found[0], found[1]


def _between(w: np.ndarray, axis: int) -> Alike | None:
    """Mean squared correlation of the rows (``axis`` 2) or columns (1) of each of the matrices ``(m, r, c)``, over all
    pairs; None where there is none.

    The variance is that over all orders of the entries of each row (Pitman 1937, J. R. Stat. Soc. Suppl. 4); squared
    correlations of different pairs are uncorrelated.
    """
    n = w.shape[axis]
    mean = w.mean(axis, keepdims=True)
    x = w - mean
    squares = np.square(x)
    second = squares.sum(axis)
    vary = second > 1e-24 * (second + n * np.square(mean.squeeze(axis)))  # what is left of a constant row is rounding
    count = vary.sum(1)
    pairs = float((count * (count - 1)).sum()) / 2
    if not pairs:
        return None
    scale = np.divide(1.0, second, out=np.zeros_like(second), where=vary)
    squares *= np.expand_dims(scale, axis)
    fourth = np.square(squares, out=squares).sum(axis)
    x *= np.expand_dims(np.sqrt(scale), axis)
    total = sum(_gram_square(one) for one in x) - float(count.sum())
    # Fisher's k₄ / k₂² of each row
    tails = ((n + 1) * (n * fourth - 3) + 6) * (n - 1) / ((n - 2) * (n - 3)) * vary
    products = float((np.square(tails.sum(1)) - np.square(tails).sum(1)).sum()) / (2 * pairs)
    power = 3 / (n**2 - 1) * (1 + products * (n - 2) * (n - 3) / (3 * n * (n - 1) ** 2))
    return Alike(total / (2 * pairs), max(power - 1 / (n - 1) ** 2, 0.0) / pairs)


def _gram_square(x: np.ndarray) -> float:
    """Sum of the squared inner products of the rows of x, or of its columns, which is the same."""
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    return float(np.vdot(gram, gram))


def transpose_correlation(w: np.ndarray) -> float:
    """Correlation of the entries off the diagonal with those across it: 1 of a symmetric matrix, -1 of an antisymmetric
    one. NaN where the matrix is not square."""
    r, c = w.shape
    if r != c:
        return math.nan
    count, x = r * (r - 1), w - w.mean()
    own = x.diagonal()
    mean = (x.sum() - own.sum()) / count
    variance = (np.vdot(x, x) - own @ own) / count - mean**2
    product = (sum(float(np.vdot(x[i : i + 64], x[:, i : i + 64].T)) for i in range(0, r, 64)) - own @ own) / count
    return float((product - mean**2) / variance) if variance > 0 else 0.0


def transpose_law(r: int) -> Normal:
    """Distribution of `transpose_correlation` on r × r independent entries."""
    pairs = r * (r - 1) / 2
    return Normal(-1 / (2 * pairs - 1), 1 / math.sqrt(pairs))
