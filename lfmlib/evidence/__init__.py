"""From measurements to findings: the number each rule is applied to, and what stands beside it."""

from .f1_gaussian import agreement, f1
from .f2_start import f2, shares_by_start
from .f3_shapes import f3, shapes_found
from .f4_iid import LEGS, by_control, f4, f4_over_runs, inside_noise, leg_shares, legs
from .f5_noise import BUILT, built_share, f5, f5_over_runs, gains, kept_share
from .f6_std import GAIN_BOUND, QQ_BOUND, f6, f6_over_runs, qq_share, widening, widening_over_runs
from .f7_depth import by_chance, f7, f7_over_runs, holm, trends
from .f8_radius import f8, f8_over_runs, log_ratios, times
from .f8_radius import judged as f8_judged
from .shared import ENOUGH, KL_BOUND, LEAST, eligible, gaussian, judged, left_out, over_runs, share, shown

__all__ = [
    "BUILT",
    "ENOUGH",
    "GAIN_BOUND",
    "KL_BOUND",
    "LEAST",
    "LEGS",
    "QQ_BOUND",
    "agreement",
    "built_share",
    "by_chance",
    "by_control",
    "eligible",
    "f1",
    "f2",
    "f3",
    "f4",
    "f4_over_runs",
    "f5",
    "f5_over_runs",
    "f6",
    "f6_over_runs",
    "f7",
    "f7_over_runs",
    "f8",
    "f8_judged",
    "f8_over_runs",
    "gains",
    "gaussian",
    "holm",
    "inside_noise",
    "judged",
    "kept_share",
    "left_out",
    "leg_shares",
    "legs",
    "log_ratios",
    "over_runs",
    "qq_share",
    "shapes_found",
    "share",
    "shares_by_start",
    "shown",
    "times",
    "trends",
    "widening",
    "widening_over_runs",
]
