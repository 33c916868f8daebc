"""Planted damage is named, healthy matrices are not, and what cannot be told apart is not claimed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lfmlib
from lfmlib.health import states
from lfmlib.structure import made_matrices


def examined(tensors: dict, config: dict | None = None):
    checkpoint = lfmlib.open_checkpoint(tensors)
    checkpoint.config.update(config or {})
    table = lfmlib.survey(checkpoint, progress=False)
    arranged = lfmlib.arrangement(checkpoint, controls=["permuted"], progress=False)
    return states.examine(checkpoint, table, arranged).set_index("tensor")


def trained(rng, shape=(128, 192), dtype=torch.float32) -> torch.Tensor:
    """A matrix with unlike rows, as training leaves them."""
    return torch.tensor(0.03 * made_matrices.matrix("row scales", 0.4, shape, rng)).to(dtype)


def turned(values: torch.Tensor) -> torch.Tensor:
    pairs = values.contiguous().view(torch.uint8).reshape(-1, values.element_size())
    return pairs.flip(1).contiguous().view(values.dtype).reshape(values.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_planted_states_are_named(dtype):
    rng = np.random.default_rng(0)
    tensors = {f"layers.{i}.q_proj.weight": trained(rng, dtype=dtype) for i in range(8)}
    names = list(tensors)
    tensors[names[1]] = torch.zeros(128, 192, dtype=dtype)
    tensors[names[2]] = torch.full((128, 192), 0.5, dtype=dtype)
    tensors[names[3]] = turned(tensors[names[3]])
    tensors[names[4]] = torch.tensor(0.02 * rng.standard_normal((128, 192))).to(dtype)
    tensors[names[5]] = tensors[names[5]].clone()
    tensors[names[5]][0, 0] = torch.inf
    tensors[names[6]] = torch.where(torch.rand(128, 192) < 0.6, 0, tensors[names[6]]).to(dtype)
    found = examined(tensors, {"initializer_range": 0.02})
    states = dict(zip(names[1:7], ["zeroed", "constant", "swapped", "untrained", "non-finite", "pruned"], strict=True))
    assert found["state"].to_dict() == states
    assert "initializer_range" in found.loc[names[4], "why"]
    assert "with the bytes turned round" in found.loc[names[3], "why"]


@pytest.mark.parametrize("others", [0.0, 4.1e-41])
def test_memory_that_nobody_filled_is_not_taken_for_turned_bytes(others):
    weight = torch.where(torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.5, others, 4.59e-41)
    found = examined({"layers.0.q_proj.weight": weight})
    assert found["state"].tolist() == ["unwritten"] and "no value is larger than 4.59e-41" in found["why"].iloc[0]


def test_small_weights_of_float16_are_weights():
    weight = (trained(np.random.default_rng(0)) * 1e-4).to(torch.float16)  # subnormal, most of them
    assert examined({"layers.0.q_proj.weight": weight}).empty


@pytest.mark.parametrize("law", ["uniform", "truncated", "xavier"])
def test_the_usual_starts_are_called_untrained(law):
    weight = torch.empty(256, 192)
    starts = {
        "uniform": torch.nn.init.kaiming_uniform_,
        "truncated": lambda w: torch.nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04),
        "xavier": torch.nn.init.xavier_uniform_,
    }
    torch.manual_seed(0)
    starts[law](weight)
    found = examined({"layers.0.q_proj.weight": weight})
    assert found["state"].tolist() == ["untrained"]


def test_entries_that_changed_places_are_told_from_a_start():
    rng = np.random.default_rng(1)
    values = torch.tensor(made_matrices.matrix("row scales", 0.8, (256, 256), rng)).float()
    shuffled = values.flatten()[torch.randperm(values.numel())].reshape(256, 256)
    found = examined({"a.q_proj.weight": values, "b.q_proj.weight": shuffled})
    assert found["state"].to_dict() == {"b.q_proj.weight": "shuffled"}


def test_the_real_model_is_healthy_but_for_its_pooler():
    checkpoint = lfmlib.open_checkpoint("minilm", select=r"layer\.[05]\..*dense|pooler|query|word")
    table = lfmlib.survey(checkpoint, progress=False)
    arranged = lfmlib.arrangement(checkpoint.select("dense|query"), controls=["permuted"], progress=False)
    found = states.examine(checkpoint, table, arranged)
    assert dict(zip(found["tensor"], found["state"], strict=True)) == {"pooler.dense.weight": "untrained"}


def test_noise_is_seldom_called_trained_and_sparse_float32_not_damaged():
    """False alarms of the measure, over noise; and bfloat16 values stored as float32, whose trailing bytes are zero."""
    rng = np.random.default_rng(2)
    noise = {f"layers.{i}.q_proj.weight": torch.tensor(rng.standard_normal((96, 128))).float() for i in range(20)}
    assert (examined(noise)["state"] == "untrained").sum() >= 17
    values = trained(rng).bfloat16().float()
    assert states.swapped(values.flatten()) == ""
    assert states.swapped(turned(values).flatten()) != ""
    assert states.swapped(torch.zeros(100)) == "" and states.swapped(torch.randn(100).to(torch.float8_e4m3fn)) == ""
