"""The sketch against float64 arithmetic on the same values, and its exactness under any cutting and order."""

import array
from unittest import mock

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lfmlib.distribution import counting
from lfmlib.distribution.counting import count_patterns, count_patterns_torch, count_words_torch
from lfmlib.distribution.formats import DTYPES, grid
from lfmlib.distribution.sketch import Sketch

SIXTEEN = ("bfloat16", "float16")
DISTRIBUTIONS = {
    "gaussian": lambda rng, n: rng.standard_normal(n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "uniform": lambda rng, n: rng.uniform(-1.7, 1.7, n),
    "student t5": lambda rng, n: rng.standard_t(5, n),
    "gaussian off centre": lambda rng, n: rng.standard_normal(n) + 3,
}
QUANTILES = np.array([0, 0.001, 0.1, 0.25, 0.5, 0.77, 0.9, 0.999, 1])


def tensor_of(distribution: str, dtype: str, n: int = 200_000) -> torch.Tensor:
    scale = 1.0 if "float8" in dtype else 0.02
    return torch.tensor(scale * DISTRIBUTIONS[distribution](np.random.default_rng(7), n)).to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_grid_says_what_torch_says(dtype):
    cells = grid(dtype)
    assert (np.diff(cells.edges) > 0).all()
    assert ((cells.edges[:-1] <= cells.values) & (cells.values <= cells.edges[1:])).all()
    if not cells.wide:  # each value is its own rounding, and just inside its cell still is
        for at in (cells.values, cells.edges[:-1] + 1e-3 * np.diff(cells.edges)):
            assert (torch.tensor(at).to(getattr(torch, dtype)).double().numpy() == cells.values).all()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_equal_float64_arithmetic_on_the_same_values(dtype, distribution):
    tensor = tensor_of(distribution, dtype)
    sketch = Sketch.of(tensor)
    values = tensor.double().numpy()
    if dtype == "float64":  # counted through its float32 rounding
        values = values.astype(np.float32).astype(np.float64)
    exact = values.astype(np.longdouble)
    assert sketch.count == values.size
    assert sketch.zeros == (values == 0).sum()
    assert sketch.min == values.min()
    assert sketch.max == values.max()
    assert sketch.mean == pytest.approx(float(exact.mean()), rel=1e-15)
    assert sketch.std == pytest.approx(float(exact.std()), rel=1e-15)
    z = (exact - exact.mean()) / exact.std()
    for measured, error, power, less in (
        (sketch.skewness, sketch.skewness_error, 3, 0),
        (sketch.excess_kurtosis, sketch.excess_kurtosis_error, 4, 3),
    ):
        reference = float((z**power).mean() - less)
        if grid(dtype).wide:
            assert abs(measured - reference) <= min(error + 1e-12, 1e-6 * max(1, abs(reference)) + 2e-6)
        else:
            assert error == 0
            assert measured == pytest.approx(reference, rel=1e-9, abs=1e-13)
    assert stats.skew(values) == pytest.approx(sketch.skewness, rel=1e-6, abs=1e-8)
    assert stats.kurtosis(values) == pytest.approx(sketch.excess_kurtosis, rel=1e-6, abs=1e-6)
    tolerance = {"rel": 0.008, "abs": 1e-7} if grid(dtype).wide else {"rel": 1e-14}
    assert sketch.quantile(QUANTILES) == pytest.approx(np.quantile(values, QUANTILES), **tolerance)
    for x in np.quantile(values, [0.01, 0.3, 0.5, 0.95]):
        assert sketch.cdf(x) == pytest.approx((values <= x).mean(), abs=0.004 if grid(dtype).wide else 1e-15)


def test_float64_costs_only_its_float32_rounding():
    values = 0.02 * np.random.default_rng(1).standard_normal(100_000)
    sketch = Sketch.of(values)
    assert sketch.mean == pytest.approx(values.mean(), rel=1e-6)
    assert sketch.std == pytest.approx(values.std(), rel=1e-8)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_what_float32_cannot_hold_is_not_counted_as_zero(kind):
    """Zeros are exact ones; numbers too small for float32 are its smallest, and where all are, there is no sketch."""
    values = np.array([[0.0, -0.0, 1e-310, -1e-200], [1.0, -1.0, 1e-44, 5e-324]])
    sketch = Sketch.of(kind(values))
    assert (sketch.zeros, sketch.subnormals, sketch.count) == (2, 4, 8)
    with pytest.raises(ValueError, match=r"all float64 values lie below float32's range \(1\.4e-45\)"):
        Sketch.of(kind(values[:1, 2:]))


@st.composite
def cut_and_shuffled(draw):
    dtype = draw(st.sampled_from(DTYPES))
    word = {1: np.uint8, 2: np.uint16, 4: np.uint32}[min(getattr(torch, dtype).itemsize, 4)]
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    words = rng.integers(0, np.iinfo(word).max, draw(st.integers(1, 400)), dtype=word, endpoint=True)
    cuts = sorted(draw(st.lists(st.integers(0, words.size), max_size=5)))
    return dtype, words, cuts, rng


def as_tensor(words: np.ndarray, dtype: str) -> torch.Tensor:
    signed = torch.from_numpy(words.view(f"int{8 * words.itemsize}" if words.itemsize > 1 else np.uint8).copy())
    if dtype == "float64":
        return signed.view(torch.float32).double()
    return signed.view(getattr(torch, dtype))


@given(cut_and_shuffled())
@settings(max_examples=150)
def test_cutting_ordering_and_merging_never_change_a_sketch(case):
    """Random bit patterns: NaN, infinities, subnormals and both zeros are all among them."""
    dtype, words, cuts, rng = case
    whole = Sketch.of(as_tensor(words, dtype))
    parts = [as_tensor(part, dtype) for part in np.split(rng.permutation(words), cuts)]
    assert Sketch.of(iter(parts)) == whole
    left = right = None
    for part in parts:
        sketch = Sketch.of(part)
        left = sketch if left is None else left + sketch
        right = sketch if right is None else sketch + right
    assert left == right == whole
    values = as_tensor(words, dtype).double()
    assert whole.nonfinite == int((~values.isfinite()).sum())
    finite = values[values.isfinite()].numpy()
    assert whole.count == finite.size
    assert whole.zeros == (finite == 0).sum()
    if finite.size:
        assert (whole.min, whole.max) == (finite.min(), finite.max())
        if dtype not in ("float32", "bfloat16", "float64"):  # there float64 squares overflow or lose the small ones
            assert whole.mean == pytest.approx(finite.mean(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("words", [np.uint8, np.uint16])
@given(size=st.integers(0, 3000), skip=st.integers(0, 9), step=st.integers(1, 3))
def test_words_are_counted_from_any_address_in_any_stride(words, size, skip, step):
    patterns = np.iinfo(words).max + 1
    values = np.random.default_rng(size).integers(0, patterns, size + skip, dtype=words)[skip::step]
    counts = np.ones(patterns, np.int64)
    with mock.patch.object(counting, "_COUNTED_WORDS", 512), mock.patch.object(counting, "_FEW_WORDS", 100):
        count_patterns(values, counts)
    assert (counts == 1 + np.bincount(values, minlength=patterns)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e5m2"])
def test_torch_path_counts_what_the_compiled_loop_counts(dtype):
    tensor = tensor_of("laplace", dtype, 50_000)
    words = tensor.view(torch.uint8 if tensor.dtype.itemsize == 1 else torch.int16)
    assert (count_patterns_torch(words, grid(dtype).patterns) == Sketch.of(tensor).sums[0]).all()


def test_torch_path_sums_what_the_compiled_loop_sums():
    values = tensor_of("student t5", "float32", 50_000)
    values[:7] = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-44, -1e-44])
    bins, span = count_words_torch(values.view(torch.int32))
    sketch = Sketch.of(values)
    assert np.array_equal(bins[:, :2].T, sketch.sums[:2])
    assert (bins[:, 2] == sketch.sums[2] * 2**32 + sketch.sums[3]).all()
    assert (bins[:, 3] == sketch.sums[4]).all()
    assert tuple(span) == sketch._span


def test_sums_of_squares_outgrow_64_bits_without_overflow():
    sketch = Sketch.of(np.full(1000, 1.99999, dtype=np.float32))
    reference = sketch.std, sketch.mean
    for _ in range(36):  # 7 * 10^13 values in one bin
        sketch = sketch + sketch
    assert sketch.count == 1000 * 2**36
    assert (sketch.std, sketch.mean) == reference == (0.0, float(np.float32(1.99999)))
    with pytest.raises(OverflowError, match="at most"):
        sketch + sketch


def test_large_mean_small_std_reports_how_little_is_known():
    values = (1 + 1e-4 * np.random.default_rng(0).standard_normal(50_000)).astype(np.float32)
    sketch = Sketch.of(values)
    assert sketch.std == pytest.approx(values.astype(np.float64).std(), rel=1e-12)
    assert sketch.excess_kurtosis_error > 0.1
    assert abs(sketch.excess_kurtosis - stats.kurtosis(values.astype(np.float64))) <= sketch.excess_kurtosis_error


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zeros_of_a_sparse_tensor(dtype):
    tensor = tensor_of("gaussian", dtype, 10_000)
    tensor[:4000] = 0.0
    tensor[4000:5000] = -0.0
    sketch = Sketch.of(tensor)
    assert sketch.zeros == 5000
    assert sketch.cdf(0.0) == pytest.approx(float((tensor <= 0).double().mean()))
    assert (sketch.quantile([0.3, 0.5, 0.7]) == 0).all()


def test_views_of_any_strides_and_sources():
    tensor = tensor_of("gaussian", "bfloat16", 6000).reshape(60, 100)
    whole = Sketch.of(tensor)
    assert Sketch.of(tensor.T) == Sketch.of(tensor.reshape(3, 20, 100).permute(2, 0, 1)) == whole
    assert Sketch.of(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)) == whole
    assert Sketch.of(torch.nn.Parameter(tensor)) == whole
    assert Sketch.of(tensor[::2]) + Sketch.of(tensor[1::2]) == whole
    values = tensor.float().numpy()
    assert Sketch.of(values.astype(">f4")) == Sketch.of(values) == Sketch.of(torch.tensor(values))
    assert Sketch.of([0.5, 1.5]).mean == 1.0
    assert Sketch.of(torch.tensor(2.0)).count == 1


def test_degenerate_values():
    nothing = Sketch.of(torch.empty(0, dtype=torch.bfloat16))
    assert nothing.count == 0 and np.isnan([nothing.mean, nothing.std, nothing.min, nothing.quantile(0.5)]).all()
    constant = Sketch.of(torch.full((9,), 0.5))
    assert (constant.mean, constant.std) == (0.5, 0.0) and np.isnan(constant.skewness)
    lost = Sketch.of(torch.tensor([float("nan"), float("inf"), 1.0, 3.0]))
    assert (lost.count, lost.nonfinite, lost.mean, lost.max) == (2, 2, 2.0, 3.0)


class Handed:
    """An array of another library, of which only this much is known."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


class Refusing:
    """An array that lies elsewhere, such as on another device."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("not implicitly")


PLAIN = np.random.default_rng(0).standard_normal((50, 40))


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(PLAIN.ravel()),
        pd.DataFrame(PLAIN, columns=[f"unit {i}" for i in range(40)]),
        pd.Index(PLAIN.ravel()),
        pd.Series(PLAIN.ravel()).astype("Float64"),
        Handed(PLAIN),
        PLAIN.tolist(),
        PLAIN.ravel().tolist(),
        array.array("d", PLAIN.ravel()),
        np.ma.masked_array(np.append(PLAIN, [7.0, 8.0]), mask=np.arange(2002) >= 2000),
        (float(value) for value in PLAIN.ravel()),
        dict(enumerate(PLAIN.ravel())).values(),
        [torch.tensor(value) for value in PLAIN.ravel()],
    ],
    ids=lambda values: type(values).__name__,
)
def test_whatever_numpy_reads_is_sketched_as_one_array(values, monkeypatch):
    counted, plain = [], Sketch._of_one.__func__
    monkeypatch.setattr(Sketch, "_of_one", classmethod(lambda cls, one: counted.append(1) or plain(cls, one)))
    assert Sketch.of(values) == Sketch.of(PLAIN)
    assert len(counted) <= 51  # a row at most, never a value


