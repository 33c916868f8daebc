"""Stochastic Lanczos quadrature, with error bars: the distribution of the eigenvalues of a large matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from .gram import SEED_SALT, Matrix
from .krylov import steps_at

DRAWS = 8
"""Random start vectors."""
STEPS = 64
"""Lanczos steps from each start vector."""


@dataclass(frozen=True)
class Density:
    """Estimated distribution function of the eigenvalues s² / (n sigma²), to compare with `mp_cdf`.

    Attributes:
        x: float64 ``(draws * steps,)``, ascending.
        cdf: share of the eigenvalues up to x.
        error: standard error of ``cdf``, from the scatter of the draws.
        resolution: bound on the error from the finite number of steps: half the width of the interval that must contain
            the distribution function seen from one start vector (Chebyshev–Markov–Stieltjes), averaged over the draws.
            Many times too large for smooth spectra, but needed if many eigenvalues coincide.
    """

    x: np.ndarray
    cdf: np.ndarray
    error: np.ndarray
    resolution: np.ndarray


def density(matrix, *, draws: int = DRAWS, steps: int = STEPS, seed: int = 0) -> Density:
    """Estimate the distribution function of the eigenvalues without computing them.

    Stochastic Lanczos quadrature (Chen, Trogdon and Ubaru 2021, ICML): the nodes and weights that Lanczos steps from a
    random vector give approximate the spectrum; half of a node's weight counts as below the node. The error falls as
    1 / √(p draws), so the method is for large matrices. Time: ``draws * steps`` products with the matrix and its
    transpose.

    Args:
        matrix: as in `spectrum`, with its errors; copied as float32 (a float64 one as float64).
        draws: number of random start vectors, at least 2.
        steps: Lanczos steps from each, at least 2; at most p are made.
        seed: of the start vectors.
    """
    if draws < 2 or steps < 2:
        raise ValueError(f"error bars need at least 2 draws of 2 steps: found draws={draws}, steps={steps}")
    nodes, weights = _quadrature(Matrix(matrix), draws, steps, seed)
    order = np.argsort(nodes, axis=None)
    x = nodes.ravel()[order]
    each = steps_at(x, nodes, weights)
    error = each.std(axis=0, ddof=1) / math.sqrt(draws)
    after = [np.searchsorted(n, x, "right") for n in nodes]
    pairs = [np.pad(w, 1)[[k, k + 1]].mean(axis=0) for k, w in zip(after, weights, strict=True)]
    return Density(x, each.mean(axis=0), error, np.mean(pairs, axis=0))


def _quadrature(m: Matrix, draws: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights ``(draws, steps)`` of Lanczos from random vectors."""
    rng = np.random.default_rng([SEED_SALT, seed])
    v = rng.standard_normal((m.p, draws))
    v = torch.as_tensor(v / np.linalg.norm(v, axis=0), device=m.work.device)
    basis, diagonal, beside = [v], [], []
    for _ in range(min(steps, m.p)):
        u = m.gram_times(basis[-1])
        diagonal.append((basis[-1] * u).sum(0))
        for _ in range(2):  # full reorthogonalization; without it, converged eigenvalues appear again
            for b in basis:
                u -= b * (b * u).sum(0)
        norm = u.norm(dim=0)
        norm = torch.where(norm > 1e-10, norm, 0.0)  # the Krylov space is exhausted: further nodes get no weight
        beside.append(norm)
        basis.append(torch.where(norm > 0, u / norm.clamp(min=1e-300), 0.0))
    t = torch.diag_embed(torch.stack(diagonal, 1))
    side = torch.diag_embed(torch.stack(beside[:-1], 1), 1)
    nodes, within = np.linalg.eigh((t + side + side.mT).cpu().numpy())
    return nodes, within[:, 0, :] ** 2
