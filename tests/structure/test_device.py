"""Tensors that lie on a GPU are measured there, and what comes out is the same. Skipped where there is none."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

import lfmlib
from lfmlib.structure import made_matrices
from lfmlib.structure.spectra import spectrum

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 1000, (1 << 24) + 12345])
def test_sketches_are_the_same_integers(dtype, size):
    values = (0.02 * torch.randn(size, generator=torch.Generator().manual_seed(size))).to(dtype)
    values[size // 2] = 0.0
    if size > 10 and dtype not in (torch.float8_e4m3fn, torch.float64):
        values[3], values[5], values[7] = float("inf"), float("nan"), -0.0
    assert lfmlib.Sketch.of(values.cuda()) == lfmlib.Sketch.of(values)
    assert lfmlib.Sketch.of(values.cuda()[::3]) == lfmlib.Sketch.of(values[::3])


@pytest.mark.parametrize("exact", [True, False])
def test_spectra_agree(exact, monkeypatch):
    matrix = torch.tensor(made_matrices.matrix("spikes", 4, (1100, 2048), np.random.default_rng(0)))
    there = spectrum(matrix.cuda(), exact=exact)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = spectrum(matrix, exact=exact)
    assert there.top_ratio == pytest.approx(here.top_ratio, rel=1e-4)
    assert (there.outliers, there.ks) == (here.outliers, pytest.approx(here.ks, abs=2e-3))


def test_a_model_on_the_gpu_has_the_same_table():
    generator = torch.Generator().manual_seed(0)
    model = {f"layers.{i}.q_proj.weight": torch.randn(256, 300, generator=generator).bfloat16() for i in range(4)}
    table = lfmlib.survey({name: value.cuda() for name, value in model.items()}, progress=False)
    pd.testing.assert_frame_equal(table, lfmlib.survey(model, progress=False))


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q"]))
