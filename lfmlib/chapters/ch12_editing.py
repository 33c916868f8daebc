"""What chapter 12 reads off its record, `editing`: what merges keep, and what amplifying outliers changes.

Every function takes rows of the record (see `lfmlib.experiments.editing.run`). Scores are test scores, normalized by
those of the fine-tunes alone, in points; brackets are 95 % intervals over runs, a run being all that was tuned with one
seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from .. import findings
from ..experiments.editing import SCALES
from ..findings import METHOD_NAMES as METHODS
from ..findings import Finding, span
from ..lab.problems import problem
from ..merging import methods
from ..provenance import recorded
from .ch10_optimal import NAMES, SHORT

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
HURTS = 1.0
"""Points from which a change of one task’s score is called one."""
ASKED = {
    "decoder": {"headers": "next byte of C++ headers", "prose": "next byte of docstrings"},
    "minilm": {"kind": "function, class or method?", "library": "which library?"},
}


def found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F14 of every model; ``parameters`` of the chapter go into its provenance."""
    origin = recorded("editing", record, **parameters)
    by_model = _by_model(record)
    return [findings.f14_over_runs(rows, NAMES[model], origin | {"source": NAMES[model]}) for model, rows in by_model]


def by_model(record: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every model’s merges, with its name as printed."""
    for model, rows in _by_model(record):
        yield SHORT[model], rows


def tuned(record: pd.DataFrame) -> pd.DataFrame:
    """The fine-tunes: what they are asked, their test scores, and the sizes of their ΔW."""
    rows = record[record["part"] == "tuned"]
    table = []
    for model in _models(rows):
        for task, some in rows[rows["model"] == model].groupby("task"):
            table.append({
                "model": SHORT[model],
                "task": ASKED.get(model, {}).get(task, task),
                "score": span(some["score"], 3),
                "of the base": f"{some['base'].mean():.3f}",
                "size of ΔW": f"{100 * some['norm'].mean():.1f} %",
            })  # fmt: skip
    return pd.DataFrame(table)


def sets(record: pd.DataFrame) -> pd.DataFrame:
    """What is merged: how alike the ΔW are, how much an average keeps, and how many outliers it has."""
    table = []
    for model, rows in _by_model(record):
        for tasks, some in sorted(rows.groupby("tasks"), key=lambda one: one[0].count("+")):
            plain = some[(some["method"] == "average") & (some["arm"] == "plain")]
            best = some[some["arm"] == "plain"].groupby("method")["valid"].mean().idxmax()
            table.append({
                "model": SHORT[model],
                "tasks": tasks.replace("+", ", "),
                "cosine of two ΔW": f"{plain['alike'].mean():+.3f}",
                "average keeps": f"{100 * findings.kept_score(some, 'average', 'plain').mean():.1f}",
                "best on validation data": f"{METHODS[best]} "
                f"{100 * findings.kept_score(some, best, 'plain').mean():.1f}",
            })  # fmt: skip
    return pd.DataFrame(table)


def kept(rows: pd.DataFrame) -> pd.DataFrame:
    """What each method keeps of one model's fine-tunes, plain, and what each arm adds to that."""
    table = {}
    for method in _methods(rows):
        plain = 100 * findings.kept_score(rows, method, "plain")
        outliers = rows.loc[(rows["method"] == method) & (rows["arm"] == "plain"), ["outliers", "energy"]].mean()
        about = {
            "outliers": f"{100 * outliers['outliers']:.2f} %",
            "of the norm²": f"{100 * outliers['energy']:.1f} %",
            "plain keeps": span(plain, 1),
        }
        table[METHODS[method]] = about | {
            name: span(100 * findings.improvement(rows, method, arm), 2, sign="+") for arm, name in _arms(rows).items()
        }
    return pd.DataFrame.from_dict(table, orient="index")


def by_number(record: pd.DataFrame) -> pd.DataFrame:
    """What the ViT keeps by the number of tasks that are merged: plain, and what amplifying adds."""
    table, rows = {}, dict(_by_model(record))["vit"]
    for method in _methods(rows):
        table[METHODS[method]] = {}
        for tasks, some in sorted(rows.groupby("tasks"), key=lambda one: one[0].count("+")):
            plain = 100 * findings.kept_score(some, method, "plain").mean()
            gain = span(100 * findings.improvement(some, method), 1, sign="+")
            table[METHODS[method]][f"{tasks.count('+') + 1} tasks"] = f"{plain:.1f}, {gain}"
    return pd.DataFrame.from_dict(table, orient="index")


def gains(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For the figure: model → rows with method, arm, and the paired difference: mean, low, high."""
    table = {}
    for model, rows in _by_model(record):
        table[SHORT[model]] = pd.DataFrame([
            dict(zip(("method", "arm", "mean", "low", "high"),
                     (METHODS[method], name, *findings.over_runs(100 * findings.improvement(rows, method, arm))),
                     strict=True))
            for method in _methods(rows) for arm, name in _arms(rows).items()
        ])  # fmt: skip
    return table


def tested(record: pd.DataFrame) -> str:
    """p-values of the paired differences, corrected for the number of methods, in a sentence."""
    words = []
    for model, rows in _by_model(record):
        by_method = {METHODS[method]: 100 * findings.improvement(rows, method) for method in _methods(rows)}
        corrected = findings.holm(pd.Series({name: findings.paired_p(gain) for name, gain in by_method.items()}))
        if corrected.isna().all():
            words.append(f"{SHORT[model]} not tested: one run, or runs without a score")
            continue
        best = corrected.idxmin()
        words.append(f"{SHORT[model]} {corrected[best]:.2g} ({best}, {by_method[best].mean():+.2f} points)")
    return f"Smallest p-value of a paired t-test, corrected for the number of methods (Holm): {'; '.join(words)}."


def against_controls(record: pd.DataFrame) -> str:
    """In how many methods amplified outliers do better than each control, beyond the interval, in a sentence."""
    words = []
    for model, rows in _by_model(record):
        better = []
        for arm in ("random", "as large as amplified"):
            lows = [findings.over_runs(findings.improvement(rows, one, "amplified", arm))[1] for one in _methods(rows)]
            highs = [findings.over_runs(findings.improvement(rows, one, "amplified", arm))[2] for one in _methods(rows)]
            more, less = sum(low > 0 for low in lows), sum(high < 0 for high in highs)
            better.append(f"{more} better and {less} worse than {CONTROLS[arm]}")
        words.append(f"{SHORT[model]} {', '.join(better)}")
    return f"Amplified outliers against controls, methods beyond the interval, of {len(METHODS)}: {'; '.join(words)}."


def chosen(record: pd.DataFrame) -> pd.DataFrame:
    """How often each factor was chosen on validation data, by model and arm, and the median data-free factor; merges
    without outliers left out, where any factor gives the same."""
    table = {}
    for model, rows in _by_model(record):
        found = rows.groupby(["seed", "tasks", "method"])["outliers"].transform("max")
        about = rows[found > 0].dropna(subset=["scale"])
        table[SHORT[model]] = {}
        for arm in ("amplified", "wide", "random"):
            if arm not in _arms(rows):
                continue
            counts = about.loc[about["arm"] == arm, "factor"].value_counts(normalize=True).sort_index()
            words = ", ".join(f"{factor:g}: {share:.0%}" for factor, share in counts.items())
            table[SHORT[model]][ARMS[arm]] = words
        free = about.loc[about["arm"] == "auto", "factor"]
        table[SHORT[model]][ARMS["auto"]] = f"{free.median():.2f} ({free.min():.2f} to {free.max():.2f})"
    return pd.DataFrame.from_dict(table, orient="index").fillna("–")


def ends(record: pd.DataFrame) -> str:
    """How often the scale that won is the smallest or the largest on offer, in a sentence."""
    words = []
    for model, rows in _by_model(record):
        grid = SCALES[model]
        some = rows[(rows["method"] != "average") & rows["arm"].isin(["plain", "amplified"])].dropna(subset=["scale"])
        low, high = (float((some["scale"] == end).mean()) for end in (grid[0], grid[-1]))
        words.append(f"{SHORT[model]} {low:.0%} at {grid[0]:g}, {high:.0%} at {grid[-1]:g}")
    return f"A choice at an end of the grid might lie beyond it. Choices that do: {'; '.join(words)}."


def scales(record: pd.DataFrame) -> pd.DataFrame:
    """The median scale of ΔW that was chosen, by method, with outliers amplified and without."""
    table = {}
    for model, rows in _by_model(record):
        about = rows.dropna(subset=["scale"]).groupby(["method", "arm"])["scale"].median()
        for method in _methods(rows):
            words = f"{about[method, 'plain']:g}, {about[method, 'amplified']:g}"
            table.setdefault(METHODS[method], {})[SHORT[model]] = words
    return pd.DataFrame.from_dict(table, orient="index")


def hurts(record: pd.DataFrame) -> str:
    """Where amplifying hurts, and where it helps, task by task, in sentences."""
    words = []
    for model, rows in _by_model(record):
        pairs = rows[rows["arm"].isin(["plain", "amplified"])].pivot_table(
            index=["seed", "tasks", "method", "task"], columns="arm", values="normalized"
        )
        change = 100 * (pairs["amplified"] - pairs["plain"])
        mean = change.groupby(["method", "task"]).mean()
        (low, low_task), (high, high_task) = mean.idxmin(), mean.idxmax()
        words.append(
            f"{SHORT[model]}: better by more than {HURTS:g} point in {(change > HURTS).mean():.0%} of {len(change)} "
            f"scores, worse by more in {(change < -HURTS).mean():.0%}; by task, from {mean.min():+.1f} ({low_task}, "
            f"{METHODS[low]}) to {mean.max():+.1f} ({high_task}, {METHODS[high]}) in the mean"
        )
    return "; ".join(words) + "."


def projected(record: pd.DataFrame) -> pd.DataFrame:
    """What is added by making the merged matrices zero-mean, or symmetric, in the mean of the methods."""
    table = {}
    for model, rows in _by_model(record):
        if not set(methods.PROJECTIONS) <= set(rows["arm"]):
            continue
        table[SHORT[model]] = {}
        for arm in methods.PROJECTIONS:
            by_method = pd.DataFrame({m: 100 * findings.improvement(rows, m, arm) for m in _methods(rows)})
            table[SHORT[model]][arm] = span(by_method.mean(axis=1), 2, sign="+")
    return pd.DataFrame.from_dict(table, orient="index")


def forgotten(record: pd.DataFrame) -> pd.DataFrame:
    """Forgetting by negation: what is left of the task, and what the base keeps, by model and arm, in points."""
    rows, table = record[record["part"] == "negated"], []
    for model in _models(rows):
        some = rows[rows["model"] == model]
        by_run = some.groupby(["arm", "seed"])[["normalized", "base"]].mean()
        for arm in ("plain", "amplified", "wide", "random"):
            one = 100 * by_run.loc[arm]
            less = 100 * (by_run.loc[arm, "normalized"] - by_run.loc["plain", "normalized"])
            table.append({
                "model": SHORT[model],
                "arm": ARMS.get(arm, arm),
                "left of the task": span(one["normalized"], 1),
                "against plain": "" if arm == "plain" else span(less, 2, sign="+"),
                "base keeps": span(one["base"], 1),
                "scale": f"{some.loc[some['arm'] == arm, 'scale'].median():g}",
            })  # fmt: skip
    return pd.DataFrame(table)


def chance(record: pd.DataFrame) -> str:
    """What guessing the most frequent class scores, so that “forgotten” has a scale, in a sentence."""
    rows, words = record[(record["part"] == "tuned") & (record["model"] == "vit")], []
    for task, some in rows.groupby("task"):
        labels = problem("vit", task).task.test.labels
        words.append(f"{task} {100 * np.bincount(labels).max() / len(labels) / some['score'].mean():.0f}")
    return f"Guessing the most frequent class would score, in the same points, of the ViT’s tasks: {', '.join(words)}."


def _models(rows: pd.DataFrame) -> list[str]:
    return [model for model in NAMES if model in set(rows["model"])]


def _arms(rows: pd.DataFrame) -> dict[str, str]:
    return {arm: name for arm, name in ARMS.items() if arm in set(rows["arm"])}


def _methods(rows: pd.DataFrame) -> list[str]:
    return [method for method in METHODS if method in set(rows["method"])]


def _by_model(record: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    rows = record[record["part"] == "merged"]
    for model in _models(rows):
        yield model, rows[rows["model"] == model]
