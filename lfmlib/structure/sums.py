"""Sums over the entries of a matrix, and over pairs of neighbours: one pass, from which several figures are made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

REORDERED = {"reassoc", "nsz", "contract"}
"""What LLVM may do with sums of a compiled loop, so that several terms are added at once."""


@dataclass(frozen=True)
class Sums:
    """Sums over the entries of a matrix (r, c), in float64 whatever its type.

    Entries are counted from the mean of all, in a unit that is a power of two near the largest, so that no power of
    them leaves float64's range: x = (w - mean) / unit.

    Attributes:
        mean, unit: see above.
        rows, columns: sums of x, x², x³ and x⁴ over each row ``(4, r)``, and each column ``(4, c)``.
        products: sums of x y over pairs of x and the entry y that lies 1 to ``lags`` places further, ``(3, lags)``:
            along rows, columns, and diagonals (down and to the right).
        wrapped: the same of entries at the end of a row with those at the start of the next, ``(lags,)``: what a walk
            through the matrix, row after row, adds to the pairs along rows.
        ends: the first ``lags`` rows and columns at their crossing, and the last ones from the end, in units of x:
            ``(2, lags, lags)``.
    """

    mean: float
    unit: float
    rows: np.ndarray
    columns: np.ndarray
    products: np.ndarray
    wrapped: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, w: np.ndarray, lags: int) -> Sums:
        """Of the entries of ``w``, ``(r, c)`` of float32 or float64, longer than ``lags`` on either side."""
        w = np.ascontiguousarray(w)
        mean = float(w.mean(dtype=np.float64))
        unit = math.ldexp(1.0, math.frexp(max(float(w.max()), -float(w.min())))[1])
        rows, columns = np.zeros((4, w.shape[0])), np.zeros((4, w.shape[1]))
        products, wrapped = np.zeros((3, lags)), np.zeros(lags)
        _add(w, mean, 1 / unit, rows, columns, products, wrapped)
        corners = np.stack([w[::-1, ::-1][:lags, :lags], w[:lags, :lags]]).astype(np.float64)
        return cls(mean, unit, rows, columns, products, wrapped, (corners - mean) / unit)

    def without(self, power: int, side: int, down: int, right: int) -> np.ndarray:
        """Sums of a power (1 or 2) of all entries without the last (``side`` 0) or first (1) k rows if ``down``, and k
        columns if ``right``, for k from 1: float64 ``(lags,)``."""
        rows, columns, lags = self.rows[power - 1], self.columns[power - 1], len(self.wrapped)
        end = slice(None, None, -1) if side == 0 else slice(None)
        corner = (self.ends[side] ** power).cumsum(0).cumsum(1).diagonal()
        found = np.full(lags, rows.sum())
        found -= down * rows[end][:lags].cumsum() + right * columns[end][:lags].cumsum()
        return found + down * right * corner


@numba.njit(nogil=True, cache=True, fastmath=REORDERED)
def _add(w, mean, scale, rows, columns, products, wrapped):
    """Add to the arrays of `Sums`; the last rows stay in the cache until their pairs are summed."""
    r, c = w.shape
    lags = wrapped.size
    kept = np.empty((lags + 1, c))
    first, second, third, fourth = columns[0], columns[1], columns[2], columns[3]
    for i in range(r):
        x = kept[i % (lags + 1)]
        one = two = three = four = 0.0
        for j in range(c):
            value = (w[i, j] - mean) * scale
            square = value * value
            x[j] = value
            one += value
            two += square
            three += square * value
            four += square * square
        rows[0, i], rows[1, i], rows[2, i], rows[3, i] = one, two, three, four
        for j in range(c):
            value = x[j]
            square = value * value
            first[j] += value
            second[j] += square
            third[j] += square * value
            fourth[j] += square * square
        for k in range(1, lags + 1):
            along = 0.0
            for j in range(c - k):
                along += x[j] * x[j + k]
            products[0, k - 1] += along
            if k <= i:
                above = kept[(i - k) % (lags + 1)]
                down = across = 0.0
                for j in range(c):
                    down += above[j] * x[j]
                for j in range(c - k):
                    across += above[j] * x[j + k]
                products[1, k - 1] += down
                products[2, k - 1] += across
            if i > 0:
                above = kept[(i - 1) % (lags + 1)]
                around = 0.0
                for j in range(k):
                    around += above[c - k + j] * x[j]
                wrapped[k - 1] += around
