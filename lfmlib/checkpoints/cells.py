"""Read the codes of a quantized tensor as intervals: the cell that each code stands for, and values spread over it.

A code stands for every number that rounds to it. Sixteen levels a block are not how the weights are distributed, and a
code for zero puts a twentieth to a third of them on one point. So what is said of a distribution is said of values
spread evenly over their cells: value i of a tensor lies at ``lower + u · (upper − lower)``, where u in (0, 1) is a hash
of i alone (the finalizer of SplitMix64; Steele, Lea and Flood 2014). The same tensor thus has the same values in any
chunks, on any number of workers. What a model computes with stays the exact value.

The width of a cell is known: the step between neighbouring codes in the block, by its own scale. Its place is known but
at a block's ends, where it depends on how the quantizer chose the scale; see `close_ends` in
`lfmlib.checkpoints.cell_loops` for those that store a block's extremes exactly. Elsewhere the end cells are as wide
outwards as inwards.

Spreading cannot bring back what is finer than a step: `lfmlib.checkpoints.quantized` says what was measured, format by
format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from .stored import Stored


class Cells(NamedTuple):
    """Some values of a tensor and the ends of their cells, float32 tensors of one shape.

    Where a scale is negative, ``lower`` is the upper end. Both ends are the value where it is known exactly, as in a
    block of zeros.
    """

    values: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor


@dataclass(frozen=True)
class Spread(Stored):
    """A tensor of which each range is read twice: row 0 has its values, row 1 the values spread over their cells.

    Attributes:
        entry: the tensor, whose `Stored.intervals` is True.
    """

    entry: Stored
    dtype = "float32"
    lazy = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.entry.shape

    @property
    def remote(self) -> bool:
        """Whether the tensor is in a remote file."""
        return self.entry.remote

    def preloaded(self) -> Spread:
        """The same of the tensor made ready for many spans."""
        return Spread(self.entry.preloaded())

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of the flattened tensor, and the same spread: float32 (2, stop - start)."""
        from .cell_loops import spread

        found = self.entry.cells(start, stop)
        out = np.empty((2, max(0, stop - start)), dtype=np.float32)
        out[0] = found.values.numpy()
        spread(np.ascontiguousarray(found.lower.numpy()), np.ascontiguousarray(found.upper.numpy()), start, out[1])
        return torch.from_numpy(out)


def edges(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The ends of the cell of each code of a table of values: the middles between neighbours among its finite values.

    Args:
        table: values by code, (codes,), in any order; a value may stand there twice.

    Returns:
        Lower and upper ends, float32 (codes,); the outermost cells are as wide outwards as inwards, and those of an
        infinity or NaN are that itself.
    """
    values = table.double()
    finite = values.isfinite()
    known, place = torch.unique(values[finite], return_inverse=True)
    middles = (known[1:] + known[:-1]) / 2
    lower = torch.cat([2 * known[:1] - middles[:1], middles])
    upper = torch.cat([middles, 2 * known[-1:] - middles[-1:]])
    found = values.clone(), values.clone()
    found[0][finite], found[1][finite] = lower[place], upper[place]
    return found[0].float(), found[1].float()
