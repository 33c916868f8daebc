"""Compute the values of matrices as GPTQ, AWQ, HQQ, BitNet and bitsandbytes pack them, a few rows at a time.

`lfmlib.checkpoints.library_layouts` finds the pieces by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch

from .cells import Cells, edges
from .packings import Dequantized, checked_groups, group_of, group_words, unpack
from .stored import InMemory, Stored

AWQ_COLUMNS = (0, 4, 1, 5, 2, 6, 3, 7)  # position in an int32 word, counted in 4-bit codes, of columns 0 to 7


@dataclass(frozen=True)
class InputsAsRows(Dequantized):
    """Codes stored so that a few outputs need bytes from all over them, as where inputs are rows."""

    def preloaded(self) -> InputsAsRows:
        """This tensor with its pieces loaded into memory once."""
        pieces = {one.name: getattr(self, one.name) for one in fields(self)}
        loaded = {name: InMemory(piece.load()) for name, piece in pieces.items() if isinstance(piece, Stored)}
        return replace(self, **loaded)


@dataclass(frozen=True)
class Gptq(InputsAsRows):
    """GPTQ: codes packed along the inputs, with a scale and a zero point for each group of inputs.

    `zero` is the zero point of symmetric codes, whatever is stored; else None. `zero_offset` is added to stored zero
    points: 1 in the first format, which stores them less 1; 0 in the second and in auto-round's own.
    """

    qweight: Stored
    qzeros: Stored
    scales: Stored
    g_idx: Stored | None
    bits: int
    zero: int | None
    zero_offset: int
    group: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)."""
        return self.qweight.shape[1], self.qweight.shape[0] * 32 // self.bits

    @property
    def kind(self) -> str:
        """The quantization in words."""
        return f"int{self.bits} of GPTQ, {group_words(self.shape[1], self.scales.shape[0], self.group, self.g_idx)}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        codes = unpack(self.qweight.load()[:, start:stop].T, self.bits).int()
        scales, group = self.steps(start, stop), self._group()
        if self.zero is not None:
            return (codes - self.zero).float() * scales
        zeros = unpack(self.qzeros.load(), self.bits).int()[:, start:stop].T
        zeros = (zeros + self.zero_offset) & ((1 << self.bits) - 1)
        return (codes - zeros[:, group]).float() * scales

    def steps(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized.steps`."""
        return self.scales.load()[:, start:stop].T.float()[:, self._group()]

    def _group(self) -> torch.Tensor:
        """Index of the group of each input."""
        if self.g_idx is None:
            return group_of(self.shape[1], self.group)
        return checked_groups(self.g_idx.load(), self.scales.shape[0], self.group)


@dataclass(frozen=True)
class Awq(InputsAsRows):
    """AWQ in its GEMM layout: 4-bit codes packed along the outputs, in the order `AWQ_COLUMNS`."""

    qweight: Stored
    qzeros: Stored
    scales: Stored
    group: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)."""
        return self.qweight.shape[1] * 8, self.qweight.shape[0]

    @property
    def kind(self) -> str:
        """The quantization in words."""
        return f"int4 of AWQ, groups of {self.group}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        words = slice(start // 8, -(-stop // 8))
        wanted = slice(start - words.start * 8, stop - words.start * 8)
        pieces = (unpack(one.load()[:, words], 4).int() for one in (self.qweight, self.qzeros))
        codes, zeros = (one.unflatten(-1, (-1, 8))[..., list(AWQ_COLUMNS)].flatten(-2) for one in pieces)
        group = group_of(self.shape[1], self.group)
        return (codes - zeros[group]).float()[:, wanted].T * self.steps(start, stop)

    def steps(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized.steps`."""
        return self.scales.load()[:, start:stop].float()[group_of(self.shape[1], self.group)].T


@dataclass(frozen=True)
class SplitRows(InputsAsRows):
    """HQQ and BitNet: codes are a table of `grid`, and a byte or word holds one code of each equal part of its rows.

    The flattened table has the values of the flattened matrix, (code − zero) × scale; a scale and a zero belong to a
    row of the table where `axis` is 1, to a column where it is 0, or to all.
    """

    packed: Stored
    scale: Stored
    zero: Stored
    shape: tuple[int, ...]
    grid: tuple[int, int]
    axis: int
    bits: int
    shifts: tuple[int, ...]
    kind: str

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        columns = self.grid[1]
        place = torch.arange(start * self.shape[1], stop * self.shape[1])
        row, column = place // columns, place % columns
        words = self.packed.load().reshape(-1, columns)
        codes = words[row % len(words), column] >> torch.tensor(self.shifts)[row // len(words)].to(words.dtype)
        codes = (codes & ((1 << self.bits) - 1)).float().reshape(-1, self.shape[1])
        return (codes - self._each(self.zero, start, stop)) * self.steps(start, stop)

    @property
    def intervals(self) -> bool:
        """See `Stored`; between the values of ternary weights nothing lies."""
        return not self.kind.startswith("ternary")

    def steps(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized.steps`."""
        return self._each(self.scale, start, stop)

    def _each(self, piece: Stored, start: int, stop: int) -> torch.Tensor:
        """The scale of each value of some rows, or its zero: float32 (rows, in), or (1, 1)."""
        found = piece.load().float().reshape(-1)
        if len(found) == 1:
            return found.reshape(1, 1)
        place = torch.arange(start * self.shape[1], stop * self.shape[1])
        index = place // self.grid[1] if self.axis else place % self.grid[1]
        return found[index].reshape(-1, self.shape[1])


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
        width = self.shape[-1]
        codes, absmax = self._codes(start * width, stop * width)
        return (self.table.load().float()[codes] * absmax).reshape(-1, width)

    def cells(self, start: int, stop: int) -> Cells:
        """See `Stored`; from whole blocks, whose largest magnitude is stored exactly."""
        from .cell_loops import close_ends

        block = self.state["blocksize"]
        first, last = start // block * block, min(-(-stop // block) * block, math.prod(self.shape))
        codes, absmax = self._codes(first, last)
        table = self.table.load().float()
        found = Cells(*(one[codes] * absmax for one in (table, *edges(table))))
        low, high = table.min() * absmax[::block], table.max() * absmax[::block]
        ends = torch.stack([low, low, high, high], dim=1)
        close_ends(found.values.numpy(), found.lower.numpy(), found.upper.numpy(), block, ends.numpy())
        return Cells(*(one[start - first : stop - first] for one in found))

    def _codes(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of values `first` to `last` of the flattened matrix, and the absolute maxima of their blocks."""
        packed = self.weight.span(first // 2, -(-last // 2))
        codes = torch.stack([packed >> 4, packed & 15], dim=1).reshape(-1).long()[first % 2 :][: last - first]
        return codes, self._absmax()[torch.arange(first, last) // self.state["blocksize"]]

    def _absmax(self) -> torch.Tensor:
        if self.nested is None:
            return self.absmax.load().float().reshape(-1)
        scale, table = (one.load().double().reshape(-1) for one in self.nested)
        codes = self.absmax.load().reshape(-1).long()
        block = torch.arange(len(codes)) // self.state["nested_blocksize"]
        return (table[codes] * scale[block] + self.state["nested_offset"]).float()
