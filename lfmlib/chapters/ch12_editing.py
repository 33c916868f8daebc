"""What chapter 12 reads off its record, `editing`: what merges keep, and what amplifying outliers changes.

Every function takes rows of the record (see `lfmlib.experiments.editing.run`). Scores are test scores, normalized by
those of the fine-tunes alone, in points; brackets are 95 % intervals over runs, a run being all that was tuned with one
seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd

from .. import findings
from ..experiments.editing import SCALES
from ..findings import METHOD_NAMES as METHODS
from ..findings import Finding
from ..findings.runs import sides
from ..lab.problems import problem
from ..merging import methods
from ..provenance import recorded
from . import names
from .names import NAMES, key, stored, where
from .sentences import MISSING, listed, mean, median, number, span, table, within

ARMS = {
    "amplified": "outliers, tuned factor",
    "auto": "outliers, data-free factor",
    "wide": "all beyond 2 std",
    "random": "random set instead",
    "as large as amplified": "all of ΔW instead",
}
"""Arms that are held against the plain merge, as they are printed."""
CONTROLS = {"random": "a random set", "as large as amplified": "all of ΔW"}
"""Arms whose norm is that of the amplified one."""
MIN_CHANGE = 1.0
"""Points by which one task’s score must rise or fall to be counted as better or worse."""
ASKED = {
    "smollm2-135m": {
        "code": "next token of Python code",
        "docstrings": "next token of docstrings",
        "english": "next token of English",
    },
    "decoder": {"headers": "next byte of C++ headers", "prose": "next byte of docstrings"},
    "minilm": {"kind": "function, class or method?", "library": "which library?"},
}


def found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F14 of every model; ``parameters`` of the chapter go into its provenance."""
    origin = recorded("editing", record, **parameters)
    each = ((stored(key(rows)), rows) for _, rows in by_model(record))
    return [findings.f14_over_runs(rows, name, origin | {"source": name}) for name, rows in each]


