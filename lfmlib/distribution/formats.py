"""The cells of each floating-point type: the value of every bit pattern, and the interval that it represents.

A stored weight is a rounded number. A 16-bit or 8-bit pattern represents every real number that rounds to it, from
midpoint to midpoint. A float32 is counted by its leading 16 bits, and such a pattern represents every float32 that
begins with them, from truncation edge to truncation edge. Either way the real line is divided into *cells*, and this
library computes everything about a distribution over whole cells with their true edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

#: storage type -> (bits counted, mantissa bits among them, torch integer type as wide as the stored value)
_LAYOUT = {
    "float16": (16, 10, torch.int16),
    "bfloat16": (16, 7, torch.int16),
    "float8_e4m3fn": (8, 3, torch.uint8),
    "float8_e5m2": (8, 2, torch.uint8),
    "float8_e4m3fnuz": (8, 3, torch.uint8),
    "float8_e5m2fnuz": (8, 2, torch.uint8),
    "float32": (16, 7, torch.int32),
    "float64": (16, 7, torch.int32),  # through its float32 rounding
}

DTYPES = tuple(_LAYOUT)
"""Names of the storage types that can be sketched."""
SMALLEST_FLOAT32 = 2.0**-149
"""The smallest positive number of float32, which is subnormal."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of one storage type.

    Attributes:
        dtype: name of the storage type, such as "bfloat16".
        patterns: number of bit patterns counted, 256 or 65,536.
        mantissa: number of mantissa bits in a counted pattern.
        wide: True if a pattern is the leading half of a float32 word (float32, float64), so that a cell holds many
            different values; False if it is one value.
        finite: bool ``(patterns,)``: whether the pattern is a number, not an infinity or NaN.
        unit: exponent u such that every value is a whole multiple of ``2**u``.
        order: int ``(cells,)``: the finite patterns by ascending value. In a narrow grid minus zero has no cell of its
            own; its values are counted in zero's.
        values: float64 ``(cells,)``: the value of a cell; in a wide grid its centre.
        edges: float64 ``(cells + 1,)``: cell ``i`` extends from ``edges[i]`` to ``edges[i + 1]``.
        log_magnitude: float64 ``(patterns // 2,)``: log of the absolute value of a pattern (of its cell's centre), by
            ascending magnitude; -inf at zero.
    """

    dtype: str
    patterns: int
    mantissa: int
    wide: bool
    finite: np.ndarray
    unit: int
    order: np.ndarray
    values: np.ndarray
    edges: np.ndarray
    log_magnitude: np.ndarray

    @property
    def exponents(self) -> int:
        """Number of values that the exponent field can take."""
        return self.patterns >> (1 + self.mantissa)


@cache
def grid(dtype: str) -> Grid:
    """The grid of a storage type named as in torch, such as ``"bfloat16"``.

    Raises:
        ValueError: the type is not one of `DTYPES`.
    """
    if dtype not in _LAYOUT:
        raise ValueError(f"a tensor of type {dtype} has no value grid: expected one of {', '.join(DTYPES)}")
    bits, mantissa, _ = _LAYOUT[dtype]
    half = 1 << (bits - 1)
    wide = dtype in ("float32", "float64")
    magnitude = _magnitudes(dtype)  # of the patterns without the sign bit; in a wide grid the cell's inner edge
    finite = np.isfinite(magnitude)
    negative_zero = not dtype.endswith("fnuz")  # in those types that pattern is NaN
    finite = np.concatenate([finite, finite & (negative_zero | (np.arange(half) > 0))])

    positive = np.flatnonzero(finite[:half])
    negative = positive[::-1] + half
    if wide:
        ends = np.append(magnitude[positive], 2 * magnitude[positive[-1] & ~(2**mantissa - 1)])
        centres = (ends[:-1] + ends[1:]) / 2
        order = np.concatenate([negative, positive])
        values = np.concatenate([-centres[::-1], centres])
        edges = np.concatenate([-ends[::-1], ends[1:]])
        with np.errstate(divide="ignore"):
            log_magnitude = np.log(np.append(centres, np.full(half - centres.size, np.inf)))
    else:
        order = np.concatenate([negative[:-1], positive])
        values = np.concatenate([-magnitude[positive][:0:-1], magnitude[positive]])
        middles = (values[:-1] + values[1:]) / 2
        edges = np.concatenate([[2 * values[0] - middles[0]], middles, [2 * values[-1] - middles[-1]]])
        with np.errstate(divide="ignore"):
            log_magnitude = np.log(magnitude)
    unit = int(np.log2(magnitude[1])) - (16 if wide else 0)
    arrays = (finite, order, values, edges, log_magnitude)
    for array in arrays:
        array.setflags(write=False)
    return Grid(dtype, 2 * half, mantissa, wide, finite, unit, order, values, edges, log_magnitude)


def _magnitudes(dtype: str) -> np.ndarray:
    """Absolute values of the patterns without the sign bit, float64, as torch converts them."""
    if dtype in ("float32", "float64"):
        with np.errstate(invalid="ignore"):  # some patterns are NaN
            return (np.arange(1 << 15, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
    bits, _, word = _LAYOUT[dtype]
    patterns = torch.arange(1 << (bits - 1), dtype=torch.int32).to(word)
    return patterns.view(getattr(torch, dtype)).to(torch.float64).numpy()


def stored_words(values) -> tuple[str, np.ndarray | torch.Tensor]:
    """Storage type and flat stored words of an array or tensor.

    Returns:
        Name of the storage type, and the words in the order of memory: a numpy array of unsigned integers if the values
        are in host memory, else a torch tensor of signed integers on their device.

    Raises:
        ValueError: the values are not floating-point, or cannot be read (meta or sparse tensors).
    """
    if isinstance(values, torch.Tensor):
        return _words_of_tensor(values.detach())
    array = values.compressed() if isinstance(values, np.ma.MaskedArray) else as_array(values)
    dtype = array.dtype.name
    if dtype not in DTYPES:
        raise _not_a_float(dtype)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if dtype == "float64":
        array = _to_float32(array)
    word = {1: np.uint8, 2: np.uint16, 4: np.uint32}[array.dtype.itemsize]
    return dtype, np.ravel(array, order="K").view(word)  # in the order of memory, without a copy


def as_array(values) -> np.ndarray:
    """What NumPy makes of values: of an array, numbers in lists, a table or column of pandas, anything with
    ``__array__``.

    Raises:
        ValueError: NumPy cannot convert them, or some are masked.
    """
    if np.ma.is_masked(values):
        raise ValueError(
            f"found a masked array with {np.ma.count_masked(values):,} of {np.size(values):,} entries masked: expected "
            "a whole one; fill them, or cut them out"
        )
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"NumPy makes no array of a {type(values).__name__} ({error}): convert it first") from error


def in_arrays(values: Iterable) -> Iterator:
    """The arrays of an iterable; single numbers, which would cost as much as an array each, many together."""
    numbers: list = []
    for one in values:
        if np.ndim(one):
            yield one
            continue
        numbers.append(one)
        if len(numbers) == 1 << 20:
            yield _joined(numbers)
            numbers = []
    if numbers:
        yield _joined(numbers)


def _joined(numbers: list) -> np.ndarray | torch.Tensor:
    return torch.stack(numbers) if all(isinstance(one, torch.Tensor) for one in numbers) else as_array(numbers)


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whose values lie in memory, each in its place, with its sign.

    Raises:
        ValueError: it is on the meta device, sparse, nested or quantized.
    """
    kind = ""
    if tensor.is_meta:
        kind = "on the meta device"
    elif tensor.is_nested or tensor.layout is not torch.strided:
        kind = "nested" if tensor.is_nested else f"stored as {tensor.layout}"
    elif tensor.is_quantized:
        kind = "quantized"
    if kind:
        raise ValueError(f"found a tensor that is {kind}: its values are not at hand; load it, or make it dense, first")
    return tensor.detach().resolve_conj().resolve_neg()


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A copy of an array of ml_dtypes (bfloat16, float8) in torch's own type; float32 where torch has none."""
    kind = getattr(torch, array.dtype.name, None)
    if not isinstance(kind, torch.dtype):
        return torch.from_numpy(array.astype(np.float32))
    word = np.ascontiguousarray(array).view(f"uint{8 * array.dtype.itemsize}")
    return torch.from_numpy(word.copy()).view(kind)


def _words_of_tensor(tensor: torch.Tensor) -> tuple[str, np.ndarray | torch.Tensor]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise _not_a_float(dtype)
    tensor = dense(tensor)
    if dtype == "float64":
        if tensor.device.type != "cpu":
            return dtype, _to_float32(tensor).view(torch.int32).flatten()
        return dtype, stored_words(tensor.numpy())[1]
    word = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.dtype.itemsize]
    if tensor.device.type != "cpu":
        return dtype, tensor.contiguous().view(word).flatten()
    array = tensor.view(word).numpy() if tensor.dim() else tensor.reshape(1).view(word).numpy()
    return dtype, np.ravel(array, order="K").view(f"uint{8 * array.dtype.itemsize}")


def _to_float32(values) -> Any:
    """Round float64 to float32, array to array and tensor to tensor; what is nonzero stays so, as the smallest number
    that float32 has. Raises ValueError for values that overflow."""
    if isinstance(values, torch.Tensor):
        rounded = values.float()
        overflow = values[rounded.isinf() & ~values.isinf()]
        if (vanished := (rounded == 0) & (values != 0)).any():
            rounded[vanished] = values[vanished].sign().float() * SMALLEST_FLOAT32
    else:
        with np.errstate(over="ignore"):
            rounded = np.asarray(values.astype(np.float32))
        overflow = values[np.isinf(rounded) & ~np.isinf(values)]
        if (vanished := (rounded == 0) & (values != 0)).any():
            rounded[vanished] = np.sign(values[vanished]) * SMALLEST_FLOAT32
    if len(overflow):
        raise ValueError(
            f"float64 value {float(overflow.flat[0] if isinstance(overflow, np.ndarray) else overflow[0]):g} is "
            "outside float32's range (3.4e38), through which float64 is counted: scale the values first"
        )
    return rounded


def _not_a_float(dtype: str) -> ValueError:
    return ValueError(f"cannot sketch values of type {dtype}: expected one of {', '.join(DTYPES)}; convert them first")
