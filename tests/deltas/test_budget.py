"""The std budget of a matrix: what long floats say, whatever the means, the layout and the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lfmlib.deltas.budget import blocks, budget


def expected(new: torch.Tensor, old: torch.Tensor) -> dict[str, float]:
    """By NumPy, in its longest float, all at once."""
    w, w0 = (one.double().numpy().astype(np.longdouble) for one in (new, old))
    d = w - w0
    cov = ((d - d.mean()) * (w0 - w0.mean())).mean()
    rms = [np.sqrt((one**2).mean()) for one in (d, w0)]
    return {
        "std_base": w0.std(), "std_tuned": w.std(), "std_delta": d.std(), "std_gain": w.std() - w0.std(),
        "gain": (w.var() - w0.var()) / d.var(), "corr": cov / (d.std() * w0.std()), "cov": cov,
        "moved": rms[0] / rms[1], "zeros": (d == 0).mean(),
    }  # fmt: skip


@pytest.mark.parametrize("shift", [0.0, 1e3, 1e8])
@pytest.mark.parametrize("layout", ["rows", "transposed", "one column", "one row", "first rows alike"])
def test_figures_are_those_of_longer_floats(shift, layout, monkeypatch):
    monkeypatch.setattr("lfmlib.deltas.budget.BLOCK_VALUES", 500)
    generator = torch.Generator().manual_seed(0)
    shape = {"one column": (9000, 1), "one row": (1, 9000)}.get(layout, (90, 100))
    old, delta = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    new, old = shift + 2 * old + 0.1 * delta + 0.01, shift + 2 * old
    if layout == "transposed":
        new, old = new.T, old.T
    if layout == "first rows alike":
        new[:20], old[:20] = shift - 3.0, shift - 3.0
    found = budget(blocks(new), old, "float64", hold=False).figures
    # what is known of W - W₀ is limited by the rounding of either; the gain is a difference of variances 400 times ΔW's
    rounding = 1e-13 * max(1.0, shift)
    for name, value in expected(new, old).items():
        bound = 400 * rounding if name == "gain" else 1e-14
        assert found[name] == pytest.approx(float(value), rel=rounding, abs=bound), name


def test_large_means_are_no_matter():
    """Beside a mean of 10⁸ stds, the std itself is as exact as the numbers are."""
    generator = torch.Generator().manual_seed(1)
    old = 1e8 + torch.randn(1000, 300, generator=generator, dtype=torch.float64)
    new = old + 1e6 + torch.randn(1000, 300, generator=generator, dtype=torch.float64)
    found, wanted = budget(blocks(new), old, "float64", hold=True).figures, expected(new, old)
    for name in ("std_base", "std_tuned", "std_delta", "moved"):
        assert found[name] == pytest.approx(float(wanted[name]), rel=1e-13), name


@pytest.mark.filterwarnings("ignore:.*overflow", "ignore:.*invalid")
def test_a_variance_beyond_float64_is_infinite_and_no_error():
    old = torch.ones(200, 400, dtype=torch.float64)
    old[0, 0] = old[150, 7] = 1e200
    found = budget(blocks(old + 0.5), old, "float64", hold=False).figures
    assert found["std_base"] == np.inf and found["std_delta"] == pytest.approx(0, abs=1e-2)


def test_what_does_not_fit_is_refused():
    old = torch.randn(200, 400)
    with pytest.raises(ValueError, match=r"\(400,\) of W lie beside \(163, 400\) of W₀: expected `blocks` alike"):
        budget(torch.randn(2, 400), old, "float32", hold=False)
    with pytest.raises(ValueError, match=r"a matrix of shape \(0, 400\) has no values"):
        budget(blocks(old[:0]), old[:0], "float32", hold=False)
