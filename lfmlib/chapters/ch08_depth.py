"""What chapter 8 reads off the record `finetuning`: how std(ΔW) runs over depth, and what bends it.

Every function takes rows of the record (see `lfmlib.experiments.finetuning.run`), one per judged matrix.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from .. import findings
from ..checkpoints.roles import in_order
from ..deltas.trends import depth_trend
from ..experiments.finetuning import DECAY
from ..findings.f7_depth import MAX_P
from .names import NAMES, by_model
from .sentences import MISSING, runs, table, word
from .tuned import by_cause, by_way, over, plain, shuffled, ways

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
        base = unchanged(own, rows)
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
        f"Correlation of the two lines of each panel: {'; '.join(words)}.\n\n"
        f"SGD’s mean ρ is {rho:.2f} against AdamW’s {before:.2f} with the same seeds. Without layer 0, where the "
        f"gradient is largest, it is {rho1:.2f} against {before1:.2f}: {1 - (before1 - rho1) / (before - rho):.0%} of "
        f"the fall is that layer’s. **AdamW’s profile is not flat**: the last layer has {_ends(adam):.2f} times the "
        f"first. Role by role, it correlates with the size of the gradient by {follows_gradient(adam):.2f} "
        f"({follows_gradient(adam, first=1):.2f} without layer 0). With its agreement from batch to batch it does by "
        f"{follows_gradient(adam, 'agreement'):.2f}. **The cause of the rise was not found.**"
    )


def _averaged(rows: pd.DataFrame) -> float:
    """Spearman's correlation over depth of std(ΔW) and gradient, each averaged over roles and seeds."""
    both = ["std_delta", "gradient"]
    profile = (rows[both] / rows.groupby(["seed", "role"])[both].transform("mean")).groupby(rows["depth"]).mean()
    return float(stats.spearmanr(profile["std_delta"], profile["gradient"])[0])


def together(record: pd.DataFrame) -> str:
    """How alike the profiles of different roles are, of each model that was fully fine-tuned, in a sentence: the mean
    correlation between two roles, over the layers."""
    words = []
    for name, some in by_model(record, part="plain", weight_decay=DECAY):
        levels = some.groupby(["depth", "role"])["std_delta"].mean().unstack()
        between = levels.corr().to_numpy()
        words.append(f"{name} **{between[np.triu_indices(len(between), 1)].mean():.2f}** ({len(levels)} layers)")
    return f"Mean correlation of two roles’ profiles: {'; '.join(words)}."


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


def courses(ways: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`course` of several ways of training, one below the other: way and role are columns."""
    each = [course(rows).rename_axis("role").reset_index().assign(way=way) for way, rows in ways.items()]
    found = pd.concat(each, ignore_index=True) if each else pd.DataFrame(columns=["way"])
    return found[["way", *(name for name in found if name != "way")]]


def beside_theirs(ways: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Which roles do what the authors' figure shows, by way of training: v, up and down fall into the last layer there,
    and q, k and up start high, which is to fall from layer 0 to 1."""
    first, last = "layer 0 to 1", "into the last"

    def told(rows: pd.DataFrame) -> dict:
        if (found := course(rows)).empty:
            return {}
        down = {name: [role for role in found.index if found.loc[role, name].startswith("-")] for name in (first, last)}
        theirs = ("v", "up", "down")
        return {
            "of v, up, down, at the end": _roles(role for role in down[last] if role in theirs),
            "of the others, at the end": _roles(role for role in down[last] if role not in theirs),
            "of q, k, up, from layer 0 to 1": _roles(role for role in down[first] if role in ("q", "k", "up")),
        }

    return table(ways, told)


def _roles(roles: Iterable[str]) -> str:
    return ", ".join(roles) or "none"


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


def _ends(rows: pd.DataFrame) -> float:
    """std(ΔW) of the last layer over that of the first, geometric mean over roles."""
    profile = rows.groupby(["role", "depth"])["std_delta"].mean().unstack()
    return float(np.exp(np.log(profile.iloc[:, -1] / profile.iloc[:, 0]).mean()))
