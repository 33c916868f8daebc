"""Roles, depths and splits, on tiny models that transformers builds, in memory and saved to a folder."""

import itertools
from collections import Counter

import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lfmlib.checkpoints.checkpoint import open_checkpoint
from lfmlib.checkpoints.roles import depth_and_tower, logical_parts, role_of

LAYERS = 2
BERT_LIKE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
LLAMA_LIKE = BERT_LIKE | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
GPT_LIKE = {"vocab_size": 50, "n_embd": 16, "n_layer": LAYERS, "n_head": 2, "n_positions": 20}
IMAGE = {"image_size": 8, "patch_size": 4, "num_labels": 3}


def t5(**options):
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": LAYERS, "num_heads": 2}
    return hf.T5ForConditionalGeneration(hf.T5Config(**sizes, **options))


def clip():
    tower = BERT_LIKE | {"projection_dim": 8}
    return hf.CLIPModel(hf.CLIPConfig(text_config=tower, vision_config=tower | IMAGE, projection_dim=8))


def opt():
    options = {"word_embed_proj_dim": 16, "ffn_dim": 24}
    return hf.OPTForCausalLM(hf.OPTConfig(**BERT_LIKE, **options))


CROSS = ["q", "k", "v", "o"]
PLAIN, GATED = [*CROSS, "up", "down"], [*CROSS, "gate", "up", "down"]
EXPERTS = [*CROSS, "router", *["gate", "up", "down"] * 3]

