"""What chapter 6 says of the pair it looks at, and at its end."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import findings
from ..findings.markup import code
from .ch06_figures import SIDES

LIKE_NOISE = 0.1
"""Difference of mean g from that of noise up to which the two are called alike."""


def of_values(weights: pd.DataFrame, noise: pd.DataFrame) -> str:
    """How far the values of ΔW are from a Gaussian and how large they are, in sentences; rows of `lfmlib.compare`."""
    worst = weights.loc[weights["kl_bits"].idxmax()]
    tails = "lighter" if worst["excess_kurtosis"] < 0 else "heavier"
    size = (weights["std_delta"] / weights["std_base"]).median()
    return (
        f"Coding ΔW as a Gaussian costs **{weights['kl_bits'].median():.4f} bits** too many a weight in the median "
        f"matrix; the twins cost at most {noise['kl_bits'].max():.4f}. The most is {worst['kl_bits']:.3f}, in "
        f"{code(worst['tensor'])}, which has {tails} tails than a Gaussian (excess kurtosis "
        f"{worst['excess_kurtosis']:+.2f}). The standard deviation of ΔW is {size:.2%} of that of W₀ in the median, "
        f"and {weights['zeros'].median():.2%} of its entries are exactly zero."
    )


def by_role(weights: pd.DataFrame) -> pd.DataFrame:
    """Size of ΔW over W₀, g, correlation with W₀, and how far its law and its largest singular value are from noise:
    medians by role; rows of `lfmlib.compare`."""
    names = {"gain": "g", "corr": "corr(ΔW, W₀)", "top_ratio": "top / edge"}
    size = weights["std_delta"] / weights["std_base"]
    columns = ["size", "gain", "corr", "kl_bits", "qq_r2", "top_ratio"]
    medians = findings.by_role(weights.assign(size=size))[columns].median()
    return medians.rename(columns=names).rename_axis(None)


def of_quantiles(weights: pd.DataFrame, noise: pd.DataFrame) -> str:
    """The share of the parameters whose ΔW lies on a line of the Q–Q plot, in a sentence; rows of `lfmlib.compare`."""
    return (
        f"R² ≥ {findings.QQ_BOUND}: **{findings.qq_share(weights):.1%}** of the parameters "
        f"({findings.qq_share(noise):.1%} with noise in ΔW’s place)."
    )


def of_directions(weights: pd.DataFrame, permuted: pd.DataFrame, noise: pd.DataFrame) -> str:
    """The largest singular value of ΔW and of its controls, in a sentence; rows of `lfmlib.compare`."""
    tops = [one["top_ratio"].median() for one in (weights, permuted, noise)]
    return (
        f"In the pair above, the largest singular value over the edge has a median of **{tops[0]:.2f}**; with the "
        f"entries of ΔW in another order {tops[1]:.2f}, of noise {tops[2]:.2f}."
    )


def of_budget(weights: pd.DataFrame, noise: pd.DataFrame) -> str:
    """What ΔW does to the standard deviation, in sentences; rows of `lfmlib.compare`."""
    own, twin = findings.widening(weights), findings.widening(noise)
    error = (weights["std_base"] ** 2 + weights["std_delta"] ** 2 + 2 * weights["cov"]).to_numpy()
    error = np.abs(error / weights["std_tuned"] ** 2 - 1).max()
    return (
        f"The standard deviation rises in **{own['widened']:.0%}** of the matrices (noise: "
        f"{twin['widened']:.0%}). g has a median of **{own['gain_median']:.2f}** (noise: {twin['gain_median']:.2f}) "
        f"and runs from {weights['gain'].min():.2f} to {weights['gain'].max():.2f}. "
        f"The budget adds up to within {error:.0e}."
    )


def takeaways(gains: pd.DataFrame, rises: pd.DataFrame, points: pd.DataFrame) -> str:
    """The chapter in three sentences.

    Args:
        gains: from `lfmlib.chapters.ch06_figures.gains`.
        rises: from `lfmlib.chapters.ch06_figures.rises`.
        points: from `lfmlib.chapters.ch06_decay.turning_points`.
    """
    own, noise = (gains[gains["what"] == side].set_index("model")["mean"] for side in SIDES.values())
    less, more = (own < noise - LIKE_NOISE).sum(), (own > noise + LIKE_NOISE).sum()
    return (
        f"- Of {len(own)} fine-tunes, {less} widen the weights less than noise of ΔW’s size does, {more} more, "
        f"{len(own) - less - more} as much; {(own < 0).sum()} make them narrower. "
        f"Mean g runs from {own.min():.2f} ({own.idxmin()}) to {own.max():.2f} ({own.idxmax()}).\n"
        f"- {_by_decay(rises)}\n"
        f"- {_foretold(points)}"
    )


def _by_decay(rises: pd.DataFrame) -> str:
    """Where the decay changed most, and what an adapter does there."""
    wide = rises.pivot_table(index="model", columns="way", values="mean", sort=False)
    if not {"full", "full, no decay"} <= set(wide):
        return "What the weight decay does to the spread was not measured here."
    change = (wide["full, no decay"] - wide["full"]).abs()
    model = change.idxmax()
    if change.max() < 0.05:
        return "In no model does the weight decay change the share of matrices that widen by more than 5 points."
    return (
        f"The recipe decides: in {model} the standard deviation rises for {wide.loc[model, 'full']:.0%} of the "
        f"matrices with a weight decay, and for {wide.loc[model, 'full, no decay']:.0%} without."
    )


def _foretold(points: pd.DataFrame) -> str:
    """How well the decay at which weights cease to widen is known beforehand."""
    known = points.dropna(subset="measured")
    if known.empty:
        return "At which weight decay the weights cease to widen was not measured on both sides here."
    error = known["error"].abs()
    return (
        f"From one training without a decay, the decay at which weights cease to widen is foretold to within "
        f"{error.median():.1%} in the median of {len(known)} settings, and to within {error.max():.1%} at worst."
    )
