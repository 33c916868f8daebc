"""How quantized codes are packed, and the values that they stand for, a few rows of a matrix at a time.

`lfmlib.checkpoints.quantized` finds the pieces and says who writes them; here is the arithmetic: float32 values, (out,
in).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch

from .stored import CheckpointError, Held, Stored

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
AWQ_COLUMNS = (0, 4, 1, 5, 2, 6, 3, 7)  # where column j of eight lies in its word, in nibbles


@dataclass(frozen=True)
class Dequantized(Stored):
    """A matrix (or a stack of them) whose values are computed from stored pieces, a few rows at a time.

    Attributes:
        shape: of the values, (…, out, in).
        kind: what the codes are, in words.
    """

    dtype = "float32"
    lazy = True

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of rows `start` to `stop`, those of a stack counted through: float32 (stop - start, in)."""
        raise NotImplementedError

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of the flattened tensor."""
        if start >= stop:
            return torch.empty(0)
        width = self.shape[-1]
        first = start // width
        return self.rows(first, -(-stop // width)).reshape(-1)[start - first * width : stop - first * width]

    def load(self) -> torch.Tensor:
        """All values."""
        if not math.prod(self.shape):
            return torch.empty(self.shape)
        return self.rows(0, math.prod(self.shape[:-1])).reshape(self.shape)

    @property
    def remote(self) -> bool:
        """Whether a piece of it is elsewhere."""
        return any(getattr(getattr(self, one.name), "remote", False) for one in fields(self))


@dataclass(frozen=True)
class Turned(Dequantized):
    """A matrix whose codes are packed along the other axis, so that a few rows need words of all of them."""

    def near(self) -> Turned:
        """The same, its few bytes loaded once."""
        pieces = {one.name: getattr(self, one.name) for one in fields(self)}
        loaded = {name: Held(piece.load()) for name, piece in pieces.items() if isinstance(piece, Stored)}
        return replace(self, **loaded)


@dataclass(frozen=True)
class Scaled(Dequantized):
    """Codes that are numbers themselves, float8 or int8, times a scale for each block."""

    weight: Stored
    scale: Stored
    block: tuple[int, int]
    kind: str
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the codes."""
        return tuple(self.weight.shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized`."""
        out, width = self.shape[-2:]
        codes = self.weight.span(start * width, stop * width).float().reshape(-1, width)
        scale = _scales(self.scale) * self.factor
        (high, wide), grid = self.block, (-(-out // self.block[0]), -(-width // self.block[1]))
        scale = scale.reshape(-1, *grid)
        row = torch.arange(start, stop)
        matrix = row // out if len(scale) > 1 else torch.zeros_like(row)
        return codes * scale[matrix, row % out // high].repeat_interleave(wide, dim=1)[:, :width]


@dataclass(frozen=True)
class Gptq(Turned):
    """GPTQ: codes packed along the inputs, asymmetric, a group of inputs to a scale."""

    qweight: Stored
    qzeros: Stored
    scales: Stored
    g_idx: Stored | None
    bits: int
    less: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)."""
        return self.qweight.shape[1], self.qweight.shape[0] * 32 // self.bits

    @property
    def kind(self) -> str:
        """In words."""
        return f"int{self.bits} of GPTQ, groups of {self.shape[1] // self.scales.shape[0]}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized`."""
        width, groups = self.shape[1], self.scales.shape[0]
        codes = _unpack(self.qweight.load()[:, start:stop].T, self.bits)
        zeros = (_unpack(self.qzeros.load(), self.bits)[:, start:stop].T + self.less) & ((1 << self.bits) - 1)
        scales = self.scales.load()[:, start:stop].T.float()
        group = torch.arange(width) // (width // groups) if self.g_idx is None else self.g_idx.load().long()
        if int(group.min()) < 0 or int(group.max()) >= groups:
            raise CheckpointError(
                f"g_idx of a GPTQ matrix names groups {int(group.min())} to {int(group.max())}, where those of 0 to "
                f"{groups - 1} were expected. The file is damaged: download it again."
            )
        return (codes - zeros[:, group]).float() * scales[:, group]


@dataclass(frozen=True)
class Awq(Turned):
    """AWQ, its GEMM layout: codes packed along the outputs in an order of its own."""

    qweight: Stored
    qzeros: Stored
    scales: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)."""
        return self.qweight.shape[1] * 8, self.qweight.shape[0]

    @property
    def kind(self) -> str:
        """In words."""
        return f"int4 of AWQ, groups of {self.shape[1] // self.scales.shape[0]}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized`."""
        words = slice(start // 8, -(-stop // 8))
        wanted = slice(start - words.start * 8, stop - words.start * 8)
        codes, zeros = (_in_order(_unpack(one.load()[:, words], 4)) for one in (self.qweight, self.qzeros))
        scales = self.scales.load()[:, start:stop].float()
        group = torch.arange(self.shape[1]) // (self.shape[1] // scales.shape[0])
        return ((codes - zeros[group]).float()[:, wanted] * scales[group]).T


@dataclass(frozen=True)
class Nibbles(Dequantized):
    """bitsandbytes NF4 and FP4: codes of a table, one absolute maximum to a block; that one may be quantized too."""

    weight: Stored
    absmax: Stored
    table: Stored
    nested: tuple[Stored, Stored] | None
    state: Mapping

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)."""
        return tuple(self.state["shape"])

    @property
    def kind(self) -> str:
        """In words."""
        return f"{self.state['quant_type']} of bitsandbytes, blocks of {self.state['blocksize']}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized`."""
        width, block = self.shape[-1], self.state["blocksize"]
        first, last = start * width, stop * width
        packed = self.weight.span(first // 2, -(-last // 2))
        codes = torch.stack([packed >> 4, packed & 15], dim=1).reshape(-1).long()[first % 2 :][: last - first]
        absmax = self._absmax()[torch.arange(first, last) // block]
        return (self.table.load().float()[codes] * absmax).reshape(-1, width)

    def _absmax(self) -> torch.Tensor:
        if self.nested is None:
            return self.absmax.load().float().reshape(-1)
        scale, table = (one.load().float().reshape(-1) for one in self.nested)
        codes = self.absmax.load().reshape(-1).long()
        block = torch.arange(len(codes)) // self.state["nested_blocksize"]
        return table[codes] * scale[block] + self.state["nested_offset"]


@dataclass(frozen=True)
class Mxfp4(Dequantized):
    """MXFP4 as gpt-oss stores it: 32 codes in 16 bytes, with one power of two."""

    blocks: Stored
    scales: Stored
    kind: str = "MXFP4, blocks of 32"

    @property
    def shape(self) -> tuple[int, ...]:
        """(…, out, in)."""
        return *self.blocks.shape[:-2], self.blocks.shape[-2] * 32

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized`."""
        groups = self.blocks.shape[-2]
        packed = self.blocks.span(start * groups * 16, stop * groups * 16).reshape(-1, 16)
        codes = torch.stack([packed & 15, packed >> 4], dim=2).reshape(-1, 32).long()
        power = self.scales.span(start * groups, stop * groups).int() - 127
        values = torch.ldexp(torch.tensor(E2M1)[codes], power[:, None])
        return values.reshape(stop - start, -1)


@dataclass(frozen=True)
class Packed(Dequantized):
    """compressed-tensors' pack-quantized: symmetric integers packed along the inputs, a group of inputs to a scale."""

    packed: Stored
    scale: Stored
    shape: tuple[int, ...]
    bits: int

    @property
    def kind(self) -> str:
        """In words."""
        return f"int{self.bits} of compressed-tensors, groups of {self.shape[1] // self.scale.shape[-1]}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized`."""
        words, width, groups = self.packed.shape[1], self.shape[1], self.scale.shape[-1]
        codes = _unpack(self.packed.span(start * words, stop * words).reshape(-1, words), self.bits)[:, :width]
        scale = self.scale.load().float().reshape(-1, groups)[start:stop]
        return (codes - (1 << (self.bits - 1))).float() * scale.repeat_interleave(width // groups, dim=1)


def _unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 (n, m) → the codes in them, lowest bits first, int32 (n, m · 32 / bits)."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return ((words[..., None] >> shifts) & ((1 << bits) - 1)).flatten(-2)


def _in_order(codes: torch.Tensor) -> torch.Tensor:
    """AWQ's columns, put back."""
    return codes.unflatten(-1, (-1, 8))[..., list(AWQ_COLUMNS)].flatten(-2)


def _scales(entry) -> torch.Tensor:
    """Scales as float32; bytes and e8m0 are exponents."""
    scale = entry.load()
    if scale.dtype == torch.uint8 or "e8m0" in str(scale.dtype):
        return torch.exp2(scale.view(torch.uint8).float() - 127)
    return scale.float()
