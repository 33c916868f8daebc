"""Write a safetensors file from front to back, a piece at a time, and go on where a killed process stopped.

The bytes are those of an uninterrupted run: the header, which needs only the names, shapes and types of the tensors,
then each tensor in order. While a file is written it is called ``NAME.part``, and ``NAME.part.safe`` holds the number
of its bytes that are known to have reached the disk.
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

SYNC_BYTES = 1 << 26
"""Bytes after which a thread flushes what was written to the disk, while the next tensors are made."""
_NAMES = {dtype_name(dtype): short for short, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: its name, shape and dtype (such as "bfloat16")."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


def header(entries: Sequence[Entry]) -> bytes:
    """The beginning of a safetensors file: the length of the header, and JSON that says where each tensor is."""
    fields: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for one in entries:
        start, end = end, end + one.bytes
        fields[one.name] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [start, end]}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class ShardWriter:
    """One file that is being written; a context manager. What is unfinished on leaving, the next one goes on with.

    Args:
        path: of the file.
        entries: all its tensors, in order.

    Attributes:
        done: how many tensors are written; of an earlier run at first.
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
        self._flushing: tuple[Future, int] | None = None  # the flush that is running, and up to which byte
        self._refused = False  # whether a flush has failed

    def __enter__(self) -> ShardWriter:
        if self.finished:
            self._safe.unlink(missing_ok=True)  # left by a process that was killed before it could remove this
            return self
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        safe = int(self._safe.read_text(encoding="utf-8")) if self._safe.exists() and self._part.exists() else 0
        if safe and self._part.stat().st_size >= safe and safe in self._ends:
            self._file = self._part.open("r+b", buffering=0)
            if self._file.read(len(self._header)) == self._header:
                self.done = self._ends.index(safe)
                self._file.truncate(safe)
                self._file.seek(safe)
                self._flushed_to = safe
                return self
            self._file.close()
        self._file = self._part.open("wb", buffering=0)
        try:
            self._write(self._header)
            self._sync()
        except BaseException:  # a disk that is full: what __enter__ opened, __exit__ is not called for
            self._file.close()
            self._thread.shutdown()
            raise
        return self

    def write(self, pieces: Iterable[torch.Tensor]) -> None:
        """Write the next tensor.

        Args:
            pieces: its values in order, in flat pieces of its type.

        Raises:
            ValueError: the pieces are of another type, or have more or fewer values than the tensor.
            OSError: the disk is full; the tensors written before are kept.
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
        if self._file.tell() - self._flushed_to >= SYNC_BYTES:
            self._finish_flush()
            self._flushed_to = self._file.tell()
            self._flushing = self._thread.submit(self._flush), self._flushed_to

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.finished:
            return
        whole = kind is None and self.done == len(self.entries)
        try:
            if whole:
                self._sync()
            else:
                self._keep_whole()
        finally:
            self._thread.shutdown()
            self._file.close()
        if whole:
            self._part.replace(self.path)
            self._safe.unlink()

    def _keep_whole(self) -> None:
        """Keep the tensors that are whole, unless a flush failed: the next may then succeed although data are lost."""
        try:
            self._finish_flush()
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
        """Flush everything to the disk and note it; called only between whole tensors."""
        self._finish_flush()
        self._flush()
        self._flushed_to = self._file.tell()
        self._note(self._flushed_to)

    def _flush(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError:
            self._refused = True
            raise

    def _finish_flush(self) -> None:
        """Wait for the flush that is running, and note it; raises what that raised."""
        if self._flushing:
            (future, place), self._flushing = self._flushing, None
            future.result()
            self._note(place)

    def _note(self, place: int) -> None:
        written = self._safe.with_name(self._safe.name + ".new")
        written.write_text(str(place), encoding="utf-8")
        written.replace(self._safe)
