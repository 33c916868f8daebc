"""Which named shape a distribution has: Gaussian, sharp, inverted T, linear, or none of them.

Si et al. (2025) name three patterns besides the Gaussian without defining them; the definitions here are this book's.
Each shape is a family of densities, and a tensor gets the label of the family that codes it in the fewest bits.
Judged is the core, within 6 robust standard deviations of the median, so that a few outliers do not change a label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from scipy import special

from .sketch import Sketch

SHAPES = ("gaussian", "sharp", "inverted-t", "linear")
LABELS = (*SHAPES, "other")
"""What a distribution can be called."""
MARGIN = 0.01
"""Bits per weight that count as a difference between families."""
MISFIT = 0.05
"""Bits per weight beyond which even the best family does not describe the core."""
CORE = 6.0
"""Where the core ends, in robust standard deviations (1.4826 times the median absolute deviation)."""
STRAY = 1e-3
"""Share of weights that every family sets aside, spread evenly over the core: strays cannot rule a family out."""
FLOOR = (0.1, 0.5)
"""Inverted T: share of the weights in the wide floor; the spike holds the rest, hence most."""
RATIO = 5.0
"""Inverted T: least ratio of the floor's scale to the spike's."""


@dataclass(frozen=True)
class Shape:
    """The label of a distribution, and what each family costs.

    Attributes:
        label: one of `LABELS`.
        scores: family → bits per weight lost by coding the core with its best member, parameters charged; the smallest
            is the best. Empty where there are fewer than 64 values, or all are equal.
        margin: bits by which scores would have to move for another label; a case with little is borderline. Zero for
            "other", NaN without scores.
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
    in straight lines, from triangle over trapezoid to uniform.

    The label is the simplest family whose score is within `MARGIN` of the best, so that a family with more parameters
    has to earn them. Where two equally simple ones are, or the best still loses more than `MISFIT` bits, it is
    ``other``.

    Args:
        x: a `Sketch`, or anything `Sketch.of` takes.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> lfmlib.classify(rng.standard_normal(65536)).label, lfmlib.classify(rng.laplace(size=65536)).label
        ('gaussian', 'sharp')
    """
    sketch = Sketch.of(x)
    # Values that differ may still share one cell, where their spread is far below their mean.
    if sketch.count < 64 or np.ptp(sketch.cells.value) == 0:
        return Shape("other", {}, math.nan, 1.0 if sketch.count else math.nan)
    centre, scale = _robust(sketch)
    edges, below = _core(sketch, centre, scale)
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


def label(scores: dict[str, float], margin: float = MARGIN) -> tuple[str, float]:
    """The name that scores give, and how many bits they would have to move for another.

    Args:
        scores: family → bits, as in `Shape`.
        margin: bits that count as a difference.
    """
    best = min(scores.values())
    near = [name for name, score in scores.items() if score < best + margin]
    fewest = min(_FAMILIES[name][1] for name in near)
    simplest = [name for name in near if _FAMILIES[name][1] == fewest]
    if len(simplest) > 1 or best > MISFIT:
        return "other", 0.0
    (name,) = simplest
    rivals = [scores[other] for other, (_, size) in _FAMILIES.items() if size <= fewest and other != name]
    return name, min(MISFIT - best, best + margin - scores[name], *(rival - best - margin for rival in rivals))


def standings(scores: dict[str, float], margin: float = MARGIN) -> dict[str, float]:
    """For each family, by how many bits its name is given; below 0, how many it takes to be.

    Args:
        scores, margin: as in `label`; of no scores every standing is NaN.
    """
    best = min(scores.values(), default=math.nan)
    found = {}
    for name, (_, size) in _FAMILIES.items():
        rivals = [scores.get(other, math.nan) for other in _FAMILIES if _FAMILIES[other][1] <= size and other != name]
        own = best + margin - scores.get(name, math.nan)
        found[name] = float(min(MISFIT - best, own, *(rival - best - margin for rival in rivals)))
    return found


def _robust(sketch: Sketch) -> tuple[float, float]:
    """Median and robust standard deviation; where most values are one, the scale is that of the others."""
    cells = sketch.cells
    centre = cells.value[np.searchsorted(np.cumsum(cells.count), sketch.count / 2)]
    away = np.abs(cells.value - centre)
    order = np.argsort(away)
    scale = 1.4826 * away[order][np.searchsorted(np.cumsum(cells.count[order]), sketch.count / 2)]
    if scale == 0:
        scale = math.sqrt(np.average(away[away > 0] ** 2, weights=cells.count[away > 0]))
    return float(centre), float(scale)


def _core(sketch: Sketch, centre: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the core's cells, and the number of values below each.

    Cells are a tenth of the scale wide, moved to the nearest edges of the storage type's own cells (fewer and wider
    where those are coarse), with the median in the middle of one, so that a narrow spike is not cut in two.
    """
    steps = round(CORE / 0.1) + 0.5
    wanted = centre + 0.1 * scale * np.arange(-steps, steps + 1)
    after = np.clip(np.searchsorted(sketch.grid.edges, wanted), 1, sketch.grid.edges.size - 1)
    nearer = wanted - sketch.grid.edges[after - 1] < sketch.grid.edges[after] - wanted
    picked = np.unique(after - nearer)
    return sketch.grid.edges[picked], sketch.grid_below[picked]


