"""The law of what pruning keeps: which family codes it shortest, where it is cut, and which values are outliers.

Si et al. (2025) say of optimal weights that they are sparse, and that the sparse values are “a truncated Gaussian
distribution and a few outliers”. Here pruning takes the smallest magnitudes away, and what it keeps is coded with
three families, Gaussian, Laplace and generalized Gaussian, each in three ways:

    open                whatever is beyond the largest magnitude seen has its mass as well
    truncated           cut at the largest magnitude
    truncated+outliers  cut where at most `MOST` of the kept values are beyond, and these coded by a Pareto law of
                        their own

The cuts, below and above, are the same for every family, and are told to the decoder. What is fitted, is fitted to one
half of the values and codes the other, and the other way round; each parameter is charged half the binary logarithm of
the number of values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial

import numba
import numpy as np
import pandas as pd

from .checkpoint import Checkpoint
from .executor import Rows, tabulate
from .families import FAMILIES, Counts, Fit, fit
from .sketch import Sketch

MOST = 0.01
"""Largest share of the kept values that may be outliers: “a few”."""
LEAST = 256
"""Fewest kept values that a law is fitted to."""
WIDTH = 0.05
"""Least width of a coding cell, in units of the magnitude that 68 % of the values do not exceed, or of 2.5 % of the
cell's own magnitude, if that is wider."""
NAMES = ("gaussian", "truncated-gaussian", "truncated-gaussian+outliers", "laplace", "generalized-gaussian")
"""Names of laws: the Gaussian in its three ways, and the other families in any."""
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
        fit: its core.
        upper: magnitude at which the core is cut; math.inf where it is open.
        outlier_share: share of the kept values beyond; 0 without outliers.
        tail: exponent of the outliers' Pareto law; NaN without outliers.
        bits: held-out code length in bits per kept value, parameters charged.
    """

    fit: Fit
    upper: float
    outlier_share: float
    tail: float
    bits: float


@dataclass(frozen=True)
class Law:
    """What is known of the values that pruning keeps.

    Attributes:
        name: the law with the shortest code, one of `NAMES`.
        variant: the same in full, one of `VARIANTS`.
        code_lengths: variant → held-out bits per kept value, parameters charged, over the coding cells.
        mean, sigma: centre and standard deviation of its core, before any cut.
        gg_shape: of its core: 2 Gaussian, 1 Laplace.
        lower: smallest magnitude kept (float32: the lower edge of its cell, less than 0.8 % below).
        upper: magnitude at which its core is cut; math.inf where it is open.
        outlier_share: share of the kept values beyond; 0 without outliers.
        outlier_cut: magnitude beyond which a value is an outlier of a Gaussian core, whichever law won; math.inf where
            a Gaussian codes shorter without outliers than with them.
        pruned: share of the values that are zero or were pruned.
        kept: number of the others.
        misfit: bits per kept value that the shortest code needs beyond the entropy of the cells (bias taken off).
        candidates: variant → what was fitted.
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
    outlier_cut: float
    pruned: float
    kept: int
    misfit: float
    candidates: Mapping[str, Candidate]


def optimal_law(x, *, pruned: float = 0.0, seed: int = 0) -> Law:
    """The law of the values that magnitude pruning keeps.

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes. Exact zeros count as pruned.
        pruned: share of the values to leave out, the smallest magnitudes first; at least the zeros are.
        seed: of the halves that are coded with each other's fit.

    Returns:
        A `Law`. Its cuts lie on edges of the storage type's cells.

    Raises:
        ValueError: the share is outside [0, 1), or too few values are kept, or they have one magnitude.
    """
    if not 0 <= pruned < 1:
        raise ValueError(f"pruned is {pruned}: expected a share of the values, at least 0 and below 1")
    sketch = Sketch.of(x)
    counts = _cells(sketch, pruned)
    n = int(counts.both.sum())
    if n < LEAST or (counts.both > 0).sum() < 8:
        raise ValueError(
            f"{n} values of {(counts.both > 0).sum()} magnitudes are left of {sketch.count} ({sketch.zeros} are zero): "
            f"expected at least {LEAST} of 8 or more. Prune less, or leave this tensor out"
        )
    halves = counts.halves(np.random.default_rng([seed, n]))
    found = {name: _candidate(*ways, counts, halves) for name, ways in VARIANTS.items()}
    best, gaussian = (min(names, key=lambda name: found[name].bits) for names in (found, NAMES[:3]))
    won = found[best]
    return Law(
        name=best if won.fit.family == "gaussian" else won.fit.family,
        variant=best,
        code_lengths={name: one.bits for name, one in found.items()},
        mean=won.fit.mean,
        sigma=won.fit.std,
        gg_shape=won.fit.shape,
        lower=float(counts.edges[0]),
        upper=won.upper,
        outlier_share=won.outlier_share,
        outlier_cut=found[gaussian].upper if found[gaussian].outlier_share else math.inf,
        pruned=1 - n / sketch.count,
        kept=n,
        misfit=won.bits - _entropy(counts),
        candidates=found,
    )


def laws(
    source, *, pruned: float = 0.0, select: str | None = None, executor: Executor | None = None, progress: bool = True
) -> pd.DataFrame:
    """`optimal_law` of every floating-point matrix of a checkpoint.

    Args:
        source, select, executor, progress: as `lfmlib.survey`.
        pruned: share of each matrix's values to leave out.

    Returns:
        One row per matrix: its `TensorInfo` (the name in column ``tensor``) and the fields of its `Law`, the code
        lengths as ``bits_…``. ``table.attrs["skipped"]`` says of every other tensor why it is not there.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from `open_checkpoint`.
    """
    return tabulate(source, select, partial(_laws, pruned=pruned), [*_INFO, *_FIELDS, *_BITS], executor, progress)


def _laws(checkpoint: Checkpoint, pruned: float) -> Rows:
    results: Rows = []
    for info in checkpoint.tensors:
        try:
            law = optimal_law(checkpoint.chunks(info.name), pruned=pruned)
        except ValueError as error:
            results.append((info.name, str(error)))
            continue
        row = asdict(info)
        row["tensor"] = row.pop("name")
        row |= {name: getattr(law, name) for name in _FIELDS}
        results.append((info.name, [row | {f"bits_{name}": bits for name, bits in law.code_lengths.items()}]))
    return results


_INFO = ("tensor", "role", "depth", "shape", "dtype", "numel")
_FIELDS = (
    "name", "variant", "mean", "sigma", "gg_shape", "lower", "upper", "outlier_share", "outlier_cut", "pruned", "kept",
    "misfit",
)  # fmt: skip
_BITS = tuple(f"bits_{name}" for name in VARIANTS)


# -- how a candidate is fitted and coded -----------------------------------------------------------------------------


def _candidate(family: str, way: str, counts: Counts, halves: tuple[Counts, Counts]) -> Candidate:
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


def _entropy(counts: Counts) -> float:
    """Entropy of the cells in bits per value, the bias of the plug-in estimate taken off (Miller 1955)."""
    sides = np.concatenate([counts.negative, counts.positive])
    share = sides[sides > 0] / sides.sum()
    return float(-(share @ np.log2(share)) + (share.size - 1) / (2 * sides.sum() * _LN2))


# -- the cells -------------------------------------------------------------------------------------------------------


def _cells(sketch: Sketch, pruned: float) -> Counts:
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
