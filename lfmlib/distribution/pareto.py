"""The law of outliers: where they begin, how many they are, and Pareto's law of how far out they lie.

Beside a core that is cut below them, they are all there is. Beside an open core they are the surplus over its tail: the
two are mixed, and a value beyond may be of either. Signs are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from .families import FLOOR, Counts, least


@dataclass(frozen=True)
class Strays:
    """Outliers, as a law.

    Attributes:
        begins: magnitude at which they begin: an edge of a coding cell.
        share: of the values.
        exponent: of Pareto's law, whose survival function is (begins / magnitude)^exponent.
    """

    begins: float
    share: float
    exponent: float

    @classmethod
    def alone(cls, counts: Counts, stop: int) -> Strays:
        """Outliers that are all the values beyond the first ``stop`` cells, the core being cut there."""
        beyond = counts.both[stop:]
        begins = float(counts.edges[stop + np.argmax(beyond > 0)])  # the first cell that holds a value
        middle = (counts.edges[stop:-1] + counts.edges[stop + 1 :]) / 2
        far = np.log(np.maximum(middle / begins, 1.0)) @ beyond
        exponent = np.clip(beyond.sum() / far, *_BOUNDS[1]) if far > 0 else 1.0
        return cls(begins, (beyond.sum() + 0.5) / (counts.both.sum() + 1), float(exponent))

    @classmethod
    def beside(cls, counts: Counts, core: np.ndarray, start: Strays) -> Strays:
        """The share and exponent that, mixed with a core, code the values shortest.

        Half a value is added to those that stray, and to those that do not (Krichevsky and Trofimov 1981), so that a
        half without outliers can code one.

        Args:
            counts: the values.
            core: ``(2, m)``, from `Fit.log_masses`.
            start: where they begin, and where to begin the search.
        """
        first = int(np.searchsorted(counts.edges, start.begins * (1 - 1e-12)))
        edges, inside, n = counts.edges[first:], counts.both[:first].sum(), counts.both.sum()
        sides, core = np.stack([counts.positive, counts.negative])[:, first:], core[:, first:]

        def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
            few, most = special.log_expit(point[0]), special.log_expit(-point[0])
            here = cls(start.begins, special.expit(point[0]), np.exp(point[1]))
            far = few + here.log_masses(edges)
            cells = np.logaddexp(most + core, far)
            strayed = sides * np.exp(far - cells)  # of the values in each cell
            saved = inside * most + np.sum(sides * cells) + (few + most) / 2
            by_share = strayed.sum() + 0.5 - here.share * (n + 1)
            return -saved / n, -np.array([by_share, np.sum(strayed * here.log_slopes(edges))]) / n

        begin = [special.logit(start.share), np.log(start.exponent)]
        bounds = [special.logit(_BOUNDS[0]), np.log(_BOUNDS[1])]
        share, exponent = least(loss, begin, bounds, 1e-13)
        return cls(start.begins, float(special.expit(share)), float(np.exp(exponent)))

    def log_masses(self, edges: np.ndarray) -> np.ndarray:
        """``(m,)``, natural logarithms of what Pareto's law gives to cells on either side of zero."""
        survival = -self.exponent * np.log(np.maximum(edges / self.begins, 1.0))
        with np.errstate(divide="ignore"):
            cells = survival[:-1] + np.log(-np.expm1(survival[1:] - survival[:-1]))
        return np.maximum(cells - np.log(2), FLOOR)

    def log_slopes(self, edges: np.ndarray) -> np.ndarray:
        """``(m,)``, derivatives of `log_masses` by the logarithm of the exponent."""
        far = np.log(np.maximum(edges / self.begins, 1.0))
        kept = np.exp(-self.exponent * np.diff(far))
        with np.errstate(invalid="ignore"):
            slopes = self.exponent * (far[1:] * kept - far[:-1]) / (1 - kept)
        return np.where(kept < 1, slopes, 0.0)  # cells that lie below all outliers have nothing

    def mixed(self, core: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """``(2, m)``, natural logarithms of what a core and these together give to cells."""
        return np.logaddexp(np.log1p(-self.share) + core, np.log(self.share) + self.log_masses(edges))

    def removed(self, counts: Counts, core: np.ndarray) -> Counts:
        """What is left to a core, ``(2, m)`` as in `mixed`: of every cell the share that is its own."""
        own = np.exp(np.log1p(-self.share) + core - self.mixed(core, counts.edges))
        return Counts(counts.edges, counts.negative * own[1], counts.positive * own[0], counts.ends)


_BOUNDS = ((1e-9, 0.5), (0.2, 100.0))  # of the share, and of the exponent
