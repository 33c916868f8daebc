"""Does amplifying outliers help editing? The experiment `editing`, behind finding F14.

Models tuned for several tasks from one base are merged (`lfmlib.merging.methods`). Its parts:

    tuned      the fine-tunes themselves: their scores, how large their ΔW are, and how alike
    merged     merges of a set of tasks, by every method, with amplification and without, and its controls
    negated    a task is forgotten: its ΔW is taken away from the base, and what the base could do is to stay

What is merged is every weight but heads for classes: each task keeps its own. What is free in a way of merging, the
scale of ΔW and the factor of the outliers, is chosen by the mean normalized score on validation data, from the same
grid for every way; told is the score on test data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..findings import METHOD_NAMES
from ..lab import models, smollm
from ..lab.problems import problem
from ..merging import methods as editing
from ..records import Experiment
from ..records.experiment import brief
from . import fine_tunes
from .amplifying import Merge, arms
from .fine_tunes import BASES, CHOSEN_ON, Delta, Siblings, norm, scaled
from .finetuning import LARGE_SEEDS
from .trainings import tolerances

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
    smollm.NAME: (("code", "docstrings", "english"),),
}
"""Sets of tasks whose fine-tunes are merged."""
SCALES = {
    "vit": (0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.1, 1.6),
    "decoder": (0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.1, 1.6),
    "minilm": (0.4, 0.7, 1.2, 2.0),
    smollm.NAME: (0.4, 0.7, 1.2, 2.0),
}
"""Scales of a merged ΔW that are tried. An average has none: it is the sum at 1/n, and with another scale no average.
NAN’s shares are 1 in all, so they are multiplied by the number of tasks first."""
FACTORS = (1.5, 3.0)
"""Factors that outliers are amplified by."""
SLOW_ARMS = ("wide", *editing.PROJECTIONS)
"""Arms that published models, which are slow to ask, are not asked about."""
ONE_BY_ONE = {smollm.NAME: ("average", "task_arithmetic", "ties", "dare_ties")}
"""Methods that a model is merged by in a cell each. Two are left out of SmolLM2, for time: DARE, for which DARE-TIES
stands, and NAN, nearly task arithmetic where ΔW have nearly the same norm."""
MIN_KEPT = 0.95
"""Share of its own score that the base is to keep when a task is forgotten, at least."""
TOY = {"steps": 20, "toy": True}
TOY_METHODS = ("average", "ties")
"""Ways of merging that toy cells try."""
TOLERANCES = tolerances({
    ("score", "normalized", "valid"): (0.15, 1.0),
    "base": (0.2, 1.0), "norm": (0.3, 1.0), "alike": (0.5, 0.2), "outliers": (0.5, 0.01), "energy": (0.5, 0.1),
    ("scale", "factor"): math.inf,
})  # fmt: skip
"""Wide, as in `initialization`; what was chosen is not compared, since neighbours on a grid may be as good."""


def experiment() -> Experiment:
    """Merges of SmolLM2, MiniLM, the decoder and the ViT."""
    return Experiment(
        name="editing",
        cells=list(_cells()),
        run=run,
        **TOLERANCES,
        version=1,
        description="what merging keeps of several fine-tunes, with outliers amplified and without",
        inputs=inputs,
        quick=[cell | TOY for cell in _cells() if cell["model"] == "vit" and _toy(cell)],
        alone=alone,
    )


def _cells() -> Iterator[dict]:
    for seed in range(SEEDS):
        for model, sets in SETS.items():
            if model == smollm.NAME and seed >= LARGE_SEEDS:
                continue
            for task in _tasks(model):
                yield {"part": "tuned", "model": model, "tasks": task, "seed": seed}
            for tasks in sets:
                whole = {"part": "merged", "model": model, "tasks": "+".join(tasks), "seed": seed}
                yield from [whole | {"method": method} for method in ONE_BY_ONE.get(model, ())] or [whole]
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
    return fine_tunes.inputs(cell["model"], cell["tasks"].split("+"))


def run(cell: dict) -> list[dict]:
    """Rows of one cell, by its part.

    ``tuned``: the test ``score`` of the one task, and that of the untuned base under the same head, ``base``; and the
    ``norm`` of ΔW over that of the base.

    ``merged``: by ``method`` and ``arm`` (see `arms`), and ``task``: the ``normalized`` score on test data; with the
    first task the ``scale`` and ``factor`` that were chosen (of ``auto`` the median over the matrices), their ``valid``
    score, and, in the plain arm, the share ``outliers`` of the entries of the matrices that are outliers, the share
    ``energy`` of the squared norm that is theirs, and the mean cosine ``alike`` of two ΔW.

    ``negated``: by ``arm``: the ``normalized`` score of the task, and what the ``base`` keeps of its own, at the
    ``scale`` that takes most from the task while the base keeps `MIN_KEPT` of its validation score.
    """
    family = Siblings(cell, cell["tasks"].split("+"), anew=cell["part"] == "tuned")
    if cell["part"] == "tuned":
        return _tuned(family)
    if cell["part"] == "negated":
        return _negated(family, cell["tasks"], cell["seed"])
    methods = TOY_METHODS if family.toy else [cell["method"]] if "method" in cell else METHOD_NAMES
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


def grid(family: Siblings) -> tuple[Sequence[float], Sequence[float]]:
    """Scales and factors that are tried; of toys a few."""
    few = slice(None, None, 3 if family.toy else 1)
    return SCALES[family.model][few], FACTORS[few]


def _merged(family: Siblings, method: str, seed: int) -> list[dict]:
    merge = Merge(family, method, seed)
    scales, factors = grid(family)
    scales = (1.0,) if method == "average" else scales
    left_out = SLOW_ARMS if family.model in models.PRETRAINED else ()
    rows, chosen, told = [], {}, {}
    for arm, make in arms(merge).items():
        if arm in left_out:
            continue
        if arm == "auto" and set(merge.restoring.values()) <= {1.0}:  # nothing to give back: it is the plain merge
            about, told[arm] = rows[0], told["plain"]
            about = {"scale": about["scale"], "factor": brief(merge.given_back), "valid": about["valid"]}
            rows += _rows(method, arm, told[arm], about)
            continue
        tried = {}
        for factor in factors if arm not in ("plain", "auto") else (math.nan,):
            delta = make(factor)
            for scale in scales:
                found = family.normalized(scaled(delta, scale), "validation")
                tried[scale, factor] = float(np.mean(list(found.values())))
        scale, factor = max(tried, key=tried.get)
        chosen[arm] = scaled(make(factor), scale)
        used = merge.given_back if arm == "auto" else factor
        about = {"scale": scale, "factor": brief(used), "valid": brief(tried[scale, factor])}
        told[arm] = family.normalized(chosen[arm], "test")
        rows += _rows(method, arm, told[arm], about)
    others = {"as large as amplified": scaled(merge.plain, norm(chosen["amplified"]) / norm(merge.plain))}
    others |= {how: _projected(family, chosen["plain"], how) for how in editing.PROJECTIONS if how not in left_out}
    for arm, delta in others.items():
        rows += _rows(method, arm, family.normalized(delta, "test"), {})
    rows[0] |= {"outliers": brief(merge.share), "energy": brief(merge.energy), "alike": brief(family.alike)}
    return rows


def _projected(family: Siblings, delta: Delta, how: str) -> Delta:
    """ΔW such that the matrices of base + ΔW are zero-mean, or symmetric."""
    start = family.base
    return {
        name: editing.projected(start[name] + one, how) - start[name] if one.dim() == 2 else one
        for name, one in delta.items()
    }


def _rows(method: str, arm: str, found: dict[str, float], about: dict) -> list[dict]:
    rows = [{"method": method, "arm": arm, "task": task, "normalized": brief(value)} for task, value in found.items()]
    rows[0] |= about
    return rows


def _negated(family: Siblings, task: str, seed: int) -> list[dict]:
    """Forget a task, with its outliers amplified, or a random set, and without."""
    merge, own = Merge(family, "task_arithmetic", seed), problem(family.model, BASES[family.model]["task"])
    most, (scales, factors) = CHOSEN_ON[family.model], grid(family)

    def keeps(delta: Delta, side: str) -> float:
        return own.score(family.moved(family.original, delta), side, most if side == "validation" else None)

    nothing = scaled(merge.plain, 0.0)
    before = {side: keeps(nothing, side) for side in ("validation", "test")}
    rows = []
    for arm, make in arms(merge).items():
        if arm == "auto":  # of a single ΔW there is nothing to give back
            continue
        tried = {}
        for factor in factors if arm != "plain" else (math.nan,):
            for scale in scales:
                delta = scaled(make(factor), -scale)
                if keeps(delta, "validation") >= MIN_KEPT * before["validation"]:
                    tried[scale, factor] = family.ask(task, delta, "validation")
        scale, factor = min(tried, key=tried.get) if tried else (0.0, math.nan)
        delta = scaled(make(1.0 if math.isnan(factor) else factor), -scale)
        rows.append({
            "arm": arm, "task": task, "normalized": brief(family.normalized(delta, "test")[task]),
            "base": brief(keeps(delta, "test") / before["test"]), "scale": scale, "factor": brief(factor),
        })  # fmt: skip
    return rows
