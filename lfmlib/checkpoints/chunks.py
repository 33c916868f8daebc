"""The values of a stored tensor in flat pieces, views where they lie together in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from .remote import ahead
from .slices import Part
from .stored import Stored

CHUNK_BYTES = 32 * 2**20  # large beside a loop's start-up; views on the file, so memory does not limit it
LAZY_BYTES = 8 * 2**20  # of values that are read from elsewhere or computed, several pieces of which are held
COPY_BYTES = 2**20  # where values must be gathered: small enough to stay in the cache, 8 × faster than 32 MiB


def lazily(part: Part, entry: Stored, bytes: int, start: int, stop: int) -> Iterator[torch.Tensor]:
    """Flat pieces of a tensor of which no more than a few are in memory; from elsewhere the next are on their way."""
    remote, entry = entry.remote, entry.near()
    width = max(1, entry.shape[-1]) if entry.shape else 1
    count = max(1, min(bytes, LAZY_BYTES) // getattr(torch, entry.dtype).itemsize)
    count -= count % width if count > width else 0  # whole rows: a quantized one is computed at once
    calls = (partial(part.piece, entry, at, min(at + count, stop)) for at in range(start, stop, count))
    return ahead(calls) if remote else (call() for call in calls)


def between(part: Part, entry: Stored, bytes: int, start: int, stop: int) -> Iterator[torch.Tensor]:
    """Flat pieces of the values between two places; each is mapped on its own."""
    together = part.unordered(entry.load()).is_contiguous()
    count = max(1, (bytes if together else min(bytes, COPY_BYTES)) // getattr(torch, entry.dtype).itemsize)
    for at in range(start, stop, count):
        yield aligned(part.piece(entry, at, min(at + count, stop)))


def flat(values: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Flat pieces of at most `count` values, views where they lie together in memory."""
    if values.numel() == 0:
        return
    if values.is_contiguous():
        yield from values.reshape(-1).split(count)
        return
    row = values[0].numel()
    # Rows that are whole in memory are worth their own chunk if long; short or scattered ones are gathered.
    if row > count or (row * values.element_size() >= 2**16 and values[0].is_contiguous()):
        for one in values:
            yield from flat(one, count)
    else:
        for block in values.split(max(1, min(count, COPY_BYTES // values.element_size()) // row)):
            yield block.reshape(-1)


def aligned(values: torch.Tensor) -> torch.Tensor:
    """Values at an address that is a multiple of their size, as compiled loops expect; rare files need a copy."""
    return values if values.data_ptr() % values.element_size() == 0 else values.clone()
