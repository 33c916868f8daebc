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
from collections.abc import Callable, Iterator

import numpy as np
import torch

from .. import editing, outliers
from ..records import Experiment
from ..records.experiment import brief
from . import siblings
from .problems import problem
from .siblings import BASES, MOST, Delta, Siblings, norm, scaled

SEEDS = 5
SETS = {
    "vit": (
        ("parity", "rotation"),
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
SCALES = {
    "vit": (0.2, 0.3, 0.45, 0.7, 1.0, 1.5),
    "decoder": (0.2, 0.3, 0.45, 0.7, 1.0, 1.5),
    "minilm": (0.4, 0.7, 1.2),
}
"""Of the merged ΔW. An average has none: it is one of these, and a sum with another is another method. NAN’s shares
are 1 in all, so they are multiplied by the number of tasks first."""
FACTORS = {"vit": (1.5, 2.0, 3.0), "decoder": (1.5, 2.0, 3.0), "minilm": (1.5, 3.0)}
"""Of the outliers; what is slow to ask is asked less often."""
WIDE = 2.0
"""Standard deviations beyond which an arm amplifies all entries, outliers or not."""
KEPT = 0.95
"""Of its score, that the base is to keep when a task is forgotten."""
TOY = {"steps": 20, "toy": True}
QUICK = ("average", "ties")
"""Methods of toys."""
METRICS = {"score": 0.15, "normalized": 0.15, "valid": 0.15, "scale": math.inf, "factor": math.inf, "norm": 0.3,
           "alike": 0.5, "outliers": 0.5, "energy": 0.5, "base": 0.2}  # fmt: skip
"""Relative tolerances; what was chosen is not compared, since neighbours on a grid may be as good."""
LEAST = {
    "score": 1.0,
    "normalized": 1.0,
    "valid": 1.0,
    "alike": 0.2,
    "outliers": 0.01,
    "energy": 0.1,
    "norm": 1.0,
    "base": 1.0,
}


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
        alone=alone,
    )


def _cells() -> Iterator[dict]:
    for seed in range(SEEDS):
        for model, sets in SETS.items():
            for task in _tasks(model):
                yield {"part": "tuned", "model": model, "tasks": task, "seed": seed}
            for tasks in sets:
                yield {"part": "merged", "model": model, "tasks": "+".join(tasks), "seed": seed}
        for model in BASES:
            for task in _tasks(model):
                yield {"part": "negated", "model": model, "tasks": task, "seed": seed}


def alone(cell: dict) -> bool:
    """Whether a cell is cheap though nothing is cached."""
    return cell["part"] == "tuned" and cell["model"] == "vit"


def _toy(cell: dict) -> bool:
    return cell["seed"] < 2 and cell["tasks"] in ("parity", "parity+rotation")


def _tasks(model: str) -> list[str]:
    return sorted({task for tasks in SETS[model] for task in tasks})


def inputs(cell: dict) -> dict[str, str]:
    """Hashes of what a cell starts from."""
    return siblings.inputs(cell["model"], cell["tasks"].split("+"))


def run(cell: dict) -> list[dict]:
    """Rows of one cell, by its part.

    ``tuned``: the test ``score`` of the one task, and that of the untuned base under the same head, ``base``; and the
    ``norm`` of ΔW over that of the base.

    ``merged``: by ``method`` and ``arm`` (see `arms`), and ``task``: the ``normalized`` score on test data; with the
    first task the ``scale`` and ``factor`` that were chosen (of ``auto`` the median over the matrices), their ``valid``
    score, and, in the plain arm, the share ``outliers`` of the entries of the matrices that are outliers, the share
    ``energy`` of the squared norm that is theirs, and the mean cosine ``alike`` of two ΔW.

    ``negated``: by ``arm``: the ``normalized`` score of the task, and what the ``base`` keeps of its own, at the
    ``scale`` that takes most from the task while the base keeps `KEPT` of its validation score.
    """
    family = Siblings(cell, cell["tasks"].split("+"))
    if cell["part"] == "tuned":
        return _tuned(family)
    if cell["part"] == "negated":
        return _negated(family, cell["tasks"], cell["seed"])
    methods = QUICK if family.toy else editing.METHODS
    return [row for method in methods for row in _merged(family, method, cell["seed"])]


def _tuned(family: Siblings) -> list[dict]:
    nothing = {name: torch.zeros_like(one) for name, one in family.base.items()}
    return [
        {
            "task": task,
            "score": brief(family.scores["test"][task]),
            "base": brief(family.ask(task, nothing, "test")),
            "norm": brief(norm(delta) / norm(family.base)),
        }
        for task, delta in family.deltas.items()
    ]


class Merge:
    """A merged ΔW, and what can be done to it; everything is in the units of its scale 1.

    Args:
        family: whose ΔW are merged.
        method: one of `lfmlib.editing.METHODS`.
        seed: of what is random.
    """

    def __init__(self, family: Siblings, method: str, seed: int):
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

    @property
    def given_back(self) -> float:
        """The median of these factors, over the matrices that have outliers; NaN where none has."""
        found = [self.restoring[name] for name, mask in self.masks.items() if mask.any()]
        return float(np.median(found)) if found else math.nan

    @property
    def share(self) -> float:
        """Of the entries of the matrices, those that are outliers."""
        return sum(int(mask.sum()) for mask in self.masks.values()) / sum(mask.numel() for mask in self.masks.values())

    @property
    def energy(self) -> float:
        """The share of the squared norm of the matrices that is theirs."""
        outer, whole = (
            norm({name: self.plain[name][mask] if far else self.plain[name] for name, mask in self.masks.items()})
            for far in (True, False)
        )
        return (outer / whole) ** 2 if whole else 0.0

    def amplified(self, factor: float | dict[str, float], masks: Delta) -> Delta:
        """ΔW with some entries multiplied by a factor, or by one for each matrix."""
        changed = dict(self.plain)
        for name, mask in masks.items():
            by = factor[name] if isinstance(factor, dict) else factor
            changed[name] = torch.where(mask, by * changed[name], changed[name])
        return changed


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


def _merged(family: Siblings, method: str, seed: int) -> list[dict]:
    merge = Merge(family, method, seed)
    scales = (1.0,) if method == "average" else SCALES[family.model]
    rows, chosen = [], {}
    for arm, make in arms(merge).items():
        tried = {}
        for factor in FACTORS[family.model] if arm not in ("plain", "auto") else (math.nan,):
            delta = make(factor)
            for scale in scales:
                found = family.normalized(scaled(delta, scale), "validation")
                tried[scale, factor] = float(np.mean(list(found.values())))
        scale, factor = max(tried, key=tried.get)
        chosen[arm] = scaled(make(factor), scale)
        used = merge.given_back if arm == "auto" else factor
        about = {"scale": scale, "factor": brief(used), "valid": brief(tried[scale, factor])}
        rows += _told(family, method, arm, chosen[arm], about)
    larger = scaled(merge.plain, norm(chosen["amplified"]) / norm(merge.plain))
    rows += _told(family, method, "as large as amplified", larger, {})
    for how in editing.PROJECTIONS:
        rows += _told(family, method, how, _projected(family, chosen["plain"], how), {})
    rows[0] |= {"outliers": brief(merge.share), "energy": brief(merge.energy), "alike": brief(family.alike)}
    return rows


def _projected(family: Siblings, delta: Delta, how: str) -> Delta:
    """ΔW such that the matrices of base + ΔW are zero-mean, or symmetric."""
    start = family.base
    return {
        name: editing.projected(start[name] + one, how) - start[name] if one.dim() == 2 else one
        for name, one in delta.items()
    }


def _told(family: Siblings, method: str, arm: str, delta: Delta, about: dict) -> list[dict]:
    found = family.normalized(delta, "test")
    rows = [{"method": method, "arm": arm, "task": task, "normalized": brief(value)} for task, value in found.items()]
    rows[0] |= about
    return rows


def _negated(family: Siblings, task: str, seed: int) -> list[dict]:
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
        for factor in FACTORS[family.model] if arm != "plain" else (math.nan,):
            for scale in SCALES[family.model]:
                delta = scaled(make(factor), -scale)
                if keeps(delta, "validation") >= KEPT * before["validation"]:
                    tried[scale, factor] = family.ask(task, delta, "validation")
        scale, factor = min(tried, key=tried.get) if tried else (0.0, math.nan)
        delta = scaled(make(1.0 if math.isnan(factor) else factor), -scale)
        rows.append({
            "arm": arm, "task": task, "normalized": brief(family.normalized(delta, "test")[task]),
            "base": brief(keeps(delta, "test") / before["test"]), "scale": scale, "factor": brief(factor),
        })  # fmt: skip
    return rows
