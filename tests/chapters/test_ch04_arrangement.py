"""How training arranges noise: the record is whole, its starts are noise, and F4 follows from it."""

import pandas as pd
import pytest

from lfmlib import findings, records
from lfmlib.chapters import ch04_arrangement
from lfmlib.experiments import arrangement


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
