"""Layouts of quantized weights against the library that makes them, in float64; what is not known is refused whole."""

from __future__ import annotations

import json

import bitsandbytes.functional as bnb
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.mxfp6.helpers import unpack_fp6_from_uint8
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from gguf import GGMLQuantizationType, quants
from safetensors.torch import save_file
from test_quantized import noise, write_gguf
from transformers.integrations.bitnet import pack_weights
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.gemma_quant import QuantizedEmbedding
from transformers.integrations.metal_quantization import _affine_quantize_tensor

import lfmlib
from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint

GENERATOR = torch.Generator().manual_seed(1)


def opened(tmp_path, tensors, settings=None):
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"quantization_config": settings} if settings else {}), encoding="utf-8"
    )
    return open_checkpoint(tmp_path)


def same_values(checkpoint, expected: torch.Tensor, name: str = "l.weight") -> None:
    """The only tensor besides plain ones, whole and in chunks that end inside a row."""
    assert [info.name for info in checkpoint.tensors if info.quantized] == [name], checkpoint.skipped
    found = checkpoint.read(name)
    assert expected.dtype == torch.float64 and found.shape == expected.shape
    assert bool(((found - expected).abs() <= 1e-6 * expected.abs()).all())
    pieces = [*checkpoint.chunks(name, bytes=4 * (found.shape[-1] + 3))]
    assert len(pieces) > 1 and torch.equal(torch.cat(pieces), found.flatten())


def integers(levels: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, levels, shape, generator=GENERATOR)


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=GENERATOR) + 0.5


