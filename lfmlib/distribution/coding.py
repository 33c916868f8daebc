"""Code lengths of the values that pruning keeps, under every family with and without truncation and outliers.

Coded are counts in cells of magnitude, each a union of whole cells of the storage type. Cuts are found on all values
and count as known to the decoder: the lower one where pruning ends; the upper one at the largest magnitude, or where
core and outliers together have the shortest code. Each family proposes one such place, and every family is tried at
all of them, so that all have the same choice. Parameters are fitted to one half of the values and code the other half,
and the other way round; each is charged log2(n) / 2 bits, with n the number of values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from .families import FAMILIES, Counts, Fit, fit
from .pareto import ParetoOutliers
from .sketch import Sketch

MAX_OUTLIER_SHARE = 0.01
"""Share of the kept values that may be outliers: the paper's “a few”."""
MIN_CELL_WIDTH = 0.05
"""Width of a coding cell, in units of the magnitude that 68 % of the kept values do not exceed; half of it, 2.5 %, in
units of the cell's own magnitude, if that is wider."""
_CUTS_PER_ROUND = 7  # upper cuts that one round of the search tries
_EM_ROUNDS = 2  # rounds that separate an open core from its outliers
_LN2 = math.log(2)


@dataclass(frozen=True)
class Variant:
    """A family, with or without truncation of its core, and with or without outliers."""

    family: str
    truncated: bool
    outliers: bool

    @property
    def name(self) -> str:
        """Name such as "truncated-gaussian+outliers"."""
        return f"{'truncated-' * self.truncated}{self.family}{'+outliers' * self.outliers}"

    @property
    def parameters(self) -> int:
        """Number of parameters: the family's, one for a cut, three for outliers (begin, share, exponent)."""
        return FAMILIES[self.family].parameters + self.truncated + 3 * self.outliers


VARIANTS = {
    variant.name: variant
    for family in FAMILIES
    for outliers in (False, True)
    for truncated in (False, True)
    for variant in (Variant(family, truncated, outliers),)
}
"""Name → variant, all twelve."""


@dataclass(frozen=True)
class Candidate:
    """A fitted variant.

    Attributes:
        fit: the core, fitted to all values that are not outliers.
        upper: magnitude at which the core is truncated; math.inf if it is open.
        begins: magnitude beyond which values are outliers; math.inf without outliers.
        outlier_share: share of the kept values beyond ``begins``.
        tail: exponent of the outliers' Pareto law; NaN without outliers.
        bits: code length in bits per kept value, each half coded with the other's fit, parameters charged.
    """

    fit: Fit
    upper: float
    begins: float
    outlier_share: float
    tail: float
    bits: float


def candidates(
    counts: Counts, halves: tuple[Counts, Counts], families: Sequence[str] = tuple(FAMILIES)
) -> dict[str, Candidate]:
    """Fit every variant of some families, at the upper cut with the shortest code.

    Args:
        counts: all kept values.
        halves: the same values in two random halves.
        families: keys of `FAMILIES`.

    Returns:
        Name of the variant → fit. If no cut leaves at most `MAX_OUTLIER_SHARE` of the values beyond it, variants with
        outliers have none, but are charged their parameters.
    """
    whole = len(counts.both)
    cuts = sorted({_best_cut(family, counts) for family in families} - {whole})
    found = {}
    for name, variant in VARIANTS.items():
        if variant.family not in families:
            continue
        stops = cuts if variant.outliers and cuts else [whole]
        found[name] = min((_fit_candidate(variant, counts, halves, stop) for stop in stops), key=lambda one: one.bits)
    return found


def _fit_candidate(variant: Variant, counts: Counts, halves: tuple[Counts, Counts], stop: int) -> Candidate:
    """Fit a variant; the cells from ``stop`` on hold its outliers, if it has any."""
    n, end = counts.both.sum(), float(counts.ends[stop - 1])
    upper = end if variant.truncated else math.inf
    outliers = ParetoOutliers.above_cut(counts, stop) if stop < len(counts.both) else None
    core, outliers = _fit_law(variant.family, counts, stop, upper, outliers, None)
    bits = 0.0
    for train, test in (halves, halves[::-1]):
        learned, outlying = _fit_law(variant.family, train, stop, upper, outliers, core)
        law = learned.log_masses(counts.edges, upper)
        bits += test.bits(outlying.mixed(law, counts.edges) if outlying else law)
    return Candidate(
        fit=core,
        upper=upper,
        begins=end if outliers else math.inf,
        outlier_share=float(counts.both[stop:].sum() / n),
        tail=outliers.exponent if outliers else math.nan,
        bits=float((bits + variant.parameters * math.log2(n) / 2) / n),
    )


