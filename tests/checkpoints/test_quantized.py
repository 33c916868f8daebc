"""Quantized weights come out as their own format's reference implementation gives them; what is unclear is refused."""

from __future__ import annotations

import json

import bitsandbytes.functional as bnb
import gguf
import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized import pack_to_int32
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import lfmlib
from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint

GENERATOR = torch.Generator().manual_seed(0)


def noise(*shape: int) -> torch.Tensor:
    return 0.02 * torch.randn(*shape, generator=GENERATOR)


def opened(tmp_path, tensors, config=None):
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config or {}), encoding="utf-8")
    return open_checkpoint(tmp_path)


def same_everywhere(checkpoint, name: str, expected: torch.Tensor) -> None:
    """Whole, in chunks that end inside a row, and by the survey."""
    info = next(one for one in checkpoint.tensors if one.name == name)
    assert (info.shape, info.dtype) == (tuple(expected.shape), "float32") and info.quantized
    assert torch.equal(checkpoint.read(name), expected.float())
    pieces = [*checkpoint.chunks(name, bytes=4 * (info.shape[-1] + 3))]
    assert len(pieces) > 1 and torch.equal(torch.cat(pieces), expected.float().flatten())
    row = lfmlib.survey(checkpoint, progress=False).set_index("tensor").loc[name]
    assert row["std"] == pytest.approx(float(expected.float().std(correction=0)), rel=1e-5)
    assert row["quantized"] == info.quantized


# --- float8 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale", ["weight_scale_inv", "weight_scale", "scale", "scale_weight"])
def test_float8_in_blocks(tmp_path, dtype, scale):
    codes = (50 * noise(256, 384)).to(dtype)
    scales = torch.rand(2, 3, generator=GENERATOR) + 0.5
    checkpoint = opened(tmp_path, {"layers.0.q_proj.weight": codes, f"layers.0.q_proj.{scale}": scales})
    theirs = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
    same_everywhere(checkpoint, "layers.0.q_proj.weight", theirs)
    assert checkpoint.skipped[f"layers.0.q_proj.{scale}"].startswith("a piece of layers.0.q_proj.weight")


def test_float8_in_blocks_that_do_not_come_out_even(tmp_path):
    codes, scales = (50 * noise(200, 300)).to(torch.float8_e4m3fn), torch.rand(2, 3, generator=GENERATOR)
    expected = codes.float() * scales.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :300]
    tensors = {"a.weight": codes, "a.weight_scale_inv": scales}
    same_everywhere(opened(tmp_path, tensors), "a.weight", expected)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    same_everywhere(opened(tmp_path, tensors, config), "a.weight", expected)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (96,), (96, 1)])
def test_float8_with_a_scale_for_the_tensor_or_for_each_row(tmp_path, shape):
    codes, scale = (50 * noise(96, 64)).to(torch.float8_e4m3fn), torch.rand(shape, generator=GENERATOR) + 0.5
    expected = codes.float() * scale.reshape(-1, 1)
    same_everywhere(opened(tmp_path, {"a.weight": codes, "a.weight_scale": scale}), "a.weight", expected)


def test_float8_with_powers_of_two(tmp_path):
    codes, power = (50 * noise(64, 64)).to(torch.float8_e4m3fn), torch.tensor([[120, 125]], dtype=torch.uint8)
    theirs = Fp8Dequantize(None)._dequantize_one(codes, power, torch.float32)
    same_everywhere(opened(tmp_path, {"a.weight": codes, "a.weight_scale": power}), "a.weight", theirs)
    power = power.view(torch.float8_e8m0fnu)
    same_everywhere(opened(tmp_path, {"a.weight": codes, "a.weight_scale": power}), "a.weight", theirs)


