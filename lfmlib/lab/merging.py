"""Does amplifying outliers help editing? The experiment `editing`, behind finding F14.

Models tuned for several tasks from one base are merged (`lfmlib.editing`), head by head of their own. Its parts:

    tuned      the fine-tunes themselves: their scores, how large their ΔW are, and how alike
    merged     merges of a set of tasks, by every method, with amplification and without, and its controls
    negated    a task is forgotten: its ΔW is taken away from the base, and what the base could do is to stay

What is merged is every weight but the heads. What is free in a way of merging, the scale of ΔW and the factor of the
outliers, is chosen by the mean normalized score on validation data, from the same grid for every way; told is the
score on test data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from .. import editing, outliers
from ..hub import MINILM_SHA256
from ..records import Experiment
from ..records.experiment import brief
from . import finetuning, models
from .problems import problem
from .train import Config, train

SEEDS = 5
BASES = {"vit": finetuning.BASES["vit"], "decoder": finetuning.OTHERS["decoder"]}
"""How bases are trained, from narrow Gaussian starts; MiniLM is its own base."""
TUNED = {
    "vit": {"steps": 200, "batch": 64, "lr": 1e-3},
    "decoder": {"steps": 200, "batch": 8, "lr": 1e-3},
    "minilm": {"steps": 80, "batch": 16, "lr": 2e-4},
}
"""How they are tuned, all weights; rates as in `finetuning`."""
SETS = {
    "vit": (
        ("parity", "rotation"),
        ("large", "mirrored"),
        ("inverted", "large", "rotation"),
        ("large", "mirrored", "parity", "rotation"),
        ("inverted", "large", "mirrored", "parity", "rotation"),
    ),
    "decoder": (("headers", "prose"),),
    "minilm": (("kind", "library"),),
}
"""Tasks that are merged."""
DENSITY = {"ties": 0.2, "dare": 0.5, "dare_ties": 0.5}
"""Shares of ΔW that are kept: TIES as its authors have it."""
SCALES = (0.2, 0.3, 0.45, 0.7, 1.0, 1.5)
"""Of the merged ΔW. An average has none: it is one of these, and a sum with another is another method. NAN’s shares
are 1 in all, so they are multiplied by the number of tasks first."""
FACTORS = (1.25, 1.5, 2.0, 3.0)
"""Of the outliers."""
MOST = {"vit": 512, "decoder": 32, "minilm": 192}
"""Held-out examples that are looked at to choose; the test takes all, of MiniLM the `TOLD`."""
TOLD = {"minilm": 1024}
WIDE = 2.0
"""Standard deviations beyond which an arm amplifies all entries, outliers or not."""
KEPT = 0.95
"""Of its score, that the base is to keep when a task is forgotten."""
TOY = {"steps": 20, "toy": True}
QUICK = ("average", "ties")
"""Methods of toys."""
METRICS = {"score": 0.15, "normalized": 0.15, "valid": 0.15, "scale": math.inf, "factor": math.inf, "norm": 0.3,
           "alike": 0.5, "outliers": 0.5, "base": 0.2}  # fmt: skip
"""Relative tolerances; what was chosen is not compared, since neighbours on a grid may be as good."""
LEAST = {"score": 1.0, "normalized": 1.0, "valid": 1.0, "alike": 0.2, "outliers": 0.01, "norm": 1.0, "base": 1.0}


def experiment() -> Experiment:
    """Merges of the ViT, the decoder and MiniLM."""
    return Experiment(
        name="editing",
        cells=list(_cells()),
        run=run,
        metrics=METRICS,
        least=LEAST,
        version=1,
        description="what merging keeps of several fine-tunes, with outliers amplified and without",
        inputs=inputs,
        quick=[cell | TOY for cell in _cells() if cell["model"] == "vit" and _toy(cell)],
        alone=lambda cell: cell["part"] == "tuned" and cell["model"] == "vit",
    )


def _cells() -> Iterator[dict]:
    for seed in range(SEEDS):
        for model, sets in SETS.items():
            yield {"part": "tuned", "model": model, "seed": seed}
            for tasks in sets:
                yield {"part": "merged", "model": model, "tasks": "+".join(tasks), "seed": seed}
        for model in BASES:
            for task in _tasks(model):
                yield {"part": "negated", "model": model, "tasks": task, "seed": seed}


def _toy(cell: dict) -> bool:
    return cell["seed"] < 2 and cell.get("tasks", "parity") in ("parity", "parity+rotation")


def _tasks(model: str) -> list[str]:
    return sorted({task for tasks in SETS[model] for task in tasks})


def inputs(cell: dict) -> dict[str, str]:
    """Hash of the data that a base and its fine-tunes are trained on, and of MiniLM's weights."""
    model, tasks = cell["model"], cell["tasks"].split("+") if "tasks" in cell else _tasks(cell["model"])
    found = {task: problem(model, task).data_hash for task in tasks}
    if model in models.PRETRAINED:
        return found | {"base": MINILM_SHA256}
    return found | {"base data": problem(model, BASES[model]["task"]).data_hash}


