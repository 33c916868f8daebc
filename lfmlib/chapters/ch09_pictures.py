"""What the figures of chapter 9 are drawn from, ratios of noise radii with their intervals, and its three sentences.

Every function takes rows of the record `radius` (see `lfmlib.experiments.radius.run`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from .. import findings
from ..losses.tolerance import KINDS
from .ch09_radius import HEADS, UNIT_NAMES, ratios_to_first, reason_logs, tasks, with_all_kinds
from .names import by_model

KIND_NAMES = dict(zip(KINDS, ("all alike", "by row", "growing", "falling"), strict=True))
"""Kinds of noise, as figures name them."""
COLUMNS = ("subject", "line", "mean", "low", "high")


def protocols(record: pd.DataFrame) -> pd.DataFrame:
    """Radius over that of W₀ by model, task, head and unit: ``subject``, head, unit; ratio, low, high of W; ``control``
    and control_low, of W₀ + noise as large as ΔW."""
    listed = []
    for name, some in by_model(record, part="protocols"):
        about = ["task", "head", "unit"]
        own, control = (findings.by_protocol(some, which) for which in ("tuned", "random"))
        beside = control[[*about, "ratio", "low"]].rename(columns={"ratio": "control", "low": "control_low"})
        listed.append(own.merge(beside, on=about, how="left").assign(model=name))
    if not listed:
        return pd.DataFrame(columns=["subject", "head", "unit", "ratio", "low", "high", "control", "control_low"])
    found = pd.concat(listed, ignore_index=True)
    found = found.assign(subject=found["model"] + ", " + found["task"] + " task", unit=found["unit"].map(UNIT_NAMES))
    return found.assign(head=found["head"].map(HEADS)).drop(columns=["model", "task"])


def reasons(record: pd.DataFrame) -> pd.DataFrame:
    """W over W₀ of what a radius is made of (see `lfmlib.chapters.ch09_radius.reasons`), as for `plots.intervals`."""
    found = {}
    for name, rows in tasks(record).items():
        for word, logs in reason_logs(rows[rows["head"] != "timid"]).items():
            found[name, word] = logs
    return _spans((*key, logs) for key, logs in found.items())


def kinds(record: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """By kind of noise: W over W₀; and the radius of W₀ over that under noise that treats all matrices alike."""
    asked = with_all_kinds(record).items()
    ours = ((name, KIND_NAMES[kind], findings.log_ratios(rows, kind=kind)) for name, rows in asked for kind in KINDS)
    against = ((name, KIND_NAMES[kind], ratios_to_first(rows)[kind]) for name, rows in asked for kind in KINDS)
    return _spans(ours), _spans(against)


def _spans(ratios: Iterable[tuple[str, str, pd.Series]]) -> pd.DataFrame:
    """Geometric means and intervals over runs; none where a run has no ratio."""
    told = []
    for subject, line, logs in ratios:
        known = len(logs) > 1 and not logs.isna().any()
        told.append((subject, line, *(findings.geometric_mean(logs) if known else 3 * [math.nan])))
    return pd.DataFrame(told, columns=list(COLUMNS))


def takeaways(asked: pd.DataFrame, helped: pd.DataFrame) -> str:
    """What this run says of the radius, a sentence each, as a list.

    Args:
        asked: from `protocols`.
        helped: from `lfmlib.chapters.ch09_radius.helps`.
    """
    return "\n".join(f"- {one}" for one in (_of_claim(asked), _of_range(asked), _of_help(helped)))


def _of_claim(asked: pd.DataFrame) -> str:
    if asked.empty:
        return "No fine-tune has a radius here that could be laid beside that of its base."
    more, less, noise = (asked["low"] > 1).sum(), (asked["high"] < 1).sum(), (asked["control_low"] > 1).sum()
    return (
        f"A fine-tune stands more noise than its base in **{more} of {len(asked)}** ways of asking, and less in "
        f"{less}; noise in the place of ΔW makes it more in {noise}."
    )


def _of_range(asked: pd.DataFrame) -> str:
    if asked.empty:
        return "So nothing is said of models, tasks or heads."
    ends = [asked.loc[asked["ratio"].idxmin()], asked.loc[asked["ratio"].idxmax()]]
    words = [f"**{end['ratio']:.2f}** ({end['subject']}{_head(end['head'])})" for end in ends]
    noise = f"{asked['control'].min():.2f} to {asked['control'].max():.2f}"
    return f"The ratio runs from {' to '.join(words)}; with noise in the place of ΔW, from {noise}."


def _head(head: str) -> str:
    return "" if head == HEADS[""] else f", head {head}"


def _of_help(helped: pd.DataFrame) -> str:
    if helped.empty:
        return "Whether noise before fine-tuning helps was not measured in this run."
    better, worse = ((helped["better"] == word).sum() for word in ("yes", "worse"))
    return (
        f"Noise added before fine-tuning raises the score, beyond its interval, in **{better} of {len(helped)}** "
        f"cases, and lowers it in {worse}."
    )
