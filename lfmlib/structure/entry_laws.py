"""What the figures of `lfmlib.structure.entries.IID` are on independent entries.

Closed forms, exact or good from some thousand entries on. They are those of Gaussian entries; the few that
depend on the law of the entries, or on how many of them are zero, are replaced by those of the matrix at hand (see
`heavy_lag_laws`, `information_law` and `lfmlib.structure.scales.Scales`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import scipy  # scipy.stats loads at its first use: importing it takes half as long as torch
from scipy import optimize, special

from .dependence import BINS, LAGS
from .likeness import TILES, WIDTH, transpose_law
from .scales import certain, dense_laws

MIN_EXCESS = 0.05
"""Excess kurtosis of a lag's correlation from which on its law is no longer taken to be Gaussian."""


@lru_cache(maxsize=256)
def laws(r: int, c: int) -> dict[str, Any]:
    """Figure → its distribution on r × c independent Gaussian entries, with methods of scipy's frozen ones.

    ``transpose_corr`` is there for square matrices only.
    """
    n, classes = r * c, (BINS - 1) ** 2
    found = {
        "lag_row": scipy.stats.norm(0, 1 / math.sqrt(r * (c - 1))),
        "lag_col": scipy.stats.norm(0, 1 / math.sqrt((r - 1) * c)),
        "lag_diagonal": scipy.stats.norm(0, 1 / math.sqrt((r - 1) * (c - 1))),
        "lag_max": _LargestLag(r, c, range(1, LAGS + 1)),
        "lag_one": _Upper(_LargestLag(r, c, (1,)), 0.0),
        "ljung_box": scipy.stats.chi(LAGS, scale=1 / math.sqrt(n * LAGS)),
        "runs_z": scipy.stats.norm(),
        "mutual_information": information_law(classes, r * (c - 1)),
        "row_corr": _correlation_law(r, c),
        "col_corr": _correlation_law(c, r),
        **dense_laws(r, c),
    }
    tiles, sides = min((r // min(r, WIDTH)) * (c // min(c, WIDTH)), TILES), (min(r, WIDTH), min(c, WIDTH))
    for name, (of, along) in {"row_alike_64": sides, "col_alike_64": sides[::-1]}.items():
        _, spread = _correlation_law(of, along).args
        found[name] = scipy.stats.norm(1.0, spread * (along - 1) / math.sqrt(tiles))
    return found | ({"transpose_corr": transpose_law(r)} if r == c else {})


class _LargestLag:
    """Distribution of the largest absolute correlation over directions and lags, which are independent Gaussians."""

    def __init__(self, r: int, c: int, lags: Iterable[int], freedom: float = math.inf):
        k = np.array(lags)
        if freedom < math.inf:  # Student's t of unit variance in place of the Gaussian
            scale = math.sqrt(freedom / (freedom - 2))
            self.within = lambda z: 1 - 2 * special.stdtr(freedom, -z * scale)
            self.beyond = lambda z: 2 * special.stdtr(freedom, -z * scale)
        else:
            self.within, self.beyond = (
                (lambda z: special.erf(z / math.sqrt(2))),
                (lambda z: special.erfc(z / math.sqrt(2))),
            )
        self.roots = np.sqrt(np.concatenate([r * (c - k), (r - k) * c, (r - k) * (c - k)]))

    def cdf(self, x: float) -> float:
        return math.exp(np.log(self.within(max(x, 1e-300) * self.roots)).sum())

    def sf(self, x: float) -> float:
        return -math.expm1(np.log1p(-self.beyond(max(x, 1e-300) * self.roots)).sum())

    def ppf(self, levels) -> list[float]:
        return [optimize.brentq(lambda x, q=q: self.cdf(x) - q, 1e-9, 1.0) for q in levels]


class _Upper:
    """A law of a figure that is never too small: its central 95 % begins at the least value."""

    def __init__(self, law: Any, least: float):
        self.law, self.least = law, least

    def cdf(self, x: float) -> float:
        return 1.0

    def sf(self, x: float) -> float:
        return float(self.law.sf(x))

    def ppf(self, levels) -> list[float]:
        return [self.least, float(self.law.ppf(levels)[-1])]


def heavy_lag_laws(r: int, c: int, kurtosis: float) -> dict[str, Any]:
    """The laws of lags where a few products of large entries, or of the few other than zero, make up a correlation.

    Its variance is that of Gaussian entries whatever their law. Its excess kurtosis is (b² - 3) / n, with b the
    kurtosis of the entries, and a Student's t has it; the sum of squares of several is taken to be a gamma variable.

    Args:
        r, c: shape.
        kurtosis: b, 3 of Gaussian entries.

    Returns:
        Empty where that excess is small.
    """
    n = r * c
    excess = (kurtosis**2 - 3) / n
    if excess < MIN_EXCESS:
        return {}
    freedom = 4 + 6 / excess
    unit = math.sqrt((freedom - 2) / freedom)
    pairs = {"lag_row": r * (c - 1), "lag_col": (r - 1) * c, "lag_diagonal": (r - 1) * (c - 1)}
    found = {name: scipy.stats.t(freedom, 0, unit / math.sqrt(m)) for name, m in pairs.items()}
    return found | {
        "lag_max": _Upper(_LargestLag(r, c, range(1, LAGS + 1), freedom), 0.0),
        "lag_one": _Upper(_LargestLag(r, c, (1,), freedom), 0.0),
        "ljung_box": scipy.stats.gengamma(LAGS / (2 + excess), 2, 0, math.sqrt((2 + excess) / (n * LAGS))),
    }


def information_law(freedom: int, pairs: int) -> Any:
    """Distribution of the mutual information of independent variables, in bits, less its bias: of χ² from so many
    degrees of freedom and pairs of values."""
    if not freedom:
        return certain(0.0)
    unit = 1 / (2 * pairs * math.log(2))
    law = scipy.stats.chi2(freedom, -freedom * unit, unit)
    # of few classes it has few values, and the least is a frequent one
    return law if freedom == (BINS - 1) ** 2 else _Upper(law, -freedom * unit)


def _correlation_law(r: int, c: int) -> Any:
    """Distribution of the mean squared correlation of r independent rows of c Gaussian entries.

    Squared correlations are Beta(1/2, (c - 2)/2) and pairwise independent; their mean is taken to be Gaussian.
    """
    variance = 2 * (c - 2) / ((c - 1) ** 2 * (c + 1))
    return scipy.stats.norm(1 / (c - 1), math.sqrt(variance / (r * (r - 1) / 2)))
