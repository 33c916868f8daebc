"""F5: transformation weights can be derived from Gaussian noise: (a) by their histogram, (b) built from frozen noise.

The held-out ``score`` is named by a key of `lfmlib.findings.SCORE_SIGNS`, which says whether higher or lower is better.
"""

from __future__ import annotations

import math

import pandas as pd

from .f6_std import qq_share
from .finding import Finding
from .readings import FIRST_RULES
from .rules import SCORE_SIGNS, judge
from .runs import bracketed, over_runs, ratio
from .shares import SUPPORTED_SHARE, TOO_SMALL, eligible

MIN_GAIN_SHARE = 0.95
"""F5 (b): share of LoRA's gain that a ΔW built from frozen noise must reach."""
MAX_MISFIT = 0.01
"""F5 (a): median over the matrices of 1 - R² of the Q–Q plot of ΔW, at most."""
OTHER_LAWS = ("uniform", "signs")
"""Laws of frozen noise that are not Gaussian, the control of (b)."""


def gains(rows: pd.DataFrame, floor: pd.Series, *, score: str) -> pd.Series:
    """How much better the held-out score is than a floor, in the score's unit, by seed.

    Args:
        rows: of the record `derived`, one for each seed.
        floor: score by seed.
        score: "accuracy" or "loss".
    """
    by_seed = rows.set_index("seed")["score"]
    return SCORE_SIGNS[score] * (by_seed - floor.reindex(by_seed.index))


def built_share(rows: pd.DataFrame, adapter: str, budget: int, *, score: str) -> tuple[float, float, float]:
    """Gain of an adapter as a share of LoRA's, both counted from what is reached without an adapter.

    Args:
        rows: part "built" of the record `derived`, of one model.
        adapter: its name in the record.
        budget: rank of LoRA, and number of random matrices.
        score: "accuracy" or "loss".

    Returns:
        Mean and interval over seeds (see `lfmlib.findings.ratio`); NaN where LoRA gains nothing.
    """
    same = rows[rows["rank"] == budget]
    floor = rows[rows["rank"] == 0].set_index("seed")["score"]
    own, lora = (gains(same[same["adapter"] == name], floor, score=score) for name in (adapter, "lora"))
    return ratio(own, lora)


def kept_share(rows: pd.DataFrame, kind: str, *, score: str) -> tuple[float, float, float]:
    """Share of ΔW's gain that a stand-in for it keeps, both counted from no ΔW at all.

    Args:
        rows: part "stand-in" of the record `derived`, of one model.
        kind: one of `lfmlib.deltas.stand_ins.STAND_INS`.
        score: "accuracy" or "loss".

    Returns:
        Mean and interval over seeds (see `lfmlib.findings.ratio`); NaN where ΔW gains nothing.
    """
    floor = rows[rows["kind"] == "none"].set_index("seed")["score"]
    own, whole = (gains(rows[rows["kind"] == name], floor, score=score) for name in (kind, "trained"))
    return ratio(own, whole)


def built_ahead(rows: pd.DataFrame, adapter: str, rival: str, budget: int, *, score: str) -> tuple[float, float, float]:
    """Gain of an adapter less that of a rival, as a share of LoRA's, over the seeds that all three have.

    Args:
        rows, budget, score: as for `built_share`.
        adapter, rival: names in the record.

    Returns:
        Mean and interval (see `lfmlib.findings.ratio`); NaN where LoRA gains nothing.
    """
    same, floor = rows[rows["rank"] == budget], rows[rows["rank"] == 0].set_index("seed")["score"]
    own, other, lora = (gains(same[same["adapter"] == name], floor, score=score) for name in (adapter, rival, "lora"))
    return ratio(own - other, lora)


