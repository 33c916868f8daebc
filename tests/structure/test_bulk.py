"""Noise fitted to the middle of a spectrum: its size, what lies beyond it, and that there may be none."""

import math

import numpy as np
import pytest

from lfmlib.structure.bulk import below_edge, bulk, bulks, noise_variance


def low(rank: int, noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(rank)
    signal = rng.standard_normal((200, rank)) @ rng.standard_normal((rank, 300))
    return signal + noise * rng.standard_normal((200, 300))


def test_strong_directions_do_not_move_the_noise():
    found = bulk(low(20, noise=1.0))
    assert found.variance * low(20, noise=1.0).var() == pytest.approx(1.0, rel=0.15)
    assert found.outliers == 20 and found.ks < 0.1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_directions_are_empty_there_is_no_noise(dtype):
    """Its middle is rounding, and noise of that size has most of it beyond its edge."""
    w = low(20).astype(dtype)
    found = bulk(w)
    assert found.variance == 0 and math.isnan(found.ks)
    assert found.outliers in (20, 21)  # the mean, which is subtracted, is one more direction
    assert found.outlier_variance == pytest.approx(1.0)
    assert below_edge(np.linalg.svd(w, compute_uv=False), w.shape) == 180
    assert noise_variance(np.zeros(10), 0.5) == 0


def test_medians_over_matrices_and_their_controls():
    found = bulks([low(20, noise=1.0), low(10, noise=1.0)])
    assert list(found.index) == ["weights", "rescaled", "fresh"]
    assert found.loc["weights", "outliers"] == 15 and found.loc["fresh", "outliers"] == 0
