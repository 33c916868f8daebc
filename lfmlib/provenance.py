"""Record where a result comes from: its data, the commit, and the versions that its numbers may depend on."""

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
"""Root of the source tree."""
IN_TREE = (ROOT / "_toc.yml").is_file()
"""Whether this is the source tree, which holds the book, and not an installed copy of the library."""
HOME = ROOT if IN_TREE else Path.cwd()
"""Below which folder results are kept: the source tree, or for an installed copy where its user stands."""

PACKAGES = (
    *("lfmlib", "numpy", "scipy", "numba", "pandas", "torch", "transformers", "safetensors", "huggingface_hub"),
    *("matplotlib", "seaborn", "papermill", "jupyter-book"),
)
"""Distributions whose versions are printed with a run: a chapter's numbers, figures and layout depend on them."""


def commit(root: Path = ROOT, *, apart: Sequence[str] = ()) -> str:
    """The commit of a source tree, 12 hexadecimal digits, followed by “+” if files other than ``apart`` are changed.

    “unknown” outside of git.
    """

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True, encoding="utf-8")
        return run.stdout.strip()

    try:
        if not git("ls-files", "--", "."):
            return "unknown"
        changed = git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in apart))
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(checkpoint, **parameters) -> dict:
    """The origin of a finding on a checkpoint: source, revision, state of files that have no revision, parameters,
    commit and versions."""
    return {
        "source": str(checkpoint.source),
        "revision": checkpoint.revision,
        "state": None if checkpoint.revision else state(checkpoint.files),
        "parameters": parameters,
        "commit": commit(),
        "versions": {name: version(name) for name in ("lfmlib", "numpy", "scipy", "torch")},
        "python": platform.python_version(),
    }


def state(files: Sequence[Path | str]) -> str | None:
    """What tells files in a folder from the same files trained further: a hash of their names, sizes and times of
    change, 12 hexadecimal digits; None for none, for addresses, and for what is no longer there."""
    if not files or not all(isinstance(file, Path) for file in files):
        return None
    try:
        facts = sorted((Path(file).name, (found := os.stat(file)).st_size, found.st_mtime_ns) for file in files)
    except OSError:
        return None
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def recorded(name: str, table, **parameters) -> dict:
    """The origin of a finding on an experiment's record.

    Args:
        name: of the record.
        table: its cells, from `records.table`; ``attrs`` say whether a cell measured again had failed to come out.
        parameters: of the finding.
    """
    origin = {key: table.attrs[key] for key in ("configuration", "commits", "stale", "failed") if key in table.attrs}
    return {
        "record": {"name": name, "cells": int(table["cell"].nunique())} | origin,
        "parameters": parameters,
        "commit": commit(),
        "versions": {name: version(name) for name in ("lfmlib", "numpy", "scipy", "torch", "transformers")},
        "python": platform.python_version(),
    }


def surroundings() -> dict[str, str]:
    """System, cores, memory, Python and versions of `PACKAGES` of this process; nothing that identifies the machine."""
    return {
        "System": f"{platform.system()} on {platform.machine()}",
        "Cores": str(os.cpu_count() or "unknown"),
        "Memory": _memory(),
        "Python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
    }


@functools.cache
def sources(folder: Path = Path(__file__).parent) -> str:
    """SHA-256 of the names and contents of a library's source files, computed once a process."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def version_of(name: str) -> str:
    """The version of a distribution, or “not installed”."""
    try:
        return version(name)
    except PackageNotFoundError:  # the library works without the book's packages
        return "not installed"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, OSError, ValueError):  # not every system has these names
        return "unknown"