def test_float8_experts_in_a_stack(tmp_path):
    names = {"layers.0.mlp.experts.gate_up_proj": (4, 128, 64), "layers.0.mlp.experts.down_proj": (4, 64, 64)}
    tensors, expected = {}, {}
    for name, shape in names.items():
        codes = (50 * noise(*shape)).to(torch.float8_e4m3fn)
        scales = torch.rand(4, shape[1] // 32, 2, generator=GENERATOR)
        tensors |= {name: codes, f"{name}_scale_inv": scales}
        expected[name] = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
    checkpoint = opened(tmp_path, tensors)
    same_everywhere(checkpoint, "layers.0.mlp.experts.gate_up_proj[2][up]", expected[next(iter(names))][2, 64:])
    same_everywhere(checkpoint, "layers.0.mlp.experts.down_proj[3]", expected["layers.0.mlp.experts.down_proj"][3])


def test_float8_without_a_scale_where_none_is_spoken_of(tmp_path):
    codes = (50 * noise(64, 64)).to(torch.float8_e4m3fn)
    (info,) = opened(tmp_path, {"a.weight": codes}).tensors
    assert (info.dtype, info.quantized) == ("float8_e4m3fn", "")


@pytest.mark.parametrize(
    ("more", "config", "words"),
    [
        ({}, {"quantization_config": {"quant_method": "fp8"}}, "no scale lies beside it, and config.json says 'fp8'"),
        ({"a.weight_scale_of_2027": torch.ones(1)}, {}, "weight_scale_of_2027 is no name of a scale that is known"),
        (
            {"a.weight_scale_inv": torch.ones(7, 3)},
            {},
            r"scales of shape \(7, 3\) fit no blocks of a matrix \(64, 64\)",
        ),
    ],
)
def test_float8_with_an_unknown_scale_is_refused(tmp_path, more, config, words):
    tensors = {"a.weight": (50 * noise(64, 64)).to(torch.float8_e4m3fn), "b.weight": noise(8, 8), **more}
    checkpoint = opened(tmp_path, tensors, config)
    assert "a.weight" not in [info.name for info in checkpoint.tensors]
    with pytest.raises(ValueError, match=f"quantized, and not read: .*{words}"):
        checkpoint.read("a.weight")
    assert "a.weight" in lfmlib.survey(checkpoint, progress=False).attrs["skipped"]


# --- 4 bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_4_bits(tmp_path, kind, nested):
    values = noise(96, 128)
    packed, state = bnb.quantize_4bit(values, quant_type=kind, compress_statistics=nested, blocksize=64)
    tensors = {"layers.0.up_proj.weight": packed, "other.weight": noise(4, 4)}
    tensors |= {f"layers.0.up_proj.weight.{name}": one for name, one in state.as_dict(packed=True).items()}
    theirs = bnb.dequantize_4bit(packed, state)
    checkpoint = opened(tmp_path, tensors)
    found = checkpoint.read("layers.0.up_proj.weight")
    assert torch.allclose(found, theirs, rtol=1e-6, atol=1e-9)
    same_everywhere(checkpoint, "layers.0.up_proj.weight", found)
    assert {info.name: info.quantized[:3] for info in checkpoint.tensors} == {
        "layers.0.up_proj.weight": kind,
        "other.weight": "",
    }


def test_bitsandbytes_8_bits(tmp_path):
    values = noise(96, 128).half()
    codes, scales, _ = bnb.int8_vectorwise_quant(values)
    theirs = bnb.int8_vectorwise_dequant(codes, scales)
    checkpoint = opened(tmp_path, {"a.weight": codes, "a.SCB": scales, "a.weight_format": torch.tensor(0).byte()})
    found = checkpoint.read("a.weight")
    assert torch.allclose(found, theirs.float(), rtol=1e-6)
    same_everywhere(checkpoint, "a.weight", found)
    assert len(checkpoint.tensors) == 1


def test_awq(tmp_path):
    codes = torch.randint(0, 16, (256, 64), generator=GENERATOR, dtype=torch.int32)
    zeros = torch.randint(0, 16, (2, 64), generator=GENERATOR, dtype=torch.int32)
    scales = torch.rand(2, 64, generator=GENERATOR).half()

    def packed(columns):  # AutoAWQ: nibble i of a word is its column (0, 2, 4, 6, 1, 3, 5, 7)[i]
        words = torch.zeros(columns.shape[0], columns.shape[1] // 8, dtype=torch.int64)
        for i, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            words |= columns[:, column::8].long() << (4 * i)
        return words.to(torch.int32)

    tensors = {"l.qweight": packed(codes), "l.qzeros": packed(zeros), "l.scales": scales}
    theirs = AutoAWQConverter.reverse_awq_order(
        *AutoAWQConverter.unpack_awq(tensors["l.qweight"], tensors["l.qzeros"], 4), 4
    )
    assert torch.equal(theirs[0].int() & 15, codes) and torch.equal(theirs[1].int() & 15, zeros)
    group = torch.arange(256) // 128
    expected = ((codes - zeros[group]) * scales[group].float()).T
    checkpoint = opened(tmp_path, tensors, {"quantization_config": {"quant_method": "awq", "bits": 4}})
    same_everywhere(checkpoint, "l.weight", expected)
    assert "AWQ, groups of 128" in checkpoint.tensors[0].quantized


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq(tmp_path, bits, order, version):
    """Packed as AutoGPTQ's documentation describes it, in plain Python integers: no reference runs without a GPU."""
    levels, per = 1 << bits, 32 // bits
    codes = torch.randint(0, levels, (128, 32), generator=GENERATOR)
    zeros = torch.randint(0, levels, (4, 32), generator=GENERATOR)
    scales = torch.rand(4, 32, generator=GENERATOR).half()
    group = torch.arange(128) // 32
    group = group[torch.randperm(128, generator=GENERATOR)] if order else group
    less = 1 if version == "gptq" else 0

    def word(values):
        whole = sum((int(value) % levels) << (bits * i) for i, value in enumerate(values))
        return whole - (1 << 32) if whole >= 1 << 31 else whole

    rows = [[word(codes[i : i + per, j]) for j in range(32)] for i in range(0, 128, per)]
    columns = [[word(zeros[i, j : j + per] - less) for j in range(0, 32, per)] for i in range(4)]
    tensors = {"l.qweight": torch.tensor(rows, dtype=torch.int32), "l.qzeros": torch.tensor(columns, dtype=torch.int32)}
    tensors |= {"l.scales": scales} | ({"l.g_idx": group.int()} if order else {})
    settings = {"quant_method": "gptq", "bits": bits, "checkpoint_format": version}
    checkpoint = opened(tmp_path, tensors, {"quantization_config": settings})
    expected = ((codes - zeros[group]) * scales[group].float()).T
    same_everywhere(checkpoint, "l.weight", expected)


def test_mxfp4(tmp_path):
    names = {"layers.0.mlp.experts.gate_up_proj": (2, 128, 64), "layers.0.mlp.experts.down_proj": (2, 64, 64)}
    tensors, theirs = {}, {}
    for name, (experts, out, width) in names.items():
        blocks = torch.randint(0, 256, (experts, out, width // 32, 16), generator=GENERATOR, dtype=torch.uint8)
        scales = torch.randint(110, 130, blocks.shape[:-1], generator=GENERATOR, dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        theirs[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)  # (experts, in, out)
    checkpoint = opened(tmp_path, tensors, {"model_type": "gpt_oss"})
    up, down = names
    same_everywhere(checkpoint, f"{down}[1]", theirs[down][1].T)
    same_everywhere(checkpoint, f"{up}[0][gate]", theirs[up][0].T[0::2])
    same_everywhere(checkpoint, f"{up}[0][up]", theirs[up][0].T[1::2])


@pytest.mark.parametrize("bits", [4, 8])
def test_compressed_tensors(tmp_path, bits):
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (48, 128), generator=GENERATOR, dtype=torch.int8)
    scale = torch.rand(48, 4, generator=GENERATOR)
    tensors = {"l.weight_packed": pack_to_int32(codes, bits), "l.weight_scale": scale}
    tensors |= {"l.weight_shape": torch.tensor([48, 128])}
    expected = codes.float() * scale.repeat_interleave(32, 1)
    same_everywhere(opened(tmp_path, tensors), "l.weight", expected)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"l.qweight": torch.zeros(8, 8, dtype=torch.int32)},
            "qzeros and scales, which GPTQ and AWQ store, are not there",
        ),
        (
            {
                "l.qweight": torch.zeros(12, 64, dtype=torch.int32),
                "l.qzeros": torch.zeros(1, 6, dtype=torch.int32),
                "l.scales": torch.ones(1, 60),
            },
            "no layout of GPTQ",
        ),
        ({"l_blocks": torch.zeros(2, 4, 16, dtype=torch.uint8)}, r"blocks \(2, 4, 16\), scales none"),
        ({"l.weight_packed": torch.zeros(4, 4, dtype=torch.int32)}, "weight_scale is not there"),
        (
            {"l.weight": torch.zeros(64, 1, dtype=torch.uint8), "l.weight.absmax": torch.ones(2)},
            "quant_state or quant_map is not there",
        ),
    ],
)
def test_what_is_unclear_is_refused_with_a_reason(tmp_path, tensors, words):
    checkpoint = opened(tmp_path, tensors | {"other.weight": noise(4, 4)})
    reasons = [reason for reason in checkpoint.skipped.values() if reason.startswith("quantized, and not read")]
    assert len(reasons) == 1
    with pytest.raises(ValueError, match=words):
        raise ValueError(reasons[0])


