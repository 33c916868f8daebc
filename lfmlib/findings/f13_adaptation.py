"""F13: the insights help adaptation: adapters built from noise, beside LoRA with as many trained parameters."""

from __future__ import annotations

from functools import partial

import pandas as pd

from .finding import Finding
from .shares import over_runs

OWN, RIVAL = "noise-gaussian", "lora"
MARGIN = 1.0
"""Points of accuracy that the lower limit may lie below LoRA for *partly*."""
UNLIKE = ("noise-uniform", "noise-signs")
"""The same adapter of other noise: where it does as well, “Gaussian” is not what helps."""
RUNS = 5
"""Runs that a verdict takes at least."""


def accuracy(rows: pd.DataFrame, method: str, budget: int = 1) -> pd.Series:
    """Test accuracy of a method, in points, by run.

    Args:
        rows: of the record `adaptation`, of one task.
        method: see `lfmlib.experiments.adaptation`.
        budget: trained parameters, in units of LoRA’s at rank 1.
    """
    some = rows[(rows["method"] == method) & (rows["budget"] == budget)]
    return 100 * some.set_index("seed")["accuracy"]


def advantage(rows: pd.DataFrame, method: str = OWN, against: str = RIVAL, budget: int = 1) -> pd.Series:
    """Paired difference of `accuracy` between two methods, by run that has both: base, seed and batches are the same.
    NaN where a training diverged."""
    own, other = accuracy(rows, method, budget), accuracy(rows, against, budget)
    both = own.index.intersection(other.index)
    return own[both] - other[both]


def f13_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F13 of a model on one task.

    Supported where the interval of the paired difference over runs lies above 0; partly where it lies above minus one
    point; contradicted where it lies below that; undecided where it reaches across, where a training diverged, and
    while there are fewer than `RUNS` runs.

    Args:
        rows: of the record `adaptation`, of one model and task.
        model: its name, with the task.
        provenance: of the record.
    """
    each = advantage(rows)
    if len(each) < 2:
        return _finding(
            model, provenance, {"reason": f"Recorded so far: {len(each)} of the {RUNS} runs that it takes."}
        )
    if each.isna().any():
        return _finding(
            model, provenance, {"reason": f"{each.isna().sum()} of {len(each)} pairs of trainings diverged."}
        )
    value, low, high = over_runs(each)
    floor = "head" if "head" in set(rows["method"]) else "none"
    names = {"LoRA": RIVAL, "noise-built": OWN, "full fine-tuning": "full", FLOORS[floor]: floor}
    parts = {name: _level(rows, method) for name, method in names.items()}
    if set(UNLIKE) <= set(rows["method"]):
        parts["of uniform noise, of ±1"] = " and ".join(_level(rows, method) for method in UNLIKE)
    details = {"parts": parts, "runs": len(each)}
    beside = advantage(rows, floor)
    null = None if beside.isna().any() else float(beside.mean())
    return _finding(model, provenance, details, value, (low, high), null, _verdict(low, high, len(each)))


def f13(model: str, provenance: dict) -> Finding:
    """Finding F13 of a reader’s own model: not judged, since it takes a task and trainings."""
    reason = "What an adapter is worth takes a task, tuned rates and trainings of five seeds; the chapter says how."
    return _finding(model, provenance, {"reason": reason})


def _level(rows: pd.DataFrame, method: str) -> str:
    """Mean accuracy, of all runs or of none."""
    found = accuracy(rows, method)
    return "diverged" if found.isna().any() else f"{found.mean():.1f}"


def _verdict(low: float, high: float, runs: int) -> str:
    if runs < RUNS:
        return "undecided"
    if low > 0:
        return "supported"
    if low >= -MARGIN:
        return "partly"
    return "contradicted" if high < -MARGIN else "undecided"


FLOORS = {"head": "head alone", "none": "the base"}
"""What needs no adapter, as it is printed."""
_finding = partial(
    Finding.of,
    "F13",
    "test accuracy of an adapter built from Gaussian noise, less that of LoRA, in points, paired by run",
)
