"""The edge of a large spectrum, and what the rest of it is like, from one block Krylov space.

Block Lanczos steps from random vectors (Golub and Underwood 1977) find the leading eigenvalues of the Gram matrix; by
the same numbers its distribution is known as from stochastic quadrature (Chen, Trogdon and Ubaru 2021, ICML), with an
error that the start vectors' scatter tells. A block of vectors takes little longer than one, since the matrix is read
once for all, and its largest eigenvalues, however close together, are found at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from scipy import linalg, special

from ..distribution.jackknife import jackknife_error
from .gram import SEED_SALT, Matrix
from .random_matrices import as_floats, mp_cdf, support

VECTORS = 16
"""Start vectors of a block."""
STEPS = 24
"""Blocks that are made before it is asked whether the leading eigenvalues are known, and again until they are."""
MAX_STEPS = 72
"""Blocks at most: beyond, all eigenvalues cost about as much."""
RESIDUAL = 0.02
"""Norm of what is left of an eigenvector's equation, at which its eigenvalue counts as known: in units of the mean
eigenvalue, of which it is off by the square of that over the distance to the others."""
EXHAUSTED = 1e-5
"""Size of what a block adds to the space, over the largest eigenvalue, below which it is rounding: the space holds
all eigenvalues then, but not how often, and the next blocks would be made of nothing."""
MIN_SIDE = 1024
"""Smaller side up to which all eigenvalues cost no more than this."""


@dataclass(frozen=True)
class Quadrature:
    """Eigenvalues of the Gram matrix restricted to a block Krylov space.

    Attributes:
        nodes: ascending, ``(k,)``.
        weights: of each start vector on each node, ``(vectors, k)``; the sum over nodes is 1.
        residuals: how far each node and its vector are from an eigenvalue and its vector, ``(k,)``.
    """

    nodes: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray

    @classmethod
    def of_blocks(cls, blocks: list[np.ndarray], beside: list[np.ndarray]) -> Quadrature:
        """Of a symmetric block tridiagonal matrix: its diagonal blocks, and those below them, the last of which leads
        out of it."""
        b, steps = len(blocks[0]), len(blocks)
        t = np.zeros((b * steps, b * steps))
        for i in range(steps):
            here = slice(i * b, (i + 1) * b)
            t[here, here] = blocks[i]
            if i + 1 < steps:
                t[(i + 1) * b : (i + 2) * b, here] = beside[i]  # eigh reads the lower triangle
        nodes, inside = np.linalg.eigh(t)
        return cls(nodes, inside[:b] ** 2, np.linalg.norm(beside[-1] @ inside[-b:], axis=0))

    def knows(self, limit: float) -> bool:
        """Whether all nodes beyond a limit, and the next one below it, are eigenvalues."""
        beyond = int((self.nodes > limit).sum())
        return bool((self.residuals[-beyond - 1 :] < RESIDUAL).all()) and beyond + 1 < len(self.nodes)

    def without(self, limit: float) -> tuple[np.ndarray, np.ndarray]:
        """Nodes up to a limit, and the weights of each start vector on them, which sum to 1."""
        kept = self.nodes <= limit
        weights = self.weights[:, kept]
        return self.nodes[kept], weights / weights.sum(1, keepdims=True)


def gauss_rule(nodes: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The Gauss quadrature of fewer nodes that a discrete distribution has, by Lanczos steps (Golub and Welsch 1969).

    A block's nodes come in clusters; those of the rule are spread as one start vector's are (see `steps_at`).

    Args:
        nodes, weights: of the distribution, ``(k,)`` each.
        count: nodes of the rule, at most.

    Returns:
        Nodes, ascending, and weights, ``(1, count)`` each.
    """
    basis = [np.sqrt(weights / weights.sum())]
    diagonal, beside = [], []
    for _ in range(count):
        more = nodes * basis[-1]
        diagonal.append(float(basis[-1] @ more))
        for _ in range(2):
            more -= np.array(basis).T @ (np.array(basis) @ more)
        beside.append(float(np.linalg.norm(more)))
        if beside[-1] < 1e-10:
            break
        basis.append(more / beside[-1])
    found, inside = linalg.eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1])
    return found[None], inside[:1] ** 2


