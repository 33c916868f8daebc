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

MIN_RHO = 0.5
"""Spearman's correlation of depth and std(ΔW) from which on a role counts as growing; of several runs their mean."""
MAX_P = 0.05
"""Largest p, corrected for the number of roles, at which a role of a single pair counts as growing."""
TOO_SHALLOW = "No role has matrices in four or more layers."


def trends(rows: pd.DataFrame) -> pd.DataFrame:
    """Growth of std(ΔW) with depth over several trainings, role by role.

    Args:
        rows: role, depth, std_delta and seed, as in the record `finetuning`; of one model trained in one way.

    Returns:
        Index: role. Columns: layers; rho, low, high (mean and 95 % interval over seeds of Spearman's correlation);
        rho_interior, of the layers between the first and the last; p, exact or by permutation, of the profile averaged
        over the seeds; p_holm, corrected for the number of roles; ``grows``, by the rule of F7. Empty where no role has
        matrices in four or more layers.
    """
    runs = [depth_trend(some, resamples=0).set_index("role") for _, some in rows.groupby("seed")]
    mean = rows.groupby(["role", "depth"], sort=False, as_index=False)[["std_delta"]].mean()
    found = depth_trend(mean).set_index("role")[["layers", "p"]]
    if found.empty:
        return found
    each = pd.DataFrame({seed: run["rho"] for seed, run in enumerate(runs)})
    spans = each.apply(lambda row: pd.Series(over_runs(row), ["rho", "low", "high"]), axis=1)
    interior = pd.DataFrame({seed: run["rho_interior"] for seed, run in enumerate(runs)}).mean(axis=1)
    found = found.join(spans).assign(rho_interior=interior, p_holm=holm(found["p"]))
    return found.assign(grows=(found["rho"] >= MIN_RHO) & (found["low"] > 0))


def holm(p: pd.Series) -> pd.Series:
    """p-values corrected for their number (Holm 1979).

    As `statsmodels.stats.multitest.multipletests`, which runs Python's garbage collector at every call and so takes a
    third of a second in a chapter.

    Args:
        p: one p-value for each test.

    Returns:
        Same index.
    """
    rising = p.sort_values(kind="stable")
    return (rising * np.arange(len(p), 0, -1)).clip(upper=1.0).cummax().reindex(p.index)


