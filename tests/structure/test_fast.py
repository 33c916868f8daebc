"""What takes products of all rows, estimated: close to what it estimates, with honest errors; noise passes, planted
departures are found."""

import functools
import math

import numpy as np
import pytest
import torch

import lfmlib
from lfmlib.structure import krylov, made_matrices
from lfmlib.structure.entries import IID
from lfmlib.structure.gram import Matrix
from lfmlib.structure.likeness import alike
from lfmlib.structure.line_samples import LINES, alike_of_sample
from lfmlib.structure.random_matrices import spiked, threshold
from lfmlib.structure.spectra import Spectrum, fast_spectrum, spectrum
from lfmlib.structure.together import together_fast
from lfmlib.surveys.arrangements import beyond_excess

SHAPE, DRAWS = (1100, 1400), 20


@functools.cache
def noise() -> list[tuple[IID, Spectrum, dict[str, float]]]:
    """Figures of noise, half of it upright."""
    rng = np.random.default_rng(33)
    made = (rng.standard_normal(SHAPE[:: 1 - 2 * (i % 2)]).astype(np.float32) for i in range(DRAWS))
    return [together_fast(w, seed=i) for i, w in enumerate(made)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["row_corr", "col_corr", "row_alike", "col_alike", "lag_row", "row_share"])
def test_entries_of_noise_lie_inside_their_null(name):
    inside = [found.null[name][0] <= getattr(found, name) <= found.null[name][1] for found, _, _ in noise()]
    assert sum(inside) >= 17


@pytest.mark.parametrize("name", ["ks", "effective_rank", "top_ratio", "stable_rank"])
def test_spectra_of_noise_lie_inside_their_null(name):
    inside = [found.null[name][0] <= getattr(found, name) <= found.null[name][1] for _, found, _ in noise()]
    assert sum(inside) >= 17 and sum(found.outliers for _, found, _ in noise()) <= 1


def test_standard_errors_of_noise_are_those_of_their_nulls():
    """A null's width is that of four standard errors: it holds the scatter of the sample, and hardly that of noise. The
    jackknife doubles the variance of a mean over pairs that are independent; the error is to the mean over all lines,
    and that of a sample of half of them smaller."""
    for name in ("row_corr", "col_corr"):
        sides = np.array([found.shape[name == "col_corr"] for found, *_ in noise()])
        errors = np.array([errors[name] for *_, errors in noise()]) / np.sqrt(1 - LINES / sides)
        widths = np.array([found.null[name][1] - found.null[name][0] for found, _, _ in noise()])
        assert 0.9 < np.median(4 * errors / widths) / 2**0.5 < 1.25
    errors = np.array([errors["effective_rank"] for *_, errors in noise()])
    widths = np.array([np.ptp(found.null["effective_rank"]) for _, found, _ in noise()])
    assert 0.8 < np.median(4 * errors / widths) < 1.25


MADE = {
    "t3": lambda rng: rng.standard_t(3, SHAPE),
    "row scales": lambda rng: rng.standard_normal(SHAPE) * np.exp(0.5 * rng.standard_normal((SHAPE[0], 1))),
    "spikes": lambda rng: made_matrices.matrix("spikes", 10, SHAPE, rng),
    "rank three": lambda rng: made_matrices.matrix("rank three", 0.1, SHAPE, rng).T,
    "low": lambda rng: rng.standard_normal((1100, 60)) @ rng.standard_normal((60, 1400)) + rng.standard_normal(SHAPE),
}


EXHAUSTED = {
    "rank 2": lambda rng: rng.standard_normal((1100, 2)) @ rng.standard_normal((2, 1400)),
    "rank 300": lambda rng: rng.standard_normal((1100, 300)) @ rng.standard_normal((300, 1400)),
    "signs of rank 1": lambda rng: np.outer(*(rng.choice([-1.0, 1.0], side) for side in SHAPE)),
    "60 rows": lambda rng: np.concatenate([rng.standard_normal((60, 1400)), np.zeros((1040, 1400))]),
    "600 alike": lambda rng: np.concatenate([np.full(600, 3.0), np.ones(500)])[:, None] * np.eye(*SHAPE),
}


