"""F8: transformation weights broaden the acceptable deviation from the optimal weights."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from .finding import Finding
from .runs import over_runs


def log_ratios(rows: pd.DataFrame, which: str = "tuned", kind: str = "matrix", head: str | None = None) -> pd.Series:
    """Logarithm of a model's noise radius over that of its base, by seed: means over the draws that both share.

    Args:
        rows: part "radius" of the record `radius`, of one model and one task.
        which: the model: "tuned", or "random", the base plus noise of the size of ΔW.
        kind: of the noise that is added: one of `lfmlib.tolerance.KINDS`.
        head: the head that the radii were measured with; None: the one that verdicts rest on (any but "timid").

    Returns:
        Index: seed. Draws in which either radius is zero or infinite are left out.
    """
    same = rows[(rows["kind"] == kind) & ((rows["head"] != "timid") if head is None else (rows["head"] == head))]
    table = same.pivot_table(index=["seed", "draw"], columns="which", values="radius")
    if which not in table or "base" not in table:
        return pd.Series(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = pd.Series(np.log(table[which]) - np.log(table["base"]))
    return logs[np.isfinite(logs)].groupby("seed").mean()


def geometric_mean(logs: pd.Series) -> tuple[float, float, float]:
    """Geometric mean over independent runs, and its 95 % limits.

    Args:
        logs: natural logarithms, one for each run.
    """
    mean, low, high = (math.exp(one) for one in over_runs(logs))
    return mean, low, high


def f8_judged(logs: pd.Series) -> str:
    """The verdict of F8 on logarithms of ratios, one for each run.

    "supported" where the ratio is above 1 beyond its interval, "partly" where it is above 1; where it is not,
    "undecided" as long as the interval reaches above 1, and "contradicted" otherwise.
    """
    value, low, high = geometric_mean(logs)
    if low > 1:
        return "supported"
    if value > 1:
        return "partly"
    return "undecided" if high > 1 else "contradicted"


def f8_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F8 of a model fine-tuned several times, on the task it was tuned for.

    The verdict is that of `f8_judged`; "undecided" where a run has no radius to compare.

    Args:
        rows: part "radius" of the record `radius`, of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two seeds.
    """
    own = rows[rows["judged_on"] == rows["task"]]
    if own["seed"].nunique() < 2:
        raise ValueError(f"F8 of {model} needs at least two runs: measure the record")
    logs = log_ratios(own)
    if len(logs) < 2:
        reason = "Base or fine-tune is no better than the class frequencies."
        return Finding.of("F8", model, provenance, {"reason": reason})
    value, low, high = geometric_mean(logs)
    counted = own[(own["kind"] == "matrix") & (own["head"] != "timid")].dropna(subset=["radius"])
    sizes = counted.groupby("which")["radius"].median()
    parts = {"radius of W₀": f"{sizes['base']:.2f}", "radius of W": f"{sizes['tuned']:.2f}"}
    timid = log_ratios(own, head="timid")
    if len(timid):
        parts["with a timid head"] = _span(timid)
    old = rows[rows["judged_on"] != rows["task"]]
    if len(old):
        parts["on the old task"] = _span(original) if len(original := log_ratios(old)) else "forgotten"
    details = {"parts": parts, "runs": len(logs), "draws": int(counted.groupby(["which", "seed"]).size().min())}
    random = log_ratios(own, "random")
    noise, control = (geometric_mean(random)[0], f8_judged(random)) if len(random) > 1 else (None, None)
    verdict = f8_judged(logs) if len(logs) == own["seed"].nunique() else "undecided"
    return Finding.of("F8", model, provenance, details, value, (low, high), noise, verdict, control)


def _span(logs: pd.Series) -> str:
    value, low, high = geometric_mean(logs)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def f8(model: str, provenance: dict) -> Finding:
    """Finding F8 of one pair: not judged, since a radius takes the loss of the task that the model was tuned for."""
    reason = (
        "The noise radius is about a loss: it takes the task that the model was tuned for, and fine-tunes of five "
        "seeds. `lfmlib.tolerance.radius` measures it for any loss."
    )
    return Finding.of("F8", model, provenance, {"reason": reason})
