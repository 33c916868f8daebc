"""A matrix prepared for its spectrum: checked, centred, smaller side first; its Gram matrix and products with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from scipy import sparse

from .inputs import check_range, tensor_of

SEED_SALT = 1967
"""Combined with the seed of random starts, so that they differ from noise that the caller drew with the same seed."""
_PRODUCT_BLOCK_ENTRIES = 1 << 20  # entries converted to float64 at a time for matrix products
_PRODUCT_BLOCK_COLUMNS = 1024  # and columns at least, so that their products, once made, are worth adding up
_CACHED_BLOCK_ENTRIES = 1 << 16  # and for sums, few enough to stay in the cache
_TRIANGLE_ROWS = 512  # rows whose products with all before them are made at once
FLOAT32_MIN_SIDE = 512
"""Smaller side of a matrix from which products of its entries may be made in float32."""


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
        sums = torch.stack(
            [torch.stack([block.sum(), *block.aminmax()]) for block in self.blocks(_CACHED_BLOCK_ENTRIES)]
        ).cpu()
        if not torch.isfinite(sums).all():
            bad = sum(int((~torch.isfinite(block)).sum()) for block in self.blocks(_CACHED_BLOCK_ENTRIES))
            raise ValueError(f"found {bad} non-finite of {w.numel()} entries: replace or drop NaN and infinity first")
        if sums[:, 1].min() == sums[:, 2].max():
            raise ValueError(f"found a constant matrix, every entry {sums[0, 1]:g}: leave it out, nothing varies")
        check_range(float(sums[:, 1:].abs().max()))
        self.mean = float(sums[:, 0].sum()) / w.numel()
        self.std = math.sqrt(
            sum(float(block.square().sum()) for block in self.blocks(_CACHED_BLOCK_ENTRIES)) / w.numel()
        )

    def blocks(self, size: int = _PRODUCT_BLOCK_ENTRIES) -> Iterator[torch.Tensor]:
        """Yield the matrix less its mean in blocks of columns, float64; all blocks share one buffer."""
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
        for block in self.blocks(max(_PRODUCT_BLOCK_ENTRIES, _PRODUCT_BLOCK_COLUMNS * self.p)):
            block = block.div_(self.std).to(dtype)
            for rows, product in triangle(block):
                gram[rows, : product.shape[1]] += product
        return gram

    def eigenvalues(self, products: torch.Tensor | None = None) -> np.ndarray:
        """All eigenvalues, ascending, float64 ``(p,)``; of `products`, if they are at hand, which are overwritten."""
        gram = self.products() if products is None else products
        return np.maximum(torch.linalg.eigvalsh(gram.div_(self.n), UPLO="L").cpu().numpy(), 0)

    @cached_property
    def work(self) -> torch.Tensor:
        """The centred matrix ``(p, n)`` scaled so that its squared singular values are the eigenvalues."""
        scale = self.std * math.sqrt(self.n)
        dtype = torch.float64 if self.w.dtype == torch.float64 else torch.float32
        found, first = self.w if self.overwrite else torch.empty_like(self.w, dtype=dtype), 0
        for block in self.blocks():
            found[:, first : first + block.shape[1]] = block.div_(scale)
            first += block.shape[1]
        return found

    def gram_times(self, v: torch.Tensor) -> torch.Tensor:
        """Product of the Gram matrix with ``v`` ``(p, k)``, float64."""
        v = v.to(self.work.dtype)
        return (self.work @ (self.work.T @ v)).to(torch.float64)

    def top(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` largest eigenvalues, descending, and their unit vectors ``(p, count)``."""
        rng = np.random.default_rng(SEED_SALT)  # ARPACK's own start is not reproducible

        def times(v):
            return self.gram_times(torch.as_tensor(v, device=self.work.device)).cpu().numpy()

        operator = sparse.linalg.LinearOperator((self.p, self.p), matvec=times, dtype=np.float64)
        tolerance = 1e-10 if self.work.dtype == torch.float64 else 1e-6  # above the rounding of the products
        start = rng.standard_normal(self.p)
        values, found = sparse.linalg.eigsh(operator, k=count, which="LA", v0=start, tol=tolerance)
        return values[::-1], found[:, ::-1].copy()


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
