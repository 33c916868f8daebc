"""The figures of chapter 8: the profiles and trends that they are drawn from, and what a look at the curves would say.

Every function takes rows of the record `finetuning` (see `lfmlib.experiments.finetuning.run`).
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from .. import findings
from .ch08_depth import mean_rho, unchanged
from .names import NAMES
from .sentences import table
from .tuned import by_cause, by_way, plain, ways

FIRST = ("smollm2-135m", "deep-decoder", "minilm", "vit")
"""Models whose profiles are drawn, by the order in which they are asked for: a published one beside the lab's."""
PANELS = 3
"""Profiles that stand side by side in a small figure."""
START, END = "layer 0 to 1", "into the last"
"""Steps of a profile over depth that are looked at, as columns."""
THEIRS = ("v", "up", "down")
"""Roles that fall into the last layer in the authors’ figure."""


def profiles(record: pd.DataFrame, pair: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
    """Profiles of std(ΔW) under full fine-tuning, each over its own mean.

    Args:
        record: the record.
        pair: rows of `lfmlib.compare` on the reader's pair, which then comes first; None: there is none.

    Returns:
        Name of a model → rows with role, ``place`` (depth over that of the last layer) and ``level``, the mean over
        runs of std(ΔW) over its mean over the layers; roles in two or more layers, at most `PANELS` models.
    """
    some = {NAMES[model]: plain(record, model) for model in FIRST}
    if pair is not None:
        some = {"your pair": findings.shown(pair).query("control == 'none'")} | some
    found = {name: _relative(rows) for name, rows in some.items() if len(rows)}
    return dict([(name, rows) for name, rows in found.items() if len(rows)][:PANELS])


def _relative(rows: pd.DataFrame) -> pd.DataFrame:
    mean = rows.dropna(subset=["depth"]).groupby(["role", "depth"], as_index=False)["std_delta"].mean()
    layers = mean.groupby("role")["depth"].transform("nunique")
    mean = mean[layers > 1].astype({"depth": float})
    level = mean["std_delta"] / mean.groupby("role")["std_delta"].transform("mean")
    return mean.assign(place=mean["depth"] / max([1.0, *mean["depth"]]), level=level)


def trends(record: pd.DataFrame) -> pd.DataFrame:
    """Mean ρ over the roles of every model and way of training: way, model, mean, low, high, cut at -1 and 1."""
    rows = []
    for name, way, some in by_way(record, ways):
        if len(rho := mean_rho(some).dropna()):
            rows.append((way, name, *_cut(rho)))
    table = pd.DataFrame(rows, columns=["way", "model", "mean", "low", "high"])
    order = {way: place for place, way in enumerate(sorted(table["way"].unique(), key=_place))}
    return table.sort_values("way", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def _place(way: str) -> tuple[bool, bool, int]:
    """Full fine-tunings first, then LoRA and DoRA by rank."""
    adapter, _, rank = way.partition(",")[0].partition(" ")
    return adapter in ("LoRA", "DoRA"), adapter == "DoRA", int(rank) if rank.isdigit() else 0


def changes(record: pd.DataFrame) -> pd.DataFrame:
    """Change of the mean ρ by each changed setting of the 12-layer decoder, seed by seed: cause, mean, low, high, cut
    at -1 and 1."""
    own, rows = by_cause(record), []
    for cause, some in own.items():
        if some is not (base := unchanged(own, some)) and len(change := (mean_rho(some) - mean_rho(base)).dropna()):
            rows.append((cause, *_cut(change)))
    return pd.DataFrame(rows, columns=["cause", "mean", "low", "high"])


def _cut(values: Iterable[float]) -> tuple[float, float, float]:
    mean, low, high = findings.over_runs(values)
    return mean, max(low, -1.0), min(high, 1.0)


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
            START: f"{step.iloc[1]:+.0f}\u00a0%",
            END: f"{step.iloc[-1]:+.0f}\u00a0%",
        }

    return table(findings.by_role(rows), told)


def courses(ways: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`course` of several ways of training, one below the other: way and role are columns."""
    each = [course(rows).rename_axis("role").reset_index().assign(way=way) for way, rows in ways.items()]
    found = pd.concat(each, ignore_index=True) if each else pd.DataFrame(columns=["way"])
    return found[["way", *(name for name in found if name != "way")]]


def beside_theirs(ways: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """In how many runs each role does what the authors’ figure shows, by way of training: v, up and down fall into the
    last layer there, and q, k and up start high, which is to fall from layer 0 to 1."""

    def told(rows: pd.DataFrame) -> dict:
        runs = [found for _, run in rows.groupby("seed") if len(found := course(run))]
        if not runs:
            return {}
        others = [role for role in runs[0].index if role not in THEIRS]
        return {
            "v, up, down, at the end": _falls(runs, THEIRS, END),
            "the others, at the end": _falls(runs, others, END),
            "q, k, up, from layer 0 to 1": _falls(runs, ("q", "k", "up"), START),
            "runs": len(runs),
        }

    return table(ways, told)


def _falls(runs: list[pd.DataFrame], roles: Iterable[str], step: str) -> str:
    """Roles with the number of runs in which they fall: "v 1, down 3"."""
    known = [role for role in roles if role in runs[0].index]
    return ", ".join(f"{role} {sum(one.loc[role, step].startswith('-') for one in runs)}" for role in known)


def as_in_theirs(ways: dict[str, pd.DataFrame]) -> str:
    """In how many runs v, up and down all fall into the last layer, as in the authors’ figure, in a sentence."""
    words = []
    for name, rows in ways.items():
        found = [course(run) for _, run in rows.groupby("seed")]
        falls = [all(role in one.index and one.loc[role, END].startswith("-") for role in THEIRS) for one in found]
        words.append(f"{name} **{sum(falls)} of {len(falls)}**")
    return (
        f"In so many runs v, up and down all fall into the last layer: {'; '.join(words)}. Of three independent "
        f"curves without a trend, one run in {2 ** len(THEIRS)} would."
    )
