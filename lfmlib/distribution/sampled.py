"""Figures of a tensor of which only a part was read, and how far they may be off.

Pieces are read from evenly spread places (`ranges`), as many as are cheap: where values are at hand (a mapped file,
memory) `SCATTERED` short ones, where they are computed from codes `COMPUTED`, and one for each group where each costs a
request to a server. Neighbours come together and may be alike: a row has its own scale. The error is therefore judged
by groups of pieces and not by the values: each of `GROUPS` groups is spread over the whole tensor, a figure is taken
again without each group in turn (the jackknife; Quenouille 1956, Efron and Stein 1981), and what it varies by says how
far the sample's may be from the whole tensor's. Groups that differ because of where they lie make the interval too
wide, not too narrow.

What no sample can bound is what is rare and large: one weight in a million of a hundred standard deviations changes
kurtosis and tails, and is seen by chance. For `OPEN` the interval therefore has no upper end, and extremes have none.
The other figures suffer too where so few rows are unlike all others that hardly a piece lies in them. Of 5 rows of 512
that are ten times as large, 32 pieces often see none, and the intervals of std, `kl_bits` and `gg_shape` hold in six
cases of ten; with 1,024 pieces in all of 200. With 20 of 4,096 such rows, of which 5 pieces meet one in the mean, they
hold in 95 of 100, with 5 in 75.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy import special

from . import nulls
from .sketch import Sketch

LEAST = 16_384
"""Bytes of a tensor of which little is known if no more are read: noise of so few values hardly passes for noise."""
CONFIDENCE = 0.95
OPEN = ("excess_kurtosis", "tail_bits")
DISTANCES = ("ks", "wasserstein", "asymmetry")
"""Figures that are larger in a sample than in the whole, since a sample scatters about it."""


def intervals(
    parts: Sequence[Sketch], whole: int, figures: Callable[[Sketch], dict[str, float]], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Where the figures of the whole tensor lie, with `CONFIDENCE` each.

    Args:
        parts: the sketch of each group of pieces.
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
    times = special.stdtrit(len(parts) - 1, (1 + CONFIDENCE) / 2)
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
