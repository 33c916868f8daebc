"""What the figures of chapter 6 draw: means over runs with their intervals, as `lfmlib.plots.intervals` takes them.

Every function but `gains` takes rows of the record `finetuning`, and returns what tells the rows and marks of a figure
apart, and mean, low, high; a single run has no limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from .. import findings
from ..checkpoints.named import named
from .census import part
from .ch06_deltas import costs, normal_shares
from .names import where
from .tuned import OTHER_TEXT, by_cause, by_way, fully, ways

SIDES = {"": "ΔW", "noise_": "noise of its size"}
"""Prefix of columns → what the matrices were changed by."""
LAWS = ("full", "LoRA 16", "DoRA 16")
WAYS = ("full", "full, no decay", "LoRA 16", "DoRA 16", f"full, {OTHER_TEXT}", f"LoRA 16, {OTHER_TEXT}")
_SPAN = ["mean", "low", "high"]


def gains(
    record: pd.DataFrame, published: pd.DataFrame | None, own: Mapping[str, Mapping[str, pd.DataFrame]] | None = None
) -> pd.DataFrame:
    """Mean g over the matrices of every full fine-tune, and of noise in the place of ΔW.

    Args:
        record: `finetuning`.
        published: `census`, of fine-tunes that others made; None: without them.
        own: name → ΔW and noise → rows of `lfmlib.compare`: a pair to stand above.
    """
    pairs = dict(own or {})
    models = [] if published is None else where(published, part="pair")["model"].unique()
    for model in models:
        if named(model).base:
            kinds = zip(SIDES.values(), ("none", "noise"), strict=True)
            pairs[model] = {side: findings.eligible(part(published, model, "pair", kind)) for side, kind in kinds}
    single = {(name, side): findings.widening(rows) for name, both in pairs.items() for side, rows in both.items()}
    found = [(*names, one["gain_mean"], math.nan, math.nan) for names, one in single.items()]
    for name, rows in fully(record):
        for prefix, side in SIDES.items():
            found.append((name, side, *findings.widening_over_runs(rows, prefix).loc["gain_mean", _SPAN]))
    return pd.DataFrame(found, columns=["model", "what", *_SPAN])


def laws(record: pd.DataFrame) -> pd.DataFrame:
    """The share of the parameters whose ΔW has an R² of 0.99 or more, and of Gaussian factors of the same rank."""
    found = []
    for name, way, rows in by_way(record):
        if way in LAWS:
            found.append((f"{name}, {way}", "ΔW", *findings.over_runs(normal_shares(rows))))
            if "rank_qq_r2" in rows and rows["rank_qq_r2"].notna().any():
                share = findings.share(rows, rows["rank_qq_r2"] >= findings.QQ_BOUND)
                found.append((f"{name}, {way}", "Gaussian factors", share, math.nan, math.nan))
    return _clipped(pd.DataFrame(found, columns=["way", "what", *_SPAN]))


def rises(record: pd.DataFrame) -> pd.DataFrame:
    """The share of the matrices whose standard deviation rises, by model and way of training."""
    found = [
        (name, way, *findings.widening_over_runs(rows).loc["widened", _SPAN])
        for name, way, rows in by_way(record, ways)
        if way in WAYS and rows["seed"].nunique() > 1
    ]
    return pd.DataFrame(found, columns=["model", "way", *_SPAN])


def prices(record: pd.DataFrame) -> pd.DataFrame:
    """What the usual weight decay takes off the median g, measured and foretold."""
    found = []
    for name, change, foretold in costs(record):
        found.append((name, "measured", *findings.over_runs(change.dropna())))
        found.append((name, "foretold", *findings.over_runs(foretold.dropna())))
    return pd.DataFrame(found, columns=["model", "what", *_SPAN])


def causes(record: pd.DataFrame) -> pd.DataFrame:
    """The median g of the 12-layer decoder with one setting changed at a time."""
    found = [
        (cause, *findings.widening_over_runs(rows).loc["gain_median", _SPAN])
        for cause, rows in by_cause(record).items()
    ]
    return pd.DataFrame(found, columns=["changed", *_SPAN])


def _clipped(shares: pd.DataFrame) -> pd.DataFrame:
    return shares.assign(low=shares["low"].clip(0, 1), high=shares["high"].clip(0, 1))
