"""Many fine-tunes of one base: what they share, and what each has of its own. The experiment `soups`, for chapter 14.

If a fine-tune were an optimum and Gaussian noise around it, the mean of many, a *model soup* (Wortsman et al. 2022,
arXiv 2203.05482), would be nearer to the optimum than each; and noise in the place of what a fine-tune has beyond the
mean, its residual, would do as well. The fine-tunes of a cell differ in the order of their data alone: base and head
are the same, the head fitted to the base and kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import nn

from ..distribution.distances import measure
from ..lab.problems import problem
from ..lab.train import Config, start_of, train
from ..lab.tuning import body
from ..losses import replace
from ..records import Experiment
from ..records.experiment import brief
from ..structure.random_matrices import threshold
from ..structure.spectra import singular_values
from . import finetuning
from .fine_tunes import Delta, norm
from .trainings import inputs, origin, tolerances

PLANS = {
    "minilm": {"task": "library", "steps": 40, "batch": 16},
    "vit": {"task": "rotation", "steps": 100, "batch": 64},
}
"""How models are tuned: half as long as in `lfmlib.experiments.finetuning`."""
COUNTS = {"minilm": (2, 4, 8), "vit": (2, 5, 10, 20)}
"""How many fine-tunes are averaged; the largest is how many are trained."""
BASE_SEEDS = {"minilm": 1, "vit": 2}
"""Bases; MiniLM is one."""
PACES = (1 / math.sqrt(10), 1.0, math.sqrt(10))
"""Learning rates, as multiples of the usual one."""
AGAIN = 2
"""Fine-tunes of a cell that is there to be measured again: all others train for minutes."""
MEMBERS = {"minilm": 4, "vit": 8}
"""Fine-tunes whose residuals are replaced."""
HELD_OUT_ITEMS, TOY_ITEMS = {"minilm": 256, "vit": None}, 256
"""Held-out examples that are asked about, at most; None: all."""
STAND_INS = ("none", "own", "permuted", "noise")
"""What is added to the matrices of the mean."""
TOLERANCES = tolerances({
    ("loss", "score", "soup", "soup_score"): (0.15, 1.0),
    "prior": 1e-9,
    ("alike", "moved"): (0.3, 0.1),
    ("kl_bits", "outlier_variance"): (1.0, 0.05),
    "noise_kl_bits": (1.0, 0.01),
})  # fmt: skip
"""Wide: another processor trains another model, as in `initialization`."""


def experiment() -> Experiment:
    """Fine-tunes of MiniLM and the ViT that differ in the order of their data, averaged."""
    return Experiment(
        name="soups",
        cells=list(_cells()),
        run=run,
        **TOLERANCES,
        version=1,
        description="fine-tunes of one base: their mean, and what each has of its own",
        inputs=partial(inputs, bases=finetuning.BASES),
        quick=list(_toys()),
        alone=alone,
    )


def alone(cell: dict) -> bool:
    """Whether a cell needs no model that takes minutes to train: none of many fine-tunes."""
    return cell["count"] == AGAIN


def _cells() -> Iterator[dict]:
    for seed, (model, plan) in itertools.product(range(max(BASE_SEEDS.values())), PLANS.items()):
        if seed < BASE_SEEDS[model]:
            for pace in PACES:
                lr = float(f"{pace * finetuning.FULL_RATES[model]:.3g}")
                yield {"model": model, **plan, "lr": lr, "count": COUNTS[model][-1], "seed": seed}
    yield {"model": "vit", **PLANS["vit"], "lr": finetuning.FULL_RATES["vit"], "count": AGAIN, "seed": 0}


def _toys() -> Iterator[dict]:
    """Four short fine-tunes of the ViT, at two seeds."""
    for seed in range(2):
        lr = finetuning.FULL_RATES["vit"]
        yield {
            "model": "vit",
            **PLANS["vit"],
            "steps": 8,
            "batch": finetuning.TOY_BATCH,
            "lr": lr,
            "count": 4,
            "seed": seed,
        }


def run(cell: dict) -> list[dict]:
    """Fine-tunes of one base at one rate; ``what`` a row is about says which columns it has.

    ``base``: the held-out ``loss`` in nats, its ``score`` and the loss ``prior`` of the class frequencies.

    ``soup``: of the first ``members`` fine-tunes the mean ``loss`` and ``score``, and those of their mean, ``soup`` and
    ``soup_score``; ``alike``, the mean correlation of two ΔW; ``moved``, the norm of ΔW over that of W₀.

    ``residual``: of one ``member`` and ``stand_in`` in the place of its residual, in the matrices of the body, the
    ``loss`` and ``score``. All else is the mean's.

    ``law``: medians over the matrices of one residual, and of noise in its place: ``kl_bits``, ``noise_kl_bits``, and
    ``outlier_variance``, the share of the variance beyond the edge of noise.
    """
    tunes = Tunes(cell)
    mean = tunes.mean(cell["count"])
    base = tunes.ask({})
    rows = [{"what": "base", **_figures(base), "prior": brief(tunes.task.prior(tunes.items))}]
    asked = [tunes.ask(delta) for delta in tunes.deltas]
    for count in [one for one in COUNTS[cell["model"]] if one <= cell["count"]]:
        soup, some = tunes.ask(tunes.mean(count)), asked[:count]
        figures = {name: float(np.mean([one[name] for one in some])) for name in ("loss", "accuracy")}
        about = {"alike": brief(tunes.alike(count)), "moved": brief(tunes.moved(count))}
        whole = {"soup": brief(soup["loss"]), "soup_score": brief(soup["accuracy"])}
        rows.append({"what": "soup", "members": count, **_figures(figures), **whole, **about})
    for member in range(min(MEMBERS[cell["model"]], cell["count"])):
        residual = {name: tunes.deltas[member][name] - mean[name] for name in tunes.matrices}
        for stand_in in STAND_INS:
            new = _instead(residual, stand_in, (cell["seed"], member))
            found = tunes.ask(mean | {name: mean[name] + one for name, one in new.items()})
            rows.append({"what": "residual", "member": member, "stand_in": stand_in, **_figures(found)})
        if member == 0:
            rows.append({"what": "law", **_law(residual, cell["seed"])})
    return rows


class Tunes:
    """A base and the fine-tunes of a cell.

    Attributes:
        task: what they were tuned for.
        deltas: of each fine-tune, name → ΔW of every weight that is trained.
        matrices: names of the matrices of the body.
    """

    def __init__(self, cell: dict):
        model, settings = cell["model"], {name: cell[name] for name in ("task", "steps", "batch", "lr")}
        toy = cell["batch"] == finetuning.TOY_BATCH
        start = origin(cell, finetuning.BASES, **({"steps": 30} if toy else {}))
        self.task, self.items = problem(model, cell["task"]), TOY_ITEMS if toy else HELD_OUT_ITEMS[model]
        self.model: nn.Module = start_of(Config(model, seed=cell["seed"], frozen_head=True, **settings, **start)).eval()
        self.base = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        self.matrices = list(body(self.model)["name"])
        self.deltas: list[Delta] = []
        for number in range(cell["count"]):
            seed = 1000 * cell["seed"] + number
            tuned = train(
                Config(model, seed=seed, frozen_head=True, **settings, **start),
                progress=False,
                snapshots=0,
                scored=False,
            )
            after = dict(tuned.model.named_parameters())
            self.deltas.append({name: after[name].detach() - w for name, w in self.base.items()})

    def mean(self, count: int) -> Delta:
        """The mean of the first ΔW."""
        return {name: torch.stack([one[name] for one in self.deltas[:count]]).mean(0) for name in self.base}

    @torch.no_grad()
    def ask(self, delta: Delta) -> dict[str, float]:
        """Held-out loss and accuracy of the base and ΔW."""
        parameters = dict(self.model.named_parameters())
        for name, w in self.base.items():
            parameters[name].copy_(w + delta[name] if name in delta else w)
        return self.task.evaluate(self.model, self.items)

    def alike(self, count: int) -> float:
        """The mean correlation of two ΔW of the first, over all matrices at once."""
        flat = torch.stack([torch.cat([one[name].flatten() for name in self.matrices]) for one in self.deltas[:count]])
        return float(torch.corrcoef(flat.double())[~torch.eye(count, dtype=torch.bool)].mean())

    def moved(self, count: int) -> float:
        """The mean norm of ΔW over that of W₀, over all matrices at once."""
        of = lambda some: norm({name: some[name] for name in self.matrices})  # noqa: E731
        return float(np.mean([of(one) for one in self.deltas[:count]])) / of(self.base)


def _figures(found: dict[str, float]) -> dict[str, float | None]:
    return {"loss": brief(found["loss"]), "score": brief(found["accuracy"])}


def _instead(residual: Delta, stand_in: str, seed: tuple[int, int]) -> Delta:
    """A residual, or what stands for it; noise and permuted entries have its norm in every matrix."""
    if stand_in == "none":
        return {name: torch.zeros_like(one) for name, one in residual.items()}
    if stand_in == "own":
        return residual
    whole = {name: replace.Split(one, "entries").at(1.0) for name, one in residual.items()}
    return {name: one.replaced(stand_in, replace.rng(seed, name)) for name, one in whole.items()}


def _law(residual: Delta, seed: int) -> dict[str, float | None]:
    """How like noise the residuals look, each alone and by its spectrum."""
    laws = [measure(one.numpy()) for one in residual.values()]
    noise = [
        measure(replace.rng((seed, 1), name).standard_normal(one.shape, dtype=np.float32))
        for name, one in residual.items()
    ]
    figures = {
        "kl_bits": [law["kl_bits"] for law in laws],
        "noise_kl_bits": [law["kl_bits"] for law in noise],
        "outlier_variance": [_beyond(one) for one in residual.values()],
    }
    return {name: brief(float(np.median(values))) for name, values in figures.items()}


def _beyond(residual: torch.Tensor) -> float:
    """Share of the variance beyond the edge of noise: what a `lfmlib.Spectrum` has, without its nulls, which take
    seconds."""
    squares = singular_values(residual) ** 2
    edge = residual.std(correction=0).item() * threshold(*residual.shape)
    return float(squares[squares > edge**2].sum() / squares.sum())
