"""The spectrum of a matrix too large to compute all eigenvalues of: stochastic Lanczos quadrature, with error bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import special

from .gram import SALT, Matrix
from .random_matrices import ends, mp_cdf, support, tridiagonal_noise

DRAWS = 8
"""Random starts of a Lanczos quadrature."""
STEPS = 64
"""Lanczos steps from each start."""


@dataclass(frozen=True)
class Density:
    """Estimated distribution function of the eigenvalues s² / (n sigma²), to be laid beside `mp_cdf`.

    Attributes:
        x: float64 ``(draws * steps,)``, ascending.
        cdf: share of the eigenvalues up to x.
        error: standard error of ``cdf``, from the scatter of the draws.
        resolution: what the finite number of steps can hide: half the width of the interval that is certain to hold a
            start's own measure (Chebyshev–Markov–Stieltjes), averaged over the draws. Many times too large for smooth
            spectra, but needed where many eigenvalues coincide.
    """

    x: np.ndarray
    cdf: np.ndarray
    error: np.ndarray
    resolution: np.ndarray


def density(matrix, *, draws: int = DRAWS, steps: int = STEPS, seed: int = 0) -> Density:
    """Estimate the distribution function of the eigenvalues without computing them.

    Stochastic Lanczos quadrature (Chen, Trogdon and Ubaru 2021, ICML): from each random start, the quadrature nodes
    and weights of some Lanczos steps stand for the spectrum; node k counts half below itself. The error falls as
    1 / √(p draws), so it is for large matrices. Time ``draws * steps`` products with the matrix and its transpose.

    Args:
        matrix: as in `spectrum`, with its errors; copied as float32 (float64 if it has that type).
        draws: random starts, at least 2.
        steps: Lanczos steps of each, at least 2; no more than p are made.
        seed: of the starts.
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
    """ks and effective_rank from the quadrature ``(draws, steps)`` of all but the outlying eigenvalues."""
    rest = p - len(outlying)
    x = np.append(nodes.ravel(), support(p / n))
    ks = np.abs(rest / p * steps_at(x, nodes, weights).mean(axis=0) - mp_cdf(x, p / n)).max()
    shares = np.maximum(nodes, 0) / p
    # what the shares sum to is known: holding them to it takes most of the scatter away
    total = rest * (weights * shares).sum(-1).mean()
    shares *= max(1 - outlying.sum() / p, 0) / max(total, 1e-12)  # nothing is left where all variance is outlying
    entropy = special.entr(outlying / p).sum() + rest * (weights * special.entr(shares)).sum(-1).mean()
    return float(ks), math.exp(entropy)


def quadrature(m: Matrix, draws: int, steps: int, seed: int, known: np.ndarray | None = None):
    """Nodes and weights ``(draws, steps)`` of Lanczos from random starts, orthogonal to the ``known`` vectors."""
    rng = np.random.default_rng([SALT, seed])
    v = rng.standard_normal((m.p, draws))
    if known is not None:
        v -= known @ (known.T @ v)
    v = torch.as_tensor(v / np.linalg.norm(v, axis=0), device=m.work.device)
    basis, diagonal, beside = [v], [], []
    for _ in range(min(steps, m.p)):
        u = m.gram_times(basis[-1])
        diagonal.append((basis[-1] * u).sum(0))
        for _ in range(2):  # full reorthogonalisation: without it, converged eigenvalues come back as ghosts
            for b in basis:
                u -= b * (b * u).sum(0)
        if known is not None:
            k = torch.as_tensor(known, device=u.device)
            u -= k @ (k.T @ u)
        norm = u.norm(dim=0)
        norm = torch.where(norm > 1e-10, norm, 0.0)  # the start's space is exhausted: what follows gets no weight
        beside.append(norm)
        basis.append(torch.where(norm > 0, u / norm.clamp(min=1e-300), 0.0))
    t = torch.diag_embed(torch.stack(diagonal, 1))
    side = torch.diag_embed(torch.stack(beside[:-1], 1), 1)
    nodes, within = np.linalg.eigh((t + side + side.mT).cpu().numpy())
    return nodes, within[:, 0, :] ** 2


def steps_at(x: np.ndarray, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distribution function of each draw at ascending x, ``(draws, points)``: half of a node's weight lies below it."""
    upto = np.cumsum(weights, axis=1) - weights / 2
    return np.stack([np.interp(x, n, u, left=0, right=1) for n, u in zip(nodes, upto, strict=True)])


@lru_cache(maxsize=64)
def null_quadrature(p: int, n: int, reps: int = 1000) -> Mapping[str, tuple[float, float]]:
    """Central 95 % of what quadrature finds on noise, wider than that of all eigenvalues.

    Lanczos on noise gives a tridiagonal matrix of independent chi variables, so the size of the matrix costs nothing.
    """
    steps = min(STEPS, p)
    t, i, found = np.zeros((DRAWS, steps, steps)), np.arange(steps), []
    for diagonal, beside in zip(*tridiagonal_noise(p, n, steps, (reps, DRAWS)), strict=True):
        t[:, i, i], t[:, i[1:], i[:-1]] = diagonal, beside  # eigh reads the lower triangle
        nodes, within = np.linalg.eigh(t)
        found.append(estimates(nodes, within[:, 0, :] ** 2, np.empty(0), p, n))
    ks, rank = np.quantile(found, [0.025, 0.975], axis=0).T
    return {"ks": ends(ks), "effective_rank": ends(rank)}
