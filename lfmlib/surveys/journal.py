"""Rows that were finished, kept on disk as they come, so that a long survey that was stopped goes on.

A row is known by all that it depends on: the file that its tensor lies in (path, size and time of change; elsewhere
address, size and version), the place in it, what was measured, and the library's source code. A shard that changed, or
another sample, is measured anew; a line that was cut short by a crash does not count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.remote import RemoteFile
from ..checkpoints.stored import Held
from ..provenance import sources

SMALL = 1 << 20  # bytes of a tensor in memory, such as a quantizer's table, that are part of a key


class Journal:
    """The rows of one measurement in a folder; a folder may hold those of many.

    Args:
        folder: where; made if it is not there.
        measure: what was measured: a function of a module, or a partial of one.

    Raises OSError where the folder cannot be written.
    """

    def __init__(self, folder: str | Path, measure):
        place = Path(folder).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        self.path = place / "rows.jsonl"
        call = measure if isinstance(measure, partial) else partial(measure)
        self.measured = [call.func.__module__, call.func.__qualname__, call.args, sorted(call.keywords.items())]
        self._keys: dict[str, str | None] = {}

    def known(self, checkpoint: Checkpoint, names: list[str]) -> dict[str, list[dict]]:
        """The rows that are there, of these tensors of a checkpoint."""
        self._keys = {name: self._key(checkpoint, name) for name in names}
        kept = {}
        with self.path.open("a+b") as file:
            file.seek(0)
            for line in file:
                try:
                    found = json.loads(line)
                    kept[found["of"]] = found["rows"]
                except (ValueError, KeyError, TypeError):  # cut short, or not ours
                    continue
            if file.tell() and not line.endswith(b"\n"):
                file.write(b"\n")
        return {name: [_row(row) for row in kept[key]] for name, key in self._keys.items() if key in kept}

    def keep(self, rows: Mapping[str, list[dict]]) -> None:
        """Write down the rows of tensors that `known` was asked for. They are on the disk when this returns."""
        lines = [
            json.dumps({"of": key, "tensor": name, "rows": some}, default=lambda number: number.item())
            for name, some in rows.items()
            if (key := self._keys.get(name))
        ]
        with self.path.open("ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())

    def _key(self, checkpoint: Checkpoint, name: str) -> str | None:
        """What the rows of a tensor depend on, hashed; None for what is only in memory."""
        try:
            facts = [_facts(value) for value in checkpoint.origin(name)]
        except (_Nameless, OSError):  # a file that is not there any more is told where it is read
            return None
        return hashlib.sha256(repr([sources(), self.measured, name, *facts]).encode()).hexdigest()


class _Nameless(Exception):
    """Values that no file holds."""


def _facts(value):
    """All that tells a stored tensor from another one: its fields, with the state of their files."""
    if isinstance(value, Path):
        state = value.stat()
        return [str(value.resolve()), state.st_size, state.st_mtime_ns]
    if isinstance(value, RemoteFile):
        if not value.version:
            raise _Nameless
        return [value.url, value.size, value.version]
    if isinstance(value, Held):
        if value.tensor.nbytes > SMALL:
            raise _Nameless
        return hashlib.sha256(value.__reduce__()[1][0].tobytes()).hexdigest()
    if is_dataclass(value):
        return [type(value).__name__, *(_facts(getattr(value, field.name)) for field in fields(value))]
    if isinstance(value, Mapping):
        return [[key, _facts(one)] for key, one in sorted(value.items())]
    if isinstance(value, list | tuple):
        return [_facts(one) for one in value]
    return repr(value)


def _row(row: dict) -> dict:
    """A row as it was measured: JSON knows no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
