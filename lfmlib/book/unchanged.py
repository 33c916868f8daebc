"""Which chapters need not run again: those of a book whose commit, code, records, models and settings are as they were
when it was last built.

A chapter is kept only where all that it is made from is the same to the byte, and the findings that it wrote, or read,
lie there as it left them. `make book FORCE=1` runs every chapter all the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import nbformat

from ..cache import file_hash
from ..findings.rules import CHAPTERS
from ..provenance import commit, sources, surroundings

__all__ = ["Basis"]

SETTINGS = ("ATEN_", "LFMLIB_", "MKL_", "NPY_", "NUMBA_", "OMP_", "OPENBLAS_")
"""How names of environment variables begin that figures may depend on."""
PLACES = ("LFMLIB_CACHE", "NUMBA_CACHE_DIR")
"""Of these, the ones that say only where files are kept."""
LIBRARY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Basis:
    """What all chapters of one build are made from.

    Args:
        digest: SHA-256 of commit, library, records, versions, settings and the states of the reader's models.
        results: where the chapters write their findings.
        reader: the chapter that reads the findings of all others.
    """

    digest: str
    results: Path
    reader: str

    @classmethod
    def of(cls, root: Path, *, results: Path, models: Sequence[str], reader: str) -> Basis:
        """The basis of a build in the source tree ``root``.

        Args:
            root: of the book.
            results: where findings go.
            models: the reader's models with the states of their files.
            reader: the chapter that reads all findings.
        """
        environment = {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}
        told = [commit(root), sources(), *models, *sorted(surroundings().items())]
        told += sorted(item for item in environment.items() if item[0] not in PLACES)
        told += sorted((one.name, one.version) for one in distributions())
        told += [_digest(LIBRARY, "**/*.csv"), _digest(root / "book" / "records")]
        return cls(hashlib.sha256(repr(told).encode()).hexdigest(), results, reader)

    def made_from(self, chapter: Path, given: Mapping[str, object]) -> str:
        """SHA-256 of all that a chapter is made from, its own cells and parameters among it."""
        told = self.digest, file_hash(chapter), sorted(given.items())
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def findings(self, chapter: Path) -> str:
        """SHA-256 of the findings that a chapter writes; of all, for the one that reads them."""
        own = [id_ for id_, stem in CHAPTERS.items() if chapter.stem in (stem, self.reader)]
        return _digest(self.results, *(f"{id_}-*.json" for id_ in own)) if own else ""

    def keeps(self, notebook: Path, chapter: Path, given: Mapping[str, object]) -> bool:
        """Whether the executed ``notebook`` is what ``chapter``, run with the parameters ``given``, would make now."""
        try:
            stamp = nbformat.read(notebook, as_version=4).metadata.get("lfm", {})
        except (OSError, ValueError):  # never begun, or cut off while it was written
            return False
        made = stamp.get("complete"), stamp.get("made_from"), stamp.get("findings")
        return made == (True, self.made_from(chapter, given), self.findings(chapter))


def _digest(folder: Path, *patterns: str) -> str:
    """SHA-256 of the names and contents of a folder's files, or of those that match one of the patterns."""
    found = {path for pattern in patterns or ("**/*",) for path in folder.glob(pattern) if path.is_file()}
    lines = [f"{path.relative_to(folder).as_posix()} {file_hash(path)}\n" for path in sorted(found)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
