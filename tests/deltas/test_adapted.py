"""Adapter folders: the same numbers as the merged model, whatever kind, prefixes and layout; or an error."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import lfmlib
from lfmlib import CheckpointError
from lfmlib.deltas import adapted
from lfmlib.deltas.comparison import BUDGET, delta

FIGURES = [*BUDGET, "ks", "kl_bits", "qq_r2", "top_ratio"]


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=80, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config)


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=64, n_layer=2, n_head=4))


def adapt(model: nn.Module, folder, **settings) -> nn.Module:
    """An adapter with random factors, saved; the merged model."""
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **settings))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name or "lora_embedding_" in name or "modules_to_save" in name:
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)
        if "magnitude" in name:
            parameter.data *= 1 + 0.05 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder)
    return wrapped.merge_and_unload()


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize(
    "build", [gpt2, lambda: nn.ModuleDict({"c_attn": nn.Linear(64, 64), "other": nn.Linear(64, 64)})]
)
def test_biases_that_were_trained_beside_an_adapter_are_merged(tmp_path, build, bias):
    torch.manual_seed(0)
    model = build()
    base = {name: w.clone() for name, w in model.state_dict().items()}
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"], bias=bias))
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05
    wrapped.save_pretrained(tmp_path / "adapter")
    want = wrapped.merge_and_unload().state_dict()
    assert sum(not torch.equal(w, base[name]) for name, w in want.items() if name.endswith("bias")) > 0
    out = lfmlib.merge(base, tmp_path / "adapter", "average", out=tmp_path / "out", progress=False)
    for name, found in load_file(out / "model.safetensors").items():
        assert torch.allclose(found, want[name], atol=1e-6), name


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
        {"target_modules": ["k_proj", "o_proj"], "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"layers.1.*": 32}},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["embed_tokens", "o_proj"], "use_dora": True},
    ],
    ids=["lora", "rslora", "dora", "patterns", "a head saved whole", "embedding", "embedding, dora"],
)
def test_a_folder_gives_the_numbers_of_its_merged_model(tmp_path, settings):
    base = {name: w.clone() for name, w in llama().state_dict().items()}
    merged = adapt(llama(), tmp_path, **settings).state_dict()
    folder = lfmlib.compare(base, tmp_path, progress=False)
    whole = lfmlib.compare(base, merged, progress=False).set_index("tensor").loc[folder["tensor"]]
    changed = [name for name, w in base.items() if not torch.equal(w, merged[name])]
    assert folder["tensor"].tolist() == changed
    for name in FIGURES:
        assert folder[name].to_numpy() == pytest.approx(whole[name].to_numpy(), rel=1e-9, abs=1e-12), name
    assert (folder["top_ratio"] > 1.5).all() or "modules_to_save" in settings
    reasons = folder.attrs["skipped"]
    assert reasons.get("model.embed_tokens.weight", "no adapter on it") == "no adapter on it"
    assert len(folder) + len(reasons) == len(base)


def test_what_an_adapter_makes_can_be_surveyed_and_sampled(tmp_path):
    merged = adapt(llama(), tmp_path, target_modules=["q_proj", "down_proj"]).state_dict()
    checkpoint = adapted.adapted(lfmlib.open_checkpoint(llama()), tmp_path)
    table = lfmlib.survey(checkpoint, progress=False).set_index("tensor")
    whole = lfmlib.survey(merged, progress=False).set_index("tensor").loc[table.index]
    assert table["std"].to_numpy() == pytest.approx(whole["std"].to_numpy(), rel=1e-6)
    name = table.index[0]
    own = set(checkpoint.read(name).flatten().tolist())
    assert set(torch.cat(checkpoint.sample(name, 2000)).tolist()) < own


def test_fused_and_transposed_layers_of_gpt2(tmp_path):
    base = {name: w.clone() for name, w in gpt2().state_dict().items()}
    merged = adapt(gpt2(), tmp_path, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True).state_dict()
    folder = lfmlib.compare(gpt2(), tmp_path, progress=False)
    whole = lfmlib.compare(base, merged, progress=False).set_index("tensor").loc[folder["tensor"]]
    assert {"q", "k", "v", "o", "down"} <= set(folder["role"])
    for name in FIGURES:
        assert folder[name].to_numpy() == pytest.approx(whole[name].to_numpy(), rel=1e-9, abs=1e-12), name


def test_other_prefixes_and_a_delta_of_low_rank(tmp_path):
    merged = adapt(llama(), tmp_path, target_modules=["q_proj"])
    inner = {name.removeprefix("model."): w for name, w in llama().state_dict().items()}
    table = lfmlib.compare(inner, tmp_path, progress=False)
    assert table["tensor"].tolist() == [f"layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)]
    found = delta(inner, tmp_path, "layers.1.self_attn.q_proj.weight")
    expected = merged.state_dict()["model.layers.1.self_attn.q_proj.weight"] - inner["layers.1.self_attn.q_proj.weight"]
    assert torch.allclose(found, expected, atol=1e-7)
    assert torch.linalg.matrix_rank(found, atol=1e-5) == 4


def test_a_sixteen_bit_base_is_not_rounded_again(tmp_path):
    adapt(llama(), tmp_path, target_modules=["q_proj"])
    base = {name: w.bfloat16() for name, w in llama().state_dict().items()}
    row = lfmlib.compare(base, tmp_path, progress=False).iloc[0]
    assert row["dtype"] == "float32" and row["zeros"] == 0


def test_what_is_no_such_adapter_is_refused(tmp_path):
    adapt(llama(), tmp_path / "one", target_modules=["q_proj"])
    with pytest.raises(lfmlib.CheckpointError, match=r"adapts model\.layers\.0.* expected the model it was trained on"):
        lfmlib.compare(gpt2(), tmp_path / "one", progress=False)
    small = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    )
    with pytest.raises(lfmlib.CheckpointError, match=r"factors A \(4, 64\) and B \(64, 4\).* a matrix of \(32, 32\)"):
        lfmlib.compare(small, tmp_path / "one", progress=False)
    scaled = get_peft_model(
        llama(), IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    )
    scaled.save_pretrained(tmp_path / "ia3")
    with pytest.raises(lfmlib.CheckpointError, match=r"an adapter of type IA3; expected LORA"):
        lfmlib.compare(llama(), tmp_path / "ia3", progress=False)
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text(encoding="utf-8"))
    (tmp_path / "one" / "adapter_config.json").write_text(json.dumps(config | {"r": "many"})[:-5], encoding="utf-8")
    with pytest.raises(lfmlib.CheckpointError, match="cannot be read as JSON"):
        lfmlib.compare(llama(), tmp_path / "one", progress=False)


@pytest.mark.parametrize("how", ["pissa", "olora"])
def test_adapters_that_changed_their_base_are_refused(tmp_path, how):
    get_peft_model(llama(), LoraConfig(r=4, init_lora_weights=how, target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(lfmlib.CheckpointError, match=rf"made with {how}, which changed its base as well"):
        lfmlib.compare(llama(), tmp_path, progress=False)


def test_what_was_saved_whole_and_the_base_has_otherwise_is_told(tmp_path):
    adapt(llama(), tmp_path, target_modules=["q_proj"], modules_to_save=["lm_head"])
    smaller = llama().state_dict() | {"lm_head.weight": torch.zeros(32, 64)}
    without = {name: w for name, w in smaller.items() if "lm_head" not in name}
    for base, words in ((smaller, r"has one of \(32, 64\)"), (without, "has none of that name")):
        with pytest.warns(UserWarning, match=r"lm_head\.weight: saved whole beside the adapter, of \(80, 64\)"):
            table = lfmlib.compare(base, tmp_path, progress=False)
        assert len(table) == 2 and re.search(words, " ".join(table.attrs["skipped"].values()))


def test_the_adapter_of_one_layer_lies_on_its_layer(tmp_path):
    merged = adapt(llama(), tmp_path, target_modules=["q_proj"], layers_to_transform=[1])
    inner = {f"deeper.{name}": w for name, w in llama().state_dict().items()}
    table = lfmlib.compare(inner, tmp_path, progress=False)
    assert table["tensor"].tolist() == ["deeper.model.layers.1.self_attn.q_proj.weight"]
    name = "model.layers.1.self_attn.q_proj.weight"
    expected = (merged.state_dict()[name] - llama().state_dict()[name]).double().std(correction=0).item()
    assert table.iloc[0]["std_delta"] == pytest.approx(expected, rel=1e-6)


def test_adapters_are_merged_and_laid_beside_one_another_as_the_models_they_make(tmp_path):
    base = {name: w.clone() for name, w in llama().state_dict().items()}
    folders = [tmp_path / "one", tmp_path / "two"]
    targets = (["q_proj", "v_proj"], ["q_proj", "up_proj"])
    tuned = [adapt(llama(), folder, target_modules=some) for folder, some in zip(folders, targets, strict=True)]
    whole = [{name: w.clone() for name, w in model.state_dict().items()} for model in tuned]

    def merged(models: list, method: str, name: str) -> dict[str, torch.Tensor]:
        return load_file(
            lfmlib.merge(base, models, method, out=tmp_path / name / method, progress=False) / "model.safetensors"
        )

    for method in ("average", "ties"):
        found, expected = merged(folders, method, "adapters"), merged(whole, method, "models")
        assert found.keys() == expected.keys()
        assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)
    found, expected = (lfmlib.overlap(base, models, progress=False) for models in (folders, whole))
    expected = expected[expected["size"] > 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3)
    assert set(found.attrs["skipped"].values()) == {"no adapter on it"}
    head = adapt(llama(), tmp_path / "head", target_modules=["q_proj"], modules_to_save=["lm_head"]).state_dict()
    found = merged([tmp_path / "head"], "average", "whole")
    assert all(torch.allclose(found[name], head[name], atol=1e-6) for name in found)
    other = base | {"lm_head.weight": torch.zeros(32, 64)}
    with pytest.raises(CheckpointError, match=r"cannot be added: saved whole .*mapping has one of \(32, 64\)"):
        lfmlib.merge(other, tmp_path / "head", out=tmp_path / "y", progress=False)


class Experts(nn.Module):
    """Two stacks, as experts of transformers are stored; ``is_transposed`` tells (in, out)."""

    def __init__(self, turned: bool):
        super().__init__()
        self.is_transposed = turned
        shapes = {"gate_up_proj": (3, 160, 64), "down_proj": (3, 64, 80)}
        for name, (count, first, second) in shapes.items():
            values = 0.02 * torch.randn(count, *((second, first) if turned else (first, second)))
            self.register_parameter(name, nn.Parameter(values))


def of_experts(turned: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.ModuleDict({"experts": Experts(turned), "q_proj": nn.Linear(64, 64, bias=False)}) for _ in range(2)]
    model = nn.ModuleDict({"embed_tokens": nn.Embedding(30, 64), "layers": nn.ModuleList(layers)})
    model.config = {"model_type": "llama4_text"}
    return model


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "parameters", [["experts.gate_up_proj", "experts.down_proj"], ["experts.down_proj"]], ids=["both", "one"]
)
def test_adapters_of_experts_and_trained_tokens_give_the_merged_model(tmp_path, parameters, turned):
    settings = {"target_modules": ["q_proj"], "target_parameters": parameters}
    wrapped = get_peft_model(
        of_experts(turned), LoraConfig(r=4, lora_alpha=8, trainable_token_indices={"embed_tokens": [1, 5]}, **settings)
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name or "trainable_tokens_delta" in name:
            parameter.data = parameter.data + 0.02 * torch.randn(parameter.shape)
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = {name: w.clone() for name, w in wrapped.merge_and_unload().state_dict().items()}
    base = {name: w.clone() for name, w in of_experts(turned).state_dict().items()}
    found = adapted.adapted(lfmlib.open_checkpoint(base), tmp_path / "adapter", whole=True)
    assert found.stored.keys() == merged.keys()
    for name, w in merged.items():
        assert torch.allclose(found.read(name), w, rtol=0, atol=1e-7), name
        assert torch.equal(w, base[name]) == (not {"q_proj", "embed"} & set(name.replace("_tokens", "").split("."))
                                              and not any(name.endswith(one) for one in parameters))  # fmt: skip
    out = lfmlib.merge(base, tmp_path / "adapter", "average", out=tmp_path / "out", progress=False)
    written = load_file(out / "model.safetensors")
    assert all(torch.allclose(written[name], w, rtol=0, atol=1e-7) for name, w in merged.items())
    reasons = adapted.adapted(lfmlib.open_checkpoint(base), tmp_path / "adapter").skipped
    assert not any(name.endswith(one) for name in reasons for one in parameters)


def test_a_bias_of_the_adapter_is_told_and_never_lost_in_a_merge(tmp_path):
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({"q_proj": nn.Linear(64, 64), "k_proj": nn.Linear(64, 64)})

    wrapped = get_peft_model(model(), LoraConfig(r=4, target_modules=["q_proj"], lora_bias=True))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.01
    wrapped.save_pretrained(tmp_path / "adapter")
    with pytest.warns(UserWarning, match=r"q_proj\.bias: with a bias of the adapter’s, and not measured"):
        assert len(lfmlib.compare(model(), tmp_path / "adapter", progress=False)) == 1
    save_file(model().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"q_proj\.bias of adapter cannot be added: .* Merge the adapter into its"
    ):
        lfmlib.merge(tmp_path / "model.safetensors", tmp_path / "adapter", out=tmp_path / "x", progress=False)


PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
ODD = [
    *({"lora_alpha": value} for value in (None, "8", [8], 1e400)),
    *({"r": value} for value in (1e9, 10**9, 0, "4", None, True)),
    *({"rank_pattern": value} for value in ([1], {"q_proj": "a"}, {"(": 3}, {"q_proj": 8})),
    *({"alpha_pattern": value} for value in ({"(": 1}, {"q_proj": None}, 5)),
    *({"target_parameters": value} for value in ([5], 5)),
    *({"use_dora": value} for value in (5, True)),
    {"use_rslora": "yes"},
    {"peft_type": None},
]


def lora_folder(folder, settings, weights=True, **state):
    """An adapter of rank 4 on one matrix of (16, 16), with its settings as they are given."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    names = {"lora_A": torch.ones(4, 16), "lora_B": torch.ones(16, 4)} | state
    if weights:
        tensors = {f"base_model.model.layers.0.q_proj.{name}.weight": value for name, value in names.items()}
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


