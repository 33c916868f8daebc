"""Sentences of chapter 1 turn with what was measured."""

from __future__ import annotations

import pandas as pd
import pytest

from lfmlib.chapters import ch01_text
from lfmlib.distribution import nulls


def rows(*costs: float, kurtosis: float = 0.0, roles: str = "qk") -> pd.DataFrame:
    band = nulls.band("float32", 10_000)["kl_bits"]
    made = [
        {
            "tensor": f"layers.{place}.{role}", "role": role, "depth": place, "tower": "", "numel": 10_000,
            "kl_bits": cost, "kl_bits_null_low": band[0], "kl_bits_null_high": band[1], "tail_bits": 0.0,
            "excess_kurtosis": kurtosis,
        }
        for place, (cost, role) in enumerate(zip(costs, 10 * roles, strict=False))
    ]  # fmt: skip
    return pd.DataFrame(made)


def test_takeaways_are_three_sentences_with_numbers():
    said = ch01_text.takeaways("MiniLM", rows(0.005, 0.05, kurtosis=200), rows(0.0, 0.0)).split("\n")
    assert len(said) == 3 and all(one.startswith("- ") and one.endswith(".") for one in said)
    assert "2 of 2 matrices of MiniLM differ from noise" in said[0] and "50.0% of the weights" in said[0]
    assert "Distance has a place" in said[1] and "*k* cost 0.0500" in said[1]
    assert "two questions" in said[2] and "`layers.0.q` costs only 0.0050" in said[2] and "200" in said[2]


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        (rows(0.01, 0.011), 1, "The role says little"),
        (rows(0.01, 0.05, roles="q"), 1, "have one role, q"),
        (rows(0.01, 0.011), 2, "Core and tails agree"),
        (rows(0.3, 0.4), 2, "No matrix passes: the closest, `layers.0.q`"),
        (rows(0.0, 0.0), 0, "0 of 2 matrices"),
    ],
)
def test_takeaways_turn_with_the_numbers(body, place, words):
    assert words in ch01_text.takeaways("MiniLM", body, rows(0.0, 0.0)).split("\n")[place]


def test_what_stands_apart_is_named_where_it_is_noise():
    body, pooler = rows(0.01, 0.02), rows(0.0).assign(tensor="pooler", role="pooler")
    table = pd.concat([body, pooler], ignore_index=True)
    apart, said = ch01_text.apart(table, table[:2])
    assert apart["tensor"].tolist() == ["pooler"] and apart["inside_band"].tolist() == [True]
    assert "**0** lie in the band" in said and "of the 1 that stand apart, 1: `pooler`" in said
    assert "stand apart" not in ch01_text.apart(body, body)[1]
