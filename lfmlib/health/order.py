"""Whether the layers of a checkpoint stand in their order, told by the similarity of neighbouring layers.

The profile of a layer is the logarithm of the column norms of a matrix that reads the residual stream (q, k, v, gate,
up): how much weight the matrix gives to each dimension of the stream. In a trained transformer profiles change slowly
with depth. Two layers that were exchanged are found because exchanging them back raises the similarity, the correlation
of profiles, of neighbours. How large a rise is by chance is estimated by drawing the dimensions of the stream again
(bootstrap). Layers that are damaged otherwise are left out; those beside them then count as neighbours.

A layer near an end that is unlike all others also raises the similarity of neighbours when it is moved to the end,
without having been exchanged. So each layer of a pair must fit its new place: it must be more alike to its neighbours
there than to its present ones, beyond chance, or nearly as alike as the least alike neighbours among the other layers.
(A layer that has one neighbour, and gets two, needs no such test: its gain is in the sum already.)
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
FALSE_ALARMS = 0.01
"""Share of models in order in which the whole search names a pair, if no exchange makes their neighbours more alike."""
MIN_FIT_Z = float(-special.ndtri(FALSE_ALARMS))
"""Standard errors by which a layer must be more alike to its new neighbours than to its present ones."""
MIN_FIT_SHARE = 0.9
"""Or its similarity to its new neighbours, as a share of the least similarity of other neighbours. For a layer unlike
all others this is near 0; for the first layer of MiniLM, as alike to the fourth as to the second, 1.1. Column norms of
few rows scatter: with 128 rows it is 0.8 for that layer, with 42 rows 0.65, and its exchanges are not seen."""


@dataclass(frozen=True)
class Order:
    """What `layer_order` found.

    Attributes:
        similarity: mean correlation of the profiles; index and columns are the depths that were compared.
        neighbours, distant: mean similarity of neighbours, and of layers at least a third of the depth apart.
        judged: whether neighbours are more alike than distant layers, so that an order can be seen at all.
        exchanged: one row for each pair whose exchange makes neighbours more alike, beyond chance, and whose layers fit
            their new places, the best first. Columns: first, second (depths); gain, in summed correlation; z, the gain
            in standard errors. Empty where the pair with the largest gain does not fit.
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
        rows: largest number of rows of each matrix that are read.
        without: depths of layers to leave out, since they are damaged.

    Returns:
        Role → table with the depths as index and a column for each dimension of the stream; for the roles that every
        layer of the largest tower has once.
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
    """Look for pairs of layers that were exchanged.

    Args:
        found: from `profiles`.
        draws: number of bootstrap draws of the dimensions.
        seed: of the draws.

    Raises:
        ValueError: fewer than four layers.

    Examples:
        >>> from lfmlib.health.order import layer_order, profiles
        >>> order = layer_order(profiles(lfmlib.open_checkpoint("minilm"), rows=64), draws=50)
        >>> order.judged, len(order.exchanged)
        (True, 0)
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
    beyond = -special.ndtri(FALSE_ALARMS / len(table))  # corrected for the number of pairs (Bonferroni)
    named = table[(table["z"] > beyond)].sort_values("gain", ascending=False) if judged else table.iloc[:0]
    # Where the pair with the largest gain does not fit, a layer is unlike all others, and causes the other gains too.
    named = named[named["fits"] & bool(named["fits"].head(1).all())].drop(columns="fits")
    alike, unlike = float(similarity[near].mean()), float(similarity[far].mean())
    labelled = pd.DataFrame(similarity, depths, depths)
    return Order(labelled, alike, unlike, judged, named.reset_index(drop=True))


def _similarity(found: Mapping[str, pd.DataFrame], rng: np.random.Generator | None) -> np.ndarray:
    """Mean over the roles of the correlation between layers; with a generator, of one bootstrap draw of dimensions."""
    each = []
    for profile in (one.to_numpy() for one in found.values()):
        width = profile.shape[1]
        each.append(np.corrcoef(profile if rng is None else profile[:, rng.integers(width, size=width)]))
    return np.mean(each, axis=0)


def _neighbours(similarity: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sum of the similarities ``(…, layers, layers)`` of neighbours in an order."""
    return similarity[..., order[:-1], order[1:]].sum(-1)


def _fits(similarity: np.ndarray, drawn: np.ndarray, old: np.ndarray, new: np.ndarray, layer: int) -> bool:
    """Whether a layer fits its place in a new order (see the module).

    Args:
        similarity: ``(layers, layers)``.
        drawn: the same for each bootstrap draw, ``(draws, layers, layers)``.
        old, new: orders of the layers.
        layer: index of the layer in the similarity.
    """
    here, there = (_beside(order, layer) for order in (old, new))
    if len(there) > len(here):
        return True
    gains = drawn[:, layer, there].mean(-1) - drawn[:, layer, here].mean(-1)
    alike = similarity[layer, there].mean()
    others = [similarity[a, b] for a, b in pairwise(new) if layer not in (a, b)]
    own = (alike - similarity[layer, here].mean()) / max(gains.std(), 1e-12)
    return bool(own > MIN_FIT_Z or alike >= MIN_FIT_SHARE * min(others))


def _beside(order: np.ndarray, layer: int) -> list[int]:
    return [b if a == layer else a for a, b in pairwise(order) if layer in (a, b)]
