"""The sentences at the end of chapter 7 turn with its numbers."""

import pandas as pd
import pytest

from lfmlib.chapters import ch07_stand_ins

KEPT = pd.DataFrame(
    [(kind, kind, model, share + more, 0.0, 0.0, 1.0)
     for kind, share in (("permuted", 0.0), ("flattened", 0.8), ("resampled", 0.1), ("noise", 0.0), ("trained", 1.0))
     for model, more in (("a", 0.0), ("b", 0.1))],
    columns=["kind", "keeps", "model", "share", "low", "high", "loss"],
)  # fmt: skip


def built(*laws: str) -> pd.DataFrame:
    return pd.DataFrame({"law": laws, "share": [0.9 + 0.1 * place for place in range(len(laws))]})


def maps(r2: float) -> dict[str, pd.DataFrame]:
    found = {"farthest": pd.DataFrame(), "noise": pd.DataFrame()}
    found["farthest"].attrs["r2"], found["noise"].attrs["r2"] = r2, 0.5
    return found


@pytest.mark.parametrize("r2, words", [(0.995, "and so does a straight line"), (0.9, "a straight line does not")])
def test_takeaways_say_what_came_out(r2, words):
    first, second, third = ch07_stand_ins.takeaways(KEPT, maps(r2), built("Gaussian", "uniform", "±1")).split("\n")
    assert "keeps 0% to 10% of its gain" in first and "its signs alone keep 80% to 90%" in first
    assert words in second and f"least R² {r2:.4f}" in second and "keep 10% to 20%" in second
    assert "reaches 90% of LoRA’s gain; built from other noise, 100% to 110%." in third


def test_a_gaussian_alone_has_no_rival():
    assert ch07_stand_ins.takeaways(KEPT, maps(0.99), built("Gaussian")).endswith("reaches 90% of LoRA’s gain.")


def test_each_thing_is_kept_by_one_stand_in():
    assert set(ch07_stand_ins.replaced(KEPT)["kind"]) == {"permuted", "flattened", "noise"}
