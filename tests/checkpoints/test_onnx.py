"""ONNX files: names and orientation of the modules that were exported, and the values that codes stand for."""

from __future__ import annotations

import io
import os
import time
import tracemalloc
import warnings

import fsspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import lfmlib
from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint

RNG = np.random.default_rng(0)
SCOPES = "pkg.torch.onnx.name_scopes"


def drawn(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.02, shape).astype("f4")


def node(op, inputs, output="out", name="", domain="", scopes=None, **settings):
    made = helper.make_node(op, inputs, [output], name=name, domain=domain, **settings)
    if scopes:
        made.metadata_props.add(key=SCOPES, value=repr(["", *scopes, "made"]))
    return made


def model(nodes, weights, inputs=(), outputs=()):
    held = [
        one if isinstance(one, TensorProto) else numpy_helper.from_array(one, name) for name, one in weights.items()
    ]
    graph = helper.make_graph(nodes, "made", [*inputs], [*outputs], held)
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def written(folder, nodes, weights, name="model.onnx"):
    (folder / name).write_bytes(model(nodes, weights).SerializeToString())
    return open_checkpoint(folder / name)


def values_of(made) -> np.ndarray:
    """What onnxruntime computes of a model without inputs."""
    (out,) = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {})
    return out


def listed(checkpoint) -> dict:
    return {info.name: info for info in checkpoint.tensors}


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_weight_has_the_module_of_the_bias_that_is_added_to_its_product(tmp_path):
    weight = drawn(6, 8)
    nodes = [node("MatMul", ["x", "onnx::MatMul_7"], "y", "/other/MatMul"), node("Add", ["h.0.attn.q_proj.bias", "y"])]
    checkpoint = written(tmp_path, nodes, {"onnx::MatMul_7": weight, "h.0.attn.q_proj.bias": drawn(8)})
    info = listed(checkpoint)["h.0.attn.q_proj.weight"]
    assert (info.shape, info.role, info.depth) == ((8, 6), "q", 0)
    assert torch.equal(checkpoint.read(info.name), torch.from_numpy(weight.T))


@pytest.mark.parametrize(
    ("path", "known", "expected"),
    [
        ("/model/layers.0/self_attn/q_proj", None, "model.layers.0.self_attn.q_proj"),
        ("/m/m.0/auto/layer.0/query", ("/m/m.0/auto/norm", "m.0.auto.norm"), "m.0.auto.layer.0.query"),
        ("/net/layer.0/query", ("/net/norm", "norm"), "layer.0.query"),
        ("/layer.0/query", ("/layer.0/norm", "bert.layer.0.norm"), "bert.layer.0.query"),
        ("/lm_head", ("/layers.0/norm", "model.layers.0.norm"), "lm_head"),
    ],
)  # fmt: skip
def test_a_weight_without_bias_has_the_path_of_its_node_with_the_root_of_the_others(tmp_path, path, known, expected):
    nodes, weights = [node("MatMul", ["x", "onnx::MatMul_7"], name=f"{path}/MatMul")], {"onnx::MatMul_7": drawn(6, 8)}
    if known:
        nodes.append(node("Mul", ["z", f"{known[1]}.weight"], "w", f"{known[0]}/Mul_1"))
        weights[f"{known[1]}.weight"] = drawn(6)
    assert f"{expected}.weight" in listed(written(tmp_path, nodes, weights))


def test_a_weight_has_the_module_that_torch_wrote_beside_its_node(tmp_path):
    nodes = [
        node("MatMul", ["x", "val_3"], "a", "node_MatMul_3", scopes=["layers.0", "layers.0.k_proj"]),
        node("Add", ["a", "layers.0.v_proj.bias"], "b"),  # of two layers, whose biases were the same
        node("MatMul", ["x", "val_4"], "c", "node_MatMul_4", scopes=["layers.0", "layers.0.v_proj"]),
        node("Add", ["c", "layers.0.v_proj.bias"], "d"),
        node("Add", ["d", "expand_1"]),
    ]
    weights = {"val_3": drawn(6, 8), "val_4": drawn(6, 8), "layers.0.v_proj.bias": drawn(8), "expand_1": drawn(2, 8)}
    checkpoint = written(tmp_path, nodes, weights)
    assert [*listed(checkpoint)] == ["layers.0.k_proj.weight", "layers.0.v_proj.weight", "layers.0.v_proj.bias"]
    assert checkpoint.skipped["expand_1"].startswith("a constant of the graph")


