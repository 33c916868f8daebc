"""What the singular values of a matrix say: Marchenko–Pastur and Tracy–Widom against the weights.

Independent entries of one variance have a spectrum that is known before it is measured: its bulk follows the law of
Marchenko and Pastur (1967), and the largest singular value sits at the edge of that bulk, with fluctuations of the law
of Tracy and Widom. What lies beyond is structure: correlation, or unequal scales of rows and columns; `rescaled` tells
the two apart. Throughout, the mean of all entries is removed first, and the smaller side has p, the larger n entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
import torch
from scipy import linalg, sparse, special

TRACY_WIDOM = {0.025: -3.5158536, 0.975: 1.4537714, 0.99: 2.0234493}
"""Quantiles of the Tracy–Widom law for real matrices: roots of its Fredholm determinant, evaluated as in Bornemann
(2010, Math. Comp. 79). Johnstone (2001) prints 2.02 at 99 %."""
EXACT = 4096
"""Smaller side up to which `spectrum` computes every eigenvalue (11 s of one core there)."""
SIMULATED = 128
"""Smaller side up to which the null is simulated at the matrix's own size."""
DRAWS = 8
"""Random starts of a Lanczos quadrature."""
STEPS = 64
"""Lanczos steps from each start."""
_TW_MEAN, _TW_VAR = -1.2065336, 1.6077810
_GROWTH = 0.40  # of p * ks per unit of log(p) on noise, measured from p = 64 to 1024 at ratios 1, 0.5 and 0.1
_MOST = 256  # outliers beyond this number are not looked for one by one
_SALT = 1967  # with the seed of random starts, so that they are not those numbers that made the matrix
_BLOCK = 1 << 22  # entries converted to float64 at a time


@dataclass(frozen=True)
class Spectrum:
    """Figures of a spectrum. Singular values are those of the matrix less its mean, in the units of its entries.

    Attributes:
        edge: upper edge of the Marchenko–Pastur law, sigma (√r + √c), with sigma the standard deviation of *all*
            entries. Outliers widen it too, so that strong ones can hide weak ones: a conservative choice.
        threshold: where outliers begin: the edge with its Tracy–Widom allowance, see `threshold`.
        outliers: how many singular values lie beyond the threshold.
        outlier_share: their number over the smaller dimension.
        outlier_variance: the sum of their squares over the sum of all squares, that is, the share of the variance of
            the entries that the outlying directions carry (including the noise that falls on them).
        ks: Kolmogorov–Smirnov distance of the eigenvalues s² / (n sigma²) to the Marchenko–Pastur law of ratio p / n.
        top_ratio: largest singular value over the edge.
        stable_rank: sum of all squares over the largest.
        effective_rank: exp of the entropy of the shares s² / sum s² (Roy and Vetterli 2007, there of s / sum s; of
            squares here, so that it tells how the variance is spread). At most p; noise has p exp(-p / 2n), the limit
            of Page (1993, Phys. Rev. Lett. 71).
        exact: whether every eigenvalue was computed; if not, ks and effective_rank are estimates.
        null: for each figure that noise leaves any room for, the central 95 % on Gaussian noise of the same shape, as
            ``(low, high)``. Pointwise: one noise matrix in twenty lies outside for each figure.
    """

    edge: float
    threshold: float
    outliers: int
    outlier_share: float
    outlier_variance: float
    ks: float
    top_ratio: float
    stable_rank: float
    effective_rank: float
    exact: bool
    null: Mapping[str, tuple[float, float]]


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


