"""How training arranges noise: the record is whole, its starts are noise, and F4 follows from it."""

import numpy as np
import pandas as pd
import pytest

import lfmlib
from lfmlib import findings, records
from lfmlib.chapters import ch04_arrangement
from lfmlib.experiments import arrangement
from lfmlib.structure import controls, made_matrices


@pytest.fixture(scope="module")
def record() -> pd.DataFrame:
    return records.load("arrangement")


def test_the_record_is_whole(record):
    assert not record.attrs["notice"] and len(ch04_arrangement.runs(record)) == 6
    for name, rows in ch04_arrangement.runs(record).items():
        assert rows["seed"].nunique() >= 5, name
        assert rows.groupby("seed")["control"].agg(list).map(len).eq(2 + len(arrangement.CONTROLS)).all()


def test_starts_and_fresh_noise_pass(record):
    """Small matrices are judged by 97.5 % points of noise, so a model's share can be a little below one."""
    noise = record[(record["step"] == 0) | (record["control"] == "fresh")]
    assert (noise["identity"] == 1.0).all() and (noise[["independence", "spectrum"]].mean() > 0.98).all()
    assert noise["all"].mean() > 0.97


def test_f4_follows_from_the_record(record):
    for finding in ch04_arrangement.found(record, seed=0, profile="default"):
        assert finding.null == 3.0 and finding.details["runs"] >= 5
        assert finding.interval[0] <= finding.value <= finding.interval[1]
        assert set(finding.details["parts"]) == set(findings.LEGS)


def test_before_and_after_in_words():
    rows = [
        {"model": "vit", "gain": 1.0, "seed": seed, "steps": 9, "step": step, "control": "none", "spectrum": share}
        for seed in range(2)
        for step, share in ((0, 1.0), (9, 0.25))
    ]
    table = ch04_arrangement.before_after(pd.DataFrame(rows), {"spectrum": "spectrum"}, percent=True)
    assert table.loc["lab ViT, wide start", "spectrum"] == "100 → 25 [25, 25]"
    table = ch04_arrangement.before_after(pd.DataFrame(rows), {"spectrum": "spectrum"})
    assert table.loc["lab ViT, wide start", "spectrum"] == "1.00 → 0.25 [0.25, 0.25]"


def test_shares_at_other_bounds():
    figures = {
        "row_alike_64": [1.0, 1.3],
        "col_alike_64": [1.1, 1.0],
        "unequal": [0.03, 0.2],
        "block_excess": [0.0, 0.0],
    }
    table = ch04_arrangement.at_other_bounds(pd.DataFrame(figures).assign(numel=[3, 1]))
    assert table.loc["correlation ≤ 0.03", "parameters"] == 0 and table.loc["correlation ≤ 0.05", "parameters"] == 0.75
    assert table.loc["unequal ≤ 2%", "parameters"] == 0 and table.loc["unequal ≤ 10%", "parameters"] == 0.75


def test_after_training_has_an_interval_a_mark():
    rows = [
        {"model": "vit", "gain": 1.0, "seed": seed, "steps": 9, "step": step, "control": "none", "spectrum": share}
        for seed, last in enumerate((0.9, 1.0, 1.0))
        for step, share in ((0, 0.0), (9, last))
    ]
    table = ch04_arrangement.after_training(pd.DataFrame(rows), {"passes": "spectrum"}, percent=True)
    (one,) = table.to_dict("records")
    assert one["model"] == "lab ViT, wide start" and one["which"] == "passes"
    assert one["mean"] == pytest.approx(2.9 / 3) and one["low"] < one["mean"] < one["high"] == 1.0


def test_what_lies_outside_noise_is_named():
    intervals = pd.DataFrame(
        {"low": [0.2, -1.0, 0.0], "high": [0.3, -0.5, 0.2], "null_low": -0.1, "null_high": 0.1}, index=["a", "b", "c"]
    )
    said = ch04_arrangement.unlike_noise(intervals)
    assert "**2**" in said and "`a`, `b`" in said
    assert ch04_arrangement.unlike_noise(intervals.tail(1)).endswith("wholly outside the central 95 % of noise.")


@pytest.mark.parametrize("departure, size", [("noise", 0), ("rank three", 0.4)])
def test_takeaways_say_what_came_out(departure, size):
    matrix = made_matrices.matrix(departure, size, (128, 128), np.random.default_rng(0))
    table = lfmlib.arrangement({"layers.0.mlp.up_proj.weight": matrix}, controls=controls.CONTROLS, progress=False)
    said = ch04_arrangement.takeaways(table, pd.Series([0.01, 0.03]), "minilm")
    first, second, third = said.split("\n")
    assert first.startswith("- Of the weights of MiniLM, " + ("100%" if departure == "noise" else "0%"))
    assert first.endswith("Of fresh noise it is 100% and 100%.")
    assert (", and yet rows of 64 weights" in second) == (departure != "noise")
    assert ("leaves the share" in third) and third.endswith("0.020 bits a weight in the median matrix.")
    legs = ch04_arrangement.by_leg(table)
    assert list(legs["kind"].unique()) == list(ch04_arrangement.KINDS.values()) and len(legs) == 15
