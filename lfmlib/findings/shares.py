"""What the findings share: which matrices count, and the shares and intervals that verdicts rest on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import scipy  # scipy.stats loads at its first use: importing it takes half as long as torch
from scipy import special

from ..checkpoints.checkpoint import Checkpoint

KL_BOUND = 0.02
"""F1: a matrix with at most so many `kl_bits` counts as Gaussian (just under a logistic distribution's 0.0206)."""
ENOUGH = 0.8
"""Share of a model's parameters that must pass for a claim to hold of the model."""
LEAST = 4096
"""Matrices with fewer elements are left out: noise itself scatters too far there."""
TOO_SMALL = (
    f"No matrix with {LEAST:,} or more elements and a distribution to measure is neither embedding, head nor pooler."
)
SIDE = 40
"""Rows and columns that a matrix needs to be looked at for the arrangement of its entries."""
PIECES = "codes and scales of quantized matrices, which are measured"
APART = ("embed", "head", "pooler")
"""Roles reported apart: the paper's claim is about the matrices between them."""


def eligible(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a survey (or arrangement, or comparison) that findings on shares are about: enough elements, neither
    embedding nor head; in a survey, with a distribution to measure. A ΔW that is zero counts: it was measured."""
    known = table["kl_bits"].notna() if "kl_bits" in table and "std_delta" not in table else True
    return table[(table["numel"] >= LEAST) & ~table["role"].isin(APART) & known]


def judged(checkpoint: Checkpoint, most: int | None = None) -> Checkpoint:
    """The part of a checkpoint that findings on shares are about, and its poolers, which stand beside as controls; of a
    model too small to have any, all of it.

    Args:
        checkpoint: any.
        most: take at most so many tensors, evenly chosen.
    """
    names = [
        info.name
        for info in checkpoint.tensors
        if len(info.shape) == 2 and info.numel >= LEAST and info.role not in set(APART) - {"pooler"}
    ]
    names = names or [info.name for info in checkpoint.tensors]
    return checkpoint.only(names if most is None else names[:: math.ceil(len(names) / most)])


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """What a chapter's figures show: the eligible matrices; in a model too small to have any, every measurable one.

    Raises:
        ValueError: there is nothing to show: no matrix has a distribution at all, or none has the size it takes.
    """
    rows = eligible(table) if len(eligible(table)) else table
    rows = rows[rows["kl_bits"].notna()] if "kl_bits" in rows else rows
    if rows.empty and "std_delta" in table and len(table):
        raise ValueError(
            f"ΔW is exactly zero in all {len(table)} matrices: {table.attrs.get('source')} and its base "
            f"{table.attrs.get('base')} hold the same weights. Name the model that was tuned, and its base"
        )
    if rows.empty and "kl_bits" not in rows:
        some = "; ".join(f"{name}: {reason}" for name, reason in list(table.attrs.get("skipped", {}).items())[:3])
        raise ValueError(f"{table.attrs.get('source', 'the model')} has no matrix to measure ({some})")
    if rows.empty:
        raise ValueError(
            f"{table.attrs.get('source', 'the model')} has no floating-point matrix with two different values: nothing "
            "to measure. `lfmlib.survey(model).attrs['skipped']` says why each tensor was left out"
        )
    return rows


def left_out(table: pd.DataFrame) -> str:
    """What a survey did not measure, in a sentence: tensors by reason, and values that are no numbers."""
    given = [PIECES if one.startswith("a piece of") else one for one in table.attrs.get("skipped", {}).values()]
    reasons = pd.Series(given, dtype=object).value_counts()
    tensors = "; ".join(f"{count} × {reason}" for reason, count in reasons.head(8).items()) or "nothing"
    if len(reasons) > 8:
        tensors += f"; {reasons.iloc[8:].sum()} for {len(reasons) - 8} other reasons"
    lost = int(table["nonfinite"].sum()) if "nonfinite" in table else 0
    if "kl_bits" in table and (shapeless := int(table["kl_bits"].isna().sum())):
        tensors += f"; {shapeless} × constant, empty of numbers, or finer than can be resolved: not judged"
    return f"Left out: {tensors}." + (f" **{lost:,} values are infinite or NaN** and not counted." if lost else "")


def gaussian(table: pd.DataFrame, bound: float = KL_BOUND) -> pd.Series:
    """Which tensors are within ``bound`` bits of a Gaussian, or within the 97.5 % point of noise where that is more."""
    return table["kl_bits"] <= table["kl_bits_null_high"].clip(lower=bound)


def share(table: pd.DataFrame, hit: pd.Series, weight: str = "numel") -> float:
    """Share of the parameters of ``table`` that lie in the tensors where ``hit`` is true; NaN of an empty table."""
    total = table[weight].sum() if len(table) else 0
    return float(table.loc[hit, weight].sum() / total) if total else math.nan


def sampled(table: pd.DataFrame, passes: Callable[[pd.DataFrame], pd.Series]) -> tuple[float, float] | None:
    """Between which values the share of those that pass lies, where a survey read samples: with every matrix at the
    worse end of its interval, and at the better. None where all was read."""
    if "kl_bits_low" not in table:
        return None
    worse, better = (share(table, passes(_at(table, end))) for end in ("high", "low"))
    return worse, better


def among(
    table: pd.DataFrame, passes: Callable[[pd.DataFrame], pd.Series], whole: pd.DataFrame | None
) -> tuple[float, float] | None:
    """Between which values the share of those that pass lies, with 95 %, where some matrices were looked at for all.

    Wilson's interval with the number of matrices that count equally (Kish 1965), and with the share of them that was
    looked at allowed for. None where all were.

    Args:
        table: eligible rows of what was looked at, evenly chosen.
        passes: which of them pass.
        whole: a survey of all matrices; None: those are all.
    """
    of = 0 if whole is None else _choosable(whole)
    if len(table) == 0 or len(table) >= of:
        return None
    p, weight = share(table, passes(table)), table["numel"] / table["numel"].sum()
    n = 1 / float((weight**2).sum()) / (1 - len(table) / of)
    z = float(special.ndtri(0.975))
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    half /= 1 + z * z / n
    return max(middle - half, 0.0), min(middle + half, 1.0)


def looked_at(table: pd.DataFrame, whole: pd.DataFrame | None) -> str:
    """What a verdict rests on where some matrices, or some rows of them, stand for all, in words; else empty."""
    if whole is None or table.empty:
        return ""
    of, sizes = _choosable(whole), whole.set_index("tensor")["numel"]
    cut = int((table["numel"] < sizes.reindex(table["tensor"]).to_numpy()).sum())
    words = [f"looked at: {len(table)} of {of} matrices, evenly chosen"] if len(table) < of else []
    if cut:
        words.append(f"of {cut} matrices the first rows stand for all, and how far those differ is not known")
    return "; ".join(words)


def _choosable(whole: pd.DataFrame) -> int:
    """How many rows of a survey are eligible, and large enough for an arrangement (see
    `lfmlib.chapters.ch13_report.chosen`)."""
    return int((eligible(whole)["shape"].map(min) >= SIDE).sum())


def _at(table: pd.DataFrame, end: str) -> pd.DataFrame:
    """A survey's rows with the figures that findings judge at one end of their intervals."""
    ends = {name: table[f"{name}_{end}"] for name in ("kl_bits", "mean_ratio", "asymmetry")}
    typical = table["asymmetry"] - table["asymmetry_excess"]
    return table.assign(**ends, asymmetry_excess=ends["asymmetry"] - typical)


def over_runs(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent runs and its Student-t interval; NaN as limits where there are fewer than two.

    Values that are all equal have an interval of no width: that is what the runs say, not that there is no doubt.
    """
    values = np.asarray(values, dtype=float)
    mean = values.mean()
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = special.stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def span(
    values: Sequence[float],
    digits: int,
    sign: str = "",
    unit: str = "",
    *,
    least: float = -math.inf,
    most: float = math.inf,
) -> str:
    """The same in words (see `bracketed`), within the range that the figure can have. One run has no interval, and runs
    of which some have no number, such as trainings that diverged, no mean."""
    missing = int(np.isnan(np.asarray(values, dtype=float)).sum())
    if missing or not len(values):
        return f"no number in {missing} of {len(values)}" if missing else "–"
    mean, low, high = (min(max(one, least), most) for one in over_runs(values))
    return bracketed(mean, low, high, digits, sign, unit)


def bracketed(mean: float, low: float, high: float, digits: int, sign: str = "", unit: str = "") -> str:
    """A mean over runs and its interval in words: "1.2 [0.9, 1.5] %"; ``sign`` "+" gives numbers above 0 theirs. One
    run has no interval."""
    mean, *ends = (f"{one:{sign}.{digits}f}" if not math.isnan(one) else "" for one in (mean, low, high))
    return f"{mean} [{', '.join(ends)}]{unit}" if all(ends) else f"{mean}{unit} (one run)"


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of a paired t-test: that the mean of independent differences is 0; 1 where none differs.

    NaN where there is no test: fewer than two differences, or one that is no number.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    if values.std() == 0:  # also where rounding is all there is
        return 0.0 if values[0] else 1.0
    return float(scipy.stats.ttest_1samp(values, 0.0).pvalue)


def ratios(own: pd.Series, whole: pd.Series) -> pd.Series:
    """Ratio R of two means over runs, spread over the runs: R + (own - R whole) / mean of whole.

    Their mean is R, and their interval that of the delta method, paired by run, in which no small value of a single run
    is divided by. Empty where the mean of ``whole`` is not above 0: there is no share of it.
    """
    both = pd.DataFrame({"own": own, "whole": whole}).dropna()
    if both.empty or not both["whole"].mean() > 0:
        return pd.Series(dtype=float)
    ratio = both["own"].mean() / both["whole"].mean()
    return ratio + (both["own"] - ratio * both["whole"]) / both["whole"].mean()
