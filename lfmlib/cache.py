"""Where trained models are kept: the user's cache folder, one folder per artefact, never a wrong one.

An artefact is keyed by everything it depends on. It is written beside its place and moved there whole, its weights are
checked against their hash when it is opened, and a damaged one is built again.
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

VERSIONED = ("torch", "transformers", "numpy")
"""Packages whose version is part of every key: another version may train another model."""


def folder() -> Path:
    """The lab's cache folder: ``LFMLIB_CACHE`` if set, else the user's cache folder of this system."""
    return Path(os.environ.get("LFMLIB_CACHE") or user_cache_path("lfmlib")) / "lab"


def key(description: dict) -> str:
    """Key of an artefact: a hash of its description (JSON-able) and of the versions of `VERSIONED`."""
    whole = {"description": description, "versions": {name: version(name) for name in VERSIONED}}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:20]


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def artefact(description: dict, build: Callable[[Path], None], root: str | Path | None = None) -> Path:
    """The folder of an artefact, built if it is not there or damaged.

    Two processes that ask at once get the same one: the second waits for the first.

    Args:
        description: everything the artefact depends on, JSON-able.
        build: writes the artefact into the (existing, private) folder it is given. What it leaves there when it is
            killed, it finds there again: long work can resume.
        root: the folder of all artefacts; default `folder`.

    Raises:
        OSError: the disk is full, or the folder cannot be written; nothing incomplete is left in the artefact's place.
    """
    place = Path(root or folder()) / key(description)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if place.exists() and not _sound(place):
            shutil.rmtree(place)
        if not place.exists():
            _make(place, description, build)
    return place


def _make(place: Path, description: dict, build: Callable[[Path], None]) -> None:
    partial = place.with_suffix(".part")
    partial.mkdir(exist_ok=True)
    try:
        build(partial)
        hashes = {path.name: file_hash(path) for path in sorted(partial.iterdir())}
        manifest = {"description": description, "sha256": hashes}
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True))
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            error.errno,
            f"{error.strerror or error}: the lab could not write to {place.parent}. Free some space there, or set "
            "LFMLIB_CACHE to another folder",
        ) from error
    partial.replace(place)


def _sound(place: Path) -> bool:
    """Whether every file of an artefact is there with the hash it was written with."""
    try:
        hashes = json.loads((place / "manifest.json").read_text())["sha256"]
        return all(file_hash(place / name) == expected for name, expected in hashes.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
