"""Made tensors whose answer is known: what the measures are tried on before they are believed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy import signal

from .shapes import SHAPES, classify


def shape(name: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Values of one of the named shapes, its parameters drawn at random too.

    ``gaussian``; ``sharp``, a generalized Gaussian of shape 0.8 to 1.2; ``inverted-t``, a Gaussian spike of 55 to 90 %
    on a floor, Gaussian or flat, 5 to 30 times as wide; ``linear``, a trapezoid from triangular to uniform.

    Args:
        name: one of `lfmlib.distribution.shapes.SHAPES`.
        count: number of values.
        rng: source of randomness.

    Returns:
        float64 ``(count,)``, scaled to a median absolute value of 0.02.

    Raises:
        ValueError: unknown name.
    """
    if name == "gaussian":
        values = rng.standard_normal(count)
    elif name == "sharp":
        power = rng.uniform(0.8, 1.2)
        values = rng.choice([-1, 1], count) * rng.gamma(1 / power, size=count) ** (1 / power)
    elif name == "inverted-t":
        floor, ratio = rng.random(count) < rng.uniform(0.1, 0.45), np.exp(rng.uniform(np.log(5), np.log(30)))
        flat = rng.random() < 0.5
        wide = rng.uniform(-(3**0.5), 3**0.5, count) if flat else rng.standard_normal(count)
        values = np.where(floor, ratio * wide, rng.standard_normal(count))
    elif name == "linear":
        values = rng.uniform(-1, 1, count) + rng.uniform(0, 1) * rng.uniform(-1, 1, count)
    else:
        raise ValueError(f"no shape is called {name!r}: expected one of {', '.join(SHAPES)}")
    return 0.02 * values / np.median(np.abs(values))


def with_outliers(values: np.ndarray, rng: np.random.Generator, share: float = 1e-4, size: float = 30.0) -> np.ndarray:
    """The values with a share of them (at least one) replaced by plus or minus ``size`` standard deviations."""
    values = values.copy()
    where = rng.choice(values.size, max(1, round(share * values.size)), replace=False)
    values[where] = size * values.std() * rng.choice([-1, 1], where.size)
    return values


def confusion(tensors: int, largest: int, seed: int) -> pd.DataFrame:
    """Classify made tensors of every named shape, in float32 and bfloat16, with and without outliers, in turn.

    Args:
        tensors: how many in all; multiples of 16 treat every combination alike.
        largest: sizes are drawn log-uniformly from 4,096 values to this many.
        seed: of everything drawn.

    Returns:
        One row per tensor: planted (its shape), label (given), count, dtype, outliers.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(tensors):
        name = SHAPES[i % 4]
        outliers, dtype = bool(i // 4 % 2), ("float32", "bfloat16")[i // 8 % 2]
        count = int(np.exp(rng.uniform(np.log(4096), np.log(largest))))
        values = shape(name, count, rng)
        if outliers:
            values = with_outliers(values, rng)
        label = classify(torch.tensor(values, dtype=getattr(torch, dtype))).label
        rows.append({"planted": name, "label": label, "count": count, "dtype": dtype, "outliers": outliers})
    return pd.DataFrame(rows)


DEPARTURES = {
    "neighbours": "each entry correlated with the one before it in its row: the correlation",
    "row scales": "log-normal scales of rows: their relative spread",
    "column scales": "log-normal scales of columns: their relative spread",
    "blocks": "log-normal scales of the blocks of an 8 × 8 grid: their relative spread",
    "spikes": "directions each of which, alone, would have its singular value 5 % beyond the edge: how many",
    "rank three": "three directions added: the share of the variance they carry",
}
"""Departures from independent, identical Gaussian entries that `matrix` plants, and what their size means."""


def matrix(departure: str, size: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A made matrix of Gaussian entries with one planted departure.

    Args:
        departure: one of `DEPARTURES`; or, independent and identical all the same, ``noise`` (``size`` is not used),
            ``Laplace`` entries, or ``outliers``, a share ``size`` of entries at 30 standard deviations.
        size: how much of it.
        shape: (rows, columns).
        rng: source of randomness.

    Returns:
        float64 of that shape.

    Raises:
        ValueError: unknown departure.
    """
    r, c = shape
    noise = rng.standard_normal(shape)
    if departure == "noise":
        return noise
    if departure == "Laplace":
        return rng.laplace(size=shape)
    if departure == "outliers":
        return with_outliers(noise.ravel(), rng, share=size).reshape(shape)
    if departure == "neighbours":
        # lfilter's start is made stationary: its first entry is of unit variance, the others' innovations smaller
        noise[:, 1:] *= np.sqrt(1 - size**2)
        return signal.lfilter([1], [1, -size], noise, axis=1)
    if departure == "row scales":
        return noise * _scales(size, (r, 1), rng)
    if departure == "column scales":
        return noise * _scales(size, (1, c), rng)
    if departure == "blocks":
        block = _scales(size, (8, 8), rng)
        return noise * block[np.arange(r) * 8 // r][:, np.arange(c) * 8 // c]
    if departure in ("spikes", "rank three"):
        count = int(size) if departure == "spikes" else 3
        left, right = (np.linalg.qr(rng.standard_normal((length, count)))[0] for length in shape)
        strength = _landing(1.05, r, c) if departure == "spikes" else np.sqrt(r * c * size / (1 - size) / 3)
        return noise + strength * left @ right.T
    raise ValueError(f"no departure is called {departure!r}: expected one of {', '.join(DEPARTURES)}")


def _scales(spread: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Log-normal scales of mean 1 with a relative standard deviation of ``spread``."""
    sigma = np.sqrt(np.log1p(spread**2))
    return np.exp(sigma * rng.standard_normal(shape) - sigma**2 / 2)


def _landing(ratio: float, r: int, c: int) -> float:
    """Strength of a direction in unit noise whose singular value lands at ``ratio`` times the edge.

    Of strength s it lands at √((s² + r)(s² + c)) / s (Benaych-Georges and Nadakuditi 2012).
    """
    half = (ratio**2 * (np.sqrt(r) + np.sqrt(c)) ** 2 - r - c) / 2
    return float(np.sqrt(half + np.sqrt(half**2 - r * c)))
