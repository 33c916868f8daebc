"""Singular values of noise: the laws of Marchenko–Pastur and Tracy–Widom, and the nulls of `Spectrum` from them.

The spectrum of independent entries of one variance is known: its bulk follows the law of Marchenko and Pastur (1967),
and the largest singular value lies at the edge of the bulk, with fluctuations that follow the Tracy–Widom law. p is the
length of the smaller side of a matrix, n that of the larger; eigenvalues are those of W Wᵀ / n in units of the entries'
variance. The laws are implemented here since the one library that has them, scikit-rmt, requires NumPy below 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

import numpy as np
from scipy import linalg, special

TRACY_WIDOM = {0.025: -3.5158536, 0.975: 1.4537714, 0.99: 2.0234493}
"""Quantiles of the Tracy–Widom law for real matrices: roots of its Fredholm determinant, evaluated as in Bornemann
(2010, Math. Comp. 79). Johnstone (2001) prints 2.02 at 99 %."""
MAX_SIMULATED_SIDE = 128
"""Smaller side up to which the null is simulated at the matrix's own size."""
_TW_MEAN, _TW_VAR = -1.2065336, 1.6077810
_KS_GROWTH = np.array([0.38, 0.42])  # slopes of both ends of p · ks in log(p), measured from p = 128 to 1000


def threshold(rows: int, columns: int, quantile: float = 0.99, *, known: bool = False) -> float:
    """Quantile of the largest singular value of noise, in units of the entries' standard deviation.

    Its square is centred at (√(r - ½) + √(c - ½))² and scaled as in Ma (2012, Bernoulli 18), the refinement of
    Johnstone (2001, Ann. Stat. 29) whose error falls as p^(-2/3) and which is symmetric in rows and columns. If the
    standard deviation is estimated from the same entries, as in `lfmlib.spectrum`, the largest value scatters slightly
    less (Nadler 2011, J. Multivariate Anal. 102). Of 20,000 noise matrices of sides 64 to 512, 1.1 % lay beyond the
    99 % point with this correction, and 0.6 to 0.9 % without.

    Args:
        rows, columns: shape of the matrix.
        quantile: a key of `TRACY_WIDOM`.
        known: the standard deviation is known, not estimated.

    Examples:
        >>> from lfmlib.structure.random_matrices import threshold
        >>> round(threshold(256, 512) / (256**0.5 + 512**0.5), 3)
        1.011
    """
    centre, scale = edge_law(rows, columns)
    left = 1.0 if known else max(1 - 2 / (rows * columns) * (centre / scale) ** 2 / _TW_VAR, 0.0)
    square = centre + scale * (_TW_MEAN + math.sqrt(left) * (TRACY_WIDOM[quantile] - _TW_MEAN))
    return math.sqrt(max(square, 0.0))  # of matrices of a few entries neither law means anything


def mp_cdf(x, ratio: float) -> np.ndarray:
    """Distribution function of the Marchenko–Pastur law, in closed form.

    Args:
        x: eigenvalues s² / (n sigma²), any shape.
        ratio: p / n, above 0 and at most 1.

    Returns:
        float64 of the shape of x.

    Examples:
        >>> from lfmlib.structure.random_matrices import mp_cdf, support
        >>> low, high = support(0.5)
        >>> [round(float(share), 2) for share in mp_cdf([low, 1, high], 0.5)]
        [0.0, 0.58, 1.0]
    """
    low, high = support(ratio)
    x = np.clip(x, low, high)
    arc = np.sqrt((high - x) * (x - low))  # 0 at both ends of the support, hence arctan2
    turns = (1 + ratio) * np.arctan2(low + high - 2 * x, 2 * arc)
    turns -= (1 - ratio) * np.arctan2(2 * low * high - (low + high) * x, 2 * (1 - ratio) * arc)
    return np.clip(0.5 + (arc - turns) / (2 * np.pi * ratio), 0, 1)


def mp_pdf(x, ratio: float) -> np.ndarray:
    """Density of the Marchenko–Pastur law; arguments as in `mp_cdf`. Unbounded at 0 for square matrices."""
    low, high = support(ratio)
    x = np.asarray(x, np.float64)
    inside = (x > low) & (x < high)
    at = np.where(inside, x, 1)
    return np.where(inside, np.sqrt(np.abs((high - at) * (at - low))) / (2 * np.pi * ratio * at), 0)


