"""How far may weights stray? The experiment `radius`, behind finding F8.

Its parts, from the bases and the full fine-tunings of `lfmlib.experiments.finetuning`:

    radius    noise radius of the base, of its fine-tune, and of the base plus noise of ΔW's size, by kind of noise, on
              the task that was learned; where there is one, on the task of the base too
    protocols radii of the same three by head, unit of the noise and task: does the answer depend on how one asks?
    noisier   fine-tunings that begin from the base plus noise: does raising σ beforehand help?

A classifier's head is fitted anew for every model, in one way: logistic regression on what the model's body makes of
the first training examples, its strength chosen by cross-validation. What is shaken is the body. So base and fine-tune
differ in their bodies alone. A head that leans on small differences makes a body look fragile; hence a second, timid
head, kept small for all models alike; and a third, frozen one: fitted to the base, timid too, before a fine-tuning of
its own, in which it stays as it is, so that base and fine-tune have the very same head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import nn

from ..deltas import stand_ins
from ..lab import smollm
from ..lab.problems import problem
from ..lab.train import Config, start_of
from ..lab.tuning import HEAD_ITEMS, TIMID, body, fit_head
from ..losses.tolerance import KINDS, curve, radius
from ..records import Experiment
from ..records.experiment import brief
from . import finetuning
from .trainings import inputs, score, scored, tolerances, trivial

ORIGINAL = {smollm.NAME: "code", "deep-decoder": "language", "vit": "class"}
"""What the bases were trained for, SmolLM2 among much else; MiniLM's own task cannot be posed with the data at hand."""
CLOSED = 0.1
"""Share of the gap between a model's own loss and that of the class frequencies which the noise closes."""
DRAWS, OTHER_DRAWS = 16, 4
"""Draws of the first of `lfmlib.tolerance.KINDS` of noise with the fitted head, and draws of other kinds, or with the
timid head. The base plus noise is judged by the former alone."""
FEWER_DRAWS = {smollm.NAME: 4}
"""Draws of models whose loss takes seconds, of the first kind alone, and on the new task; the protocols have both."""
STRENGTHS = {"fitted": (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2), "timid": (TIMID,)}
"""Heads, and the inverse penalties (scikit-learn's C) that cross-validation chooses from."""
UNITS = ("own", "base", "one size")
"""What noise is measured in: each matrix's own standard deviation, that of W₀, or for all matrices alike the root mean
square of all entries of W₀."""
PROTOCOL_DRAWS = 2
"""Draws of the noise of each protocol."""
SCALES = (0.025, 0.05, 0.1, 0.2, 0.4)
"""Sizes of the noise on the curves of loss against noise, in std(W)."""
HELD_OUT_ITEMS = {smollm.NAME: 4, "minilm": 128, "deep-decoder": 64, "vit": 256}
"""Held-out examples (of language models: windows of text) that the noise is judged on, at most."""
JITTER = {"deep-decoder": (0.1,), "vit": (0.1,)}
"""Noise added to a base before it is fine-tuned, in std(W₀)."""
HEADLESS = (smollm.NAME, "deep-decoder")
"""Models whose head is of one piece with them."""
SEEDS = dict.fromkeys(finetuning.TASKS, 5) | dict.fromkeys(finetuning.LARGE, finetuning.LARGE_SEEDS)
"""Fine-tunings, by model."""
TOLERANCES = tolerances({
    ("own", "score", "trained"): (0.15, 1.0),
    "radius": (0.2, 0.05), "rise": (0.5, 0.05), "moved": 0.3, "prior": 1e-6, "trivial": 1e-9, "strength": math.inf,
})  # fmt: skip
"""Wide: another processor trains another model, as in `initialization`."""


def experiment() -> Experiment:
    """Noise radii of bases and fine-tunes, and fine-tunings from noisier bases."""
    return Experiment(
        name="radius",
        cells=list(_cells()),
        run=run,
        **TOLERANCES,
        version=1,
        description="how much noise a base and its fine-tune stand, and whether noise before fine-tuning helps",
        inputs=partial(inputs, bases=finetuning.BASES),
        quick=list(_toys()),
        alone=alone,
    )


def alone(cell: dict) -> bool:
    """Whether a cell needs no model that takes minutes to train, and other processors are not known to differ on it.

    Radii of a ViT do: another processor trains another one, and where the loss is flat a radius of 0.87 became 2.1.
    """
    if cell["model"] in finetuning.LARGE:
        return False
    return finetuning.alone(cell) and (cell["part"] == "noisier" or cell["model"] != "vit")


