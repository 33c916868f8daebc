"""What chapter 12's figures draw, and what is taken from it: amplified outliers on top of a merge, what merges keep,
and forgetting.

A frame for a figure has a row a mark: mean, low and high, over runs; limits are missing where there was one run.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ..findings import METHOD_NAMES as METHODS
from ..findings import Finding
from .ch12_editing import ARMS, MIN_CHANGE, added, by_method, by_model, by_set, by_task, negated, plain
from .names import NAMES, key, where
from .sentences import interval, intervals


def amplified(record: pd.DataFrame) -> pd.DataFrame:
    """What amplified outliers add to a plain merge, in points: columns method, model, mean, low, high."""
    rows = (
        {"method": method, "model": model} | interval(added(some))
        for method in METHODS.values()
        for model, each in by_model(record)
        for name, some in by_method(each).items()
        if name == method
    )
    return intervals(rows, "method", "model")


def keeps(record: pd.DataFrame) -> pd.DataFrame:
    """What a plain merge keeps of the scores, in points: columns set, method, mean, low, high."""
    rows = (
        {"set": f"{model}, {tasks.count('+') + 1} tasks", "method": method} | interval(plain(of))
        for model, each in by_model(record)
        for tasks, some in by_set(each)
        for method, of in by_method(some).items()
    )
    return intervals(rows, "set", "method")


def forgetting(record: pd.DataFrame) -> pd.DataFrame:
    """What an arm leaves of a task that is to be forgotten less what plain subtraction leaves, in points: columns arm,
    model, mean, low, high."""
    rows = (
        {"arm": ARMS[one["arm"]], "model": NAMES[key(one["rows"])]} | interval(one["less"])
        for one in negated(record)
        if one["arm"] != "plain"
    )
    return intervals(rows, "arm", "model")


def takeaways(found: Iterable[Finding], record: pd.DataFrame, averaged: pd.DataFrame) -> str:
    """Three sentences: how often amplifying helps, what averages do to outliers, and whom a mean hides.

    Args:
        found: findings F14 on the models of the record.
        record: rows of `editing`.
        averaged: from `lfmlib.experiments.made_laws.averaged`.
    """
    return "\n".join(f"- {one}" for one in (_of_gains(found), _of_reach(record, averaged), _of_tasks(record)))


def _of_gains(found: Iterable[Finding]) -> str:
    judged = [one for one in found if one.value is not None]
    if not judged:
        return "Too few runs are recorded to say whether amplified outliers **help**."
    helped, of = sum(int(one.value) for one in judged), sum(len(one.details["methods"]) for one in judged)
    beyond = sum(one.details["beyond_all"] or 0 for one in judged)
    as_large = f" All of ΔW made as large does as well in {helped - beyond} of these." if helped else ""
    return (
        "Amplified outliers raise what a merge keeps, beyond a random set and by a corrected test, in "
        f"**{helped} of {of}** pairs of a model and a method.{as_large}"
    )


def _of_reach(record: pd.DataFrame, averaged: pd.DataFrame) -> str:
    most, made = averaged.index[-1], averaged["data-free factor"].iloc[-1]
    factors = where(record, part="merged", arm="auto")["factor"].dropna()
    real = f"of the real merges it is **{factors.median():.2f}** in the median" if len(factors) else "no merge was made"
    return (
        f"Planted outliers of {most} models shrink when averaged, and a factor of {made:.2f} gives their reach back; "
        f"{real}."
    )


def _of_tasks(record: pd.DataFrame) -> str:
    said = []
    for arm in ("amplified", "random"):
        change = pd.concat([by_task(rows, arm) for _, rows in by_model(record)])
        said.append((f"{(change > MIN_CHANGE).mean():.0%}", f"{(change < -MIN_CHANGE).mean():.0%}"))
    (up, down), (up_random, down_random) = said
    return (
        f"Of {len(change)} scores of single tasks, **{up} rise** by more than {MIN_CHANGE:g} point when outliers are "
        f"amplified, and {down} fall by more. With a random set, the control, {up_random} rise and {down_random} fall."
    )
