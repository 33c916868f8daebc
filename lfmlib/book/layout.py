"""Where the files of one book go: apart by model, held by one build at a time, and known to be writable beforehand."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..checkpoints.locate import HUB_ID

OWN = "minilm"
"""The model that the book is about where none is given."""
MAX_NAME = 150
"""Letters of a folder's name, at most, before its hash."""


@dataclass(frozen=True)
class Layout:
    """Where the files of one book go: `out` holds executed/, stage/ and html/; `results` the findings."""

    root: Path
    out: Path
    results: Path

    @classmethod
    def of(
        cls,
        root: Path,
        *,
        model: str | None = None,
        base: str | None = None,
        revision: str | None = None,
        profile: str | None = None,
    ) -> Layout:
        """The book's own model under `_build`, any other under `_build/models/NAME`; quick results stay apart."""
        out = root / "_build"
        if base or revision or (model or OWN) != OWN:
            names = [_slug(model or OWN)]
            names += [f"{word}--{_slug(one)}" for word, one in (("at", revision), ("from", base)) if one]
            out = out / "models" / _short("--".join(names))
        return cls(root, out, out / ("quick" if profile == "quick" else "results"))

    @property
    def executed(self) -> Path:
        """The notebooks as papermill left them."""
        return self.out / "executed"

    @property
    def stage(self) -> Path:
        """What Jupyter Book reads."""
        return self.out / "stage"

    @property
    def html(self) -> Path:
        """The rendered book."""
        return self.out / "html"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other builds out of `out`, and let them say who is in it.

        Raises:
            ValueError: another build is at work there, or nothing can be written.
        """
        note = writable(self.out) / ".builder"
        lock = FileLock(self.out / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            holder = note.read_text(encoding="utf-8") if note.exists() else "another process"
            raise ValueError(f"{self.out} is being built by {holder}: wait for it, or stop it") from None
        try:
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            note.write_text(f"process {os.getpid()} on {platform.node()}, since {since}", encoding="utf-8")
            yield
        finally:
            note.unlink(missing_ok=True)
            lock.release()


def writable(folder: Path) -> Path:
    """The folder, made if it is not there.

    Raises:
        ValueError: no file can be made in it; told before work is done whose outcome would have no place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ValueError(
            f"nothing can be written to {folder} ({error.strerror}): make it a writable folder, or name another"
        ) from error


def _short(name: str) -> str:
    """A folder name that any file system takes: the end of a long one is a hash of the whole."""
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _slug(source: str) -> str:
    """A folder name that no other model has: a hub id with "--" for its slash, which ids do not hold; else the end of a
    path or address, with a hash of the whole."""
    here = _here(source)
    if HUB_ID.match(source) and not here:
        return source.replace("/", "--")
    # chapter 12 is given several models, commas between
    whole = here or ",".join(_here(one.strip()) or one.strip() for one in source.split(","))
    end = re.sub(r"[^A-Za-z0-9._]+", "-", whole.rstrip("/").rpartition("/")[2]).strip("-.")[-60:]
    return f"{end or 'model'}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _here(source: str) -> str:
    """The whole path of what lies on this machine; "" of anything else."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else ""
