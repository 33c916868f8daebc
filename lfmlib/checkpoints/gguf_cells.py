"""The cells of the codes in blocks of GGUF: how far neighbouring codes lie apart, by the block's own scales.

The layouts are those of llama.cpp's ``ggml-quants.c``, as the `gguf` package reads them. Q4_0 and Q5_0 divide a block
by its value of largest magnitude, which gets the lowest code, −8 or −16, exactly; on the other side the highest code, 7
or 15, takes in all up to a magnitude of 8 or 16. Q4_1 and Q5_1 store minimum and maximum exactly. In the k-quants and
the other formats the scales are searched for, so no value of a block is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .cells import edges

LEGACY_LEVELS = {"Q4_0": 8, "Q5_0": 16, "Q4_1": 15, "Q5_1": 31}
"""Format → what its largest magnitude, or the difference of maximum and minimum, is in steps."""
FORMATS = (*LEGACY_LEVELS, "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4")
"""Formats whose codes stand for intervals. The others are left as they are: ternary ones (TQ1_0, TQ2_0), between whose
values nothing lies, and the IQ formats of up to 3 bits, whose codes stand for points of a lattice of 4 or 8 values."""


def ends(data: np.ndarray, format: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the cells of some blocks.

    Args:
        data: uint8 (blocks, bytes of a block).
        format: one of `FORMATS`.
        values: what the blocks stand for, float32 (blocks, values of a block).

    Returns:
        Lower and upper ends, float32, of the shape of the values; swapped where a scale is negative.
    """
    from .cell_loops import close_ends, even_ends

    if format in _SCALED_TABLES:
        names, scale = _SCALED_TABLES[format]
        return _table_ends(np.array(_quants(names).kvalues, dtype=np.float32), scale(data), values)
    step = _STEPS[format](data)
    lower, upper = np.empty_like(values), np.empty_like(values)
    even_ends(values.reshape(-1), np.abs(step).reshape(-1) / 2, lower.reshape(-1), upper.reshape(-1))
    if levels := LEGACY_LEVELS.get(format):
        size = np.float32(levels)
        if format.endswith("_1"):
            least = _half(data, 2)
            most = step * size + least
            known = [least, least, most, most]
        else:
            exact, last, most = -size * step, (size - 1) * step, size * step
            up = step >= 0
            known = [np.where(up, *pair) for pair in ((exact, last), (exact, most), (last, exact), (most, exact))]
        known = np.concatenate(known, axis=1)
        close_ends(values.reshape(-1), lower.reshape(-1), upper.reshape(-1), values.shape[1], known)
    return lower, upper


def _half(data: np.ndarray, at: int) -> np.ndarray:
    """A float16 of each block, (blocks, 1), as float32."""
    return np.ascontiguousarray(data[:, at : at + 2]).view(np.float16).astype(np.float32)


def _by_group(values: np.ndarray, numbers: np.ndarray, operation: Callable) -> np.ndarray:
    """An operation on the values of each block and the numbers (blocks, groups) of its equal parts."""
    return operation(values.reshape(*numbers.shape, -1), numbers[..., None]).reshape(values.shape)


def _quants(name: str):
    """A format's class in the gguf package."""
    from gguf import quants

    return getattr(quants, name)


def _q3_k(data: np.ndarray) -> np.ndarray:
    """Sixteen scales of 6 bits in 12 bytes, as `gguf` unpacks them, less 32."""
    low, high = data[:, 96:104, None], data[:, 104:108, None]
    low = (low >> np.array([0, 4], dtype=np.uint8)).transpose(0, 2, 1).reshape(-1, 16) & 15
    high = (high >> np.array([0, 2, 4, 6], dtype=np.uint8)).transpose(0, 2, 1).reshape(-1, 16) & 3
    return _half(data, 108) * ((low | high << 4).astype(np.float32) - 32)


def _q4_k(data: np.ndarray) -> np.ndarray:
    return _half(data, 0) * _quants("Q4_K").get_scale_min(np.ascontiguousarray(data[:, 4:16]))[0].astype(np.float32)


_STEPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **dict.fromkeys((*LEGACY_LEVELS, "Q8_0"), lambda data: _half(data, 0)),
    "Q2_K": lambda data: _half(data, 80) * (data[:, :16] & 15).astype(np.float32),
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q4_k,
    "Q6_K": lambda data: _half(data, 208) * np.ascontiguousarray(data[:, 192:208]).view(np.int8).astype(np.float32),
}
"""Format → from blocks (blocks, bytes) to the distance of neighbouring codes in their equal parts, (blocks, parts)."""


def _table_ends(table: np.ndarray, scale: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of cells of values that are entries of a table times the scale (blocks, parts) of their part."""
    known = np.unique(table)
    lower, upper = (one.numpy() for one in edges(torch.from_numpy(known)))
    with np.errstate(all="ignore"):  # a scale of 0, or a damaged one
        code = np.searchsorted(upper[:-1], _by_group(values, scale, np.divide))
    return _by_group(lower[code], scale, np.multiply), _by_group(upper[code], scale, np.multiply)


def _iq4_xs(data: np.ndarray) -> np.ndarray:
    """Eight scales of 6 bits, four in a byte and two in a word, less 32."""
    high = np.ascontiguousarray(data[:, 2:4]).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16)
    low = (data[:, 4:8, None] >> np.array([0, 4], dtype=np.uint8)).reshape(-1, 8) & 15
    return _half(data, 0) * ((low | (high & 3).astype(np.uint8) << 4).astype(np.float32) - 32)


_SCALED_TABLES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "IQ4_NL": ("IQ4_NL", lambda data: _half(data, 0)),
    "IQ4_XS": ("IQ4_NL", _iq4_xs),
    "MXFP4": ("MXFP4", lambda data: _quants("MXFP4").e8m0_to_fp32_half(data[:, :1])),
    "NVFP4": ("NVFP4", lambda data: _quants("NVFP4").ue4m3_to_fp32(data[:, :4]).astype(np.float32)),
}
"""Format → the class that has its table, and from blocks to the scales of their equal parts, (blocks, parts)."""
