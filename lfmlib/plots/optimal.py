"""Figures of optimal weights: the anatomy of a matrix, pruning curves, code lengths of laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..distribution.families import FAMILIES
from ..distribution.family_masses import log_survival
from ..distribution.law import Law
from .depth import LINES
from .house_style import COLOURS, INK, literal

ARMS = {"magnitude": 1, "magnitude, all together": 2, "Wanda": 3, "random": 4}
"""Arms of pruning that are drawn, and their place among the line styles."""


def anatomy(ax: Axes, values: np.ndarray, law: Law, pruned: float = 0.0) -> Axes:
    """One matrix from its middle to its outliers: what pruning takes, the core, and what lies beyond its cut.

    Args:
        ax: where to draw.
        values: of the matrix.
        law: of what is left when the share ``pruned`` has gone; drawn are its Gaussian core, and whichever law won.
        pruned: share of the smallest magnitudes, shaded.
    """
    values = values[np.isfinite(values)]
    std = values.std()
    z = np.abs(values) / std
    edges = np.concatenate([np.arange(0, 4, 0.1), np.geomspace(4, max(1.02 * z.max(), 6), 28)])
    counts = np.histogram(z, edges)[0]
    density = np.where(counts > 0, counts / len(z) / np.diff(edges), np.nan)
    ax.stairs(density, edges, baseline=None, color=COLOURS["data"], lw=1.4, label="weights")
    if pruned:
        ax.axvspan(0, np.quantile(z, pruned), color=INK, alpha=0.2, lw=0, label=f"the smallest {pruned:.0%}")
    drawn = [("Gaussian core", law.gaussian, "model")]
    if law.candidates[law.variant] is not law.gaussian:
        drawn.append(("shortest code", law.candidates[law.variant], "noise"))
    for name, one, colour in drawn:
        end = min(min(one.upper, one.begins) / std, edges[-1])
        x = np.linspace(law.lower / std, end * (1 - 1e-3), 400)
        ax.plot(x, _density(one, x * std, law) * std, color=COLOURS[colour], lw=1.3, label=name)
    far = z[z > law.outlier_cut / std]
    ax.plot(far, np.full(len(far), np.nanmin(density) / 3), "|", color=COLOURS["other"], ms=7, label="outliers")
    ax.set_xscale("function", functions=(np.log1p, np.expm1))
    ticks = [tick for tick in (0, 1, 2, 4, 8, 16, 32, 64, 128) if tick <= edges[-1]]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set(yscale="log", xlabel="abs(weight) / std", ylabel="density")
    ax.minorticks_off()
    ax.set_ylim(bottom=np.nanmin(density) / 8)
    return ax


def _density(one, magnitude: np.ndarray, law: Law) -> np.ndarray:
    """Density of abs(w) under a candidate, as a share of all the weights of the matrix, pruned ones included."""
    survival = np.vectorize(partial(log_survival, FAMILIES[one.fit.family].number))
    step = 1e-4 * one.fit.std

    def between(low, high):
        sides = [
            np.exp(survival((low - mean) / one.fit.scale, one.fit.shape))
            - np.exp(survival((high - mean) / one.fit.scale, one.fit.shape))
            for mean in (one.fit.mean, -one.fit.mean)
        ]
        return sides[0] + sides[1]

    whole = between(np.array(law.lower), np.array(one.upper))
    core = (1 - law.pruned) * (1 - one.outlier_share)
    return core * between(magnitude - step, magnitude + step) / (2 * step) / whole


def pruning(axes: np.ndarray, curves: Mapping[str, pd.DataFrame], bound: float) -> None:
    """Relative rise of the loss against the share of weights that are zeroed: a panel a model, a line an arm.

    Args:
        axes: one for each model.
        curves: model → rows with arm, share, rise, low, high.
        bound: relative rise to mark.
    """
    for ax, (name, rows) in zip(np.ravel(axes), curves.items(), strict=True):
        for arm, place in ARMS.items():
            some = rows[rows["arm"] == arm]
            colour, marker = LINES[place % len(LINES)]
            shown = some[["rise", "low", "high"]].clip(lower=1e-4)
            ax.plot(some["share"], shown["rise"], color=colour, marker=marker, ms=3.5, lw=1.2, label=arm)
            ax.fill_between(some["share"], shown["low"], shown["high"], color=colour, alpha=0.15, lw=0)
        ax.axhline(bound, color=INK, lw=0.8, ls=":")
        ax.set(yscale="log", title=name)
        ax.minorticks_off()
        ax.xaxis.set_major_formatter(lambda value, place: f"{100 * value:.0f} %")


def by_law(ax: Axes, tables: Mapping[str, pd.DataFrame], variants: Sequence[str], margin: float) -> Axes:
    """How many bits each law lies above the shortest: a dot a matrix, a row a law.

    Args:
        ax: where to draw.
        tables: what was coded, such as weights and noise → rows of `lfmlib.surveys.optimal_laws.laws`.
        variants: the laws, from above.
        margin: bits to mark.
    """
    shift = np.random.default_rng(0)
    for (name, table), (colour, offset) in zip(tables.items(), (("data", -0.17), ("noise", 0.17)), strict=False):
        bits = table[[f"bits_{variant}" for variant in variants]]
        over = bits.sub(bits.min(axis=1), axis=0)
        for place, column in enumerate(over):
            y = place + offset + shift.uniform(-0.1, 0.1, len(over))
            ax.plot(
                over[column].clip(lower=1e-5), y, "o", ms=3.5, mew=0, alpha=0.7, color=COLOURS[colour],
                label=name if not place else None,
            )  # fmt: skip
    ax.axvline(margin, color=INK, lw=0.8, ls=":")
    ax.set_yticks(range(len(variants)), [one.replace("generalized-", "gen. ").replace("-", " ") for one in variants])
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="bits per weight above the shortest code")
    ax.set_xticks([1e-5, 1e-4, 1e-3, 1e-2, 1e-1], ["0", "0.0001", "0.001", "0.01", "0.1"])
    ax.minorticks_off()
    return ax


def won(axes: np.ndarray, tables: Mapping[str, pd.DataFrame]) -> None:
    """For which share of the parameters which law is the shortest: a panel for each thing coded, a bar a model.

    Args:
        axes: side by side, one for each table.
        tables: what was coded, such as weights and noise → index: model; columns: laws; shares of 1.
    """
    for ax, (title, table) in zip(np.ravel(axes), tables.items(), strict=True):
        begin = np.zeros(len(table))
        for law, (colour, _) in zip(table, LINES, strict=False):
            ax.barh(range(len(table)), table[law], 0.7, begin, color=colour, lw=0, label=law)
            begin += table[law].to_numpy()
        ax.set_yticks(range(len(table)), [literal(name) for name in table.index])
        ax.set(title=title, xlim=(0, 1))
        ax.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        ax.tick_params(axis="y", length=0)
    np.ravel(axes)[0].invert_yaxis()


def rises(ax: Axes) -> Axes:
    """An axis of rises in per cent, from far below one to hundreds: linear to one per cent, logarithmic beyond."""
    ax.set_xscale("symlog", linthresh=1)
    low, high = ax.get_xlim()
    ticks = [one for one in (-100, -10, -1, 0, 1, 10, 100, 1000) if low <= one <= high]
    ax.set_xticks(ticks, [f"{one:g}" for one in ticks])
    ax.minorticks_off()
    return ax
