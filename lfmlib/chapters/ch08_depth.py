"""What chapter 8 reads off the record `finetuning`: how std(ΔW) runs over depth, and what bends it.

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
from ..findings import markup
from ..findings.f7_depth import MAX_P
from ..findings.rules import RULES
from .names import NAMES, by_model
from .sentences import MISSING, runs, table
from .tuned import OTHER_TEXT, by_cause, by_way, methods, on_other_text, over, plain, shuffled, ways

MIN_RUNS = 3
"""Runs that a way of training needs for its roles to be judged: with fewer, intervals are too wide for any to grow."""


def trend_grid(record: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """`lfmlib.findings.trends` of every model that the rule can judge, fully fine-tuned and with LoRA 16, for a map of
    roles by models.

    Returns:
        ρ; in words, with its interval over seeds, cut at -1 and 1; and whether the role grows by the rule, which goes
        by `lfmlib.findings.slopes` and asks for six layers.
    """
    rho, words, grows = {}, {}, {}
    for name, way, rows in by_way(record):
        if way not in ("full", "LoRA 16") or not len(slopes := findings.slopes(rows)):
            continue
        key, found = f"{name}, {way}", findings.trends(rows)
        rho[key], grows[key] = found["rho"], slopes["grows"]
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
    """For every model and method: mean ρ over its roles, the same without the first and the last layer; roles that grow
    by the rule, of `MIN_RUNS` runs or more and six layers; roles whose averaged profile has a corrected p of at most
    0.05; std(ΔW) of the last layer over that of the first; runs. Intervals are over runs."""

    def told(rows: pd.DataFrame) -> dict:
        if not len(trends := findings.trends(rows)):
            return {}
        slopes, low = findings.slopes(rows), (trends["p_holm"] <= 0.05).sum()
        return {
            "mean ρ": over(mean_rho(rows), -1, 1),
            "interior ρ": over(mean_rho(rows, "rho_interior"), -1, 1),
            "roles that grow": _of_roles(slopes["grows"]) if runs(rows) >= MIN_RUNS else MISSING,
            "p ≤ 0.05": f"{low} of {len(trends)}",
            "last / first": over(last_over_first(rows), 0),
            "runs": runs(rows),
        }

    return table(((f"{name}, {way}", rows) for name, way, rows in by_way(record, ways)), told)


def mean_rho(rows: pd.DataFrame, figure: str = "rho") -> pd.Series:
    """Spearman's correlation of depth and std(ΔW), averaged over roles, of every seed; or another figure of
    `lfmlib.depth_trend`."""
    return pd.Series({seed: depth_trend(run, resamples=0)[figure].mean() for seed, run in rows.groupby("seed")})


def last_over_first(rows: pd.DataFrame) -> pd.Series:
    """std(ΔW) of the last layer over that of the first, geometric mean over roles, of every seed."""
    found = {}
    for seed, run in rows.groupby("seed"):
        profile = run.groupby(["role", "depth"])["std_delta"].median().unstack()
        found[seed] = float(np.exp(np.log(profile.iloc[:, -1] / profile.iloc[:, 0]).mean()))
    return pd.Series(found)


def causes(record: pd.DataFrame) -> pd.DataFrame:
    """What each changed setting of the 12-layer decoder does to the trend, against the same seeds unchanged; other
    optimizers, which have no weight decay, against those without. The correlation with the gradient before the first
    step is that of the profiles. Intervals are over runs."""
    own = by_cause(record)

    def told(rows: pd.DataFrame) -> dict:
        base = unchanged(own, rows)
        rho, before = mean_rho(rows), mean_rho(base)
        both = rho.index.intersection(before.index)
        gradient, later = follows_gradient(rows), follows_gradient(rows, first=1)
        return {
            "mean ρ": over(rho[both], -1, 1),
            "change of ρ": MISSING if rows is base else over(rho[both] - before[both], -2, 2),
            "layers 1 on": over(mean_rho(rows[rows["depth"] > 0]), -1, 1),
            "with gradient": over(gradient, -1, 1) if len(gradient) else MISSING,
            "layers 1 on, with gradient": over(later, -1, 1) if len(later) else MISSING,
            "runs": len(both),
        }

    return table(own, told)


def moving(record: pd.DataFrame) -> str:
    """The changed settings whose change of the trend has an interval that leaves 0 out, in a sentence."""
    own, found, asked = by_cause(record), [], 0
    for cause, rows in own.items():
        if rows is (base := unchanged(own, rows)):
            continue
        change = (mean_rho(rows) - mean_rho(base)).dropna()
        asked += len(change) > 1  # one run has no interval
        _, low, high = findings.over_runs(change)
        if low > 0 or high < 0:
            found.append(f"{cause} ({change.mean():+.2f})")
    return (
        f"Intervals that leave 0 out: **{', '.join(found) or 'none'}**, of {asked} comparisons. By chance, some "
        f"{0.05 * asked:.1f} of so many would."
    )


def follows_gradient(rows: pd.DataFrame, column: str = "gradient", first: int = 0) -> pd.Series:
    """Spearman's correlation over depth of std(ΔW) and a figure of the gradient at the base, averaged over roles, of
    every seed; empty where no gradient is known.

    Args:
        rows: of the record.
        column: "gradient", its size, or "agreement", how alike it is from batch to batch.
        first: layer to begin with.
    """
    known = rows[rows["depth"] >= first].dropna(subset=[column]) if column in rows else rows.iloc[:0]
    each = {
        place: stats.spearmanr(role[column], role["std_delta"])[0]
        for place, role in known.groupby(["seed", "role"])
        if role["depth"].nunique() > 3
    }
    return pd.Series(each, dtype=float).dropna().groupby(level=0).mean() if each else pd.Series(dtype=float)


def of_gradients(record: pd.DataFrame) -> str:
    """What the profiles of gradient and ΔW have in common, under each optimizer, and what layer 0 does."""
    shown = optimizers(record)
    if "SGD" not in shown or "AdamW" not in shown:
        return "The optimizers were not compared here."
    words = [
        f"{name} {_told(averaged(rows))} (without layer 0: {_told(averaged(rows[rows['depth'] > 0]))})"
        for name, rows in shown.items()
    ]
    sgd, adam = shown["SGD"], shown["AdamW"]
    falls, beside = [], []
    for first in (0, 1):
        rho, before = (mean_rho(rows[rows["depth"] >= first]) for rows in (sgd, adam))
        falls.append((before[rho.index] - rho).mean())
        beside.append(f"{_told(rho)} against {_told(before[rho.index])}")
    role_by_role = {
        "the size of the gradient": follows_gradient(adam),
        "that from layer 1 on": follows_gradient(adam, first=1),
        "its agreement from batch to batch": follows_gradient(adam, "agreement"),
    }
    return (
        "Correlation over depth of std(ΔW) and the gradient, both averaged over roles, in the mean over runs: "
        f"{'; '.join(words)}.\n\n"
        f"SGD’s mean ρ is {beside[0]} for AdamW with the same seeds. Without layer 0, where the gradient is largest, "
        f"it is {beside[1]}: {1 - falls[1] / falls[0]:.0%} of the fall is that layer’s. **AdamW’s profile is not "
        f"flat**: the last layer has {over(last_over_first(adam), 0)} times the first. Role by role, it correlates "
        f"with {'; with '.join(f'{what} by {_told(found)}' for what, found in role_by_role.items())}. "
        "**The cause of the rise was not found.**"
    )


def _told(correlations: pd.Series) -> str:
    return over(correlations, -1, 1)


def averaged(rows: pd.DataFrame) -> pd.Series:
    """Spearman's correlation over depth of std(ΔW) and gradient, each averaged over roles, of every seed."""
    both, found = ["std_delta", "gradient"], {}
    for seed, run in rows.groupby("seed"):
        profile = (run[both] / run.groupby("role")[both].transform("mean")).groupby(run["depth"]).mean()
        found[seed] = float(stats.spearmanr(profile["std_delta"], profile["gradient"])[0])
    return pd.Series(found)