class Family:
    """A base and what was tuned from it with one seed.

    Attributes:
        base: name → weight, of all that is merged.
        models: task → the tuned model, whose weights are replaced to ask it.
        deltas: task → name → ΔW.
        scores: task → the tuned model's test score.
    """

    def __init__(self, cell: dict, tasks: Sequence[str]):
        self.model, self.toy = cell["model"], cell.get("toy", False)
        settings = TUNED[self.model] | {name: cell[name] for name in ("steps",) if name in cell}
        self.models, self.deltas, states = {}, {}, {}
        for task in tasks:
            config = Config(self.model, task, seed=cell["seed"], **settings, **_origin(cell))
            self.models[task] = train(config, progress=False, snapshots=0).model
            states[task] = dict(self.models[task].named_parameters())
        self.original = _base(cell)
        start = {name: p.detach().clone() for name, p in self.original.named_parameters()}
        names = [name for name in start if not name.startswith("classifier.")]
        self.base = {name: start[name] for name in names}
        for task, state in states.items():
            self.deltas[task] = {name: state[name].detach() - start[name] for name in names}
        self.scores = {task: self.ask(task, self.deltas[task], "test") for task in tasks}

    @functools.cached_property
    def reaches(self) -> dict[str, list[float]]:
        """Name of a matrix → how far out the outliers of each ΔW lie (see `lfmlib.editing.reach`)."""
        return {
            name: [editing.reach(one[name], editing.cut(one[name])) for one in self.deltas.values()]
            for name, start in self.base.items()
            if start.dim() == 2
        }

    @torch.no_grad()
    def ask(self, task: str, delta: dict[str, torch.Tensor], side: str) -> float:
        """The score of a task with its own head on a base that ΔW is added to."""
        model = self.moved(self.models[task], delta)
        most = MOST[self.model] if side == "validation" or self.toy else TOLD.get(self.model)
        return problem(self.model, task).score(model, side, most)

    @torch.no_grad()
    def moved(self, model: nn.Module, delta: dict[str, torch.Tensor]) -> nn.Module:
        """A model with the weights of the base and ΔW, in place, but for its head."""
        parameters = dict(model.named_parameters())
        for name, start in self.base.items():
            parameters[name].copy_(start + delta[name])
        return model

    def normalized(self, delta: dict[str, torch.Tensor], side: str) -> dict[str, float]:
        """Task → its score over that of the model tuned for it alone."""
        return {task: self.ask(task, delta, side) / self.scores[task] for task in self.models}


def _origin(cell: dict) -> dict:
    if cell["model"] in models.PRETRAINED:
        return {"start": "library"}
    settings = BASES[cell["model"]] | ({"steps": 30} if cell.get("toy") else {})
    return {"base": Config(cell["model"], **settings, gain=finetuning.GAIN, seed=cell["seed"])}


def _base(cell: dict) -> nn.Module:
    """The base, with the head it was trained with."""
    if cell["model"] in models.PRETRAINED:
        return models.build(cell["model"], cell["seed"], 2).eval()
    return train(_origin(cell)["base"], progress=False).model


