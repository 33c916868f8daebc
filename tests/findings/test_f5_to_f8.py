"""F5 and F8: verdicts on made records, planted both ways."""

import numpy as np
import pandas as pd
import pytest

from lfmlib import findings


def built(noise: float, scatter: float = 0.005, loss: bool = False) -> pd.DataFrame:
    """Five runs in which LoRA gains 0.2 over the head alone, and noise a share of it."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(5):
        level = 0.5 + 0.05 * rng.standard_normal()  # seeds differ by more than the methods: gains are paired
        for adapter, rank, gain in (
            ("head", 0, 0.0),
            ("lora", 1, 0.2),
            *((f"noise-{law}", 1, 0.2 * noise) for law in ("gaussian", "uniform", "signs")),
        ):
            score = level + gain + (scatter * rng.standard_normal() if rank else 0)
            value = 3 - score if loss else score
            rows.append(
                {"seed": seed, "adapter": adapter, "rank": rank, "score": value, "loss": value if loss else 9.0}
            )
    return pd.DataFrame(rows)


def replaced(normal: float, kept: float = 0.0, loss: bool = False) -> pd.DataFrame:
    """Five runs: a share of normal ΔW, and norm-matched noise that keeps a share of the gain."""
    rows = []
    for seed in range(5):
        for kind, gain, share in (("trained", 0.3, normal), ("noise", 0.3 * kept, 1.0), ("none", 0.0, 0.0)):
            score = 0.4 + 0.01 * seed + gain
            score = 3 - score if loss else score
            rows.append({"seed": seed, "kind": kind, "score": score, "loss": 9.0, "normal_share": share})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize(
    ("noise", "normal", "verdict", "value"),
    [(1.1, 1.0, "supported", 2), (0.6, 1.0, "partly", 1), (1.1, 0.3, "partly", 1), (0.6, 0.3, "contradicted", 0)],
)
def test_f5_counts_its_two_legs(noise, normal, verdict, value, loss):
    found = findings.f5_over_runs(
        built(noise, loss=loss), replaced(normal, loss=loss), "m", {}, score="loss" if loss else "accuracy"
    )
    assert (found.verdict, found.value) == (verdict, value)
    assert found.null == 1  # noise has the histogram, and learns nothing
    assert found.details["shares"]["gaussian"][0] == pytest.approx(noise, abs=0.06)


def test_f5_is_undecided_where_the_share_of_the_gain_straddles_its_bound():
    found = findings.f5_over_runs(built(0.95, scatter=0.02), replaced(1.0), "m", {}, score="accuracy")
    assert found.verdict == "undecided" and found.interval == (1, 2)


def test_f5_noise_that_keeps_the_gain_would_be_seen():
    assert findings.f5_over_runs(built(1.0), replaced(1.0, kept=1.0), "m", {}, score="accuracy").null == 2


def test_f5_of_one_run_is_refused():
    with pytest.raises(ValueError, match=r"F5 of m needs at least two runs"):
        findings.f5_over_runs(built(1.0).query("seed == 0"), replaced(1.0), "m", {}, score="accuracy")


def radii(ratio: float, scatter: float = 0.05, seeds: int = 5, **more) -> pd.DataFrame:
    """Runs in which the fine-tune stands `ratio` times the noise of its base, exactly in the mean; draws are shared."""
    rng, rows = np.random.default_rng(1), []
    logs = rng.standard_normal(seeds)
    logs = np.log(ratio) + scatter * (logs - logs.mean()) / max(logs.std(ddof=1) if seeds > 1 else 1, 1e-9)
    for seed in range(seeds):
        for draw in range(16):
            size = 0.2 * np.exp(0.5 * rng.standard_normal())
            for which, factor in (("base", 1.0), ("tuned", np.exp(logs[seed])), ("random", 0.9)):
                rows.append({"seed": seed, "draw": draw, "which": which, "radius": size * factor})
    about = {"kind": "matrix", "head": "fitted", "task": "t", "judged_on": "t"}
    return pd.DataFrame(rows).assign(**about | more)


@pytest.mark.parametrize(
    ("ratio", "scatter", "verdict"),
    [(1.5, 0.05, "supported"), (1.1, 0.3, "partly"), (0.7, 0.05, "contradicted"), (0.95, 0.3, "undecided")],
)
def test_f8_by_the_ratio_of_radii(ratio, scatter, verdict):
    found = findings.f8_over_runs(radii(ratio, scatter), "m", {})
    assert found.verdict == verdict and found.value == pytest.approx(ratio)
    half = 2.776 * scatter / 5**0.5  # Student's t with four degrees of freedom
    assert np.log(found.interval) == pytest.approx([np.log(ratio) - half, np.log(ratio) + half], abs=1e-3)
    assert found.null == pytest.approx(0.9) and found.details["draws"] == 16


def test_f8_with_a_run_that_has_no_radius_is_undecided():
    rows = radii(1.5)
    rows.loc[(rows["seed"] == 2) & (rows["which"] == "base"), "radius"] = np.nan
    assert findings.f8_over_runs(rows, "m", {}).verdict == "undecided"


def test_f8_without_a_control_says_so():
    rows = radii(1.5)
    assert findings.f8_over_runs(rows[rows["which"] != "random"], "m", {}).null is None


def test_shares_of_gains_are_paired():
    """A stand-in that keeps nine tenths in every run has no scatter, however unlike the runs are."""
    rows = [
        {"seed": seed, "kind": kind, "score": 0.2 + whole * share, "loss": 9.0, "normal_share": 1.0}
        for seed, whole in enumerate((0.1, 0.3, 0.5, 0.2))
        for kind, share in (("trained", 1.0), ("flattened", 0.9), ("none", 0.0))
    ]
    kept = {kind: findings.kept_share(pd.DataFrame(rows), kind, score="accuracy") for kind in ("flattened", "trained")}
    assert kept["flattened"].to_numpy() == pytest.approx(0.9) and kept["trained"].std() < 1e-12


def test_f8_pairs_the_draws_and_keeps_other_heads_and_tasks_apart():
    other = pd.concat([radii(1.5), radii(0.5, head="timid"), radii(0.8, judged_on="old")])
    found = findings.f8_over_runs(other, "m", {})
    assert found.value == pytest.approx(1.5, rel=0.1)
    assert float(found.details["parts"]["with a timid head"].split()[0]) == pytest.approx(0.5, rel=0.1)
    assert float(found.details["parts"]["on the old task"].split()[0]) == pytest.approx(0.8, rel=0.1)


def test_f8_leaves_out_draws_without_a_radius():
    rows = radii(1.5, scatter=0.0)
    rows.loc[(rows["which"] == "base") & (rows["draw"] == 3), "radius"] = np.inf
    assert findings.f8_over_runs(rows, "m", {}).value == pytest.approx(1.5)


def test_f8_of_one_run_is_refused():
    with pytest.raises(ValueError, match=r"F8 of m needs at least two runs"):
        findings.f8_over_runs(radii(1.5, seeds=1), "m", {})