# name → (model, roles of the matrices of each layer (of each tower), roles of the tensors outside layers)
FAMILIES = {
    "bert": (lambda: hf.BertModel(hf.BertConfig(**BERT_LIKE)), PLAIN, "embed embed embed pooler"),
    "bert_mlm": (lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT_LIKE)), PLAIN, "embed embed embed head"),
    "gpt2": (lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT_LIKE)), PLAIN, "embed embed"),
    "gpt_bigcode": (lambda: hf.GPTBigCodeForCausalLM(hf.GPTBigCodeConfig(**GPT_LIKE)), PLAIN, "embed embed"),
    "llama": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA_LIKE)), GATED, "embed head"),
    "llama_tied": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA_LIKE, tie_word_embeddings=True)),
        GATED,
        "embed",
    ),
    "mistral": (lambda: hf.MistralForCausalLM(hf.MistralConfig(**LLAMA_LIKE)), GATED, "embed head"),
    "qwen2": (lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**LLAMA_LIKE)), GATED, "embed head"),
    "qwen3": (lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**LLAMA_LIKE)), GATED, "embed head"),
    "phi3": (lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**LLAMA_LIKE, pad_token_id=0)), GATED, "embed head"),
    "pythia": (lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**BERT_LIKE)), PLAIN, "embed head"),
    "opt": (opt, PLAIN, "embed embed"),
    "t5": (lambda: t5(), PLAIN, "embed"),
    "t5_gated": (lambda: t5(feed_forward_proj="gated-gelu"), GATED, "embed"),
    "vit": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**BERT_LIKE, **IMAGE)), PLAIN, "embed embed conv head"),
    "clip": (clip, PLAIN, "conv embed embed embed embed head head"),
    "mixtral": (
        lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**LLAMA_LIKE, num_local_experts=3)),
        EXPERTS,
        "embed head",
    ),
    "qwen3_moe": (
        lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**LLAMA_LIKE, num_experts=3, moe_intermediate_size=12)),
        EXPERTS,
        "embed head",
    ),
    "bloom": (
        lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=50, hidden_size=16, n_layer=LAYERS, n_head=2)),
        PLAIN,
        "embed",
    ),
    "falcon": (lambda: hf.FalconForCausalLM(hf.FalconConfig(**BERT_LIKE)), PLAIN, "embed"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """name → (module, folder it was saved to); each built once, weights drawn so that no two are equal."""
    cache = {}

    def build(name):
        if name not in cache:
            torch.manual_seed(0)
            model = FAMILIES[name][0]().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_()
                for key, parameter in model.named_parameters():
                    parameter.zero_() if key.endswith("bias") else None
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            cache[name] = model, folder
        return cache[name]

    return build


@pytest.mark.parametrize("place", ["module", "folder"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families(built, name, place):
    model, folder = built(name)
    _, inside, outside = FAMILIES[name]
    ckpt = open_checkpoint(model if place == "module" else folder)

    towers = sorted({info.tower for info in ckpt.tensors if info.depth is not None})
    expected_towers = {"clip": ["text", "vision"], "t5": ["decoder", "encoder"], "t5_gated": ["decoder", "encoder"]}
    assert towers == expected_towers.get(name, [""])
    for tower, depth in itertools.product(towers, range(LAYERS)):
        here = [info for info in ckpt.tensors if (info.tower, info.depth) == (tower, depth) and len(info.shape) == 2]
        table = ["embed"] if name.startswith("t5") and depth == 0 else []  # of relative positions
        cross = CROSS if name.startswith("t5") and tower == "decoder" else []
        assert Counter(info.role for info in here) == Counter(inside + cross + table), (tower, depth)
        for info in here:
            rows, columns = info.shape
            if info.role in ("gate", "up"):
                assert rows in (12, 24, 64) and columns == 16, info
            if info.role == "down":
                assert rows == 16 and columns in (12, 24, 64), info
    around = [info.role for info in ckpt.tensors if info.depth is None and info.role not in ("norm", "bias", "other")]
    assert sorted(around) == sorted(outside.split())
    assert {info.depth for info in ckpt.tensors} == {None, *range(LAYERS)}

    # Vectors, and nothing left unknown but CLIP's temperature.
    assert all(len(info.shape) == 1 for info in ckpt.tensors if info.role in ("norm", "bias"))
    assert [info.name for info in ckpt.tensors if info.role == "other"] == (["logit_scale"] if name == "clip" else [])
    # Every value once, however stored: ties, splits and stacks neither lose nor repeat one.
    assert sum(info.numel for info in ckpt.tensors) == sum(parameter.numel() for parameter in model.parameters())
    for info in ckpt.tensors:
        read, chunks = ckpt.read(info.name), list(ckpt.chunks(info.name, bytes=100))
        assert tuple(read.shape) == info.shape and info.numel == read.numel()
        assert torch.equal(torch.cat(chunks).sort().values, read.flatten().sort().values), info.name


def captured(model, name):
    """What reaches the attention of layer 0 at position 0, where rotary embeddings turn nothing: x, (q, k, v)."""
    seen = {}

    def attention(module, query, key, value, *args, **kwargs):
        if "qkv" not in seen:
            seen["qkv"] = [states[0, :, 0].flatten() for states in (query, key, value)]
        groups = query.shape[1] // value.shape[1]
        return value.repeat_interleave(groups, 1).transpose(1, 2), None

    hf.AttentionInterface.register("capture", attention)
    fused = next(module for key, module in model.named_modules() if key.endswith(name))
    hook = fused.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0][0, 0]) if not seen else None)
    model.set_attn_implementation("capture")
    with torch.no_grad():
        model(torch.tensor([[3, 1, 4]]), use_cache=False)
    hook.remove()
    return seen["x"], seen["qkv"]


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("gpt2", "h.0.attn.c_attn"),
        ("pythia", "layers.0.attention.query_key_value"),
        ("phi3", "layers.0.self_attn.qkv_proj"),
        ("gpt_bigcode", "h.0.attn.c_attn"),
    ],
)
@pytest.mark.parametrize("place", ["module", "folder"])
def test_split_attention_is_what_the_model_computes_with(built, name, fused, place):
    model, folder = built(name)
    x, computed = captured(model, fused)
    ckpt = open_checkpoint(model if place == "module" else folder)
    stored = next(key for key in model.state_dict() if key.endswith(f"{fused}.weight"))
    for role, expected in zip("qkv", computed, strict=True):
        torch.testing.assert_close(ckpt.read(f"{stored}[{role}]") @ x, expected)


