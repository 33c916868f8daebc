"""Figures of merging: what amplifying outliers adds, method by method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .depth import LINES
from .style import INK


def added(axes: np.ndarray, tables: Mapping[str, pd.DataFrame]) -> None:
    """Paired differences with their intervals: a panel a model, a row a method, a mark an arm.

    Args:
        axes: one for each model.
        tables: model → rows with method, arm, mean, low, high.
    """
    arms = list(dict.fromkeys(arm for rows in tables.values() for arm in rows["arm"]))  # not every panel has all
    arms.sort(key=lambda arm: max(list(rows["arm"]).index(arm) for rows in tables.values() if arm in set(rows["arm"])))
    for ax, (name, rows) in zip(np.ravel(axes), tables.items(), strict=True):
        methods = list(dict.fromkeys(rows["method"]))
        for place, arm in enumerate(arms):
            some = rows[rows["arm"] == arm].set_index("method").reindex(methods)
            if some["mean"].isna().all():
                continue
            colour, marker = LINES[(place + 1) % len(LINES)]
            y = np.arange(len(methods)) + 0.15 * (place - (len(arms) - 1) / 2)
            span = some[["low", "high"]].to_numpy().T
            ax.hlines(y, *span, color=colour, lw=1.1)
            ax.plot(some["mean"], y, marker, color=colour, ms=4, mew=0, label=arm)
        ax.axvline(0, color=INK, lw=0.8, ls=":")
        ax.set_yticks(range(len(methods)), methods)
        ax.invert_yaxis()
        ax.set_title(name)
