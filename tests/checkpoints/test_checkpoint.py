"""Checkpoints of every kind of place give the same tensors, in bounded memory; damaged ones say what is wrong."""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model

from lfmlib.checkpoints.checkpoint import Checkpoint, CheckpointError, TensorInfo, open_checkpoint

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64),
]


def made(dtype=torch.float32, *shape):
    values = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape) / 8 - 1
    return values.to(dtype)


def some_tensors():
    tensors = {f"w.{i}": made(dtype, 3, 5) for i, dtype in enumerate(DTYPES)}
    return tensors | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "vector": made(torch.float16, 7)}


def same(a, b):
    """Equal in dtype, shape and every bit."""
    as_bytes = (t.contiguous().reshape(-1).view(torch.uint8) if t.numel() else None for t in (a, b))
    x, y = as_bytes
    return a.dtype == b.dtype and a.shape == b.shape and (x is None or torch.equal(x, y))


def write(path, header, data=b"", length=None):
    """A safetensors file with any header."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def entry(start, stop, dtype="F32", shape=None):
    shape = [(stop - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


# --- the same tensors from everywhere ---------------------------------------------------------------------------------


@pytest.fixture(params=["safetensors", "bin", "legacy", "nested", "mapping", "module"])
def anywhere(request, tmp_path):
    """(expected tensors, checkpoint) for each kind of place."""
    tensors = some_tensors()
    if request.param == "safetensors":
        save_file(tensors, tmp_path / "model.safetensors")
        return tensors, open_checkpoint(tmp_path / "model.safetensors")
    if request.param == "bin":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        return tensors, open_checkpoint(tmp_path)
    if request.param == "legacy":
        tensors = {
            name: tensor for name, tensor in tensors.items() if "float8" not in str(tensor.dtype)
        }  # torch cannot
        torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        return tensors, open_checkpoint(tmp_path / "old.pth")
    if request.param == "nested":
        torch.save({"epoch": 3, "state_dict": OrderedDict(tensors), "optimizer": {}}, tmp_path / "run.pt")
        return tensors, open_checkpoint(str(tmp_path / "run.pt"))
    if request.param == "mapping":
        return tensors, open_checkpoint(tensors)
    module = torch.nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name.replace(".", "_"), tensor)
    return {name.replace(".", "_"): tensor for name, tensor in tensors.items()}, open_checkpoint(module)


def test_an_open_checkpoint_is_passed_through():
    checkpoint = open_checkpoint({"a.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)})
    assert (
        open_checkpoint(checkpoint) is checkpoint and open_checkpoint(checkpoint, revision="", select="") is checkpoint
    )
    assert [info.name for info in open_checkpoint(checkpoint, select="^b").tensors] == ["b.weight"]
    with pytest.raises(ValueError, match="was given for mapping, which is open already"):
        open_checkpoint(checkpoint, revision="main")


def test_names_shapes_dtypes_values(anywhere):
    expected, ckpt = anywhere
    assert {info.name for info in ckpt.tensors} == set(expected)
    for info in ckpt.tensors:
        tensor = expected[info.name]
        assert isinstance(info, TensorInfo)
        assert (info.shape, info.numel) == (tuple(tensor.shape), tensor.numel())
        assert info.dtype == str(tensor.dtype).removeprefix("torch.")
        assert same(ckpt.read(info.name), tensor)
        chunks = list(ckpt.chunks(info.name, bytes=16))
        assert all(chunk.dim() == 1 and chunk.numel() * chunk.element_size() <= 16 for chunk in chunks)
        assert same(torch.cat(chunks) if chunks else tensor.flatten(), tensor.flatten())


def test_a_pickled_copy_reads_the_same(anywhere):
    expected, ckpt = anywhere
    copy = pickle.loads(pickle.dumps(ckpt))
    assert (copy.tensors, copy.name, copy.files) == (ckpt.tensors, ckpt.name, ckpt.files)
    assert all(same(copy.read(name), tensor) for name, tensor in expected.items())


def test_repr_tells_the_essentials(anywhere):
    _, ckpt = anywhere
    assert re.search(r"Checkpoint .*\d+ tensors, \d+ values \(.*bfloat16.*\), 0 layers, \d files", repr(ckpt))


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(0, 9), max_size=3),
    dtype=st.sampled_from(["float32", "bfloat16", "float8_e4m3fn", "int64"]),
    size=st.integers(1, 200),
    flip=st.booleans(),
)
def test_chunks_join_to_the_whole(shape, dtype, size, flip):
    tensor = made(getattr(torch, dtype), *shape)
    tensor = tensor.permute(list(reversed(range(tensor.dim())))) if flip else tensor
    ckpt = open_checkpoint({"x": tensor})
    chunks = list(ckpt.chunks("x", bytes=size))
    assert same(torch.cat(chunks) if chunks else tensor.flatten(), tensor.flatten())
    assert all(0 < chunk.numel() <= max(1, size // tensor.element_size()) for chunk in chunks)


def test_file_order(tmp_path):
    # safetensors writes wide dtypes first, then by name; the checkpoint follows the file, a mapping its own order.
    tensors = {"b": made(torch.float16, 2), "a": made(torch.float16, 2), "c": made(torch.float64, 2)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert [info.name for info in open_checkpoint(tmp_path / "x.safetensors").tensors] == ["c", "a", "b"]
    assert [info.name for info in open_checkpoint(tensors).tensors] == ["b", "a", "c"]


def test_numpy_arrays_of_many_kinds():
    frozen = np.arange(6.0).reshape(2, 3)
    frozen.flags.writeable = False
    arrays = {
        "frozen": frozen,
        "reversed": np.arange(4.0)[::-1],
        "big_endian": np.arange(3, dtype=">f4"),
        "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
        "float8": np.arange(3).astype(ml_dtypes.float8_e4m3fn),
    }
    with_text = open_checkpoint(arrays | {"text": np.array(["a"]), "list": [1.0], "none": None})
    assert [info.dtype for info in with_text.tensors] == ["float64", "float64", "float32", "bfloat16", "float8_e4m3fn"]
    for name, array in arrays.items():
        assert with_text.read(name).double().tolist() == array.astype(np.float64).tolist()
    assert set(with_text.skipped) == {"text", "list", "none"}
    assert "not a tensor (list)" in with_text.skipped["list"]


def test_names_and_config(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "made"}', encoding="utf-8")
    save_file({"x": made(torch.float32, 2)}, folder / "model.safetensors")
    save_file({"x": made(torch.float32, 2)}, tmp_path / "delta.safetensors")
    named = [open_checkpoint(source).name for source in (folder, folder / "model.safetensors")]
    assert named == ["my-model", "my-model"]
    assert open_checkpoint(folder / "model.safetensors").config == {"model_type": "made"}
    assert open_checkpoint(tmp_path / "delta.safetensors").name == "delta"
    assert open_checkpoint(torch.nn.Linear(2, 2)).name == "Linear"


def test_minilm():
    ckpt = open_checkpoint("minilm")
    matrices = [info for info in ckpt.tensors if len(info.shape) == 2 and info.dtype == "float32"]
    layers = [(info.role, info.depth) for info in matrices if info.depth is not None]
    assert sorted(layers) == sorted((role, depth) for role in ("q", "k", "v", "o", "up", "down") for depth in range(6))
    around = sorted(info.role for info in matrices if info.depth is None)
    assert around == ["embed", "embed", "embed", "pooler"]
    assert {info.name: info.dtype for info in ckpt.tensors}["embeddings.position_ids"] == "int64"
    assert ckpt.config["model_type"] == "bert"
    assert ckpt.read("pooler.dense.weight").shape == (384, 384)


# --- ties, buffers, and what is left out ------------------------------------------------------------------------------


def test_tied_tensors_count_once(tmp_path):
    module = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)})
    module["head"].weight = module["embed"].weight
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    save_model(module, str(tmp_path / "tied.safetensors"))
    for source in (module, module.state_dict(), tmp_path / "pytorch_model.bin", tmp_path / "tied.safetensors"):
        ckpt = open_checkpoint(source)
        assert [info.name for info in ckpt.tensors] == ["embed.weight"]
        assert ckpt.skipped == {"head.weight": "tied to embed.weight"}
        with pytest.raises(ValueError, match=r"'head.weight' .* is not read: tied to embed.weight"):
            ckpt.read("head.weight")


def test_views_of_one_storage_that_differ_are_not_tied():
    whole = made(torch.float32, 4, 4)
    ckpt = open_checkpoint({"whole": whole, "part": whole[:2], "turned": whole.t(), "next": whole[2:], "e": whole[:0]})
    assert len(ckpt.tensors) == 5 and not ckpt.skipped


def test_buffers_are_listed_and_computed_ones_reported():
    module = torch.nn.Module()
    module.register_buffer("position_ids", torch.arange(4))
    module.register_buffer("mask", torch.ones(2, 2, dtype=torch.bool))
    module.register_buffer("inv_freq", torch.ones(3), persistent=False)
    ckpt = open_checkpoint(module)
    assert [(info.name, info.dtype) for info in ckpt.tensors] == [("position_ids", "int64"), ("mask", "bool")]
    assert ckpt.skipped == {"inv_freq": "a buffer not saved with the model"}


def test_what_has_no_values_is_skipped(tmp_path):
    with torch.device("meta"):
        empty = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"no tensors .*meta device"):
        open_checkpoint(empty)
    write(tmp_path / "six.safetensors", {"a": entry(0, 3, "F6_E2M3", [4]), "b": entry(3, 7)}, b"\0" * 7)
    packed = open_checkpoint(tmp_path / "six.safetensors")
    assert [info.name for info in packed.tensors] == ["b"] and "F6_E2M3" in packed.skipped["a"]


# --- selecting --------------------------------------------------------------------------------------------------------


def test_select():
    tensors = {"a.weight": torch.ones(2), "a.bias": torch.ones(3), "b.weight": torch.ones(4), "n": "no tensor"}
    ckpt = open_checkpoint(tensors, select=r"\.weight$")
    assert [info.name for info in ckpt.tensors] == ["a.weight", "b.weight"] and ckpt.skipped == {}
    assert open_checkpoint(tensors, select="").tensors == open_checkpoint(tensors).tensors
    assert [info.name for info in open_checkpoint(tensors).select("^a").tensors] == ["a.weight", "a.bias"]
    with pytest.raises(
        ValueError, match=r"select='layer' matches none of the 3 tensors .*a\.weight, a\.bias, b\.weight"
    ):
        open_checkpoint(tensors, select="layer")
    with pytest.raises(ValueError, match="n is skipped: not a tensor"):
        open_checkpoint(tensors, select="^n$")
    with pytest.raises(ValueError, match=r"select='\(' is not a regular expression"):
        open_checkpoint(tensors, select="(")


def test_only_makes_a_small_checkpoint():
    ckpt = open_checkpoint({"a": torch.ones(10**6), "b": torch.arange(3.0)})
    small = ckpt.only(["b"])
    assert isinstance(small, Checkpoint) and len(pickle.dumps(small)) < 5000
    assert small.read("b").tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="lists no tensor 'c'"):
        ckpt.only(["b", "c"])


def test_unknown_names_and_sources():
    ckpt = open_checkpoint({"layer.weight": torch.ones(2)})
    for call in (ckpt.read, ckpt.chunks):
        with pytest.raises(ValueError, match=r"no tensor 'layer\.wieght'\. Near it: layer\.weight"):
            call("layer.wieght")
    with pytest.raises(ValueError, match="at least 1 byte"):
        ckpt.chunks("layer.weight", bytes=0)
    with pytest.raises(TypeError, match=r"a int cannot be opened.*Expected a path"):
        open_checkpoint(3)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        open_checkpoint({})


# --- mapping: memory, safety, odd files -------------------------------------------------------------------------------


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path):
    save_file({"x": torch.ones(2000)}, tmp_path / "x.safetensors")
    torch.save({"x": torch.ones(2000)}, tmp_path / "x.bin")
    for path in (tmp_path / "x.safetensors", tmp_path / "x.bin"):
        before = path.read_bytes()
        open_checkpoint(path).read("x").zero_()
        assert path.read_bytes() == before


def test_unaligned_values_come_aligned(tmp_path):
    values = np.arange(6, dtype="<f4")
    header = json.dumps({"byte": entry(0, 1, "U8", [1]), "x": entry(1, 25, "F32", [2, 3])}).encode()
    path = write(tmp_path / "x.safetensors", header + b" " * (-len(header) % 8), b"\7" + values.tobytes())
    ckpt = open_checkpoint(path)
    for tensor in (ckpt.read("x").flatten(), *ckpt.chunks("x")):
        assert tensor.tolist() == values.tolist() and tensor.data_ptr() % 4 == 0


def test_a_file_that_shrank_is_an_error_and_not_a_crash(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(10**5)}, path)
    ckpt = open_checkpoint(path)
    os.truncate(path, 1000)
    with pytest.raises(CheckpointError, match=r"has 1000 bytes, but \d+ were there when it was opened"):
        ckpt.read("x")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        ckpt.read("x")


SWEEP = """
import sys, torch
from lfmlib.checkpoints.checkpoint import open_checkpoint

