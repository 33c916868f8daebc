"""What the drift–diffusion picture of training predicts: how a start fades as the sum of many small updates grows.

In that picture a trained matrix is W = a W₀ + D. The drift a is what weight decay and the loss leave of the start; D is
the sum of very many small updates, so it is Gaussian and independent of W₀ by a central limit theorem. One number, the
correlation m of W with W₀, then decides the law of W: that of m X + √(1 - m²) Z, with X a draw of the start and Z of
the standard Gaussian. Nothing is fitted.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from scipy.optimize import brentq

from ..distribution.distances import measure
from ..lab import starts

_SIDE = 1024  # the laws are measured on this many squared made draws


def predicted(start: str, memory: float, column: str = "kl_bits") -> float:
    """Distance from the Gaussian of m X + √(1 - m²) Z.

    Args:
        start: law of X, one of `lfmlib.lab.starts.STARTS`.
        memory: the correlation m, from 0 to 1.
        column: a figure of `lfmlib.normality`.

    Raises:
        ValueError: unknown start, or a correlation outside of its range.
    """
    if not 0 <= memory <= 1:
        raise ValueError(f"memory is {memory}: expected a correlation from 0 to 1")
    x, z = _draws(start)
    return measure((memory * x + math.sqrt(1 - memory**2) * z).astype(np.float32))[column]


@functools.cache
def law(start: str, column: str = "kl_bits") -> tuple[np.ndarray, np.ndarray]:
    """Ratios RMS(D)/RMS(a W₀), rising from 0.001 to 30 in equal factors, and what is `predicted` at each."""
    ratio = np.geomspace(0.001, 30, 101)
    return ratio, np.array([predicted(start, 1 / math.sqrt(1 + r * r), column) for r in ratio])


def ratio(memory):
    """RMS(D)/RMS(a W₀) where the correlation of W with W₀ is ``memory``; negative correlations count as none."""
    memory = np.clip(memory, 1e-9, 1.0)
    return np.sqrt(1 / memory**2 - 1)


def foretold(start: str, at) -> np.ndarray:
    """`law` between its points, at any ratios."""
    ratios, values = law(start)
    return np.interp(np.log(np.maximum(at, ratios[0])), np.log(ratios), values)


@functools.cache
def forgotten_at(start: str, bound: float) -> float:
    """The ratio RMS(D)/RMS(a W₀) from which on `kl_bits` is at most ``bound``; 0 where the start is there already."""
    if predicted(start, 1.0) <= bound:
        return 0.0
    return float(ratio(brentq(lambda memory: predicted(start, memory) - bound, 0.0, 1.0, xtol=1e-4)))


def fading(bound: float) -> dict[str, float]:
    """Start → the correlation m of W with W₀ from which down even a Gaussian ΔW leaves `kl_bits` at most ``bound``."""
    return {start: 1 / math.sqrt(1 + forgotten_at(start, bound) ** 2) for start in starts.STARTS}


@functools.cache
def _draws(start: str) -> tuple[np.ndarray, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    x = starts.draw(start, (_SIDE, _SIDE), generator).double().numpy().ravel()
    z = torch.randn(x.size, generator=generator, dtype=torch.float64).numpy()
    return (x - x.mean()) / x.std(), z
