"""What chapter 8 reads off the record `finetuning` besides depth: how std(ΔW) depends on samples and rank.

Every function takes rows of the record (see `lfmlib.experiments.finetuning.run`), one per judged matrix.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import findings
from ..experiments.finetuning import TASKS
from ..lab.problems import Bytes, problem
from .ch02_start import where
from .ch08_depth import mean_rho
from .names import MEASURED, METHODS, SHORT, over, plain


def samples(record: pd.DataFrame) -> pd.DataFrame:
    """How std(ΔW) depends on the number of training samples, relative to all of them.

    Returns:
        One row per model, mode ("equal steps" or "equal passes") and share of the samples: ratio, low, high: the median
        over matrices of std(ΔW) over that of the same seed with all samples; the change of the mean ρ, likewise;
        passes over the samples; held-out score; runs.
    """
    rows = []
    for model, name in SHORT.items():
        some, whole = where(record, part="samples", model=model), plain(record, model)
        every = TASKS[model]["steps"] if len(some) == 0 else some["steps"].max()
        for (share, steps), part in some.groupby(["samples", "steps"]):
            seeds = sorted(part["seed"].unique())
            ratios = [_level(where(part, seed=seed)) / _level(where(whole, seed=seed)) for seed in seeds]
            change = mean_rho(part) - mean_rho(whole)[seeds]
            mean, low, high = findings.over_runs(ratios)
            mode = "equal steps" if steps == every else "equal passes"
            score = f"{MEASURED[model]} {part['score'].mean():.2f}"
            about = (over(change, -2, 2), _passes(part.iloc[0]), score, len(seeds))
            rows.append((name, mode, share, mean, low, high, *about))
        if len(some):
            score = f"{MEASURED[model]} {whole['score'].mean():.2f}"
            about = ("–", _passes(whole.iloc[0]), score, whole["seed"].nunique())
            rows += [(name, mode, 1.0, 1.0, 1.0, 1.0, *about) for mode in ("equal steps", "equal passes")]
    columns = ["model", "mode", "share", "ratio", "low", "high", "change of ρ", "passes", "held out", "runs"]
    return pd.DataFrame(rows, columns=columns).sort_values(["model", "mode", "share"], ignore_index=True)


def in_words(few: pd.DataFrame) -> pd.DataFrame:
    """`samples`, with the ratio and its interval in one column."""
    spans = [findings.bracketed(row.ratio, row.low, row.high, 2) for row in few.itertuples()]
    words = few.drop(columns=["ratio", "low", "high", "runs"]).assign(share=few["share"].map("{:g}".format))
    words["mode"] = few["mode"].str.removeprefix("equal ")
    words = words.rename(columns={"mode": "equal"})
    words.insert(3, "std(ΔW) / all", spans)
    return words.drop(words.index[(few["share"] == 1) & (few["mode"] == "equal passes")])  # the same runs


def of_samples(few: pd.DataFrame) -> str:
    """What `samples` says of the smallest share, in a sentence."""
    if few.empty:
        return "Fewer samples were not trained on here."
    least = few["share"].min()
    words = []
    for (model, mode), rows in few[few["share"] == least].groupby(["model", "mode"], sort=False):
        row = rows.iloc[0]
        change = (100 * (row[name] - 1) for name in ("ratio", "low", "high"))
        words.append(f"{model}, {mode}, {findings.bracketed(*change, 0, '+', ' %')}")
    passes = few["passes"].astype(float)
    whole = passes[(few["share"] == 1)]
    return (
        f"With a share of {least:g} of the samples, std(ΔW) changes by: {'; '.join(words)}. All of the samples are "
        f"only {whole.min():.2f} to {whole.max():.2f} of one pass, and no training here makes more than "
        f"{passes.max():.1f}: **nothing here shows what many passes over few samples do.**"
    )


def rank_slopes(record: pd.DataFrame) -> pd.DataFrame:
    """Slope of log std(ΔW) on log rank: 0.5 for a sum of independent terms, 1 for terms that add up.

    Returns:
        Index: model and adapter. Columns, in words: ranks; slope, mean over matrices of the fit to the means over
        seeds, and the middle 80 % of the matrices.
    """
    found = {}
    ranked = where(record, part="rank")
    for (model, adapter), rows in ranked.groupby(["model", "adapter"]):
        levels = rows.groupby(["role", "depth", "rank"])["std_delta"].mean().unstack()
        levels = levels.dropna(axis=1)
        if levels.shape[1] > 1:
            slopes = np.polyfit(np.log(levels.columns.to_numpy(float)), np.log(levels.to_numpy()).T, 1)[0]
            low, high = np.quantile(slopes, [0.1, 0.9])
            ranks = ", ".join(f"{int(rank)}" for rank in levels.columns)
            words = {"ranks": ranks, "slope": f"{slopes.mean():.2f}", "middle 80 %": f"{low:.2f} to {high:.2f}"}
            found[f"{SHORT[model]}, {METHODS[adapter]}"] = words
    return pd.DataFrame.from_dict(found, orient="index")


def of_ranks(record: pd.DataFrame) -> str:
    """What the slopes say, in a sentence."""
    table = rank_slopes(record)
    if table.empty:
        return "Ranks were not compared here."
    slopes = table["slope"].astype(float)
    low, high = slopes.min(), slopes.max()
    between = low > 0 and high < 0.5
    return (
        f"The slopes are {low:.2f} to {high:.2f}: sixteen times the rank makes ΔW {16**low:.1f} to {16**high:.1f} "
        "times as wide, where independent terms would make it 4 times as wide, and one answer that every rank finds, "
        f"not at all. {'It is neither: in part ranks find one answer, in part each adds its own.' if between else ''}"
    )


def _passes(row: pd.Series) -> str:
    """How often a training draws each of its samples, in the mean (bytes, where it draws windows of a text)."""
    task = problem(row["model"], row["task"])
    drawn = row["steps"] * row["batch"] * (task.length if isinstance(task, Bytes) else 1)
    return f"{drawn / (row['samples'] * len(task.train)):.2f}"


def _level(rows: pd.DataFrame) -> float:
    return float(rows["std_delta"].median())
