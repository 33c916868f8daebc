"""Outliers of a distribution as a law: where they begin, their share, and a Pareto law of their magnitudes.

If the core is truncated where they begin, they are all the values beyond. An open core extends beyond: there the two
are mixed, and the outliers are the surplus over the core's tail. Both signs are equally likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from .families import Counts, minimum_place
from .family_masses import LOG_ZERO


@dataclass(frozen=True)
class ParetoOutliers:
    """A Pareto law of outliers.

    Attributes:
        begins: magnitude at which they begin, an edge of a coding cell.
        share: their share of all values.
        exponent: of the survival function (begins / magnitude)^exponent.
    """

    begins: float
    share: float
    exponent: float

    @classmethod
    def above_cut(cls, counts: Counts, stop: int) -> ParetoOutliers:
        """Fit outliers to all values from cell ``stop`` on, where the core is truncated."""
        beyond = counts.both[stop:]
        begins = float(counts.edges[stop + np.argmax(beyond > 0)])  # the first cell that holds a value
        middle = (counts.edges[stop:-1] + counts.edges[stop + 1 :]) / 2
        far = np.log(np.maximum(middle / begins, 1.0)) @ beyond
        exponent = np.clip(beyond.sum() / far, *_BOUNDS[1]) if far > 0 else 1.0
        return cls(begins, (beyond.sum() + 0.5) / (counts.both.sum() + 1), float(exponent))

    @classmethod
    def fit_beside(cls, counts: Counts, core: np.ndarray, start: ParetoOutliers) -> ParetoOutliers:
        """Fit the share and exponent that, in a mixture with an open core, code the values shortest.

        Half a value is added to the outliers and half to the others (Krichevsky and Trofimov 1981), so that a fit to
        values without outliers can still code one.

        Args:
            counts: all values.
            core: ``(2, m)``, from `Fit.log_masses`.
            start: says where outliers begin, and where the search starts.
        """
        first = int(np.searchsorted(counts.edges, start.begins * (1 - 1e-12)))
        edges, inside, n = counts.edges[first:], counts.both[:first].sum(), counts.both.sum()
        sides, core = counts.sides[:, first:], core[:, first:]

        def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
            log_share, log_rest = special.log_expit(point[0]), special.log_expit(-point[0])
            here = cls(start.begins, special.expit(point[0]), np.exp(point[1]))
            far = log_share + here.log_masses(edges)
            cells = np.logaddexp(log_rest + core, far)
            outlying = sides * np.exp(far - cells)  # expected number of outliers in each cell
            likelihood = inside * log_rest + np.sum(sides * cells) + (log_share + log_rest) / 2
            by_share = outlying.sum() + 0.5 - here.share * (n + 1)
            return -likelihood / n, -np.array([by_share, np.sum(outlying * here.log_slopes(edges))]) / n

        begin = [special.logit(start.share), np.log(start.exponent)]
        bounds = [special.logit(_BOUNDS[0]), np.log(_BOUNDS[1])]
        share, exponent = minimum_place(loss, begin, bounds, 1e-13)
        return cls(start.begins, float(special.expit(share)), float(np.exp(exponent)))

    def log_masses(self, edges: np.ndarray) -> np.ndarray:
        """Natural logarithms ``(m,)`` of the Pareto law's masses of the cells, on either side of zero."""
        survival = -self.exponent * np.log(np.maximum(edges / self.begins, 1.0))
        with np.errstate(divide="ignore"):
            cells = survival[:-1] + np.log(-np.expm1(survival[1:] - survival[:-1]))
        return np.maximum(cells - np.log(2), LOG_ZERO)

    def log_slopes(self, edges: np.ndarray) -> np.ndarray:
        """Derivatives ``(m,)`` of `log_masses` by the logarithm of the exponent."""
        far = np.log(np.maximum(edges / self.begins, 1.0))
        kept = np.exp(-self.exponent * np.diff(far))
        with np.errstate(invalid="ignore"):
            slopes = self.exponent * (far[1:] * kept - far[:-1]) / (1 - kept)
        return np.where(kept < 1, slopes, 0.0)  # cells below ``begins`` have no mass

    def mixed(self, core: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Natural logarithms ``(2, m)`` of the mixture's masses of the cells; ``core`` ``(2, m)`` are the core's."""
        return np.logaddexp(np.log1p(-self.share) + core, np.log(self.share) + self.log_masses(edges))

    def without_outliers(self, counts: Counts, core: np.ndarray) -> Counts:
        """The expected counts of the core's values alone; ``core`` as in `mixed`."""
        shares = np.exp(np.log1p(-self.share) + core - self.mixed(core, counts.edges))
        return Counts(counts.edges, counts.negative * shares[1], counts.positive * shares[0], counts.ends)


_BOUNDS = ((1e-9, 0.5), (0.2, 100.0))  # of the share, and of the exponent