def run(cell: dict) -> list[dict]:
    """Rows of one cell, by its part.

    ``tuned``: by ``task``, the test ``score``, and that of the untuned base under the same head, ``base``; the ``norm``
    of ΔW over that of the base; and the largest cosine ``alike`` with the ΔW of another task.

    ``merged``: by ``method`` and ``arm`` (see `arms`), and ``task``: the ``normalized`` score on test data; with the
    first task the ``scale`` and ``factor`` that were chosen, their ``valid`` score, and the share ``outliers`` of the
    entries that were amplified.

    ``negated``: by ``arm``: the ``normalized`` score of the task, and what the ``base`` keeps of its own, at the
    ``scale`` that takes most from the task while the base keeps `KEPT` of its validation score.
    """
    tasks = cell["tasks"].split("+") if "tasks" in cell else _tasks(cell["model"])
    family = Family(cell, tasks)
    if cell["part"] == "tuned":
        return _tuned(family)
    if cell["part"] == "negated":
        return _negated(family, tasks[0], cell["seed"])
    return [
        row for method in (QUICK if family.toy else editing.METHODS) for row in _merged(family, method, cell["seed"])
    ]


def _tuned(family: Family) -> list[dict]:
    flat = {task: torch.cat([one.flatten() for one in some.values()]).double() for task, some in family.deltas.items()}
    size = norm(family.base)
    rows = []
    for task, delta in flat.items():
        alike = [float(delta @ other / delta.norm() / other.norm()) for name, other in flat.items() if name != task]
        nothing = {name: torch.zeros_like(one) for name, one in family.base.items()}
        rows.append({
            "task": task, "score": brief(family.scores[task]), "base": brief(family.ask(task, nothing, "test")),
            "norm": brief(float(delta.norm()) / size), "alike": brief(max(alike)),
        })  # fmt: skip
    return rows


Delta = dict[str, torch.Tensor]


class Merge:
    """A merged ΔW, and what can be done to it; everything is in the units of its scale 1.

    Args:
        family: whose ΔW are merged.
        method: one of `lfmlib.editing.METHODS`.
        seed: of what is random.
    """

    def __init__(self, family: Family, method: str, seed: int):
        self.family, deltas = family, list(family.deltas.values())
        shares = editing.shares([norm(some) for some in deltas])
        weights = [len(deltas) * one for one in shares] if method == "nan" else [1.0] * len(deltas)
        density = DENSITY.get(method, 1.0)
        self.plain: Delta = {
            name: editing.combine(
                [one[name] for one in deltas], method, weights, density=density, seed=f"{seed}/{name}"
            )
            for name in family.base
        }
        self.seed = seed

    @functools.cached_property
    def cuts(self) -> dict[str, float]:
        """Name of a matrix → magnitude beyond which there are outliers."""
        return {name: editing.cut(one) for name, one in self.plain.items() if one.dim() == 2}

    @functools.cached_property
    def masks(self) -> Delta:
        """Name of a matrix → where its outliers are."""
        return {name: self.plain[name].abs() > cut for name, cut in self.cuts.items()}

    @functools.cached_property
    def wide(self) -> Delta:
        """The same of all entries beyond `WIDE` standard deviations."""
        return {name: self.plain[name].abs() > WIDE * self.plain[name].std(correction=0) for name in self.cuts}

    @functools.cached_property
    def random(self) -> Delta:
        """The same of other entries, at random, of the same squared norm."""
        return {
            name: outliers.as_large(self.plain[name], mask, np.random.default_rng([self.seed, *name.encode()]))
            for name, mask in self.masks.items()
        }

    @functools.cached_property
    def restoring(self) -> dict[str, float]:
        """Name → the factor that needs no data."""
        return {
            name: editing.restoring(self.family.reaches[name], editing.reach(self.plain[name], cut))
            for name, cut in self.cuts.items()
        }

    def amplified(self, factor: float | dict[str, float], masks: Delta) -> Delta:
        """ΔW with some entries multiplied by a factor, or by one for each matrix."""
        changed = dict(self.plain)
        for name, mask in masks.items():
            by = factor[name] if isinstance(factor, dict) else factor
            changed[name] = torch.where(mask, by * changed[name], changed[name])
        return changed


def scaled(delta: Delta, scale: float) -> Delta:
    """ΔW times a number."""
    return {name: scale * one for name, one in delta.items()}


