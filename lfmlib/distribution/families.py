"""Symmetric families of densities, cut to a range of magnitudes and fitted to counts.

A family has a centre μ, a scale and, for the generalized Gaussian, a shape. What lies between two magnitudes above zero
has the mass S(a - μ) - S(b - μ), with S the family's survival function; what lies between them below zero has, the
family being symmetric, the same with -μ. So only log S is needed, which stays finite far out in the tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

FLOOR = -1e8
"""In the place of log 0."""
_LN2 = math.log(2)
_STEP = 1e-6  # of slopes


@dataclass(frozen=True, eq=False)
class Counts:
    """How many values lie in cells of magnitude.

    Attributes:
        edges: float64 ``(m + 1,)``, rising magnitudes; the first is where the cells begin.
        negative, positive: ``(m,)`` numbers of values below and above zero.
        ends: ``(m,)``, upper bound of the values in each cell: its edge, or less, if that is known.
    """

    edges: np.ndarray
    negative: np.ndarray
    positive: np.ndarray
    ends: np.ndarray

    @property
    def both(self) -> np.ndarray:
        """Numbers of values of either sign."""
        return self.negative + self.positive

    def upto(self, stop: int) -> Counts:
        """The first cells, the last of them cut where its values end."""
        edges = np.append(self.edges[:stop], self.ends[stop - 1])
        return Counts(edges, self.negative[:stop], self.positive[:stop], self.ends[:stop])

    def bits(self, log_masses: np.ndarray) -> float:
        """Bits it takes to code all the values.

        Args:
            log_masses: ``(2, m)``, natural logarithms of what a law gives to the cells, above zero and below.
        """
        return -float(self.positive @ log_masses[0] + self.negative @ log_masses[1]) / _LN2

    def halves(self, rng: np.random.Generator) -> tuple[Counts, Counts]:
        """Every value goes to one of two halves by the toss of a coin."""
        taken = [rng.binomial(side, 0.5) for side in (self.negative, self.positive)]
        rest = self.negative - taken[0], self.positive - taken[1]
        return Counts(self.edges, *taken, self.ends), Counts(self.edges, *rest, self.ends)


@dataclass(frozen=True)
class Fit:
    """A member of a family.

    Attributes:
        family: a key of `FAMILIES`.
        mean: its centre.
        scale: standard deviation of a Gaussian, mean absolute deviation of a Laplace, and in general the s of
            exp(-abs((x - mean) / s)^shape), but for a Gaussian, whose s is √2 standard deviations.
        shape: of a generalized Gaussian; 2 for the Gaussian, 1 for Laplace.
    """

    family: str
    mean: float
    scale: float
    shape: float

    @property
    def std(self) -> float:
        """Standard deviation before any cut."""
        if self.family == "gaussian":
            return self.scale
        return self.scale * math.exp((special.gammaln(3 / self.shape) - special.gammaln(1 / self.shape)) / 2)

    def log_masses(self, edges: np.ndarray, upper: float) -> np.ndarray:
        """What this law, cut to magnitudes between the first edge and ``upper``, gives to cells of magnitude.

        Args:
            edges: ``(m + 1,)``, rising.
            upper: where it is cut, or math.inf.

        Returns:
            ``(2, m)``, natural logarithms: of values above zero, and below; -1e8 beyond ``upper``.
        """
        cells, whole = self._masses(self._standard(edges, upper))
        return _given(cells, whole)

    def bits(self, counts: Counts, upper: float) -> float:
        """Bits it takes to code all the values with this law, cut as in `log_masses`; none is beyond ``upper``."""
        return counts.bits(self.log_masses(counts.edges, upper))

    def bits_and_slopes(self, counts: Counts, upper: float) -> tuple[float, np.ndarray]:
        """The same bits, and their derivatives ``(2,)`` by the mean and by the logarithm of the scale.

        With the density f = -S', a cell's mass changes by f dz at its outer edge less f dz at its inner one.
        """
        z = self._standard(counts.edges, upper)
        cells, whole = self._masses(z)
        bits = counts.bits(_given(cells, whole))
        if whole <= FLOOR / 2:  # elsewhere, and no step leads from here
            return bits, np.zeros(2)
        towards = np.broadcast_to(np.array([[-1.0], [1.0]]) / self.scale, z.shape)
        moved = np.stack([towards, -np.where(np.isinf(z), 0.0, z)])
        log_density = FAMILIES[self.family].log_density(z, self.shape)
        sides = np.stack([counts.positive, counts.negative])
        seen = np.where(sides > 0, cells, np.inf)  # so that empty cells have no say
        with np.errstate(over="ignore", invalid="ignore"):  # slopes without bound, where values are out of reach
            inner, outer = np.exp(log_density[:, :-2] - seen), np.exp(log_density[:, 1:-1] - seen)
            by_cell = np.sum(sides * (outer * moved[..., 1:-1] - inner * moved[..., :-2]), axis=(1, 2))
            first, last = np.exp(log_density[:, 0] - whole), np.exp(log_density[:, -1] - whole)
            by_whole = np.sum(last * moved[..., -1] - first * moved[..., 0], axis=1)
            return bits, (counts.both.sum() * by_whole - by_cell) / _LN2

    def _standard(self, edges: np.ndarray, upper: float) -> np.ndarray:
        """``(2, m + 2)``: edges of cells and the place of the cut in units of this law, above zero and below."""
        upper = max(upper, edges[0])
        edges = np.append(np.minimum(edges, upper), upper)
        return np.stack([edges - self.mean, edges + self.mean]) / self.scale

    def _masses(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        """Logarithms of what the uncut law gives to the cells, and to all that the cut leaves."""
        survival = FAMILIES[self.family].log_survival(z, self.shape)
        whole = np.logaddexp(*_log_difference(survival[:, 0], survival[:, -1]))
        return _log_difference(survival[:, :-2], survival[:, 1:-1]), float(whole)


@dataclass(frozen=True)
class Family:
    """A family: logs of its survival function and density at z = (x - mean) / scale, and how many parameters it has."""

    log_survival: Callable[[np.ndarray, float], np.ndarray]
    log_density: Callable[[np.ndarray, float], np.ndarray]
    parameters: int


def fit(family: str, counts: Counts, upper: float, start: Fit | None = None, rough: bool = False) -> Fit:
    """The member of a family that codes the values shortest, under a given cut.

    Args:
        family: a key of `FAMILIES`.
        counts, upper: as in `Fit.bits`; at least one value.
        start: where to begin, such as the fit under a neighbouring cut.
        rough: stop where another step saves less than a ten-millionth of the code, instead of a hundred-billionth.
    """
    middle = (counts.edges[:-1] + counts.edges[1:]) / 2
    n = counts.both.sum()
    unit = math.sqrt(counts.both @ middle**2 / n)  # of the values, so that the search is the same at every scale
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
        if fixed is None:  # a slope by the shape has no closed form
            moved = point.copy()
            moved[2] += _STEP if point[2] + _STEP <= bounds[2][1] else -_STEP
            slopes = np.append(slopes, (member(moved).bits(counts, upper) - bits) / (moved[2] - point[2]))
        known = math.isfinite(bits) and np.isfinite(slopes).all()
        return (bits / n, slopes / n) if known else (1e9, np.zeros(len(point)))

    return member(least(loss, begin, bounds, 1e-7 if rough else 1e-11))


def least(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]], begin: Sequence[float], bounds: Sequence, tolerance: float
) -> np.ndarray:
    """Where a smooth function of a few bounded numbers, which returns its slopes too, is smallest, by L-BFGS-B."""
    options = {"ftol": tolerance, "gtol": 1e-8}
    start = np.clip(begin, *np.transpose(bounds))
    return optimize.minimize(loss, start, method="L-BFGS-B", jac=True, bounds=bounds, options=options).x


def _given(cells: np.ndarray, whole: float) -> np.ndarray:
    """Logarithms of the cells' masses where the law is cut to what has the mass ``whole``."""
    return cells - whole if whole > FLOOR / 2 else np.full_like(cells, FLOOR)  # a law that is elsewhere