# --- compressed-tensors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("strategy", "shape"), [("channel", (48, 1)), ("tensor", (1,)), ("group", (48, 2)), ("block", (3, 2))]
)
def test_int8_of_compressed_tensors(tmp_path, strategy, shape, symmetric):
    size = {"group_size": 128} if strategy == "group" else {"block_structure": [16, 128]} if strategy == "block" else {}
    args = QuantizationArgs(num_bits=8, symmetric=symmetric, strategy=strategy, **size)
    codes, scale = (integers(256, 48, 256) - 128).to(torch.int8), uniform(*shape)
    zero = None if symmetric else (integers(40, *shape) - 20).to(torch.int8)
    theirs = dequantize(codes, scale.double(), zero, args, torch.float64)
    tensors = {"l.weight": codes, "l.weight_scale": scale} | ({} if symmetric else {"l.weight_zero_point": zero})
    settings = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    same_values(opened(tmp_path, tensors, settings), theirs)
    checkpoint = opened(tmp_path, tensors)  # without a quantization_config
    same_values(checkpoint, theirs)
    assert lfmlib.survey(checkpoint, progress=False)["tensor"].to_list() == ["l.weight"]


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("group", [64, None])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_integers_of_compressed_tensors(tmp_path, bits, group, symmetric):
    kind = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    args = QuantizationArgs(num_bits=bits, symmetric=symmetric, **kind)
    weight, scale = noise(40, 192), 0.01 * uniform(40, 192 // group if group else 1)
    zero = (integers(3, *scale.shape) - 1).to(torch.int8)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    state = {"weight": weight, "weight_scale": scale} | ({} if symmetric else {"weight_zero_point": zero})
    packed = compressor.compress(state, scheme)
    codes = unpack_from_int32(packed["weight_packed"], bits, torch.Size((40, 192)))
    theirs = dequantize(codes, scale.double(), None if symmetric else zero, args, torch.float64)
    same_values(opened(tmp_path, {f"l.{name}": one for name, one in packed.items()}), theirs)


def test_packed_integers_with_a_last_group_that_is_shorter(tmp_path):
    codes, scale = (integers(16, 8, 48) - 8).to(torch.int8), uniform(8, 2)
    tensors = {"weight_packed": pack_to_int32(codes, 4), "weight_scale": scale, "weight_shape": torch.tensor([8, 48])}
    settings = {"config_groups": {"group_0": {"input_activations": {"group_size": 40}, "weights": {"group_size": 32}}}}
    expected = codes.double() * scale.double()[:, torch.arange(48) // 32]
    same_values(opened(tmp_path, {f"l.{name}": one for name, one in tensors.items()}, settings), expected)


def test_the_law_of_w8a8_is_that_of_its_values(tmp_path):
    """Scales alone, a row each, would be no Gaussian."""
    values = noise(128, 256)
    scale = values.abs().amax(1, keepdim=True) / 127
    tensors = {"l.weight": (values / scale).round().to(torch.int8), "l.weight_scale": scale}
    (row,) = lfmlib.survey(opened(tmp_path, tensors), progress=False).to_dict("records")
    assert row["kl_bits"] < 0.02 and row["std"] == pytest.approx(float(values.std()), rel=0.01)


def test_columns_in_the_order_of_their_groups(tmp_path):
    group = torch.arange(128) // 32
    group = group[torch.randperm(128, generator=GENERATOR)].int()
    codes, scale = integers(256, 16, 128).to(torch.int8), uniform(16, 4)
    tensors = {"l.weight": codes, "l.weight_scale": scale, "l.weight_g_idx": group}
    checkpoint = opened(tmp_path, tensors)
    same_values(checkpoint, codes.double() * scale.double()[:, group.long()])
    assert checkpoint.tensors[0].quantized == "int8, 4 groups by g_idx"
    sorted_ones = opened(tmp_path, tensors | {"l.weight_g_idx": torch.arange(128, dtype=torch.int32) // 32})
    assert sorted_ones.tensors[0].quantized == "int8, a scale for 1 × 32"
    without = opened(tmp_path, tensors | {"l.weight_g_idx": torch.full((128,), -1, dtype=torch.int32)})
    same_values(without, codes.double() * scale.double().repeat_interleave(32, 1))  # as compressed-tensors says "none"


@pytest.mark.parametrize("maker", ["compressed-tensors", "modelopt"])
def test_nvfp4_has_two_levels_of_scales(tmp_path, maker):
    packed, scale = integers(256, 48, 64).to(torch.uint8), (4 * uniform(48, 8)).to(torch.float8_e4m3fn)
    whole = torch.tensor([448 * 6 / 0.1])
    codes = unpack_fp4_from_uint8(packed, 48, 128, torch.float64)
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    theirs = dequantize(codes, scale.double(), None, args, torch.float64, whole.double())
    tensors = {"l.weight_packed": packed, "l.weight_scale": scale, "l.weight_global_scale": whole}
    if maker == "modelopt":  # stores what is multiplied by, not what is divided by
        second = 1 / whole[0]
        theirs = codes * scale.double().repeat_interleave(16, 1) * second.double()
        tensors = {"l.weight": packed, "l.weight_scale": scale, "l.weight_scale_2": second}
    same_values(opened(tmp_path, tensors | {"l.input_scale": torch.ones(())}), theirs)
    with pytest.raises(ValueError, match="NVFP4, of whose second scale none is there"):
        opened(tmp_path, dict([*tensors.items()][:2]) | {"other.weight": noise(4, 4)}).read(next(iter(tensors)))


@pytest.mark.parametrize(("bits", "name"), [(4, "weight_packed"), (4, "weight"), (6, "weight_packed"), (8, "weight")])
def test_powers_of_two_as_scales(tmp_path, bits, name):
    scale = integers(20, 48, 4).to(torch.uint8) + 110
    factor = torch.exp2(scale.double() - 127).repeat_interleave(32, 1)
    packed = integers(120 if bits == 8 else 256, 48, 128 * bits // 8).to(torch.uint8)
    if bits == 8:
        packed, codes = packed.view(torch.float8_e4m3fn), packed.view(torch.float8_e4m3fn).double()
    else:
        unpacked = unpack_fp4_from_uint8 if bits == 4 else unpack_fp6_from_uint8
        codes = unpacked(packed, 48, 128, torch.float64)
    same_values(opened(tmp_path, {f"l.{name}": packed, "l.weight_scale": scale}), codes * factor)


@pytest.mark.parametrize(
    "names", ["l.weight l.scale", "l.weight l.weight_scale_inv", "l.gate_up_proj l.gate_up_proj_scale_inv"]
)
def test_two_codes_in_an_int8_of_deepseek(tmp_path, names):
    code, beside = names.split()
    shape = (3, 16) if "gate" in code else (16,)
    packed = (integers(256, *shape, 32) - 128).to(torch.int8)
    scale = (integers(20, *shape, 2) + 110).to(torch.uint8).view(torch.float8_e8m0fnu)
    theirs = Fp8Dequantize(None)._dequantize_one(packed, scale, torch.float64)
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
    same_values(opened(tmp_path, {code: packed, beside: scale}, settings), theirs, code)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ({"format": "int8_tensorwise"}, ""),
        ({"format": "int8_tensorwise", "convrot": True}, "of rotated rows"),
        ({"format": "nvfp4"}, "format 'nvfp4'"),
    ],
)
def test_marks_of_comfyui(tmp_path, mark, words):
    codes, scale = integers(256, 16, 32).to(torch.int8), uniform(1)
    tensors = {"l.weight": codes, "l.weight_scale": scale, "other.weight": noise(8, 8)}
    tensors |= {"l.comfy_quant": torch.tensor(list(json.dumps(mark).encode()), dtype=torch.uint8)}
    checkpoint = opened(tmp_path, tensors)
    if not words:
        same_values(checkpoint, codes.double() * scale.double())
    else:
        assert [info.name for info in checkpoint.tensors if len(info.shape) == 2] == ["other.weight"]
        assert words in checkpoint.skipped["l.weight"]


def test_scales_of_nvfp4_that_may_lie_in_tiles(tmp_path):
    packed, scale = integers(256, 128, 32).to(torch.uint8), uniform(128, 4).to(torch.float8_e4m3fn)
    tensors = {"l.weight": packed, "l.weight_scale": scale, "l.weight_scale_2": torch.tensor(0.5)}
    expected = unpack_fp4_from_uint8(packed, 128, 64, torch.float64) * scale.double().repeat_interleave(16, 1) / 2
    same_values(opened(tmp_path, tensors, {"quant_method": "modelopt", "quant_algo": "NVFP4"}), expected)
    with pytest.raises(ValueError, match="may lie in rows"):
        opened(tmp_path, tensors | {"other.weight": noise(8, 8)}).read("l.weight")


# --- GPTQ and auto-round: zero points and groups ----------------------------------------------------------------------


def words(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes along the first axis as int32 words, as GPTQ packs them: one stream of bits, the lowest first."""
    columns = []
    for column in values.T.tolist():
        stream = sum(value << (bits * i) for i, value in enumerate(column))
        columns.append([stream >> (32 * i) & 0xFFFFFFFF for i in range(-(-len(column) * bits // 32))])
    return torch.tensor(columns, dtype=torch.int64).T.to(torch.int32)


def gptq(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, bits: int = 4) -> dict[str, torch.Tensor]:
    pieces = {"qweight": words(codes, bits), "qzeros": words(zeros.T, bits).T, "scales": scales}
    return {f"l.{name}": one for name, one in pieces.items()}


@pytest.mark.parametrize(
    ("settings", "less"),
    [
        ({"quant_method": "auto-round", "packing_format": "auto_round"}, 0),
        ({"quant_method": "auto-round", "packing_format": "auto_round:gptqmodel"}, 0),
        ({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}, 1),
        ({"quant_method": "gptq", "checkpoint_format": "gptq_v2", "sym": False}, 0),
        ({"quant_method": "gptq"}, 1),
        ({"quant_method": "gptq", "checkpoint_format": "gptq", "sym": True}, 0),  # says the first, stores the second
        ({"quant_method": "gptq", "checkpoint_format": "gptq", "sym": True}, 1),
        ({}, 0),
        ({}, 1),
    ],
)
def test_zero_points_as_their_format_stores_them(tmp_path, settings, less):
    """As many of each of 0 to 15, with the zero point 8 and the scale 0.01, have the mean −0.005, half a scale."""
    codes, zeros = torch.arange(16).repeat(8)[:, None].expand(128, 32), torch.full((1, 32), 8 - less)
    checkpoint = opened(tmp_path, gptq(codes, zeros, torch.full((1, 32), 0.01)), settings)
    same_values(checkpoint, (codes.T.double() - 8) * torch.tensor(0.01).double())
    assert float(checkpoint.read("l.weight").mean()) == pytest.approx(-0.005)


def test_settings_of_the_language_model_inside_a_larger_one(tmp_path):
    codes, zeros = torch.arange(16).repeat(12)[:, None].expand(192, 32), torch.full((2, 32), 7)
    scales = torch.tensor([[0.01], [0.1]]).expand(2, 32)
    settings = {"quant_method": "gptq", "checkpoint_format": "gptq", "sym": False, "bits": 4, "group_size": 128}
    opened(tmp_path, gptq(codes, zeros, scales), settings)
    config = {"text_config": {"quantization_config": settings}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    expected = (codes.double() - 8) * scales.double()[torch.arange(192) // 128]
    same_values(open_checkpoint(tmp_path), expected.T)


@pytest.mark.parametrize("config", [None, {}, {"quantization_config": {"quant_method": "gptq", "group_size": 64}}])
def test_settings_in_a_file_of_the_quantizers_own(tmp_path, config):
    """Older files of GPTQ keep them in quantize_config.json; config.json, where it has some, comes first."""
    codes, zeros = torch.arange(16).repeat(12)[:, None].expand(192, 32), torch.full((2, 32), 7)
    scales = torch.tensor([[0.01], [0.1]]).expand(2, 32)
    pieces = {name: one.contiguous() for name, one in gptq(codes, zeros, scales).items()}
    save_file(pieces, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    own = {"bits": 4, "group_size": 128, "desc_act": False, "sym": False, "true_sequential": True}
    (tmp_path / "quantize_config.json").write_text(json.dumps(own), encoding="utf-8")
    if config:
        with pytest.raises(CheckpointError, match="192 inputs in 2 groups"):
            open_checkpoint(tmp_path)
        return
    expected = (codes.double() - 8) * scales.double()[torch.arange(192) // 128]
    same_values(open_checkpoint(tmp_path), expected.T)


def test_what_cannot_be_read_at_all_is_told_once(tmp_path):
    codes, zeros = torch.zeros(192, 32, dtype=torch.int64), torch.full((2, 32), 7)
    with pytest.raises(CheckpointError, match="holds no tensors that are read") as found:
        opened(tmp_path, gptq(codes, zeros, torch.full((2, 32), 0.01)))
    assert str(found.value).count("192 inputs in 2 groups") == 1


def test_a_zero_point_of_0_stored_less_1(tmp_path):
    codes, zeros, scales = integers(16, 64, 32), integers(2, 1, 32), uniform(1, 32)
    checkpoint = opened(tmp_path, gptq(codes, (zeros - 1) % 16, scales), {"quant_method": "gptq", "sym": False})
    same_values(checkpoint, ((codes - zeros) * scales.double()).T)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("width", [256, 192])
def test_a_last_group_that_is_shorter(tmp_path, bits, width):
    codes, zeros = integers(1 << bits, width, 32), integers(1 << bits, 2, 32)
    scales = uniform(2, 32).half()
    group = torch.arange(width) // 128
    settings = {"quant_method": "auto-round", "packing_format": "auto_round", "group_size": 128}
    expected = ((codes - zeros[group]) * scales[group].double()).T
    checkpoint = opened(tmp_path, gptq(codes, zeros, scales, bits), settings)
    same_values(checkpoint, expected)
    assert checkpoint.tensors[0].quantized == f"int{bits} of GPTQ, groups of 128"


def test_groups_of_a_layer_of_its_own_settings(tmp_path):
    codes, zeros, scales = integers(16, 192, 32), integers(16, 3, 32), uniform(3, 32)
    settings = {"quant_method": "auto-round", "packing_format": "auto_round", "group_size": 128}
    settings |= {"extra_config": {"l": {"bits": 4, "group_size": 64}}}
    group = torch.arange(192) // 64
    expected = ((codes - zeros[group]) * scales[group].double()).T
    same_values(opened(tmp_path, gptq(codes, zeros, scales), settings), expected)


@pytest.mark.parametrize("mixed", [True, False])
def test_groups_by_g_idx_are_called_so(tmp_path, mixed):
    """192 inputs in groups of 128 are 128 and 64, and none has 96."""
    order = torch.arange(192, dtype=torch.int32) // 128
    order = order[torch.randperm(192, generator=GENERATOR)] if mixed else order
    tensors = gptq(integers(16, 192, 64), torch.full((2, 64), 7), uniform(2, 64)) | {"l.g_idx": order}
    checkpoint = opened(tmp_path, tensors, {"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert checkpoint.tensors[0].quantized == "int4 of GPTQ, " + ("2 groups by g_idx" if mixed else "groups of 128")
    assert lfmlib.noise_twin(lfmlib.survey(checkpoint, progress=False))["kl_bits"].item() < 0.1  # it is coded, too


@pytest.mark.parametrize(
    ("zeros", "groups", "message"),
    [(3, 1, r"zero points \[3\], and config.json does not say"), (8, 2, "192 inputs in 2 groups, and config.json")],
)
def test_zero_points_and_groups_that_nothing_tells_are_refused(tmp_path, zeros, groups, message):
    tensors = gptq(integers(16, 192, 32), torch.full((groups, 32), zeros), uniform(groups, 32))
    checkpoint = opened(tmp_path, tensors | {"other.weight": noise(8, 8)})
    assert [info.name for info in checkpoint.tensors] == ["other.weight"]
    with pytest.raises(ValueError, match=message):
        checkpoint.read("l.qweight")


# --- bitsandbytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_four_bits_of_bitsandbytes(tmp_path, kind, nested):
    packed, state = bnb.quantize_4bit(noise(96, 128), quant_type=kind, compress_statistics=nested, blocksize=64)
    absmax = state.absmax.double()
    if nested:
        scales = state.state2.absmax.double().repeat_interleave(state.state2.blocksize)[: len(absmax)]
        absmax = state.state2.code.double()[state.absmax.long()] * scales + state.offset.double()
    codes = torch.stack([packed >> 4, packed & 15], 1).flatten().long()
    theirs = (state.code.double()[codes] * absmax.repeat_interleave(64)).reshape(96, 128)
    tensors = {"weight": packed} | {f"weight.{name}": one for name, one in state.as_dict(packed=True).items()}
    same_values(opened(tmp_path, {f"l.{name}": one for name, one in tensors.items()}), theirs)


def test_eight_bits_of_bitsandbytes(tmp_path):
    codes, scales, _ = bnb.int8_vectorwise_quant(noise(96, 128).half())
    same_values(opened(tmp_path, {"l.weight": codes, "l.SCB": scales}), codes.double() * scales.double()[:, None] / 127)


# --- other libraries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", ["l._weight_qdata l._weight_scale l._weight_zero_point", "l.weight._data l.weight._scale"]
)
@pytest.mark.parametrize("groups", [1, 4])
def test_names_of_torchao_and_quanto(tmp_path, names, groups):
    code, scale, *zero = names.split()
    tensors = {code: (integers(256, 48, 128) - 128).to(torch.int8), scale: uniform(48, groups)}
    tensors |= {name: integers(5, 48, groups).to(torch.int8) for name in zero}
    wide = {name: one.double().repeat_interleave(128 // groups, 1) for name, one in tensors.items()}
    expected = (tensors[code].double() - (wide[zero[0]] if zero else 0)) * wide[scale]
    same_values(opened(tmp_path, tensors), expected)


@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_hqq(tmp_path, bits, axis):
    """Codes of the table of groups, equal parts of whose rows share a byte: the first part has the highest bits."""
    table = integers(1 << bits, *((96, 64) if axis else (64, 96)))
    per = 10 if bits == 3 else 8 // bits
    padded = torch.nn.functional.pad(table, (0, 0, 0, -len(table) % per))
    parts = padded.unflatten(0, (per, -1))
    packed = sum(part << (bits * (per - 1 - i)) for i, part in enumerate(parts))
    scale, zero = (uniform(96, 1) if axis else uniform(1, 96) for _ in range(2))
    tensors = {"W_q": packed.to(torch.int32 if bits == 3 else torch.uint8), "scale": scale, "zero": zero}
    tensors |= {"shape": torch.tensor([32, 192]), "packing": torch.tensor([ord(one) for one in "4bit_u8"]).byte()}
    numbers = {"nbits": bits, "axis": axis, "group_size": 64}
    tensors |= {name: torch.tensor(value, dtype=torch.int32) for name, value in numbers.items()} | {"bias": noise(32)}
    checkpoint = opened(tmp_path, {f"l.{name}": one for name, one in tensors.items()})
    same_values(checkpoint, ((table - zero.double()) * scale.double()).reshape(32, 192))
    assert [info.name for info in checkpoint.tensors] == ["l.weight", "l.bias"] or not checkpoint.skipped.get("l.bias")


@pytest.mark.parametrize("linear", ["bitlinear", "autobitlinear"])
def test_ternary_of_bitnet_is_divided_or_multiplied(tmp_path, linear):
    codes, scale = integers(3, 48, 64) - 1, torch.tensor([1.6])
    tensors = {"l.weight": pack_weights(codes.clone()), "l.weight_scale": scale}
    expected = codes / scale.double() if linear == "bitlinear" else codes * scale.double()
    same_values(opened(tmp_path, tensors, {"quant_method": "bitnet", "linear_class": linear}), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mlx_and_metal(tmp_path, bits):
    packed, scales, shifts = _affine_quantize_tensor(noise(48, 128), 64, bits)
    per = 32 // bits
    codes = torch.stack([packed.long() >> (bits * i) & ((1 << bits) - 1) for i in range(per)], 2).flatten(1)
    expected = codes * scales.double().repeat_interleave(64, 1) + shifts.double().repeat_interleave(64, 1)
    tensors = {"l.weight": packed, "l.scales": scales, "l.qbiases": shifts}
    same_values(opened(tmp_path, tensors, {"quant_method": "metal", "group_size": 64, "bits": bits}), expected)
    tensors = {"l.weight": packed, "l.scales": scales, "l.biases": shifts}
    own = {"group_size": 32, "bits": 6, "l": {"group_size": 64, "bits": bits}}  # of one layer, against the rest
    same_values(opened(tmp_path, tensors, own), expected)


def test_experts_of_mlx_are_matrices(tmp_path):
    packed, scales, shifts = integers(1 << 31, 3, 16, 8).to(torch.uint32), uniform(3, 16, 1), uniform(3, 16, 1)
    base = "model.layers.2.mlp.switch_mlp.down_proj"
    tensors = {f"{base}.weight": packed, f"{base}.scales": scales, f"{base}.biases": shifts}
    checkpoint = opened(tmp_path, tensors, {"group_size": 64, "bits": 4})
    codes = torch.stack([packed.long() >> (4 * i) & 15 for i in range(8)], 3).flatten(2)
    expected = codes * scales.double() + shifts.double()
    assert [(info.role, info.depth, info.shape) for info in checkpoint.tensors] == [("down", 2, (16, 64))] * 3
    for i, matrix in enumerate(expected):
        found = checkpoint.read(f"{base}.weight[{i}]")
        assert bool(((found - matrix).abs() <= 1e-6 * matrix.abs()).all())


def test_embedding_of_gemma(tmp_path):
    theirs = QuantizedEmbedding(40, 64, torch.float64)
    codes, scale = (integers(256, 40, 64) - 128).to(torch.int8), uniform(40, 1)
    theirs.load_state_dict({"embedding_quantized": codes, "embedding_scale": scale})
    tensors = {f"model.embed_tokens.{name}": one for name, one in theirs.state_dict().items()}
    checkpoint = opened(tmp_path, tensors)
    same_values(checkpoint, theirs.weight.detach(), "model.embed_tokens.weight")
    assert checkpoint.tensors[0].role == "embed"


@pytest.mark.parametrize("kind", ["NVFP4", "TQ2_0"])
def test_gguf_with_a_scale_of_the_whole(tmp_path, kind):
    format, rng = GGMLQuantizationType[kind], torch.Generator().manual_seed(2)
    size = 256 // quants.GGML_QUANT_SIZES[format][0] * quants.GGML_QUANT_SIZES[format][1]
    data = torch.randint(0, 60, (32, size), generator=rng).byte().numpy()
    scale = torch.tensor([0.37])
    path = write_gguf(
        tmp_path / "x.gguf", {"blk.0.attn_q.weight": (data, kind), "blk.0.attn_q.scale": (scale.numpy(), "F32")}
    )
    theirs = torch.from_numpy(quants.dequantize(data, format)).double() * scale.double()
    same_values(open_checkpoint(path), theirs, "blk.0.attn_q.weight")


# --- refused as a group ---------------------------------------------------------------------------------------------

UNKNOWN = {
    "aqlm": {
        "codes": integers(9, 4, 8, 1).to(torch.int8),
        "codebooks": noise(1, 16, 1, 8),
        "scales": noise(4, 1, 1, 1),
    },
    "vptq": {"indices": integers(9, 1, 8, 8).int(), "centroids.weight": noise(16, 8), "weight_scale": noise(8)},
    "exl2": {"q_weight": integers(9, 8, 8).int(), "q_scale": integers(9, 2, 1).int(), "q_scale_max": noise(2)},
    "eetq": {"weight": integers(9, 8, 8).to(torch.int8), "weight_scales": noise(8)},
    "higgs": {"weight": integers(9, 8, 8).to(torch.int16), "scales": noise(8, 2), "tables": noise(16, 2)},
    "fp_quant": {"qweight": integers(9, 8, 8).byte(), "scales": noise(8, 2), "forward_hadamard_matrix": noise(8, 8)},
    "quanto int4": {
        "weight._data._data": integers(9, 8, 8).byte(),
        "weight._scale": noise(16, 1),
        "weight._shift": noise(16, 1),
    },
    "torchao int4": {"_weight_qdata": integers(9, 32, 8).to(torch.int8), "_weight_scale": noise(2, 32)},
    "quark int4": {"weight": integers(9, 8, 8).int(), "weight_scale": noise(8, 2), "weight_zero_point": noise(8, 2)},
    "its own": {"qweight": integers(9, 8, 8).to(torch.int8), "scale": noise(8, 1)},
    "scales alone": {"weight_scale": noise(8, 2), "weight_scale_2": noise(2, 2)},
    "no layout of float8": {"weight": noise(8, 8).to(torch.float8_e4m3fn), "weight_scale": noise(3, 5)},
    "half the scales": {"weight": integers(9, 8, 64).byte(), "weight_scale": noise(8, 4).to(torch.float8_e4m3fn)},
    "q and s": {"q": integers(9, 8, 8).to(torch.int8), "s": noise(8, 2)},
    "Wq and Ws": {"Wq": integers(9, 8, 8).to(torch.int8), "Ws": noise(8, 2)},
    "Marlin": {"B": integers(9, 8, 8).int(), "s": noise(2, 8)},
    "SpQR": {"dense_weights": integers(9, 64), "buff1": noise(8, 8).half()},
    "names of its own": {"data": integers(9, 16, 8).byte(), "factor": noise(8, 2), "delta": noise(8, 2)},
    "float8 with s": {"q": noise(8, 8).to(torch.float8_e4m3fn), "s": noise(8, 2)},
    "no layout of int8": {"weight": integers(9, 8, 8).to(torch.int8), "weight_scale": noise(3, 5)},
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_no_layout_fits_is_refused_with_all_that_lies_beside_it(tmp_path, kind):
    tensors = {f"layers.0.q_proj.{name}": one for name, one in UNKNOWN[kind].items()}
    checkpoint = opened(tmp_path, tensors | {"layers.0.q_proj.bias": noise(8), "layers.0.o_proj.weight": noise(8, 8)})
    assert [info.name for info in checkpoint.tensors] == ["layers.0.o_proj.weight", "layers.0.q_proj.bias"]
    table = lfmlib.survey(checkpoint, progress=False)
    assert table["tensor"].to_list() == ["layers.0.o_proj.weight"] and tensors.keys() <= table.attrs["skipped"].keys()
    assert not any("layers" in reason for reason in checkpoint.skipped.values()), "all layers share a reason"
    if kind == "its own":  # a name that GPTQ has too
        words = "qzeros and scales, which GPTQ and AWQ store, are not there"
        assert words in checkpoint.skipped["layers.0.q_proj.qweight"]


@pytest.mark.parametrize(
    ("codes", "scale"), [("q", "s"), ("layer1_q", "layer1_s"), ("weight", "scale"), ("qweight", "scales")]
)
def test_codes_of_a_layer_that_was_saved_alone(codes, scale):
    with pytest.warns(UserWarning, match=f"{codes}: quantized, and not read"):
        table = lfmlib.survey(
            {codes: integers(9, 8, 8).to(torch.int8), scale: noise(8, 2), "w": noise(8, 8)}, progress=False
        )
    assert table["tensor"].to_list() == ["w"] and scale in table.attrs["skipped"]


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_scales_of_activations_are_no_weights(tmp_path, dtype):
    own = {"weight": integers(9, 64, 64).to(dtype), "weight_scale": noise(64, 1)}
    beside = {
        "input_scale": noise(64, 2),
        "smooth_scale": noise(1, 64),
        "smooth": noise(1, 64),
        "k_scale": noise(64, 2),
    }
    tensors = {f"a.q_proj.{name}": one for name, one in (own | beside).items()}
    tensors |= {"a.k_scale": noise(4, 64), "a.attn.v_scale": noise(4, 64), "mlp.pre_quant_scale": noise(1, 64)}
    checkpoint = opened(tmp_path, tensors | {"mlp.q_scale": noise(8, 64), "mlp.layer_scale": noise(8, 64)})
    assert {info.name for info in checkpoint.tensors} == {"a.q_proj.weight", "mlp.layer_scale", "mlp.q_scale"}
    assert all(name in checkpoint.skipped for name in tensors if name != "a.q_proj.weight")


LEARNED = {
    "layer scale": {"ls1.gamma": noise(8), "gamma": noise(8, 8), "attn.proj.weight": noise(8, 8)},
    "Flax": {"LayerNorm_0.scale": noise(8), "scale": noise(8, 8), "kernel": noise(8, 8)},
    "normalized q and k": {"q_scale": noise(8, 8), "k_scale": noise(8, 8), "s": noise(8, 8), "q.weight": noise(8, 8)},
    "Swin": {
        "relative_position_index": integers(9, 49, 49).int(),
        "rel_bias": noise(16, 4),
        "logit_scale": noise(4, 1),
    },
    "a mask": {"mask": integers(2, 64, 64).byte(), "scale": noise(8, 8), "attn.weight": noise(8, 8)},
    "ids": {"position_ids": integers(8, 1, 512).int(), "scale": noise(8), "word_embeddings.weight": noise(8, 8)},
    "experts": {"expert_map": integers(9, 64, 64).int(), "w1": noise(8, 8), "w2": noise(8, 8)},
    "Transformer Engine": {"weight": noise(8, 8), "_extra_state": integers(9, 500).byte(), "amax_history": noise(8, 3)},
    "hashes": {"hash": integers(9, 64, 64), "proj": noise(8, 8)},
    "buffers": {"routes": integers(9, 64, 64), "weight": noise(8, 8), "gamma": noise(8, 8)},
    "a codebook": {"codebook": noise(8, 8), "cluster_usage": integers(9, 512), "scale": noise(8, 8)},
}


@pytest.mark.parametrize("kind", LEARNED)
def test_scales_that_are_learned_stay_listed(kind):
    tensors = {f"blocks.0.{name}": one for name, one in LEARNED[kind].items()}
    checkpoint = open_checkpoint(tensors)
    assert {info.name for info in checkpoint.tensors} == tensors.keys() and not checkpoint.skipped


def test_integers_that_are_no_codes_stay_listed(tmp_path):
    tensors = {
        "h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
        "h.0.attn.c_attn.weight": noise(8, 24),
        "embeddings.position_ids": torch.arange(8, dtype=torch.int32)[None],
        "embeddings.word_embeddings.weight": noise(8, 8),
        "logit_scale": torch.ones(()),
        "blocks.0.layer_scale.scale": noise(8),
        "scale_shift_table": noise(6, 8),
    }
    checkpoint = opened(tmp_path, tensors, {"quant_method": "gptq", "bits": 4})
    assert {info.name for info in checkpoint.tensors} == tensors.keys() and not checkpoint.skipped
