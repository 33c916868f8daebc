"""From measurements to findings: the number each rule is applied to, and what stands beside it."""

from .f1_gaussian import agreement, f1
from .f2_start import f2, shares_by_start
from .f3_shapes import f3, shapes_found
from .f4_iid import LEGS, by_control, f4, f4_over_runs, inside_noise, leg_shares, legs
from .shared import ENOUGH, KL_BOUND, LEAST, eligible, gaussian, judged, left_out, over_runs, share, shown

__all__ = [
    "ENOUGH",
    "KL_BOUND",
    "LEAST",
    "LEGS",
    "agreement",
    "by_control",
    "eligible",
    "f1",
    "f2",
    "f3",
    "f4",
    "f4_over_runs",
    "gaussian",
    "inside_noise",
    "judged",
    "left_out",
    "leg_shares",
    "legs",
    "over_runs",
    "shapes_found",
    "share",
    "shares_by_start",
    "shown",
]
