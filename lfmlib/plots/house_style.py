"""The one style of all figures: ink, colours, sizes."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes

from ..findings.markup import printable

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


def literal(name: object, most: int = 48) -> str:
    r"""A name from a checkpoint as the text of a figure: no formula between dollars, none that a legend hides for its
    underscore, and no longer than there is room for.

    Args:
        name: any word.
        most: letters, at least; the middle of longer names is left out.

    Examples:
        >>> literal("$x$"), literal("_orig_mod"), literal("a" * 60 + "b" * 60, 9)
        ('\\$x\\$', ' _orig_mod', 'aaaa…bbbb')
    """
    word = printable(name)
    if len(word) > most:
        word = f"{word[: most // 2]}…{word[-(most - 1) // 2 :]}"
    word = word.replace("$", r"\$")
    return f" {word}" if word.startswith("_") else word


def no_layers(ax: Axes) -> Axes:
    """What a figure by layers shows of a model whose names tell none."""
    ax.set_axis_off()
    ax.annotate("the names of this model's tensors tell no layers", (0.5, 0.5), xycoords="figure fraction", ha="center")
    return ax


def figure(height: float = 3.2, **options) -> tuple[plt.Figure, Axes]:
    """A figure of the book's width, in inches, and its Axes (``options`` as for ``plt.subplots``)."""
    return plt.subplots(figsize=(WIDTH, height), **options)
