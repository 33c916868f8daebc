"""The classifier: planted shapes come out, noise has none, outliers change nothing, borderlines are admitted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import lfmlib
from lfmlib.distribution import made_shapes, shapes
from lfmlib.distribution.shapes import FAMILIES, LABELS, MARGIN_BITS, SHAPES, classify


@pytest.mark.slow
def test_confusion_matrix_on_a_thousand_made_tensors():
    trials = made_shapes.confusion(1024, 1_000_000, seed=5)
    right = trials["planted"] == trials["label"]
    assert set(trials["dtype"]) == {"float32", "bfloat16"} and set(trials["outliers"]) == {True, False}
    assert trials["count"].min() < 6_000 and trials["count"].max() > 500_000
    assert right.mean() >= 0.95
    for _, group in trials.assign(right=right).groupby(["planted", "dtype", "outliers"]):
        assert group["right"].mean() >= 0.95, group.iloc[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [4096, 60_000])
def test_noise_has_no_other_name(dtype, count):
    rng = np.random.default_rng(2)
    labels = [
        classify(torch.tensor(0.02 * rng.standard_normal(count)).to(getattr(torch, dtype))).label for _ in range(200)
    ]
    assert labels.count("gaussian") >= 198


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_outliers_and_scale_and_format_do_not_change_a_name(name, dtype):
    rng = np.random.default_rng(3)
    values = made_shapes.shape(name, 50_000, rng)
    for made in (values, -values, 3 * values, made_shapes.with_outliers(values, rng)):
        assert classify(torch.tensor(made).to(getattr(torch, dtype))).label == name


@pytest.mark.parametrize(
    ("law", "label"),
    [
        ("skewed", "other"),
        ("gamma of skewness 0.5", "other"),
        ("gamma of skewness 0.5, mirrored", "other"),
        ("gamma of skewness 0.2", "gaussian"),
        ("two peaks", "other"),
        ("signs", "other"),
        ("exponential", "other"),
        ("sparse 90 %", "inverted-t"),
        ("sparse 60 %", "inverted-t"),
        ("a few zeros", "gaussian"),
        ("triangle", "linear"),
        ("uniform", "linear"),
        ("logistic", "gaussian"),
    ],
)
def test_laws_outside_the_atlas(law, label):
    rng, n = np.random.default_rng(4), 60_000
    values = {
        "skewed": lambda: stats.skewnorm.rvs(5, size=n, random_state=rng),
        "gamma of skewness 0.5": lambda: rng.gamma(16, size=n),
        "gamma of skewness 0.5, mirrored": lambda: -rng.gamma(16, size=n),
        "gamma of skewness 0.2": lambda: rng.gamma(100, size=n),
        "two peaks": lambda: rng.choice([-1, 1], n) + 0.4 * rng.standard_normal(n),
        "signs": lambda: rng.choice([-0.02, 0.02], n),
        "exponential": lambda: rng.exponential(size=n),
        "sparse 90 %": lambda: np.where(rng.random(n) < 0.9, 0, rng.standard_normal(n)),
        "sparse 60 %": lambda: np.where(rng.random(n) < 0.6, 0, rng.standard_normal(n)),
        "a few zeros": lambda: np.where(rng.random(n) < 0.0005, 0, rng.standard_normal(n)),
        "triangle": lambda: rng.triangular(-1, 0, 1, n),
        "uniform": lambda: rng.uniform(-1, 1, n),
        "logistic": lambda: rng.logistic(size=n),
    }[law]()
    assert classify(values.astype(np.float32)).label == label


def test_generalized_gaussian_crosses_over_near_shape_1_4():
    """Design §4; and between the two names there is a stretch with neither."""
    rng = np.random.default_rng(0)
    labels = {
        s: classify(stats.gennorm.rvs(s, size=200_000, random_state=rng)).label for s in (1.7, 1.5, 1.4, 1.3, 1.2)
    }
    assert labels == {1.7: "gaussian", 1.5: "gaussian", 1.4: "other", 1.3: "sharp", 1.2: "sharp"}


def test_score_of_the_gaussian_is_kl_bits_where_there_are_no_tails():
    """Two codes, other cells, one number: the family's cost is the divergence from it."""
    values = np.random.default_rng(1).uniform(-1, 1, 200_000)
    laplace = np.random.default_rng(1).laplace(size=400_000)
    assert classify(laplace).scores["gaussian"] == pytest.approx(
        0.082, abs=0.004
    )  # fitted to the core, not to the tails
    assert classify(values).scores["gaussian"] == pytest.approx(lfmlib.normality(values).kl_bits, abs=0.03)
    assert classify(values).scores["linear"] < 0.002


