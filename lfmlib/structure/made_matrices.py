"""Synthetic matrices with one planted departure from noise, on which the measures are tested."""

from __future__ import annotations

import numpy as np
from scipy import signal

from ..distribution.made_shapes import with_outliers

DEPARTURES = {
    "neighbours": "each entry correlated with the one before it in its row: the correlation",
    "row scales": "log-normal scales of rows: their relative spread",
    "column scales": "log-normal scales of columns: their relative spread",
    "blocks": "log-normal scales of the blocks of an 8 × 8 grid: their relative spread",
    "spikes": "directions each of which, alone, would have its singular value 5 % beyond the edge: how many",
    "rank three": "three directions added: the share of the variance they carry",
    "orthogonal": "a matrix added whose rows, or columns, are orthogonal: the share of the variance it carries",
    "symmetric": "entries alike across the diagonal, which is asked of square matrices alone: their correlation",
}
"""Departures from independent, identical Gaussian entries that `matrix` plants, and what their size means."""


def matrix(departure: str, size: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a matrix of Gaussian entries with one planted departure.

    Args:
        departure: a key of `DEPARTURES`; or one with independent and identical entries: ``noise``, ``Laplace``, ``t3``
            (Student's, these ignore ``size``), ``sparse``, with a share ``size`` of zeros, or ``outliers``, with a
            share ``size`` at 30 standard deviations.
        size: of the departure, as `DEPARTURES` says.
        shape: (rows, columns).
        rng: source of randomness.

    Returns:
        float64 ``shape``.

    Raises:
        ValueError: unknown departure.
    """
    r, c = shape
    noise = rng.standard_normal(shape)
    if departure == "noise":
        return noise
    if departure == "Laplace":
        return rng.laplace(size=shape)
    if departure == "t3":
        return rng.standard_t(3, shape) / np.sqrt(3)
    if departure == "sparse":
        return noise * (rng.random(shape) >= size)
    if departure == "outliers":
        return with_outliers(noise.ravel(), rng, share=size).reshape(shape)
    if departure == "neighbours":
        # stationary: the first entry has unit variance, and the innovations of the others are scaled accordingly
        noise[:, 1:] *= np.sqrt(1 - size**2)
        return signal.lfilter([1], [1, -size], noise, axis=1)
    if departure == "row scales":
        return noise * _scales(size, (r, 1), rng)
    if departure == "column scales":
        return noise * _scales(size, (1, c), rng)
    if departure == "blocks":
        block = _scales(size, (8, 8), rng)
        return noise * block[np.arange(r) * 8 // r][:, np.arange(c) * 8 // c]
    if departure == "orthogonal":
        tall = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))[0] * np.sqrt(max(shape))
        return np.sqrt(size) * (tall if r >= c else tall.T) + np.sqrt(1 - size) * noise
    if departure == "symmetric":
        side = min(shape)
        upper = np.triu(noise[:side, :side], 1)
        below = np.tril(noise[:side, :side], -1)
        noise[:side, :side] += size * upper.T + (np.sqrt(1 - size**2) - 1) * below
        return noise
    if departure in ("spikes", "rank three"):
        count = int(size) if departure == "spikes" else 3
        left, right = (np.linalg.qr(rng.standard_normal((length, count)))[0] for length in shape)
        strength = _spike_strength(1.05, r, c) if departure == "spikes" else np.sqrt(r * c * size / (1 - size) / 3)
        return noise + strength * left @ right.T
    raise ValueError(f"no departure is called {departure!r}: expected one of {', '.join(DEPARTURES)}")


def _scales(spread: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Log-normal scales of mean 1 with a relative standard deviation of ``spread``."""
    sigma = np.sqrt(np.log1p(spread**2))
    return np.exp(sigma * rng.standard_normal(shape) - sigma**2 / 2)


def _spike_strength(ratio: float, r: int, c: int) -> float:
    """Strength of a rank-one spike in unit noise whose singular value is ``ratio`` times the edge.

    A spike of strength s has the singular value √((s² + r)(s² + c)) / s (Benaych-Georges and Nadakuditi 2012).
    """
    half = (ratio**2 * (np.sqrt(r) + np.sqrt(c)) ** 2 - r - c) / 2
    return float(np.sqrt(half + np.sqrt(half**2 - r * c)))
