"""An experiment, and one of its cells: measured, and compared with what was recorded."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from .files import sha256, to_json
from .workers import each


def brief(value: float) -> float | None:
    """Five digits of a number, and nothing of one that is not finite: what a record needs."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


@dataclass(frozen=True)
class Experiment:
    """What is measured, for which settings, and how exactly it must come out again.

    Attributes:
        name: the record's name, lower-case words joined by underscores.
        cells: the settings of each cell, of JSON's types, with its "seed" (or "seeds").
        run: importable function of a cell that returns its rows; it takes every random number from the cell's seed.
        metrics: measured column → its relative tolerance, the least that is granted; math.inf: not compared.
        narrower: a cell’s "model" → metric → the tolerance of such cells, where it is not the one of ``metrics``.
        least: metric → the size below which its tolerance, row by row, does not shrink any further; a metric that is
            not there has one tolerance for all rows, relative to its mean absolute value in the cell.
        version: to be raised whenever a change of the code changes results.
        description: one line for readers.
        inputs: importable function of a cell that returns name → hash of the data and models it starts from.
        quick: toy cells for the quick profile; not part of the record.
        alone: importable function that says of a cell whether it can be measured without what others leave in the
            lab's cache; only such cells are drawn to be measured again. None: all can.
        repeated: importable function that says of a cell whether it may stand for the others where the spread between
            same-seed runs is measured; the cheapest of such cells is taken. None: any may.
        reruns: how often that cell is repeated.
    """

    name: str
    cells: Sequence[dict]
    run: Callable[[dict], list[dict]]
    metrics: Mapping[str, float]
    version: int
    description: str
    inputs: Callable[[dict], dict[str, str]] | None = None
    quick: Sequence[dict] = ()
    reruns: int = 2
    alone: Callable[[dict], bool] | None = None
    repeated: Callable[[dict], bool] | None = None
    least: Mapping[str, float] = field(default_factory=dict)
    narrower: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self):
        if not self.name.isidentifier() or self.name != self.name.lower():
            raise ValueError(f"{self.name!r} is no name for a record: expected lower_case_words")
        if not self.cells or len({self.key(cell) for cell in self.cells}) < len(self.cells):
            raise ValueError(f"{self.name}: expected cells that differ from one another")
        for cell in (*self.cells, *self.quick):
            if not {"seed", "seeds"} & set(cell) or "cell" in cell:
                raise ValueError(f"{self.name}: a cell needs a seed, and no setting named “cell”: {cell}")

    @property
    def hash(self) -> str:
        """The configuration hash: sha256 of the canonical JSON of cells, metrics and version."""
        more = {"least": dict(self.least), "narrower": {model: dict(own) for model, own in self.narrower.items()}}
        tolerances = {"metrics": dict(self.metrics)} | {name: own for name, own in more.items() if own}
        return sha256({"cells": list(self.cells), **tolerances, "version": self.version})

    def key(self, cell: dict) -> str:
        """A cell's own configuration hash, of its settings and the experiment's version; twelve digits of it."""
        return sha256({"cell": cell, "version": self.version})[:12]

    def tolerance(self, cell: dict, metric: str) -> float:
        """The relative tolerance of a metric of a cell."""
        return self.narrower.get(cell.get("model"), {}).get(metric, self.metrics[metric])


@dataclass(frozen=True)
class Comparison:
    """A cell of a record, measured again.

    Attributes:
        name: the record.
        cell: the cell's settings.
        seconds: what measuring it again took.
        metrics: one row per metric, at the place where it differs most: metric, recorded, measured, difference, allowed
            (both relative, see `Experiment.least`), equal.
        problems: what else was not as recorded, in words.
        known: whether the same code had measured it on this machine before, so that nothing was measured now.
        alike: whether it was recorded on this kind of processor (see `processor`); None where the record does not say.
        rehearsed: whether it kept well within its tolerances under every instruction set that was played (see
            `lfmlib.records.rehearsal`).
    """

    name: str
    cell: dict
    seconds: float
    metrics: pd.DataFrame
    problems: tuple[str, ...] = ()
    known: bool = False
    alike: bool | None = None
    rehearsed: bool = False

    @property
    def equal(self) -> bool:
        """Whether all of the cell came out as recorded."""
        return not self.problems and bool(self.metrics["equal"].all())

    @property
    def failed(self) -> bool:
        """Whether it did not come out as recorded, and no other kind of processor can be the reason: it had been
        recorded on this kind, or had held under all that were played, or differs by more than rounding."""
        return not self.equal and (bool(self.problems) or self.rehearsed or self.alike is True)

    @property
    def differences(self) -> list[str]:
        """What was not as recorded, in words."""
        return [
            *self.problems,
            *(
                f"{row.metric} is {row.measured:.6g}, recorded {row.recorded:.6g} "
                f"(differs by {row.difference:.2g}, allowed {row.allowed:.2g})"
                for row in self.metrics.itertuples()
                if not row.equal
            ),
        ]

    def __str__(self) -> str:
        if not self.equal:
            return f"{self.name} {to_json(self.cell)}: not as recorded: {'; '.join(self.differences)}"
        largest = self.metrics["difference"].max() if len(self.metrics) else 0.0
        return f"{self.name} {to_json(self.cell)}: as recorded (largest difference {largest:.2g}; {self.seconds:.1f} s)"


def processor() -> dict[str, str]:
    """What rounding depends on besides the libraries: the processor’s name, and the widest instructions that torch uses
    on it. One name stands for several generations, and processors of one set of instructions may round differently."""
    return {"Processor": _name(), "Instructions": torch.backends.cpu.get_cpu_capability()}