def test_a_name_of_a_module_is_kept_without_the_words_of_optimizers(tmp_path):
    nodes = [
        node("MatMul", ["x", "model.layers.3.attn.o_proj.MatMul.weight"], name="/model/layers.3/attn/o_proj/MatMul")
    ]
    (info,) = written(tmp_path, nodes, {"model.layers.3.attn.o_proj.MatMul.weight": drawn(6, 8)}).tensors
    assert (info.name, info.shape, info.depth) == ("model.layers.3.attn.o_proj.weight", (8, 6), 3)


def test_a_layer_that_is_used_again_is_listed_once(tmp_path):
    nodes = [node("MatMul", ["x", f"onnx::MatMul_{i}"], f"y{i}", f"/group/query/MatMul_{i}") for i in range(3)]
    same = drawn(6, 8)
    checkpoint = written(tmp_path, nodes, {f"onnx::MatMul_{i}": same for i in range(3)})
    assert [*listed(checkpoint)] == ["group.query.weight"]
    assert checkpoint.skipped == dict.fromkeys(("onnx::MatMul_1", "onnx::MatMul_2"), "a copy of group.query.weight")
    other = written(tmp_path, nodes, {f"onnx::MatMul_{i}": drawn(6, 8) for i in range(3)})
    assert [*listed(other)] == ["onnx::MatMul_0", "onnx::MatMul_1", "onnx::MatMul_2"]


@pytest.mark.parametrize("folded", [False, True])
def test_a_tied_head_is_listed_once(tmp_path, folded):
    table = drawn(30, 6)
    nodes = [node("Gather", ["wte.weight", "ids"], "x"), node("Transpose", ["wte.weight"], "t", perm=[1, 0])]
    nodes.append(node("MatMul", ["x", "onnx::MatMul_4" if folded else "t"], name="/lm_head/MatMul"))
    weights = {"wte.weight": table} | ({"onnx::MatMul_4": np.ascontiguousarray(table.T)} if folded else {})
    checkpoint = written(tmp_path, nodes, weights)
    assert [(one.name, one.shape) for one in checkpoint.tensors] == [("wte.weight", (30, 6))]
    assert not folded or checkpoint.skipped == {"onnx::MatMul_4": "tied to wte.weight"}


def test_constants_are_left_out_with_the_reason(tmp_path):
    nodes = [
        node("Where", ["x", "onnx::Where_3", "y"]),
        node("Constant", [], "/a/Constant_output_0", value=numpy_helper.from_array(drawn(3, 3))),
        node("Gather", ["onnx::Gather_5", "ids"], "z", "/rotary/Gather"),
        node("Reshape", ["x", "shape_8"], "w"),
    ]
    weights = {
        "onnx::Where_3": drawn(1, 4),
        "onnx::Gather_5": drawn(9, 4),
        "shape_8": np.array([1, 2]),
        "w": drawn(2, 2),
    }
    checkpoint = written(tmp_path, nodes[:-1], weights)
    left = {name for name, reason in checkpoint.skipped.items() if reason.startswith("a constant of the graph")}
    assert left >= {"onnx::Where_3", "/a/Constant_output_0", "onnx::Gather_5"} and "w" in listed(checkpoint)


def test_a_constant_that_a_layer_multiplies_by_is_a_weight(tmp_path):
    weight = drawn(8, 6)
    nodes = [
        node("Constant", [], "c", value=numpy_helper.from_array(weight)),
        node("Gemm", ["x", "c", "fc.bias"], transB=1),
    ]
    checkpoint = written(tmp_path, nodes, {"fc.bias": drawn(8)})
    assert torch.equal(checkpoint.read("c"), torch.from_numpy(weight))


def test_two_branches_with_the_same_names_keep_their_own(tmp_path):
    def branch(name, weight):
        held = [numpy_helper.from_array(weight, "onnx::MatMul_1")]
        return helper.make_graph([node("MatMul", ["x", "onnx::MatMul_1"], "y", f"/{name}/MatMul")], name, [], [], held)

    one, other = drawn(4, 6), drawn(4, 6)
    nodes = [node("If", ["c"], name="/If", then_branch=branch("a.q", one), else_branch=branch("b.q", other))]
    checkpoint = written(tmp_path, nodes, {})
    assert torch.equal(checkpoint.read("a.q.weight"), torch.from_numpy(one.T))
    assert torch.equal(checkpoint.read("b.q.weight"), torch.from_numpy(other.T))


# --- orientation ------------------------------------------------------------------------------------------------------

