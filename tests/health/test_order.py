"""Exchanged layers are found where layers tell their order, and where they do not, none is named."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

import lfmlib
from lfmlib.chapters import ch13_report
from lfmlib.health.order import layer_order, profiles


def model(layers: int, width: int, rng: np.random.Generator, drift: float = 0.4) -> dict[str, torch.Tensor]:
    """Matrices whose columns' scales walk slowly with depth, as in a trained transformer."""
    scale = 0.5 * rng.standard_normal(width)
    tensors = {}
    for i in range(layers):
        scale = scale * np.sqrt(1 - drift**2) + drift * 0.5 * rng.standard_normal(width)
        for role in ("q_proj", "up_proj"):
            tensors[f"layers.{i}.{role}.weight"] = torch.tensor(
                np.exp(scale) * rng.standard_normal((96, width))
            ).float()
    return tensors


def exchanged(tensors, i, j):
    def renamed(name):
        parts = name.split(".")
        parts[1] = {str(i): str(j), str(j): str(i)}.get(parts[1], parts[1])
        return ".".join(parts)

    return {renamed(name): value for name, value in tensors.items()}


@pytest.mark.parametrize(("i", "j"), [(0, 7), (2, 6), (3, 9), (4, 5)])
def test_a_planted_exchange_is_named(i, j):
    tensors = model(10, 256, np.random.default_rng(3))
    found = layer_order(profiles(lfmlib.open_checkpoint(exchanged(tensors, i, j))))
    assert found.judged
    best = found.exchanged.iloc[0]
    if abs(i - j) > 1:
        assert (best["first"], best["second"]) == (i, j)
    else:  # neighbours that changed places are the hardest: named rightly, or not at all
        assert len(found.exchanged) == 0 or (best["first"], best["second"]) == (i, j)


@pytest.mark.parametrize("seed", range(6))
def test_layers_in_order_are_not_named(seed):
    found = layer_order(profiles(lfmlib.open_checkpoint(model(10, 256, np.random.default_rng(seed)))))
    assert found.judged and found.exchanged.empty


def test_hurt_layers_are_left_out_and_the_others_keep_their_numbers():
    tensors = exchanged(model(12, 256, np.random.default_rng(3)), 2, 9)
    for name in tensors:
        if ".4." in name:
            tensors[name] = torch.zeros_like(tensors[name])
    found = layer_order(profiles(lfmlib.open_checkpoint(tensors), without={4}))
    assert found.judged and 4 not in found.similarity.index
    assert tuple(found.exchanged.loc[0, ["first", "second"]]) == (2, 9)


def test_noise_has_no_order():
    rng = np.random.default_rng(0)
    tensors = {f"layers.{i}.q_proj.weight": torch.tensor(rng.standard_normal((64, 128))) for i in range(8)}
    found = layer_order(profiles(lfmlib.open_checkpoint(tensors)))
    assert not found.judged and found.exchanged.empty


def test_too_few_layers_and_no_layers():
    assert profiles(lfmlib.open_checkpoint({"a": torch.randn(8, 8)})) == {}
    with pytest.raises(ValueError, match="at least four"):
        layer_order({})


def test_on_the_real_model_an_exchange_is_named_rightly_or_not_at_all():
    found = profiles(lfmlib.open_checkpoint("minilm"))
    assert layer_order(found).exchanged.empty
    named = 0
    for i, j in combinations(range(6), 2):
        order = list(range(6))
        order[i], order[j] = j, i
        result = layer_order({role: one.iloc[order].set_axis(one.index) for role, one in found.items()})
        if len(result.exchanged):
            best = result.exchanged.iloc[0]
            assert (best["first"], best["second"]) == (i, j)
            named += 1
    assert named >= 8  # of 15: six layers are few to tell how unlike they are by themselves, or to be judged at all


def unlike(found: dict[str, pd.DataFrame], at: int, kept: float, rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    """The same profiles, of which one layer's are those of no other but for a part."""
    result = {}
    for role, one in found.items():
        values = one.to_numpy().copy()
        fresh = values[at].std() * rng.standard_normal(values.shape[1])
        values[at] = kept * values[at] + np.sqrt(1 - kept**2) * fresh
        result[role] = pd.DataFrame(values, index=one.index)
    return result


def test_a_layer_unlike_all_others_is_no_exchanged_one():
    """The sum over neighbours alone names a pair in most of these."""
    rng, wrong = np.random.default_rng(0), {}
    models = [profiles(lfmlib.open_checkpoint(model(10, 256, np.random.default_rng(seed)))) for seed in range(4)]
    for kept in (0.0, 0.5, 0.7):
        cases = [unlike(found, at, kept, rng) for found in models for at in (1, 2, 7, 8)]
        wrong[kept] = sum(len(layer_order(case, draws=100).exchanged) > 0 for case in cases)
    assert max(wrong.values()) <= 2, wrong  # of 16 each
    mini = profiles(lfmlib.open_checkpoint("minilm"))
    cases = [unlike(mini, at, kept, rng) for at in (1, 2, 3, 4) for kept in (0.0, 0.5)]
    assert sum(len(layer_order(case, draws=100).exchanged) > 0 for case in cases) <= 1


def test_and_exchanged_layers_are_still_named():
    named = []
    for seed in range(3):
        found = profiles(lfmlib.open_checkpoint(model(10, 256, np.random.default_rng(seed))))
        for i, j in ((0, 9), (1, 2), (0, 3), (1, 4), (2, 8), (3, 4)):
            order = list(range(10))
            order[i], order[j] = j, i
            result = layer_order({role: one.iloc[order].set_axis(one.index) for role, one in found.items()}, draws=100)
            named.append(len(result.exchanged) > 0 and tuple(result.exchanged.loc[0, ["first", "second"]]) == (i, j))
    assert np.mean(named) >= 0.9


def test_exchanges_are_tried_on_a_model_put_in_order():
    tensors = exchanged(model(12, 256, np.random.default_rng(3)), 2, 9)
    words = ch13_report.exchange_test(
        lfmlib.open_checkpoint(tensors), pd.DataFrame(columns=["role", "depth", "state"]), 0, 0, most=4
    )
    assert "put in order before" in words and " 0 wrongly" in words
