"""Quantize a matrix as a format does: a control for what the format alone makes of a distribution.

The format is told by the words of `Stored.kind`. Scales follow each format's plain rule, from the minimum and maximum
of a block or from its largest magnitude, and never from a search: those of llama.cpp's k-quants, of GPTQ and of HQQ fit
codes to a loss or to activations, which noise has not.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch

from ..extras import need
from .library_packings import BitsandbytesFourBit
from .packings import E2M1, FLOAT_CODES, CodedRows
from .stored import InMemory, Stored

NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
FP4 = (0.0, 0.0052083333, 2 / 3, 1.0, 1 / 3, 0.5, 1 / 6, 0.25)
FOUR_BITS = {"nf4": NF4, "fp4": (*FP4, *(-one for one in FP4))}
"""bitsandbytes' tables of values by code."""
K_QUANTS = {"Q2_K": (2, 16, 4), "Q3_K": (3, 16, 6), "Q4_K": (4, 32, 6), "Q5_K": (5, 32, 6), "Q6_K": (6, 16, 8)}
"""Format of GGUF → bits of a code, values a scale, bits of a scale; a block of 256 has one scale of its scales."""
K_BLOCK = 256
SYMMETRIC = ("GPTQ", "compressed-tensors")
"""Libraries whose usual codes have their zero in the middle; the others begin at a group's minimum."""


def quantize(values: np.ndarray, kind: str) -> Stored | None:
    """A matrix, quantized.

    Args:
        values: float32 (out, in), finite.
        kind: the format in words, as in `lfmlib.checkpoints.checkpoint.TensorInfo`.

    Returns:
        A tensor in memory; of GGUF the values of whole blocks alone, as one row. None where there is no rule for the
        format, which is so for lattice codes (IQ1 to IQ3).
    """
    for pattern, rule in _RULES:
        if found := re.match(pattern, kind):
            return rule(values, *found.groups())
    return None


def _gguf(values: np.ndarray, format: str) -> Stored | None:
    need("gguf", "a GGUF file")
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    from .gguf_files import GgufBlocks

    kind = GGMLQuantizationType[format]
    size = GGML_QUANT_SIZES[kind][0]
    row = values.reshape(1, -1)[:, : values.size // size * size]
    if format in K_QUANTS:
        return _k_quants(row, *K_QUANTS[format], format)
    if format in ("MXFP4", "NVFP4"):
        return _small_floats(row, format, 16 if format == "NVFP4" else 32)
    if format in ("IQ4_NL", "IQ4_XS"):
        format, data = "IQ4_NL", _iq4(row)
    else:
        try:
            with np.errstate(all="ignore"):
                data = quants.quantize(row, kind)
        except NotImplementedError:
            return None
    return GgufBlocks(InMemory(torch.from_numpy(np.ascontiguousarray(data).reshape(-1))), row.shape, format)


def _iq4(row: np.ndarray) -> np.ndarray:
    """Blocks of IQ4_NL: the value of largest magnitude becomes the first of its table."""
    from gguf import quants

    table, blocks = np.array(quants.IQ4_NL.kvalues, dtype=np.float32), row.reshape(-1, 32)
    scale = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1) / table[0]
    codes = np.searchsorted((table[1:] + table[:-1]) / 2, blocks / np.where(scale == 0, 1, scale)).astype(np.uint8)
    scale = scale.astype(np.float16).view(np.uint8)
    return np.concatenate([scale, codes[:, :16] | codes[:, 16:] << np.uint8(4)], axis=1)


