"""F2: weights become Gaussian regardless of the initialization."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .finding import Finding
from .rules import RULES, STATEMENTS, UNLIKE_STARTS, judge
from .shares import ENOUGH, over_runs


def shares_by_start(rows: pd.DataFrame) -> pd.DataFrame:
    """The share of Gaussian parameters before and after training, for every start.

    Args:
        rows: of one model trained in one way, from the record `initialization`; all its seeds.

    Returns:
        Index: start. Columns: before, after (means over seeds), low, high (95 % limits of after, within 0 and 1), runs.

    Raises:
        ValueError: a training has no end, or a share is NaN, or a seed is there twice.
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


def f2(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F2 from the trainings of one model in one way (see `shares_by_start`).

    The value counts the unlike starts whose mean share is at least `ENOUGH`; its interval counts those whose lower
    limit is, and those whose upper limit is. The null is the same count before the first step.

    Raises:
        ValueError: an unlike start is missing, or was run only once.
    """
    shares = shares_by_start(rows)
    if missing := [start for start in UNLIKE_STARTS if start not in shares.index or shares.loc[start, "runs"] < 2]:
        raise ValueError(f"F2 needs at least two runs from every unlike start; {model} lacks {', '.join(missing)}")
    unlike, controls = shares.loc[list(UNLIKE_STARTS)], shares.drop(list(UNLIKE_STARTS))
    value, low, high, null = (float((unlike[name] >= ENOUGH).sum()) for name in ("after", "low", "high", "before"))
    last = rows[rows["step"] == rows["steps"]]
    return Finding(
        id="F2",
        model=model,
        statement=STATEMENTS["F2"],
        metric="non-Gaussian starts from which ≥ 80 % of the parameters became Gaussian",
        value=value,
        interval=(low, high),
        null=null,
        rule=RULES["F2"].text,
        verdict=judge(RULES["F2"], value, (low, high)),
        provenance=provenance,
        details={
            "shares": {start: [row.after, row.low, row.high] for start, row in unlike.iterrows()},
            "controls": {start: [row.after, row.low, row.high] for start, row in controls.iterrows()},
            "runs_each": int(shares["runs"].min()),
            "moved": {start: float(some["moved"].mean()) for start, some in last.groupby("start", sort=False)},
            "score": float(last["score"].mean()),
            "trivial_score": float(last["trivial"].mean()),
        },
    )