@pytest.mark.parametrize("name", EXHAUSTED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_exhausts_the_space_is_counted_by_all_eigenvalues(name, dtype):
    """Such a space knows all eigenvalues, but not how often each is there."""
    w = EXHAUSTED[name](np.random.default_rng(4)).astype(dtype)
    assert fast_spectrum(Matrix(w))[0] == spectrum(w)


@pytest.mark.parametrize("rank", [384, 420])  # as many as the blocks have vectors, and a few more
def test_a_rank_that_does_not_exhaust_the_space_is_counted(rank):
    rng = np.random.default_rng(4)
    w = rng.standard_normal((1100, rank)) @ rng.standard_normal((rank, 1400))
    found, whole = fast_spectrum(Matrix(w))[0], spectrum(w)
    assert not found.exact and found.outliers == whole.outliers
    assert found.outlier_variance == pytest.approx(whole.outlier_variance, rel=1e-6)
    assert found.ks < whole.ks  # most eigenvalues are 0, and half of them count as above it


@pytest.mark.parametrize("p", [1025, 1100])
def test_a_spectrum_in_float64_and_its_controls_are_estimated(p):
    w = made_matrices.matrix("spikes", 4, (p, 1400), np.random.default_rng(9))
    found, whole = spectrum(w, exact=False, controls=["fresh"]), spectrum(w)
    assert not found.exact and not found.controls["fresh"].exact and found.outliers == whole.outliers
    assert found.top_ratio == pytest.approx(whole.top_ratio, rel=1e-9)
    assert found.outlier_variance == pytest.approx(whole.outlier_variance, rel=1e-6)


def test_large_matrices_are_estimated_by_default(monkeypatch):
    monkeypatch.setattr("lfmlib.structure.spectra.MAX_EXACT_SIDE", 1050)
    w = np.random.default_rng(2).standard_normal((1100, 1400)).astype(np.float32)
    estimated, whole = spectrum(w), spectrum(w[:1040])
    assert whole.exact and not estimated.exact and spectrum(w.T) == estimated
    assert spectrum(w, exact=True).exact and spectrum(w[:90], exact=False) == spectrum(w[:90])


@pytest.mark.parametrize("name", MADE)
def test_what_lies_beyond_the_edge_is_that_of_all_eigenvalues(name):
    w = torch.tensor(MADE[name](np.random.default_rng(5)), dtype=torch.float32)
    found, errors = fast_spectrum(Matrix(w))
    whole = spectrum(w)
    assert not found.exact and whole.outliers
    assert (found.outliers, found.edge, found.threshold) == (whole.outliers, whole.edge, whole.threshold)
    for one in ("top_ratio", "stable_rank", "outlier_variance"):
        assert getattr(found, one) == pytest.approx(getattr(whole, one), rel=1e-5)
    assert found.beyond_variance == pytest.approx(whole.beyond_variance, rel=1e-4, abs=1e-7)
    assert abs(found.effective_rank - whole.effective_rank) < 4 * errors["effective_rank"]
    assert abs(found.ks - whole.ks) < 4 * errors["ks"] + found.null["ks"][1]


@pytest.mark.slow
def test_a_spike_above_the_edge_is_found_and_one_below_is_not():
    """One direction in twenty draws each: ten per cent beyond where it leaves the edge, and well below."""
    for strength, seen in ((1.4, DRAWS), (0.7, 0)):
        found = 0
        for seed in range(DRAWS):
            rng = np.random.default_rng([seed, 3])
            u, v = (x / np.linalg.norm(x) for x in (rng.standard_normal(side) for side in SHAPE))
            w = rng.standard_normal(SHAPE) + strength * np.prod(SHAPE) ** 0.25 * np.outer(u, v)
            found += fast_spectrum(Matrix(w.astype(np.float32)), seed=seed)[0].outliers == 1
        assert abs(found - seen) <= 1
    assert spiked(1.4 * np.prod(SHAPE) ** 0.25, *SHAPE)[0] > 1.02 * (np.sqrt(SHAPE[0]) + np.sqrt(SHAPE[1]))


def test_too_many_directions_are_counted_by_all_eigenvalues():
    rng = np.random.default_rng(8)
    w = rng.standard_normal((1100, 700)) @ rng.standard_normal((700, 1400)) + 5 * rng.standard_normal(SHAPE)
    assert fast_spectrum(Matrix(w))[0].outliers == spectrum(w).outliers > 20
    left, right = (np.linalg.qr(rng.standard_normal((side, SHAPE[0])))[0] for side in SHAPE)
    dense = left * np.concatenate([np.linspace(3, 4, 200), np.linspace(0.5, 2, 900)]) @ right.T  # 200 close together
    found, errors = fast_spectrum(Matrix(dense))
    assert found == spectrum(dense) and found.exact and not errors and found.outliers > 50


@pytest.mark.parametrize("name", ["noise", "row scales", "rank three"])
def test_a_sample_of_rows_estimates_all_pairs(name):
    rng, off = np.random.default_rng(7), []
    w = MADE.get(name, lambda rng: rng.standard_normal(SHAPE))(rng)
    whole = alike(w)
    for seed in range(DRAWS):
        *found, errors = alike_of_sample(w, seed=seed, lines=200)
        off += [(one.value - all_.value) / error for one, all_, error in zip(found, whole, errors, strict=True)]
    assert np.mean(np.abs(off) <= 2.5) >= 0.9 and abs(np.mean(off)) < 1


def test_errors_of_a_sample_are_its_scatter_whatever_part_of_all_it_is():
    w = MADE["row scales"](np.random.default_rng(8))[:, :600]
    for lines in (150, 450):  # a quarter of the columns, and three quarters
        found = [alike_of_sample(w, seed=seed, lines=lines) for seed in range(3 * DRAWS)]
        scatter = np.std([columns.value for _, columns, _ in found])
        assert 0.75 < np.median([errors[1] for *_, errors in found]) / scatter < 1.35


def test_a_sample_of_all_is_no_sample():
    w = np.random.default_rng(1).standard_normal((300, 200))
    rows, columns, errors = alike_of_sample(w)
    assert errors == (0.0, 0.0)
    assert [rows.value, columns.value] == pytest.approx([one.value for one in alike(w)], rel=1e-9)


def test_constant_lines_say_nothing():
    w = np.random.default_rng(1).standard_normal((1100, 1200))
    w[:1090] = 1
    with pytest.raises(ValueError, match="fewer than two rows, or columns, vary"):
        alike_of_sample(np.ones((60, 60)))
    assert np.isfinite(alike_of_sample(w[500:])[0].value)


def test_the_excess_over_permuted_entries_is_that_of_all_eigenvalues():
    w = torch.tensor(np.random.default_rng(6).standard_t(3, SHAPE), dtype=torch.float32)
    own, permuted = spectrum(w).beyond_variance, spectrum(lfmlib.control(w, "permuted", seed=2)).beyond_variance
    half = threshold(*SHAPE) ** 2 / (2 * np.prod(SHAPE))
    assert permuted > 0 and abs(beyond_excess(w, own, seed=2) - (own - permuted)) < 1e-3 * 2 * half


# --- the table ------------------------------------------------------------------------------------------------------

FIRST = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)).bfloat16()
TABLE = {"layers.0.q.weight": FIRST, "layers.0.k.weight": FIRST[:64, :128].clone()}


