"""F6: transformation weights mainly increase the standard deviation. And F5 (a): is their histogram Gaussian?"""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from .finding import Finding
from .readings import FIRST_RULES
from .rules import RULES, Rule, judge
from .runs import over_runs
from .shares import TOO_SMALL, eligible, share

QQ_BOUND = 0.99
"""F5 (a): R² of the Q–Q plot from which on ΔW counts as derivable from Gaussian noise."""
GAIN_BOUND = 0.5
"""F6, first rule: least median of g = (Var W - Var W₀) / Var ΔW, for which independent noise gives 1."""
Z = 3.0
"""Of a single pair: standard errors, by the scatter of noise of ΔW's size, that the mean covariance may be below 0, and
within which the sign of a g is not known. Beyond three lies one draw of noise in 740; the control is one draw."""


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
        rises, the share of parameters in matrices whose std rises; widened, the share of the matrices; gain_median and
        gain_mean, the median and mean of g over them; covariance, the mean of 2 Cov(W₀, ΔW) / Var W₀, NaN without
        ``std_base``.
    """
    gain = rows[f"{prefix}gain"]
    size = rows["std_delta"] / rows["std_base"] if "std_base" in rows else math.nan
    covariance = ((gain - 1) * size**2).where(rows["std_delta"] > 0, 0.0)  # of a ΔW that is zero there is no g
    return {
        "rises": share(rows, rows[f"{prefix}std_gain"] > 0),
        "widened": float((gain > 0).mean()),
        "gain_median": float(gain.median()),
        "gain_mean": float(gain.mean()),
        "covariance": float(covariance.mean()),
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
    shares = ["rises", "widened"]
    found.loc[shares] = found.loc[shares].clip(0, 1)
    return found.assign(runs=len(each))


def f6(table: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F6 of one pair. All matrices count, and other fine-tunes of the model are not known; its interval holds
    the matrices that moved so little that noise of ΔW's size might have given their g either sign.

    Args:
        table: from `lfmlib.compare`, with the control "noise".
        model: the tuned model's name.
        provenance: of the pair.
    """
    body = eligible(table)
    if body.empty:
        return Finding.of("F6", model, provenance, {"reason": TOO_SMALL})
    if not (body.loc[body["control"] == "none", "std_delta"] > 0).any():
        return Finding.of("F6", model, provenance, {"reason": "ΔW is exactly zero in every judged matrix."})
    each = {kind: body[body["control"] == kind] for kind in ("none", "noise")}
    own, noise = (widening(rows) for rows in each.values())
    parts = {"mean g": f"{own['gain_mean']:.2f}", "median": f"{own['gain_median']:.2f}"}
    details = own | {"parts": parts, "noise": noise, "matrices": len(each["none"])}
    verdict, control = (
        _verdict(one["widened"], one["covariance"] >= -Z * _scatter(rows), _unsure(rows))
        for one, rows in zip((own, noise), each.values(), strict=True)
    )
    first = _verdict(own["rises"], _wide(own, own["gain_mean"]), rule=FIRST_RULES["F6"])
    found = {"null": noise["widened"], "verdict": verdict, "control": control, "first": first}
    return Finding.of("F6", model, provenance, details, own["widened"], _unsure(each["none"]), **found)


def _unsure(rows: pd.DataFrame) -> tuple[float, float]:
    """Limits of the share of matrices with g > 0: where g is above 0 beyond its scatter as noise, 2 std(W₀) /
    (std(ΔW) √n) of a matrix, and where it is not below 0 beyond that."""
    scatter = 2 * rows["std_base"] / rows["std_delta"] / rows["numel"] ** 0.5
    return float((rows["gain"] > Z * scatter).mean()), float((rows["gain"] > -Z * scatter).mean())


def _scatter(rows: pd.DataFrame) -> float:
    """Standard error of the mean of 2 Cov(W₀, ΔW) / Var W₀ where ΔW is noise: 2 std(ΔW) / (std(W₀) √n) of a matrix."""
    each = 2 * rows["std_delta"] / rows["std_base"] / rows["numel"] ** 0.5
    return float((each**2).sum() ** 0.5 / len(each))


def f6_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F6 of a model fine-tuned several times; judged at the recipe's own weight decay, the largest of the rows.

    The first rule asks for more: training without a decay as well, the worse verdict counting.

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
    own = rows[rows["weight_decay"] == rows["weight_decay"].max()]
    counted, noise = list(found.values())[-1], widening_over_runs(own, "noise_")
    verdict, control = (
        _verdict(one["mean"]["widened"], one["high"]["covariance"] >= 0, _limits(one)) for one in (counted, noise)
    )
    means = [f"{one['mean']['gain_mean']:.2f}" for one in found.values()]
    earlier = {name: _first_over_runs(one) for name, one in found.items()}
    details = {
        "parts": {f"mean g, {' / '.join(found)}": " / ".join(means)},
        "by_decay": {name: one.drop(columns="runs").T.to_dict() for name, one in found.items()},
        "first_verdicts": earlier,
        "runs": int(counted["runs"]["widened"]),
    }
    judged = {
        "null": float(noise["mean"]["widened"]),
        "verdict": verdict,
        "control": control,
        "first": max(earlier.values(), key=("supported", "partly", "undecided", "contradicted").index),
    }
    value = float(counted["mean"]["widened"])
    finding = Finding.of("F6", model, provenance, details, value, _limits(counted), **judged)
    return replace(finding, metric=f"{finding.metric}, under full fine-tuning")


def _limits(found: pd.DataFrame, figure: str = "widened") -> tuple[float, float]:
    """The interval of a share, from `widening_over_runs`."""
    return float(found["low"][figure]), float(found["high"][figure])


def _first_over_runs(found: pd.DataFrame) -> str:
    """The verdict of the first rule on what `widening_over_runs` gives."""
    mean, least = found["mean"], found["low"]["gain_mean"]
    return _verdict(mean["rises"], _wide(mean, least), _limits(found, "rises"), FIRST_RULES["F6"])


def _wide(figures, least: float) -> bool:
    """First rule: whether g is large enough: its median, and the least that its mean may be."""
    return bool(figures["gain_median"] >= GAIN_BOUND and least > 0)


def _verdict(value: float, enough: bool, interval: tuple[float, float] | None = None, rule: Rule = RULES["F6"]) -> str:
    """The verdict on a share that rises; where g is too small (not ``enough``), "supported" is out of reach."""
    return judge(rule if enough else replace(rule, supported=math.inf), value, interval)