@functools.cache
def by_chance(layers: int, runs: int = 1, level: float | None = None, draws: int = 20_000) -> float:
    """Share of random walks over depth, which have no drift, that pass for growth by the rule of F7.

    Profiles over depth are smooth, and a smooth profile often rises or falls by accident.

    Args:
        layers: steps of the walk.
        runs: number of independent walks whose mean ρ and interval must pass; 1: one walk, whose ρ must be at least
            `MIN_RHO`. Runs that all share one walk pass as often as one does.
        level: largest permutation p with which a single walk passes; None: any.
        draws: number of walks drawn.
    """
    rng = np.random.default_rng([layers, runs])
    rho = _rho(rng.standard_normal((draws, layers)).cumsum(axis=1))
    if runs > 1:
        each = rho[: draws // runs * runs].reshape(-1, runs)
        half = special.stdtrit(runs - 1, 0.975) * each.std(axis=1, ddof=1) / np.sqrt(runs)
        return float(((each.mean(axis=1) >= MIN_RHO) & (each.mean(axis=1) - half > 0)).mean())
    if level is None:
        return float((rho >= MIN_RHO).mean())
    shuffled = np.sort(_rho(rng.standard_normal((draws, layers))))
    p = 1 - np.searchsorted(shuffled, rho - 1e-9) / draws
    return float(((rho >= MIN_RHO) & (p <= level)).mean())


def _rho(profiles: np.ndarray) -> np.ndarray:
    """Spearman's correlation of every profile, a row of ``(draws, layers)``, with the number of the layer."""
    place = np.arange(profiles.shape[1]) - (profiles.shape[1] - 1) / 2
    ranks = profiles.argsort(axis=1).argsort(axis=1) - (profiles.shape[1] - 1) / 2
    return ranks @ place / (place @ place)


def f7(table: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F7 of one pair: the permutation p, corrected for the number of roles, takes the interval's place.

    Not judged where the layers are so few that even the profile that rises throughout has a larger p than `MAX_P`.

    Args:
        table: from `lfmlib.compare`.
        model: the tuned model's name.
        provenance: of the pair.
    """
    found = depth_trend(eligible(table)).set_index("role")
    if found.empty:
        return Finding.of("F7", model, provenance, {"reason": TOO_SHALLOW})
    least = len(found) / math.factorial(int(found["layers"].max()))
    if least > MAX_P:
        reason = (
            f"{int(found['layers'].max())} layers and {len(found)} roles: even a perfect rise has a corrected p of "
            f"{least:.2g}, so a single pair cannot show it."
        )
        return Finding.of("F7", model, provenance, {"reason": reason})
    found = found.assign(p_holm=holm(found["p"]))
    found = found.assign(grows=(found["rho"] >= MIN_RHO) & (found["p_holm"] <= MAX_P))
    null = float(np.mean([by_chance(int(n), level=MAX_P / len(found)) for n in found["layers"]]))
    details = {"parts": _mean_rho(found), "runs": 1} | _by_role(found)
    return Finding.of("F7", model, provenance, details, float(found["grows"].mean()), null=null)


def f7_over_runs(rows: pd.DataFrame, model: str, provenance: dict, shuffled: pd.DataFrame | None = None) -> Finding:
    """Finding F7 of a model fine-tuned several times.

    The value is the share of roles that grow; its interval is from `bracket`. The null is the share of roles that would
    pass if their profile were one random walk for all runs; beside it stands the share for walks of each run's own.

    Args:
        rows: of the record `finetuning`, of one model trained in one way.
        model: its name.
        provenance: of the record.
        shuffled: rows of the same model trained on labels that were exchanged, as a control.

    Raises:
        ValueError: fewer than two seeds.
    """
    if (runs := rows["seed"].nunique()) < 2:
        raise ValueError(f"F7 of a trained model needs at least two runs; {model} has {runs}")
    found = trends(rows)
    if found.empty:
        return Finding.of("F7", model, provenance, {"reason": TOO_SHALLOW})
    alone = float(np.mean([by_chance(int(n), int(runs)) for n in found["layers"]]))
    parts = _mean_rho(found) | {"by walks of their own": f"{100 * alone:.1f}\u00a0%"}
    details = {"parts": parts, "runs": int(runs), "independent_walks": alone}
    if shuffled is not None and len(shuffled):
        details["shuffled_labels"] = float(trends(shuffled)["grows"].mean())
    null = float(np.mean([by_chance(int(n)) for n in found["layers"]]))
    details |= _by_role(found)
    return Finding.of("F7", model, provenance, details, float(found["grows"].mean()), bracket(found), null)


def bracket(found: pd.DataFrame) -> tuple[float, float]:
    """Smallest and largest share of roles that may grow, by the intervals of their ρ.

    The smallest counts the roles whose lower limit is at least `MIN_RHO`; the largest those whose upper limit is and
    whose lower limit is above 0. A role whose interval holds 0 fails the rule whatever its ρ is.

    Args:
        found: from `trends`.
    """
    sure, possible = found["low"] >= MIN_RHO, (found["high"] >= MIN_RHO) & (found["low"] > 0)
    return float(sure.mean()), float(possible.mean())


def _mean_rho(found: pd.DataFrame) -> dict[str, str]:
    return {"mean ρ": f"{found['rho'].mean():.2f}"}


def _by_role(found: pd.DataFrame) -> dict:
    """What a finding's details say of each role, and which roles grow."""
    numbers = found[["rho", "p_holm", "layers"]].astype(float).round(5)
    return {"roles": numbers.T.to_dict(), "grow": found.index[found["grows"]].tolist()}
