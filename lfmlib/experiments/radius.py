"""How far may weights stray? The experiment `radius`, behind finding F8.

Its parts, from the bases and the full fine-tunings of `lfmlib.experiments.finetuning`:

    radius    noise radius of the base, of its fine-tune, and of the base plus noise of ΔW's size, by kind of noise, on
              the task that was learned; where there is one, on the task of the base too
    noisier   fine-tunings that begin from the base plus noise: does raising σ beforehand help?

A classifier's head is fitted anew for every model, in one way: logistic regression on what the model's body makes of
the first training examples, its strength chosen by cross-validation. What is shaken is the body. So base and fine-tune
differ in their bodies alone. A head that leans on small differences makes a body look fragile; hence a second, timid
head, kept small for all models alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from torch import nn

from ..deltas import stand_ins
from ..lab.problems import problem
from ..lab.train import Config, start_of
from ..lab.tuning import body
from ..losses.tolerance import KINDS, curve, radius
from ..records import Experiment
from ..records.experiment import brief
from . import finetuning
from .trainings import inputs, retrained, score, scored, tolerances, trivial

ORIGINAL = {"deep-decoder": "language", "vit": "class"}
"""What the bases were trained for; MiniLM's own task cannot be posed with the data at hand."""
CLOSED = 0.1
"""Share of the gap between a model's own loss and that of the class frequencies which the noise closes."""
DRAWS, OTHER_DRAWS = 16, 4
"""Draws of the first of `lfmlib.tolerance.KINDS` of noise with the fitted head, and draws of other kinds, or with the
timid head. The base plus noise is judged by the former alone."""
STRENGTHS = {"fitted": (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2), "timid": (1e-3,)}
"""Heads, and the inverse penalties (scikit-learn's C) that cross-validation chooses from."""
SCALES = (0.025, 0.05, 0.1, 0.2, 0.4)
"""Sizes of the noise on the curves of loss against noise, in std(W)."""
HELD_OUT_ITEMS = {"minilm": 128, "deep-decoder": 64, "vit": 256}
"""Held-out examples (of the decoder: windows of text) that the noise is judged on, at most."""
HEAD_ITEMS = 1024
"""Training examples that a head is fitted to."""
JITTER = (0.1,)
"""Noise added to a base before it is fine-tuned, in std(W₀)."""
SEEDS = 5
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
        alone=finetuning.alone,
    )


def _cells() -> Iterator[dict]:
    for seed in range(SEEDS):
        for model, settings in finetuning.TASKS.items():
            common = settings | {"lr": finetuning.FULL_RATES[model], "weight_decay": finetuning.DECAY, "seed": seed}
            downstream = {"model": model, **common, "judged_on": settings["task"], "jitter": 0.0, "draws": DRAWS}
            yield {"part": "radius", **downstream}
            if model in ORIGINAL:
                yield {"part": "radius", **downstream, "judged_on": ORIGINAL[model]}
                for jitter in JITTER:
                    yield {"part": "noisier", **downstream, "jitter": jitter, "draws": 0}


def _toys() -> Iterator[dict]:
    """A few steps of the ViT, at two seeds."""
    for cell in _cells():
        if cell["model"] == "vit" and cell["seed"] < 2 and cell["jitter"] in (0.0, JITTER[0]):
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
    """
    config = finetuning.plan(cell)
    trained = retrained(config, snapshots=0)
    if cell["part"] == "noisier":
        return [{name: brief(value) for name, value in scored(trained.scores).items()}]
    rows: list[dict] = []
    for which, model in candidates(config, trained.model).items():
        found = _shaken(which, model, cell)
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


def _shaken(which: str, model: nn.Module, cell: dict) -> list[dict]:
    """Radii and curve of one model."""
    task = problem(cell["model"], cell["judged_on"])
    judged, parameters = body(model), dict(model.named_parameters())
    weights = {name: parameters[name] for name in judged["name"]}
    common = {"depth": dict(zip(judged["name"], judged["depth"], strict=True)), "seed": cell["seed"]}

    toy = cell["batch"] == finetuning.TOY_BATCH
    items = HELD_OUT_ITEMS[cell["model"]] // (4 if toy else 1)
    every = 3 if toy else 1  # of the penalties tried; what toys see is hard to fit

    def loss() -> float:
        return task.evaluate(model, items)["loss"]

    rows = []
    heads = ("fitted", "timid") if which != "random" else ("fitted",)
    for head in heads if hasattr(model, "classifier") else ("",):
        strength = fit_head(model, task, STRENGTHS[head][::every]) if head else 0.0
        own, prior = task.evaluate(model, items), task.prior(items)
        rise = CLOSED * (prior - own["loss"])
        about = {"which": which, "head": head}
        first = len(rows)
        for kind in KINDS if which != "random" and head != "timid" else KINDS[:1]:
            draws = (
                cell["draws"] if (kind, head != "timid") == (KINDS[0], True) else min(OTHER_DRAWS, cell["draws"] - 1)
            )
            if rise > 0:
                found = radius(loss, weights, rise, kind=kind, draws=draws, **common).to_numpy()
            else:  # no better than the class frequencies: there is nothing to lose
                found = [(0, math.inf)]
            rows += [about | {"kind": kind, "draw": int(draw), "radius": brief(size)} for draw, size in found]
        rows[first] |= {"own": brief(own["loss"]), "prior": brief(prior), "score": brief(score(own))}
        rows[first]["strength"] = strength
        if head != "timid":
            rises = curve(loss, weights, SCALES, draws=2, **common).groupby("scale")["rise"].mean()
            rows += [about | {"scale": scale, "rise": brief(rise)} for scale, rise in rises.items()]
    return rows


@torch.no_grad()
def fit_head(model: nn.Module, task, strengths: Sequence[float]) -> float:
    """Fit the head of a classifier by logistic regression on what its body makes of the first training examples.

    Features are brought to mean 0 and variance 1 first, which is then put into the head's weights.

    Args:
        model: with a linear layer ``classifier``, which is replaced, in place.
        task: of any number of classes.
        strengths: inverse penalties, from which five-fold cross-validation by loss chooses.

    Returns:
        The inverse penalty that was chosen.
    """
    seen: list[torch.Tensor] = []
    old = model.classifier
    hook = old.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().cpu()))
    try:
        labels = task.first(model, HEAD_ITEMS)
    finally:
        hook.remove()
    features = torch.cat(seen).double().numpy()
    middle, scale = features.mean(0), features.std(0) + 1e-12
    scaled = (features - middle) / scale
    chosen = strengths[0]
    if len(strengths) > 1:
        losses = [
            -cross_val_score(_logistic(c), scaled, labels, cv=5, scoring="neg_log_loss").mean() for c in strengths
        ]
        chosen = strengths[int(np.argmin(losses))]
    fitted = _logistic(chosen).fit(scaled, labels)
    head = nn.Linear(features.shape[1], task.classes).to(old.weight.device)
    head.weight.copy_(torch.from_numpy(fitted.coef_ / scale))
    head.bias.copy_(torch.from_numpy(fitted.intercept_ - fitted.coef_ @ (middle / scale)))
    model.classifier = head
    return chosen


def _logistic(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000)
