"""F7: the standard deviation of transformation weights grows with layer depth."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from ..delta import depth_trend
from ..findings import RULES, STATEMENTS, Finding, judge
from .shared import eligible, over_runs

RHO = 0.5
"""Least mean correlation of depth and std(ΔW), by Spearman."""
TOO_SHALLOW = "No role has matrices in four or more layers."


def trends(rows: pd.DataFrame) -> pd.DataFrame:
    """Growth with depth over several trainings, role by role.

    Args:
        rows: role, depth, std_delta and seed, as in the record `finetuning`; of one model trained in one way.

    Returns:
        Index: role. Columns: layers; rho, low, high (mean and 95 % interval over seeds of Spearman's correlation);
        rho_interior, of the layers between the first and the last; p, exact or by permutation, of the profile averaged
        over the seeds; p_holm, corrected for the number of roles; ``grows``, by the rule of F7. Empty where no role has
        four layers.
    """
    runs = [depth_trend(some).set_index("role") for _, some in rows.groupby("seed")]
    mean = rows.groupby(["role", "depth"], sort=False, as_index=False)["std_delta"].mean()
    found = depth_trend(mean).set_index("role")[["layers", "p"]]
    if found.empty:
        return found
    each = pd.DataFrame({seed: run["rho"] for seed, run in enumerate(runs)})
    spans = each.apply(lambda row: pd.Series(over_runs(row), ["rho", "low", "high"]), axis=1)
    interior = pd.DataFrame({seed: run["rho_interior"] for seed, run in enumerate(runs)}).mean(axis=1)
    found = found.join(spans).assign(rho_interior=interior, p_holm=holm(found["p"]))
    return found.assign(grows=(found["rho"] >= RHO) & (found["low"] > 0))


def holm(p: pd.Series) -> pd.Series:
    """p-values corrected for their number (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests  # here, because importing it takes a second

    return pd.Series(multipletests(p, method="holm")[1], p.index)


@functools.cache
def by_chance(layers: int, draws: int = 20_000) -> float:
    """How often a random walk of so many layers, without any drift, has a correlation of at least `RHO`.

    Profiles over depth are smooth; a smooth one often rises or falls by accident.
    """
    walks = np.random.default_rng(layers).standard_normal((draws, layers)).cumsum(axis=1)
    ranks = walks.argsort(axis=1).argsort(axis=1) - (layers - 1) / 2
    depth = np.arange(layers) - (layers - 1) / 2
    return float((ranks @ depth / (depth @ depth) >= RHO).mean())


def f7(table: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F7 of one pair: the permutation p, corrected for the number of roles, takes the interval's place.

    Args:
        table: from `lfmlib.compare`.
        model: the tuned model's name.
        provenance: of the pair.
    """
    found = depth_trend(eligible(table)).set_index("role")
    if found.empty:
        return _finding(model, provenance, found, {})
    found = found.assign(p_holm=holm(found["p"]))
    return _finding(
        model, provenance, found.assign(grows=(found["rho"] >= RHO) & (found["p_holm"] <= 0.05)), {"runs": 1}
    )


def f7_over_runs(rows: pd.DataFrame, model: str, provenance: dict, shuffled: pd.DataFrame | None = None) -> Finding:
    """Finding F7 of a model fine-tuned several times.

    Args:
        rows: of the record `finetuning`, of one model trained in one way.
        model: its name.
        provenance: of the record.
        shuffled: rows of the same with labels exchanged, as a control.

    Raises:
        ValueError: fewer than two seeds.
    """
    if (runs := rows["seed"].nunique()) < 2:
        raise ValueError(f"F7 of a trained model needs at least two runs; {model} has {runs}")
    details = {"runs": int(runs)}
    if shuffled is not None and len(shuffled):
        details["null_parts"] = {"shuffled labels": float(trends(shuffled)["grows"].mean())}
    return _finding(model, provenance, trends(rows), details)


def _finding(model: str, provenance: dict, found: pd.DataFrame, details: dict) -> Finding:
    rule = RULES["F7"]
    value = float(found["grows"].mean()) if len(found) else None
    if value is None:
        details = {"reason": TOO_SHALLOW}
    else:
        numbers = found[["rho", "p_holm", "layers"]].astype(float).round(5)
        details = details | {"roles": numbers.T.to_dict(), "grow": found.index[found["grows"]].tolist()}
    return Finding(
        id="F7",
        model=model,
        statement=STATEMENTS["F7"],
        metric="share of roles in which std(ΔW) grows with depth",
        value=value,
        interval=None,  # the rule asks for an interval role by role
        null=None if value is None else float(np.mean([by_chance(int(n)) for n in found["layers"]])),
        rule=rule.text,
        verdict="undecided" if value is None else judge(rule, value),
        provenance=provenance,
        details=details,
    )
