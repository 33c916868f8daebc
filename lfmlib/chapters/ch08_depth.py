"""What chapter 8 reads off the record `finetuning`: how std(ΔW) runs over depth, and what bends it: samples and rank.

Every function takes rows of the record (see `lfmlib.experiments.finetuning.run`), one per judged matrix.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from .. import findings
from ..checkpoints.roles import in_order
from ..deltas.trends import depth_trend
from ..experiments.finetuning import DECAY
from ..findings import Finding
from ..lab.language import Bytes
from ..lab.problems import problem
from .names import SHORT, by_model, key, where
from .sentences import MISSING, runs, table, word
from .tuned import METHODS, by_cause, by_way, held_out, over, plain, shuffled, ways

MIN_RUNS = 3
"""Runs that a way of training needs for its roles to be judged: with fewer, intervals are too wide for any to grow."""


def trend_grid(record: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """`lfmlib.findings.trends` of every model, fully fine-tuned and with LoRA 16, for a map of roles by models.

    Returns:
        ρ; in words, with its interval over seeds, cut at -1 and 1; and whether the role grows by the rule, which goes
        by `lfmlib.findings.slopes` and asks for six layers.
    """
    rho, words, grows = {}, {}, {}
    for name, way, rows in by_way(record):
        if way not in ("full", "LoRA 16") or not len(found := findings.trends(rows)):
            continue
        key = f"{name}, {way}"
        rho[key], grows[key] = found["rho"], findings.slopes(rows)["grows"]
        limits = found[["low", "high"]].clip(-1, 1)
        words[key] = {
            role: f"{found.loc[role, 'rho']:.2f}\n{low:.2f}, {high:.2f}" for role, (low, high) in limits.T.items()
        }
    roles = in_order(role for one in rho.values() for role in one.index)
    frames = (pd.DataFrame(one, roles) for one in (rho, words, grows))
    rho, words, grows = frames
    return rho, words.fillna(""), grows.fillna(False).astype(bool)


def _of_roles(grows: pd.Series) -> str:
    return f"{grows.sum()} of {len(grows)}" if len(grows) else MISSING


def by_method(record: pd.DataFrame) -> pd.DataFrame:
    """For every model and method: mean ρ over its roles [interval over seeds], without the first and the last layer;
    roles that grow by the rule, of `MIN_RUNS` runs or more and six layers; roles whose averaged profile has a corrected
    p of at most 0.05; std(ΔW) of the last layer over that of the first; runs."""

    def told(rows: pd.DataFrame) -> dict:
        if not len(trends := findings.trends(rows)):
            return {}
        slopes, low = findings.slopes(rows), (trends["p_holm"] <= 0.05).sum()
        return {
            "mean ρ": over(mean_rho(rows), -1, 1),
            "interior ρ": word(trends["rho_interior"].mean(), ".2f"),
            "roles that grow": _of_roles(slopes["grows"]) if runs(rows) >= MIN_RUNS else MISSING,
            "p ≤ 0.05": f"{low} of {len(trends)}",
            "last / first": f"{_ends(rows):.2f}",
            "runs": runs(rows),
        }

    return table(((f"{name}, {way}", rows) for name, way, rows in by_way(record, ways)), told)


def mean_rho(rows: pd.DataFrame) -> pd.Series:
    """Spearman's correlation of depth and std(ΔW), averaged over roles, of every seed."""
    return pd.Series({seed: depth_trend(run, resamples=0)["rho"].mean() for seed, run in rows.groupby("seed")})


def causes(record: pd.DataFrame) -> pd.DataFrame:
    """What each changed setting of the 12-layer decoder does to the trend, against the same seeds unchanged; other
    optimizers, which have no weight decay, against those without. The correlation with the gradient before the first
    step is that of the profiles, in brackets from layer 1 on."""
    own = by_cause(record)

    def told(rows: pd.DataFrame) -> dict:
        base = _unchanged(own, rows)
        rho, before = mean_rho(rows), mean_rho(base)
        both = rho.index.intersection(before.index)
        gradient, later = follows_gradient(rows), follows_gradient(rows, first=1)
        return {
            "mean ρ": over(rho[both], -1, 1),
            "change of ρ": MISSING if rows is base else over(rho[both] - before[both], -2, 2),
            "layers 1 on": f"{mean_rho(rows[rows['depth'] > 0]).mean():.2f}",
            "with gradient": MISSING if np.isnan(gradient + later) else f"{gradient:.2f} ({later:.2f})",
            "runs": len(both),
        }

    return table(own, told)


def moving(record: pd.DataFrame) -> str:
    """The changed settings whose change of the trend has an interval that leaves 0 out, in a sentence."""
    own, found, asked = by_cause(record), [], 0
    for cause, rows in own.items():
        if rows is (base := _unchanged(own, rows)):
            continue
        change = (mean_rho(rows) - mean_rho(base)).dropna()
        asked += len(change) > 1  # one run has no interval
        _, low, high = findings.over_runs(change)
        if low > 0 or high < 0:
            found.append(f"{cause} ({change.mean():+.2f})")
    return (
        f"Intervals that leave 0 out: **{', '.join(found) or 'none'}**, of {asked} comparisons, not corrected for "
        f"their number: by chance, some {0.05 * asked:.1f} of so many would."
    )


