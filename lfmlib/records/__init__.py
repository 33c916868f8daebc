"""Records: tables of experiments that take hours, measured cell by cell, kept in git, and measured again to check.

An `Experiment` is a list of cells. A cell is a plain dictionary of settings, its seed among them, independent of the
others; an importable function turns it into tidy rows. `run` (``make records NAME``) measures the cells that a record
lacks, a few at a time, and keeps the record after each one: Ctrl-C or a crash costs no more than the cells in progress.
A record is two files in ``book/records``:

    NAME.csv    One line per row: the cell's key, its settings, what was measured; cells in the experiment's order.
                A field is what JSON calls it (1, 0.5, true, NaN, [1, 2]; empty for none) or else text; text that JSON
                would take for something is quoted. So every value comes back exactly as it was.
    NAME.json   The configuration hash; for each cell its settings, cost, the hashes of the data and models it started
                from and where it was measured; how far same-seed reruns differ. It is written after the table: rows of
                cells that are not listed here do not count.

The configuration hash covers the cells, the metrics and the version. It does not cover source code: whoever changes
results by changing code raises the version. A cell's key covers its settings and the version, so that adding cells
leaves the measured ones valid, and a new version none.

Machines differ in the last digits, and training magnifies them. A cell measured again must give every metric within
the larger of two tolerances, relative to its size there (see `Experiment.least`): the floor that the experiment
declares, and the spread of the same-seed reruns that `run` makes of a cheap cell (on one machine often exactly 0).
Whatever is not declared a metric must come out equal.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from ..provenance import HOME, IN_TREE, commit, surroundings
from . import files
from .experiment import Comparison, Experiment, affordable, compare, measure, processor
from .kept import once, toy_rows
from .workers import each

__all__ = [
    *("BUDGET", "EXPERIMENTS", "FOLDER", "Comparison", "Experiment", "check", "check_all", "load"),
    *("notice", "provenance", "registered", "remeasure", "run", "stale", "table"),
]

EXPERIMENTS: dict[str, str] = {
    "census": "lfmlib.experiments.census:experiment",
    "initialization": "lfmlib.experiments.initialization:initialization",
    "calibration": "lfmlib.experiments.calibration:calibration",
    "arrangement": "lfmlib.experiments.arrangement:experiment",
    "finetuning": "lfmlib.experiments.finetuning:experiment",
    "derived": "lfmlib.experiments.stand_ins:experiment",
    "radius": "lfmlib.experiments.radius:experiment",
    "optimal": "lfmlib.experiments.optimal:experiment",
    "editing": "lfmlib.experiments.editing:experiment",
    "rates": "lfmlib.experiments.adaptation:rates",
    "adaptation": "lfmlib.experiments.adaptation:adaptation",
}
"""Name of an experiment → "module:attribute", where an `Experiment` is, or a function that returns it."""

FOLDER = HOME / ("book/records" if IN_TREE else "records")
BUDGET = 50.0
"""Core-seconds that a chapter or a test may spend on measuring a cell again; every record holds such a cell."""


def registered(name: str) -> Experiment:
    """The experiment registered under a name. Raises ValueError if there is none."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; there are: {', '.join(EXPERIMENTS) or 'none yet'}")
    module, _, attribute = EXPERIMENTS[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    return found if isinstance(found, Experiment) else found()


def load(name: str, *, folder: Path | None = None) -> pd.DataFrame:
    """The record's table: the cell's key and settings in the first columns, then what was measured.

    ``attrs`` holds name, configuration (hash), commits, core_seconds, gpus, stale and notice. A record that is stale or
    lacks cells gives a warning with the text of `notice`.

    Raises:
        FileNotFoundError: nothing has been recorded; the message says how to.
        ValueError: the experiment is unknown, or its record damaged.
    """
    current, record, rows = _open(name, folder)
    if text := _notice(current, record):
        warnings.warn(text, stacklevel=2)
    frame = pd.DataFrame([row for some in rows.values() for row in some])
    frame.attrs = {
        "name": name,
        "configuration": record["configuration"],
        "commits": sorted({record["origins"][entry["origin"]]["commit"] for entry in record["cells"].values()}),
        "core_seconds": sum(entry["core_seconds"] for entry in record["cells"].values()),
        "gpus": sorted({entry["gpu"] for entry in record["cells"].values() if entry["gpu"]}),
        "stale": record["configuration"] != current.hash,
        "notice": text,
    }
    return frame


def provenance(name: str, *, folder: Path | None = None) -> dict:
    """All that NAME.json holds."""
    return _open(name, folder)[1]


def stale(name: str, *, folder: Path | None = None) -> bool:
    """Whether the experiment's configuration has changed since the record was measured."""
    current, record, _ = _open(name, folder)
    return record["configuration"] != current.hash


def notice(name: str, *, folder: Path | None = None) -> str:
    """What readers must know of a record that is stale or lacks cells; empty where all is well."""
    return _notice(*_open(name, folder)[:2])


def _notice(current: Experiment, record: dict) -> str:
    have, want = len(record["cells"]), len(current.cells)
    if record["configuration"] != current.hash:
        return (
            f"This record was measured with configuration {record['configuration'][:12]} (version {record['version']}, "
            f"{have} cells). The configuration has changed since, to {current.hash[:12]} (version {current.version}, "
            f"{want} cells): {files.measured_by(current.name)} brings the record up to date."
        )
    missing = f"This record holds {have} of {want} cells: {files.measured_by(current.name)} measures the others."
    return missing if have < want else ""


def table(name: str, profile: str = "default", *, folder: Path | None = None, jobs: int = 2) -> pd.DataFrame:
    """What a chapter shows: the record (``default``), all of it measured anew (``full``), or its toy cells (``quick``).

    No record is written; toys are kept in the lab’s cache (see `lfmlib.records.kept`), and ``attrs`` says whether they
    were there: ``cached``. Under ``default`` a chapter calls `remeasure` beside it.

    Raises:
        ValueError: unknown profile; or ``quick`` where the experiment has no toy cells.
    """
    current = registered(name)
    if profile == "default":
        return load(name, folder=folder)
    if not {"quick": current.quick, "full": current.cells}.get(profile):
        raise ValueError(f"{name} has no cells for the profile {profile!r}: valid ones are quick, default, full")
    if profile == "quick":
        rows, cached = toy_rows(current, partial(_each, current, jobs=0))
    else:
        results, cached = {}, False
        for cell, result in _each(current, current.cells, jobs):
            if isinstance(result, Exception):
                raise result
            results[current.key(cell)] = result
        rows = [row for cell in current.cells for row in results[current.key(cell)]["rows"]]
    frame = pd.DataFrame(rows)
    frame.attrs["cached"] = cached
    return frame


def remeasure(
    name: str,
    budget_seconds: float = BUDGET,
    pick: str | None = None,
    *,
    kept: bool = False,
    folder: Path | None = None,
) -> Comparison:
    """Measure one recorded cell again, in this process, and compare.

    The cell is drawn by the hash of ``pick`` (the commit, if none is given) among those that cost at most
    ``budget_seconds`` core-seconds; cells measured on a GPU are drawn only where there is one.

    ``kept`` keeps the result in the lab's cache, and takes it from there where the same code has measured it before
    (see `lfmlib.records.kept`).

    Raises:
        ValueError: the record holds no such cell of the experiment as it is now; the message says why.
    """
    current, record, rows = _open(name, folder)
    cells = {current.key(cell): cell for cell in current.cells if current.alone is None or current.alone(cell)}
    keys = sorted(key for key in affordable(record["cells"], budget_seconds) if key in cells)
    if not keys:
        reason = _notice(current, record) or f"None costs at most {budget_seconds:g} core-seconds."
        raise ValueError(f"no cell of the record {name} can be measured again. {reason}")
    draw = files.sha256([(commit() if pick is None else pick).rstrip("+"), name])
    key = keys[int(draw, 16) % len(keys)]
    again = partial(measure, current, cells[key])
    result, known = once(current, cells[key], again) if kept else (again(), False)
    return replace(compare(current, cells[key], record, rows[key], result), known=known)


def check(
    name: str,
    *,
    jobs: int = 2,
    budget_seconds: float = math.inf,
    only: Mapping[str, str] | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> list[Comparison]:
    """Measure recorded cells again and compare: all, those with the settings ``only``, or those of at most
    ``budget_seconds`` core-seconds."""
    current, record, rows = _open(name, folder)
    keys = affordable(record["cells"], budget_seconds)
    cells = [cell for cell in _chosen(current, only) if current.key(cell) in keys]
    found = {}
    for cell, result in tqdm(_each(current, cells, jobs), name, len(cells), unit="cell", disable=not progress):
        key = current.key(cell)
        found[key] = compare(current, cell, record, rows[key], result)
    return [found[current.key(cell)] for cell in cells]


def check_all(names: Sequence[str] | None = None, *, folder: Path | None = None, **how) -> list[Comparison]:
    """`check` for all experiments, or these, ``how`` as there; a missing record is told before anything is measured."""
    names = list(EXPERIMENTS) if names is None else names
    for name in names:
        _open(name, folder)
    return [found for name in names for found in check(name, folder=folder, **how)]


def run(name: str, *, jobs: int = 2, only: Mapping[str, str] | None = None, folder: Path | None = None) -> int:
    """Measure the cells that the record lacks (those with the settings ``only``); return how many failed.

    Cells run in ``jobs`` processes of one thread each or, for 0, in this one. A failure is told on stderr, with the
    cell and the traceback, and does not keep the others from being measured.

    Raises:
        RuntimeError: another process is writing this record.
        ValueError: no cell matches ``only``; or the complete record cannot be checked, because it has no cheap cell or
            its same-seed reruns disagree. What was measured is kept.
    """
    current, folder = registered(name), folder or FOLDER
    chosen = _chosen(current, only)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{name}.lock", timeout=0):
            return _run(current, chosen, jobs, folder)
    except Timeout:
        raise RuntimeError(f"another process is writing the record {name}: wait for it, or stop it") from None


def _run(current: Experiment, chosen: list[dict], jobs: int, folder: Path) -> int:
    old, rows = {"cells": {}, "origins": {}, "spread": {}}, {}
    if files.path(current.name, folder, "json").exists():
        old, rows = files.read(current.name, folder, strict=False)
    origin = {"commit": commit(apart=("book/records",)), **processor(), **surroundings()}
    place = files.sha256(origin)[:8]
    keys = [current.key(cell) for cell in current.cells]
    record = {
        "name": current.name,
        "description": current.description,
        "version": current.version,
        "configuration": current.hash,
        "metrics": {name: floor if math.isfinite(floor) else None for name, floor in current.metrics.items()},
        **({"narrower": current.narrower} if current.narrower else {}),
        "spread": old["spread"],
        "origins": old["origins"] | {place: origin},
        "cells": {key: old["cells"][key] for key in keys if key in rows},
    }
    failed = 0
    todo = [cell for cell in chosen if current.key(cell) not in record["cells"]]
    for cell, result in tqdm(_each(current, todo, jobs), current.name, len(todo), unit="cell"):
        if isinstance(result, Exception):
            failed += 1
            lines = "".join(traceback.format_exception(result))
            tqdm.write(f"{current.name} failed for {files.to_json(cell)}\n{lines}", file=sys.stderr)
            continue
        key = current.key(cell)
        rows[key] = result.pop("rows")
        record["cells"][key] = {"cell": cell, "rows": len(rows[key]), **result, "origin": place}
        files.write(record, rows, folder, keys=keys)
    if len(record["cells"]) == len(keys):
        record["spread"] = _spread(current, record, jobs, place)
    if record["cells"]:
        files.write(record, rows, folder, keys=keys)
    return failed


def _spread(current: Experiment, record: dict, jobs: int, place: str) -> dict:
    """How far same-seed reruns of one cell differ from one another, by metric; measured unless the record has it.

    They are not compared with the record, whose cells may be of another machine.
    """
    old = record["spread"]
    cells = {current.key(cell): cell for cell in current.cells if current.repeated is None or current.repeated(cell)}
    cheap = [key for key in affordable(record["cells"], BUDGET) if key in cells]
    if not cheap:
        raise ValueError(
            f"no cell of {current.name} costs at most {BUDGET:g} core-seconds: add one that can be checked"
        )
    if old.get("cell") in cells and (old["runs"], set(old["metrics"])) == (current.reruns, set(current.metrics)):
        return old
    key = min(cheap, key=lambda key: record["cells"][key]["core_seconds"])
    again = _each(current, [cells[key]] * (current.reruns + 1), jobs)
    results = [result for _, result in tqdm(again, "same-seed reruns", current.reruns + 1, unit="cell")]
    first, *others = sorted(results, key=lambda result: isinstance(result, Exception))
    reference = [] if isinstance(first, Exception) else first["rows"]
    largest, problems = dict.fromkeys(current.metrics, 0.0), []
    for other in others:
        found = compare(current, cells[key], record | {"spread": {}}, reference, other)
        problems += found.problems
        for metric, difference in zip(found.metrics["metric"], found.metrics["difference"], strict=True):
            largest[metric] = max(largest[metric], difference)
    bounded = [name for name, floor in current.metrics.items() if floor < math.inf]
    problems += [f"{name} differs by as much as it measures" for name in bounded if largest[name] >= 1]
    if problems:
        text = "; ".join(dict.fromkeys(problems))
        raise ValueError(f"same-seed reruns of {current.name} {files.to_json(cells[key])} disagree: {text}")
    return {"cell": key, "runs": current.reruns, "origin": place, "metrics": largest}


def _open(name: str, folder: Path | None) -> tuple[Experiment, dict, dict[str, list[dict]]]:
    return registered(name), *files.read(name, folder or FOLDER)


def _each(current: Experiment, cells: Sequence[dict], jobs: int) -> Iterator[tuple[dict, dict | Exception]]:
    """Each cell with its result, or the exception that it raised, as they come."""
    with contextlib.closing(each(partial(measure, current), cells, jobs)) as results:
        yield from results


def _chosen(current: Experiment, only: Mapping[str, str] | None) -> list[dict]:
    """The cells with these settings. Raises ValueError if there is none."""
    chosen = [cell for cell in current.cells if all(_has(cell, *setting) for setting in (only or {}).items())]
    if not chosen:
        has = dict(only or {})
        raise ValueError(f"no cell of {current.name} has {has}; its settings are: {', '.join(current.cells[0])}")
    return chosen


def _has(cell: dict, key: str, text: str) -> bool:
    return key in cell and text in (str(cell[key]), files.to_json(cell[key]), files.field(cell[key]))
