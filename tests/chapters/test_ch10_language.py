"""What chapter 10 says of a multiple choice, from made rows whose numbers are known."""

import pandas as pd
import pytest
from scipy import stats

from lfmlib.chapters import ch10_language
from lfmlib.lab import smollm

ABOUT = {"part": "choices", "model": smollm.NAME, "what": "choice", "held": 1000, "seed": 0}


@pytest.fixture
def record() -> pd.DataFrame:
    own = {"arm": "as it is", "share": 0.0, "scored": 0.7, "lost": 0, "gained": 0}
    rows = [
        own | {"method": "magnitude"},
        {"method": "magnitude", "arm": "magnitude", "share": 0.2, "scored": 0.65, "lost": 100, "gained": 50},
        {"method": "magnitude", "arm": "docstrings hidden", "share": 0.0, "scored": 0.26, "lost": 500, "gained": 60},
        own | {"method": "noise"},
        {"method": "noise", "arm": "noise", "share": 0.2, "scored": 0.7, "lost": 0, "gained": 0},
    ]
    curves = [
        {"part": "whole", "model": smollm.NAME, "what": "curve", "arm": arm, "share": 0.2, "seed": seed, "rise": rise}
        for seed in range(2)
        for arm, rise in (("magnitude", 0.05 + 0.02 * seed), ("noise", 0.1))
    ]
    return pd.DataFrame([*(ABOUT | row for row in rows), *curves])


def test_differences_are_paired(record):
    rows = record[record["arm"] == "magnitude"].iloc[0]
    gain, low, high = ch10_language.gained(rows)
    answers = [-1] * 100 + [1] * 50 + [0] * 850  # now less before, question by question
    expected = stats.norm.interval(0.95, -0.05, pd.Series(answers).std(ddof=0) / 1000**0.5)
    assert (gain, low, high) == pytest.approx((-5, *(100 * end for end in expected)))


def test_answers_stand_once_each_beside_the_loss(record):
    (found,) = ch10_language.answers(record).values()
    assert list(found.index) == [
        "as it is", "20% pruned by magnitude", "docstrings hidden", "20% with noise as large as that",
    ]  # fmt: skip
    low, high = (100 * end for end in stats.binomtest(650, 1000).proportion_ci(method="wilson"))
    assert found.loc["20% pruned by magnitude"].tolist() == [
        f"65.0 [{low:.1f}, {high:.1f}]", "-5.0 [-7.4, -2.6]", "+0.060",
    ]  # fmt: skip
    assert found.loc["as it is"].tolist()[1:] == ["", ""]


def test_what_is_said_has_the_controls(record):
    said = ch10_language.told(record)[""]
    assert "**70%** of 1,000" in said and "26%" in said and "25%" in said
    assert "-5.0 [-7.4, -2.6] at 20%. By then the loss has risen by 0.060 nats." in said
    without = ch10_language.told(record[record["part"] == "whole"])
    assert without.keys() == {"The pruned shares by perplexity, of SmolLM2"}
