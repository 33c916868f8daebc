"""Distances of a distribution from the Gaussian of its own mean and standard deviation, and their nulls.

At ten million weights every test of normality rejects, so effect sizes lead and not p-values, first of all `kl_bits`,
the bits per weight lost by coding with the fitted Gaussian. Every number comes with its null, the central 95 % on
Gaussian noise of the same size and storage type. `asymmetry` is the distance of a distribution from its mirror image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from . import like_noise
from .bits import kl_and_tail_bits, tells_shape
from .sketch import Sketch


@dataclass(frozen=True)
class Normality:
    """Distances of a distribution from N(mean, std²), and shape figures that say how it differs.

    Where the cells of a float32 are too wide about the mean, all but ks, its bounds and exponent_entropy are NaN (see
    `lfmlib.distribution.bits.tells_shape`).

    Attributes:
        ks: Kolmogorov–Smirnov distance. Exact for 8- and 16-bit types; for float32 the largest distance at cell
            edges, a lower bound.
        ks_lower, ks_upper: certified bounds on the KS distance of the values themselves.
        kl_bits: Kullback–Leibler divergence in bits per weight, over cells at least 0.1 std wide (whole rounding cells
            with their true edges) from -6 to 6 std and two open tail cells, less the bias (occupied - 3) / (2 n ln 2)
            of the plug-in estimate (Miller 1955). Noise scatters about 0, so it can be slightly negative.
        tail_bits: bits per weight lost by coding *inside* the two open tails; by the chain rule the two losses add up.
        wasserstein: Wasserstein-1 distance in units of the standard deviation.
        skewness, excess_kurtosis: population figures, as scipy.
        gg_shape: maximum-likelihood shape of a generalized Gaussian about the mean, exp(-abs(x)^shape): 2 Gaussian,
            1 Laplace; capped to [0.1, 50].
        weibull_k: slope of the Weibull plot of abs(w) over its middle 80 %, weighted by counts, zeros left out (Ding
            2026, arXiv 2605.18898, whose half-normal anchor is 1.2054).
        exponent_entropy: entropy in bits of the exponent field of the storage type.
        asymmetry: Kolmogorov–Smirnov distance from the mirror image about the mean (see
            `lfmlib.distribution.distances`).
        null: for each of the figures above, the central 95 % that Gaussian noise of the same size and type gives, in
            float8 and among subnormal numbers of 16 bits also of the same mean and standard deviation (see
            `lfmlib.distribution.like_noise`), as ``(low, high)``; empty below 64 values, or if all are equal.

    Examples:
        >>> found = lfmlib.normality(np.random.default_rng(0).laplace(size=65536))
        >>> round(found.gg_shape, 1), round(found.excess_kurtosis, 1)
        (1.0, 3.1)
        >>> low, high = found.null["gg_shape"]
        >>> low < 2 < high
        True
    """

    ks: float
    ks_lower: float
    ks_upper: float
    kl_bits: float
    tail_bits: float
    wasserstein: float
    skewness: float
    excess_kurtosis: float
    gg_shape: float
    weibull_k: float
    exponent_entropy: float
    asymmetry: float
    null: Mapping[str, tuple[float, float]]


def normality(x) -> Normality:
    """Measure how far ``x`` is from the Gaussian of its own mean and standard deviation.

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes.

    Returns:
        A `Normality`; every distance is NaN without values, or if all are equal.

    Examples:
        >>> noise = lfmlib.normality(np.random.default_rng(0).standard_normal(65536))
        >>> low, high = noise.null["kl_bits"]
        >>> low < noise.kl_bits < high
        True
        >>> laplace = lfmlib.normality(np.random.default_rng(0).laplace(size=65536))
        >>> round(laplace.kl_bits, 2)
        0.11
    """
    sketch = Sketch.of(x)
    return Normality(**measure(sketch), null=null(sketch))


def null(x, name: str = "") -> dict[str, tuple[float, float]]:
    """Central 95 % of the figures of `normality` and of ``mean_ratio`` on noise like ``x``, figure → (low, high).

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes.
        name: of the tensor, which seeds what must be drawn (see `lfmlib.distribution.like_noise`).
    """
    found = like_noise.null(Sketch.of(x), measure, name)
    return {figure: (low, high) for figure, (low, _, high) in found.items()}


def measure(x) -> dict[str, float]:
    """The figures of `normality`, name → value, without their nulls.

    Args:
        x: values or their sketch, as `normality` takes them.

    Examples:
        >>> figures = lfmlib.measure(np.random.default_rng(0).uniform(size=65536))
        >>> round(figures["kl_bits"], 2), round(figures["excess_kurtosis"], 1)
        (0.22, -1.2)
    """
    sketch = Sketch.of(x)
    names = ("skewness", "excess_kurtosis", "weibull_k", "asymmetry", "kl_bits", "tail_bits", "wasserstein", "gg_shape")
    figures: dict[str, float] = dict.fromkeys((*names, "ks", "ks_lower", "ks_upper"), math.nan)
    figures["exponent_entropy"] = _exponent_entropy(sketch)
    if not sketch.count or sketch.std == 0:
        return figures | {"skewness": sketch.skewness, "excess_kurtosis": sketch.excess_kurtosis}
    ks_lower, ks_upper = _ks_bounds(sketch)
    figures |= {"ks": ks_lower, "ks_lower": ks_lower, "ks_upper": ks_upper}
    if not tells_shape(sketch):
        return figures
    kl_bits, tail_bits = kl_and_tail_bits(sketch)
    return figures | {
        "skewness": sketch.skewness,
        "excess_kurtosis": sketch.excess_kurtosis,
        "weibull_k": _weibull_k(sketch),
        "asymmetry": asymmetry(sketch),
        "kl_bits": kl_bits,
        "tail_bits": tail_bits,
        "wasserstein": _wasserstein(sketch),
        "gg_shape": _gg_shape(sketch),
    }


def qq_r2(x) -> float:
    """R² of the Q–Q plot against the Gaussian: the share of the variance that a rescaled Gaussian accounts for.

    The squared covariance of the sorted values, in standard deviations, with the Gaussian's quantiles, each averaged
    over the value's own share of the distribution; 2 (1 - √R²) is the squared Wasserstein-2 distance. Noise of 4,096
    values has 0.999.

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes.

    Returns:
        Between 0 and 1; NaN without values, or if all are equal.

    Examples:
        >>> from lfmlib.distribution.distances import qq_r2
        >>> rng = np.random.default_rng(0)
        >>> round(qq_r2(rng.standard_normal(65536)), 3), round(qq_r2(rng.laplace(size=65536)), 2)
        (1.0, 0.96)
    """
    sketch = Sketch.of(x)
    if not sketch.count or sketch.std == 0:
        return math.nan
    cells = sketch.cells
    upto = np.cumsum(cells.count) / sketch.count
    density = np.exp(-(special.ndtri(upto[:-1]) ** 2) / 2) / math.sqrt(2 * math.pi)
    scores = -np.diff(density, prepend=0.0, append=0.0)  # of each cell, times its share
    return float((scores @ cells.value / sketch.std) ** 2)


def _ks_bounds(sketch: Sketch) -> tuple[float, float]:
    """Certified lower and upper bound on the KS distance; equal if every cell is one value."""
    cells, n = sketch.cells, sketch.count
    upto = np.cumsum(cells.count) / n
    below = upto - cells.count / n
    if not sketch.grid.wide:
        model = special.ndtr((cells.value - sketch.mean) / sketch.std)
        exact = float(max(np.max(upto - model), np.max(model - below)))
        return exact, exact
    lower = special.ndtr((np.maximum(cells.lower, sketch.min) - sketch.mean) / sketch.std)
    upper = special.ndtr((np.minimum(cells.upper, sketch.max) - sketch.mean) / sketch.std)
    # the empirical function is known left of a cell's lower and right of its upper edge ...
    certain = max(np.max(np.abs(below - lower)), np.max(np.abs(upto - upper)))
    # ... and inside the cell both functions rise between their values there
    possible = max(np.max(upto - lower), np.max(upper - below))
    return float(certain), float(max(certain, possible))


def _wasserstein(sketch: Sketch) -> float:
    """Area between the empirical and the Gaussian distribution function, in std, in closed form between steps."""
    cells, n = sketch.cells, sketch.count
    upto = np.cumsum(cells.count) / n
    if sketch.grid.wide:  # the empirical function is linear inside a cell and flat between cells
        lower = (np.maximum(cells.lower, sketch.min) - sketch.mean) / sketch.std
        upper = (np.minimum(cells.upper, sketch.max) - sketch.mean) / sketch.std
        at_lower = (upto - cells.count / n) - special.ndtr(lower)
        at_upper = upto - special.ndtr(upper)
        total = np.abs(at_lower) + np.abs(at_upper)
        with np.errstate(invalid="ignore", divide="ignore"):
            crossed = (at_lower**2 + at_upper**2) / (2 * total)
        area = np.where(at_lower * at_upper >= 0, total / 2, np.where(total > 0, crossed, 0))
        inside = np.sum((upper - lower) * area)
    else:
        lower = upper = (cells.value - sketch.mean) / sketch.std
        inside = 0.0
    a, b, level = upper[:-1], lower[1:], upto[:-1]
    cross = np.clip(special.ndtri(level), a, b)  # where the Gaussian's function crosses the flat step
    middle = _integrated_cdf(cross)
    between = np.sum(level * (2 * cross - a - b) + _integrated_cdf(a) + _integrated_cdf(b) - 2 * middle)
    return float(inside + between + _integrated_cdf(lower[0]) + _integrated_cdf(-upper[-1]))


def _integrated_cdf(z):
    """Integral of the standard Gaussian distribution function up to z."""
    return z * special.ndtr(z) + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _gg_shape(sketch: Sketch) -> float:
    """Maximum-likelihood shape of a generalized Gaussian centred at the mean, the scale profiled out."""
    cells = sketch.cells
    away = np.abs(cells.value - sketch.mean) / sketch.std
    count = cells.count[away > 0]
    log_away = np.log(away[away > 0])
    n = sketch.count

    def loss(log_shape: float) -> float:
        shape = math.exp(log_shape)
        power = np.dot(count, np.exp(shape * log_away)) / n
        if not 0 < power < math.inf:
            return math.inf
        return math.log(shape * power) / shape + 1 / shape + special.gammaln(1 / shape) - math.log(shape / 2)

    with np.errstate(over="ignore"):
        best = optimize.minimize_scalar(
            loss, bounds=(math.log(0.1), math.log(50)), method="bounded", options={"xatol": 1e-7}
        )
    return math.exp(best.x)


def _weibull_k(sketch: Sketch) -> float:
    """Weighted least-squares slope of log(-log(1 - F)) on log abs(w), over F in [0.1, 0.9]."""
    half = sketch.grid.patterns // 2
    magnitude = sketch.patterns[:half] + sketch.patterns[half:]
    magnitude[0] -= sketch.zeros
    total = magnitude.sum()
    kept = np.flatnonzero(magnitude > 0)
    if total < 100:
        return math.nan
    count = magnitude[kept]
    middle = (np.cumsum(count) - count / 2) / total
    body = (middle >= 0.1) & (middle <= 0.9)
    if body.sum() < 5:
        return math.nan
    x, y, weight = sketch.grid.log_magnitude[kept[body]], np.log(-np.log1p(-middle[body])), count[body]
    dx = x - np.average(x, weights=weight)
    return float(np.sum(weight * dx * y) / np.sum(weight * dx * dx))


def _exponent_entropy(sketch: Sketch) -> float:
    if not sketch.count:
        return math.nan
    share = sketch.patterns.reshape(2, sketch.grid.exponents, -1).sum(axis=(0, 2)) / sketch.count
    return float(special.entr(share).sum() / math.log(2))


def asymmetry(x) -> float:
    """Kolmogorov–Smirnov distance between W - μ and μ - W, with μ the mean of W: 0 for a symmetric distribution.

    Exact zeros are left out: if many weights were pruned to zero, they would be compared with their mirror image at 2μ.
    Exact for 8- and 16-bit types. For float32 it is the largest distance at cell edges and at their mirror images, with
    values spread evenly inside cells, as in `Sketch.cdf`: off by at most the share of the largest cell, and by far less
    for a smooth density. Noise has about 0.8 / √n, or in bfloat16 about 0.002 from rounding if that is more.

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes.

    Returns:
        Between 0 and 1; NaN without values other than zero, or if all are equal.

    Examples:
        >>> from lfmlib.distribution.distances import asymmetry
        >>> rng = np.random.default_rng(0)
        >>> asymmetry(rng.standard_normal(65536)) < 0.01
        True
        >>> round(asymmetry(rng.exponential(size=65536)), 2)
        0.27
    """
    sketch = Sketch.of(x)
    if not sketch.count or sketch.std == 0:
        return math.nan
    cells = sketch.cells
    wide, order = sketch.grid.wide, sketch.grid.order
    others = cells.count - sketch.sums[4, order[cells.index]] if wide else np.where(cells.value == 0, 0, cells.count)
    kept = others > 0  # the cells of a float32 that touch zero hold subnormals as well
    count, lower, upper, value = (part[kept] for part in (others, cells.lower, cells.upper, cells.value))
    n, upto = int(count.sum()), np.cumsum(count)
    centre = sketch.mean * (sketch.count / n)
    if not wide:
        # With v the values, the difference of the two functions changes only at v - μ and at μ - v. It is
        # #{w ≤ v} - #{w ≥ 2μ - v} after the former, and #{w ≤ 2μ - v} - #{w ≥ v} after the latter.
        below, mirror = np.concatenate([[0], upto]), 2 * centre - value
        first = upto - (n - below[np.searchsorted(value, mirror, side="left")])
        second = below[np.searchsorted(value, mirror, side="right")] - (n - below[:-1])
        return float(max(np.abs(first).max(), np.abs(second).max()) / n)
    knots = np.stack([np.maximum(lower, sketch.min), np.minimum(upper, sketch.max)], axis=1).ravel()
    shares = np.stack([upto - count, upto], axis=1).ravel() / n
    edges = np.concatenate([lower, upper])
    here, there = (np.interp(at, knots, shares, left=0.0, right=1.0) for at in (edges, 2 * centre - edges))
    return float(np.abs(here + there - 1).max())
