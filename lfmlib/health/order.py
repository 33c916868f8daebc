"""Whether the layers of a checkpoint stand in their order, told by the similarity of neighbouring layers.

The profile of a layer is the logarithm of the column norms of a matrix that reads the residual stream (q, k, v, gate,
up), with the gain of a norm in front of it multiplied in (`lfmlib.health.gains`): how much weight the layer gives to
each dimension of the stream. In a trained transformer profiles change slowly with depth. Two layers that were exchanged
are found because exchanging them back raises the similarity, the correlation of profiles, of neighbours: the pair that
raises the sum over neighbours most is put back, and what is then in order is looked at again.

Other things raise that sum where nothing was exchanged, and each has its bound:

- *Chance*: column norms of few rows scatter. The rise in standard errors, from drawing the dimensions of the stream
  again (bootstrap), corrected for the number of pairs (Bonferroni).
- *Unlikeness*: layers are not equally alike at equal distance, and the largest of many rises is above 0 in many intact
  models. The rise in standard errors of a sum of as many similarities as change, from how those of layers one to three
  apart scatter about their median once the pair is put back.
- *One layer unlike all others* raises the sum when it is moved to an end, where it has one neighbour and not two. So
  the means over the neighbours of both layers must rise as well, by the same bounds, and each layer must fit its new
  place: be more alike to its neighbours there than to its present ones, beyond chance, or nearly as alike as the
  least alike neighbours among the other layers. (One that gets a second neighbour needs no such test.) Of the two
  layers at an end an exchange and one layer unlike all others look the same: none is named.

Layers that are damaged otherwise are left out; those beside them then count as neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from scipy import special

from ..checkpoints.checkpoint import Checkpoint
from .gains import front_norms, gain, reads

FALSE_ALARMS = 0.01
"""Share of models in order in which the whole search names a pair, if no exchange makes their neighbours more alike."""
MIN_RISE = float(special.ndtri(0.95))
"""Standard errors of unlikeness by which an exchange must raise the likeness of neighbours: one-sided 95 %, of the one
pair that raises it most, on top of the bound of chance. Of 288 made models in order, with layers of unlike steps and
parts of their own, three had a pair beyond all bounds; half of them were made after the bounds were set."""
MAX_LAG = 3
"""Largest distance of layers whose similarities that scatter is taken from."""
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
        exchanged: the pairs that are to be put back, one after the other. Columns: first, second (depths as stored);
            gain, in the sum over neighbours; z, the lesser of the two gains (see the module) in standard errors of
            chance; rise, in those of unlikeness.
    """

    similarity: pd.DataFrame
    neighbours: float
    distant: float
    judged: bool
    exchanged: pd.DataFrame


def towers(checkpoint: Checkpoint) -> list[str]:
    """Names of the towers that have layers with matrices that read the residual stream, the one with most first."""
    layers = {(info.tower, info.depth) for info in checkpoint.tensors if reads(info)}
    names = [tower for tower, _ in sorted(layers, key=str)]
    return sorted(dict.fromkeys(names), key=names.count, reverse=True)


def profiles(
    checkpoint: Checkpoint, rows: int = 512, without: Collection[int] = (), tower: str | None = None
) -> dict[str, pd.DataFrame]:
    """Logarithms of the column norms of the matrices that read the residual stream, gains multiplied in.

    Args:
        checkpoint: any.
        rows: largest number of rows of each matrix that are read.
        without: depths of layers to leave out, since they are damaged.
        tower: whose layers; default that with most.

    Returns:
        Role → table with the depths as index and a column for each dimension of the stream; for the roles that every
        layer of the tower has. Of several matrices of a role in a layer, as of experts, the first.

    Raises:
        ValueError: a model was opened without its norms, so that their gains are not known.
    """
    if checkpoint.config and not any(info.role == "norm" for info in checkpoint.tensors):
        raise ValueError("no norm is among the tensors, so the gains in front of the matrices are not known")
    tower = next(iter(towers(checkpoint)), "") if tower is None else tower
    found: dict[tuple, dict[int, str]] = {}
    for info in checkpoint.tensors:
        if info.tower == tower and reads(info) and info.depth is not None:
            found.setdefault((info.role, info.shape[1]), {}).setdefault(info.depth, info.name)
    every = set().union(*found.values())
    norms, result = front_norms(checkpoint), {}
    for (role, _), names in found.items():
        if set(names) == every and (kept := sorted(every - set(without))):
            # Of a role, all matrices have a norm in front or none has: what a selection lacks would look like a layer.
            gained = all(name in norms for name in names.values())
            logs = [_profile(checkpoint, names[depth], rows, norms[names[depth]] if gained else None) for depth in kept]
            result[role] = pd.DataFrame(logs, index=kept)
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
    return Likeness.of(found, draws=draws, seed=seed).order()


