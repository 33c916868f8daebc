"""F13: verdicts on made records of adapters, planted both ways."""

import numpy as np
import pandas as pd
import pytest

from lfmlib import findings


def recorded(gain: float, scatter: float = 0.001, runs: int = 5, floor: str = "head") -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for seed in range(runs):
        level = 0.7 + rng.normal(scale=0.05)
        for method, more in {"lora": 0.0, "noise-gaussian": gain, "full": 0.1, floor: -0.2}.items():
            value = level + more + rng.normal(scale=scatter)
            rows.append({"seed": seed, "method": method, "budget": 1, "accuracy": value})
        rows.append({"seed": seed, "method": "lora", "budget": 4, "accuracy": 0.99})  # another budget does not count
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("gain", "scatter", "verdict"),
    [
        (0.03, 0.001, "supported"),
        (0.0, 0.001, "partly"),
        (-0.005, 0.0005, "partly"),
        (-0.03, 0.001, "contradicted"),
        (0.01, 0.03, "undecided"),
        (-0.01, 0.005, "undecided"),
    ],
)
def test_planted_advantages_come_out(gain, scatter, verdict):
    found = findings.f13_over_runs(recorded(gain, scatter), "lab ViT, rotation", {})
    assert (found.id, found.verdict) == ("F13", verdict)
    assert found.value == pytest.approx(100 * gain, abs=300 * scatter)
    assert found.null == pytest.approx(-20, abs=300 * scatter)
    assert list(found.details["parts"]) == ["LoRA", "noise-built", "full fine-tuning", "head alone"]


def test_a_verdict_takes_five_runs():
    found = findings.f13_over_runs(recorded(0.03, runs=4), "m", {})
    assert found.verdict == "undecided" and found.value == pytest.approx(3, abs=0.3)


def test_runs_that_lack_one_of_the_two_do_not_count():
    rows = recorded(0.03, runs=6)
    rows = rows[(rows["seed"] < 5) | (rows["method"] == "lora")]
    assert findings.f13_over_runs(rows, "m", {}).details["runs"] == 5


def test_a_model_without_a_head_is_held_against_its_base():
    found = findings.f13_over_runs(recorded(0.03, floor="none"), "lab decoder, prose", {})
    assert list(found.details["parts"])[-1] == "the base"


def test_a_training_that_diverged_is_not_left_out_in_silence():
    rows = recorded(0.03)
    rows.loc[(rows["seed"] == 2) & (rows["method"] == "lora") & (rows["budget"] == 1), "accuracy"] = np.nan
    found = findings.f13_over_runs(rows, "m", {})
    assert found.verdict == "undecided" and "1 of 5 pairs of trainings diverged" in found.details["reason"]


def test_what_cannot_be_judged_says_so():
    found = findings.f13_over_runs(recorded(0.0, runs=1), "m", {})
    assert found.value is None and "1 of the 5 runs" in found.details["reason"]
    assert findings.f13("m", {}).verdict == "undecided" and "takes a task" in findings.f13("m", {}).details["reason"]


def test_a_test_takes_two_runs_that_did_not_diverge():
    assert np.isnan(findings.paired_p([1.0, np.nan, 2.0])) and np.isnan(findings.paired_p([1.0]))
    assert findings.paired_p([0.0, 0.0]) == 1.0 and findings.paired_p([0.5, 0.5]) == 0.0
    corrected = findings.holm(pd.Series({"a": 0.01, "b": np.nan, "c": 0.02}))  # all three count, tested or not
    assert corrected.drop("b").tolist() == pytest.approx([0.03, 0.04]) and np.isnan(corrected["b"])


def test_what_has_no_interval_is_not_printed_as_one():
    assert findings.span([1.0], 1) == "1.0 (one run)" and findings.span([], 1) == "–"
    assert findings.span([90.0, 100.0], 0, unit=" %", most=100) == "95 [31, 100] %"
    assert findings.bracketed(1.0, np.nan, np.nan, 1, "+", " %") == "+1.0 % (one run)"
    assert findings.span([1.0, np.nan], 1) == "no number in 1 of 2"
    assert findings.span([1.0, 1.0], 1, "+") == "+1.0 [+1.0, +1.0]"


def test_other_noise_stands_beside_the_verdict():
    rows = recorded(0.03)
    own = rows[rows["method"] == "noise-gaussian"]
    rows = pd.concat([rows, *(own.assign(method=method) for method in findings.OTHER_NOISE)])
    parts = findings.f13_over_runs(rows, "m", {}).details["parts"]
    assert parts["of uniform noise, of ±1"] == f"{parts['noise-built']} and {parts['noise-built']}"


def test_another_method_that_diverged_shows_in_its_place():
    rows = recorded(0.03)
    rows.loc[(rows["seed"] == 2) & rows["method"].isin(["full", "head"]), "accuracy"] = np.nan
    found = findings.f13_over_runs(rows, "m", {})
    assert found.verdict == "supported" and found.null is None
    assert found.details["parts"]["full fine-tuning"] == "diverged"
