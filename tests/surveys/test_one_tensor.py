"""What is wrong with one tensor, or with where a worker stands, costs no other row, and is said."""

import math
import os
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lfmlib
from lfmlib.distribution.distances import asymmetry
from lfmlib.surveys import run, values
from lfmlib.surveys.optimal_laws import noise_laws

TINY = 4.59e-41  # a float32 below all normal ones, in the cell that zero is in


def tiny(count: int = 4096) -> np.ndarray:
    """What memory that nobody filled looks like: zeros, and one subnormal number."""
    return np.where(np.arange(count) % 3, 0, TINY).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"sample": 1 << 14}, {"keep": "rows"}])
def test_subnormal_values_have_a_row(options, tmp_path):
    if "keep" in options:
        options = {"keep": tmp_path}
    weights = {"tiny": tiny(16384).reshape(128, 128), "plain": torch.randn(64, 64)}
    table = lfmlib.survey(weights, progress=False, **options).set_index("tensor")
    assert set(table.index) == {"tiny", "plain"}
    assert table.loc["tiny", "max"] == np.float32(TINY)
    if not options.get("sample"):
        assert table.loc["tiny", "subnormals"] == np.count_nonzero(tiny(16384))
        assert table.loc["tiny", "mean"] == pytest.approx(tiny(16384).astype(float).mean(), rel=1e-12)
        assert table.loc["tiny", "std"] == pytest.approx(tiny(16384).astype(float).std(), rel=1e-12)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("bfloat16", 1e-39), *((dtype, scale) for dtype in ("float32", "float64") for scale in (1e-39, 1e-41, 3e-44))],
)
def test_every_measure_takes_subnormal_values(dtype, scale):
    noise = torch.tensor(scale * np.random.default_rng(0).standard_normal((64, 64))).to(getattr(torch, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lfmlib.normality(noise)
        lfmlib.classify(noise)
        assert found.ks_lower <= found.ks_upper
        if dtype == "bfloat16" or scale == 1e-39:
            assert 0 <= found.asymmetry <= 0.2
        else:  # all in the few cells that a float32 has about zero
            assert math.isnan(found.asymmetry)
        assert lfmlib.spectrum(noise).outliers == 0 and abs(lfmlib.iid(noise).row_share) < 0.1


def test_symmetric_subnormal_values_are_symmetric_and_others_are_not():
    rng = np.random.default_rng(0)
    even = (TINY * rng.uniform(-1, 1, 20_000)).astype(np.float32)
    assert asymmetry(even) < 0.02
    assert asymmetry(np.where(rng.random(20_000) < 0.1, -1e-38, tiny(20_000) + np.float32(1e-39))) > 0.5


def broken(checkpoint, info):
    raise {"a": RuntimeError("no storage"), "b": ZeroDivisionError("division by zero"), "c": KeyError("rows")}[
        info.name
    ]


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_any_error_in_one_tensor_is_the_reason_of_its_row(name, monkeypatch):
    plain = values._measured
    measure = lambda *of, **how: (broken if of[1].name == name else plain)(*of, **(how if of[1].name != name else {}))  # noqa: E731
    monkeypatch.setattr(values, "_measured", measure)
    weights = {key: torch.randn(64, 64) for key in "abcd"}
    with pytest.warns(UserWarning, match=rf"1 of 4 tensors have no row: {name}: \w+Error: "):
        table = lfmlib.survey(weights, progress=False)
    assert table["tensor"].tolist() == [key for key in "abcd" if key != name]
    assert "Error" in table.attrs["skipped"][name]


@pytest.mark.parametrize("broken_part", [0, 1])
def test_an_error_in_a_part_of_a_huge_tensor_is_its_reason(broken_part, monkeypatch):
    monkeypatch.setattr(run, "PART_VALUES", 64 * 64)
    plain, calls = values.Sketch.of, []

    def of(chunks):
        calls.append(1)
        if len(calls) - 1 == broken_part:
            raise RuntimeError("no storage")
        return plain(chunks)

    monkeypatch.setattr(values.Sketch, "of", of)
    with pytest.warns(UserWarning, match="1 of 1 tensors have no row: w: RuntimeError: no storage"):
        table = lfmlib.survey({"w": torch.randn(128, 64)}, progress=False)
    assert table.empty


def test_figures_of_a_huge_tensor_that_fail_are_its_reason(monkeypatch):
    monkeypatch.setattr(run, "PART_VALUES", 64 * 64)
    monkeypatch.setattr(values, "_distances", lambda sketch: 1 / 0)
    with pytest.warns(UserWarning, match="1 of 1 tensors have no row: w: ZeroDivisionError"):
        lfmlib.survey({"w": torch.randn(128, 64)}, progress=False)


@pytest.fixture
def elsewhere(tmp_path):
    """A process whose working folder is another one than this one's."""
    (tmp_path / "there").mkdir()
    with ProcessPoolExecutor(1, initializer=os.chdir, initargs=(tmp_path / "there",)) as pool:
        yield pool


def saved(folder, name="model.safetensors") -> dict[str, torch.Tensor]:
    weights = {f"layers.{i}.q_proj.weight": torch.randn(64, 64) for i in range(2)}
    folder.mkdir(parents=True, exist_ok=True)
    (save_file if name.endswith(".safetensors") else torch.save)(weights, folder / name)
    return weights


@pytest.mark.parametrize(
    "source", ["here/model", "here/model/model.safetensors", "./here/../here/model", "file://here/model"]
)
def test_a_relative_path_is_read_by_a_worker_in_another_folder(source, elsewhere, tmp_path, monkeypatch):
    saved(tmp_path / "here" / "model")
    monkeypatch.chdir(tmp_path)
    table = lfmlib.survey(source, executor=elsewhere, progress=False)
    assert len(table) == 2 and table.attrs["source"] == "model"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt"])
def test_an_open_checkpoint_outlives_a_change_of_folder(name, tmp_path, monkeypatch):
    weights = saved(tmp_path / "model", name)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    checkpoint = lfmlib.open_checkpoint(f"model/{name}")
    monkeypatch.chdir("there")
    key = next(iter(weights))
    assert torch.equal(checkpoint.read(key), weights[key])


def test_files_that_a_worker_does_not_see_are_named(elsewhere, tmp_path, monkeypatch):
    saved(tmp_path / "model")
    checkpoint = lfmlib.open_checkpoint(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.warns(
        UserWarning, match=r"2 of 2 tensors have no row: .*every worker see it at the same place.*; attrs"
    ):
        table = lfmlib.survey(checkpoint, executor=elsewhere, progress=False)
    assert table.empty and "model.safetensors" in table.attrs["skipped"]["layers.0.q_proj.weight"]


def test_layers_of_zeros_or_of_one_value_cost_no_other_row():
    weights = {"zeros": torch.zeros(64, 64), "equal": torch.full((64, 64), 0.25), "plain": torch.randn(64, 64)}
    weights["flushed"] = torch.where(torch.arange(4096).reshape(64, 64) % 5 == 0, 1e-40, 0.0).bfloat16()
    assert len(lfmlib.survey(weights, progress=False)) == 4
    for measure in (lfmlib.laws, lfmlib.arrangement):
        with pytest.warns(UserWarning, match=r"[23] of 4 tensors have no row: zeros: .*; attrs"):
            table = measure(weights, progress=False)
        assert "plain" in set(table["tensor"]) and all(table.attrs["skipped"].values())


def test_a_table_without_a_row_says_why():
    with pytest.warns(UserWarning, match="there is nothing to measure: bias: 1-D: not a matrix; attrs"):
        lfmlib.survey({"bias": torch.zeros(3), "ids": torch.arange(3)}, progress=False)


def test_weights_that_are_not_read_are_told(tmp_path):
    weights = {"a.q_proj.weight": torch.randn(64, 64), "tied": torch.zeros(3), "note": "text"}
    weights |= {"meta": torch.empty(64, 64, device="meta"), "also": weights["a.q_proj.weight"]}
    for measure in (lfmlib.survey, lfmlib.arrangement, lfmlib.laws):
        with pytest.warns(
            UserWarning, match="^1 tensor was not read, .* lacks what it holds: meta: on the meta device"
        ):
            assert len(measure(weights, progress=False)) == 1
    codes = {"b.k_proj.weight": torch.zeros(64, 64, dtype=torch.int8), "b.k_proj.scales": torch.ones(64)}
    save_file({"a.q_proj.weight": weights["a.q_proj.weight"], **codes}, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"^1 tensor was not read.*b\.k_proj\.weight: quantized, and not read"):
        lfmlib.survey(tmp_path, progress=False)
    tuned = {**weights, "a.q_proj.weight": weights["a.q_proj.weight"] + 0.01 * torch.randn(64, 64)}
    with pytest.warns(UserWarning, match="not read.* meta: on the meta device"):
        lfmlib.compare(weights, tuned, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lfmlib.survey(weights, select="^a|also|note", progress=False)


def test_matrices_that_a_table_is_not_about_are_no_failures():
    weights = {"small": torch.randn(4, 40), "large": torch.randn(64, 64)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for table in (lfmlib.laws(weights, progress=False), lfmlib.arrangement(weights, progress=False)):
            assert table["tensor"].tolist() == ["large"] and "expected at least" in table.attrs["skipped"]["small"]


def test_doubles_that_float32_does_not_tell_apart_have_a_reason():
    w = np.random.default_rng(0).standard_normal((64, 64))
    with pytest.warns(UserWarning, match="1 of 2 tensors have no row"):
        table = lfmlib.survey({"tiny": w * 1e-200, "plain": w}, progress=False)
    assert table["tensor"].tolist() == ["plain"]
    assert table.attrs["skipped"]["tiny"].startswith("all float64 values lie below float32's range")


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.uint16])
def test_a_weight_of_another_type_is_missed(dtype):
    odd = torch.ones(64, 64).to(dtype)
    with pytest.warns(UserWarning, match=r"1 tensor was not read, and the table lacks what it holds: o\.weight: "):
        table = lfmlib.survey({"q.weight": torch.randn(64, 64), "o.weight": odd, "position_ids": odd}, progress=False)
    assert table["tensor"].tolist() == ["q.weight"] and {"o.weight", "position_ids"} <= set(table.attrs["skipped"])


def odd() -> dict[str, torch.Tensor]:
    """Matrices of real trackers, at which other tools end: one column (WeightWatcher#128), zeros (lava#501), padding
    that nobody filled (vllm#50523), NaN in a layer (GaLore#26); and what else has no figures, or hardly any."""
    rng = torch.Generator().manual_seed(0)
    plain = lambda *shape: 0.02 * torch.randn(*shape, generator=rng)  # noqa: E731
    padded = plain(128, 128)
    padded[100:] = torch.tensor([3.3e38, 1e-44, -2e-42, 0.0]).repeat(28 * 32).view(28, 128)
    return {
        "good": plain(128, 128), "one column": plain(512, 1), "zeros": torch.zeros(128, 128), "padded": padded,
        "constant": torch.full((128, 128), 0.1), "NaN": plain(128, 128).index_fill_(0, torch.tensor([3]), torch.nan),
        "unit": torch.eye(128), "huge": 1e37 * plain(128, 128), "tiny": 1e-41 * plain(128, 128),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["survey", "arrangement", "laws", "compare"])
def test_no_odd_matrix_costs_another_its_row(what):
    models = [{f"{name}.weight": value + move for name, value in odd().items()} for move in (0.0, 1e-3)]
    table = getattr(lfmlib, what)(*(models if what == "compare" else models[:1]), progress=False)
    rows, skipped = set(table["tensor"]), table.attrs["skipped"]
    assert rows | set(skipped) == set(models[0]) and not rows & set(skipped)
    assert {"good.weight", "padded.weight", "huge.weight"} <= rows and all(skipped.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("std", [0.02, 0.0009])
def test_noise_of_coarse_types_is_like_the_tensor(std):
    """In the second, rounding, which sets most values to zero, makes a part of the spread."""
    values = std * torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    model = {"w": values.to(torch.float8_e4m3fn)}
    noise, own = noise_laws(lfmlib.survey(model, progress=False)), lfmlib.laws(model, progress=False)
    if len(own):
        assert noise["sigma"].iloc[0] == pytest.approx(own["sigma"].iloc[0], rel=0.05)
    else:
        left = [int(one.attrs["skipped"]["w"].partition(" ")[0]) for one in (noise, own)]
        assert left[0] == pytest.approx(left[1], rel=0.05)


@pytest.mark.filterwarnings("ignore")
def test_laws_say_how_many_values_they_leave_out_and_of_what_noise_has_none():
    models = {f"{name}.weight": value for name, value in odd().items()}
    found = lfmlib.laws(models, progress=False).set_index("tensor")["nonfinite"]
    assert found["NaN.weight"] == 128 and found.drop("NaN.weight").eq(0).all()
    table = lfmlib.survey(models, progress=False)
    noise = noise_laws(table)
    rows, skipped = set(noise["tensor"]), noise.attrs["skipped"]
    assert rows | set(skipped) == set(table["tensor"]) and not rows & set(skipped) and {"good.weight"} <= rows
    assert skipped["zeros.weight"] == "its standard deviation is 0: expected above 0"
