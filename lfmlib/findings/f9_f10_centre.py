"""F9 and F10: optimal weights are zero-mean, and symmetric."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from .finding import Finding
from .shares import TOO_SMALL, eligible, over_runs, sampled, share

MEAN, MIRROR = 0.05, 0.02
"""Bounds: abs(mean) / std; Kolmogorov–Smirnov distance from the mirror image, beyond what noise has."""


def zero_mean(table: pd.DataFrame) -> pd.Series:
    """F9: which matrices of a survey have a mean of at most `MEAN` standard deviations, or of what noise has."""
    return table["mean_ratio"] <= table["mean_ratio_null_high"].clip(lower=MEAN)


def symmetric(table: pd.DataFrame) -> pd.Series:
    """F10: which matrices of a survey are at most `MIRROR` farther from their mirror image than noise, or no farther
    than 97.5 % of noise."""
    typical = table["asymmetry"] - table["asymmetry_excess"]
    return table["asymmetry_excess"] <= (table["asymmetry_null_high"] - typical).clip(lower=MIRROR)


_ASKED: dict[str, tuple[Callable[[pd.DataFrame], pd.Series], str, str, str]] = {
    "F9": (zero_mean, "mean_ratio", "zero_mean", "share of parameters in matrices with abs(mean) / std ≤ 0.05"),
    "F10": (
        symmetric,
        "asymmetry_excess",
        "symmetric",
        "share of parameters in matrices whose distance from their mirror image is ≤ 0.02 beyond that of noise",
    ),
}


def f9(table: pd.DataFrame, noise: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F9 from a survey and its noise twin; not judged where no matrix is eligible."""
    return _census("F9", table, noise, model, provenance)


def f10(table: pd.DataFrame, noise: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F10 from a survey and its noise twin; not judged where no matrix is eligible."""
    return _census("F10", table, noise, model, provenance)


def _census(id_: str, table: pd.DataFrame, noise: pd.DataFrame, model: str, provenance: dict) -> Finding:
    passes, column, _, metric = _ASKED[id_]
    body = eligible(table)
    if body.empty:
        return Finding.of(id_, metric, model, provenance, {"reason": TOO_SMALL})
    control = noise[noise["tensor"].isin(body["tensor"])]
    parts = {"median": f"{body[column].median():.4f}", "largest": f"{body[column].max():.4f}"}
    details = {"parts": parts, "matrices": len(body), "share_of_matrices": float(passes(body).mean())}
    value, null = share(body, passes(body)), share(control, passes(control))
    return Finding.of(id_, metric, model, provenance, details, value, sampled(body, passes), null)


def f9_f10_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> list[Finding]:
    """Findings F9 and F10 of a model trained several times.

    Args:
        rows: those about the model in the record `optimal`, one for each run.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two runs.
    """
    if len(rows) < 2:
        raise ValueError(f"F9 and F10 of {model} need at least two runs: measure the record")
    found = []
    for id_, (_, _, column, metric) in _ASKED.items():
        value, low, high = over_runs(rows[column])
        median = rows["mean_ratio" if id_ == "F9" else "asymmetry"].mean()
        null = float(rows["noise_mean" if id_ == "F9" else "noise_symmetric"].mean())
        details = {"parts": {"median": f"{median:.4f}"}, "runs": len(rows)}
        interval = (max(low, 0.0), min(high, 1.0))
        found.append(Finding.of(id_, metric, model, provenance, details, value, interval, null))
    return found
