"""What chapters 4 and 5 read off the record `arrangement`: lab models before and after training."""

from __future__ import annotations

import pandas as pd

from .. import findings
from ..experiments.arrangement import WAYS
from ..findings import Finding
from ..provenance import recorded
from .names import LAB


def runs(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The record's rows by model and way of training, by a name such as "lab ViT, wide start"."""
    found = {}
    for model, name in LAB.items():
        for way, gain in WAYS.items():
            some = record[(record["model"] == model) & (record["gain"] == gain)]
            if len(some):
                found[f"{name}, {way}"] = some
    return found


def found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F4 of each lab model and way of training; ``parameters`` of the chapter go into its provenance."""
    where = recorded("arrangement", record, **parameters)
    return [findings.f4_over_runs(rows, name, where | {"source": name}) for name, rows in runs(record).items()]


def before_after(record: pd.DataFrame, columns: dict[str, str], percent: bool = False) -> pd.DataFrame:
    """Figures of the lab models, in words: before → after training [95 % interval over seeds].

    Args:
        record: of `arrangement`.
        columns: heading → column of the record.
        percent: they are shares.

    Returns:
        Index: as in `runs`.
    """
    table = {}
    for name, rows in runs(record).items():
        plain = rows[rows["control"] == "none"]
        start, end = plain[plain["step"] == 0], plain[plain["step"] == plain["steps"]]
        table[name] = {heading: _arrow(start[column], end[column], percent) for heading, column in columns.items()}
    return pd.DataFrame.from_dict(table, orient="index")


def _arrow(start: pd.Series, end: pd.Series, percent: bool) -> str:
    if percent:
        return f"{100 * start.mean():.0f} → {findings.span(100 * end, 0, least=0, most=100)}"
    return f"{start.mean():.2f} → {findings.span(end, 2)}"
