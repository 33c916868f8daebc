"""Figures of how the entries of a matrix are arranged: local scales, alike rows, lags, singular values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator, NullLocator, SymmetricalLogLocator

from ..structure.dependence import LAGS, STEPS, lag_correlations
from ..structure.random_matrices import mp_pdf
from ..structure.spectra import singular_values
from ..structure.sums import Sums
from .house_style import COLOURS, INK

CONTROLS = {
    "none": ("weights", "data"),
    "rescaled": ("rescaled", "other"),
    "rows-permuted": ("permuted\nin rows", "model"),
    "permuted": ("permuted", "noise"),
    "fresh": ("fresh\nnoise", "noise"),
}
"""Control → its name under an axis, and its colour."""


def local_scales(ax: Axes, matrix: np.ndarray, cells: int = 48, reach: float = 1.0) -> AxesImage:
    """The scale of the entries in each cell of a grid laid over a matrix, as log2 of its RMS over that of the whole.

    Args:
        ax: where to draw.
        matrix: float64 (r, c).
        cells: a side of the grid, at most the shorter side of the matrix.
        reach: colours end at plus and minus this many doublings.
    """
    cells = min(cells, *matrix.shape)
    cut = [np.linspace(0, size, cells + 1).astype(int)[:-1] for size in matrix.shape]
    squares, ones = np.square(matrix), np.ones(matrix.shape)
    sums, counts = (np.add.reduceat(np.add.reduceat(one, cut[0], 0), cut[1], 1) for one in (squares, ones))
    scale = np.log2(np.maximum(sums / counts, 1e-300) / np.mean(np.square(matrix))) / 2
    return _image(ax, scale, reach, "RdBu_r", -reach)


def alike(ax: Axes, matrix: np.ndarray, count: int = 64, reach: float = 0.3) -> AxesImage:
    """Absolute correlation between ``count`` rows, evenly chosen; the diagonal is left out.

    Args:
        ax: where to draw.
        matrix: float64 (r, c).
        count: how many rows.
        reach: colours end at this correlation.
    """
    rows = matrix[np.linspace(0, len(matrix) - 1, min(count, len(matrix))).astype(int)]
    found = np.abs(np.corrcoef(rows))
    np.fill_diagonal(found, np.nan)
    return _image(ax, found, reach, "cividis", 0.0)


def _image(ax: Axes, values: np.ndarray, reach: float, colours: str, low: float) -> AxesImage:
    shown = ax.imshow(values, cmap=colours, vmin=low, vmax=reach, interpolation="nearest", aspect="auto")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return shown


def lags(ax: Axes, matrix: np.ndarray, band: float, bound: float) -> Axes:
    """Correlation of entries with those 1 to 20 places further, along rows, columns and diagonals.

    Args:
        ax: where to draw.
        matrix: float32 or float64 (r, c).
        band: correlations of noise lie within plus and minus this 95 times in a hundred; shaded.
        bound: level to mark, on both sides.
    """
    styles = (("data", "o"), ("other", "s"), ("model", "^"))
    for along, found, (colour, marker) in zip(STEPS, lag_correlations(Sums.of(matrix, LAGS)), styles, strict=True):
        ax.plot(range(1, LAGS + 1), found, marker, ms=3.5, mew=0, color=COLOURS[colour], label=along)
    ax.axhspan(-band, band, color=COLOURS["noise"], alpha=0.25, lw=0)
    for level in (-bound, bound):
        ax.axhline(level, color=INK, lw=0.8, ls=":")
    ax.set(xlabel="places further", ylabel="correlation", xticks=[1, 5, 10, 15, 20])
    return ax


def by_control(ax: Axes, table: pd.DataFrame, column: str, bound: float, label: str, log: bool = False) -> Axes:
    """One dot per matrix, the weights and their controls side by side.

    Args:
        ax: where to draw.
        table: from `lfmlib.arrangement`.
        column: the figure.
        bound: a level to mark.
        label: of the axis.
        log: make it logarithmic.
    """
    shown = [name for name in CONTROLS if (table["control"] == name).any()]
    shift = np.random.default_rng(0)
    for place, name in enumerate(shown):
        values = table.loc[table["control"] == name, column]
        colour = COLOURS[CONTROLS[name][1]]
        ax.plot(place + shift.uniform(-0.25, 0.25, len(values)), values, "o", ms=4, alpha=0.75, color=colour, mew=0)
    ax.axhline(bound, color=INK, lw=0.9, ls=":")
    ax.set_xticks(range(len(shown)), [CONTROLS[name][0] for name in shown])
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    ax.set(ylabel=label)
    return ax


def by_bound(ax: Axes, table: pd.DataFrame, column: str, bound: float, label: str) -> Axes:
    """Share of the parameters in matrices that pass, against the bound, for the weights, rescaled weights and noise.

    Args:
        ax: where to draw.
        table: of `lfmlib.arrangement`, with ``column``: passed is what does not exceed the bound.
        column: the figure.
        bound: that of the rule, marked; the axis goes to four times as much.
        label: of the horizontal axis.
    """
    for name, dashes in (("none", "-"), ("rescaled", "--"), ("fresh", ":")):
        rows = table[table["control"] == name].sort_values(column)
        passed = rows["numel"].cumsum() / rows["numel"].sum()
        words, colour = CONTROLS[name]
        end = max(rows[column].max(), 4 * bound)
        ax.plot(
            [0, *rows[column].clip(lower=0), end],
            [0, *passed, 1],
            dashes,
            drawstyle="steps-post",
            color=COLOURS[colour],
            label=words.replace("\n", " "),
        )
    ax.axvline(bound, color=INK, lw=0.8, ls=":")
    ax.set(xlim=(0, 4 * bound), ylim=(0, 1.05), xlabel=label)
    ax.yaxis.set_major_formatter(lambda value, place: f"{100 * value:.0f} %")
    return ax


def eigenvalues(
    ax: Axes, matrix, colour: str, bins: int = 60, most: float | None = None, fitted: float | None = None
) -> Axes:
    """Singular values of a matrix over the edge of noise, with Marchenko and Pastur's law; the largest marked.

    Args:
        ax: where to draw.
        matrix: as in `lfmlib.spectrum`.
        colour: a name in `COLOURS`.
        bins: of the histogram.
        most: right end of the axis; by default a little beyond the largest value.
        fitted: variance of other noise, over that of the entries, whose law is drawn too, dashed.
    """
    s = singular_values(matrix)
    p, n = sorted(matrix.shape)
    sigma = math.sqrt(np.square(s).sum() / (p * n))
    x = s / (sigma * (math.sqrt(p) + math.sqrt(n)))
    most = most or 1.05 * max(x.max(), 1.0)
    ax.hist(x, bins=bins, range=(0, most), density=True, color=COLOURS[colour], alpha=0.35, lw=0)
    z = np.linspace(1e-3, 1, 400)
    scale = (1 + math.sqrt(p / n)) ** 2  # eigenvalue of the edge, in units of n sigma²
    law = 2 * z * scale * mp_pdf(scale * z * z, p / n)
    ax.plot(z, law, color=COLOURS["model"], lw=1.3)
    if fitted is not None:
        ax.plot(z * math.sqrt(fitted), law / math.sqrt(fitted), "--", color=COLOURS["model"], lw=1.3)
    beyond = x[x > 1]
    (ticks,) = ax.plot(beyond, np.zeros(len(beyond)), "|", color=COLOURS[colour], ms=9, clip_on=False)
    ticks.set_in_layout(False)
    ax.axvline(1, color=INK, lw=0.8, ls=":")
    ax.set(xlim=(0, most), yticks=[], xlabel="singular value / edge of noise")
    return ax


def concentration(ax: Axes, leading: pd.DataFrame) -> Axes:
    """How concentrated leading directions are, against their strength, by side, with the central 95 % of noise shaded.

    Args:
        ax: where to draw.
        leading: rows of `lfmlib.structure.spectra.vectors`.
    """
    ax.set_yscale("symlog", linthresh=1, linscale=0.6)
    ax.axhspan(leading["null_low"].min(), leading["null_high"].max(), color=COLOURS["noise"], alpha=0.25, lw=0)
    for side, colour, marker in (("left", "data", "o"), ("right", "other", "D")):
        some = leading[leading["side"] == side]
        ax.plot(some["top_ratio"], some["excess_kurtosis"], marker, ms=4, mew=0, alpha=0.75, color=COLOURS[colour])
        ax.plot([], [], marker, ms=4, color=COLOURS[colour], label=f"{side}: over {_OVER[side]}")
    ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set(xlabel="singular value / edge of noise", ylabel="excess kurtosis")
    return ax


_OVER = {"left": "rows", "right": "columns"}
POWER = {
    "fails_all": ("data", "-", "F4 fails"),
    "fails_spectrum": ("data", "-", "the leg fails"),
    "row_corr": ("other", "-", "row_corr"),
    "lag_max": ("other", ":", "lag_max"),
    "row_share": ("noise", "-", "row_share"),
    "block_share": ("noise", ":", "block_share"),
    "outliers": ("model", "-", "beyond the edge"),
    "mp_ks": ("model", ":", "mp_ks"),
}
"""Column of `lfmlib.chapters.calibration.power` → its colour, dashes and name; the first is drawn thick and pale,
behind."""
TESTS = tuple(name for name in POWER if name != "fails_spectrum")


def power(axes: np.ndarray, table: pd.DataFrame, columns: Sequence[str] = TESTS) -> None:
    """Share of made matrices in which tests find a planted departure, one panel per departure, against its size.

    Args:
        axes: one for each departure.
        table: from `lfmlib.chapters.calibration.power`, departures only.
        columns: of `POWER`; by default those of the rule as a whole.
    """
    for ax, (departure, some) in zip(axes.flat, table.groupby(level="departure", sort=False), strict=True):
        sizes = some.index.get_level_values("size")

        for column in columns:
            colour, dashes, name = POWER[column]
            thick = {"lw": 6, "alpha": 0.35} if column.startswith("fails") else {"marker": "o", "ms": 3}
            ax.plot(range(len(sizes)), some[column], dashes, color=COLOURS[colour], label=name, **thick)
        ax.axhline(0.05, color=INK, lw=0.8)
        ax.set_xticks(range(len(sizes)), [f"{size:g}" for size in sizes])
        ax.set(title=departure, xlim=(-0.3, len(sizes) - 0.7), ylim=(-0.03, 1.05), yticks=[0, 0.5, 1])
    axes.flat[0].figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
