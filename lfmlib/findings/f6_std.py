"""F6: transformation weights mainly increase the standard deviation. And F5 (a): is their histogram Gaussian?"""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from .finding import Finding
from .rules import RULES, judge
from .runs import over_runs
from .shares import TOO_SMALL, eligible, share

QQ_BOUND = 0.99
"""F5 (a): R² of the Q–Q plot from which on ΔW counts as derivable from Gaussian noise."""
GAIN_BOUND = 0.5
"""F6: least median of g = (Var W - Var W₀) / Var ΔW, for which independent noise gives 1."""


def qq_share(table: pd.DataFrame) -> float:
    """F5 (a): share of the parameters of eligible matrices whose ΔW has a `qq_r2` of at least `QQ_BOUND`.

    Args:
        table: from `lfmlib.compare`, or rows of the record `finetuning`. A ΔW that is zero is left out: it has no law.
    """
    body = eligible(table)
    body = body[body["std_delta"] > 0] if "std_delta" in body else body
    return share(body, body["qq_r2"] >= QQ_BOUND)


def widening(rows: pd.DataFrame, prefix: str = "") -> dict[str, float]:
    """What ΔW does to the standard deviation of the matrices of one pair.

    Args:
        rows: eligible rows of `lfmlib.compare`, or one training's rows of the record `finetuning`.
        prefix: "noise_" for the figures of norm-matched noise.

    Returns:
        rises, the share of parameters in matrices whose std rises; gain_median and gain_mean, the median and mean of g
        over the matrices.
    """
    gain = rows[f"{prefix}gain"]
    return {
        "rises": share(rows, rows[f"{prefix}std_gain"] > 0),
        "gain_median": float(gain.median()),
        "gain_mean": float(gain.mean()),
    }


def widening_over_runs(rows: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """`widening` of several trainings.

    Args:
        rows: of the record `finetuning`, of one model trained in one way.
        prefix: as for `widening`.

    Returns:
        Index: the figures of `widening`. Columns: mean, low, high (95 % limits over seeds), runs.
    """
    each = pd.DataFrame([widening(some, prefix) for _, some in rows.groupby("seed")])
    found = pd.DataFrame({name: over_runs(each[name]) for name in each}, index=["mean", "low", "high"]).T
    found.loc["rises"] = found.loc["rises"].clip(0, 1)
    return found.assign(runs=len(each))


def f6(table: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F6 of one pair. It has no interval: all matrices count, and other fine-tunes of the model are not known.

    Args:
        table: from `lfmlib.compare`, with the control "noise".
        model: the tuned model's name.
        provenance: of the pair.
    """
    body = eligible(table)
    if body.empty:
        return Finding.of("F6", model, provenance, {"reason": TOO_SMALL})
    own, noise = (widening(body[body["control"] == kind]) for kind in ("none", "noise"))
    parts = {"median g": f"{own['gain_median']:.2f}"}
    details = own | {"parts": parts, "noise": noise, "matrices": int((body["control"] == "none").sum())}
    verdict, control = (_verdict(one["rises"], _wide(one, one["gain_mean"])) for one in (own, noise))
    found = {"null": noise["rises"], "verdict": verdict, "control": control}
    return Finding.of("F6", model, provenance, details, own["rises"], **found)


def f6_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F6 of a model fine-tuned several times, with and without weight decay; the worse verdict counts.

    Args:
        rows: of the record `finetuning`, part "plain", of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two seeds, or a weight decay is missing.
    """
    if rows["seed"].nunique() < 2 or rows["weight_decay"].nunique() < 2:
        raise ValueError(f"F6 of {model} needs at least two runs with and without weight decay: measure the record")
    found = {
        f"decay {decay:g}" if decay else "no decay": widening_over_runs(some)
        for decay, some in rows.groupby("weight_decay")
    }
    verdicts = {}
    for name, one in found.items():
        verdicts[name] = _verdict_over_runs(one)
    order = ("supported", "partly", "undecided", "contradicted")
    worst = max(found, key=lambda name: (order.index(verdicts[name]), -found[name]["mean"]["rises"]))
    counted = found[worst]
    medians = [f"{one['mean']['gain_median']:.2f}" for one in found.values()]
    details = {
        "parts": {f"median g, {' / '.join(found)}": " / ".join(medians)},
        "by_decay": {name: one.drop(columns="runs").T.to_dict() for name, one in found.items()},
        "verdicts": verdicts,
        "counts": worst,
        "runs": int(counted["runs"]["rises"]),
    }
    beside = widening_over_runs(rows, "noise_")
    noise, control = float(beside["mean"]["rises"]), _verdict_over_runs(beside)
    value, *limits = (float(counted[name]["rises"]) for name in ("mean", "low", "high"))
    judged = {"null": noise, "verdict": verdicts[worst], "control": control}
    finding = Finding.of("F6", model, provenance, details, value, (limits[0], limits[1]), **judged)
    return replace(finding, metric=f"{finding.metric}, under full fine-tuning")


def _verdict_over_runs(found: pd.DataFrame) -> str:
    """The verdict on what `widening_over_runs` gives, of a model or of its noise."""
    mean, low, high = (found[name] for name in ("mean", "low", "high"))
    return _verdict(mean["rises"], _wide(mean, low["gain_mean"]), (low["rises"], high["rises"]))


def _wide(figures, least: float) -> bool:
    """Whether g is large enough: its median, and the least that its mean may be."""
    return bool(figures["gain_median"] >= GAIN_BOUND and least > 0)


def _verdict(rises: float, wide: bool, interval: tuple[float, float] | None = None) -> str:
    """The verdict on a share; where g is too small (not ``wide``), "supported" is out of reach."""
    rule = RULES["F6"] if wide else replace(RULES["F6"], supported=math.inf)
    return judge(rule, rises, interval)