@given(st.dictionaries(st.sampled_from(FAMILIES), st.floats(0, 0.2), min_size=5, max_size=5))
@settings(max_examples=300)
def test_label_and_margin_say_the_same(scores):
    """Moving every score by less than half the margin against the label does not change it."""
    name, margin = shapes.label(scores)
    assert name in LABELS
    assert margin >= 0
    if name != "other" and margin > 1e-9:
        step = 0.49 * margin
        pushed = {family: score + (step if family == name else -step) for family, score in scores.items()}
        assert shapes.label(pushed)[0] == name
    if name != "other":
        assert scores[name] <= min(scores.values()) + MARGIN_BITS


@pytest.mark.parametrize("power", [1, 2, 3])
def test_both_searches_over_two_parameters_give_what_each_gives_written_out(power):
    z = np.linspace(-6.05, 6.05, 122)
    share = np.diff(stats.skewnorm.cdf(z, power)) + np.diff(stats.triang.cdf(z, 0.5, -power, 2 * power))
    share /= share.sum()
    widths, flats = np.geomspace(0.8, shapes.CORE_STD, 30), np.linspace(0, 1, 9)
    for _ in range(3):
        lengths = shapes._code_length(shapes._trapezoid_masses(z, widths[:, None], flats), z, share)
        i, j = np.unravel_index(np.argmin(lengths), lengths.shape)
        linear = lengths[i, j]
        widths = shapes._refined(widths, i, 9, np.geomspace)
        flats = shapes._refined(flats, j, 5, np.linspace)
    middle = (z[:-1] + z[1:]) / 2
    assert np.dot(share, middle**3) >= 0, "the wider half lies above the mode"
    ratios = np.geomspace(1.0, 6.0, 13)
    stds = math.sqrt(np.dot(share, middle**2)) * np.linspace(0.85, 1.05, 5)
    for _ in range(2):
        lengths = shapes._code_length(shapes._split_normal_masses(z, ratios[:, None], stds), z, share)
        i, j = np.unravel_index(np.argmin(lengths), lengths.shape)
        skewed = lengths[i, j]
        ratios = shapes._refined(ratios, i, 5, np.geomspace)
        stds = shapes._refined(stds, j, 5, np.linspace)
    assert (shapes._linear_length(z, share), shapes._skewed_length(z, share)) == (linear, skewed)


def test_degenerate_values_have_no_shape():
    for values in (torch.empty(0), torch.full((500,), 2.0), torch.full((500,), float("nan")), torch.randn(20)):
        shape = classify(values)
        assert shape.label == "other" and shape.scores == {} and math.isnan(shape.margin)


def test_values_too_near_one_another_for_the_grid_have_no_shape():
    """Float32 is counted in cells of 2⁻⁷: values that differ by less share one."""
    shape = classify(0.6 + 1e-6 * torch.rand(100))
    assert shape.label == "other" and math.isnan(shape.margin)


def test_unknown_planted_shape():
    with pytest.raises(ValueError, match="expected one of gaussian, sharp"):
        made_shapes.shape("round", 10, np.random.default_rng(0))


def test_outliers_are_where_they_were_asked_for():
    rng = np.random.default_rng(0)
    values = made_shapes.with_outliers(rng.standard_normal(100_000), rng)
    assert (np.abs(values) > 20).sum() == 10


def test_zeros_of_both_signs_are_one_value():
    assert classify(torch.tensor([0.0, -0.0]).repeat(100)).label == "other"


@pytest.mark.parametrize("mean", [100.0, 200.0, 333.0, 1e4])
def test_far_from_zero_a_float32_tells_no_shape_and_a_bfloat16_its_own(mean):
    """Its cells are too wide: a Laplace density was called Gaussian, or an inverted T."""
    rng = np.random.default_rng(int(mean))
    for values in (rng.laplace(size=65536) / 2**0.5, rng.standard_normal(65536)):
        shape, figures = lfmlib.classify((mean + values).astype("f4")), lfmlib.measure((mean + values).astype("f4"))
        assert shape.label == "other" and not shape.scores and math.isnan(shape.margin)
        told = {name for name, value in figures.items() if not math.isnan(value)}
        assert told == {"ks", "ks_lower", "ks_upper", "exponent_entropy"}
        assert figures["ks_lower"] <= figures["ks_upper"]
