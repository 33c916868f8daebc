"""F12: the values that pruning keeps are a truncated Gaussian and a few outliers.

Two legs: the law that codes these values shortest, and how much the loss rises when the outliers are set to zero.
"""

from __future__ import annotations

import math

import pandas as pd

from .finding import Finding
from .readings import FIRST_RULES
from .rules import judge
from .runs import over_runs, ratio, whole_mean
from .shares import SUPPORTED_SHARE, TOO_SMALL, eligible, interval_over_matrices, looked_at, share

CLAIMED_LAW = "truncated-gaussian+outliers"
"""The law that the claim names: one of `lfmlib.distribution.coding.VARIANTS`."""
OUTLIER_LAWS = (CLAIMED_LAW, "gaussian+outliers")
"""Both readings of “truncated”: a core that ends where the outliers begin, and one that only pruning has cut."""
SIMPLER_LAWS = ("gaussian", "truncated-gaussian", "gaussian+outliers", "laplace", "truncated-laplace")
"""Laws with fewer parameters than the claimed one, which therefore tells nothing where one of them does as well."""
NEAR_BITS = 0.01
"""Bits per weight within which a law counts as near the shortest."""
MIN_DAMAGE = 0.01
"""Least damage of random sets, as a share of the gap to guessing, below which there is nothing to compare."""
MIN_DAMAGE_RATIO = 3.0
"""Least ratio of the damage of outliers to that of random sets of equal squared norm."""
PRUNED_SHARE = 0.3
"""Share of the weights that is pruned before the law of the rest is judged: that which F11 asks for."""


