"""Nulls: what the figures of `normality` are on Gaussian noise, tabulated by storage type and size.

The counts of n independent draws in the cells of a type are multinomial, so a sketch of noise can be drawn without
drawing the noise, and one of a billion values costs as much as one of a thousand (`draw`). The table `nulls.csv` in
this package was computed from such sketches by `python -m lfmlib.structure.calibrate`; `band` interpolates it. It holds
for types of many values within a standard deviation; `lfmlib.distribution.like_noise` is for all.
"""

from __future__ import annotations

import csv
import math
from functools import cache, lru_cache
from importlib import resources

import numpy as np
from scipy import special

from .formats import grid
from .sketch import Sketch

FIGURES = (
    "ks", "kl_bits", "tail_bits", "wasserstein", "skewness", "excess_kurtosis",
    "gg_shape", "weibull_k", "exponent_entropy", "mean_ratio", "asymmetry",
)  # fmt: skip
"""Tabulated figures: those of `normality`, and ``mean_ratio`` = abs(mean) / std."""

_TABULATED_AS = {"float64": "float32"}  # both have the same sketch


def draw(dtype: str, count: int, rng: np.random.Generator, mean: float = 0.0, std: float = 1.0) -> Sketch:
    """Draw the sketch of ``count`` independent values of N(mean, std²), rounded to a storage type.

    Inside the wide cells of float32 the values are spread evenly, which does not affect any figure of `normality`.

    Args:
        dtype: storage type, one of `lfmlib.distribution.formats.DTYPES`.
        count: number of values, however large.
        rng: source of randomness.
        mean, std: of the Gaussian.

    Raises:
        ValueError: unknown type.
    """
    shape = grid(dtype)
    likely, mass = masses(dtype, mean, std)
    counts = rng.multinomial(count, mass / mass.sum())
    patterns = np.zeros(shape.patterns, dtype=np.int64)
    patterns[shape.order[likely]] = counts
    if not shape.wide:
        return Sketch(dtype, patterns[None, :])
    square = [int(c) * ((2**32 - 1) // 12) for c in patterns[shape.order[likely]]]
    limbs = np.zeros((2, shape.patterns), dtype=np.int64)
    limbs[:, shape.order[likely]] = [[s >> 32 for s in square], [s & 0xFFFFFFFF for s in square]]
    occupied = likely[counts > 0]
    ends = shape.edges[[occupied[0], occupied[-1] + 1]] * (1 - 2**-24)
    zeros = np.zeros_like(patterns)
    return Sketch(dtype, np.stack([patterns, zeros, *limbs, zeros]), (_key(ends[0]), _key(ends[1])))


@lru_cache(maxsize=8)  # a null is many draws of one law
def masses(dtype: str, mean: float = 0.0, std: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the cells of a storage type under N(mean, std²), without those below 1e-18.

    Returns:
        Indices among the cells of the type's grid, ascending, and their probabilities, float64 of the same length;
        neither is to be written to.
    """
    z = (grid(dtype).edges - mean) / std
    first, last = np.searchsorted(z, -12.0, side="right") - 1, np.searchsorted(z, 12.0)
    first = max(min(first, z.size - 2), 0)
    last = min(max(last, first + 1), z.size - 1)
    a, b = z[first:last].copy(), z[first + 1 : last + 1].copy()
    a[0], b[-1] = -np.inf, np.inf  # values beyond the type's range are stored as its extremes
    mass = np.where(a > 0, special.ndtr(-a) - special.ndtr(-b), special.ndtr(b) - special.ndtr(a))
    likely = np.flatnonzero(mass > 1e-18)
    found = first + likely, mass[likely]
    for part in found:
        part.setflags(write=False)
    return found


def _key(value: float) -> int:
    """Monotone key of a float32 value (inverse of `counting.key_to_float`)."""
    bits = int(np.array(value, dtype=np.float32).view(np.int32))
    return bits if bits >= 0 else bits ^ 0x7FFFFFFF


def band(dtype: str, count: int) -> dict[str, tuple[float, float]]:
    """Central 95 % of each figure for noise of a storage type and size, interpolated between tabulated sizes.

    The half-widths fall about as 1/√n until rounding sets a floor, so their products with √n are interpolated, linearly
    in log n. Beyond the largest size its bounds are used.

    Args:
        dtype: storage type.
        count: number of values.

    Returns:
        Figure → (low, high); empty for a type that is not tabulated, and below 64 values.
    """
    return {name: (low, high) for name, (low, _, high) in bounds(dtype, count).items()}


def typical(dtype: str, count: int) -> dict[str, float]:
    """Median of each figure for noise of a storage type and size, interpolated as `band`, and empty where it is."""
    return {name: middle for name, (_, middle, _) in bounds(dtype, count).items()}


@lru_cache(maxsize=256)  # many matrices of a model are of one size
def bounds(dtype: str, count: int) -> dict[str, tuple[float, float, float]]:
    """Figure → low end, median and high end of its `band`; empty where that is."""
    table = _table().get(_TABULATED_AS.get(dtype, dtype))
    if table is None or count < table[0][0]:
        return {}
    sizes, centre, low, high = table
    count = min(count, sizes[-1])
    i = min(int(np.searchsorted(sizes, count, side="right")), len(sizes) - 1)
    t = math.log(count / sizes[i - 1]) / math.log(sizes[i] / sizes[i - 1])
    root = np.sqrt(sizes[[i - 1, i]] / count)
    middle = (1 - t) * centre[i - 1] + t * centre[i]
    low, high = (
        middle + (1 - t) * root[0] * (side[i - 1] - centre[i - 1]) + t * root[1] * (side[i] - centre[i])
        for side in (low, high)
    )
    return {name: (float(a), float(b), float(c)) for name, a, b, c in zip(FIGURES, low, middle, high, strict=True)}


@cache
def _table() -> dict[str, tuple[np.ndarray, ...]]:
    """Storage type → tabulated sizes ``(s,)``, and median, low and high ends ``(s, figures)``."""
    rows: dict[str, list] = {}
    with (resources.files("lfmlib.distribution") / "nulls.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["dtype"], []).append(row)
    table = {}
    for dtype, of_type in rows.items():
        sizes = np.array(sorted({int(row["count"]) for row in of_type}))
        parts = np.full((3, len(sizes), len(FIGURES)), np.nan)
        for row in of_type:
            place = np.searchsorted(sizes, int(row["count"])), FIGURES.index(row["figure"])
            for part, name in zip(parts, ("median", "low", "high"), strict=True):
                part[place] = float(row[name])
        table[dtype] = (sizes, *parts)
    return table