@pytest.mark.parametrize("kind", ["bloom", "falcon", "falcon_new", "falcon_heads"])
def test_split_attention_by_the_models_own_functions(kind):
    torch.manual_seed(0)
    if kind == "bloom":
        model = hf.BloomModel(hf.BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=4))
        split = model.h[0].self_attention._reshape
    else:
        options = {
            "falcon": {"multi_query": True},
            "falcon_new": {"new_decoder_architecture": True, "num_kv_heads": 2},
            "falcon_heads": {"multi_query": False},
        }[kind]
        options |= {"num_attention_heads": 4, "num_hidden_layers": 1}
        model = hf.FalconModel(hf.FalconConfig(vocab_size=50, hidden_size=16, **options))
        split = model.h[0].self_attention._split_heads
    weight = model.h[0].self_attention.query_key_value.weight
    x = torch.randn(16)
    ckpt = open_checkpoint(model)
    for role, heads in zip("qkv", split((weight @ x)[None, None]), strict=True):
        ours = ckpt.read(f"h.0.self_attention.query_key_value.weight[{role}]") @ x
        theirs = heads.detach().flatten()
        if kind == "falcon_new" and role != "q":  # the model repeats keys and values for the queries of a group
            theirs = heads.detach().reshape(2, 2, 4)[:, 0].flatten()
        torch.testing.assert_close(ours, theirs)


def test_gpt2_split_is_the_modules_own_slices(built):
    model, folder = built("gpt2")
    layer = model.transformer.h[1]
    for source in (model, folder):
        ckpt = open_checkpoint(source)
        fused, slices = "transformer.h.1.attn.c_attn.weight", layer.attn.c_attn.weight.split(16, dim=1)
        for role, values in zip("qkv", slices, strict=True):
            assert torch.equal(ckpt.read(f"{fused}[{role}]"), values.t())
        assert torch.equal(ckpt.read(fused), layer.attn.c_attn.weight), "the stored name gives the stored tensor"
        assert torch.equal(ckpt.read("transformer.h.1.attn.c_proj.weight"), layer.attn.c_proj.weight.t())
        assert torch.equal(ckpt.read("transformer.h.1.mlp.c_fc.weight"), layer.mlp.c_fc.weight.t())
        assert [info.name for info in open_checkpoint(source, select=r"h\.1.*\[k\]").tensors] == [f"{fused}[k]"]


def test_expert_stacks_are_the_experts_saved_one_by_one(built):
    model, folder = built("mixtral")
    stacked, single = open_checkpoint(model), open_checkpoint(folder)
    for expert, (ours, theirs) in itertools.product(
        range(3), [("gate_up_proj[{}][gate]", "w1"), ("gate_up_proj[{}][up]", "w3"), ("down_proj[{}]", "w2")]
    ):
        a = stacked.read("model.layers.1.mlp.experts." + ours.format(expert))
        b = single.read(f"model.layers.1.block_sparse_moe.experts.{expert}.{theirs}.weight")
        assert torch.equal(a, b)
    assert stacked.read("model.layers.1.mlp.experts.gate_up_proj").shape == (3, 48, 16)


def test_phi3_gate_and_up(built):
    model, _ = built("phi3")
    gate, up = model.model.layers[0].mlp.gate_up_proj.weight.chunk(2)
    ckpt = open_checkpoint(model)
    assert torch.equal(ckpt.read("model.layers.0.mlp.gate_up_proj.weight[gate]"), gate)
    assert torch.equal(ckpt.read("model.layers.0.mlp.gate_up_proj.weight[up]"), up)


def test_tied_heads_are_reported(built):
    for name, dropped in [("gpt2", 1), ("opt", 1), ("t5", 3), ("llama", 0), ("llama_tied", 1), ("bert_mlm", 2)]:
        model, _ = built(name)
        skipped = open_checkpoint(model).skipped
        tied = [key for key, reason in skipped.items() if reason.startswith("tied to ")]
        assert len(tied) == dropped, (name, skipped)


