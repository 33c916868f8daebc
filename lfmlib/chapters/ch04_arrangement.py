"""What chapters 4 and 5 read off the record `arrangement`: lab models before and after training."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from .. import findings
from ..checkpoints.named import titled
from ..experiments.arrangement import WAYS
from ..findings import Finding
from ..findings.f4_iid import MAX_UNEQUAL as MAX_UNEQUAL
from ..findings.markup import code, plain
from ..provenance import recorded
from ..structure.entries import FIGURES
from ..structure.likeness import WIDTH
from .names import NAMES, where
from .sentences import arrow, at_end, mean, span, table, within

SHOWN = (
    "lag_one",
    "transpose_corr",
    "row_alike",
    "col_alike",
    "row_alike_64",
    "col_alike_64",
    "unequal",
    "block_excess",
)
"""Figures that the chapter shows of matrices and their controls."""
PLANTED = ("lag_one", "transpose_corr", "row_alike", "col_alike", "unequal")
"""Those that it shows of planted departures."""
KINDS = {
    "none": "weights",
    "rescaled": "rescaled",
    "rows-permuted": "permuted in rows",
    "permuted": "permuted",
    "fresh": "fresh noise",
}
"""Control → its name in figures."""
MOST_ALIKE = 1 + (WIDTH - 1) * findings.MAX_CORRELATION**2
"""Squared correlation of rows and columns at one width, over that of noise, up to which the rule lets them pass."""


def runs(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The record's rows by model and way of training, by a name such as "lab ViT, wide start"."""
    return {
        f"{name}, {way}": rows
        for model, name in NAMES.items()
        for way, gain in WAYS.items()
        if len(rows := where(record, model=model, gain=gain))
    }


