"""Models that are opened by a short name: what they are, and where they lie on this machine."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .locate import MINILM_COMMIT, MINILM_PACKAGE, MINILM_REPO


@dataclass(frozen=True)
class NamedModel:
    """A model that `lfmlib.open_checkpoint` knows by its name.

    Attributes:
        name: what it is opened by.
        repository, revision: on the Hugging Face hub.
        file: the weights in that repository, and in the folder ``model`` of the package.
        package: importable name of a Python package that brings the file.
        licence: of the weights, as SPDX writes it.
        bytes: of the file.
    """

    name: str
    repository: str
    revision: str
    file: str
    package: str
    licence: str
    bytes: int

    def place(self) -> Path | None:
        """Where its file lies, in the package or in the hub's cache; None where it would have to be downloaded."""
        spec = importlib.util.find_spec(self.package)  # finds the package without importing it
        if spec is not None and spec.origin:
            path = Path(spec.origin).parent / "model" / self.file
            if path.is_file():
                return path
        from huggingface_hub import try_to_load_from_cache  # here, because it is slow to import

        found = try_to_load_from_cache(self.repository, self.file, revision=self.revision)
        return Path(found) if isinstance(found, str) else None


MODELS = (
    NamedModel("minilm", MINILM_REPO, MINILM_COMMIT, "model.safetensors", MINILM_PACKAGE, "Apache-2.0", 90_868_376),
)
"""All of them. `lfmlib.checkpoints.locate` opens them."""


def at_hand() -> pd.DataFrame:
    """What they are and where they lie, one row per model; nothing is downloaded."""
    rows = []
    for one in MODELS:
        place = one.place()
        rows.append({
            "name": one.name, "source": one.repository, "revision": one.revision, "licence": one.licence,
            "megabytes": one.bytes / 1e6, "here": place is not None, "place": str(place or ""),
        })  # fmt: skip
    return pd.DataFrame(rows)
