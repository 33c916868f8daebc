"""Figures over independent runs: means and intervals, paired comparisons, and how they are printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import scipy  # scipy.stats loads at its first use: importing it takes half as long as torch
from numpy.typing import ArrayLike
from scipy import special

MARGIN_POINTS = 1.0
"""Points of a score below which a difference is too small to matter, to either side."""


def over_runs(values: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent runs and its Student-t interval.

    Args:
        values: one for each run. Runs that are all equal have an interval of no width.
        level: coverage of the interval.

    Returns:
        Mean, lower and upper limit; the limits are NaN where there are fewer than two runs.
    """
    values = np.asarray(values, dtype=float)
    mean = values.mean()
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = special.stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def sides(spans: Iterable[tuple[float, float, float]]) -> tuple[int, int]:
    """How many of some means with their intervals lie above 0, and below, by the whole interval."""
    spans = list(spans)
    return sum(bool(low > 0) for _, low, _ in spans), sum(bool(high < 0) for *_, high in spans)


def whole_mean(values: pd.Series) -> float:
    """Mean of draws; NaN where one has no number: a loss that overflowed is not left out."""
    return float(values.mean(skipna=False))


def span(
    values: Sequence[float],
    digits: int,
    sign: str = "",
    unit: str = "",
    *,
    least: float = -math.inf,
    most: float = math.inf,
) -> str:
    """Mean of independent runs and its 95 % interval in words, as by `bracketed`.

    Args:
        values: one for each run; where one is NaN, as of a training that diverged, the words say so instead.
        digits: decimals.
        sign: "+" writes the sign of numbers above 0.
        unit: what is written behind the numbers.
        least, most: range of the figure, to which mean and limits are clipped.
    """
    missing = int(np.isnan(np.asarray(values, dtype=float)).sum())
    if missing or not len(values):
        return f"no number in {missing} of {len(values)}" if missing else "–"
    mean, low, high = (min(max(one, least), most) for one in over_runs(values))
    return bracketed(mean, low, high, digits, sign, unit)


def bracketed(mean: float, low: float, high: float, digits: int, sign: str = "", unit: str = "") -> str:
    """A mean over runs and its interval in words: "1.2 [0.9, 1.5] %", or "1.2 % (one run)" where the limits are NaN."""
    middle, *ends = (f"{one:{sign}.{digits}f}" if not math.isnan(one) else "" for one in (mean, low, high))
    return f"{middle} [{', '.join(ends)}]{unit}" if all(ends) else f"{middle}{unit} (one run)"


def paired_p(differences: Sequence[float] | pd.Series) -> float:
    """Two-sided p of a paired t-test of independent differences against a mean of 0; 1 where all of them are 0.

    NaN where there is no test: fewer than two differences, or one that is infinite or NaN.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    if values.std() == 0:  # all are equal: t is not defined
        return 0.0 if values[0] else 1.0
    return float(scipy.stats.ttest_1samp(values, 0.0).pvalue)


def holm(p: pd.Series) -> pd.Series:
    """p-values corrected for their number (Holm 1979).

    As `statsmodels.stats.multitest.multipletests`, which runs Python's garbage collector at every call and so takes a
    third of a second in a chapter.

    Args:
        p: one p-value for each test.

    Returns:
        Same index.
    """
    rising = p.sort_values(kind="stable")
    return (rising * np.arange(len(p), 0, -1)).clip(upper=1.0).cummax().reindex(p.index)


def compared(
    differences: Mapping[str, pd.Series], also: Mapping[str, pd.Series] | None = None, margin: float = MARGIN_POINTS
) -> dict[str, str]:
    """What came of several paired comparisons, each of an arm against another, over runs.

    "gain": the mean is above 0 with a two-sided p of at most 0.05, corrected for their number (Holm). "loss": the
    interval lies below minus the margin. "no gain": it ends below the margin, so that whatever there is, is too small
    to matter. "open": none of these.

    Args:
        differences: name → differences, one for each run, as shares of 1.
        also: differences from a second control; a gain must be one here too, and no gain here is none.
        margin: in points, hundredths.
    """
    each = [given for given in (differences, also) if given is not None]
    spans = [{name: over_runs(100 * some[name]) for name in some} for some in each]
    p = [holm(pd.Series({name: paired_p(some[name]) for name in some})) for some in each]
    found = {}
    for name in differences:
        ends = [span[name] for span in spans]
        if all(one[name] <= 0.05 and end[0] > 0 for one, end in zip(p, ends, strict=True)):
            found[name] = "gain"
        elif any(high < -margin for _, _, high in ends):
            found[name] = "loss"
        elif any(high <= margin for _, _, high in ends):
            found[name] = "no gain"
        else:
            found[name] = "open"
    return found


def ratio(own: pd.Series, whole: pd.Series, level: float = 0.95) -> tuple[float, float, float]:
    """Ratio of the means of two figures over runs, and Fieller's interval (1954), paired by run.

    Unlike a mean of ratios it divides by no single value of ``whole``, which may be near 0; and unlike the delta
    method's, its interval is not symmetric, and has no end where the mean of ``whole`` may be 0.

    Args:
        own, whole: the two figures by run; runs that lack either are left out.
        level: coverage of the interval.

    Returns:
        Ratio, lower and upper limit; the limits are NaN of one run, and infinite where the mean of ``whole`` is not
        above 0 beyond its interval. All are NaN where that mean is not above 0, so that there is no share of it.

    Examples:
        >>> from lfmlib.findings import ratio
        >>> whole = pd.Series([1.0, 2.0, 3.0, 2.0])
        >>> np.round(ratio(0.9 * whole, whole), 6)  # nine tenths in every run, however unlike these are
        array([0.9, 0.9, 0.9])
    """
    both = pd.DataFrame({"own": own, "whole": whole}).dropna().to_numpy()
    if not len(both) or not both[:, 1].mean() > 0:
        return math.nan, math.nan, math.nan
    a, b = both.mean(0)
    if len(both) < 2:
        return float(a / b), math.nan, math.nan
    scatter = float(special.stdtrit(len(both) - 1, (1 + level) / 2)) ** 2 * np.cov(both.T) / len(both)
    leading = b**2 - scatter[1, 1]
    if leading <= 0:
        return float(a / b), -math.inf, math.inf
    middle, last = a * b - scatter[0, 1], a**2 - scatter[0, 0]
    half = math.sqrt(max(middle**2 - leading * last, 0.0))
    return float(a / b), float((middle - half) / leading), float((middle + half) / leading)
