"""F5: transformation weights can be derived from Gaussian noise: (a) by their histogram, (b) built from frozen noise.

The held-out ``score`` is named by a key of `lfmlib.findings.SCORE_SIGNS`, which says whether higher or lower is better.
"""

from __future__ import annotations

import math

import pandas as pd

from .f6_std import qq_share
from .finding import Finding
from .rules import SCORE_SIGNS
from .runs import over_runs, ratios
from .shares import SUPPORTED_SHARE, TOO_SMALL, eligible

MIN_GAIN_SHARE = 0.95
"""F5 (b): share of LoRA's gain that a ΔW built from frozen noise must reach."""


def gains(rows: pd.DataFrame, floor: pd.Series, *, score: str) -> pd.Series:
    """How much better the held-out score is than a floor, in the score's unit, by seed.

    Args:
        rows: of the record `derived`, one for each seed.
        floor: score by seed.
        score: "accuracy" or "loss".
    """
    by_seed = rows.set_index("seed")["score"]
    return SCORE_SIGNS[score] * (by_seed - floor.reindex(by_seed.index))


def built_share(rows: pd.DataFrame, adapter: str, budget: int, *, score: str) -> pd.Series:
    """Gain of an adapter as a share of LoRA's, both counted from what is reached without an adapter.

    Args:
        rows: part "built" of the record `derived`, of one model.
        adapter: its name in the record.
        budget: rank of LoRA, and number of random matrices.
        score: "accuracy" or "loss".

    Returns:
        Index: seed (see `lfmlib.findings.ratios`). Empty where LoRA gains nothing, so that there is no share of it.
    """
    same = rows[rows["rank"] == budget]
    floor = rows[rows["rank"] == 0].set_index("seed")["score"]
    own, lora = (gains(same[same["adapter"] == name], floor, score=score) for name in (adapter, "lora"))
    return ratios(own, lora)


def kept_share(rows: pd.DataFrame, kind: str, *, score: str) -> pd.Series:
    """Share of ΔW's gain that a stand-in for it keeps, both counted from no ΔW at all.

    Args:
        rows: part "stand-in" of the record `derived`, of one model.
        kind: one of `lfmlib.deltas.stand_ins.STAND_INS`.
        score: "accuracy" or "loss".

    Returns:
        Index: seed (see `lfmlib.findings.ratios`). Empty where ΔW gains nothing.
    """
    floor = rows[rows["kind"] == "none"].set_index("seed")["score"]
    own, whole = (gains(rows[rows["kind"] == name], floor, score=score) for name in (kind, "trained"))
    return ratios(own, whole)


def f5_over_runs(built: pd.DataFrame, replaced: pd.DataFrame, model: str, provenance: dict, *, score: str) -> Finding:
    """Finding F5 of a model trained several times.

    The value counts the legs, (a) and (b), that hold; its interval counts those that hold by their lower limit, and
    those that do by their upper limit. (b) is judged at the smallest number of trained parameters. The null is the same
    count for Gaussian noise of the size of ΔW.

    Args:
        built, replaced: parts "built" and "stand-in" of the record `derived`, of one model.
        model: its name.
        provenance: of the record.
        score: "accuracy" or "loss".

    Raises:
        ValueError: fewer than two seeds.
    """
    if (runs := min(built["seed"].nunique(), replaced["seed"].nunique())) < 2:
        raise ValueError(f"F5 of {model} needs at least two runs of every kind: measure the record")
    budget = int(built.loc[built["rank"] > 0, "rank"].min())
    if built_share(built, "lora", budget, score=score).empty or kept_share(replaced, "trained", score=score).empty:
        return Finding.of("F5", model, provenance, {"reason": "LoRA, or ΔW itself, gains nothing over the head alone."})
    normal = {kind: over_runs(replaced.loc[replaced["kind"] == kind, "normal_share"]) for kind in ("trained", "noise")}
    laws = ("gaussian", "uniform", "signs")
    shares = {law: over_runs(built_share(built, f"noise-{law}", budget, score=score)) for law in laws}
    value, low, high = map(_legs_held, normal["trained"], shares["gaussian"])
    noise = (normal["noise"][0], float(kept_share(replaced, "noise", score=score).mean()))
    details = {
        "parts": {
            "(a) R² ≥ 0.99": _percent(normal["trained"], most=1.0),
            "(b) of LoRA’s gain": _percent(shares["gaussian"]),
            "of uniform noise, of ±1": " and ".join(f"{shares[law][0]:.0%}" for law in laws[1:]),
        },
        "null_parts": {"(a)": noise[0], "(b)": noise[1]},
        "shares": {name: list(map(float, span)) for name, span in shares.items()},
        "normal": list(map(float, normal["trained"])),
        "budget": budget,
        "runs": int(runs),
    }
    return Finding.of("F5", model, provenance, details, value, (low, high), _legs_held(*noise))


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


def _legs_held(normal: float, built: float) -> float:
    """How many legs hold at a share of normal ΔW and at a share of LoRA's gain."""
    return float(int(normal >= SUPPORTED_SHARE) + int(built >= MIN_GAIN_SHARE))


def _percent(found: tuple[float, float, float], most: float = math.inf) -> str:
    """A mean and its interval, shares of at most ``most``, in per cent: "97 [95, 99] %"."""
    mean, low, high = (100 * min(one, most) for one in found)
    return f"{mean:.0f} [{low:.0f}, {high:.0f}] %"