USES = {
    "MatMul, second": ([node("MatMul", ["x", "a.w"])], True),
    "MatMul, first": ([node("MatMul", ["a.w", "x"])], False),
    "Gemm": ([node("Gemm", ["x", "a.w"])], True),
    "Gemm, transB": ([node("Gemm", ["x", "a.w"], transB=1)], False),
    "FusedMatMul": ([node("FusedMatMul", ["x", "a.w"], domain="com.microsoft")], True),
    "FusedMatMul, transB": ([node("FusedMatMul", ["x", "a.w"], domain="com.microsoft", transB=1)], False),
    "Attention": ([node("Attention", ["x", "a.w", "b"], domain="com.microsoft", num_heads=2)], True),
    "Gather": ([node("Gather", ["a.w", "x"])], False),
    "through Transpose": ([node("Transpose", ["a.w"], "t"), node("MatMul", ["x", "t"])], False),
    "through two": (
        [node("Cast", ["a.w"], "c", to=1), node("Identity", ["c"], "i"), node("Transpose", ["i"], "t", perm=[1, 0]),
         node("Transpose", ["t"], "u"), node("MatMul", ["x", "u"])], True,
    ),
    "of a circle": ([node("Identity", ["a.w"], "i"), node("Identity", ["i"], "i"), node("MatMul", ["x", "i"])], True),
}  # fmt: skip


@pytest.mark.parametrize("kind", USES)
def test_every_use_tells_the_orientation(tmp_path, kind):
    nodes, inputs_first = USES[kind]
    weight = drawn(6, 9)
    checkpoint = written(tmp_path, nodes, {"a.w": weight})
    expected = torch.from_numpy(weight.T if inputs_first else weight)
    assert checkpoint.tensors[0].shape == tuple(expected.shape) and torch.equal(checkpoint.read("a.w"), expected)


@pytest.mark.parametrize("inputs_first", [True, False])
@pytest.mark.parametrize("coded", [True, False])
def test_all_ways_of_reading_agree(tmp_path, inputs_first, coded):
    weight = RNG.integers(-9, 9, (60, 90)).astype("i1" if coded else "f4")
    nodes = [node("MatMul", ["x", "q" if coded else "a.w"] if inputs_first else ["q" if coded else "a.w", "x"])]
    weights = {"a.w": weight} | ({"s": np.ones(90, "f4")} if coded else {})
    nodes += [node("DequantizeLinear", ["a.w", "s"], "q", axis=1)] if coded else []
    checkpoint = written(tmp_path, nodes, weights)
    whole = checkpoint.read("a.w")
    assert torch.equal(whole, torch.from_numpy(weight.T if inputs_first else weight).float())
    stored = (whole.T if inputs_first else whole).flatten()
    assert torch.equal(torch.cat([one.clone() for one in checkpoint.chunks("a.w", 400)]), stored)
    assert torch.equal(
        torch.cat([one.clone() for one in checkpoint.chunks("a.w", 400, start=7, stop=999)]), stored[7:999]
    )
    assert torch.equal(checkpoint.rows("a.w", 7), whole[:7])
    assert torch.equal(torch.cat(checkpoint.sample("a.w", 10**6)).sort().values, stored.sort().values)
    assert torch.equal(checkpoint.cut(["a.w"], 10).read("a.w"), whole[:64])


def test_fused_attention_and_conv1d_of_gpt2_come_apart(tmp_path):
    weights = {
        "h.0.attn.c_attn.weight": drawn(6, 18),
        "h.0.mlp.c_fc.weight": drawn(6, 24),
        "onnx::MatMul_9": drawn(6, 18),
    }
    nodes = [
        node("Gemm", ["x", "h.0.attn.c_attn.weight"]),
        node("Gemm", ["x", "h.0.mlp.c_fc.weight"], "y"),
        node("MatMul", ["x", "onnx::MatMul_9"], "z", "/blocks.0/attn/qkv/MatMul"),
    ]
    checkpoint = written(tmp_path, nodes, weights)
    for name, stored in (
        ("h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"),
        ("blocks.0.attn.qkv.weight", "onnx::MatMul_9"),
    ):
        for i, role in enumerate("qkv"):
            info = listed(checkpoint)[f"{name}[{role}]"]
            expected = torch.from_numpy(weights[stored].T[6 * i : 6 * i + 6].copy())
            assert (info.role, info.shape) == (role, (6, 6)) and torch.equal(checkpoint.read(info.name), expected)
            assert torch.equal(torch.cat([*checkpoint.chunks(info.name, 40)]), expected.T.flatten())
    assert listed(checkpoint)["h.0.mlp.c_fc.weight"].shape == (24, 6)


