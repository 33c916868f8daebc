"""The sentences at the end of chapter 6 turn with its numbers."""

import pandas as pd

from lfmlib.chapters import ch06_text


def gains(own: dict[str, float]) -> pd.DataFrame:
    rows = [(name, side, g) for name, value in own.items() for side, g in (("ΔW", value), ("noise of its size", 1.0))]
    return pd.DataFrame(rows, columns=["model", "what", "mean"])


def rises(full: float, without: float) -> pd.DataFrame:
    rows = [("MiniLM", "full", full), ("MiniLM", "full, no decay", without), ("ViT", "full", 1.0)]
    return pd.DataFrame(rows, columns=["model", "way", "mean"])


POINTS = pd.DataFrame({"measured": [0.1, float("nan"), 0.2], "error": [-0.01, float("nan"), 0.03]})


def test_every_fine_tune_is_counted_once():
    first, second, third = ch06_text.takeaways(gains({"a": -2.0, "b": 1.05, "c": 1.5}), rises(0.1, 0.9), POINTS).split(
        "\n"
    )
    assert "Of 3 fine-tunes, 1 widen the weights less" in first and "1 more, 1 as much; 1 make them narrower" in first
    assert "from -2.00 (a) to 1.50 (c)" in first
    assert "in MiniLM the standard deviation rises for 10% of the matrices with a weight decay, and for 90%" in second
    assert "2.0% in the median of 2 settings, and to within 3.0% at worst" in third


def test_what_was_not_measured_is_said():
    nothing = POINTS.assign(measured=float("nan"))
    _, second, third = ch06_text.takeaways(gains({"a": 1.0}), rises(0.9, 0.92), nothing).split("\n")
    assert "In no model does the weight decay change" in second and "was not measured" in third
    alone = rises(0.9, 0.92).query("way == 'full'")
    assert "was not measured here" in ch06_text.takeaways(gains({"a": 1.0}), alone, nothing)
