"""What chapter 2 says in sentences: of its controls, its verdicts, and of the whole."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .. import findings
from ..checkpoints.named import titled
from ..experiments import drift
from ..findings import Finding
from ..findings.markup import plain
from ..lab.starts import STARTS
from . import published
from .lab_runs import last
from .names import NAMES, where


def thresholds(bound: float) -> str:
    """How much must be added for each part of a start that is left, until it is within the bound."""
    needed = {start: drift.forgotten_at(start, bound) for start in STARTS}
    words = ", ".join(f"{start} **{ratio:.2f}**" for start, ratio in needed.items() if ratio)
    return f"RMS added over RMS left of the start: {words}. The controls need nothing."


def slopes(rows: pd.DataFrame) -> str:
    """How fast weights move, by model.

    Args:
        rows: from `ch02_picture.exponents`.
    """
    words = [f"{row.Index} {row.slope:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in rows.itertuples()]
    straight = f"1 for diffusion and {rows['straight'].mean():.2f} for motion straight on"
    return f"Slope, {straight}: **{'; '.join(words)}**."


def recipes() -> tuple[pd.DataFrame, str]:
    """Published recipes in words, and which of them leave next to nothing of the start."""
    rows = published.recipes()
    gone = ", ".join(rows[rows["left"] < 0.01]["model"])
    rows["left of the start"] = rows.pop("left").map("{:.2g}".format)
    said = f"Less than 1 % of the start is left by the decay of {gone}."
    return rows.astype({"steps": int}).astype(object).astype(str), said


def crossed(table: pd.DataFrame) -> str:
    """How many trainings added as much as the picture asks for, and ended within the bound.

    Args:
        table: from `ch02_picture.crossings`.
    """
    words = [f"{row.Index} {row[3]} of {row[2]}" for row in table.itertuples()]
    return (
        f"Of all trainings with AdamW, {table['got there'].sum()} added as much as the picture asks for. Of these "
        f"ended within the bound: {', '.join(words)}."
    )


def zeros(rows: pd.DataFrame) -> str:
    """How well the size of a weight tells, at the end, whether it began at zero."""
    sparse = last(where(rows, start="sparse-90"))
    words = [f"{NAMES[model]} {some['zeros_seen'].mean():.2f}" for model, some in sparse.groupby("model", sort=False)]
    return (
        "How well the size of a trained weight tells whether it began at zero (1 perfectly, 0.5 not at all): "
        f"{', '.join(words)}."
    )


def control(ends: pd.DataFrame, part: str, name: str) -> str:
    """How far the trainings of one part of the record took each start.

    Args:
        ends: rows at the end of each training.
        part: of the record.
        name: of the part in print.
    """
    some = where(ends, part=part).groupby("start", sort=False).mean(numeric_only=True)
    words = [f"{row.Index} {row.kl_bits:.3f} ({row.share:.0%})" for row in some.itertuples()]
    return f"*{NAMES['vit']}, {name}* (accuracy {some['score'].mean():.2f}), `kl_bits` (share): {', '.join(words)}."


def verdicts(found: Sequence[Finding]) -> str:
    """How many verdicts there are of each kind, and where training itself leaves no Gaussian."""
    counts = pd.Series([one.verdict if one.value is not None else "not judged" for one in found]).value_counts()
    words = ", ".join(f"{verdict} {count}" for verdict, count in counts.items())
    ended = {one.model: one.details["controls"].get("gaussian", [1.0])[0] for one in found}
    unlike = [f"{name} ({share:.0%})" for name, share in ended.items() if share < findings.SUPPORTED_SHARE]
    return (
        f"Of {len(found)} models and ways of training: **{words}**. Even a Gaussian start ends below 80 %: "
        f"{', '.join(unlike) or 'nowhere'}."
    )


def takeaways(points: pd.DataFrame, bound: float, found: Sequence[Finding], narrow: pd.DataFrame) -> str:
    """The chapter in three sentences, each with its numbers.

    Args:
        points: from `ch02_picture.with_prediction`.
        bound: `kl_bits` at which a start counts as forgotten.
        found: the verdicts.
        narrow: rows of the trainings from narrow starts.
    """
    return "\n".join(f"- {one}" for one in (_fading(points, bound), _regardless(found), _hidden(narrow)))


def _fading(points: pd.DataFrame, bound: float) -> str:
    told = points[(points["predicted"] <= bound) & (points["optimizer"] == "adamw")]
    if told.empty:
        return "No training added as much as the picture asks for, so none could test it where it counts."
    gone = int((told["kl_bits"] <= bound).sum())
    lead = "A start fades as training adds to it" if gone > len(told) / 2 else "Adding to a start is not enough"
    return (
        f"{lead}: of {len(told):,} snapshots that should have forgotten theirs by what had been added, {gone:,} have."
    )


def _regardless(found: Sequence[Finding]) -> str:
    judged = [one for one in found if one.value is not None]
    if not judged:
        return (
            f"Whether weights become Gaussian from every start could be asked of none of {len(found)} ways of training."
        )
    whole = sum(one.value >= 1 for one in judged)
    best = max(judged, key=lambda one: one.value)
    lead = "“Regardless of initialization” holds here" if whole == len(judged) else "The start matters"
    rest = f"; of {len(found) - len(judged)} others it could not be asked" if len(found) > len(judged) else ""
    return (
        f"{lead}: {whole} of {len(judged)} ways of training forgot every start they could have, and the best, "
        f"{plain(titled(best.model))}, forgot {best.value:.0%} of them{rest}."
    )


def _hidden(narrow: pd.DataFrame) -> str:
    ends = last(narrow)
    ends = ends[~ends["start"].isin(("gaussian", "orthogonal"))]
    hidden = ends[ends["share"] >= findings.SUPPORTED_SHARE]
    if hidden.empty:
        return (
            f"From narrow starts none of {len(ends)} trainings ended Gaussian, and the weights still correlate with "
            f"their start by {ends['memory'].mean():.2f} in the mean."
        )
    lead = "A Gaussian histogram can hide a start" if hidden["memory"].mean() > 0.1 else "What looks Gaussian is new"
    return (
        f"{lead}: from narrow starts {len(hidden)} of {len(ends)} trainings ended Gaussian, and their weights still "
        f"correlate with the start by {hidden['memory'].mean():.2f} in the mean."
    )
