"""F13: verdicts on made records of adapters, planted both ways."""

import numpy as np
import pandas as pd
import pytest

from lfmlib import findings


def recorded(
    gain: float,
    scatter: float = 0.001,
    runs: int = 5,
    floor: str = "head",
    insights: dict[str, float] | None = None,
) -> pd.DataFrame:
    """A noise-built adapter that is so much better than LoRA, and variants of it by so much more than it."""
    rng, rows = np.random.default_rng(0), []
    variants = dict.fromkeys(VARIANTS, 0.0) | (insights or {})
    methods = {"lora": 0.0, "noise-gaussian": gain, "full": 0.1, floor: -0.2}
    methods |= {name: gain + more for name, more in variants.items()}
    for seed in range(runs):
        level = 0.6 + rng.normal(scale=0.05)
        for method, more in methods.items():
            value = level + more + rng.normal(scale=scatter)
            rows.append({"seed": seed, "method": method, "budget": 1, "accuracy": value})
        rows.append({"seed": seed, "method": "lora", "budget": 4, "accuracy": 0.99})  # another budget does not count
    return pd.DataFrame(rows)


VARIANTS = (*findings.OTHER_NOISE, "noise-deeper", "noise-gaussian, σ raised")
WORSE = dict.fromkeys(findings.OTHER_NOISE, -0.03)


@pytest.mark.parametrize(
    ("insights", "scatter", "value", "verdict"),
    [
        (WORSE, 0.001, 1, "supported"),
        ({"noise-deeper": 0.03}, 0.001, 1, "supported"),
        ({"noise-deeper": 0.03, "noise-gaussian, σ raised": 0.03} | WORSE, 0.001, 3, "supported"),
        ({"noise-deeper": 0.03, "noise-gaussian, σ raised": -0.03}, 0.001, 1, "partly"),
        ({}, 0.001, 0, "contradicted"),
        ({"noise-deeper": -0.03}, 0.001, 0, "contradicted"),
        ({"noise-deeper": 0.005}, 0.0005, 1, "supported"),
        ({}, 0.03, 0, "undecided"),
    ],
)
def test_planted_insights_come_out(insights, scatter, value, verdict):
    """However good the adapter is beside LoRA, which is what the first rule judged."""
    for gain in (0.03, -0.03):
        found = findings.f13_over_runs(recorded(gain, scatter, insights=insights), "lab ViT, rotation", {})
        assert (found.id, found.value, found.verdict) == ("F13", value, verdict)
        assert found.control_verdict == "contradicted" or scatter > 0.01
        if scatter < 0.01:
            assert found.first_verdict == ("supported" if gain > 0 else "contradicted")
    assert list(found.details["parts"])[3:7] == ["LoRA", "noise-built", "full fine-tuning", "head alone"]


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
def test_the_first_reading_stays(gain, scatter, verdict):
    rows = recorded(gain, scatter)
    assert findings.f13_over_runs(rows[~rows["method"].isin(VARIANTS)], "m", {}).first_verdict == verdict


@pytest.mark.slow
def test_noise_passes_for_an_insight_hardly_ever():
    """Without any effect, of 200 tasks; Holm holds three comparisons at 5 %, half of it to the better side."""
    passed = 0
    for draw in range(200):
        rows, rng = recorded(0.0, 0.0), np.random.default_rng(draw)
        rows["accuracy"] += rng.normal(scale=0.01, size=len(rows))
        passed += findings.f13_over_runs(rows, "m", {}).verdict in ("supported", "partly")
    assert passed <= 11  # 2.5 % of 200, beyond which it comes once in 100


def test_what_was_not_trained_is_not_judged():
    rows = recorded(0.03)
    found = findings.f13_over_runs(rows[rows["method"] != "noise-deeper"], "m", {})
    assert found.value is None and found.first_verdict == "supported" and "LoRA" in found.details["parts"]


def test_a_verdict_takes_five_runs():
    found = findings.f13_over_runs(recorded(0.03, runs=4), "m", {})
    assert found.value is None and found.verdict == found.first_verdict == "undecided"
    assert found.details["reason"] == "Recorded so far: 4 of the 5 runs that it takes."


def test_a_run_counts_when_all_of_its_arms_are_recorded():
    rows = recorded(0.03)
    rows = rows[(rows["method"] != "noise-deeper") | (rows["seed"] < 3)]
    found = findings.f13_over_runs(rows, "m", {})
    assert found.value is None and found.first_verdict == "supported"
    assert found.details["reason"] == "Recorded so far: 3 of the 5 runs that it takes."


def test_runs_that_lack_one_of_the_two_do_not_count():
    rows = recorded(0.03, runs=6)
    rows = rows[(rows["seed"] < 5) | (rows["method"] == "lora")]
    assert findings.f13_over_runs(rows, "m", {}).details["runs"] == 5


def test_a_model_without_a_head_is_held_against_its_base():
    found = findings.f13_over_runs(recorded(0.03, floor="none"), "lab decoder, prose", {})
    assert "the base" in found.details["parts"]


def test_a_training_that_diverged_is_not_left_out_in_silence():
    rows = recorded(0.03)
    rows.loc[(rows["seed"] == 2) & (rows["method"] == "lora") & (rows["budget"] == 1), "accuracy"] = np.nan
    found = findings.f13_over_runs(rows, "m", {})
    assert found.verdict == "undecided" and "1 of 5 pairs of trainings diverged" in found.details["reason"]
    rows = recorded(0.03)
    rows.loc[(rows["seed"] == 2) & (rows["method"] == "noise-deeper"), "accuracy"] = np.nan
    assert "Some trainings diverged" in findings.f13_over_runs(rows, "m", {}).details["reason"]


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
    parts = findings.f13_over_runs(recorded(0.03, scatter=0.0), "m", {}).details["parts"]
    assert parts["of uniform noise, of ±1"] == f"{parts['noise-built']} and {parts['noise-built']}"


def test_another_method_that_diverged_shows_in_its_place():
    rows = recorded(0.03)
    rows.loc[(rows["seed"] == 2) & rows["method"].isin(["full", "head"]), "accuracy"] = np.nan
    found = findings.f13_over_runs(rows, "m", {})
    assert found.first_verdict == "supported"
    assert found.details["parts"]["full fine-tuning"] == "diverged"