def _cells() -> Iterator[dict]:
    each = finetuning.TASKS | finetuning.LARGE
    for seed, model in itertools.product(range(max(SEEDS.values())), each):
        if seed >= SEEDS[model]:
            continue
        common = each[model] | {"lr": finetuning.FULL_RATES[model], "weight_decay": finetuning.DECAY, "seed": seed}
        draws = FEWER_DRAWS.get(model, DRAWS)
        downstream = {"model": model, **common, "judged_on": common["task"], "jitter": 0.0, "draws": draws}
        yield {"part": "radius", **downstream}
        asked = downstream | {"part": "protocols", "draws": PROTOCOL_DRAWS, "frozen_head": False}
        yield asked
        if model not in HEADLESS:
            yield asked | {"frozen_head": True}
        if model in ORIGINAL:
            if model not in finetuning.LARGE:
                yield {"part": "radius", **downstream, "judged_on": ORIGINAL[model]}
            yield asked | {"judged_on": ORIGINAL[model]}
        for jitter in JITTER.get(model, ()):
            yield {"part": "noisier", **downstream, "jitter": jitter, "draws": 0}


def _toys() -> Iterator[dict]:
    """A few steps of the ViT, at two seeds; of the protocols those on the new task."""
    for cell in _cells():
        old = cell["part"] == "protocols" and cell["judged_on"] != cell["task"]
        if cell["model"] == "vit" and cell["seed"] < 2 and not old:
            yield cell | {"steps": 8, "batch": finetuning.TOY_BATCH, "draws": min(cell["draws"], 2)}


def run(cell: dict) -> list[dict]:
    """Train as the cell says; for `noisier` one row, with the held-out score and that of the trivial baseline.

    For `radius` a row for each of ``which`` ("base", "tuned", or "random": the base plus noise of the size of ΔW),
    ``head`` (see `STRENGTHS`; "" for the decoder, which keeps its own), ``kind`` of noise and ``draw``: its ``radius``,
    in std(W), or nothing where there is none (see `lfmlib.tolerance.radius`). The first of each head also holds the
    ``own`` loss in nats, the loss ``prior`` of the class frequencies, the ``score``, and the ``strength`` that was
    chosen; the first of a ``which`` also ``moved``, RMS(ΔW) / RMS(W₀) (median over the matrices); the first of all also
    the ``trained`` score of the fine-tune with its own head, on all held-out data, and ``trivial``. Rows without a kind
    hold the mean ``rise`` of the loss, over two draws, at a ``scale``.

    For `protocols` the same without curves, all with noise of the first kind, and ``unit``, one of `UNITS`, of which
    ``radius`` is a multiple; the ``head`` may also be "frozen".
    """
    config = finetuning.plan(cell)
    trained = finetuning.fine_tuned(cell)
    if cell["part"] == "noisier":
        return [{name: brief(value) for name, value in scored(trained.scores).items()}]
    rows: list[dict] = []
    models = candidates(config, trained.model)
    units = _sizes(_matrices(models["base"])) if cell["part"] == "protocols" else {}
    for which, model in models.items():
        found = _asked(which, model, cell, units) if units else _shaken(which, model, cell)
        found[0]["moved"] = brief(_moved(config, model))
        rows += found
    rows[0] |= {"trained": brief(score(trained.scores)), "trivial": brief(trivial(trained.scores))}
    return rows


def candidates(config: Config, tuned: nn.Module) -> dict[str, nn.Module]:
    """The three models that are compared, by name."""
    base, random = start_of(config).eval(), start_of(config).eval()
    matrices, before, after = (dict(model.named_parameters()) for model in (random, base, tuned))
    with torch.no_grad():
        for name in body(base)["name"]:
            std = (after[name] - before[name]).std(correction=0).item()
            matrices[name].copy_(
                stand_ins.added(before[name], std, np.random.default_rng([config.seed, *name.encode()]))
            )
    return {"base": base, "tuned": tuned, "random": random}


def _moved(config: Config, model: nn.Module) -> float:
    """RMS(ΔW) / RMS(W₀), the median over the body's matrices."""
    before, after = (dict(one.named_parameters()) for one in (start_of(config), model))
    with torch.no_grad():
        sizes = [((after[name] - before[name]).norm() / before[name].norm()).item() for name in body(model)["name"]]
    return float(np.median(sizes))


