"""The book's figures: an Axes in, the same Axes out, one style, no statistics.

Figures are transparent, with mid-grey ink and colours that keep a contrast of 3:1 or more on white and on the dark
theme, and that colour-blind readers can tell apart. They are drawn narrow, so that a phone need not shrink them much.
"""

from ..extras import need

need("book", __name__)

from .arrangement import CONTROLS, alike, by_bound, by_control, concentration, eigenvalues, lags, local_scales, power
from .depth import PANELS, along, budget, by_layer, by_share, line_legend, profiles, with_gradient
from .dot_rows import compared, intervals
from .house_style import COLOURS, INK, WIDTH, figure, literal, style
from .noise import added, closing, kept, protocols, shares, tenths, times_axis, transport
from .optimal import anatomy, by_law, pruning, rises, won
from .training import (
    STARTS,
    by_parameters,
    collapse,
    curves,
    faded,
    forecast,
    growth,
    panels,
    phases,
    starts_legend,
    sweep_maps,
)
from .weights import (
    SHAPES,
    by_model,
    costs,
    depth_role_map,
    gaussian,
    histogram,
    label_map,
    landscape,
    map_height,
    ranges,
    score_plane,
    strip,
    tails,
)

__all__ = [
    "COLOURS",
    "CONTROLS",
    "INK",
    "PANELS",
    "SHAPES",
    "STARTS",
    "WIDTH",
    "added",
    "alike",
    "along",
    "anatomy",
    "budget",
    "by_bound",
    "by_control",
    "by_law",
    "by_layer",
    "by_model",
    "by_parameters",
    "by_share",
    "closing",
    "collapse",
    "compared",
    "concentration",
    "costs",
    "curves",
    "depth_role_map",
    "eigenvalues",
    "faded",
    "figure",
    "forecast",
    "gaussian",
    "growth",
    "histogram",
    "intervals",
    "kept",
    "label_map",
    "lags",
    "landscape",
    "line_legend",
    "literal",
    "local_scales",
    "map_height",
    "panels",
    "phases",
    "power",
    "profiles",
    "protocols",
    "pruning",
    "ranges",
    "rises",
    "score_plane",
    "shares",
    "starts_legend",
    "strip",
    "style",
    "sweep_maps",
    "tails",
    "tenths",
    "times_axis",
    "transport",
    "with_gradient",
    "won",
]