def steps_at(x: np.ndarray, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distribution function of each rule at x, ``(rules, points)``: half of a node's weight counts as below it, as good
    as the distribution is smooth."""
    upto = np.cumsum(weights, axis=1) - weights / 2
    return np.stack([np.interp(x, n, u, left=0, right=1) for n, u in zip(nodes, upto, strict=True)])


def _said(nodes: np.ndarray, weights: np.ndarray, outlying: np.ndarray, m: tuple[int, int]) -> tuple[float, float]:
    """ks and effective_rank of a matrix of shape m, from `Quadrature.without` and the outlying eigenvalues."""
    nodes, weights = gauss_rule(nodes, weights.mean(0), STEPS)
    (p, n), rest = m, m[0] - len(outlying)
    x = np.append(nodes, support(p / n))
    ks = np.abs(rest / p * steps_at(x, nodes, weights)[0] - mp_cdf(x, p / n)).max()
    shares = np.maximum(nodes, 0) / p
    # the sum of the shares is known: normalizing them to it removes most of the scatter
    shares *= max(1 - outlying.sum() / p, 0) / max(rest * (weights * shares).sum(), 1e-12)
    entropy = special.entr(outlying / p).sum() + rest * (weights * special.entr(shares)).sum()
    return float(ks), math.exp(entropy)


@dataclass(frozen=True)
class Estimate:
    """What a block Krylov space tells of a spectrum.

    Attributes:
        largest: the largest eigenvalue.
        outlying: those beyond the limit that was asked for, ascending; off by less than 1e-5 of the mean.
        ks, effective_rank: as in `lfmlib.Spectrum`, estimates.
        errors: their standard errors, by name.
    """

    largest: float
    outlying: np.ndarray
    ks: float
    effective_rank: float
    errors: Mapping[str, float]


def estimate(m: Matrix, limit: float, *, seed: int = 0) -> Estimate | None:
    """What can be said of the eigenvalues of a matrix without computing all of them.

    Args:
        m: the matrix.
        limit: the eigenvalue beyond which all are wanted.
        seed: of the start vectors.

    Returns:
        None up to a smaller side of `MIN_SIDE`, where all eigenvalues cost no more, and where `MAX_STEPS` blocks do not
        tell which lie beyond the limit, or the space is `EXHAUSTED` before, as that of a low rank.
    """
    found = quadrature(m, limit, seed) if m.p > MIN_SIDE else None
    if found is None:
        return None
    outlying = found.nodes[found.nodes > limit]
    nodes, weights = found.without(limit)
    ks, rank = _said(nodes, weights, outlying, (m.p, m.n))
    left = np.array([_said(nodes, np.delete(weights, i, axis=0), outlying, (m.p, m.n)) for i in range(VECTORS)])
    errors = jackknife_error(left)
    named = {"ks": float(errors[0]), "effective_rank": float(errors[1])}
    return Estimate(float(found.nodes[-1]), outlying, ks, rank, named)


def quadrature(m: Matrix, limit: float, seed: int) -> Quadrature | None:
    """Of a matrix's eigenvalues; None where it is not told by `MAX_STEPS` blocks which of them lie beyond a limit."""
    rng = np.random.default_rng([SEED_SALT, seed])
    start = torch.as_tensor(rng.standard_normal((m.p, VECTORS)), device=m.work.device)
    basis, blocks, beside, largest = torch.linalg.qr(start)[0], [], [], 0.0
    for step in range(1, min(MAX_STEPS, m.p // (2 * VECTORS)) // STEPS * STEPS + 1):
        last = basis[:, -VECTORS:]
        more = m.gram_times(last)
        blocks.append((last.T @ more).cpu().numpy())
        largest = max(largest, float(np.abs(blocks[-1]).max()))
        for _ in range(2):  # full reorthogonalization; without it, converged eigenvalues appear again
            more -= basis @ (basis.T @ more)
        more, factor = torch.linalg.qr(more)
        beside.append(factor.cpu().numpy())
        if np.abs(np.diag(beside[-1])).min() < EXHAUSTED * largest:
            return None
        if step % STEPS == 0 and (found := Quadrature.of_blocks(blocks, beside)).knows(limit):
            return found
        basis = torch.cat([basis, more], dim=1)
    return None


def noise_quadrature(p: int, n: int, rng: np.random.Generator) -> Quadrature:
    """What `quadrature` gives of p × n noise, without making the noise: Householder reflections of blocks leave
    triangles of Gaussian and chi variables (the block form of `lfmlib.structure.random_matrices.tridiagonal_noise`)."""
    b, blocks, beside = VECTORS, [], []
    across = np.zeros((b, b))
    for i in range(STEPS):
        down = _triangle(n - i * b, b, rng).T
        blocks.append((across @ across.T + down @ down.T) / n)
        across = _triangle(p - (i + 1) * b, b, rng)
        beside.append(across @ down.T / n)
    return Quadrature.of_blocks(blocks, beside)


def _triangle(length: int, b: int, rng: np.random.Generator) -> np.ndarray:
    """The upper triangle of the QR decomposition of a Gaussian matrix ``(length, b)``."""
    found = np.triu(rng.standard_normal((b, b)), 1)
    np.fill_diagonal(found, np.sqrt(rng.chisquare(length - np.arange(b))))
    return found


def simulate(p: int, n: int, draws: int) -> np.ndarray:
    """√p ks and (effective_rank - p exp(-p / 2n)) / √p of p × n noise by `noise_quadrature`, ``(draws, 2)``."""
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        one = noise_quadrature(p, n, rng)
        ks, rank = _said(*one.without(math.inf), np.empty(0), (p, n))
        found.append((math.sqrt(p) * ks, (rank - p * math.exp(-p / n / 2)) / math.sqrt(p)))
    return np.array(found)


@lru_cache(maxsize=1024)
def fast_null(p: int, n: int) -> Mapping[str, tuple[float, float]]:
    """Central 95 % of ks and effective_rank of `estimate` on p × n noise.

    The scatter of the start vectors, which outweighs that of noise, falls with 1 / √p and depends on the ratio p / n
    alone: from a table for p = 2,048. Below its smallest ratio effective_rank scatters in proportion to the ratio.
    """
    ratios, *columns = _table()
    at = max(math.log(p / n), ratios[0])
    bounds = np.array([np.interp(at, ratios, column) for column in columns])
    rank = bounds[2:] * math.sqrt(p) * (p / n) / math.exp(at)
    return {"ks": as_floats(bounds[:2] / math.sqrt(p)), "effective_rank": as_floats(p * math.exp(-p / n / 2) + rank)}


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """Rows log(p / n); low and high end of √p ks; low and high end of the second figure of `simulate`.

    Written by ``python -m lfmlib.structure.calibrate``.
    """
    with (resources.files("lfmlib.structure") / "nulls_krylov.csv").open(encoding="utf-8") as file:
        ratio, *columns = np.loadtxt(file, delimiter=",", skiprows=1).T
    return np.array([np.log(ratio), *columns])
