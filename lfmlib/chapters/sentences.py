"""Tables in words: a row is a model or an arm with what was measured of it, a column a heading and how to word a cell.

    table(by_model(record), {"asked": asked, "loss": mean("own", ".3f"), "after": span("score", 1, times=100)})

A cell is a function of what was measured, mostly rows of a record, that returns what is printed. Those that tables
share are made here, of a figure: a column of these rows, or a function of them. What was not measured is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from .. import findings
from .names import where

Cell = Callable[[Any], object]
"""From what was measured to what is printed; None leaves the cell out."""
Figure = str | Callable[[Any], Any]
"""A column of rows, or a function of what was measured."""
MISSING = "–"


def table(rows: Mapping[str, Any] | Iterable[tuple[Any, Any]], columns: Mapping[str, Cell] | Cell) -> pd.DataFrame:
    """A table of words.

    Args:
        rows: name → what was measured, or pairs of both; where that is nothing, or says nothing, the name is left out.
        columns: heading → cell; or, where cells have much in common, one function that returns heading → words.
    """
    found = {}
    for name, some in rows.items() if isinstance(rows, Mapping) else rows:
        if not (isinstance(some, pd.DataFrame) and some.empty):
            words = columns(some) if callable(columns) else {head: cell(some) for head, cell in columns.items()}
            if words := {heading: told for heading, told in words.items() if told is not None}:
                found[name] = words
    return pd.DataFrame.from_dict(found, orient="index")


def listed(rows: Iterable[Any], columns: Mapping[str, Cell] | Cell) -> pd.DataFrame:
    """A table whose rows have no names, but columns that say what they are of."""
    return table(enumerate(rows), columns)


def word(value: float, form: str, unit: str = "") -> str:
    """A number, by a format such as ".2f", and its unit."""
    return MISSING if math.isnan(value) else f"{value:{form}}{unit}"


def number(figure: Figure, form: str, unit: str = "", *, times: float = 1) -> Cell:
    """A cell with a single number; of several, which then are alike, the first."""

    def cell(some) -> str:
        found = _figure(figure, some)
        return word(times * (found.iloc[0] if isinstance(found, pd.Series) else found), form, unit)

    return cell


def mean(figure: Figure, form: str, unit: str = "", *, times: float = 1) -> Cell:
    """A cell with the mean of a figure."""
    return number(lambda some: _figure(figure, some).mean(), form, unit, times=times)


def median(figure: Figure, form: str, unit: str = "", *, times: float = 1) -> Cell:
    """A cell with the median of a figure."""
    return number(lambda some: _figure(figure, some).median(), form, unit, times=times)


def span(figure: Figure, digits: int, sign: str = "", unit: str = "", *, times: float = 1, **limits: float) -> Cell:
    """A cell with the mean of a figure over runs and its interval, within ``limits`` (see `lfmlib.findings.span`)."""
    return lambda some: findings.span(times * _figure(figure, some), digits, sign, unit, **limits)


def worded(how: Callable[[Any], str], figure: Figure) -> Cell:
    """A cell with a figure as a function words it."""
    return lambda some: how(_figure(figure, some))


def arrow(before: Cell, after: Cell) -> Cell:
    """A cell with another on either side of an arrow: before → after."""

    def cell(some) -> str:
        both = before(some), after(some)
        return MISSING if both == (MISSING, MISSING) else " → ".join(map(str, both))

    return cell


def within(cell: Cell, **settings) -> Cell:
    """A cell of those rows alone that have these settings."""
    return lambda rows: cell(where(rows, **settings))


def at_end(cell: Cell) -> Cell:
    """A cell of those rows alone that are about the last step of a training."""
    return lambda rows: cell(rows[rows["step"] == rows["steps"]])


def runs(rows: pd.DataFrame) -> int:
    """How many runs there are: one a seed."""
    return rows["seed"].nunique()


def trained_for(rows: pd.DataFrame) -> str:
    """How long a training is: steps × batch."""
    return " × ".join(f"{rows[name].iloc[0]:g}" for name in ("steps", "batch"))


def middle(values: pd.Series, form: str = ".2f") -> str:
    """Median and middle 80 %."""
    low, mid, high = values.quantile([0.1, 0.5, 0.9])
    return f"{mid:{form}} ({low:{form}} to {high:{form}})" if len(values) else MISSING


def interval(values: pd.Series) -> dict[str, float]:
    """Mean over runs and its 95 % interval, as columns of `intervals`."""
    return dict(zip(("mean", "low", "high"), findings.over_runs(values), strict=True))


def intervals(rows: Iterable[dict], *names: str) -> pd.DataFrame:
    """What a figure of intervals draws: columns ``names``, mean, low, high."""
    return pd.DataFrame(list(rows), columns=[*names, "mean", "low", "high"])


def half(values: pd.Series) -> str:
    """Mean over runs ± half of its interval, to three decimals."""
    if not len(values):
        return MISSING
    value, low, _ = findings.over_runs(values)
    return f"{value:.3f} ± {value - low:.3f}" if len(values) > 1 else f"{value:.3f} (one run)"


def _figure(figure: Figure, some):
    return some[figure] if isinstance(figure, str) else figure(some)
