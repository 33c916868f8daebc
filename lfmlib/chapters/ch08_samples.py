"""What chapter 8 reads off the record `finetuning` of fewer samples and of ranks, and its three sentences at the end.

Every function on a record takes rows as `lfmlib.experiments.finetuning.run` makes them, one per judged matrix.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import findings
from ..checkpoints.named import titled
from ..findings import Finding, markup
from ..lab.language import Bytes
from ..lab.problems import problem
from .ch08_depth import mean_rho
from .names import NAMES, by_model, key, where
from .sentences import MISSING, runs
from .tuned import METHODS, held_out, over, plain


def samples(record: pd.DataFrame) -> pd.DataFrame:
    """How std(ΔW) depends on the number of training samples, relative to all of them.

    Returns:
        One row per model, mode ("equal steps" or "equal passes") and share of the samples: ratio, low, high: the median
        over matrices of std(ΔW) over that of the same seed with all samples; the change of the mean ρ, likewise;
        passes over the samples; held-out score; runs.
    """
    rows = []
    for name, some in by_model(record, part="samples"):
        whole = plain(record, key(some))
        level, rho = whole.groupby("seed")["std_delta"].median(), mean_rho(whole)
        listed = []
        for (share, steps), part in some.groupby(["samples", "steps"]):
            ratios = (part.groupby("seed")["std_delta"].median() / level).dropna()
            change = mean_rho(part) - rho[ratios.index]
            mode = "equal steps" if steps == some["steps"].max() else "equal passes"
            about = (over(change, -2, 2), _passes(part.iloc[0]), held_out(part), len(ratios))
            listed.append((name, mode, share, *findings.over_runs(ratios), *about))
        about = (MISSING, _passes(whole.iloc[0]), held_out(whole), runs(whole))
        listed += [(name, mode, 1.0, 1.0, 1.0, 1.0, *about) for mode in ("equal steps", "equal passes")]
        rows += sorted(listed, key=lambda one: one[1:3])
    columns = ["model", "mode", "share", "ratio", "low", "high", "change of ρ", "passes", "held out", "runs"]
    return pd.DataFrame(rows, columns=columns)


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
        f"With a share of {least:g} of the samples, std(ΔW) changes by: {'; '.join(words)}. With all samples, a "
        f"training makes only {whole.min():.2f} to {whole.max():.2f} of one pass, and none here makes more than "
        f"{passes.max():.1f}: **nothing here shows what many passes over few samples do.**"
    )


def rank_spans(record: pd.DataFrame) -> pd.DataFrame:
    """Slope of log std(ΔW) on log rank: 0.5 for a sum of independent terms, 1 for terms that add up. Fits are to means
    over seeds.

    Returns:
        One row per model and adapter, named ``way``: ``mean`` over the matrices; low, high, their middle 80 %; ranks.
    """
    rows = []
    for (model, adapter), some in where(record, part="rank").groupby(["model", "adapter"]):
        levels = some.groupby(["role", "depth", "rank"])["std_delta"].mean().unstack().dropna(axis=1)
        if levels.shape[1] > 1:
            slopes = np.polyfit(np.log(levels.columns.to_numpy(float)), np.log(levels.to_numpy()).T, 1)[0]
            ranks = ", ".join(f"{int(rank)}" for rank in levels.columns)
            name = f"{NAMES[model]}, {METHODS[adapter]}"
            rows.append((name, slopes.mean(), *np.quantile(slopes, [0.1, 0.9]), ranks))
    return pd.DataFrame(rows, columns=["way", "mean", "low", "high", "ranks"])


def of_ranks(slopes: pd.DataFrame) -> str:
    """What the slopes of `rank_spans` say, in sentences."""
    if slopes.empty:
        return "Ranks were not compared here."
    low, high = slopes["mean"].round(2).agg(["min", "max"])
    between = low > 0 and high < 0.5
    return (
        f"The slopes are {low:.2f} to {high:.2f}: sixteen times the rank makes ΔW {16**low:.1f} to {16**high:.1f} "
        "times as wide. Independent terms would make it 4 times as wide; one answer that every rank finds, not at all. "
        f"{'It is neither: in part ranks find one answer, in part each adds its own.' if between else ''}"
    )


def _passes(row: pd.Series) -> str:
    """How often a training draws each of its samples, in the mean (bytes, where it draws windows of a text)."""
    task = problem(row["model"], row["task"])
    drawn = row["steps"] * row["batch"] * (task.length if isinstance(task, Bytes) else 1)
    return f"{drawn / (row['samples'] * len(task.train)):.2f}"


def takeaways(found: list[Finding], few: pd.DataFrame, slopes: pd.DataFrame) -> str:
    """What this run says of depth, data and rank, a sentence each, as a list.

    Args:
        found: findings F7.
        few: from `samples`.
        slopes: from `rank_spans`.
    """
    return "\n".join(f"- {one}" for one in (_of_depth(found), _of_data(few), _of_rank(slopes)))


def _of_depth(found: list[Finding]) -> str:
    judged = [one for one in found if one.value is not None]
    if not judged:
        return "**Depth.** No model here has the six layers that a trend is asked of."
    grow = [one for one in judged if one.verdict == "supported"]
    rest = [
        f"{100 * one.value:.0f} % ({markup.plain(titled(one.model))})" for one in judged if one.verdict != "supported"
    ]
    said = f"**Depth.** ΔW grows with depth, by the rule, in {len(grow)} of {len(judged)} fine-tunes"
    return f"{said}; elsewhere the share of roles that grow is {', '.join(rest)}." if rest else f"{said}."


def _of_data(few: pd.DataFrame) -> str:
    if few.empty:
        return "**Data.** Fewer samples were not trained on in this run."
    share = few["share"].min()
    least = few[few["share"] == share].groupby("mode")["ratio"].agg(["min", "max"])
    spans = [f"{_span(row)} times as wide at {mode}" for mode, row in least.iterrows()]
    return f"**Data.** With a share of {share:g} of the samples ΔW is {', and '.join(spans)}."


def _of_rank(slopes: pd.DataFrame) -> str:
    if slopes.empty:
        return "**Rank.** Ranks were not compared in this run."
    low, high = slopes["mean"].round(2).agg(["min", "max"])
    beside = "more slowly than" if high < 0.5 else "faster than" if low > 0.5 else "about as"
    span = _span(pd.Series({"min": low, "max": high}))
    return f"**Rank.** ΔW widens as the rank to the power {span}: {beside} a sum of independent terms, which has 0.5."


def _span(ends: pd.Series) -> str:
    """Both ends in words, or one where they read alike."""
    return markup.ends(*(f"{ends[name]:.2f}" for name in ("min", "max")))
