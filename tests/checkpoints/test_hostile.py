"""Files made to do harm: each is read or refused in words, soon, in little memory, and nothing outside it is touched.

What is damaged by chance is that of hostile.py; fuzz.py does the same for longer, by hand.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile

import fsspec
import pytest
import torch
from hostile import EXTERNAL, SEEDS, attempt, damaged, plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from lfmlib.checkpoints import addresses, http
from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint
from lfmlib.checkpoints.pickled_files import check_pickle
from lfmlib.merging import model_folder as folders

QUICK = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)

# Opens argv[1] with 1 GiB above what the imports took, and prints the refusal.
BOUNDED = """
import resource, sys
from pathlib import Path
from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for source in sys.argv[1:]:
    try:
        print("READ", open_checkpoint(source))
    except CheckpointError as error:
        print("REFUSED", error)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
assert grown < 200, f"{grown} MiB"
"""


@functools.cache
def bounded(*paths) -> list[str]:
    """What comes of opening each in a process with little memory and time."""
    command = [sys.executable, "-c", BOUNDED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, timeout=60, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return re.findall(r"^(?:READ|REFUSED) .*", done.stdout, flags=re.MULTILINE)


@pytest.fixture(autouse=True)
def soon():
    """No hand-picked attack takes long; the fuzzed tests are many."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 20


# --- any damage at all ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", SEEDS)
@QUICK
@given(script=st.binary(min_size=7, max_size=37))
def test_damaged_files_are_read_or_refused(tmp_path, target, script):
    attempt(tmp_path, damaged(target, script))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["safetensors", "gguf", "bin", "onnx"])
def test_files_cut_anywhere(tmp_path, target):
    for seed in SEEDS[target]:
        for length in range(0, len(seed), 1 if target == "gguf" else 7):
            said = attempt(tmp_path, {f"model.{target}": seed[:length], "model.onnx.data": EXTERNAL})
            assert said != "read" or length > len(seed) - 64, "the last bytes of a legacy pickle or of padding may go"


# --- safetensors ------------------------------------------------------------------------------------------------------


