"""Whether the layers of a checkpoint stand in their order: neighbours are more alike than distant layers.

Every matrix that reads the residual stream (q, k, v, gate, up) weighs its dimensions in its own way, and the logarithm
of its column norms says how. In a trained transformer these profiles change slowly with depth. Layers that were
exchanged stand out: putting them back raises the similarity of neighbours. How much is chance is judged by drawing the
dimensions of the stream again (bootstrap). Layers that were hurt otherwise are left out, and the others compared over
the gap.

A layer that is unlike all others, near an end, is no exchanged one, although moving it to the end raises the similarity
of those that it stood between. So either layer of a pair must fit where it is put: more alike to its neighbours there
than to those it has, beyond chance, or nearly as alike as the least alike neighbours among the other layers. (One that
is put between two where it had one neighbour has its gain in the sum already.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from scipy import special

from ..checkpoints.checkpoint import Checkpoint

READERS = ("q", "k", "v", "qkv", "gate", "up", "gate_up")
"""Roles whose inputs are the residual stream."""
LEVEL = 0.01
"""Of the whole search: a model in order has no pair named in 99 of 100 cases, as far as its neighbours are the most
alike."""
OWN = float(-special.ndtri(LEVEL))
"""Standard errors by which a layer must be more alike to its neighbours in a new place, by that alone."""

NEARLY = 0.9
"""Share of the least similarity of other neighbours at which a layer is at home. One unlike all others has nothing of
it; the first layer of MiniLM, which is as like to the fourth as to the second, has 1.1. Norms of few rows scatter, and
then it has 0.8 (128 rows) or 0.65 (42): its exchanges are not seen there."""


@dataclass(frozen=True)
class Order:
    """What `layer_order` found.

    Attributes:
        similarity: mean correlation of the profiles; index and columns are the layers that were compared.
        neighbours, distant: means of it, of neighbours and of layers at least a third of the depth apart.
        judged: whether neighbours are more alike than distant layers, so that an order can be seen at all.
        exchanged: one row for each pair whose exchange makes neighbours more alike, beyond chance, and that fit where
            they are put, the best first: first, second, gain (in summed correlation), z. Empty where the best of all
            does not fit.
    """

    similarity: pd.DataFrame
    neighbours: float
    distant: float
    judged: bool
    exchanged: pd.DataFrame


def profiles(checkpoint: Checkpoint, rows: int = 512, without: Collection[int] = ()) -> dict[str, pd.DataFrame]:
    """Logarithms of the column norms of the matrices that read the residual stream.

    Args:
        checkpoint: any.
        rows: at most so many of each matrix are read.
        without: depths of layers to leave out, since they were hurt.

    Returns:
        role → index depth, a column for each dimension; for roles that every layer of the largest tower has once.
    """
    found: dict[tuple, dict[int, str]] = {}
    for info in checkpoint.tensors:
        if info.role in READERS and len(info.shape) == 2 and info.depth is not None:
            found.setdefault((info.tower, info.role, info.shape[1]), {}).setdefault(info.depth, info.name)
    every = set(range(max((len(names) for names in found.values()), default=0)))
    result = {}
    for (tower, role, _), names in found.items():
        if set(names) == every and (kept := sorted(every - set(without))):
            norms = [checkpoint.rows(names[depth], rows).double().norm(dim=0).numpy() for depth in kept]
            result[f"{tower} {role}".strip()] = pd.DataFrame(np.log(np.maximum(norms, 1e-30)), index=kept)
    return result


def layer_order(found: Mapping[str, pd.DataFrame], draws: int = 200, seed: int = 0) -> Order:
    """Look for two layers that were exchanged.

    Args:
        found: from `profiles`.
        draws: bootstrap draws of the dimensions.
        seed: of these.

    Raises:
        ValueError: fewer than four layers.
    """
    depths = np.array(next(iter(found.values())).index) if found else np.empty(0, dtype=int)
    layers = len(depths)
    if layers < 4:
        raise ValueError(f"{layers} layers of one kind: at least four are needed to see an order")
    rng = np.random.default_rng(seed)
    similarity = _similarity(found, None)
    drawn = np.stack([_similarity(found, rng) for _ in range(draws)])
    place = np.arange(layers)
    near = np.abs(np.subtract.outer(place, place)) == 1
    far = ~near & (np.abs(np.subtract.outer(depths, depths)) >= max(2, layers // 3))
    contrast = drawn[:, near].mean(1) - drawn[:, far].mean(1)
    judged = bool(np.quantile(contrast, 0.005) > 0)
    rows = []
    for i, j in combinations(range(layers), 2):
        other = place.copy()
        other[[i, j]] = j, i
        gain = _neighbours(similarity, other) - _neighbours(similarity, place)
        scatter = (_neighbours(drawn, other) - _neighbours(drawn, place)).std()
        fits = all(_fits(similarity, drawn, place, other, layer) for layer in (i, j))
        pair = {"first": depths[i], "second": depths[j]}
        rows.append(pair | {"gain": float(gain), "z": float(gain / max(scatter, 1e-12)), "fits": fits})
    table = pd.DataFrame(rows)
    beyond = -special.ndtri(LEVEL / len(table))
    named = table[(table["z"] > beyond)].sort_values("gain", ascending=False) if judged else table.iloc[:0]
    # What fits less well than the best, which does not, is what is left of it: of a layer that is unlike all others.
    named = named[named["fits"] & named["fits"].head(1).all()].drop(columns="fits")
    alike, unlike = float(similarity[near].mean()), float(similarity[far].mean())
    labelled = pd.DataFrame(similarity, depths, depths)
    return Order(labelled, alike, unlike, judged, named.reset_index(drop=True))


def _similarity(found: Mapping[str, pd.DataFrame], rng: np.random.Generator | None) -> np.ndarray:
    """Mean over the roles of the correlations between layers; with a generator, of dimensions drawn anew."""
    each = []
    for profile in (one.to_numpy() for one in found.values()):
        width = profile.shape[1]
        each.append(np.corrcoef(profile if rng is None else profile[:, rng.integers(width, size=width)]))
    return np.mean(each, axis=0)


def _neighbours(similarity: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Summed similarity of neighbours in an order."""
    return similarity[..., order[:-1], order[1:]].sum(-1)


def _fits(similarity: np.ndarray, drawn: np.ndarray, old: np.ndarray, new: np.ndarray, layer: int) -> bool:
    """Whether a layer is at home in a new order (see the module).

    Args:
        similarity: ``(layers, layers)``.
        drawn: the same for each draw, ``(draws, layers, layers)``.
        old, new: orders of the layers.
        layer: the one asked about.
    """
    here, there = (_beside(order, layer) for order in (old, new))
    if len(there) > len(here):
        return True
    gains = drawn[:, layer, there].mean(-1) - drawn[:, layer, here].mean(-1)
    alike = similarity[layer, there].mean()
    others = [similarity[a, b] for a, b in pairwise(new) if layer not in (a, b)]
    own = (alike - similarity[layer, here].mean()) / max(gains.std(), 1e-12)
    return bool(own > OWN or alike >= NEARLY * min(others))


def _beside(order: np.ndarray, layer: int) -> list[int]:
    """The neighbours of a layer in an order."""
    return [b if a == layer else a for a, b in pairwise(order) if layer in (a, b)]