def damage_ratio(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Rise of the loss when the outliers are zeroed, over its rise when random sets of equal squared norm are.

    Args:
        rows: of the record `optimal`, of one model.

    Returns:
        Ratio and interval over runs (see `lfmlib.findings.ratio`). NaN where a run has no outliers, or where the rise
        by random sets is not above 0 beyond its interval over runs, so that there is nothing to divide by.
    """
    own, random = _damages(rows)
    if len(own) < max(2, rows["seed"].nunique()) or not over_runs(random)[1] > 0:
        return math.nan, math.nan, math.nan
    return ratio(own, random)


def _damages(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """By run, the rise of the loss when the outliers are zeroed, and its mean when random sets of equal squared norm
    are; runs without outliers are left out."""
    some = rows[(rows["what"] == "damage") & (rows["change"] == "zeroed")]
    own = some[(some["entries"] == "outliers") & (some["sets"] > 0)].set_index("seed")["rise"]
    return own, some[some["entries"] == "as large"].groupby("seed")["rise"].agg(whole_mean).reindex(own.index)


def _damage_leg(rows: pd.DataFrame) -> tuple[tuple[bool, bool, bool], str]:
    """Whether the leg of damage holds, by its value, by its lower and by its upper limit; and the damage in words.

    It does not where random sets of equal squared norm do less than `MIN_DAMAGE`: there is nothing to compare.
    """
    own, random = _damages(rows)
    about = rows[rows["what"] == "model"].set_index("seed")
    closed = float((random / (about["prior"] - about["own"]).reindex(random.index)).mean()) if len(random) else 0.0
    if len(own) and closed < MIN_DAMAGE:
        return (False, False, False), f"nothing to compare (random sets {max(closed, 0.0):.1%} of the gap)"
    return _first_damage_leg(rows)


def _first_damage_leg(rows: pd.DataFrame) -> tuple[tuple[bool, bool, bool], str]:
    """As `_damage_leg`, by the first rule, which compared any damage above 0."""
    (value, low, high), (own, _) = damage_ratio(rows), _damages(rows)
    if not math.isnan(value):
        holds = value >= MIN_DAMAGE_RATIO and low > 1, low >= MIN_DAMAGE_RATIO, high >= MIN_DAMAGE_RATIO
        return holds, f"{value:.1f} [{low:.1f}, {high:.1f}] ×"
    if own.empty:
        return (False, False, False), "no outliers"
    if len(own) == rows["seed"].nunique() and over_runs(own)[1] > 0:  # outliers do damage, random sets none
        return (True, True, True), "∞ ×"
    return (False, False, True), "too little to compare"


def f12_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F12 of a model.

    The value counts the legs that hold; its interval counts those that hold by their lower limit, and those that do by
    their upper limit. Where the damage of random sets is not above 0 beyond its interval over runs, that of outliers
    need only be above 0 beyond its own; where neither is, or only some runs have outliers, the leg is open; where no
    run has any, or random sets do less than `MIN_DAMAGE`, it does not hold. The law holds where the claimed one is
    within `NEAR_BITS` of the shortest and none of `SIMPLER_LAWS` is, in matrices with `SUPPORTED_SHARE`. A checkpoint
    that is not trained here has one law for all runs, and so no interval of it. The null is whether the law of pruned
    noise is the claimed one.

    Args:
        rows: of the record `optimal`, of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two runs.
    """
    laws = rows[(rows["what"] == "law") & (rows["pruned"] == PRUNED_SHARE)]
    law = laws[laws["variant"] == CLAIMED_LAW]
    if rows["seed"].nunique() < 2:
        raise ValueError(f"F12 of {model} needs at least two runs: measure the record")
    shares = _spread(law["wins"])
    near = {variant: _spread(some["near"]) for variant, some in laws.groupby("variant")}
    simpler = max((variant for variant in SIMPLER_LAWS if variant in near), key=lambda one: near[one])
    fits = [one >= SUPPORTED_SHARE for one in near[CLAIMED_LAW]]
    mean, low, high = (one >= SUPPORTED_SHARE for one in near[simpler])
    law_holds = [fit and not same for fit, same in zip(fits, (mean, high, low), strict=True)]
    damaging, words = _damage_leg(rows)
    value, low, high = (float(int(one) + int(holds)) for one, holds in zip(law_holds, damaging, strict=True))
    before = [one >= SUPPORTED_SHARE for one in shares], _first_damage_leg(rows)[0]
    first = [float(int(one) + int(holds)) for one, holds in zip(*before, strict=True)]
    noise = float(law["noise_wins"].mean())
    either = laws[laws["variant"].isin(OUTLIER_LAWS)]["wins"].sum() / len(law)
    parts = {
        "law, within 0.01 bits": f"{near[CLAIMED_LAW][0]:.0%}",
        "a simpler one": f"{near[simpler][0]:.0%}, {simpler}",
        "shortest": f"{shares[0]:.0%}",
        "damage": words,
    }
    details = {
        "parts": parts,
        "null_parts": {"law": noise},
        "cut_or_open": float(either),
        "runs": int(rows["seed"].nunique()),
    }
    judged = judge(FIRST_RULES["F12"], first[0], (first[1], first[2]))
    null = float(noise >= SUPPORTED_SHARE)
    return Finding.of("F12", model, provenance, details, value, (low, high), null, first=judged)


def _spread(each: pd.Series) -> tuple[float, float, float]:
    """Mean over runs and its interval; a single value, of a checkpoint that has one law for all runs, thrice."""
    if len(each) > 1:
        return over_runs(each)
    return float(each.iloc[0]), float(each.iloc[0]), float(each.iloc[0])


def f12(table: pd.DataFrame, model: str, provenance: dict, whole: pd.DataFrame | None = None) -> Finding:
    """Finding F12 of a checkpoint alone: not judged, since damage is told by a loss; the reason says how the law is.

    Args:
        table: from `lfmlib.laws`, with `PRUNED_SHARE` pruned.
        model: its name.
        provenance: of the model.
        whole: a survey of all matrices, where the table is of some; None: it is of all.
    """
    body = eligible(table)
    if body.empty:
        return Finding.of("F12", model, provenance, {"reason": TOO_SMALL})
    found, most = share(body, body["variant"] == CLAIMED_LAW), body["variant"].mode()[0]
    limits = interval_over_matrices(body, lambda rows: rows["variant"] == CLAIMED_LAW, whole)
    rest = looked_at(body, whole)
    between = f" [{limits[0]:.0%}, {limits[1]:.0%}]" if limits else ""
    reason = (
        f"A truncated Gaussian + outliers has the shortest code in matrices with {found:.0%}{between} of the "
        f"parameters (most often it is {most}{f'; {rest}' if rest else ''}); what outliers are worth is said by a "
        "loss, which takes the model’s task."
    )
    return Finding.of("F12", model, provenance, {"reason": reason, "law_share": found, "law_limits": limits})
