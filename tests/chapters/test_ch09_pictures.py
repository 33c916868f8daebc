"""Chapter 9's figures and its three sentences follow the numbers."""

import numpy as np
import pandas as pd
import pytest

from lfmlib.chapters import ch09_pictures


def asked(*ratios: tuple[float, float, float, float]) -> pd.DataFrame:
    rows = [
        {"subject": f"model {place}, new task", "head": "fitted anew" if place else "its own", "unit": "in σ of W"}
        | dict(zip(("ratio", "low", "high", "control_low"), one, strict=True), control=1.0)
        for place, one in enumerate(ratios)
    ]
    return pd.DataFrame(rows, columns=["subject", "head", "unit", "ratio", "low", "high", "control", "control_low"])


@pytest.mark.parametrize(
    ("better", "end"),
    [("no", "in **0 of 2** cases, and lowers it in 1."), ("yes", "in **1 of 2** cases, and lowers it in 1.")],
)
def test_three_sentences_count_what_was_asked(better, end):
    some = asked((2.0, 1.5, 2.5, 0.9), (0.5, 0.4, 0.6, 1.1), (1.0, 0.9, 1.1, 0.9))
    said = ch09_pictures.takeaways(some, pd.DataFrame({"better": [better, "worse"]})).splitlines()
    assert len(said) == 3 and all(one.startswith("- ") for one in said)
    assert "**1 of 3** ways of asking, and less in 1" in said[0] and said[0].endswith("makes it more in 1.")
    assert "**0.50** (model 1, new task, head fitted anew) to **2.00** (model 0, new task)" in said[1]
    assert said[2].endswith(end)


def test_a_run_without_radii_says_so():
    said = ch09_pictures.takeaways(asked(), pd.DataFrame(columns=["better"])).splitlines()
    assert len(said) == 3 and "No fine-tune has a radius" in said[0] and "not measured" in said[2]


def test_a_ratio_that_a_run_lacks_has_no_mark():
    found = ch09_pictures._spans([("a", "x", pd.Series([0.0, np.nan])), ("a", "y", pd.Series([0.0, 0.0]))])
    assert found["mean"].isna().tolist() == [True, False] and found["low"].iloc[1] == pytest.approx(1.0)