# --- GGUF -----------------------------------------------------------------------------------------------------------

WRITTEN = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0"]
READ = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"]


def write_gguf(path, tensors, arch="llama"):
    """A GGUF file of {name: (bytes as an array, type)}, with a vocabulary."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"word{i}" for i in range(500)])
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", [*WRITTEN, *READ])
def test_gguf(tmp_path, kind):
    format = gguf.GGMLQuantizationType[kind]
    if kind in WRITTEN:
        data = quants.quantize(noise(64, 512).numpy(), format)
    else:  # the package does not write these: any bytes are some values, the scales (float16) kept small
        block, size = gguf.GGML_QUANT_SIZES[format]
        data = np.random.default_rng(0).integers(0, 60, (64, 512 // block * size)).astype(np.uint8)
    theirs = torch.from_numpy(np.ascontiguousarray(quants.dequantize(data, format)).astype(np.float32))
    path = write_gguf(
        tmp_path / "made.gguf", {"blk.0.attn_q.weight": (data, kind), "output_norm.weight": (np.ones(8, "f4"), "F32")}
    )
    checkpoint = open_checkpoint(path)
    info = checkpoint.tensors[0]
    assert (info.role, info.depth, info.shape, checkpoint.config["num_key_value_heads"]) == ("q", 0, (64, 512), 2)
    assert torch.equal(checkpoint.read(info.name).float(), theirs)
    if kind not in ("F32", "F16", "BF16"):
        same_everywhere(checkpoint, info.name, theirs)
        assert info.quantized.startswith(kind)


def test_gguf_experts_and_damage(tmp_path):
    stack = quants.quantize(noise(4, 32, 64).numpy(), gguf.GGMLQuantizationType.Q8_0)
    path = write_gguf(tmp_path / "made.gguf", {"blk.3.ffn_up_exps.weight": (stack, "Q8_0")}, "mixtral")
    checkpoint = open_checkpoint(tmp_path)  # a GGUF that is alone in its folder
    theirs = torch.from_numpy(quants.dequantize(stack, gguf.GGMLQuantizationType.Q8_0))
    same_everywhere(checkpoint, "blk.3.ffn_up_exps.weight[2]", theirs[2])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="not a sound GGUF file"):
        open_checkpoint(path)
    write_gguf(tmp_path / "second.gguf", {"blk.3.ffn_up_exps.weight": (stack, "Q8_0")})
    with pytest.raises(CheckpointError, match="one model stored in several ways"):
        open_checkpoint(tmp_path)


# --- parts of lazy tensors ------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_pieces_of_a_part_are_those_of_the_loaded_tensor(data):
    """Any part, any range: the same values, and for an expert none of its neighbours' bytes."""
    from lfmlib.checkpoints.slices import Part

    experts, groups, rows, columns = (data.draw(st.integers(1, 4)) for _ in range(4))
    transposed, stacked = data.draw(st.booleans()), data.draw(st.booleans())
    share = data.draw(st.integers(1, 3))
    start = data.draw(st.integers(0, share - 1))
    stop = data.draw(st.one_of(st.none(), st.integers(start + 1, share)))
    length = groups * share
    inner = (rows, length) if transposed else (length, columns)
    entry = Counting(torch.randn(experts, *inner) if stacked else torch.randn(inner))
    part = Part(
        "p",
        "s",
        (),
        expert=experts - 1 if stacked else None,
        transposed=transposed,
        groups=groups,
        start=start,
        stop=stop,
    )
    flat = part.in_stored_order(entry.values).reshape(-1)
    a = data.draw(st.integers(0, flat.numel() - 1))
    b = data.draw(st.integers(a + 1, flat.numel()))
    assert torch.equal(part.load_range(entry, a, b), flat[a:b])
    assert torch.equal(part.load(entry), part.from_stored(entry.values))
    if stacked:
        assert min(entry.touched) >= (experts - 1) * inner[0] * inner[1]


class Counting:
    """A lazy entry that notes what is asked of it."""

    lazy = True

    def __init__(self, values):
        self.values, self.shape, self.touched = values, tuple(values.shape), []

    def span(self, start, stop):
        self.touched += [start, stop]
        return self.values.reshape(-1)[start:stop]

    def load(self):
        self.touched.append(0)
        return self.values
