"""F7: the standard deviation of transformation weights grows with layer depth."""

from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
from scipy import special

from ..deltas.trends import depth_trend
from .finding import Finding
from .shares import eligible, over_runs

RHO = 0.5
"""Least mean correlation of depth and std(ΔW), by Spearman."""
LEVEL = 0.05
"""Largest p, corrected for the number of roles, at which a single pair's role counts as growing."""
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
    runs = [depth_trend(some, resamples=0).set_index("role") for _, some in rows.groupby("seed")]
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
    """p-values corrected for their number (Holm 1979).

    statsmodels has this too, and collects Python's garbage at every call: in a chapter a third of a second.
    """
    rising = p.sort_values(kind="stable")
    corrected = np.maximum.accumulate(np.minimum(rising * np.arange(len(p), 0, -1), 1.0))
    return corrected.reindex(p.index)


@functools.cache
def by_chance(layers: int, runs: int = 1, level: float | None = None, draws: int = 20_000) -> float:
    """How often a random walk of so many layers, without any drift, passes for growth.

    Profiles over depth are smooth, and a smooth one often rises or falls by accident.

    Args:
        layers: steps of the walk.
        runs: independent walks, whose mean ρ and interval must pass; 1: one walk, whose ρ must be at least `RHO`, which
            is also what several runs give that all share one walk.
        level: of a single walk, ask in addition for a permutation p of at most this.
        draws: walks drawn.
    """
    rng = np.random.default_rng([layers, runs])
    rho = _rho(rng.standard_normal((draws, layers)).cumsum(axis=1))
    if runs > 1:
        each = rho[: draws // runs * runs].reshape(-1, runs)
        half = special.stdtrit(runs - 1, 0.975) * each.std(axis=1, ddof=1) / np.sqrt(runs)
        return float(((each.mean(axis=1) >= RHO) & (each.mean(axis=1) - half > 0)).mean())
    if level is None:
        return float((rho >= RHO).mean())
    shuffled = np.sort(_rho(rng.standard_normal((draws, layers))))
    p = 1 - np.searchsorted(shuffled, rho - 1e-9) / draws
    return float(((rho >= RHO) & (p <= level)).mean())


def _rho(profiles: np.ndarray) -> np.ndarray:
    """Spearman's correlation of every row ``(draws, layers)`` with its place."""
    place = np.arange(profiles.shape[1]) - (profiles.shape[1] - 1) / 2
    ranks = profiles.argsort(axis=1).argsort(axis=1) - (profiles.shape[1] - 1) / 2
    return ranks @ place / (place @ place)


def f7(table: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F7 of one pair: the permutation p, corrected for the number of roles, takes the interval's place.

    Not judged where the layers are too few for any order of them to reach such a p.

    Args:
        table: from `lfmlib.compare`.
        model: the tuned model's name.
        provenance: of the pair.
    """
    found = depth_trend(eligible(table)).set_index("role")
    if found.empty:
        return _finding(model, provenance, {"reason": TOO_SHALLOW})
    least = len(found) / math.factorial(int(found["layers"].max()))
    if least > LEVEL:
        reason = (
            f"{int(found['layers'].max())} layers and {len(found)} roles: even a perfect rise has a corrected p of "
            f"{least:.2g}, so a single pair cannot show it."
        )
        return _finding(model, provenance, {"reason": reason})
    found = found.assign(p_holm=holm(found["p"]))
    grows = (found["rho"] >= RHO) & (found["p_holm"] <= LEVEL)
    null = np.mean([by_chance(int(n), level=LEVEL / len(found)) for n in found["layers"]])
    return _finding(model, provenance, {"runs": 1}, found.assign(grows=grows), null)


def f7_over_runs(rows: pd.DataFrame, model: str, provenance: dict, shuffled: pd.DataFrame | None = None) -> Finding:
    """Finding F7 of a model fine-tuned several times.

    Its value counts the roles that grow; its interval is a bracket, which counts those whose lower limit of ρ is at
    least `RHO`, and those whose upper limit is and whose interval leaves 0 out. A role whose interval holds 0 fails the
    second half of the rule whatever its ρ is, so that no uncertainty of ρ can make it pass.

    The null is how often a role passes whose profile is a random walk that all runs share; the same for walks of their
    own stands beside it.

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
    found = trends(rows)
    if found.empty:
        return _finding(model, provenance, {"reason": TOO_SHALLOW})
    alone = float(np.mean([by_chance(int(n), int(runs)) for n in found["layers"]]))
    details = {"runs": int(runs), "independent_walks": alone}
    if shuffled is not None and len(shuffled):
        details["shuffled_labels"] = float(trends(shuffled)["grows"].mean())
    shared = np.mean([by_chance(int(n)) for n in found["layers"]])
    return _finding(model, provenance, details, found, shared, bracket(found))


def bracket(found: pd.DataFrame) -> tuple[float, float]:
    """Share of the roles whose ρ is at least `RHO` by its lower limit, and by its upper limit where the interval leaves
    0 out; from `trends`."""
    sure, possible = found["low"] >= RHO, (found["high"] >= RHO) & (found["low"] > 0)
    return float(sure.mean()), float(possible.mean())


def _finding(
    model: str,
    provenance: dict,
    details: dict,
    found: pd.DataFrame | None = None,
    null: float | None = None,
    interval: tuple[float, float] | None = None,
) -> Finding:
    value = None if found is None else float(found["grows"].mean())
    if found is not None:
        numbers = found[["rho", "p_holm", "layers"]].astype(float).round(5)
        grow = found.index[found["grows"]].tolist()
        parts = {"mean ρ": f"{found['rho'].mean():.2f}"}
        if "independent_walks" in details:
            parts["by walks of their own"] = f"{100 * details['independent_walks']:.1f}\u00a0%"
        details = {"parts": parts} | details | {"roles": numbers.T.to_dict(), "grow": grow}
    metric = "share of roles in which std(ΔW) grows with depth"
    null = None if null is None else float(null)
    return Finding.of("F7", metric, model, provenance, details, value, interval, null)
