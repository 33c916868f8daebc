"""Write a safetensors file from front to back, a piece at a time, and go on where a killed process stopped.

The bytes are those of one uninterrupted run: the header, from what is to come, then each tensor in order. While a file
is being written it is called ``NAME.part``, and ``NAME.part.safe`` says how many of its bytes are on the disk for sure.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from ..checkpoints.safetensors_files import TORCH_DTYPES
from ..checkpoints.stored import dtype_name

SYNCED = 1 << 26
"""Bytes after which what was written is brought to the disk, while more is made."""
_NAMES = {dtype_name(dtype): short for short, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: its name, shape and dtype (such as "bfloat16")."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


def header(entries: Sequence[Entry]) -> bytes:
    """What a safetensors file begins with: its length, and JSON that says where each tensor is."""
    fields: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for one in entries:
        start, end = end, end + one.bytes
        fields[one.name] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [start, end]}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class ShardWriter:
    """One file; a context manager, which leaves an unfinished file behind to go on with.

    Args:
        path: where the file will be.
        entries: all its tensors, in order.

    Attributes:
        done: how many of them are written already, of an earlier run.
    """

    def __init__(self, path: Path, entries: Sequence[Entry]):
        self.path, self.entries = path, list(entries)
        self._part, self._safe = (path.with_name(path.name + end) for end in (".part", ".part.safe"))
        self._header = header(self.entries)
        sizes = [0]
        for one in self.entries:
            sizes.append(sizes[-1] + one.bytes)
        self._ends = [len(self._header) + size for size in sizes]
        self.finished = path.exists()
        self.done = len(self.entries) if self.finished else 0
        self._behind: tuple[Future, int] | None = None  # up to where bytes are on their way to the disk
        self._refused = False  # the disk has said no

    def __enter__(self) -> ShardWriter:
        if self.finished:
            self._safe.unlink(missing_ok=True)  # of a process that was killed just before
            return self
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        safe = int(self._safe.read_text()) if self._safe.exists() and self._part.exists() else 0
        if safe and self._part.stat().st_size >= safe and safe in self._ends:
            self._file = self._part.open("r+b", buffering=0)
            if self._file.read(len(self._header)) == self._header:
                self.done = self._ends.index(safe)
                self._file.truncate(safe)
                self._file.seek(safe)
                self._asked = safe
                return self
            self._file.close()
        self._file = self._part.open("wb", buffering=0)
        self._write(self._header)
        self._sync()
        return self

    def write(self, pieces: Iterable[torch.Tensor]) -> None:
        """The next tensor: flat pieces of its dtype, in order, that make it up together.

        Raises:
            ValueError: they are of another dtype, or of more or fewer values than the tensor has.
            OSError: the disk is full; what was written before stays good.
        """
        entry = self.entries[self.done]
        for piece in pieces:
            if dtype_name(piece.dtype) != entry.dtype:
                raise ValueError(f"{entry.name}: a piece is {dtype_name(piece.dtype)}, expected {entry.dtype}")
            if piece.numel():
                self._write(piece.contiguous().reshape(-1).view(torch.uint8).numpy())
        if self._file.tell() != self._ends[self.done + 1]:
            size = self._file.tell() - self._ends[self.done]
            raise ValueError(f"{entry.name}: {size} bytes were given, expected {entry.bytes}")
        self.done += 1
        if self._file.tell() - self._asked >= SYNCED:
            self._arrived()
            self._asked = self._file.tell()
            self._behind = self._thread.submit(self._bring), self._asked

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.finished:
            return
        whole = kind is None and self.done == len(self.entries)
        try:
            if whole:
                self._sync()
            else:
                self._leave()
        finally:
            self._thread.shutdown()
            self._file.close()
        if whole:
            self._part.replace(self.path)
            self._safe.unlink()

    def _leave(self) -> None:
        """Keep what is whole, if the disk lets. What it refused once may look well the second time, and be lost."""
        try:
            self._arrived()
            if self._refused:
                return
            self._file.truncate(self._ends[self.done])
            self._file.seek(self._ends[self.done])
            self._sync()
        except OSError:
            pass

    def _write(self, data) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    def _sync(self) -> None:
        """Bring all to the disk, and say so: only whole tensors count."""
        self._arrived()
        self._bring()
        self._asked = self._file.tell()
        self._say(self._asked)

    def _bring(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError:
            self._refused = True
            raise

    def _arrived(self) -> None:
        """Wait until what is on its way is on the disk, and say so. Raises what the disk does."""
        if self._behind:
            (future, place), self._behind = self._behind, None
            future.result()
            self._say(place)

    def _say(self, place: int) -> None:
        written = self._safe.with_name(self._safe.name + ".new")
        written.write_text(str(place))
        written.replace(self._safe)
