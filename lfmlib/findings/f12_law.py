"""F12: the values that pruning keeps are a truncated Gaussian and a few outliers: by their law, and by what it costs to
lose the outliers."""

from __future__ import annotations

from functools import partial

import pandas as pd

from .finding import Finding
from .shares import ENOUGH, TOO_SMALL, among, eligible, looked_at, over_runs, ratios, share

CLAIMED = "truncated-gaussian+outliers"
"""The variant that the claim names (see `lfmlib.distribution.law.VARIANTS`)."""
STRAYS = (CLAIMED, "gaussian+outliers")
"""The same with the other reading of “truncated”: by pruning alone, the core being open above."""
NEAR = 0.01
"""Bits per weight within which a law is called near the shortest; no verdict rests on it."""
DAMAGE = 3.0
"""F12: least ratio of the damage of outliers to that of random sets of equal squared norm."""
KEPT = 0.3
"""Share of the weights that is pruned before the law of the rest is judged: what F11 asks for."""


def damage_ratio(rows: pd.DataFrame) -> pd.Series:
    """Rise of the loss when outliers are zeroed, over its mean over random sets of equal squared norm, by run.

    Args:
        rows: of the record `optimal`, of one model.

    Returns:
        Index: seed (see `ratios`). Empty where a run has no outliers, or where what random sets do is not above 0
        beyond its interval over runs: then there is nothing to divide by.
    """
    own, random = _damages(rows)
    if len(own) < max(2, rows["seed"].nunique()) or not over_runs(random)[1] > 0:
        return pd.Series(dtype=float)
    return ratios(own, random)


def _damages(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Rise of the loss when outliers are zeroed, and when random sets as large are; runs without outliers left out."""
    some = rows[(rows["what"] == "damage") & (rows["change"] == "zeroed")]
    own = some[(some["entries"] == "outliers") & (some["sets"] > 0)].set_index("seed")["rise"]
    return own, some[some["entries"] == "as large"].groupby("seed")["rise"].mean().reindex(own.index)


def _damage_leg(rows: pd.DataFrame) -> tuple[tuple[bool, bool, bool], str]:
    """Whether the leg of damage holds, by its value, its lower and its upper limit; and the damage in words."""
    each, (own, _) = damage_ratio(rows), _damages(rows)
    if len(each):
        value, low, high = over_runs(each)
        holds = value >= DAMAGE and low > 1, low >= DAMAGE, high >= DAMAGE
        return holds, f"{value:.1f} [{low:.1f}, {high:.1f}] ×"
    if own.empty:
        return (False, False, False), "no outliers"
    if len(own) == rows["seed"].nunique() and over_runs(own)[1] > 0:  # more than any multiple of nothing
        return (True, True, True), "∞ ×"
    return (False, False, True), "too little to compare"


def f12_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F12 of a model.

    The number judged is how many of the two legs hold; its bracket counts those whose lower limit does, and those whose
    upper limit does. Where random sets do no damage beyond its interval, that of outliers need only be above 0 beyond
    its own; where neither is, or some run has no outliers, the leg is open. The law of a checkpoint that is not trained
    here is a census. The null asks for the law of pruned noise.

    Args:
        rows: of the record `optimal`, of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two runs.
    """
    laws = rows[(rows["what"] == "law") & (rows["pruned"] == KEPT)]
    law = laws[laws["variant"] == CLAIMED]
    if rows["seed"].nunique() < 2:
        raise ValueError(f"F12 of {model} needs at least two runs: measure the record")
    shares = over_runs(law["wins"]) if len(law) > 1 else (float(law["wins"].iloc[0]),) * 3
    damaging, words = _damage_leg(rows)
    value, low, high = (float(int(one >= ENOUGH) + int(holds)) for one, holds in zip(shares, damaging, strict=True))
    noise = float(law["noise_wins"].mean())
    either = laws[laws["variant"].isin(STRAYS)]["wins"].sum() / len(law)
    parts = {
        "law": f"{shares[0]:.0%}",
        "with a core cut or open above": f"{either:.0%}",
        "within 0.01 bits": f"{law['near'].mean():.0%}",
        "damage": words,
    }
    details = {"parts": parts, "null_parts": {"law": noise}, "runs": int(rows["seed"].nunique())}
    return _finding(model, provenance, details, value, (low, high), float(noise >= ENOUGH))


def f12(table: pd.DataFrame, model: str, provenance: dict, whole: pd.DataFrame | None = None) -> Finding:
    """Finding F12 of a checkpoint alone: not judged, since damage is said by a loss; its laws are told.

    Args:
        table: from `lfmlib.surveys.optimal_laws.laws`, with `KEPT` pruned.
        model: its name.
        provenance: of the model.
        whole: a survey of all matrices, where the table is of some; None: it is of all.
    """
    body = eligible(table)
    if body.empty:
        return _finding(model, provenance, {"reason": TOO_SMALL})
    found, most = share(body, body["variant"] == CLAIMED), body["variant"].mode()[0]
    limits, rest = among(body, lambda rows: rows["variant"] == CLAIMED, whole), looked_at(body, whole)
    between = f" [{limits[0]:.0%}, {limits[1]:.0%}]" if limits else ""
    reason = (
        f"A truncated Gaussian + outliers has the shortest code in matrices with {found:.0%}{between} of the "
        f"parameters (most often it is {most}{f'; {rest}' if rest else ''}); what outliers are worth is said by a "
        "loss, which takes the model’s task."
    )
    return _finding(model, provenance, {"reason": reason, "law_share": found, "law_limits": limits})


_finding = partial(
    Finding.of, "F12", "legs that hold: the law of what pruning keeps, and the damage of losing the outliers"
)
