"""Figures of trainings: from unlike starts, and what adapters reach with how many trained parameters."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from .depth import LINES
from .house_style import COLOURS, INK
from .weights import beside_bound, outlined

#: start of a training → colour, dashes and marker: light tails blue, heavy tails purple, controls green
STARTS = {
    "gaussian": (COLOURS["noise"], "-", "o"),
    "orthogonal": (COLOURS["noise"], ":", "P"),
    "uniform": (COLOURS["data"], "-", "D"),
    "signs": (COLOURS["data"], "--", "s"),
    "laplace": (COLOURS["other"], "-", "^"),
    "student-t3": (COLOURS["other"], "--", "v"),
    "sparse-90": (COLOURS["model"], "-", "X"),
}


def curves(ax: Axes, rows: pd.DataFrame, column: str, bound: float | None = None) -> Axes:
    """A figure of the weights against training steps, one line per start, the range over seeds shaded.

    Args:
        ax: where to draw; step 0 gets a place on the logarithmic axis.
        rows: start, step, seed and ``column``.
        column: what to draw.
        bound: a level to mark.
    """
    first = rows.loc[rows["step"] > 0, "step"].min()
    for start, some in rows.groupby("start", sort=False):
        colour, dashes, _ = STARTS[start]
        over = some.groupby("step")[column].agg(["mean", "min", "max"])
        steps = np.where(over.index == 0, first / 2, over.index)
        ax.plot(steps, over["mean"], color=colour, ls=dashes, lw=1.3)
        ax.fill_between(steps, over["min"], over["max"], color=colour, alpha=0.18, lw=0)
    if bound is not None:
        ax.axhline(bound, color=INK, lw=0.8, ls=":")
    ax.set_xscale("log")
    ends = [first / 2, rows["step"].max()]
    ax.set_xticks(ends, ["0", f"{ends[1]:,}"])
    ax.minorticks_off()
    return ax


SCALES = {"kl_bits": {"yscale": "log", "ylim": (3e-4, 6)}, "ks": {"yscale": "log"}, "excess_kurtosis": {}}
"""Column → how its axis is set; the excess kurtosis, which has a sign, gets a symmetric logarithm."""


def panels(
    axes: np.ndarray, runs: dict[str, pd.DataFrame], column: str, bands: dict, bound: float | None = None
) -> None:
    """`curves` of several ways of training, one a panel, with the range of noise shaded, and one legend above all.

    Args:
        axes: at least one for each of ``runs``; what is left over is hidden.
        runs: name → rows (DataFrame).
        column: what to draw, one of `SCALES`.
        bands: name → ends of the central 95 % of noise.
        bound: a level to mark.
    """
    for ax in axes.flat[len(runs) :]:
        ax.set_axis_off()
    across = axes.shape[1] if axes.ndim == 2 else 1
    for place, (ax, (name, rows)) in enumerate(zip(axes.flat, runs.items(), strict=False)):
        curves(ax, rows, column, bound)
        ax.set(**SCALES[column], title="\n".join(name.split(", ")))
        if column == "excess_kurtosis":
            ax.set_yscale("symlog", linthresh=1)
        low, high = bands[name]
        if column in ("kl_bits", "ks"):
            low = max(low, ax.get_ylim()[0])
        ax.axhspan(low, high, color=COLOURS["noise"], alpha=0.15, lw=0)
        ax.set_ylabel(column.replace("_", " ").replace("kl bits", "kl_bits") if place % across == 0 else "")
        ax.set_xlabel("step" if place + across >= len(runs) else "")
    starts = dict.fromkeys(start for rows in runs.values() for start in rows["start"])
    axes.flat[0].figure.legends.clear()
    starts_legend(axes.flat[0].figure, starts, marks=False)


def starts_legend(fig: plt.Figure, starts, columns: int = 4, marks: bool = True, others=()) -> None:
    """One legend for all panels of a figure, above them; with the markers of the starts, where the figure has marks.

    Args:
        fig: whose panels are done.
        starts: names in `STARTS`.
        columns: of the legend.
        marks: the figure has marks.
        others: handles of what else is drawn.
    """
    lines = [
        plt.Line2D([], [], color=STARTS[s][0], ls=STARTS[s][1], marker=STARTS[s][2] if marks else "", ms=4, label=s)
        for s in starts
    ]
    lines += others
    fig.legend(handles=lines, loc="outside upper center", ncols=columns, columnspacing=1.2, handlelength=2.2)


def collapse(ax: Axes, rows: pd.DataFrame, laws: dict[str, tuple[np.ndarray, np.ndarray]], bound: float) -> Axes:
    """Distance from the Gaussian against what was added for each part of the start that is left, and its prediction.

    Args:
        ax: where to draw.
        rows: start, ratio and kl_bits.
        laws: start → ratios, and the `kl_bits` predicted at each; drawn as lines.
        bound: a level to mark.
    """
    for start, (ratio, kl_bits) in laws.items():
        colour, dashes, marker = STARTS[start]
        ax.plot(ratio, kl_bits, color=colour, ls=dashes, lw=1.2)
        some = rows[rows["start"] == start]
        ax.plot(some["ratio"], some["kl_bits"], marker, color=colour, ms=3, alpha=0.55, mew=0)
    ax.axhline(bound, color=INK, lw=0.8, ls=":")
    ax.set(xscale="log", yscale="log", xlim=(0.03, max(12, 1.3 * rows["ratio"].max())), ylim=(5e-4, 6))
    ax.set(xlabel="RMS added / RMS left of the start", ylabel="kl_bits")
    return ax


GUIDES = {"rate_norm": ("diffusion", ":"), "rate_sum": ("straight on", "-.")}
"""Column → what grows with it, and its line."""


def growth(axes: np.ndarray, runs: dict[str, pd.DataFrame]) -> None:
    """How far the weights have moved against the root of the sum of squared rates, a panel for each model, a line a
    training, with guides.

    Args:
        axes: one for each of ``runs``, in a row.
        runs: name → rows with start, seed, step, rate_norm, rate_sum and moved, of one model and scale.
    """
    for ax, (model, rows) in zip(axes, runs.items(), strict=True):
        rows = rows[rows["step"] > 0]
        for (start, _), some in rows.groupby(["start", "seed"], sort=False):
            ax.plot(some["rate_norm"], some["moved"], color=STARTS[start][0], ls=STARTS[start][1], lw=0.9, alpha=0.7)
        spent = rows.groupby("step")[["rate_norm", "rate_sum", "moved"]].mean()
        low = 0.7 * spent["moved"].iloc[0]
        for column, (_, dashes) in GUIDES.items():
            ax.plot(spent["rate_norm"], low * spent[column] / spent[column].iloc[0], color=INK, lw=1.2, ls=dashes)
        ax.set(xscale="log", yscale="log", title=model)
        ax.xaxis.set_major_formatter(mpl.ticker.LogFormatterSciNotation(minor_thresholds=(0, 0)))
        ax.minorticks_off()
    axes[0].set_ylabel("RMS(ΔW) / RMS(W₀)")
    axes[len(axes) // 2].set_xlabel("root of the sum of squared learning rates")
    guides = [plt.Line2D([], [], color=INK, lw=1.2, ls=dashes, label=name) for name, dashes in GUIDES.values()]
    starts = dict.fromkeys(start for rows in runs.values() for start in rows["start"])
    starts_legend(axes[0].figure, starts, columns=3, marks=False, others=guides)


def faded(ax: Axes, rows: pd.DataFrame, bound: float) -> Axes:
    """Distance from the Gaussian before and after training: a row for each start, a line for each model, with a ring
    where it begins and a mark where it ends.

    Args:
        ax: where to draw.
        rows: start, model (its name in print), step, steps and kl_bits.
        bound: a level to mark.
    """
    starts, models = (list(dict.fromkeys(rows[name])) for name in ("start", "model"))
    least = 1e-4  # of a logarithmic axis; a Gaussian start may lie below
    for number, (model, (colour, marker)) in enumerate(zip(models, LINES[1:], strict=False)):
        some = rows[rows["model"] == model]
        for place, start in enumerate(starts):
            one = some[some["start"] == start]
            ends = [one.loc[one["step"] == step, "kl_bits"].mean() for step in (0, one["steps"].max())]
            ends, y = np.maximum(ends, least), place + 0.24 * (number - (len(models) - 1) / 2)
            ax.plot(ends, [y, y], color=colour, lw=1.1)
            ax.plot(ends[0], y, "o", mfc="none", color=colour, ms=4)
            ax.plot(ends[1], y, marker, color=colour, ms=5, mew=0)
        ax.plot([], [], marker=marker, color=colour, lw=1.1, ms=5, mew=0, label=model)
    ax.plot([], [], "o", mfc="none", color=INK, ms=4, ls="", label="before")
    ax.axvline(bound, color=INK, lw=0.8, ls=":")
    ax.set_yticks(range(len(starts)), starts)
    ax.set(xscale="log", xlabel="kl_bits (bits per weight)", ylim=(len(starts) - 0.5, -0.5))
    ax.tick_params(axis="y", length=0)
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4, columnspacing=1.2)
    return ax


def forecast(ax: Axes, rows: pd.DataFrame, bound: float) -> Axes:
    """Measured distance from the Gaussian against the one foretold, a mark for each start and way of training.

    Args:
        ax: where to draw.
        rows: start, foretold and measured, in bits.
        bound: a level to mark on both axes.
    """
    least = 2e-4  # of logarithmic axes
    for start, some in rows.groupby("start", sort=False):
        colour, _, marker = STARTS[start]
        ends = some[["foretold", "measured"]].clip(lower=least)
        ax.plot(ends["foretold"], ends["measured"], marker, color=colour, ms=5, mew=0, alpha=0.8, label=start)
    ends = [least, 2 * rows[["foretold", "measured"]].max().max()]
    ax.plot(ends, ends, color=INK, lw=1)
    for line in (ax.axhline, ax.axvline):
        line(bound, color=INK, lw=0.8, ls=":")
    ax.set(xscale="log", yscale="log", xlabel="foretold kl_bits", ylabel="measured kl_bits")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def sweep_maps(axes: np.ndarray, runs: dict[str, pd.DataFrame], bound: float) -> None:
    """Final `kl_bits` by learning rate (across) and weight decay (downwards), outlined where beyond ``bound``: maps one
    above the other, with one bar of colours.

    Args:
        axes: one for each of ``runs``, in a column.
        runs: title → lr, weight_decay and kl_bits, one row per training.
        bound: the level beyond which a cell is outlined.
    """
    for ax, (title, rows) in zip(axes, runs.items(), strict=True):
        grid = rows.pivot_table(index="weight_decay", columns="lr", values="kl_bits")
        sns.heatmap(
            grid, ax=ax, cmap="cividis_r", norm=LogNorm(0.001, 1), annot=beside_bound(grid, bound), fmt="",
            annot_kws={"size": 8.5}, linewidths=0.5, cbar=False, xticklabels=[f"{lr:g}" for lr in grid.columns],
            yticklabels=[f"{decay:g}" for decay in grid.index],
        )  # fmt: skip
        ax.set(xlabel="learning rate" if ax is axes[-1] else "", ylabel="weight decay", title=title)
        outlined(ax, grid, bound)
    bar = axes[0].figure.colorbar(axes[0].collections[0], ax=axes, label="kl_bits (bits per weight)", format="{x:g}")
    bar.ax.minorticks_off()


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


def phases(ax: Axes, rows: pd.DataFrame) -> Axes:
    """What decay takes of the variance against what the path gives, one mark per matrix, by what was measured.

    Args:
        ax: where to draw.
        rows: ``taken`` and ``given``, in Var W₀; ``rise``, the measured change of the variance; ``name`` of the model.
    """
    some = rows[(rows["taken"] > 0) & (rows["given"] > 0)]
    markers = dict(zip(some["name"].unique(), "o^sDvP", strict=False))
    for (name, wider), points in some.groupby(["name", some["rise"] > 0], sort=False):
        look = {"color": COLOURS["data" if wider else "model"], "marker": markers[name], "ms": 2.5, "alpha": 0.5}
        word = "widened" if wider else "narrowed"
        ax.plot(points["taken"], points["given"], ls="", label=f"{name}, {word}", **look)
    ends = [some[["taken", "given"]].min().min(), some[["taken", "given"]].max().max()]
    ax.plot(ends, ends, color=INK, lw=1.2, label="foretold")
    ax.set(xscale="log", yscale="log", xlabel="taken by decay / Var W₀", ylabel="given by the path / Var W₀")
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2, markerscale=2)
    return ax
