"""Compute the values of quantized matrices from codes and scales, float32 (out, in), a few rows at a time.

`lfmlib.checkpoints.quantized` finds the pieces by name; here is how each format packs codes and what they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch

from .stored import CheckpointError, InMemory, Stored

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
AWQ_COLUMNS = (0, 4, 1, 5, 2, 6, 3, 7)  # position in an int32 word, counted in 4-bit codes, of columns 0 to 7


@dataclass(frozen=True)
class Dequantized(Stored):
    """A quantized matrix, or a stack of them, with values float32 (…, out, in). Subclasses define `shape`, `rows`."""

    dtype = "float32"
    lazy = True

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of rows `start` to `stop`, float32 (stop - start, in); rows of a stack are numbered throughout."""
        raise NotImplementedError

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of the flattened tensor."""
        if start >= stop:
            return torch.empty(0)
        width = self.shape[-1]
        first = start // width
        return self.rows(first, -(-stop // width)).reshape(-1)[start - first * width : stop - first * width]

    def load(self) -> torch.Tensor:
        """All values, float32 of `shape`."""
        if not math.prod(self.shape):
            return torch.empty(self.shape)
        return self.rows(0, math.prod(self.shape[:-1])).reshape(self.shape)

    @property
    def remote(self) -> bool:
        """Whether one of its pieces is in a remote file."""
        return any(getattr(getattr(self, one.name), "remote", False) for one in fields(self))


@dataclass(frozen=True)
class InputsAsRows(Dequantized):
    """Codes that are stored (in, out), so that a few outputs need bytes from all over them."""

    def preloaded(self) -> InputsAsRows:
        """This tensor with its pieces loaded into memory once."""
        pieces = {one.name: getattr(self, one.name) for one in fields(self)}
        loaded = {name: InMemory(piece.load()) for name, piece in pieces.items() if isinstance(piece, Stored)}
        return replace(self, **loaded)


@dataclass(frozen=True)
class Scaled(Dequantized):
    """float8 or int8 codes that are multiplied by one scale for each block of rows and columns, and by `factor`."""

    weight: Stored
    scale: Stored
    block: tuple[int, int]
    kind: str
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(…, out, in), the shape of the codes."""
        return tuple(self.weight.shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        out, width = self.shape[-2:]
        codes = self.weight.span(start * width, stop * width).float().reshape(-1, width)
        scale = _scales(self.scale) * self.factor
        (high, wide), grid = self.block, (-(-out // self.block[0]), -(-width // self.block[1]))
        scale = scale.reshape(-1, *grid)
        row = torch.arange(start, stop)
        matrix = row // out if len(scale) > 1 else torch.zeros_like(row)
        return codes * scale[matrix, row % out // high].repeat_interleave(wide, dim=1)[:, :width]


@dataclass(frozen=True)
class Gptq(InputsAsRows):
    """GPTQ: codes packed along the inputs, with a scale and a zero point for each group of inputs.

    `zero_offset` is added to the stored zero points: 1 in the first format, which stores them less 1; 0 in the second.
    """

    qweight: Stored
    qzeros: Stored
    scales: Stored
    g_idx: Stored | None
    bits: int
    zero_offset: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)."""
        return self.qweight.shape[1], self.qweight.shape[0] * 32 // self.bits

    @property
    def kind(self) -> str:
        """The quantization in words."""
        return f"int{self.bits} of GPTQ, groups of {self.shape[1] // self.scales.shape[0]}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        width, groups = self.shape[1], self.scales.shape[0]
        codes = _unpack(self.qweight.load()[:, start:stop].T, self.bits)
        zeros = (_unpack(self.qzeros.load(), self.bits)[:, start:stop].T + self.zero_offset) & ((1 << self.bits) - 1)
        scales = self.scales.load()[:, start:stop].T.float()
        group = torch.arange(width) // (width // groups) if self.g_idx is None else self.g_idx.load().long()
        if int(group.min()) < 0 or int(group.max()) >= groups:
            raise CheckpointError(
                f"g_idx of a GPTQ matrix names groups {int(group.min())} to {int(group.max())}, where those of 0 to "
                f"{groups - 1} were expected. The file is damaged: download it again."
            )
        return (codes - zeros[:, group]).float() * scales[:, group]


@dataclass(frozen=True)
class Awq(InputsAsRows):
    """AWQ in its GEMM layout: 4-bit codes packed along the outputs, in the order `AWQ_COLUMNS`."""

    qweight: Stored
    qzeros: Stored
    scales: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)."""
        return self.qweight.shape[1] * 8, self.qweight.shape[0]

    @property
    def kind(self) -> str:
        """The quantization in words."""
        return f"int4 of AWQ, groups of {self.shape[1] // self.scales.shape[0]}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        words = slice(start // 8, -(-stop // 8))
        wanted = slice(start - words.start * 8, stop - words.start * 8)
        codes, zeros = (_unpermuted(_unpack(one.load()[:, words], 4)) for one in (self.qweight, self.qzeros))
        scales = self.scales.load()[:, start:stop].float()
        group = torch.arange(self.shape[1]) // (self.shape[1] // scales.shape[0])
        return ((codes - zeros[group]).float()[:, wanted] * scales[group]).T


@dataclass(frozen=True)
class BitsandbytesFourBit(Dequantized):
    """NF4 and FP4 of bitsandbytes: codes index a table of 16 values, times the absolute maximum of their block.

    Where `nested` is given, the maxima are quantized too, and it holds their scales and their table of 256 values.
    """

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
        """The quantization in words."""
        return f"{self.state['quant_type']} of bitsandbytes, blocks of {self.state['blocksize']}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
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
    """MXFP4 as gpt-oss stores it: blocks of 32 codes in 16 bytes, each block with one power of two."""

    blocks: Stored
    scales: Stored
    kind: str = "MXFP4, blocks of 32"

    @property
    def shape(self) -> tuple[int, ...]:
        """(…, out, in)."""
        return *self.blocks.shape[:-2], self.blocks.shape[-2] * 32

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        groups = self.blocks.shape[-2]
        packed = self.blocks.span(start * groups * 16, stop * groups * 16).reshape(-1, 16)
        codes = torch.stack([packed & 15, packed >> 4], dim=2).reshape(-1, 32).long()
        power = self.scales.span(start * groups, stop * groups).int() - 127
        values = torch.ldexp(torch.tensor(E2M1)[codes], power[:, None])
        return values.reshape(stop - start, -1)


@dataclass(frozen=True)
class PackedIntegers(Dequantized):
    """compressed-tensors' pack-quantized format: symmetric codes packed along the inputs, a scale for each group."""

    packed: Stored
    scale: Stored
    shape: tuple[int, ...]
    bits: int

    @property
    def kind(self) -> str:
        """The quantization in words."""
        return f"int{self.bits} of compressed-tensors, groups of {self.shape[1] // self.scale.shape[-1]}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        words, width, groups = self.packed.shape[1], self.shape[1], self.scale.shape[-1]
        codes = _unpack(self.packed.span(start * words, stop * words).reshape(-1, words), self.bits)[:, :width]
        scale = self.scale.load().float().reshape(-1, groups)[start:stop]
        return (codes - (1 << (self.bits - 1))).float() * scale.repeat_interleave(width // groups, dim=1)


def _unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes in int32 words (n, m), lowest bits first: int32 (n, m · 32 / bits)."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return ((words[..., None] >> shifts) & ((1 << bits) - 1)).flatten(-2)


def _unpermuted(codes: torch.Tensor) -> torch.Tensor:
    """Codes (…, out) with each eight columns of AWQ back in order."""
    return codes.unflatten(-1, (-1, 8))[..., list(AWQ_COLUMNS)].flatten(-2)


def _scales(entry) -> torch.Tensor:
    """Scales as float32; uint8 and float8_e8m0 hold exponents of two with a bias of 127."""
    scale = entry.load()
    if scale.dtype == torch.uint8 or "e8m0" in str(scale.dtype):
        return torch.exp2(scale.view(torch.uint8).float() - 127)
    return scale.float()