def follows_gradient(rows: pd.DataFrame, column: str = "gradient", first: int = 0) -> float:
    """Spearman's correlation over depth of std(ΔW) and a figure of the gradient at the base: mean over roles and seeds.

    Args:
        rows: of the record.
        column: "gradient", its size, or "agreement", how alike it is from batch to batch.
        first: layer to begin with.
    """
    known = rows[rows["depth"] >= first].dropna(subset=[column]) if column in rows else rows.iloc[:0]
    each = [
        stats.spearmanr(role[column], role["std_delta"])[0]
        for _, role in known.groupby(["seed", "role"])
        if role["depth"].nunique() > 3
    ]
    return float(np.nanmean(each)) if each else np.nan


def of_gradients(record: pd.DataFrame) -> str:
    """What the profiles of gradient and ΔW have in common, under each optimizer, and what layer 0 does."""
    shown = optimizers(record)
    if "SGD" not in shown or "AdamW" not in shown:
        return "The optimizers were not compared here."
    words = [
        f"{name} {_averaged(rows):.2f} ({_averaged(rows[rows['depth'] > 0]):.2f} without layer 0)"
        for name, rows in shown.items()
    ]
    sgd, adam = shown["SGD"], shown["AdamW"]
    falls = []
    for first in (0, 1):
        rho, before = (mean_rho(rows[rows["depth"] >= first]) for rows in (sgd, adam))
        falls.append((rho.mean(), before[rho.index].mean()))
    (rho, before), (rho1, before1) = falls
    return (
        f"Correlation of the two lines of each panel: {'; '.join(words)}. SGD’s mean ρ is {rho:.2f} against AdamW’s "
        f"{before:.2f} with the same seeds; without layer 0, where the gradient is largest, {rho1:.2f} against "
        f"{before1:.2f}: {1 - (before1 - rho1) / (before - rho):.0%} of the fall is that layer’s. **AdamW’s profile is "
        f"not flat**: the last layer has {_ends(adam):.2f} times the first. By role, it correlates with the size of "
        f"the gradient by {follows_gradient(adam):.2f} ({follows_gradient(adam, first=1):.2f} without layer 0), which "
        f"by Adam’s rule would be no cause anyway, and with its agreement from batch to batch by "
        f"{follows_gradient(adam, 'agreement'):.2f}. **The cause of the rise was not found.**"
    )


def _averaged(rows: pd.DataFrame) -> float:
    """Spearman's correlation over depth of std(ΔW) and gradient, each averaged over roles and seeds."""
    both = ["std_delta", "gradient"]
    profile = (rows[both] / rows.groupby(["seed", "role"])[both].transform("mean")).groupby(rows["depth"]).mean()
    return float(stats.spearmanr(profile["std_delta"], profile["gradient"])[0])


def together(record: pd.DataFrame) -> pd.DataFrame:
    """How alike the profiles of different roles are: mean correlation between two roles, over the layers, of each model
    that was fully fine-tuned."""
    rows = []
    for name, some in by_model(record, part="plain", weight_decay=DECAY):
        levels = some.groupby(["depth", "role"])["std_delta"].mean().unstack()
        between = levels.corr().to_numpy()
        rows.append((name, len(levels), f"{between[np.triu_indices(len(between), 1)].mean():.2f}"))
    return pd.DataFrame(rows, columns=["model", "layers", "correlation"])


def without_learning(record: pd.DataFrame) -> str:
    """The mean ρ where there was nothing to learn, beside that where there was, in a sentence."""
    found = {SHORT[model]: (plain(record, model), shuffled(record, model)) for model in ("minilm", "vit")}
    own = by_cause(record)
    if "own labels" in own:
        found[f"{SHORT['deep-decoder']}, own labels"] = (own["unchanged"], own["own labels"])
    words = [
        f"{name} **{over(mean_rho(without), -1, 1)}** (with: {over(mean_rho(real), -1, 1)})"
        for name, (real, without) in found.items()
        if len(real) and len(without)
    ]
    return f"Mean ρ with nothing to learn: {'; '.join(words)}."


