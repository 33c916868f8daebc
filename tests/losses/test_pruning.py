"""Pruning against PyTorch's own, Wanda by hand, curves of a loss that is known, weights restored whatever happens."""

import math

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as reference

from lfmlib import pruning


def made(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(12, 20, generator=g), "b": 3 * torch.randn(30, 8, generator=g)}


@given(st.integers(0, 50), st.floats(0, 1))
def test_magnitude_pruning_is_pytorchs(seed, share):
    weights = made(seed)
    before = {name: w.clone() for name, w in weights.items()}
    pruning.prune(weights, before, share, "magnitude")
    for name, w in before.items():
        layer = nn.Linear(w.shape[1], w.shape[0])
        layer.weight = nn.Parameter(w.clone())
        reference.l1_unstructured(layer, "weight", amount=round(share * w.numel()))
        assert torch.equal(weights[name], layer.weight.detach())


@given(st.lists(st.integers(0, 5), min_size=3, max_size=60), st.floats(0, 1))
def test_of_equal_scores_the_first_go(values, share):
    rows = torch.tensor([values, values[::-1]], dtype=torch.float32)
    count = round(share * len(values))
    first = rows.argsort(dim=1, stable=True)[:, :count]
    assert torch.equal(
        pruning._smallest(rows, share), torch.zeros(rows.shape, dtype=torch.bool).scatter_(1, first, True)
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_pruning_all_together_is_pytorchs_global_pruning(share):
    weights = made()
    layers = {name: nn.Linear(w.shape[1], w.shape[0]) for name, w in weights.items()}
    for name, layer in layers.items():
        layer.weight = nn.Parameter(weights[name].clone())
    chosen = [(layer, "weight") for layer in layers.values()]
    reference.global_unstructured(chosen, reference.L1Unstructured, amount=share)
    zeroed = pruning.prune(weights, {k: w.clone() for k, w in weights.items()}, share, "magnitude", "all")
    assert zeroed == pytest.approx(share, abs=1 / 480)
    for name, layer in layers.items():
        assert torch.equal(weights[name], layer.weight.detach())


def test_wanda_is_magnitude_times_the_norm_of_the_input_row_by_row():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    data = torch.randn(2, 5, 6) * torch.tensor([5.0, 1, 1, 1, 1, 0.01])
    norms = pruning.input_norms(model, ["0.weight", "2.weight"], lambda: model(data))
    assert torch.allclose(norms["0.weight"], data.flatten(0, 1).norm(dim=0), rtol=1e-5)
    weights = {name: p for name, p in model.named_parameters() if name in norms}
    before = {name: w.detach().clone() for name, w in weights.items()}
    pruning.prune(weights, before, 0.5, "wanda", "row", norms)
    score = before["0.weight"].abs() * norms["0.weight"]
    for row in range(4):
        gone = torch.nonzero(weights["0.weight"][row] == 0).flatten().tolist()
        assert gone == sorted(score[row].argsort()[:3].tolist())


def test_a_quadratic_loss_rises_by_what_is_taken():
    weights = made()
    before = {name: w.clone() for name, w in weights.items()}

    def loss() -> float:
        return 1 + sum((w - before[name]).double().square().sum().item() for name, w in weights.items())

    found = pruning.curve(loss, weights, [0.0, 0.3, 1.0], within="matrix")
    small = sum(
        w.flatten().abs().sort().values[: round(0.3 * w.numel())].double().square().sum() for w in before.values()
    )
    whole = sum(w.double().square().sum() for w in before.values())
    assert found["rise"].tolist() == pytest.approx([0, float(small), float(whole)], rel=1e-6)
    assert found["zeroed"].tolist() == pytest.approx([0, 0.3, 1]) and found.attrs["loss"] == 1
    noise = pruning.curve(loss, weights, [0.3], method="noise", draws=40)
    assert noise["rise"].mean() == pytest.approx(float(small), rel=0.05)  # as large, and nothing is zero
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_random_pruning_is_seeded_by_draw_and_name():
    def taken(seed: int, draws: int) -> list[float]:
        weights = made()
        return pruning.curve(
            lambda: weights["a"].sum().item(), weights, [0.5], method="random", draws=draws, seed=seed
        )["rise"].tolist()

    assert taken(0, 3) == taken(0, 3) != taken(1, 3)
    assert taken(0, 3)[:2] == taken(0, 2) and len(set(taken(0, 3))) == 3


def test_weights_come_back_and_ctrl_c_keeps_what_is_done():
    weights, calls = made(), []
    before = {name: w.clone() for name, w in weights.items()}

    def loss() -> float:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return 1.0

    found = pruning.curve(loss, weights, [0.1, 0.2, 0.3, 0.4])
    assert found["share"].tolist() == [0.1, 0.2]
    assert all(torch.equal(weights[name], before[name]) for name in weights)


@pytest.mark.parametrize(
    ("rises", "bound", "expected"),
    [
        ([0.0, 0.0, 0.02, 0.1], 0.01, 0.25),
        ([-0.1, -0.1, -0.1, -0.1], 0.01, 0.4),  # never crossed: the last that was measured
        ([0.02, 0.0, 0.0, 0.0], 0.01, 0.05),  # the first crossing counts, whatever comes after
        ([0.0, math.nan, 1.0, 1.0], 0.01, 0.1),  # what is no number has crossed
        ([-0.1, -0.1, -0.1, math.nan], -0.2, 0.0),  # a model that knows less than what is trivial has nothing to lose
    ],
)
def test_the_largest_share_is_where_the_curve_first_crosses(rises, bound, expected):
    found = pd.DataFrame({"draw": 0, "share": [0.1, 0.2, 0.3, 0.4], "rise": rises})
    assert pruning.largest_share(found, bound) == pytest.approx(expected)


def test_a_draw_that_overflows_has_crossed_whatever_the_others_did():
    found = pd.DataFrame({"draw": [0, 0, 1, 1], "share": [0.1, 0.2] * 2, "rise": [0.0, 0.0, 0.0, math.nan]})
    assert pruning.largest_share(found, 0.01) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": [1.5]}, r"1.5 is no share of the weights"),
        ({"shares": 0.5}, r"shares is 0.5: expected a list of numbers"),
        ({"draws": 0}, r"draws is 0: expected a whole number, 1 or more"),
        ({"method": "best"}, r"unknown method 'best': expected one of magnitude, random, wanda, noise"),
        ({"within": "layer"}, r"unknown place to compare scores 'layer': expected one of row, matrix, all"),
        ({"method": "wanda"}, r"Wanda needs the norms of the inputs of a: pass inputs="),
        ({"weights": {}}, r"there are no weights to prune"),
        ({"loss": lambda: math.nan}, r"the loss is nan before anything is pruned"),
    ],
)
def test_bad_input_says_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        pruning.curve(**({"loss": lambda: 1.0, "weights": made(), "shares": [0.5]} | options))