def norm(delta: Delta) -> float:
    """Of all of ΔW."""
    return math.sqrt(sum(one.double().square().sum().item() for one in delta.values()))


def arms(merge: Merge) -> dict[str, Callable[[float], Delta]]:
    """Ways to change a merged ΔW: name → the ΔW for a factor; NaN for those that have none.

    ``amplified`` are the outliers; ``wide``, everything beyond `WIDE` standard deviations; ``random`` a random set of
    the same squared norm as the outliers; ``auto`` the outliers, by `lfmlib.editing.restoring`; ``plain`` nothing.
    """
    return {
        "plain": lambda factor: merge.plain,
        "auto": lambda factor: merge.amplified(merge.restoring, merge.masks),
        "amplified": lambda factor: merge.amplified(factor, merge.masks),
        "wide": lambda factor: merge.amplified(factor, merge.wide),
        "random": lambda factor: merge.amplified(factor, merge.random),
    }


def _merged(family: Family, method: str, seed: int) -> list[dict]:
    merge = Merge(family, method, seed)
    scales = (1.0,) if method == "average" else SCALES
    rows, chosen = [], {}
    for arm, make in arms(merge).items():
        tried = {}
        for factor in FACTORS if arm not in ("plain", "auto") else (math.nan,):
            delta = make(factor)
            for scale in scales:
                found = family.normalized(scaled(delta, scale), "validation")
                tried[scale, factor] = float(np.mean(list(found.values())))
        scale, factor = max(tried, key=tried.get)
        chosen[arm] = scaled(make(factor), scale)
        about = {"scale": scale, "factor": brief(factor), "valid": brief(tried[scale, factor])}
        rows += _told(family, method, arm, chosen[arm], about)
    larger = scaled(merge.plain, norm(chosen["amplified"]) / norm(merge.plain))
    rows += _told(family, method, "as large as amplified", larger, {})
    for how in editing.PROJECTIONS:
        rows += _told(family, method, how, _projected(family, chosen["plain"], how), {})
    share = sum(int(mask.sum()) for mask in merge.masks.values()) / sum(mask.numel() for mask in merge.masks.values())
    rows[0]["outliers"] = brief(share)
    return rows


def _projected(family: Family, delta: Delta, how: str) -> Delta:
    """ΔW such that the matrices of base + ΔW are zero-mean, or symmetric."""
    start = family.base
    return {
        name: editing.projected(start[name] + one, how) - start[name] if one.dim() == 2 else one
        for name, one in delta.items()
    }


def _told(family: Family, method: str, arm: str, delta: Delta, about: dict) -> list[dict]:
    found = family.normalized(delta, "test")
    rows = [{"method": method, "arm": arm, "task": task, "normalized": brief(value)} for task, value in found.items()]
    rows[0] |= about
    return rows


def _negated(family: Family, task: str, seed: int) -> list[dict]:
    """Forget a task, with its outliers amplified, or a random set, and without."""
    merge, own = Merge(family, "task_arithmetic", seed), problem(family.model, BASES[family.model]["task"])
    most = MOST[family.model]

    def keeps(delta: Delta, side: str) -> float:
        return own.score(family.moved(family.original, delta), side, most if side == "validation" else None)

    nothing = scaled(merge.plain, 0.0)
    before = {side: keeps(nothing, side) for side in ("validation", "test")}
    rows = []
    for arm, make in arms(merge).items():
        if arm == "auto":  # of a single ΔW there is nothing to give back
            continue
        tried = {}
        for factor in FACTORS if arm != "plain" else (math.nan,):
            for scale in SCALES:
                delta = scaled(make(factor), -scale)
                if keeps(delta, "validation") >= KEPT * before["validation"]:
                    tried[scale, factor] = family.ask(task, delta, "validation")
        scale, factor = min(tried, key=tried.get) if tried else (0.0, math.nan)
        delta = scaled(make(1.0 if math.isnan(factor) else factor), -scale)
        rows.append({
            "arm": arm, "task": task, "normalized": brief(family.ask(task, delta, "test") / family.scores[task]),
            "base": brief(keeps(delta, "test") / before["test"]), "scale": scale, "factor": brief(factor),
        })  # fmt: skip
    return rows
