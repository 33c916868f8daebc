"""What chapter 8 reads off the record `finetuning`: how std(ΔW) runs over depth, rank and samples, and what bends it.

Every function takes rows of the record (see `lfmlib.lab.finetuning.run`), one per judged matrix.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from .. import evidence
from ..delta import depth_trend
from .finetuning import TASKS
from .initialization import where
from .problems import Bytes, problem
from .tuned import METHODS, SHORT, by_cause, methods, over, plain, shuffled

__all__ = [
    "by_method",
    "causes",
    "course",
    "follows_gradient",
    "in_words",
    "methods",
    "moving",
    "optimizers",
    "rank_slopes",
    "samples",
    "together",
    "towers",
    "trend_table",
    "without_learning",
]


def trend_table(record: pd.DataFrame, model: str, way: str = "full") -> pd.DataFrame:
    """`lfmlib.evidence.trends` in words."""
    found = evidence.trends(methods(record, model)[way])
    table = {
        role: {
            "ρ": f"{row['rho']:.3f} [{max(row['low'], -1):.2f}, {min(row['high'], 1):.2f}]",
            "interior ρ": float(row["rho_interior"]),
            "p": f"{row['p']:.2g}",
            "p, Holm": f"{row['p_holm']:.2g}",
            "grows": bool(row["grows"]),
        }
        for role, row in found.iterrows()
    }
    return pd.DataFrame.from_dict(table, orient="index")


def by_method(record: pd.DataFrame) -> pd.DataFrame:
    """For every model and method: mean ρ over its roles [interval over seeds], roles that grow, and std(ΔW) itself."""
    found = {}
    for model, name in SHORT.items():
        ways = methods(record, model) | {"full, no decay": where(record, part="plain", model=model, weight_decay=0.0)}
        for way, rows in (ways | {"shuffled labels": shuffled(record, model)}).items():
            if not len(rows) or not len(trends := evidence.trends(rows)):
                continue
            found[f"{name}, {way}"] = {
                "mean ρ": over(mean_rho(rows), -1, 1),
                "roles that grow": f"{int(trends['grows'].sum())} of {len(trends)}",
                "runs": rows["seed"].nunique(),
                "last / first layer": f"{_ends(rows):.2f}",
                "median std(ΔW)": f"{rows['std_delta'].median():.2g}",
            }
    return pd.DataFrame.from_dict(found, orient="index")


def mean_rho(rows: pd.DataFrame) -> pd.Series:
    """Spearman's correlation of depth and std(ΔW), averaged over roles, of every seed."""
    return pd.Series({seed: depth_trend(run, resamples=0)["rho"].mean() for seed, run in rows.groupby("seed")})


def causes(record: pd.DataFrame) -> pd.DataFrame:
    """What each changed setting of the decoder does to the trend, against the same seeds unchanged; other optimizers,
    which have no weight decay, against those without.

    Returns:
        Index: setting. Columns, in words, with 95 % intervals over seeds: mean ρ over roles; its change, seed by seed;
        the factor on the median std(ΔW); ρ of the profile with that of the gradient before the first step; held-out
        loss.
    """
    own = by_cause(record)
    found = {}
    for cause, rows in own.items():
        base = _unchanged(own, rows)
        rho, before = mean_rho(rows), mean_rho(base)
        both = rho.index.intersection(before.index)
        found[cause] = {
            "mean ρ": over(rho[both], -1, 1),
            "change of ρ": "–" if rows is base else over(rho[both] - before[both], -2, 2),
            "std(ΔW) ×": f"{rows['std_delta'].median() / base['std_delta'].median():.2f}",
            "with gradient": f"{follows_gradient(rows):.2f}".replace("nan", "–"),
            "held-out loss": f"{rows['score'].mean():.2f}",
        }
    return pd.DataFrame.from_dict(found, orient="index")


def moving(record: pd.DataFrame) -> list[str]:
    """The changed settings whose change of the trend has an interval that leaves 0 out."""
    own, found = by_cause(record), []
    for cause, rows in own.items():
        change = (mean_rho(rows) - mean_rho(_unchanged(own, rows))).dropna()
        _, low, high = evidence.over_runs(change)
        if low > 0 or high < 0:
            found.append(f"{cause} ({change.mean():+.2f})")
    return found


def follows_gradient(rows: pd.DataFrame) -> float:
    """Spearman's correlation over depth of std(ΔW) and the gradient at the base: mean over roles and seeds."""
    known = rows.dropna(subset=["gradient"])
    each = [
        stats.spearmanr(role["gradient"], role["std_delta"])[0]
        for _, role in known.groupby(["seed", "role"])
        if role["depth"].nunique() > 3
    ]
    return float(np.nanmean(each)) if each else np.nan


