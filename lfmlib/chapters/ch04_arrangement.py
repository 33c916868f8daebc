"""What chapters 4 and 5 read off the record `arrangement`: lab models before and after training."""

from __future__ import annotations

import pandas as pd

from .. import findings
from ..experiments.arrangement import WAYS
from ..findings import Finding
from ..provenance import recorded
from ..structure.likeness import WIDTH
from .names import LAB, where
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
MOST_ALIKE = 1 + (WIDTH - 1) * findings.MAX_CORRELATION**2
"""Squared correlation of rows and columns at one width, over that of noise, up to which the rule lets them pass."""


def runs(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The record's rows by model and way of training, by a name such as "lab ViT, wide start"."""
    return {
        f"{name}, {way}": rows
        for model, name in LAB.items()
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


def at_other_bounds(weights: pd.DataFrame) -> pd.DataFrame:
    """The share of parameters that would pass independence, by rows and columns, and identity, at other bounds.

    Args:
        weights: rows of `lfmlib.arrangement`, without controls.
    """
    alike = weights[["row_alike_64", "col_alike_64"]].sub(1).abs().max(axis=1) / (WIDTH - 1)
    unequal = weights[["unequal", "block_excess"]].max(axis=1)
    shares = {f"correlation ≤ {b}": findings.share(weights, alike <= b**2) for b in (0.03, 0.05, 0.07, 0.1)}
    shares |= {f"unequal ≤ {b:.0%}": findings.share(weights, unequal <= b) for b in (0.02, 0.05, 0.1)}
    return pd.DataFrame({"parameters": shares})


def passing(weights: pd.DataFrame) -> str:
    """The share of parameters that passes the spectrum's leg, by the rule and against noise alone, in a sentence.

    Args:
        weights: rows of `lfmlib.arrangement`, without controls.
    """
    own, alone = (findings.leg_shares(weights, rule)["spectrum"] for rule in (findings.legs, findings.first_legs))
    return f"The rule takes that off: {own:.1%} of the parameters pass, and {alone:.1%} against noise alone."
