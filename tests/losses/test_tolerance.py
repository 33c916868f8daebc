"""Noise radius: a quadratic loss of known curvature is recovered, the weights come back, shared draws are shared."""

import math

import numpy as np
import pytest
import torch

from lfmlib import tolerance


def weights(seed: int = 0, **scales) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scales = scales or {"a": 0.02, "b": 0.5}
    return {name: scale * torch.randn(60, 80, generator=generator) for name, scale in scales.items()}


def quadratic(now: dict[str, torch.Tensor], curvature: float):
    """½ h Σ (w - w₀)² / σ²: noise of s standard deviations costs ½ h n s²."""
    start = {name: w.clone() for name, w in now.items()}

    def loss() -> float:
        squares = [
            ((w - start[name]).double() / start[name].std(correction=0)).square().sum() for name, w in now.items()
        ]
        return 1.0 + 0.5 * curvature * float(sum(squares))

    return loss


@pytest.mark.parametrize("curvature", [1e-4, 1e-2, 1.0])
def test_a_quadratic_of_known_curvature_is_recovered(curvature):
    now = weights()
    found = tolerance.radius(quadratic(now, curvature), now, rise=0.1, draws=8)
    expected = math.sqrt(0.1 / (0.5 * curvature * 2 * 60 * 80))
    assert found["radius"].to_numpy() == pytest.approx(expected, rel=0.03)
    assert found["radius"].mean() == pytest.approx(expected, rel=0.01)
    assert found.attrs["loss"] == 1.0 and found["draw"].tolist() == list(range(8))


def test_other_units_are_factors_where_they_are_for_all_matrices():
    now = weights()
    stds = {name: w.std(correction=0).item() for name, w in now.items()}
    own, same, half, even = (
        tolerance.radius(quadratic(now, 0.01), now, 0.1, draws=3, std=std)["radius"]
        for std in (None, stds, {name: std / 2 for name, std in stds.items()}, dict.fromkeys(now, stds["b"]))
    )
    assert same.to_numpy() == pytest.approx(own.to_numpy()) and half.to_numpy() == pytest.approx(2 * own.to_numpy())
    assert (even < own / 10).all()  # noise of one size drowns the matrix that is 25 times smaller


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_other_powers_come_out_between_grid_points(power):
    now = weights(a=1.0)
    start = now["a"].clone()
    size = lambda: float((now["a"] - start).double().square().mean().sqrt()) / float(start.std(correction=0))  # noqa: E731
    found = tolerance.radius(lambda: size() ** power, now, rise=0.3**power, draws=4)
    assert found["radius"].to_numpy() == pytest.approx(0.3, rel=0.06)


def test_twice_the_curvature_is_a_smaller_radius_in_every_draw():
    now = weights()
    one, two = (tolerance.radius(quadratic(now, h), now, 0.1, draws=6)["radius"] for h in (0.01, 0.02))
    assert (one / two).to_numpy() == pytest.approx(math.sqrt(2), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_come_back_to_the_bit_whatever_happens(dtype):
    now = {name: w.to(dtype) for name, w in weights().items()}
    before = {name: w.clone() for name, w in now.items()}
    tolerance.radius(quadratic(now, 0.01), now, 0.1, draws=2)

    calls = []

    def failing() -> float:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("out of memory")
        return 0.0

    with pytest.raises(RuntimeError, match="out of memory"):
        tolerance.radius(failing, now, 0.1)
    assert all(torch.equal(now[name], before[name]) for name in now)


def test_ctrl_c_keeps_the_draws_that_are_done():
    now, calls = weights(), []
    inner = quadratic(now, 0.01)

    def loss() -> float:
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return inner()

    found = tolerance.radius(loss, now, 0.1, draws=50)
    assert 0 < len(found) < 12


def test_draws_are_shared_between_models_and_depend_on_the_name():
    made = []
    for names in (("a", "b"), ("b", "c")):
        now = {name: torch.eye(70) for name in names}
        with tolerance.perturbed(now, "matrix", None, 3, 1) as perturb:
            perturb(1.0)
            made.append({name: w.clone() for name, w in now.items()})
    assert torch.equal(made[0]["b"], made[1]["b"])
    assert not torch.equal(made[0]["a"], made[0]["b"])


def test_kinds_have_the_same_size_and_another_place():
    now = {str(layer): torch.linspace(0.5, 2, 100)[:, None] * torch.randn(100, 90) for layer in range(4)}
    before = {name: w.clone() for name, w in now.items()}
    sizes = {}
    for kind in tolerance.KINDS:
        with tolerance.perturbed(now, kind, {name: float(name) for name in now}, 0, 0) as perturb:
            perturb(0.1)
            moved = {name: (now[name] - before[name]) / before[name].std(correction=0) for name in now}
        sizes[kind] = np.array([w.square().mean().sqrt().item() for w in moved.values()])
        assert np.sqrt((sizes[kind] ** 2).mean()) == pytest.approx(0.1, rel=0.02)
        rows = moved["1"].std(1)
        assert (rows[-20:].mean() > 1.5 * rows[:20].mean()) == (kind == "rows")
    assert (np.diff(sizes["growing"]) > 0).all() and (np.diff(sizes["falling"]) < 0).all()
    assert sizes["growing"][-1] ** 2 / sizes["growing"][0] ** 2 == pytest.approx(7, rel=0.1)


def test_a_loss_that_never_rises_has_an_infinite_radius_and_one_that_jumps_none():
    now = weights()
    assert (tolerance.radius(lambda: 1.0, now, 0.1, draws=2)["radius"] == math.inf).all()
    start = now["a"].clone()
    jump = lambda: 0.0 if torch.equal(now["a"], start) else 1.0  # noqa: E731
    assert (tolerance.radius(jump, now, 0.1, draws=2)["radius"] == 0).all()


def test_the_curve_is_the_rise_at_every_scale():
    now = weights()
    found = tolerance.curve(quadratic(now, 0.01), now, [0.1, 0.2], draws=2)
    assert found.columns.tolist() == ["draw", "scale", "rise"] and len(found) == 4
    assert found["rise"].to_numpy() == pytest.approx([48 * s**2 for s in (0.1, 0.2)] * 2, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rise": 0.0}, r"rise is 0.0: expected by how much the loss is to rise, above 0"),
        ({"kind": "rose"}, r"unknown kind of noise 'rose': expected one of matrix, rows, growing, falling"),
        ({"kind": "growing"}, r"needs the depth of every matrix: pass depth="),
        ({"weights": {}}, r"there are no weights to add noise to"),
        ({"loss": lambda: math.nan}, r"the loss is nan without any noise"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tolerance.radius(**({"loss": lambda: 1.0, "weights": weights(), "rise": 0.1} | options))


def test_a_radius_does_not_depend_on_the_draws_before_it():
    now = weights()
    found = tolerance.radius(quadratic(now, 1e-7), now, rise=0.5 * 1e-7 * 2 * 60 * 80 * 18.0**2, draws=4)
    assert (found["radius"] == math.inf).all()  # 18 lies beyond the grid


def test_rows_that_are_constant_are_left_alone():
    now = {"a": torch.arange(60.0)[:, None].expand(60, 80).clone()}
    with tolerance.perturbed(now, "rows", None, 0, 0) as perturb:
        perturb(0.1)
        assert torch.isfinite(now["a"]).all()