def write(path, header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def entry(start, stop, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


X = '"dtype": "F32", "shape": [2], "data_offsets": [0, 8]'
HEADERS = {
    "a header of petabytes": (b"{}", 2**53, "declare a header of 9007199254740992 bytes, and the file has"),
    "a negative length": (b"{}", 2**64 - 1, "declare a header of 18446744073709551615 bytes"),
    "a length one too long": (b"{}", 11, "declare a header of 11 bytes"),
    "a tensor of petabytes": ({"x": entry(0, 2**53)}, None, "describes other data than the"),
    "negative offsets": ({"x": entry(-8, 0)}, None, "not a sound safetensors file"),
    "offsets the wrong way round": ({"x": entry(8, 0)}, None, "not a sound safetensors file"),
    "overlapping": ({"x": entry(0, 8), "y": entry(4, 8)}, None, "overlap"),
    "outside": ({"x": entry(0, 16)}, None, "describes other data"),
    "a product that wraps around": ({"x": entry(0, 8, "F32", [2**62, 2, 2])}, None, "not a sound safetensors file"),
    "another dtype": ({"x": entry(0, 8, "F64", [2])}, None, "do not fit their shapes"),
    "a number that is none": ({"x": entry(0, 8, "F32", [2.0])}, None, "not a sound safetensors file"),
    "axes without values, beyond int64": (
        {"x": entry(0, 8), "y": entry(8, 8, "F32", [0, 2**63])},
        None,
        "larger than any",
    ),
    "axes without values, whose product is": (
        {"x": entry(0, 8), "y": entry(8, 8, "F32", [0, 2**62, 2**62])},
        None,
        "larger than any tensor can be",
    ),
    "deep nesting": (b'{"x": {"deep": ' + b"[" * 10**5 + b"]" * 10**5 + b", " + X.encode() + b"}}", None, "recursion"),
    "a name twice": ((f'{{"x": {{{X}}}, "x": {{{X}}}}}').encode(), None, "the name 'x' stands there twice"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_hostile_safetensors(tmp_path, kind):
    header, length, words = HEADERS[kind]
    path = write(tmp_path / "model.safetensors", header, b"\0" * 8, length)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)


def test_axes_without_values_make_no_tensors(tmp_path):
    """A stack of 3 × 10⁹ experts of nothing was as many tensors; three empty shares cannot be cut from nothing."""
    names = {"blk.0.ffn_up_exps.weight": [3 * 10**9, 0, 0], "h.0.self_attention.query_key_value.weight": [0, 4]}
    path = write(tmp_path / "x.safetensors", {name: entry(0, 0, "F32", shape) for name, shape in names.items()})
    (tmp_path / "config.json").write_text('{"model_type": "bloom", "num_attention_heads": 8}', encoding="utf-8")
    checkpoint = open_checkpoint(path)
    assert {info.name: list(info.shape) for info in checkpoint.tensors} == names
    assert not any([*checkpoint.chunks(name)] for name in names)


def test_a_stack_of_too_many_experts_stays_whole(tmp_path):
    path = write(
        tmp_path / "x.safetensors", {"blk.0.ffn_up_exps.weight": entry(0, 10**6, "U8", [10**6, 1, 1])}, b"0" * 10**6
    )
    (info,) = open_checkpoint(path).tensors
    assert info.shape == (10**6, 1, 1)


@pytest.mark.slow
def test_many_names_take_no_square_of_time(tmp_path):
    """Whether experts stand beside `mlp.gate` was asked of every name, for every name: 20,000 took two minutes."""
    header = {f"{i}.mlp.gate.weight": entry(0, 0, "F32", [0, 1]) for i in range(20_000)}
    start = time.monotonic()
    assert len(open_checkpoint(write(tmp_path / "x.safetensors", header)).tensors) == 20_000
    assert time.monotonic() - start < 10


# --- config.json and the index ----------------------------------------------------------------------------------------

CONFIGS = [
    {"model_type": "bloom", "num_attention_heads": 2**33, "head_dim": "x"},  # took all memory: "x" * 2**33
    {"model_type": "bloom", "num_attention_heads": 3, "head_dim": 2.0},
    {"model_type": "bloom", "num_attention_heads": {"a": 1}, "head_dim": [4]},
    {"model_type": "falcon", "num_attention_heads": 2, "new_decoder_architecture": True, "num_kv_heads": "many"},
    {"model_type": "bloom", "num_attention_heads": True, "head_dim": 8},
    {"model_type": ["bloom"], "num_attention_heads": True, "text_config": 3},
    *({"quantization_config": {"weight_block_size": n}} for n in ([0, 0], ["a", "b"], [2], {"a": 1}, 2.5, [-4, -4])),
    {"quantization_config": {"bits": []}},
    {"quantization_config": {"bits": 4.0}},
    {"quantization_config": ["fp8"]},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: json.dumps(config)[:60])
def test_nonsense_in_config_json(tmp_path, config):
    for seed in SEEDS["safetensors"]:
        files = {"model.safetensors": seed, "config.json": json.dumps(config).encode()}
        assert attempt(tmp_path, files) == "read"


DEEP = b'{"a": ' * 10**5
INDEXES = {
    "deep": (DEEP, "cannot be read as JSON .*recursion"),
    "twice": (b'{"weight_map": {"x": "a.safetensors", "x": "b.safetensors"}}', "the name 'x' stands there twice"),
    "itself": ({"x": "model.safetensors.index.json"}, "ends in '.json'; this library reads"),
    "a folder": ({"x": "inner"}, "1 are missing .*'inner'"),
    "itself as a folder": ({"x": "."}, "1 are missing"),
    "upwards": ({"x": "../secret.safetensors"}, "path outside its folder"),
    "upwards from within": ({"x": "inner/../../secret.safetensors"}, "path outside its folder"),
    "upwards, as Windows has it": ({"x": "..\\secret.safetensors"}, "path outside its folder"),
    "absolute": ({"x": "/etc/passwd"}, "path outside its folder"),
    "an address": ({"x": "http://127.0.0.1:9/x.safetensors"}, "path outside its folder"),
    "too long": ({"x": "a" * 5000}, "1 are missing"),
    "a byte 0": ({"x": "a\0b"}, r"1 are missing .*'a\\x00b'"),
    "half a letter": ({"x": "\ud800"}, r"1 are missing .*'\\ud800'"),
    "a number": ({"x": 3}, 'no "weight_map" from tensor names'),
    "nothing": ({}, "holds no tensors"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_hostile_indexes(tmp_path, kind):
    content, words = INDEXES[kind]
    save_file({"x": torch.ones(2)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    content = content if isinstance(content, bytes) else json.dumps({"weight_map": content}).encode()
    (folder / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(folder)
    str(caught.value).encode()  # it can be printed


def test_a_config_that_is_deep_or_vast(tmp_path, monkeypatch):
    save_file({"x": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(DEEP)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as JSON .*recursion"):
        open_checkpoint(tmp_path)
    os.truncate(tmp_path / "config.json", 2**40)
    with pytest.raises(CheckpointError, match="has 1099511627776 bytes, where at most 16777216 were expected"):
        open_checkpoint(tmp_path)


# --- links, pipes and other things that are no files ------------------------------------------------------------------


def test_links_that_lead_nowhere_and_in_circles(tmp_path):
    path = tmp_path / "model.safetensors"
    for aim in (tmp_path / "absent", path):
        path.symlink_to(aim)
        for source in (tmp_path, path):
            with pytest.raises(FileNotFoundError, match=r"not there|not found"):
                open_checkpoint(source)
        path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(FileNotFoundError, match="not there"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "x.gguf", "x.onnx"]
)
def test_pipes_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises((CheckpointError, FileNotFoundError), match=r"not there|no file"):
        open_checkpoint(tmp_path)


def test_a_link_to_a_file_is_followed(tmp_path):
    """The hub's cache is made of links from a model's folder to files outside it."""
    (tmp_path / "snapshot").mkdir()
    save_file({"x": torch.ones(2)}, tmp_path / "blob")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blob")
    assert open_checkpoint(tmp_path / "snapshot").read("x").tolist() == [1, 1]


def test_nothing_outside_a_model_is_copied_beside_a_merged_one(tmp_path):
    home, out = tmp_path / "made" / "model", tmp_path / "out"
    (home / "1_Pooling").mkdir(parents=True)
    out.mkdir()
    (tmp_path / "made" / "secret.txt").write_text("secret", encoding="utf-8")
    (home / "1_Pooling" / "config.json").write_text("{}", encoding="utf-8")
    (home / "1_Pooling" / "back").symlink_to("..")
    (home / "away").symlink_to(tmp_path / "made")
    (home / "config.json").write_text("{}", encoding="utf-8")
    (home / "modules.json").write_text(
        json.dumps([{"path": name} for name in ("1_Pooling", "..", "away", ".", 3)]), encoding="utf-8"
    )
    save_file({"x": torch.ones(2)}, home / "model.safetensors")
    folders._copy(open_checkpoint(home), out, None)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if "secret" in path.name) == [
        "made/secret.txt"
    ]
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == [
        "1_Pooling",
        "1_Pooling/config.json",
        "modules.json",
    ]
    (home / "modules.json").write_bytes(DEEP)
    folders._copy(open_checkpoint(home), out, None)


# --- GGUF -------------------------------------------------------------------------------------------------------------


def text(words: bytes) -> bytes:
    return struct.pack("<Q", len(words)) + words


def header(tensors=0, keys=0, body=b"", version=3, magic=b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys) + body


def array(kind: int, count: int, body=b"") -> bytes:
    return text(b"k") + struct.pack("<IIQ", 9, kind, count) + body


def tensor(name: bytes, shape, kind=0, offset=0, axes=None) -> bytes:
    axes = len(shape) if axes is None else axes
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", axes, *shape, kind, offset)


GGUFS = {
    "other bytes": (header(magic=b"GGML"), "begins with b'GGML'"),
    "the other byte order": (header(version=3 << 24), "in the other order"),
    "an unknown version": (header(version=9), "version is 9"),
    "2^60 tensors": (header(tensors=2**60), "asks for .* more bytes, where"),
    "2^64 - 1 keys": (header(keys=2**64 - 1), "asks for .* more bytes, where"),
    "an array of 2^60 numbers": (header(keys=1, body=array(0, 2**60)), "asks for 1152921504606846976 more bytes"),
    "an array of 2^60 texts": (header(keys=1, body=array(8, 2**60)), "asks for 9223372036854775808 more bytes"),
    "an array of 2^60 arrays": (header(keys=1, body=array(9, 2**60)), "more bytes"),
    "a text of 2^63 bytes": (header(keys=1, body=struct.pack("<Q", 2**63)), "more bytes"),
    "arrays in arrays": (header(keys=1, body=array(9, 1, struct.pack("<IQ", 9, 1) * 10**4)), "4 arrays deep"),
    "an unknown kind": (header(keys=1, body=text(b"k") + struct.pack("<I", 77)), "kind 77"),
    "a key twice": (header(keys=2, body=(text(b"k") + struct.pack("<IB", 0, 1)) * 2), "the key 'k' twice"),
    "no text": (header(keys=1, body=text(b"\xff") + struct.pack("<IB", 0, 1)), "can't decode"),
    "an alignment of 0": (header(keys=1, body=text(b"general.alignment") + struct.pack("<II", 4, 0)), "power of two"),
    "a tensor twice": (header(2, 0, tensor(b"x", [0]) * 2), "'x' twice"),
    "2^32 - 1 axes": (header(1, 0, tensor(b"x", [1], axes=2**32 - 1)), "4294967295 axes"),
    "an unknown format": (header(1, 0, tensor(b"x", [1], kind=999)), "format 999"),
    "a tensor of exabytes": (header(1, 0, tensor(b"x", [2**58])), "behind the end of the file"),
    "a product that wraps around": (header(1, 0, tensor(b"x", [2**32, 2**32])), "larger than any tensor"),
    "an offset far outside": (header(1, 0, tensor(b"x", [1], offset=2**63)), "behind the end of the file"),
    "an offset that wraps around": (header(1, 0, tensor(b"x", [1], offset=2**64 - 32)), "behind the end of the file"),
    "half a block": (header(1, 0, tensor(b"x", [31], kind=8)), "whole blocks of 32"),
    "no axes and blocks": (header(1, 0, tensor(b"x", [], kind=8)), "whole blocks of 32"),
    "overlapping": (header(2, 0, tensor(b"x", [4]) + tensor(b"y", [4], offset=4)), "'x' and 'y' overlap"),
}


@pytest.mark.parametrize("kind", GGUFS)
def test_hostile_gguf(tmp_path, kind):
    content, words = GGUFS[kind]
    path = tmp_path / "x.gguf"
    path.write_bytes(content + b"\0" * 256)
    with pytest.raises(CheckpointError, match=rf"x\.gguf \(\d+ bytes\) is not a sound GGUF file.*{words}"):
        open_checkpoint(path)
    files = fsspec.filesystem("memory")
    files.pipe("/hostile/x.gguf", path.read_bytes())
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint("memory://hostile/x.gguf")


def test_rows_of_no_values(tmp_path):
    (tmp_path / "x.gguf").write_bytes(
        header(2, 0, tensor(b"x", [0, 3], kind=8) + tensor(b"y", [32, 0], kind=8)) + b"\0" * 99
    )
    checkpoint = open_checkpoint(tmp_path)
    assert [
        (info.shape, checkpoint.read(info.name).shape, [*checkpoint.chunks(info.name)]) for info in checkpoint.tensors
    ] == [
        ((3, 0), (3, 0), []),
        ((0, 32), (0, 32), []),
    ]


def test_a_row_as_long_as_the_file_is_read_in_pieces(tmp_path):
    (tmp_path / "x.gguf").write_bytes(header(1, 0, tensor(b"x", [2**26], kind=8)))  # Q8_0: 34 bytes for 32 values
    os.truncate(tmp_path / "x.gguf", 128 + 2**26 // 32 * 34)
    tracemalloc.start()
    count = sum(piece.numel() for piece in open_checkpoint(tmp_path).chunks("x"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2**26 and peak < 64 * 2**20, f"{peak} bytes, where the row has {2**28}"


# --- pickles ----------------------------------------------------------------------------------------------------------


def zipped(path, pickled: bytes, data=bytes(64), how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in (("data.pkl", pickled), ("byteorder", b"little"), ("data/0", data), ("version", b"3\n")):
            archive.writestr(f"archive/{name}", content)
    return path


def legacy(path, pickled: bytes):
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    first = [pickle.dumps(one, protocol=2) for one in (0x1950A86A20F9469CFC6C, 1001, about)]
    path.write_bytes(b"".join([*first, pickled, pickle.dumps(["0"], protocol=2), struct.pack("<q", 16), bytes(64)]))
    return path


def words(said: str) -> bytes:
    return b"X" + struct.pack("<I", len(said.encode())) + said.encode()


def number(n: int) -> bytes:
    return pickle.dumps(n, protocol=2)[2:-1]


def pickled_tensor(offset=0, shape=(4, 4), stride=(4, 1), numel=16, more=b"") -> bytes:
    """What torch.save writes for a float32 tensor in storage "0"."""
    place = (
        b"(" + words("storage") + b"ctorch\nFloatStorage\n" + words("0") + words("cpu") + number(numel) + more + b"tQ"
    )
    axes = b"".join(b"(" + b"".join(map(number, one)) + b"t" for one in (shape, stride))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + number(offset) + axes + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def state(value: bytes, key: bytes = words("x")) -> bytes:
    return b"\x80\x02}" + words("w") + pickled_tensor() + b"s" + key + value + b"s."


DOUBLED = b")" + b"q\0h\0\x86" * 60  # a tuple that holds another twice, and so on
NAMES = b"c_codecs\nencode\n(" + words("".join(map(chr, range(0x4E00, 0x6E00)))) + words("punycode") + b"tR"
PICKLES = {
    "a bytearray of a number": (
        state(b"cbuiltins\nbytearray\n(" + number(2**36) + b"tR"),
        "makes a bytearray or a tensor",
    ),
    "by its old name": (state(b"c__builtin__\nbytearray\n(" + number(2**36) + b"tR"), "makes a bytearray or a tensor"),
    "a tensor of a number": (state(b"ctorch\nFloatTensor\n(" + number(2**33) + b"tR"), "makes a bytearray or a tensor"),
    "by another's hand": (
        state(
            b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nbytearray\nctorch\nTensor\n"
            + number(2**36)
            + b"\x85}tR"
        ),
        "makes a bytearray or a tensor",
    ),
    "a key that takes an age to hash": (state(b"K\1", DOUBLED), "would unfold to more than"),
    "a long text, again and again": (
        state(b"](" + words("a" * 10**6) + b"q\1" + b"h\1" * 200 + b"e"),
        "would unfold to more than",
    ),
    "a slow codec": (state(NAMES), "text codec that takes for ever"),
    "a tensor beyond its bytes": (state(pickled_tensor(shape=(40, 4))), "storage|resiz"),
    "a tensor before its bytes": (state(pickled_tensor(offset=-4)), "offset"),
    "steps backwards": (state(pickled_tensor(15, (4,), (-1,))), "overflow"),
    "a product that wraps around": (state(pickled_tensor(0, (2**32, 2**32), (2**32, 1))), "overflow"),
    "text that ends early": (b"\x80\x02}X\xff\xff\xff\xffab.", "ValueError"),
    "an empty stack": (b"\x80\x02RRR.", "IndexError"),
    "endless nesting": (b"\x80\x02" + b"]" * 30_000 + b"a" * 29_999 + b".", "holds a list|AssertionError"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_hostile_pickles(tmp_path, kind):
    content, said = PICKLES[kind]
    for path in (zipped(tmp_path / "zip.bin", content), legacy(tmp_path / "old.bin", content.replace(b"tQ", b"NtQ"))):
        start = time.monotonic()
        with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))} .*(?:{said}|wrong byte size|not found)"):
            open_checkpoint(path)
        assert time.monotonic() - start < 20  # of a machine that does other things too; it could take for ever


@pytest.mark.parametrize(
    "call", [b"cos\nsystem\n(", b"cposix\nsystem\n(", b"cbuiltins\neval\n(", b"csubprocess\nrun\n("]
)
def test_code_is_never_run(tmp_path, call):
    mark = tmp_path / "ran"
    content = state(call + words(f"touch {mark}") + b"tR")
    for path in (zipped(tmp_path / "zip.bin", content), legacy(tmp_path / "old.bin", content.replace(b"tQ", b"NtQ"))):
        with pytest.raises(CheckpointError, match=r"holds Python code besides tensors .*none of it was run"):
            open_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize("zip_format", [True, False])
def test_what_torch_save_writes_is_let_through(tmp_path, zip_format):
    """Whatever a training script may keep beside its weights, torch's restricted unpickler allowing."""
    marked = torch.ones(3)
    marked.note = "an attribute"
    layer = torch.nn.Linear(3, 3)
    layer(torch.ones(3)).sum().backward()
    (optimizer := torch.optim.AdamW(layer.parameters())).step()
    content = {
        "w": torch.ones(4, 4)[1:, ::2],
        "marked": marked,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "optimizer": optimizer.state_dict(),
        "odds": [b"bytes", {1, 2}, 2j, torch.Size([1]), torch.float16, torch.device("cpu")],
        "sparse": torch.eye(3).to_sparse(),
        "state": layer.state_dict(),
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
    }
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zip_format)
    checkpoint = open_checkpoint(tmp_path)
    assert {info.name for info in checkpoint.tensors} == {"w", "marked", "parameter", "conjugate", "sparse"}
    assert checkpoint.read("w").shape == (3, 2) and checkpoint.read("marked").tolist() == [1, 1, 1]


def test_values_repeated_without_end_are_left_out(tmp_path):
    """A stride of 0 makes a terabyte of four bytes, which no measurement would come to the end of."""
    path = zipped(tmp_path / "x.bin", state(pickled_tensor(0, (2**40,), (0,))))
    checkpoint = open_checkpoint(path)
    assert [info.name for info in checkpoint.tensors] == ["w"] and "values are repeated" in checkpoint.skipped["x"]
    many = b"".join(words(f"x{i}") + pickled_tensor(0, (10_000 + i,), (0,)) for i in range(300))
    with pytest.raises(CheckpointError, match="they lie on one another"):
        open_checkpoint(zipped(tmp_path / "x.bin", b"\x80\x02}(" + many + b"u."))


def test_zips_that_are_none_of_torch_save(tmp_path):
    sound = state(b"K\1")
    assert [info.name for info in open_checkpoint(zipped(tmp_path / "sound.bin", sound)).tensors] == ["w"]
    path = zipped(tmp_path / "bomb.bin", sound, bytes(2**20), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"'archive/data\.pkl' in it is compressed"):
        open_checkpoint(path)
    content = (tmp_path / "sound.bin").read_bytes()
    for damage, said in ((content + b"more", "does not end the file"), (content[:-30], "does not end the file")):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(path)
    torch.save({"w": torch.ones(2)}, path)
    assert check_pickle(path)
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert not check_pickle(path)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux tells how much a process has")
def test_what_claims_much_takes_little(tmp_path):
    """All in one process of little memory: 200 MB in a small zip, and whatever a number can ask for."""
    (tmp_path / "a.gguf").write_bytes(header(keys=1, body=array(0, 2**60)) + b"\0" * 256)
    (tmp_path / "b.gguf").write_bytes(header(keys=1, body=array(0, 2**31)))
    os.truncate(tmp_path / "b.gguf", 2**32)  # as many elements as the file does hold, which the package made objects of
    write(tmp_path / "c.safetensors", b"{}", length=2**53)
    zipped(tmp_path / "d.bin", PICKLES["a bytearray of a number"][0])
    with (
        zipfile.ZipFile(tmp_path / "e.bin", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a/data.pkl", "w") as out,
    ):
        for _ in range(96):
            out.write(b"]0" * 2**20)
    zipped(tmp_path / "f.bin", state(pickled_tensor(0, (2**40,), (1,), numel=2**40)))
    said = bounded(*sorted(tmp_path.iterdir()))
    assert len(said) == 6 and all(one.startswith("REFUSED") for one in said), said


# --- elsewhere --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2**62, 2**70, -5])
def test_a_store_that_lies_about_a_size(monkeypatch, size):
    files = fsspec.filesystem("memory")
    files.pipe("/lies/model.safetensors", save(plain()))
    monkeypatch.setattr(addresses, "FIRST_REQUEST_BYTES", 64)  # no more is asked for than is there
    real = type(files).info
    monkeypatch.setattr(type(files), "info", lambda self, path, **more: real(self, path, **more) | {"size": size})
    with pytest.raises(CheckpointError, match=r"more than a file here can have|describes other data|were asked for"):
        open_checkpoint("memory://lies/model.safetensors")


@pytest.mark.parametrize(
    "said", ["bytes 0-9/-5", f"bytes 0-9/{10**30}", "bytes 5-9/3", "bytes -5-9/3", "bytes */3", ""]
)
def test_a_server_that_lies_about_a_size(said):
    class Answer:
        headers = {"content-range": said}  # noqa: RUF012

    with pytest.raises(CheckpointError, match="where bytes FIRST-LAST/SIZE was expected"):
        http._range_of(Answer, "https://lies/model.gguf")


def test_json_from_elsewhere_may_be_deep_too():
    files = fsspec.filesystem("memory")
    files.pipe("/deep/model.safetensors.index.json", DEEP)
    with pytest.raises(CheckpointError, match=r"cannot be read as JSON .*recursion"):
        open_checkpoint("memory://deep")
