"""A matrix prepared for its spectrum: checked, centred, smaller side first; its Gram matrix and products with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property, partial

import numba
import numpy as np
import torch
from scipy import linalg, sparse

from ..distribution.blas import one_blas_thread
from .inputs import check_range, tensor_of

SEED_SALT = 1967
"""Combined with the seed of random starts, so that they differ from noise that the caller drew with the same seed."""
_PRODUCT_BLOCK_ENTRIES = 1 << 20  # entries converted to float64 at a time for matrix products
_PRODUCT_BLOCK_COLUMNS = 512  # and columns at least, so that their products, once made, are worth adding up
_CACHED_BLOCK_ENTRIES = 1 << 16  # and for sums, few enough to stay in the cache
_TRIANGLE_ROWS = 512  # rows whose products with all before them are made at once
FLOAT32_MIN_SIDE = 512
"""Smaller side of a matrix from which products of its entries may be made in float32."""
IN_PLACE_SIDE = 256
"""Smaller side from which eigenvalues are computed by SciPy, in the place of the products: torch takes 1.2 to 1.8
times as long, and 8 p² bytes for a copy."""
SHARED_SIDE = 1024
"""Smaller side from which BLAS may use all its threads for eigenvalues: below, two take as long as one, and hinder
torch’s (measured on two cores)."""


class Matrix:
    """A checked matrix with its smaller side first. Eigenvalues are in units of n sigma², so their mean is 1.

    Attributes:
        given: the matrix as a torch tensor, on the GPU if there is one.
        w: the same as ``(p, n)`` with p <= n; ``flipped`` says whether it was transposed for that.
        ratio: p / n.
        mean, std: of all entries.
    """

    def __init__(self, matrix, overwrite: bool = False):
        w = tensor_of(matrix)
        self.overwrite = overwrite and w.dtype == torch.float32
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
        sums = torch.stack([torch.stack([block.sum(), *block.aminmax()]) for _, block in self._given_rows()]).cpu()
        if not torch.isfinite(sums).all():
            bad = sum(int((~torch.isfinite(block)).sum()) for _, block in self._given_rows())
            raise ValueError(f"found {bad} non-finite of {w.numel()} entries: replace or drop NaN and infinity first")
        if sums[:, 1].min() == sums[:, 2].max():
            raise ValueError(f"found a constant matrix, every entry {sums[0, 1]:g}: leave it out, nothing varies")
        check_range(float(sums[:, 1:].abs().max()))
        self.mean = float(sums[:, 0].sum()) / w.numel()
        self.std = math.sqrt(sum(float(block.square().sum()) for _, block in self._given_rows()) / w.numel())

    def _given_rows(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the matrix as given less its mean, some rows at a time, float64: which, and what is in them. All share
        one buffer."""
        count = max(1, min(_CACHED_BLOCK_ENTRIES // self.given.shape[1], self.given.shape[0]))
        place = torch.empty((count, self.given.shape[1]), dtype=torch.float64, device=self.given.device)
        for start in range(0, len(self.given), count):
            rows = slice(start, start + count)
            some = self.given[rows]
            yield rows, place[: len(some)].copy_(some).sub_(self.mean)

    def blocks(self) -> Iterator[torch.Tensor]:
        """Yield the matrix less its mean in blocks of columns, float64; all blocks share one buffer."""
        size = max(_PRODUCT_BLOCK_ENTRIES, _PRODUCT_BLOCK_COLUMNS * self.p)
        width = max(1, min(size // self.p, self.n))
        place = torch.empty(self.p * width, dtype=torch.float64, device=self.w.device)
        for start in range(0, self.n, width):
            columns = self.w[:, start : start + width]
            yield place[: columns.numel()].view(columns.shape).copy_(columns).sub_(self.mean)

    def products(self) -> torch.Tensor:
        """Inner products of the rows of the centred matrix, in units of sigma², float64 ``(p, p)``; only the lower
        triangle is filled, and some blocks on the diagonal."""
        gram = torch.zeros(self.p, self.p, dtype=torch.float64, device=self.w.device)
        dtype = products_in((self.p, self.n), self.w.dtype)
        for block in self.blocks():
            block = block.div_(self.std).to(dtype)
            for rows, product in triangle(block):
                gram[rows, : product.shape[1]] += product
        return gram

    def eigenvalues(self, products: torch.Tensor | None = None) -> np.ndarray:
        """All eigenvalues, ascending, float64 ``(p,)``; of `products`, if they are at hand, which are overwritten."""
        gram = self.products() if products is None else products
        gram.div_(self.n)
        if gram.device.type != "cpu" or self.p < IN_PLACE_SIDE:
            return np.maximum(torch.linalg.eigvalsh(gram, UPLO="L").cpu().numpy(), 0)
        how = {"eigvals_only": True, "overwrite_a": True, "check_finite": False, "driver": "evd"}
        alone = self.p < SHARED_SIDE or torch.get_num_threads() == 1
        with one_blas_thread() if alone else nullcontext():
            return np.maximum(linalg.eigh(gram.numpy().T, lower=False, **how), 0)

    @cached_property
    def work(self) -> torch.Tensor:
        """The centred matrix ``(p, n)`` scaled so that its squared singular values are the eigenvalues."""
        scale = self.std * math.sqrt(self.n)
        dtype = torch.float64 if self.w.dtype == torch.float64 else torch.float32
        found = self.given if self.overwrite else torch.empty_like(self.given, dtype=dtype)
        for rows, block in self._given_rows():
            found[rows] = block.div_(scale)
        return found.T if self.flipped else found

    def gram_times(self, v: torch.Tensor) -> torch.Tensor:
        """Product of the Gram matrix with ``v`` ``(p, k)``, float64."""
        v = v.to(self.work.dtype)
        return (self.work @ (self.work.T @ v)).to(torch.float64)

    def top(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` largest eigenvalues, descending, and their unit vectors ``(p, count)``."""
        tolerance = 1e-10 if self.work.dtype == torch.float64 else 1e-6  # above the rounding of the products
        values, found = _leading(self._times, self.p, k=count, tol=tolerance)
        return values[::-1], found[:, ::-1].copy()

    def largest(self) -> float:
        """The largest eigenvalue, to some 1e-7 of it: a quarter fewer products than `top`, each in half of the time."""
        rows = self.work.T if self.flipped else self.work
        times, size = self._times, self.p
        if rows.dtype == torch.float32 and rows.device.type == "cpu" and rows.is_contiguous():
            times, size = partial(_gram_of_columns_times, rows.numpy()), rows.shape[1]
        return float(_leading(times, size, k=1, tol=1e-4, return_eigenvectors=False)[0])

    def _times(self, v: np.ndarray) -> np.ndarray:
        return self.gram_times(torch.as_tensor(v, device=self.work.device)).cpu().numpy()


def _leading(times: Callable[[np.ndarray], np.ndarray], size: int, **how):
    """What `scipy.sparse.linalg.eigsh` says of the largest eigenvalues of a symmetric operator, from a fixed start."""
    start = np.random.default_rng(SEED_SALT).standard_normal(size)  # ARPACK's own is not reproducible
    operator = sparse.linalg.LinearOperator((size, size), matvec=times, dtype=np.float64)
    return sparse.linalg.eigsh(operator, which="LA", v0=start, **how)


def _gram_of_columns_times(x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Product of xᵀ x with v, x float32; float64. It reads x once, where two products of BLAS read it twice."""
    found = np.zeros(x.shape[1], np.float32)
    _add_gram_of_columns_times(x, v.astype(np.float32), found)
    return found.astype(np.float64)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _add_gram_of_columns_times(x, v, found):
    """Add xᵀ x v to ``found``, four rows of x at a time, so that sums are loaded and stored once for four."""
    upto = len(x) // 4 * 4
    for i in range(0, upto, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        at_a = at_b = at_c = at_d = np.float32(0)
        for j in range(v.size):
            at_a += a[j] * v[j]
            at_b += b[j] * v[j]
            at_c += c[j] * v[j]
            at_d += d[j] * v[j]
        for j in range(v.size):
            found[j] += at_a * a[j] + at_b * b[j] + at_c * c[j] + at_d * d[j]
    for i in range(upto, len(x)):
        at = np.float32(0)
        for j in range(v.size):
            at += x[i, j] * v[j]
        for j in range(v.size):
            found[j] += at * x[i, j]


def products_in(shape: tuple[int, int], dtype: torch.dtype) -> torch.dtype:
    """The type in which products of the entries of a matrix are made, before they are summed in float64 over blocks.

    Float32, which takes half the time, where the entries are no finer and the matrix is large. An inner product of n
    entries is then off by some 6e-8 √n σ²; eigenvalues, in units of n σ², are off by 5e-8 on noise and by 5e-7 beside
    one of 1,850, and in the bulk they lie 1e-3 apart.
    """
    fine = dtype == torch.float64 or min(shape) < FLOAT32_MIN_SIDE
    return torch.float64 if fine or torch.get_float32_matmul_precision() != "highest" else torch.float32


def triangle(x: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Products of the rows of x ``(p, n)``, some rows at a time: which, and their products with all up to the last of
    them, ``(rows, upto)``. What lies above the diagonal is the same across it."""
    for start in range(0, len(x), _TRIANGLE_ROWS):
        rows = slice(start, start + _TRIANGLE_ROWS)
        yield rows, x[rows] @ x[: rows.stop].T
