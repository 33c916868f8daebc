"""Likeness at one width, its null whatever the law of the entries, and what is told by too little of it."""

import numpy as np
import pytest
from scipy import stats

from lfmlib.structure.entries import iid
from lfmlib.structure.likeness import alike, alike_at_width, transpose_correlation

KINDS = {
    "Gaussian": lambda rng, shape: rng.standard_normal(shape),
    "t3": lambda rng, shape: rng.standard_t(3, shape),
    "sparse": lambda rng, shape: np.where(rng.random(shape) < 0.95, 0.0, rng.standard_normal(shape)),
    "signs": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
}


def outside(found, name):
    low, high = found.null[name]
    return not low <= getattr(found, name) <= high


@pytest.mark.parametrize("kind", KINDS)
def test_noise_of_any_law_passes_as_often_as_it_should(kind):
    rng, draws = np.random.default_rng(5), 60
    misses = dict.fromkeys(("row_alike", "col_alike", "row_alike_64", "col_alike_64", "transpose_corr", "lag_one"), 0)
    for _ in range(draws):
        found = iid(KINDS[kind](rng, (128, 128)))
        for name in misses:
            misses[name] += outside(found, name)
    assert max(misses.values()) <= stats.binom.ppf(1 - 1e-5, draws, 0.05), misses


def test_variance_of_squared_correlations_is_that_of_all_orders():
    rng = np.random.default_rng(1)
    rows = rng.standard_t(3, (2, 70))
    found = [alike(np.array([rng.permutation(row) for row in rows]))[0] for _ in range(2000)]
    assert found[0].variance == pytest.approx(np.var([one.value for one in found]), rel=0.2)
    assert np.mean([one.value for one in found]) == pytest.approx(1 / 69, rel=0.12)


def test_the_same_correlation_is_the_same_at_any_width():
    """Rows that share a part of their variance: the figure of the whole grows with the width alone."""
    rng = np.random.default_rng(0)
    found = []
    for width in (128, 512):
        w = rng.standard_normal((256, width)) + 0.5 * rng.standard_normal(width)
        found.append((alike(w)[0].value * (width - 1), alike_at_width(w)[0].value))
    assert found[1][0] > 2.5 * found[0][0]
    assert found[1][1] == pytest.approx(found[0][1], rel=0.25) and found[0][1] > 2


def test_a_matrix_of_the_common_width_is_its_own_submatrix():
    w = np.random.default_rng(2).standard_normal((64, 64))
    for whole, part in zip(alike(w), alike_at_width(w), strict=True):
        assert part.value == pytest.approx(63 * whole.value, rel=1e-12)


@pytest.mark.parametrize("shape", [(256, 256), (128, 384), (384, 128)])
def test_orthogonal_matrices_are_too_little_alike(shape):
    for seed in range(20):
        tall = np.linalg.qr(np.random.default_rng(seed).standard_normal((max(shape), min(shape))))[0]
        found = iid(tall if shape[0] >= shape[1] else tall.T)
        low = found.null["row_alike"][0], found.null["col_alike"][0]
        assert found.row_alike < low[0] and found.col_alike < low[1]
        assert min(found.row_alike, found.col_alike) < 0.5


@pytest.mark.parametrize("sign", [1, -1])
def test_symmetric_matrices_are_told(sign):
    for seed in range(20):
        w = np.random.default_rng(seed).standard_normal((96, 96))
        found = iid(w + sign * w.T)
        assert found.transpose_corr == pytest.approx(sign, abs=1e-3) and outside(found, "transpose_corr")
        assert found.p["transpose_corr"] < 1e-6


def test_the_transpose_of_an_oblong_matrix_says_nothing():
    w = np.random.default_rng(0).standard_normal((60, 80))
    found = iid(w)
    assert np.isnan(transpose_correlation(w)) and "transpose_corr" not in found.null
    assert "transpose_corr" not in found.table().index and "row_alike_64" in found.table().index


def test_transposes_are_numpys():
    w = 3 + np.random.default_rng(0).standard_normal((70, 70)) @ np.diag(np.linspace(1, 2, 70))
    off = ~np.eye(70, dtype=bool)
    assert transpose_correlation(w) == pytest.approx(np.corrcoef(w[off], w.T[off])[0, 1], abs=1e-12)
