"""`iid` and `spectrum` from one Gram matrix say what each says alone."""

import math

import numpy as np
import pytest
import torch

import lfmlib
from lfmlib.structure import likeness, made_matrices
from lfmlib.structure.entries import FIGURES, FURTHER
from lfmlib.structure.together import together

SHARED = ("row_corr", "col_corr")
"""Figures that are made from the same products."""
RNG = np.random.default_rng(33)
MADE = {
    "noise": RNG.standard_normal((640, 1024)),
    "tall": RNG.standard_normal((1024, 640)),
    "square": RNG.standard_normal((600, 600)),
    "heavy tails": RNG.standard_t(3, (640, 1024)),
    "spiked": made_matrices.matrix("rank three", 0.4, (640, 1024), RNG),
    "row scales": RNG.standard_normal((640, 1024)) * np.exp(2 * RNG.standard_normal((640, 1))),
    "column scales": RNG.standard_normal((640, 1024)) * np.exp(2 * RNG.standard_normal(1024)),
    "off centre": RNG.standard_normal((640, 1024)) + RNG.standard_normal((640, 1)),
    "small": RNG.standard_normal((64, 96)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", MADE)
def test_together_and_alone_agree(name, dtype):
    w = (0.02 * torch.tensor(MADE[name])).to(dtype)
    entries, values = together(w)
    alone = lfmlib.iid(w)
    assert values == lfmlib.spectrum(w)
    for figure in (*FIGURES, *FURTHER):
        low, high = alone.null.get(figure, (0, math.nan))
        off = abs(getattr(entries, figure) - getattr(alone, figure))
        bound = 1e-3 * (high - low) if figure in SHARED else 0.0
        assert off <= bound or (math.isnan(off) and w.shape[0] != w.shape[1]), figure
    assert entries.null == alone.null


@pytest.mark.parametrize("row", [np.full(1024, 0.5), 1e3 + RNG.standard_normal(1024)], ids=["constant", "far"])
def test_lines_that_shared_products_are_too_coarse_for(row, monkeypatch):
    w = MADE["noise"].copy()
    w[7] = row
    seen, plain = [], likeness.from_products
    monkeypatch.setattr("lfmlib.structure.together.from_products", lambda *a: seen.append(plain(*a)) or seen[-1])
    assert together(w.astype(np.float32))[0] == lfmlib.iid(w.astype(np.float32)) and seen == [None]


def test_errors_are_those_of_each():
    with pytest.raises(ValueError, match="all entries are equal"):
        together(np.ones((64, 64), np.float32))
    with pytest.raises(ValueError, match="at least 40 rows"):
        together(np.ones((8, 64), np.float32))
    with pytest.raises(ValueError, match="found entries of type"):
        together(np.arange(4096).reshape(64, 64))
