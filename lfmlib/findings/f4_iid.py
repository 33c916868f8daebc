"""F4: weights share the i.i.d. properties of Gaussian noise; judged by three properties, the legs of the finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from .finding import Finding
from .runs import over_runs
from .shares import SUPPORTED_SHARE, TOO_SMALL, eligible, interval_over_matrices, looked_at, share, shown

LEGS = ("independence", "identity", "spectrum")
MAX_LAG = 0.05
"""Independence: largest absolute correlation of neighbouring entries."""
MAX_ALIKE = 1.25
"""Independence: mean squared correlation between rows, and between columns, as a multiple of that of noise."""
MAX_UNEQUAL = 0.05
"""Identity: share of the log-variance that rows and columns explain, beyond that of noise."""
MAX_BEYOND_EDGE = 0.01
"""Spectrum: share of the variance beyond the edge of noise."""


def legs(table: pd.DataFrame) -> pd.DataFrame:
    """Which matrices pass each leg; a bound below the 97.5 % point of noise is replaced by that point.

    Args:
        table: rows of `lfmlib.arrangement`.

    Returns:
        Same index; a boolean column for each of `LEGS`, and "all".
    """
    r, c = (table["shape"].str[place].astype(float) for place in (0, 1))
    # lag_one is the largest of three correlations, each of std 1 / √numel on noise: the 97.5 % point of that largest
    lag = special.ndtri((1 + 0.975 ** (1 / 3)) / 2) / np.sqrt(table["numel"])
    independence = table["lag_one"] <= lag.clip(lower=MAX_LAG)
    for side, length in (("row", c), ("col", r)):
        noise = table[f"{side}_corr_null_high"] * (length - 1)
        independence &= table[f"{side}_alike"] <= noise.clip(lower=MAX_ALIKE)
    over = [table[f"{side}_share_null_high"] - (count - 1) / (r * c - 1) for side, count in (("row", r), ("col", c))]
    passed = {
        "independence": independence,
        "identity": table["unequal"] <= np.hypot(*over).clip(lower=MAX_UNEQUAL),
        "spectrum": table["outlier_variance"] <= table["outlier_variance_null_high"].clip(lower=MAX_BEYOND_EDGE),
    }
    return pd.DataFrame(passed).assign(all=pd.DataFrame(passed).all(axis=1))


def leg_shares(table: pd.DataFrame) -> dict[str, float]:
    """Share of the parameters of eligible matrices that pass each leg, and "all" legs; NaN where there are none.

    Args:
        table: rows of `lfmlib.arrangement`.
    """
    body = eligible(table)
    passed = legs(body)
    return {name: share(body, passed[name]) for name in (*LEGS, "all")}


def inside_noise(table: pd.DataFrame, figures: Sequence[str]) -> pd.Series:
    """Which rows of `lfmlib.arrangement` have all of these figures inside the central 95 % of noise."""
    each = [table[name].between(table[f"{name}_null_low"], table[f"{name}_null_high"]) for name in figures]
    return pd.concat(each, axis=1).all(axis=1)


def by_control(table: pd.DataFrame, columns: Sequence[str], legs: Sequence[str] = LEGS) -> pd.DataFrame:
    """Medians of figures over the judged matrices, and the share of parameters that passes each leg.

    Args:
        table: from `lfmlib.arrangement`, with controls.
        columns: figures to take medians of.
        legs: some of `LEGS`; their shares stand in words.

    Returns:
        Index: "weights", and each control. Columns: ``columns`` and ``legs``.
    """
    medians = shown(table).groupby("control", sort=False)[list(columns)].median()
    for leg in legs:
        medians[leg] = [f"{leg_shares(table[table['control'] == name])[leg]:.0%}" for name in medians.index]
    return medians.rename(index={"none": "weights"}).rename_axis(None)


def legs_held(shares: Mapping[Any, float]) -> float:
    """Number of legs that hold for at least `SUPPORTED_SHARE` of the parameters; three only where "all" does as well.

    Args:
        shares: as from `leg_shares`.
    """
    held = sum(shares[leg] >= SUPPORTED_SHARE for leg in LEGS)
    return float(min(held, 3 if shares["all"] >= SUPPORTED_SHARE else 2))


def f4(table: pd.DataFrame, model: str, provenance: dict, whole: pd.DataFrame | None = None) -> Finding:
    """Finding F4 of a checkpoint; not judged where no matrix is eligible.

    Where only some matrices were looked at, the interval counts the legs whose lower limit is at least
    `SUPPORTED_SHARE`, and those whose upper limit is (see `lfmlib.findings.shares.interval_over_matrices`).

    Args:
        table: from `lfmlib.arrangement`, with the controls "fresh" and "permuted".
        model: its name.
        provenance: of the model.
        whole: a survey of all matrices, where the table is of some; None: it is of all.

    Raises:
        ValueError: a control is missing.
    """
    if missing := {"none", "fresh", "permuted"} - set(table["control"]) if len(table) else set():
        raise ValueError(
            f"the table lacks {', '.join(sorted(missing))}: make it with "
            'lfmlib.arrangement(…, controls=["permuted", "fresh"])'
        )
    own = eligible(table[table["control"] == "none"]) if len(table) else table
    if own.empty:
        return Finding.of("F4", model, provenance, {"reason": TOO_SMALL})
    shares = {name: leg_shares(rows) for name, rows in table.groupby("control")}
    limits = {
        name: interval_over_matrices(own, lambda rows, name=name: legs(rows)[name], whole) for name in (*LEGS, "all")
    }
    interval, known = None, [(name, both) for name, both in limits.items() if both]
    if known:
        low, high = (legs_held({name: both[end] for name, both in known}) for end in (0, 1))
        interval = low, high
    details = {
        "parts": {leg: shares["none"][leg] for leg in LEGS},
        "null_parts": {leg: shares["fresh"][leg] for leg in LEGS},
        "permuted": shares["permuted"],
        "rescaled": shares.get("rescaled"),
        "matrices": len(own),
        "caveat": looked_at(own, whole),
    }
    value, null = legs_held(shares["none"]), legs_held(shares["fresh"])
    return Finding.of("F4", model, provenance, details, value, interval, null)


def f4_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F4 of a model trained several times, from starts of Gaussian noise.

    The value counts the legs whose mean share is at least `SUPPORTED_SHARE`; its interval counts those whose lower
    limit is, and those whose upper limit is. The null is the count before the first step.

    Args:
        rows: of the record `arrangement`, of one model trained in one way.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two seeds.
    """
    plain, names = rows[rows["control"] == "none"], [*LEGS, "all"]
    first, last = plain.loc[plain["step"] == 0, names], plain.loc[plain["step"] == plain["steps"], names]
    if len(last) < 2:
        raise ValueError(f"F4 of a trained model needs at least two runs; {model} has {len(last)}")
    limits = pd.DataFrame({name: over_runs(last[name]) for name in names}, index=["mean", "low", "high"]).clip(0, 1)
    value, low, high = (legs_held(limits.loc[which].to_dict()) for which in ("mean", "low", "high"))
    permuted, rescaled = (rows.loc[rows["control"] == kind, names].mean() for kind in ("permuted", "rescaled"))
    details = {
        "parts": limits.loc["mean", list(LEGS)].to_dict(),
        "null_parts": first[list(LEGS)].mean().to_dict(),
        "limits": {name: limits.loc[["low", "high"], name].tolist() for name in names},
        "permuted": permuted.to_dict(),
        "rescaled": rescaled.dropna().to_dict(),
        "runs": len(last),
    }
    return Finding.of("F4", model, provenance, details, value, (low, high), legs_held(first.mean().to_dict()))