def in_loss(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the record `derived` with the held-out loss for a score, which scatters less than an accuracy."""
    return rows.assign(score=rows["loss"])


def f5_over_runs(built: pd.DataFrame, replaced: pd.DataFrame, model: str, provenance: dict, *, score: str) -> Finding:
    """Finding F5 of a model trained several times.

    The value counts the legs, (a) and (b), that hold; its interval counts those that hold by their worse limit, and
    those that do by their better one. (b) is judged at the smallest number of trained parameters. The control is noise
    of the size of ΔW for (a), and for (b) what is built from uniform noise or signs: it holds there as well where
    Gaussian noise is not ahead of both beyond the interval.

    Args:
        built, replaced: parts "built" and "stand-in" of the record `derived`, of one model.
        model: its name.
        provenance: of the record.
        score: "accuracy" or "loss", which the first rule counts gains in; the second one counts them in loss.

    Raises:
        ValueError: fewer than two seeds.
    """
    if (runs := min(built["seed"].nunique(), replaced["seed"].nunique())) < 2:
        raise ValueError(f"F5 of {model} needs at least two runs of every kind: measure the record")
    budget = int(built.loc[built["rank"] > 0, "rank"].min())
    how, counted = {"budget": budget, "score": "loss"}, in_loss(built)
    if math.isnan(built_share(built, "lora", budget, score=score)[0] + built_share(counted, "lora", **how)[0]):
        return Finding.of("F5", model, provenance, {"reason": "LoRA gains nothing over the head alone."})
    misfit = {kind: over_runs(replaced.loc[replaced["kind"] == kind, "misfit"]) for kind in ("trained", "noise")}
    shares = {law: built_share(counted, f"noise-{law}", **how) for law in ("gaussian", *OTHER_LAWS)}
    ahead = {law: built_ahead(counted, "noise-gaussian", f"noise-{law}", **how) for law in OTHER_LAWS}
    both = set.intersection(*(set(counted.loc[counted["adapter"] == f"noise-{law}", "seed"]) for law in shares))
    alike = {law: built_share(counted[counted["seed"].isin(both)], f"noise-{law}", **how)[0] for law in shares}
    (mean, low, high), built_of = misfit["trained"], shares["gaussian"]
    value, worse, better = map(_legs_held, (mean, high, low), built_of)
    others = max(shares[law][0] for law in OTHER_LAWS)
    if not all(low > 0 for _, low, _ in ahead.values()):
        others = max(others, built_of[0])
    details = {
        "parts": {
            "(a) median 1 − R²": bracketed(mean, max(low, 0), high, 4),
            "(b) of LoRA’s gain": _percent(built_of),
            f"Gaussian, uniform, ±1, on {len(both)} seeds": ", ".join(f"{one:.0%}" for one in alike.values()),
        },
        "shares": {name: list(one) for name, one in shares.items()},
        "alike": alike,
        "ahead": {name: list(one) for name, one in ahead.items()},
        "misfit": {name: list(map(float, one)) for name, one in misfit.items()},
        "budget": budget,
        "runs": int(runs),
    }
    null = _legs_held(misfit["noise"][0], others)
    return Finding.of(
        "F5", model, provenance, details, value, (worse, better), null, first=_first(built, replaced, budget, score)
    )


def _first(built: pd.DataFrame, replaced: pd.DataFrame, budget: int, score: str) -> str:
    """The verdict of the first rule, by the share of normal ΔW and gains in the score."""
    normal = over_runs(replaced.loc[replaced["kind"] == "trained", "normal_share"])
    share = built_share(built, "noise-gaussian", budget, score=score)
    value, low, high = (
        float(int(one >= SUPPORTED_SHARE) + int(other >= MIN_GAIN_SHARE))
        for one, other in zip(normal, share, strict=True)
    )
    return judge(FIRST_RULES["F5"], value, (low, high))


def f5(table: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F5 of one pair: not judged, since (b) takes trainings; the reason says how (a) comes out.

    Args:
        table: from `lfmlib.compare`.
        model: the tuned model's name.
        provenance: of the pair.
    """
    body = eligible(table)
    if body.empty:
        return Finding.of("F5", model, provenance, {"reason": TOO_SMALL})
    found = qq_share(body[body["control"] == "none"])
    reason = (
        f"(a) R² of the Q–Q plot is at least 0.99 in matrices with {found:.0%} of the parameters; (b), what can be "
        "built from noise, takes trainings on the model’s own task."
    )
    return Finding.of("F5", model, provenance, {"reason": reason, "normal_share": found})


def _legs_held(misfit: float, built: float) -> float:
    """How many legs hold at a median of 1 - R² and at a share of LoRA's gain."""
    return float(int(misfit <= MAX_MISFIT) + int(built >= MIN_GAIN_SHARE))


def _percent(found: tuple[float, float, float]) -> str:
    """A mean and its interval, shares, in per cent: "97 [95, 99] %"."""
    mean, low, high = (100 * one for one in found)
    return f"{mean:.0f} [{low:.0f}, {high:.0f}] %"
