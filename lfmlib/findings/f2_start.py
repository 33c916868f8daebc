"""F2: weights become Gaussian regardless of the initialization."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .finding import Finding
from .readings import FIRST_RULES
from .rules import UNLIKE_STARTS, judge
from .runs import over_runs
from .shares import SUPPORTED_SHARE


def shares_by_start(rows: pd.DataFrame) -> pd.DataFrame:
    """The share of parameters in Gaussian matrices before and after training, for every start.

    Args:
        rows: of one model trained in one way, from the record `initialization`; all its seeds.

    Returns:
        Index: start. Columns: before, after (means over seeds), low, high (95 % limits of after, within 0 and 1), runs.

    Raises:
        ValueError: the last step of a training is missing, or a share is NaN, or a seed is there twice.
    """
    found = {}
    for start, some in rows.groupby("start", sort=False):
        end = some[some["step"] == some["steps"]]
        after = end["share"]
        if len(end) < some["seed"].nunique() or end["seed"].duplicated().any() or after.isna().any():
            raise ValueError(f"the trainings from {start} are not one whole run a seed: measure the record again")
        mean, low, high = over_runs(after)
        limits = np.clip([low, high], 0, 1)
        found[start] = {
            "before": some.loc[some["step"] == 0, "share"].mean(),
            **{"after": mean, "low": limits[0], "high": limits[1], "runs": len(after)},
        }
    return pd.DataFrame.from_dict(found, orient="index")


def f2(rows: pd.DataFrame, model: str, provenance: dict, fading: Mapping[str, float]) -> Finding:
    """Finding F2 of one model trained in one way.

    A start is judged where it could have been forgotten: where training from the Gaussian start ends Gaussian, and the
    memory m, the correlation of W with W₀, lies below the one at which even a Gaussian ΔW leaves the start within the
    bound. The value is the share of the judged starts whose mean share of parameters is at least `SUPPORTED_SHARE`; its
    interval counts those whose lower limit is, and those whose upper limit is. The null is the same before the first
    step.

    Args:
        rows: as for `shares_by_start`.
        model: its name, with the way of training.
        provenance: of the record.
        fading: start → the memory from which down it can be forgotten (see `lfmlib.experiments.drift.forgotten_at`).

    Raises:
        ValueError: a non-Gaussian start is missing, or was run only once.
    """
    shares = shares_by_start(rows)
    if missing := [start for start in UNLIKE_STARTS if shares["runs"].get(start, 0) < 2]:
        raise ValueError(f"F2 needs at least two runs from every unlike start; {model} lacks {', '.join(missing)}")
    unlike, controls = shares.loc[list(UNLIKE_STARTS)], shares.drop(list(UNLIKE_STARTS))
    ends = ("after", "low", "high", "before")
    first, first_low, first_high, _ = (float((unlike[name] >= SUPPORTED_SHARE).sum()) for name in ends)
    last = rows[rows["step"] == rows["steps"]]
    memory = last.groupby("start")["memory"].mean()
    moved = [start for start in UNLIKE_STARTS if memory[start] <= fading[start]]
    kept = [f"{start} {memory[start]:.2f} ({fading[start]:.2f})" for start in UNLIKE_STARTS if start not in moved]
    others = ", ".join(kept) or "–"
    details = {
        "parts": {
            "could be forgotten": f"{len(moved)} of {len(UNLIKE_STARTS)}",
            "memory of the others (needed)": others,
        },
        "memory": {start: [float(memory[start]), fading[start]] for start in UNLIKE_STARTS},
        "shares": {start: [row.after, row.low, row.high] for start, row in unlike.iterrows()},
        "controls": {start: [row.after, row.low, row.high] for start, row in controls.iterrows()},
        "runs_each": int(shares["runs"].min()),
        "moved": {start: float(some["moved"].mean()) for start, some in last.groupby("start", sort=False)},
        "score": float(last["score"].mean()),
        "trivial_score": float(last["trivial"].mean()),
        "judged": moved,
    }
    verdict = judge(FIRST_RULES["F2"], first, (first_low, first_high))
    if (own := controls["after"].get("gaussian", 0.0)) < SUPPORTED_SHARE:
        reason = f"From a Gaussian start, too, only {own:.0%} of the parameters end in Gaussian matrices."
        return Finding.of("F2", model, provenance, details | {"reason": reason, "parts": {}}, first=verdict)
    if not moved:
        least, needed = memory[list(UNLIKE_STARTS)].min(), max(fading[start] for start in UNLIKE_STARTS)
        reason = (
            f"The weights barely moved: their correlation with the start is {least:.2f} or more; {needed:.2f} or less "
            "is needed."
        )
        return Finding.of("F2", model, provenance, details | {"reason": reason, "parts": {}}, first=verdict)
    value, low, high, null = (float((unlike.loc[moved, name] >= SUPPORTED_SHARE).mean()) for name in ends)
    return Finding.of("F2", model, provenance, details, value, (low, high), null, first=verdict)
