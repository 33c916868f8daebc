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
from .f9_f10_centre import MEAN, MIRROR, f9, f9_f10_over_runs, f10, symmetric, zero_mean
from .f11_sparse import RISE, f11, f11_over_runs, free_share
from .f12_law import CLAIMED, KEPT, NEAR, damage_ratio, f12, f12_over_runs
from .f13_adaptation import FLOORS, MARGIN, OWN, UNLIKE, accuracy, advantage, f13, f13_over_runs
from .f14_editing import NAMES as METHODS
from .f14_editing import f14, f14_over_runs, improvement, kept_score
from .shared import (
    ENOUGH,
    KL_BOUND,
    LEAST,
    eligible,
    gaussian,
    judged,
    left_out,
    over_runs,
    paired_p,
    ratios,
    share,
    shown,
    span,
)

__all__ = [
    "BUILT",
    "CLAIMED",
    "ENOUGH",
    "FLOORS",
    "GAIN_BOUND",
    "KEPT",
    "KL_BOUND",
    "LEAST",
    "LEGS",
    "MARGIN",
    "MEAN",
    "METHODS",
    "MIRROR",
    "NEAR",
    "OWN",
    "QQ_BOUND",
    "RISE",
    "UNLIKE",
    "accuracy",
    "advantage",
    "agreement",
    "built_share",
    "by_chance",
    "by_control",
    "damage_ratio",
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
    "f9",
    "f9_f10_over_runs",
    "f10",
    "f11",
    "f11_over_runs",
    "f12",
    "f12_over_runs",
    "f13",
    "f13_over_runs",
    "f14",
    "f14_over_runs",
    "free_share",
    "gains",
    "gaussian",
    "holm",
    "improvement",
    "inside_noise",
    "judged",
    "kept_score",
    "kept_share",
    "left_out",
    "leg_shares",
    "legs",
    "log_ratios",
    "over_runs",
    "paired_p",
    "qq_share",
    "ratios",
    "shapes_found",
    "share",
    "shares_by_start",
    "shown",
    "span",
    "symmetric",
    "times",
    "trends",
    "widening",
    "widening_over_runs",
    "zero_mean",
]