def together(record: pd.DataFrame) -> str:
    """How alike the profiles of different roles are, of each model that was fully fine-tuned, in a sentence: the mean
    correlation between two roles, over the layers, with its interval over runs."""
    words = []
    for name, some in by_model(record, part="plain", weight_decay=DECAY):
        found = {}
        for seed, run in some.groupby("seed"):
            between = run.groupby(["depth", "role"])["std_delta"].median().unstack().corr().to_numpy()
            found[seed] = between[np.triu_indices(len(between), 1)].mean()
        words.append(f"{name} **{_told(pd.Series(found))}** ({some['depth'].nunique()} layers)")
    return f"Mean correlation of two roles’ profiles in a run: {'; '.join(words)}."


def on_two_texts(record: pd.DataFrame) -> str:
    """What of the trend of a model is its own, and what the text’s it was fine-tuned on: trends on both, and how alike
    the profiles of a role are between two runs on one text, and on two; in sentences.

    Profiles are compared by the correlation over depth of log std(ΔW), averaged over roles and pairs of runs.
    """
    words, parted = [], []
    for model, name in NAMES.items():
        for way, other in on_other_text(record, model).items():
            first = methods(record, model)[way]
            grows = [findings.slopes(rows)["grows"] for rows in (other, first)]
            alike = f"{_likeness(first, first):.2f} and {_likeness(other, other):.2f} on one text"
            words.append(
                f"- {name}, {way}: mean ρ **{_told(mean_rho(other))}** {OTHER_TEXT} ({_told(mean_rho(first))}), roles "
                f"that grow {_of_roles(grows[0])} ({_of_roles(grows[1])}). Two runs correlate by {alike}, by "
                f"**{_likeness(first, other):.2f}** on two."
            )
            shares = sorted(one.mean() for one in grows)
            if shares[0] < RULES["F7"].partly and shares[1] >= RULES["F7"].supported:
                parted.append(f"{name}, {way}")
    if parted:
        words.append(f"\n**The same base, another text, another trend**: {markup.enumerated(parted)}.")
    return "\n".join(words) or "No model was fine-tuned on two texts here."


