"""Distances from the Gaussian: parity with scipy, the scale the design states, and what noise gives."""

import math

import numpy as np
import pytest
import torch
from npm_weibull import weibull_fit
from npm_weibull.utils.histogram import extract_to_histogram
from scipy import stats

from lfmlib.distribution import nulls
from lfmlib.distribution.distances import measure, normality, qq_r2
from lfmlib.distribution.nulls import band, draw
from lfmlib.distribution.sketch import Sketch

N = 1_000_000
STORED = ("bfloat16", "float16", "float32")


def family(name: str, n: int = N, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    draws = {
        "gaussian": lambda: rng.standard_normal(n),
        "laplace": lambda: rng.laplace(size=n),
        "uniform": lambda: rng.uniform(-1, 1, n),
        "triangular": lambda: rng.triangular(-1, 0, 1, n),
        "logistic": lambda: rng.logistic(size=n),
        "student t5": lambda: rng.standard_t(5, n),
        "generalized gaussian 1.4": lambda: stats.gennorm.rvs(1.4, size=n, random_state=rng),
        "gaussian with outliers": lambda: rng.standard_normal(n),
    }[name]()
    if name == "gaussian with outliers":
        draws[: n // 10_000] = 30 * rng.choice([-1, 1], n // 10_000)
    return draws / draws.std()


def stored(values: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.tensor(0.02 * values).to(getattr(torch, dtype))


#: design §4: bits lost by coding each family as the Gaussian of its mean and std
SCALE = {
    "laplace": 0.103,
    "triangular": 0.033,
    "logistic": 0.020,
    "student t5": 0.059,
    "generalized gaussian 1.4": 0.023,
    "gaussian with outliers": 0.004,
    "gaussian": 0.0,
}


def standard_error(values: np.ndarray) -> float:
    """Of kl_bits: that of the mean log-likelihood ratio, by batches."""
    batches = [measure(Sketch.of(part.astype(np.float32)))["kl_bits"] for part in np.split(values, 20)]
    return float(np.std(batches) / math.sqrt(20))


@pytest.mark.parametrize("name", SCALE)
def test_kl_bits_scale(name):
    values = family(name)
    tolerance = max(0.003, 3 * standard_error(values))
    for dtype in STORED:
        assert normality(stored(values, dtype)).kl_bits == pytest.approx(SCALE[name], abs=tolerance), dtype


@pytest.mark.parametrize("dtype", STORED)
def test_kl_bits_of_uniform_and_tail_bits_of_outliers(dtype):
    assert 0.22 <= normality(stored(family("uniform"), dtype)).kl_bits <= 0.25
    assert normality(stored(family("gaussian with outliers"), dtype)).tail_bits == pytest.approx(0.056, abs=0.003)
    assert normality(stored(family("gaussian"), dtype)).tail_bits == 0


def test_tails_add_up_by_the_chain_rule():
    """kl_bits + tail_bits is the divergence over cells that go on beyond 6 std."""
    sketch = Sketch.of(stored(family("student t5"), "float16"))
    edges = sketch.grid.edges
    z = (edges - sketch.mean) / sketch.std
    picked = [int(np.searchsorted(z, -6.0))]
    while z[picked[-1]] < 6:
        picked.append(int(np.searchsorted(z, z[picked[-1]] + 0.1 * (1 - 1e-9))))
    while z[picked[-1]] < 150 and picked[-1] < z.size - 1:  # outwards over both tails
        picked.append(min(int(np.searchsorted(z, z[picked[-1]] + 0.1)), z.size - 1))
    while z[picked[0]] > -150 and picked[0] > 0:
        picked.insert(0, max(int(np.searchsorted(z, z[picked[0]] - 0.1, side="right")) - 1, 0))
    share = np.diff(sketch.grid_below[picked]) / sketch.count
    a, b = z[picked[:-1]], z[picked[1:]]
    inner, outer = np.minimum(abs(a), abs(b)), np.maximum(abs(a), abs(b))
    log_model = np.where(
        a * b < 0,
        np.log(stats.norm.cdf(b) - stats.norm.cdf(a) + 1e-300),
        stats.norm.logsf(inner) + np.log1p(-np.exp(stats.norm.logsf(outer) - stats.norm.logsf(inner))),
    )
    seen = share > 0
    whole = np.sum(share[seen] * (np.log(share[seen]) - log_model[seen])) / math.log(2)
    figures = measure(sketch)
    assert figures["tail_bits"] > 0.003
    assert figures["kl_bits"] + figures["tail_bits"] == pytest.approx(whole, abs=5e-4)


@pytest.mark.parametrize("dtype", [*STORED, "float64", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("name", ["gaussian", "laplace", "uniform", "student t5", "gaussian with outliers"])
def test_parity_with_scipy(name, dtype):
    tensor = stored(family(name, 100_000) * (1000 if "float8" in dtype else 1), dtype)
    values = tensor.double().numpy()
    result = normality(tensor)
    ks = stats.kstest(values, "norm", args=(values.mean(), values.std())).statistic
    slack = 1e-7 if dtype == "float64" else 1e-12
    assert result.ks_lower - slack <= ks <= result.ks_upper + slack
    assert result.ks_lower <= result.ks <= result.ks_upper
    if dtype in STORED[:2] or "float8" in dtype:
        assert result.ks == pytest.approx(ks, abs=1e-12)
    else:
        assert result.ks_upper - result.ks_lower < 0.003
    z = np.sort((values - values.mean()) / values.std())
    grid = (np.arange(values.size * 10) + 0.5) / (values.size * 10)
    distance = np.mean(np.abs(np.repeat(z, 10) - stats.norm.ppf(grid)))  # by quantile functions, midpoint rule
    assert result.wasserstein == pytest.approx(distance, rel=0.01, abs=2e-5)


@pytest.mark.parametrize("shape", [0.7, 1.0, 1.4, 2.0, 4.0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_generalized_gaussian_shape_is_scipys(shape, dtype):
    tensor = stored(stats.gennorm.rvs(shape, size=50_000, random_state=5), dtype)
    values = tensor.double().numpy()
    reference, _, _ = stats.gennorm.fit(values, floc=values.mean())
    assert normality(tensor).gg_shape == pytest.approx(reference, rel=2e-3)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "student t5"])
@pytest.mark.parametrize("dtype", STORED)
def test_weibull_k_is_npm_weibulls(name, dtype):
    tensor = stored(family(name), dtype)
    reference = weibull_fit(extract_to_histogram(tensor.float().numpy()), trim="mid_80")["k"]
    assert normality(tensor).weibull_k == pytest.approx(reference, abs=0.002)


def test_published_values_of_gaussian_noise():
    """Half-normal Weibull anchor (arXiv 2605.18898); exponent entropy of Gaussian bf16 weights."""
    figures = measure(draw("bfloat16", 10**9, np.random.default_rng(0), 0, 0.02))
    assert figures["weibull_k"] == pytest.approx(1.2054, abs=0.001)
    assert 2.54 <= figures["exponent_entropy"] <= 2.55


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("count", [4096, 65_536])
def test_real_noise_lies_in_its_null(dtype, count):
    """Drawn number by number, unlike the table's multinomial draws: by its definition 5 % may miss."""
    rng = np.random.default_rng(11)
    draws = 200
    misses = dict.fromkeys(nulls.FIGURES, 0)
    for _ in range(draws):
        tensor = torch.tensor(0.02 * 2 ** rng.random() * rng.standard_normal(count)).to(getattr(torch, dtype))
        sketch = Sketch.of(tensor)
        figures = measure(sketch) | {"mean_ratio": abs(sketch.mean) / sketch.std}
        for name, (low, high) in band(dtype, count).items():
            misses[name] += not low <= figures[name] <= high
    likely = stats.binom.ppf([0.0005, 0.9995], draws, 0.05)
    for name, missed in misses.items():
        if name != "tail_bits":  # a null of zero width: noise has no value beyond 6 std
            assert likely[0] <= missed <= likely[1] + 4, (name, missed)  # + 4: the table's own error


def test_null_interpolates_between_sizes_and_is_empty_where_unknown():
    between, below, above = (band("bfloat16", n)["kl_bits"] for n in (3 * 2**14, 2**15, 2**16))
    assert above[1] < between[1] < below[1]
    assert below[0] < between[0] < above[0] < 0
    assert band("bfloat16", 10**13) == band("bfloat16", 2**34)
    assert band("bfloat16", 63) == {}
    assert band("float64", 4096) == band("float32", 4096)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "count"), [("bfloat16", 65_536), ("float32", 4096), ("float8_e4m3fn", 2**20)])
def test_the_table_is_what_calibrate_draws(dtype, count):
    """The shipped table redrawn with its own seed gives the same numbers."""
    from lfmlib.structure.calibrate import sample

    shipped = band(dtype, count)
    for name, values in sample(dtype, count).items():
        if not np.isnan(values).all():
            bounds = np.nanquantile(values, [0.025, 0.975])
            assert shipped[name] == pytest.approx(tuple(bounds), rel=2e-3, abs=1e-12), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float8_e4m3fn"])
def test_drawing_counts_is_drawing_noise(dtype):
    """A multinomial sketch and one of numbers drawn one by one are alike in every figure, within sampling error."""
    n, std = 400_000, 4.0
    values = torch.tensor(1 + std * np.random.default_rng(1).standard_normal(n)).to(getattr(torch, dtype))
    one, other = Sketch.of(values), draw(dtype, n, np.random.default_rng(2), 1.0, std)
    assert other.count == n
    for q in (0.01, 0.3, 0.7, 0.99):
        assert one.cdf(other.quantile(q)) == pytest.approx(q, abs=0.05 if "float8" in dtype else 0.004)
    assert other.std == pytest.approx(one.std, rel=0.01)
    assert other.mean == pytest.approx(one.mean, abs=0.04)


def test_draw_stores_what_the_type_cannot_hold_as_its_extreme():
    sketch = draw("float8_e4m3fn", 100_000, np.random.default_rng(0), 0, 224.0)
    assert sketch.count == 100_000 and sketch.max == 448
    assert 1 - sketch.cdf(447) == pytest.approx(stats.norm.sf(432 / 224), abs=0.003)


def test_degenerate_values_have_no_distance():
    for values in (torch.full((100,), 0.25), torch.empty(0), torch.full((5,), float("nan"))):
        figures = measure(Sketch.of(values))
        assert all(math.isnan(figures[name]) for name in ("ks", "kl_bits", "tail_bits", "wasserstein", "gg_shape"))


def test_a_shape_finer_than_the_cells_is_not_judged():
    """float32 values about 1000 with std 0.001 fall into two or three cells: no distance can be known."""
    rng = np.random.default_rng(0)
    assert math.isnan(normality((1000 + 1e-3 * rng.standard_normal(50_000)).astype(np.float32)).kl_bits)
    assert normality((0.1 + 0.02 * rng.standard_normal(50_000)).astype(np.float32)).kl_bits < 0.002


# --- R² of the Q–Q plot ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("name", ["gaussian", "laplace", "uniform", "student t5", "gaussian with outliers"])
def test_qq_r2_is_scipys(name, dtype):
    """scipy takes the medians of order statistics, which differ from means over ranks in the extremes alone."""
    values = stored(family(name, 100_000), dtype)
    (_, _), (_, _, r) = stats.probplot(values.double().numpy())
    assert qq_r2(values) == pytest.approx(r**2, abs=3e-4)


def test_qq_r2_of_noise_and_of_nothing():
    assert min(qq_r2(np.random.default_rng(seed).standard_normal(4096)) for seed in range(50)) > 0.997
    assert math.isnan(qq_r2(np.ones(10, np.float32)))
    values = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    assert qq_r2(3 * values + 1) == pytest.approx(qq_r2(values), abs=1e-4)
    assert qq_r2(np.random.default_rng(0).uniform(size=10**6)) == pytest.approx(3 / math.pi, abs=1e-3)
