"""Singular values shrunk, to take noise out of a matrix: what is optimal if it is a low-rank signal and Gaussian noise.

With p ≤ n the sides, β = p / n, σ the noise and y = s / (σ √n) a singular value in its units, noise alone ends at
1 + √β, the edge of Marchenko and Pastur's law. Gavish and Donoho give, for the squared error, the best threshold
(2014, IEEE Trans. Inf. Theory 60, arXiv 1305.5870) and the best function of y (2017, IEEE Trans. Inf. Theory 63, arXiv
1405.7511); both take σ from the median of the singular values, which a few directions of signal do not move.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from .bulk import noise_variance

WAYS = ("hard", "soft", "optimal")
"""How singular values are shrunk: those below the best threshold to zero; all by the edge; by the best function."""


def shrunk(singular_values: np.ndarray, shape: tuple[int, int], how: str) -> np.ndarray:
    """Singular values with the noise taken out, in the order in which they came.

    Args:
        singular_values: all of a matrix.
        shape: of the matrix.
        how: one of `WAYS`.

    Raises:
        ValueError: unknown way.
    """
    if how not in WAYS:
        raise ValueError(f"unknown way to shrink {how!r}: expected one of {', '.join(WAYS)}")
    p, n = sorted(shape)
    s, ratio = np.asarray(singular_values, dtype=np.float64), p / n
    unit = math.sqrt(n * noise_variance(s**2 / n, ratio))
    if not unit:  # half of the values are zero: no noise
        return s
    y, edge = s / unit, 1 + math.sqrt(ratio)
    if how == "soft":
        return unit * np.maximum(y - edge, 0)
    if how == "hard":
        best = math.sqrt(2 * (ratio + 1) + 8 * ratio / (ratio + 1 + math.sqrt(ratio**2 + 14 * ratio + 1)))
        return np.where(y >= best, s, 0.0)
    beyond = np.maximum(y, edge)
    return np.where(y > edge, unit * np.sqrt(np.maximum((beyond**2 - ratio - 1) ** 2 - 4 * ratio, 0)) / beyond, 0.0)


def denoised(
    matrix: torch.Tensor, how: str = "optimal", svd: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """A matrix with its singular values shrunk, float32.

    Args:
        matrix: ``(r, c)``.
        how: one of `WAYS`.
        svd: its decomposition, as `torch.linalg.svd` gives it without full matrices; None: it is made here.

    Raises:
        ValueError: unknown way.

    Examples:
        >>> from lfmlib.structure.shrinkage import denoised
        >>> rng = np.random.default_rng(0)
        >>> signal = np.outer(rng.standard_normal(200), rng.standard_normal(300))
        >>> noisy = torch.from_numpy(signal + rng.standard_normal((200, 300)))
        >>> [round(float((w - torch.from_numpy(signal)).square().mean()), 2) for w in (noisy, denoised(noisy))]
        [1.0, 0.01]
    """
    left, values, right = torch.linalg.svd(matrix.detach().float(), full_matrices=False) if svd is None else svd
    rows, columns = matrix.shape
    kept = torch.from_numpy(shrunk(values.double().cpu().numpy(), (rows, columns), how)).to(left)
    return (left * kept) @ right