def spectrum(matrix, *, exact: bool | None = None) -> Spectrum:
    """Compare the singular values of a matrix with those of noise.

    Eigenvalues of the p x p Gram matrix, accumulated in float64 in blocks: time n p² + p³, memory some 24 p² bytes
    beyond the matrix. Singular values below 1e-8 of the largest drown in rounding.

    Where p is beyond `EXACT`, the outlying singular values come from Lanczos iterations (`scipy.sparse.linalg.eigsh`),
    ks and effective_rank from stochastic Lanczos quadrature of the rest, and the matrix is copied as float32 (float64
    if it has that type). More than 256 outliers are not worth that, and everything is computed after all.

    It runs on the GPU if the tensor is there or there is one.

    Args:
        matrix: ``(r, c)``, torch tensor or numpy array of any floating type.
        exact: compute all eigenvalues; by default, if the smaller side is at most `EXACT`.

    Raises:
        ValueError: not a matrix, too small, not floating, constant, or with non-finite entries.
    """
    m = _Matrix(matrix)
    shape, top = (m.p, m.n), threshold(m.p, m.n)
    if exact is None:
        exact = m.p <= EXACT
    found = None if exact else _outlying(m, top**2 / m.n)
    null = dict(_null(*shape))
    if found is None:
        exact, values = True, m.eigenvalues()
        outlying, largest = values[values > top**2 / m.n], values[-1]
        ks, rank = _ks(values, m.ratio), _effective_rank(values)
    else:
        (largest, *_), outlying, known = found
        ks, rank = _estimates(*_quadrature(m, DRAWS, STEPS, 0, known), outlying, *shape)
        null |= _null_quadrature(*shape)
    edge = math.sqrt(m.p) + math.sqrt(m.n)
    return Spectrum(
        edge=m.std * edge,
        threshold=m.std * top,
        outliers=len(outlying),
        outlier_share=len(outlying) / m.p,
        outlier_variance=float(outlying.sum() / m.p),
        ks=ks,
        top_ratio=math.sqrt(m.n * largest) / edge,
        stable_rank=float(m.p / largest),
        effective_rank=rank,
        exact=exact,
        null=null,
    )


def singular_values(matrix) -> np.ndarray:
    """All singular values of a matrix less its mean, float64 ``(p,)``, ascending, through its Gram matrix.

    Args:
        matrix: as in `spectrum`, with its errors and its cost for an exact result.
    """
    m = _Matrix(matrix)
    return m.std * np.sqrt(m.n * m.eigenvalues())


def threshold(rows: int, columns: int, quantile: float = 0.99) -> float:
    """Quantile of the largest singular value of noise of unit variance.

    The square is centred at (√(r - ½) + √(c - ½))² and scaled as in Ma (2012, Bernoulli 18), the refinement of
    Johnstone (2001, Ann. Stat. 29) whose error falls as p^(-2/3) and that treats rows and columns alike. It holds for
    a known sigma; with sigma measured on the same entries the largest value scatters a little less (Nadler 2011, J.
    Multivariate Anal. 102), so that slightly fewer noise matrices than stated lie beyond: 0.75 % instead of 1 %
    at 96 x 192; below p = 16 the gap widens, and hardly any noise is taken for structure.

    Args:
        rows, columns: the shape.
        quantile: one of `TRACY_WIDOM`.
    """
    centre, scale = _edge_law(rows, columns)
    return math.sqrt(centre + TRACY_WIDOM[quantile] * scale)


def mp_cdf(x, ratio: float) -> np.ndarray:
    """Distribution function of the Marchenko–Pastur law in closed form.

    Args:
        x: eigenvalues in units of n sigma², any shape.
        ratio: p / n, above 0 and at most 1.
    """
    low, high = _support(ratio)
    x = np.clip(x, low, high)
    arc = np.sqrt((high - x) * (x - low))  # arctan2 keeps both ends of the support, where arc is 0, out of trouble
    turns = (1 + ratio) * np.arctan2(low + high - 2 * x, 2 * arc)
    turns -= (1 - ratio) * np.arctan2(2 * low * high - (low + high) * x, 2 * (1 - ratio) * arc)
    return np.clip(0.5 + (arc - turns) / (2 * np.pi * ratio), 0, 1)


def mp_pdf(x, ratio: float) -> np.ndarray:
    """Density of the Marchenko–Pastur law; arguments as in `mp_cdf`. Unbounded at 0 for square matrices."""
    low, high = _support(ratio)
    x = np.asarray(x, np.float64)
    inside = (x > low) & (x < high)
    at = np.where(inside, x, 1)
    return np.where(inside, np.sqrt(np.abs((high - at) * (at - low))) / (2 * np.pi * ratio * at), 0)


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
    nodes, weights = _quadrature(_Matrix(matrix), draws, steps, seed)
    order = np.argsort(nodes, axis=None)
    x = nodes.ravel()[order]
    each = _steps(x, nodes, weights)
    error = each.std(axis=0, ddof=1) / math.sqrt(draws)
    after = [np.searchsorted(n, x, "right") for n in nodes]
    pairs = [np.pad(w, 1)[[k, k + 1]].mean(axis=0) for k, w in zip(after, weights, strict=True)]
    return Density(x, each.mean(axis=0), error, np.mean(pairs, axis=0))


