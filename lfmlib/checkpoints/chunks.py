"""Cut the values of a stored tensor into flat chunks: views where values are contiguous in memory, else copies."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from .remote import prefetched
from .slices import Part
from .stored import Stored

CHUNK_BYTES = 32 * 2**20  # a view on the file takes no memory, so as large as makes a loop's start-up negligible
LAZY_CHUNK_BYTES = 8 * 2**20  # of remote and quantized tensors, several chunks of which are in memory at once
GATHERED_CHUNK_BYTES = 2**20  # of values that are copied together: fits the cache, 8 × faster than 32 MiB


def lazy_chunks(part: Part, entry: Stored, bytes: int, start: int, stop: int) -> Iterator[torch.Tensor]:
    """Chunks of a lazy tensor, a few of them in memory at a time; of a remote one the next are read ahead."""
    remote, entry = entry.remote, entry.preloaded()
    width = max(1, entry.shape[-1]) if entry.shape else 1
    count = max(1, min(bytes, LAZY_CHUNK_BYTES) // getattr(torch, entry.dtype).itemsize)
    count -= count % width if count > width else 0  # whole rows, since a quantized row is computed as a whole
    calls = (partial(part.load_range, entry, at, min(at + count, stop)) for at in range(start, stop, count))
    return prefetched(calls) if remote else (call() for call in calls)


def range_chunks(part: Part, entry: Stored, bytes: int, start: int, stop: int) -> Iterator[torch.Tensor]:
    """Chunks of the values `start` to `stop`; each is mapped on its own."""
    together = part.in_stored_order(entry.load()).is_contiguous()
    count = max(1, (bytes if together else min(bytes, GATHERED_CHUNK_BYTES)) // getattr(torch, entry.dtype).itemsize)
    for at in range(start, stop, count):
        yield aligned(part.load_range(entry, at, min(at + count, stop)))


def flat_chunks(values: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Chunks of at most `count` values each."""
    if values.numel() == 0:
        return
    if values.is_contiguous():
        yield from values.reshape(-1).split(count)
        return
    row = values[0].numel()
    # Contiguous rows of 64 KiB or more become chunks of their own; shorter or scattered ones are copied together.
    if row > count or (row * values.element_size() >= 2**16 and values[0].is_contiguous()):
        for one in values:
            yield from flat_chunks(one, count)
    else:
        for block in values.split(max(1, min(count, GATHERED_CHUNK_BYTES // values.element_size()) // row)):
            yield block.reshape(-1)


def aligned(values: torch.Tensor) -> torch.Tensor:
    """The values at an address that is a multiple of their size, which compiled loops need; rarely a copy."""
    return values if values.data_ptr() % values.element_size() == 0 else values.clone()