def samples(record: pd.DataFrame) -> pd.DataFrame:
    """How std(ΔW) depends on the number of training samples, relative to all of them.

    Returns:
        One row per model, mode ("equal steps" or "equal passes") and share of the samples: ratio, low, high: the median
        over matrices of std(ΔW) over that of the same seed with all samples; the change of the mean ρ, likewise;
        passes over the samples; held-out score.
    """
    rows = []
    for model, name in SHORT.items():
        some, whole = where(record, part="samples", model=model), plain(record, model)
        every = TASKS[model]["steps"] if len(some) == 0 else some["steps"].max()
        for (share, steps), part in some.groupby(["samples", "steps"]):
            seeds = sorted(part["seed"].unique())
            ratios = [_level(where(part, seed=seed)) / _level(where(whole, seed=seed)) for seed in seeds]
            change = mean_rho(part) - mean_rho(whole)[seeds]
            mean, low, high = evidence.over_runs(ratios)
            mode = "equal steps" if steps == every else "equal passes"
            about = (over(change, -2, 2), _passes(part.iloc[0]), f"{part['score'].mean():.2f}")
            rows.append((name, mode, share, mean, low, high, *about))
        if len(some):
            about = ("–", _passes(whole.iloc[0]), f"{whole['score'].mean():.2f}")
            rows += [(name, mode, 1.0, 1.0, 1.0, 1.0, *about) for mode in ("equal steps", "equal passes")]
    columns = ["model", "mode", "share", "ratio", "low", "high", "change of ρ", "passes", "held out"]
    return pd.DataFrame(rows, columns=columns).sort_values(["model", "mode", "share"], ignore_index=True)


def in_words(few: pd.DataFrame) -> pd.DataFrame:
    """`samples`, with the ratio and its interval in one column."""
    spans = [f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in few.itertuples()]
    words = few.drop(columns=["ratio", "low", "high"]).assign(share=few["share"].map("{:g}".format))
    words.insert(3, "std(ΔW) / with all", spans)
    return words.drop(words.index[(few["share"] == 1) & (few["mode"] == "equal passes")])  # the same runs


def together(record: pd.DataFrame) -> pd.DataFrame:
    """How alike the profiles of different roles are: mean correlation between two roles, over the layers.

    Returns:
        One row per model, fully fine-tuned: model, layers, correlation.
    """
    rows = []
    for model, name in SHORT.items():
        if len(some := plain(record, model)):
            levels = some.groupby(["depth", "role"])["std_delta"].mean().unstack()
            between = levels.corr().to_numpy()
            mean = between[np.triu_indices(len(between), 1)].mean()
            rows.append((name, len(levels), f"{mean:.2f}"))
    return pd.DataFrame(rows, columns=["model", "layers", "correlation"])


def without_learning(record: pd.DataFrame) -> str:
    """The mean ρ where there was nothing to learn, beside that where there was, in a sentence."""
    found = {SHORT[model]: (plain(record, model), shuffled(record, model)) for model in ("minilm", "vit")}
    own = by_cause(record)
    if "own labels" in own:
        found["decoder, own labels"] = (own["unchanged"], own["own labels"])
    words = [
        f"{name} **{over(mean_rho(without), -1, 1)}** (with: {over(mean_rho(real), -1, 1)})"
        for name, (real, without) in found.items()
        if len(real) and len(without)
    ]
    return f"Mean ρ with nothing to learn: {'; '.join(words)}."


def towers(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The judged matrices of one pair, by tower where it has several."""
    rows = evidence.shown(table)
    rows = rows[rows["control"] == "none"]
    names = rows["tower"].fillna("")
    return {tower or "this pair": rows[names == tower] for tower in dict.fromkeys(names)}


def course(rows: pd.DataFrame) -> pd.DataFrame:
    """How each role's profile over depth runs, in the mean over seeds: what a look at the curves would say.

    Returns:
        Index: role. Columns: ``peak``, the layer with the largest std(ΔW); ``last step``, the change into the last
        layer, and ``first step``, out of the first, in per cent of the mean.
    """
    found = {}
    for role, some in rows.groupby("role", sort=False):
        profile = some.groupby("depth")["std_delta"].mean()
        if len(profile) > 3:
            step = 100 * profile.diff() / profile.mean()
            found[role] = {
                "peak": f"layer {int(profile.idxmax())} of {int(profile.index.max())}",
                "first step": f"{step.iloc[1]:+.0f}\u00a0%",
                "last step": f"{step.iloc[-1]:+.0f}\u00a0%",
            }
    return pd.DataFrame.from_dict(found, orient="index")


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


def _passes(row: pd.Series) -> str:
    """How often a training draws each of its samples, in the mean (bytes, where it draws windows of a text)."""
    task = problem(row["model"], row["task"])
    drawn = row["steps"] * row["batch"] * (task.length if isinstance(task, Bytes) else 1)
    return f"{drawn / (row['samples'] * len(task.train)):.2f}"


def _level(rows: pd.DataFrame) -> float:
    return float(rows["std_delta"].median())
