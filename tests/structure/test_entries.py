"""Independence and identity: parity with direct computation, planted departures, and noise that passes."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.sandbox.stats.runs import runstest_1samp
from statsmodels.stats.diagnostic import acorr_ljungbox

from lfmlib.structure.dependence import LAGS, lag_correlations, ljung_box, neighbour_information, runs_z
from lfmlib.structure.entries import FIGURES, iid, null
from lfmlib.structure.likeness import alike
from lfmlib.structure.made_matrices import matrix as planted_matrix
from lfmlib.structure.sums import Sums


def noise(shape=(96, 192), seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(40, 90), st.integers(40, 90), st.floats(-3, 3))
def test_lags_are_pearsons_correlation_of_what_is_paired(seed, r, c, offset):
    w = noise((r, c), seed) * np.linspace(1, 3, c) + offset
    along_rows, along_columns, _ = lag_correlations(Sums.of(w, LAGS))
    for k in (1, 2, 20):
        rows, columns = w[:, :-k], w[:, k:]
        expected = np.corrcoef(rows.ravel(), columns.ravel())[0, 1]
        assert along_rows[k - 1] == pytest.approx(expected, abs=1e-10)
        expected = np.corrcoef(w[:-k].ravel(), w[k:].ravel())[0, 1]
        assert along_columns[k - 1] == pytest.approx(expected, abs=1e-10)


def test_correlations_between_rows_are_numpys():
    w = noise((60, 45), 3)
    for found, matrix in zip((one.value for one in alike(w)), (w, w.T), strict=True):
        every = np.corrcoef(matrix) ** 2
        assert found == pytest.approx((every.sum() - len(every)) / (every.size - len(every)))


def test_runs_against_the_textbook():
    x = np.array([1, 1, -1, -1, -1, 1, -1, 1, 1, -1], dtype=float)  # five of each, six runs, as expected by chance
    assert runs_z(x) == pytest.approx(0.0)
    assert runs_z(np.tile([-1.0, 1.0], 50)) > 9 and runs_z(np.repeat([-1.0, 1.0], 50)) < -9


def test_ljung_box_is_chi_squared_on_noise():
    p = [stats.chi2.sf(ljung_box(Sums.of(noise((40, 100), seed), LAGS)), LAGS) for seed in range(200)]
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_mutual_information_of_a_gaussian_pair():
    x, z = noise((2, 400_000))
    for rho in (0.0, 0.3, 0.6):
        expected = -0.5 * math.log2(1 - rho**2)
        found, _ = neighbour_information(np.column_stack([x, rho * x + math.sqrt(1 - rho**2) * z]))
        assert found == pytest.approx(expected, rel=0.08, abs=2e-4)  # 16 classes lose a little


@pytest.mark.parametrize("shape", [(64, 64), (96, 192), (256, 64)])
def test_noise_passes_as_often_as_it_should(shape):
    draws = 100
    bands = null(*shape)
    outside = dict.fromkeys(FIGURES, 0)
    for seed in range(draws):
        found = iid(noise(shape, [seed, *shape]))
        for name in FIGURES:
            low, high = bands[name]
            outside[name] += not low <= getattr(found, name) <= high
    allowed = stats.binom.ppf(1 - 1e-4 / len(FIGURES), draws, 0.05)
    assert {name: count for name, count in outside.items() if count > allowed} == {}


def planted(kind: str, size: float) -> np.ndarray:
    """A matrix with one departure from independent, identical entries."""
    w, rng = noise((128, 256)), np.random.default_rng(1)
    if kind == "order along rows":
        for j in range(1, w.shape[1]):
            w[:, j] = size * w[:, j - 1] + math.sqrt(1 - size**2) * w[:, j]
    if kind == "rows alike":
        w += size * rng.standard_normal(256)
    if kind == "rows of unlike scale":
        w *= np.exp(size * rng.standard_normal((128, 1)))
    if kind == "columns of unlike scale":
        w *= np.exp(size * rng.standard_normal(256))
    if kind == "rows that grow":
        w *= np.linspace(1, 1 + size, 128)[:, None]
    if kind == "a patch":
        w[:32, :64] *= 1 + size
    if kind == "scale that clusters":
        w *= np.exp(size * np.repeat(rng.standard_normal((128, 32)), 8, axis=1))
    return w


@pytest.mark.parametrize(
    ("kind", "size", "figure"),
    [
        ("order along rows", 0.1, "lag_row"),
        ("order along rows", 0.1, "ljung_box"),
        ("rows alike", 0.3, "row_corr"),
        ("rows alike", 0.3, "lag_col"),
        ("rows of unlike scale", 0.2, "row_share"),
        ("columns of unlike scale", 0.2, "col_share"),
        ("rows that grow", 0.5, "row_drift"),
        ("a patch", 0.5, "block_share"),
        ("scale that clusters", 0.5, "mutual_information"),
    ],
)
def test_what_is_planted_is_found_by_its_figure(kind, size, figure):
    found = iid(planted(kind, size))
    low, high = found.null[figure]
    assert getattr(found, figure) > high + (high - low) / 2
    fresh = iid(np.random.default_rng(2).permuted(planted(kind, size)))
    low, high = fresh.null[figure]
    width = high - low  # permuting destroys the arrangement; heavier tails widen the band a little
    assert low - width < getattr(fresh, figure) < high + width


def test_row_scales_explain_what_was_planted():
    """log (w - μ)² of Gaussian entries has variance π²/2; log scales of std s add 4 s²."""
    found = iid(planted("rows of unlike scale", 0.3))
    assert found.row_share == pytest.approx(0.36 / (0.36 + math.pi**2 / 2), rel=0.25)


@settings(max_examples=10)
@given(st.integers(0, 99), st.floats(1e-3, 1e3))
def test_scale_and_transposing_change_nothing_but_names(seed, scale):
    w = noise((64, 96), seed)
    plain, other = iid(w), iid(torch.tensor(scale * w.T))
    for one, two in (
        ("lag_row", "lag_col"),
        ("row_corr", "col_corr"),
        ("row_share", "col_share"),
        ("row_drift", "col_drift"),
    ):
        assert getattr(plain, one) == pytest.approx(getattr(other, two), rel=1e-9, abs=1e-9)
    assert plain.lag_max == pytest.approx(other.lag_max, rel=1e-9)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros(50), "expected a matrix of at least 40"),
        (np.zeros((39, 90)), "expected a matrix of at least 40"),
        (np.full((50, 50), 2.0), "all entries are equal"),
        (np.where(np.eye(50) > 0, np.nan, 1.0), "50 of 2,500 entries are not finite"),
        (np.where(np.arange(50)[:, None] == 3, noise((50, 50)), 0.0), "fewer than two rows, or columns, vary"),
        (1e-200 * noise((50, 50)), "squares leave float64's range"),
        (noise((50, 50)) + 1j, "found complex entries"),
        (torch.eye(50).to_sparse(), "stored as torch.sparse_coo"),
    ],
)
def test_errors_say_what_was_found(matrix, message):
    with pytest.raises(ValueError, match=message):
        iid(matrix)


@pytest.mark.parametrize("far", [0.0, 300.0])
def test_products_in_float32_are_far_within_the_null(far):
    """A large matrix of float32, some of whose rows lie far from the mean, beside the same entries as float64."""
    w = (noise((640, 768)) * np.exp(noise((640, 1), 1))).astype(np.float32)
    w[:40] += np.float32(far)
    w[7] = np.float32(2.5)
    narrow, wide = iid(w), iid(w.astype(np.float64))
    for name in FIGURES:
        low, high = wide.null[name]
        assert getattr(narrow, name) == pytest.approx(getattr(wide, name), abs=2e-4 * (high - low), rel=1e-6), name
    direct = [(np.corrcoef(some.astype(np.float64)[np.ptp(some, axis=1) > 0]) ** 2) for some in (w, w.T)]
    for found, every in zip((narrow.row_corr, narrow.col_corr), direct, strict=True):
        assert found == pytest.approx((every.sum() - len(every)) / (every.size - len(every)), rel=2e-6)


def test_zeros_and_empty_rows_are_left_out_of_scales():
    w = noise()
    w[5] = 0.0
    w[:, ::3] = 0.0
    found = iid(w)
    assert all(math.isfinite(getattr(found, name)) for name in FIGURES)
    assert found.row_share < 0.03 and found.col_share < 0.03  # about 95 and 127 of 12,160 entries


def test_zeros_hide_no_unequal_scales():
    rng = np.random.default_rng(4)
    w = rng.standard_normal((128, 256)) * np.exp(0.5 * rng.standard_normal((128, 1)))
    full = iid(w).row_share
    w[rng.random(w.shape) < 0.9] = 0.0
    assert iid(w).row_share == pytest.approx(full, abs=0.05) and full > 0.1


def test_one_absolute_value_leaves_nothing_to_explain():
    signs = 0.02 * np.random.default_rng(1).permuted(np.repeat([-1.0, 1.0], 32 * 64)).reshape(64, 64)
    found = iid(signs)
    assert (found.row_share, found.col_share, found.block_share, found.row_drift) == (0, 0, 0, 0)
    assert found.unequal < 0


@pytest.mark.parametrize("constant", [0.1, 0.125, -3.0])
def test_constant_rows_are_alike_to_nothing(constant):
    w = noise((96, 96), 2)
    w[:20] = constant
    assert iid(w).row_alike == pytest.approx(1.0, abs=0.1)


def test_classes_are_filled_whatever_the_length_of_a_row():
    w = noise((100_000, 41), 3)
    w[:, 0] *= 0.01
    w[:, 1:] = 0.1 * w[:, :-1] + math.sqrt(0.99) * w[:, 1:]
    assert neighbour_information(w[:, 1:])[0] == pytest.approx(-0.5 * math.log2(0.99), rel=0.2)


def test_whole_numbers_have_controls_too():
    w = np.random.default_rng(0).integers(-9, 9, (60, 60))
    assert iid(w, controls="permuted").controls["permuted"].lag_row != iid(w).lag_row


def test_statsmodels_agrees_on_ljung_box_and_runs():
    x = noise((6300,), 8).cumsum()[::7] + noise((900,), 9)
    found = acorr_ljungbox(x, lags=[LAGS])
    assert ljung_box(Sums.of(x.reshape(30, 30), LAGS)) == pytest.approx(found["lb_stat"].iloc[0], rel=1e-9)
    assert runs_z(x) == pytest.approx(runstest_1samp(x, cutoff="median", correction=False)[0], rel=1e-9)


def test_p_values_are_uniform_on_noise():
    found = pd.DataFrame([iid(noise((64, 96), [7, seed])).p for seed in range(200)])
    for name in FIGURES:
        assert stats.kstest(found[name], "uniform").pvalue > 1e-4, name


def test_p_and_null_agree():
    found = iid(planted("order along rows", 0.05))
    for name in FIGURES:
        low, high = found.null[name]
        assert (found.p[name] < 0.05) == (not low <= getattr(found, name) <= high), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size", "figure"),
    [
        ("neighbours", 0.1, "lag_row"),
        ("row scales", 0.5, "row_share"),
        ("column scales", 0.5, "col_share"),
        ("column scales", 0.5, "col_drift"),
        ("rank three", 0.4, "row_corr"),
    ],
)
def test_intervals_cover_what_was_planted(kind, size, figure):
    def made(seed):
        return planted_matrix(kind, size, (100, 160), np.random.default_rng([3, seed]))

    truth = np.mean([getattr(iid(made(1000 + seed)), figure) for seed in range(80)])
    inside = 0
    for seed in range(40):
        low, high = iid(made(seed), intervals=True).interval[figure]
        inside += low <= truth <= high
    assert inside >= stats.binom.ppf(0.001, 40, 0.95)


def test_the_table_has_intervals_only_where_asked_for():
    w = noise((60, 60))
    assert list(iid(w).table()) == ["value", "null_low", "null_high", "p"]
    full = iid(w, intervals=True).table()
    assert (
        list(full)[:3] == ["value", "low", "high"]
        and ((full["low"] < full["value"]) & (full["value"] < full["high"])).all()
    )
    with pytest.raises(ValueError, match=r"found shape \(45, 60\): intervals .* need 50 of each"):
        iid(noise((45, 60)), intervals=True)
