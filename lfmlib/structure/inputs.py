"""What a matrix may be given as, and what is refused: torch tensors and NumPy arrays of any floating type."""

from __future__ import annotations

import numpy as np
import torch

from ..distribution.formats import as_array, as_tensor, dense
from .dependence import LAGS

MIN_SIDE = 2 * LAGS
"""Rows and columns that a matrix must have at least for its entries to be tested."""


def tensor_of(matrix) -> torch.Tensor:
    """The input as a floating tensor, on the GPU if there is one; numpy arrays, which may be read-only, are copied."""
    if not isinstance(matrix, torch.Tensor):
        array = as_array(matrix)
        if array.dtype == np.longdouble:
            array = array.astype(np.float64)
        if array.dtype.name.startswith(("bfloat16", "float8")):  # ml_dtypes
            matrix = as_tensor(array)
        elif array.dtype.kind != "f":
            raise ValueError(f"found entries of type {array.dtype}: a spectrum needs floating numbers; convert them")
        else:
            matrix = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="K"))
    if not matrix.dtype.is_floating_point:
        raise ValueError(f"found entries of type {matrix.dtype}: a spectrum needs floating numbers; convert them")
    matrix = dense(matrix)
    return matrix.to("cuda" if matrix.device.type == "cpu" and torch.cuda.is_available() else matrix.device)


def entries_of(matrix) -> np.ndarray:
    """A checked matrix as float32, or as float64 where its type is finer, in the order of rows."""
    if isinstance(matrix, torch.Tensor):
        if matrix.is_complex():
            raise ValueError("found complex entries: expected real numbers; take their parts apart first")
        matrix = dense(matrix)
        narrow = matrix.is_floating_point() and matrix.dtype != torch.float64
        w = matrix.cpu().to(torch.float32 if narrow else torch.float64).numpy()
    else:
        array = as_array(matrix)
        if np.iscomplexobj(array):
            raise ValueError("found complex entries: expected real numbers; take their parts apart first")
        narrow = is_floating(array) and array.dtype.itemsize <= 4
        try:
            w = array.astype(np.float32 if narrow else np.float64, copy=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"found entries of type {array.dtype}: expected numbers; convert them first") from error
    if w.ndim != 2 or min(w.shape) < MIN_SIDE:
        raise ValueError(
            f"found shape {tuple(w.shape)}: expected a matrix of at least {MIN_SIDE} rows and columns; leave it out"
        )
    if not np.isfinite(w).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(w)):,} of {w.size:,} entries are not finite: mend them first")
    low, high = float(w.min()), float(w.max())
    if low == high:
        raise ValueError("all entries are equal: there is no variation to test; leave this matrix out")
    check_range(max(-low, high))
    return np.ascontiguousarray(w)


def is_floating(matrix) -> bool:
    """Whether entries are of a floating type, as controls need."""
    if isinstance(matrix, torch.Tensor):
        return matrix.is_floating_point()
    dtype = np.asarray(matrix).dtype
    return dtype.kind == "f" or dtype.name.startswith(("bfloat16", "float8"))


def check_range(largest: float) -> None:
    """Raise ValueError if the square of ``largest``, the largest absolute entry, would overflow or underflow."""
    if not 1e-140 < largest < 1e140:
        raise ValueError(
            f"the largest entry is {largest:.3g} in size: squares leave float64's range; multiply by a power of "
            "two first"
        )
