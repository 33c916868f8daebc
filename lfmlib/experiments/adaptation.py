"""Do noise-built adapters help? The experiments `rates` and `adaptation`, behind finding F13.

`rates` tunes: every method of a task with the same grid of learning rates, one seed that is used nowhere else, judged
by the loss on validation data. `adaptation` trains with the rates that won, `RATES`, five seeds, judged on test
data. Its parts:

    methods    everything with as many trained parameters as LoRA of rank 1, on every task; and full fine-tuning
    variants   of the noise-built adapter: other noise, scales that grow with depth; noise on the base, with LoRA too
    budgets    4 and 16 times the parameters, on one task

SmolLM2, a step of which takes ten core-seconds, has LoRA and adapters built from noise, at the rates that `derived`
tuned, each on its grid, and full fine-tuning of fewer seeds; and the trainings that it shares with `derived` and
`finetuning` are made once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from torch import nn

from ..lab import smollm
from ..lab.adapters import DEEPER, NOISE_BUILT
from ..lab.costs import costs
from ..lab.problems import problem
from ..lab.train import Config, start_of
from ..records import Experiment
from ..records.experiment import brief
from . import finetuning, stand_ins, trainings
from .trainings import inputs, origin, retrained, tolerances

LARGE = {"docstrings": {"model": smollm.NAME, **finetuning.LARGE[smollm.NAME]}}
"""What a language model that people use learns: the docstrings of CPython, token by token, as in `derived`."""
TASKS = LARGE | {
    "kind": {"model": "minilm", "task": "kind", "steps": 60, "batch": 16},
    "prose": {"model": "decoder", "task": "prose", "steps": 100, "batch": 8},
    "headers": {"model": "decoder", "task": "headers", "steps": 100, "batch": 8},
    "rotation": {"model": "vit", "task": "rotation", "steps": 200, "batch": 64},
    "mirrored": {"model": "vit", "task": "mirrored", "steps": 200, "batch": 64},
    "turned pairs": {"model": "clip", "task": "turned pairs", "steps": 120, "batch": 32},
}
"""What is learned: two tasks of published models; two of language, two of vision, one of both, of the lab's."""
BASES = finetuning.BASES | finetuning.ONLY_PRETRAINED
"""How the lab’s bases are trained."""
METHODS = ("lora", "dora", "vera", "randlora", "noise-gaussian")
"""Adapters that are compared, each with as many trained parameters as LoRA (DoRA: and the lengths of rows)."""
VARIANTS = {
    "noise-uniform": {"adapter": "noise-uniform"},
    "noise-signs": {"adapter": "noise-signs"},
    DEEPER: {"adapter": DEEPER},
    "noise-gaussian, σ raised": {"adapter": "noise-gaussian", "jitter": 0.1},
    "lora, σ raised": {"adapter": "lora", "jitter": 0.1},
}
"""Variant → its adapter, and the noise put on the base, in std(W₀); it has the learning rate of what it varies."""
VARIED = (*LARGE, "prose", "rotation", "turned pairs")
"""Tasks on which variants are tried."""
BUDGETS, BUDGET_TASK = (1, 4, 16), "rotation"
"""Trained parameters, in units of LoRA’s at rank 1, and the task on which all are tried."""
BUDGET_METHODS = ("lora", "dora", "randlora", "noise-gaussian")
"""Methods that are tried at all budgets: VeRA’s factors would be wider than the model by far."""
GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Learning rates that are tried, the same of every method."""
GRIDS = {"minilm": (1e-4, *GRID[:-1])}
"""Models with another grid: MiniLM is larger than the lab’s models, and its weights stand smaller changes."""
TUNING_SEED, SEEDS = 90, 5
"""The seed that rates are tuned with, which is used nowhere else, and how many seeds are judged."""
VALIDATION_ITEMS = {"minilm": 256}
"""Validation examples that a rate is chosen on, at most and evenly chosen, where it is not all: 187 of MiniLM’s 561."""
HEAD_RATES = {"kind": 1e-2, "rotation": 1e-1, "mirrored": 3e-2}
"""Task → learning rate of the head beside every adapter, and under full fine-tuning: found beforehand, on heads alone.
For "mirrored" the record `rates` has a slightly better one."""
_LARGE = stand_ins.RATES[smollm.NAME]
RATES: dict[str, dict[str, float]] = {
    "docstrings": {
        "lora": _LARGE["lora"][1],
        "noise-gaussian": _LARGE["noise"][1],
        "full": finetuning.FULL_RATES[smollm.NAME],
    },
    "kind": {
        "head": 0.01,
        "lora": 0.003,
        "dora": 0.003,
        "vera": 0.1,
        "randlora": 0.001,
        "noise-gaussian": 0.1,
        "full": 0.0003,
    },
    "prose": {"lora": 0.03, "dora": 0.03, "vera": 0.1, "randlora": 0.003, "noise-gaussian": 0.1, "full": 0.003},
    "headers": {"lora": 0.03, "dora": 0.03, "vera": 0.1, "randlora": 0.003, "noise-gaussian": 0.1, "full": 0.003},
    "rotation": {
        "head": 0.1,
        "lora": 0.01,
        "dora": 0.003,
        "vera": 0.1,
        "randlora": 0.001,
        "noise-gaussian": 0.1,
        "full": 0.001,
        "lora 4": 0.003,
        "dora 4": 0.01,
        "randlora 4": 0.003,
        "noise-gaussian 4": 0.03,
        "lora 16": 0.003,
        "dora 16": 0.003,
        "randlora 16": 0.001,
        "noise-gaussian 16": 0.01,
    },
    "mirrored": {
        "head": 0.3,
        "lora": 0.003,
        "dora": 0.01,
        "vera": 0.1,
        "randlora": 0.001,
        "noise-gaussian": 0.1,
        "full": 0.001,
    },
    "turned pairs": {"lora": 0.01, "dora": 0.01, "vera": 0.1, "randlora": 0.003, "noise-gaussian": 0.1, "full": 0.003},
}
"""Task → method (and budget, if it is not 1) → the rate that won; see the record `rates`, and for `LARGE` the part
`tuning` of the record `derived`."""
TOY = {"steps": 8, "batch": finetuning.TOY_BATCH, "toy": True}
TOLERANCES = tolerances({
    ("accuracy", "loss"): (0.15, 1.0),
    "parameters": 1e-9, "stored": 0.05, "held": 0.3, "step_seconds": math.inf,
})  # fmt: skip
NARROWER = {
    "vit": {"accuracy": 0.08, "loss": 0.12},
    "decoder": {"accuracy": 0.01, "loss": 0.01},
    "minilm": {"accuracy": 0.01, "loss": 0.01},
}
"""Tolerances of models; those of `TOLERANCES` are CLIP’s.

