"""The trainings of the record `initialization`: by name, at their end, and the shapes that they gave to weights.

It imports nothing of the lab, since the report, which asks for these shapes, trains nothing.
"""

from __future__ import annotations

from contextlib import suppress

import pandas as pd

from .. import records
from ..distribution.shapes import NOT_GAUSSIAN
from .census import SHIPPED
from .names import NAMES, where

REGIMES = {
    "wide start": {"part": "plain", "gain": 1.0},
    "narrow start": {"part": "plain", "gain": 0.25},
    "strong decay": {"part": "decay"},
}
"""The ways of training that the verdict is given on, as settings."""


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at the end of each training."""
    return rows[rows["step"] == rows["steps"]]


def verdict_runs(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows each verdict rests on, by a name such as "lab ViT, wide start"; ways that were not run are left out."""
    found = {
        f"{NAMES[model]}, {regime}": where(rows, model=model, **settings)
        for model in NAMES
        for regime, settings in REGIMES.items()
    }
    return {name: some for name, some in found.items() if len(some)}


def shapes_grown(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Shapes that training gave to models that started Gaussian, for the rule of F3.

    Returns:
        Shape → the ways of training (as in `verdict_runs`) in which at least two matrices end with it, and none begins
        with it, in at least two seeds.
    """
    found: dict[str, list[str]] = {}
    for name, some in verdict_runs(where(rows, start="gaussian")).items():
        first, end = where(some, step=0), last(some)
        for shape in NOT_GAUSSIAN:
            if (first[shape] == 0).all() and (end[shape] >= 2).sum() >= 2:
                found.setdefault(shape, []).append(name)
    return found


def kept_shapes() -> list[str] | None:
    """The shapes of `shapes_grown` by the record, of this source tree or else as the installed library brings it; None
    where neither has one.

    Raises:
        ValueError: the record is damaged.
    """
    for folder in (records.FOLDER, SHIPPED):
        with suppress(FileNotFoundError):
            _, cells = records.files.read("initialization", folder)
            return list(shapes_grown(pd.DataFrame([row for rows in cells.values() for row in rows])))
    return None
