"""Write a safetensors file from front to back, a piece at a time, and go on where a killed process stopped.

The bytes are those of one uninterrupted run: the header, from what is to come, then each tensor in order. While a file
is being written it is called ``NAME.part``, and ``NAME.part.safe`` says how many of its bytes are on the disk for sure.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from .safetensors_files import TORCH_DTYPES
from .storage import dtype_name

SYNCED = 1 << 28
"""Bytes after which what was written is brought to the disk."""
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

    def __enter__(self) -> ShardWriter:
        if self.finished:
            self._safe.unlink(missing_ok=True)  # of a process that was killed just before
            return self
        safe = int(self._safe.read_text()) if self._safe.exists() and self._part.exists() else 0
        if safe and self._part.stat().st_size >= safe and safe in self._ends:
            self._file = self._part.open("r+b", buffering=0)
            if self._file.read(len(self._header)) == self._header:
                self.done = self._ends.index(safe)
                self._file.truncate(safe)
                self._file.seek(safe)
                self._synced = safe
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
        if self._file.tell() - self._synced >= SYNCED:
            self._sync()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.finished:
            return
        if kind is None and self.done == len(self.entries):
            self._sync()
            self._file.close()
            self._part.replace(self.path)
            self._safe.unlink()
            return
        try:  # what is whole is kept
            self._file.truncate(self._ends[self.done])
            self._file.seek(self._ends[self.done])
            self._sync()
        except OSError:
            pass
        finally:
            self._file.close()

    def _write(self, data) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    def _sync(self) -> None:
        """Bring all to the disk, and say so: only whole tensors count."""
        os.fsync(self._file.fileno())
        self._synced = self._file.tell()
        written = self._safe.with_name(self._safe.name + ".new")
        written.write_text(str(self._synced))
        written.replace(self._safe)
