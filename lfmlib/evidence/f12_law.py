"""F12: the values that pruning keeps are a truncated Gaussian and a few outliers: by their law, and by what it costs to
lose the outliers."""

from __future__ import annotations

import math

import pandas as pd

from ..findings import RULES, STATEMENTS, Finding, judge
from .shared import ENOUGH, TOO_SMALL, eligible, over_runs, ratios, share

CLAIMED = "truncated-gaussian+outliers"
"""The variant that the claim names (see `lfmlib.optimal.VARIANTS`)."""
NEAR = 0.01
"""Bits per weight within which a law is called near the shortest; no verdict rests on it."""
DAMAGE = 3.0
"""F12: least ratio of the damage of outliers to that of random sets of equal squared norm."""
KEPT = 0.3
"""Share of the weights that is pruned before the law of the rest is judged: what F11 asks for."""


def damage_ratio(rows: pd.DataFrame, change: str = "zeroed", beside: str = "as large") -> pd.Series:
    """Rise of the loss when outliers are changed, over its mean over random sets, by run (see `ratios`).

    Args:
        rows: of the record `optimal`, of one model.
        change: "zeroed" or "amplified".
        beside: random sets "as large" (of equal squared norm) or "as many".

    Returns:
        Index: seed. Empty where there are no outliers, or random sets do no damage.
    """
    own = _of_outliers(rows, change)
    some = rows[(rows["what"] == "damage") & (rows["change"] == change) & (rows["entries"] == beside)]
    return ratios(own, some.groupby("seed")["rise"].mean().reindex(own.index))


def _of_outliers(rows: pd.DataFrame, change: str = "zeroed") -> pd.Series:
    """Rise of the loss when the outliers are changed, by run; runs without any are left out."""
    some = rows[(rows["what"] == "damage") & (rows["change"] == change) & (rows["entries"] == "outliers")]
    return some[some["sets"] > 0].set_index("seed")["rise"]


def f12_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F12 of a model.

    The number judged is how many of the two legs hold; its bracket counts those whose lower limit does, and those whose
    upper limit does. Where random sets do no damage at all, that of outliers need only be above 0. The law of a
    checkpoint that is not trained here is a census. The null asks for the law of pruned noise.

    Args:
        rows: of the record `optimal`, of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two runs.
    """
    law = rows[(rows["what"] == "law") & (rows["pruned"] == KEPT) & (rows["variant"] == CLAIMED)]
    if rows["seed"].nunique() < 2:
        raise ValueError(f"F12 of {model} needs at least two runs: measure the record")
    shares = over_runs(law["wins"]) if len(law) > 1 else (float(law["wins"].iloc[0]),) * 3
    each, own = damage_ratio(rows), _of_outliers(rows)
    damage, words = None, "no outliers" if own.empty else "none at random"
    if len(each) > 1:
        damage = over_runs(each)
        words = f"{damage[0]:.1f} [{damage[1]:.1f}, {damage[2]:.1f}] ×"
    elif len(own) > 1 and over_runs(own)[1] > 0:  # more than any multiple of what random sets do
        damage, words = (math.inf,) * 3, "∞ ×"
    value, low, high = (_legs(shares[place], damage, place) for place in range(3))
    noise = float(law["noise_wins"].mean())
    parts = {
        "law": f"{shares[0]:.0%}",
        "within 0.01 bits": f"{law['near'].mean():.0%}",
        "damage": words,
    }
    details = {"parts": parts, "null_parts": {"law": noise}, "runs": int(rows["seed"].nunique())}
    return _finding(model, provenance, details, value, (low, high), float(noise >= ENOUGH))


def f12(table: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F12 of a checkpoint alone: not judged, since damage is said by a loss; its laws are told.

    Args:
        table: from `lfmlib.optimal.laws`, with `KEPT` pruned.
        model: its name.
        provenance: of the model.
    """
    body = eligible(table)
    if body.empty:
        return _finding(model, provenance, {"reason": TOO_SMALL})
    found, most = share(body, body["variant"] == CLAIMED), body["variant"].mode()[0]
    reason = (
        f"A truncated Gaussian + outliers has the shortest code in matrices with {found:.0%} of the parameters (most "
        f"often it is {most}); what outliers are worth is said by a loss, which takes the model’s task."
    )
    return _finding(model, provenance, {"reason": reason, "law_share": found})


def _legs(law: float, damage: tuple[float, float, float] | None, place: int) -> float:
    """How many of the two legs hold; of the damage the lower limit must be above 1 in any case."""
    damaging = damage is not None and damage[1] > 1 and damage[place] >= DAMAGE
    return float(int(law >= ENOUGH) + int(damaging))


def _finding(model: str, provenance: dict, details: dict, value=None, interval=None, null=None) -> Finding:
    return Finding(
        id="F12",
        model=model,
        statement=STATEMENTS["F12"],
        metric="legs that hold: the law of what pruning keeps, and the damage of losing the outliers",
        value=value,
        interval=interval,
        null=null,
        rule=RULES["F12"].text,
        verdict="undecided" if value is None else judge(RULES["F12"], value, interval),
        provenance=provenance,
        details=details,
    )
