"""Compare the singular values of a matrix with those of noise, the laws of Marchenko–Pastur and Tracy–Widom.

Singular values beyond the edge of noise (`lfmlib.structure.random_matrices`) come from correlation or from unequal
scales of rows and columns; `lfmlib.structure.controls.rescaled` tells the two apart. The mean of all entries is always
subtracted first. p is the length of the smaller side, n that of the larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from ..options import check
from .controls import measure_controls
from .gram import Matrix
from .krylov import estimate, fast_null
from .random_matrices import effective_rank, ks_distance, null, threshold

MAX_EXACT_SIDE = 4096
"""Smaller side up to which `spectrum` computes every eigenvalue (at 4,096 in 4 s of one core)."""


@dataclass(frozen=True)
class Spectrum:
    """Figures of a spectrum. Singular values are those of the matrix less its mean, in the units of its entries.

    Attributes:
        edge: upper edge of the Marchenko–Pastur law, sigma (√r + √c), with sigma the standard deviation of *all*
            entries. Strong directions widen it too, so that strong ones can hide weak ones: a conservative choice.
        threshold: what is beyond it is counted: the edge with its Tracy–Widom allowance, see `threshold`.
        outliers: how many singular values lie beyond the threshold.
        outlier_share: their number over the smaller dimension.
        outlier_variance: sum of their squares over the sum of all squares: the share of the variance of the entries
            that the outlying directions carry, the noise along them included.
        beyond_variance: the same sum of what the squares exceed the squared threshold by. It does not jump where a
            singular value crosses the threshold, so that a matrix and its permuted entries can be compared.
        ks: Kolmogorov–Smirnov distance of the eigenvalues s² / (n sigma²) to the Marchenko–Pastur law of ratio p / n.
        top_ratio: largest singular value over the edge.
        stable_rank: sum of all squares over the largest.
        effective_rank: exp of the entropy of the shares s² / sum s², which says how the variance is spread (Roy and
            Vetterli 2007 take s / sum s). At most p; noise has p exp(-p / 2n), the limit of Page (1993, Phys. Rev.
            Lett. 71).
        exact: whether every eigenvalue was computed; if not, ks and effective_rank are estimates.
        controls: name of the control → its `Spectrum`, for each control asked for.
        null: figure → its central 95 % on Gaussian noise of the same shape, ``(low, high)``. Of each figure alone: for
            every figure one noise matrix in twenty lies outside.

    Examples:
        >>> found = lfmlib.spectrum(np.random.default_rng(0).standard_normal((256, 512)))
        >>> found.outliers, round(found.top_ratio, 2), round(found.edge / (16 + 512**0.5), 2)
        (0, 0.98, 1.0)
    """

    edge: float
    threshold: float
    outliers: int
    outlier_share: float
    outlier_variance: float
    beyond_variance: float
    ks: float
    top_ratio: float
    stable_rank: float
    effective_rank: float
    exact: bool
    null: Mapping[str, tuple[float, float]] = field(repr=False)
    controls: Mapping[str, Spectrum] = field(default_factory=dict, repr=False)


def spectrum(matrix, *, seed: int = 0, controls: str | Iterable[str] = (), exact: bool | None = None) -> Spectrum:
    """Compare the singular values of a matrix with those of noise.

    Computes the eigenvalues of the p × p Gram matrix, accumulated in float64 in blocks: time n p² + p³, memory some
    8 p² bytes beyond the matrix. Singular values below 1e-8 of the largest are lost in rounding; where products are
    made in float32 (`lfmlib.structure.gram.products_in`), below 3e-4 of their root mean square.

    If p exceeds `MAX_EXACT_SIDE`, it is `fast_spectrum`: ks and effective_rank are estimates, and the matrix is copied
    as float32 (a float64 one as float64).

    It runs on a GPU if there is one.

    Args:
        matrix: ``(r, c)``, torch tensor or numpy array of any floating type.
        controls: names of `lfmlib.structure.controls.CONTROLS` to measure in the same way, into ``controls`` of the
            result.
        seed: of the controls.
        exact: compute all eigenvalues; by default if the smaller side is at most `MAX_EXACT_SIDE`. If not, they are
            still computed where `fast_spectrum` says so, of the matrix and of each control: see ``exact`` of each.

    Raises:
        ValueError: not a matrix, too small, not floating, constant, or not finite; a control is unknown.

    Examples:
        >>> noise = np.random.default_rng(0).standard_normal((256, 512))
        >>> found = lfmlib.spectrum(noise + np.outer(np.sin(range(256)), np.cos(range(512))))
        >>> found.outliers, round(found.top_ratio, 2), round(found.outlier_variance, 2)
        (1, 4.25, 0.21)
    """
    check(seed=seed, controls=controls or ())
    m = Matrix(matrix)
    if exact is None:
        exact = m.p <= MAX_EXACT_SIDE
    alone = of_eigenvalues(m, m.eigenvalues()) if exact else fast_spectrum(m)[0]
    made = measure_controls(matrix, controls, lambda one: spectrum(one, exact=alone.exact), seed=seed)
    return replace(alone, controls=made)


def fast_spectrum(m: Matrix, *, seed: int = 0) -> tuple[Spectrum, dict[str, float]]:
    """`spectrum` without all eigenvalues: those beyond the edge, and estimates of what the others say.

    Eigenvalues beyond the edge, and the largest, are off by less than 1e-5 of the mean. ks and effective_rank are
    estimates from random vectors (`lfmlib.structure.krylov`), with nulls of their own that are wider than those of all
    eigenvalues; the scatter of the vectors is in ks as well, which makes it larger than that of all eigenvalues. Where
    many eigenvalues coincide, as those of a low rank at 0, ks comes out smaller, by up to half their share. Where more
    directions lie beyond the edge than `lfmlib.structure.krylov.MAX_STEPS` blocks find, and up to a smaller side
    of `lfmlib.structure.krylov.MIN_SIDE`, all eigenvalues are computed.

    Time: some 1,500 products for each entry. Memory: a float32 copy of the matrix (of a float64 one float64).

    Args:
        m: the matrix.
        seed: of the start vectors.

    Returns:
        The figures, without controls, and the standard errors of those that are estimates.

    Examples:
        >>> from lfmlib.structure.gram import Matrix
        >>> from lfmlib.structure.spectra import fast_spectrum
        >>> noise = np.random.default_rng(0).standard_normal((1100, 1200))
        >>> found, errors = fast_spectrum(Matrix(noise))
        >>> found.outliers, round(found.top_ratio, 2), sorted(errors)
        (0, 0.99, ['effective_rank', 'ks'])
    """
    found = estimate(m, limit(m), seed=seed)
    if found is None:
        return of_eigenvalues(m, m.eigenvalues()), {}
    bands = dict(null(m.p, m.n)) | dict(fast_null(m.p, m.n))
    figures = found.largest, found.outlying, found.ks, found.effective_rank
    return of_outlying(m, *figures, exact=False, bands=bands), dict(found.errors)


def limit(m: Matrix) -> float:
    """The eigenvalue beyond which outliers begin."""
    return threshold(m.p, m.n) ** 2 / m.n


def of_eigenvalues(m: Matrix, values: np.ndarray) -> Spectrum:
    """The figures of a matrix of which all eigenvalues are known, ascending; without controls."""
    ks, rank = ks_distance(values, m.ratio), effective_rank(values)
    return of_outlying(m, values[-1], values[values > limit(m)], ks, rank, exact=True, bands=null(m.p, m.n))


def of_outlying(
    m: Matrix,
    largest: float,
    outlying: np.ndarray,
    ks: float,
    rank: float,
    *,
    exact: bool,
    bands: Mapping[str, tuple[float, float]],
) -> Spectrum:
    """`Spectrum` from its largest eigenvalue, those beyond `limit`, and what all of them say."""
    top, edge = threshold(m.p, m.n), math.sqrt(m.p) + math.sqrt(m.n)
    return Spectrum(
        edge=m.std * edge,
        threshold=m.std * top,
        outliers=len(outlying),
        outlier_share=len(outlying) / m.p,
        outlier_variance=float(outlying.sum() / m.p),
        beyond_variance=float((outlying - top**2 / m.n).sum() / m.p),
        ks=ks,
        top_ratio=math.sqrt(m.n * largest) / edge,
        stable_rank=float(m.p / largest),
        effective_rank=rank,
        exact=exact,
        null=bands,
    )


def singular_values(matrix) -> np.ndarray:
    """All singular values of a matrix less its mean, float64 ``(p,)``, ascending.

    Args:
        matrix: as in `spectrum`, with its errors and its cost for an exact result.
    """
    m = Matrix(matrix)
    return m.std * np.sqrt(m.n * m.eigenvalues())


def top_ratio(matrix, overwrite: bool = False) -> float:
    """`Spectrum.top_ratio` alone: the largest singular value of a matrix less its mean, over the edge of noise.

    Args:
        matrix: as in `spectrum`, with its errors; copied as float32 (a float64 one as float64) if its smaller side
            exceeds 512.
        overwrite: a float32 tensor may be scaled in place instead of being copied.
    """
    m = Matrix(matrix, overwrite)
    largest = m.eigenvalues()[-1] if m.p <= 512 else m.largest()
    return math.sqrt(m.n * largest) / (math.sqrt(m.p) + math.sqrt(m.n))


def vectors(matrix, *, count: int = 10) -> pd.DataFrame:
    """Excess kurtosis of the entries of the leading singular vectors, which is about 0 for noise.

    A vector concentrated on a few rows or columns has a large one (about its length for a single entry; a sine wave has
    -1.5). The null is that of as many Gaussian values, since a uniformly random direction has such entries up to scale.

    Args:
        matrix: as in `spectrum`, with its errors; copied as float32 (a float64 one as float64).
        count: number of vectors of each side, below the smaller side of the matrix.

    Returns:
        One row per vector: rank (from 1), side ("left" has an entry for each row, "right" for each column),
        singular_value, top_ratio (singular value over the edge), excess_kurtosis, null_low, null_high (central 95 %).
    """
    m = Matrix(matrix)
    if not 1 <= count < m.p:
        raise ValueError(f"found count={count} for a matrix of smaller side {m.p}: ask for 1 to {m.p - 1} vectors")
    values, short = m.top(count)
    tall = m.work.T @ torch.as_tensor(short, device=m.work.device, dtype=m.work.dtype)
    sides = {"left": short, "right": tall.double().cpu().numpy()}
    if m.flipped:
        sides = {"left": sides["right"], "right": sides["left"]}
    found, edge = np.sqrt(m.n * values), math.sqrt(m.p) + math.sqrt(m.n)
    rows = []
    for rank, value in enumerate(found):
        for side, both in sides.items():
            z = both[:, rank] - both[:, rank].mean()
            kurtosis = np.mean(z**4) / np.mean(z**2) ** 2 - 3
            low, high = kurtosis_null(len(z))
            rows.append((rank + 1, side, m.std * value, value / edge, kurtosis, low, high))
    names = ["rank", "side", "singular_value", "top_ratio", "excess_kurtosis", "null_low", "null_high"]
    return pd.DataFrame(rows, columns=names)


def kurtosis_null(count: int) -> tuple[float, float]:
    """Central 95 % of the excess kurtosis of ``count`` Gaussian values (Anscombe and Glynn 1983), 20 or more."""
    n = max(count, 20)
    mean, var = -6 / (n + 1), 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    skew = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9)) * math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / skew * (2 / skew + math.sqrt(1 + 4 / skew**2))
    ends = []
    for z in (-1.959964, 1.959964):
        root = (1 - 2 / (9 * a) - z * math.sqrt(2 / (9 * a))) ** 3
        ends.append(mean + math.sqrt(var) * ((1 - 2 / a) / root - 1) / math.sqrt(2 / (a - 4)))
    return ends[0], ends[1]