def _fit_law(
    family: str, counts: Counts, stop: int, upper: float, outliers: ParetoOutliers | None, start: Fit | None
) -> tuple[Fit, ParetoOutliers | None]:
    """Fit a core to the first ``stop`` cells, and outliers to the others.

    An open core extends into the outliers' cells: there `_EM_ROUNDS` of expectation maximization (Dempster et al. 1977)
    assign each cell's values to the two in proportion to their masses, and fit both again.
    """
    core = fit(family, counts.upto(stop), upper, start=start)
    if outliers is None:
        return core, None
    outliers = ParetoOutliers.fit_beside(counts, core.log_masses(counts.edges, upper), outliers)
    for _ in range(_EM_ROUNDS if math.isinf(upper) else 0):
        core = fit(family, outliers.without_outliers(counts, core.log_masses(counts.edges, upper)), upper, start=core)
        outliers = ParetoOutliers.fit_beside(counts, core.log_masses(counts.edges, upper), outliers)
    return core, outliers


def _best_cut(family: str, counts: Counts) -> int:
    """Number of cells that belong to the core, so that a truncated core and outliers have the shortest code together.

    Candidates are the ends of occupied cells that at least one value, and at most `MAX_OUTLIER_SHARE` of all, exceed.
    Each round tries `_CUTS_PER_ROUND` evenly spaced ones, and the next searches between the neighbours of the best.
    Without candidates all cells are the core's.
    """
    both = counts.both
    beyond = both.sum() - np.cumsum(both)
    stops = 1 + np.flatnonzero((both > 0) & (beyond > 0) & (beyond <= MAX_OUTLIER_SHARE * both.sum()))
    if not len(stops):
        return len(both)
    fits: dict[int, Fit] = {}
    coded: dict[int, float] = {}

    def bits(place: int) -> float:
        if place not in coded:
            stop = int(stops[place])
            start = fits[min(fits, key=lambda other: abs(other - place))] if fits else None
            fits[place] = fit(family, counts.upto(stop), counts.ends[stop - 1], start=start, rough=True)
            law = fits[place].log_masses(counts.edges, counts.ends[stop - 1])
            coded[place] = counts.bits(ParetoOutliers.above_cut(counts, stop).mixed(law, counts.edges))
        return coded[place]

    first, last = 0, len(stops) - 1
    while True:
        places = sorted({round(place) for place in np.linspace(first, last, _CUTS_PER_ROUND)})
        best = min(places, key=bits)
        if last - first < _CUTS_PER_ROUND:  # every candidate left was tried
            return int(stops[best])
        at = places.index(best)
        first, last = places[max(at - 1, 0)], places[min(at + 1, len(places) - 1)]


def entropy(counts: Counts) -> float:
    """Entropy of the cells in bits per value, corrected for the bias of the plug-in estimate (Miller 1955)."""
    sides = np.concatenate([counts.negative, counts.positive])
    share = sides[sides > 0] / sides.sum()
    return float(-(share @ np.log2(share)) + (share.size - 1) / (2 * sides.sum() * _LN2))


def kept_cells(sketch: Sketch, pruned: float) -> Counts:
    """Counts in coding cells of the values that pruning keeps.

    Args:
        sketch: all values.
        pruned: share of the values to leave out, as in `lfmlib.optimal_law`.
    """
    edges, negative, positive = sketch.magnitudes
    both = negative + positive
    upto = np.cumsum(both)
    out = max(round(pruned * sketch.count) - sketch.zeros, 0)
    first = int(np.argmin(np.abs(np.concatenate([[0], upto]) - out)))
    occupied = np.flatnonzero(both[first:]) + first
    if not len(occupied):
        return Counts(edges[:1], negative[:0], positive[:0], edges[:0])
    first, last = occupied[0], occupied[-1] + 1
    kept = upto[last - 1] - (upto[first - 1] if first else 0)
    unit = edges[1 + np.searchsorted(upto, upto[last - 1] - 0.32 * kept)]
    picked = _pick_edges(edges, first, last, MIN_CELL_WIDTH * unit)
    starts = picked[:-1]
    ends = np.maximum.reduceat(np.where(both > 0, edges[1:], 0.0)[:last], starts)
    return Counts(
        edges[picked],
        np.add.reduceat(negative[:last], starts),
        np.add.reduceat(positive[:last], starts),
        np.where(ends > 0, ends, edges[picked[1:]]),
    )


@numba.njit(nogil=True, cache=True)
def _pick_edges(edges, first, last, width):
    """Indices of edges from ``first`` to ``last``, each ``width`` or 2.5 % beyond the one before, whichever is more."""
    picked = [first]
    while picked[-1] < last:
        here = edges[picked[-1]]
        after = np.searchsorted(edges, here + max(width, here * MIN_CELL_WIDTH / 2) * (1 - 1e-9))
        picked.append(min(max(after, picked[-1] + 1), last))
    return np.array(picked)
