"""What chapter 9 reads off its record, `radius`: how much noise base and fine-tune stand, and why.

Every function takes rows of the record (see `lfmlib.experiments.radius.run`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import findings
from ..experiments.radius import CLOSED, SCALES
from ..findings import Finding
from ..losses.tolerance import KINDS
from ..provenance import recorded
from .names import MEASURED, NAMES, SHORT, where

WHICH = {"base": "W₀", "tuned": "W", "random": "W₀ + noise"}
"""The models that are shaken, as tables name them."""


def f8_found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F8 of every model; ``parameters`` of the chapter go into its provenance."""
    origin = recorded("radius", record, **parameters)
    return [
        findings.f8_over_runs(rows, name, origin | {"source": name})
        for model, name in NAMES.items()
        if len(rows := where(record, part="radius", model=model))
    ]


def tasks(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of radii by what they are about: each model on its new task and, where there is one, on its old."""
    found = {}
    for model, name in SHORT.items():
        rows = where(record, part="radius", model=model)
        rows = rows.assign(head=rows["head"].astype(object).fillna(""))
        for old in (False, True):
            some = rows[(rows["judged_on"] != rows["task"]) == old]
            if len(some):
                found[f"{name}, {'old' if old else 'new'} task"] = some
    return found


def table(record: pd.DataFrame, timid: bool = False) -> pd.DataFrame:
    """The noise radii of every model and task, in words: medians over seeds and draws, and ratios to W₀ with intervals.

    Args:
        timid: with the timid head instead of the fitted one; models that have one only.
    """
    found = {}
    for name, rows in tasks(record).items():
        some = rows[(rows["kind"] == KINDS[0]) & ((rows["head"] == "timid") == timid)]
        if some.empty:
            continue
        sizes = some.groupby("which")["radius"].median()
        others = [which for which in ("tuned", "random") if which in sizes]
        ratios = {which: findings.log_ratios(some, which, head=some["head"].iloc[0]) for which in others}
        found[name] = {
            f"radius of {words}": f"{sizes[which]:.3f}" if sizes[which] > 0 else "–"
            for which, words in WHICH.items()
            if which in sizes
        }
        found[name] |= {f"{WHICH[which]} / W₀": span(logs) for which, logs in ratios.items()}
    return pd.DataFrame.from_dict(found, orient="index")


def kinds(record: pd.DataFrame) -> pd.DataFrame:
    """Radius of W over that of W₀ by kind of noise, in words."""
    found = {}
    for name, rows in tasks(record).items():
        found[name] = {f"W / W₀, {kind}": span(findings.log_ratios(rows, kind=kind)) for kind in KINDS}
    return pd.DataFrame.from_dict(found, orient="index")


def against_first(record: pd.DataFrame) -> pd.DataFrame:
    """What a kind of noise costs: radius under it over that under noise that treats all matrices alike, same draws.

    Returns:
        Index: model and task. Columns: kinds of noise, for W₀: geometric mean and 95 % over seeds, in words.
    """
    found = {}
    for name, rows in tasks(record).items():
        some = rows[(rows["which"] == "base") & (rows["head"] != "timid")]
        logs = np.log(some.pivot_table(index=["seed", "draw"], columns="kind", values="radius")).dropna()
        each = logs.sub(logs[KINDS[0]], axis=0).groupby("seed").mean()
        found[name] = {kind: span(each[kind]) for kind in KINDS[1:] if kind in each}
    return pd.DataFrame.from_dict(found, orient="index")


def reasons(record: pd.DataFrame) -> pd.DataFrame:
    """Why a radius is larger: a wider gap to close, or a flatter loss.

    Where the loss is quadratic the radius is √(rise / curvature), so that a ratio of radii is the root of the ratio of
    the rises over that of the curvatures. The curvature is taken as rise / scale², at the scale of `SCALES` that is
    nearest to both radii; runs whose loss does not rise there have none.

    Returns:
        Index: model and task. Columns, in words: that scale; W over W₀ of the rise that the radius allows, and of the
        curvature; the ratio of radii that follows; and the one measured.
    """
    found = {}
    for name, rows in tasks(record).items():
        same = rows[rows["head"] != "timid"]
        measured = findings.log_ratios(same)
        if not len(measured):
            continue
        radii = same[(same["kind"] == KINDS[0]) & same["which"].isin(["base", "tuned"])]["radius"]
        scale = min(SCALES, key=lambda one: abs(np.log(one) - np.log(radii).mean()))
        first = same.dropna(subset=["own"]).set_index(["seed", "which"])
        allowed = CLOSED * (first["prior"] - first["own"])
        steep = same[same["scale"] == scale].set_index(["seed", "which"])["rise"]
        rise, curvature = (
            (logs := np.log(one.where(one > 0)).unstack())["tuned"] - logs["base"] for one in (allowed, steep)
        )
        found[name] = {
            "at noise": f"{scale:g}",
            "allowed rise": span(rise),
            "curvature": span(curvature),
            "radius, foretold": span((rise - curvature) / 2),
            "radius, measured": span(measured),
        }
    return pd.DataFrame.from_dict(found, orient="index")


def curves(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Loss against noise on the new task: for every model rows with which, seed, scale and ``closed``, the share of the
    gap to the loss of the class frequencies that the noise closes."""
    found = {}
    for name, rows in tasks(record).items():
        if name.endswith("new task"):
            same = rows[rows["head"] != "timid"]
            gap = same.dropna(subset=["own"]).set_index(["seed", "which"])
            gap = (gap["prior"] - gap["own"]).rename("gap")
            some = same.dropna(subset=["scale"]).join(gap, on=["seed", "which"])
            found[name.removesuffix(", new task")] = some.assign(closed=some["rise"] / some["gap"])
    return found


def medians(record: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Median radius on the new task, over seeds and draws: model → which."""
    found = {}
    for name, rows in tasks(record).items():
        if name.endswith("new task"):
            some = rows[(rows["kind"] == KINDS[0]) & (rows["head"] != "timid")].dropna(subset=["radius"])
            found[name.removesuffix(", new task")] = some.groupby("which")["radius"].median().to_dict()
    return found


def helps(record: pd.DataFrame) -> pd.DataFrame:
    """Does noise help? Scores of fine-tunings that begin from a base with added noise, against the same seeds without.

    Returns:
        Index: model and noise in std(W₀). Columns, in words: score without; change of it, counted so that more is
        better, with its 95 % interval over seeds.
    """
    found = {}
    for model, name in SHORT.items():
        plain = where(record, part="radius", model=model).dropna(subset=["trained"])
        plain = plain[plain["judged_on"] == plain["task"]].set_index("seed")["trained"]
        noisier = where(record, part="noisier", model=model)
        for jitter, rows in noisier.groupby("jitter"):
            sign = findings.SCORE_SIGNS[MEASURED[model]]
            change = sign * (rows.set_index("seed")["score"] - plain)
            _, low, high = findings.over_runs(change.dropna())
            found[f"{name}, {jitter:g}"] = {
                "score without": f"{plain.mean():.3f}",
                "change": findings.span(change.dropna(), 3, "+"),
                "better": "yes" if low > 0 else "worse" if high < 0 else "–" if np.isnan(low) else "no",
            }
    return pd.DataFrame.from_dict(found, orient="index")


def helped(table: pd.DataFrame) -> str:
    """In how many of the cases of `helps` noise before fine-tuning helped, in a sentence."""
    better, worse, unknown = ((table["better"] == word).sum() for word in ("yes", "worse", "–"))
    rest = f"; {unknown} have one run, and no interval" if unknown else ""
    return f"Noise helps, beyond the interval, in **{better} of {len(table)}** cases, and harms in {worse}{rest}."


def in_old_units(record: pd.DataFrame) -> str:
    """The ratios of radii in standard deviations of W₀ for both models, in a sentence.

    The standard deviation of W is taken to have grown as by independent noise of ΔW's size (g = 1).
    """
    words = []
    for name, rows in tasks(record).items():
        logs = findings.log_ratios(rows)
        moved = rows[rows["which"] == "tuned"].dropna(subset=["moved"]).set_index("seed")["moved"]
        if len(logs) > 1 and name.endswith("new task"):
            absolute = logs + np.log1p(moved**2) / 2
            before, after = findings.f8_judged(logs), findings.f8_judged(absolute)
            words.append(
                f"{name.removesuffix(', new task')} {span(absolute)}, "
                + (f"**{after} instead of {before}**" if after != before else f"{after} as well")
            )
    return f"W / W₀ in standard deviations of W₀: {'; '.join(words)}."


def strayed(record: pd.DataFrame) -> pd.DataFrame:
    """How far ΔW itself goes, in std(W₀), beside the radius of W₀ against noise, in words."""
    found = {}
    for name, rows in tasks(record).items():
        if name.endswith("new task"):
            moved = rows[rows["which"] == "tuned"].dropna(subset=["moved"])["moved"]
            base = rows[(rows["which"] == "base") & (rows["kind"] == "matrix") & (rows["head"] != "timid")]
            found[name.removesuffix(", new task")] = {
                "RMS ΔW / RMS W₀": f"{moved.mean():.3f}",
                "radius of W₀": f"{base['radius'].median():.3f}",
            }
    return pd.DataFrame.from_dict(found, orient="index")


def of_heads(record: pd.DataFrame) -> str:
    """Whether the timid head changes what is said of the new task, in a sentence."""
    words = []
    for name, rows in tasks(record).items():
        fitted, timid = (findings.log_ratios(rows, head=head) for head in ("fitted", "timid"))
        if len(timid) > 1 and name.endswith("new task"):
            before, after = (findings.f8_judged(logs) for logs in (fitted, timid))
            words.append(
                f"{name.removesuffix(', new task')}: {span(fitted)}, {before}, becomes {span(timid)}, "
                + (f"**{after}**" if after != before else "as before")
            )
    return f"W / W₀ with the fitted head, and with the timid one. {'; '.join(words)}." if words else ""


def forgotten(record: pd.DataFrame) -> str:
    """Where a fine-tune is no better on its base's task than the frequencies of the classes, in a sentence."""
    lost = []
    for name, rows in tasks(record).items():
        own = rows[(rows["which"] == "tuned") & (rows["head"] != "timid")].dropna(subset=["own"])
        if count := int((own["own"] >= own["prior"]).sum()):
            lost.append(f"{name} ({count} of {len(own)} runs: {own['own'].mean():.2f} nats, {own['prior'].mean():.2f})")
    if not lost:
        return "Every fine-tune knows more than the frequencies of the classes."
    return (
        f"No radius where W knows no more than the class frequencies: {'; '.join(lost)}. There fine-tuning has "
        "forgotten the task, and there is nothing left to lose."
    )


def little_noise(record: pd.DataFrame) -> str:
    """What the least noise does to the loss of W on its task, in a sentence."""
    least = min(SCALES)
    words = []
    for name, rows in tasks(record).items():
        some = rows[(rows["which"] == "tuned") & (rows["scale"] == least) & (rows["head"] != "timid")]
        if name.endswith("new task") and some["seed"].nunique() > 1:
            words.append(
                f"{name.removesuffix(', new task')} {findings.span(some.groupby('seed')['rise'].mean(), 4, '+')}"
            )
    return f"Noise of {least:g} std(W) on top of W changes its loss, in nats, by: {'; '.join(words)}."


def span(logs: pd.Series) -> str:
    """Geometric mean and interval over runs of logarithms, in words; nothing of fewer than two, or where one lacks."""
    if len(logs) < 2 or logs.isna().any():  # those that are left would be a selection
        return "–"
    return findings.bracketed(*findings.geometric_mean(logs), 2)
