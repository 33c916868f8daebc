"""What chapter 14 reads off its record `soups`: fine-tunes of one base, their mean, and what each has of its own.

Every function takes rows of the record (see `lfmlib.experiments.soups.run`). Intervals are over fine-tunes; bases are
one or two.
"""

from __future__ import annotations

import pandas as pd

from .. import findings
from ..findings.runs import bracketed, sides
from .names import NAMES, key, where
from .sentences import listed

RESIDUALS = {"own": "own residual", "permuted": "permuted", "noise": "fresh noise"}
"""What is added to the mean of many fine-tunes, as tables name it."""


def soups(record: pd.DataFrame) -> pd.DataFrame:
    """Fine-tunes and their mean, losses in nats, by model and rate, in words."""

    def told(rows: pd.DataFrame) -> dict:
        most = where(rows, what="soup", members=rows["count"].iloc[0])
        return {
            "fine-tunes": f"{NAMES[key(rows)]} × {rows['count'].iloc[0]}",
            "rate": f"{rows['lr'].iloc[0]:g}",
            "correlation of two ΔW": f"{most['alike'].mean():.2f}",
            "their loss": f"{most['loss'].mean():.3f}",
            "loss of their mean": f"{most['soup'].mean():.3f}",
        }

    return listed((rows for _, rows in _large(record)), told)


def added(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For a picture: model → what a residual changes of the loss of the mean, by rate (``method``) and by what is put
    in its place (``arm``): mean and interval over fine-tunes and bases."""
    found: dict[str, list[dict]] = {}
    for (model, rate), rows in _large(record):
        for stand_in, name in RESIDUALS.items():
            mean, low, high = findings.over_runs(_residual(rows, stand_in))
            row = {"method": f"rate {rate:g}", "arm": name, "mean": mean, "low": low, "high": high}
            found.setdefault(NAMES[model], []).append(row)
    return {model: pd.DataFrame(rows) for model, rows in found.items()}


def added_in_words(record: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `added`, in nats: a row for each model and rate, a column for each of `RESIDUALS`."""
    rows = [
        {"fine-tunes of": model, "at": rate, "what": arm, "said": bracketed(mean, low, high, 4, "+")}
        for model, table in added(record).items()
        for rate, arm, mean, low, high in table.to_numpy()
    ]
    wide = pd.DataFrame(rows).pivot_table("said", ["fine-tunes of", "at"], "what", "first", sort=False)
    return wide.rename_axis(columns=None).reset_index()


def residuals(record: pd.DataFrame) -> str:
    """How like noise residuals look, entry by entry and by their spectrum: a line a model."""
    law = record[record["what"] == "law"].groupby("model", sort=False)[["kl_bits", "noise_kl_bits", "outlier_variance"]]
    said = [
        f"- {NAMES[model]}: {one['kl_bits']:.4f} bits from a Gaussian (noise {one['noise_kl_bits']:.4f}), "
        f"{one['outlier_variance']:.0%} of the variance beyond the edge"
        for model, one in law.median().iterrows()
    ]
    words = "A residual, in the median of its matrices, and an edge that 99 in 100 matrices of noise keep within:"
    return "\n".join([words, "", *said])


def grows(record: pd.DataFrame) -> str:
    """How the loss of the mean goes with the number of fine-tunes, in a sentence."""
    said = []
    for (model, rate), rows in _large(record):
        each = where(rows, what="soup").groupby("members")["soup"].mean()
        of = ", ".join(f"{loss:.3f} of {count:g}" for count, loss in each.items())
        said.append(f"{NAMES[model]} at {rate:g} {of}")
    return f"Loss of the mean by the number of fine-tunes: {'; '.join(said)}."


def _large(record: pd.DataFrame):
    """Rows by model and rate, of cells with the most fine-tunes."""
    most = record.groupby("model")["count"].transform("max")
    return record[record["count"] == most].groupby(["model", "lr"], sort=False)


def _residual(rows: pd.DataFrame, stand_in: str, beside: str = "none") -> pd.Series:
    """What a residual changes of the loss, in nats, by base and fine-tune."""
    some = where(rows, what="residual").pivot(index=["seed", "member"], columns="stand_in", values="loss")
    return some[stand_in] - some[beside]


def beside_noise(record: pd.DataFrame) -> str:
    """Whether what fine-tunes have of their own is better than noise of its size, in a sentence."""
    spans = [findings.over_runs(_residual(rows, "own", "noise")) for _, rows in _large(record)]
    worse, better = sides(spans)
    return (
        "Beyond the mean of its siblings, what a fine-tune has is better for the loss than noise of that size in "
        f"**{better} of {len(spans)}** cases, and worse in {worse}."
    )
