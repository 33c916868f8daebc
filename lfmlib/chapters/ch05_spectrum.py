"""What chapter 5 says at its end of the singular values of a model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import findings
from ..checkpoints.named import titled
from ..findings.f4_iid import MAX_BEYOND_EDGE
from ..findings.markup import code, plain
from ..structure import lanczos, spectra

AS_NOISE = 2.0
"""Distance of the bulk from its law, over that of noise, up to which it is called noise."""


PRINTED = {"outliers": "beyond the edge", "outlier_variance": "their variance", "top_ratio": "largest / edge"}
"""Column → what tables call it: an outlier is a weight, in print."""


def by_control(table: pd.DataFrame) -> pd.DataFrame:
    """Medians of what lies beyond the edge, by control, and the share of the parameters that passes by its spectrum.

    Args:
        table: from `lfmlib.arrangement`, with controls.
    """
    return findings.by_control(table, [*PRINTED, "mp_ks"], ["spectrum"]).rename(columns=PRINTED)


def takeaways(table: pd.DataFrame, fitted: pd.DataFrame, name: str) -> str:
    """The chapter in three sentences.

    Args:
        table: from `lfmlib.arrangement`, with controls.
        fitted: from `lfmlib.structure.bulk.bulks`.
        name: of the model.
    """
    medians = findings.by_control(table, ["outliers", "outlier_variance"], [])
    own, noise = medians.loc["weights"], medians.loc["fresh"]
    even, shuffled = (medians.loc[kind, "outlier_variance"] for kind in ("rescaled", "permuted"))
    bulk, of_noise = fitted.loc["weights"], fitted.loc["fresh"]
    like = "passes for noise" if bulk["ks"] <= AS_NOISE * of_noise["ks"] else "is not noise either"
    return (
        f"- The median matrix of {plain(titled(name))} has {own['outliers']:.0f} singular values beyond the "
        f"edge of noise, with {own['outlier_variance']:.0%} of its variance. Fresh noise has "
        f"{noise['outliers']:.0f}, with {noise['outlier_variance']:.0%}.\n"
        f"- Dividing out the scales of rows and columns leaves {even:.0%} of the variance there, and putting all "
        f"entries in another order {shuffled:.0%}: {_cause(own['outlier_variance'], even, shuffled)}.\n"
        f"- Noise fitted to the middle of the spectrum accounts for {bulk['variance']:.0%} of the variance. The rest "
        f"up to its edge lies {bulk['ks']:.3f} from the law, fresh noise {of_noise['ks']:.3f}: the bulk {like}."
    )


def looked_at(row: pd.Series) -> str:
    """What one matrix has beyond the edge, in sentences; from a row of `lfmlib.arrangement`."""
    return (
        f"The matrix is {code(row['tensor'])}. **{row['outliers']:.0f}** of its singular values lie beyond the edge "
        f"and carry **{row['outlier_variance']:.0%}** of its variance; the largest is {row['top_ratio']:.2f} times the "
        "edge. Noise has none in 99 cases of 100."
    )


def of_the_middle(fitted: pd.DataFrame) -> str:
    """How much noise fitted to the middle accounts for, in sentences; from `lfmlib.structure.bulk.bulks`."""
    found = fitted.loc["weights"]
    return (
        f"Noise that fits the middle accounts for **{found['variance']:.0%}** of the variance of the median matrix, "
        f"and {found['outliers']:.0f} directions stick out of it. The rest is {found['ks']:.3f} away from the law, "
        f"noise {fitted.loc['fresh', 'ks']:.3f}."
    )


def concentrated(leading: pd.DataFrame) -> str:
    """How many leading directions are unlike those of noise, by side, in a sentence; rows of `spectra.vectors`."""
    spread = leading["excess_kurtosis"].between(leading["null_low"], leading["null_high"])
    sides = [f"{side} **{1 - some.mean():.0%}**" for side, some in spread.groupby(leading["side"])]
    return f"Of three leading directions of each matrix, unlike noise: {', '.join(sides)} (noise: 5 %)."


def estimated(matrix, seed: int = 0) -> str:
    """How far the estimated distribution of the singular values is from the exact one, in a sentence.

    Args:
        matrix: as in `lfmlib.spectrum`.
        seed: of the random starts.
    """
    estimate, s = lanczos.density(matrix, seed=seed), spectra.singular_values(matrix)
    exact = np.searchsorted(s**2 * len(s) / (s**2).sum(), estimate.x, side="right") / len(s)
    off = np.abs(estimate.cdf - exact)
    within = (off <= 2 * estimate.error + estimate.resolution).mean()
    return (
        f"Largest difference of the two distribution functions: **{off.max():.4f}**; {within:.0%} of the estimates lie "
        "within two standard errors and their resolution."
    )


def _cause(own: float, even: float, shuffled: float) -> str:
    """What most of the variance beyond the edge is due to, from what the controls leave of it."""
    if own <= MAX_BEYOND_EDGE:
        return "there was little to explain"
    if shuffled >= own / 2:
        return "most of it is the work of a few huge weights"
    return "most of it is ties between rows" if even >= own / 2 else "most of it is the work of unequal scales"
