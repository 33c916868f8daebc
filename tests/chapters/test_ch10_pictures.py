"""Chapter 10's figures and its three sentences follow the numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lfmlib.chapters import ch10_optimal, ch10_pictures
from lfmlib.distribution.coding import VARIANTS
from lfmlib.findings import Finding


def record(noise: float = 1.0, outliers: float = 0.02, law: str = "generalized-gaussian") -> pd.DataFrame:
    """A made model: the loss rises by 0.02 for all weights, by ``noise`` times that under noise; losing its outliers
    costs ``outliers``, and random sets as large cost 0.01."""
    rows = []
    for seed in range(4):
        about = {"part": "whole", "model": "vit", "seed": seed}
        rows.append(about | {"what": "model", "own": 1.0, "prior": 2.0})
        for arm, factor in (("magnitude", 1.0), ("noise", noise), ("random", 10.0)):
            for share in (0.25, 0.5, 0.75, 1.0):
                rise = 0.02 * factor * share * (1 + 0.001 * seed)
                rows.append(about | {"what": "curve", "arm": arm, "share": share, "rise": rise})
        for entries, rise in (("outliers", outliers), ("as large", 0.01), ("as many", 0.0)):
            sets = {"what": "damage", "entries": entries, "change": "zeroed", "sets": 0.01}
            rows.append(about | sets | {"rise": rise * (1 + 0.001 * seed)})
        for variant in VARIANTS:
            won = float(variant == law)
            noisy = float(variant == "gaussian")
            shares = {"wins": won, "near": 1.0, "noise_wins": noisy}
            rows.append(about | {"what": "law", "variant": variant, "pruned": 0.3} | shares)
    return pd.DataFrame(rows)


def found(value: float) -> dict[str, list[Finding]]:
    one = Finding.of("F9", "made", {}, {}, value=value, null=1.0)
    return {"F9": [one], "F10": [replace(one, id="F10", value=1.0)]}


def test_the_points_are_read_off_in_shares_of_what_is_known():
    free = ch10_pictures.free(record(noise=0.8)).set_index("arm")["mean"]
    assert free["smallest to zero"] == pytest.approx(0.5, abs=0.01)
    assert free["noise of that size"] == pytest.approx(0.625, abs=0.01)
    damage = ch10_pictures.damage(record()).set_index("entries")
    assert damage.loc["outliers", "mean"] == pytest.approx(2.0, abs=0.02) and (damage["low"] <= damage["high"]).all()


def test_shares_of_laws_add_up():
    laws = ch10_pictures.shortest(record(law="truncated-laplace"))
    assert laws["weights"].loc["lab ViT", "other"] == 1.0 and laws["noise"].loc["lab ViT", "Gaussian"] == 1.0
    assert np.allclose(laws["weights"].sum(axis=1), 1.0)


def test_three_sentences_turn_with_the_numbers():
    said = ch10_pictures.takeaways(found(0.97), record(noise=0.8)).splitlines()
    assert len(said) == 3 and "at least **97 %**" in said[0] and "of noise, 100 % do" in said[0]
    assert (
        "farther in 1 of 1 models" in said[1]
        and "in 1 of 1 models, 2.0 times." in said[2]
        and "for **none** of a model" in said[2]
    )
    other = record(noise=2.0, outliers=0.005, law="truncated-gaussian+outliers")
    said = ch10_pictures.takeaways(found(0.5), other).splitlines()
    assert "farther in 0 of 1 models" in said[1] and "in 0 of 1 models." in said[2] and "at most **100 %**" in said[2]
    said = ch10_pictures.takeaways({"F9": [], "F10": []}, record()).splitlines()
    assert len(said) == 3 and "not judged" in said[0]


def test_what_passes_for_the_claimed_law_is_named():
    table = pd.DataFrame({"times": [0, 2]}, index=["uniform", "skewed"])
    assert ch10_optimal.of_rejected(table, 4).endswith("Gaussian + outliers: skewed, 2.")
    assert ch10_optimal.of_rejected(table[:1], 4).endswith("passed for a truncated Gaussian + outliers.")
    assert "at most **0%**" in ch10_optimal.of_claimed(record()) and "for 100% to 100%" in ch10_optimal.of_claimed(
        record()
    )
