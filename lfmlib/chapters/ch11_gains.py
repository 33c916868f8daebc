"""What chapter 11's figures draw, and what is taken from it: the insights, the methods beside LoRA, and their cost.

A frame for a figure has a row a mark: mean, low and high, over runs; limits are missing where there was one run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from .. import findings
from ..experiments.adaptation import LARGE
from ..findings import markup
from ..findings.runs import sides
from ..lab.adapters import DEEPER
from .ch11_adaptation import (
    METHODS,
    added_by,
    beyond,
    has,
    known,
    of_task,
    tasks_of,
    title,
)
from .ch11_published import NAMED, losses
from .names import where
from .sentences import interval, intervals

NOISE, LORA = findings.NOISE_ADAPTER, "lora"
RAISED = "noise-gaussian, σ raised"
INSIGHTS = {
    "Gaussian, not uniform": (NOISE, "noise-uniform"),
    "Gaussian, not ±1": (NOISE, "noise-signs"),
    "scales grow with depth": (DEEPER, NOISE),
    "σ of the base raised": (RAISED, NOISE),
}
"""Insight as the figure names it → the adapter that follows it, and the one that does not."""
COST_TASKS = ("docstrings", "rotation", "kind")
"""Tasks whose costs are told: one of each kind of model."""
COSTS = {"time of a step": "step_seconds", "memory held": "held"}
"""What an adapter costs, as figures name it → column of the record."""


def gains(record: pd.DataFrame) -> pd.DataFrame:
    """What each insight adds to the accuracy of the noise-built adapter, in points: columns insight, task, mean, low,
    high."""
    rows = (
        {"insight": insight, "task": title(task)} | interval(gain)
        for insight, pair in INSIGHTS.items()
        for task, gain in _gains(record, pair).items()
    )
    return intervals(rows, "insight", "task")


def beside_lora(record: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each method less LoRA's, in points: columns task, method, mean, low, high."""
    others = [method for method in METHODS if method not in (LORA, "none", "head")]
    rows = (
        {"task": title(task), "method": METHODS[method]} | interval(findings.advantage(some, method))
        for task in tasks_of(record)
        for method in others
        if has(some := of_task(record, task), method)
    )
    return intervals(rows, "task", "method")


def cost(record: pd.DataFrame, tasks: Sequence[str] = COST_TASKS) -> dict[str, pd.DataFrame]:
    """For each of `COSTS`, that of a method over LoRA's: columns method, task, mean; low and high are missing."""
    found = {}
    for name, column in COSTS.items():
        each = []
        for task in tasks:
            medians = of_task(record, task).groupby("method")[column].median()
            ratios = medians / medians.get(LORA, math.nan)
            named = (
                (METHODS[method], ratio) for method, ratio in ratios.dropna().items() if method not in (LORA, "none")
            )
            each += [{"method": method, "task": title(task), "mean": ratio} for method, ratio in named]
        found[name] = _in_order(intervals(each, "method", "task"), METHODS)
    return found


def more_nats(record: pd.DataFrame) -> pd.DataFrame:
    """Test loss of methods and variants less that of the noise-built adapter, in nats: columns method, task, mean, low,
    high. The base is left out: it stands far off."""
    rows = (
        {"method": NAMED[method], "task": name} | interval(more)
        for name, each in losses(record)
        for method, (_, more) in each.items()
        if method not in (NOISE, "none")
    )
    return _in_order(intervals(rows, "method", "task"), NAMED)


def counted(record: pd.DataFrame) -> str:
    """How noise-built adapters do beside each other method, over the tasks, in sentences."""
    words = []
    for method, name in METHODS.items():
        if method in (NOISE, "none") or not (each := _beside(record, method)):
            continue
        means = [one.mean() for one in each if known(one)]
        size = f", from {min(means):+.1f} to {max(means):+.1f} points" if means else ""
        words.append(f"- {name}: {beyond(each)} tasks{size}")
    return "\n".join(["Noise-built adapters beside other methods, differences beyond the interval:", "", *words])


def takeaways(record: pd.DataFrame) -> str:
    """Three sentences: what the insights add, what noise-built adapters reach beside LoRA, and at what cost."""
    return "\n".join(f"- {one}" for one in (_of_insights(record), _of_lora(record), _of_cost(record)))


def _of_insights(record: pd.DataFrame) -> str:
    law = [one for method in findings.OTHER_NOISE for one in added_by(record, method)]
    rest = [one for method in (DEEPER, RAISED) for one in added_by(record, method)]
    if not law or not rest or not all(map(known, law)):
        return "Too few variants are recorded with two runs or more, so of the insights **nothing is concluded**."
    (less, more), (helps, harms) = _outcomes(law), _outcomes(rest)
    so = "The law of the noise matters" if less + more else "Gaussian noise is nothing special"
    return (
        f"**{so}**: other noise differs in {less + more} of {len(law)} comparisons; scales that grow with depth and a "
        f"raised σ are better beyond the interval in {helps} of {len(rest)}, and worse in {harms}."
    )


def _of_lora(record: pd.DataFrame) -> str:
    each = _beside(record, LORA)
    if not any(map(known, each)):
        return "Of noise-built adapters beside LoRA **too little is recorded** to say which is better."
    better, worse = _outcomes(each)
    own = {title(task): findings.advantage(of_task(record, task)).mean() for task in LARGE if task in tasks_of(record)}
    published = "".join(f"; on {name}, the difference is {_signed(gain)} points" for name, gain in own.items())
    return (
        f"With as many trained numbers as LoRA, noise-built adapters are **better on {better} of {len(each)} tasks and "
        f"worse on {worse}**{published}."
    )


def _of_cost(record: pd.DataFrame) -> str:
    said = []
    for rows in cost(record).values():
        ratios = rows.loc[rows["method"] == METHODS[NOISE], "mean"]
        if not len(ratios):
            return "What noise-built adapters cost was **not recorded** on these tasks."
        said.append(markup.ends(*(f"{one:.2f}" for one in (ratios.min(), ratios.max()))))
    return (
        f"They are as small to store, but a step takes **{said[0]} times** as long as LoRA’s and holds {said[1]} times "
        "the memory."
    )


def _outcomes(each: Sequence[pd.Series]) -> tuple[int, int]:
    """How many paired differences lie above 0, and below, beyond the interval."""
    return sides(findings.over_runs(one) for one in each if known(one))


def _beside(record: pd.DataFrame, method: str) -> list[pd.Series]:
    """Accuracy of the noise-built adapter less a method's, in points by run, of every task that has both."""
    each = [of_task(record, task) for task in tasks_of(record)]
    return [findings.advantage(rows, NOISE, method) for rows in each if has(rows, method) and has(rows, NOISE)]


def _gains(record: pd.DataFrame, pair: tuple[str, str]) -> dict[str, pd.Series]:
    each = {task: where(record, task=task, budget=1) for task in tasks_of(where(record, part="variants"))}
    return {task: findings.advantage(rows, *pair) for task, rows in each.items() if all(has(rows, one) for one in pair)}


def _signed(points: float) -> str:
    """A difference in points, to a tenth; nothing has no sign."""
    return f"{points:+.1f}" if round(points, 1) else "0.0"


def _in_order(rows: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Rows in the order in which methods are printed."""
    order = list(names.values())
    return rows.sort_values("method", key=lambda column: column.map(order.index), kind="stable")
