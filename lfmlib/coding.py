"""How the values that pruning keeps are coded: whole cells of the storage type, a core and, beyond its cut, outliers.

The cuts are found on all the values, by the same rule for every family, and are told to the decoder: below, where
pruning ends; above, at the largest magnitude, or where core and outliers together are coded shortest, which need not be
the same place for every family. What is fitted, is fitted to one half of the values and codes the other, and the other
way round; each parameter is charged half the binary logarithm of the number of values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from .families import FAMILIES, Counts, Fit, fit
from .sketch import Sketch

MOST = 0.01
"""Largest share of the kept values that may be outliers: “a few”."""
WIDTH = 0.05
"""Least width of a coding cell, in units of the magnitude that 68 % of the values do not exceed, or of 2.5 % of the
cell's own magnitude, if that is wider."""
WAYS = ("open", "truncated", "outliers")
VARIANTS = {
    f"{'' if way == 'open' else 'truncated-'}{family}{'+outliers' if way == 'outliers' else ''}": (family, way)
    for family in FAMILIES
    for way in WAYS
}
"""All nine candidates: name → family and way."""
_PARAMETERS = {"open": 0, "truncated": 1, "outliers": 3}  # beyond the family's: the cut; share and exponent of outliers
_TRIED = 7  # cuts that are tried at once
_LN2 = math.log(2)


@dataclass(frozen=True)
class Candidate:
    """A law that was tried.

    Attributes:
        fit: its core, fitted to all the values.
        upper: magnitude at which the core is cut; math.inf where it is open.
        outlier_share: share of the kept values beyond; 0 without outliers.
        tail: exponent of the outliers' Pareto law; NaN without outliers.
        bits: code length in bits per kept value, each half coded with the other's fit, parameters charged.
    """

    fit: Fit
    upper: float
    outlier_share: float
    tail: float
    bits: float


def candidate(family: str, way: str, counts: Counts, halves: tuple[Counts, Counts]) -> Candidate:
    """Fit a family in one of its ways, and code each half with the other's fit."""
    stop, whole = len(counts.both), fit(family, counts, math.inf if way == "open" else counts.edges[-1])
    if way == "outliers":
        stop, whole = _cut(family, counts, whole)
    upper = math.inf if way == "open" else float(counts.ends[stop - 1])
    bits = 0.0
    for train, test in (halves, halves[::-1]):
        learned = fit(family, train.upto(stop), upper, start=whole)
        bits += learned.bits(test.upto(stop), upper)
        if way == "outliers":
            bits += Tail.of(train, stop).bits(test, stop)
    n = counts.both.sum()
    parameters = FAMILIES[family].parameters + _PARAMETERS[way]
    tail = Tail.of(counts, stop) if way == "outliers" else None
    return Candidate(
        fit=whole,
        upper=upper,
        outlier_share=float(counts.both[stop:].sum() / n),
        tail=tail.exponent if tail else math.nan,
        bits=float((bits + parameters * math.log2(n) / 2) / n),
    )


def _cut(family: str, counts: Counts, start: Fit) -> tuple[int, Fit]:
    """Where the core of a family ends, in cells, so that core and outliers together are coded shortest; and its fit.

    Tried are ends of occupied cells beyond which there are some values, but at most `MOST` of them: first a few, evenly
    chosen, then those about the best.
    """
    both = counts.both
    beyond = both.sum() - np.cumsum(both)
    stops = 1 + np.flatnonzero((both > 0) & (beyond > 0) & (beyond <= MOST * both.sum()))
    if not len(stops):  # more than that in the last cell: nothing is an outlier
        return len(both), start
    tried: dict[int, tuple[float, Fit]] = {}

    def bits(place: int) -> float:
        if place not in tried:
            stop = int(stops[place])
            nearest = min(tried, key=lambda other: abs(other - place), default=None)
            one = fit(
                family,
                counts.upto(stop),
                counts.ends[stop - 1],
                start=tried[nearest][1] if tried else start,
                rough=True,
            )
            tried[place] = (
                one.bits(counts.upto(stop), counts.ends[stop - 1]) + Tail.of(counts, stop).bits(counts, stop),
                one,
            )
        return tried[place][0]

    first, last = 0, len(stops) - 1
    while True:
        places = sorted({round(place) for place in np.linspace(first, last, _TRIED)})
        best = min(places, key=bits)
        if last - first < _TRIED:  # all of them were tried
            break
        at = places.index(best)
        first, last = places[max(at - 1, 0)], places[min(at + 1, len(places) - 1)]
    stop = int(stops[best])
    return stop, fit(family, counts.upto(stop), counts.ends[stop - 1], start=tried[best][1])


@dataclass(frozen=True)
class Tail:
    """The law of outliers: how many, and Pareto's law of how far they are beyond the cut; either sign alike.

    Attributes:
        share: of the values, by Krichevsky and Trofimov’s estimate, so that a half without any can code some.
        exponent: of Pareto's law.
    """

    share: float
    exponent: float

    @classmethod
    def of(cls, counts: Counts, stop: int) -> Tail:
        """The tail of the values beyond the first ``stop`` cells."""
        beyond = counts.both[stop:]
        far = np.log((counts.edges[stop:-1] + counts.edges[stop + 1 :]) / 2 / counts.ends[stop - 1]) @ beyond
        exponent = np.clip(beyond.sum() / far, 0.2, 100.0) if far > 0 else 1.0
        return cls((beyond.sum() + 0.5) / (counts.both.sum() + 1), float(exponent))

    def bits(self, counts: Counts, stop: int) -> float:
        """Bits it takes to say which values are outliers, their signs, and their cells."""
        beyond = counts.both[stop:]
        seen = beyond > 0
        inner, outer = (
            edges[seen] / counts.ends[stop - 1] for edges in (counts.edges[stop:-1], counts.edges[stop + 1 :])
        )
        inner = np.maximum(inner, 1.0)
        masses = inner**-self.exponent - outer**-self.exponent
        few, most = beyond.sum(), counts.both[:stop].sum()
        cells = -float(beyond[seen] @ np.log2(np.maximum(masses, 1e-300)))
        return cells + few - few * math.log2(self.share) - most * math.log2(1 - self.share)


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
