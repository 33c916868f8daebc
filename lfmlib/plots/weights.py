"""Figures of weights: distributions, and the model as a map of its matrices."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, PercentFormatter
from scipy import special

from ..checkpoints.roles import in_order
from ..distribution.bits import coding_cells
from ..distribution.sketch import Sketch
from ..surveys.rows import by_tower
from .house_style import COLOURS, INK, literal, no_layers

_TALL = 14
"""Rows from which on a figure has its tick labels above as well as below."""
#: shape label → colour and marker
SHAPES = {
    "gaussian": (COLOURS["noise"], "o"),
    "sharp": (COLOURS["other"], "^"),
    "inverted-t": (COLOURS["model"], "s"),
    "linear": (COLOURS["data"], "D"),
    "other": (INK, "x"),
}


def histogram(ax: Axes, sketch: Sketch, label: str, colour: str, fill: bool = False) -> Axes:
    """Density of one distribution in units of its own standard deviation, on the cells `kl_bits` is computed on.

    Args:
        ax: where to draw.
        sketch: at least two different values.
        label: for the legend.
        colour: a name in `COLOURS`.
        fill: shade the area below.
    """
    edges, counts = coding_cells(sketch)
    z = (edges - sketch.mean) / sketch.std
    density = counts / sketch.count / np.diff(z)
    if ax.get_yscale() == "log":
        density[counts == 0] = np.nan  # a gap, not a fall to zero
    ax.stairs(density, z, label=label, color=COLOURS[colour], baseline=None, linewidth=1.4)
    if fill:
        ax.stairs(density, z, color=COLOURS[colour], fill=True, alpha=0.25, linewidth=0)
    ax.set(xlabel="(weight − mean) / std", ylabel="density")
    return ax


def gaussian(ax: Axes, reach: float = 4.0, label: str = "Gaussian") -> Axes:
    """The standard Gaussian density from -reach to reach."""
    z = np.linspace(-reach, reach, 400)
    ax.plot(z, np.exp(-z * z / 2) / np.sqrt(2 * np.pi), color=COLOURS["model"], label=label)
    return ax


def tails(ax: Axes, sketch: Sketch, label: str, colour: str) -> Axes:
    """Share of the values farther from the mean than each distance, from one standard deviation to the farthest value,
    both axes logarithmic; as a dashed line the Gaussian's share.

    Args:
        ax: where to draw.
        sketch: at least two different values.
        label: for the legend.
        colour: a name in `COLOURS`.
    """
    distance = np.abs(sketch.cells.value - sketch.mean) / sketch.std
    order = np.argsort(distance)
    beyond = np.append(np.cumsum(sketch.cells.count[order][::-1])[::-1], 0) / sketch.count
    at = np.geomspace(1, distance.max(), 300)
    share = beyond[np.searchsorted(distance[order], at)]
    ax.plot(at[share > 0], share[share > 0], color=COLOURS[colour], label=label)
    ends = np.linspace(1, 7, 200)
    ax.plot(ends, special.erfc(ends / np.sqrt(2)), color=COLOURS["model"], ls="--", label="Gaussian", zorder=1)
    ax.set(xscale="log", yscale="log", ylim=(0.5 / sketch.count, 1))
    ax.set(xlabel="distance from the mean (std)", ylabel="share of the weights beyond")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    return ax


def map_height(table: pd.DataFrame) -> float:
    """Height in inches that `depth_role_map` of a table wants: a line a layer, but at most a page."""
    return min(1.2 + 0.36 * max(table["depth"].nunique(), 1), 8)


def depth_role_map(
    ax: Axes, table: pd.DataFrame, column: str, bound: float, label: str, span: tuple[float, float] | None = None
) -> Axes:
    """The model as a map, depth downwards and role across; log colours, cells beyond ``bound`` outlined.

    Where a role has several matrices at one depth (experts) the cell shows their median; each tower has its own roles.
    ``span`` are the values at the ends of the colours, for maps that are compared; None: those of this map.
    """
    known = table.dropna(subset=["depth", column])
    if known.empty:
        return no_layers(ax)
    known = known.assign(role=by_tower(known))
    roles = in_order(known["role"])
    grid = known.pivot_table(index="depth", columns="role", values=column, aggfunc="median")[roles].astype(float)
    low, high = span or (max(np.nanmin(grid.to_numpy()), bound / 100), np.nanmax(grid.to_numpy()))  # log colours
    few = grid.shape[0] <= 14 and grid.shape[1] <= 8  # a number needs the room
    sns.heatmap(
        grid.clip(low, high), ax=ax, cmap="cividis_r", norm=LogNorm(low, max(high, 1.01 * low)),
        annot=beside_bound(grid, bound) if few else False, fmt="", annot_kws={"size": 8.5},
        linewidths=0.5 if few else 0, xticklabels=True, cbar_kws={"label": label, "format": "{x:g}"},
    )  # fmt: skip
    bar = ax.collections[0].colorbar.ax.yaxis
    bar.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.set_minor_locator(NullLocator())
    ax.set(xlabel="role", ylabel="layer")
    ax.tick_params("x", rotation=90 if grid.shape[1] > 8 else 0, labeltop=len(grid) > _TALL)
    return outlined(ax, grid, bound)


def beside_bound(grid: pd.DataFrame, bound: float) -> np.ndarray:
    """The numbers of a map in words: three decimals, or as many as show on which side of ``bound`` each lies, since
    0.020 says nothing where the bound is 0.02."""

    def told(value: float) -> str:
        for digits in range(3, 7):
            if (round(value, digits) > bound) == (value > bound):
                break
        return f"{round(value, digits) + 0.0:.{digits}f}"  # and no “-0.000”

    return np.array([[told(value) for value in row] for row in grid.to_numpy(float)])


def outlined(ax: Axes, grid: pd.DataFrame, bound: float) -> Axes:
    """A heat map with the cells beyond ``bound`` framed."""
    for y, x in np.argwhere(grid.to_numpy() > bound):
        ax.add_patch(plt.Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, fill=False, color=COLOURS["model"], lw=1.3))
    ax.tick_params(length=0)
    return ax


def label_map(ax: Axes, table: pd.DataFrame, borderline: float) -> Axes:
    """The model as a map of shape labels: depth downwards, role across, one mark per matrix.

    Marks of matrices whose ``label_margin`` is below ``borderline`` are drawn hollow.
    """
    known = table.dropna(subset=["depth"])
    if known.empty:
        return no_layers(ax)
    known = known.assign(role=by_tower(known))
    roles = in_order(known["role"])
    for name, (colour, marker) in SHAPES.items():
        rows = known[known["label"] == name]
        sure = rows["label_margin"] >= borderline
        place = rows["role"].map(roles.index)
        face = np.where(sure, colour, "none") if marker != "x" else colour
        ax.scatter(place, rows["depth"], marker=marker, s=70, c=face, edgecolors=None if marker == "x" else colour)
        if len(rows):
            ax.scatter([], [], marker=marker, s=50, color=colour, label=name)
    ax.set_xticks(range(len(roles)), roles)
    ax.set(xlabel="role", ylabel="layer", xlim=(-0.6, len(roles) - 0.4))
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.invert_yaxis()
    return ax


def costs(ax: Axes, sweep: pd.DataFrame, tie: float) -> Axes:
    """What it costs to code made values as each shape, against the power of their law, with a ring on the name given.

    Args:
        ax: where to draw.
        sweep: β (as text), label, and the cost as each family, in bits per weight.
        tie: costs closer than this are equal; the height of the band above the lowest cost.
    """
    place = np.arange(len(sweep))
    shown = [name for name in SHAPES if name in sweep]
    least = sweep[shown].min(axis=1)
    ax.fill_between(place, least, least + tie, color=INK, alpha=0.2, lw=0)
    for name in shown:
        colour, marker = SHAPES[name]
        ax.plot(place, sweep[name], color=colour, marker=marker, ms=4, lw=1.2, label=name)
    given = [row.get(row["label"], np.nan) for row in sweep.to_dict("records")]
    ax.plot(place, given, "o", ms=9, mfc="none", color=INK, label="name given")
    ax.set_yscale("symlog", linthresh=0.02)
    ax.set_xticks(place, sweep["β"])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="power β", ylabel="cost (bits per weight)", ylim=(-0.002, None))
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3, columnspacing=1.2)
    return ax


def score_plane(ax: Axes, table: pd.DataFrame, noise: pd.DataFrame, tie: float) -> Axes:
    """Cost as a Gaussian against cost as a Laplace density; between the dotted lines neither wins by ``tie`` bits."""
    for name, (colour, marker) in SHAPES.items():
        rows = table[table["label"] == name]
        ax.scatter(rows["score_gaussian"], rows["score_sharp"], marker=marker, s=26, color=colour, alpha=0.85)
        if len(rows):
            ax.scatter([], [], marker=marker, s=26, color=colour, label=name)
    ax.scatter(
        noise["score_gaussian"], noise["score_sharp"], marker="+", s=30, color=COLOURS["noise"], label="noise twins"
    )
    far = 1.05 * max(table["score_gaussian"].max(), table["score_sharp"].max(), noise["score_sharp"].max())
    line = np.array([0, far])
    for shift in (-tie, tie):
        ax.plot(line, line + shift, ":", color=INK, lw=0.9)
    ax.set(
        xlabel="Gaussian costs (bits per weight)",
        ylabel="Laplace costs (bits per weight)",
        xlim=(0, far),
        ylim=(0, far),
    )
    return ax


def strip(ax: Axes, table: pd.DataFrame, noise: pd.DataFrame, column: str, marks: dict[str, float], label: str) -> Axes:
    """One dot per matrix by role, measured and noise, on a symmetric-log axis, with labelled reference levels."""
    ax.set_yscale("symlog", linthresh=1e-3, linscale=0.6)  # before anything is drawn: margins are those of the scale
    roles = in_order(table["role"])
    shift = np.random.default_rng(0)
    for data, colour, name in ((table, "data", "measured"), (noise, "noise", "Gaussian noise, same size and type")):
        place = data["role"].map(roles.index) + shift.uniform(-0.22, 0.22, len(data))
        ax.plot(place, data[column], "o", ms=4.5, alpha=0.8, color=COLOURS[colour], label=name, mew=0)
    for name, level in marks.items():
        ax.axhline(level, color=INK, lw=0.8, ls=":")
        ax.annotate(name, (1.01, level), xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=9)
    ax.set_xticks(range(len(roles)), roles)
    ax.set(xlabel="role", ylabel=label)
    return ax


def ranges(ax: Axes, rows: pd.DataFrame, anchor: float, anchor_label: str, label: str) -> Axes:
    """Horizontal ranges: one line per row of ``rows`` (model, component, low, high), grouped by model.

    Models whose name begins with "this model" are drawn in the data colour, published ones in the second.
    """
    models = list(dict.fromkeys(rows["model"]))
    components = list(dict.fromkeys(rows["component"]))
    markers = dict(zip(components, "osD^v<>", strict=False))
    for _, row in rows.iterrows():
        y = models.index(row["model"]) + 0.18 * (components.index(row["component"]) - (len(components) - 1) / 2)
        colour = COLOURS["data" if row["model"].startswith("this model") else "other"]
        ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=2)
        ax.plot((row["low"] + row["high"]) / 2, y, markers[row["component"]], ms=4, color=colour)
    for component in components:
        ax.plot([], [], markers[component], color=INK, ms=4, label=component)
    ax.axvline(anchor, color=COLOURS["model"], lw=1, ls="--")
    ax.annotate(
        anchor_label, (anchor, 1), xycoords=("data", "axes fraction"), xytext=(3, -2), textcoords="offset points",
        color=COLOURS["model"], fontsize=9, ha="left", va="top",
    )  # fmt: skip
    ax.tick_params(labeltop=len(rows) > _TALL)
    ax.set_yticks(range(len(models)), [literal(model, 32) for model in models])
    ax.invert_yaxis()
    ax.set(xlabel=label)
    return ax


def landscape(ax: Axes, rows: pd.DataFrame, bound: float) -> Axes:
    """Models as marks with names: share of Gaussian parameters against their number, by modality.

    Args:
        ax: where to draw.
        rows: model, modality, parameters, share, and base: fine-tunes of a model that is here are hollow, and unnamed;
            one whose modality is "" is drawn as a star, with its interval ``low`` to ``high``.
        bound: share at which a dotted line is drawn.
    """
    kinds = [kind for kind in dict.fromkeys(rows["modality"]) if kind]
    marks = dict(zip(kinds, zip(COLOURS.values(), "osD^", strict=False), strict=False))
    for row in rows[rows["modality"] == ""].itertuples():
        ax.plot([row.parameters] * 2, [row.low, row.high], color=INK, lw=1.2)
        ax.plot(row.parameters, row.share, "*", ms=12, color=INK, zorder=3)
    for modality, (colour, marker) in marks.items():
        for tuned in (False, True):
            some = rows[(rows["modality"] == modality) & ((rows["base"] != "") == tuned)]
            face, label = ("none", None) if tuned else (colour, modality)
            ax.plot(some["parameters"], some["share"], marker, ms=6, color=colour, mfc=face, label=label)
    for row in rows[rows["base"] == ""].itertuples():
        above = row.share < 0.9
        ax.annotate(
            literal(row.model), (row.parameters, row.share), xytext=(0, 7 if above else -9), fontsize=8.5, ha="center",
            textcoords="offset points", va="bottom" if above else "top",
        )  # fmt: skip
    ax.axhline(bound, color=INK, lw=0.8, ls=":")
    ax.set(xscale="log", ylim=(0, 1.05), xlabel="judged parameters", ylabel="share of them in Gaussian matrices")
    ax.margins(x=0.16)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend(loc="lower left")
    return ax


def by_model(ax: Axes, models: dict[str, pd.DataFrame], noise: dict[str, pd.DataFrame], bound: float) -> Axes:
    """A row of dots for each model, one a matrix, its `kl_bits` on a logarithmic axis from 10⁻⁴; noise below them."""
    shift = np.random.default_rng(0)
    for place, (name, body) in enumerate(models.items()):
        twins = noise[name][noise[name]["tensor"].isin(body["tensor"])]
        for table, colour, offset in ((body, "data", -0.15), (twins, "noise", 0.25)):
            y = place + offset + shift.uniform(-0.12, 0.12, len(table))
            ax.plot(table["kl_bits"].clip(lower=1e-4), y, "o", ms=3.2, alpha=0.6, mew=0, color=COLOURS[colour])
    ax.axvline(bound, color=INK, lw=0.8, ls=":")
    ax.set_yticks(range(len(models)), [literal(name) for name in models])
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="kl_bits (bits per weight)")
    return ax
