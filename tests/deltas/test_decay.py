"""What weight decay takes from the spread: the law on trainings that keep its assumptions, and its turning point."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from lfmlib.chapters import ch06_decay
from lfmlib.deltas.decay import foretold_gain, turning_point, widened
from lfmlib.lab.train import OPTIMIZERS, Config, left_by_decay, rate


def walked(decay: float, seed: int = 0, size: int = 20_000, optimizer: str = "adamw") -> tuple[np.ndarray, np.ndarray]:
    """Weights before and after a training whose gradients do not depend on them, and whose path turns about."""
    rng = np.random.default_rng(seed)
    config = Config("vit", "class", lr=3e-3, steps=60, weight_decay=decay, optimizer=optimizer)
    start = torch.tensor(0.05 * rng.standard_normal(size), dtype=torch.float64)
    weight = torch.nn.Parameter(start.clone())
    stepper = OPTIMIZERS[optimizer]([weight], config.lr, decay)
    for step in range(config.steps):
        stepper.param_groups[0]["lr"] = rate(config, step)
        weight.grad = torch.tensor(rng.standard_normal(size))
        stepper.step()
    return start.numpy(), weight.detach().numpy()


def config(decay: float) -> Config:
    return Config("vit", "class", lr=3e-3, steps=60, weight_decay=decay)


def path(seed: int = 0) -> tuple[float, float]:
    before, after = walked(0.0, seed)
    delta = after - before
    return delta.std() / before.std(), np.cov(delta, before)[0, 1] / before.var()


@pytest.mark.parametrize("decay", [0.03, 0.3, 1.0, 3.0])
def test_the_spread_is_foretold_from_a_training_without_decay(decay):
    before, after = walked(decay)
    kept = left_by_decay(config(decay))
    assert widened(kept, *path()) == pytest.approx(after.var() / before.var() - 1, abs=0.01)
    gain = (after.var() - before.var()) / (after - before).var()
    assert foretold_gain(kept, *path()) == pytest.approx(gain, abs=0.05, rel=0.05)


def test_the_turning_point_is_where_the_spread_stays():
    kept = turning_point(*path())
    decays = np.geomspace(0.01, 100, 400)
    decay = min(decays, key=lambda one: abs(left_by_decay(config(one)) - kept))
    before, after = walked(decay)
    assert after.var() / before.var() == pytest.approx(1, abs=0.01)
    assert math.isnan(turning_point(0.1, -0.2))  # narrows without any decay
    assert 1 - turning_point(1e-3, 0.0) == pytest.approx(0.5e-6, rel=1e-3)
    for moved, along in ((2.0, -0.1), (1000.0, 0.0), (1000.0, 1000.0)):
        assert 0 < turning_point(moved, along) < 1
    for moved, along in ((0.0, 0.0), (1e-8, 0.0), (math.nan, 0.0)):  # ΔW is zero, or as good as
        assert math.isnan(turning_point(moved, along))


@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 0.1), ("sgd", 1e-3)])
def test_what_decay_leaves_is_what_the_optimizer_does(optimizer, decay):
    one = Config("vit", "class", lr=0.1, steps=50, weight_decay=decay, optimizer=optimizer)
    plain = math.prod(1 - decay * rate(one, step) for step in range(50))
    if optimizer == "adamw":
        assert left_by_decay(one) == pytest.approx(plain, rel=1e-9)
    else:  # its momentum makes ten of one, and the last steps do not come to their end
        assert plain**10 < left_by_decay(one) < plain**7


def test_adagrad_is_refused():
    with pytest.raises(ValueError, match="Adagrad's decay depends on the gradients"):
        left_by_decay(Config("vit", "class", optimizer="adagrad"))


def rows(gain_at: dict[float, float], size: float = 0.02, seeds: int = 3) -> pd.DataFrame:
    about = {"model": "minilm", "task": "library", "lr": 2e-4, "steps": 80, "optimizer": None, "corr": 0.0}
    about |= {"std_base": 0.1, "std_delta": 0.1 * size, "score": 0.5}
    made = [
        about | {"part": "plain" if decay in (0.0, 0.01) else "decay", "weight_decay": decay, "gain": gain}
        | {"seed": seed, "role": "q", "depth": depth}
        for decay, gain in gain_at.items()
        for seed in range(seeds)
        for depth in range(2)
    ]  # fmt: skip
    return pd.DataFrame(made)


def test_measured_turning_points_lie_between_the_decays_around_them():
    found = ch06_decay.trials(rows({0.0: 1.0, 0.01: 0.5, 0.03: -0.5, 0.1: -4.0}))
    (point,) = ch06_decay.turning_points(found).to_dict("records")
    assert point["measured"] == pytest.approx(0.02, rel=0.02) and point["runs"] == 3
    spent = -math.log(left_by_decay(ch06_decay._config(found.iloc[0].to_dict()))) / found.iloc[0]["weight_decay"]
    assert point["foretold"] == pytest.approx(-math.log(turning_point(0.02, 0.0)) / spent)
    words = ch06_decay.table_of_turning_points(ch06_decay.turning_points(found))
    assert (
        words.index[0] == "MiniLM, AdamW 0.0002, 80 steps" and words["measured"].iloc[0] == f"{point['measured']:.3g}"
    )


def test_where_no_sign_changes_nothing_is_measured():
    found = ch06_decay.trials(rows({0.0: 1.0, 0.01: 0.9}))
    points = ch06_decay.turning_points(found)
    assert ch06_decay.table_of_turning_points(points)["measured"].iloc[0] == "not reached"
    assert "No setting" in ch06_decay.of_turning_points(found, points)


def test_scores_are_called_equal_only_where_they_are():
    made = rows({0.0: 1.0, 0.01: 0.5, 0.03: -0.5})
    assert "At equal score" in ch06_decay.at_equal_score(made)
    made.loc[made["weight_decay"] == 0.03, "score"] = 0.4
    assert "At equal score" not in ch06_decay.at_equal_score(made) and "0.400 at 0.03" in ch06_decay.at_equal_score(
        made
    )
