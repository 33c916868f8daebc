"""F7: the standard deviation of transformation weights grows with layer depth."""

from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
from scipy import special

from ..deltas.trends import depth_trend, log_slopes
from .finding import Finding
from .readings import FIRST_RULES
from .rules import judge
from .runs import holm, over_runs
from .shares import eligible

MIN_RHO = 0.5
"""Spearman's correlation of depth and std(ΔW) from which on a role counts as growing; of several runs their mean."""
MAX_P = 0.05
"""Largest p, corrected for the number of roles, at which a role of a single pair counts as growing."""
PERMUTATIONS = 9999
"""Drawn for the p of a single pair."""
ONE_WALK = 0.5
"""Share of random walks over depth that rise; where all runs share one, none of them falls."""
MIN_LAYERS = 6
"""Layers that a role needs: of fewer, an order holds no evidence."""
TOO_SHALLOW = f"No role has matrices in {MIN_LAYERS} or more layers."


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


@functools.cache
def by_chance(
    layers: int, runs: int = 1, level: float | None = None, draws: int = 20_000, *, of_slope: bool = False
) -> float:
    """Share of random walks over depth, which have no drift, that pass for growth by the rule of F7.

    Profiles over depth are smooth, and a smooth profile often rises or falls by accident.

    Args:
        layers: steps of the walk.
        runs: number of independent walks whose mean ρ and interval must pass; 1: one walk, whose ρ must be at least
            `MIN_RHO`. Runs that all share one walk pass as often as one does.
        level: largest permutation p with which a single walk passes; None: any.
        draws: number of walks drawn.
        of_slope: the walk is log std(ΔW), and its slope must be above 0; otherwise, as by the first rule, Spearman's
            ρ must be at least `MIN_RHO`.
    """
    rng = np.random.default_rng([layers, runs])
    if of_slope:
        return _slope_by_chance(rng.standard_normal((draws, layers)).cumsum(axis=1), runs, level, rng)
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