def _name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def measure(experiment: Experiment, cell: dict) -> dict:
    """Run one cell, with one thread: its rows as they are recorded, settings first, and what a record keeps of it.

    Ctrl-C ends it: half a cell is none.
    """
    gpu, threads = torch.cuda.is_available(), torch.get_num_threads()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    torch.set_num_threads(1)
    started, worked = time.perf_counter(), time.process_time()
    try:
        # BLAS and OpenMP, too, which threads of scikit-learn and SciPy wait for by spinning
        with stopping(), threadpool_limits(1):
            rows = experiment.run(cell)
        seconds, core_seconds = time.perf_counter() - started, time.process_time() - worked
        inputs = experiment.inputs(cell) if experiment.inputs else {}
    finally:
        torch.set_num_threads(threads)
    if not rows:
        raise ValueError("the cell gave no rows")
    if clash := {key for row in rows for key in row if key == "cell" or (key in cell and row[key] != cell[key])}:
        raise ValueError(f"rows may not change the cell's settings: {', '.join(sorted(clash))}")
    key = experiment.key(cell)
    return {
        "rows": json.loads(to_json([{"cell": key, **cell, **row} for row in rows])),
        "inputs": inputs,
        "seconds": round(seconds, 3),
        "core_seconds": round(core_seconds, 3),
        "cores": 1,
        "gpu": torch.cuda.get_device_name() if gpu and torch.cuda.max_memory_allocated() else None,
    }


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Ctrl-C ends what is measured in here, also where a table in it is one that would come back short instead."""
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or not plain:
        yield
        return
    came = False

    def note(number, frame):
        nonlocal came
        came = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def measured(experiment: Experiment, cells: Sequence[dict], jobs: int) -> Iterator[tuple[dict, dict | Exception]]:
    """Each cell with what `measure` made of it, or the exception that it raised, as they come."""
    with contextlib.closing(each(partial(measure, experiment), cells, jobs)) as results:
        yield from results


def tell_failure(what: str, cell: dict, error: Exception) -> None:
    """Say on stderr, beside a progress bar, what failed for a cell, and how."""
    tqdm.write(f"{what} for {to_json(cell)}\n{''.join(traceback.format_exception(error))}", file=sys.stderr)


def affordable(cells: Mapping[str, dict], budget: float) -> list[str]:
    """Keys of the recorded cells that this machine can measure again for so many core-seconds."""
    gpu = torch.cuda.is_available()
    return [key for key, entry in cells.items() if entry["core_seconds"] <= budget and (gpu or not entry["gpu"])]


def compare(experiment: Experiment, cell: dict, record: dict, rows: list[dict], result: dict | Exception) -> Comparison:
    """A recorded cell's ``rows`` beside the ``result`` of measuring it again: what `measure` returned, or raised."""
    alike = _alike(record["origins"][record["cells"][experiment.key(cell)]["origin"]])
    if isinstance(result, Exception):
        problem = f"it failed with {result!r}"
        return Comparison(experiment.name, cell, math.nan, _metrics([]), (problem,), alike=alike)
    inputs, new = record["cells"][experiment.key(cell)]["inputs"], result["rows"]
    problems = [f"other {name} than recorded" for name in inputs if inputs[name] != result["inputs"].get(name)]
    if len(rows) != len(new):
        problems.append(f"{len(new)} rows, recorded {len(rows)}")
    found = []
    for column in dict.fromkeys(key for row in (*rows, *new) for key in row):
        pairs = [(old.get(column), now.get(column)) for old, now in zip(rows, new, strict=False)]
        if column in experiment.metrics:
            allowed = max(experiment.tolerance(cell, column), record["spread"].get("metrics", {}).get(column, 0.0))
            found.append((column, *_largest_difference(pairs, experiment.least.get(column)), allowed))
        elif len(rows) == len(new) and (other := [pair for pair in pairs if to_json(pair[0]) != to_json(pair[1])]):
            problems.append(f"{column} is {other[0][1]!r}, recorded {other[0][0]!r}, and not declared a metric")
    return Comparison(experiment.name, cell, result["seconds"], _metrics(found), tuple(problems), alike=alike)


def _alike(origin: dict[str, str]) -> bool | None:
    """Whether a cell of that origin was measured on this kind of processor; records did not always say."""
    here = processor()
    return all(origin[name] == here[name] for name in here) if set(here) <= set(origin) else None


def _metrics(found: list[tuple]) -> pd.DataFrame:
    frame = pd.DataFrame(found, columns=["metric", "recorded", "measured", "difference", "allowed"])
    return frame.assign(equal=frame["difference"] <= frame["allowed"])


def _largest_difference(pairs: list[tuple], least: float | None) -> tuple[float, float, float]:
    """Where a metric differs most: recorded, measured, and their difference, relative as `Experiment.least` says."""
    numbers = [[float(one) if isinstance(one, int | float) else math.nan for one in pair] for pair in pairs]
    old, new = np.array(numbers, dtype=float).T
    sizes = np.abs(old[np.isfinite(old)])
    scale = (sizes / max(len(sizes), 1)).sum() if least is None else np.fmax(np.abs(old), least)
    with np.errstate(all="ignore"):
        difference = np.abs(new - old) / scale  # x / 0 is inf, as it should be
    difference[np.isnan(difference)] = np.inf  # a number on one side only
    difference[(old == new) | (np.isnan(old) & np.isnan(new))] = 0.0
    worst = int(np.argmax(difference))
    return float(old[worst]), float(new[worst]), float(difference[worst])
