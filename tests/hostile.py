"""Sound checkpoints, damaged as a script of bytes says; for test_hostile.py, and for fuzz.py by hand."""

from __future__ import annotations

import io
import json
import re
import struct
import tempfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save

from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint

NUMBERS = (0, 1, 2, 3, 7, 8, 31, 32, 127, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**60)
NUMBERS += (2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, -2, -(2**31), -(2**63), 10**30)
WORDS = ['"x"', "null", "true", "1.5", "1e999", "NaN", "[]", "{}", "[0,0]", "[" * 2000, "-1", '"a.weight"', '"../x"']
WORDS += [
    '"U8"',
    '"I32"',
    '"F8_E4M3"',
    '"F4"',
    '"fp8"',
    '"falcon"',
    '"/etc/passwd"',
    '"\\ud800"',
    '"' + "a" * 300 + '"',
]
OPCODES = b"().0 2IJKLMNQRTUVX]abcdeghijlpqrstu}\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x93\x94\x95"


def quantized() -> dict[str, torch.Tensor]:
    """Every layout of codes and scales, and what is split by its name."""
    codes = torch.arange(64, dtype=torch.uint8)
    state = json.dumps({"shape": [8, 8], "blocksize": 16, "quant_type": "nf4"}).encode()
    return {
        "a.weight": torch.ones(8, 8).to(torch.float8_e4m3fn),
        "a.weight_scale_inv": torch.ones(2, 2),
        "b.qweight": torch.ones(2, 32, dtype=torch.int32),
        "b.qzeros": torch.full((2, 4), 0x77777777, dtype=torch.int32),
        "b.scales": torch.ones(2, 32),
        "b.g_idx": torch.zeros(16, dtype=torch.int32),
        "c.weight": codes[:32, None].clone(),
        "c.weight.absmax": torch.ones(4),
        "c.weight.quant_map": torch.linspace(-1, 1, 16),
        "c.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state), dtype=torch.uint8),
        "d_blocks": codes.reshape(2, 2, 16),
        "d_scales": codes[:4].clone().reshape(2, 2),
        "e.weight_packed": torch.ones(4, 2, dtype=torch.int32),
        "e.weight_scale": torch.ones(4, 2),
        "e.weight_shape": torch.tensor([4, 16]),
        "f.weight": torch.ones(4, 6, dtype=torch.int8),
        "f.weight_scale": torch.ones(4, 1),
        "f.weight_zero_point": torch.ones(4, 1, dtype=torch.int8),
        "g.weight_packed": codes[:32].reshape(2, 16).clone(),
        "g.weight_scale": torch.ones(2, 2).to(torch.float8_e4m3fn),
        "g.weight_global_scale": torch.ones(1),
        "h.W_q": codes[:8].reshape(4, 2).clone(),
        "h.scale": torch.ones(8, 1),
        "h.zero": torch.ones(8, 1),
        "h.nbits": torch.tensor(4, dtype=torch.int32),
        "h.axis": torch.tensor(1, dtype=torch.int32),
        "h.group_size": torch.tensor(2, dtype=torch.int32),
        "h.shape": torch.tensor([4, 4]),
    }


def plain() -> dict[str, torch.Tensor]:
    names = [
        "h.0.self_attention.query_key_value.weight",
        "layers.0.mlp.experts.gate_up_proj",
        "x",
        "layers.0.mlp.gate.weight",
    ]
    shapes = [(24, 8), (2, 8, 4), (0, 3), (4, 4)]
    return {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in zip(names, shapes, strict=True)}