def _length(masses: np.ndarray, z: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Bits per weight of coding cells by a family's masses ``(…, cells)``, conditional on the core, strays apart."""
    inside = masses.sum(axis=-1, keepdims=True)
    model = (1 - STRAY) * masses / inside + STRAY * _even(z)
    return -(np.log2(model) @ share)


def _even(z: np.ndarray) -> np.ndarray:
    """Masses of the cells between z where values lie evenly over the core."""
    return np.diff(z) / (z[-1] - z[0])


def _gaussian(z: np.ndarray, share: np.ndarray) -> float:
    middle = (z[:-1] + z[1:]) / 2
    scale = math.sqrt(np.dot(share, middle**2)) * np.linspace(0.8, 1.04, 25)
    return _length(_normal(z, scale), z, share).min()


def _laplace(z: np.ndarray, share: np.ndarray) -> float:
    """About the median, where z is 0."""
    scale = np.dot(share, np.abs(z[:-1] + z[1:]) / 2) * np.linspace(0.85, 1.1, 26)
    t = z / scale[:, None]
    below = np.where(t < 0, 0.5 * np.exp(-np.abs(t)), 1 - 0.5 * np.exp(-np.abs(t)))
    return _length(np.maximum(np.diff(below), 1e-300), z, share).min()


def _inverted_t(z: np.ndarray, share: np.ndarray) -> float:
    """Over a grid of spike scale, floor scale and floor share, refined once about its best point."""
    spikes, ratios = np.geomspace(0.02, 1.6, 24), np.geomspace(RATIO, 40, 7)
    weights = np.linspace(*FLOOR, 10)
    for _ in range(2):
        spike = _normal(z, spikes)
        floor = _normal(z, (spikes[:, None] * ratios).ravel()).reshape(spikes.size, ratios.size, -1)
        lengths, shortest = _mixed(spike, floor, weights, _even(z), share)
        i, j = np.unravel_index(np.argmin(lengths), lengths.shape)
        spikes = _about(spikes, i, 7, np.geomspace)
        ratios, weights = _about(ratios, j, 5, np.geomspace), _about(weights, shortest[i, j], 5, np.linspace)
    return lengths[i, j]


@numba.njit(nogil=True, cache=True)
def _mixed(spike, floor, weights, even, share):
    """Lengths as of `_length` under mixtures, each at the best of the weights, and which that is: ``(spikes, ratios)``.

    The length is convex in the floor's part of what a mixture puts into the core, and that part grows with its weight.
    So the slope, which takes no logarithms, leads to the best of the weights by halving; to try all of them costs more
    than twice as much.
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
                mixture = (1 - STRAY) * (p[c] + parts[middle] * (q[c] - p[c])) + STRAY * even[c]
                slope -= share[c] * (q[c] - p[c]) / mixture
            if slope < 0:
                low = middle + 1
            else:
                high = middle
        lengths[i, j] = np.inf
        for k in range(max(low - 1, 0), min(low + 1, parts.size)):
            length = 0.0
            for c in range(share.size):
                mixture = (1 - STRAY) * (p[c] + parts[k] * (q[c] - p[c])) + STRAY * even[c]
                length -= share[c] * np.log2(mixture)
            if length < lengths[i, j]:
                lengths[i, j], shortest[i, j] = length, k
    return lengths, shortest


def _linear(z: np.ndarray, share: np.ndarray) -> float:
    """Flat to ``a`` times the half-width, then straight down to zero; over a grid of both, refined twice."""
    widths, flats = np.geomspace(0.8, CORE, 30), np.linspace(0, 1, 9)
    for _ in range(3):
        lengths = _length(_trapezoid(z, widths[:, None], flats), z, share)
        i, j = np.unravel_index(np.argmin(lengths), lengths.shape)
        best = lengths[i, j]
        widths, flats = _about(widths, i, 9, np.geomspace), _about(flats, j, 5, np.linspace)
    return best


def _normal(z: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Masses of the cells between z under centred Gaussians, ``(scales, cells)``."""
    return np.maximum(np.diff(special.ndtr(z / scale[:, None])), 1e-300)


def _trapezoid(z: np.ndarray, width: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Masses of the cells between z under symmetric trapezoids, ``(widths, flats, cells)``."""
    t = np.clip(np.abs(z) / width[..., None], 0, 1)
    a = flat[:, None]
    fall = np.maximum(1 - a, 1e-9)
    beyond = np.maximum(t - a, 0)
    area = (t - beyond * beyond / (2 * fall)) / (1 + a)  # half of the whole is 1/2 (1 + a) / (1 + a)
    return np.maximum(np.diff(np.sign(z) * area, axis=-1), 0)


def _about(values: np.ndarray, i: int, size: int, space) -> np.ndarray:
    """A finer grid between the neighbours of ``values[i]``."""
    return space(values[max(i - 1, 0)], values[min(i + 1, values.size - 1)], size)


#: family → function of the cell edges (in robust std) and their shares, and its number of parameters
_FAMILIES = {"gaussian": (_gaussian, 2), "sharp": (_laplace, 2), "inverted-t": (_inverted_t, 4), "linear": (_linear, 3)}
_ABOUT_MEAN = ("gaussian", "linear")  # the other two have their peak at the median
