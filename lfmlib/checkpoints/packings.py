"""Compute the values of quantized matrices from codes and scales, float32 (out, in), a few rows at a time.

`lfmlib.checkpoints.quantized` finds the pieces by name; here is how each format packs codes and what they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch

from .stored import CheckpointError, InMemory, Stored

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M3 = (*(m / 8 for m in range(8)), *((1 + m / 8) * 2**e for e in range(3) for m in range(8)))
FLOAT_CODES = {4: torch.tensor((*E2M1, *(-one for one in E2M1))), 6: torch.tensor((*E2M3, *(-one for one in E2M3)))}
"""Bits → value of each code of the small floats of MXFP4 and NVFP4 (E2M1), and of MXFP6 (E2M3)."""
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
    """Codes stored so that a few outputs need bytes from all over them, as where inputs are rows."""

    def preloaded(self) -> InputsAsRows:
        """This tensor with its pieces loaded into memory once."""
        pieces = {one.name: getattr(self, one.name) for one in fields(self)}
        loaded = {name: InMemory(piece.load()) for name, piece in pieces.items() if isinstance(piece, Stored)}
        return replace(self, **loaded)


@dataclass(frozen=True)
class CodedRows(Dequantized):
    """Codes stored row by row of the matrix, with one scale for each block of rows and columns.

    A value is (code − zero − offset) × scale × factor + shift, where zero and shift have the blocks of the scale.

    Attributes:
        codes: numbers (…, out, in), or bytes or words that hold codes of `bits` bits, the lowest bits first.
        scale: numbers, or exponents of two (see `scales_of`): one for all, or for each block, in their order.
        block: rows and columns to which a scale applies; the last ones may have fewer.
        bits: of a code; 0 where the codes are numbers.
        floats: whether the codes are small floats (`FLOAT_CODES`) and not integers.
        groups: index of the group of each column, where columns of one group do not lie side by side.
        inputs_first: the rows are the inputs, see `Stored`.
    """

    codes: Stored
    scale: Stored
    shape: tuple[int, ...]
    block: tuple[int, int]
    kind: str
    bits: int = 0
    floats: bool = False
    zero: Stored | None = None
    shift: Stored | None = None
    groups: Stored | None = None
    offset: int = 0
    factor: float = 1.0
    inputs_first: bool = False

    def preloaded(self) -> CodedRows:
        """This tensor with its remote scales, and zero points packed along the outputs, loaded into memory once."""
        pieces = {name: getattr(self, name) for name in ("scale", "zero", "shift", "groups")}
        pieces = {name: one for name, one in pieces.items() if one is not None and (one.remote or one.lazy)}
        return replace(self, **{name: InMemory(one.load()) for name, one in pieces.items()})

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        width, units = self.shape[-1], math.prod(self.codes.shape) // math.prod(self.shape[:-1])
        codes = self.codes.span(start * units, stop * units).reshape(stop - start, units)
        codes = unpack(codes, self.bits)[:, :width] if self.bits else codes
        values = FLOAT_CODES[self.bits][codes.long()] if self.floats else codes.float()
        if self.zero is not None or self.offset:
            values = values - ((self._blocks(self.zero, start, stop) if self.zero is not None else 0) + self.offset)
        scale = self._blocks(self.scale, start, stop) * self.factor
        if self.shift is None:
            return values * scale
        return torch.addcmul(self._blocks(self.shift, start, stop).double(), values.double(), scale).float()

    def _blocks(self, piece: Stored, start: int, stop: int) -> torch.Tensor:
        """The scale of each value of some rows, or its zero or shift: float32 (rows, in), or (rows, 1)."""
        (out, width), (high, wide) = self.shape[-2:], self.block
        grid = -(-out // high), -(-width // wide)
        row = torch.arange(start, stop)
        stacked = math.prod(piece.shape) > math.prod(grid)  # each matrix of a stack has its own
        row = (row // out * grid[0] if stacked else 0) + row % out // high
        first, last = int(row.min()), int(row.max())
        found = scales_of(piece.span(first * grid[1], (last + 1) * grid[1])).reshape(-1, grid[1])
        if grid[1] > 1:
            groups = group_of(width, wide) if self.groups is None else checked_groups(self.groups.load(), grid[1])
            found = found[:, groups]
        return found[row - first]


@dataclass(frozen=True)
class PackedZeros(Dequantized):
    """Zero points of compressed-tensors (out, groups), packed along the outputs as the codes are along the inputs."""

    packed: Stored
    shape: tuple[int, ...]
    bits: int

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Zero points of some rows, counted like the codes."""
        return unpack(self.packed.load().T, self.bits).T[start:stop].float()


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
        return f"int{self.bits} of GPTQ, groups of {self.group}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        codes = unpack(self.qweight.load()[:, start:stop].T, self.bits).int()
        scales = self.scales.load()[:, start:stop].T.float()
        width, groups = self.shape[1], self.scales.shape[0]
        group = group_of(width, self.group) if self.g_idx is None else checked_groups(self.g_idx.load(), groups)
        if self.zero is not None:
            return (codes - self.zero).float() * scales[:, group]
        zeros = unpack(self.qzeros.load(), self.bits).int()[:, start:stop].T
        zeros = (zeros + self.zero_offset) & ((1 << self.bits) - 1)
        return (codes - zeros[:, group]).float() * scales[:, group]


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
        return ((codes - zeros[group]).float()[:, wanted] * self.scales.load()[:, start:stop].float()[group]).T


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
        codes = (codes & ((1 << self.bits) - 1)).float()
        index = row if self.axis else column
        scale, zero = (one.load().float().reshape(-1) for one in (self.scale, self.zero))
        scale, zero = (one[index] if len(one) > 1 else one for one in (scale, zero))
        return ((codes - zero) * scale).reshape(-1, self.shape[1])


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
        scale, table = (one.load().double().reshape(-1) for one in self.nested)
        codes = self.absmax.load().reshape(-1).long()
        block = torch.arange(len(codes)) // self.state["nested_blocksize"]
        return (table[codes] * scale[block] + self.state["nested_offset"]).float()


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes in words or bytes (n, m), one after the other from the lowest bit on: uint8 (n, codes), and padding."""
    found = words.contiguous().view(torch.uint8)
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        return ((found[..., None] >> shifts) & ((1 << bits) - 1)).flatten(-2)
    found = torch.nn.functional.pad(found, (0, -found.shape[-1] % bits)).unflatten(-1, (-1, bits)).long()
    eight = (found << (8 * torch.arange(bits))).sum(-1, keepdim=True)  # codes in as many bytes as a code has bits
    return ((eight >> (bits * torch.arange(8))) & ((1 << bits) - 1)).to(torch.uint8).flatten(-2)


def group_of(width: int, size: int) -> torch.Tensor:
    """Index of the group of each of `width` inputs, groups of `size` side by side; the last may have fewer."""
    return torch.arange(width) // size


def checked_groups(found: torch.Tensor, groups: int) -> torch.Tensor:
    """Index of the group of each input as a file stores it. Raises CheckpointError if there are not so many groups."""
    if int(found.min()) < 0 or int(found.max()) >= groups:
        raise CheckpointError(
            f"g_idx of a quantized matrix names groups {int(found.min())} to {int(found.max())}, where those of 0 to "
            f"{groups - 1} were expected. The file is damaged: download it again."
        )
    return found.long()


def scales_of(scale: torch.Tensor) -> torch.Tensor:
    """Scales as float32; uint8 and float8_e8m0 hold exponents of two with a bias of 127."""
    if scale.dtype == torch.uint8 or "e8m0" in str(scale.dtype):
        return torch.exp2(scale.view(torch.uint8).float() - 127)
    return scale.float()
