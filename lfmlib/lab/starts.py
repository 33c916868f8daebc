"""Unlike starts: every weight matrix of a model drawn anew from one law, all at the same scale.

Scale is matched exactly, matrix by matrix, so that between two starts only the shape of the distribution differs.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ..findings.rules import UNLIKE_STARTS

CONTROLS = ("gaussian", "orthogonal")
STARTS = (*CONTROLS, *UNLIKE_STARTS)
"""The laws: two Gaussian controls (the entries of a random orthogonal matrix are nearly Gaussian), and five unlike."""


@torch.no_grad()
def initialize(model: nn.Module, start: str, gain: float, seed: int) -> None:
    """Draw all two-dimensional parameters of a model anew, in place; vectors and convolutions are left alone.

    Args:
        model: its matrices are drawn in the order of ``named_parameters``.
        start: one of `STARTS`.
        gain: a matrix (out, in) gets a root mean square of exactly ``gain / sqrt(in)``, embeddings of 0.02.
        seed: of the draws.

    Raises:
        ValueError: unknown start.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for parameter in model.parameters():
        if parameter.dim() == 2:
            rms = 0.02 if id(parameter) in embeddings else gain / math.sqrt(parameter.shape[1])
            values = draw(start, parameter.shape, generator)
            parameter.copy_(values * (rms / values.square().mean().sqrt()))


def draw(start: str, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Independent float32 draws of a law (an orthogonal matrix: rows or columns orthonormal), of any scale.

    Raises:
        ValueError: unknown start.
    """
    if start not in STARTS:
        raise ValueError(f"unknown start {start!r}: expected one of {', '.join(STARTS)}")
    if start == "gaussian":
        return torch.randn(shape, generator=generator)
    if start == "orthogonal":
        return nn.init.orthogonal_(torch.empty(shape), generator=generator)
    if start == "uniform":
        return 2 * torch.rand(shape, generator=generator) - 1
    if start == "signs":
        return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1
    if start == "laplace":
        pair = torch.rand((2, *shape), generator=generator).clamp_min(2**-25).log()
        return pair[0] - pair[1]
    if start == "student-t3":
        normal = torch.randn((4, *shape), generator=generator)
        return normal[0] / (normal[1:].square().sum(0) / 3).sqrt()
    keep = torch.rand(shape, generator=generator) >= 0.9
    return torch.where(keep, torch.randn(shape, generator=generator), 0.0)
