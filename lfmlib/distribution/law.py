"""The distribution of the values that pruning keeps: its family, where it is truncated, and which are outliers.

Si et al. (2025) say that optimal weights are sparse, and that the sparse values are “a truncated Gaussian distribution
and a few outliers”. Here the smallest magnitudes are pruned, and the kept values are coded with three families,
Gaussian, Laplace and generalized Gaussian, each in four variants:

    open                the density extends beyond the largest magnitude seen
    truncated           the density is cut at the largest magnitude
    +outliers           open, in a mixture with a few outliers that follow a Pareto law
    truncated+outliers  cut at a magnitude that at most a share `lfmlib.distribution.coding.MAX_OUTLIER_SHARE` of the
                        kept values exceed; these follow a Pareto law

The variant with the shortest code is the law (see `lfmlib.distribution.coding` for how code lengths are compared).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..options import check
from .blas import one_blas_thread
from .coding import VARIANTS, Candidate, candidates, entropy, kept_cells
from .families import FAMILIES
from .sketch import Sketch

MIN_KEPT_VALUES = 256
"""Kept values needed to fit a law."""
LAW_NAMES = ("gaussian", "truncated-gaussian", "truncated-gaussian+outliers", "laplace", "generalized-gaussian")
"""Names of laws: "gaussian" is open, with or without outliers; the other two families are named in any variant."""
_GAUSSIAN_VARIANTS = [name for name, variant in VARIANTS.items() if variant.family == "gaussian"]


@dataclass(frozen=True)
class Law:
    """The law of the values that pruning keeps.

    Attributes:
        name: the law with the shortest code, one of `LAW_NAMES`.
        variant: its variant in full, one of `VARIANTS`.
        code_lengths: variant → held-out bits per kept value, parameters charged, over the coding cells.
        mean, sigma: centre and standard deviation of the core's density before it is truncated.
        gg_shape: generalized-Gaussian shape of the core: 2 Gaussian, 1 Laplace.
        lower: smallest magnitude kept: the lower edge of its storage cell.
        upper: magnitude at which the core is truncated, the upper edge of a storage cell; math.inf if it is open.
        outlier_share: share of the kept values beyond the magnitude where outliers begin; 0 without outliers.
        pruned: share of all values that are zero or pruned.
        kept: number of values kept.
        misfit: bits per kept value of the shortest code beyond the cells' entropy (bias-corrected).
        candidates: variant → its fit.

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
        """The variant of the Gaussian with the shortest code, also where another family has a shorter one."""
        return min((self.candidates[name] for name in _GAUSSIAN_VARIANTS), key=lambda one: one.bits)

    @property
    def outlier_cut(self) -> float:
        """Magnitude beyond which a value is an outlier of `gaussian`; math.inf if that variant has no outliers."""
        return self.gaussian.begins


def optimal_law(x, *, seed: int = 0, pruned: float = 0.0, families: Sequence[str] = tuple(FAMILIES)) -> Law:
    """The law of the values that magnitude pruning keeps.

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes. Exact zeros count as pruned.
        seed: decides which half of the values each one is in (each half is coded with the other's fit).
        pruned: share of the values to leave out, smallest magnitudes first; zeros are always left out.
        families: keys of `FAMILIES` to try; "gaussian" alone suffices for `Law.outlier_cut` and takes a quarter of the
            time.

    Returns:
        A `Law`. Its cuts lie on edges of the storage type's cells.

    Raises:
        ValueError: the share is outside [0, 1), a family is unknown, or too few values or magnitudes are kept.

    Examples:
        >>> values = np.random.default_rng(0).laplace(size=16384)
        >>> law = lfmlib.optimal_law(values, pruned=0.5)
        >>> law.name, round(law.pruned, 1), round(law.gg_shape, 1)
        ('laplace', 0.5, 1.0)
    """
    check(seed=seed, pruned=pruned, families=families)
    if not families or not set(families) <= set(FAMILIES):
        raise ValueError(f"families are {list(families)}: expected some of {', '.join(FAMILIES)}")
    sketch = Sketch.of(x)
    counts = kept_cells(sketch, pruned)
    n = int(counts.both.sum())
    occupied = int((counts.both > 0).sum())
    if n < MIN_KEPT_VALUES or occupied < 8:
        raise ValueError(
            f"{n} values in {occupied} coding cells are left of {sketch.count} ({sketch.zeros} are zero): "
            f"expected at least {MIN_KEPT_VALUES} in 8 or more. Prune less, or leave this tensor out"
        )
    halves = counts.halves(np.random.default_rng([seed, n]))
    with one_blas_thread():
        found = candidates(counts, halves, families)
    best = min(found, key=lambda name: found[name].bits)
    won = found[best]
    return Law(
        name=best if best in LAW_NAMES else won.fit.family,
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
