"""The table of arrangements: its rows and their controls, whatever runs it; and finding F4 from it."""

import functools
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch

import lfmlib
from lfmlib import findings
from lfmlib.findings import scoreboard
from lfmlib.structure import made_matrices
from lfmlib.structure.controls import CONTROLS
from lfmlib.structure.entries import FIGURES

RNG = np.random.default_rng(0)
MADE = {
    "layers.0.q.weight": RNG.standard_normal((64, 96)).astype(np.float32),
    "layers.0.up.weight": (RNG.standard_normal((96, 64)) * np.exp(RNG.standard_normal((96, 1)))).astype(np.float32),
    "layers.1.q.weight": made_matrices.matrix("rank three", 0.4, (64, 96), RNG).astype(np.float32),
    "thin": RNG.standard_normal((8, 1024)).astype(np.float32),
    "broken": np.full((64, 64), np.nan, dtype=np.float32),
    "flat": np.ones((64, 64), dtype=np.float32),
    "bias": np.ones(96, dtype=np.float32),
}


@functools.cache
def table() -> pd.DataFrame:
    return lfmlib.arrangement(MADE, controls=CONTROLS, progress=False)


def test_one_row_for_each_matrix_and_control():
    names = ["layers.0.q.weight", "layers.0.up.weight", "layers.1.q.weight"]
    assert table()["tensor"].tolist() == [name for name in names for _ in range(5)]
    assert table()["control"].tolist() == ["none", *CONTROLS] * 3
    across = [name for name in table() if name.startswith("transpose_corr")]  # none of these is square
    assert not table().isna().drop(columns=["depth", *across]).to_numpy().any() and len(across) == 3
    reasons = table().attrs["skipped"]
    assert "at least 40 rows and columns" in reasons["thin"] and "not finite" in reasons["broken"]
    assert "all entries are equal" in reasons["flat"] and reasons["bias"] == "1-D: not a matrix"


def test_rows_say_what_the_measures_say():
    row = table().iloc[0]
    entries, values = lfmlib.iid(MADE[row["tensor"]]), lfmlib.spectrum(MADE[row["tensor"]])
    assert row[list(FIGURES)].to_dict() == pytest.approx({name: getattr(entries, name) for name in FIGURES}, rel=1e-12)
    assert row["mp_ks"] == values.ks and row["outlier_variance"] == values.outlier_variance
    assert (row["row_corr_null_low"], row["row_corr_null_high"]) == entries.null["row_corr"]
    assert row["row_alike"] == pytest.approx(row["row_corr"] * 95) and row["unequal"] == entries.unequal


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_gives_the_same_table(pool):
    with pool(2) as executor:
        other = lfmlib.arrangement(MADE, controls=CONTROLS, executor=executor, progress=False)
    pd.testing.assert_frame_equal(other, table(), rtol=1e-9)


FORKED = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
import torch, lfmlib
torch.set_num_threads(2)
made = {f"layers.{i}.q.weight": torch.randn(300, 400) for i in range(2)}
torch.randn(800, 800, dtype=torch.float64) @ torch.randn(800, 800, dtype=torch.float64)  # wakes the threads
torch.randn(3000, 3000).exp().sum()
with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
    print(len(lfmlib.arrangement(made, executor=executor, progress=False)), torch.get_num_threads())