def made_gguf() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        writer = gguf.GGUFWriter(path := Path(folder) / "x.gguf", "llama")
        writer.add_head_count(4)
        writer.add_token_list(["a", "bc", ""])
        writer.add_array("made.numbers", [1, 2, 3])
        writer.add_array("made.nested", [[1, 2], [3]])
        writer.add_tensor("blk.0.attn_q.weight", np.ones((4, 34), "u1"), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("blk.0.ffn_up_exps.weight", np.ones((2, 3, 4), "f4"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


EXTERNAL = np.arange(64, dtype="f4").tobytes()


def made_onnx(external: bool) -> bytes:
    """Weights in every form; with some that lie in `EXTERNAL`, as which a file "model.onnx.data" is written."""
    rng = np.random.default_rng(0)

    def held(name: str, shape: tuple[int, ...], dtype: str = "f4"):
        return numpy_helper.from_array(rng.integers(0, 99, shape).astype(dtype), name)

    weights = [
        held("h.0.q.bias", (6,)), held("onnx::MatMul_7", (4, 6)), held("val_8", (4, 6)), held("h.2.w", (3,), "f8"),
        held("x_quantized", (4, 6), "i1"), held("x_scale", (6,)), held("x_zero_point", (6,), "i1"),
        held("y", (6, 2, 8), "u1"), held("y_scales", (12,)), held("y_zero_points", (6,), "u1"),
        held("onnx::Conv_9", (4, 6, 3)), held("empty", (0, 3)),
        helper.make_tensor("h.1.w", onnx.TensorProto.FLOAT16, (2, 3), [1.0] * 6),
        helper.make_tensor("h.3.w", onnx.TensorProto.FLOAT, (2, 3), [1.0] * 6),
    ]  # fmt: skip
    if external:
        for name, offset in (("far.a", 0), ("far.b", 96)):
            one = onnx.TensorProto(name=name, data_type=1, dims=(4, 6), data_location=onnx.TensorProto.EXTERNAL)
            for key, value in (("location", "model.onnx.data"), ("offset", offset), ("length", 96)):
                one.external_data.add(key=key, value=str(value))
            weights.append(one)
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["in", "val_8"], ["made"], name="/h.1/v/MatMul")], "g", [], []
    )
    nodes = [
        helper.make_node("MatMul", ["in", "onnx::MatMul_7"], ["a"], name="/h.0/q/MatMul"),
        helper.make_node("Add", ["a", "h.0.q.bias"], ["b"], name="/h.0/q/Add"),
        helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner),
        helper.make_node("DequantizeLinear", ["x_quantized", "x_scale", "x_zero_point"], ["x"], axis=1),
        helper.make_node("MatMul", ["in", "x"], ["e"]),
        helper.make_node("MatMulNBits", ["in", "y", "y_scales", "y_zero_points"], ["f"], "/h.2/k/MatMul",
                         domain="com.microsoft", K=30, N=6, bits=4, block_size=16),
        helper.make_node("Constant", [], ["t"], value=held("", (4, 6))),
        helper.make_node("Transpose", ["t"], ["u"], perm=(1, 0)),
        helper.make_node("Gemm", ["in", "u"], ["g"], name="/h.3/o/Gemm", transB=1),
        helper.make_node("Conv", ["in", "onnx::Conv_9"], ["i"], name="/conv/Conv"),
        helper.make_node("Identity", ["j"], ["j"]),
    ]  # fmt: skip
    nodes[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'h.0', 'h.0.q', 'linear']")
    return helper.make_model(helper.make_graph(nodes, "g", [], [], weights)).SerializeToString()


def saved(content, **options) -> bytes:
    torch.save(content, made := io.BytesIO(), **options)
    return made.getvalue()


CONFIG = {"model_type": "bloom", "num_attention_heads": 2, "head_dim": 4, "text_config": {"num_kv_heads": 2}}
CONFIG |= {"quantization_config": {"quant_method": "fp8", "bits": 4, "weight_block_size": [4, 4]}}
INDEX = {"weight_map": {**dict.fromkeys(quantized(), "q.safetensors"), **dict.fromkeys(plain(), "p.safetensors")}}
_weights = {"w": torch.ones(4, 4), "p": torch.nn.Parameter(torch.ones(3)), "n": 1}
SEEDS = {
    "safetensors": [save(quantized()), save(plain())],
    "index": [json.dumps(INDEX).encode(), json.dumps(CONFIG).encode()],
    "gguf": [made_gguf()],
    "onnx": [made_onnx(False), made_onnx(True)],
    "bin": [saved(_weights), saved({"state_dict": _weights}), saved(_weights, _use_new_zipfile_serialization=False)],
}


