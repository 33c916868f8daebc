"""The law of what pruning keeps: which family codes it shortest, where it is cut, and which values are outliers.

Si et al. (2025) say of optimal weights that they are sparse, and that the sparse values are “a truncated Gaussian
distribution and a few outliers”. Here pruning takes the smallest magnitudes away, and what it keeps is coded with
three families, Gaussian, Laplace and generalized Gaussian, each in four ways:

    open                whatever is beyond the largest magnitude seen has its mass as well
    truncated           cut at the largest magnitude
    +outliers           open, and mixed with a few values that a Pareto law codes
    truncated+outliers  cut where at most `lfmlib.distribution.coding.MOST` of the kept values are beyond, and these
                        coded by a Pareto law

The shortest code says which law it is (see `lfmlib.distribution.coding` for how codes are made comparable).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .coding import VARIANTS, Candidate, candidates, cells, entropy
from .families import FAMILIES
from .sketch import Sketch

LEAST = 256
"""Fewest kept values that a law is fitted to."""
NAMES = ("gaussian", "truncated-gaussian", "truncated-gaussian+outliers", "laplace", "generalized-gaussian")
"""Names of laws: the Gaussian, open, with or without outliers; the truncated one in its two ways; the other families in
any way."""
_GAUSSIAN = [name for name, variant in VARIANTS.items() if variant.family == "gaussian"]


@dataclass(frozen=True)
class Law:
    """What is known of the values that pruning keeps.

    Attributes:
        name: the law with the shortest code, one of `NAMES`.
        variant: the same in full, one of `VARIANTS`.
        code_lengths: variant → held-out bits per kept value, parameters charged, over the coding cells.
        mean, sigma: centre and standard deviation of its core, before any cut.
        gg_shape: of its core: 2 Gaussian, 1 Laplace.
        lower: magnitude at which what is kept begins: the lower edge of the storage cell of the smallest.
        upper: magnitude at which its core is cut, the upper edge of such a cell; math.inf where it is open.
        outlier_share: share of the kept values that lie where its outliers begin; 0 without outliers.
        pruned: share of the values that are zero or were pruned.
        kept: number of the others.
        misfit: bits per kept value that the shortest code needs beyond the entropy of the cells (bias taken off).
        candidates: variant → what was fitted.

    Examples:
        >>> values = 0.02 * np.random.default_rng(0).standard_normal(65536)
        >>> values[:100] = 0.5
        >>> law = lfmlib.optimal_law(values, families=["gaussian"])
        >>> round(law.sigma, 3), 0.06 < law.outlier_cut < 0.5, round(law.outlier_share, 3)
        (0.02, True, 0.002)
    """

    name: str
    variant: str
    code_lengths: Mapping[str, float]
    mean: float
    sigma: float
    gg_shape: float
    lower: float
    upper: float
    outlier_share: float
    pruned: float
    kept: int
    misfit: float
    candidates: Mapping[str, Candidate]

    @property
    def gaussian(self) -> Candidate:
        """The Gaussian with the shortest code, cut or not, with or without outliers, whichever law won."""
        return min((self.candidates[name] for name in _GAUSSIAN), key=lambda one: one.bits)

    @property
    def outlier_cut(self) -> float:
        """Magnitude beyond which a value is an outlier of that Gaussian; math.inf where it codes shorter without."""
        return self.gaussian.begins


def optimal_law(x, *, seed: int = 0, pruned: float = 0.0, families: Sequence[str] = tuple(FAMILIES)) -> Law:
    """The law of the values that magnitude pruning keeps.

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes. Exact zeros count as pruned.
        pruned: share of the values to leave out, the smallest magnitudes first; at least the zeros are.
        families: those that are tried; the Gaussian alone, which is enough for its `Law.outlier_cut`, takes a ninth of
            the time.
        seed: of the halves that are coded with each other's fit.

    Returns:
        A `Law`. Its cuts lie on edges of the storage type's cells.

    Raises:
        ValueError: the share is outside [0, 1), a family is not known, or too few values are kept, or they have one
            magnitude.

    Examples:
        >>> values = np.random.default_rng(0).laplace(size=16384)
        >>> law = lfmlib.optimal_law(values, pruned=0.5)
        >>> law.name, round(law.pruned, 1), round(law.gg_shape, 1)
        ('laplace', 0.5, 1.0)
    """
    if not 0 <= pruned < 1:
        raise ValueError(f"pruned is {pruned}: expected a share of the values, at least 0 and below 1")
    if not families or not set(families) <= set(FAMILIES):
        raise ValueError(f"families are {list(families)}: expected some of {', '.join(FAMILIES)}")
    sketch = Sketch.of(x)
    counts = cells(sketch, pruned)
    n = int(counts.both.sum())
    occupied = int((counts.both > 0).sum())
    if n < LEAST or occupied < 8:
        raise ValueError(
            f"{n} values in {occupied} coding cells are left of {sketch.count} ({sketch.zeros} are zero): "
            f"expected at least {LEAST} in 8 or more. Prune less, or leave this tensor out"
        )
    halves = counts.halves(np.random.default_rng([seed, n]))
    found = candidates(counts, halves, families)
    best = min(found, key=lambda name: found[name].bits)
    won = found[best]
    return Law(
        name=best if best in NAMES else won.fit.family,
        variant=best,
        code_lengths={name: one.bits for name, one in found.items()},
        mean=won.fit.mean,
        sigma=won.fit.std,
        gg_shape=won.fit.shape,
        lower=float(counts.edges[0]),
        upper=won.upper,
        outlier_share=won.outlier_share,
        pruned=1 - n / sketch.count,
        kept=n,
        misfit=won.bits - entropy(counts),
        candidates=found,
    )
