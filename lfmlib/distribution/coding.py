"""How the values that pruning keeps are coded: whole cells of the storage type, a core and, beyond its cut, outliers.

The cuts are found on all the values and told to the decoder: below, where pruning ends; above, at the largest
magnitude, or where a core and outliers together are coded shortest. Every family names such a place, and every family
is tried at all of them, so that none has cuts that another had not. What is fitted, is fitted to one half of the values
and codes the other, and the other way round; each parameter is charged half the binary logarithm of the number of
values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from .families import FAMILIES, Counts, Fit, fit
from .pareto import Strays
from .sketch import Sketch

MOST = 0.01
"""Largest share of the kept values that may be outliers: “a few”."""
WIDTH = 0.05
"""Least width of a coding cell, in units of the magnitude that 68 % of the values do not exceed, or of 2.5 % of the
cell's own magnitude, if that is wider."""
_TRIED = 7  # cuts that are tried at once
_TURNS = 2  # in which an open core and its outliers are told apart
_LN2 = math.log(2)


@dataclass(frozen=True)
class Variant:
    """What a law is made of: a family, whether its core is cut above, and whether outliers have a law of their own."""

    family: str
    truncated: bool
    outliers: bool

    @property
    def name(self) -> str:
        """Such as "truncated-gaussian+outliers"."""
        return f"{'truncated-' * self.truncated}{self.family}{'+outliers' * self.outliers}"

    @property
    def parameters(self) -> int:
        """Beside the family's: the cut; and where outliers begin, their share and their exponent."""
        return FAMILIES[self.family].parameters + self.truncated + 3 * self.outliers


VARIANTS = {
    variant.name: variant
    for family in FAMILIES
    for outliers in (False, True)
    for truncated in (False, True)
    for variant in (Variant(family, truncated, outliers),)
}
"""All twelve candidates, by name."""


@dataclass(frozen=True)
class Candidate:
    """A law that was tried.

    Attributes:
        fit: its core, fitted to all the values, or to those that are no outliers.
        upper: magnitude at which the core is cut; math.inf where it is open.
        begins: magnitude beyond which values are called outliers; math.inf without these.
        outlier_share: share of the kept values there.
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
    """Every variant of some families at its best: fitted to all the values, each half coded with the other's fit.

    Where no place leaves a few beyond it, nothing is an outlier, and what would tell of them is charged all the same.
    """
    whole = len(counts.both)
    cuts = sorted({_cut(family, counts) for family in families} - {whole})
    found = {}
    for name, variant in VARIANTS.items():
        if variant.family not in families:
            continue
        stops = cuts if variant.outliers and cuts else [whole]
        found[name] = min((_coded(variant, counts, halves, stop) for stop in stops), key=lambda one: one.bits)
    return found


def _coded(variant: Variant, counts: Counts, halves: tuple[Counts, Counts], stop: int) -> Candidate:
    """A variant whose outliers, if it has any, are sought beyond the first ``stop`` cells."""
    n, end = counts.both.sum(), float(counts.ends[stop - 1])
    upper = end if variant.truncated else math.inf
    strays = Strays.alone(counts, stop) if stop < len(counts.both) else None
    core, strays = _law(variant.family, counts, stop, upper, strays, None)
    bits = 0.0
    for train, test in (halves, halves[::-1]):
        learned, outlying = _law(variant.family, train, stop, upper, strays, core)
        law = learned.log_masses(counts.edges, upper)
        bits += test.bits(outlying.mixed(law, counts.edges) if outlying else law)
    return Candidate(
        fit=core,
        upper=upper,
        begins=end if strays else math.inf,
        outlier_share=float(counts.both[stop:].sum() / n),
        tail=strays.exponent if strays else math.nan,
        bits=float((bits + variant.parameters * math.log2(n) / 2) / n),
    )


def _law(
    family: str, counts: Counts, stop: int, upper: float, strays: Strays | None, start: Fit | None
) -> tuple[Fit, Strays | None]:
    """A core fitted to what is in the first ``stop`` cells, and the outliers beside it.

    An open core may have values where outliers begin: they are told apart by turns, as in EM (Dempster et al. 1977).
    """
    core = fit(family, counts.upto(stop), upper, start=start)
    if strays is None:
        return core, None
    strays = Strays.beside(counts, core.log_masses(counts.edges, upper), strays)
    for _ in range(_TURNS if math.isinf(upper) else 0):
        core = fit(family, strays.removed(counts, core.log_masses(counts.edges, upper)), upper, start=core)
        strays = Strays.beside(counts, core.log_masses(counts.edges, upper), strays)
    return core, strays


def _cut(family: str, counts: Counts) -> int:
    """Where the core of a family ends, in cells, so that core and outliers together are coded shortest.

    Tried are ends of occupied cells beyond which there are some values, but at most `MOST` of them: first a few, evenly
    chosen, then those about the best. If there are none such, all cells are the core's.
    """
    both = counts.both
    beyond = both.sum() - np.cumsum(both)
    stops = 1 + np.flatnonzero((both > 0) & (beyond > 0) & (beyond <= MOST * both.sum()))
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
            coded[place] = counts.bits(Strays.alone(counts, stop).mixed(law, counts.edges))
        return coded[place]

    first, last = 0, len(stops) - 1
    while True:
        places = sorted({round(place) for place in np.linspace(first, last, _TRIED)})
        best = min(places, key=bits)
        if last - first < _TRIED:  # all of them were tried
            return int(stops[best])
        at = places.index(best)
        first, last = places[max(at - 1, 0)], places[min(at + 1, len(places) - 1)]


def entropy(counts: Counts) -> float:
    """Entropy of the cells in bits per value, the bias of the plug-in estimate taken off (Miller 1955)."""
    sides = np.concatenate([counts.negative, counts.positive])
    share = sides[sides > 0] / sides.sum()
    return float(-(share @ np.log2(share)) + (share.size - 1) / (2 * sides.sum() * _LN2))


def cells(sketch: Sketch, pruned: float) -> Counts:
    """The coding cells of what pruning keeps: whole cells of the storage type, joined until they are wide enough."""
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
    picked = _pick(edges, first, last, WIDTH * unit)
    starts = picked[:-1]
    ends = np.maximum.reduceat(np.where(both > 0, edges[1:], 0.0)[:last], starts)
    return Counts(
        edges[picked],
        np.add.reduceat(negative[:last], starts),
        np.add.reduceat(positive[:last], starts),
        np.where(ends > 0, ends, edges[picked[1:]]),
    )


@numba.njit(nogil=True, cache=True)
def _pick(edges, first, last, width):
    """Indices of edges from ``first`` to ``last``, each ``width``, or 2.5 % of itself, beyond the one before."""
    picked = [first]
    while picked[-1] < last:
        here = edges[picked[-1]]
        after = np.searchsorted(edges, here + max(width, here * WIDTH / 2) * (1 - 1e-9))
        picked.append(min(max(after, picked[-1] + 1), last))
    return np.array(picked)
