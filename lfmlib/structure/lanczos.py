"""Stochastic Lanczos quadrature, with error bars: the spectrum of matrices too large to compute all eigenvalues of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import special

from .gram import SEED_SALT, Matrix
from .random_matrices import as_floats, mp_cdf, support, tridiagonal_noise

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
    nodes, weights = quadrature(Matrix(matrix), draws, steps, seed)
    order = np.argsort(nodes, axis=None)
    x = nodes.ravel()[order]
    each = steps_at(x, nodes, weights)
    error = each.std(axis=0, ddof=1) / math.sqrt(draws)
    after = [np.searchsorted(n, x, "right") for n in nodes]
    pairs = [np.pad(w, 1)[[k, k + 1]].mean(axis=0) for k, w in zip(after, weights, strict=True)]
    return Density(x, each.mean(axis=0), error, np.mean(pairs, axis=0))


def estimates(nodes, weights, outlying: np.ndarray, p: int, n: int) -> tuple[float, float]:
    """ks and effective_rank of a p × n matrix.

    Args:
        nodes, weights: quadrature ``(draws, steps)`` of the eigenvalues without the outlying ones.
        outlying: the outlying eigenvalues.
        p, n: shape of the matrix.
    """
    rest = p - len(outlying)
    x = np.append(nodes.ravel(), support(p / n))
    ks = np.abs(rest / p * steps_at(x, nodes, weights).mean(axis=0) - mp_cdf(x, p / n)).max()
    shares = np.maximum(nodes, 0) / p
    # the sum of the shares is known: normalizing them to it removes most of the scatter
    total = rest * (weights * shares).sum(-1).mean()
    shares *= max(1 - outlying.sum() / p, 0) / max(total, 1e-12)  # 0 if the outliers carry all variance
    entropy = special.entr(outlying / p).sum() + rest * (weights * special.entr(shares)).sum(-1).mean()
    return float(ks), math.exp(entropy)


def quadrature(m: Matrix, draws: int, steps: int, seed: int, known: np.ndarray | None = None):
    """Nodes and weights ``(draws, steps)`` of Lanczos from random vectors orthogonal to the columns of ``known``."""
    rng = np.random.default_rng([SEED_SALT, seed])
    v = rng.standard_normal((m.p, draws))
    if known is not None:
        v -= known @ (known.T @ v)
    v = torch.as_tensor(v / np.linalg.norm(v, axis=0), device=m.work.device)
    basis, diagonal, beside = [v], [], []
    for _ in range(min(steps, m.p)):
        u = m.gram_times(basis[-1])
        diagonal.append((basis[-1] * u).sum(0))
        for _ in range(2):  # full reorthogonalization; without it, converged eigenvalues appear again
            for b in basis:
                u -= b * (b * u).sum(0)
        if known is not None:
            k = torch.as_tensor(known, device=u.device)
            u -= k @ (k.T @ u)
        norm = u.norm(dim=0)
        norm = torch.where(norm > 1e-10, norm, 0.0)  # the Krylov space is exhausted: further nodes get no weight
        beside.append(norm)
        basis.append(torch.where(norm > 0, u / norm.clamp(min=1e-300), 0.0))
    t = torch.diag_embed(torch.stack(diagonal, 1))
    side = torch.diag_embed(torch.stack(beside[:-1], 1), 1)
    nodes, within = np.linalg.eigh((t + side + side.mT).cpu().numpy())
    return nodes, within[:, 0, :] ** 2


def steps_at(x: np.ndarray, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distribution function of each draw at ascending x, ``(draws, points)``; half of a node's weight is below it."""
    upto = np.cumsum(weights, axis=1) - weights / 2
    return np.stack([np.interp(x, n, u, left=0, right=1) for n, u in zip(nodes, upto, strict=True)])


@lru_cache(maxsize=64)
def null_quadrature(p: int, n: int, reps: int = 1000) -> Mapping[str, tuple[float, float]]:
    """Central 95 % of ks and effective_rank from quadrature on p × n noise, wider than those from all eigenvalues.

    Lanczos on noise gives a tridiagonal matrix of independent chi variables, which is drawn without making the noise.
    """
    steps = min(STEPS, p)
    t, i, found = np.zeros((DRAWS, steps, steps)), np.arange(steps), []
    for diagonal, beside in zip(*tridiagonal_noise(p, n, steps, (reps, DRAWS)), strict=True):
        t[:, i, i], t[:, i[1:], i[:-1]] = diagonal, beside  # eigh reads the lower triangle
        nodes, within = np.linalg.eigh(t)
        found.append(estimates(nodes, within[:, 0, :] ** 2, np.empty(0), p, n))
    ks, rank = np.quantile(found, [0.025, 0.975], axis=0).T
    return {"ks": as_floats(ks), "effective_rank": as_floats(rank)}