def _matrices(model: nn.Module) -> dict[str, torch.Tensor]:
    """The matrices of the body, which are shaken, by name."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in body(model)["name"]}


def _sizes(weights: dict[str, torch.Tensor]) -> dict[str, dict[str, float] | None]:
    """For each of `UNITS`, name → standard deviation of the noise; None: that of each model's own matrix."""
    with torch.no_grad():
        base = {name: w.std(correction=0).item() for name, w in weights.items()}
        entries = sum(w.numel() for w in weights.values())
        whole = math.sqrt(sum(w.square().sum().item() for w in weights.values()) / entries)
    return dict(zip(UNITS, (None, base, dict.fromkeys(weights, whole)), strict=True))


class _Judge:
    """A model's loss on the held-out examples of a cell, once it has a head."""

    def __init__(self, model: nn.Module, cell: dict):
        toy = cell["batch"] == finetuning.TOY_BATCH
        self.model, self.task = model, problem(cell["model"], cell["judged_on"])
        self.items = HELD_OUT_ITEMS[cell["model"]] // (8 if toy else 1)
        self.every = 3 if toy else 1  # of the penalties tried; what toys see is hard to fit
        self.fitted = HEAD_ITEMS // (4 if toy else 1)

    def __call__(self) -> float:
        return self.task.evaluate(self.model, self.items)["loss"]

    def with_head(self, head: str) -> tuple[dict, float]:
        """Fit a head, if it is one of `STRENGTHS`; what the first row of it holds, and the rise up to the radius."""
        tried = STRENGTHS.get(head, ())[:: self.every]
        strength = fit_head(self.model, self.task, tried, self.fitted) if tried else 0.0
        own, prior = self.task.evaluate(self.model, self.items), self.task.prior(self.items)
        said = {"own": brief(own["loss"]), "prior": brief(prior), "score": brief(score(own)), "strength": strength}
        return said, CLOSED * (prior - own["loss"])

    def radii(self, weights: dict[str, torch.Tensor], rise: float, **how) -> list[tuple[int, float | None]]:
        """Draw and radius; one without a radius where the model is no better than the class frequencies."""
        if not rise > 0:
            return [(0, None)]
        return [(int(draw), brief(size)) for draw, size in radius(self, weights, rise, **how).to_numpy()]


def _asked(which: str, model: nn.Module, cell: dict, units: dict[str, dict[str, float] | None]) -> list[dict]:
    """Radii of one model, by head and unit."""
    judge, weights, rows = _Judge(model, cell), _matrices(model), []
    heads = ("frozen",) if cell["frozen_head"] else tuple(STRENGTHS)
    for head in heads if hasattr(model, "classifier") else ("",):
        said, rise = judge.with_head(head)
        first, known = len(rows), {}
        for unit, std in units.items():
            same = "own" if which == "base" and unit == "base" else unit  # which is one and the same
            if same not in known:
                known[same] = judge.radii(weights, rise, draws=cell["draws"], seed=cell["seed"], std=std)
            about = {"which": which, "head": head, "unit": unit, "kind": KINDS[0]}
            rows += [about | {"draw": draw, "radius": size} for draw, size in known[same]]
        rows[first] |= said
    return rows


def _shaken(which: str, model: nn.Module, cell: dict) -> list[dict]:
    """Radii of one model by kind of noise, and its curve."""
    judge, weights, rows = _Judge(model, cell), _matrices(model), []
    judged = body(model)
    common = {"depth": dict(zip(judged["name"], judged["depth"], strict=True)), "seed": cell["seed"]}
    heads = ("fitted", "timid") if which != "random" else ("fitted",)
    for head in heads if hasattr(model, "classifier") else ("",):
        said, rise = judge.with_head(head)
        about = {"which": which, "head": head}
        first = len(rows)
        several = which != "random" and head != "timid" and cell["model"] not in FEWER_DRAWS
        for kind in KINDS if several else KINDS[:1]:
            draws = (
                cell["draws"] if (kind, head != "timid") == (KINDS[0], True) else min(OTHER_DRAWS, cell["draws"] - 1)
            )
            found = judge.radii(weights, rise, kind=kind, draws=draws, **common)
            rows += [about | {"kind": kind, "draw": draw, "radius": size} for draw, size in found]
        rows[first] |= said
        if head != "timid":
            rises = curve(judge, weights, SCALES, draws=2, **common).groupby("scale")["rise"].mean()
            rows += [about | {"scale": scale, "rise": brief(rise)} for scale, rise in rises.items()]
    return rows
