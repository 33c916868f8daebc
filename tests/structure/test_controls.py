"""Controls: each keeps what it says it keeps, and nothing else; scales are found and priced."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lfmlib
from lfmlib.structure.controls import CONTROLS, control, rescaled, scale_gain

RNG = np.random.default_rng(0)
W = RNG.standard_normal((60, 90)) * np.exp(0.4 * RNG.standard_normal((60, 1))) + 0.1


@settings(max_examples=15)
@given(st.integers(0, 999), st.sampled_from(["float32", "bfloat16", "float16", "float64", "float8_e5m2"]))
def test_permuting_keeps_the_values_and_the_type(seed, dtype):
    w = torch.tensor(W, dtype=getattr(torch, dtype))
    mixed = control(w, "permuted", seed=seed)
    within = control(w, "rows-permuted", seed=seed)
    assert mixed.dtype == within.dtype == w.dtype
    w, mixed, within, again = (one.double() for one in (w, mixed, within, control(w, "rows-permuted", seed=seed)))
    assert not torch.equal(mixed, w) and not torch.equal(within, w)
    assert torch.equal(mixed.flatten().sort().values, w.flatten().sort().values)
    assert torch.equal(within.sort(dim=1).values, w.sort(dim=1).values)
    assert torch.equal(within, again)


def test_every_order_of_a_row_is_as_likely():
    w = torch.arange(3.0).expand(6000, 3).clone()
    found = control(w, "rows-permuted", seed=3)
    orders, counts = np.unique(found.numpy(), axis=0, return_counts=True)
    assert len(orders) == 6 and counts.min() > 850


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_noise_has_the_mean_the_scale_and_the_type(dtype):
    w = torch.tensor(W, dtype=dtype)
    noise = control(w, "fresh", seed=1)
    assert noise.dtype == dtype and noise.shape == w.shape
    assert noise.double().mean() == pytest.approx(W.mean(), abs=4 * W.std() / np.sqrt(W.size))
    assert noise.double().std() == pytest.approx(W.std(), rel=0.05)
    assert lfmlib.normality(noise).kl_bits < 0.01
    assert not torch.equal(noise, control(w, "fresh", seed=2))


def test_measures_take_controls_by_name():
    one = lfmlib.iid(W, controls="permuted")
    assert list(one.controls) == ["permuted"] and one.row_share > 0.1
    assert one.controls["permuted"].row_share == pytest.approx(59 / (W.size - 1), abs=0.02)
    several = lfmlib.spectrum(W, controls=CONTROLS)
    assert list(several.controls) == list(CONTROLS)
    assert several.controls["fresh"].null == several.null
    assert not several.controls["fresh"].controls


@pytest.mark.parametrize("call", [lambda: control(W, "shuffled"), lambda: lfmlib.iid(W, controls=["permuted", "x"])])
def test_an_unknown_control_is_refused(call):
    with pytest.raises(ValueError, match=r"unknown control .*: expected one of rescaled, rows-permuted, permuted"):
        call()


def test_rescaling_leaves_rows_and_columns_of_one_scale():
    left = rescaled(W).square()
    assert left.mean(0).numpy() == pytest.approx(np.ones(90)) and left.mean(1).numpy() == pytest.approx(np.ones(60))
    assert torch.equal(control(W, "rescaled"), rescaled(W))


@pytest.mark.parametrize("axis", [0, 1])
def test_the_price_of_unequal_scales_is_the_coding_gain(axis):
    rng = np.random.default_rng(5)
    scales = np.exp(0.5 * rng.standard_normal((400, 300)[axis]))
    w = rng.standard_normal((400, 300)) * (scales[:, None] if axis == 0 else scales)
    expected = (np.log2(np.mean(scales**2)) - np.mean(np.log2(scales**2))) / 2
    assert scale_gain(w) == pytest.approx(expected, abs=0.02)
    assert 0 <= scale_gain(rng.standard_normal((400, 300))) < 0.01
    w[rng.random(w.shape) < 0.3] = 0.0
    assert np.isfinite(scale_gain(w))
