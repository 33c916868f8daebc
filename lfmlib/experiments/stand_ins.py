"""Can ΔW be made from noise? The experiment `derived`, behind finding F5.

Its parts, from the bases of `lfmlib.experiments.finetuning`:

    tuning    learning rates of the adapters of published models, on validation data
    built     adapters whose ΔW is frozen noise with learned scales (Gaussian, uniform, signs), and LoRA with as many
              trained parameters; the floor is the head alone, or for the decoder, which has none, the base as it is
    stand-in  full fine-tuning, and then ΔW replaced by what keeps some of it (`lfmlib.deltas.stand_ins.STAND_INS`); all
              else, the head with it, stays as it was trained
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from .. import findings
from ..deltas.stand_ins import STAND_INS, stand_in
from ..distribution.distances import qq_r2
from ..lab import smollm
from ..lab.adapters import NOISE_BUILT
from ..lab.problems import problem
from ..lab.train import Config, start_of
from ..lab.tuning import body
from ..records import Experiment
from ..records.experiment import brief
from . import finetuning
from .trainings import inputs, score, scored, tolerances

TASKS = finetuning.LARGE | finetuning.TASKS | {"minilm": {"task": "kind", "steps": 120, "batch": 16}}
"""What is learned: as in `finetuning`, but of MiniLM a task on which a short run gains more over the head alone."""
RATES = {
    smollm.NAME: {"lora": {1: 1e-2}, "noise": {1: 3e-2}},
    "minilm": {"head": 1e-2, "lora": {1: 3e-3}, "noise": {1: 3e-2}},
    "deep-decoder": {"lora": {1: 3e-2, 4: 1e-2}, "noise": {1: 1e-1, 4: 1e-1}},
    "vit": {"head": 1e-1, "lora": {1: 1e-2, 4: 3e-3}, "noise": {1: 1e-1, 4: 3e-2}},
}
"""Learning rates by held-out loss of seed 90, both kinds of adapter on the same grid (see the Methods page), by the
rank of LoRA or the number of random matrices, which train as many parameters; uniform noise and signs take the rates
of Gaussian noise. Whatever the adapter, the head has the rate that is best for it alone. The adapters of MiniLM and
SmolLM2 have those of the part `tuning`."""
TUNING = {
    smollm.NAME: {"lora": (1e-3, 3e-3, 1e-2, 3e-2), "noise-gaussian": (1e-2, 3e-2, 1e-1)},
    "minilm": {"lora": (1e-3, 3e-3, 1e-2), "noise-gaussian": (1e-2, 3e-2, 1e-1)},
}
"""Rates that adapters are tried with, on validation data."""
TUNING_SEEDS = {smollm.NAME: (90,), "minilm": (90, 91)}
"""Seeds that rates are tuned with, and that nothing else has."""
FLOOR = {smollm.NAME: "none", "minilm": "head", "vit": "head", "deep-decoder": "none"}
"""What gains are counted from: the head alone, or where there is none the base as it is."""
SEEDS = dict.fromkeys(TASKS, 5) | dict.fromkeys(finetuning.LARGE, finetuning.LARGE_SEEDS)
"""Seeds of every kind of cell, by model."""
MORE_SEEDS = {"minilm": 12}
"""Seeds of a model's floor, LoRA and Gaussian noise, whose gains five do not tell apart."""
HELD_OUT_ITEMS = {smollm.NAME: 16}
"""Held-out examples that a stand-in is judged on, at most; of other models `MOST_ITEMS`."""
MOST_ITEMS = 1024
TOLERANCES = tolerances({
    ("score", "whole", "loss"): (0.15, 1.0),
    "normal_share": (0.3, 1.0), "misfit": (1.0, 0.005), "size": 0.3,
    ("trivial", "parameters"): 1e-9,
})  # fmt: skip
"""Wide: another processor trains another model, as in `initialization`."""


def experiment() -> Experiment:
    """Adapters built from noise beside LoRA; and fine-tunes whose ΔW is replaced."""
    return Experiment(
        name="derived",
        cells=list(_cells()),
        run=run,
        **TOLERANCES,
        version=1,
        description="adapters built from frozen noise beside LoRA, and fine-tunes with stand-ins for ΔW",
        inputs=partial(inputs, bases=finetuning.BASES),
        quick=list(_toys()),
        alone=finetuning.alone,
    )


