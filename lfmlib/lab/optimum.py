"""What is an optimal weight? The experiment `optimal`, behind findings F9 to F12.

Its parts, on MiniLM as it was published and on the lab's models as trained from narrow Gaussian starts (the bases of
`lfmlib.lab.finetuning`, and the models whose pre-training is looked at there):

    whole    mean and symmetry of the matrices, the law of what pruning keeps, pruning curves, and the damage when
             outliers are changed
    single   what single entries do: the largest, and those that the gradient points to

The lab's models are trained with five seeds. MiniLM is one: its five seeds are disjoint parts of the held-out data, and
draws of what is random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import nn

from .. import evidence, outliers, pruning
from ..checkpoint import Checkpoint, open_checkpoint
from ..coding import VARIANTS
from ..evidence import KEPT
from ..hub import MINILM_SHA256
from ..optimal import laws, noise_laws
from ..records import Experiment
from ..survey import noise_twin, survey
from . import finetuning, models
from .problems import problem
from .train import Config, start_of, train
from .tuning import body

SEEDS = 5
TASKS = {"minilm": {"task": "halves"}} | finetuning.BASES | finetuning.OTHERS
"""How the models were trained; MiniLM as it comes."""
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of weights that are pruned."""
ARMS = {
    "magnitude": ("magnitude", "matrix", 1),
    "magnitude, all together": ("magnitude", "all", 1),
    "Wanda": ("wanda", "row", 1),
    "Wanda, in matrices": ("wanda", "matrix", 1),
    "random": ("random", "matrix", 2),
    "noise": ("noise", "matrix", 1),
}
"""Ways of pruning: method, where weights compete, and draws (see `lfmlib.pruning`). The first is judged."""
PRUNED = (0.0, KEPT, 0.6)
"""Shares left out before a law is fitted to the rest. The second, which F11 asks for, is judged."""
HALF = 0.5
"""Share that is pruned of one layer at a time."""
BITS = 4
"""Of weights that are quantized."""
DRAWS = 4
"""Random sets that outliers are compared with."""
CALIBRATION = {"minilm": 64, "decoder": 32, "deep-decoder": 32, "vit": 256, "clip": 64}
"""Training examples that Wanda sees, and the gradient."""
MOST = {"minilm": 4, "decoder": 64, "deep-decoder": 64, "vit": None, "clip": None}
"""Held-out examples that a loss is measured on (MiniLM: groups of 64 pairs)."""
TOY = {"matrices": 4, "items": 128}
"""Of toys: how many matrices are looked at, and held-out examples."""
CANDIDATES, BESIDE, SETS = 16, 5, 4
"""Of single entries: how many are tried of each kind; how many of the worst, and of the largest, get random sets beside
them, and how many of these."""
METRICS = {
    "own": 0.15, "prior": 1e-9, "score": 0.15, "rise": 0.5, "scored": 0.3, "beside": 0.5, "zeroed": 0.01, "sets": 0.5,
    "zero_mean": 0.3, "symmetric": 0.3, "mean_ratio": 0.5, "asymmetry": 0.5, "noise_mean": 0.3, "noise_symmetric": 0.3,
    "wins": 0.3, "near": 0.3, "bits": 1.0, "noise_wins": 0.3, "outlier_share": 0.5, "gg_shape": 0.2, "size": 0.1,
}  # fmt: skip
"""Relative tolerances: another processor trains another model, as in `initialization`."""
LEAST = {
    "own": 1.0, "score": 1.0, "rise": 0.2, "beside": 0.2, "scored": 1.0, "sets": 0.1, "zero_mean": 1.0,
    "symmetric": 1.0, "mean_ratio": 0.02, "asymmetry": 0.02, "noise_mean": 1.0, "noise_symmetric": 1.0, "wins": 1.0,
    "near": 1.0, "bits": 0.02, "noise_wins": 1.0, "outlier_share": 0.01, "gg_shape": 1.0, "size": 5.0,
}  # fmt: skip
"""Sizes below which these tolerances do not shrink."""


