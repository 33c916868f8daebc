"""Cells measured here, kept as long as the code that measured them stays the same.

Toy cells are what the profile ``quick`` shows; chapters and tests that show the same ones share them, and a stopped run
goes on. A recorded cell that a chapter measures again is measured once for every state of the code. Both are kept in
the lab's cache. Unlike a record they are keyed by the source code as well: an edit anywhere in the library measures
them anew.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import cache
from ..provenance import PACKAGES, sources, version_of
from .experiment import Experiment
from .files import sha256, to_json

SOURCES = Path(__file__).parents[1]
DATA = ("scikit-learn", "peft")
"""Packages beside `PACKAGES` that cells are made of."""


def toy_rows(current: Experiment, each: Callable) -> tuple[list[dict], bool]:
    """The rows of an experiment’s toy cells, in their order, and whether they had been measured before.

    Args:
        current: the experiment.
        each: yields (cell, what `measure` made of it, or the exception it raised).

    Raises:
        Exception: what a cell raised; those that were measured are kept.
    """
    measured = []

    def build(folder: Path) -> None:
        todo = [cell for cell in current.quick if not (folder / f"{current.key(cell)}.json").exists()]
        for cell, result in each(todo):
            if isinstance(result, Exception):
                raise result
            measured.append(cell)
            part = folder / f"{current.key(cell)}.part"
            part.write_text(to_json(result["rows"]), encoding="utf-8")
            part.replace(part.with_suffix(".json"))

    place = cache.artefact(_description(current, "toys", current.quick), build)
    rows = [
        row
        for cell in current.quick
        for row in json.loads((place / f"{current.key(cell)}.json").read_text(encoding="utf-8"))
    ]
    return rows, not measured


def once(current: Experiment, cell: dict, measure: Callable[[], dict]) -> tuple[dict, bool]:
    """What `lfmlib.records.experiment.measure` makes of a cell, and whether the same code had measured it before.

    Args:
        current: the experiment.
        cell: one of its cells.
        measure: measures it.
    """
    measured = []

    def build(folder: Path) -> None:
        measured.append(cell)
        (folder / "result.json").write_text(to_json(measure()), encoding="utf-8")

    place = cache.artefact(_description(current, "again", [cell]), build)
    return json.loads((place / "result.json").read_text(encoding="utf-8")), not measured


def _description(current: Experiment, kind: str, cells: Sequence[dict]) -> dict:
    """All that measured cells depend on."""
    return {
        kind: current.name,
        "cells": sha256(list(cells)),
        "version": current.version,
        "sources": [sources(SOURCES), cache.file_hash(Path(inspect.getfile(current.run)))],
        "versions": {name: version_of(name) for name in (*PACKAGES, *DATA)},
    }
