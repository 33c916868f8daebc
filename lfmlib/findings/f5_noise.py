"""F5: transformation weights can be derived from Gaussian noise: in their law, and in what can be built from noise."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd

from .f6_std import qq_share
from .finding import Finding
from .shares import ENOUGH, TOO_SMALL, eligible, over_runs, ratios

BUILT = 0.95
"""F5 (b): least share of LoRA's gain that a ΔW built from frozen noise must reach."""


def gains(rows: pd.DataFrame, floor: pd.Series) -> pd.Series:
    """Improvement of the held-out score over a floor, by seed; a loss counts downwards.

    Args:
        rows: one per seed, with ``score``, ``trivial`` and ``loss`` as in the record `derived`.
        floor: score by seed.
    """
    sign = -1.0 if np.allclose(rows["score"], rows["loss"]) else 1.0
    by_seed = rows.set_index("seed")["score"]
    return sign * (by_seed - floor.reindex(by_seed.index))


def built_share(rows: pd.DataFrame, adapter: str, budget: int) -> pd.Series:
    """Gain of an adapter as a share of LoRA's, both over the head alone, by seed (see `ratios`).

    Args:
        rows: part "built" of the record `derived`, of one model.
        adapter: its name there.
        budget: rank of LoRA, and number of random matrices.

    Returns:
        Index: seed. Empty where LoRA gains nothing: there is no share of it.
    """
    same = rows[rows["rank"] == budget]
    floor = rows[rows["rank"] == 0].set_index("seed")["score"]
    own, lora = (gains(same[same["adapter"] == name], floor) for name in (adapter, "lora"))
    return ratios(own, lora)


def kept_share(rows: pd.DataFrame, kind: str) -> pd.Series:
    """Share of ΔW's gain that a stand-in for it keeps, by seed, counted from no ΔW at all (see `ratios`).

    Args:
        rows: part "stand-in" of the record `derived`, of one model.
        kind: one of `lfmlib.deltas.stand_ins.KEPT`.

    Returns:
        Index: seed. Empty where ΔW gains nothing.
    """
    floor = rows[rows["kind"] == "none"].set_index("seed")["score"]
    own, whole = (gains(rows[rows["kind"] == name], floor) for name in (kind, "trained"))
    return ratios(own, whole)


def f5_over_runs(built: pd.DataFrame, replaced: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F5 of a model trained several times.

    The number judged is how many of the two legs hold; its bracket counts those whose lower limit does, and those whose
    upper limit does. (b) is judged at the smallest number of trained parameters. The null asks the same of Gaussian
    noise of the size of ΔW.

    Args:
        built, replaced: parts "built" and "stand-in" of the record `derived`, of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two seeds.
    """
    if (runs := min(built["seed"].nunique(), replaced["seed"].nunique())) < 2:
        raise ValueError(f"F5 of {model} needs at least two runs of every kind: measure the record")
    budget = int(built.loc[built["rank"] > 0, "rank"].min())
    if built_share(built, "lora", budget).empty or kept_share(replaced, "trained").empty:
        return _finding(model, provenance, {"reason": "LoRA, or ΔW itself, gains nothing over the head alone."})
    normal = {kind: over_runs(replaced.loc[replaced["kind"] == kind, "normal_share"]) for kind in ("trained", "noise")}
    shares = {law: over_runs(built_share(built, f"noise-{law}", budget)) for law in ("gaussian", "uniform", "signs")}
    value, low, high = map(_legs, normal["trained"], shares["gaussian"])
    noise = (normal["noise"][0], float(kept_share(replaced, "noise").mean()))
    return _finding(
        model,
        provenance,
        {
            "parts": {
                "(a) R² ≥ 0.99": _span(normal["trained"], most=1.0),
                "(b) of LoRA’s gain": _span(shares["gaussian"]),
                "of uniform noise, of ±1": " and ".join(f"{shares[law][0]:.0%}" for law in ("uniform", "signs")),
            },
            "null_parts": {"(a)": noise[0], "(b)": noise[1]},
            "shares": {name: list(map(float, span)) for name, span in shares.items()},
            "normal": list(map(float, normal["trained"])),
            "budget": budget,
            "runs": int(runs),
        },
        value,
        (low, high),
        _legs(*noise),
    )


def f5(table: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F5 of one pair: not judged, since what can be built from noise takes training; (a) is told.

    Args:
        table: from `lfmlib.compare`.
        model: the tuned model's name.
        provenance: of the pair.
    """
    body = eligible(table)
    if body.empty:
        return _finding(model, provenance, {"reason": TOO_SMALL})
    found = qq_share(body[body["control"] == "none"])
    reason = (
        f"(a) R² of the Q–Q plot is at least 0.99 in matrices with {found:.0%} of the parameters; (b), what can be "
        "built from noise, takes trainings on the model’s own task."
    )
    return _finding(model, provenance, {"reason": reason, "normal_share": found})


def _legs(normal: float, built: float) -> float:
    """How many of the two legs hold."""
    return float(int(normal >= ENOUGH) + int(built >= BUILT))


def _span(found: tuple[float, float, float], most: float = math.inf) -> str:
    """Mean and interval in per cent, in words, cut where the figure ends."""
    mean, low, high = (100 * min(one, most) for one in found)
    return f"{mean:.0f} [{low:.0f}, {high:.0f}] %"


_finding = partial(
    Finding.of,
    "F5",
    "senses in which ΔW can be derived from Gaussian noise: (a) its histogram, (b) built from frozen noise",
)
