"""Which named shape a distribution has: Gaussian, sharp, inverted T, linear, or none of them.

Si et al. (2025) name three patterns besides the Gaussian without defining them; the definitions here are this book's.
Each shape is a family of densities, and a tensor gets the label of the family that codes it in the fewest bits. Only
the core, within 6 robust standard deviations of the median, is coded, so that a few outliers do not change a label.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from scipy import special

from .bits import tells_shape
from .sketch import Sketch

SHAPES = ("gaussian", "sharp", "inverted-t", "linear")
NOT_GAUSSIAN = SHAPES[1:]
"""The three shapes that the paper has beside the Gaussian."""
LABELS = (*SHAPES, "other")
"""Every label that `classify` may give: the shapes, and "other" where none of them fits."""
FAMILIES = (*SHAPES, "skewed")
"""Every family that is tried; what is skewed is none of the shapes, all of which are symmetric."""
MARGIN_BITS = 0.01
"""Difference between families, in bits per weight, below which the simpler one is chosen."""
MAX_MISFIT_BITS = 0.05
"""Loss in bits per weight beyond which even the best family does not describe the core, so that it is "other"."""
CORE_STD = 6.0
"""Half-width of the core in robust standard deviations (1.4826 times the median absolute deviation)."""
BACKGROUND_SHARE = 1e-3
"""Mass that every family spreads evenly over the core, so that a few stray values cannot rule a family out."""
FLOOR_SHARES = (0.1, 0.5)
"""Inverted T: smallest and largest share of the weights in the wide floor; the spike holds the rest."""
MIN_FLOOR_RATIO = 5.0
"""Inverted T: smallest ratio of the floor's scale to the spike's."""


@dataclass(frozen=True)
class Shape:
    """The label of a distribution, and the cost of each family.

    Attributes:
        label: one of `LABELS`.
        scores: family → bits per weight lost by coding the core with its best member, parameters charged. Empty for
            fewer than 64 values, equal ones, or such as lie so far from 0 that a float32's cells are too wide about
            them (see `lfmlib.distribution.bits.tells_shape`).
        margin: bits per weight by which scores would have to change for another label; small for a borderline case, 0
            for "other", NaN without scores.
        core: share of the values that lie in the core.

    Examples:
        >>> found = lfmlib.classify(np.random.default_rng(0).triangular(-1, 0, 1, 65536))
        >>> found.label, round(found.scores["linear"], 2), round(found.scores["gaussian"], 2)
        ('linear', 0.0, 0.03)
    """

    label: str
    scores: dict[str, float]
    margin: float
    core: float


def classify(x) -> Shape:
    """Name the shape of a distribution.

    The families, each with centre and scale fitted: ``gaussian``; ``sharp``, the Laplace density; ``inverted-t``, a
    Gaussian spike holding most weights on a Gaussian floor at least 5 times as wide; ``linear``, a density that falls
    in straight lines, from triangle over trapezoid to uniform. Beside these four shapes stands ``skewed``, two halves
    of Gaussians of unlike scale that meet at the mode.

    The label is the family with the fewest parameters whose score is within `MARGIN_BITS` of the best. It is ``other``
    if two such families have equally few, if that family is the skewed one, or if the best loses more than
    `MAX_MISFIT_BITS`.

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> lfmlib.classify(rng.standard_normal(65536)).label, lfmlib.classify(rng.laplace(size=65536)).label
        ('gaussian', 'sharp')
    """
    sketch = Sketch.of(x)
    # Unequal values may still share one cell, if their spread is far below their mean.
    if sketch.count < 64 or np.ptp(sketch.cells.value) == 0:
        return Shape("other", {}, math.nan, 1.0 if sketch.count else math.nan)
    if not tells_shape(sketch):
        return Shape("other", {}, math.nan, math.nan)
    centre, scale = _robust_centre_and_scale(sketch)
    edges, below = _core_cells(sketch, centre, scale)
    z, n = (edges - centre) / scale, int(below[-1] - below[0])
    if len(z) < 12 or n < 64:  # the stored numbers are too coarse for the spread of the values
        return Shape("other", {}, math.nan, n / sketch.count)
    share = np.diff(below) / n
    seen = share > 0
    entropy = -np.sum(share[seen] * np.log2(share[seen])) + (seen.sum() - 1) / (2 * n * math.log(2))
    mean = float(np.dot(share, (z[:-1] + z[1:]) / 2))
    scores = {}
    for name, (fit, parameters) in _FAMILIES.items():
        length = fit(z - mean if name in _ABOUT_MEAN else z, share)
        scores[name] = float(length - entropy + parameters * math.log2(n) / (2 * n))
    name, margin = label(scores)
    return Shape(name, scores, margin, n / sketch.count)


def label(scores: dict[str, float], margin: float = MARGIN_BITS) -> tuple[str, float]:
    """Label and margin of a `Shape` with these scores.

    Args:
        scores: family → bits per weight, as in `Shape`.
        margin: in the place of `MARGIN_BITS`.
    """
    best = min(scores.values())
    near = [name for name, score in scores.items() if score < best + margin]
    fewest = min(_FAMILIES[name][1] for name in near)
    simplest = [name for name in near if _FAMILIES[name][1] == fewest]
    if len(simplest) > 1 or best > MAX_MISFIT_BITS:
        return "other", 0.0
    (name,) = simplest
    if name not in SHAPES:
        return "other", 0.0
    rivals = [score for other, score in scores.items() if _FAMILIES[other][1] <= fewest and other != name]
    return name, min(MAX_MISFIT_BITS - best, best + margin - scores[name], *(rival - best - margin for rival in rivals))


def standings(scores: dict[str, float], margin: float = MARGIN_BITS) -> dict[str, float]:
    """For each family, by how many bits per weight it is the label; negative where it is not.

    Args:
        scores, margin: as in `label`; without scores every standing is NaN.
    """
    best = min(scores.values(), default=math.nan)
    found = {}
    for name, (_, size) in _FAMILIES.items():
        rivals = [scores.get(other, math.nan) for other in _FAMILIES if _FAMILIES[other][1] <= size and other != name]
        to_best = best + margin - scores.get(name, math.nan)
        found[name] = float(min(MAX_MISFIT_BITS - best, to_best, *(rival - best - margin for rival in rivals)))
    return found


def _robust_centre_and_scale(sketch: Sketch) -> tuple[float, float]:
    """Median and robust standard deviation; if that is 0, the root mean square of the values off the median."""
    cells = sketch.cells
    centre = cells.value[np.searchsorted(np.cumsum(cells.count), sketch.count / 2)]
    away = np.abs(cells.value - centre)
    order = np.argsort(away)
    scale = 1.4826 * away[order][np.searchsorted(np.cumsum(cells.count[order]), sketch.count / 2)]
    if scale == 0:
        scale = math.sqrt(np.average(away[away > 0] ** 2, weights=cells.count[away > 0]))
    return float(centre), float(scale)


def _core_cells(sketch: Sketch, centre: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the core's coding cells, and the number of values below each.

    Cells are 0.1 ``scale`` wide, with edges moved to the nearest ones of the storage type (fewer and wider cells where
    those are coarse). The median is in the middle of a cell, so that a narrow spike is not cut in two.
    """
    steps = round(CORE_STD / 0.1) + 0.5
    wanted = centre + 0.1 * scale * np.arange(-steps, steps + 1)
    after = np.clip(np.searchsorted(sketch.grid.edges, wanted), 1, sketch.grid.edges.size - 1)
    nearer = wanted - sketch.grid.edges[after - 1] < sketch.grid.edges[after] - wanted
    picked = np.unique(after - nearer)
    return sketch.grid.edges[picked], sketch.grid_below[picked]


