"""Nulls of coarse types: noise passes as often as it should, wherever it lies among the codes."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import lfmlib
from lfmlib.distribution import nulls
from lfmlib.distribution.distances import measure, normality
from lfmlib.distribution.like_noise import is_coarse, latent, null
from lfmlib.findings.f9_f10_centre import symmetric
from lfmlib.surveys.values import noise_twin

COARSE = {
    "float8_e4m3fn": (300.0, 16.0, 0.02, 0.005, 0.001, 0.0004),
    "float8_e5m2": (64.0, 1e-4, 2e-5, 5e-6),
    "float8_e4m3fnuz": (8.0, 0.001),
    "float8_e5m2fnuz": (64.0, 1e-5),
    "float16": (0.5, 0.002, 2e-4, 1e-5, 1e-7, 2e-8),
    "bfloat16": (0.02, 1e-38, 1e-39, 1e-40),
}
"""Storage type → standard deviations, from beyond its range down to where few of its codes occur."""


def false_alarms(dtype: str, std: float, count: int, draws: int) -> dict[str, int]:
    rng, outside = np.random.default_rng([count, draws]), dict.fromkeys(nulls.FIGURES, 0)
    for number in range(draws):
        sketch = nulls.draw(dtype, count, rng, 0.0, std)
        figures = measure(sketch) | {"mean_ratio": abs(sketch.mean) / sketch.std}
        for name, (low, _, high) in null(sketch, measure, str(number)).items():
            unknown = np.isnan(low) and np.isnan(figures[name])
            outside[name] += not (unknown or low <= figures[name] <= high)
    return outside


def likely(draws: int, tests: int) -> float:
    """Alarms at 5 % not exceeded in any of so many tests, but once in a thousand; the nulls are themselves drawn."""
    return float(stats.binom.ppf(1 - 1e-3 / tests, draws, 0.06))


@pytest.mark.parametrize(("dtype", "std"), [("float8_e4m3fn", 0.005), ("float8_e5m2", 2e-5)])
def test_float8_noise_passes(dtype, std):
    assert max(false_alarms(dtype, std, 65_536, 20).values()) <= likely(20, 22)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", COARSE)
def test_noise_passes_down_to_the_smallest_codes(dtype):
    """At each scale, and at all together: a null that is off at one fails nearly always there, one that is a little off
    at all is told by their sum."""
    draws, stds = 24, COARSE[dtype]
    outside = pd.DataFrame({std: false_alarms(dtype, std, 16_384, draws) for std in stds})
    far = outside[(outside > likely(draws, 24 * 11)).any(axis=1)]
    assert far.empty, far
    total = outside.sum(axis=1)
    assert total[total > likely(draws * len(stds), len(COARSE) * 11)].to_dict() == {}


def test_probabilities_of_cells_are_computed_once_for_a_law_and_not_to_be_changed():
    first, again = (nulls.masses("float8_e5m2", 0.0, 0.5) for _ in range(2))
    assert all(one is two for one, two in zip(first, again, strict=True))
    with pytest.raises(ValueError, match="read-only"):
        again[1][0] = 1.0
    fresh = nulls.masses.__wrapped__("float8_e5m2", 0.0, 0.5)
    assert all(np.array_equal(one, two) for one, two in zip(first, fresh, strict=True))


@pytest.mark.parametrize("dtype", COARSE)
def test_the_latent_gaussian_rounds_to_what_was_given(dtype):
    for std in COARSE[dtype]:
        for mean in (0.0, 0.3 * std):
            sketch = nulls.draw(dtype, 1 << 22, np.random.default_rng(0), mean, std)
            centre, scale = latent(dtype, sketch.mean, sketch.std)
            again = nulls.draw(dtype, 1 << 22, np.random.default_rng(1), centre, scale)
            assert again.std == pytest.approx(sketch.std, rel=0.02)
            assert again.mean == pytest.approx(sketch.mean, abs=0.01 * sketch.std)


def test_where_the_table_serves_it_is_the_null():
    for dtype in ("bfloat16", "float16", "float32"):
        sketch = nulls.draw(dtype, 65_536, np.random.default_rng(0), 0.0, 0.02)
        found, table = null(sketch, measure), nulls.bounds(dtype, 65_536)
        assert not is_coarse(dtype, sketch.mean, sketch.std)
        assert all(found[name] == table[name] for name in table if name != "exponent_entropy")
        assert found["exponent_entropy"] == pytest.approx(table["exponent_entropy"], abs=0.01)


def test_there_is_none_of_nothing():
    assert null(lfmlib.Sketch.of(np.zeros(100, np.float32)), measure) == {}
    assert null(lfmlib.Sketch.of(torch.randn(63).to(torch.float8_e5m2)), measure) == {}


def test_the_name_seeds_the_draws():
    sketch = nulls.draw("float8_e4m3fn", 4096, np.random.default_rng(0), 0.0, 0.02)
    assert null(sketch, measure, "a") == null(sketch, measure, "a") != null(sketch, measure, "b")


@pytest.mark.slow
def test_float8_noise_is_symmetric_and_skewed_values_are_not():
    """F10 at a scale where noise itself is far from its mirror image; the twin stands for noise."""
    rng, passed = np.random.default_rng(0), 0
    for _ in range(20):
        made = {
            "noise": torch.tensor(0.005 * rng.standard_normal((64, 64))).to(torch.float8_e4m3fn),
            "skewed": torch.tensor(0.5 * (rng.gamma(2, size=(64, 64)) - 2)).to(torch.float8_e4m3fn),
        }
        table = lfmlib.survey(made, progress=False)
        found = symmetric(table).set_axis(table["tensor"])
        passed += bool(found["noise"]) and not found["skewed"] and bool(symmetric(noise_twin(table)).all())
    assert passed >= 17  # each of three verdicts may miss in one of forty


def test_a_skewness_of_half_is_told():
    """The label calls a gamma of shape 16 Gaussian; skewness, and its distance from the mirror image, do not."""
    rng, told = np.random.default_rng(1), 0
    for _ in range(20):
        found = normality(rng.gamma(16, size=(64, 64)).astype(np.float32))
        told += found.skewness > found.null["skewness"][1] and found.asymmetry > found.null["asymmetry"][1]
    assert told >= 19