def experiment() -> Experiment:
    """Pruning, laws and outliers of MiniLM and of the lab's models."""
    return Experiment(
        name="optimal",
        cells=list(_cells()),
        run=run,
        metrics=METRICS,
        least=LEAST,
        version=1,
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

    ``curve``: by ``arm`` (see `ARMS`), ``draw`` and ``share``: what of the weights is ``zeroed``, the ``rise`` of the
    loss, and the score then, ``scored``.

    ``layer``: the ``rise`` when a ``share`` of the weights of one ``depth`` goes by magnitude.

    ``law``: at a share ``pruned`` and for a ``variant``, the share of the parameters in matrices where it ``wins``, or
    is ``near``, within 0.01 bits of the shortest; the median of the ``bits`` it lies above it; ``noise_wins``, on noise
    in the place of weights (at the judged share); with the first variant the medians of outlier_share and gg_shape.

    ``damage``: of the ``entries`` "outliers", and of random sets "as many" and "as large" of every ``draw``, which are
    a share ``sets`` of the weights: the ``rise`` when they are zeroed, clipped or amplified (``change``).

    ``quantized``: the ``rise`` when all weights are rounded to `BITS` bits, by where their range is taken from.

    ``single``: the entries that raise the loss most when zeroed, see `_singles`.
    """
    model, seed = trained(cell), cell["seed"]
    asked = _Asked(model, cell)
    judged = body(model)["name"]
    judged = set(judged.iloc[:: math.ceil(len(judged) / cell.get("matrices", len(judged)))])
    weights = {name: p for name, p in model.named_parameters() if name in judged}
    if cell["part"] == "single":
        return _singles(asked, weights, cell)
    checkpoint = open_checkpoint(model).only(list(weights))
    surveyed = evidence.eligible(survey(checkpoint, progress=False))
    rows = [_whole(asked, surveyed, seed)]
    fixed = cell["model"] in models.PRETRAINED and seed  # its matrices are those of seed 0
    found = {pruned: laws(checkpoint, pruned=pruned, progress=False) for pruned in ((KEPT,) if fixed else PRUNED)}
    rows += [] if fixed else _laws(found, surveyed, seed)
    rows += _curves(asked, model, weights, cell)
    rows += _layers(asked, weights, checkpoint)
    return rows + _damage(asked, weights, found[KEPT].set_index("tensor")["outlier_cut"].to_dict(), seed)


class _Asked:
    """A model's held-out loss, as a function without arguments; ``scores`` keeps the score of every call."""

    def __init__(self, model: nn.Module, cell: dict):
        self.model, self.task, self.scores = model, problem(cell["model"], cell["task"]), []
        self.options = {"most": cell.get("items", MOST[cell["model"]])}
        if cell["model"] in models.PRETRAINED:
            self.options["skip"] = MOST[cell["model"]] * cell["seed"]

    def __call__(self) -> float:
        found = self.task.evaluate(self.model, **self.options)
        self.scores.append(found.get("accuracy", math.nan))
        return found["loss"]


def _whole(asked: _Asked, table: pd.DataFrame, seed: int) -> dict:
    noise = noise_twin(table.assign(mean=0.0), seed)
    return {
        "what": "model",
        "own": brief(asked()),
        "score": brief(asked.scores[-1]),
        "prior": asked.task.prior(asked.options["most"]),
        "zero_mean": brief(evidence.share(table, evidence.zero_mean(table))),
        "symmetric": brief(evidence.share(table, evidence.symmetric(table))),
        "noise_mean": brief(evidence.share(noise, evidence.zero_mean(noise))),
        "noise_symmetric": brief(evidence.share(noise, evidence.symmetric(noise))),
        "mean_ratio": brief(table["mean_ratio"].median()),
        "asymmetry": brief(table["asymmetry_excess"].median()),
    }


def _laws(found: dict[float, pd.DataFrame], surveyed: pd.DataFrame, seed: int) -> list[dict]:
    rows = []
    for pruned, table in found.items():
        bits = table[[f"bits_{name}" for name in VARIANTS]]
        bits = bits.sub(bits.min(axis=1), axis=0)
        noise = noise_laws(surveyed, pruned=KEPT, seed=seed) if pruned == KEPT else None
        for name in VARIANTS:
            row = {"what": "law", "pruned": pruned, "variant": name}
            row["wins"] = brief(evidence.share(table, table["variant"] == name))
            row["near"] = brief(evidence.share(table, bits[f"bits_{name}"] <= evidence.NEAR))
            row["bits"] = brief(bits[f"bits_{name}"].median())
            if noise is not None:
                row["noise_wins"] = brief(evidence.share(noise, noise["variant"] == name))
            rows.append(row)
        rows[-len(VARIANTS)] |= {name: brief(table[name].median()) for name in ("outlier_share", "gg_shape")}
    return rows


def _curves(asked: _Asked, model: nn.Module, weights: dict[str, torch.Tensor], cell: dict) -> list[dict]:
    seen = asked.task.batch(cell["seed"] + 10_007, 0, CALIBRATION[cell["model"]])
    norms = pruning.input_norms(model, list(weights), lambda: asked.task.loss(model, seen))
    rows = []
    for arm, (method, within, draws) in ARMS.items():
        asked.scores.clear()
        found = pruning.curve(
            asked, weights, SHARES, method=method, within=within, inputs=norms, draws=draws, seed=cell["seed"]
        )
        for one, scored in zip(found.to_dict("records"), asked.scores[1:], strict=True):
            numbers = {"zeroed": brief(one["zeroed"]), "rise": brief(one["rise"]), "scored": brief(scored)}
            rows.append({"what": "curve", "arm": arm, "draw": int(one["draw"]), "share": one["share"], **numbers})
    return rows


def _layers(asked: _Asked, weights: dict[str, torch.Tensor], checkpoint: Checkpoint) -> list[dict]:
    """What half of one layer's weights are worth."""
    depths = pd.Series({info.name: info.depth for info in checkpoint.tensors}).dropna()
    rows, own = [], asked()
    for depth, names in depths.groupby(depths).groups.items():
        some = {name: weights[name] for name in names}
        with pruning.restored(some) as before:
            pruning.prune(some, before, HALF, "magnitude")
            rows.append({"what": "layer", "depth": int(depth), "share": HALF, "rise": brief(asked() - own)})
    return rows


def _damage(asked: _Asked, weights: dict[str, torch.Tensor], cuts: dict[str, float], seed: int) -> list[dict]:
    masks = {name: outliers.beyond(w, cuts[name]) for name, w in weights.items()}
    total, own = sum(w.numel() for w in weights.values()), asked()

    def row(entries: str, change: str, chosen: dict[str, torch.Tensor], draw: int = 0) -> dict:
        share = sum(int(mask.sum()) for mask in chosen.values()) / total
        rise = outliers.damage(asked, weights, chosen, change, cuts=cuts, own=own)
        about = {"what": "damage", "entries": entries, "change": change, "draw": draw}
        return about | {"sets": brief(share), "rise": brief(rise)}

    rows = [row("outliers", change, masks) for change in outliers.CHANGES]
    for draw in range(DRAWS):
        for entries, choose in (("as many", outliers.as_many), ("as large", outliers.as_large)):
            chosen = {
                name: choose(w, masks[name], np.random.default_rng([seed, draw, *name.encode()]))
                for name, w in weights.items()
            }
            rows += [row(entries, change, chosen, draw) for change in ("zeroed", "amplified")]
    for range_of in outliers.RANGES:
        with pruning.restored(weights) as before, torch.no_grad():
            for name, w in weights.items():
                w.copy_(outliers.quantized(before[name], BITS, range_of, cuts[name]))
            rows.append({"what": "quantized", "range_of": range_of, "rise": brief(asked() - own)})
    return rows


def _singles(asked: _Asked, weights: dict[str, torch.Tensor], cell: dict) -> list[dict]:
    """Single entries, zeroed one at a time: the largest in standard deviations, and those with the largest product of
    weight and gradient (on training data), half and half.

    Rows: ``tensor``, ``row``, ``column``, ``size`` in standard deviations, how it was ``found``, the ``rise``; of the
    worst and of the largest also ``beside``: the mean rise when random entries of the same matrix, of the same squared
    norm, are zeroed instead.
    """
    checkpoint = open_checkpoint(asked.model).only(list(weights))
    chosen = outliers.largest(checkpoint, list(weights), CANDIDATES).assign(found="size")
    pulled = _pulled(asked, weights, cell).assign(found="gradient")
    chosen = pd.concat([chosen, pulled]).drop_duplicates(["tensor", "row", "column"])
    rows, own = [], asked()
    for one in chosen.to_dict("records"):
        w = weights[one["tensor"]]
        rise = outliers.damage(asked, {"": w}, {"": _one(w, one)}, "zeroed", own=own)
        rows.append(
            {"what": "single", **{name: one[name] for name in ("tensor", "row", "column", "found")}}
            | {"size": brief(one["size"]), "rise": brief(rise)}
        )
    rows.sort(key=lambda row: -row["rise"])
    by_size = sorted(rows, key=lambda row: -abs(row["size"]))
    for row in rows[:BESIDE] + [row for row in by_size[:BESIDE] if row not in rows[:BESIDE]]:
        w, mask = weights[row["tensor"]], _one(weights[row["tensor"]], row)
        rises = []
        for draw in range(SETS):
            rng = np.random.default_rng([cell["seed"], draw, row["row"], row["column"], *row["tensor"].encode()])
            rises.append(outliers.damage(asked, {"": w}, {"": outliers.as_large(w, mask, rng)}, "zeroed", own=own))
        row["beside"] = brief(float(np.mean(rises)))
    # in the lab MiniLM is part of a classifier; a record has the names of its checkpoint
    prefix = "encoder." if cell["model"] in models.PRETRAINED else ""
    return [row | {"tensor": row["tensor"].removeprefix(prefix)} for row in rows]


def _pulled(asked: _Asked, weights: dict[str, torch.Tensor], cell: dict) -> pd.DataFrame:
    """The entries with the largest product of weight and gradient."""
    model = asked.model
    model.zero_grad(set_to_none=True)
    asked.task.loss(model, asked.task.batch(cell["seed"] + 10_007, 1, CALIBRATION[cell["model"]])).backward()
    rows = []
    for name, w in weights.items():
        product = (w.detach() * w.grad).abs().flatten()
        for value, place in zip(*(part.tolist() for part in product.topk(CANDIDATES)), strict=True):
            row, column = divmod(place, w.shape[1])
            size = ((w[row, column] - w.mean()) / w.std(correction=0)).item()
            rows.append((name, row, column, size, value))
    model.zero_grad(set_to_none=True)
    found = pd.DataFrame(rows, columns=["tensor", "row", "column", "size", "product"])
    return found.nlargest(CANDIDATES, "product").drop(columns="product")


def _one(w: torch.Tensor, entry: dict) -> torch.Tensor:
    """A mask that holds one entry."""
    mask = torch.zeros_like(w, dtype=torch.bool)
    mask[entry["row"], entry["column"]] = True
    return mask


def brief(value: float) -> float | None:
    """Five digits of a number, and nothing of one that is not finite: what a record needs."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
