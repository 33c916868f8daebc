"""What is the bulk of the weights worth? The experiment `replacement`, behind chapter 14.

On SmolLM2 and MiniLM as they were published, and on the 12-layer decoder and the ViT as trained here; the loss, its
data and the meaning of a seed are those of `lfmlib.experiments.optimal`. Parts of a cell:

    directions  the least singular directions of every matrix replaced, by all stand-ins of `lfmlib.losses.replace`
    entries     the least entries, rows, columns and blocks replaced
    groups      the least directions of the matrices of one role, or of some layers, replaced by noise
    edge        what lies below the edge of Marchenko and Pastur's law replaced; singular values shrunk; and, as a
                control, the model before training
    tenths      the least tenth of the directions replaced, the next tenth, and so on to the largest
    planted     the same model with noise in the place of its least directions, asked like it: a known answer
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..lab import smollm
from ..lab.train import start_of
from ..lab.tuning import body
from ..losses import pruning, replace
from ..losses.weights import restored
from ..records import Experiment
from ..records.experiment import brief
from ..structure.shrinkage import WAYS
from . import optimal
from .loss_probes import Asked
from .trainings import GAIN, config, inputs, tolerances

MODELS = (smollm.NAME, "minilm", "deep-decoder", "vit")
"""Models that are asked; the others of the lab are like these."""
PARTS = ("edge", "directions", "planted", "groups", "entries", "tenths")
SEEDS = {smollm.NAME: 3, "minilm": 3, "deep-decoder": 3, "vit": 5}
"""How often: parts of the held-out data of published models, trainings of the lab's."""
FEWER_SEEDS = {
    smollm.NAME: {"entries": 1},
    "minilm": {"planted": 2, "groups": 2, "tenths": 2, "entries": 1},
}
"""Model → part → how often, where it is less: what costs minutes and no sentence at the top rests on."""
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
FINE_SHARES = {smollm.NAME: (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)}
"""Shares of the directions that are replaced in every matrix; in models that a twentieth brings down, finer ones."""
FEW_SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the entries, rows, columns and blocks."""
GROUP_SHARES = (0.1, 0.25, 0.5, 1.0)
"""Those of a group of matrices."""
STAND_INS = {
    "directions": {"noise": 2, "zero": 1, "permuted": 1, "rotated": 1, "signs": 1, "sizes": 1, replace.CONTROL: 1},
    "entries": {"noise": 1, "zero": 1, "permuted": 1, "signs": 1, "sizes": 1, replace.CONTROL: 1},
    "rows": {"noise": 1, "zero": 1},
    "columns": {"noise": 1, "zero": 1},
    "blocks": {"noise": 1, "zero": 1},
}
"""Rule → stand-in → draws of it."""
FEW_STAND_INS = {
    "directions": {"noise": 1, "zero": 1, "rotated": 1, "signs": 1, replace.CONTROL: 1},
    "entries": {"noise": 1, "zero": 1, "signs": 1},
}
"""The same of models whose loss takes seconds."""
BANDS = 6
"""Groups of neighbouring layers, at most."""
PLANTED_SHARE, PLANTED = 0.3, {smollm.NAME: 0.005, "vit": 0.9}
"""Share of the directions that noise is planted in, where the answer is to be known; less in models that lose all by
it, more in those that hardly notice."""
PLANTED_DRAWS = 2
"""Draws of the noise that then takes its place."""
TOLERANCES = tolerances({
    ("own", "score"): (0.15, 1.0),
    "prior": 1e-9,
    "rise": (0.5, 0.2),
    ("energy", "replaced", "planted", "carried"): (0.1, 0.05),
    "met": (0.3, 0.1),
})  # fmt: skip
"""Wide: another processor trains another model, as in `initialization`."""


def experiment() -> Experiment:
    """Parts of all matrices of published models and of the lab's, replaced by stand-ins."""
    return Experiment(
        name="replacement",
        cells=list(_cells()),
        run=run,
        **TOLERANCES,
        version=1,
        description="what a part of every matrix is worth: replaced by noise and other stand-ins",
        inputs=inputs,
        quick=list(_toys()),
        alone=alone,
    )


def alone(cell: dict) -> bool:
    """Whether a cell needs no model that takes minutes to train: MiniLM is not trained."""
    return cell["model"] == "minilm"


def _cells() -> Iterator[dict]:
    for seed, model in itertools.product(range(max(SEEDS.values())), MODELS):
        for part in PARTS:
            if seed < FEWER_SEEDS.get(model, {}).get(part, SEEDS[model]):
                yield {"part": part, "model": model, **optimal.TASKS[model], "seed": seed}