def test_stacks_of_experts_come_apart_too(tmp_path):
    up, down = drawn(3, 6, 16), drawn(3, 8, 6)
    weights = {"layers.0.mlp.experts.gate_up_proj": up, "layers.0.mlp.experts.down_proj": down}
    nodes = [node("MatMul", ["x", name], f"y{i}") for i, name in enumerate(weights)]
    checkpoint = written(tmp_path, nodes, weights)
    assert listed(checkpoint)["layers.0.mlp.experts.down_proj[1]"].shape == (6, 8)
    read = checkpoint.read("layers.0.mlp.experts.gate_up_proj[2][up]")
    assert torch.equal(read, torch.from_numpy(up[2].T[8:].copy()))
    alone = written(tmp_path, nodes[:1], {"layers.0.mlp.experts.gate_up_proj": up})  # nothing tells that it is a stack
    assert torch.equal(alone.read("layers.0.mlp.experts.gate_up_proj"), torch.from_numpy(up).mT)


def test_a_nameless_stack_from_which_matrices_are_picked_is_listed(tmp_path):
    weight = drawn(3, 6, 16)
    nodes = [
        node("GatherND", ["val_1", "ids"], "picked"),
        node("MatMul", ["x", "picked"], name="/h.0/mlp/experts/MatMul"),
    ]
    (info,) = (checkpoint := written(tmp_path, nodes, {"val_1": weight})).tensors
    assert (info.name, info.shape, info.depth) == ("h.0.mlp.experts.weight", (3, 16, 6), 0)
    assert torch.equal(checkpoint.read(info.name), torch.from_numpy(weight).mT)


# --- types and places -------------------------------------------------------------------------------------------------

TYPES = {
    "FLOAT": torch.float32, "DOUBLE": torch.float64, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16,
    "FLOAT8E4M3FN": torch.float8_e4m3fn, "FLOAT8E4M3FNUZ": torch.float8_e4m3fnuz, "FLOAT8E5M2": torch.float8_e5m2,
    "FLOAT8E5M2FNUZ": torch.float8_e5m2fnuz, "INT8": torch.int8, "UINT8": torch.uint8, "INT16": torch.int16,
    "INT32": torch.int32, "INT64": torch.int64, "UINT32": torch.uint32, "UINT64": torch.uint64, "BOOL": torch.bool,
}  # fmt: skip


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", TYPES)
def test_every_type_is_read(tmp_path, name, raw):
    numbers = [0, 1, 1] if name == "BOOL" else [0, 1, 3]
    expected = torch.tensor(numbers, dtype=torch.float32).to(TYPES[name])
    content = expected.view(torch.uint8).numpy().tobytes() if raw else numbers
    one = helper.make_tensor("a.w", getattr(TensorProto, name), (3,), content, raw=raw)
    checkpoint = written(tmp_path, [], {"a.w": one})
    assert checkpoint.tensors[0].dtype == str(TYPES[name]).removeprefix("torch.")
    for values in (checkpoint.read("a.w"), torch.cat([one.clone() for one in checkpoint.chunks("a.w")])):
        assert values.dtype == expected.dtype and torch.equal(values.view(torch.uint8), expected.view(torch.uint8))


def test_types_that_pack_several_values_are_left_out(tmp_path):
    one = helper.make_tensor("a.w", TensorProto.INT4, (4,), [1, 2, 3, 4])
    checkpoint = written(tmp_path, [], {"a.w": one, "b.w": drawn(3)})
    assert checkpoint.skipped == {"a.w": "dtype INT4 of ONNX is not read"}


