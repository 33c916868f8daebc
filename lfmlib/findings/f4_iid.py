"""F4: weights share the i.i.d. properties of Gaussian noise; judged by three properties, the legs of the finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from ..structure.likeness import WIDTH
from .finding import Finding
from .readings import FIRST_RULES
from .rules import judge
from .runs import over_runs
from .shares import SUPPORTED_SHARE, TOO_SMALL, eligible, interval_over_matrices, looked_at, share, shown

LEGS = ("independence", "identity", "spectrum")
MAX_CORRELATION = 0.05
"""Independence: largest absolute correlation of neighbours, or of entries across the diagonal; and the root of the mean
squared correlation between rows, and between columns, beyond that of noise or short of it."""
MIN_ALIKE = 0.8
"""Independence: least mean squared correlation between whole rows, and whole columns, as a multiple of that of noise:
those of an orthogonal matrix have none."""
MAX_UNEQUAL = 0.05
"""Identity: share of the log-variance that rows and columns explain beyond that of noise, and that blocks do."""
MAX_BEYOND_EDGE = 0.01
"""Spectrum: share of the variance beyond the edge of noise, less that of the same entries in another order."""
EFFECTS = ("row_alike_64", "col_alike_64", "unequal", "block_excess", "beyond_excess")
"""What the legs are about, one figure each, of which findings hold the size."""
FIRST_MAX_ALIKE = 1.25
"""First rule, independence: mean squared correlation between rows, and columns, as a multiple of that of noise."""


def legs(table: pd.DataFrame) -> pd.DataFrame:
    """Which matrices pass each leg; a bound that lies inside the null of its figure is replaced by the end of that.

    Args:
        table: rows of `lfmlib.arrangement`. Without its control "permuted" the spectrum is held against noise alone.

    Returns:
        Same index; a boolean column for each of `LEGS`, and "all".
    """
    across = table["transpose_corr"].abs() > _point(table, "transpose_corr").clip(lower=MAX_CORRELATION)
    independence = _neighbours(table) & ~across  # a matrix that is not square has no transpose to be like
    for side, place in (("row", 1), ("col", 0)):
        others = np.minimum(table["shape"].str[place].astype(float), WIDTH) - 1
        most = (_point(table, f"{side}_alike_64", 1) / others).clip(lower=MAX_CORRELATION**2)
        independence &= table[f"{side}_alike_64"].sub(1).abs() / others <= most
        independence &= table[f"{side}_alike"] >= table[f"{side}_alike_null_low"].clip(upper=MIN_ALIKE)
    known = table["beyond_excess"].notna()
    excess = table["beyond_excess"].where(known, table["beyond_variance"])
    most = table["beyond_excess_null_high"].where(known, table["beyond_variance_null_high"])
    return _with_all({
        "independence": independence,
        "identity": _at_most(table, "unequal", MAX_UNEQUAL) & _at_most(table, "block_excess", MAX_UNEQUAL),
        "spectrum": excess <= most.clip(lower=MAX_BEYOND_EDGE),
    })  # fmt: skip


def first_legs(table: pd.DataFrame) -> pd.DataFrame:
    """`legs` by the first rule: one-sided, likeness at each matrix's own width, no blocks, a spectrum beside noise."""
    independence = _neighbours(table)
    for side, place in (("row", 1), ("col", 0)):
        noise = table[f"{side}_corr_null_high"] * (table["shape"].str[place].astype(float) - 1)
        independence &= table[f"{side}_alike"] <= noise.clip(lower=FIRST_MAX_ALIKE)
    return _with_all({
        "independence": independence,
        "identity": _at_most(table, "unequal", MAX_UNEQUAL),
        "spectrum": _at_most(table, "outlier_variance", MAX_BEYOND_EDGE),
    })  # fmt: skip


def _neighbours(table: pd.DataFrame) -> pd.Series:
    # lag_one is the largest of three correlations, each of std 1 / √numel on noise: the 97.5 % point of that largest
    lag = special.ndtri((1 + 0.975 ** (1 / 3)) / 2) / np.sqrt(table["numel"])
    return table["lag_one"] <= lag.clip(lower=MAX_CORRELATION)


def _point(table: pd.DataFrame, name: str, centre: float = 0.0) -> pd.Series:
    """How far the central 95 % of noise reach from a centre, to either side."""
    ends = [table[f"{name}_null_{end}"].sub(centre).abs() for end in ("low", "high")]
    return pd.concat(ends, axis=1).max(axis=1)


def _at_most(table: pd.DataFrame, name: str, bound: float) -> pd.Series:
    return table[name] <= table[f"{name}_null_high"].clip(lower=bound)


