"""Noise in place of what training added: of the size, type and rank that were asked for."""

import numpy as np
import pytest
import torch
from scipy import stats

from lfmlib import noise
from lfmlib.normality import measure, qq_r2


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_added_noise_keeps_the_type_and_has_the_std(dtype):
    base = torch.randn(300, 400, generator=torch.Generator().manual_seed(0)).mul(0.02).to(dtype)
    made = noise.added(base, 0.004, rng())
    assert made.dtype == dtype and made.shape == base.shape
    assert (made.double() - base.double()).std().item() == pytest.approx(0.004, rel=0.02)
    assert torch.equal(made, noise.added(base, 0.004, rng())) and not torch.equal(
        made, noise.added(base, 0.004, rng(1))
    )


def test_products_of_gaussian_factors_have_their_own_law():
    """Excess kurtosis 6 / rank: the squared length of a row of B has a relative variance of 2 / rank, and so of A."""
    for rank in (4, 16):
        made = noise.low_rank((2000, 1500), rank, 0.5, rng(rank))
        assert made.std(correction=0).item() == pytest.approx(0.5, rel=1e-5)
        assert torch.linalg.matrix_rank(made[:100, :100].double(), rtol=1e-5) == rank
        assert stats.kurtosis(made.numpy().ravel()) == pytest.approx(6 / rank, rel=0.15)
    assert measure(noise.low_rank((500, 500), 1, 1.0, rng()))["kl_bits"] > 0.1
    assert qq_r2(noise.low_rank((500, 500), 400, 1.0, rng())) > 0.999
