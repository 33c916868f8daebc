"""The one style of all figures: ink, colours, sizes."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes

INK = "#7b7b7b"
COLOURS = {
    "data": "#3b82c4",  # blue: what was measured
    "model": "#d5651f",  # vermilion: the law it is held against
    "noise": "#1a9c74",  # green: the noise control
    "other": "#b0609b",  # purple: a second kind of data
}
WIDTH = 4.8
"""Width of a figure in inches."""


def style() -> None:
    """Set the one style; called by `notebook.begin`."""
    sns.set_theme(style="ticks", context="notebook", palette=list(COLOURS.values()))
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor")
    plain = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    mpl.rcParams.update(
        dict.fromkeys(ink, INK)
        | dict.fromkeys(plain, "none")
        | {
            "figure.figsize": (WIDTH, 3.2),
            "figure.constrained_layout.use": True,
            "font.size": 10.5,
            "axes.titlesize": 11,
            "axes.labelsize": 10.5,
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.6,
        }
    )


def figure(height: float = 3.2, **options) -> tuple[plt.Figure, Axes]:
    """A figure of the book's width, in inches, and its Axes (``options`` as for ``plt.subplots``)."""
    return plt.subplots(figsize=(WIDTH, height), **options)
