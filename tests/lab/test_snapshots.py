"""What a trace says of a matrix and its start, where the truth is planted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmlib.lab import starts
from lfmlib.lab.snapshots import kept, trace


def draw(start="gaussian", shape=(96, 192), seed=0):
    return starts.draw(start, shape, torch.Generator().manual_seed(seed))


@settings(max_examples=20)
@given(st.floats(0.1, 1.5), st.floats(0.05, 3.0))
def test_drift_and_motion_come_out(drift, added):
    start, noise = draw(seed=1), draw(seed=2)
    found = kept(drift * start + added * noise, start)
    assert found["left"] == pytest.approx(drift, abs=0.04 * (1 + added))
    assert found["memory"] == pytest.approx(drift / math.hypot(drift, added), abs=0.04)
    assert found["moved"] == pytest.approx(math.hypot(drift - 1, added), rel=0.05, abs=0.02)
    assert found["added_kl_bits"] < 0.005


def test_what_is_added_is_told_from_the_start():
    start = draw("signs")
    assert kept(start + draw("laplace", seed=3), start)["added_kl_bits"] == pytest.approx(0.103, abs=0.02)
    assert kept(start + draw(seed=3), start)["added_kl_bits"] < 0.005


def test_at_step_0_nothing_has_moved():
    found = kept(draw("uniform"), draw("uniform"))
    assert (found["moved"], found["left"]) == (0.0, pytest.approx(1.0))
    assert found["memory"] == pytest.approx(1.0) and math.isnan(found["added_kl_bits"])


@pytest.mark.parametrize("shape", [(96, 192), (192, 96), (128, 128)])
def test_arrangement_of_noise_and_of_an_orthogonal_matrix(shape):
    noise, orthogonal = (kept(draw(start, shape), draw(start, shape)) for start in ("gaussian", "orthogonal"))
    assert noise["rows_alike"] == pytest.approx(1.0, abs=0.1)
    assert noise["top_ratio"] == pytest.approx(1.0, abs=0.05)
    assert orthogonal["rows_alike"] == pytest.approx(0.0, abs=1e-6)
    assert orthogonal["top_ratio"] < 0.75


def test_alike_rows_are_seen():
    start = draw()
    found = kept(start + 0.3 * torch.randn(1, 192, generator=torch.Generator().manual_seed(5)), start)
    assert found["rows_alike"] > 1.5 and found["top_ratio"] > 1.1


def test_zeros_are_seen_until_they_are_not():
    start, noise = draw("sparse-90"), draw(seed=4)
    seen = [kept(start + scale * noise, start)["zeros_seen"] for scale in (0.0, 0.3, 3.0, 30.0)]
    assert seen[0] == 1.0 and seen[-1] == pytest.approx(0.5, abs=0.02)
    assert seen == sorted(seen, reverse=True)
    assert math.isnan(kept(noise, draw("uniform"))["zeros_seen"])


def test_an_empty_row_is_no_division_by_zero():
    start = draw("sparse-90")
    start[3] = 0.0
    with np.errstate(all="raise"):
        assert math.isfinite(kept(start, start)["rows_alike"])


def test_a_trace_is_a_survey_and_more():
    start = {"layers.0.q_proj.weight": draw(), "layers.1.q_proj.weight": draw(seed=7)}
    table = trace(start, start)
    assert table["role"].tolist() == ["q", "q"] and table["depth"].tolist() == [0, 1]
    assert {"kl_bits", "ks", "excess_kurtosis", "moved", "memory", "rows_alike"} <= set(table)