def _toys() -> Iterator[dict]:
    """Four matrices of the ViT, hardly trained, at two seeds."""
    toy = {"model": "vit", **optimal.TASKS["vit"], "steps": 40, "batch": 32, **optimal.TOY}
    for seed in range(2):
        for part in PARTS:
            yield {"part": part, **toy, "seed": seed}


def run(cell: dict) -> list[dict]:
    """One model, asked; ``what`` a row is about says which columns it has.

    ``model``: the ``own`` held-out loss in nats, the loss ``prior`` of knowing nothing but frequencies, the ``score``.

    ``curve``: by ``rule``, ``stand_in`` and ``draw``: the ``share`` of every matrix that was to be ``replaced``, what
    share it was, its ``energy``, and the ``rise`` of the loss.

    ``group``: the same of the directions of one ``group`` of matrices ``by`` role or depth, replaced by noise; the
    energy is that of the group. Without a share: what lies below the edge.

    ``edge``: by ``stand_in`` what lies below the edge of every matrix, replaced. ``shrunk``: by ``how`` (see
    `lfmlib.structure.shrinkage.WAYS`) the ``energy`` taken away, and the ``rise``.

    ``planted``: of the model with noise in the place of its least directions, a share `PLANTED_SHARE` of them, with the
    share ``planted`` of the energy, as ``curve``; the first also has the ``own`` loss of that model.

    ``tenth``: of the directions above a ``share``, a tenth, replaced by a ``stand_in``. ``met``: what these directions
    meet, in the mean over the matrices: the mean square of the inputs along them over that along any, and the share of
    the outputs' squares that is ``carried`` by them.

    ``untrained``: ``own`` and ``prior`` of the model before training, and the ``rise`` with noise for all of it.
    """
    model = optimal.trained(cell)
    asked, weights = Asked(model, cell), _weights(model, cell)
    own = asked()
    rows = [{"what": "model", "own": brief(own), "prior": brief(asked.prior()), "score": brief(asked.scores[-1])}]
    ask = _Curves(asked, own, cell)
    if cell["part"] == "groups":
        return rows + _groups(ask, weights, body(model))
    if cell["part"] == "planted":
        return rows + _planted(asked, weights, cell)
    if cell["part"] == "tenths":
        return rows + _tenths(ask, model, weights)
    if cell["part"] == "edge":
        return [*rows, *_edge(ask, weights), *_untrained(cell)]
    for rule, stand_ins in (FEW_STAND_INS if cell["model"] == smollm.NAME else STAND_INS).items():
        if (rule == "directions") == (cell["part"] == "directions"):
            splits = _splits(weights, rule)
            for stand_in, draws in stand_ins.items():
                found = ask(weights, splits, _shares(cell, rule), stand_in, draws)
                rows += [{"what": "curve", "rule": rule, "stand_in": stand_in} | row for row in found]
    return rows


def _shares(cell: dict, rule: str = "directions") -> tuple[float, ...]:
    return FINE_SHARES.get(cell["model"], SHARES) if rule == "directions" else FEW_SHARES


def _weights(model: nn.Module, cell: dict) -> dict[str, torch.Tensor]:
    """The judged matrices, of toys a few."""
    names = list(body(model)["name"])
    names = names[:: math.ceil(len(names) / cell.get("matrices", len(names)))]
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in names}


def _splits(weights: dict[str, torch.Tensor], rule: str = "directions") -> dict[str, replace.Split]:
    return {name: replace.Split(w, rule) for name, w in weights.items()}


class _Curves:
    """Rows of curves of a model whose loss and ``own`` value of it are known, without what they are of."""

    def __init__(self, asked: Asked, own: float, cell: dict):
        self.asked, self.own, self.seed = asked, own, cell["seed"]

    def __call__(self, weights: dict, splits: dict, shares: Sequence, stand_in: str, draws: int = 1) -> list[dict]:
        how = {"stand_in": stand_in, "draws": draws, "seed": self.seed, "splits": splits, "own": self.own}
        found = replace.curve(self.asked, weights, shares, **how)
        rows = []
        for place, one in enumerate(found.to_dict("records")):
            share = shares[place % len(shares)]
            about = {"draw": int(one["draw"]), "share": None if isinstance(share, dict) else share}
            numbers = {"replaced": one["share"], "energy": one["energy"], "rise": one["rise"]}
            rows.append(about | {name: brief(value) for name, value in numbers.items()})
        return rows


def _below(splits: dict[str, replace.Split]) -> dict[str, float]:
    """Name → share of the directions below the edge."""
    return {name: split.share_below_edge for name, split in splits.items()}


