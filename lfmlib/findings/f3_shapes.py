"""F3: there are occasional sharp, inverted-T-shaped or linear patterns."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .finding import Finding
from .rules import RULES, STATEMENTS, judge
from .shares import TOO_SMALL, eligible


def f3(
    table: pd.DataFrame,
    noise: pd.DataFrame,
    model: str,
    others: list[Finding],
    grown: Sequence[str],
    provenance: dict,
) -> Finding:
    """Finding F3 from a survey and its noise twin.

    A shape found in this model counts for certain once another model has it too: until then the interval reaches from
    the number of shapes that others confirm to the number seen here, and the verdict may stay undecided. Where a survey
    read samples, a shape counts for certain only in matrices that it is certain of, and at most in those that may have
    it.

    Args:
        table, noise: of the model.
        model: its name.
        others: the findings F3 of other models.
        grown: the shapes that lab models grew in training (see `lfmlib.chapters.ch02_start.shapes_grown`).
        provenance: of the model.
    """
    body = eligible(table)
    control = noise[noise["tensor"].isin(body["tensor"])]
    seen = shapes_found(body)
    elsewhere = {name for other in others if other.model != model for name in other.details.get("found", [])} | {*grown}
    sure, likely = _on_a_sample(body) if "label_possible" in body else (seen, seen)
    confirmed = [name for name in seen if name in elsewhere]
    counts = body["label"].value_counts()
    rule, interval = RULES["F3"], (float(len({*confirmed} & {*sure})), float(len(likely)))
    return Finding(
        id="F3",
        model=model,
        statement=STATEMENTS["F3"],
        metric="named shapes in at least two matrices (in brackets: confirmed by other models so far, and at most)",
        value=None if body.empty else float(len(seen)),
        interval=None if body.empty else interval,
        null=None if body.empty else float(len(shapes_found(control))),
        rule=rule.text,
        verdict="undecided" if body.empty else judge(rule, len(seen), interval),
        provenance=provenance,
        details={
            "found": seen,
            "confirmed_elsewhere": confirmed,
            "grown_in_the_lab": list(grown),
            "labels": {name: int(count) for name, count in counts.items()},
            "noise_labels": {name: int(count) for name, count in control["label"].value_counts().items()},
        }
        | ({"caveat": _unsure(body)} if "label_possible" in body else {})
        | ({"reason": TOO_SMALL} if body.empty else {}),
    )


def shapes_found(body: pd.DataFrame) -> list[str]:
    """The named shapes other than the Gaussian that at least two of the rows have."""
    return _twice(body["label"])


def _twice(labels: pd.Series) -> list[str]:
    counts = labels.value_counts()
    return [name for name in ("sharp", "inverted-t", "linear") if counts.get(name, 0) >= 2]


def _on_a_sample(body: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The shapes that at least two sampled matrices have for certain, and those that at least two may have."""
    may = body["label_possible"].str.split(", ")
    return _twice(body["label"][may.str.len() == 1]), _twice(may.explode())


def _unsure(body: pd.DataFrame) -> str:
    several = int(body["label_possible"].str.contains(", ").sum())
    return f"of samples: {several} of {len(body)} matrices may have another shape than that of their sample"
