"""One logical tensor as a part of a stored one: which of its values, and how no others are loaded."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

SHORT = 1 << 15  # values: below this it is cheaper to load what lies between two runs than to ask twice


@dataclass(frozen=True)
class Part:
    """One logical tensor, and how it is taken from a stored one.

    From the stored tensor, in this order: `expert` picks along the first axis; `transposed` swaps the two axes left;
    the rows are seen as `groups` equal blocks, of each of which rows `start` to `stop` belong to this part.
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

    def unordered(self, stored: torch.Tensor) -> torch.Tensor:
        """A view on the stored tensor of exactly this part's values, axes in stored order, so that memory is swept."""
        whole = stored if self.expert is None else stored[self.expert]
        if self.stop is None:
            return whole
        axis = 1 if self.transposed else 0
        return whole.unflatten(axis, (self.groups, -1)).narrow(axis + 1, self.start, self.stop - self.start)

    def of(self, stored: torch.Tensor) -> torch.Tensor:
        """This part as a tensor of `shape`: a view where the rows lie together or in equal steps, else a copy."""
        values = self.unordered(stored)
        if self.stop is not None:
            axis = 1 if self.transposed else 0
            values = values.flatten(axis, axis + 1)
        return values.t() if self.transposed else values

    def take(self, entry) -> torch.Tensor:
        """This part of a stored entry, of whose stack no more is loaded than the expert's own matrix."""
        if self.expert is None or not entry.lazy:
            return self.of(entry.load())
        shape = entry.shape[1:]
        size = math.prod(shape)
        whole = entry.span(self.expert * size, (self.expert + 1) * size).reshape(shape)
        return replace(self, expert=None).of(whole)

    def piece(self, entry, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of `unordered(entry.load())` flattened, of which nothing else is loaded.

        Such a part is a number of runs of one length at equal steps; runs shorter than `SHORT` are loaded with what
        lies between them.
        """
        base, run, step = self._runs(entry.shape)
        first, last = start // run, (stop - 1) // run
        if first == last:
            begin = base + first * step - first * run
            return entry.span(begin + start, begin + stop)
        if run < SHORT:
            whole = entry.span(base + first * step, base + last * step + run)
            runs = [whole.as_strided((last - first + 1, run), (step, 1)).reshape(-1)]
        else:
            runs = [entry.span(base + i * step, base + i * step + run) for i in range(first, last + 1)]
        return torch.cat(runs)[start - first * run : stop - first * run]

    def pieces(self, entry, ranges: np.ndarray) -> torch.Tensor:
        """Several `piece`s one behind the other; of values that are at hand no others are touched.

        Args:
            entry: as there.
            ranges: int ``(pieces, 2)``: start and stop of each.
        """
        if entry.lazy or not len(ranges):
            return torch.cat([self.piece(entry, int(start), int(stop)) for start, stop in ranges])
        base, run, step = self._runs(entry.shape)
        places = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        return entry.gather(torch.from_numpy(base + places // run * step + places % run))

    def _runs(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Of the values of `unordered` in the flattened stored tensor: where they begin, the length of a run of them,
        and the distance from one run to the next."""
        inner = shape if self.expert is None else shape[1:]
        size = math.prod(inner)
        base = 0 if self.expert is None else self.expert * size
        if self.stop is None:
            return base, max(size, 1), size
        width = 1 if self.transposed else math.prod(inner[1:])
        group = (inner[1] if self.transposed else inner[0]) // self.groups
        return base + self.start * width, (self.stop - self.start) * width, group * width