def anonymous():
    line = next(line for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous"))
    return int(line.split()[1]) / 1024

for warm in (True, False):  # torch starts its threads and their memory on first use
    start = anonymous()
    for info in (ckpt := open_checkpoint(sys.argv[1])).tensors:
        for chunk in ckpt.chunks(info.name):
            chunk.view(torch.uint8).sum()
    if not warm:
        print(anonymous() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux tells anonymous memory apart")
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_sweeping_a_file_takes_no_anonymous_memory(tmp_path, kind):
    # Transposed and plain alike.
    tensors = {
        "h.0.attn.c_attn.weight": torch.zeros(4096, 3 * 4096, dtype=torch.bfloat16),
        "h.0.attn.c_attn.bias": torch.zeros(3 * 4096),
        "big": torch.zeros(8192, 4096, dtype=torch.bfloat16),
    }
    path = tmp_path / f"x.{kind}"
    save_file(tensors, path) if kind == "safetensors" else torch.save(tensors, path)
    fixed = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}  # else the allocator keeps up to 32 MiB it has freed
    command = [sys.executable, "-c", SWEEP, path]
    done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8", env=fixed)
    assert float(done.stdout) < 32, "MiB above the start"


@pytest.mark.skipif(sys.platform != "linux", reason="a private mapping reserves swap elsewhere")
def test_a_file_larger_than_memory_opens(tmp_path):
    size = 2**40  # a sparse file: it takes no room on disk
    path = write(tmp_path / "huge.safetensors", {"x": entry(0, size, "BF16", [2**29, 2**10])})
    try:
        with open(path, "r+b") as file:
            start = file.seek(0, 2)
            file.truncate(start + size)
            file.seek(start + size - 2)
            file.write(b"\x80\x3f")
    except OSError as error:
        pytest.skip(f"this file system holds no sparse files of 1 TiB: {error}")
    tensor = open_checkpoint(path).read("x")
    assert tensor.shape == (2**29, 2**10) and tensor[-1, -1] == 1 and tensor[0, 0] == 0


# --- damaged and hostile files ----------------------------------------------------------------------------------------

BROKEN = {
    "empty": (b"", "0 bytes, too few for a header"),
    "no header": (b"\1\2", "2 bytes, too few for a header"),
    "header beyond the file": (
        struct.pack("<Q", 10**6) + b"{}",
        "declare a header of 1000000 bytes, and the file has 10",
    ),
    "header of absurd length": (struct.pack("<Q", 2**60) + b"{}", "declare a header of 1152921504606846976 bytes"),
    "not JSON": (struct.pack("<Q", 8) + b"{nothing", "JSON"),
    "a renamed text file": (b"Dear reader, these are no weights.\n", "declare a header of"),
}
BROKEN_HEADERS = {
    "truncated": ({"a": entry(0, 16)}, 8, r"truncated, or bytes were added"),
    "trailing bytes": ({"a": entry(0, 16)}, 64, r"truncated, or bytes were added"),
    "overlapping": ({"a": entry(0, 16), "b": entry(8, 24)}, 24, r"overlap.*`b`"),
    "a hole": ({"a": entry(0, 16), "b": entry(20, 36)}, 36, r"holes.*`b`"),
    "out of range": ({"a": entry(0, 2**40)}, 16, r"truncated"),
    "shape that does not fit": ({"a": entry(0, 16, "F32", [5])}, 16, r"do not fit their shapes"),
    "unknown dtype": ({"a": entry(0, 16, "F99", [4])}, 16, r"unknown dtype .*F99"),
}


@pytest.mark.parametrize("kind", [*BROKEN, *BROKEN_HEADERS])
def test_broken_safetensors(tmp_path, kind):
    path = tmp_path / "model.safetensors"
    if kind in BROKEN:
        content, words = BROKEN[kind]
        path.write_bytes(content)
    else:
        header, size, words = BROKEN_HEADERS[kind]
        write(path, header, b"\0" * size)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(
        CheckpointError, match=rf"{re.escape(str(path))} is not a sound safetensors file: .*{words}"
    ) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).endswith("Download or save it again.")
    assert sorted(os.listdir(tmp_path)) == before, "nothing is left behind"


