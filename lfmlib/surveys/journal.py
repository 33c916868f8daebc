"""A journal of finished rows on disk, from which a survey that was stopped goes on.

The key of a row is a hash of all that the row depends on: the file that its tensor is stored in (path, size and time of
change; of a remote file address, size and version), the place in it, what was measured, and the library's source code.
So a file that changed, or a sample of another size, is measured anew. A line that a crash cut short is ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.remote import RemoteFile
from ..checkpoints.stored import InMemory, stamp_of
from ..provenance import sources

SYNC_SECONDS = 5.0
"""Seconds between two times that rows are brought to the disk: what a power cut may cost. What ends the process alone
costs nothing."""
MAX_HASHED_BYTES = 1 << 20  # size of a tensor in memory, such as a quantizer's table, that is hashed into a key


class Journal:
    """The rows of one measurement in a folder, which may hold the rows of several.

    Args:
        folder: where to keep them; made if it is not there.
        measure: what is measured: a function of a module, or a partial of one.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, measure):
        place = Path(folder).expanduser()
        self.path = place / "rows.jsonl"
        try:
            place.mkdir(parents=True, exist_ok=True)
            self.path.open("ab").close()
        except OSError as error:
            raise type(error)(
                f"rows cannot be kept in {place} ({error}): expected a folder that can be written. Name another"
            ) from error
        call = measure if isinstance(measure, partial) else partial(measure)
        self.measured = [call.func.__module__, call.func.__qualname__, call.args, sorted(call.keywords.items())]
        self._keys: dict[str, str | None] = {}
        self._synced = 0.0

    def known(self, checkpoint: Checkpoint, names: list[str]) -> dict[str, list[dict]]:
        """Rows by tensor, of those of the named tensors of a checkpoint that are in the journal."""
        self._keys = {name: self._key(checkpoint, name) for name in names}
        kept = {}
        with self.path.open("a+b") as file:
            file.seek(0)
            for line in file:
                try:
                    found = json.loads(line)
                    kept[found["of"]] = found["rows"]
                except (ValueError, KeyError, TypeError):  # cut short, or written by something else
                    continue
            if file.tell() and not line.endswith(b"\n"):
                file.write(b"\n")
        return {name: [_row(row) for row in kept[key]] for name, key in self._keys.items() if key in kept}

    def keep(self, rows: Mapping[str, list[dict]]) -> None:
        """Add the rows of tensors that `known` was asked for. They are written when this returns, and every
        `SYNC_SECONDS` on the disk, which can take long while something else writes there."""
        lines = [
            json.dumps({"of": key, "tensor": name, "rows": some}, default=lambda number: number.item())
            for name, some in rows.items()
            if (key := self._keys.get(name))
        ]
        with self.path.open("ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(file.fileno())
                self._synced = time.monotonic()

    def _key(self, checkpoint: Checkpoint, name: str) -> str | None:
        """Hash of what the rows of a tensor depend on; None of a tensor that is only in memory."""
        try:
            facts = [_facts(value) for value in checkpoint.origin(name)]
        except (_NotOnFile, OSError):  # a file that is not there any more is told where it is read
            return None
        return hashlib.sha256(repr([sources(), self.measured, name, *facts]).encode()).hexdigest()


class _NotOnFile(Exception):
    """The values are in no file of known version, so that nothing tells them from others."""


def _facts(value):
    """What tells a stored tensor from any other: the values of its fields, with the state of the files they name."""
    if isinstance(value, Path):
        return [str(value.resolve()), *stamp_of(value)]
    if isinstance(value, RemoteFile):
        if not value.version:
            raise _NotOnFile
        return [value.url, value.size, value.version]
    if isinstance(value, InMemory):
        if value.tensor.nbytes > MAX_HASHED_BYTES:
            raise _NotOnFile
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