def edited(content: bytes, script: bytes, json_text: bool) -> bytes:
    """The content, changed once for each six bytes of the script."""
    for at in range(0, len(script) - 5, 6):
        kind, place, how = script[at], int.from_bytes(script[at + 1 : at + 4], "little"), script[at + 4 : at + 6]
        place %= len(content) + 1
        number, size = NUMBERS[how[0] % len(NUMBERS)], 1 << how[1] % 4
        if json_text and kind % 3:
            tokens = [*re.finditer(rb'-?\d+|"(?:[^"\\]|\\.)*"', content)] or [re.match(b"", content)]
            token, word = tokens[place % len(tokens)], WORDS[how[1] % len(WORDS)].encode()
            other = [b"%d" % number, word, tokens[how[0] % len(tokens)][0]][kind % 3 - 1 + (how[1] > 127)]
            content = content[: token.start()] + other + content[token.end() :]
        elif kind % 8 == 0:
            content = content[:place]
        elif kind % 8 == 1:
            content = content[:place] + content[place + size :]
        elif kind % 8 == 2:
            content = content[:place] + content[max(0, place - 4 * how[0]) :]
        elif kind % 8 == 3:
            content = content[:place] + OPCODES[how[0] % len(OPCODES) :][:1] + content[place + how[1] % 2 :]
        elif kind % 8 == 4:
            content = content[:place] + how[:1] + content[place + 1 :]
        else:
            content = content[:place] + (number % (1 << 8 * size)).to_bytes(size, "little") + content[place + size :]
    return content


def damaged(target: str, script: bytes) -> dict[str, bytes]:
    """File name → content of a checkpoint that `script` makes of a sound one."""
    first, script = script[:1] or b"\0", script[1:]
    seed = SEEDS[target][(first[0] >> 2) % len(SEEDS[target])]
    raw = first[0] % 4 == 0  # else inside: the length of a header, or a zip, is put right again
    if target == "safetensors" and not raw:
        length = int.from_bytes(seed[:8], "little")
        header = edited(seed[8 : 8 + length], script, True)
        seed = struct.pack("<Q", len(header)) + header + seed[8 + length :]
    elif target == "bin" and not raw and seed[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(seed)) as old, zipfile.ZipFile(made := io.BytesIO(), "w") as new:
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, edited(content, script, False) if name.endswith("data.pkl") else content)
        seed = made.getvalue()
    else:
        seed = edited(seed, script, target == "index")
    if target == "onnx":
        return {"model.onnx": seed, "model.onnx.data": EXTERNAL}
    if target != "index":
        return {f"model.{target}": seed, "config.json": json.dumps(CONFIG).encode()}
    index, config = SEEDS["index"] if not first[0] >> 2 & 1 else (SEEDS["index"][0], seed)
    index = seed if not first[0] >> 2 & 1 else index
    shards = {"q.safetensors": SEEDS["safetensors"][0], "p.safetensors": SEEDS["safetensors"][1]}
    return shards | {"model.safetensors.index.json": index, "config.json": config}


def attempt(folder: Path, files: dict[str, bytes]) -> str:
    """Open and read it all; "read" or the words of the refusal. Anything else is a finding, and raised."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    most = 32 * sum(map(len, files.values()))
    try:
        checkpoint = open_checkpoint(folder)
        for info in checkpoint.tensors:
            assert info.numel * getattr(torch, info.dtype).itemsize <= most, f"{info} is larger than the file"
            values = checkpoint.read(info.name)
            assert (tuple(values.shape), values.numel()) == (info.shape, info.numel)
            pieces = [piece.clone() for piece in checkpoint.chunks(info.name, bytes=200)]
            assert sum(piece.numel() for piece in pieces) == info.numel
    except (CheckpointError, FileNotFoundError) as error:
        assert len(str(error)) > 40, f"says too little: {error}"
        return str(error)
    return "read"
