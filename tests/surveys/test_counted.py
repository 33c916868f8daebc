"""A survey measures quantized tensors by values spread over the cells of their codes, and their noise alike."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import lfmlib
from lfmlib.checkpoints.checkpoint import open_checkpoint
from lfmlib.surveys import run
from lfmlib.surveys.counted import LEFT, SPREAD, Counted
from lfmlib.surveys.optimal_laws import noise_laws

WHOLE = 0.02 * np.random.default_rng(0).standard_normal((256, 1024), dtype=np.float32)


def coded(values: np.ndarray, bits: int = 4) -> dict[str, torch.Tensor]:
    """A matrix as integers of a few bits, with a scale for each 32 of a row."""
    blocks = torch.from_numpy(values).reshape(len(values), -1, 32)
    scale = blocks.abs().amax(dim=2) / (2 ** (bits - 1) - 1)
    codes = (blocks / scale[..., None]).round().to(torch.int8).reshape(values.shape)
    return {"layers.0.q_proj.weight": codes, "layers.0.q_proj.weight_scale": scale}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("coded")
    laplace = 0.02 * np.random.default_rng(1).laplace(size=(96, 512)).astype(np.float32)
    tensors = coded(WHOLE) | {name.replace("0.q", "1.k"): one for name, one in coded(laplace).items()}
    save_file(tensors | {"layers.0.o_proj.weight": torch.from_numpy(WHOLE)}, place / "model.safetensors")
    return place


@pytest.fixture(scope="module")
def table(folder):
    return lfmlib.survey(folder, progress=False)


def test_figures_of_the_distribution_are_of_spread_values_and_moments_of_the_dequantized(folder, table):
    row = table.set_index("role").loc["q"]
    values = open_checkpoint(folder).read("layers.0.q_proj.weight")
    exact, plain = lfmlib.Sketch.of(values), table.set_index("role").loc["o"]
    for name in ("count", "zeros", "min", "max", "mean", "std"):
        assert row[name] == getattr(exact, name)
    assert row["zeros"] > 0.05 * row["count"]
    assert row["mean_ratio"] == pytest.approx(abs(exact.mean) / exact.std)
    assert lfmlib.measure(exact)["kl_bits"] > 0.2 and row["kl_bits"] < 0.001 and row["label"] == "gaussian"
    assert row["asymmetry"] == pytest.approx(plain["asymmetry"], abs=0.003)
    assert table.set_index("role").loc["k", "label"] == "sharp"
    assert table.attrs["quantized"] == {"int8, a scale for 1 × 32": SPREAD}


def test_spread_values_come_beside_the_exact_ones_in_any_chunks(folder):
    checkpoint, name = open_checkpoint(folder), "layers.0.q_proj.weight"
    whole = torch.cat([*checkpoint.spread(name)], dim=1)
    assert torch.equal(whole[0], checkpoint.read(name).flatten())
    assert torch.equal(torch.cat([*checkpoint.spread(name, bytes=4 * 777)], dim=1), whole)
    assert torch.equal(torch.cat([*checkpoint.spread(name, start=1001, stop=5003)], dim=1), whole[:, 1001:5003])
    with pytest.raises(ValueError, match="not those of codes with a known step"):
        checkpoint.spread("layers.0.o_proj.weight")


def test_parts_of_fused_experts_are_spread_as_the_whole_is():
    name = "layers.0.mlp.experts.gate_up_proj"
    codes = torch.from_numpy(WHOLE[:192] * 1000).to(torch.float8_e4m3fn).reshape(2, 96, 1024)
    down = {"layers.0.mlp.experts.down_proj": codes[:, :48].reshape(2, 1024, 48).contiguous()}
    down |= {"layers.0.mlp.experts.down_proj_scale_inv": torch.rand(2, 32, 3)}
    checkpoint = open_checkpoint({name: codes, f"{name}_scale_inv": torch.rand(2, 3, 32)} | down).select("gate_up")
    assert [info.name.removeprefix(name) for info in checkpoint.tensors] == [
        "[0][gate]",
        "[0][up]",
        "[1][gate]",
        "[1][up]",
    ]
    for info in checkpoint.tensors:
        part, entry = checkpoint.origin(info.name)
        whole = torch.cat([*checkpoint.spread(part.stored)], dim=1)[1].reshape(entry.shape)
        found = torch.cat([*checkpoint.spread(info.name, bytes=4 * 5000)], dim=1)[1]
        assert torch.equal(found, part.in_stored_order(whole).flatten())


def test_workers_and_parts_of_a_huge_tensor_give_the_same_table(folder, table, monkeypatch):
    with ProcessPoolExecutor(1) as pool:
        pd.testing.assert_frame_equal(lfmlib.survey(folder, executor=pool, progress=False), table)
    monkeypatch.setattr(run, "PART_VALUES", 50_000)
    pd.testing.assert_frame_equal(lfmlib.survey(folder, progress=False), table)


def test_a_sample_is_spread_too(folder, table, monkeypatch):
    monkeypatch.setattr(lfmlib.surveys.values, "WHOLE_BYTES", 0)
    found = lfmlib.survey(folder, sample=1 << 18, progress=False).set_index("role").loc["q"]
    whole = table.set_index("role").loc["q"]
    assert found["count"] < whole["count"] and found["kl_bits"] < 0.003
    assert found["std_low"] < whole["std"] < found["std_high"] and found["std_low"] > 0.9 * whole["std"]
    assert found["kl_bits_low"] <= whole["kl_bits"] <= found["kl_bits_high"]


def test_noise_goes_through_the_same_quantizer(table):
    twin = lfmlib.noise_twin(table).set_index("role")
    assert twin.loc["q", "zeros"] > 0 and twin.loc["o", "zeros"] == 0
    assert twin.loc["q", "quantized"] and twin.loc["q", "count"] == 256 * 1024
    assert (twin["kl_bits"] < 0.001).all() and (twin["label"] == "gaussian").all()
    assert twin["std"].to_numpy() == pytest.approx(table["std"].to_numpy(), rel=0.02)
    coarse = table.assign(quantized="MXFP4, blocks of 32")
    assert lfmlib.noise_twin(coarse)["kl_bits"].between(0.005, 0.03).all()
    ternary = table.assign(quantized="ternary of BitNet")
    assert (lfmlib.noise_twin(ternary)["kl_bits"] > 1).all()
    unknown = table.assign(quantized="IQ2_XS of GGUF, blocks of 256")
    assert (lfmlib.noise_twin(unknown)["kl_bits"] < 0.001).all()


def test_laws_are_those_of_spread_values(folder, table):
    found = lfmlib.laws(folder, select="[qo]_proj", progress=False)
    assert (found["misfit"] < 0.01).all() and found["sigma"].to_numpy() == pytest.approx(0.02, rel=0.03)
    assert (noise_laws(table[table["role"] == "q"])["misfit"] < 0.01).all()


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
def test_what_has_no_cells_is_measured_as_it_is_and_said():
    values = torch.quantize_per_tensor(torch.from_numpy(WHOLE), 0.01, 0, torch.qint8)
    checkpoint = open_checkpoint({"a.weight": values})
    assert not checkpoint.has_cells("a.weight")
    table = lfmlib.survey(checkpoint, progress=False)
    assert table.attrs["quantized"] == {table["quantized"].iloc[0]: LEFT} and table["kl_bits"].iloc[0] > 0.2


def test_counts_add_up():
    one = Counted.pairs([torch.arange(8.0).reshape(2, 4)])
    assert (one + one).values == lfmlib.Sketch.of(torch.arange(4.0).repeat(2))
    assert (one + one).law == lfmlib.Sketch.of(torch.arange(4.0, 8).repeat(2))
    same = Counted.of(torch.ones(3))
    assert (same + same).law == (same + same).values