def _log_difference(inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """log(exp(inner) - exp(outer)), for inner > outer; far below, where they are alike, close to -inf but finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(inner + np.log(-np.expm1(np.minimum(outer - inner, 0.0))), FLOOR)


def _gaussian(z: np.ndarray, shape: float) -> np.ndarray:
    return special.log_ndtr(-z)


def _laplace(z: np.ndarray, shape: float) -> np.ndarray:
    return np.where(z > 0, -_LN2 - z, np.log1p(-0.5 * np.exp(np.minimum(z, 0.0))))


def _gaussian_density(z: np.ndarray, shape: float) -> np.ndarray:
    return -z * z / 2 - math.log(2 * math.pi) / 2


def _laplace_density(z: np.ndarray, shape: float) -> np.ndarray:
    return -_LN2 - np.abs(z)


def _generalized_density(z: np.ndarray, shape: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        return math.log(shape / 2) - special.gammaln(1 / shape) - np.abs(z) ** shape


def _generalized(z: np.ndarray, shape: float) -> np.ndarray:
    """Half the regularized upper incomplete gamma function of abs(z)^shape, and its asymptote where that underflows."""
    a = 1 / shape
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x = np.abs(z) ** shape
        near = np.log(0.5 * special.gammaincc(a, x))
        far = -_LN2 - x + (a - 1) * np.log(x) - special.gammaln(a)
    tail = np.where((x < 600) | np.isinf(x), near, far)
    return np.where(z > 0, tail, np.log1p(-np.exp(np.minimum(tail, -_LN2))))


FAMILIES = {
    "gaussian": Family(_gaussian, _gaussian_density, 2),
    "laplace": Family(_laplace, _laplace_density, 2),
    "generalized-gaussian": Family(_generalized, _generalized_density, 3),
}
"""Name → family."""