def test_inputs_are_those_of_linear_layers():
    model = nn.ModuleDict({"e": nn.Embedding(4, 3), "l": nn.Linear(3, 3)})
    with pytest.raises(ValueError, match=r"e.weight is no linear layer’s weight"):
        pruning.input_norms(model, ["e.weight"], lambda: None)
    with pytest.raises(ValueError, match=r"l.bias is no linear layer’s weight"):
        pruning.input_norms(model, ["l.bias"], lambda: None)
    with pytest.raises(ValueError, match=r"no input reached l.weight"):
        pruning.input_norms(model, ["l.weight"], lambda: None)
    norms = pruning.input_norms(model, ["l.weight"], lambda: model["l"](torch.ones(4, 3)))
    assert norms["l.weight"].tolist() == [2, 2, 2]


def test_wanda_does_not_see_padding():
    layer = torch.nn.Linear(3, 2)

    class Padded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(layer)

        def forward(self, x, attention_mask=None):
            return self.inner(x)

    model, x = Padded(), torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 2])[:, None]

    def seen(run) -> torch.Tensor:
        return pruning.input_norms(model, ["inner.0.weight"], run)["inner.0.weight"]

    assert torch.allclose(seen(lambda: model(x, attention_mask=mask.long())), x[mask].norm(dim=0))
    assert torch.allclose(seen(lambda: model(x)), x.flatten(0, 1).norm(dim=0))
    both = seen(lambda: (model(x, attention_mask=mask.long()), model(x)))  # a mask is forgotten with its call
    assert torch.allclose(both, (x[mask].square().sum(0) + x.square().sum((0, 1))).sqrt())
