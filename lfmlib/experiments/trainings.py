"""What experiments on trainings share: a training anew, its score, what it starts from, and their tolerances."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import fields

from ..checkpoints.named import named
from ..lab import models
from ..lab.problems import problem
from ..lab.train import Config, Trained, train

Bases = Mapping[str, Mapping]
"""Model → how its base is trained, from a narrow Gaussian start."""
GAIN = 0.25
"""Scale of these starts, in units of 1/√fan_in."""


def config(cell: dict, **more) -> Config:
    """What a cell trains: those of its settings that a training has, and more."""
    known = {field.name for field in fields(Config)}
    return Config(**{name: value for name, value in cell.items() if name in known}, **more)


def origin(cell: dict, bases: Bases, **toy) -> dict:
    """What a fine-tuning starts from, as settings of its training: a published model, or a base of the same seed.

    Args:
        cell: with model and seed.
        bases: of the lab.
        toy: settings of the base that are others for toys.
    """
    model = cell["model"]
    if model in models.PRETRAINED:
        return {"start": "library"}
    return {"base": Config(model, **bases[model] | toy, gain=GAIN, seed=cell["seed"])}


def inputs(cell: dict, bases: Bases | None = None) -> dict[str, str]:
    """Hashes of what a cell starts from: its data, and a published model’s weights or the data of its base."""
    return {"data": problem(cell["model"], cell["task"]).data_hash} | base_inputs(cell["model"], bases or {})


def base_inputs(model: str, bases: Bases) -> dict[str, str]:
    """Hash of a published model’s weights, or of the data that a base of the lab is trained on."""
    if model in models.PRETRAINED:
        return {"base": named(model).sha256}
    return {"base data": problem(model, bases[model]["task"]).data_hash} if model in bases else {}


def retrained(plan: Config, snapshots: int | None = None, *, scored: bool = True) -> Trained:
    """Train, whatever is cached, and keep nothing; ``scored`` as for `lfmlib.lab.train.train`."""
    with tempfile.TemporaryDirectory() as folder:
        return train(plan, progress=False, snapshots=snapshots, folder=folder, scored=scored)


def score(scores: dict[str, float]) -> float:
    """A training's held-out figure: accuracy, or for language the loss in nats per byte."""
    return scores.get("accuracy", scores["loss"] if "trivial_loss" in scores else math.nan)


def trivial(scores: dict[str, float]) -> float:
    """The score of the trivial baseline."""
    return scores.get("trivial_accuracy", scores.get("trivial_loss", math.nan))


def scored(scores: dict[str, float]) -> dict[str, float]:
    """What rows say of held-out data: the score of a training, and that of the trivial baseline."""
    return {"score": score(scores), "trivial": trivial(scores)}


def tolerances(groups: Mapping[str | tuple[str, ...], float | tuple[float, float]]) -> dict[str, dict[str, float]]:
    """The ``metrics`` and ``least`` of an `lfmlib.records.Experiment`, in one table.

    Args:
        groups: metric, or several alike → their relative tolerance; where it does not shrink with them, a pair of it
            and the size below which it shrinks no further. A size larger than all that occur compares absolutely.
    """
    metrics, least = {}, {}
    for names, tolerance in groups.items():
        relative, *size = tolerance if isinstance(tolerance, tuple) else (tolerance,)
        listed = (names,) if isinstance(names, str) else names
        metrics |= dict.fromkeys(listed, relative)
        least |= dict.fromkeys(listed, *size) if size else {}
    return {"metrics": metrics, "least": least}
