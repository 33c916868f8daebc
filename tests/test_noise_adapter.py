"""Noise adapters: a tuner of peft like any other; the same random numbers for ever; only scales on disk."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors import safe_open
from scipy import stats
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import lfmlib
from lfmlib import noise_adapter
from lfmlib.distribution.distances import measure
from lfmlib.noise_adapter import LAWS, NoiseConfig, basis

IDS = torch.arange(12).view(2, 6)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).eval()


def adapted(**settings) -> PeftModel:
    """A model with an adapter whose scales were moved away from where they begin."""
    model = get_peft_model(llama(), NoiseConfig(target_modules=["q_proj", "down_proj"], **settings))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "noise_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("law", LAWS)
def test_the_stream_never_changes(law):
    """Values written down once; a change here makes every stored adapter another one."""
    first = {
        "gaussian": [-1.5951995849609375, 0.069610595703125, -0.1529541015625, 1.4461212158203125],
        "uniform": [-1.5403594970703125, 0.0961151123046875, -0.2105560302734375, 1.4754486083984375],
        "signs": [-1.0, 1.0, -1.0, 1.0],
    }[law]
    assert basis((2, 2), law, 7, "layers.0.q_proj", 1).flatten().tolist() == first


def test_bases_have_their_law_and_are_unlike():
    made = {law: basis((400, 500), law, 0, "a") for law in LAWS}
    assert all(abs(w.mean()) < 0.01 and w.std() == pytest.approx(1, abs=0.01) for w in made.values())
    assert measure(made["gaussian"])["kl_bits"] < 0.001
    assert stats.kstest(made["uniform"].numpy().ravel() / 3**0.5, stats.uniform(-1, 2).cdf).pvalue > 0.001
    assert set(made["signs"].unique().tolist()) == {-1.0, 1.0}
    others = [basis((400, 500), "gaussian", *rest) for rest in ((1, "a"), (0, "b"), (0, "a", 1))]
    for other in others:
        assert abs(np.corrcoef(made["gaussian"].numpy().ravel(), other.numpy().ravel())[0, 1]) < 0.01
    assert torch.equal(made["gaussian"], basis((400, 500), "gaussian", 0, "a"))


def test_an_adapter_begins_at_zero_and_trains_scales_alone():
    model = get_peft_model(llama(), NoiseConfig(target_modules=["q_proj"], bases=2))
    assert torch.equal(logits(model), logits(llama()))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == 2 * 2 * (64 + 64)  # layers, bases, rows and columns
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in trained.values())
    assert any(p.grad.abs().sum() > 0 for name, p in trained.items() if "rows" in name)


@pytest.mark.parametrize(
    "settings",
    [{}, {"law": "signs", "bases": 3, "seed": 5}, {"scale": 0.3}, {"scale_pattern": {r"layers\.1\..*": 2.0}}],
)
def test_save_load_merge_and_disable(tmp_path, settings):
    model = adapted(**settings)
    said = logits(model)
    assert not torch.allclose(said, logits(llama()), atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(llama()))
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert all(".noise_rows" in key or ".noise_columns" in key for key in file.keys())  # noqa: SIM118
        held = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    assert held == settings.get("bases", 1) * 2 * (128 + 160)
    loaded = PeftModel.from_pretrained(llama(), tmp_path).eval()
    assert torch.equal(logits(loaded), said)
    merged = loaded.merge_and_unload()
    assert torch.allclose(logits(merged), said, atol=1e-5)
    assert merged.state_dict().keys() == llama().state_dict().keys()
    back = adapted(**settings)
    back.merge_adapter()
    back.unmerge_adapter()
    assert torch.allclose(logits(back), said, atol=1e-5)


def test_layers_may_have_a_scale_of_their_own():
    plain, other = (
        adapted(**some).base_model.model for some in ({}, {"scale_pattern": {"layers.1.mlp.down_proj": 3.0}})
    )
    for name in ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.q_proj"):
        one, two = (model.get_submodule(name).get_delta_weight("default") for model in (plain, other))
        assert torch.allclose(two, (3.0 if name.endswith("1.mlp.down_proj") else 1.0) * one)


@pytest.mark.slow
def test_a_fresh_process_loads_it(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path / "adapter")
    torch.save(logits(model), tmp_path / "said.pt")
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[2]); import lfmlib.noise_adapter; from peft import PeftModel;"
        "from test_noise_adapter import llama, logits;"
        "model = PeftModel.from_pretrained(llama(), sys.argv[1] + '/adapter').eval();"
        "assert torch.equal(logits(model), torch.load(sys.argv[1] + '/said.pt'))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)], check=True)


def test_two_adapters_side_by_side():
    model = adapted()
    first = logits(model)
    model.add_adapter("other", NoiseConfig(target_modules=["q_proj"], seed=9))
    assert torch.equal(logits(model), first)
    model.set_adapter("other")
    assert torch.equal(logits(model), logits(llama()))  # it is new, so still zero


def test_sixteen_bits_keep_their_type():
    model = get_peft_model(llama().bfloat16(), NoiseConfig(target_modules=["q_proj"]))
    assert logits(model).dtype == torch.bfloat16
    assert model.merge_and_unload().model.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_frozen_numbers_do_not_depend_on_the_type_of_the_base(dtype):
    model = get_peft_model(llama().to(dtype), NoiseConfig(target_modules=["q_proj"], seed=3))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert torch.equal(
        layer.noise_basis["default"][0], basis((64, 64), "gaussian", 3, "model.layers.0.self_attn.q_proj")
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"law": "cauchy"}, r"unknown law 'cauchy'.*gaussian, uniform, signs"),
        ({"bases": 0}, r"bases is 0: expected a whole number from 1 on"),
        ({"seed": -1}, r"expected a whole number from 0 on"),
        ({"stream": "philox-0"}, r"random stream 'philox-0'.*Load it with the version"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NoiseConfig(target_modules=["q_proj"], **settings)


def test_other_layers_are_refused():
    with pytest.raises(TypeError, match=r"embed_tokens is a Embedding: noise adapters go on torch.nn.Linear"):
        get_peft_model(llama(), NoiseConfig(target_modules=["embed_tokens"]))


def test_another_machine_with_other_quantiles_is_told(monkeypatch):
    monkeypatch.setitem(noise_adapter._CHECKSUMS, "gaussian", "0" * 16)
    noise_adapter._quantiles.cache_clear()
    with pytest.raises(RuntimeError, match=r"an adapter would come out as another one"):
        basis((2, 2), "gaussian", 0, "a")
    noise_adapter._quantiles.cache_clear()


@pytest.mark.parametrize("settings", [{}, {"law": "uniform", "bases": 2, "seed": 4}])
def test_a_saved_adapter_is_compared_like_its_merged_model(tmp_path, settings):
    model = adapted(**settings)
    model.save_pretrained(tmp_path / "adapter")
    folder = lfmlib.compare(llama(), tmp_path / "adapter", progress=False).set_index("tensor")
    merged = lfmlib.compare(llama(), model.merge_and_unload(), progress=False).set_index("tensor")
    assert len(folder) == 4
    for name in ("std_delta", "std_gain", "corr", "qq_r2", "top_ratio"):
        assert folder[name].to_numpy() == pytest.approx(merged.loc[folder.index, name].to_numpy(), rel=1e-3, abs=1e-6)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    adapted().save_pretrained(tmp_path / "adapter")
    other = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    )
    with pytest.raises(lfmlib.CheckpointError, match=r"scales of rows \(1, 64\).*expected \(bases, out\) and"):
        lfmlib.compare(other, tmp_path / "adapter", progress=False)


@pytest.mark.parametrize(
    "given",
    [{"bases": 1.5}, {"bases": 0}, {"seed": 2**70}, {"seed": "a"}, {"seed": 1.5}, {"scale": "x"}, {"scale": math.nan},
     {"scale_pattern": {"q": math.inf}}],
)  # fmt: skip
def test_what_no_adapter_can_have_is_refused(given):
    with pytest.raises(ValueError, match=r"expected a (whole )?number"):
        NoiseConfig(target_modules=["q"], **given)