"""


@pytest.mark.slow
def test_forked_workers_do_not_wait_for_threads_that_were_not_forked():
    """They waited for ever where torch had used several threads before."""
    ran = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, encoding="utf-8", timeout=120)
    assert ran.stdout == "2 2\n", ran.stderr


def test_controls_depend_on_seed_and_name_alone():
    alone = lfmlib.arrangement(MADE, select="1", controls=["fresh"], progress=False)
    same = table()[(table()["tensor"] == "layers.1.q.weight") & (table()["control"] == "fresh")]
    assert alone.iloc[1]["lag_row"] == same.iloc[0]["lag_row"]
    other = lfmlib.arrangement(MADE, select="1", controls="fresh", seed=1, progress=False)
    assert other.iloc[1]["lag_row"] != alone.iloc[1]["lag_row"] and other.iloc[0]["lag_row"] == alone.iloc[0]["lag_row"]


def test_unknown_control_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="unknown control 'shuffled': expected one of rescaled"):
        lfmlib.arrangement("no/such/model", controls=["shuffled"])


def test_float8_gets_every_control():
    small = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    found = lfmlib.arrangement({"w": small}, controls=[*CONTROLS, "fresh"], progress=False)
    assert found["control"].tolist() == ["none", *CONTROLS] and found["dtype"].eq("float8_e4m3fn").all()


def test_f4_says_which_controls_it_needs():
    with pytest.raises(ValueError, match="lacks fresh, permuted: make it with"):
        findings.f4(lfmlib.arrangement(MADE, controls=None, progress=False), "made", {})


@pytest.mark.slow
def test_heavy_tails_without_dependence_are_told_from_directions():
    """Student's t₃ has variance beyond the edge of Gaussian noise, in any order of its entries as much."""
    tails, planted = 0, 0
    for seed in range(20):
        rng = np.random.default_rng([6, seed])
        made = {"t3": rng.standard_t(3, (128, 192)), "three": made_matrices.matrix("rank three", 0.1, (128, 192), rng)}
        found = lfmlib.arrangement(made, controls="permuted", progress=False, seed=seed)
        beyond = found["beyond_excess"] > found["beyond_excess_null_high"].clip(lower=0.01)
        own = beyond[found["control"] == "none"].set_axis(made)
        tails, planted = tails + (not own["t3"]), planted + own["three"]
        assert (found.loc[found["control"] == "permuted", "beyond_excess"] == 0).all()
        assert found["beyond_variance"][0] > found["beyond_variance_null_high"][0]  # against noise alone t3 fails
    assert tails >= 19 and planted >= 19


def test_excess_over_permuted_entries_needs_that_control():
    found = lfmlib.arrangement(MADE, select="0.q", controls="fresh", progress=False)
    assert found["beyond_excess"].isna().all() and found["beyond_variance"].notna().all()


# --- finding F4 -----------------------------------------------------------------------------------------------------


def test_each_leg_fails_what_it_is_about():
    passed = findings.legs(table()).join(table()[["tensor", "control"]])
    plain = passed[passed["control"] == "none"].set_index("tensor")[[*findings.LEGS, "all"]]
    assert plain.loc["layers.0.q.weight"].all()
    assert not plain.loc["layers.0.up.weight", "identity"]
    assert not plain.loc["layers.1.q.weight", ["independence", "spectrum", "all"]].any()
    assert passed.loc[passed["control"] == "permuted", "independence"].all()
    rescaled = passed[(passed["control"] == "rescaled") & (passed["tensor"] == "layers.0.up.weight")]
    assert rescaled["all"].all()  # nothing but its scales was unlike noise


FAILS = {
    ("noise", 0.0): (),
    ("Laplace", 0.0): (),
    ("t3", 0.0): (),
    ("sparse", 0.9): (),
    ("orthogonal", 1.0): ("independence",),
    ("symmetric", 1.0): ("independence",),
    ("neighbours", 0.1): ("independence",),
    ("blocks", 0.5): ("identity",),
    ("row scales", 0.5): ("identity",),
    ("rank three", 0.2): ("independence", "spectrum"),
}
"""Departure and size → the legs that fail of it, at least; what fails none passes all three."""


@pytest.mark.parametrize("planted", FAILS, ids=lambda planted: f"{planted[0]} {planted[1]:g}")
def test_made_matrices_are_called_right_in_nineteen_of_twenty_draws(planted):
    right = 0
    for seed in range(20):
        w = made_matrices.matrix(*planted, (128, 128), np.random.default_rng([4, seed]))
        found = lfmlib.arrangement({"w": w}, controls="permuted", progress=False, seed=seed)
        passed = findings.legs(found[found["control"] == "none"]).iloc[0]
        right += not passed[list(FAILS[planted])].any() if FAILS[planted] else bool(passed["all"])
    assert right >= 19


EIGHT_BITS = [
    *(("float8_e4m3fn", 0.01, name) for name in ("noise", "t3", "orthogonal", "blocks")),
    *(("float8_e4m3fn", 1.0, name) for name in ("noise", "orthogonal")),
    *(("float8_e5m2", 2e-5, name) for name in ("noise", "orthogonal")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "std", "name"), EIGHT_BITS)
def test_so_are_those_stored_in_eight_bits(dtype, std, name):
    """At the smaller stds values are subnormal: within one std float8_e4m3fn has eleven of them, float8_e5m2 three."""
    (planted,) = [one for one in FAILS if one[0] == name]
    right = 0
    for seed in range(20):
        w = torch.tensor(std * made_matrices.matrix(*planted, (128, 128), np.random.default_rng([8, seed])))
        stored = {"w": w.clamp(-448, 448).to(getattr(torch, dtype))}
        found = lfmlib.arrangement(stored, controls="permuted", progress=False, seed=seed)
        passed = findings.legs(found[found["control"] == "none"]).iloc[0]
        right += not passed[list(FAILS[planted])].any() if FAILS[planted] else bool(passed["all"])
    assert right >= 19


