"""Figures of noise in ΔW's place and on top of the weights, and of merging with and without amplification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .depth import LINES
from .house_style import COLOURS, INK, literal


def shares(ax: Axes, table: pd.DataFrame, rows: str, lines: str, bound: float | None = None) -> Axes:
    """Shares with their intervals as dots on horizontal lines.

    Args:
        ax: where to draw.
        table: columns ``rows``, ``lines``, share, low, high.
        rows: column that names the rows, from above in the order of the table.
        lines: column that tells the marks of a row apart.
        bound: a share to mark beside 0 and 1.
    """
    names, marks = list(dict.fromkeys(table[rows])), list(dict.fromkeys(table[lines]))
    for number, (mark, (colour, shape)) in enumerate(zip(marks, cycle(LINES[1:]), strict=False)):
        some = table[table[lines] == mark]
        place = some[rows].map(names.index) + 0.22 * (number - (len(marks) - 1) / 2)
        error = np.abs(some[["low", "high"]].to_numpy() - some[["share"]].to_numpy()).T
        ax.errorbar(some["share"], place, xerr=error, fmt=shape, ms=4, lw=1.2, color=colour, label=mark)
    for level in (0, 1):
        ax.axvline(level, color=INK, lw=0.8, ls=":")
    if bound is not None:
        ax.axvline(bound, color=COLOURS["model"], lw=0.8, ls="--")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(lambda value, place: f"{100 * value:.0f} %")
    return ax


def transport(ax: Axes, maps: Mapping[str, pd.DataFrame]) -> Axes:
    """Maps from Gaussian noise to ΔW, less the straight line that a Gaussian ΔW would have.

    Args:
        ax: where to draw.
        maps: name → table of `lfmlib.deltas.stand_ins.transport`.
    """
    for (colour, marker), (name, table) in zip(cycle(LINES[1:]), maps.items(), strict=False):
        every = max(1, len(table) // 12)
        bent = table["value"] - table["line"]
        ax.plot(table["z"], bent, color=colour, marker=marker, ms=3.5, lw=1.2, markevery=every, label=name)
    ax.axhline(0, color=INK, lw=0.8, ls=":")
    ax.set(xlabel="noise z, in standard deviations", ylabel="T(z) − z")
    return ax


def closing(
    axes: np.ndarray,
    runs: Mapping[str, pd.DataFrame],
    names: Mapping[str, str],
    bound: float,
    radii: Mapping[str, Mapping[str, float]],
) -> None:
    """Share of the gap that noise closes, against its scale: a panel for each model, a line for each way.

    Args:
        axes: one for each model.
        runs: model → rows with which, seed, scale, closed.
        names: which → its name.
        bound: share at which the radius is read off.
        radii: model → which → radius, marked there by a ring; a line that ends before it is led on, dashed.
    """
    for ax, (title, rows) in zip(np.ravel(axes), runs.items(), strict=True):
        for (colour, marker), (which, name) in zip(cycle(LINES[1:]), names.items(), strict=False):
            over = rows[rows["which"] == which].groupby("scale")["closed"].agg(["mean", "min", "max"])
            over = over.clip(lower=1e-4)
            ax.plot(over.index, over["mean"], color=colour, marker=marker, ms=3.5, lw=1.2, label=name)
            ax.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.15, lw=0)
            radius = radii[title].get(which, np.nan)
            ax.plot(radius, bound, marker, ms=8, mfc="none", mec=colour, mew=1.4)
            if radius > over.index[-1]:  # the curve ends before it
                ends = [over.index[-1], radius], [over["mean"].iloc[-1], bound]
                ax.plot(*ends, color=colour, lw=1.2, ls=(0, (2, 2)))
        ax.axhline(bound, color=INK, lw=0.8, ls=":")
        first = rows["scale"].min()
        most = max(rows["scale"].max(), np.nanmax([*radii[title].values(), 0]))
        ticks = [first * 4**step for step in range(1 + int(np.log(most / first) / np.log(4)))]
        ax.set(xscale="log", yscale="log", title=title)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()


def _hide_rest(axes: np.ndarray, used: int) -> None:
    """Hide the panels behind the first ``used``."""
    for ax in np.ravel(axes)[used:]:
        ax.set_axis_off()


def kept(axes: np.ndarray, runs: Mapping[str, Mapping[str, pd.DataFrame]], bound: float) -> None:
    """What a model still knows against what of its weights was replaced: a panel for each model, a line a stand-in.

    Args:
        axes: one for each model; what is left over is hidden.
        runs: model → stand-in → rows with seed, energy, and ``cost``, the share of what it knows that is lost.
        bound: a cost to mark.
    """
    _hide_rest(axes, len(runs))
    for ax, (title, each) in zip(np.ravel(axes), runs.items(), strict=False):
        for (colour, marker), (name, rows) in zip(cycle(LINES[1:]), each.items(), strict=False):
            over = rows.assign(left=1 - rows["cost"]).groupby("share")[["energy", "left"]]
            middle, low, high = (over.agg(how).clip(lower=-0.05) for how in ("mean", "min", "max"))
            ax.plot(middle["energy"], middle["left"], color=colour, marker=marker, ms=3.5, lw=1.2, label=name)
            ax.fill_between(middle["energy"], low["left"], high["left"], color=colour, alpha=0.15, lw=0)
        ax.axhline(1 - bound, color=INK, lw=0.8, ls=":")
        ax.set(title=title, xscale="log", xlim=(2e-5, 1.1), ylim=(-0.08, 1.15))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(lambda value, place: f"{100 * value:g} %")


def tenths(axes: np.ndarray, runs: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
    """What each tenth of the directions costs: a panel for each model, a line a stand-in.

    Args:
        axes: one for each model; what is left over is hidden.
        runs: model → stand-in → rows with seed, ``place`` from 1, the least, and ``cost``, a share of what it knows.
    """
    _hide_rest(axes, len(runs))
    for ax, (title, each) in zip(np.ravel(axes), runs.items(), strict=False):
        for (colour, marker), (name, rows) in zip(cycle(LINES[1:]), each.items(), strict=False):
            over = rows.groupby("place")["cost"].agg(["mean", "min", "max"])
            ax.plot(over.index, over["mean"], color=colour, marker=marker, ms=3.5, lw=1.2, label=name)
            ax.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.15, lw=0)
        ax.axhline(0, color=INK, lw=0.8, ls=":")
        ax.set(title=title)
        ax.set_xticks(range(1, 11))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_formatter(lambda value, place: f"{100 * value:.0f} %")


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


def protocols(ax: Axes, table: pd.DataFrame) -> Axes:
    """Ratios of radii by every way of asking: a band for each model and task, in it a line for each head and unit, and
    beside it, as a stroke, the control's ratio.

    Args:
        ax: where to draw, with a logarithmic axis.
        table: subject, head, unit, ratio, low, high, control.
    """
    subjects, heads = list(dict.fromkeys(table["subject"])), list(dict.fromkeys(table["head"]))
    band = table.groupby("subject", sort=False).size().to_dict()
    begins = dict(zip(subjects, np.cumsum([0, *(band[one] + 1 for one in subjects)]), strict=False))
    place = table["subject"].map(begins) + table.groupby("subject").cumcount()
    for (colour, marker), head in zip(cycle(LINES[1:]), heads, strict=False):
        some = table["head"] == head
        ax.hlines(place[some], table.loc[some, "low"], table.loc[some, "high"], color=colour, lw=1.2)
        ax.plot(table.loc[some, "ratio"], place[some], marker, color=colour, ms=3.5, mew=0, label=literal(head))
    ax.plot(table["control"], place, "|", color=INK, ms=4, mew=1.2, label="W₀ + noise")
    ax.axvline(1, color=INK, lw=0.8, ls=":")
    ax.set_yticks([begins[one] + (band[one] - 1) / 2 for one in subjects], [literal(one) for one in subjects])
    ax.set_ylim(place.max() + 1, -1)
    ax.tick_params(axis="y", length=0)
    return times_axis(ax)


def times_axis(ax: Axes, ticks: Sequence[float] = (0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)) -> Axes:
    """A logarithmic axis of ratios, with such of the ticks as it has room for, read as they are."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ticks = [one for one in ticks if low <= one <= high]
    ax.set_xticks(ticks, [f"{one:g}" for one in ticks])
    ax.minorticks_off()
    return ax