def outside(name="a.w", location="model.onnx.data", shape=(2, 3), **more) -> TensorProto:
    made = TensorProto(name=name, data_type=1, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": location} | more).items():
        made.external_data.add(key=key, value=str(value))
    return made


def test_values_in_a_file_beside_the_model_are_mapped_there(tmp_path):
    (tmp_path / "model.onnx.data").write_bytes(np.arange(16, dtype="f4").tobytes())
    weights = {"a.w": outside(offset=8, length=24), "b.w": outside("b.w", offset=8, length=24)}
    checkpoint = written(tmp_path, [], weights)
    assert checkpoint.read("a.w").tolist() == [[2, 3, 4], [5, 6, 7]] and [*listed(checkpoint)] == ["a.w"]
    assert checkpoint.skipped == {"b.w": "a copy of a.w"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"location": "../model.onnx.data"}, "no file in its own folder"),
        ({"location": "/etc/passwd"}, "no file in its own folder"),
        ({"location": "a\\..\\..\\b"}, "no file in its own folder"),
        ({"location": ""}, "no file in its own folder"),
        ({"location": "away"}, "copy them too"),
        ({"location": "a" * 4000}, "no file can be called|copy them too"),
        ({"length": 20}, "different models, or cut"),
        ({"offset": 44}, "different models, or cut"),
        ({"offset": 2**62}, "different models, or cut"),
        ({"offset": -8}, "different models, or cut"),
        ({"offset": "x"}, "where numbers were expected"),
        ({"shape": (2**40, 3)}, "different models, or cut"),
    ],
)
def test_values_elsewhere_are_refused(tmp_path, said, words):
    (tmp_path / "model.onnx.data").write_bytes(bytes(64))
    with pytest.raises(CheckpointError, match=words):
        written(tmp_path, [], {"a.w": outside(**said)})


def test_tensors_that_lie_on_one_another_are_refused(tmp_path):
    (tmp_path / "model.onnx.data").write_bytes(bytes(64))
    with pytest.raises(CheckpointError, match="lie on one another"):
        written(tmp_path, [], {"a.w": outside(), "b.w": outside("b.w", offset=8)})


# --- damage -----------------------------------------------------------------------------------------------------------


def field(number: int, content: bytes, length: int | None = None) -> bytes:
    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    return varint(number << 3 | 2) + varint(len(content) if length is None else length) + content


def held(**more) -> bytes:
    return field(7, field(5, TensorProto(name="a", **more).SerializeToString()))


def deep(levels: int) -> bytes:
    content = b""
    for _ in range(levels):
        content = field(1, field(5, field(1, b"body") + field(6, content)))
    return field(7, content)


ATTACKS = {
    "nothing": (b"", "holds 0 graphs"),
    "two graphs": (field(7, b"") * 2, "holds 2 graphs"),
    "other bytes": (b"\x89PNG\r\n\x1a\n" * 9, "kind|field|number"),
    "a length of 2^62": (field(7, b"xx", 2**62), "beyond"),
    "a tensor beyond its graph": (field(7, field(5, b"xx", 99)) + bytes(200), "beyond"),
    "a number without end": (b"\xff" * 64, "has no end"),
    "deep graphs": (deep(5000), "deep"),
    "no text": (field(7, field(1, field(4, b"\xff\xfe"))), "decode"),
    "no type": (held(dims=[1], raw_data=b"abcd"), "type none|not read"),
    "an unknown type": (held(dims=[1], data_type=77, raw_data=b"abcd"), "the type 77"),
    "a shape of exabytes": (held(dims=[2**60], data_type=1, raw_data=b"abcd"), "4 bytes of values"),
    "a product that wraps around": (held(dims=[2**32, 2**32], data_type=1, raw_data=b""), "larger than any"),
    "a negative length": (held(dims=[-1], data_type=1), "axes"),
    "a thousand axes": (held(dims=[1] * 1000, data_type=1, raw_data=b"abcd"), "1000 axes"),
    "more dims than data": (held(dims=[9, 9], data_type=7, int64_data=[1, 2]), "fewer values"),
    "no data": (held(dims=[3], data_type=1), "no values"),
    "the wrong field": (held(dims=[1], data_type=1, int64_data=[1]), "field 7"),
    "values twice": (held(dims=[1], data_type=1, raw_data=b"abcd", float_data=[1]), "twice"),
    "a name twice": (field(7, field(5, TensorProto(name="a", data_type=1, dims=[0]).SerializeToString()) * 2), "twice"),
    "no name": (field(7, field(5, TensorProto(data_type=1, dims=[0]).SerializeToString())), "no name"),
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_what_is_damaged_is_refused_soon_and_in_words(tmp_path, kind):
    content, words = ATTACKS[kind]
    (tmp_path / "x.onnx").write_bytes(content)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path / "x.onnx")
    assert time.monotonic() - start < 5


def test_typed_values_that_are_too_few_are_told_when_they_are_read(tmp_path):
    (tmp_path / "x.onnx").write_bytes(
        held(dims=[4], data_type=7, int64_data=[2**40, 1])
    )  # 7 bytes, for up to 7 numbers
    with pytest.raises(CheckpointError, match="whose values cannot be read"):
        open_checkpoint(tmp_path / "x.onnx").read("a")