# --- layouts by shapes alone ------------------------------------------------------------------------------------------


def logical(shapes, config=None):
    return {part.name: (part.role, part.shape) for part in logical_parts(shapes, config)}


def test_without_a_config_uncertain_layouts_stay_whole():
    neox = {"layers.0.attention.query_key_value.weight": (48, 16)}
    assert logical(neox) == {"layers.0.attention.query_key_value.weight": ("qkv", (48, 16))}
    wrong = {"model_type": "gpt_neox", "num_attention_heads": 5}
    assert logical(neox, wrong) == logical(neox), "a config that does not fit the shape splits nothing"
    codegen = {"transformer.h.0.attn.qkv_proj.weight": (48, 16)}
    config = {"model_type": "codegen", "n_head": 2}
    assert logical(codegen, config) == {"transformer.h.0.attn.qkv_proj.weight": ("qkv", (48, 16))}
    phi = {"model.layers.0.mlp.gate_up_proj.weight": (64, 16)}
    assert logical(phi) == {"model.layers.0.mlp.gate_up_proj.weight": ("gate_up", (64, 16))}


def test_conv1d_is_told_by_the_bias_and_not_by_the_name():
    def block(c_attn, c_proj, c_fc, down, bias=True):
        matrices = {"attn.c_attn": c_attn, "attn.c_proj": c_proj, "mlp.c_fc": c_fc, "mlp.c_proj": down}
        out = {"attn.c_attn": 48, "attn.c_proj": 16, "mlp.c_fc": 64, "mlp.c_proj": 16}
        weights = {f"h.0.{name}.weight": shape for name, shape in matrices.items()}
        return weights | ({f"h.0.{name}.bias": (out[name],) for name in matrices} if bias else {})

    conv1d = logical_parts(block((16, 48), (16, 16), (16, 64), (64, 16)))
    assert all(part.transposed for part in conv1d if part.role != "bias")
    assert [part.shape for part in conv1d[:6]] == [(16, 16)] * 4 + [(64, 16), (16, 64)]
    for bias in (True, False):  # GPTBigCode and nanoGPT: Linear under the same names
        linear = logical_parts(block((48, 16), (16, 16), (64, 16), (16, 64), bias=bias))
        assert not any(part.transposed for part in linear)
        assert [part.role for part in linear[:4]] == ["qkv", "o", "up", "down"], "thirds or heads: not certain"
    # open_clip: c_fc and c_proj are Linear beside a fused in_proj_weight.
    resblock = {
        "visual.transformer.resblocks.0.attn.in_proj_weight": (48, 16),
        "visual.transformer.resblocks.0.mlp.c_fc.weight": (64, 16),
        "visual.transformer.resblocks.0.mlp.c_fc.bias": (64,),
        "visual.transformer.resblocks.0.mlp.c_proj.weight": (16, 64),
    }
    found = logical_parts(resblock)
    assert [part.role for part in found] == ["q", "k", "v", "up", "bias", "down"]
    assert {part.depth for part in found} == {0} and not any(part.transposed for part in found)


def test_what_is_known_to_have_its_inputs_first_is_transposed_whatever_its_name():
    shapes = {"h.0.attn.c_attn.weight": (48, 16), "layers.0.q_proj.weight": (8, 4), "x_exps.weight": (2, 6, 4)}
    found = {part.name: part for part in logical_parts(shapes, {}, shapes)}
    assert all(part.transposed for part in found.values())
    assert [found[f"h.0.attn.c_attn.weight[{role}]"].start for role in "qkv"] == [0, 16, 32]
    assert found["layers.0.q_proj.weight"].shape == (8, 4) and found["x_exps.weight[1]"].shape == (6, 4)
    (whole,) = logical_parts({"h.0.attn.c_attn.weight": (48, 16)}, {"model_type": "gpt_bigcode"}, shapes)
    assert whole.role == "qkv"  # whose rows are those of a head after the other


