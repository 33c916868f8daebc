"""Outliers: sets of the size and norm asked for, damage that is known, planted places found, a quantizer's levels."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lfmlib
from lfmlib import outliers
from lfmlib.structure import outlier_places


def matrix(seed: int = 0, shape=(60, 80)) -> torch.Tensor:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    w[3, 5], w[7, 5] = 20.0, -15.0
    return w


@given(st.integers(0, 200))
def test_random_sets_have_the_number_or_the_norm_and_no_outlier(seed):
    w, rng = matrix(seed), np.random.default_rng(seed)
    mask = outlier_places.beyond(w, 10.0)
    many, large = outliers.as_many(w, mask, rng), outliers.as_large(w, mask, rng)
    assert int(mask.sum()) == int(many.sum()) == 2
    assert not (mask & (many | large)).any()
    norm = w[mask].square().sum()
    assert abs(w[large].square().sum() - norm) <= w[~mask].square().max()
    assert int(large.sum()) == pytest.approx(625, rel=0.2)  # entries of a standard Gaussian


def test_a_set_too_large_to_be_matched_is_all_the_others():
    w = matrix()
    mask = outlier_places.beyond(w, 0.5)
    assert torch.equal(outliers.as_large(w, mask, np.random.default_rng(0)), ~mask)


def test_damage_is_that_of_the_entries_changed_and_weights_come_back():
    w = {"a": matrix(0), "b": matrix(1)}
    before = {name: one.clone() for name, one in w.items()}

    def loss() -> float:
        return sum((one - before[name]).double().square().sum().item() for name, one in w.items())

    masks, cuts = {name: outlier_places.beyond(one, 10.0) for name, one in w.items()}, {"a": 10.0, "b": 12.0}
    assert outliers.damage(loss, w, masks, "zeroed") == pytest.approx(2 * (400 + 225))
    assert outliers.damage(loss, w, masks, "amplified") == pytest.approx(2 * (100 + 56.25))
    assert outliers.damage(loss, w, masks, "clipped", cuts=cuts) == pytest.approx(100 + 25 + 64 + 9)
    assert outliers.damage(loss, w, masks, "zeroed", own=1000.0) == pytest.approx(250)
    assert all(torch.equal(w[name], before[name]) for name in w)
    for change, more in (("clipped", {}), ("erased", {"cuts": cuts})):
        with pytest.raises(ValueError, match=rf"cannot make entries '{change}': expected one of zeroed, clipped"):
            outliers.damage(loss, w, masks, change, **more)


def test_the_largest_entries_are_named_in_std_of_their_own_matrix():
    checkpoint = lfmlib.open_checkpoint({"small": 1e-3 * matrix(0), "large": torch.randn(60, 80)})
    found = outlier_places.largest(checkpoint, ["small", "large"], 3)
    first = found.iloc[0]
    assert (first["tensor"], first["row"], first["column"]) == ("small", 3, 5)
    assert first["value"] == pytest.approx(0.02) and found.iloc[1]["size"] == pytest.approx(-14, abs=1)


def planted(columns: list[int]) -> tuple[lfmlib.Checkpoint, pd.DataFrame]:
    """Queries of four layers with 60 outliers each in given columns, and an output whose rows they are."""
    rng, made = np.random.default_rng(0), {}
    for layer, column in enumerate(columns):
        w = torch.tensor(rng.standard_normal((200, 200))).float()
        w[rng.choice(200, 60, replace=False), column] = 12.0
        made[f"model.layers.{layer}.self_attn.q_proj.weight"] = w
        if not layer:
            made[f"model.layers.{layer}.self_attn.o_proj.weight"] = w.T.contiguous()
    checkpoint = lfmlib.open_checkpoint(made)
    return checkpoint, lfmlib.laws(checkpoint, progress=False)


def test_planted_places_are_found():
    found = outlier_places.places(*planted([5, 5, 5, 5])).set_index("role")
    assert (found.loc["q", "columns"] > 0.6).all() and (found["columns_noise"] < 0.2).all()
    assert found.loc["o", "rows"] > 0.6 > 0.2 > found.loc["o", "columns"]
    assert (found["largest"] > 5).all()


def test_outliers_that_line_up_are_told_from_those_that_do_not():
    together, apart = (outlier_places.line_up(*planted(columns)) for columns in ([5, 5, 5, 5], [5, 50, 100, 150]))
    assert (together["there"] > 0.6).all() and (together["chance"] == 0.01).all() and len(together) == 5
    assert (
        apart["there"].mean() < 0.25
    )  # 150 and the like never, but o and q of layer 0 are not held against each other
    assert outlier_places.line_up(*planted([5])).empty


@given(st.integers(0, 100), st.integers(2, 8))
def test_a_quantizer_has_its_levels_and_is_at_most_half_a_step_off(seed, bits):
    w = matrix(seed)
    whole, clipped, kept = (outliers.quantized(w, bits, one, 10.0) for one in outliers.RANGES)
    for made, reach in ((whole, 20.0), (clipped, 10.0)):
        step = reach / (2 ** (bits - 1) - 1)
        assert len(made.unique()) <= 2**bits - 1 and made.abs().max() <= reach * 1.0001
        inside = w.abs() <= reach
        assert (made - w)[inside].abs().max() <= step / 2 * 1.001
    assert torch.equal(kept[w.abs() > 10], w[w.abs() > 10])
    assert torch.equal(kept[w.abs() <= 10], clipped[w.abs() <= 10])
    assert torch.equal(outliers.quantized(w, bits, outliers.RANGES[1], math.inf), whole)
    with pytest.raises(ValueError, match=r"unknown range 'half': expected one of all, core"):
        outliers.quantized(w, bits, "half", 1.0)
    with pytest.raises(ValueError, match=r"bits is 1: expected at least 2"):
        outliers.quantized(w, 1, "all", 1.0)


@pytest.mark.parametrize(
    ("masks", "change", "cuts", "message"),
    [
        ({}, "zeroed", None, "masks has none of w"),
        ({"w": torch.ones(1, 2, dtype=torch.bool)}, "clipped", {}, "cuts has none of w"),
        ({"w": torch.ones(1, 2, dtype=torch.bool)}, "clipped", None, "to clip, pass cuts="),
    ],
)
def test_what_is_missing_is_named(masks, change, cuts, message):
    weights = {"w": torch.tensor([[1.0, 5.0]])}
    with pytest.raises(ValueError, match=message):
        lfmlib.outliers.damage(lambda: float(weights["w"].sum()), weights, masks, change, cuts=cuts)
    assert weights["w"].tolist() == [[1.0, 5.0]]