def rescaled(matrix, *, tolerance: float = 1e-6, most: int = 200) -> torch.Tensor:
    """Divide out the scales of rows and columns, so that every row and column has root mean square 1.

    Alternating normalisation (Sinkhorn and Knopp 1967, on the squared entries), a few rounds unless zeros are many.
    What a spectrum shows beyond noise and loses here came from unequal scales; what stays is correlation.

    Args:
        matrix: as in `spectrum`, with its errors. The mean is left in; rows and columns of zeros are passed over.
        tolerance: stop when no scale changes by more than this share.
        most: stop after so many rounds; some patterns of zeros have no solution, and come out partly scaled.

    Returns:
        float64 ``(r, c)``, on the matrix's device.
    """
    m = _Matrix(matrix)
    values = m.given.to(torch.float64)  # a copy unless it is float64, so never changed in place
    filled = [values.any(dim=axis).sum() for axis in (0, 1)]  # columns and rows that are not all zero
    for _ in range(most):
        change = 0.0
        for axis, others in ((1, filled[0]), (0, filled[1])):
            scale = (values.square().sum(dim=axis, keepdim=True) / others).sqrt()
            scale = torch.where(scale > 0, scale, 1.0)
            values = values / scale
            change = max(change, float((scale - 1).abs().max()))
        if change <= tolerance:
            break
    return values


def vectors(matrix, *, count: int = 10) -> pd.DataFrame:
    """How Gaussian the entries of the leading singular vectors are: those of noise are spread over all entries.

    A vector that sits on a few rows or columns has a large excess kurtosis (-1.5 for a wave, up to its length for one
    entry). The null is that of as many Gaussian values, which those of a uniformly random direction are up to scale.

    Args:
        matrix: as in `spectrum`, with its errors; copied as float32 (float64 if it has that type).
        count: how many, below the smaller side.

    Returns:
        One row per vector: rank (from 1), side ("left" has an entry for each row, "right" for each column),
        singular_value, top_ratio (over the edge), excess_kurtosis, null_low, null_high (central 95 % for each).
    """
    m = _Matrix(matrix)
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
    """Central 95 % of the excess kurtosis of Gaussian values (Anscombe and Glynn 1983; good from about 20 values)."""
    n = max(count, 20)
    mean, var = -6 / (n + 1), 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    skew = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9)) * math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / skew * (2 / skew + math.sqrt(1 + 4 / skew**2))
    ends = []
    for z in (-1.959964, 1.959964):
        root = (1 - 2 / (9 * a) - z * math.sqrt(2 / (9 * a))) ** 3
        ends.append(mean + math.sqrt(var) * ((1 - 2 / a) / root - 1) / math.sqrt(2 / (a - 4)))
    return ends[0], ends[1]


