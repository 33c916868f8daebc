"""What is planted is there; the calibration's record says that the tests can be trusted, and how far."""

import numpy as np
import pytest
from scipy import stats

from lfmlib import records
from lfmlib.chapters import calibration
from lfmlib.experiments.calibration import COUNTS
from lfmlib.structure import made_matrices

SHAPE = (384, 512)
EDGE = np.sqrt(384) + np.sqrt(512)


def made(departure: str, size: float, seed: int = 0) -> np.ndarray:
    return made_matrices.matrix(departure, size, SHAPE, np.random.default_rng(seed))


@pytest.mark.parametrize("size", [0.02, 0.2])
def test_neighbours_have_the_planted_correlation_and_unit_variance(size):
    w = made("neighbours", size)
    assert np.corrcoef(w[:, :-1].ravel(), w[:, 1:].ravel())[0, 1] == pytest.approx(size, abs=0.01)
    assert w.std(axis=0).mean() == pytest.approx(1.0, abs=0.01) and w[:, 0].std() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(("departure", "axis"), [("row scales", 1), ("column scales", 0)])
def test_scales_have_the_planted_spread(departure, axis):
    scales = made(departure, 0.3).std(axis=axis)
    assert scales.std() / scales.mean() == pytest.approx(0.3, rel=0.15)


def test_blocks_lie_on_the_grid():
    w = made("blocks", 0.5)
    blocks = w.reshape(8, 48, 8, 64).std(axis=(1, 3))
    assert 0.3 < blocks.std() / blocks.mean() < 0.7


@pytest.mark.parametrize("count", [1, 10])
def test_spikes_land_just_beyond_the_edge(count):
    s = np.linalg.svd(made("spikes", count), compute_uv=False) / EDGE
    assert s[:count].mean() == pytest.approx(1.05, abs=0.02) and s[count] < 1.02


def test_three_directions_have_their_share():
    w = made("rank three", 0.4)
    s = np.linalg.svd(w, compute_uv=False) ** 2
    assert s[:3].sum() / s.sum() == pytest.approx(0.4, abs=0.02)


def test_orthogonal_and_symmetric_matrices_are():
    w = made("orthogonal", 1.0)
    assert w.std() == pytest.approx(1.0, abs=0.01) and np.allclose(w @ w.T, 512 * np.eye(384))
    square = made_matrices.matrix("symmetric", 0.3, (384, 384), np.random.default_rng(0))
    upper = np.triu_indices(384, 1)
    assert np.corrcoef(square[upper], square.T[upper])[0, 1] == pytest.approx(0.3, abs=0.01)
    assert square.std() == pytest.approx(1.0, abs=0.01)


def test_unknown_departures_are_refused():
    with pytest.raises(ValueError, match="no departure is called 'x': expected one of neighbours"):
        made("x", 0)


def test_noise_raises_as_many_alarms_as_it_should():
    """Each test's rate is inside its binomial interval, taken for all tests at once."""
    record = records.load("calibration")
    rates = calibration.false_alarms(record)
    assert (rates["draws"] >= 4000).all()  # of square matrices, half
    level = 1 - 0.05 / len(rates)
    for name, row in rates.iterrows():
        alarms = round(row["rate"] * row["draws"])
        interval = stats.binomtest(alarms, int(row["draws"])).proportion_ci(level)
        assert interval.low <= row["level"] <= interval.high, name
    noise = record[record["departure"] == "noise"]
    assert noise["fails_identity"].sum() == 0
    assert noise["fails_all"].sum() / noise["draws"].sum() < 0.02


def test_every_departure_is_seen_by_its_test():
    power = calibration.power(records.load("calibration"), 384, 384)
    for departure, name in {
        "neighbours": "lag_row",
        "row scales": "row_share",
        "column scales": "col_share",
        "blocks": "block_share",
        "spikes": "outliers",
        "rank three": "row_corr",
        "orthogonal": "row_corr",
        "symmetric": "transpose_corr",
    }.items():
        some = power.loc[departure, name]
        assert some.iloc[-1] > 0.95 and some.is_monotonic_increasing
        assert (power.loc["noise", name] < 0.1).all()


def test_the_page_shows_every_test_and_departure():
    page = calibration.page(records.load("calibration"))
    assert all(f"| `{name}` |" in page for name in COUNTS)
    assert all(f"### {name.capitalize()}" in page for name in made_matrices.DEPARTURES)