def test_so_are_skewed_entries():
    rng, right = np.random.default_rng(9), 0
    for seed in range(20):
        found = lfmlib.arrangement({"w": rng.gamma(2, size=(128, 128))}, controls="permuted", progress=False, seed=seed)
        right += findings.legs(found[found["control"] == "none"])["all"].item()
    assert right >= 19


def test_what_passed_the_first_rule():
    for departure, size in (("orthogonal", 1.0), ("symmetric", 1.0)):
        w = made_matrices.matrix(departure, size, (128, 128), np.random.default_rng(0))
        assert findings.first_legs(lfmlib.arrangement({"w": w}, controls=None, progress=False))["all"].all()


def test_forty_percent_in_rank_three_fails():
    w = made_matrices.matrix("rank three", 0.4, (384, 384), np.random.default_rng(1))
    found = findings.f4(lfmlib.arrangement({"w": w}, controls=CONTROLS, progress=False), "made", {})
    assert found.verdict in ("contradicted", "partly") and found.details["parts"]["spectrum"] == 0.0
    assert found.details["parts"]["independence"] == 0.0 and found.null == 3.0


def test_noise_is_supported():
    w = np.random.default_rng(2).standard_normal((384, 384))
    found = findings.f4(lfmlib.arrangement({"w": w}, controls=CONTROLS, progress=False), "made", {})
    assert (found.value, found.first_verdict, found.verdict) == (3.0, "supported", findings.OF_NOISE_TOO)
    assert (
        scoreboard.measured(found) == "3\u00a0of 3: independence 100\u00a0%, identity 100\u00a0%, spectrum 100\u00a0%"
    )
    assert "independence 100\u00a0%" in scoreboard.table([found])


@pytest.mark.parametrize(
    ("shares", "held"),
    [((0.9, 0.9, 0.9, 0.85), 3), ((0.9, 0.9, 0.9, 0.7), 2), ((0.8, 0.1, 0.79, 0.1), 1), ((0, 0, 0, 0), 0)],
)
def test_three_legs_count_as_three_for_the_same_matrices_only(shares, held):
    assert findings.f4_iid.legs_held(dict(zip((*findings.LEGS, "all"), shares, strict=True))) == held


def test_a_model_without_a_judged_matrix_is_not_judged():
    small = lfmlib.arrangement({"w": RNG.standard_normal((40, 50))}, controls=CONTROLS, progress=False)
    found = findings.f4(small, "small", {})
    assert found.value is None and found.verdict == "undecided" and "4,096" in found.details["reason"]


def test_trained_models_are_judged_over_their_runs():
    rest = {"identity": 1.0, "spectrum": 0.0, "all": 0.0} | dict.fromkeys(findings.f4_iid.EFFECTS, 0.0)
    first = {f"first_{leg}": 0.0 for leg in (*findings.LEGS, "all")}
    rows = [
        {"seed": seed, "step": step, "steps": 9, "control": kind, "independence": a} | rest | first
        for seed in range(5)
        for step, kind, a in ((0, "none", 1.0), (9, "none", 0.5 + 0.14 * seed), (9, "permuted", 1.0))
    ]
    found = findings.f4_over_runs(pd.DataFrame(rows), "lab", {})
    assert found.value == 1.0 and found.interval == (1.0, 2.0)
    assert (found.verdict, found.first_verdict) == ("partly", "contradicted")
    with pytest.raises(ValueError, match="at least two runs"):
        findings.f4_over_runs(pd.DataFrame(rows[:3]), "lab", {})


@pytest.mark.slow
def test_minilm_is_no_noise_and_its_pooler_is():
    judged = findings.judged(lfmlib.open_checkpoint("minilm"))
    found = lfmlib.arrangement(judged, controls=["permuted", "fresh"], progress=False)
    shares = {name: findings.leg_shares(rows) for name, rows in found.groupby("control")}
    assert shares["none"]["independence"] < 0.2 and shares["none"]["spectrum"] < 0.05
    assert 0.5 < shares["none"]["identity"] < 0.8
    assert shares["fresh"]["all"] == 1.0 and shares["permuted"]["independence"] == 1.0
    pooler = found[found["role"] == "pooler"]
    assert findings.legs(pooler)["all"].all() and len(pooler) == 3