def support(ratio: float) -> tuple[float, float]:
    """Lower and upper end of the support of the Marchenko–Pastur law."""
    return (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2


def spiked(strength, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a direction planted in noise leaves in the singular values and vectors, in the limit of large matrices.

    The matrix is strength · u vᵀ plus noise of unit variance; u and v have length 1. Up to a strength of (r c)^¼ its
    largest singular value stays at the edge √r + √c, and the vectors that belong to it are unrelated to u and v.
    Beyond, the value leaves the edge and the vectors turn towards u and v (Benaych-Georges and Nadakuditi 2012, J.
    Multivariate Anal. 111, section 3.1).

    Args:
        strength: singular value of the planted direction in units of the noise's standard deviation, any shape.
        rows, columns: shape of the matrix.

    Returns:
        Largest singular value, in the same units; squared cosine between u and the left vector; the same of v and the
        right one.

    Examples:
        >>> from lfmlib.structure.random_matrices import spiked
        >>> [[round(float(one), 2) for one in spiked(strength, 400, 400)] for strength in (20, 40)]
        [[40.0, 0.0, 0.0], [50.0, 0.75, 0.75]]
    """
    square = np.asarray(strength, np.float64) ** 2
    seen = np.maximum(square**2 - rows * columns, 0)
    at = np.maximum(square, math.sqrt(rows * columns))
    value = np.sqrt((at + rows) * (at + columns) / at)
    return value, seen / (at * (at + rows)), seen / (at * (at + columns))


def edge_law(p: int, n: int) -> tuple[float, float]:
    """Centre and scale of the largest eigenvalue of W Wᵀ for entries of unit variance (Ma 2012)."""
    a, b = math.sqrt(p - 0.5), math.sqrt(n - 0.5)
    return (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)


def ks_distance(values: np.ndarray, ratio: float) -> float:
    """Kolmogorov–Smirnov distance of ascending eigenvalues s² / (n sigma²) to the Marchenko–Pastur law."""
    law, p = mp_cdf(values, ratio), len(values)
    return float(max(np.max(np.arange(1, p + 1) / p - law), np.max(law - np.arange(p) / p)))


def effective_rank(values: np.ndarray) -> float:
    """Exponential of the entropy of the values' shares of their sum."""
    return math.exp(special.entr(values / values.sum()).sum())


@lru_cache(maxsize=1024)
def null(p: int, n: int) -> Mapping[str, tuple[float, float]]:
    """Central 95 % of the figures of `Spectrum` on p × n noise, figure → (low, high).

    Up to p = `MAX_SIMULATED_SIDE` noise of that shape is simulated. Beyond, the largest singular value is Tracy and
    Widom's, and the others are extrapolated from a table for p = `MAX_SIMULATED_SIDE`: the ends of p · ks grow with
    log(p); effective_rank has the same scatter about p exp(-p / 2n) at every size, which below the smallest tabulated
    ratio p / n is in proportion to the ratio.
    """
    if p > MAX_SIMULATED_SIDE:
        ratios, *columns = _table()
        at = max(math.log(p / n), ratios[0])
        bounds = np.array([np.interp(at, ratios, column) for column in columns])
        ks, rank = bounds[:2] + _KS_GROWTH * math.log(p / MAX_SIMULATED_SIDE), bounds[2:] * (p / n) / math.exp(at)
        top = np.array([threshold(p, n, quantile) ** 2 for quantile in (0.025, 0.975)]) / n
    else:
        ks, rank, top = np.quantile(simulate(p, n), [0.025, 0.975], axis=0).T
    return {
        "outliers": (0, 0),  # 99 % of noise has none
        "outlier_share": (0.0, 0.0),
        "outlier_variance": (0.0, 0.0),
        "beyond_variance": (0.0, 0.0),
        "ks": as_floats(ks / p),
        "top_ratio": as_floats(np.sqrt(n * top) / (math.sqrt(p) + math.sqrt(n))),
        "stable_rank": as_floats(p / top[::-1]),
        "effective_rank": as_floats(p * math.exp(-p / n / 2) + rank),
    }


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """Rows log(p / n), ascending; low and high end of p · ks; low and high end of effective_rank - p exp(-p / 2n).

    For p = `MAX_SIMULATED_SIDE`; written by ``python -m lfmlib.structure.calibrate``.
    """
    with (resources.files("lfmlib.structure") / "nulls_spectrum.csv").open(encoding="utf-8") as file:
        ratio, *columns = np.loadtxt(file, delimiter=",", skiprows=1).T
    return np.array([np.log(ratio), *columns])


@lru_cache(maxsize=256)
def simulate(p: int, n: int, draws: int = 6000) -> np.ndarray:
    """p · ks, effective_rank - p exp(-p / 2n), and largest eigenvalue of p × n noise matrices, ``(draws, 3)``."""
    figures = []
    for diagonal, beside in zip(*tridiagonal_noise(p, n, draws), strict=True):
        values = np.maximum(linalg.eigvalsh_tridiagonal(diagonal, beside, lapack_driver="sterf"), 0)
        values *= p / values.sum()
        figures.append((p * ks_distance(values, p / n), effective_rank(values) - p * math.exp(-p / n / 2), values[-1]))
    return np.array(figures)


def tridiagonal_noise(p: int, n: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the tridiagonal form of W Wᵀ / n for p × n noise W (Dumitriu and Edelman 2002).

    Returns:
        Diagonals ``(draws, p)`` and off-diagonals ``(draws, p - 1)``.
    """
    rng = np.random.default_rng(0)
    a = rng.chisquare(n - np.arange(p), (draws, p)) / n
    b = rng.chisquare(p - 1 - np.arange(p - 1), (draws, p - 1)) / n
    diagonal = a.copy()
    diagonal[:, 1:] += b
    return diagonal, np.sqrt(a[:, :-1] * b)


def as_floats(pair: np.ndarray) -> tuple[float, float]:
    """A pair of NumPy numbers as Python floats."""
    return float(pair[0]), float(pair[1])