@dataclass(frozen=True)
class Likeness:
    """How alike the layers are.

    Attributes:
        depths: of the layers, ``(layers,)``.
        similarity: mean over the roles of the correlation of profiles, ``(layers, layers)``.
        drawn: the same for each bootstrap draw of the dimensions, ``(draws, layers, layers)``.
    """

    depths: np.ndarray
    similarity: np.ndarray
    drawn: np.ndarray

    @classmethod
    def of(cls, found: Mapping[str, pd.DataFrame], *, draws: int = 200, seed: int = 0) -> Likeness:
        """Of profiles; arguments and errors as of `layer_order`."""
        depths = np.array(next(iter(found.values())).index) if found else np.empty(0, dtype=int)
        if len(depths) < 4:
            few = f"{len(depths)} layer{'s' if len(depths) != 1 else ''} of one kind"
            raise ValueError(f"{few}, fewer than four: at least four are needed to see an order")
        rng = np.random.default_rng(seed)
        return cls(depths, _similarity(found, None), np.stack([_similarity(found, rng) for _ in range(draws)]))

    def moved(self, order: np.ndarray) -> Likeness:
        """With the layers in another order, under the depths of before."""
        return Likeness(self.depths, self.similarity[np.ix_(order, order)], self.drawn[:, order][:, :, order])

    def order(self) -> Order:
        """Whether they stand in their order (see the module)."""
        layers = len(self.depths)
        near = np.abs(np.subtract.outer(range(layers), range(layers))) == 1
        far = ~near & (np.abs(np.subtract.outer(self.depths, self.depths)) >= max(2, layers // 3))
        contrast = self.drawn[:, near].mean(1) - self.drawn[:, far].mean(1)
        judged = bool(np.quantile(contrast, 0.005) > 0)
        rows, now, place = [], self, np.arange(layers)
        while judged and len(rows) < layers // 2 and (found := now._best()):
            i, j, figures = found
            rows.append({"first": self.depths[place[i]], "second": self.depths[place[j]]} | figures)
            back = _swapped(layers, i, j)
            now, place = now.moved(back), place[back]
        return Order(
            pd.DataFrame(self.similarity, self.depths, self.depths),
            float(self.similarity[near].mean()),
            float(self.similarity[far].mean()),
            judged,
            pd.DataFrame(rows, columns=["first", "second", "gain", "z", "rise"]),
        )

    def _best(self) -> tuple[int, int, dict[str, float]] | None:
        """The places of the pair whose exchange raises the sum over neighbours most, if it is beyond all bounds."""
        layers = len(self.depths)
        place, pairs = np.arange(layers), np.array(list(combinations(range(layers), 2)))
        orders = np.tile(place, (len(pairs), 1))
        np.put_along_axis(orders, pairs, pairs[:, ::-1], axis=1)
        best = int(_neighbours(self.similarity, orders).argmax())
        order, (i, j) = orders[best], map(int, pairs[best])
        if j - i == 1 and (i == 0 or j == layers - 1):
            return None
        scatter, beyond = self.moved(order)._scatter(), -special.ndtri(FALSE_ALARMS / len(pairs))
        figures = []
        for weights in (_summed(order) - _summed(place), _averaged(order, (i, j)) - _averaged(place, (i, j))):
            gained = float((weights * self.similarity).sum())
            chance, unlike = (weights * self.drawn).sum((1, 2)).std(), scatter * ((weights**2).sum() ** 0.5)
            figures.append((gained, gained / max(float(chance), 1e-12), gained / max(float(unlike), 1e-12)))
        z, rise = (min(one[place] for one in figures) for place in (1, 2))
        if z <= beyond or rise <= MIN_RISE:
            return None
        if not all(_fits(self.similarity, self.drawn, place, order, layer) for layer in (i, j)):
            return None
        return i, j, {"gain": figures[0][0], "z": z, "rise": rise}

    def _scatter(self) -> float:
        """Standard deviation of the similarities of layers at equal distance, from the median deviation."""
        lags = range(1, min(MAX_LAG, len(self.depths) - 1) + 1)
        apart = [np.diagonal(self.similarity, lag) for lag in lags]
        off = np.concatenate([one - np.median(one) for one in apart])
        return float(np.median(np.abs(off)) / special.ndtri(0.75))


def _profile(checkpoint: Checkpoint, name: str, rows: int, norm: str | None) -> np.ndarray:
    """The profile of a matrix from its first rows; a column of zeros counts as the smallest that is none."""
    columns = checkpoint.rows(name, rows).double().norm(dim=0)
    columns = (columns if norm is None else columns * gain(checkpoint, norm).abs()).numpy()
    return np.log(np.maximum(columns, columns[columns > 0].min(initial=1.0)))


def _similarity(found: Mapping[str, pd.DataFrame], rng: np.random.Generator | None) -> np.ndarray:
    """Mean over the roles of the correlation between layers; with a generator, of one bootstrap draw of dimensions."""
    each = []
    for profile in (one.to_numpy() for one in found.values()):
        width = profile.shape[1]
        each.append(np.corrcoef(profile if rng is None else profile[:, rng.integers(width, size=width)]))
    return np.mean(each, axis=0)


def _swapped(layers: int, i: int, j: int) -> np.ndarray:
    """The order in which two layers have changed places."""
    order = np.arange(layers)
    order[[i, j]] = j, i
    return order


def _neighbours(similarity: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sum of the similarities ``(…, layers, layers)`` of neighbours in an order, or in each of several."""
    return similarity[..., order[..., :-1], order[..., 1:]].sum(-1)


def _summed(order: np.ndarray) -> np.ndarray:
    """Weights ``(layers, layers)``, above the diagonal, of the similarities in the sum over neighbours in an order."""
    weights = np.zeros((len(order), len(order)))
    for pair in pairwise(order):
        weights[min(pair), max(pair)] = 1.0
    return weights


def _averaged(order: np.ndarray, layers: tuple[int, int]) -> np.ndarray:
    """The same in the means over the neighbours of two layers."""
    weights = np.zeros((len(order), len(order)))
    for layer in layers:
        beside = _beside(order, layer)
        for other in beside:
            weights[min(layer, other), max(layer, other)] += 1 / len(beside)
    return weights


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