def _cells() -> Iterator[dict]:
    for model, adapters in TUNING.items():
        for adapter, rates in adapters.items():
            for seed in TUNING_SEEDS[model]:
                for lr in rates:
                    yield _cell("tuning", model, seed, adapter, 1) | {"lr": lr}
    for model, seeds in SEEDS.items():
        for seed in range(MORE_SEEDS.get(model, seeds)):
            yield _cell("built", model, seed, FLOOR[model], 0)
            for rank in RATES[model]["lora"]:
                for adapter in ("lora", *(NOISE_BUILT if rank == 1 and seed < seeds else NOISE_BUILT[:1])):
                    yield _cell("built", model, seed, adapter, rank)
            if seed < seeds:
                yield _cell("stand-in", model, seed, "", 0)


def _cell(part: str, model: str, seed: int, adapter: str, rank: int) -> dict:
    rates = RATES[model] | {"none": 0.0, "": finetuning.FULL_RATES[model]}
    lr = rates["noise" if adapter in NOISE_BUILT else adapter]
    lr = lr[rank] if rank else lr
    settings = TASKS[model] | {
        "lr": lr,
        "weight_decay": finetuning.DECAY,
        "head_lr": rates.get("head", 0.0) if rank else 0.0,
    }
    return {"part": part, "model": model, **settings, "adapter": adapter, "rank": rank, "seed": seed}


def _toys() -> Iterator[dict]:
    """A few steps of the decoder, at two seeds: after so few, the ViT has learned nothing to take shares of."""
    for cell in _cells():
        if cell["model"] == "deep-decoder" and cell["seed"] < 2 and cell["rank"] < 2:
            yield cell | {"steps": 8, "batch": finetuning.TOY_BATCH}


def run(cell: dict) -> list[dict]:
    """Train as the cell says.

    For `built` and `tuning` one row: ``score`` (accuracy; for the decoder the loss) and ``loss`` in nats on held-out
    data, of `tuning` on validation data; for `built` also ``trivial``, the baseline's score, and the number of trained
    ``parameters``. For `stand-in` a row for each ``kind``: score and loss; ``normal_share``, the share of the
    parameters of judged matrices whose (stand-in for) ΔW has an R² of at least 0.99; ``misfit``, the median of 1 - R²
    over them; ``size``, that of RMS(ΔW) / std(W₀); the first row has in ``whole`` the score on all held-out data.
    """
    untouched = cell["adapter"] == "none"
    config = finetuning.plan(cell | ({"adapter": ""} if untouched else {}))
    task = problem(config.model, config.task)
    if untouched:
        return [_scores(task.evaluate(start_of(config).eval())) | {"parameters": 0}]
    trained = finetuning.fine_tuned(cell)
    if cell["part"] == "tuning":
        found = task.figures(trained.model, "validation", HELD_OUT_ITEMS.get(config.model))
        return [{"score": brief(found["accuracy"]), "loss": brief(found["loss"])}]
    if cell["part"] == "built":
        count = sum(p.numel() for p in start_of(config).parameters() if p.requires_grad)
        return [_scores(trained.scores) | {"parameters": count}]
    rows = list(_replaced(config, task, trained.model))
    rows[0] |= {"whole": brief(score(trained.scores))}
    return rows


@torch.no_grad()
def _replaced(config: Config, task, model: torch.nn.Module) -> Iterator[dict]:
    start = dict(start_of(replace(config, adapter="", rank=0)).named_parameters())
    tuned, rows, most = dict(model.named_parameters()), body(model), HELD_OUT_ITEMS.get(config.model, MOST_ITEMS)
    base = {name: start[name] for name in rows["name"]}
    moved = {name: tuned[name] - base[name] for name in base}
    for kind in STAND_INS:
        r2, sizes = [], []
        for name in base:
            made = stand_in(moved[name], kind, np.random.default_rng([config.seed, *name.encode()]))
            tuned[name].copy_(base[name] + made)
            r2.append(qq_r2(made))
            sizes.append((made.square().mean().sqrt() / base[name].std(correction=0)).item())
        found = _scores(task.evaluate(model, most))
        found |= {"normal_share": findings.share(rows, np.array(r2) >= findings.QQ_BOUND)}
        yield {"kind": kind, **found, "misfit": brief(1 - np.median(r2)), "size": brief(np.median(sizes))}


def _scores(found: dict[str, float]) -> dict[str, float]:
    """Scores and loss on held-out data, as a row holds them."""
    return {name: brief(value) for name, value in (scored(found) | {"loss": found["loss"]}).items()}