def _slope_by_chance(walks: np.ndarray, runs: int, level: float | None, rng: np.random.Generator) -> float:
    """`by_chance` for slopes: of walks, ``(draws, layers)``."""
    place = np.arange(walks.shape[1]) - (walks.shape[1] - 1) / 2
    if runs > 1:
        each = (walks @ place)[: len(walks) // runs * runs].reshape(-1, runs)
        half = special.stdtrit(runs - 1, 0.975) * each.std(axis=1, ddof=1) / np.sqrt(runs)
        return float((each.mean(axis=1) - half > 0).mean())
    walks = walks[:2000]
    shuffled = np.stack([rng.permuted(walks, axis=1) @ place for _ in range(999)])
    p = (1 + (shuffled >= walks @ place).sum(axis=0)) / 1000
    return float((p <= (level or 1.0)).mean())


def _rho(profiles: np.ndarray) -> np.ndarray:
    """Spearman's correlation of every profile, a row of ``(draws, layers)``, with the number of the layer."""
    place = np.arange(profiles.shape[1]) - (profiles.shape[1] - 1) / 2
    ranks = profiles.argsort(axis=1).argsort(axis=1) - (profiles.shape[1] - 1) / 2
    return ranks @ place / (place @ place)


def f7(table: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F7 of one pair: the permutation p, corrected for the number of roles, takes the interval's place.

    Args:
        table: from `lfmlib.compare`.
        model: the tuned model's name.
        provenance: of the pair.
    """
    body, first = eligible(table), _first_of_a_pair(table)
    found = log_slopes(body, least=MIN_LAYERS, resamples=PERMUTATIONS).set_index("role")
    if found.empty:
        return Finding.of("F7", model, provenance, {"reason": TOO_SHALLOW}, first=first)
    found = found.assign(p_holm=holm(found["p"]))
    found = found.assign(grows=(found["slope"] > 0) & (found["p_holm"] <= MAX_P))
    level = MAX_P / len(found)
    null = float(np.mean([by_chance(int(n), level=level, of_slope=True) for n in found["layers"]]))
    details = {"parts": _mean_slope(found), "runs": 1} | _by_role(found)
    return Finding.of("F7", model, provenance, details, float(found["grows"].mean()), null=null, first=first)


def _first_of_a_pair(table: pd.DataFrame) -> str:
    """The verdict of the first rule, on Spearman's correlation."""
    found = depth_trend(eligible(table)).set_index("role")
    if found.empty or len(found) / math.factorial(int(found["layers"].max())) > MAX_P:
        return "undecided"
    grows = (found["rho"] >= MIN_RHO) & (holm(found["p"]) <= MAX_P)
    return judge(FIRST_RULES["F7"], float(grows.mean()))


def f7_over_runs(rows: pd.DataFrame, model: str, provenance: dict, shuffled: pd.DataFrame | None = None) -> Finding:
    """Finding F7 of a model fine-tuned several times.

    The value is the share of roles whose slope is above 0 beyond its interval over runs, which leaves it no interval of
    its own. The null is the share of roles that would pass if their profile were one random
    walk for all runs: one half. Beside it stands the share for walks of each run's own.

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
    before, found = trends(rows), slopes(rows)
    first = "undecided" if before.empty else judge(FIRST_RULES["F7"], float(before["grows"].mean()), bracket(before))
    if found.empty:
        return Finding.of("F7", model, provenance, {"reason": TOO_SHALLOW}, first=first)
    alone = float(np.mean([by_chance(int(n), int(runs), of_slope=True) for n in found["layers"]]))
    parts = _mean_slope(found) | {"by walks of their own": f"{100 * alone:.1f}\u00a0%"}
    details = {"parts": parts, "runs": int(runs), "independent_walks": alone}
    if shuffled is not None and len(shuffled):
        details["shuffled_labels"] = float(slopes(shuffled)["grows"].mean())
    details |= _by_role(found)
    value = float(found["grows"].mean())
    return Finding.of("F7", model, provenance, details, value, (value, value), ONE_WALK, first=first)


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """Growth of std(ΔW) with depth over several trainings, role by role, as the slope of its logarithm.

    Args:
        rows: as for `trends`.

    Returns:
        Index: role. Columns: layers; slope, low, high (mean and 95 % interval over seeds, see
        `lfmlib.deltas.trends.log_slopes`); ``grows``, by the rule of F7. Empty where no role has `MIN_LAYERS`.
    """
    runs = [log_slopes(some, least=MIN_LAYERS).set_index("role") for _, some in rows.groupby("seed")]
    each = pd.DataFrame({seed: run["slope"] for seed, run in enumerate(runs)})
    spans = pd.DataFrame([over_runs(row) for _, row in each.iterrows()], each.index, ["slope", "low", "high"])
    return runs[0][["layers"]].join(spans).assign(grows=lambda found: found["low"] > 0)


def bracket(found: pd.DataFrame) -> tuple[float, float]:
    """Smallest and largest share of roles that may grow, by the intervals of their ρ.

    The smallest counts the roles whose lower limit is at least `MIN_RHO`; the largest those whose upper limit is and
    whose lower limit is above 0. A role whose interval holds 0 fails the rule whatever its ρ is.

    Args:
        found: from `trends`.
    """
    sure, possible = found["low"] >= MIN_RHO, (found["high"] >= MIN_RHO) & (found["low"] > 0)
    return float(sure.mean()), float(possible.mean())


def _mean_slope(found: pd.DataFrame) -> dict[str, str]:
    return {"growth along the fitted line": f"× {math.exp(found['slope'].mean()):.2f}"}


def _by_role(found: pd.DataFrame) -> dict:
    """What a finding's details say of each role, and which roles grow."""
    kept = [name for name in ("slope", "low", "high", "p_holm", "layers") if name in found]
    numbers = found[kept].astype(float).round(5)
    return {"roles": numbers.T.to_dict(), "grow": found.index[found["grows"]].tolist()}
