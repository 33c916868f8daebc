"""Chapter 1 in words and rows: what was measured of one model's matrices, and of its noise twins."""

from __future__ import annotations

import pandas as pd

from .. import findings
from ..checkpoints.named import titled
from ..findings.markup import code, plain
from . import census
from .published import HALF_NORMAL_K


def band(body: pd.DataFrame, noise: pd.DataFrame) -> str:
    """How the matrices lie beside their noise twins.

    Args:
        body: judged rows of a survey.
        noise: their twins, from `lfmlib.noise_twin`.
    """
    beyond = int((body["kl_bits"] > body["kl_bits_null_high"]).sum())
    return (
        f"**{beyond} of {len(body)}** matrices lie above the range that holds 97.5 % of noise. The median matrix costs "
        f"**{body['kl_bits'].median():.4f} bits**, the worst {body['kl_bits'].max():.3f}; the worst noise twin "
        f"{noise['kl_bits'].max():.4f}. Inside the tails, coding costs {body['tail_bits'].max():.3f} bits more at most."
    )


def heaviest(body: pd.DataFrame) -> pd.Series:
    """The row of the matrix with the largest excess kurtosis."""
    return body.loc[body["excess_kurtosis"].astype(float).fillna(-2).idxmax()]


def apart(table: pd.DataFrame, body: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """What is not judged, and what noise could be.

    Args:
        table: all rows of a survey.
        body: the judged ones.

    Returns:
        The rows that are not judged or lie inside the band of noise, with ``inside_band``; and a sentence on them.
    """
    inside = table["kl_bits"].between(table["kl_bits_null_low"], table["kl_bits_null_high"])
    rows = table.assign(inside_band=inside)[inside | ~table["tensor"].isin(body["tensor"])]
    others = rows[~rows["tensor"].isin(body["tensor"])]
    noisy = [f"{code(row.tensor)} ({row.kl_bits:.5f} bits)" for row in others[others["inside_band"]].itertuples()]
    said = f"Of the {len(body)} judged matrices, **{int(inside[body.index].sum())}** lie in the band of noise"
    if len(others):
        of_them = ", ".join(noisy[:3]) + (f" and {len(noisy) - 3} more" if len(noisy) > 3 else "")
        said += f"; of the {len(others)} that stand apart, {len(noisy)}{f': {of_them}' if noisy else ''}"
    columns = ["tensor", "role", "kl_bits", "kl_bits_null_high", "tail_bits", "inside_band"]
    return (findings.layer_by_layer(rows) if len(rows) else rows)[columns], f"{said}."


def beside(body: pd.DataFrame, noise: pd.DataFrame, listed: pd.DataFrame) -> str:
    """Weibull k of this model beside published ranges.

    Args:
        body: judged rows of a survey.
        noise: their twins.
        listed: from `published.weibull_k`.
    """
    lowest, k = listed.loc[listed["low"].idxmin()], body["weibull_k"]
    reach = int((listed["high"] >= HALF_NORMAL_K).sum())
    return (
        f"Of the {len(listed)} published ranges, {reach} reach the Gaussian's value; the lowest begins at "
        f"{lowest['low']:.2f} ({plain(lowest['model'])}). This model's matrices have a median k of "
        f"**{k.median():.3f}**, from {k.min():.3f} to {k.max():.3f}. Their noise twins lie between "
        f"{noise['weibull_k'].min():.3f} and {noise['weibull_k'].max():.3f}."
    )


def nine(record: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """The judged matrices of each model of the record `census`, the largest model first, and their noise, by the names
    that models have in print."""
    known = census.bodies(record)
    twins = {titled(name): census.part(record, name, "values", "noise") for name in known}
    return {titled(name): rows for name, rows in known.items()}, twins


def takeaways(model: str, body: pd.DataFrame, noise: pd.DataFrame) -> str:
    """The chapter in three sentences, each with its numbers.

    Args:
        model: its name in print.
        body: judged rows of a survey.
        noise: their twins, from `lfmlib.noise_twin`.
    """
    return "\n".join(f"- {one}" for one in (_how_far(model, body, noise), _where(body), _core_and_tails(body)))


def _how_far(model: str, body: pd.DataFrame, noise: pd.DataFrame) -> str:
    share, twins = (findings.share(rows, findings.gaussian(rows)) for rows in (body, noise))
    told = int((body["kl_bits"] > body["kl_bits_null_high"]).sum())
    return (
        f"Ask *how far*, not *whether*: {told} of {len(body)} matrices of {plain(model)} differ from noise; within "
        f"{findings.KL_BOUND} bits of a Gaussian lie {share:.1%} of the weights, and {twins:.1%} of their noise twins."
    )


def _where(body: pd.DataFrame) -> str:
    medians = findings.by_role(body)["kl_bits"].median().astype(float).sort_values()
    low, high = medians.iloc[0], medians.iloc[-1]
    if len(medians) == 1:
        return f"All judged matrices have one role, {plain(medians.index[0])}, and cost {high:.4f} bits in the median."
    ends = (
        f"matrices of role *{plain(medians.index[-1])}* cost {high:.4f} bits in the median, those of role "
        f"*{plain(medians.index[0])}* {low:.4f}"
    )
    if high >= 2 * low:
        return f"Distance has a place: {ends}."
    return f"The role says little about the distance here: {ends}."


def _core_and_tails(body: pd.DataFrame) -> str:
    passing = body[findings.gaussian(body)]
    if passing.empty:
        least = body.loc[body["kl_bits"].idxmin()]
        return f"No matrix passes: the closest, {code(least['tensor'])}, costs {least['kl_bits']:.4f} bits."
    most = heaviest(passing)
    kurtosis = most["excess_kurtosis"]
    if kurtosis > 1:
        return (
            f"Core and tails are two questions: {code(most['tensor'])} costs only {most['kl_bits']:.4f} bits, and its "
            f"excess kurtosis is {kurtosis:.4g} (a Gaussian’s is 0)."
        )
    return (
        f"Core and tails agree here: of the matrices that pass, none has an excess kurtosis above {kurtosis:.2f} (a "
        "Gaussian’s is 0)."
    )