def towers(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The judged matrices of one pair, by tower where it has several."""
    rows = findings.shown(table)
    rows = rows[rows["control"] == "none"]
    names = rows["tower"].fillna("")
    return {tower or "this pair": rows[names == tower] for tower in dict.fromkeys(names)}


def course(rows: pd.DataFrame) -> pd.DataFrame:
    """How each role's profile over depth runs, in the mean over seeds: what a look at the curves would say. The peak is
    the layer with the largest std(ΔW); changes are in per cent of the mean."""

    def told(some: pd.DataFrame) -> dict:
        profile = some.groupby("depth")["std_delta"].mean()
        if len(profile) < 4:
            return {}
        step = 100 * profile.diff() / profile.mean()
        return {
            "peak": f"layer {int(profile.idxmax())} of {int(profile.index.max())}",
            "layer 0 to 1": f"{step.iloc[1]:+.0f}\u00a0%",
            "into the last": f"{step.iloc[-1]:+.0f}\u00a0%",
        }

    return table(findings.by_role(rows), told)


def of_course(table: pd.DataFrame, way: str) -> str:
    """How far `course` looks like the authors' figure, where V, Up and Down fall at the end and Q, K and Up start high,
    in a sentence."""
    if table.empty:
        return f"{way}: too few layers."
    down = {name: table[name].str.startswith("-") for name in ("layer 0 to 1", "into the last")}
    said = []
    for roles, name in ((("v", "up", "down"), "into the last"), (("q", "k", "up"), "layer 0 to 1")):
        here = [role.capitalize() for role in roles if role in table.index and down[name][role]]
        words = ", ".join(role.capitalize() for role in roles)
        place = "into the last layer" if name == "into the last" else "from layer 0 to 1"
        said.append(f"of {words}, {', '.join(here) or 'none'} fall {place}")
    others = [role.capitalize() for role in table.index[down["into the last"]] if role not in ("v", "up", "down")]
    return f"{way}: {'; '.join(said)}. Others that fall into the last layer: {', '.join(others) or 'none'}."


def answers(found: list[Finding], few: pd.DataFrame, slopes: pd.DataFrame) -> str:
    """The three answers to the chapter's title, as a list; from its findings, `samples` and `rank_slopes`."""
    verdicts: dict[str, list[str]] = {}
    for one in found:
        verdicts.setdefault("not judged" if one.value is None else one.verdict, []).append(one.model)
    words = ["; ".join(f"**{verdict}** for {' and '.join(names)}" for verdict, names in verdicts.items())]
    words[0] = f"Depth: {words[0]}."
    if len(few):
        least = few[few["share"] == few["share"].min()].groupby("mode")["ratio"].agg(["min", "max"])
        spans = [f"{row['min']:.2f} to {row['max']:.2f} times as wide at {mode}" for mode, row in least.iterrows()]
        words.append(f"Data: with {few['share'].min():g} of the samples, ΔW is {', '.join(spans)}.")
    if len(slopes):
        values = slopes["slope"].astype(float)
        words.append(f"Rank: ΔW widens as the rank’s power {values.min():.2f} to {values.max():.2f}.")
    return "\n".join(f"- {one}" for one in words)


def optimizers(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the decoder's full fine-tunings by optimizer."""
    own = by_cause(record)
    names = {"AdamW": "no decay", "Adagrad": "Adagrad", "SGD": "SGD"}
    return {name: own[cause] for name, cause in names.items() if cause in own}


def _unchanged(own: dict[str, pd.DataFrame], rows: pd.DataFrame) -> pd.DataFrame:
    """What a changed setting is compared with."""
    optimizer = rows["optimizer"].dropna() if "optimizer" in rows else []
    return own["no decay" if len(optimizer) and (optimizer != "").any() else "unchanged"]


def _ends(rows: pd.DataFrame) -> float:
    """std(ΔW) of the last layer over that of the first, geometric mean over roles."""
    profile = rows.groupby(["role", "depth"])["std_delta"].mean().unstack()
    return float(np.exp(np.log(profile.iloc[:, -1] / profile.iloc[:, 0]).mean()))


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
        f"With a share of {least:g} of the samples, std(ΔW) changes by: {'; '.join(words)}. All of the samples are "
        f"only {whole.min():.2f} to {whole.max():.2f} of one pass, and no training here makes more than "
        f"{passes.max():.1f}: **nothing here shows what many passes over few samples do.**"
    )


def rank_slopes(record: pd.DataFrame) -> pd.DataFrame:
    """Slope of log std(ΔW) on log rank: 0.5 for a sum of independent terms, 1 for terms that add up. Fits are to means
    over seeds; their mean over the matrices stands beside the middle 80 %."""

    def told(rows: pd.DataFrame) -> dict:
        levels = rows.groupby(["role", "depth", "rank"])["std_delta"].mean().unstack().dropna(axis=1)
        if levels.shape[1] < 2:
            return {}
        slopes = np.polyfit(np.log(levels.columns.to_numpy(float)), np.log(levels.to_numpy()).T, 1)[0]
        low, high = np.quantile(slopes, [0.1, 0.9])
        return {
            "ranks": ", ".join(f"{int(rank)}" for rank in levels.columns),
            "slope": f"{slopes.mean():.2f}",
            "middle 80 %": f"{low:.2f} to {high:.2f}",
        }

    ranked = where(record, part="rank").groupby(["model", "adapter"])
    return table(((f"{SHORT[model]}, {METHODS[adapter]}", rows) for (model, adapter), rows in ranked), told)


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
