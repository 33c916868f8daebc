"""The bulk of a spectrum: noise fitted to its middle, which a few strong directions do not move.

With p ≤ n the sides of a matrix, s its singular values and s² / n its eigenvalues, the noise has such a variance that
the median eigenvalue is the median of the Marchenko–Pastur law (Gavish and Donoho 2014, IEEE Trans. Inf. Theory 60).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import optimize

from .controls import control
from .gram import Matrix
from .random_matrices import ks_distance, mp_cdf, support, threshold

ROUNDING = 1e-10
"""Eigenvalues up to so much of the largest are rounding of a float32 decomposition."""


def noise_variance(values: np.ndarray, ratio: float) -> float:
    """Variance of the noise that the middle of a spectrum has: the median eigenvalue over that of the law.

    Args:
        values: all eigenvalues s² / n of a matrix.
        ratio: p / n, above 0 and at most 1.

    Returns:
        0 where the median is no more than `ROUNDING`, as where half of the directions are empty: there is no noise.

    Examples:
        >>> from lfmlib.structure.bulk import noise_variance
        >>> noise = 3 * np.random.default_rng(0).standard_normal((200, 400))
        >>> round(noise_variance(np.linalg.svd(noise, compute_uv=False) ** 2 / 400, 0.5) ** 0.5, 1)
        3.0
    """
    median = float(np.median(values))
    if median <= ROUNDING * values.max():
        return 0.0
    return median / optimize.brentq(lambda x: float(mp_cdf(x, ratio)) - 0.5, *support(ratio))


def noise_edge(values: np.ndarray, p: int, n: int) -> float:
    """The eigenvalue at which that noise ends, with its Tracy–Widom allowance of 99 %; where there is none, `ROUNDING`
    does.

    Args:
        values: all eigenvalues s² / n of a matrix.
        p, n: its sides, p ≤ n.
    """
    return max(noise_variance(values, p / n) * threshold(p, n) ** 2 / n, ROUNDING * float(values.max()))


def below_edge(singular_values: np.ndarray, shape: tuple[int, int]) -> int:
    """How many singular values are not beyond `noise_edge`.

    Args:
        singular_values: all of a matrix.
        shape: of the matrix.
    """
    p, n = sorted(shape)
    values = np.asarray(singular_values, dtype=np.float64) ** 2 / n
    return int((values <= noise_edge(values, p, n)).sum())


@dataclass(frozen=True)
class Bulk:
    """Noise fitted to the middle of a spectrum.

    Attributes:
        variance: variance of that noise over the variance of the entries.
        outliers: number of singular values beyond the edge of that noise, with its Tracy–Widom allowance.
        outlier_variance: share of the variance of the entries along their directions.
        ks: Kolmogorov–Smirnov distance of the other eigenvalues to the Marchenko–Pastur law of that scale; NaN where
            there is no noise.
    """

    variance: float
    outliers: int
    outlier_variance: float
    ks: float


def bulk(matrix) -> Bulk:
    """Fit noise to the middle of a spectrum: strong directions do not widen its edge, as they do that of `spectrum`.

    Args:
        matrix: as in `lfmlib.spectrum`, with its errors and its cost for an exact result.
    """
    m = Matrix(matrix)
    values = m.eigenvalues()
    scale = noise_variance(values, m.ratio)
    beyond = values > noise_edge(values, m.p, m.n)
    return Bulk(
        variance=scale,
        outliers=int(beyond.sum()),
        outlier_variance=float(values[beyond].sum() / values.sum()),
        ks=ks_distance(values[~beyond] / scale, m.ratio) if scale else math.nan,
    )


def bulks(matrices: Iterable, *, seed: int = 0) -> pd.DataFrame:
    """Medians of `bulk` over matrices, of their controls "rescaled", and of their controls "fresh".

    Args:
        matrices: as in `lfmlib.spectrum`, with its errors.
        seed: of the first matrix's controls; the next ones add 1 each.

    Returns:
        One row for each kind ("weights", "rescaled", "fresh"); columns: the attributes of `Bulk`.
    """
    rows = []
    for number, matrix in enumerate(matrices):
        kinds = {"weights": matrix} | {
            name: control(matrix, name, seed=seed + number) for name in ("rescaled", "fresh")
        }
        rows += [{"kind": name} | asdict(bulk(one)) for name, one in kinds.items()]
    return pd.DataFrame(rows).groupby("kind", sort=False).median().rename_axis(None)
