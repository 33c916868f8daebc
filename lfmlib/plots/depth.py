"""Figures of transformation weights: σ(ΔW) by layer and role, the std budget, pre-training, samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import cycle
from textwrap import wrap

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .house_style import COLOURS, INK, literal, no_layers

PANELS = ("q", "k", "v", "o", "gate", "up", "down")
"""Roles that have a panel of their own."""
LINES = (
    (INK, "s"),
    (COLOURS["data"], "o"),
    (COLOURS["noise"], "^"),
    (COLOURS["other"], "D"),
    (COLOURS["model"], "v"),
    ("#9a7d1e", "X"),
    ("#5f8a8b", "P"),
)
"""Colour and marker of the lines of a panel, in order."""


def by_layer(axes: np.ndarray, lines: Mapping[str, pd.DataFrame], log: bool = False) -> None:
    """σ(ΔW) against the layer, a panel for each of `PANELS`, a line for each way of training, the range shaded.

    A linear axis begins at zero. Of several runs the legend says how many a line is the mean of.

    Args:
        axes: ``(4, 2)``; the last holds the legend. Roles without matrices have no panel, and rows without one no room.
        lines: name → rows with role, depth, std_delta, and seed where there are several runs; at most seven.
        log: logarithmic vertical axis.
    """
    shown = [role for role in PANELS if any((rows["role"] == role).any() for rows in lines.values())]
    for ax, role in zip(axes.flat, shown, strict=False):
        for (colour, marker), (name, rows) in zip(LINES, lines.items(), strict=False):
            if "seed" in rows and (runs := rows["seed"].nunique()) > 1:
                name = f"{name} ({runs} runs)"
            name = literal(name)
            over = 1000 * rows[rows["role"] == role].groupby("depth")["std_delta"].agg(["mean", "min", "max"])
            if len(over):
                depth = over.index.to_numpy(int)
                ax.plot(depth, over["mean"], color=colour, marker=marker, ms=3, lw=1.2, label=name)
                ax.fill_between(depth, over["min"], over["max"], color=colour, alpha=0.15, lw=0)
        ax.set_title(role)
        ax.set_yscale("log" if log else "linear")
        if not log:
            ax.set_ylim(0, 1.08 * max(line.get_ydata().max() for line in ax.lines))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.tick_params(labelbottom=role in shown[-2:])
        ax.set_xlabel("layer" if role in shown[-2:] else "")
    for ax in axes[:, 0]:
        ax.set_ylabel("1000 std(ΔW)")
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    named = _named(axes)
    axes.flat[-1].legend(named.values(), named.keys(), loc="center")
    if not shown:
        no_layers(axes.flat[0])
    rows = -(-len(shown) // 2)
    heights = np.array([1.0] * rows + [1e-3] * (4 - rows))
    heights[-1] = max(heights[-1], min(0.3 + 0.1 * len(named), 1))  # of the legend, where it stands alone
    axes[0, 0].get_gridspec().set_height_ratios(heights)
    axes[0, 0].figure.set_figheight(heights.sum() / 4 * axes[0, 0].figure.get_figheight())


def profiles(axes: np.ndarray, models: Mapping[str, pd.DataFrame]) -> None:
    """Profiles over relative depth, each over its own mean: a panel a model, a line for each of `PANELS`.

    Args:
        axes: one for each model, side by side, with one vertical axis.
        models: name → rows with role, place (0: first layer, 1: last), level.
    """
    axes = np.ravel(axes)
    for ax, (name, rows) in zip(axes, models.items(), strict=False):
        for (colour, marker), role in zip(LINES, PANELS, strict=True):
            some = rows[rows["role"] == role].sort_values("place")
            if len(some):
                look = {"color": colour, "marker": marker, "ms": 3, "lw": 1.1, "markevery": max(len(some) // 6, 1)}
                ax.plot(some["place"], some["level"], label=role, **look)
        ax.axhline(1, color=INK, lw=0.8, ls=":")
        ax.set_title("\n".join(wrap(literal(name), 17)), fontsize=10)
        ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    for ax in axes[len(models) :]:
        ax.set_axis_off()
    axes[0].set_ylabel("std(ΔW) / its mean")
    named, tight = _named(axes), {"handlelength": 1.1, "handletextpad": 0.4, "columnspacing": 0.9}
    axes[0].figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=len(PANELS), **tight)
    axes[0].figure.supxlabel("depth: 0 the first layer, 1 the last", fontsize=10.5)
    if not models:
        no_layers(axes[0])


def trend_map(ax: Axes, rho: pd.DataFrame, words: pd.DataFrame, grows: pd.DataFrame) -> Axes:
    """Correlations with depth as a map, a role in each row and a way of training in each column.

    Args:
        ax: where to draw.
        rho: the correlations; NaN where a role is missing.
        words: what each cell says.
        grows: which cells are framed.
    """
    sns.heatmap(
        rho.astype(float), ax=ax, cmap="PuOr_r", vmin=-1, vmax=1, annot=words.to_numpy(), fmt="",
        annot_kws={"size": 7}, cbar=False,
    )  # fmt: skip
    for y, x in np.argwhere(rho.isna().to_numpy()):
        ax.annotate("–", (x + 0.5, y + 0.5), ha="center", va="center", color=INK)
    for y, x in np.argwhere(grows.to_numpy(bool)):
        ax.add_patch(Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, fill=False, color=COLOURS["noise"], lw=1.6))
    ax.set_yticklabels(rho.index)
    ax.set_xticklabels(["\n".join(line for part in name.split(", ") for line in wrap(part, 9)) for name in rho.columns])
    ax.set(xlabel="", ylabel="")
    ax.tick_params(length=0, labelrotation=0, labeltop=True, labelbottom=False)
    return ax


def line_legend(fig, axes: np.ndarray, columns: int = 3) -> None:
    """One legend for all panels of a figure, above them."""
    named = _named(axes)
    fig.legend(named.values(), named.keys(), loc="outside upper center", ncols=columns, columnspacing=1.2)


def _named(axes: np.ndarray) -> dict[str, Artist]:
    """Label → what was drawn with it, in any of the panels."""
    found = {}
    for ax in axes.flat:
        handles, labels = ax.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    return found


def budget(ax: Axes, table: pd.DataFrame) -> Axes:
    """Change of the variance against the variance of ΔW, matrix by matrix, both over Var W₀; on the line, g = 1.

    Args:
        ax: where to draw.
        table: rows of `lfmlib.compare` with the control "noise".
    """
    for kind, colour, marker, name in (("noise", "noise", "+", "norm-matched noise"), ("none", "data", "o", "ΔW")):
        rows = table[table["control"] == kind]
        added = (rows["std_delta"] / rows["std_base"]) ** 2
        change = (rows["std_tuned"] / rows["std_base"]) ** 2 - 1
        ax.plot(
            added, change, marker, ms=5, color=COLOURS[colour], alpha=0.85, mew=1.2 if marker == "+" else 0, label=name
        )
    far = 1.1 * ((table["std_delta"] / table["std_base"]) ** 2).max()
    ax.plot([0, far], [0, far], color=COLOURS["model"], lw=1, label="independent: g = 1")
    ax.axhline(0, color=INK, lw=0.8, ls=":")
    ax.set(xlabel="Var ΔW / Var W₀", ylabel="(Var W − Var W₀) / Var W₀")
    ax.ticklabel_format(style="sci", scilimits=(-2, 2))
    return ax


def along(ax: Axes, runs: Mapping[str, pd.DataFrame], column: str, level: float | None = None) -> Axes:
    """A figure against training steps, one line for each model, the range over seeds shaded.

    Args:
        ax: where to draw.
        runs: name → rows with step, seed and ``column``.
        column: what to draw.
        level: a level to mark.
    """
    for (colour, marker), (name, rows) in zip(cycle(LINES[1:]), runs.items(), strict=False):
        over = rows.groupby("step")[column].agg(["mean", "min", "max"])
        ax.plot(over.index, over["mean"], color=colour, marker=marker, ms=3.5, lw=1.2, label=name)
        ax.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.15, lw=0)
    if level is not None:
        ax.axhline(level, color=INK, lw=0.8, ls=":")
    steps = sorted({int(step) for rows in runs.values() for step in rows["step"]})
    ax.set(xscale="log", xlabel="training step")
    ends = math.floor(math.log10(max(steps[0], 1))), math.ceil(math.log10(max(steps[-1], 1)))
    round_ = [figure * 10**power for power in range(*ends) for figure in (1, 3)] + [10 ** ends[1]]
    ticks = [one for one in round_ if steps[0] <= one <= steps[-1]]
    ax.set_xticks(ticks, [f"{one:,}" for one in ticks])
    ax.minorticks_off()
    return ax


def by_share(ax: Axes, table: pd.DataFrame) -> Axes:
    """std(ΔW) against the share of the training samples, over that with all, with 95 % intervals.

    Args:
        ax: where to draw.
        table: mode, share, ratio, low, high.
    """
    for (colour, marker), (mode, rows) in zip(cycle(LINES[1:]), table.groupby("mode"), strict=False):
        error = np.abs(rows[["low", "high"]].to_numpy() - rows[["ratio"]].to_numpy()).T
        ax.errorbar(
            rows["share"], rows["ratio"], error, color=colour, marker=marker, ms=4, lw=1.2, capsize=2, label=mode
        )
    ax.axhline(1, color=INK, lw=0.8, ls=":")
    shares = sorted(table["share"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(shares, [f"{share:g}" for share in shares])
    ax.minorticks_off()
    ax.set(xlabel="share of the samples")
    return ax


def with_gradient(ax: Axes, rows: pd.DataFrame) -> Axes:
    """Profiles over depth of std(ΔW) and of the gradient, each over its own mean: averages over roles and seeds; from
    zero on.

    Args:
        ax: where to draw.
        rows: seed, role, depth, std_delta, gradient.
    """
    for column, colour, marker, name in (("std_delta", "data", "o", "ΔW"), ("gradient", "model", "v", "gradient")):
        each = rows[column] / rows.groupby(["seed", "role"])[column].transform("mean")
        profile = each.groupby(rows["depth"]).mean()
        ax.plot(profile.index.to_numpy(int), profile, color=COLOURS[colour], marker=marker, ms=3.5, lw=1.2, label=name)
    ax.axhline(1, color=INK, lw=0.8, ls=":")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="layer", ylim=(0, None))
    return ax