def found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F4 of each lab model and way of training; ``parameters`` of the chapter go into its provenance."""
    origin = recorded("arrangement", record, **parameters)
    return [findings.f4_over_runs(rows, name, origin | {"source": name}) for name, rows in runs(record).items()]


def before_after(record: pd.DataFrame, columns: dict[str, str], percent: bool = False) -> pd.DataFrame:
    """Figures of the lab models, in words: before → after training [95 % interval over seeds].

    Args:
        record: of `arrangement`.
        columns: heading → column of the record.
        percent: they are shares.

    Returns:
        Index: as in `runs`.
    """
    times, digits, limits = (100, 0, {"least": 0, "most": 100}) if percent else (1, 2, {})
    words = {
        heading: arrow(
            within(mean(column, f".{digits}f", times=times), step=0),
            at_end(span(column, digits, times=times, **limits)),
        )
        for heading, column in columns.items()
    }
    return table(runs(where(record, control="none")), words)


def after_training(record: pd.DataFrame, columns: dict[str, str], percent: bool = False) -> pd.DataFrame:
    """Figures of the lab models after training, for `lfmlib.plots.intervals`: rows as in `runs`, marks the headings.

    Args:
        record, columns, percent: as for `before_after`.

    Returns:
        Columns model, which, mean, low, high.
    """
    found = []
    for name, rows in runs(where(record, control="none")).items():
        ended = rows[rows["step"] == rows["steps"]]
        found += [(name, heading, *findings.over_runs(ended[column])) for heading, column in columns.items()]
    table = pd.DataFrame(found, columns=["model", "which", "mean", "low", "high"])
    if percent:
        table[["low", "high"]] = table[["low", "high"]].clip(0, 1)
    return table


def by_leg(table: pd.DataFrame) -> pd.DataFrame:
    """The share of the parameters that passes each leg, of the weights and of every control, without intervals.

    Args:
        table: from `lfmlib.arrangement`, with controls.

    Returns:
        Columns kind, leg, mean, low, high: for `lfmlib.plots.intervals`.
    """
    rows = []
    for kind, some in findings.shown(table).groupby("control", sort=False):
        shares = findings.leg_shares(some)
        rows += [(KINDS[kind], leg, shares[leg]) for leg in findings.LEGS]
    return pd.DataFrame(rows, columns=["kind", "leg", "mean"]).assign(low=math.nan, high=math.nan)


def held_to_bounds(rows: pd.DataFrame) -> pd.DataFrame:
    """What the first two legs hold to their bounds: the larger correlation of rows and columns beyond noise, root mean
    square, and the larger share of the log-variance that rows and columns, or blocks, explain beyond noise.

    Args:
        rows: of `lfmlib.arrangement`.

    Returns:
        The rows, with the columns ``tie`` and ``scale``.
    """
    alike = rows[["row_alike_64", "col_alike_64"]].sub(1).abs().max(axis=1) / (WIDTH - 1)
    return rows.assign(tie=np.sqrt(alike), scale=rows[["unequal", "block_excess"]].max(axis=1))


def at_other_bounds(weights: pd.DataFrame) -> pd.DataFrame:
    """The share of parameters that would pass independence, by rows and columns, and identity, at other bounds.

    Args:
        weights: rows of `lfmlib.arrangement`, without controls.
    """
    held = held_to_bounds(weights)
    shares = {f"correlation ≤ {b}": findings.share(held, held["tie"] <= b) for b in (0.03, 0.05, 0.07, 0.1)}
    shares |= {f"unequal ≤ {b:.0%}": findings.share(held, held["scale"] <= b) for b in (0.02, 0.05, 0.1)}
    return pd.DataFrame({"parameters": shares})


def looked_at(weights: pd.DataFrame, tensor: str) -> str:
    """What rows and columns of one matrix show, in a sentence.

    Args:
        weights: rows of `lfmlib.arrangement`, without controls.
        tensor: name of the matrix.
    """
    row = weights.set_index("tensor").loc[tensor]
    explained = row["row_share"] + row["col_share"]
    return (
        f"The matrix is {code(tensor)}. Its rows and columns explain **{explained:.1%}** of the log-variance (noise: "
        f"{explained - row['unequal']:.1%}), and the squared correlation between its rows is "
        f"**{row['row_alike']:.2f} times** that of noise."
    )


def neighbours(body: pd.DataFrame) -> str:
    """How much neighbours have in common, over all matrices, in sentences.

    Args:
        body: judged rows of `lfmlib.arrangement`, with controls.
    """
    weights, fresh, even = (body[body["control"] == kind] for kind in ("none", "fresh", "rescaled"))
    lag = weights["lag_one"]
    return (
        f"Over all matrices, the largest correlation of neighbours has a median of **{lag.median():.3f}** and reaches "
        f"{lag.max():.3f} ({code(weights.loc[lag.idxmax(), 'tensor'])}). In fresh noise it reaches "
        f"{fresh['lag_one'].max():.3f}. An entry tells of its neighbour {weights['mutual_information'].max():.3f} bits "
        f"at most, and once rows and columns are rescaled {even['mutual_information'].max():.3f}."
    )


def of_scales(saved: pd.Series, by_chance: float) -> str:
    """What knowing the scales is worth, in sentences.

    Args:
        saved: bits a weight, by the name of the matrix.
        by_chance: the same of noise.
    """
    return (
        f"Knowing the scales is worth **{saved.median():.3f} bits** a weight in the median matrix, {saved.max():.2f} "
        f"at most ({code(saved.idxmax())}). By chance, in the noise pictured above, it is worth {by_chance:.3f}."
    )


def cried(rates: pd.DataFrame) -> str:
    """How often the tests find something in noise, in a sentence; from `lfmlib.chapters.calibration.false_alarms`."""
    five = rates[rates["level"] == 0.05]
    return (
        f"False alarms at a level of 5 %: from {five['rate'].min():.1%} ({five['rate'].idxmin()}) to "
        f"{five['rate'].max():.1%} ({five['rate'].idxmax()}), on {five['draws'].max():,} noise matrices each."
    )


def poolers(table: pd.DataFrame) -> list[str]:
    """What the tests say of each pooler of a model, in sentences.

    Args:
        table: from `lfmlib.arrangement`.
    """
    said = []
    for one in table[(table["role"] == "pooler") & (table["control"] == "none")].to_dict("records"):
        odd = [name for name in FIGURES if not one[f"{name}_null_low"] <= one[name] <= one[f"{name}_null_high"]]
        said.append(
            f"{code(one['tensor'])}: rows {one['row_alike']:.3f}, columns {one['col_alike']:.3f} times as alike as in "
            f"noise, unequal by {one['unequal']:.2%}. Outside 95 % of noise, of {len(FIGURES)} figures: "
            f"{', '.join(odd) or 'none'}."
        )
    return said


def unlike_noise(intervals: pd.DataFrame) -> str:
    """Of how many figures of one matrix the interval leaves out the central 95 % of noise, in a sentence.

    Args:
        intervals: columns low, high, null_low, null_high.
    """
    apart = (intervals["low"] > intervals["null_high"]) | (intervals["high"] < intervals["null_low"])
    named = ", ".join(f"`{name}`" for name in intervals.index[apart])
    said = f"Of {len(intervals)} figures, **{apart.sum()}** have an interval wholly outside the central 95 % of noise"
    return f"{said}{f': {named}' if named else ''}."


def takeaways(table: pd.DataFrame, saved: pd.Series, name: str) -> str:
    """The chapter in three sentences.

    Args:
        table: from `lfmlib.arrangement`, with controls.
        saved: bits a weight that knowing the scales of rows and columns saves, one for each matrix.
        name: of the model.
    """
    shares = {kind: findings.leg_shares(table[table["control"] == kind]) for kind in ("none", "rescaled", "fresh")}
    own, even, noise = shares.values()
    medians = findings.by_control(table, ["row_alike_64"], [])["row_alike_64"]
    most = findings.shown(table[table["control"] == "none"])["lag_one"].max()
    alone = most <= findings.MAX_CORRELATION and medians["weights"] > MOST_ALIKE
    before, after = (f"{one['independence']:.0%}" for one in (own, even))
    change = f"leaves the share that passes as independent at {after}"
    if before != after:
        change = f"takes the share that passes as independent from {before} to {after}"
    return (
        f"- Of the weights of {plain(titled(name))}, {own['independence']:.0%} lie in matrices that pass as "
        f"independent, and {own['identity']:.0%} in matrices that pass as identically distributed. "
        f"Of fresh noise it is {noise['independence']:.0%} and {noise['identity']:.0%}.\n"
        f"- Neighbours correlate by at most {most:.3f}{', and yet' if alone else ';'} rows of 64 weights are "
        f"{medians['weights']:.2f} times as alike as those of noise, in the median matrix. "
        f"With the entries in another order it is {medians['permuted']:.2f}.\n"
        f"- Dividing out the scales of rows and columns {change}. "
        f"Knowing these scales is worth {saved.median():.3f} bits a weight in the median matrix."
    )


def passing(weights: pd.DataFrame) -> str:
    """The share of parameters that passes the spectrum's leg, by the rule and against noise alone, in a sentence.

    Args:
        weights: rows of `lfmlib.arrangement`, without controls.
    """
    own, alone = (findings.leg_shares(weights, rule)["spectrum"] for rule in (findings.legs, findings.first_legs))
    return f"The rule takes that off: {own:.1%} of the parameters pass, and {alone:.1%} against noise alone."