def test_timm_attention_is_split_in_thirds():
    found = logical({"blocks.3.attn.qkv.weight": (48, 16), "blocks.3.attn.proj.weight": (16, 16)})
    assert [role for role, _ in found.values()] == ["q", "k", "v", "o"]
    assert next(iter(found)) == "blocks.3.attn.qkv.weight[q]"


def test_transposed_expert_stacks():
    llama4 = {
        "layers.0.feed_forward.experts.gate_up_proj": (2, 16, 24),
        "layers.0.feed_forward.experts.down_proj": (2, 12, 16),
    }
    found = logical(llama4, {"model_type": "llama4", "text_config": {"model_type": "llama4_text"}})
    assert found["layers.0.feed_forward.experts.gate_up_proj[1][up]"] == ("up", (12, 16))
    assert found["layers.0.feed_forward.experts.down_proj[0]"] == ("down", (16, 12))
    interleaved = logical(llama4, {"model_type": "gpt_oss"})
    assert interleaved["layers.0.feed_forward.experts.gate_up_proj[0][gate]"] == ("gate", (12, 16))
    alone = {"experts.down_proj": (2, 12, 16)}
    assert logical(alone) == {"experts.down_proj": ("down", (2, 12, 16))}
    stack = torch.randn(2, 16, 24)
    ckpt = open_checkpoint({"experts.gate_up_proj": stack, "experts.down_proj": torch.randn(2, 12, 16)})
    assert torch.equal(ckpt.read("experts.gate_up_proj[1]"), stack[1].t())


def test_gpt_oss_interleaves_gate_and_up(tmp_path):
    stack, down = torch.randn(2, 16, 24), torch.randn(2, 12, 16)
    tensors = {"layers.0.mlp.experts.gate_up_proj": stack, "layers.0.mlp.experts.down_proj": down}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss"}', encoding="utf-8")
    ckpt = open_checkpoint(tmp_path)
    name = "layers.0.mlp.experts.gate_up_proj[1]"
    assert torch.equal(ckpt.read(f"{name}[gate]"), stack[1, :, 0::2].t())
    assert torch.equal(torch.cat([*ckpt.chunks(f"{name}[up]", bytes=40)]), stack[1, :, 1::2].flatten())


