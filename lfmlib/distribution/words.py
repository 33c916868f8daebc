"""From an array or tensor of any make to its stored words: the integers that the counting loops count."""

from __future__ import annotations

import numpy as np
import torch

from .formats import DTYPES


def stored_words(values) -> tuple[str, np.ndarray | torch.Tensor]:
    """Storage type and flat stored words of an array or tensor.

    Returns:
        Name of the storage type, and the words: unsigned integers as numpy array where the values are in host memory,
        else a signed torch tensor on their device. Their order is that of memory, since it does not matter.

    Raises:
        ValueError: the values are not floating-point, or there are none to be had (meta or sparse tensors).
    """
    if isinstance(values, torch.Tensor):
        return _words_of_tensor(values.detach())
    if isinstance(values, np.ndarray) or hasattr(values, "__array_interface__"):
        array = np.asarray(values)
        dtype = array.dtype.name
        if dtype not in DTYPES:
            raise _not_a_float(dtype)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if dtype == "float64":
            array = _to_float32(array)
        word = {1: np.uint8, 2: np.uint16, 4: np.uint32}[array.dtype.itemsize]
        return dtype, np.ravel(array, order="K").view(word)  # the order of the values does not matter
    return stored_words(np.asarray(values))


def _words_of_tensor(tensor: torch.Tensor) -> tuple[str, np.ndarray | torch.Tensor]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise _not_a_float(dtype)
    if tensor.is_meta or tensor.layout is not torch.strided:
        kind = "on the meta device" if tensor.is_meta else f"stored as {tensor.layout}"
        raise ValueError(f"a tensor {kind} has no values to count: load it, or make it dense, first")
    if dtype == "float64":
        if tensor.device.type != "cpu":
            return dtype, _to_float32(tensor).view(torch.int32).flatten()
        return dtype, stored_words(tensor.numpy())[1]
    word = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.dtype.itemsize]
    if tensor.device.type != "cpu":
        return dtype, tensor.contiguous().view(word).flatten()
    array = tensor.view(word).numpy() if tensor.dim() else tensor.reshape(1).view(word).numpy()
    return dtype, np.ravel(array, order="K").view(f"uint{8 * array.dtype.itemsize}")


def _to_float32(values):
    """Round float64 to float32, refusing what would overflow; numpy array or tensor in and out."""
    if isinstance(values, torch.Tensor):
        rounded = values.float()
        overflow = values[rounded.isinf() & ~values.isinf()]
    else:
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float32)
        overflow = values[np.isinf(rounded) & ~np.isinf(values)]
    if len(overflow):
        raise ValueError(
            f"float64 value {float(overflow.flat[0] if isinstance(overflow, np.ndarray) else overflow[0]):g} is "
            "outside float32's range (3.4e38), through which float64 is counted: scale the values first"
        )
    return rounded


def _not_a_float(dtype: str) -> ValueError:
    return ValueError(f"cannot sketch values of type {dtype}: expected one of {', '.join(DTYPES)}")