def _likeness(rows: pd.DataFrame, others: pd.DataFrame) -> float:
    """Mean correlation over depth of the log profiles of a role in a run and in one of other runs, of another seed."""
    one, two = (
        np.log(some.groupby(["seed", "role", "depth"])["std_delta"].median()).unstack() for some in (rows, others)
    )
    return float(
        np.mean(
            [
                np.corrcoef(one.loc[seed, role], two.loc[other, role])[0, 1]
                for seed, role in one.index
                for other in two.index.unique("seed")
                if other != seed
            ]
        )
    )


def without_learning(record: pd.DataFrame) -> str:
    """The mean ρ where there was nothing to learn, beside that where there was, in a sentence."""
    found = {NAMES[model]: (plain(record, model), shuffled(record, model)) for model in ("minilm", "vit")}
    own = by_cause(record)
    if "own labels" in own:
        found[f"{NAMES['deep-decoder']}, own labels"] = (own["unchanged"], own["own labels"])
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


def of_pair(trend: pd.DataFrame) -> str:
    """How many roles of a single pair rise with depth, in a sentence.

    Args:
        trend: from `lfmlib.depth_trend`.
    """
    if trend.empty:
        return "No kind of matrix has four layers or more: there is no trend to ask for."
    sure = ((findings.holm(trend["p"]) <= MAX_P) & (trend["rho"] > 0)).sum()
    return (
        f"Of {len(trend)} kinds of matrix, **{(trend['rho'] > 0).sum()}** have ρ above 0, and {sure} a corrected p "
        f"of at most {MAX_P:g}."
    )


def optimizers(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the decoder's full fine-tunings by optimizer."""
    own = by_cause(record)
    names = {"AdamW": "no decay", "Adagrad": "Adagrad", "SGD": "SGD"}
    return {name: own[cause] for name, cause in names.items() if cause in own}


def unchanged(own: dict[str, pd.DataFrame], rows: pd.DataFrame) -> pd.DataFrame:
    """What a changed setting of `by_cause` is compared with."""
    optimizer = rows["optimizer"].dropna() if "optimizer" in rows else []
    return own["no decay" if len(optimizer) and (optimizer != "").any() else "unchanged"]