@pytest.mark.parametrize(
    "missing", [pd.Series([0.5, pd.NA, 1.5], dtype="Float64"), pd.DataFrame({"a": [0.5, None, 1.5]})]
)
def test_missing_values_of_a_table_are_counted_apart(missing):
    sketch = Sketch.of(missing)
    assert (sketch.count, sketch.nonfinite, sketch.mean) == (2, 1, 1.0)


def test_half_precision_of_another_library_is_read_bit_by_bit():
    half = PLAIN.astype(ml_dtypes.bfloat16)
    assert Sketch.of(Handed(half)) == Sketch.of(torch.tensor(PLAIN).bfloat16())
    assert Sketch.of(list(half.ravel()[:100])) == Sketch.of(half.ravel()[:100])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.arange(4), "int64"),
        (torch.tensor([True]), "bool"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
        (torch.zeros(3, device="meta"), "meta device"),
        (torch.eye(3).to_sparse(), "sparse"),
        (np.array([1e300]), "float32's range"),
        (iter(()), "empty iterable"),
        (3.0, "expected an array"),
        ("model.safetensors", "cannot sketch a str: .*`lfmlib.survey`"),
        ({"w": torch.zeros(3)}, "cannot sketch a dict"),
        (pd.Series(["a", "b"]), "cannot sketch values of type (object|str)"),
        (pd.DataFrame({"a": [0.5], "b": ["x"]}), "type object"),
        (pd.Series([1, 2]), "int64"),
        ([object()], "type object"),
        (Refusing(), r"NumPy makes no array of a Refusing \(not implicitly\): convert it first"),
        ([torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)], "cells differ"),
    ],
)
def test_what_cannot_be_sketched_is_refused_by_name(values, words):
    with pytest.raises(ValueError, match=words):
        Sketch.of(values)


def test_quantile_outside_zero_to_one():
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.5"):
        Sketch.of([1.0, 2.0]).quantile([0.5, 1.5])
