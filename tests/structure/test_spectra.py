"""Spectra: parity with numpy and scipy, planted spikes found, noise left alone, estimates within their error bars."""

import math
from contextlib import nullcontext

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, linalg, optimize, special, stats

from lfmlib.structure import gram
from lfmlib.structure.controls import rescaled
from lfmlib.structure.lanczos import density
from lfmlib.structure.made_matrices import _spike_strength
from lfmlib.structure.random_matrices import TRACY_WIDOM, ks_distance, mp_cdf, mp_pdf, spiked, threshold
from lfmlib.structure.random_matrices import null as lfmlib_null
from lfmlib.structure.spectra import Spectrum, kurtosis_null, singular_values, spectrum, top_ratio, vectors

NULLED = ("ks", "top_ratio", "stable_rank", "effective_rank")
SHAPES = [(200, 200), (100, 200), (300, 30)]


def noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def planted(rows: int, columns: int, heights, seed: int = 0) -> np.ndarray:
    """Noise plus directions of the given strengths, spread over all entries."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((rows, len(heights))))
    right, _ = np.linalg.qr(rng.standard_normal((columns, len(heights))))
    return rng.standard_normal((rows, columns)) + left * np.asarray(heights) @ right.T


# what is measured


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_figures_agree_with_numpy_and_scipy(shape):
    w = 0.02 * noise(*shape) + 0.005
    found = spectrum(w)
    s = np.linalg.svd(w - w.mean(), compute_uv=False)
    p, n = min(shape), max(shape)
    edge = w.std() * (math.sqrt(p) + math.sqrt(n))
    low, high = ((1 - math.sqrt(p / n)) ** 2, (1 + math.sqrt(p / n)) ** 2)

    def law(x):  # integrated in sqrt(x), where the density has no pole
        inner = lambda u: 2 * u * mp_pdf(u * u, p / n)  # noqa: E731
        return np.array([integrate.quad(inner, math.sqrt(low), math.sqrt(min(max(t, low), high)))[0] for t in x])

    ks = stats.kstest(s**2 / (n * w.var()), law).statistic
    share = s**2 / np.sum(s**2)
    expected = (edge, ks, s[0] / edge, np.sum(s**2) / s[0] ** 2, math.exp(-np.sum(share * np.log(share))))
    measured = (found.edge, found.ks, found.top_ratio, found.stable_rank, found.effective_rank)
    assert measured == pytest.approx(expected, rel=1e-6)
    assert singular_values(w) == pytest.approx(s[::-1], rel=1e-6)
    assert (found.outliers, found.outlier_share, found.outlier_variance, found.exact) == (0, 0, 0, True)


@pytest.mark.slow
@given(st.floats(-6, 6), st.sampled_from([(8, 40), (60, 60), (150, 90)]), st.integers(0, 99), st.booleans())
@settings(max_examples=40)
def test_scale_and_transposition_change_nothing(log_scale, shape, seed, spiked):
    w = noise(*shape, seed)
    if spiked:
        w[:, 0] += 5
    scale = 10**log_scale
    here, there = spectrum(w), spectrum(-scale * w.T)
    assert there.edge == pytest.approx(scale * here.edge)
    assert there.threshold == pytest.approx(scale * here.threshold)
    assert there.null == here.null
    for name in ("outliers", "outlier_share", "outlier_variance", *NULLED):
        assert getattr(there, name) == pytest.approx(getattr(here, name), rel=1e-6, abs=1e-7)


def test_order_of_rows_and_columns_changes_nothing():
    w = planted(90, 130, [40, 35])
    mixed = w[np.random.default_rng(1).permutation(90)][:, np.random.default_rng(2).permutation(130)]
    assert singular_values(mixed) == pytest.approx(singular_values(w), rel=1e-9)
    shuffled = np.random.default_rng(3).permutation(w.ravel()).reshape(w.shape)
    assert spectrum(w).outliers == 2 and spectrum(shuffled).outliers == 0


def test_the_mean_is_no_outlier():
    w = noise(120, 120)
    assert spectrum(w + 3).top_ratio == pytest.approx(spectrum(w).top_ratio, rel=1e-6)


@pytest.mark.parametrize("shape", [(515, 518), (521, 2050), (2049, 530)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("heights", [(), (60, 59.9)], ids=["noise", "two alike"])
def test_the_largest_alone_is_the_largest_of_all(shape, dtype, heights):
    w = torch.tensor(planted(*shape, heights) + 0.3).to(dtype)
    assert top_ratio(w) == pytest.approx(spectrum(w, exact=True).top_ratio, rel=1e-6)
    if dtype == torch.float32:
        assert top_ratio(w.clone(), overwrite=True) == top_ratio(w)
        assert top_ratio(torch.cat([w, w], 1)[:, : shape[1]]) == top_ratio(w), "a part of a larger matrix"


@pytest.mark.parametrize("count", [1, 3, 10])
def test_spikes_just_beyond_the_edge_are_counted(count):
    p, n, beyond = 256, 512, (1.15 * (math.sqrt(256) + math.sqrt(512))) ** 2
    # the strength whose singular value lands there: beyond = (t + p)(t + n) / t for t its square
    half = (beyond - p - n) / 2
    strength = math.sqrt(half + math.sqrt(half**2 - p * n))
    for seed in range(3):
        assert spectrum(planted(p, n, [strength] * count, seed)).outliers == count


def test_forty_percent_in_three_directions():
    n = 384
    found = spectrum(planted(n, n, [math.sqrt(n * n * 0.4 / 0.6 / 3)] * 3))
    assert found.outliers == 3 and found.outlier_share == 3 / n
    assert found.outlier_variance == pytest.approx(0.40, abs=0.015)
    assert found.effective_rank < found.null["effective_rank"][0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_float_type_is_read(dtype):
    w = torch.tensor(0.02 * planted(80, 120, [30]))
    given = w.to(dtype)
    expected, found = spectrum(given.double()), spectrum(given)
    assert found.top_ratio == pytest.approx(expected.top_ratio, rel=1e-9)
    assert found.outliers == 1 and spectrum(w).top_ratio == pytest.approx(found.top_ratio, rel=0.01)
    assert spectrum(torch.nn.Parameter(given)).ks == found.ks


def test_products_in_float32_move_eigenvalues_by_less_than_a_millionth():
    for w in (noise(1024, 1024).astype(np.float32), planted(600, 900, [800]).astype(np.float32)):
        narrow, wide = (singular_values(one) ** 2 for one in (w, w.astype(np.float64)))
        assert np.abs(narrow - wide).max() < 1e-6 * wide.mean()
    assert narrow[-1] > 100 * wide.mean()
    torch.set_float32_matmul_precision("medium")  # products that a reader has allowed to be coarse
    try:
        assert np.array_equal(singular_values(w), singular_values(w.astype(np.float64)))
    finally:
        torch.set_float32_matmul_precision("highest")


def test_numpy_arrays_of_any_layout_are_read():
    w = noise(60, 90).astype(np.float32)
    expected = spectrum(w).ks
    frozen = w.copy()
    frozen.flags.writeable = False
    for other in (np.asfortranarray(w), w[::-1], w.astype(">f4"), w.astype(np.longdouble), frozen):
        assert spectrum(other).ks == pytest.approx(expected, rel=1e-6)
    assert spectrum(w.astype(ml_dtypes.bfloat16)).ks == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros(100), r"found shape \(100,\): .* reshape"),
        (np.zeros((2, 8, 8)), r"found shape \(2, 8, 8\)"),
        (np.zeros((1, 100)), r"shape \(1, 100\): .*at least 2 rows"),
        (np.zeros((5, 5)), r"shape \(5, 5\): .*64 entries"),
        (np.full((10, 10), 0.1), r"constant matrix, every entry 0\.1"),
        (np.where(np.eye(10) > 0, np.nan, 1.0), "10 non-finite of 100 entries"),
        (np.where(np.eye(10) > 0, np.inf, 1.0), "10 non-finite of 100 entries"),
        (np.ones((10, 10), int), "entries of type int64: .*convert"),
        (1e-200 * np.eye(10), "squares leave float64's range"),
        (torch.ones(10, 10, dtype=torch.int32), "entries of type torch.int32"),
    ],
)
def test_errors_say_what_was_found_and_what_to_do(matrix, message):
    for function in (spectrum, singular_values, density, rescaled, vectors):
        with pytest.raises(ValueError, match=message):
            function(matrix)


# the laws


def test_tracy_widom_quantiles_are_roots_of_the_determinant():
    """F₁(s) = det(1 - K), K(x, y) = Ai((x + y) / 2) / 2 on (s, ∞) (Ferrari and Spohn 2005; Bornemann 2010)."""
    x, weight = np.polynomial.legendre.leggauss(60)

    def law(s):
        t, root = s + 8 * (x + 1), np.sqrt(8 * weight)
        kernel = special.airy((t[:, None] + t) / 2)[0] / 2
        return np.linalg.det(np.eye(60) - root[:, None] * kernel * root)

    for level, quantile in TRACY_WIDOM.items():
        assert optimize.brentq(lambda s, level=level: law(s) - level, -8, 6) == pytest.approx(quantile, abs=1e-6)


@pytest.mark.parametrize("ratio", [1, 0.5, 0.1, 0.003])
def test_marchenko_pastur_function_is_the_integral_of_its_density(ratio):
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    for at in np.linspace(0.01, 0.999, 9):
        x = low + (high - low) * at
        total = integrate.quad(lambda u: 2 * u * mp_pdf(u * u, ratio), math.sqrt(low), math.sqrt(x))[0]
        assert mp_cdf(x, ratio) == pytest.approx(total, abs=1e-9)
    assert mp_cdf([-1, low, high, 9], ratio) == pytest.approx([0, 0, 1, 1], abs=1e-12)
    assert (mp_pdf([-1, 0, high, 9], ratio) == 0).all()


# noise is left alone


@pytest.mark.parametrize("shape", [(300, 300), (200, 800), (800, 200)])
@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0, 1.5])
def test_a_planted_direction_is_found_where_the_law_says(shape, strength):
    """Means over made matrices, in edges of noise; below (r c)^¼, which is 0.5 or 0.47 edges, nothing is found."""
    rng, limit = np.random.default_rng(7), math.sqrt(shape[0]) + math.sqrt(shape[1])
    found = []
    for _ in range(12):
        u, v = (one / np.linalg.norm(one) for one in (rng.standard_normal(size) for size in shape))
        left, values, right = linalg.svd(
            rng.standard_normal(shape) + strength * limit * np.outer(u, v), full_matrices=False
        )
        found.append((values[0] / limit, (left[:, 0] @ u) ** 2, (right[0] @ v) ** 2))
    top, over_rows, over_columns = spiked(strength * limit, *shape)
    assert np.mean(found, axis=0) == pytest.approx(
        [top / limit, over_rows, over_columns], abs=0.03
    )  # three standard errors


def test_the_strength_of_a_planted_spike_is_undone():
    """By `lfmlib.structure.made_matrices`, which plants spikes at a place beyond the edge."""
    for shape in ((96, 256), (256, 96), (100, 100)):
        edge = math.sqrt(shape[0]) + math.sqrt(shape[1])
        assert spiked(_spike_strength(1.05, *shape), *shape)[0] == pytest.approx(1.05 * edge)


def test_false_alarms_on_noise_are_one_in_a_hundred():
    trials = 400
    alarms = sum(spectrum(noise(96, 192, seed)).outliers > 0 for seed in range(trials))
    assert stats.binom.ppf(0.0005, trials, 0.01) <= alarms <= stats.binom.ppf(0.9995, trials, 0.01)


@pytest.mark.parametrize("shape", [(2, 300), (8, 8), (96, 192), (160, 160), (480, 160)])
def test_noise_lies_inside_its_null_ninety_five_times_in_a_hundred(shape):
    trials = 200
    found = [spectrum(noise(*shape, 1000 + seed)) for seed in range(trials)]
    for name in NULLED:
        inside = sum(s.null[name][0] <= getattr(s, name) <= s.null[name][1] for s in found)
        assert inside >= stats.binom.ppf(0.001, trials, 0.95), name
        below = sum(getattr(s, name) < s.null[name][0] for s in found)
        assert max(below, trials - inside - below) <= stats.binom.ppf(0.9995, trials, 0.025), name


# large matrices


@pytest.mark.parametrize("kind", ["noise", "spikes", "scales", "low rank"])
def test_density_agrees_with_all_eigenvalues_within_its_error_bars(kind):
    p, n = 300, 400
    w = {
        "noise": lambda: noise(p, n),
        "spikes": lambda: planted(p, n, [80, 60]),
        "scales": lambda: noise(p, n) * np.exp(noise(p, 1, 7)),
        "low rank": lambda: noise(p, 20, 1) @ noise(20, n, 2),
    }[kind]()
    values = singular_values(w) ** 2 / (n * w.var())
    found = density(w, draws=12, steps=60, seed=3)
    assert (np.diff(found.x) >= 0).all() and (np.diff(found.cdf) >= -1e-12).all()
    away = found.x > 1e-6  # where rounding puts a zero eigenvalue is not the estimate's concern
    error = np.abs(found.cdf - np.searchsorted(values, found.x, "right") / p)[away]
    assert (error <= 3.5 * found.error[away] + found.resolution[away] + 1 / p).all()
    assert error.max() < 0.06
    again = density(w, draws=12, steps=60, seed=3)
    assert (found.cdf == again.cdf).all()
    assert not np.array_equal(found.x, density(w, draws=12, steps=60, seed=4).x)


@pytest.mark.slow
def test_error_bars_shrink_with_the_draws_and_are_honest():
    w, p, n = noise(200, 300), 200, 300
    values = singular_values(w) ** 2 / (n * w.var())
    at = mp_quantile(0.5, p / n)
    truth = np.mean(values <= at)
    z = []
    for seed in range(60):
        found = density(w, draws=8, steps=40, seed=seed)
        k = np.searchsorted(found.x, at)
        z.append((found.cdf[k] - truth) / found.error[k])
    assert np.mean(np.abs(z) < stats.t.ppf(0.975, 7)) >= 0.87
    assert density(w, draws=64).error.mean() < 0.6 * density(w, draws=8).error.mean()


def mp_quantile(level: float, ratio: float) -> float:
    return optimize.brentq(lambda x: mp_cdf(x, ratio) - level, 0, 5)


def test_density_needs_draws_to_have_error_bars():
    with pytest.raises(ValueError, match="at least 2 draws of 2 steps: found draws=1, steps=64"):
        density(noise(20, 20), draws=1)


# scales and vectors


def test_rescaling_takes_scales_away_and_leaves_correlation():
    rng = np.random.default_rng(0)
    uneven = noise(150, 250) * np.exp(rng.standard_normal((150, 1))) * np.exp(0.5 * rng.standard_normal(250))
    assert spectrum(uneven).outliers > 0
    even = rescaled(uneven).cpu()
    assert torch.allclose(even.square().mean(0), torch.ones(250).double(), atol=1e-5)
    assert torch.allclose(even.square().mean(1), torch.ones(150).double(), atol=1e-5)
    assert spectrum(even).outliers == 0
    assert np.linalg.matrix_rank((torch.tensor(uneven) / even).numpy(), tol=1e-6) == 1
    assert spectrum(rescaled(planted(150, 250, [60, 50]) * np.exp(rng.standard_normal((150, 1))))).outliers == 2


def test_rescaling_leaves_its_input_and_rows_of_zeros_alone():
    w = torch.tensor(noise(20, 30))
    w[3] = 0
    before = w.clone()
    even = rescaled(w)
    assert torch.equal(w, before) and (even[3] == 0).all() and torch.isfinite(even).all()
    assert torch.allclose(rescaled(7 * w.T).T, even, atol=1e-4)


def test_vectors_of_noise_are_spread_and_planted_ones_are_found_where_they_sit():
    w = noise(150, 300)
    w[7] += 3 * noise(1, 300, 5)[0]  # one large row
    w += 10 * np.outer(noise(150, 1, 8), noise(300, 1, 9)) / math.sqrt(300)
    table = vectors(w, count=4)
    assert list(table["rank"]) == [1, 1, 2, 2, 3, 3, 4, 4] and set(table["side"]) == {"left", "right"}
    s = np.linalg.svd(w - w.mean(), compute_uv=False)
    assert table["singular_value"].to_numpy()[::2] == pytest.approx(s[:4], rel=1e-6)
    assert table["top_ratio"][0] == pytest.approx(spectrum(w).top_ratio)
    kurtosis = table.set_index(["rank", "side"])["excess_kurtosis"]
    assert kurtosis[1, "left"] < 2 and kurtosis[2, "left"] > 30
    assert kurtosis[2, "right"] < 2
    turned = vectors(w.T, count=4).set_index(["rank", "side"])["excess_kurtosis"]
    assert turned[2, "right"] == pytest.approx(kurtosis[2, "left"], rel=1e-6)
    inside = [vectors(noise(80, 120, seed), count=3) for seed in range(20)]
    share = np.mean([((t.excess_kurtosis >= t.null_low) & (t.excess_kurtosis <= t.null_high)).mean() for t in inside])
    assert 0.87 <= share <= 1


@pytest.mark.parametrize("count", [0, 60, 200])
def test_vectors_are_fewer_than_the_smaller_side(count):
    with pytest.raises(ValueError, match=f"found count={count} .* smaller side 60: ask for 1 to 59"):
        vectors(noise(60, 90), count=count)


@pytest.mark.parametrize("count", [30, 300])
def test_kurtosis_null_is_that_of_gaussian_values(count):
    low, high = kurtosis_null(count)
    drawn = stats.kurtosis(noise(20_000, count), axis=1)
    assert np.mean(drawn < low) == pytest.approx(0.025, abs=0.008)
    assert np.mean(drawn > high) == pytest.approx(0.025, abs=0.008)


@pytest.mark.slow
@pytest.mark.parametrize(("p", "n"), [(256, 256), (384, 1536), (1000, 1100)])
def test_tabulated_nulls_hold_at_larger_sizes(p, n):
    """Of spectra drawn through their tridiagonal form, p * ks lies inside the scaled null as often as it should."""
    null, draws, rng = lfmlib_null(p, n)["ks"], 600, np.random.default_rng(11)
    outside = 0
    for _ in range(draws):
        a, b = rng.chisquare(n - np.arange(p)) / n, rng.chisquare(p - 1 - np.arange(p - 1)) / n
        diagonal = a + np.concatenate([[0], b])
        values = np.maximum(linalg.eigvalsh_tridiagonal(diagonal, np.sqrt(a[:-1] * b), lapack_driver="sterf"), 0)
        outside += not null[0] <= ks_distance(values * p / values.sum(), p / n) <= null[1]
    assert stats.binom.ppf(0.001, draws, 0.05) <= outside <= stats.binom.ppf(0.999, draws, 0.05)


def test_threshold_is_a_quantile_of_the_largest_singular_value():
    tops = [np.linalg.norm(noise(60, 90, seed), 2) for seed in range(400)]
    for level in TRACY_WIDOM:
        beyond = sum(top > threshold(60, 90, level, known=True) for top in tops)
        low, high = stats.binom.ppf([0.0005, 0.9995], 400, 1 - level)
        assert low <= beyond <= high
    assert isinstance(spectrum(noise(20, 20)), Spectrum)


def test_eigenvalues_of_small_matrices_leave_the_threads_to_torch(monkeypatch):
    """One thread of BLAS below the side where more would help; the same eigenvalues either way."""
    taken, before = [], torch.get_num_threads()
    monkeypatch.setattr(gram, "one_blas_thread", lambda: taken.append(True) or nullcontext())
    w = np.random.default_rng(0).standard_normal((300, 400))
    try:
        torch.set_num_threads(2)
        small = gram.Matrix(w).eigenvalues()
        monkeypatch.setattr(gram, "SHARED_SIDE", 300)
        large = gram.Matrix(w).eigenvalues()
    finally:
        torch.set_num_threads(before)
    assert taken == [True] and np.allclose(small, large, rtol=1e-10)
