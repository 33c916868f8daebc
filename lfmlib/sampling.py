"""Figures of a tensor of which only a part was read, and how far they may be off.

One piece is read from each of `PIECES` equal stretches of the tensor (`Checkpoint.sample`), so neighbours come
together and may be alike: a row has its own scale. The error is therefore judged by the pieces and not by the values: a
figure is taken again without each piece in turn (the jackknife; Quenouille 1956, Efron and Stein 1981), and what it
varies by says how far the sample's may be from the whole tensor's. Pieces from stretches that differ make the interval
too wide, not too narrow.

What no sample can bound is what is rare and large: one weight in a million of a hundred standard deviations changes
kurtosis and tails, and is seen by chance. For `OPEN` the interval therefore has no upper end, and extremes have none.
The other figures suffer too where few rows are unlike all others: with 32 pieces, 5 heavy rows of 512 are often missed,
and the intervals of std, `kl_bits` and `gg_shape` then hold in about a third of the cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy import stats

from . import nulls
from .sketch import Sketch

PIECES = 32
CONFIDENCE = 0.95
OPEN = ("excess_kurtosis", "tail_bits")
DISTANCES = ("ks", "wasserstein", "asymmetry")
"""Figures that are larger in a sample than in the whole, since a sample scatters about it."""


def intervals(
    parts: Sequence[Sketch], whole: int, figures: Callable[[Sketch], dict[str, float]], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Where the figures of the whole tensor lie, with `CONFIDENCE` each.

    Args:
        parts: the sketch of each piece.
        whole: number of values in the tensor.
        figures: from a sketch to figures by name.
        names: the figures wanted.

    Returns:
        name → (low, high): the figure itself, twice, where all was read; NaN where it is not defined.
    """
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    found = figures(total)
    read = total.count + total.nonfinite
    if read >= whole:
        return {name: (found[name], found[name]) for name in names}
    left_out = [figures(total.without(part)) for part in parts]
    unseen = 1 - read / whole  # of a tensor nearly all of which was read, the figure is nearly known
    times = stats.t.ppf((1 + CONFIDENCE) / 2, len(parts) - 1)
    scatter = _scatter(total, whole)
    result = {}
    for name in names:
        values = [one[name] for one in left_out]
        middle = math.fsum(values) / len(values)
        error = math.sqrt(
            (len(values) - 1) / len(values) * math.fsum((value - middle) ** 2 for value in values) * unseen
        )
        low, high = found[name] - times * error - scatter.get(name, 0.0), found[name] + times * error
        if name == "skewness":
            low, high = -math.inf, math.inf
        result[name] = (max(low, 0.0) if name in DISTANCES else low, math.inf if name in OPEN else high)
    return result


def _scatter(sample: Sketch, whole: int) -> dict[str, float]:
    """How much larger the distances are in a sample than in the whole, for noise; for other values it is about that."""
    small, large = nulls.typical(sample.dtype, sample.count), nulls.typical(sample.dtype, whole)
    return {name: max(0.0, small[name] - large[name]) for name in DISTANCES if name in small and name in large}