ONE = {"layers.0.q_proj.weight": np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)}


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_odd_settings_of_an_adapter_are_told(tmp_path, odd):
    with pytest.raises(CheckpointError, match=r"adapter_config.json.* says .*: expected .*save the adapter again"):
        lfmlib.compare(ONE, lora_folder(tmp_path / "a", PLAIN | odd), progress=False)


def test_settings_that_change_no_weight_may_be_anything(tmp_path):
    odd = {"lora_dropout": "a", "bias": 5, "megatron_config": 5, "use_dora": None, "target_modules": 5}
    found = delta(ONE, lora_folder(tmp_path / "a", PLAIN | odd), "layers.0.q_proj.weight")
    assert torch.allclose(found, torch.tensor(8.0))  # rank 4 · alpha 8 / rank 4, of factors of ones


@pytest.mark.parametrize("settings", [PLAIN, {}])
def test_an_adapter_without_weights_or_settings(tmp_path, settings):
    with pytest.raises(CheckpointError, match=r"no weights: found adapter_config.json; expected adapter_model.saf"):
        lfmlib.compare(ONE, lora_folder(tmp_path / "a", settings, weights=False), progress=False)
    with pytest.raises(CheckpointError, match="names no peft_type: found nothing; expected the settings that peft"):
        lfmlib.compare(ONE, lora_folder(tmp_path / "a", {}), progress=False)


def test_factors_of_integers(tmp_path):
    folder = lora_folder(tmp_path / "a", PLAIN, lora_B=torch.ones(16, 4, dtype=torch.int8))
    with pytest.raises(CheckpointError, match=r"lora_B.weight of the adapter .* is int8: expected floating-point"):
        lfmlib.compare(ONE, folder, progress=False)
