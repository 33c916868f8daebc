"""Count the values of a tensor for a table: as a model computes with them, and as their distribution is measured.

The two differ in quantized tensors only, where figures of a distribution are those of values spread over the cells of
their codes (see `lfmlib.checkpoints.cells`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..checkpoints.cells import Spread
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.quantizers import quantize
from ..distribution import like_noise, nulls
from ..distribution.sketch import Sketch

SPREAD = "figures of the distribution are those of values spread evenly over the cells of their codes"
LEFT = (
    "figures of the distribution are those of the dequantized values, some of them the quantizer's own: its codes do "
    "not stand for intervals of known width"
)

MAX_NOISE_VALUES = 1 << 18
"""Values of quantized noise at most, but for a single row: each must be drawn, while counts of plain noise are."""


@dataclass(frozen=True)
class Counted:
    """The sketches of a tensor, or of a part of it; those of two parts add up.

    Attributes:
        values: of the values that a model computes with.
        law: of the values that figures of the distribution are taken of; the same sketch unless they were spread.
    """

    values: Sketch
    law: Sketch

    @classmethod
    def of(cls, values) -> Counted:
        """Of values that are not quantized, as `Sketch.of` takes them."""
        sketch = Sketch.of(values)
        return cls(sketch, sketch)

    @classmethod
    def pairs(cls, chunks: Iterable[torch.Tensor]) -> Counted:
        """Of chunks (2, n) as `Checkpoint.spread` yields them. Raises ValueError if there is none."""
        total = None
        for chunk in chunks:
            part = cls(*map(Sketch.of, chunk))
            total = part if total is None else total + part
        return cls.of(()) if total is None else total

    def __add__(self, other: Counted) -> Counted:
        values = self.values + other.values
        return Counted(values, values if self.law is self.values else self.law + other.law)


def count(checkpoint: Checkpoint, name: str, *, start: int = 0, stop: int | None = None) -> Counted:
    """Count a tensor, or values `start` to `stop` of it in the order of `Checkpoint.chunks`, with its errors."""
    if checkpoint.has_cells(name):
        return Counted.pairs(checkpoint.spread(name, start=start, stop=stop))
    return Counted.of(checkpoint.chunks(name, start=start, stop=stop))


def count_sample(checkpoint: Checkpoint, name: str, bytes: int) -> list[Counted]:
    """Count each group of pieces of a sample, with the errors of `Checkpoint.sample`."""
    if checkpoint.has_cells(name):
        return [Counted.pairs([both]) for both in checkpoint.sample(name, bytes, spread=True)]
    return [Counted.of(piece) for piece in checkpoint.sample(name, bytes)]


def law_sketch(checkpoint: Checkpoint, name: str) -> Sketch:
    """The sketch that figures of a tensor's distribution are taken of, with the errors of `Checkpoint.chunks`."""
    if checkpoint.has_cells(name):
        return Sketch.of(both[1] for both in checkpoint.spread(name))
    return Sketch.of(checkpoint.chunks(name))


def law_values(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """The values that figures of a tensor's distribution are taken of, flat, with the errors of `Checkpoint.chunks`."""
    if checkpoint.has_cells(name):
        return torch.cat([both[1] for both in checkpoint.spread(name)])
    return checkpoint.read(name).reshape(-1)


def noise_like(row: Mapping, seed: int) -> Counted:
    """Count Gaussian noise like a tensor: of its size, type, mean and standard deviation, quantized as it is.

    Args:
        row: of the tensor, from `lfmlib.survey`.
        seed: of the noise, which also depends on the tensor's name.
    """
    rng = np.random.default_rng([seed, *row["tensor"].encode()])
    quantized = quantized_noise(row, rng)
    if quantized is not None:
        return quantized
    centre, scale = like_noise.latent(row["dtype"], row["mean"], row["std"])
    return Counted.of(nulls.draw(row["dtype"], row["count"], rng, centre, scale))


def quantized_noise(row: Mapping, rng: np.random.Generator) -> Counted | None:
    """Count Gaussian noise that was quantized as a tensor is, and spread as it was.

    Args:
        row: of the tensor, from `lfmlib.survey`. The noise has its shape, or its first rows, as many as were counted
            and at most about `MAX_NOISE_VALUES`; and, before it is quantized, its mean and standard deviation.
        rng: source of randomness.

    Returns:
        None of a tensor that is not quantized, or in a format for which `lfmlib.checkpoints.quantizers` has no rule.
    """
    if not row.get("quantized"):
        return None
    out, width = row["shape"]
    rows = min(out, max(1, min(row["count"], MAX_NOISE_VALUES) // width))
    noise = row["mean"] + row["std"] * rng.standard_normal((rows, width), dtype=np.float32)
    entry = quantize(noise.astype(np.float32), row["quantized"])
    if entry is None:
        return None
    size = math.prod(entry.shape)
    return Counted.pairs([Spread(entry).span(0, size)]) if entry.intervals else Counted.of(entry.span(0, size))


def how_quantized(checkpoint: Checkpoint, table: pd.DataFrame) -> dict[str, str]:
    """For each quantization among the rows of a table, in words, how the distribution was measured."""
    rows = table[table["quantized"] != ""].drop_duplicates("quantized")
    known = zip(rows["quantized"], rows["tensor"], strict=True)
    return {words: SPREAD if checkpoint.has_cells(name) else LEFT for words, name in known}
