"""Shares of the log-variance where entries are zero: exact moments, and noise that passes as often as it should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lfmlib.structure.entries import iid
from lfmlib.structure.made_matrices import matrix as made
from lfmlib.structure.scales import _Form, scales


def sparse(shape, zeros, rng, kind="Gaussian"):
    values = rng.standard_normal(shape) if kind == "Gaussian" else rng.choice([-1.0, 1.0], shape)
    return np.where(rng.random(shape) < zeros, 0.0, values)


@settings(max_examples=5)
@given(st.integers(0, 999), st.integers(6, 9))
def test_moments_of_a_form_are_those_of_all_orders(seed, n):
    rng = np.random.default_rng(seed)
    centring = np.eye(n) - 1 / n
    a = rng.standard_normal((n, n))
    a = centring @ (a + a.T) @ centring
    y = centring @ rng.exponential(size=n)
    form = _Form(np.trace(a), np.square(a).sum(), np.square(a.diagonal()).sum())
    mean, variance = form.moments(n, float(np.sum(y**4) / np.sum(y**2) ** 2))
    orders = np.array([rng.permutation(y) for _ in range(8_000)])
    found = np.einsum("ki,ij,kj->k", orders, a, orders) / np.sum(y**2)
    assert mean == pytest.approx(found.mean(), abs=5 * found.std() / 89)
    assert variance == pytest.approx(found.var(), rel=0.12)


def false_alarms(draws, shape, zeros, kind="Gaussian"):
    """Draws whose figures of identity lie outside their null, and those that fail the bound of 5 % on `unequal`."""
    rng = np.random.default_rng([int(100 * zeros), *shape])
    names = ("row_share", "col_share", "both_share", "unequal", "block_share", "row_drift", "col_drift")
    outside, failed = dict.fromkeys(names, 0), 0
    for _ in range(draws):
        found = iid(sparse(shape, zeros, rng, kind))
        for name in names:
            low, high = found.null[name]
            outside[name] += not low <= getattr(found, name) <= high
        failed += found.unequal > max(0.05, found.null["unequal"][1])
    return outside, failed


@pytest.mark.parametrize("zeros", [0.5, 0.9])
def test_sparse_noise_has_equal_scales(zeros):
    outside, failed = false_alarms(60, (64, 192), zeros)
    assert max(outside.values()) <= stats.binom.ppf(1 - 1e-4, 60, 0.05) and failed <= 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Gaussian", "signs"])
@pytest.mark.parametrize("zeros", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("shape", [(64, 192), (192, 64), (40, 300), (128, 128)])
def test_sparse_noise_fails_at_the_nominal_rate(kind, zeros, shape):
    draws = 150
    outside, _ = false_alarms(draws, shape, zeros, kind)
    allowed = stats.binom.ppf(1 - 1e-5, draws, 0.05)
    assert {name: count for name, count in outside.items() if count > allowed} == {}


def test_planted_scales_are_found_among_zeros():
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        w = made("row scales", 0.5, (64, 192), rng)
        w[rng.random(w.shape) < 0.8] = 0.0
        one = iid(w)
        found += one.unequal > max(0.05, one.null["unequal"][1])
    assert found >= 19


@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_block_scales_are_found(zeros):
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        w = made("blocks", 0.5, (128, 256), rng)
        w[rng.random(w.shape) < zeros] = 0.0
        one = iid(w)
        found += one.block_excess > max(0.05, one.null["block_excess"][1])
    assert found >= 19


def test_blocks_are_those_of_the_residuals_of_rows_and_columns():
    """Where no entry is zero: by hand, with sides that 8 does not divide."""
    w = np.random.default_rng(3).standard_normal((61, 90)) * np.linspace(1, 3, 90)
    y = np.log((w - w.mean()) ** 2)
    y -= y.mean()
    left = y - y.mean(1, keepdims=True) - y.mean(0)
    cuts = [np.linspace(0, size, 9).astype(int) for size in w.shape]
    explained = sum(
        part.sum() ** 2 / part.size
        for rows in np.split(left, cuts[0][1:-1])
        for part in np.split(rows, cuts[1][1:-1], axis=1)
    )
    assert scales(w, w.mean()).block_share == pytest.approx(explained / np.square(left).sum(), rel=1e-9)


@pytest.mark.parametrize("size", [1e-135, 5e-324 * 2**60, 1e-40])
def test_tiny_values_have_scales_too(size):
    """Down to the subnormal numbers of float64, which `iid` refuses, without an underflow of their squares."""
    w = made("row scales", 0.5, (64, 96), np.random.default_rng(0))
    assert scales(size * w, size * w.mean()).row_share == pytest.approx(scales(w, w.mean()).row_share, rel=1e-6)


def test_one_absolute_value_is_inside_its_null():
    signs = np.random.default_rng(1).permuted(np.repeat([-1.0, 1.0], 32 * 64)).reshape(64, 64)
    found = iid(0.02 * signs)
    for name in ("row_share", "block_share", "unequal", "block_excess", "col_drift"):
        low, high = found.null[name]
        assert low <= getattr(found, name) <= high, name
    assert np.isfinite(iid(np.where(signs > 0, 1.0, -1.0)).runs_z)


def test_too_few_entries_say_nothing():
    w = np.zeros((60, 60))
    w[np.arange(50), np.arange(50)] = np.random.default_rng(0).standard_normal(50)
    found = scales(w, w.mean())
    assert (found.row_share, found.block_share, found.row_drift) == (0.0, 0.0, 0.0)
