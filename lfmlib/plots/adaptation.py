"""Figures of adaptation: what is reached with how many trained parameters."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from .depth import LINES
from .style import INK


def by_parameters(ax: Axes, rows: pd.DataFrame) -> Axes:
    """Score against the number of trained parameters, on a logarithmic axis: a line a method, a bar an interval.

    Args:
        ax: where to draw.
        rows: with method, parameters, mean, low, high; methods in the order of the legend.
    """
    for place, (method, some) in enumerate(rows.groupby("method", sort=False)):
        colour, marker = LINES[place % len(LINES)]
        ax.vlines(some["parameters"], some["low"], some["high"], color=colour, lw=1.1)
        ax.plot(some["parameters"], some["mean"], color=colour, marker=marker, ms=4.5, lw=1.2, label=method)
    ax.set(xscale="log", xlabel="trained parameters", ylabel="test accuracy in per cent")
    ax.tick_params(which="minor", color=INK)
    return ax
