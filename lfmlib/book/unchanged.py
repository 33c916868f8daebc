"""Which chapters need not run again: those of a book whose commit, code, records, models and settings are as they were
when it was last built.

A chapter is kept only where all that it is made from is the same, its notebook and the findings that it wrote, or read,
are as it left them, and nothing was changed while it ran. Models are known by revision, or by the sizes and times of
their files; packages by version; threads where the reader set them. `make book FORCE=1` runs every chapter.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import nbformat

from ..cache import file_hash
from ..findings.rules import CHAPTERS
from ..provenance import commit, surroundings

__all__ = ["READS_OTHERS", "Basis"]

READS_OTHERS = "13_what_does_the_report_say"
"""The chapter that reads what the others found: it waits until these have ended."""

SETTINGS = (
    *("ATEN_", "CUDA_", "DNNL_", "GLIBC_", "KMP_", "LFMLIB_", "MKL_", "NPY_", "NUMBA_", "OMP_", "ONEDNN_", "OPENBLAS_"),
    *("PYTORCH_", "TORCH_"),
)
"""How names of environment variables begin that figures may depend on."""
PLACES = ("LFMLIB_CACHE", "NUMBA_CACHE_DIR")
"""Of those variables, the ones that say only where files are kept."""
LIBRARY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Basis:
    """What all chapters of one build are made from.

    Args:
        root: the source tree.
        results: where the chapters write their findings.
        models: the reader's models with the states of their files.
    """

    root: Path
    results: Path
    models: Sequence[str]

    def made_from(self, chapter: Path, given: Mapping[str, object]) -> str:
        """SHA-256 of all that a chapter is made from at this moment: commit, library, records, versions, settings,
        models, its own cells and parameters."""
        environment = {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}
        told = [commit(self.root), *self.models, *sorted(surroundings().items())]
        told += sorted(item for item in environment.items() if item[0] not in PLACES)
        told += sorted({f"{one.name} {one.version}" for one in distributions()})
        told += [_digest(LIBRARY, "**/*.py", "**/*.csv"), _digest(self.root / "book" / "records", "*.csv", "*.json")]
        told += [file_hash(chapter), *sorted(given.items())]
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def findings(self, chapter: Path) -> str:
        """SHA-256 of the findings that a chapter writes; of all and of its report, for the one that reads them."""
        own = [f"{id_}-*.json" for id_, stem in CHAPTERS.items() if chapter.stem in (stem, READS_OTHERS)]
        own += ["report/**/*"] if chapter.stem == READS_OTHERS else []
        return _digest(self.results, *own) if own else ""

    def marks(self, notebook: nbformat.NotebookNode, chapter: Path, made_from: str) -> dict[str, str]:
        """What an executed notebook says of its making, if nothing has changed since it began from ``made_from``."""
        return {"made_from": made_from, "findings": self.findings(chapter), "cells": _cells(notebook)}

    def keeps(self, notebook: Path, chapter: Path, given: Mapping[str, object]) -> bool:
        """Whether the executed ``notebook`` is what ``chapter``, run with the parameters ``given``, would make now."""
        try:
            found = nbformat.read(notebook, as_version=4)
            stamp = found.metadata.get("lfm", {})
        except (AttributeError, OSError, ValueError, nbformat.ValidationError):  # never begun, cut off, or no notebook
            return False
        wanted = self.marks(found, chapter, self.made_from(chapter, given))
        return bool(stamp.get("complete")) and all(stamp.get(name) == mark for name, mark in wanted.items())


def _cells(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of the cells and outputs of a notebook, which readers may change."""
    return hashlib.sha256(json.dumps(notebook.cells, sort_keys=True).encode()).hexdigest()


def _digest(folder: Path, *patterns: str) -> str:
    """SHA-256 of the names and contents of those files of a folder that match one of the patterns."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    lines = [f"{path.relative_to(folder).as_posix()} {file_hash(path)}\n" for path in sorted(found)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