def _k_quants(row: np.ndarray, bits: int, size: int, scale_bits: int, format: str) -> Stored:
    """Blocks of GGUF's k-quants, whose scales and minima are quantized in their turn; as plain codes."""
    blocks, levels = row.reshape(-1, K_BLOCK // size, size), (1 << bits) - 1
    if format in ("Q3_K", "Q6_K"):  # with the lowest code for the value of largest magnitude
        half = 1 << (bits - 1)
        step = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2) / -half
        most = 1 << (scale_bits - 1)
        outer = np.take_along_axis(step, np.abs(step).argmax(axis=1)[:, None], axis=1) / -most
        step, least, first = _rounded(step, outer, -most, most - 1), np.zeros_like(step), -half
    else:
        most, first = (1 << scale_bits) - 1, 0
        least = np.minimum(blocks.min(axis=2, keepdims=True), 0)
        step = (blocks.max(axis=2, keepdims=True) - least) / levels
        step, least = (_rounded(one, one.max(axis=1, keepdims=True) / most, 0, most) for one in (step, -least))
        least = -least
    codes = np.clip(np.round((blocks - least) / np.where(step == 0, 1, step)), first, first + levels)
    kind = f"{format} of GGUF, blocks of {K_BLOCK}"
    scale, shift = (InMemory(torch.from_numpy(one.reshape(1, -1))) for one in (step, least))
    return CodedRows(_codes(codes, row.shape), scale, row.shape, (1, size), kind, shift=shift)


def _rounded(values: np.ndarray, unit: np.ndarray, least: int, most: int) -> np.ndarray:
    """Numbers rounded to whole multiples, from ``least`` to ``most``, of a unit."""
    return (np.clip(np.round(values / np.where(unit == 0, 1, unit)), least, most) * unit).astype(np.float32)


def _codes(codes: np.ndarray, shape: tuple[int, ...]) -> InMemory:
    return InMemory(torch.from_numpy(codes.reshape(shape).astype(np.int16)))


def _over_blocks(values: np.ndarray, block: tuple[int, int], operation: np.ufunc) -> np.ndarray:
    """A reduction of the values of each block of rows and columns, (blocks down, blocks across)."""
    for axis, size in ((1, block[1]), (0, block[0])):
        values = operation.reduceat(values, np.arange(0, values.shape[axis], size), axis=axis)
    return values


