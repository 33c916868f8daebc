"""The norm in front of a matrix is the one whose output the matrix reads, in models that transformers builds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf

import lfmlib
from lfmlib.health.gains import front_norms, gain, reads
from lfmlib.health.order import profiles, towers

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 20, "pad_token_id": 0,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 8}
GPT = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20, "rotary_dim": 4}
SEQUENCES = {"vocab_size": 50, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24,
             "decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2}  # fmt: skip
IDS = {"input_ids": torch.tensor([[3, 1, 4, 1]])}
SOUND = {"input_features": torch.randn(1, 8, 12), "decoder_input_ids": IDS["input_ids"]}
IMAGE = {"pixel_values": torch.randn(1, 3, 8, 8)}
WHISPER = SEQUENCES | {"num_mel_bins": 8, "max_source_positions": 6, "max_target_positions": 6, "pad_token_id": 0}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
# name → (model, inputs, whether norms stand between the stream and the matrices that read it)
FAMILIES = {
    "llama": (lambda: hf.LlamaModel(hf.LlamaConfig(**GROUPED)), IDS, True),
    "gpt2": (lambda: hf.GPT2Model(hf.GPT2Config(**GPT)), IDS, True),
    "gptj": (lambda: hf.GPTJModel(hf.GPTJConfig(**GPT)), IDS, True),
    "pythia": (lambda: hf.GPTNeoXModel(hf.GPTNeoXConfig(**SIZES)), IDS, True),
    "phi": (lambda: hf.PhiModel(hf.PhiConfig(**SIZES)), IDS, True),
    "gemma2": (lambda: hf.Gemma2Model(hf.Gemma2Config(**GROUPED)), IDS, True),
    "cohere": (lambda: hf.CohereModel(hf.CohereConfig(**GROUPED)), IDS, True),
    "opt": (lambda: hf.OPTModel(hf.OPTConfig(**SIZES, ffn_dim=24, word_embed_proj_dim=16)), IDS, True),
    "vit": (lambda: hf.ViTModel(hf.ViTConfig(**SIZES, image_size=8, patch_size=4)), IMAGE, True),
    "dinov2": (lambda: hf.Dinov2Model(hf.Dinov2Config(**SIZES, image_size=8, patch_size=4)), IMAGE, True),
    "whisper": (lambda: hf.WhisperModel(hf.WhisperConfig(**WHISPER)), SOUND, True),
    "t5": (lambda: hf.T5Model(hf.T5Config(**T5)), IDS | {"decoder_input_ids": IDS["input_ids"]}, True),
    "bert": (lambda: hf.BertModel(hf.BertConfig(**SIZES)), IDS, False),
    "bart": (lambda: hf.BartModel(hf.BartConfig(**SEQUENCES, max_position_embeddings=20)), IDS, False),
    "distilbert": (
        lambda: hf.DistilBertModel(hf.DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=24)),
        IDS,
        False,
    ),
    "olmo2": (lambda: hf.Olmo2Model(hf.Olmo2Config(**GROUPED)), IDS, False),
}


def read_from(model: torch.nn.Module, inputs: dict) -> dict[str, str]:
    """Each linear layer that reads what a norm gives → that norm, by the names of their weights."""
    given, found, kept = {}, {}, []

    def norm_gave(name):
        def hook(module, inputs, output):
            kept.append(output)  # so that no later tensor lies where it lay
            given[output.data_ptr()] = name

        return hook

    def linear_reads(name):
        return lambda module, inputs: found.update({name: given.get(inputs[0].data_ptr(), "")})

    for name, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            module.register_forward_hook(norm_gave(f"{name}.weight"))
        elif isinstance(module, torch.nn.Linear | hf.pytorch_utils.Conv1D):
            module.register_forward_pre_hook(linear_reads(f"{name}.weight"))
    with torch.no_grad():
        model(**inputs)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_the_norm_in_front_is_the_one_that_is_read(name):
    torch.manual_seed(0)
    build, inputs, between = FAMILIES[name]
    model = build().eval()
    checkpoint = lfmlib.open_checkpoint(model)
    wanted = [info.name for info in checkpoint.tensors if reads(info)]
    truth, found = read_from(model, inputs), front_norms(checkpoint)
    assert len(wanted) >= 4
    if between:
        assert found == {one: truth[checkpoint.origin(one)[0].stored] for one in wanted}
    else:
        assert found == {}


@pytest.mark.parametrize(
    "build",
    [
        lambda: hf.Gemma2Model(hf.Gemma2Config(**GROUPED)),
        lambda: hf.LlamaModel(hf.LlamaConfig(**GROUPED)),
        lambda: hf.NemotronModel(hf.NemotronConfig(**GROUPED)),
    ],
)
def test_the_gain_is_what_the_norm_multiplies_with(build):
    torch.manual_seed(0)
    model = build()
    norm = model.layers[0].input_layernorm
    with torch.no_grad():
        norm.weight.normal_()
        state = torch.randn(16)
        state -= state.mean()
        given = norm(state) / (state / state.square().mean().sqrt())
    torch.testing.assert_close(
        gain(lfmlib.open_checkpoint(model), "layers.0.input_layernorm.weight").float(), given, rtol=1e-3, atol=1e-4
    )


def test_files_of_llama_cpp_hold_the_gain_itself_and_towers_that_see_have_plain_norms():
    weights = {"blk.0.attn_norm.weight": torch.full((4,), 0.5), "blk.0.attn_q.weight": torch.ones(4, 4)}
    for config, wanted in (({"gguf": {}}, 0.5), ({}, 1.5), ({"text_config": {"model_type": "gemma3_text"}}, 1.5)):
        checkpoint = lfmlib.open_checkpoint(weights)
        checkpoint.config.update({"model_type": "gemma3"} | config)
        assert set(gain(checkpoint, "blk.0.attn_norm.weight").tolist()) == {wanted}
    towers = {
        f"{tower}.layers.0.input_layernorm.weight": torch.zeros(4) for tower in ("vision_tower", "language_model")
    }
    checkpoint = lfmlib.open_checkpoint(towers)
    checkpoint.config["model_type"] = "gemma3"
    assert [gain(checkpoint, name).sum().item() for name in towers] == [0.0, 4.0]


def test_a_gain_moved_into_the_matrix_changes_no_profile():
    """W · diag(g) is what acts: with a norm of 1 and the gain in the columns the profiles are the same."""
    torch.manual_seed(0)
    model = hf.LlamaModel(hf.LlamaConfig(**GROUPED))
    state = {name: one.clone() for name, one in model.state_dict().items()}
    for name in state:
        if "layernorm" in name:
            state[name] = state[name].normal_().abs()
    folded = dict(state)
    for name, norm in front_norms(lfmlib.open_checkpoint(state)).items():
        folded[name] = state[name] * state[norm]
        folded[norm] = torch.ones(16)
    with_gain, without = (profiles(lfmlib.open_checkpoint(one)) for one in (state, folded))
    assert with_gain.keys() == {"q", "k", "v", "gate", "up"}
    for role, one in with_gain.items():
        np.testing.assert_allclose(one, without[role], atol=1e-5)


def test_profiles_are_of_one_tower_and_of_its_own_stream():
    torch.manual_seed(0)
    checkpoint = lfmlib.open_checkpoint(FAMILIES["whisper"][0]())
    assert towers(checkpoint) == ["decoder", "encoder"]
    read = {tower: profiles(checkpoint, tower=tower) for tower in towers(checkpoint)}
    own = checkpoint.read("decoder.layers.1.self_attn.v_proj.weight").double().norm(dim=0)
    np.testing.assert_allclose(read["decoder"]["v"].loc[1], own.log(), atol=1e-6)  # not cross-attention’s
    assert set(read["encoder"]) == {"q", "k", "v", "up"}


def test_without_its_norms_nothing_is_said_of_a_model():
    checkpoint = lfmlib.open_checkpoint("minilm", select="query|key")
    with pytest.raises(ValueError, match="no norm is among the tensors"):
        profiles(checkpoint)
