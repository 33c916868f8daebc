"""What a loss says when weights are taken away, changed or rounded: the measurements of
`lfmlib.experiments.optimal`."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..lab import choices, models, smollm
from ..lab.problems import problem
from ..losses import outliers, pruning
from ..losses.weights import restored
from ..records.experiment import brief
from ..structure import outlier_places

SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the weights that are pruned, the points of a curve."""
FEW_SHARES = {smollm.NAME: (0.1, 0.2, 0.3, 0.4, 0.5)}
"""Those of models whose loss takes seconds."""
CHOICE_SHARES = (0.1, 0.2, 0.3)
"""Shares that are pruned before SmolLM2 is asked a multiple choice, which takes it minutes each time."""
CHOICE_METHODS = ("magnitude", "noise")
"""Ways of pruning it before that, within each matrix."""
ARMS = {
    "magnitude": ("magnitude", "matrix", 1),
    "magnitude, all together": ("magnitude", "all", 1),
    "Wanda": ("wanda", "row", 1),
    "Wanda, in matrices": ("wanda", "matrix", 1),
    "random": ("random", "matrix", 2),
    "noise": ("noise", "matrix", 1),
}
"""Ways of pruning: method, where weights compete, and draws (see `lfmlib.pruning`). The first is judged."""
LAYER_SHARE = 0.5
"""Share of the weights that is pruned when one layer alone is."""
ROUNDED_BITS = 4
"""Bits that weights are rounded to where quantization is tried."""
RANDOM_SETS = 4
"""Random sets that the outliers of a model are compared with, of each kind."""
CALIBRATION_ITEMS = {"minilm": 64, "decoder": 32, "deep-decoder": 32, "vit": 256, "clip": 64, smollm.NAME: 4}
"""Training examples that Wanda measures inputs on, and that the gradient is taken of."""
HELD_OUT_ITEMS = {"minilm": 4, "decoder": 64, "deep-decoder": 64, "vit": None, "clip": None, smollm.NAME: 4}
"""Held-out examples that a loss is measured on, at most (MiniLM: groups of 64 pairs; SmolLM2: windows of 256 tokens);
None: all."""
TRIED_ENTRIES = 16
"""Single entries that are zeroed one at a time: so many of the largest, and of those that the gradient points to."""
COMPARED_ENTRIES, SETS_PER_ENTRY = 5, 4
"""Of these, so many of the worst and of the largest are compared with random sets of entries, so many each."""


class Asked:
    """A model's held-out loss, as a function without arguments; ``scores`` keeps the score of every call."""

    def __init__(self, model: nn.Module, cell: dict):
        self.model, self.task, self.scores = model, problem(cell["model"], cell["task"]), []
        self.options = {"most": cell.get("items", HELD_OUT_ITEMS[cell["model"]])}
        if cell["model"] in models.PRETRAINED:
            self.options["skip"] = HELD_OUT_ITEMS[cell["model"]] * cell["seed"]

    def __call__(self) -> float:
        """The held-out loss of the model as it is now, in nats."""
        found = self.task.evaluate(self.model, **self.options)
        self.scores.append(found.get("accuracy", math.nan))
        return found["loss"]

    def prior(self) -> float:
        """The loss of knowing nothing but frequencies, on the same examples."""
        return self.task.prior(**self.options)


def curves(asked: Asked, model: nn.Module, weights: dict[str, torch.Tensor], cell: dict) -> list[dict]:
    """Rows of pruning curves, of every arm."""
    seen = asked.task.batch(cell["seed"] + 10_007, 0, CALIBRATION_ITEMS[cell["model"]])
    norms = pruning.input_norms(model, list(weights), lambda: asked.task.loss(model, seen))
    rows, shares = [], FEW_SHARES.get(cell["model"], SHARES)
    for arm, (method, within, draws) in ARMS.items():
        asked.scores.clear()
        found = pruning.curve(
            asked, weights, shares, method=method, within=within, inputs=norms, draws=draws, seed=cell["seed"]
        )
        for one, scored in zip(found.to_dict("records"), asked.scores[1:], strict=True):
            numbers = {"zeroed": brief(one["zeroed"]), "rise": brief(one["rise"]), "scored": brief(scored)}
            rows.append({"what": "curve", "arm": arm, "draw": int(one["draw"]), "share": one["share"], **numbers})
    return rows


def choice_rows(model: nn.Module, weights: dict[str, torch.Tensor], cell: dict) -> list[dict]:
    """Rows of a multiple choice (`lfmlib.lab.choices`): the share ``scored`` of the ``held`` items, and how many of
    them were ``lost`` and ``gained`` against the model as it is. ``arm`` is the cell's method; "as it is", where
    nothing is pruned; or "docstrings hidden", where nothing is, and the options alone are shown."""
    items, encoder = choices.load()[: cell.get("items")], smollm.tokenizer()
    answers: list[np.ndarray] = []

    def encode(text: str) -> list[int]:
        return encoder.encode(text, add_special_tokens=False).ids

    def wrong(docstrings: bool = True) -> float:
        found = choices.likelihoods(model, encode, items, first=smollm.END, docstrings=docstrings)
        answers.append(choices.right(found, items))
        return 1 - answers[-1].mean()

    def row(arm: str, share: float, zeroed: float, now: np.ndarray) -> dict:
        counts = {"held": len(items), "lost": int((answers[0] & ~now).sum()), "gained": int((now & ~answers[0]).sum())}
        return {
            "what": "choice",
            "arm": arm,
            "share": share,
            "zeroed": brief(zeroed),
            "scored": brief(now.mean()),
        } | counts

    found = pruning.curve(wrong, weights, CHOICE_SHARES, method=cell["method"], seed=cell["seed"])
    rows = [row("as it is", 0.0, 0.0, answers[0])]
    for one, now in zip(found.to_dict("records"), answers[1:], strict=True):
        rows.append(row(cell["method"], one["share"], one["zeroed"], now))
    if cell["method"] == CHOICE_METHODS[0]:
        wrong(docstrings=False)
        rows.append(row("docstrings hidden", 0.0, 0.0, answers[-1]))
    return rows