def _edge(ask: _Curves, weights: dict[str, torch.Tensor]) -> Iterator[dict]:
    splits = _splits(weights)
    for stand_in in ("noise", "zero", replace.CONTROL):
        for row in ask(weights, splits, [_below(splits)], stand_in):
            yield {"what": "edge", "stand_in": stand_in} | row
    for how in WAYS:
        with restored(weights) as before, torch.no_grad():
            for name, w in weights.items():
                w.copy_(splits[name].denoised(how))
            left, whole = (sum(w.double().square().sum().item() for w in some.values()) for some in (weights, before))
            rise = ask.asked() - ask.own
        yield {"what": "shrunk", "how": how, "energy": brief(1 - left / whole), "rise": brief(rise)}


def _tenths(ask: _Curves, model: nn.Module, weights: dict[str, torch.Tensor]) -> list[dict]:
    splits, rows = _splits(weights), []
    tenths = [(place / 10, (place + 1) / 10) for place in range(10)]
    for stand_in in ("noise", "zero"):
        found = ask(weights, splits, tenths, stand_in)
        rows += [{"what": "tenth", "stand_in": stand_in} | row | {"share": row["share"][0]} for row in found]
    every = pruning.input_norms(model, list(weights), ask.asked)
    along = pruning.input_norms(model, list(weights), ask.asked, {name: one.directions for name, one in splits.items()})
    met, carried = np.zeros(10), np.zeros(10)
    for name, split in splits.items():
        square = along[name].double().cpu().numpy()[::-1] ** 2  # from the least direction to the largest
        out = square * split.singular_values[::-1] ** 2
        places = [slice(*(round(end * len(square)) for end in tenth)) for tenth in tenths]
        usual = every[name].double().square().mean().item()
        met += np.array([square[place].mean() / usual for place in places]) / len(splits)
        carried += np.array([out[place].sum() / out.sum() for place in places]) / len(splits)
    for (share, _), one, other in zip(tenths, met, carried, strict=True):
        rows.append({"what": "met", "share": share, "met": brief(one), "carried": brief(other)})
    return rows


def _planted(asked: Asked, weights: dict[str, torch.Tensor], cell: dict) -> list[dict]:
    """A curve of noise of a model whose least directions are noise already."""
    with restored(weights), torch.no_grad():
        square = whole = 0.0
        for name, split in _splits(weights).items():
            part = split.at(PLANTED.get(cell["model"], PLANTED_SHARE))
            weights[name].copy_(part.replaced("noise", replace.rng([cell["seed"], 10_007], name)))
            square, whole = square + part.square, whole + part.whole
        ask = _Curves(asked, asked(), cell)
        rows = ask(weights, _splits(weights), _shares(cell), "noise", PLANTED_DRAWS)
    rows[0] |= {"own": brief(ask.own)}
    return [{"what": "planted", "planted": brief(square / whole)} | row for row in rows]


def _untrained(cell: dict) -> list[dict]:
    """The lab's model before training."""
    if cell["model"] in optimal.PUBLISHED:
        return []
    model = start_of(config(cell, gain=GAIN)).eval()
    asked, weights = Asked(model, cell), _weights(model, cell)
    own = asked()
    (row,) = _Curves(asked, own, cell)(weights, _splits(weights), [1.0], "noise")
    return [{"what": "untrained", "own": brief(own), "prior": brief(asked.prior()), "rise": row["rise"]}]


def _groups(ask: _Curves, weights: dict[str, torch.Tensor], matrices: pd.DataFrame) -> list[dict]:
    rows, splits = [], _splits(weights)
    for by, groups in groups_of(matrices[matrices["name"].isin(weights)]).items():
        for group, names in groups.items():
            some = {name: weights[name] for name in names}
            shares = [*GROUP_SHARES, _below({name: splits[name] for name in names})]
            rows += [{"what": "group", "by": by, "group": group} | row for row in ask(some, splits, shares, "noise")]
    return rows


def groups_of(matrices: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """The groups of matrices that are replaced alone: "role" or "depth" → the group's name → names of its matrices.

    Args:
        matrices: columns name, role, depth.
    """
    depths = sorted(matrices["depth"].dropna().unique())
    size = math.ceil(len(depths) / BANDS) if depths else 1
    bands = {depth: depths[place // size * size : place // size * size + size] for place, depth in enumerate(depths)}

    @functools.cache
    def named(depth: float) -> str:
        band = bands[depth]
        return f"{band[0]:.0f}" if len(band) == 1 else f"{band[0]:.0f}–{band[-1]:.0f}"

    placed = matrices.dropna(subset=["depth"])
    return {
        "role": {role: list(some) for role, some in matrices.groupby("role", sort=False)["name"]},
        "depth": {band: list(some) for band, some in placed.groupby(placed["depth"].map(named), sort=False)["name"]},
    }