def test_names_of_llama_cpp():
    found = logical(
        {
            "token_embd.weight": (50, 16),
            "blk.2.attn_q.weight": (16, 16),
            "blk.2.attn_output.weight": (16, 16),
            "blk.2.attn_norm.weight": (16,),
            "blk.2.ffn_gate_inp.weight": (2, 16),
            "blk.2.ffn_gate_exps.weight": (2, 24, 16),
            "blk.2.ffn_down_exps.weight": (2, 16, 24),
            "output.weight": (50, 16),
        }
    )
    roles = [role for role, _ in found.values()]
    assert roles == ["embed", "q", "o", "norm", "router", "gate", "gate", "down", "down", "head"]
    assert found["blk.2.ffn_down_exps.weight[1]"] == ("down", (16, 24))
    assert depth_and_tower("blk.2.attn_q.weight") == (2, "")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("layers.0.attention.wq.weight", (4, 4), "q"),
        ("layers.0.attention.wo.weight", (4, 4), "o"),
        ("tok_embeddings.weight", (4, 4), "embed"),
        ("output.weight", (4, 4), "head"),
        ("transformer.layer.0.attention.out_lin.weight", (4, 4), "o"),
        ("model.layers.0.self_attn.q_proj.base_layer.weight", (4, 4), "q"),
        ("conv1.weight", (4, 3, 7, 7), "conv"),
        ("encoder.conv1.weight", (4, 3, 3), "conv"),
        ("encoder.layers.0.norm1.weight", (4,), "norm"),
        ("transformer.h.0.ln_1.weight", (4,), "norm"),
        ("transformer.ln_f.bias", (4,), "bias"),
        ("bert.encoder.layer.0.attention.output.LayerNorm.weight", (4,), "norm"),
        ("pos_embed", (1, 5, 4), "embed"),
        # ALBERT, ELECTRA, DeBERTa, wav2vec 2.0, Conformer, XLNet, ViTMAE, Mamba, MobileBERT, OPT
        ("albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight", (8, 4), "up"),
        ("albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight", (4, 8), "down"),
        ("albert.encoder.albert_layer_groups.0.albert_layers.0.attention.dense.weight", (4, 4), "o"),
        ("albert.encoder.embedding_hidden_mapping_in.weight", (4, 2), "embed"),
        ("albert.pooler.weight", (4, 4), "pooler"),
        ("predictions.dense.weight", (2, 4), "head"),
        ("electra.embeddings_project.weight", (4, 2), "embed"),
        ("discriminator_predictions.dense_prediction.weight", (1, 4), "head"),
        ("deberta.encoder.layer.0.attention.self.query_proj.weight", (4, 4), "q"),
        ("deberta.encoder.layer.0.attention.self.pos_key_proj.weight", (4, 4), "other"),
        ("encoder.layers.0.feed_forward.intermediate_dense.weight", (8, 4), "up"),
        ("encoder.layers.0.ffn2.output_dense.weight", (4, 8), "down"),
        ("encoder.layers.0.self_attn.linear_q.weight", (4, 4), "q"),
        ("encoder.layers.0.self_attn.linear_out.weight", (4, 4), "o"),
        ("layer.0.ff.layer_1.weight", (8, 4), "up"),
        ("decoder.decoder_layers.0.mlp.fc2.weight", (4, 8), "down"),
        ("decoder.decoder_pred.weight", (4, 4), "head"),
        ("backbone.embeddings.weight", (50, 4), "embed"),
        ("encoder.layer.0.ffn.1.output.dense.weight", (4, 8), "down"),
        ("model.decoder.project_in.weight", (4, 2), "embed"),
        # norms and kernels that are stored as matrices
        ("model.layers.0.self_attn.q_norm.weight", (64, 128), "norm"),
        ("blk.0.attn_k_norm.weight", (8, 64), "norm"),
        ("blk.0.ssm_conv1d.weight", (512, 4), "conv"),
        ("blk.0.shortconv.conv.weight", (1024, 3), "conv"),
        ("conv_proj.weight", (64, 64), "other"),
        ("stages.0.blocks.0.dwconv.weight", (64, 49), "conv"),
        ("stages.0.blocks.0.dwconv", (64, 1, 7), "conv"),
        ("encoder.layers.0.conv.depthwise.weight", (64, 1, 31), "conv"),
        ("encoder.layers.0.conv.depthwise_conv.weight", (64, 31), "conv"),
        ("blocks.0.conv_dw.weight", (64, 25), "conv"),
        ("transformer.h.0.ln_1.weight", (4, 64), "norm"),
        ("visual.ln_post.weight", (4, 64), "norm"),
        ("layers.0.self_attn.norm_q.weight", (4, 64), "norm"),
        ("features.bn1.weight", (4, 64), "norm"),
        ("encoder.layer.0.output.LayerNorm.weight", (4, 64), "norm"),
        ("encoder.LayerNorm_0.scale", (64,), "norm"),
        ("blocks.0.q_norm.scale", (4, 64), "norm"),
        ("blocks.0.scale", (4, 64), "other"),
        ("blocks.0.norm_proj.weight", (64, 64), "other"),
        ("blocks.0.norm1.linear.weight", (64, 64), "other"),
        # looks like something, and is not, or not surely
        ("transformer.h.0.attn.bias", (1, 1, 8, 8), "other"),
        ("transformer.h.0.attn.masked_bias", (), "other"),
        ("layers.0.self_attn.rotary_emb.inv_freq", (4,), "other"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", (4, 4), "other"),
        ("fc1.weight", (4, 4), "other"),
        ("net.0.weight", (4, 4), "other"),
        ("w1.weight", (4, 4), "other"),
        ("decoder.layers.0.output.weight", (4, 4), "other"),
        ("mlp.gate.weight", (4, 4), "other"),
        ("model.layers.0.self_attn.q_proj.weight", (4,), "other"),
        ("transformer.h.0.crossattention.c_attn.weight", (4, 8), "other"),
        ("sampling.query_tokens", (1, 2, 4), "other"),
        ("dt_proj.weight", (4, 4), "other"),
    ],
)
def test_single_names(name, shape, role):
    assert role_of(name, {name: shape}) == role


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("encoder.layer.11.output.dense.weight", (11, "encoder")),
        ("decoder.block.3.layer.2.DenseReluDense.wo.weight", (3, "decoder")),
        ("vision_tower.vision_model.encoder.layers.7.mlp.fc1.weight", (7, "vision")),
        ("visual.transformer.resblocks.2.ln_1.weight", (2, "vision")),
        ("model.layers.4.mlp.experts.9.w1.weight", (4, "")),
        ("swin.encoder.layers.1.blocks.0.attention.self.query.weight", (None, "encoder")),
        ("albert.encoder.albert_layer_groups.1.albert_layers.0.ffn.weight", (1, "encoder")),
        ("decoder.decoder_layers.3.mlp.fc1.weight", (3, "decoder")),
        ("encoder.blocks.1.0.ffn.linear_1.weight", (None, "encoder")),
        ("net.3.weight", (None, "")),
        ("lm_head.weight", (None, "")),
    ],
)
def test_places(name, place):
    assert depth_and_tower(name) == place


