"""Where a result comes from: the data, the code and the versions that numbers may depend on."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The source tree."""

PACKAGES = (
    *("lfmlib", "numpy", "scipy", "numba", "pandas", "torch", "transformers", "safetensors", "huggingface_hub"),
    *("matplotlib", "seaborn", "papermill", "jupyter-book"),
)
"""What a chapter's numbers, figures and layout depend on most."""


def commit(root: Path = ROOT, *, apart: Sequence[str] = ()) -> str:
    """The commit of a source tree, with a “+” if files changed (``apart`` from these).

    “unknown” outside of git, and of an installed library, even where it is installed inside a project that has commits.
    """

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        if not git("ls-files", "--", "."):
            return "unknown"
        changed = git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in apart))
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(checkpoint, **parameters) -> dict:
    """What a finding keeps of its origin: checkpoint, revision, parameters, commit and versions."""
    return {
        "source": str(checkpoint.source),
        "revision": checkpoint.revision,
        "parameters": parameters,
        "commit": commit(),
        "versions": {name: version(name) for name in ("lfmlib", "numpy", "scipy", "torch")},
        "python": platform.python_version(),
    }


def recorded(name: str, table, **parameters) -> dict:
    """The same for a finding that rests on trainings: ``table`` from `records.table`."""
    origin = {key: table.attrs[key] for key in ("configuration", "commits", "stale") if key in table.attrs}
    return {
        "record": {"name": name, "cells": int(table["cell"].nunique())} | origin,
        "parameters": parameters,
        "commit": commit(),
        "versions": {name: version(name) for name in ("lfmlib", "numpy", "scipy", "torch", "transformers")},
        "python": platform.python_version(),
    }


def surroundings() -> dict[str, str]:
    """What a run ran on: system, Python, cores, memory and the versions of `PACKAGES`; nothing that names a machine."""
    return {
        "System": f"{platform.system()} on {platform.machine()}",
        "Cores": str(os.cpu_count() or "unknown"),
        "Memory": _memory(),
        "Python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
    }


@functools.cache
def sources(folder: Path = Path(__file__).parent) -> str:
    """SHA-256 of the names and contents of a library's source files, as they were when it was first asked for."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def version_of(name: str) -> str:
    """The version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:  # the library works without the book's packages
        return "not installed"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, OSError, ValueError):  # not every system tells
        return "unknown"
