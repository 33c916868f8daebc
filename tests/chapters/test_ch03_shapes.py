"""Shapes of chapter 3: what is made gets its names, and sentences turn with what was found."""

from __future__ import annotations

import pandas as pd
import pytest

from lfmlib.chapters import ch03_shapes
from lfmlib.findings import Finding

SWEEP = pd.DataFrame({"β": ["2.0", "1.5", "1.3"], "label": ["gaussian", "gaussian", "sharp"]})


def rows(*labels: str) -> pd.DataFrame:
    made = [
        {"tensor": f"layers.{place}", "role": "qo"[place % 2], "depth": place, "label": name, "label_margin": 0.001}
        for place, name in enumerate(labels)
    ]
    return pd.DataFrame(made)


def test_takeaways_are_three_sentences_with_numbers():
    body = rows("gaussian", "sharp", "gaussian", "sharp", "gaussian")
    told = ch03_shapes.takeaways("MiniLM", body, rows("gaussian"), 0.998, SWEEP, 0.002).split("\n")
    assert len(told) == 3 and all(one.startswith("- ") and one.endswith(".") for one in told)
    assert "can be checked" in told[0] and "99.8%" in told[0] and "0 of 1 noise twins" in told[0]
    assert "is the exception: 2 of 5" in told[1] and "role *o* (2 of 2)" in told[1]
    assert "down to β = 1.5 and from β = 1.3: 5 of 5" in told[2]


@pytest.mark.parametrize(
    ("body", "noise", "place", "words"),
    [
        (rows("gaussian"), rows("sharp"), 0, "not safe here"),
        (rows("gaussian", "gaussian"), rows("gaussian"), 1, "all 2 matrices of MiniLM are called Gaussian"),
        (rows("sharp", "sharp"), rows("gaussian"), 1, "is the rule: 2 of 2"),
    ],
)
def test_takeaways_turn_with_the_numbers(body, noise, place, words):
    assert words in ch03_shapes.takeaways("MiniLM", body, noise, 0.99, SWEEP, 0.002).split("\n")[place]


def test_made_laws_get_the_names_of_the_ends():
    sweep = ch03_shapes.sweep(20_000, 0).set_index("β")["label"]
    assert (sweep["2.0"], sweep["1.0"]) == ("gaussian", "sharp")
    assert "0 of 3 draws of 4,096 values" in ch03_shapes.alarms(3, 0)


def test_witnesses_are_named():
    finding = Finding.of("F3", "minilm", {}, {"found": ["sharp"]}, value=1.0)
    said = ch03_shapes.witnesses("MiniLM", finding, {"linear": ["lab ViT, strong decay"]})
    assert "of MiniLM: **sharp**" in said and "linear in 1." in said
    assert "**none**" in ch03_shapes.witnesses("MiniLM", Finding.of("F3", "m", {}, {"found": []}, value=0.0), {})
