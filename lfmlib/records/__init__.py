"""Records: tables of experiments that take hours, measured cell by cell, kept in git, and measured again to check.

An `Experiment` is a list of cells. A cell is a plain dictionary of settings, its seed among them, independent of the
others; an importable function turns it into tidy rows. `run` (``make records NAME``) measures the cells that a record
lacks, a few at a time, and keeps the record after each one: Ctrl-C or a crash costs no more than the cells in progress.
A record is two files in ``book/records``:

    NAME.csv    One line per row: the cell's key, its settings, what was measured; cells in the experiment's order.
                A field is what JSON calls it (1, 0.5, true, NaN, [1, 2]; empty for none) or else text; text that JSON
                would take for something is quoted. So every value comes back exactly as it was.
    NAME.json   The configuration hash; for each cell its settings, cost, the hashes of the data and models it started
                from, where it was measured and how it came out under other instruction sets; how far same-seed reruns
                differ. It is written after the table: rows of cells that are not listed here do not count.

The configuration hash covers the cells, the metrics and the version. It does not cover source code: whoever changes
results by changing code raises the version. A cell's key covers its settings and the version, so that adding cells
leaves the measured ones valid, and a new version none.

Machines differ in the last digits, and training magnifies them. A cell measured again must give every metric within
the larger of two tolerances, relative to its size there (see `Experiment.least`): the floor that the experiment
declares, and the spread of the same-seed reruns that `run` makes of a cheap cell (on one machine often exactly 0).
Whatever is not declared a metric must come out equal. Whether a cell does so on other processors is rehearsed
beforehand, on one (``make records-rehearse NAME``, see `lfmlib.records.rehearsal`): one that comes apart is not drawn.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from ..notices import warn
from ..provenance import HOME, IN_TREE, commit
from . import files, rehearsal, runs
from .experiment import Comparison, Experiment, affordable, compare, measure, measured
from .kept import once, toy_rows
from .rehearsal import Rehearsal

__all__ = [
    *("BUDGET", "EXPERIMENTS", "FOLDER", "Comparison", "Experiment", "Rehearsal", "check", "check_all", "load"),
    *("notice", "provenance", "registered", "rehearse", "rehearsed", "remeasure", "run", "stale", "table"),
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
    "replacement": "lfmlib.experiments.replacement:experiment",
    "soups": "lfmlib.experiments.soups:experiment",
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
        warn(text)
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
        rows, cached = toy_rows(current, partial(measured, current, jobs=0))
    else:
        results, cached = {}, False
        for cell, result in measured(current, current.cells, jobs):
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
    ``budget_seconds`` core-seconds, and kept well within their tolerances when they were rehearsed, if any were (see
    `lfmlib.records.rehearsal`); cells measured on a GPU are drawn only where there is one. All records draw the same
    seed, as far as they have it, so that they share the models that are trained first.

    ``kept`` keeps the result in the lab's cache, and takes it from there where the same code has measured it before
    (see `lfmlib.records.kept`).

    Raises:
        ValueError: the record holds no such cell of the experiment as it is now; the message says why.
    """
    current, record, rows = _open(name, folder)
    keys = rehearsal.drawn_from(current, record, budget_seconds)
    if not keys:
        dear = f"{rehearsal.summary(current, record)} None to draw costs at most {budget_seconds:g} core-seconds."
        reason = _notice(current, record) or dear.lstrip()
        raise ValueError(f"no cell of the record {name} can be measured again. {reason}")
    cells = {key: record["cells"][key]["cell"] for key in keys}
    key = _drawn(cells, name, (commit() if pick is None else pick).rstrip("+"))
    cell = cells[key]
    again = partial(measure, current, cell)
    result, known = once(current, cell, again) if kept else (again(), False)
    found = compare(current, cell, record, rows[key], result)
    return replace(found, known=known, rehearsed=key in rehearsal.steady(current, record))


def _drawn(cells: Mapping[str, dict], name: str, pick: str) -> str:
    """The key of one of some cells, each as likely: a seed by the hash of ``pick`` alone, then one of its cells by that
    of the record as well."""
    of_seed: dict[object, list[str]] = {}
    for key, cell in cells.items():
        of_seed.setdefault(cell.get("seed"), []).append(key)
    lots = [(files.sha256([pick, seed, lot]), seed) for seed, keys in of_seed.items() for lot in range(len(keys))]
    keys = of_seed[min(lots, key=itemgetter(0))[1]]
    return keys[int(files.sha256([pick, name]), 16) % len(keys)]


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
    found, steady = {}, rehearsal.steady(current, record)
    for cell, result in tqdm(measured(current, cells, jobs), name, len(cells), unit="cell", disable=not progress):
        key = current.key(cell)
        found[key] = replace(compare(current, cell, record, rows[key], result), rehearsed=key in steady)
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
    with _writing(name, folder):
        return runs.run(current, chosen, jobs, folder, BUDGET)


def rehearse(name: str, *, jobs: int = 1, folder: Path | None = None) -> int:
    """Measure some of the recorded cells under each instruction set that this processor can play, as far as that has
    not been done; keep how they came out in NAME.json, and return how many measurements failed.

    They run in ``jobs`` processes, at least one: a process takes its instructions when it starts. See
    `lfmlib.records.rehearsal`.

    Raises:
        RuntimeError: another process is writing this record.
    """
    folder = folder or FOLDER
    with _writing(name, folder):
        current, record, rows = _open(name, folder)
        place, here = runs.origin()
        record["origins"][place] = here
        keep = partial(files.write, record, rows, folder, keys=list(record["cells"]))
        return rehearsal.rehearse(current, record, rows, keep, origin=place, budget=BUDGET, jobs=max(jobs, 1))


def rehearsed(name: str, *, folder: Path | None = None) -> Rehearsal:
    """What the rehearsals of a record say. Raises as `load`."""
    return rehearsal.summary(registered(name), files.head(name, folder or FOLDER))


@contextmanager
def _writing(name: str, folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{name}.lock", timeout=0):
            yield
    except Timeout:
        raise RuntimeError(f"another process is writing the record {name}: wait for it, or stop it") from None


def _open(name: str, folder: Path | None) -> tuple[Experiment, dict, dict[str, list[dict]]]:
    return registered(name), *files.read(name, folder or FOLDER)


def _chosen(current: Experiment, only: Mapping[str, str] | None) -> list[dict]:
    """The cells with these settings. Raises ValueError if there is none."""
    chosen = [cell for cell in current.cells if all(_has(cell, *setting) for setting in (only or {}).items())]
    if not chosen:
        has = dict(only or {})
        raise ValueError(f"no cell of {current.name} has {has}; its settings are: {', '.join(current.cells[0])}")
    return chosen


def _has(cell: dict, key: str, text: str) -> bool:
    return key in cell and text in (str(cell[key]), files.to_json(cell[key]), files.field(cell[key]))
