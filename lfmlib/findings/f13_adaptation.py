"""F13: the insights help adaptation: adapters built from noise, beside LoRA with as many trained parameters."""

from __future__ import annotations

import pandas as pd

from .finding import Finding
from .shares import over_runs

NOISE_ADAPTER, LORA = "noise-gaussian", "lora"
"""The methods that the rule compares, as the record names them."""
MARGIN_POINTS = 1.0
"""Points of accuracy by which the lower limit may lie below LoRA's accuracy where the verdict is "partly"."""
OTHER_NOISE = ("noise-uniform", "noise-signs")
"""The same adapter built from other noise: where it does as well, “Gaussian” is not what helps."""
MIN_RUNS = 5
"""Runs that a verdict takes."""
WITHOUT_ADAPTER = {"head": "head alone", "none": "the base"}
"""Methods of the record that need no adapter, as they are printed."""


def accuracy(rows: pd.DataFrame, method: str, budget: int = 1) -> pd.Series:
    """Test accuracy of a method, in points, by run.

    Args:
        rows: of the record `adaptation`, of one task.
        method: see `lfmlib.experiments.adaptation`.
        budget: trained parameters, in units of LoRA’s at rank 1.

    Returns:
        Index: seed. NaN where the training diverged.
    """
    some = rows[(rows["method"] == method) & (rows["budget"] == budget)]
    return 100 * some.set_index("seed")["accuracy"]


def advantage(rows: pd.DataFrame, method: str = NOISE_ADAPTER, against: str = LORA, budget: int = 1) -> pd.Series:
    """Accuracy of a method less that of another, in points, by run that has both: base, seed and batches are the same.

    Args:
        rows, method, budget: as for `accuracy`.
        against: the other method.

    Returns:
        Index: seed. NaN where a training diverged.
    """
    own, other = accuracy(rows, method, budget), accuracy(rows, against, budget)
    both = own.index.intersection(other.index)
    return own[both] - other[both]


def f13_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F13 of a model on one task.

    Supported where the interval of the paired difference over runs lies above 0; partly where it lies above
    -`MARGIN_POINTS`; contradicted where it lies below that; undecided where it reaches across, where a training
    diverged, and while there are fewer than `MIN_RUNS` runs.

    Args:
        rows: of the record `adaptation`, of one model and task.
        model: its name, with the task.
        provenance: of the record.
    """
    each = advantage(rows)
    if len(each) < 2:
        reason = f"Recorded so far: {len(each)} of the {MIN_RUNS} runs that it takes."
        return Finding.of("F13", model, provenance, {"reason": reason})
    if each.isna().any():
        reason = f"{each.isna().sum()} of {len(each)} pairs of trainings diverged."
        return Finding.of("F13", model, provenance, {"reason": reason})
    value, low, high = over_runs(each)
    floor = "head" if "head" in set(rows["method"]) else "none"
    names = {"LoRA": LORA, "noise-built": NOISE_ADAPTER, "full fine-tuning": "full", WITHOUT_ADAPTER[floor]: floor}
    parts = {name: _mean_accuracy(rows, method) for name, method in names.items()}
    if set(OTHER_NOISE) <= set(rows["method"]):
        parts["of uniform noise, of ±1"] = " and ".join(_mean_accuracy(rows, method) for method in OTHER_NOISE)
    details = {"parts": parts, "runs": len(each)}
    beside = advantage(rows, floor)
    null, control = None, None
    if len(beside) > 1 and not beside.isna().any():
        null, *limits = over_runs(beside)
        control = _verdict(*limits, len(beside))
    return Finding.of(
        "F13", model, provenance, details, value, (low, high), null, _verdict(low, high, len(each)), control
    )


def f13(model: str, provenance: dict) -> Finding:
    """Finding F13 of a reader’s own model: not judged, since it takes a task and several trainings."""
    reason = "What an adapter is worth takes a task, tuned rates and trainings of five seeds; the chapter says how."
    return Finding.of("F13", model, provenance, {"reason": reason})


def _mean_accuracy(rows: pd.DataFrame, method: str) -> str:
    """Mean over the runs as it is printed; "diverged" where one of them did."""
    found = accuracy(rows, method)
    return "diverged" if found.isna().any() else f"{found.mean():.1f}"


def _verdict(low: float, high: float, runs: int) -> str:
    if runs < MIN_RUNS:
        return "undecided"
    if low > 0:
        return "supported"
    if low >= -MARGIN_POINTS:
        return "partly"
    return "contradicted" if high < -MARGIN_POINTS else "undecided"
