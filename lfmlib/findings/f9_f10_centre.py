"""F9 and F10: optimal weights are zero-mean, and symmetric."""

from __future__ import annotations

import pandas as pd

from .finding import Finding
from .runs import over_runs
from .shares import TOO_SMALL, eligible, interval_over_samples, share

MAX_MEAN_RATIO = 0.05
"""F9: largest abs(mean) / std of a matrix that counts as zero-mean."""
MAX_ASYMMETRY_EXCESS = 0.02
"""F10: largest Kolmogorov–Smirnov distance from the mirror image, beyond that of noise, of one that is symmetric."""


def zero_mean(table: pd.DataFrame) -> pd.Series:
    """F9: which matrices of a survey have an abs(mean) / std of at most `MAX_MEAN_RATIO`, or of what 97.5 % of noise
    stay below where that is more."""
    return table["mean_ratio"] <= table["mean_ratio_null_high"].clip(lower=MAX_MEAN_RATIO)


def symmetric(table: pd.DataFrame) -> pd.Series:
    """F10: which matrices of a survey are at most `MAX_ASYMMETRY_EXCESS` farther from their mirror image than typical
    noise, or no farther than 97.5 % of noise are where that is more."""
    typical = table["asymmetry"] - table["asymmetry_excess"]
    return table["asymmetry_excess"] <= (table["asymmetry_null_high"] - typical).clip(lower=MAX_ASYMMETRY_EXCESS)


_PASSES = {"F9": (zero_mean, "mean_ratio"), "F10": (symmetric, "asymmetry_excess")}
"""Which rows of a survey pass, and the column that says by how much."""
_RECORDED = {"F9": ("zero_mean", "mean_ratio", "noise_mean"), "F10": ("symmetric", "asymmetry", "noise_symmetric")}
"""Columns of the record `optimal`: the share that passes, the median figure, the share of noise that passes."""


def f9(table: pd.DataFrame, noise: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F9 of a checkpoint; not judged where no matrix is eligible.

    Args:
        table: from `lfmlib.survey`.
        noise: its `lfmlib.noise_twin`.
        model: its name.
        provenance: of the model.
    """
    return _census("F9", table, noise, model, provenance)


def f10(table: pd.DataFrame, noise: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F10 of a checkpoint; arguments as for `f9`."""
    return _census("F10", table, noise, model, provenance)


def _census(id_: str, table: pd.DataFrame, noise: pd.DataFrame, model: str, provenance: dict) -> Finding:
    passes, column = _PASSES[id_]
    body = eligible(table)
    if body.empty:
        return Finding.of(id_, model, provenance, {"reason": TOO_SMALL})
    control = noise[noise["tensor"].isin(body["tensor"])]
    parts = {"median": f"{body[column].median():.4f}", "largest": f"{body[column].max():.4f}"}
    details = {"parts": parts, "matrices": len(body), "share_of_matrices": float(passes(body).mean())}
    value, null = share(body, passes(body)), share(control, passes(control))
    return Finding.of(id_, model, provenance, details, value, interval_over_samples(body, passes), null)


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
    for id_, (passing, figure, noise) in _RECORDED.items():
        value, low, high = over_runs(rows[passing])
        details = {"parts": {"median": f"{rows[figure].mean():.4f}"}, "runs": len(rows)}
        interval, null = (max(low, 0.0), min(high, 1.0)), float(rows[noise].mean())
        found.append(Finding.of(id_, model, provenance, details, value, interval, null))
    return found
