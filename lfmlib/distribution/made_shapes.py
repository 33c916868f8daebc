"""Synthetic tensors of known shape, on which the classifier is tested."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from .shapes import SHAPES, classify


def shape(name: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw values of one of the named shapes, whose parameters are drawn too.

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
    """The values with a ``share`` of them, at least one, replaced by plus or minus ``size`` standard deviations."""
    values = values.copy()
    where = rng.choice(values.size, max(1, round(share * values.size)), replace=False)
    values[where] = size * values.std() * rng.choice([-1, 1], where.size)
    return values


def confusion(tensors: int, largest: int, seed: int) -> pd.DataFrame:
    """Classify synthetic tensors of every shape, in float32 and bfloat16, with and without outliers, in turn.

    Args:
        tensors: their number; with a multiple of 16 every combination is equally frequent.
        largest: sizes are drawn log-uniformly from 4,096 values up to this number.
        seed: of everything drawn.

    Returns:
        One row per tensor: planted (the true shape), label (of `classify`), count, dtype, outliers (whether it has).
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
