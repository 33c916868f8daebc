"""What is an optimal weight? The experiment `optimal`, behind findings F9 to F12.

Its parts, on MiniLM as it was published and on the lab's models as trained from narrow Gaussian starts (the bases of
`lfmlib.experiments.finetuning`, and the models whose pre-training is looked at there):

    whole    mean and symmetry of the matrices, the law of what pruning keeps, pruning curves, and the damage when
             outliers are changed
    single   what single entries do: the largest, and those that the gradient points to

The lab's models are trained with five seeds. MiniLM is one: its five seeds are disjoint parts of the held-out data, and
draws of what is random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
from torch import nn

from .. import findings
from ..checkpoints.checkpoint import open_checkpoint
from ..checkpoints.locate import MINILM_SHA256
from ..distribution.coding import VARIANTS
from ..findings import PRUNED_SHARE
from ..lab import models
from ..lab.problems import problem
from ..lab.train import Config, start_of, train
from ..lab.tuning import body
from ..records import Experiment
from ..records.experiment import brief
from ..surveys.optimal_laws import laws, noise_laws
from ..surveys.values import noise_twin, survey
from . import finetuning
from .loss_probes import Asked, curves, damage, layers, singles

SEEDS = 5
TASKS = {"minilm": {"task": "halves"}} | finetuning.BASES | finetuning.OTHERS
"""How the models were trained; MiniLM as it comes."""
PRUNED = (0.0, PRUNED_SHARE, 0.6)
"""Shares left out before a law is fitted to the rest. The second, which F11 asks for, is judged; the others stand
beside it, for the first seed alone."""
TOY = {"matrices": 4, "items": 128}
"""Of toys: how many matrices are looked at, and held-out examples."""
BITS = tuple(f"bits_{name}" for name in VARIANTS)
METRICS = {
    "own": 0.15, "prior": 1e-9, "score": 0.15, "rise": 0.5, "scored": 0.3, "beside": 0.5, "zeroed": 0.01, "sets": 0.5,
    "zero_mean": 0.3, "symmetric": 0.3, "mean_ratio": 0.5, "asymmetry": 0.5, "noise_mean": 0.3, "noise_symmetric": 0.3,
    "wins": 0.3, "near": 0.3, "bits": 1.0, "noise_wins": 0.3, "outlier_share": 0.5, "gg_shape": 0.2, "size": 0.1,
} | dict.fromkeys(BITS, 1.0)  # fmt: skip
"""Relative tolerances: another processor trains another model, as in `initialization`."""
LEAST = {
    "own": 1.0, "score": 1.0, "rise": 0.2, "beside": 0.2, "scored": 1.0, "sets": 0.1, "zero_mean": 1.0,
    "symmetric": 1.0, "mean_ratio": 0.02, "asymmetry": 0.02, "noise_mean": 1.0, "noise_symmetric": 1.0, "wins": 1.0,
    "near": 1.0, "bits": 0.02, "noise_wins": 1.0, "outlier_share": 0.01, "gg_shape": 1.0, "size": 5.0,
} | dict.fromkeys(BITS, 0.02)  # fmt: skip
"""Sizes below which these tolerances do not shrink."""


def experiment() -> Experiment:
    """Pruning, laws and outliers of MiniLM and of the lab's models."""
    return Experiment(
        name="optimal",
        cells=list(_cells()),
        run=run,
        metrics=METRICS,
        least=LEAST,
        version=2,
        description="what weights can go, which law the others follow, and what outliers are worth",
        inputs=inputs,
        quick=list(_toys()),
        alone=alone,
    )


def alone(cell: dict) -> bool:
    """Whether a cell needs no model that takes minutes to train, and names no entries: these differ by machine."""
    return cell["part"] == "whole" and cell["model"] != "deep-decoder"


def _cells() -> Iterator[dict]:
    for seed in range(SEEDS):
        for model, settings in TASKS.items():
            yield {"part": "whole", "model": model, **settings, "seed": seed}
    for model, settings in TASKS.items():
        yield {"part": "single", "model": model, **settings, "seed": 0}


def _toys() -> Iterator[dict]:
    """Four matrices of the ViT, hardly trained, at two seeds."""
    toy = {"model": "vit", **TASKS["vit"], "steps": 40, "batch": 32, **TOY}
    for seed in range(2):
        yield {"part": "whole", **toy, "seed": seed}
    yield {"part": "single", **toy, "seed": 0}


def inputs(cell: dict) -> dict[str, str]:
    """Hash of the data a model was trained on, and judged by, and of MiniLM's weights."""
    found = {"data": problem(cell["model"], cell["task"]).data_hash}
    return found | ({"base": MINILM_SHA256} if cell["model"] in models.PRETRAINED else {})


def trained(cell: dict) -> nn.Module:
    """The model of a cell, in evaluation mode."""
    if cell["model"] in models.PRETRAINED:
        return start_of(Config(cell["model"], cell["task"], start="library")).eval()
    settings = {name: value for name, value in cell.items() if name != "part" and name not in TOY}
    return train(Config(**settings, gain=finetuning.GAIN), progress=False, snapshots=0).model