def _as_wide(numbers: np.ndarray, block: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """The number of the block of each value."""
    return numbers.repeat(block[0], axis=0)[: shape[0]].repeat(block[1], axis=1)[:, : shape[1]]


def _groups(values: np.ndarray, bits: str, library: str, size: str | None) -> Stored:
    """Integers of a few bits with a scale for each group of inputs, or for each row."""
    block = (1, int(size) if size else values.shape[1])
    levels = (1 << int(bits)) - 1
    if library in SYMMETRIC:
        step = _over_blocks(np.abs(values), block, np.maximum) * 2 / levels
        zero = np.full_like(step, (levels + 1) // 2)
    else:
        least, most = (_over_blocks(values, block, one) for one in (np.minimum, np.maximum))
        step = (most - least) / levels
        zero = -least / np.where(step == 0, 1, step)
        zero = np.round(zero) if library == "AWQ" else zero
    wide = _as_wide(step, block, values.shape)
    codes = np.round(values / np.where(wide == 0, 1, wide) + _as_wide(zero, block, values.shape))
    scale, zero = (InMemory(torch.from_numpy(one.astype(np.float32))) for one in (step, zero))
    kind = f"int{bits} of {library}, groups of {block[1]}"
    return CodedRows(_codes(np.clip(codes, 0, levels), values.shape), scale, values.shape, block, kind, zero=zero)


def _blocks(values: np.ndarray, dtype: str, high: str, wide: str) -> Stored:
    """Integers or float8 whose largest is the largest magnitude of a block."""
    block, type = (int(high), int(wide)), getattr(torch, dtype)
    most = torch.finfo(type).max if type.is_floating_point else torch.iinfo(type).max
    scale = (_over_blocks(np.abs(values), block, np.maximum) / most).astype(np.float32)
    within = torch.from_numpy(values / _as_wide(np.where(scale == 0, 1, scale), block, values.shape))
    codes = within.clamp(-most, most) if type.is_floating_point else within.round()
    kind = f"{dtype}, a scale for {high} × {wide}"
    return CodedRows(InMemory(codes.to(type)), InMemory(torch.from_numpy(scale)), values.shape, block, kind)


def _so_many_groups(values: np.ndarray, bits: str, library: str, groups: str) -> Stored:
    """As many groups of inputs side by side, since noise is the same in any order."""
    return _groups(values, bits, library, str(-(-values.shape[1] // int(groups))))


def _so_many_blocks(values: np.ndarray, dtype: str, groups: str) -> Stored:
    return _blocks(values, dtype, "1", str(-(-values.shape[1] // int(groups))))


def _rows(values: np.ndarray) -> Stored:
    return _blocks(values, "int8", "1", str(values.shape[1]))


def _small_floats(values: np.ndarray, format: str, size: str | int) -> Stored:
    """NVFP4, whose scales are float8 times one scale of the whole; MX formats, whose scales are powers of two."""
    block, bits = (1, int(size)), 6 if format == "MXFP6" else 4
    largest = torch.from_numpy(_over_blocks(np.abs(values), block, np.maximum))
    if format == "NVFP4":
        whole = float(largest.max()) / (torch.finfo(torch.float8_e4m3fn).max * E2M1[-1]) or 1.0
        scale = (largest / E2M1[-1] / whole).to(torch.float8_e4m3fn).float() * whole
    else:
        scale = torch.exp2(torch.log2(largest).floor() - 2)
    wide = _as_wide(scale.numpy(), block, values.shape)
    codes = _nearest(FLOAT_CODES[bits], values / np.where(wide == 0, 1, wide))
    entry = InMemory(torch.from_numpy(codes))
    return _Coded(entry, InMemory(scale), values.shape, block, f"{format}, blocks of {size}", bits, floats=True)


class _Coded(CodedRows):
    """Codes that are not packed."""

    def _codes(self, start: int, stop: int) -> torch.Tensor:
        return self.codes.load()[start:stop]


def _nearest(table: torch.Tensor, values: np.ndarray) -> np.ndarray:
    """The code of the value in a table that is nearest to each, uint8."""
    known, order = np.unique(table.numpy(), return_index=True)
    return order.astype(np.uint8)[np.searchsorted((known[1:] + known[:-1]) / 2, values)]


def _bitsandbytes(values: np.ndarray, format: str, size: str) -> Stored:
    """Codes of a table, over the largest magnitude of a block of the flattened matrix."""
    flat, block = values.reshape(1, -1), int(size)
    absmax = _over_blocks(np.abs(flat), (1, block), np.maximum)
    table = torch.tensor(FOUR_BITS[format])
    codes = _nearest(table, flat / _as_wide(np.where(absmax == 0, 1, absmax), (1, block), flat.shape))[0]
    codes = np.append(codes, np.zeros(codes.size % 2, dtype=np.uint8))
    packed = torch.from_numpy(codes[::2] << np.uint8(4) | codes[1::2])
    state = {"shape": values.shape, "blocksize": block, "quant_type": format}
    return BitsandbytesFourBit(InMemory(packed), InMemory(torch.from_numpy(absmax[0])), InMemory(table), None, state)


def _ternary(values: np.ndarray) -> Stored:
    """−1, 0 or 1 times the mean magnitude (Ma et al. 2024)."""
    scale = float(np.abs(values).mean()) or 1.0
    return InMemory(torch.from_numpy((np.clip(np.round(values / scale), -1, 1) * scale).astype(np.float32)))


_RULES: tuple[tuple[str, Callable[..., Stored | None]], ...] = (
    (r"(\w+) of GGUF", _gguf),
    (r"int(\d) of (GPTQ|AWQ|HQQ|MLX|compressed-tensors), (?:groups of (\d+)|a scale)", _groups),
    (r"int(\d) of (GPTQ|compressed-tensors), (\d+) groups by g_idx", _so_many_groups),
    (r"(int8|float8_\w+), (\d+) groups by g_idx", _so_many_blocks),
    (r"(int8|int16|float8_\w+)(?: of CTranslate2)?, a scale for (\d+) × (\d+)", _blocks),
    (r"int8 of bitsandbytes", _rows),
    (r"(nf4|fp4) of bitsandbytes, blocks of (\d+)", _bitsandbytes),
    (r"(NVFP4|MXFP4|MXFP6), blocks of (\d+)", _small_floats),
    (r"ternary of BitNet", _ternary),
)
"""Pattern of a format's words → what quantizes a matrix so, given what the pattern's groups hold."""
