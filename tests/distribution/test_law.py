"""The law of what pruning keeps: code lengths against scipy, planted laws recovered, others not mistaken for them."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

import lfmlib
from lfmlib.distribution import coding, nulls
from lfmlib.distribution.coding import MAX_OUTLIER_SHARE, VARIANTS, kept_cells
from lfmlib.distribution.families import FAMILIES, Counts, Fit, fit
from lfmlib.distribution.family_masses import log_survival
from lfmlib.distribution.pareto import ParetoOutliers
from lfmlib.distribution.sketch import Sketch
from lfmlib.experiments import made_laws
from lfmlib.surveys import optimal_laws

EDGES = np.arange(0.5, 6, 0.05)
FITS = {
    "gaussian": (Fit("gaussian", 0.2, 1.3, 2.0), stats.norm(0.2, 1.3)),
    "laplace": (Fit("laplace", -0.1, 0.9, 1.0), stats.laplace(-0.1, 0.9)),
    "generalized-gaussian": (Fit("generalized-gaussian", 0.1, 1.1, 1.4), stats.gennorm(1.4, 0.1, 1.1)),
}


def counted(values: np.ndarray, edges: np.ndarray = EDGES) -> Counts:
    below, above = np.histogram(-values, edges)[0], np.histogram(values, edges)[0]
    return Counts(edges, below, above, edges[1:])


@pytest.mark.parametrize("family", FITS)
@pytest.mark.parametrize("open_", [True, False])
def test_code_lengths_are_those_of_scipys_distributions(family, open_):
    law, reference = FITS[family]
    values = reference.rvs(3000, random_state=0)
    counts, upper = counted(values), math.inf if open_ else EDGES[-1]
    above, below = np.diff(reference.cdf(EDGES)), np.diff(reference.sf(-EDGES))
    whole = (reference.cdf(upper) - reference.cdf(EDGES[0])) + (reference.cdf(-EDGES[0]) - reference.cdf(-upper))
    expected = -(counts.positive @ np.log2(above / whole) + counts.negative @ np.log2(below / whole))
    assert law.bits(counts, upper) == pytest.approx(expected, rel=1e-9)
    assert law.std == pytest.approx(reference.std(), rel=1e-9)


@settings(max_examples=200)
@given(st.floats(-60, 60), st.floats(0.2, 12))
def test_tails_are_scipys_and_go_on_where_it_has_none(z, shape):
    number = {name: family.number for name, family in FAMILIES.items()}
    assert log_survival(number["gaussian"], z, 2.0) == pytest.approx(special.log_ndtr(-z), rel=1e-12, abs=1e-300)
    with np.errstate(divide="ignore"):
        known = stats.gennorm.logsf(z, shape)
    found = log_survival(number["generalized-gaussian"], z, shape)
    if known > -600:
        assert found == pytest.approx(known, rel=1e-11, abs=1e-12)
    else:  # scipy's underflows; its asymptote is good to a / x
        x = z**shape
        far = -x + (1 / shape - 1) * math.log(x) - special.gammaln(1 / shape) - math.log(2)
        assert found == pytest.approx(far, rel=1e-5)


@pytest.mark.parametrize("family", FITS)
def test_a_fit_finds_the_parameters_through_both_cuts(family):
    law, reference = FITS[family]
    values = reference.rvs(400_000, random_state=1)
    found = fit(family, counted(values, np.arange(0.5, 3.01, 0.05)), 3.0)
    assert found.mean == pytest.approx(law.mean, abs=0.02)
    assert found.scale == pytest.approx(law.scale, rel=0.08)
    assert found.shape == pytest.approx(law.shape, abs=0.1)


@pytest.mark.parametrize("family", FITS)
@pytest.mark.parametrize("upper", [math.inf, 4.0])
def test_slopes_are_those_of_the_code_length(family, upper):
    law, reference = FITS[family]
    counts = counted(reference.rvs(3000, random_state=0), np.arange(0.5, 4.01, 0.05))
    bits, slopes = law.bits_and_slopes(counts, upper)
    assert bits == law.bits(counts, upper)
    step = 1e-6
    for slope, more, less in (
        (slopes[0], replace(law, mean=law.mean + step), replace(law, mean=law.mean - step)),
        (slopes[1], replace(law, scale=law.scale * math.exp(step)), replace(law, scale=law.scale * math.exp(-step))),
    ):
        difference = (more.bits(counts, upper) - less.bits(counts, upper)) / (2 * step)
        assert slope == pytest.approx(difference, rel=1e-5, abs=1e-3)


def test_slopes_of_paretos_law():
    edges, step = np.arange(2.0, 9.0, 0.5), 1e-6
    more, less = (ParetoOutliers(3.0, 0.1, 1.7 * math.exp(sign * step)).log_masses(edges) for sign in (1, -1))
    assert ParetoOutliers(3.0, 0.1, 1.7).log_slopes(edges) == pytest.approx((more - less) / (2 * step), rel=1e-6)


def test_far_tails_cost_much_but_not_infinitely():
    far = Counts(np.array([0.0, 1.0, 80.0, 81.0]), np.zeros(3), np.array([100.0, 0, 1]), np.array([1.0, 80, 81]))
    costs = [Fit(name, 0.0, 1.0, shape).bits(far, math.inf) for name, shape in
             (("gaussian", 2.0), ("generalized-gaussian", 2.0), ("laplace", 1.0))]  # fmt: skip
    assert all(map(math.isfinite, costs))
    near = -100 * math.log2(stats.norm.cdf(1) - 0.5)
    assert costs[0] - near == pytest.approx((80**2 / 2 + math.log(80 * math.sqrt(2 * math.pi))) / math.log(2), rel=1e-3)
    assert costs[0] == pytest.approx(costs[1], rel=2) and costs[2] < 400


def test_an_outliers_law_is_paretos():
    rng, stop = np.random.default_rng(2), 20
    edges = np.append(np.linspace(0, 1, stop + 1), np.geomspace(1.02, 80, 200))
    far = (1 + rng.pareto(3.0, 2000)).clip(max=79)
    counts = counted(np.concatenate([rng.uniform(0, 1, 98_000), far * rng.choice([-1, 1], 2000)]), edges)
    strays = ParetoOutliers.above_cut(counts, stop)
    core = Fit("gaussian", 0.0, 1e4, 2.0).log_masses(edges, 1.0)  # all but uniform up to its cut
    for one in (strays, ParetoOutliers.fit_beside(counts, core, strays)):
        assert one.begins == 1.0
        assert (one.share, one.exponent) == (pytest.approx(0.02, rel=1e-3), pytest.approx(3.0, rel=0.08))
    mixed = strays.mixed(core, edges)
    assert np.exp(mixed).sum() == pytest.approx(1 - strays.share * (1 / 80) ** strays.exponent, abs=1e-9)
    assert counts.bits(mixed) == pytest.approx(
        -(
            98_000 * np.log2(0.98 / 20 / 2)
            + counts.both[stop:] @ (strays.log_masses(edges)[stop:] / np.log(2) + np.log2(0.02))
        ),
        rel=1e-4,
    )


def test_outliers_beside_an_open_core_are_its_surplus():
    x = made_laws.strewn(np.random.default_rng(3), 200_000, 1000)
    law = lfmlib.optimal_law(x.astype(np.float32))
    assert (law.name, law.variant) == ("gaussian", "gaussian+outliers") and law.upper == math.inf
    assert law.sigma == pytest.approx(1, abs=0.01)
    assert law.outlier_share == pytest.approx((np.abs(x) > law.outlier_cut).mean(), abs=1e-5)


def test_every_family_has_the_same_cuts():
    x = np.random.default_rng(4).standard_t(4, 60_000).astype(np.float32)
    law = lfmlib.optimal_law(x)
    tried = {}
    for name, variant in VARIANTS.items():
        if variant.outliers:
            tried.setdefault(variant.truncated, set()).add(law.candidates[name].begins)
    counts = kept_cells(Sketch.of(x), 0.0)
    halves = counts.halves(np.random.default_rng([0, int(counts.both.sum())]))
    cuts = {coding._best_cut(family, counts) for family in FAMILIES}
    assert tried[True] | tried[False] <= {counts.ends[stop - 1] for stop in cuts}
    for name, variant in VARIANTS.items():  # each at the best of the cuts that any family names
        if variant.outliers:
            each = [coding._fit_candidate(variant, counts, halves, stop).bits for stop in cuts]
            assert law.code_lengths[name] == pytest.approx(min(each), abs=1e-9)


def test_a_cut_is_seen_where_it_takes_values_away():
    found = made_laws.cut_further_out(draws=3, kept=20_000, seed=0)
    assert found["called"].tolist()[:2] == ["3 of 3"] * 2 and found["called"].iloc[-1] == "0 of 3"
    assert found["found"].tolist()[:2] == ["2.500 σ", "3.000 σ"] and found["found"].iloc[-1] == "–"
    assert found["taken away"].iloc[0] > 200 > 3 > found["taken away"].iloc[-1]


def test_every_planted_parameter_comes_out():
    found = made_laws.recovered(draws=6, kept=40_000, seed=1)
    assert found.attrs["called"] == 6
    # within four standard errors, or the width of a cell where nothing scatters
    assert (found["bias"].abs() <= 4 * found["spread"] / math.sqrt(6) + 2e-3).all(), found
    assert (found["spread"] < [0.01, 0.02, 1e-6, 0.05, 0.002, 1e-3, 0.05]).all(), found


@pytest.mark.slow
def test_other_laws_do_not_pass_for_it():
    found = made_laws.rejected(draws=2, size=40_000, seed=2)
    strewn = [name for name in found.index if " % " in name]  # of 120 draws three are called cut, by an empty stretch
    skewed = "skewed (0.5), pruned"  # no family is: the misfit tells, not the name
    assert (found["times"].drop([*strewn, skewed]) == 0).all() and (found["times"].drop(skewed) <= 1).all()
    assert found.loc["Gaussian noise", "called"] == found.loc["Gaussian noise, pruned", "called"] == "gaussian"
    assert found.loc["Laplace, pruned", "called"] == "laplace"
    assert "generalized" in found.loc["logistic, pruned", "called"]
    strays = found.index[found.index.str.contains("12 σ")]
    assert set(found.loc[strays, "called"]) == {"gaussian+outliers"} and len(strays) == 2
    assert found.loc["uniform", "called"].startswith("truncated-")  # any family, far wider than its cuts
    assert found.loc["skewed (0.5), pruned", "misfit"] > 5 * found.loc["Gaussian noise, pruned", "misfit"]


@settings(max_examples=60)
@given(
    st.sampled_from(["gaussian", "laplace", "generalized-gaussian"]),
    st.floats(-4, 4),
    st.floats(-12, 4),
    st.floats(0.2, 12),
    st.floats(0.1, 3),
)
def test_no_law_gives_cells_more_than_there_is(family, mean, log_scale, shape, upper):
    shape = {"gaussian": 2.0, "laplace": 1.0}.get(family, shape)
    masses = np.exp(Fit(family, mean, math.exp(log_scale), shape).log_masses(np.linspace(0.05, 3, 60), upper))
    assert masses.sum() <= 1 + 1e-6


def test_a_uniform_law_has_no_code_below_its_entropy():
    for seed in range(6):
        x = np.random.default_rng(seed).uniform(-1, 1, 8192).astype(np.float32)
        assert lfmlib.optimal_law(x, pruned=0.3).misfit > -0.02


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("pruned", [0.0, 0.5])
def test_noise_is_called_gaussian_nearly_always(dtype, pruned):
    rng = np.random.default_rng(3)
    names = [lfmlib.optimal_law(nulls.draw(dtype, 30_000, rng, 0, 0.04), pruned=pruned).name for _ in range(12)]
    assert names.count("gaussian") >= 11 and lfmlib.distribution.law.LAW_NAMES[2] not in names


@settings(max_examples=5)
@given(st.integers(0, 100), st.integers(-12, 12), st.sampled_from([torch.float32, torch.bfloat16]))
def test_scale_changes_nothing_but_itself(seed, power, dtype):
    x = torch.tensor(np.random.default_rng(seed).standard_t(6, 3000) + 0.2).to(dtype)
    one, other = (lfmlib.optimal_law(y, pruned=0.3) for y in (x, x * 2.0**power))
    assert other.code_lengths == pytest.approx(one.code_lengths, abs=1e-7)
    assert other.sigma == pytest.approx(one.sigma * 2.0**power, rel=1e-3)
    assert other.mean == pytest.approx(one.mean * 2.0**power, abs=1e-3 * other.sigma)
    assert other.lower == one.lower * 2.0**power and other.pruned == one.pruned


def test_zeros_are_pruned_and_pruning_is_by_magnitude():
    x = torch.tensor(np.random.default_rng(4).standard_normal(20_000)).bfloat16()
    law = lfmlib.optimal_law(x, pruned=0.4)
    small = torch.where(x.abs().double() < law.lower, 0, x)
    assert law.pruned == pytest.approx(0.4, abs=0.01)
    again = lfmlib.optimal_law(small)
    assert (again.kept, again.pruned, again.code_lengths) == (law.kept, law.pruned, law.code_lengths)
    assert lfmlib.optimal_law(small, pruned=0.2).kept == law.kept  # fewer than the zeros that are there


def test_chunks_and_sketches_give_the_same_law():
    x = torch.tensor(np.random.default_rng(5).standard_normal(9000)).float()
    whole = lfmlib.optimal_law(x)
    assert whole == lfmlib.optimal_law(x.split(1000)) == lfmlib.optimal_law(Sketch.of(x))


def test_cells_hold_every_kept_value_once():
    x = np.random.default_rng(6).standard_t(3, 5000).astype(np.float32)
    counts = kept_cells(Sketch.of(x), 0.25)
    assert counts.both.sum() == pytest.approx(0.75 * 5000, abs=40)
    kept = np.abs(x) >= counts.edges[0]
    assert kept.sum() == counts.both.sum() and (counts.ends <= counts.edges[1:]).all()
    assert np.array_equal(np.histogram(np.abs(x[kept]), counts.edges)[0], counts.both)
    halves = counts.halves(np.random.default_rng(0))
    assert np.array_equal(halves[0].both + halves[1].both, counts.both)


def test_at_most_a_hundredth_are_outliers_and_the_cut_tells_which():
    rng = np.random.default_rng(7)
    x = rng.standard_t(2.5, 50_000).astype(np.float32)
    law = lfmlib.optimal_law(x)
    for name, variant in VARIANTS.items():
        one = law.candidates[name]
        assert one.outlier_share <= MAX_OUTLIER_SHARE and (one.outlier_share > 0) == variant.outliers == math.isfinite(
            one.begins
        )
        assert math.isfinite(one.upper) == variant.truncated
    assert law.outlier_cut == law.gaussian.begins
    assert (np.abs(x) > law.outlier_cut).mean() == pytest.approx(law.gaussian.outlier_share, abs=1e-4)
    assert lfmlib.optimal_law(rng.standard_normal(50_000)).outlier_cut == math.inf


@pytest.mark.parametrize(
    ("values", "pruned", "message"),
    [
        (np.ones(1000), 0.0, r"1000 values in 1 coding cells are left of 1000 \(0 are zero\): expected at least 256"),
        (np.arange(200.0), 0.0, r"199 values in \d+ coding cells are left of 200 \(1 are zero\)"),
        (np.zeros(1000), 0.0, r"0 values"),
        (np.arange(1000.0), 1.0, r"pruned is 1.0: expected a share"),
        (np.arange(1000.0), -0.1, r"pruned is -0.1: expected a share"),
    ],
)
def test_what_has_no_law_says_why(values, pruned, message):
    with pytest.raises(ValueError, match=message):
        lfmlib.optimal_law(values.astype(np.float32), pruned=pruned)


def test_laws_of_a_checkpoint():
    rng = np.random.default_rng(8)
    made = {
        "layers.0.mlp.up_proj.weight": torch.tensor(rng.standard_normal((96, 64))).float(),
        "layers.1.mlp.up_proj.weight": torch.tensor(rng.laplace(size=(96, 64))).float(),
        "layers.1.mlp.tiny.weight": torch.ones(8, 8),
        "layers.1.mlp.flat.weight": torch.ones(64, 64),
        "layers.0.norm.weight": torch.ones(96),
    }
    with pytest.warns(UserWarning, match=r"^1 of 3 tensors have no row"):
        table = lfmlib.laws(made, pruned=0.2, progress=False)
    assert list(table["name"]) == ["gaussian", "laplace"] and list(table["depth"]) == [0, 1]
    assert table.attrs["skipped"]["layers.1.mlp.tiny.weight"] == "64 values: expected at least 256"
    assert "4096 values in 1 coding cells" in table.attrs["skipped"]["layers.1.mlp.flat.weight"]
    assert table[[f"bits_{name}" for name in VARIANTS]].notna().all(axis=None)
    measured = lfmlib.survey(made, progress=False, select="up_proj")
    noise = optimal_laws.noise_laws(measured, pruned=0.2)
    assert list(noise["tensor"]) == list(table["tensor"]) and set(noise["name"]) == {"gaussian"}
    assert isinstance(noise, pd.DataFrame) and list(noise) == list(table)


def test_the_gaussian_alone_is_the_same_gaussian():
    rng = np.random.default_rng(3)
    values = rng.normal(size=30_000)
    values[::500] *= 12
    whole, alone = lfmlib.optimal_law(values), lfmlib.optimal_law(values, families=("gaussian",))
    assert set(alone.candidates) == {name for name, one in VARIANTS.items() if one.family == "gaussian"}
    assert alone.outlier_cut == pytest.approx(whole.outlier_cut, rel=0.1) and alone.outlier_share > 0.001
    with pytest.raises(ValueError, match=r"families are \['cauchy'\]: expected some of gaussian, laplace"):
        lfmlib.optimal_law(values, families=("cauchy",))
