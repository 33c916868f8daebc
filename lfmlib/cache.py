"""Cache of trained models and other artefacts: one folder each in the user's cache folder.

An artefact's key is a hash of everything it depends on. It is built in a folder beside its own and then renamed, its
files are checked against their hashes whenever it is opened, and a damaged one is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

MANIFEST = "manifest.json"
"""The file in each folder that says what it holds."""
VERSIONED = ("torch", "transformers", "numpy")
"""Packages whose versions are part of every key, since other versions may train another model."""


def home() -> Path:
    """The cache folder: ``LFMLIB_CACHE`` if set, else the user's cache folder of this system."""
    return Path(os.environ.get("LFMLIB_CACHE") or user_cache_path("lfmlib"))


def folder() -> Path:
    """The lab's folder in the cache."""
    return home() / "lab"


def key(description: dict) -> str:
    """Key of an artefact: 20 hexadecimal digits of a hash of its description (JSON) and the `VERSIONED` versions."""
    whole = {"description": description, "versions": {name: version(name) for name in VERSIONED}}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:20]


_HASHES: dict[tuple[Path, int, int], str] = {}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; known in this process until its size or time of change is another."""
    stat = path.stat()
    stamp = path, stat.st_size, stat.st_mtime_ns
    if stamp not in _HASHES:
        with path.open("rb") as file:
            _HASHES[stamp] = hashlib.file_digest(file, "sha256").hexdigest()
    return _HASHES[stamp]


def artefact(description: dict, build: Callable[[Path], None], root: str | Path | None = None) -> Path:
    """The folder of an artefact of the lab, named by its `key`; see `kept`.

    Args:
        description, build: as for `kept`.
        root: the folder of all artefacts; default `folder`.

    Raises as `kept`.
    """
    return kept(Path(root or folder()) / key(description), description, build)


def kept(place: Path, description: dict, build: Callable[[Path], None]) -> Path:
    """A folder with files, which is built if it is missing, damaged, or of another description.

    If two processes ask for the same folder, the second waits for the first. What is damaged stays until what takes its
    place is whole.

    Args:
        place: the folder.
        description: everything that its files depend on, as JSON values.
        build: writes the files into the folder it is given. That folder is kept if it is killed, and given again the
            next time, so that long work can resume.

    Raises:
        OSError: the disk is full, or the folder cannot be written; no incomplete folder is left behind.
        FileNotFoundError: as ``build`` raises it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not is_intact(place, description):
            _build(place, description, build)
    return place


def _build(place: Path, description: dict, build: Callable[[Path], None]) -> None:
    partial = place.with_suffix(".part")
    partial.mkdir(exist_ok=True)
    try:
        build(partial)
        hashes = {path.name: file_hash(path) for path in sorted(partial.iterdir())}
        manifest = {"description": description, "sha256": hashes}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, FileNotFoundError):
            raise
        raise OSError(
            error.errno,
            f"{error.strerror or error}: the lab could not write to {place.parent}. Free some space there, or set "
            "LFMLIB_CACHE to another folder",
        ) from error
    shutil.rmtree(place, ignore_errors=True)  # what was damaged
    partial.replace(place)


def is_intact(place: Path, description: dict) -> bool:
    """Whether a folder is of this description, and every file in it still has the hash in its manifest."""
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        if manifest["description"] != json.loads(json.dumps(description)):
            return False
        return all(file_hash(place / name) == expected for name, expected in manifest["sha256"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def is_bookkeeping(path: Path) -> bool:
    """Whether a file is the manifest of a folder of this cache, or a copy of one; others' files bear that name too."""
    try:
        held = json.loads(path.read_text(encoding="utf-8")) if path.name == MANIFEST else None
        hashes = held["sha256"] if isinstance(held, dict) and held.keys() == {"description", "sha256"} else {}
        return bool(hashes) and all(len(bytes.fromhex(one)) == 32 for one in hashes.values())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return False