def _code_length(masses: np.ndarray, z: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Bits per weight of coding the cells with masses ``(…, cells)`` of a family, normalized to the core, plus the
    background of `BACKGROUND_SHARE`."""
    inside = masses.sum(axis=-1, keepdims=True)
    model = (1 - BACKGROUND_SHARE) * masses / inside + BACKGROUND_SHARE * _flat_masses(z)
    return -(np.log2(model) @ share)


def _flat_masses(z: np.ndarray) -> np.ndarray:
    """Masses of the cells between edges z for values spread evenly over the core."""
    return np.diff(z) / (z[-1] - z[0])


def _gaussian_length(z: np.ndarray, share: np.ndarray) -> float:
    middle = (z[:-1] + z[1:]) / 2
    scale = math.sqrt(np.dot(share, middle**2)) * np.linspace(0.8, 1.04, 25)
    return _code_length(_normal_masses(z, scale), z, share).min()


def _laplace_length(z: np.ndarray, share: np.ndarray) -> float:
    """Best length of a Laplace density centred at the median, where z is 0."""
    scale = np.dot(share, np.abs(z[:-1] + z[1:]) / 2) * np.linspace(0.85, 1.1, 26)
    t = z / scale[:, None]
    below = np.where(t < 0, 0.5 * np.exp(-np.abs(t)), 1 - 0.5 * np.exp(-np.abs(t)))
    return _code_length(np.maximum(np.diff(below), 1e-300), z, share).min()


def _inverted_t_length(z: np.ndarray, share: np.ndarray) -> float:
    """Best length over a grid of spike scale, floor scale and floor share, refined once around its best point."""
    spikes, ratios = _points(np.geomspace, 0.02, 1.6, 24), _points(np.geomspace, MIN_FLOOR_RATIO, 40, 7)
    weights = _points(np.linspace, *FLOOR_SHARES, 10)
    for _ in range(2):
        spike = _normal_masses(z, spikes)
        floor = _normal_masses(z, (spikes[:, None] * ratios).ravel()).reshape(spikes.size, ratios.size, -1)
        lengths, shortest = _mixture_lengths(spike, floor, weights, _flat_masses(z), share)
        i, j = np.unravel_index(np.argmin(lengths), lengths.shape)
        spikes = _refined(spikes, i, 7, np.geomspace)
        ratios, weights = _refined(ratios, j, 5, np.geomspace), _refined(weights, shortest[i, j], 5, np.linspace)
    return lengths[i, j]


@numba.njit(nogil=True, cache=True)
def _mixture_lengths(spike, floor, weights, even, share):
    """Code lengths of mixtures at the best floor share, and the index of that share, both ``(spikes, ratios)``.

    Args:
        spike: masses ``(spikes, cells)``.
        floor: masses ``(spikes, ratios, cells)``.
        weights: floor shares to choose from, ascending.
        even: masses ``(cells,)`` of the background.
        share: shares ``(cells,)`` of the values.

    The length is convex in the floor's part of the mixture's mass in the core, which grows with the floor's weight. So
    the best weight is found by bisection on the slope, which needs no logarithms; trying all weights costs more than
    twice as much.
    """
    lengths, shortest = np.empty(floor.shape[:2]), np.zeros(floor.shape[:2], np.int64)
    for i, j in np.ndindex(lengths.shape):
        p, q = spike[i] / spike[i].sum(), floor[i, j] / floor[i, j].sum()
        parts = weights / (weights + (1 - weights) * spike[i].sum() / floor[i, j].sum())
        low, high = 0, parts.size
        while low < high:
            middle = (low + high) // 2
            slope = 0.0
            for c in range(share.size):
                mixture = (1 - BACKGROUND_SHARE) * (p[c] + parts[middle] * (q[c] - p[c])) + BACKGROUND_SHARE * even[c]
                slope -= share[c] * (q[c] - p[c]) / mixture
            if slope < 0:
                low = middle + 1
            else:
                high = middle
        lengths[i, j] = np.inf
        for k in range(max(low - 1, 0), min(low + 1, parts.size)):
            length = 0.0
            for c in range(share.size):
                mixture = (1 - BACKGROUND_SHARE) * (p[c] + parts[k] * (q[c] - p[c])) + BACKGROUND_SHARE * even[c]
                length -= share[c] * np.log2(mixture)
            if length < lengths[i, j]:
                lengths[i, j], shortest[i, j] = length, k
    return lengths, shortest


def _linear_length(z: np.ndarray, share: np.ndarray) -> float:
    """Best length of a trapezoid over a grid of its half-width and the flat share of it, refined twice."""
    widths, flats = _points(np.geomspace, 0.8, CORE_STD, 30), _points(np.linspace, 0, 1, 9)
    return _shortest(lambda *some: _code_length(_trapezoid_masses(z, *some), z, share), widths, flats, 9, rounds=3)


def _skewed_length(z: np.ndarray, share: np.ndarray) -> float:
    """Best length of a split normal density of mean 0 over a grid of the ratio of its two scales, refined once, and of
    their size."""
    middle = (z[:-1] + z[1:]) / 2
    std = math.sqrt(np.dot(share, middle**2))
    if np.dot(share, middle**3) < 0:  # the wider half is to lie above the mode
        z, share = -z[::-1], share[::-1]
    ratios, stds = _points(np.geomspace, 1.0, 6.0, 13), std * _points(np.linspace, 0.85, 1.05, 5)
    return _shortest(lambda *some: _code_length(_split_normal_masses(z, *some), z, share), ratios, stds, 5, rounds=2)


def _shortest(length: Callable, scales: np.ndarray, parts: np.ndarray, size: int, rounds: int) -> float:
    """The shortest code length over a grid of two parameters, which is refined around its best point.

    Args:
        length: function of scales ``(m, 1)`` and parts ``(n,)`` that gives lengths ``(m, n)``.
        scales, parts: the first grid, in geometric and in equal steps.
        size: number of scales in each further one, of 5 parts.
        rounds: grids in all.
    """
    best = math.inf
    for _ in range(rounds):
        lengths = length(scales[:, None], parts)
        i, j = np.unravel_index(np.argmin(lengths), lengths.shape)
        best = lengths[i, j]
        scales, parts = _refined(scales, i, size, np.geomspace), _refined(parts, j, 5, np.linspace)
    return best


def _normal_masses(z: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Masses ``(scales, cells)`` of the cells between edges z under centred Gaussians."""
    return np.maximum(np.diff(special.ndtr(z / scale[:, None])), 1e-300)


def _split_normal_masses(z: np.ndarray, ratio: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Masses ``(ratios, stds, cells)`` of the cells between edges z under split normals of mean 0.

    The density falls from the mode as a Gaussian on both sides, upwards with a scale ``ratio`` times as large.
    """
    scale = std / np.sqrt(ratio + (1 - 2 / math.pi) * (ratio - 1) ** 2)
    mode = math.sqrt(2 / math.pi) * scale * (1 - ratio)
    t, ratio = (z - mode[..., None]) / scale[..., None], ratio[..., None]
    above = t > 0
    part = special.ndtr(np.where(above, t / ratio, t))
    below = np.where(above, 1 + ratio * (2 * part - 1), 2 * part) / (1 + ratio)
    return np.maximum(np.diff(below), 1e-300)


def _trapezoid_masses(z: np.ndarray, width: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Masses ``(widths, flats, cells)`` of the cells between edges z under symmetric trapezoids.

    The density is flat up to ``flat`` times the half-width, and falls from there linearly to 0.
    """
    t = np.clip(np.abs(z) / width[..., None], 0, 1)
    a = flat[:, None]
    fall = np.maximum(1 - a, 1e-9)
    beyond = np.maximum(t - a, 0)
    area = (t - beyond * beyond / (2 * fall)) / (1 + a)  # half of the whole is 1/2 (1 + a) / (1 + a)
    return np.maximum(np.diff(np.sign(z) * area, axis=-1), 0)


def _refined(values: np.ndarray, i: int | np.intp, size: int, space) -> np.ndarray:
    """A grid of ``size`` points between the neighbours of ``values[i]``; ``space`` is np.linspace or np.geomspace."""
    return _points(space, float(values[max(i - 1, 0)]), float(values[min(i + 1, values.size - 1)]), size)


@lru_cache(maxsize=4096)  # every search begins with the same grid, so that most refinements have been made before
def _points(space, first: float, last: float, size: int) -> np.ndarray:
    points = space(first, last, size)
    points.setflags(write=False)
    return points


#: family → function of the cell edges (in robust std) and their shares, and its number of parameters
_FAMILIES = {
    "gaussian": (_gaussian_length, 2),
    "sharp": (_laplace_length, 2),
    "inverted-t": (_inverted_t_length, 4),
    "linear": (_linear_length, 3),
    "skewed": (_skewed_length, 3),
}
_ABOUT_MEAN = ("gaussian", "linear", "skewed")  # the other two have their peak at the median