def layers(asked: Asked, weights: dict[str, torch.Tensor], checkpoint: Checkpoint) -> list[dict]:
    """What half of one layer's weights are worth."""
    depths = pd.Series({info.name: info.depth for info in checkpoint.tensors}).dropna()
    rows, own = [], asked()
    for depth, names in depths.groupby(depths).groups.items():
        some = {name: weights[name] for name in names}
        with restored(some) as before:
            pruning.prune(some, before, LAYER_SHARE, "magnitude")
            rows.append({"what": "layer", "depth": int(depth), "share": LAYER_SHARE, "rise": brief(asked() - own)})
    return rows


def damage(asked: Asked, weights: dict[str, torch.Tensor], cuts: dict[str, float], seed: int) -> list[dict]:
    """Rows about outliers that are changed, beside random sets; and about weights that are rounded."""
    masks = {name: outlier_places.beyond(w, cuts[name]) for name, w in weights.items()}
    total, own = sum(w.numel() for w in weights.values()), asked()

    def row(entries: str, change: str, chosen: dict[str, torch.Tensor], draw: int = 0) -> dict:
        share = sum(int(mask.sum()) for mask in chosen.values()) / total
        rise = outliers.damage(asked, weights, chosen, change, cuts=cuts, own=own)
        about = {"what": "damage", "entries": entries, "change": change, "draw": draw}
        return about | {"sets": brief(share), "rise": brief(rise)}

    rows = [row("outliers", change, masks) for change in outliers.CHANGES]
    for draw in range(RANDOM_SETS):
        for entries, choose in (("as many", outliers.as_many), ("as large", outliers.as_large)):
            chosen = {
                name: choose(w, masks[name], np.random.default_rng([seed, draw, *name.encode()]))
                for name, w in weights.items()
            }
            rows += [row(entries, change, chosen, draw) for change in ("zeroed", "amplified")]
    for range_of in outliers.RANGES:
        with restored(weights) as before, torch.no_grad():
            for name, w in weights.items():
                w.copy_(outliers.quantized(before[name], ROUNDED_BITS, range_of, cuts[name]))
            rows.append({"what": "quantized", "range_of": range_of, "rise": brief(asked() - own)})
    return rows


def singles(asked: Asked, weights: dict[str, torch.Tensor], cell: dict) -> list[dict]:
    """Single entries, zeroed one at a time: the largest in standard deviations, and those with the largest product of
    weight and gradient (on training data), half and half.

    Rows: ``tensor``, ``row``, ``column``, ``size`` in standard deviations, how it was ``found``, the ``rise``; of the
    worst and of the largest also ``beside``: the mean rise when random entries of the same matrix, of the same squared
    norm, are zeroed instead.
    """
    checkpoint = open_checkpoint(asked.model).only(list(weights))
    chosen = outlier_places.largest(checkpoint, list(weights), TRIED_ENTRIES).assign(found="size")
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
    for row in rows[:COMPARED_ENTRIES] + [
        row for row in by_size[:COMPARED_ENTRIES] if row not in rows[:COMPARED_ENTRIES]
    ]:
        w, mask = weights[row["tensor"]], _one(weights[row["tensor"]], row)
        rises = []
        for draw in range(SETS_PER_ENTRY):
            rng = np.random.default_rng([cell["seed"], draw, row["row"], row["column"], *row["tensor"].encode()])
            rises.append(outliers.damage(asked, {"": w}, {"": outliers.as_large(w, mask, rng)}, "zeroed", own=own))
        row["beside"] = brief(float(np.mean(rises)))
    # in the lab MiniLM is part of a classifier; a record has the names of its checkpoint
    prefix = "encoder." if cell["model"] in models.PRETRAINED else ""
    return [row | {"tensor": row["tensor"].removeprefix(prefix)} for row in rows]


def _pulled(asked: Asked, weights: dict[str, torch.Tensor], cell: dict) -> pd.DataFrame:
    """The entries with the largest product of weight and gradient."""
    model = asked.model
    model.zero_grad(set_to_none=True)
    asked.task.loss(model, asked.task.batch(cell["seed"] + 10_007, 1, CALIBRATION_ITEMS[cell["model"]])).backward()
    rows = []
    for name, w in weights.items():
        product = (w.detach() * w.grad).abs().flatten()
        for value, place in zip(*(part.tolist() for part in product.topk(TRIED_ENTRIES)), strict=True):
            row, column = divmod(place, w.shape[1])
            size = ((w[row, column] - w.mean()) / w.std(correction=0)).item()
            rows.append((name, row, column, size, value))
    model.zero_grad(set_to_none=True)
    found = pd.DataFrame(rows, columns=["tensor", "row", "column", "size", "product"])
    return found.nlargest(TRIED_ENTRIES, "product").drop(columns="product")


def _one(w: torch.Tensor, entry: dict) -> torch.Tensor:
    """A mask that holds one entry."""
    mask = torch.zeros_like(w, dtype=torch.bool)
    mask[entry["row"], entry["column"]] = True
    return mask