def test_values_are_not_read_when_a_file_is_listed(tmp_path):
    size = 2**33
    tensor = TensorProto(name="a.w", data_type=1, dims=[size // 4]).SerializeToString()
    empty = field(9, b"", size)
    rest = len(tensor) + len(empty) + size
    graph = field(5, tensor + empty, rest)
    (tmp_path / "x.onnx").write_bytes(field(7, graph, len(graph) + size))
    os.truncate(tmp_path / "x.onnx", (tmp_path / "x.onnx").stat().st_size + size)
    open_checkpoint({"warm": np.ones(1)})
    tracemalloc.start()
    checkpoint = open_checkpoint(tmp_path / "x.onnx")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert checkpoint.tensors[0].numel == size // 4 and not next(checkpoint.chunks("a.w", start=10**9)).any()


def test_many_nodes_take_no_square_of_time(tmp_path):
    count = 5000
    nodes = [node("MatMul", ["x", f"val_{i}"], f"y{i}", f"/layers.{i}/q/MatMul") for i in range(count)]
    nodes += [node("Identity", ["start" if not i else f"i{i}"], f"i{i + 1}") for i in range(count)]
    weights = {f"val_{i}": np.ones((1, 1), "f4") for i in range(count)} | {"start": np.ones((1, 1), "f4")}
    start = time.monotonic()
    assert len(written(tmp_path, nodes, weights).tensors) == count + 1
    assert time.monotonic() - start < 10


# --- quantized --------------------------------------------------------------------------------------------------------


def dequantized(codes, scale, zero, **settings):
    inputs = ["a.w", "s", *(["z"] if zero is not None else [])]
    weights = {"a.w": codes, "s": scale} | ({"z": zero} if zero is not None else {})
    return [node("DequantizeLinear", inputs, "d", **settings)], weights


SCALES = {
    "all": ((), {}),
    "each row": ((6,), {"axis": 0}),
    "each column": ((9,), {"axis": -1}),
    "blocks of rows": ((2, 9), {"axis": 0, "block_size": 3}),
    "blocks of columns": ((6, 3), {"axis": 1, "block_size": 3}),
}


@pytest.mark.parametrize("dtype", ["i1", "u1"])
@pytest.mark.parametrize("kind", SCALES)
def test_codes_are_what_onnxruntime_makes_of_them(tmp_path, kind, dtype):
    shape, settings = SCALES[kind]
    codes, scale = RNG.integers(-99 if dtype == "i1" else 0, 99, (6, 9)).astype(dtype), abs(RNG.normal(1, 0.1, shape))
    nodes, weights = dequantized(codes, np.asarray(scale, "f4"), RNG.integers(1, 9, shape).astype(dtype), **settings)
    expected = values_of(model(nodes, weights, outputs=[helper.make_tensor_value_info("d", 1, None)]))
    checkpoint = written(tmp_path, [*nodes, node("MatMul", ["x", "d"])], weights)
    assert np.allclose(checkpoint.read("a.w"), expected.T, rtol=1e-6)
    assert checkpoint.skipped == dict.fromkeys("sz", "a piece of a.w") and checkpoint.tensors[0].quantized


@pytest.mark.parametrize(("shape", "axis"), [((6, 4, 3, 3), 0), ((9,), 0)])
def test_kernels_and_biases_are_read_as_the_values_they_stand_for(tmp_path, shape, axis):
    codes = RNG.integers(-99, 99, shape).astype("i4" if len(shape) == 1 else "i1")
    nodes, weights = dequantized(codes, abs(drawn(shape[0])), None, axis=axis)
    expected = values_of(model(nodes, weights, outputs=[helper.make_tensor_value_info("d", 1, None)]))
    checkpoint = written(tmp_path, nodes, weights)
    assert checkpoint.tensors[0].shape == shape and np.allclose(checkpoint.read("a.w"), expected, rtol=1e-6)
    assert sum(len(one) for one in checkpoint.chunks("a.w", 40)) == codes.size


@pytest.mark.parametrize("per_channel", [True, False])
def test_dynamic_quantization_of_onnxruntime_is_read(tmp_path, per_channel):
    weights = {"onnx::MatMul_1": drawn(16, 24), "h.0.q_proj.bias": drawn(24), "wte.weight": drawn(32, 16)}
    nodes = [
        node("Gather", ["wte.weight", "ids"], "x", "/wte/Gather"),
        node("MatMul", ["x", "onnx::MatMul_1"], "y", "/h.0/q_proj/MatMul"),
        node("Add", ["y", "h.0.q_proj.bias"], name="/h.0/q_proj/Add"),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])]
    outputs = [helper.make_tensor_value_info("out", 1, [3, 24])]
    onnx.save(model(nodes, weights, inputs, outputs), tmp_path / "plain.onnx")
    quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "q.onnx", per_channel=per_channel, weight_type=QuantType.QInt8)
    checkpoint = open_checkpoint(tmp_path / "q.onnx")
    assert {*listed(checkpoint)} == {"h.0.q_proj.weight", "h.0.q_proj.bias", "wte.weight"}
    for name, stored in (("h.0.q_proj.weight", weights["onnx::MatMul_1"].T), ("wte.weight", weights["wte.weight"])):
        assert listed(checkpoint)[name].quantized
        assert abs(checkpoint.read(name).numpy() - stored).max() < abs(stored).max() / 100


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [True, False])
def test_bits_of_matmulnbits_are_what_onnxruntime_multiplies_by(tmp_path, bits, zeros):
    width, out, size = 40, 6, 16  # the last group is half full
    groups, packed = 3, -(-3 * bits // 8)
    weights = {
        "onnx::MatMul_1_Q4": RNG.integers(0, 255, (out, groups, size * bits // 8)).astype("u1"),
        "s": abs(RNG.normal(1, 0.2, out * groups)).astype("f4"),
    } | ({"z": RNG.integers(0, 255, out * packed).astype("u1")} if zeros else {})
    one = node("MatMulNBits", ["x", *weights], "out", "/h.0/k_proj/MatMul", "com.microsoft",
               K=width, N=out, bits=bits, block_size=size)  # fmt: skip
    made = model([one], weights | {"x": np.eye(width, dtype="f4")}, (), [helper.make_tensor_value_info("out", 1, None)])
    checkpoint = written(tmp_path, [one], weights)
    (info,) = checkpoint.tensors
    assert (info.name, info.shape, info.role, info.depth) == ("h.0.k_proj.weight", (out, width), "k", 0)
    assert np.allclose(checkpoint.read(info.name), values_of(made).T, rtol=1e-3, atol=1e-2)


def test_what_is_not_known_is_refused_with_its_scales(tmp_path):
    weights = {"e.experts_quant": np.ones((2, 4, 8), "u1"), "e.scales": drawn(2, 8), "b.w": drawn(4, 6)}
    weights |= {"c.w_quantized": np.ones((4, 6), "i1"), "c.w_scale": drawn(4, 6)}
    weights |= {"d.w": helper.make_tensor("d.w", TensorProto.UINT4, (4, 6), [1] * 24), "d.s": drawn(6)}
    nodes = [
        node("QMoE", ["x", "e.experts_quant", "e.scales"], domain="com.microsoft"),
        node("MatMulInteger", ["x", "c.w_quantized"], "y"),
        node("DequantizeLinear", ["d.w", "d.s"], "z", axis=1),
    ]
    checkpoint = written(tmp_path, nodes, weights)
    assert [*listed(checkpoint)] == ["b.w"] and checkpoint.skipped.keys() == weights.keys() - {"b.w"}
    for name in ("e.experts_quant", "c.w_quantized", "d.w"):
        assert checkpoint.skipped[name].startswith("quantized, and not read: ")
    for name in ("e.scales", "c.w_scale", "d.s"):
        assert checkpoint.skipped[name].startswith("beside codes that are quantized")


# --- files, and what others make of them ------------------------------------------------------------------------------


def test_encoder_and_decoder_are_read_together(tmp_path):
    shared, norm = drawn(9, 4), drawn(4)
    parts = {"encoder_model": "q", "decoder_model": "k", "decoder_with_past_model": "v", "decoder_model_merged": "o"}
    for part, letter in parts.items():
        nodes = [
            node("Gather", ["shared.weight", "ids"]),
            node("MatMul", ["x", "onnx::MatMul_1"], "y", f"/{letter}/MatMul"),
        ]
        weights = {"shared.weight": shared, "onnx::MatMul_1": drawn(4, 6), "norm.weight": drawn(4), "ln.weight": norm}
        written(tmp_path, nodes, weights | {f"onnx::Add_{part}": norm}, f"{part}.onnx")
    checkpoint = open_checkpoint(tmp_path)
    assert {*listed(checkpoint)} == {
        "shared.weight", "q.weight", "k.weight", "encoder.norm.weight", "decoder.norm.weight", "ln.weight",
    }  # fmt: skip
    assert checkpoint.skipped["decoder.shared.weight"] == "a copy of shared.weight"


def test_which_of_several_models_must_be_named(tmp_path):
    for name in ("model.onnx", "model_fp16.onnx"):
        written(tmp_path, [], {"a.w": drawn(3)}, name)
    with pytest.raises(CheckpointError, match=r"model\.onnx, model_fp16\.onnx are several ONNX models"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path, variant="fp16").files == [tmp_path / "model_fp16.onnx"]
    (tmp_path / "model_fp16.onnx").unlink()
    (tmp_path / "model.onnx_data").write_bytes(b"no weights by themselves")
    assert open_checkpoint(tmp_path).files == [tmp_path / "model.onnx"]


def test_from_afar_it_is_said_to_download_it():
    fsspec.filesystem("memory").pipe("/far/model.onnx", b"x")
    with pytest.raises(CheckpointError, match="Download it"):
        open_checkpoint("memory://far/model.onnx")


def test_models_are_surveyed_compared_and_not_merged(tmp_path):
    weights = {"onnx::MatMul_1": drawn(64, 96), "h.0.q_proj.bias": drawn(96), "onnx::Where_3": drawn(1, 4)}
    nodes = [node("MatMul", ["x", "onnx::MatMul_1"], "y"), node("Add", ["y", "h.0.q_proj.bias"])]
    base = written(tmp_path, nodes, weights, "base.onnx")
    moved = weights | {"onnx::MatMul_1": weights["onnx::MatMul_1"] + drawn(64, 96) / 10}
    tuned = written(tmp_path, nodes, moved, "tuned.onnx")
    plain = {name: tuned.read(name) for name in listed(tuned)}
    assert [*lfmlib.survey(base, progress=False)["tensor"]] == ["h.0.q_proj.weight"]
    tables = [lfmlib.compare(base, other, progress=False) for other in (tuned, plain)]
    assert [*tables[0]["tensor"]] == [*tables[1]["tensor"]] == ["h.0.q_proj.weight"]
    tables = [lfmlib.overlap(base, [other, base], progress=False) for other in (tuned, plain)]
    assert np.allclose(tables[0]["size"], tables[1]["size"])
    with pytest.raises(ValueError, match="is an ONNX file, whose graph a merge cannot write"):
        lfmlib.merge(base, [tuned], "average", out=tmp_path / "out", progress=False)


# --- exports ----------------------------------------------------------------------------------------------------------


def exported(made: torch.nn.Module, *inputs: torch.Tensor) -> bytes:
    """By torch's first exporter; the second needs another package."""
    kind = type(made)
    made.__class__ = type(kind.__name__, (kind,), {"forward": lambda self, one: kind.forward(self, one)})
    made.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, one in made.named_parameters():
            one.normal_(float("norm" in name.lower() and one.ndim == 1), 0.05)
        torch.onnx.export(made, inputs, out := io.BytesIO(), dynamo=False, opset_version=17)
    return out.getvalue()


def small(kind: str):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if kind == "bert":
        config = transformers.BertConfig(vocab_size=60, max_position_embeddings=20, return_dict=False, **sizes)
        return transformers.BertModel(config), torch.arange(7)[None]
    if kind == "vit":
        config = transformers.ViTConfig(image_size=16, patch_size=4, return_dict=False, **sizes)
        return transformers.ViTModel(config), torch.randn(1, 3, 16, 16)
    config = transformers.WhisperConfig(
        vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=1, encoder_ffn_dim=48, max_source_positions=30,
        encoder_attention_heads=4, decoder_attention_heads=4, num_mel_bins=16, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, return_dict=False,
    )  # fmt: skip
    return transformers.WhisperModel(config).encoder, torch.randn(1, 16, 60)


@pytest.mark.parametrize(("kind", "folded"), [("bert", ()), ("vit", ()), ("whisper", ("embed_positions.weight",))])
def test_an_export_is_listed_as_its_module_is(tmp_path, kind, folded):
    torch.manual_seed(0)
    made, example = small(kind)
    (tmp_path / "model.onnx").write_bytes(exported(made, example))
    checkpoint, own = open_checkpoint(tmp_path / "model.onnx"), open_checkpoint(made)
    expected = {info for info in own.tensors if info.name not in folded}
    assert {*checkpoint.tensors} == expected
    assert all(torch.equal(checkpoint.read(info.name), own.read(info.name)) for info in expected)