They are about three times the root mean square (of CLIP’s loss less, as they were before) of what trainings differed by
between an AMD EPYC, which recorded them, and an Intel Xeon with AVX-512, from the bases on and by the same code, at
rates up to the one that won. In points of
accuracy, and in loss, relative where it is above 1 (root mean square, largest):

    CLIP, 8 trainings       4.9, 8.2      0.062, 0.103
    ViT, 26                 2.4, 4.6      0.040, 0.092
    decoder, 7              0.2, 0.4      0.002, 0.004
    MiniLM, 4               0, 0          0, 0

MiniLM, which has no base to train, came out equal to five digits, and has the decoder’s: other processors may differ.
To another processor a ViT or a CLIP is another training: no single one tells methods apart, five seeds, paired, can. At
larger rates than the one that won trainings come apart, and the tolerances do not hold across processors: of 16, four
differed by more, one of the ViT by 14.9 points. So none of them is drawn to be measured again.
"""


def rates() -> Experiment:
    """The tuning of learning rates."""
    return Experiment(
        name="rates",
        cells=list(_tuning()),
        run=run,
        **TOLERANCES,
        version=1,
        description="learning rates of adapters, head and full fine-tuning, by validation loss",
        inputs=partial(inputs, bases=BASES),
        quick=[cell | TOY for cell in _tuning() if _toy(cell) and cell["lr"] in (3e-3, 3e-2)],
        alone=steady,
        repeated=adapts,
        narrower=NARROWER,
    )


def adaptation() -> Experiment:
    """Adapters beside full fine-tuning and the head alone, with tuned rates."""
    return Experiment(
        name="adaptation",
        cells=list(_judging()),
        run=run,
        **TOLERANCES,
        version=1,
        description="what adapters make of seven tasks, noise-built ones among them, at equal trained parameters",
        inputs=partial(inputs, bases=BASES),
        quick=[cell | TOY for cell in _judging() if _toy(cell)],
        alone=alone,
        repeated=adapts,
        narrower=NARROWER,
    )


def methods_of(task: str) -> tuple[str, ...]:
    """What is tried on a task at the first budget: models without a head for classes are compared with their base."""
    adapters = ("lora", "noise-gaussian") if task in LARGE else METHODS
    return ("head" if _has_head(task) else "none", *adapters, "full")


def variants_of(task: str) -> tuple[str, ...]:
    """Which `VARIANTS` are tried on a task, if any: of `LARGE` those of the noise-built adapter."""
    tried = VARIANTS if task in VARIED else ()
    return tuple(name for name in tried if task not in LARGE or VARIANTS[name]["adapter"] != "lora")


def best(record, task: str, method: str, budget: int = 1) -> float:
    """The rate with the smallest validation loss, of the record `rates`."""
    rows = record[(record["task"] == task) & (record["method"] == method) & (record["budget"] == budget)]
    return float(rows.loc[rows["loss"].idxmin(), "lr"])


def _has_head(task: str) -> bool:
    return TASKS[task]["model"] in ("minilm", "vit")


def _tuning() -> Iterator[dict]:
    for task in TASKS:
        for method in methods_of(task):
            if method != "none" and task not in LARGE:
                for lr in GRIDS.get(TASKS[task]["model"], GRID):
                    yield _cell("methods", task, method, 1, TUNING_SEED, lr)
    for budget in BUDGETS[1:]:
        for method in BUDGET_METHODS:
            for lr in GRID:
                yield _cell("budgets", BUDGET_TASK, method, budget, TUNING_SEED, lr)


def _judging() -> Iterator[dict]:
    for tasks in (LARGE, [task for task in TASKS if task not in LARGE]):
        for seed in range(SEEDS):
            for task in tasks:
                for method in methods_of(task):
                    if method != "full" or task not in LARGE or seed < finetuning.LARGE_SEEDS:
                        yield _cell("methods", task, method, 1, seed)
            for task in tasks:
                for variant in variants_of(task):
                    yield _cell("variants", task, variant, 1, seed)
            for budget in BUDGETS[1:]:
                for method in BUDGET_METHODS if BUDGET_TASK in tasks else ():
                    yield _cell("budgets", BUDGET_TASK, method, budget, seed)


def _cell(part: str, task: str, method: str, budget: int, seed: int, lr: float | None = None) -> dict:
    """Settings of a training; the head has the same rate whatever the adapter, and one of its own alone."""
    change = VARIANTS.get(method, {})
    adapter = change.get("adapter", "" if method in ("full", "none") else method)
    plain = "noise-gaussian" if adapter.startswith("noise") else method.partition(",")[0]
    if lr is None:
        lr = 0.0 if method == "none" else RATES[task][plain if budget == 1 else f"{plain} {budget}"]
    head_lr = HEAD_RATES.get(task, 0.0) if method != "head" else 0.0
    return {
        "part": part, **TASKS[task], "method": method, "adapter": adapter, "budget": budget,
        "lr": lr, "head_lr": head_lr, "jitter": change.get("jitter", 0.0), "seed": seed,
    }  # fmt: skip


def _toy(cell: dict) -> bool:
    few = ("head", "lora", "noise-gaussian", "noise-gaussian, σ raised", "full")
    return cell["task"] == BUDGET_TASK and cell["method"] in few and (cell["seed"] == TUNING_SEED or cell["seed"] < 2)


def alone(cell: dict) -> bool:
    """Whether a cell needs no base that takes minutes."""
    return cell["model"] == "vit"


def steady(cell: dict) -> bool:
    """Whether a cell of the tuning needs no base that takes minutes, and has no larger rate than the one that won."""
    return alone(cell) and cell["lr"] <= _won(cell)


def adapts(cell: dict) -> bool:
    """Whether a cell trains an adapter, at the rate that won, and needs no base that takes minutes."""
    return alone(cell) and cell["method"] in METHODS and cell["lr"] == _won(cell)


def _won(cell: dict) -> float:
    budget = "" if cell["budget"] == 1 else f" {cell['budget']}"
    return RATES[cell["task"]][f"{cell['method']}{budget}"]


def config(cell: dict) -> Config:
    """What a cell trains."""
    rank = 0 if cell["adapter"] in ("", "head") else cell["budget"]
    start = origin(cell, BASES, **({"steps": 30} if cell.get("toy") else {}))
    return trainings.config(cell, weight_decay=finetuning.DECAY, rank=rank, **start)


def run(cell: dict) -> list[dict]:
    """Train as the cell says; one row: ``accuracy`` and ``loss`` in nats, on validation data where rates are tuned and
    on test data otherwise, and what `lfmlib.lab.costs` says of the training. A training that diverges has no accuracy
    and no loss.

    A row of `LARGE` says of how many ``answers`` that is, so that who reads the record need not have the model; and
    only the first seed what a training costs, since others cost the same.
    """
    plan, side = config(cell), "validation" if cell["seed"] == TUNING_SEED else "test"
    task, most = problem(plan.model, plan.task), VALIDATION_ITEMS.get(plan.model) if side == "validation" else None
    about = {"answers": task.count(side)} if cell["task"] in LARGE else {}
    if cell["method"] == "none":
        return [_figures(task.figures(start_of(plan).eval(), side, most)) | about | {"parameters": 0, "stored": 0}]
    try:
        found = _figures(task.figures(_trained(cell, plan), side, most))
    except FloatingPointError:
        found = {"accuracy": None, "loss": None}
    return [found | about | ({} if about and cell["seed"] else costs(plan))]


def _trained(cell: dict, plan: Config) -> nn.Module:
    """The model after a training anew; of `LARGE` once for all experiments that have it."""
    of_others = cell["adapter"] in ("", "lora", *NOISE_BUILT) and not cell["jitter"]
    if cell["task"] in LARGE and of_others and cell["seed"] < finetuning.LARGE_SEEDS:
        return finetuning.trained(plan).model
    return retrained(plan, snapshots=0, scored=False).model


def _figures(found: dict[str, float]) -> dict[str, float]:
    return {name: brief(found[name]) for name in ("accuracy", "loss")}
