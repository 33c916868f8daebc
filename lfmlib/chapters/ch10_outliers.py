"""What chapter 10 says of outliers: where they lie, what changing them costs, and single entries.

Rows are those of the record `optimal` (see `lfmlib.experiments.optimal.run`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from .. import findings
from ..distribution.coding import MAX_OUTLIER_SHARE
from ..distribution.law import Law
from ..experiments.optimal import PRUNED_SHARE
from ..findings import markup
from ..findings.runs import whole_mean
from ..losses.outliers import RANGES
from .ch10_optimal import each_model, own_loss, relative
from .names import NAMES, PUBLISHED, by_model, key, where
from .sentences import MISSING, Cell, listed, mean, number, span, table, within, worded

LIMIT_REACHED = 0.9
"""Share of the outliers that a matrix may have at most, from which on that limit decides where they begin."""


def by_role(places: pd.DataFrame) -> pd.DataFrame:
    """How unevenly outliers lie, by role: medians over the matrices that have any.

    Args:
        places: from `lfmlib.structure.outlier_places.places`.
    """
    columns = {
        "share": "outliers",
        "rows": "in 1 % of the rows",
        "rows_noise": "rows, by chance",
        "columns": "in 1 % of the columns",
        "columns_noise": "columns, by chance",
    }
    if places.empty:
        return pd.DataFrame(columns=list(columns.values()))
    return findings.by_role(places)[list(columns)].median().rename(columns=columns).rename_axis(None)


def begins(places: pd.DataFrame) -> str:
    """Where outliers begin, how many they are, and how many noise has there, in a sentence; from `places`."""
    if places.empty:
        return "No matrix has outliers."
    middle = places[["begins", "share", "gaussian"]].median()
    capped = (places["share"] >= LIMIT_REACHED * MAX_OUTLIER_SHARE * (1 - PRUNED_SHARE)).sum()
    return (
        f"In the median of {len(places)} matrices they begin at **{middle['begins']:.1f} standard deviations**, and "
        f"are {middle['share']:.2%} of the entries; a Gaussian of that standard deviation has {middle['gaussian']:.2%} "
        f"there. In **{capped}** the limit of 1 % of what is kept is all but reached: it decides there where "
        "outliers begin, not a gap in the weights."
    )


def core(law: Law, std: float) -> str:
    """Where the outliers of a matrix with that standard deviation begin, and how many they are, in a sentence."""
    if np.isinf(law.outlier_cut):
        return "A Gaussian codes what pruning keeps shorter without outliers than with them."
    return (
        f"Outliers of its Gaussian core begin at {law.outlier_cut / std:.1f}; {law.gaussian.outlier_share:.2%} of what "
        "pruning keeps lie there."
    )


def of_matrix(row: pd.Series, law: Law) -> str:
    """How far the weights of one matrix reach, in sentences.

    Args:
        row: of `lfmlib.survey`.
        law: of the matrix.
    """
    far = max(abs(row["min"]), abs(row["max"])) / row["std"]
    return (
        f"The matrix is {markup.code(row['tensor'])}. Its largest weight is at **{far:.0f} standard deviations**. Its "
        f"excess kurtosis, 0 for a Gaussian, is **{row['excess_kurtosis']:,.0f}**. {core(law, row['std'])}"
    )


def lined_up(table: pd.DataFrame) -> str:
    """Whether outliers of different layers lie at the same places, in a sentence.

    Args:
        table: from `lfmlib.structure.outlier_places.line_up`.
    """
    if table.empty:
        return "Nothing can be said of places that several layers share: too few layers have outliers."
    there, chance = np.average(table[["there", "chance"]], axis=0, weights=table["outliers"])
    more = (table["there"] > table["chance"]).sum()
    return (
        f"**{there:.1%}** of the outliers lie there; by chance it would be {chance:.1%}. It is more than chance in "
        f"{more} of {len(table)} matrices."
    )


def damage(record: pd.DataFrame) -> pd.DataFrame:
    """What it costs to zero the outliers, in words: relative rises of the loss, mean and 95 % over runs; and ratios."""
    columns = {
        "outliers": _size("outliers", ".2f"),
        "zeroed": _rise("outliers", "zeroed"),
        "as many": _rise("as many", "zeroed"),
        "as large": _rise("as large", "zeroed"),
        "which are": _size("as large", ".1f"),
        "ratio": worded(_ratio, findings.damage_ratio),
    }
    return table(each_model(record), columns)


def of_outliers(record: pd.DataFrame) -> str:
    """What zeroing the outliers costs the published models beside those of the lab, in a sentence."""
    ratios = {key(rows): findings.damage_ratio(rows) for _, rows in each_model(record)}
    known = {model: found for model, found in ratios.items() if not math.isnan(found[0])}
    theirs = [
        f"in {NAMES[model]} **{_ratio(found)}** times"
        if model in known
        else f"in {NAMES[model]} they cannot be compared"
        for model, found in ratios.items()
        if model in PUBLISHED
    ]
    lab = [found[0] for model, found in known.items() if model not in PUBLISHED]
    ours = f"in {len(lab)} of the lab’s models {min(lab):.1f} to {max(lab):.1f}" if lab else "in none of the lab’s"
    return f"What random sets of the same norm cost, outliers cost {'; '.join([*theirs, ours])}."


def _ratio(found: tuple[float, float, float]) -> str:
    return MISSING if math.isnan(found[0]) else findings.bracketed(*found, 1)


def changed(record: pd.DataFrame) -> pd.DataFrame:
    """Outliers clipped or amplified, in words: relative rises of the loss, beside random sets of equal squared norm."""
    columns = {
        "clipped": _rise("outliers", "clipped"),
        "amplified": _rise("outliers", "amplified"),
        "random ones amplified": _rise("as large", "amplified"),
    }
    return table(each_model(record), columns)


def quantized(record: pd.DataFrame) -> pd.DataFrame:
    """What rounding to few bits costs, by where the range comes from: relative rises of the loss, in words."""
    rounded = {name: relative(where(rows, what="quantized"), rows) for name, rows in each_model(record)}
    rise = span("rise", 1, "+", " %", times=100)
    return table(rounded, {f"range of {one}": within(rise, range_of=one) for one in RANGES})


def _size(entries: str, form: str) -> Cell:
    """A cell with the share of the weights that entries are, in per cent."""
    return within(mean("sets", form, " %", times=100), what="damage", entries=entries)


def _rise(entries: str, change: str) -> Cell:
    """A cell with the relative rise of the loss when entries are changed: draws averaged, mean and 95 % over runs."""

    def figure(rows: pd.DataFrame) -> pd.Series:
        some = where(rows, what="damage", entries=entries, change=change)
        return some.groupby("seed")["rise"].agg(whole_mean) / own_loss(rows)

    return span(figure, 2, "+", " %", times=100)


def singles(record: pd.DataFrame, models: Sequence[str] = PUBLISHED, most: int = 4) -> pd.DataFrame:
    """The entries of each of some models that cost most when zeroed: where they are, how large, and what random ones
    of their norm cost."""
    return _entries(record, models, lambda rows: rows["rise"], most)


def largest(record: pd.DataFrame, models: Sequence[str] = PUBLISHED, most: int = 4) -> pd.DataFrame:
    """The entries that are largest in standard deviations of their matrix, told as in `singles`."""
    return _entries(record, models, lambda rows: rows["size"].abs(), most)


def _entries(
    record: pd.DataFrame, models: Sequence[str], by: Callable[[pd.DataFrame], pd.Series], most: int
) -> pd.DataFrame:
    single = [where(record, part="single", model=model) for model in models]
    rows = pd.concat([some.loc[by(some).sort_values(ascending=False).index].head(most) for some in single])
    columns = {
        "model": lambda one: NAMES[one["model"]],
        "tensor": lambda one: one["tensor"].removesuffix(".weight"),
        "row": number("row", ".0f"),
        "column": number("column", ".0f"),
        "size in std": number("size", "+.1f"),
        "found by": lambda one: one["found"],
        "rise": number("rise", "+.4f"),
        "random sets": number("beside", "+.4f"),
    }
    return listed(rows.to_dict("records"), columns)


def worst(record: pd.DataFrame) -> str:
    """What the worst single entry of the published models costs, and of the lab's at most, in sentences."""
    theirs, lab = [], []
    for name, rows in by_model(record, part="single"):
        own = where(record, what="model", model=key(rows))["own"].mean()
        one = rows.loc[rows["rise"].idxmax()]
        rise = 100 * one["rise"] / own
        if key(rows) in PUBLISHED:
            words = f"{abs(one['size']):.1f} std, found by {one['found']}"
            theirs.append(f"{name} **{rise:+.2f} %** ({words})")
        else:
            lab.append((rise, name))
    most = [f"the lab’s models by at most {max(lab)[0]:+.2f} % ({max(lab)[1]})"] if lab else []
    return f"The worst single entry that was found, zeroed, moves the loss of: {'; '.join([*theirs, *most])}."
