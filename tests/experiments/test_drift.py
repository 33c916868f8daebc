"""The drift–diffusion prediction against closed forms and against matrices that fade as it says."""

import math

import numpy as np
import pytest

from lfmlib.experiments import drift
from lfmlib.lab import starts


@pytest.mark.parametrize(
    ("start", "kurtosis"), [("uniform", -1.2), ("signs", -2.0), ("laplace", 3.0), ("sparse-90", 27)]
)
@pytest.mark.parametrize("memory", [1.0, 0.8, 0.5])
def test_excess_kurtosis_falls_with_the_fourth_power(start, kurtosis, memory):
    found = drift.predicted(start, memory, "excess_kurtosis")
    assert found == pytest.approx(kurtosis * memory**4, rel=0.03, abs=0.03)


def test_the_ends_of_the_law():
    assert drift.predicted("laplace", 1.0) == pytest.approx(0.103, abs=0.002)
    for start in starts.STARTS:
        assert drift.predicted(start, 0.0) == pytest.approx(0.0, abs=3e-4)
    with pytest.raises(ValueError, match="from 0 to 1"):
        drift.predicted("laplace", 1.2)
    with pytest.raises(ValueError, match="unknown start"):
        drift.predicted("cauchy", 0.5)


@pytest.mark.parametrize("start", starts.UNLIKE_STARTS)
def test_a_start_is_forgotten_where_the_law_crosses_the_bound(start):
    ratio = drift.forgotten_at(start, 0.02)
    assert drift.predicted(start, 1 / math.sqrt(1 + ratio**2)) == pytest.approx(0.02, abs=2e-4)
    assert drift.foretold(start, np.array([ratio]))[0] == pytest.approx(0.02, rel=0.05)
    values = drift.law(start)[1]
    assert (np.diff(values[values > 0.001]) < 1e-3).all()  # more added, less left to see
    assert drift.ratio(1 / math.sqrt(1 + ratio**2)) == pytest.approx(ratio)


def test_controls_need_nothing():
    assert [drift.forgotten_at(start, 0.02) for start in starts.CONTROLS] == [0.0, 0.0]
