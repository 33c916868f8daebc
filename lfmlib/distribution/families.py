"""Symmetric families of densities, truncated to a range of magnitudes and fitted to counts.

A family has a centre μ, a scale and, for the generalized Gaussian, a shape. The mass between two magnitudes a < b is
S(a - μ) - S(b - μ) above zero, with S the family's survival function, and by symmetry S(a + μ) - S(b + μ) below. So
only log S is needed, which stays finite far out in the tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import optimize, special

from . import family_masses
from .family_masses import LOG_ZERO

_LN2 = math.log(2)
_SLOPE_STEP = 1e-6  # in the logarithm of the shape, for its numerical derivative


@dataclass(frozen=True, eq=False)
class Counts:
    """Numbers of values in cells of magnitude.

    Attributes:
        edges: float64 ``(m + 1,)``, ascending magnitudes.
        negative, positive: ``(m,)``, numbers of values below and above zero.
        ends: float64 ``(m,)``, an upper bound of the magnitudes in each cell, at most its upper edge.
    """

    edges: np.ndarray
    negative: np.ndarray
    positive: np.ndarray
    ends: np.ndarray

    @property
    def both(self) -> np.ndarray:
        """Numbers of values of both signs, ``(m,)``."""
        return self.negative + self.positive

    @cached_property
    def sides(self) -> np.ndarray:
        """Numbers of values above and below zero, float64 ``(2, m)``."""
        return np.stack([self.positive, self.negative]).astype(np.float64)

    def upto(self, stop: int) -> Counts:
        """The first ``stop`` cells; the last one ends where its values do."""
        edges = np.append(self.edges[:stop], self.ends[stop - 1])
        return Counts(edges, self.negative[:stop], self.positive[:stop], self.ends[:stop])

    def bits(self, log_masses: np.ndarray) -> float:
        """Code length of all values in bits.

        Args:
            log_masses: ``(2, m)``, natural logarithms of a law's masses of the cells, above and below zero.
        """
        return -float(self.positive @ log_masses[0] + self.negative @ log_masses[1]) / _LN2

    def halves(self, rng: np.random.Generator) -> tuple[Counts, Counts]:
        """Assign every value to one of two halves at random."""
        negative, positive = (rng.binomial(side, 0.5) for side in (self.negative, self.positive))
        second = Counts(self.edges, self.negative - negative, self.positive - positive, self.ends)
        return Counts(self.edges, negative, positive, self.ends), second


@dataclass(frozen=True)
class Fit:
    """A member of a family.

    Attributes:
        family: a key of `FAMILIES`.
        mean: centre of the density.
        scale: the standard deviation of a Gaussian; for the others the s of exp(-abs((x - mean) / s)^shape), which is
            the mean absolute deviation of a Laplace.
        shape: of a generalized Gaussian; 2 for the Gaussian, 1 for Laplace.
    """

    family: str
    mean: float
    scale: float
    shape: float

    @property
    def std(self) -> float:
        """Standard deviation of the density before it is truncated."""
        if self.family == "gaussian":
            return self.scale
        return self.scale * math.exp((special.gammaln(3 / self.shape) - special.gammaln(1 / self.shape)) / 2)

    def log_masses(self, edges: np.ndarray, upper: float) -> np.ndarray:
        """Masses of cells under this law, truncated to magnitudes from the first edge to ``upper``.

        Args:
            edges: ``(m + 1,)``, ascending magnitudes.
            upper: magnitude at which it is truncated, or math.inf.

        Returns:
            Natural logarithms ``(2, m)``, above zero and below; `LOG_ZERO` beyond ``upper``.
        """
        cells, whole = family_masses.log_masses(*self._member, edges, upper)
        return cells - whole if whole > LOG_ZERO / 2 else np.full_like(cells, LOG_ZERO)  # no mass in the range

    def bits(self, counts: Counts, upper: float) -> float:
        """Code length of all values in bits, truncated as in `log_masses`; no value may lie beyond ``upper``."""
        return self.bits_and_slopes(counts, upper)[0]

    def bits_and_slopes(self, counts: Counts, upper: float) -> tuple[float, np.ndarray]:
        """Code length as of `bits`, and its derivatives ``(2,)`` by the mean and by the logarithm of the scale."""
        bits, *slopes = family_masses.bits_and_slopes(*self._member, counts.edges, upper, counts.sides)
        return bits, np.array(slopes)

    @property
    def _member(self) -> tuple[int, float, float, float]:
        return FAMILIES[self.family].number, self.mean, self.scale, self.shape


@dataclass(frozen=True)
class Family:
    """A family: its number in `family_masses`, and its number of parameters."""

    number: int
    parameters: int


def fit(family: str, counts: Counts, upper: float, start: Fit | None = None, rough: bool = False) -> Fit:
    """Fit the member of a family that codes the values shortest.

    Args:
        family: a key of `FAMILIES`.
        counts, upper: as in `Fit.bits`; at least one value.
        start: start of the search, such as the fit under a neighbouring cut.
        rough: stop when a step saves less than 1e-7 of the code length, instead of 1e-11.
    """
    middle = (counts.edges[:-1] + counts.edges[1:]) / 2
    n = counts.both.sum()
    unit = math.sqrt(counts.both @ middle**2 / n)  # so that the search does not depend on the scale of the values
    fixed = {"gaussian": 2.0, "laplace": 1.0}.get(family)
    begin = [0.0, 0.0] if start is None else [start.mean / unit, math.log(start.scale / unit)]
    bounds = [(-3.0, 3.0), (math.log(0.02), math.log(30.0))]
    if fixed is None:
        begin.append(math.log(1.5 if start is None else start.shape))
        bounds.append((math.log(0.2), math.log(12.0)))

    def member(point: np.ndarray) -> Fit:
        return Fit(family, float(point[0] * unit), math.exp(point[1]) * unit, fixed or math.exp(point[2]))

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        bits, slopes = member(point).bits_and_slopes(counts, upper)
        slopes[0] *= unit
        if fixed is None:  # the derivative by the shape has no closed form
            moved = point.copy()
            moved[2] += _SLOPE_STEP if point[2] + _SLOPE_STEP <= bounds[2][1] else -_SLOPE_STEP
            slopes = np.append(slopes, (member(moved).bits(counts, upper) - bits) / (moved[2] - point[2]))
        known = math.isfinite(bits) and np.isfinite(slopes).all()
        return (bits / n, slopes / n) if known else (1e9, np.zeros(len(point)))

    return member(minimum_place(loss, begin, bounds, 1e-7 if rough else 1e-11))


def minimum_place(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]], begin: Sequence[float], bounds: Sequence, tolerance: float
) -> np.ndarray:
    """Minimize a smooth function of a few bounded numbers with L-BFGS-B; ``loss`` returns value and gradient."""
    options = {"ftol": tolerance, "gtol": 1e-8}
    start = np.clip(begin, *np.transpose(bounds))
    return optimize.minimize(loss, start, method="L-BFGS-B", jac=True, bounds=bounds, options=options).x


FAMILIES = {
    "gaussian": Family(family_masses.GAUSSIAN, 2),
    "laplace": Family(family_masses.LAPLACE, 2),
    "generalized-gaussian": Family(family_masses.GENERALIZED, 3),
}
"""Name → family."""
