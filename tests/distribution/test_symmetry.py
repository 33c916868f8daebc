"""Distance from the mirror image: exact against scipy, zero where it must be, and the null's own error rate."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import lfmlib
from lfmlib.distribution import nulls
from lfmlib.distribution.distances import asymmetry


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("skewed", [False, True])
def test_16_bit_types_agree_with_scipy(dtype, skewed):
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.gamma(3, size=4000) - 3 if skewed else rng.standard_normal(4000)).to(dtype)
    mean = lfmlib.Sketch.of(values).mean
    x = values.double().numpy()
    assert asymmetry(values) == pytest.approx(stats.ks_2samp(x - mean, mean - x).statistic, abs=1e-12)


def test_float32_is_within_the_largest_cell_of_scipy():
    x = (np.random.default_rng(1).gamma(2, size=20_000) - 1).astype(np.float32)
    sketch = lfmlib.Sketch.of(x)
    exact = stats.ks_2samp(x - sketch.mean, sketch.mean - x).statistic
    assert asymmetry(sketch) == pytest.approx(exact, abs=sketch.cells.count.max() / sketch.count)


@given(st.integers(0, 1000), st.sampled_from(["float32", "bfloat16"]))
def test_a_mirrored_tensor_is_as_asymmetric_and_a_doubled_one_not_at_all(seed, dtype):
    x = torch.tensor(np.random.default_rng(seed).gamma(2, size=500)).to(getattr(torch, dtype))
    assert asymmetry(x) == pytest.approx(asymmetry(-x), abs=1e-9)
    assert asymmetry(torch.cat([x, -x])) == pytest.approx(0, abs=1e-9)


def test_nothing_to_measure_is_nan():
    assert math.isnan(asymmetry(np.zeros(10, np.float32))) and math.isnan(asymmetry(np.empty(0, np.float32)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_null_holds_95_per_cent_of_noise(dtype):
    rng, low, high = np.random.default_rng(2), *nulls.band(dtype, 10_000)["asymmetry"]
    inside = [low <= asymmetry(nulls.draw(dtype, 10_000, rng, 0, 0.03)) <= high for _ in range(400)]
    assert stats.binomtest(sum(inside), 400, 0.95).pvalue > 1e-3
    assert low < nulls.typical(dtype, 10_000)["asymmetry"] < high


def test_a_survey_says_it_beyond_noise():
    rng = np.random.default_rng(3)
    made = {
        "skewed": torch.tensor(rng.gamma(4, size=(80, 80)) - 4),
        "noise": torch.tensor(rng.standard_normal((80, 80))),
    }
    table = lfmlib.survey({k: v.float() for k, v in made.items()}, progress=False).set_index("tensor")
    excess = table["asymmetry"] - nulls.typical("float32", 6400)["asymmetry"]
    assert table["asymmetry_excess"].to_numpy() == pytest.approx(excess.to_numpy())
    assert table.loc["skewed", "asymmetry_excess"] > 0.05 > table.loc["noise", "asymmetry_excess"] + 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_zeros_are_left_out(dtype):
    x = torch.tensor(np.random.default_rng(4).standard_normal(20_000)).to(dtype)
    pruned = torch.where(x.float().abs() < 0.6, 0.0, x.float()).to(dtype)
    assert asymmetry(pruned) < (0.03 if dtype != torch.float8_e4m3fn else 0.06)  # rounding has its own floor
    assert asymmetry(pruned) == pytest.approx(asymmetry(pruned.float()[pruned.float() != 0].to(dtype)), abs=1e-6)
