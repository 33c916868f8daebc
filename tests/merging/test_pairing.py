"""Pairs of checkpoints whose names differ: the same table, the same overlap and the same merge as with plain names."""

import re
import warnings

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import lfmlib
from lfmlib.checkpoints.names import matched, plain
from lfmlib.deltas.comparison import delta

EXPERTS = 3


def made(seed: int) -> dict[str, torch.Tensor]:
    """A layer of attention, one of experts, and a tower that sees."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (80, 64),
        "model.layers.0.self_attn.q_proj.weight": (128, 64),
        "model.layers.0.self_attn.k_proj.weight": (64, 64),
        "model.layers.0.self_attn.v_proj.weight": (64, 64),
        "model.layers.0.self_attn.q_proj.bias": (128,),
        "model.layers.0.self_attn.k_proj.bias": (64,),
        "model.layers.0.self_attn.v_proj.bias": (64,),
        "model.layers.0.self_attn.o_proj.weight": (64, 128),
        "model.layers.0.input_layernorm.weight": (64,),
        **{
            f"model.layers.0.mlp.experts.{i}.{name}_proj.weight": (96, 64) if name != "down" else (64, 96)
            for i in range(EXPERTS)
            for name in ("gate", "up", "down")
        },
        "model.layers.0.mlp.gate.weight": (EXPERTS, 64),
        "visual.blocks.0.attn.proj.weight": (64, 64),
        "visual.blocks.0.norm1.bias": (64,),
        "lm_head.weight": (80, 64),
    }
    return {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def renamed(pattern: str, words: str):
    return lambda some: {re.sub(pattern, words, name): w for name, w in some.items()}


def wrapped(some):
    return renamed(r"layers\.0\.", "layers.0._checkpoint_wrapped_module.")(renamed(r"^", "_orig_mod.")(some))


def fsdp(some):
    return renamed(r"(self_attn|mlp)\.", r"_fsdp_wrapped_module.\1.")(renamed(r"^", "module.")(some))


def towers(some):
    return renamed(r"^visual", "model.visual")(renamed(r"^model\.", "model.language_model.")(some))


def fused_attention(some, *, name="qkv_proj", groups=1, order="qkv"):
    """q, k and v as one, in so many groups of rows, in some order."""
    found, home = {}, "model.layers.0.self_attn"
    for key, w in some.items():
        if ".q_proj." in key:
            three = [some[key.replace("q_proj", f"{one}_proj")] for one in order]
            parts = [one.unflatten(0, (groups, -1)) for one in three]
            found[f"{home}.{name}.{key.rpartition('.')[2]}"] = torch.cat(parts, 1).flatten(0, 1).contiguous()
        elif ".k_proj." not in key and ".v_proj." not in key:
            found[key] = w
    return found


def stacked(some, *, turned=False, apart=False, interleaved=False):
    """Experts as stacks of gate_up and down."""
    stacks = {
        name: torch.stack([some[f"model.layers.0.mlp.experts.{i}.{name}_proj.weight"] for i in range(EXPERTS)])
        for name in ("gate", "up", "down")
    }
    if not apart:
        gate, up = stacks.pop("gate"), stacks.pop("up")
        both = torch.stack([gate, up], 2).flatten(1, 2) if interleaved else torch.cat([gate, up], 1)
        stacks = {"gate_up": both} | stacks
    if turned:
        stacks = {name: w.transpose(1, 2).contiguous() for name, w in stacks.items()}
    found = {}
    for key, w in some.items():
        if ".experts." not in key:
            found[key] = w
        elif key.endswith("experts.0.gate_proj.weight"):
            found |= {f"model.layers.0.mlp.experts.{name}_proj": w for name, w in stacks.items()}
    return found


#: what differs → how a checkpoint is written so
NAMES = {
    "wrappers inside": wrapped,
    "FSDP and data parallel": fsdp,
    "a wrapper of peft": renamed(r"^", "base_model.model."),
    "a renaming for each tower": towers,
    "towers and wrappers": lambda some: wrapped(towers(some)),
    "q, k, v fused": fused_attention,
    "q, k, v fused by head": lambda some: fused_attention(some, name="query_key_value", groups=4),
    "q, k, v fused, Baichuan": lambda some: fused_attention(some, name="W_pack"),
    "q, k, v fused, InternLM2": lambda some: renamed("self_attn", "attention")(
        fused_attention(some, name="wqkv", groups=2)
    ),
    "q, k, v fused as k, q, v": lambda some: fused_attention(some, order="kqv"),
    "q, k, v fused by head as v, k, q": lambda some: fused_attention(some, groups=4, order="vkq"),
    "experts fused": stacked,
    "experts fused, (in, out)": lambda some: stacked(some, turned=True),
    "experts fused, interleaved": lambda some: stacked(some, turned=True, interleaved=True),
    "experts stacked": lambda some: stacked(some, apart=True),
    "experts stacked, (in, out)": lambda some: stacked(some, apart=True, turned=True),
    "Mixtral's names": lambda some: renamed(r"mlp\.", "block_sparse_moe.")(
        renamed("gate_proj", "w1")(renamed("up_proj", "w3")(renamed("down_proj", "w2")(some)))
    ),
    "gamma and beta": lambda some: renamed(r"(layernorm)\.weight", r"\1.gamma")(
        renamed(r"(norm1)\.bias", r"\1.beta")(some)
    ),
    "all at once": lambda some: wrapped(towers(stacked(fused_attention(some)))),
}


@pytest.fixture(scope="module")
def pair() -> tuple[dict, dict]:
    base, noise = made(0), made(1)
    return base, {name: w + 0.1 * noise[name] for name, w in base.items()}


@pytest.fixture(scope="module")
def expected(pair) -> pd.DataFrame:
    table = lfmlib.compare(*pair, progress=False)
    assert len(table) == 17 and not table.attrs["skipped"].keys() & {"lm_head.weight"}
    return table


@pytest.mark.parametrize(
    ("name", "side"), [*((name, "tuned") for name in NAMES), ("towers and wrappers", "base"), ("all at once", "base")]
)
def test_compare_says_the_same_whatever_the_names(pair, expected, name, side):
    base, tuned = pair
    base, tuned = (NAMES[name](base), tuned) if side == "base" else (base, NAMES[name](tuned))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lfmlib.compare(base, tuned, progress=False)
    names = "tensor" if side == "base" else "base_tensor"
    found, table = (
        one.set_index(names).drop(columns=["tensor", "base_tensor"], errors="ignore") for one in (found, expected)
    )
    assert set(found.index) == set(table.index)
    pd.testing.assert_frame_equal(found.loc[table.index], table, rtol=1e-6, check_names=False)


@pytest.mark.parametrize("side", ["base", "tuned"])
@pytest.mark.parametrize("name", NAMES)
def test_merge_says_the_same_whatever_the_names(pair, tmp_path, name, side):
    base, tuned = pair
    if side == "base":
        out = lfmlib.merge(NAMES[name](base), [tuned, tuned], "average", out=tmp_path / "out", progress=False)
        wanted = NAMES[name](tuned)
    else:
        out = lfmlib.merge(base, [NAMES[name](tuned)] * 2, "average", out=tmp_path / "out", progress=False)
        wanted = tuned
    found = load_file(out / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[key], wanted[key], atol=1e-7) for key in wanted)


def test_overlap_says_the_same_whatever_the_names(pair):
    base, tuned = pair
    others = [tuned, NAMES["all at once"](tuned)]
    tables = [lfmlib.overlap(base, [one], select=r"k_proj|experts\.1\.up|visual", progress=False) for one in others]
    assert len(tables[0]) == 3
    pd.testing.assert_frame_equal(*tables, rtol=1e-5)


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_fused_tensor_in_no_order_that_is_known_is_left_out_and_merged_by_nobody(pair, tmp_path, side):
    name = "model.layers.0.self_attn.qkv_proj.weight"
    some = {"base": pair[0], "tuned": pair[1]}
    mixed = fused_attention(some[side])
    mixed[name] = mixed[name][torch.randperm(len(mixed[name]), generator=torch.Generator().manual_seed(0))]
    both = some | {side: mixed}
    with pytest.warns(UserWarning, match=r"fused, in an order that is not known: however q, k, v are cut out of it"):
        table = lfmlib.compare(*both.values(), progress=False)
    assert len(table) == 14 and "Split it first" in table.attrs["skipped"][name]
    with pytest.raises(lfmlib.CheckpointError, match=r"cannot be added: fused, in an order that is not known"):
        lfmlib.merge(both["base"], [both["tuned"]], "average", out=tmp_path / "out", progress=False)


def test_two_fused_checkpoints_are_compared_as_they_are_stored(pair):
    base, tuned = (fused_attention(some) for some in pair)
    table = lfmlib.compare(base, tuned, select="qkv_proj", progress=False)
    assert table["tensor"].tolist() == ["model.layers.0.self_attn.qkv_proj.weight"] and table["moved"].item() < 0.12


def test_the_delta_of_a_part_of_a_fused_matrix(pair):
    base, tuned = pair
    name = "model.layers.0.self_attn.qkv_proj.weight[k]"
    plain = "model.layers.0.self_attn.k_proj.weight"
    assert torch.equal(delta(base, fused_attention(tuned), name), tuned[plain] - base[plain])


def test_what_only_looks_like_a_renaming_is_no_pair(pair):
    """The dense layer of a head of classes ends in the same words as that of a head of words, and is another."""
    base, tuned = ({f"roberta.{name}": w for name, w in some.items() if "layers" in name} for some in pair)
    generator = torch.Generator().manual_seed(7)
    base |= {"lm_head.dense.weight": torch.randn(64, 64, generator=generator), "lm_head.dense.bias": torch.ones(64)}
    tuned |= {
        "classifier.dense.weight": torch.randn(64, 64, generator=generator),
        "classifier.dense.bias": torch.ones(64),
    }
    table = lfmlib.compare(base, tuned, progress=False)
    assert table.attrs["skipped"]["classifier.dense.weight"] == "only in the tuned model (mapping)"
    assert table.attrs["skipped"]["lm_head.dense.weight"] == "only in the base (mapping)"


HEAD = {
    "cls.predictions.transform.dense.weight": (64, 64),
    "cls.predictions.transform.dense.bias": (64,),
    "cls.predictions.bias": (80,),
    "cls.seq_relationship.weight": (2, 64),
}


DROPPED = {
    "a head of words": HEAD,
    "what foretells": {"mtp.layers.0.eh.weight": (64, 64)},
    "a tower": {"decoder.layers.0.q.weight": (64, 64)},
    "a layer that foretells": {"model.layers.1.eh_proj.weight": (64, 64), "model.layers.1.mlp.up.weight": (9, 64)},
}


@pytest.mark.parametrize("names", DROPPED.values(), ids=DROPPED)
def test_heads_that_fine_tuning_drops_stay_as_they_are(pair, tmp_path, names):
    base, tuned = pair
    base = base | {name: torch.randn(shape) for name, shape in names.items()}
    tuned = tuned | {"classifier.weight": torch.randn(3, 64), "classifier.bias": torch.zeros(3)}
    message = rf"{len(names)} tensors of mapping are not in mapping, and stay as they are: {next(iter(names))}"
    with pytest.warns(UserWarning, match=message), pytest.warns(UserWarning, match="left out: classifier.weight"):
        out = lfmlib.merge(base, tuned, "average", out=tmp_path / "out", progress=False)
    found = load_file(out / "model.safetensors")
    assert found.keys() == base.keys()
    assert all(torch.equal(found[name], base[name]) for name in names)
    assert torch.allclose(found["lm_head.weight"], tuned["lm_head.weight"], atol=1e-7)
    with pytest.warns(UserWarning, match="stay as they are"):
        table = lfmlib.overlap(base, tuned, select=r"lm_head|cls|mtp|eh_proj|decoder", progress=False)
    for name, shape in names.items():
        if len(shape) == 2 and shape[0] * shape[1] >= 4096:
            assert table.attrs["skipped"][name] == "only in the base (mapping)"


def test_rows_that_are_missing_are_told(pair):
    base, tuned = pair
    short = {name: w for name, w in tuned.items() if "experts.1" not in name and name != "lm_head.weight"}
    with pytest.warns(UserWarning, match=r"3 matrices have no row.*experts\.1\.gate_proj\.weight: only in the base"):
        table = lfmlib.compare(base, short, select="experts|lm_head", progress=False)
    assert len(table) == 6 and table.attrs["skipped"]["lm_head.weight"] == "only in the base (mapping)"


def test_half_a_layer_is_no_model(pair, tmp_path):
    base, tuned = pair
    short = {name: w for name, w in tuned.items() if "v_proj" not in name}
    with pytest.raises(
        ValueError, match=r"lacks 2 of the 22 tensors of mapping, such as model\.layers\.0\.self_attn\.v"
    ):
        lfmlib.merge(base, short, out=tmp_path / "out", progress=False)


def test_names_without_wrappers():
    assert plain("module._fsdp_wrapped_module.layers.3._checkpoint_wrapped_module.mlp.up_proj.weight") == (
        "layers.3.mlp.up_proj.weight"
    )
    assert plain("score.modules_to_save.default.weight") == "score.weight"
    assert plain("embeddings.LayerNorm.gamma") == "embeddings.LayerNorm.weight"
    assert plain("layer_scale.gamma") == "layer_scale.gamma" and plain("submodule.weight") == "submodule.weight"
    both = {"a.module.weight": (3,), "a.weight": (3,)}  # names that would be one stay apart
    assert matched(both, both) == {name: name for name in both}
