"""Compute the values of quantized matrices from codes and scales, float32 (out, in), a few rows at a time.

`lfmlib.checkpoints.quantized` finds the pieces by name; here is how codes that lie row by row are packed and what they
stand for. `lfmlib.checkpoints.library_packings` has the formats of single libraries.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from .cells import Cells, edges
from .stored import CheckpointError, InMemory, Stored

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M3 = (*(m / 8 for m in range(8)), *((1 + m / 8) * 2**e for e in range(3) for m in range(8)))
FLOAT_CODES = {4: torch.tensor((*E2M1, *(-one for one in E2M1))), 6: torch.tensor((*E2M3, *(-one for one in E2M3)))}
"""Bits → value of each code of the small floats of MXFP4 and NVFP4 (E2M1), and of MXFP6 (E2M3)."""


@dataclass(frozen=True)
class Dequantized(Stored):
    """A quantized matrix, or a stack of them, with values float32 (…, out, in). Subclasses define `shape`, `rows`."""

    dtype = "float32"
    lazy = True

    @property
    def intervals(self) -> bool:
        """See `Stored`."""
        return True

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of rows `start` to `stop`, float32 (stop - start, in); rows of a stack are numbered throughout."""
        raise NotImplementedError

    def steps(self, start: int, stop: int) -> torch.Tensor:
        """Distance of neighbouring codes at each value of some rows, of either sign; (stop - start, in or 1)."""
        raise NotImplementedError

    def row_cells(self, start: int, stop: int) -> Cells:
        """The cells of some rows, each (stop - start, in), where neighbouring codes lie equally far apart."""
        values, half = self.rows(start, stop), self.steps(start, stop).float() / 2
        return Cells(values, values - half, values + half)

    def cells(self, start: int, stop: int) -> Cells:
        """See `Stored`."""
        if start >= stop:
            return Cells(*(torch.empty(0) for _ in range(3)))
        width = self.shape[-1]
        first = start // width
        wanted = slice(start - first * width, stop - first * width)
        return Cells(*(one.reshape(-1)[wanted] for one in self.row_cells(first, -(-stop // width))))

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

    @property
    def intervals(self) -> bool:
        """See `Stored`."""
        return self.codes.intervals or not self.codes.kind

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Values of some rows; see `Dequantized.rows`."""
        codes = self._codes(start, stop)
        values = FLOAT_CODES[self.bits][codes.long()] if self.floats else codes.float()
        if self.zero is not None or self.offset:
            values = values - ((self._blocks(self.zero, start, stop) if self.zero is not None else 0) + self.offset)
        scale = self._blocks(self.scale, start, stop) * self.factor
        if self.shift is None:
            return values * scale
        return torch.addcmul(self._blocks(self.shift, start, stop).double(), values.double(), scale).float()

    def _codes(self, start: int, stop: int) -> torch.Tensor:
        """The codes of some rows, (rows, in), of the type in which they are stored or packed."""
        units = math.prod(self.codes.shape) // math.prod(self.shape[:-1])
        codes = self.codes.span(start * units, stop * units).reshape(stop - start, units)
        return unpack(codes, self.bits)[:, : self.shape[-1]] if self.bits else codes

    def steps(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized.steps`."""
        return self._blocks(self.scale, start, stop) * self.factor

    def row_cells(self, start: int, stop: int) -> Cells:
        """See `Dequantized.row_cells`; of floats as codes, as far as the middles to the neighbouring ones."""
        if self.codes.intervals:
            inner = self.codes.cells(start * self.shape[-1], stop * self.shape[-1])
            scale = self.steps(start, stop)
            return Cells(*((one.reshape(stop - start, -1) * scale).float() for one in inner))
        if not (self.floats or "float8" in self.codes.dtype):
            return super().row_cells(start, stop)
        values, scale = self.rows(start, stop), self.steps(start, stop).float()
        codes = self._codes(start, stop)
        codes = codes if self.floats else codes.contiguous().view(torch.uint8)
        below, above = _distances(self.bits if self.floats else self.codes.dtype)
        below, above = (torch.from_numpy(one[codes.numpy()]) for one in (below, above))
        return Cells(values, values + below * scale, values + above * scale)

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
            order = None if self.groups is None else self.groups.load()
            groups = group_of(width, wide) if order is None else checked_groups(order, grid[1], wide)
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


@functools.cache
def _distances(codes: int | str) -> tuple[np.ndarray, np.ndarray]:
    """From the value of each code to the ends of its cell, float32 (codes,) below and above.

    Args:
        codes: bits of a small float (`FLOAT_CODES`), or name of a float8 type.
    """
    if isinstance(codes, int):
        table = FLOAT_CODES[codes]
    else:
        table = torch.arange(256).to(torch.uint8).view(getattr(torch, codes)).float()
    found = [torch.where(table.isfinite(), one - table, 0.0) for one in edges(table)]
    return found[0].numpy(), found[1].numpy()


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


def group_words(width: int, groups: int, size: int, order: Stored | None) -> str:
    """The groups of the inputs of a matrix in words; ``order`` says the group of each, ``size`` how many they have.

    Groups that do not lie side by side have no one size; of a remote file this is not looked at.
    """
    found = None if order is None or order.remote else order.load().long()
    if order is None or (
        found is not None and (bool((found == -1).all()) or torch.equal(found, group_of(width, size)))
    ):
        return f"groups of {size}"
    return f"{groups} groups by g_idx"


def checked_groups(found: torch.Tensor, groups: int, size: int) -> torch.Tensor:
    """Index of the group of each input as a file stores it; −1 of all is compressed-tensors' sign for no order, with
    groups of `size` side by side. Raises CheckpointError if there are not so many groups."""
    if bool((found == -1).all()):
        return group_of(len(found), size)
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