class _Matrix:
    """A checked matrix, seen with its smaller side first; eigenvalues are in units of n sigma², so their mean is 1."""

    def __init__(self, matrix):
        w = _tensor(matrix)
        if w.ndim != 2:
            raise ValueError(f"found shape {tuple(w.shape)}: a spectrum needs a matrix; reshape it to (rows, columns)")
        if min(w.shape) < 2 or w.numel() < 64:
            raise ValueError(
                f"found a matrix of shape {tuple(w.shape)}: a spectrum needs at least 2 rows, "
                "2 columns and 64 entries; leave vectors and tiny matrices out"
            )
        self.given, self.flipped = w, w.shape[0] > w.shape[1]
        self.w = w.T if self.flipped else w
        self.p, self.n = self.w.shape
        self.ratio = self.p / self.n
        self.mean = 0.0
        sums = torch.stack([torch.stack([block.sum(), block.min(), block.max()]) for block in self.blocks()]).cpu()
        if not torch.isfinite(sums).all():
            bad = sum(int((~torch.isfinite(block)).sum()) for block in self.blocks())
            raise ValueError(f"found {bad} non-finite of {w.numel()} entries: replace or drop NaN and infinity first")
        if sums[:, 1].min() == sums[:, 2].max():
            raise ValueError(f"found a constant matrix, every entry {sums[0, 1]:g}: leave it out, nothing varies")
        self.mean = float(sums[:, 0].sum()) / w.numel()
        self.std = math.sqrt(sum(float(block.square().sum()) for block in self.blocks()) / w.numel())

    def blocks(self) -> Iterator[torch.Tensor]:
        """Columns of the matrix less its mean, as float64 ``(p, some)``."""
        width = max(1, _BLOCK // self.p)
        for start in range(0, self.n, width):
            yield self.w[:, start : start + width].to(torch.float64) - self.mean

    def eigenvalues(self) -> np.ndarray:
        """All of them, ascending, float64 ``(p,)``."""
        gram = torch.zeros(self.p, self.p, dtype=torch.float64, device=self.w.device)
        for block in self.blocks():
            block /= self.std
            gram.addmm_(block, block.T)
        return np.maximum(torch.linalg.eigvalsh(gram.div_(self.n)).cpu().numpy(), 0)

    @cached_property
    def work(self) -> torch.Tensor:
        """``(p, n)``, of zero mean and scaled so that its singular values are the roots of the eigenvalues."""
        dtype = torch.float64 if self.w.dtype == torch.float64 else torch.float32
        scale = self.std * math.sqrt(self.n)
        return torch.cat([(block / scale).to(dtype) for block in self.blocks()], 1)

    def gram_times(self, v: torch.Tensor) -> torch.Tensor:
        """The Gram matrix times columns ``(p, k)``, float64."""
        v = v.to(self.work.dtype)
        return (self.work @ (self.work.T @ v)).to(torch.float64)

    def top(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The largest eigenvalues, descending, and their unit vectors ``(p, count)``."""
        rng = np.random.default_rng(_SALT)  # ARPACK's own start is random

        def times(v):
            return self.gram_times(torch.as_tensor(v, device=self.work.device)).cpu().numpy()

        operator = sparse.linalg.LinearOperator((self.p, self.p), matvec=times, dtype=np.float64)
        tolerance = 1e-10 if self.work.dtype == torch.float64 else 1e-6  # below the products' own rounding it stalls
        start = rng.standard_normal(self.p)
        values, found = sparse.linalg.eigsh(operator, k=count, which="LA", v0=start, tol=tolerance)
        return values[::-1], found[:, ::-1].copy()


def _tensor(matrix) -> torch.Tensor:
    """The input as a floating tensor, on the GPU if there is one; a numpy array is copied, as it may be read-only."""
    if not isinstance(matrix, torch.Tensor):
        array = np.asarray(matrix)
        if array.dtype.name.startswith(("bfloat16", "float8")):  # ml_dtypes, which torch does not read
            array = array.astype(np.float32)
        elif array.dtype == np.longdouble:
            array = array.astype(np.float64)
        if array.dtype.kind != "f":
            raise ValueError(f"found entries of type {array.dtype}: a spectrum needs floating numbers; convert them")
        matrix = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="K"))
    if not matrix.dtype.is_floating_point:
        raise ValueError(f"found entries of type {matrix.dtype}: a spectrum needs floating numbers; convert them")
    return matrix.detach().to("cuda" if matrix.device.type == "cpu" and torch.cuda.is_available() else matrix.device)


def _support(ratio: float) -> tuple[float, float]:
    return (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2


def _edge_law(p: int, n: int) -> tuple[float, float]:
    """Centre and scale of the largest eigenvalue of W Wᵀ for unit variance (Ma 2012)."""
    a, b = math.sqrt(p - 0.5), math.sqrt(n - 0.5)
    return (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)


def _ks(values: np.ndarray, ratio: float) -> float:
    """KS distance of ascending eigenvalues to the Marchenko–Pastur law."""
    law, p = mp_cdf(values, ratio), len(values)
    return float(max(np.max(np.arange(1, p + 1) / p - law), np.max(law - np.arange(p) / p)))


def _ends(pair: np.ndarray) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def _effective_rank(values: np.ndarray) -> float:
    return math.exp(special.entr(values / values.sum()).sum())


def _estimates(nodes, weights, outlying: np.ndarray, p: int, n: int) -> tuple[float, float]:
    """ks and effective_rank from the quadrature ``(draws, steps)`` of all but the outlying eigenvalues."""
    rest = p - len(outlying)
    x = np.append(nodes.ravel(), _support(p / n))
    ks = np.abs(rest / p * _steps(x, nodes, weights).mean(axis=0) - mp_cdf(x, p / n)).max()
    shares = np.maximum(nodes, 0) / p
    # what the shares sum to is known: holding them to it takes most of the scatter away
    total = rest * (weights * shares).sum(-1).mean()
    shares *= max(1 - outlying.sum() / p, 0) / max(total, 1e-12)  # nothing is left where all variance is outlying
    entropy = special.entr(outlying / p).sum() + rest * (weights * special.entr(shares)).sum(-1).mean()
    return float(ks), math.exp(entropy)


def _outlying(m: _Matrix, limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Leading eigenvalues, those beyond the limit, and their vectors; None where there are too many to look for."""
    count = 8
    while count <= _MOST and count < m.p:
        values, found = m.top(count)
        if values[-1] <= limit:
            beyond = values > limit
            return values, values[beyond], found[:, beyond]
        count *= 4
    return None


def _quadrature(m: _Matrix, draws: int, steps: int, seed: int, known: np.ndarray | None = None):
    """Nodes and weights ``(draws, steps)`` of Lanczos from random starts, orthogonal to the ``known`` vectors."""
    rng = np.random.default_rng([_SALT, seed])
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


def _steps(x: np.ndarray, nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distribution function of each draw at ascending x, ``(draws, points)``: half of a node's weight lies below it."""
    upto = np.cumsum(weights, axis=1) - weights / 2
    return np.stack([np.interp(x, n, u, left=0, right=1) for n, u in zip(nodes, upto, strict=True)])


@lru_cache(maxsize=1024)
def _null(p: int, n: int) -> Mapping[str, tuple[float, float]]:
    """Central 95 % on noise: simulated up to `SIMULATED`; beyond, figures of that size scaled, or Tracy–Widom.

    p * ks grows by 0.40 log(p), effective_rank scatters by the same number about p exp(-p / 2n) at every size.
    """
    small = min(p, SIMULATED)
    ks, rank, top = np.quantile(_simulate(small, round(small * n / p)), [0.025, 0.975], axis=0).T
    centre = p * math.exp(-p / n / 2)
    edge = math.sqrt(p) + math.sqrt(n)
    if p > SIMULATED:
        mean, scale = _edge_law(p, n)
        # sigma is measured on the same entries, which takes a little of the scatter away (Nadler 2011)
        shrink = math.sqrt(1 - 2 / (n * p) * (mean / scale) ** 2 / _TW_VAR)
        top = np.array([mean + scale * (_TW_MEAN + shrink * (TRACY_WIDOM[q] - _TW_MEAN)) for q in (0.025, 0.975)]) / n
    ratio = np.sqrt(n * top) / edge
    return {
        "outliers": (0, 0),  # 99 % of noise has none
        "outlier_share": (0.0, 0.0),
        "outlier_variance": (0.0, 0.0),
        "ks": _ends((ks * small + _GROWTH * math.log(p / small)) / p),
        "top_ratio": _ends(ratio),
        "stable_rank": _ends(p / top[::-1]),
        "effective_rank": _ends(centre + rank),
    }


@lru_cache(maxsize=256)
def _simulate(p: int, n: int, draws: int = 1000) -> np.ndarray:
    """ks, effective_rank less p exp(-p / 2n), and largest eigenvalue of noise, ``(draws, 3)``."""
    figures = []
    for diagonal, beside in zip(*_noise(p, n, p, (draws,)), strict=True):
        values = np.maximum(linalg.eigvalsh_tridiagonal(diagonal, beside), 0)
        values *= p / values.sum()
        figures.append((_ks(values, p / n), _effective_rank(values) - p * math.exp(-p / n / 2), values[-1]))
    return np.array(figures)


@lru_cache(maxsize=64)
def _null_quadrature(p: int, n: int, reps: int = 200) -> Mapping[str, tuple[float, float]]:
    """Central 95 % of what quadrature finds on noise, wider than that of all eigenvalues.

    Lanczos on noise gives a tridiagonal matrix of independent chi variables, so the size of the matrix costs nothing.
    """
    steps = min(STEPS, p)
    t = np.zeros((reps, DRAWS, steps, steps))
    i = np.arange(steps)
    t[..., i, i], t[..., i[1:], i[:-1]] = _noise(p, n, steps, (reps, DRAWS))  # eigh reads the lower triangle
    nodes, within = np.linalg.eigh(t)
    found = [_estimates(*one, np.empty(0), p, n) for one in zip(nodes, within[:, :, 0, :] ** 2, strict=True)]
    ks, rank = np.quantile(found, [0.025, 0.975], axis=0).T
    return {"ks": _ends(ks), "effective_rank": _ends(rank)}


def _noise(p: int, n: int, size: int, draws: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Tridiagonal form of W Wᵀ / n for noise W (Dumitriu and Edelman 2002): its leading part, diagonal and beside."""
    rng = np.random.default_rng(0)
    a = rng.chisquare(n - np.arange(size), (*draws, size)) / n
    b = rng.chisquare(p - 1 - np.arange(size - 1), (*draws, size - 1)) / n
    diagonal = a.copy()
    diagonal[..., 1:] += b
    return diagonal, np.sqrt(a[..., :-1] * b)
