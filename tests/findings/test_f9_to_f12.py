"""F9 to F12: verdicts on made tables and records, planted both ways."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import lfmlib
from lfmlib import findings


def surveyed(mean: float, skewed: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    made = {}
    for layer in range(5):
        values = (rng.gamma(4, size=(80, 80)) - 4) / 2 if skewed and layer else rng.standard_normal((80, 80))
        made[f"layers.{layer}.mlp.up_proj.weight"] = torch.tensor(values + mean * (layer > 0)).float()
    table = lfmlib.survey(made, progress=False)
    return table, lfmlib.noise_twin(table.assign(mean=0.0))


@pytest.mark.parametrize(
    ("mean", "skewed", "verdicts"),
    [
        (0.0, False, ("supported", "supported")),
        (0.2, False, ("contradicted", "supported")),
        (0.0, True, ("supported", "contradicted")),
    ],
)
def test_f9_and_f10_of_a_checkpoint(mean, skewed, verdicts):
    table, noise = surveyed(mean, skewed)
    found = findings.f9(table, noise, "m", {}), findings.f10(table, noise, "m", {})
    assert tuple(one.first_verdict for one in found) == verdicts
    assert [one.null for one in found] == [1, 1] and found[0].interval is None
    assert found[0].value == (0.2 if mean else 1.0)


def test_f9_of_a_small_matrix_asks_for_no_more_than_noise_has():
    table, _ = surveyed(0.0, False)
    small = table.assign(mean_ratio=0.06, mean_ratio_null_high=0.07)
    assert findings.zero_mean(small).all() and not findings.zero_mean(small.assign(mean_ratio=0.08)).any()


def test_f9_and_f10_over_runs():
    rows = pd.DataFrame(
        {"zero_mean": [0.9, 0.95, 0.92], "symmetric": [0.7, 0.9, 0.8], "mean_ratio": 0.01, "asymmetry": 0.001,
         "noise_mean": 1.0, "noise_symmetric": 1.0}
    )  # fmt: skip
    f9, f10 = findings.f9_f10_over_runs(rows, "m", {})
    assert (f9.id, f9.first_verdict, f10.id, f10.verdict) == ("F9", "supported", "F10", "undecided")
    assert f9.verdict == findings.OF_NOISE_TOO
    with pytest.raises(ValueError, match=r"F9 and F10 of m need at least two runs"):
        findings.f9_f10_over_runs(rows[:1], "m", {})


def recorded(
    free: float,
    law: float = 0.0,
    damage: float = 1.0,
    random: float = 0.02,
    scatter: float = 0.0,
    noise: float = 0.9,
    simpler: float = 0.0,
) -> pd.DataFrame:
    """Five runs of loss 2, of which guessing would make 3. A share ``free`` of the weights, ``noise`` times as many by
    noise, closes 1 % of that gap. Outliers do ``damage`` times that of random sets. The claimed law is near the
    shortest in a share ``law`` of the parameters, the Gaussian in ``simpler``."""
    rows, rng = [], np.random.default_rng(0)
    arms = {"magnitude": 1.0, "magnitude, all together": 1.2, "Wanda": 1.1, "random": 0.2, "noise": noise}
    shares = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    for seed in range(5):
        rows.append({"what": "model", "seed": seed, "own": 2.0, "prior": 3.0})
        for arm, factor in arms.items():
            point = factor * (free + scatter * rng.standard_normal())
            curve = {"what": "curve", "seed": seed, "arm": arm, "draw": 0}
            rows += [curve | {"share": share, "rise": 0.01 * share / point} for share in shares]
        for variant, near in ((findings.CLAIMED_LAW, law), ("gaussian", simpler)):
            about = {"what": "law", "seed": seed, "pruned": findings.PRUNED_SHARE, "variant": variant}
            rows.append(about | {"wins": near, "near": near, "noise_wins": float(variant == "gaussian")})
        of = {"outliers": damage * random if random else damage, "as large": random, "as many": random / 10}
        for entries, rise in of.items():
            rise *= 1 + 0.05 * rng.standard_normal()
            set_aside = {"what": "damage", "seed": seed, "entries": entries, "draw": 0, "sets": 0.005, "rise": rise}
            rows += [set_aside | {"change": change} for change in ("zeroed", "amplified")]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("free", "scatter", "noise", "verdict"),
    [
        (0.5, 0.02, 0.4, "supported"),
        (0.5, 0.02, 1.5, findings.OF_NOISE_TOO),
        (0.5, 0.0, 1.0, findings.OF_NOISE_TOO),
        (0.33, 0.0, 0.8, "supported"),
        (0.2, 0.01, 0.4, "partly"),
        (0.06, 0.001, 0.9, "contradicted"),
        (0.3, 0.05, 0.4, "undecided"),
    ],
)
def test_f11_asks_for_more_than_noise_of_that_size(free, scatter, noise, verdict):
    found = findings.f11_over_runs(recorded(free, scatter=scatter, noise=noise), "m", {})
    assert found.verdict == verdict and found.value == pytest.approx(free, abs=0.05)
    assert not (found.verdict == found.control_verdict == "supported")
    assert found.details["parts"]["at random"] == pytest.approx(0.2 * found.value, rel=0.3)
    assert found.null == pytest.approx(min(noise * found.value, 0.9), rel=0.2)


def test_f11_says_how_much_of_the_gap_is_closed_and_keeps_the_first_reading():
    found = findings.f11_over_runs(recorded(0.4), "m", {})
    assert found.details["gap_closed"] == pytest.approx({"30 %": 0.0075, "50 %": 0.0125})
    assert found.details["first_value"][0] == pytest.approx(0.8, abs=1e-6)  # 1 % of a loss that is twice the gap
    assert found.first_verdict == "supported"


def test_a_draw_that_overflowed_is_not_left_out():
    rows, pruned = recorded(0.4), {"what": "curve", "arm": "magnitude", "draw": 1, "rise": math.nan}
    at = rows.loc[(rows["what"] == "curve") & (rows["arm"] == "magnitude") & np.isclose(rows["share"], 0.3)]
    more = pd.concat([rows, at.assign(**pruned).head(1)])
    found = findings.f11_over_runs(more, "m", {}).details["gap_closed"]["30 %"]
    runs = rows["seed"].nunique()
    assert found == pytest.approx((0.0075 * (runs - 1) + 1) / runs)  # that run counts as the whole gap


def test_f11_in_units_of_the_gap():
    rows = recorded(0.4)
    assert findings.free_share(rows, of="gap").mean() == pytest.approx(0.4, abs=1e-6)
    assert findings.free_share(rows, of="own").mean() == pytest.approx(0.8, abs=1e-6)  # the gap is half of the loss


@pytest.mark.parametrize(
    ("law", "simpler", "damage", "verdict", "value"),
    [
        (0.9, 0.1, 5.0, "supported", 2),
        (0.1, 0.1, 5.0, "partly", 1),
        (0.9, 0.1, 1.5, "partly", 1),
        (0.1, 0.1, 1.5, "contradicted", 0),
        (0.9, 0.9, 1.5, "contradicted", 0),  # a Gaussian does as well
        (0.9, 0.9, 5.0, "partly", 1),
        (0.1, 0.1, 3.0, "undecided", None),
    ],
)
def test_f12_counts_its_two_legs(law, simpler, damage, verdict, value):
    found = findings.f12_over_runs(recorded(0.4, law, damage, simpler=simpler), "m", {})
    assert found.verdict == verdict
    assert value is None or found.value == value
    assert found.null == 0


def test_f12_without_outliers_or_without_damage_at_random():
    rows = recorded(0.4, damage=5.0)
    none = rows.assign(sets=rows["sets"].where(rows["entries"] != "outliers", 0.0))
    found = findings.f12_over_runs(none, "m", {})
    assert found.value == 0 and found.details["parts"]["damage"] == "no outliers"
    for random in (0.0, 0.005):  # 0.5 % of the gap; the first rule compared whatever was above 0
        found = findings.f12_over_runs(recorded(0.4, damage=10.0, random=random), "m", {})
        assert (found.value, found.verdict, found.first_verdict) == (0, "contradicted", "partly")
        assert found.details["parts"]["damage"].startswith("nothing to compare (random sets 0.")


def test_f12_is_open_where_one_run_does_all_the_damage_or_one_has_no_outliers():
    rows = recorded(0.4, damage=5.0)
    damage = rows["what"] == "damage"
    lone = rows.assign(rise=rows["rise"].where(~damage | (rows["seed"] == 2), 0.0) * np.where(damage, 9, 1))
    missing = rows.assign(sets=rows["sets"].where((rows["entries"] != "outliers") | (rows["seed"] != 2), 0.0))
    for some in (lone, missing):
        found = findings.f12_over_runs(some, "m", {})
        assert (found.verdict, found.value, found.interval) == ("undecided", 0, (0, 1))


def test_one_run_is_refused_and_a_checkpoint_alone_is_not_judged():
    rows = recorded(0.4)
    for rule in (findings.f11_over_runs, findings.f12_over_runs):
        with pytest.raises(ValueError, match=r"of m needs at least two runs"):
            rule(rows[rows["seed"] == 0], "m", {})
    alone = findings.f11("m", {})
    assert alone.value is None and "takes the model’s task" in alone.details["reason"]
    rng = np.random.default_rng(0)
    made = {"layers.0.mlp.up_proj.weight": torch.tensor(rng.laplace(size=(90, 80))).float()}
    told = findings.f12(lfmlib.laws(made, pruned=findings.PRUNED_SHARE, progress=False), "m", {})
    assert told.value is None and told.details["law_share"] == 0 and "laplace" in told.details["reason"]


def test_f12_with_an_uncertain_ratio_is_open_not_refuted():
    rows = recorded(0.4, damage=4.0)
    own = (rows["what"] == "damage") & (rows["entries"] == "outliers")
    swing = rows["seed"].map({0: -1.5, 1: 2.5, 2: 0.5, 3: 3.0, 4: 0.5})
    found = findings.f12_over_runs(rows.assign(rise=rows["rise"].where(~own, rows["rise"] * swing)), "m", {})
    assert (found.verdict, found.interval) == ("undecided", (0, 1))
