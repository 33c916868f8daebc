"""A base of the lab, and models that were tuned from it for several tasks: what can be merged.

Merged is every weight but heads for classes, which belong to their tasks; of language models, all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ..lab import models, smollm
from ..lab.problems import problem
from ..lab.train import Config, train
from ..merging import methods
from . import finetuning
from .trainings import base_inputs, origin

BASES = {"vit": finetuning.BASES["vit"], "decoder": finetuning.ONLY_PRETRAINED["decoder"]}
"""How bases are trained, from narrow Gaussian starts; MiniLM and SmolLM2 are their own bases."""
TUNED = {
    "vit": {"steps": 200, "batch": 64, "lr": 1e-3},
    "decoder": {"steps": 200, "batch": 8, "lr": 1e-3},
    "minilm": {"steps": 80, "batch": 16, "lr": 2e-4},
    smollm.NAME: {
        "steps": finetuning.LARGE[smollm.NAME]["steps"],
        "batch": finetuning.LARGE[smollm.NAME]["batch"],
        "lr": finetuning.FULL_RATES[smollm.NAME],
    },
}
"""How models are tuned from them, all weights; learning rates as in `finetuning`."""
CHOSEN_ON = {"vit": 512, "decoder": 32, "minilm": 160, smollm.NAME: 4}
"""Validation examples (of SmolLM2 windows of 256 tokens) that scales and factors of merges are chosen on, at most."""
JUDGED_ON = {"minilm": 512, smollm.NAME: 8}
"""Test examples that what was chosen is judged on, where it is not all of them."""
TOY_ITEMS = 128
"""Of toys: examples that both are done on."""
Delta = dict[str, torch.Tensor]
"""Name of a weight → what is added to it."""


def scaled(delta: Delta, scale: float) -> Delta:
    """ΔW times a number."""
    return {name: scale * one for name, one in delta.items()}


def norm(delta: Delta) -> float:
    """The norm of all matrices of a ΔW together."""
    return math.sqrt(sum(one.double().square().sum().item() for one in delta.values()))


class Siblings:
    """A base and what was tuned from it with one seed.

    Args:
        cell: of the record `editing`.
        tasks: what models are tuned for.
        anew: tune, whatever is cached; a model of `finetuning.LARGE` once for all cells.

    Attributes:
        base: name → weight, of all that is merged.
        models: task → a model with its head, whose weights are replaced to ask it; without heads the same for all.
        deltas: task → name → ΔW.
        scores: side ("validation" or "test") → task → the tuned model's score there.
    """

    def __init__(self, cell: dict, tasks: Sequence[str], anew: bool = False):
        self.model, self.toy = cell["model"], cell.get("toy", False)
        settings = TUNED[self.model] | {name: cell[name] for name in ("steps",) if name in cell}
        self.models, self.deltas, states = {}, {}, {}
        for task in tasks:
            config = Config(self.model, task, seed=cell["seed"], **settings, **_origin(cell))
            trained = finetuning.trained(config) if anew else train(config, progress=False, snapshots=0)
            self.models[task] = trained.model
            states[task] = dict(self.models[task].named_parameters())
        self.original = _base(cell)
        start = {name: p.detach().clone() for name, p in self.original.named_parameters()}
        names = [name for name in start if not name.startswith("classifier.")]
        self.base = {name: start[name] for name in names}
        for task, state in states.items():
            self.deltas[task] = {name: state[name].detach() - start[name] for name in names}
        if len(names) == len(start):  # the tuned models differ in what is replaced alone: one is enough
            self.models = dict.fromkeys(self.models, self.original)
        self.scores = {
            side: {task: self.ask(task, self.deltas[task], side) for task in tasks} for side in ("validation", "test")
        }

    @functools.cached_property
    def reaches(self) -> dict[str, list[float]]:
        """Name of a matrix → how far out the outliers of each ΔW lie (see `lfmlib.merging.methods.reach`)."""
        return {
            name: [methods.reach(one[name], methods.cut(one[name])) for one in self.deltas.values()]
            for name, start in self.base.items()
            if start.dim() == 2
        }

    @functools.cached_property
    def alike(self) -> float:
        """The mean cosine of two ΔW; NaN of a single one."""
        flat = torch.stack([torch.cat([one.flatten() for one in some.values()]) for some in self.deltas.values()])
        units = functional.normalize(flat.double())
        return float((units @ units.T)[~torch.eye(len(flat), dtype=torch.bool)].mean())

    @torch.no_grad()
    def ask(self, task: str, delta: Delta, side: str) -> float:
        """The score of a task with its own head on a base that ΔW is added to."""
        model = self.moved(self.models[task], delta)
        most = CHOSEN_ON[self.model] if side == "validation" else JUDGED_ON.get(self.model)
        most = TOY_ITEMS if self.toy else most
        return problem(self.model, task).score(model, side, most)

    @torch.no_grad()
    def moved(self, model: nn.Module, delta: Delta) -> nn.Module:
        """A model with the weights of the base and ΔW, in place, but for its head."""
        parameters = dict(model.named_parameters())
        for name, start in self.base.items():
            parameters[name].copy_(start + delta[name])
        return model

    def normalized(self, delta: Delta, side: str) -> dict[str, float]:
        """Task → its score over that of the model tuned for it alone."""
        return {task: self.ask(task, delta, side) / self.scores[side][task] for task in self.models}


def _origin(cell: dict) -> dict:
    return origin(cell, BASES, **({"steps": 30} if cell.get("toy") else {}))


def _base(cell: dict) -> nn.Module:
    """The base, with the head it was trained with."""
    if cell["model"] in models.PRETRAINED:
        return models.build(cell["model"], cell["seed"], 2).eval()
    return train(_origin(cell)["base"], progress=False, snapshots=0).model


def inputs(model: str, tasks: Sequence[str]) -> dict[str, str]:
    """Hash of the data that a base and its fine-tunes are trained on, and of a published model’s weights."""
    return {task: problem(model, task).data_hash for task in tasks} | base_inputs(model, BASES)
