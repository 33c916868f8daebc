"""F6: transformation weights mainly increase the standard deviation. And the first half of F5: their law."""

from __future__ import annotations

import pandas as pd

from ..findings import RULES, STATEMENTS, Finding, judge
from .shared import TOO_SMALL, eligible, over_runs, share

QQ_BOUND = 0.99
"""F5 (a): a ΔW with at least this R² of its Q–Q plot counts as derivable from Gaussian noise."""
GAIN_BOUND = 0.5
"""F6: median of g = (Var W - Var W₀) / Var ΔW at least; independent noise gives 1."""


def qq_share(table: pd.DataFrame) -> float:
    """F5 (a): share of the parameters of eligible matrices whose ΔW has `qq_r2` of at least `QQ_BOUND`."""
    body = eligible(table)
    return share(body, body["qq_r2"] >= QQ_BOUND)


def widening(rows: pd.DataFrame, prefix: str = "") -> dict[str, float]:
    """What ΔW does to the standard deviation of the matrices of one pair.

    Args:
        rows: eligible rows of `lfmlib.compare`, or one training's rows of the record `finetuning`.
        prefix: "noise_" for the figures of norm-matched noise.

    Returns:
        rises, the share of parameters in matrices whose std rises; gain_median and gain_mean, of g over the matrices.
    """
    gain = rows[f"{prefix}gain"]
    return {
        "rises": share(rows, rows[f"{prefix}std_gain"] > 0),
        "gain_median": float(gain.median()),
        "gain_mean": float(gain.mean()),
    }


def widening_over_runs(rows: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """`widening` of every training: index figure; columns mean, low, high (95 % over seeds), runs."""
    each = pd.DataFrame([widening(some, prefix) for _, some in rows.groupby("seed")])
    found = pd.DataFrame({name: over_runs(each[name]) for name in each}, index=["mean", "low", "high"]).T
    found.loc["rises"] = found.loc["rises"].clip(0, 1)
    return found.assign(runs=len(each))


def f6(table: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F6 of one pair; a census, which says nothing of other fine-tunes of the same model.

    Args:
        table: from `lfmlib.compare`, with the control "noise".
        model: the tuned model's name.
        provenance: of the pair.
    """
    body = eligible(table)
    if body.empty:
        return _finding(model, provenance, None, None, None, {"reason": TOO_SMALL})
    own, noise = (widening(body[body["control"] == kind]) for kind in ("none", "noise"))
    wide = own["gain_median"] >= GAIN_BOUND and own["gain_mean"] > 0
    details = own | {"wide": bool(wide), "noise": noise, "matrices": int((body["control"] == "none").sum())}
    return _finding(model, provenance, own["rises"], None, noise["rises"], details)


def f6_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F6 of a model fine-tuned several times, with and without weight decay; the worse of the two counts.

    Args:
        rows: of the record `finetuning`, part "plain", of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two seeds, or a weight decay is missing.
    """
    if rows["seed"].nunique() < 2 or rows["weight_decay"].nunique() < 2:
        raise ValueError(f"F6 of {model} needs at least two runs with and without weight decay: measure the record")
    by_decay = {decay: widening_over_runs(some) for decay, some in rows.groupby("weight_decay")}
    worst = min(by_decay.values(), key=lambda found: found.loc["rises", "mean"]).loc["rises"]
    wide = all(
        found.loc["gain_median", "mean"] >= GAIN_BOUND and found.loc["gain_mean", "low"] > 0
        for found in by_decay.values()
    )
    names = {decay: f"decay {decay:g}" if decay else "no decay" for decay in by_decay}
    details = {
        "parts": {names[decay]: found.loc["rises", "mean"] for decay, found in by_decay.items()},
        "gain": {names[decay]: found.drop(columns="runs").T.to_dict() for decay, found in by_decay.items()},
        "wide": bool(wide),
        "runs": int(worst["runs"]),
    }
    noise = float(widening_over_runs(rows, "noise_").loc["rises", "mean"])
    return _finding(model, provenance, worst["mean"], (worst["low"], worst["high"]), noise, details)


def _finding(model: str, provenance: dict, value, interval, null, details: dict) -> Finding:
    rule = RULES["F6"]
    verdict = "undecided" if value is None else judge(rule, value, interval)
    if verdict == "supported" and not details["wide"]:
        verdict = "partly"
    return Finding(
        id="F6",
        model=model,
        statement=STATEMENTS["F6"],
        metric="share of parameters in matrices whose standard deviation rises",
        value=value if value is None else float(value),
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        null=null,
        rule=rule.text,
        verdict=verdict,
        provenance=provenance,
        details=details,
    )
