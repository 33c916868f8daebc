"""Sentences of chapter 2 turn with the trainings."""

from __future__ import annotations

import pandas as pd
import pytest

from lfmlib.chapters import ch02_text
from lfmlib.findings import Finding


def points(*costs: float) -> pd.DataFrame:
    return pd.DataFrame({"kl_bits": costs, "predicted": 0.01, "optimizer": "adamw"})


def trained(share: float, memory: float = 0.5) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"start": start, "step": step, "steps": 9, "share": share, "memory": memory}
            for start in ("gaussian", "signs", "uniform")
            for step in (0, 9)
        ]
    )


def found(*values: float | None) -> list[Finding]:
    return [Finding.of("F2", f"way {place}", {}, {}, value=value) for place, value in enumerate(values)]


def test_takeaways_are_three_sentences_with_numbers():
    told = ch02_text.takeaways(points(0.01, 0.01, 0.5), 0.02, found(0.5, 0.75, None), trained(1.0)).split("\n")
    assert len(told) == 3 and all(one.startswith("- ") and one.endswith(".") for one in told)
    assert "A start fades" in told[0] and "of 3 snapshots" in told[0] and "2 have" in told[0]
    assert "The start matters: 0 of 2 ways" in told[1] and "way 1, forgot 75%" in told[1] and "1 others" in told[1]
    assert "can hide a start" in told[2] and "2 of 2 trainings" in told[2] and "0.50" in told[2]


@pytest.mark.parametrize(
    ("costs", "values", "narrow", "place", "words"),
    [
        ((0.5, 0.5), (1.0,), trained(1.0), 0, "not enough"),
        ((0.5,), (1.0, 1.0), trained(1.0), 1, "holds here: 2 of 2"),
        ((0.5,), (None,), trained(1.0), 1, "could be asked of none of 1"),
        ((0.5,), (1.0,), trained(0.0), 2, "none of 2 trainings ended Gaussian"),
        ((0.5,), (1.0,), trained(1.0, memory=0.0), 2, "What looks Gaussian is new"),
    ],
)
def test_takeaways_turn_with_the_numbers(costs, values, narrow, place, words):
    assert words in ch02_text.takeaways(points(*costs), 0.02, found(*values), narrow).split("\n")[place]


def test_no_snapshot_may_be_foretold_to_forget():
    assert "none could test it" in ch02_text.takeaways(points(0.5)[:0], 0.02, found(1.0), trained(1.0))
