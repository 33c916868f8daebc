"""Files that change while they are read: no row mixes two states of a file, and none ends the process."""

import os
import signal
import subprocess
import sys
import time

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint
from lfmlib.surveys.run import each

SIZE = 1 << 14


def written(folder, kind, value=1.0):
    """A file with two matrices, always of the same size."""
    path = folder / f"model.{kind}"
    tensors = {name: torch.full((SIZE // 64, 64), value) for name in ("a", "b")}
    if kind == "safetensors":
        save_file(tensors, path)
    elif kind == "gguf":
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tensor("a", np.full((SIZE // 64, 34), 1, "u1"), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("b", np.full((SIZE // 64, 64), value, "f4"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "pt")
    return path


def overwrite(path):
    """Change the last bytes in place; the size stays, and the time moves as on a clock that is not fine."""
    with open(path, "r+b") as file:
        file.seek(-4096, 2)
        file.write(os.urandom(1024))
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns + 1_000_000))


KINDS = ["safetensors", "gguf", "pt", "bin"]  # the last in torch's first format


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_written_to_since_it_was_opened(tmp_path, kind):
    ckpt = open_checkpoint(written(tmp_path, kind))
    ckpt.check("a")
    overwrite(tmp_path / f"model.{kind}")
    calls = [
        lambda: ckpt.read("a"),
        lambda: [*ckpt.chunks("a")],
        lambda: ckpt.sample("a", bytes=512),
        lambda: ckpt.rows("a", 2),
        lambda: ckpt.check("a"),
    ]
    for call in calls:
        with pytest.raises(
            CheckpointError, match=r"was written to since it was opened, .*: it changed meanwhile\. Open"
        ):
            call()
    assert open_checkpoint(tmp_path / f"model.{kind}").read("b").shape == (SIZE // 64, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_written_to_while_it_is_measured(tmp_path, kind):
    path = written(tmp_path, kind)

    def measure(checkpoint, info):
        found = float(checkpoint.read(info.name).double().mean())
        if info.name == "b":
            overwrite(path)
        return [{"mean": found}]

    found = dict(each(open_checkpoint(path), measure))
    assert isinstance(found["a"], list) and "was written to since" in found["b"]
    chunks = open_checkpoint(path).chunks("a", bytes=SIZE)
    next(chunks)
    overwrite(path)
    with pytest.raises(CheckpointError, match="it changed meanwhile"):
        list(chunks)


TRUNCATED = """
import mmap, os, sys
import numpy as np
from lfmlib.checkpoints import stored
from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint

for path in sys.argv[1:3]:
    ckpt = open_checkpoint(path)
    held, chunks = ckpt.read("a"), ckpt.chunks("b", bytes=1 << 12)
    next(chunks)
    assert float(held.mean()) == 1
    os.truncate(path, 1000)
    float(held.mean()), float(np.asarray(held).sum())  # both touch what is no longer there
    for call in (lambda: [float(one.mean()) for one in chunks], lambda: ckpt.check("a")):
        try:
            call()
        except CheckpointError as error:
            print(error)
# a disk that gives no page, of a file that is the same as before
ckpt, stamp = open_checkpoint(sys.argv[3]), stored.stamp_of(__import__('pathlib').Path(sys.argv[3]))
stored.stamp_of = lambda path: stamp
whole, held = open(sys.argv[3], "rb").read(), ckpt.read("a")
os.truncate(sys.argv[3], 1000)
float(held.mean())
with open(sys.argv[3], "wb") as file:
    file.write(whole)
del held
for call in (lambda: ckpt.check("a"), lambda: ckpt.read("b")):
    try:
        call()
    except CheckpointError as error:
        print(error)
with open(path, "rb") as file:  # another's mapping is as it was before
    other = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
os.truncate(path, 0)
other[0]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="bus errors are handled on Linux")
def test_a_truncated_file_does_not_end_the_process(tmp_path):
    (tmp_path / "third").mkdir()
    paths = [written(tmp_path, "safetensors"), written(tmp_path, "pt"), written(tmp_path / "third", "safetensors")]
    done = subprocess.run([sys.executable, "-c", TRUNCATED, *paths], capture_output=True, encoding="utf-8")
    said = done.stdout.splitlines()
    assert len(said) == 6, done.stderr
    assert all("has 1000 bytes, but" in line and "it changed meanwhile" in line for line in said[:4])
    assert all(line.startswith("the system could not read a part of") for line in said[4:])
    assert done.returncode == -signal.SIGBUS, done.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_that_is_given_its_old_times_again(tmp_path, kind, in_place):
    path = written(tmp_path, kind)
    ckpt, before = open_checkpoint(path), path.stat()
    if in_place:
        overwrite(path)
    else:
        (tmp_path / "new").mkdir()
        written(tmp_path / "new", kind, value=2.0).rename(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(
        CheckpointError, match=r"was replaced, or its permissions changed, since it was opened, .* Open"
    ):
        ckpt.read("a")
    assert in_place or float(open_checkpoint(path).read("b").mean()) == 2


def test_a_file_that_is_replaced_or_gone(tmp_path):
    """Saved anew beside and renamed, as most programs do, and then deleted."""
    path = written(tmp_path, "safetensors")
    ckpt, chunks = open_checkpoint(path), open_checkpoint(path).chunks("a", bytes=SIZE)
    (tmp_path / "new").mkdir()
    next(chunks)
    written(tmp_path / "new", "safetensors", value=2.0).rename(path)
    with pytest.raises(CheckpointError, match="was written to since"):
        list(chunks)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="model"):
        ckpt.check("a")
    assert "model.safetensors" in dict(each(ckpt, lambda checkpoint, info: checkpoint.read(info.name)))["a"]
