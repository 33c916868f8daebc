"""Moments of a sketch: mean and variance exactly, in integers; skewness and kurtosis with bounds on their errors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .counting import CENTRE, LIMB_BITS

if TYPE_CHECKING:
    from .sketch import Sketch


def mean_and_std(sketch: Sketch) -> tuple[float, float]:
    """Mean and population standard deviation, rounded once; NaN without values."""
    if not sketch.count:
        return math.nan, math.nan
    total, squares = _power_sums(sketch)
    n, unit = sketch.count, sketch.grid.unit
    return _ldexp(total, n, unit), math.sqrt(_ldexp(n * squares - total * total, n**2, 2 * unit))


def _power_sums(sketch: Sketch) -> tuple[int, int]:
    """Sum of the values and of their squares, as exact integers in units of 2**unit and 2**(2 unit)."""
    shape = sketch.grid
    implicit = 1 << shape.mantissa
    fraction = np.arange(implicit, dtype=np.int64)
    count = sketch.patterns.reshape(2, shape.exponents, implicit)
    if sketch.count >= 1 << 40:  # from a trillion values on, 64 bits do not hold the products below
        count, fraction = count.astype(object), fraction.astype(object)
    seen = np.nonzero(count.sum(-1))  # signs and exponents that occur
    count = count[seen]
    count0, count1, count2 = count.sum(-1), count @ fraction, count @ fraction**2
    if shape.wide:
        finite = shape.finite.reshape(2, shape.exponents, implicit)[seen]
        linear, high, low = (
            np.where(finite, sums.reshape(2, shape.exponents, implicit)[seen], 0) for sums in sketch.sums[1:4]
        )
        linear0, linear1 = linear.sum(-1), linear @ fraction
        high0, low0 = high.sum(-1), low.sum(-1)
    total = squares = 0
    for at, (sign, exponent) in enumerate(zip(*seen, strict=True)):
        lead = 0 if exponent == 0 else implicit  # subnormals have no leading one
        shift = max(int(exponent) - 1, 0)
        n0, n1, n2 = int(count0[at]), int(count1[at]), int(count2[at])
        first = n0 * lead + n1  # sum over the values of the integer mantissa, and of its square
        second = n0 * lead * lead + 2 * lead * n1 + n2
        if shape.wide:
            # mantissa = 2**16 (lead + fraction) + CENTRE + trail, with `trail` known by its sums
            l0, l1 = int(linear0[at]), int(linear1[at])
            square = (int(high0[at]) << LIMB_BITS) + int(low0[at])
            second = (
                (second << 32) + 2 * (first << 16) * CENTRE + n0 * CENTRE * CENTRE
                + 2 * (((l0 * lead + l1) << 16) + l0 * CENTRE) + square
            )  # fmt: skip
            first = (first << 16) + n0 * CENTRE + l0
        total += (-first if sign else first) << shift
        squares += second << (2 * shift)
    return total, squares


def third_and_fourth(sketch: Sketch) -> tuple[float, float, float, float]:
    """Skewness, excess kurtosis, and bounds on the errors of both; NaN without values, or if all are equal.

    The errors come from the positions of values inside wide cells, of which only mean and variance are known.
    """
    if not sketch.count or sketch.std == 0:
        return math.nan, math.nan, math.nan, math.nan
    cells = sketch.cells
    away = (cells.value - sketch.mean) / sketch.std
    spread = cells.spread / sketch.std**2
    reach = np.maximum(cells.value - cells.lower, cells.upper - cells.value) / sketch.std
    square = away * away
    third = np.sum(away * (cells.count * square + 3 * spread))
    # a cell's own fourth moment is taken as 9/5 of its squared variance, that of evenly spread values
    fourth = np.sum(square * (cells.count * square + 6 * spread) + 1.8 * spread * spread / cells.count)
    third_error = np.sum(spread * reach)
    fourth_error = np.sum(4 * np.abs(away) * spread * reach + spread * reach**2)
    n = sketch.count
    return float(third / n), float(fourth / n - 3), float(third_error / n), float(fourth_error / n)


def _ldexp(numerator: int, denominator: int, exponent: int) -> float:
    """``numerator / denominator * 2**exponent`` with one rounding, since Python divides integers exactly."""
    if exponent >= 0:
        return (numerator << exponent) / denominator
    return numerator / (denominator << -exponent)