class Payload:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_code_in_a_pickle_is_never_run(tmp_path, form):
    path, mark = tmp_path / "evil.bin", tmp_path / "ran"
    content = {"weight": torch.ones(2), "extra": Payload(mark)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(Payload(mark), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"holds Python code besides tensors \(.*system\).*none of it was run"):
        open_checkpoint(tmp_path)
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*pass the state_dict"):
        open_checkpoint(tmp_path / "module.pt")


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "pickled numbers"])
def test_broken_pickles(tmp_path, kind):
    path = tmp_path / "x.pt"
    torch.save({"x": torch.ones(1000)}, path)
    broken = {
        "truncated": path.read_bytes()[:2000],
        "empty": b"",
        "text": b"hello world",
        "pickled numbers": pickle.dumps({"a": 1}),
    }
    path.write_bytes(broken[kind])
    with pytest.raises(
        CheckpointError, match=rf"{re.escape(str(path))} \(\d+ bytes\) cannot be read as a plain dictionary"
    ):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(1)], "holds a list, where a dictionary of tensors was expected. Load it yourself"),
        ({"epoch": 1, "loss": 0.5}, r"no tensors of a model .*; found the keys \['epoch', 'loss'\]"),
    ],
)
def test_pickles_without_a_clear_set_of_tensors(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path / "x.pt")


def test_what_is_no_tensor_in_a_pickle_is_reported(tmp_path):
    torch.save({"x": torch.ones(2), "step": 7, "p": torch.nn.Parameter(torch.zeros(3))}, tmp_path / "x.pt")
    ckpt = open_checkpoint(tmp_path / "x.pt")
    assert [info.name for info in ckpt.tensors] == ["x", "p"] and ckpt.skipped == {"step": "not a tensor (int)"}
    assert not ckpt.read("p").requires_grad
