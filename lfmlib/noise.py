"""Transformation weights made of Gaussian noise, to stand beside those that training made."""

from __future__ import annotations

import numpy as np
import torch


def added(base: torch.Tensor, std: float, rng: np.random.Generator, dtype: torch.dtype | None = None) -> torch.Tensor:
    """W₀ + noise, rounded once: what a fine-tune would be if its ΔW were Gaussian noise.

    Args:
        base: W₀, ``(out, in)``.
        std: standard deviation of the noise, in weight units.
        rng: source of the noise.
        dtype: type it is rounded to; by default that of W₀.
    """
    dtype = dtype or base.dtype
    noise = torch.from_numpy(rng.standard_normal(tuple(base.shape), dtype=np.float32))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (base.to(wide) + std * noise.to(wide)).to(dtype)


def low_rank(shape: tuple[int, int], rank: int, std: float, rng: np.random.Generator) -> torch.Tensor:
    """BA of Gaussian factors, float32 ``shape``: what a low-rank adapter would add if its factors were noise.

    Its entries are not Gaussian: given a row of B, they are, but the length of that row varies.

    Args:
        shape: ``(out, in)``.
        rank: of the product.
        std: standard deviation of its entries.
        rng: source of the factors.
    """
    b, a = (rng.standard_normal(size, dtype=np.float32) for size in ((shape[0], rank), (rank, shape[1])))
    product = torch.from_numpy(b @ a)
    return product * (std / product.std(correction=0))
