"""Noise in place of what training added: of the size, type and rank that were asked for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from lfmlib.deltas import stand_ins
from lfmlib.distribution.distances import measure, qq_r2


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_added_noise_keeps_the_type_and_has_the_std(dtype):
    base = torch.randn(300, 400, generator=torch.Generator().manual_seed(0)).mul(0.02).to(dtype)
    made = stand_ins.added(base, 0.004, rng())
    assert made.dtype == dtype and made.shape == base.shape
    assert (made.double() - base.double()).std().item() == pytest.approx(0.004, rel=0.02)
    assert torch.equal(made, stand_ins.added(base, 0.004, rng())) and not torch.equal(
        made, stand_ins.added(base, 0.004, rng(1))
    )


def test_products_of_gaussian_factors_have_their_own_law():
    """Excess kurtosis 6 / rank: the squared length of a row of B has a relative variance of 2 / rank, and so of A."""
    for rank in (4, 16):
        made = stand_ins.low_rank((2000, 1500), rank, 0.5, rng(rank))
        assert made.std(correction=0).item() == pytest.approx(0.5, rel=1e-5)
        assert torch.linalg.matrix_rank(made[:100, :100].double(), rtol=1e-5) == rank
        assert stats.kurtosis(made.numpy().ravel()) == pytest.approx(6 / rank, rel=0.15)
    assert measure(stand_ins.low_rank((500, 500), 1, 1.0, rng()))["kl_bits"] > 0.1
    assert qq_r2(stand_ins.low_rank((500, 500), 400, 1.0, rng())) > 0.999


DELTA = torch.from_numpy(np.random.default_rng(5).laplace(0.001, 0.02, (120, 90)).astype(np.float32))


@pytest.mark.parametrize("kind", stand_ins.STAND_INS)
def test_a_stand_in_has_the_size_of_delta_and_repeats(kind):
    made = stand_ins.stand_in(DELTA, kind, rng())
    assert made.shape == DELTA.shape and made.dtype == torch.float32
    assert torch.equal(made, stand_ins.stand_in(DELTA, kind, rng()))
    if kind != "none":
        assert made.square().mean().sqrt().item() == pytest.approx(DELTA.square().mean().sqrt().item(), rel=0.03)


def test_stand_ins_keep_what_they_say():
    made = {kind: stand_ins.stand_in(DELTA, kind, rng()).double().numpy() for kind in stand_ins.STAND_INS}
    own = DELTA.double().numpy()
    assert np.array_equal(made["trained"], own) and np.array_equal(made["reversed"], -own) and not made["none"].any()
    assert np.array_equal(made["gaussianized"].ravel().argsort(), own.ravel().argsort())
    assert qq_r2(made["gaussianized"].ravel()) > 0.9999 > 0.99 > qq_r2(own.ravel())
    assert np.array_equal(np.sign(made["flattened"]), np.sign(own)) and len(np.unique(np.abs(made["flattened"]))) == 1
    assert np.allclose(np.abs(made["signs-drawn"]), np.abs(own))
    assert np.allclose(np.sort(made["permuted"].ravel()), np.sort(own.ravel()))
    assert set(made["resampled"].ravel()) <= set(own.ravel())
    for kind in ("signs-drawn", "resampled", "permuted", "noise", "noise-scaled"):
        assert abs(np.corrcoef(made[kind].ravel(), own.ravel())[0, 1]) < 0.05
    assert qq_r2(made["noise"].ravel()) > 0.999


def test_scaled_noise_keeps_the_sizes_of_rows_and_columns():
    scales = torch.linspace(0.2, 3, 300)[:, None] * torch.linspace(2, 0.5, 200)
    own = scales * torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    made = stand_ins.stand_in(own, "noise-scaled", rng())
    for dim in (0, 1):
        sizes = [w.square().mean(dim).sqrt().numpy() for w in (own, made)]
        assert np.corrcoef(*sizes)[0, 1] > 0.95 and sizes[1].mean() == pytest.approx(sizes[0].mean(), rel=0.02)


def test_an_unknown_stand_in_is_refused():
    with pytest.raises(ValueError, match=r"unknown stand-in 'sorted': expected one of trained, gaussianized"):
        stand_ins.stand_in(DELTA, "sorted", rng())


@given(npst.arrays(np.float32, (7, 5), elements=st.floats(-1e3, 1e3, width=32)))
def test_stand_ins_of_any_matrix_are_finite(values):
    for kind in stand_ins.STAND_INS:
        assert torch.isfinite(stand_ins.stand_in(torch.from_numpy(values), kind, rng())).all()


def test_the_map_of_noise_is_straight_and_that_of_a_laplace_law_is_known():
    straight = stand_ins.transport(rng().standard_normal(200_000).astype(np.float32))
    middle = straight[straight["z"].abs() < 2.5]
    assert (middle["value"] - middle["line"]).abs().max() < 0.03 and straight.attrs["r2"] > 0.9999
    bent = stand_ins.transport(rng().laplace(0, 1, 200_000).astype(np.float32))
    middle = bent[bent["z"].abs() < 2.5]
    expected = stats.laplace.ppf(stats.norm.cdf(middle["z"])) / np.sqrt(2)
    assert (middle["value"] - expected).abs().max() < 0.05 and bent.attrs["r2"] < 0.97
    assert bent["value"].is_monotonic_increasing


def test_there_is_no_map_to_a_constant():
    with pytest.raises(ValueError, match=r"ΔW has 100 values and a std of 0.0: there is nothing to map noise to"):
        stand_ins.transport(np.zeros(100, np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_noise_is_added_in_blocks_and_is_the_same_as_at_once(dtype, monkeypatch):
    monkeypatch.setattr("lfmlib.deltas.budget.BLOCK_VALUES", 1000)
    base = torch.randn(301, 97, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype).T
    made = stand_ins.added(base, 0.1, np.random.default_rng(1))
    draws = torch.from_numpy(np.random.default_rng(1).standard_normal(tuple(base.shape), dtype=np.float32))
    wide = torch.promote_types(dtype, torch.float32)
    assert made.dtype == dtype and torch.equal(made, (base.to(wide) + 0.1 * draws.to(wide)).to(dtype))