def run(cell: dict) -> list[dict]:
    """One model, looked at; ``what`` a row is about says which columns it has.

    ``model``: the ``own`` held-out loss in nats, the loss ``prior`` of knowing nothing but frequencies, the ``score``;
    shares of the parameters in matrices that pass F9 (``zero_mean``) and F10 (``symmetric``), of noise in their place
    as ``noise_…``; medians of mean_ratio and asymmetry.

    ``curve``: by ``arm`` (see `lfmlib.experiments.loss_probes.ARMS`), ``draw`` and ``share``: what of the weights is
    ``zeroed``, the ``rise`` of the loss, and the score then, ``scored``.

    ``layer``: the ``rise`` when a ``share`` of the weights of one ``depth`` goes by magnitude.

    ``law``: at a share ``pruned`` and for a ``variant``, the share of the parameters in matrices where it ``wins``, or
    is ``near``, within 0.01 bits of the shortest; the median of the ``bits`` it lies above it; ``noise_wins``, on noise
    in the place of weights (at the judged share); with the first variant the medians of outlier_share and gg_shape.

    ``matrix``: of one ``tensor``, the judged share pruned, the bits above the shortest law, by law.

    ``damage``: of the ``entries`` "outliers", and of random sets "as many" and "as large" of every ``draw``, which are
    a share ``sets`` of the weights: the ``rise`` when they are zeroed, clipped or amplified (``change``).

    ``quantized``: the ``rise`` when all weights are rounded to four bits, by where their range is taken from.

    ``single``: the entries that raise the loss most when zeroed, see `lfmlib.experiments.loss_probes.singles`.
    """
    model, seed = trained(cell), cell["seed"]
    asked = Asked(model, cell)
    judged = body(model)["name"]
    judged = set(judged.iloc[:: math.ceil(len(judged) / cell.get("matrices", len(judged)))])
    weights = {name: p for name, p in model.named_parameters() if name in judged}
    if cell["part"] == "single":
        return singles(asked, weights, cell)
    checkpoint = open_checkpoint(model).only(list(weights))
    surveyed = findings.eligible(survey(checkpoint, progress=False))
    rows = [_whole(asked, surveyed, seed)]
    fixed = cell["model"] in models.PRETRAINED and seed  # its matrices are those of seed 0
    found = {
        pruned: laws(checkpoint, pruned=pruned, progress=False) for pruned in ((PRUNED_SHARE,) if seed else PRUNED)
    }
    rows += [] if fixed else _laws(found, surveyed, seed)
    rows += curves(asked, model, weights, cell)
    rows += layers(asked, weights, checkpoint)
    return rows + damage(asked, weights, found[PRUNED_SHARE].set_index("tensor")["outlier_cut"].to_dict(), seed)


def _whole(asked: Asked, table: pd.DataFrame, seed: int) -> dict:
    noise = noise_twin(table.assign(mean=0.0), seed)
    return {
        "what": "model",
        "own": brief(asked()),
        "score": brief(asked.scores[-1]),
        "prior": asked.task.prior(asked.options["most"]),
        "zero_mean": brief(findings.share(table, findings.zero_mean(table))),
        "symmetric": brief(findings.share(table, findings.symmetric(table))),
        "noise_mean": brief(findings.share(noise, findings.zero_mean(noise))),
        "noise_symmetric": brief(findings.share(noise, findings.symmetric(noise))),
        "mean_ratio": brief(table["mean_ratio"].median()),
        "asymmetry": brief(table["asymmetry_excess"].median()),
    }


def _laws(found: dict[float, pd.DataFrame], surveyed: pd.DataFrame, seed: int) -> list[dict]:
    rows = []
    for pruned, table in found.items():
        bits = table[list(BITS)]
        bits = bits.sub(bits.min(axis=1), axis=0)
        if pruned == PRUNED_SHARE:
            rows += [
                {"what": "matrix", "tensor": name} | {law: brief(value) for law, value in one.items()}
                for name, one in zip(table["tensor"], bits.to_dict("records"), strict=True)
            ]
        noise = noise_laws(surveyed, pruned=PRUNED_SHARE, seed=seed) if pruned == PRUNED_SHARE else None
        for name in VARIANTS:
            row = {"what": "law", "pruned": pruned, "variant": name}
            row["wins"] = brief(findings.share(table, table["variant"] == name))
            row["near"] = brief(findings.share(table, bits[f"bits_{name}"] <= findings.NEAR_BITS))
            row["bits"] = brief(bits[f"bits_{name}"].median())
            if noise is not None:
                row["noise_wins"] = brief(findings.share(noise, noise["variant"] == name))
            rows.append(row)
        rows[-len(VARIANTS)] |= {name: brief(table[name].median()) for name in ("outlier_share", "gg_shape")}
    return rows