def _with_all(passed: dict[str, pd.Series]) -> pd.DataFrame:
    found = pd.DataFrame(passed)
    return found.assign(all=found.all(axis=1))


def leg_shares(table: pd.DataFrame, rule: Callable[[pd.DataFrame], pd.DataFrame] = legs) -> dict[str, float]:
    """Share of the parameters of eligible matrices that pass each leg, and "all" legs; NaN where there are none.

    Args:
        table: rows of `lfmlib.arrangement`.
        rule: `legs`, or `first_legs`.
    """
    body = eligible(table)
    passed = rule(body)
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
    `SUPPORTED_SHARE`, and those whose upper limit is (see `lfmlib.findings.shares.interval_over_matrices`). The details
    hold the ``effects`` that the legs are about: medians over the matrices, with their interquartile range.

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
    value, interval = _held(own, legs, whole)
    details = {
        "parts": {leg: shares["none"][leg] for leg in LEGS},
        "legs": {leg: shares["none"][leg] for leg in LEGS},
        "null_parts": {leg: shares["fresh"][leg] for leg in LEGS},
        "permuted": shares["permuted"],
        "rescaled": shares.get("rescaled"),
        "effects": {name: own[name].quantile([0.5, 0.25, 0.75]).tolist() for name in EFFECTS},
        "matrices": len(own),
        "caveat": looked_at(own, whole),
    }
    first = judge(FIRST_RULES["F4"], *_held(own, first_legs, whole))
    return Finding.of("F4", model, provenance, details, value, interval, legs_held(shares["fresh"]), first=first)


def _held(
    own: pd.DataFrame, rule: Callable[[pd.DataFrame], pd.DataFrame], whole: pd.DataFrame | None
) -> tuple[float, tuple[float, float] | None]:
    """The number of legs that hold of eligible rows, and its interval where they are some of the ``whole``."""
    spans = [(leg, interval_over_matrices(own, lambda rows, leg=leg: rule(rows)[leg], whole)) for leg in (*LEGS, "all")]
    known = [(leg, both) for leg, both in spans if both]
    value = legs_held(leg_shares(own, rule))
    if not known:
        return value, None
    low, high = (legs_held({leg: both[end] for leg, both in known}) for end in (0, 1))
    return value, (low, high)


def f4_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F4 of a model trained several times, from starts of Gaussian noise.

    The value counts the legs whose mean share is at least `SUPPORTED_SHARE`; its interval counts those whose lower
    limit is, and those whose upper limit is. The null is the count before the first step. The details hold the
    ``effects`` that the legs are about: medians over the matrices, mean and limits over runs.

    Args:
        rows: of the record `arrangement`, of one model trained in one way.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two seeds.
    """
    plain, names = rows[rows["control"] == "none"], [*LEGS, "all"]
    start, end = plain[plain["step"] == 0], plain[plain["step"] == plain["steps"]]
    if len(end) < 2:
        raise ValueError(f"F4 of a trained model needs at least two runs; {model} has {len(end)}")
    limits, value, interval = _held_over_runs(end[names])
    _, first_value, first_interval = _held_over_runs(end[[f"first_{name}" for name in names]].set_axis(names, axis=1))
    permuted, rescaled = (rows.loc[rows["control"] == kind, names].mean() for kind in ("permuted", "rescaled"))
    details = {
        "parts": limits.loc["mean", list(LEGS)].to_dict(),
        "legs": limits.loc["mean", list(LEGS)].to_dict(),
        "null_parts": start[list(LEGS)].mean().to_dict(),
        "limits": {name: limits.loc[["low", "high"], name].tolist() for name in names},
        "permuted": permuted.to_dict(),
        "rescaled": rescaled.dropna().to_dict(),
        "effects": {name: list(map(float, over_runs(end[name]))) for name in EFFECTS},
        "runs": len(end),
    }
    null, first = legs_held(start[names].mean().to_dict()), judge(FIRST_RULES["F4"], first_value, first_interval)
    return Finding.of("F4", model, provenance, details, value, interval, null, first=first)


def _held_over_runs(shares: pd.DataFrame) -> tuple[pd.DataFrame, float, tuple[float, float]]:
    """Mean and limits of the shares over runs; the number of legs that hold in the mean; and its interval."""
    limits = pd.DataFrame({name: over_runs(shares[name]) for name in shares}, index=["mean", "low", "high"]).clip(0, 1)
    value, low, high = (legs_held(limits.loc[which].to_dict()) for which in ("mean", "low", "high"))
    return limits, value, (low, high)
