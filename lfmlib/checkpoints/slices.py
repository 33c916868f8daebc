"""A logical tensor as a part of a stored one: a projection of a fused q, k, v, or an expert of a stack.

`Part` says which values of the stored tensor these are, and loads them without the others.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

MIN_RUN_VALUES = 1 << 15
"""Values of a contiguous run that are worth a read of their own; for shorter runs the values between them are read
too."""


@dataclass(frozen=True)
class Part:
    """A logical tensor and how it is cut from a stored one.

    In this order: `expert` indexes the first axis of the stored tensor; `transposed` swaps the last two axes; the
    rows are divided into `groups` equal blocks, and rows `start` to `stop` of each block belong to the part (all rows
    where `stop` is None).

    Attributes:
        name: of the logical tensor.
        stored: name of the stored tensor.
        shape: of the logical tensor.
        role, depth, tower: see `lfmlib.checkpoints.roles`.
    """

    name: str
    stored: str
    shape: tuple[int, ...]
    role: str = "other"
    depth: int | None = None
    tower: str = ""
    expert: int | None = None
    transposed: bool = False
    groups: int = 1
    start: int = 0
    stop: int | None = None

    def in_stored_order(self, stored: torch.Tensor) -> torch.Tensor:
        """A view of this part's values with the axes as stored (not transposed), so that memory is read in order."""
        whole = stored if self.expert is None else stored[self.expert]
        if self.stop is None:
            return whole
        axis = 1 if self.transposed else 0
        return whole.unflatten(axis, (self.groups, -1)).narrow(axis + 1, self.start, self.stop - self.start)

    def from_stored(self, stored: torch.Tensor) -> torch.Tensor:
        """This part as a tensor of `shape`: a view where its rows are evenly spaced in memory, else a copy."""
        values = self.in_stored_order(stored)
        if self.stop is not None:
            axis = 1 if self.transposed else 0
            values = values.flatten(axis, axis + 1)
        return values.mT if self.transposed else values

    def load(self, entry) -> torch.Tensor:
        """This part of `entry`, a `Stored`; of a lazy stack only the expert's own matrix is loaded."""
        if self.expert is None or not entry.lazy:
            return self.from_stored(entry.load())
        shape = entry.shape[1:]
        size = math.prod(shape)
        whole = entry.span(self.expert * size, (self.expert + 1) * size).reshape(shape)
        return replace(self, expert=None).from_stored(whole)

    def load_range(self, entry, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of `in_stored_order` flattened, loaded without the rest of the tensor.

        Where the spans of `entry` have two rows (`lfmlib.checkpoints.cells.Spread`), so has what is returned.

        In the stored tensor a part is a sequence of evenly spaced runs of equal length. Runs shorter than
        `MIN_RUN_VALUES` are loaded together with the values between them.
        """
        base, run, step = self._runs(entry.shape)
        first, last = start // run, (stop - 1) // run
        if first == last:
            begin = base + first * step - first * run
            return entry.span(begin + start, begin + stop)
        if run < MIN_RUN_VALUES:
            whole = entry.span(base + first * step, base + last * step + run)
            runs = [whole.unfold(-1, run, step).flatten(-2)]
        else:
            runs = [entry.span(base + i * step, base + i * step + run) for i in range(first, last + 1)]
        return torch.cat(runs, dim=-1)[..., start - first * run : stop - first * run]

    def load_ranges(self, entry, ranges: np.ndarray) -> torch.Tensor:
        """Several ranges as of `load_range`, concatenated; of a mapped file only the pages that hold them are read.

        Args:
            entry: the stored tensor, a `Stored`.
            ranges: int ``(pieces, 2)``: start and stop of each.
        """
        if entry.lazy or not len(ranges):
            return torch.cat([self.load_range(entry, int(start), int(stop)) for start, stop in ranges], dim=-1)
        base, run, step = self._runs(entry.shape)
        places = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        return entry.gather(torch.from_numpy(base + places // run * step + places % run))

    def _runs(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Where this part's runs lie in the flattened stored tensor: begin of the first, length of each, and distance
        from one begin to the next, in values."""
        inner = shape if self.expert is None else shape[1:]
        size = math.prod(inner)
        base = 0 if self.expert is None else self.expert * size
        if self.stop is None:
            return base, max(size, 1), size
        width = 1 if self.transposed else math.prod(inner[1:])
        group = (inner[1] if self.transposed else inner[0]) // self.groups
        return base + self.start * width, (self.stop - self.start) * width, group * width