def by_model(record: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every model’s merges, with its name as printed."""
    return names.by_model(record, part="merged")


def tuned(record: pd.DataFrame) -> pd.DataFrame:
    """The fine-tunes: what they are asked, their test scores, and the sizes of their ΔW."""
    columns = {
        "model": lambda rows: NAMES[key(rows)],
        "task": lambda rows: ASKED.get(key(rows), {}).get(task := rows["task"].iloc[0], task),
        "score": span("score", 3),
        "of the base": mean("base", ".3f"),
        "size of ΔW": mean("norm", ".2f", " %", times=100),
    }
    by_task = (some for _, rows in names.by_model(record, part="tuned") for _, some in rows.groupby("task"))
    return listed(by_task, columns)


def sets(record: pd.DataFrame) -> pd.DataFrame:
    """What is merged: how alike the ΔW are, how much is kept by the base alone, an average, and the best merge; and how
    much of what tuning added a point is."""

    def best(rows: pd.DataFrame) -> str:
        method = where(rows, arm="plain").groupby("method")["valid"].mean().idxmax()
        return f"{METHODS[method]} {plain(where(rows, method=method)).mean():.1f}"

    alone = record[record["part"] == "tuned"].assign(kept=lambda rows: rows["base"] / rows["score"])

    def untuned(rows: pd.DataFrame) -> float:
        some, tasks = where(alone, model=key(rows)), rows["tasks"].iloc[0].split("+")
        some = some[some["task"].isin(tasks)]
        return 100 * float(some["kept"].mean()) if set(tasks) == set(some["task"]) else math.nan

    def of_tuning(rows: pd.DataFrame) -> float:
        return 100 / (100 - untuned(rows))

    columns = {
        "model": lambda rows: NAMES[key(rows)],
        "tasks": lambda rows: rows["tasks"].iloc[0].replace("+", ", "),
        "cosine of two ΔW": within(mean("alike", "+.3f"), method="average", arm="plain"),
        "base keeps": number(untuned, ".1f"),
        "a point, of what tuning added": number(of_tuning, ".1f", " %"),
        "average keeps": within(mean(plain, ".1f"), method="average"),
        "best on validation data": best,
    }
    return listed((some for _, rows in by_model(record) for _, some in by_set(rows)), columns)


def plain(rows: pd.DataFrame) -> pd.Series:
    """What one method’s plain merge keeps of the scores, in points, by run."""
    return 100 * findings.kept_score(rows, rows["method"].iloc[0], "plain")


def added(rows: pd.DataFrame, arm: str = "amplified", against: str = "plain") -> pd.Series:
    """What an arm adds to another in the merges of one method, in points, by run."""
    return 100 * findings.improvement(rows, rows["method"].iloc[0], arm, against)


def kept(rows: pd.DataFrame) -> pd.DataFrame:
    """What each method keeps of one model’s fine-tunes, plain, and what each arm adds to that."""
    columns = {
        "outliers": within(mean("outliers", ".2f", " %", times=100), arm="plain"),
        "of the norm²": within(mean("energy", ".1f", " %", times=100), arm="plain"),
        "plain keeps": span(plain, 1),
        **{name: span(partial(added, arm=arm), 2, "+") for arm, name in _arms(rows).items()},
    }
    return table(by_method(rows), columns)


def by_number(record: pd.DataFrame) -> pd.DataFrame:
    """What the ViT keeps by the number of tasks that are merged: plain, and what amplifying adds."""
    rows = where(record, part="merged", model="vit")

    def told(some: pd.DataFrame) -> str:
        return f"{plain(some).mean():.1f}, {findings.span(added(some), 1, '+')}"

    columns = {f"{tasks.count('+') + 1} tasks": within(told, tasks=tasks) for tasks, _ in by_set(rows)}
    return table(by_method(rows), columns)


def gains(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For the figure: model → rows with method, arm, and the paired difference: mean, low, high."""
    return {
        model: pd.DataFrame(
            [
                (method, name, *findings.over_runs(added(some, arm)))
                for method, some in by_method(rows).items()
                for arm, name in _arms(rows).items()
            ],
            columns=["method", "arm", "mean", "low", "high"],
        )
        for model, rows in by_model(record)
    }


def tested(record: pd.DataFrame) -> str:
    """p-values of the paired differences, corrected for the number of methods that differ, in a sentence."""
    words = []
    for model, rows in by_model(record):
        apart = {METHODS[method] for method in findings.distinct(rows)}
        gain = {method: added(some) for method, some in by_method(rows).items() if method in apart}
        corrected = findings.holm(pd.Series({method: findings.paired_p(one) for method, one in gain.items()}))
        if corrected.isna().all():
            words.append(f"{model} not tested: one run, or runs without a score")
            continue
        best = corrected.idxmin()
        words.append(f"{model} {corrected[best]:.2g} ({best}, {gain[best].mean():+.2f} points)")
    return f"Smallest p-value of a paired t-test, corrected for the number of methods (Holm): {'; '.join(words)}."


def against_controls(record: pd.DataFrame) -> str:
    """In how many methods amplified outliers do better than each control, beyond the interval: a line a model."""
    words = ["Amplified outliers beside the controls, methods beyond the interval:", ""]
    for model, rows in by_model(record):
        better, merged = [], by_method(rows)
        for arm, name in CONTROLS.items():
            more, less = sides(findings.over_runs(added(some, against=arm)) for some in merged.values())
            better.append(f"{more} better and {less} worse than {name}")
        words.append(f"- {model}, of {len(merged)}: {', '.join(better)}")
    return "\n".join(words)


def chosen(record: pd.DataFrame) -> pd.DataFrame:
    """How often each factor was chosen on validation data, by model and arm, and the median data-free factor; merges
    without outliers left out, where any factor gives the same."""

    def counted(rows: pd.DataFrame) -> str:
        counts = rows["factor"].value_counts(normalize=True).sort_index()
        return ", ".join(f"{factor:g}: {share:.0%}" for factor, share in counts.items()) if len(rows) else MISSING

    def free(rows: pd.DataFrame) -> str:
        return "{:.2f} ({:.2f} to {:.2f})".format(*rows["factor"].agg(["median", "min", "max"]))

    rows = {}
    for model, some in by_model(record):
        outliers = some.groupby(["seed", "tasks", "method"])["outliers"].transform("max")
        rows[model] = some[outliers > 0].dropna(subset=["scale"])
    words = {"amplified": counted, "random": counted, "auto": free, "wide": counted}
    return table(rows, {ARMS[arm]: within(cell, arm=arm) for arm, cell in words.items()})


def ends(record: pd.DataFrame) -> str:
    """How often the scale that won is the smallest or the largest on offer, in a sentence."""
    words = []
    for model, rows in by_model(record):
        grid = SCALES[key(rows)]
        some = rows[(rows["method"] != "average") & rows["arm"].isin(["plain", "amplified"])].dropna(subset=["scale"])
        low, high = (float((some["scale"] == end).mean()) for end in (grid[0], grid[-1]))
        words.append(f"{model} {low:.0%} at {grid[0]:g}, {high:.0%} at {grid[-1]:g}")
    return f"A choice at an end of the grid might lie beyond it. Choices that do: {'; '.join(words)}."


def scales(record: pd.DataFrame) -> pd.DataFrame:
    """The median scale of ΔW that was chosen, by method, with outliers amplified and without."""

    def both(rows: pd.DataFrame) -> str:
        if rows.empty:
            return MISSING
        return ", ".join(f"{where(rows, arm=arm)['scale'].median():g}" for arm in ("plain", "amplified"))

    columns = {METHODS[method]: within(both, method=method) for method in METHODS}
    return table(by_model(record), columns).T


def hurts(record: pd.DataFrame) -> str:
    """Where amplifying hurts, and where it helps, task by task: a line a model."""
    words = ["What amplifying changes of the score of a single task, in points:", ""]
    for model, rows in by_model(record):
        change = by_task(rows)
        means = change.groupby(["method", "task"]).mean()
        (low, low_task), (high, high_task) = means.idxmin(), means.idxmax()
        words.append(
            f"- {model}: better by more than {MIN_CHANGE:g} in {(change > MIN_CHANGE).mean():.0%} of {len(change)} "
            f"scores, worse by more in {(change < -MIN_CHANGE).mean():.0%}; mean of a task from {means.min():+.1f} "
            f"({low_task}, {METHODS[low]}) to {means.max():+.1f} ({high_task}, {METHODS[high]})"
        )
    return "\n".join(words)


def by_task(rows: pd.DataFrame, arm: str = "amplified") -> pd.Series:
    """What an arm adds to the score of each task in each merge of one model, in points."""
    pairs = rows[rows["arm"].isin(["plain", arm])].pivot_table(
        index=["seed", "tasks", "method", "task"], columns="arm", values="normalized"
    )
    return 100 * (pairs[arm] - pairs["plain"])


def projected(record: pd.DataFrame) -> pd.DataFrame:
    """What is added by making the merged matrices zero-mean, or symmetric, in the mean of the methods."""

    def over_methods(rows: pd.DataFrame, arm: str) -> pd.Series:
        return pd.DataFrame({method: added(some, arm) for method, some in by_method(rows).items()}).mean(axis=1)

    asked = {model: rows for model, rows in by_model(record) if set(methods.PROJECTIONS) <= set(rows["arm"])}
    return table(asked, {arm: span(partial(over_methods, arm=arm), 2, "+") for arm in methods.PROJECTIONS})


def forgotten(record: pd.DataFrame) -> pd.DataFrame:
    """Forgetting by negation: what is left of the task, and what the base keeps, by model and arm, in points."""
    columns = {
        "model": lambda one: NAMES[key(one["rows"])],
        "arm": lambda one: ARMS.get(one["arm"], one["arm"]),
        "left of the task": span("left", 1),
        "against plain": lambda one: "" if one["arm"] == "plain" else findings.span(one["less"], 2, "+"),
        "base keeps": span("base", 1),
        "scale": median(lambda one: one["rows"]["scale"], "g"),
    }
    return listed(negated(record), columns)


def negated(record: pd.DataFrame) -> Iterator[dict]:
    """Of each model and arm of the part "negated": its rows; and in points, by run, what is left of the task, that
    less what is left in the plain arm, and what the base keeps."""
    for _, rows in names.by_model(record, part="negated"):
        by_run = 100 * rows.groupby(["arm", "seed"])[["normalized", "base"]].mean()
        left, base = by_run["normalized"], by_run["base"]
        for arm in ("plain", "amplified", "wide", "random"):
            yield {
                **{"rows": where(rows, arm=arm), "arm": arm, "left": left[arm]},
                **{"less": left[arm] - left["plain"], "base": base[arm]},
            }


def chance(record: pd.DataFrame) -> str:
    """What guessing the most frequent class scores, so that “forgotten” has a scale, in a sentence."""
    rows, words = record[(record["part"] == "tuned") & (record["model"] == "vit")], []
    for task, some in rows.groupby("task"):
        labels = problem("vit", task).task.test.labels
        words.append(f"{task} {100 * np.bincount(labels).max() / len(labels) / some['score'].mean():.0f}")
    return (
        f"Guessing the most frequent class would score, in the same points, of the lab ViT’s tasks: {', '.join(words)}."
    )


def _arms(rows: pd.DataFrame) -> dict[str, str]:
    """Those of `ARMS` that were tried on a model."""
    return {arm: name for arm, name in ARMS.items() if arm in set(rows["arm"])}


def by_method(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each method, by its name as printed."""
    found = {name: where(rows, method=method) for method, name in METHODS.items()}
    return {name: some for name, some in found.items() if len(some)}


def by_set(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each set of tasks that are merged, small sets first."""
    return sorted(rows.groupby("tasks"), key=lambda one: one[0].count("+"))
