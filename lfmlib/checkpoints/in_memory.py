"""Tensors and arrays in memory: what values each has, or why it has none.

Plain tensors are taken as they are, without a copy. A quantized or sparse tensor, and a DTensor that is whole on this
process, get plain values when they are read. Everything else is left out with the reason: a tensor without values (on
the meta device, or a shard whose rest other processes hold) is never taken for a matrix.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .stored import CheckpointError, InMemory, Stored, dtype_name

MAX_DENSE_BYTES = 1 << 28
"""Of a sparse tensor with its zeros written out; one of a few bytes may claim any shape."""


@dataclass(frozen=True)
class Converted(Stored):
    """A tensor that is not plain numbers in rows: `load` computes these."""

    tensor: torch.Tensor
    shape: tuple[int, ...]
    dtype: str
    kind: str = ""

    def load(self) -> torch.Tensor:
        """The values, dense and not quantized. Raises CheckpointError."""
        try:
            plain = self.tensor.dequantize() if self.kind else self.tensor
            return plain if plain.layout == torch.strided else plain.to_dense()
        except Exception as error:  # a subclass's own code
            raise CheckpointError(
                f"a {type(self.tensor).__name__} does not give its values ({type(error).__name__}: {str(error)[:200]})."
                " Dequantize it, or write out its zeros, and pass the result."
            ) from error


def read_mapping(tensors: Mapping) -> tuple[dict, dict]:
    """List tensors or arrays in memory; of names that share the same memory only the first is kept."""
    stored, left_out, kept = {}, {}, {}
    for name, value in tensors.items():
        entry = as_stored(value)
        if str(name) in stored or str(name) in left_out:
            raise ValueError(f"two tensors are called {str(name)!r}: expected names that differ as text")
        if isinstance(entry, str):
            left_out[str(name)] = entry
            continue
        if isinstance(entry, InMemory) and entry.tensor.numel():
            tensor = entry.tensor
            identity = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if identity in kept:
                left_out[str(name)] = f"tied to {kept[identity]}"
                continue
            kept[identity] = name
        stored[str(name)] = entry
    return stored, left_out


def is_tensor(value) -> bool:
    """Whether a value is a torch tensor, a NumPy array, or something that NumPy makes one of, such as a table."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return True
    return hasattr(value, "__array__") and not isinstance(value, type | np.generic)


def as_stored(value) -> Stored | str:
    """A value as a stored tensor that shares its memory; or why it cannot be one."""
    try:
        if not is_tensor(value):
            return f"not a tensor ({type(value).__name__})"
        return _from_torch(value) if isinstance(value, torch.Tensor) else _from_numpy(np.asanyarray(value))
    except Exception as error:  # subclasses of tensors raise anything: without storage, data or a process group
        return f"a {type(value).__name__} whose values cannot be read ({type(error).__name__}: {str(error)[:200]})"


def _from_torch(value: Any) -> Stored | str:  # a tensor; that it is a DTensor its attributes tell
    if torch.nn.parameter.is_lazy(value):
        return "uninitialized: its module has not seen an input, so it has neither shape nor values"
    value = value.detach()
    if hasattr(value, "full_tensor"):  # asking other processes for their parts would wait for them
        if value.device_mesh.size() > 1 and not all(place.is_replicate() for place in value.placements):
            return (
                f"a shard of {tuple(value.to_local().shape)} of a DTensor {tuple(value.shape)}, whose rest other "
                "processes hold; pass what its full_tensor() gives"
            )
        return _from_torch(value.to_local())
    if hasattr(value, "get_mask"):
        return "a masked tensor, whose masked entries have no value: fill them with its to_tensor()"
    if value.is_nested:
        return "a nested tensor, of tensors of several lengths; pass these one by one"
    if type(value).dequantize is not torch.Tensor.dequantize:  # such as torchao's, of codes and scales
        return Converted(value, tuple(value.shape), dtype_name(value.dtype), type(value).__name__)
    if is_traceable_wrapper_subclass(value):  # of several tensors, without memory of its own
        return f"a {type(value).__name__}, which is not read; pass the plain tensor that it stands for"
    if value.is_meta or (value.layout == torch.strided and value.untyped_storage().device.type == "meta"):
        return "on the meta device: it has a shape but no values"
    shape, dtype = tuple(value.shape), dtype_name(value.dtype)
    if value.is_quantized:
        return Converted(value, shape, "float32", f"{dtype} of torch, {str(value.qscheme()).removeprefix('torch.')}")
    if value.layout != torch.strided:
        if (size := math.prod(shape) * value.dtype.itemsize) > MAX_DENSE_BYTES:
            return f"layout {value.layout}: with its zeros it has {size} bytes, where {MAX_DENSE_BYTES} are the most"
        return Converted(value, shape, dtype)
    return InMemory(value.resolve_conj().resolve_neg())


def _from_numpy(array: np.ndarray) -> Stored | str:
    if np.ma.is_masked(array):
        return f"{np.ma.count_masked(array):,} of its {array.size:,} entries are masked: fill them, or cut them out"
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch has no negative strides
    array = np.asarray(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        try:
            return InMemory(torch.from_numpy(array))
        except TypeError:
            # torch does not convert ml_dtypes' bfloat16 and float8: pass their bits as integers of the same width.
            dtype = getattr(torch, array.dtype.name, None)
            if not isinstance(dtype, torch.dtype) or dtype.itemsize != array.dtype.itemsize:
                return f"dtype {array.dtype} is not one of torch's"
            return InMemory(torch.from_numpy(array.view(f"u{dtype.itemsize}")).view(dtype))
