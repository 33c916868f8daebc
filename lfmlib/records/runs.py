"""Measuring what a record lacks: its cells, and how far same-seed reruns of one differ."""

from __future__ import annotations

import math
from pathlib import Path

from tqdm import tqdm

from ..provenance import commit, surroundings
from . import files
from .experiment import Experiment, affordable, compare, measured, processor, tell_failure


def origin() -> tuple[str, dict[str, str]]:
    """Where cells are measured, code and machine, and its key in a record's ``origins``."""
    found = {"commit": commit(apart=("book/records",)), **processor(), **surroundings()}
    return files.sha256(found)[:8], found


def run(current: Experiment, chosen: list[dict], jobs: int, folder: Path, budget: float) -> int:
    """Measure those of the ``chosen`` cells that the record in a folder lacks; return how many failed.

    See `lfmlib.records.run`. ``budget``: core-seconds of a cell that can be checked.
    """
    old, rows = {"cells": {}, "origins": {}, "spread": {}}, {}
    if files.path(current.name, folder, "json").exists():
        old, rows = files.read(current.name, folder, strict=False)
    place, here = origin()
    keys = [current.key(cell) for cell in current.cells]
    record = {
        "name": current.name,
        "description": current.description,
        "version": current.version,
        "configuration": current.hash,
        "metrics": {name: floor if math.isfinite(floor) else None for name, floor in current.metrics.items()},
        **({"narrower": current.narrower} if current.narrower else {}),
        "spread": old["spread"],
        "origins": old["origins"] | {place: here},
        "cells": {key: old["cells"][key] for key in keys if key in rows},
    }
    failed = 0
    todo = [cell for cell in chosen if current.key(cell) not in record["cells"]]
    for cell, result in tqdm(measured(current, todo, jobs), current.name, len(todo), unit="cell"):
        if isinstance(result, Exception):
            failed += 1
            tell_failure(f"{current.name} failed", cell, result)
            continue
        key = current.key(cell)
        rows[key] = result.pop("rows")
        record["cells"][key] = {"cell": cell, "rows": len(rows[key]), **result, "origin": place}
        files.write(record, rows, folder, keys=keys)
    if len(record["cells"]) == len(keys):
        record["spread"] = _spread(current, record, jobs, place, budget)
    if record["cells"]:
        files.write(record, rows, folder, keys=keys)
    return failed


def _spread(current: Experiment, record: dict, jobs: int, place: str, budget: float) -> dict:
    """How far same-seed reruns of one cell differ from one another, by metric; measured unless the record has it.

    They are not compared with the record, whose cells may be of another machine.
    """
    old = record["spread"]
    cells = {current.key(cell): cell for cell in current.cells if current.repeated is None or current.repeated(cell)}
    cheap = [key for key in affordable(record["cells"], budget) if key in cells]
    if not cheap:
        raise ValueError(
            f"no cell of {current.name} costs at most {budget:g} core-seconds: add one that can be checked"
        )
    if old.get("cell") in cells and (old["runs"], set(old["metrics"])) == (current.reruns, set(current.metrics)):
        return old
    key = min(cheap, key=lambda key: record["cells"][key]["core_seconds"])
    again = measured(current, [cells[key]] * (current.reruns + 1), jobs)
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
