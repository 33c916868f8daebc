"""Confidence intervals for the figures of a tensor of which only a sample was read.

`lfmlib.checkpoints.places.sample_ranges` spreads the sample's pieces evenly over the tensor and deals them to groups.
Values of one piece are neighbours and may be alike, since a row has its own scale; so the error is estimated from
groups of pieces and not from single values: each figure is computed again without each group in turn (the jackknife;
Quenouille 1956, Efron and Stein 1981), and its variation says how far the sample's figure may be from the whole
tensor's. Groups that differ because of where they lie make the interval too wide, not too narrow.

No sample can bound what is rare and large: one weight in a million of a hundred standard deviations changes kurtosis
and tails, and is seen by chance only. So intervals of `UNBOUNDED_ABOVE` have no upper end, and minimum and maximum have
no interval. Other intervals also fail if so few rows are unlike the rest that hardly a piece lies in them. With 5 of
512 rows ten times as large, 32 pieces often miss them all, and the intervals of std, `kl_bits` and `gg_shape` hold in
six cases of ten; with 1,024 pieces in all of 200 cases. With 20 such rows of 4,096, one of which 5 pieces meet on
average, they hold in 95 of 100 cases; with 5 such rows in 75.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy import special

from . import nulls
from .jackknife import jackknife_error
from .sketch import Sketch

MIN_SAMPLE_BYTES = 16_384
"""Bytes of a tensor to read at least: with fewer values not even Gaussian noise can be told to be Gaussian."""
CONFIDENCE = 0.95
UNBOUNDED_ABOVE = ("excess_kurtosis", "tail_bits")
"""Figures that a few unseen values can raise without limit."""
RAISED_BY_SAMPLING = ("ks", "wasserstein", "asymmetry")
"""Distances that are larger for a sample than for the whole tensor, since a sample scatters about it."""


def intervals(
    parts: Sequence[Sketch], whole: int, figures: Callable[[Sketch], dict[str, float]], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Intervals that hold a figure of the whole tensor with probability `CONFIDENCE` each.

    Args:
        parts: the sketch of each group of pieces.
        whole: number of values in the tensor.
        figures: function from a sketch to its figures, name → value.
        names: the figures wanted.

    Returns:
        Name → (low, high); both are the figure itself if all values were read, and NaN if it is not defined.
    """
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    found = figures(total)
    read = total.count + total.nonfinite
    if read >= whole:
        return {name: (found[name], found[name]) for name in names}
    left_out = [figures(total.without(part)) for part in parts]
    unseen = 1 - read / whole  # finite-population correction
    times = special.stdtrit(len(parts) - 1, (1 + CONFIDENCE) / 2)
    scatter = _noise_excess(total, whole)
    result = {}
    for name in names:
        error = math.sqrt(unseen) * float(jackknife_error([one[name] for one in left_out]))
        low, high = found[name] - times * error - scatter.get(name, 0.0), found[name] + times * error
        if name == "skewness":
            low, high = -math.inf, math.inf
        low = max(low, 0.0) if name in RAISED_BY_SAMPLING else low
        result[name] = low, math.inf if name in UNBOUNDED_ABOVE else high
    return result


def _noise_excess(sample: Sketch, whole: int) -> dict[str, float]:
    """Name → how much larger a distance of `RAISED_BY_SAMPLING` is for a sample of noise than for all of it; for other
    values it is about the same."""
    small, large = nulls.typical(sample.dtype, sample.count), nulls.typical(sample.dtype, whole)
    return {name: max(0.0, small[name] - large[name]) for name in RAISED_BY_SAMPLING if name in small and name in large}