def test_modernberts_fused_mlp_is_gate_above_up_where_the_shapes_say_so():
    fused = {
        "layers.0.mlp.Wi.weight": (48, 16),
        "layers.0.mlp.Wo.weight": (16, 24),
        "layers.0.attn.Wo.weight": (16, 16),
    }
    assert [role for role, _ in logical(fused, {"model_type": "modernbert"}).values()] == ["gate", "up", "down", "o"]
    assert [role for role, _ in logical(fused).values()] == ["gate_up", "down", "o"]
    plain = fused | {"layers.0.mlp.Wi.weight": (24, 16)}
    assert [role for role, _ in logical(plain).values()] == ["up", "down", "o"]


def test_albert_has_its_layer_and_no_row_of_its_matrices_is_unknown():
    config = hf.AlbertConfig(
        vocab_size=50, embedding_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=24
    )
    ckpt = open_checkpoint(hf.AlbertForPreTraining(config))
    matrices = {info.role: info.depth for info in ckpt.tensors if len(info.shape) == 2}
    assert matrices == dict.fromkeys([*"qkvo", "up", "down"], 0) | dict.fromkeys(["embed", "pooler", "head"])
    assert "1 layers" in repr(ckpt)


WORDS = [
    "weight",
    "bias",
    "attn",
    "mlp",
    "layers",
    "h",
    "0",
    "12",
    "c_attn",
    "qkv",
    "gate_up_proj",
    "experts",
    "norm",
    "w1",
]
NAMES = st.lists(st.sampled_from(WORDS) | st.text(min_size=1, max_size=6), min_size=1, max_size=6).map(".".join)


@given(st.dictionaries(NAMES, st.lists(st.integers(0, 6), max_size=4).map(tuple), max_size=6))
def test_any_names_and_shapes_give_every_value_once(shapes):
    tensors = {name: torch.arange(int(torch.tensor(shape).prod())).reshape(shape) for name, shape in shapes.items()}
    total = sorted(value for tensor in tensors.values() for value in tensor.flatten().tolist())
    found = logical_parts(shapes, {"num_attention_heads": 2, "model_type": "gpt_neox"})
    values = [part.from_stored(tensors[part.stored]) for part in found]
    assert [tuple(value.shape) for value in values] == [part.shape for part in found]
    assert sorted(item for value in values for item in value.flatten().tolist()) == total


@given(st.text(alphabet="abcxyz_.0123456789", max_size=30))
def test_unknown_words_are_other(name):
    assert role_of(f"{name}zz.weight", {f"{name}zz.weight": (4, 4)}) == "other"
