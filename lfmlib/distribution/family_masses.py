"""Compiled masses of the families of densities in cells of magnitude, and what a code length gains by their parameters.

A family is a number here: `GAUSSIAN`, `LAPLACE` or `GENERALIZED`. Everything is in logarithms, which stay finite far
out in the tails.
"""

from __future__ import annotations

import math

import numba
import numpy as np

LOG_ZERO = -1e8
"""Stands for log 0, so that sums stay finite."""
GAUSSIAN, LAPLACE, GENERALIZED = 0, 1, 2
"""Numbers of the families."""
_LN2 = math.log(2)
_LOG_ROOT_TAU = math.log(2 * math.pi) / 2
_FAR = 35.0  # standard deviations from which a Gaussian's tail is its asymptotic series: soon after, erfc underflows


@numba.njit(nogil=True, cache=True)
def log_survival(family, z, shape):
    """Logarithm of the share of a family beyond ``z``, in units of its scale."""
    if family == GAUSSIAN:
        if z > _FAR:
            square = 1 / (z * z) if z < math.inf else 0.0
            return -z * z / 2 - math.log(z) - _LOG_ROOT_TAU - square * (1 - square * (2.5 - 37 / 3 * square))
        beyond = math.erfc(abs(z) / math.sqrt(2.0)) / 2
        return math.log(beyond) if z > 0 else math.log1p(-beyond)
    if family == LAPLACE:
        return -_LN2 - z if z > 0 else math.log1p(-0.5 * math.exp(z))
    tail = _log_upper_gamma(1 / shape, abs(z) ** shape) - _LN2
    return tail if z > 0 else math.log1p(-math.exp(tail))


@numba.njit(nogil=True, cache=True)
def log_density(family, z, shape):
    """Logarithm of the density of a family at ``z``, in units of its scale."""
    if family == GAUSSIAN:
        return -z * z / 2 - _LOG_ROOT_TAU
    if family == LAPLACE:
        return -_LN2 - abs(z)
    return math.log(shape / 2) - math.lgamma(1 / shape) - abs(z) ** shape


@numba.njit(nogil=True, cache=True)
def _log_upper_gamma(a, x):
    """Logarithm of the regularized upper incomplete gamma function, a > 0 and x ≥ 0: a series of the lower one below
    a + 1, Lentz's continued fraction of the upper one from there on (Gil, Segura and Temme 2007, chapters 6 and 8)."""
    if x == 0.0:
        return 0.0
    if x == math.inf:
        return -math.inf
    front = a * math.log(x) - x - math.lgamma(a)
    if x < a + 1:
        term = total = 1 / a
        for n in range(1, 10_000):
            term *= x / (a + n)
            total += term
            if term < 1e-17 * total:
                break
        return math.log1p(-min(total * math.exp(front), 1.0))
    below = x + 1 - a
    ratio, other = 1 / below, 1e300
    fraction = ratio
    for n in range(1, 10_000):
        step = n * (a - n)
        below += 2
        ratio, other = 1 / (below + step * ratio), below + step / other
        fraction *= ratio * other
        if abs(ratio * other - 1) < 1e-16:
            break
    return front + math.log(fraction)


@numba.njit(nogil=True, cache=True)
def _log_difference(inner, outer):
    """log(exp(inner) - exp(outer)), for inner >= outer; at least `LOG_ZERO`."""
    if inner == -math.inf or outer >= inner:
        return LOG_ZERO
    return max(inner + math.log(-math.expm1(outer - inner)), LOG_ZERO)


@numba.njit(nogil=True, cache=True)
def log_masses(family, mean, scale, shape, edges, upper):
    """Masses of cells under a member of a family that is truncated to magnitudes from the first edge to ``upper``.

    Args:
        family: its number.
        mean, scale, shape: of the member.
        edges: float64 ``(m + 1,)``, ascending magnitudes.
        upper: magnitude at which it is truncated, or infinity.

    Returns:
        Natural logarithms ``(2, m)``, above zero and below, before they are divided by the mass of the whole range; and
        that of the whole.
    """
    m = edges.size - 1
    upper = max(upper, edges[0])
    cells, whole = np.empty((2, m)), np.empty(2)
    for side in range(2):
        centre = mean if side == 0 else -mean
        first = inner = log_survival(family, (edges[0] - centre) / scale, shape)
        for i in range(m):
            outer = log_survival(family, (min(edges[i + 1], upper) - centre) / scale, shape)
            cells[side, i] = _log_difference(inner, outer)
            inner = outer
        whole[side] = _log_difference(first, log_survival(family, (upper - centre) / scale, shape))
    large, small = max(whole[0], whole[1]), min(whole[0], whole[1])
    return cells, large + math.log1p(math.exp(small - large))


@numba.njit(nogil=True, cache=True)
def bits_and_slopes(family, mean, scale, shape, edges, upper, sides):
    """Code length of values in bits under `log_masses`, and its derivatives by the mean and by the logarithm of the
    scale.

    With the density f = -S' of a survival function S, moving a cell's edges by dz changes its mass by f dz at the outer
    minus f dz at the inner edge.

    Args:
        sides: float64 ``(2, m)``, numbers of values in the cells, above and below zero.
    """
    cells, whole = log_masses(family, mean, scale, shape, edges, upper)
    total = sides.sum()
    if whole <= LOG_ZERO / 2:  # the law has no mass in this range, and no slope leads back
        return -total * LOG_ZERO / _LN2, 0.0, 0.0
    upper = max(upper, edges[0])
    bits = by_mean = by_scale = whole_by_mean = whole_by_scale = 0.0
    for side in range(2):
        sign = -1.0 if side == 0 else 1.0
        for i in range(cells.shape[1]):
            count, cell = sides[side, i], cells[side, i]
            if count > 0:
                bits -= count * (cell - whole)
                for end in range(2):
                    z = (min(edges[i + end], upper) + sign * mean) / scale
                    share = count * (2 * end - 1) * math.exp(log_density(family, z, shape) - cell)
                    by_mean += share * sign / scale
                    by_scale -= share * z
        for end in range(2):
            z = ((upper if end else edges[0]) + sign * mean) / scale
            if z < math.inf:
                share = (2 * end - 1) * math.exp(log_density(family, z, shape) - whole)
                whole_by_mean += share * sign / scale
                whole_by_scale -= share * z
    return bits / _LN2, (total * whole_by_mean - by_mean) / _LN2, (total * whole_by_scale - by_scale) / _LN2
