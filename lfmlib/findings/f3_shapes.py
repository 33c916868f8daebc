"""F3: there are occasional sharp, inverted-T-shaped or linear patterns."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..distribution.shapes import NOT_GAUSSIAN
from .finding import Finding
from .shares import TOO_SMALL, eligible


def f3(
    table: pd.DataFrame,
    noise: pd.DataFrame,
    model: str,
    others: list[Finding],
    grown: Sequence[str],
    provenance: dict,
) -> Finding:
    """Finding F3 of a checkpoint; not judged where no matrix is eligible.

    A shape found in this model counts for certain once another model has it too: until then the interval reaches from
    the number of shapes that others confirm to the number seen here, and the verdict may stay undecided. Where a survey
    read samples, the lower end counts only shapes of matrices whose sample leaves no other shape open, and the upper
    end every shape that two matrices may have.

    Args:
        table: from `lfmlib.survey`.
        noise: its `lfmlib.noise_twin`.
        model: its name.
        others: the findings F3 of other models.
        grown: the shapes that lab models grew in training, as chapter 2 finds them.
        provenance: of the model.
    """
    body = eligible(table)
    control = noise[noise["tensor"].isin(body["tensor"])]
    seen = shapes_found(body)
    elsewhere = {name for other in others if other.model != model for name in other.details.get("found", [])} | {*grown}
    sure, likely = _certain_and_possible(body) if "label_possible" in body else (seen, seen)
    confirmed = [name for name in seen if name in elsewhere]
    details = {
        "found": seen,
        "confirmed_elsewhere": confirmed,
        "grown_in_the_lab": list(grown),
        "labels": {name: int(count) for name, count in body["label"].value_counts().items()},
        "noise_labels": {name: int(count) for name, count in control["label"].value_counts().items()},
    }
    if "label_possible" in body:
        several = int(body["label_possible"].str.contains(", ").sum())
        details["caveat"] = (
            f"of samples: {several} of {len(body)} matrices may have another shape than that of their sample"
        )
    if body.empty:
        return Finding.of("F3", model, provenance, details | {"reason": TOO_SMALL})
    interval = float(len({*confirmed} & {*sure})), float(len(likely))
    return Finding.of("F3", model, provenance, details, float(len(seen)), interval, float(len(shapes_found(control))))


def shapes_found(body: pd.DataFrame) -> list[str]:
    """The named shapes other than the Gaussian that at least two rows of a survey have."""
    return _repeated(body["label"])


def _repeated(labels: pd.Series) -> list[str]:
    counts = labels.value_counts()
    return [name for name in NOT_GAUSSIAN if counts.get(name, 0) >= 2]


def _certain_and_possible(body: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The shapes that at least two sampled matrices have for certain, and those that at least two may have."""
    may = body["label_possible"].str.split(", ")
    return _repeated(body["label"][may.map(len, na_action="ignore") == 1]), _repeated(may.explode())