def test_the_table_says_what_was_estimated():
    found = lfmlib.arrangement(TABLE, effort="fast", controls="permuted", progress=False)
    plain = lfmlib.arrangement(TABLE, controls="permuted", progress=False)
    errors = [f"{name}_err" for name in lfmlib.surveys.arrangements.ESTIMATED]
    assert [*plain, *errors] == [*found] and (found.attrs["effort"], plain.attrs["effort"]) == ("fast", "exact")
    small = found["tensor"] == "layers.0.k.weight"
    assert (found.loc[small, errors] == 0).all(axis=None) and (found.loc[~small, errors] > 0).all(axis=None)
    assert found.loc[small, [*plain]].equals(plain[small])
    estimated = [name for name in plain if not name.startswith(lfmlib.surveys.arrangements.ESTIMATED)]
    numbers = plain[estimated].drop(columns="depth").select_dtypes("number")
    np.testing.assert_allclose(found[numbers.columns], numbers, rtol=1e-5, atol=1e-9)
    for name in ("row_alike", "col_alike", "effective_rank"):
        assert ((found[name] - plain[name]).abs() <= 4 * found[f"{name}_err"] + 1e-9).all()


def test_the_sample_depends_on_seed_and_name_alone():
    alone, again, other = (
        lfmlib.arrangement(TABLE, select="q", effort="fast", seed=seed, progress=False) for seed in (0, 0, 1)
    )
    assert alone.equals(again) and alone["row_corr"][0] != other["row_corr"][0]


def test_kept_rows_of_either_effort_lie_apart(tmp_path):
    path = tmp_path / "model.safetensors"
    from safetensors.torch import save_file

    save_file(TABLE, path)
    fast, exact = (
        lfmlib.arrangement(path, effort=effort, progress=False, keep=tmp_path / "rows") for effort in ("fast", "exact")
    )
    assert fast["row_corr_err"].max() > 0 and "row_corr_err" not in exact
    assert exact.equals(lfmlib.arrangement(path, progress=False))
    assert fast.equals(lfmlib.arrangement(path, effort="fast", progress=False, keep=tmp_path / "rows"))


def test_an_unknown_effort_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match=r"effort is 'quick': expected \"exact\", every figure .*, or \"fast\""):
        lfmlib.arrangement("no/such/model", effort="quick")


@pytest.mark.parametrize("shape", [(2048, 2048), (2048, 11008), (4096, 262144)])
def test_the_null_of_the_distance_is_as_wide_as_methods_say(shape):
    low, high = krylov.fast_null(*shape)["ks"]
    assert low * math.sqrt(shape[0]) == pytest.approx(0.11, abs=0.025)
    assert high * math.sqrt(shape[0]) == pytest.approx(0.47, abs=0.015)
