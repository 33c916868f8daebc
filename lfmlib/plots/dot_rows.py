"""One row for each thing compared: a mark and its interval. What a table of means with brackets says, at one look."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .depth import LINES, line_legend
from .house_style import COLOURS, INK, figure, literal


def intervals(
    ax: Axes,
    table: pd.DataFrame,
    rows: str,
    lines: str | None = None,
    *,
    value: str = "mean",
    marks: tuple[float, ...] = (),
    percent: bool = False,
) -> Axes:
    """Values with their intervals as dots on horizontal lines.

    Args:
        ax: where to draw.
        table: columns ``rows``, ``lines``, ``value``, low, high; a missing limit draws no line.
        rows: column that names the rows, from above in the order of the table.
        lines: column that tells the marks of a row apart; None: a row has one.
        value: column of the dots.
        marks: values to mark with a dotted line, such as 0 or a rule's bound.
        percent: the values are shares, and are written in per cent.
    """
    names = list(dict.fromkeys(table[rows]))
    kinds = list(dict.fromkeys(table[lines])) if lines else [""]
    for number, (kind, (colour, shape)) in enumerate(zip(kinds, cycle(LINES[1:]), strict=False)):
        some = table[table[lines] == kind] if lines else table
        place = some[rows].map(names.index) + 0.7 / max(len(kinds), 2) * (number - (len(kinds) - 1) / 2)
        colour = colour if lines else COLOURS["data"]
        ax.hlines(place, some["low"].astype(float), some["high"].astype(float), color=colour, lw=1.4)
        ax.plot(some[value], place, shape, color=colour, ms=5, mew=0, label=literal(kind) if lines else None)
    for one in marks:
        ax.axvline(one, color=INK, lw=0.8, ls=":")
    ax.set_yticks(np.arange(len(names)), [literal(name) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    if percent:
        ax.xaxis.set_major_formatter(lambda value, place: f"{100 * value:.0f} %")
    return ax


def compared(
    table: pd.DataFrame, rows: str, lines: str | None = None, label: str = "", columns: int = 3, **options
) -> Axes:
    """`intervals` in a figure of their own, as high as the rows take, with the legend above.

    Args:
        table, rows, lines: as for `intervals`.
        label: of the horizontal axis.
        columns: of the legend.
        options: of `intervals`.
    """
    kinds = table[lines].nunique() if lines else 0
    above = 0.22 * -(-kinds // columns)
    fig, ax = figure(0.75 + above + max(table[rows].nunique(), 1) * (0.1 + 0.06 * max(kinds, 2)))
    intervals(ax, table, rows, lines, **options).set_xlabel(label)
    if kinds:
        line_legend(fig, np.array([ax]), columns=columns)
    return ax
