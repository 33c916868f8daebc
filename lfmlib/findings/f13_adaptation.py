"""F13: the insights help adaptation: adapters built from noise, beside LoRA with as many trained parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from .finding import Finding
from .rules import RULES, judge
from .runs import MARGIN_POINTS, bracketed, compared, over_runs

NOISE_ADAPTER, LORA = "noise-gaussian", "lora"
"""The methods that the rule compares, as the record names them."""
INSIGHTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a Gaussian against ±1 and uniform": (NOISE_ADAPTER, ("noise-uniform", "noise-signs")),
    "scales that grow with depth": ("noise-deeper", (NOISE_ADAPTER,)),
    "a raised σ": ("noise-gaussian, σ raised", (NOISE_ADAPTER,)),
}
"""What the paper's insights say of an adapter: the method that follows one, and those that do not, whose mean it is
held against."""
PLACEBO: dict[str, tuple[str, tuple[str, ...]]] = {"±1 against uniform": ("noise-signs", ("noise-uniform",))}
"""A comparison that no insight says anything of."""
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
    """Finding F13 of a model on one task: the value counts the `INSIGHTS` that help (see
    `lfmlib.findings.runs.compared`).

    Supported where one of them helps and none harms; partly where one helps and another harms; contradicted where none
    helps, beyond `MARGIN_POINTS`; undecided while one may. Not judged where the variants were not trained, where a
    training diverged, and with fewer than `MIN_RUNS` runs. How the adapter does beside LoRA stands apart, and is what
    the first rule judges.

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
    first = _verdict(*over_runs(each)[1:], len(each))
    floor = "head" if "head" in set(rows["method"]) else "none"
    names = {"LoRA": LORA, "noise-built": NOISE_ADAPTER, "full fine-tuning": "full", WITHOUT_ADAPTER[floor]: floor}
    parts = {name: _mean_accuracy(rows, method) for name, method in names.items()}
    if set(OTHER_NOISE) <= set(rows["method"]):
        parts["of uniform noise, of ±1"] = " and ".join(_mean_accuracy(rows, method) for method in OTHER_NOISE)
    arms = {LORA, *(method for own, others in INSIGHTS.values() for method in (own, *others))}
    if not arms <= set(rows["method"]):
        reason = "Adapters with and without the insights were not trained on this task."
        return Finding.of("F13", model, provenance, {"reason": reason, "parts": parts}, first=first)
    if len(runs := _with_all(rows, arms)) < MIN_RUNS:
        reason = f"Recorded so far: {len(runs)} of the {MIN_RUNS} runs that it takes."
        return Finding.of("F13", model, provenance, {"reason": reason, "parts": parts}, first=first)
    whole = rows[rows["seed"].isin(runs)]
    gains = {name: insight_gain(whole, *pair) for name, pair in (INSIGHTS | PLACEBO).items()}
    if any(one.isna().any() for one in gains.values()):
        reason = "Some trainings diverged."
        return Finding.of("F13", model, provenance, {"reason": reason, "parts": parts}, first=first)
    found = compared({name: gains[name] / 100 for name in INSIGHTS})
    parts = {f"{name}: {found[name]}": bracketed(*over_runs(gains[name]), 2, "+") for name in INSIGHTS} | parts
    value, low, high, placebo = (float(one) for one in (
        _count(found, "gain"), _count(found, "gain"), _count(found, "gain", "open"),
        _count(compared({name: gains[name] / 100 for name in PLACEBO}), "gain")))  # fmt: skip
    verdict = judge(RULES["F13"], value, (low, high))
    if verdict == "supported" and "loss" in found.values():
        verdict = "partly"
    details = {"parts": parts, "runs": len(runs), "insights": found}
    return Finding.of("F13", model, provenance, details, value, (low, high), placebo, verdict, first=first)


def insight_gain(rows: pd.DataFrame, own: str, others: Sequence[str]) -> pd.Series:
    """Accuracy of a method less the mean of others, in points, by run.

    Args:
        rows: as for `accuracy`.
        own, others: methods (see `INSIGHTS`).
    """
    return accuracy(rows, own) - pd.DataFrame({other: accuracy(rows, other) for other in others}).mean(axis=1)


def _with_all(rows: pd.DataFrame, methods: Collection[str]) -> list[int]:
    """Seeds of the runs that have all of these methods, at the first budget; diverged trainings count as recorded."""
    some = rows[(rows["budget"] == 1) & rows["method"].isin(methods)]
    each = some.groupby("seed")["method"].nunique()
    return each.index[each == len(methods)].tolist()


def _count(found: Mapping[str, str], *outcomes: str) -> int:
    return sum(one in outcomes for one in found.values())


def f13(model: str, provenance: dict) -> Finding:
    """Finding F13 of a reader’s own model: not judged, since it takes a task and several trainings."""
    reason = "What an adapter is worth takes a task, tuned rates and trainings of five seeds; the chapter says how."
    return Finding.of("F13", model, provenance, {"reason": reason})


def _mean_accuracy(rows: pd.DataFrame, method: str) -> str:
    """Mean over the runs as it is printed, and how many where others have more; "diverged" where one of them did."""
    found = accuracy(rows, method)
    few = f" ({len(found)} runs)" if 0 < len(found) < rows["seed"].nunique() else ""
    return "diverged" if found.isna().any() else f"{found.mean():.1f}{few}"


def _verdict(low: float, high: float, runs: int) -> str:
    if runs < MIN_RUNS:
        return "undecided"
    if low > 0:
        return "supported"
    if low >= -MARGIN_POINTS:
        return "partly"
    return "contradicted" if high < -MARGIN_POINTS else "undecided"
