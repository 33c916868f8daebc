"""Split and sharded files, and variants in one folder: all of a model is read, or what is missing is named."""

import json
import struct
import warnings

import fsspec
import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint
from lfmlib.checkpoints.file_names import choose_files, gguf_parts

A, B, C = torch.full((4, 3), 1.0), torch.full((2, 3), 2.0), torch.full((3,), 3.0)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def write_gguf(path, tensors, number=None, count=1, total=None):
    """A GGUF file, or a part of one, as llama-gguf-split writes it."""
    writer = gguf.GGUFWriter(path, "llama")
    if number is not None:
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", total)
    if not number:
        writer.add_head_count(4)
    for name, value in tensors.items():
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def split_gguf(folder, stem="m-Q8_0", total=3):
    names = [f"{stem}-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for i, part in enumerate(({}, {"a.weight": A}, {"b.weight": B, "c.bias": C})):  # the first may hold settings alone
        write_gguf(folder / names[i], part, i, 3, total)
    return names


def test_all_parts_of_a_split_gguf(tmp_path):
    names = split_gguf(tmp_path)
    for source in (tmp_path, tmp_path / names[0], tmp_path / names[2]):
        ckpt = open_checkpoint(source)
        assert [info.name for info in ckpt.tensors] == ["a.weight", "b.weight", "c.bias"]
        assert ckpt.config["num_attention_heads"] == 4 and torch.equal(ckpt.read("b.weight"), B)
        assert [path.name for path in ckpt.files] == names
    assert open_checkpoint(tmp_path / names[1]).name == "m-Q8_0"
    (tmp_path / names[1]).unlink()
    for source in (tmp_path, tmp_path / names[0]):
        with pytest.raises(CheckpointError, match=r"2 of (the )?3 .*Copy or download"):
            open_checkpoint(source)


def test_parts_that_do_not_belong_together(tmp_path):
    names = split_gguf(tmp_path, total=4)
    with pytest.raises(CheckpointError, match="3 parts have 4 tensors, and they have 3"):
        open_checkpoint(tmp_path)
    (tmp_path / names[1]).rename(tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match=r"renamed.gguf says that it is one of 3 parts.*places \[1\]"):
        open_checkpoint(tmp_path / "renamed.gguf")


def test_parts_of_a_name():
    assert gguf_parts("a-00002-of-00003.gguf") == [f"a-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for odd in ("a.gguf", "a-00004-of-00003.gguf", "a-00001-of-99999999.gguf"):
        assert gguf_parts(odd) == [odd]


def test_one_gguf_of_several(tmp_path):
    for kind in ("Q4_K_M", "Q8_0"):
        write_gguf(tmp_path / f"m-{kind}.gguf", {"a.weight": A})
    with pytest.raises(CheckpointError, match=r"stored in several ways.*variant='Q4_K_M' or variant='Q8_0'"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path, variant="Q8_0").files == [tmp_path / "m-Q8_0.gguf"]
    with pytest.raises(ValueError, match="variant='Q8_0' was given for"):
        open_checkpoint(tmp_path / "m-Q8_0.gguf", variant="Q8_0")


def test_a_tower_of_images_beside_a_gguf_is_another_model(tmp_path):
    for name in ("m-F16.gguf", "mmproj-F16.gguf", "m-imatrix.gguf"):
        write_gguf(tmp_path / name, {"a.weight": A})
    assert (
        open_checkpoint(tmp_path).files == open_checkpoint(tmp_path, variant="F16").files == [tmp_path / "m-F16.gguf"]
    )
    (tmp_path / "m-F16.gguf").unlink()
    (tmp_path / "m-imatrix.gguf").unlink()
    assert open_checkpoint(tmp_path).files == [tmp_path / "mmproj-F16.gguf"]


# --- an index and its shards ------------------------------------------------------------------------------------------


def sharded(folder, shards, index, config=None, name="model.safetensors.index.json"):
    for number, tensors in enumerate(shards, 1):
        save_file(tensors, folder / f"model-0000{number}-of-0000{len(shards)}.safetensors")
    index = {one: f"model-0000{number}-of-0000{len(shards)}.safetensors" for one, number in index.items()}
    (folder / name).write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config or {}), encoding="utf-8")


@pytest.mark.parametrize("head", ["lm_head.weight", "cls.predictions.decoder.weight", "decoder.embed_tokens.weight"])
def test_a_tied_head_that_is_named_and_not_stored(tmp_path, head):
    sharded(tmp_path, [{"model.embed_tokens.weight": A}, {"b": B}], {"model.embed_tokens.weight": 1, "b": 2, head: 2})
    ckpt = open_checkpoint(tmp_path)
    assert [info.name for info in ckpt.tensors] == ["model.embed_tokens.weight", "b"]
    assert ckpt.skipped == {head: "tied to model.embed_tokens.weight"}
    for untied in ({"tie_word_embeddings": False}, {"text_config": {"tie_word_embeddings": False}}):
        (tmp_path / "config.json").write_text(json.dumps(untied), encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"promises '{head}'"):
            open_checkpoint(tmp_path)


def test_of_a_duplicate_the_one_that_the_index_names(tmp_path):
    for owner in (1, 2):
        sharded(tmp_path, [{"a": A, "twice": C}, {"b": B, "twice": 5 * C}], {"a": 1, "b": 2, "twice": owner})
        ckpt = open_checkpoint(tmp_path)
        assert sorted(info.name for info in ckpt.tensors) == ["a", "b", "twice"]
        assert ckpt.read("twice").tolist() == [3.0 if owner == 1 else 15.0] * 3
    sharded(tmp_path, [{"a": A, "twice": C}, {"b": B, "twice": 5 * C}], {"a": 1, "b": 2})
    with pytest.raises(CheckpointError, match="'twice' is in both"):
        open_checkpoint(tmp_path)


def test_shards_that_the_index_does_not_name_are_told(tmp_path):
    sharded(tmp_path, [{"a": A}, {"b": B}], {"a": 1, "b": 2})
    save_file({"mtp": C}, tmp_path / "model-mtp-of-00002.safetensors")
    save_file({"c": C}, tmp_path / "model-00003-of-00003.safetensors")
    with pytest.warns(UserWarning, match=r"does not name model-00003-of-00003.*model-mtp-of-00002.*, which lie"):
        assert [info.name for info in open_checkpoint(tmp_path).tensors] == ["a", "b"]
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 are missing .*others, such as model-00003.*remove the index"):
        open_checkpoint(tmp_path)


def test_one_shard_by_its_path_is_told_to_be_one(tmp_path):
    sharded(tmp_path, [{"a": A}, {"b": B}], {"a": 1, "b": 2})
    with pytest.warns(UserWarning, match="is one of 2 shards, and only its tensors are read"):
        assert len(open_checkpoint(tmp_path / "model-00001-of-00002.safetensors").tensors) == 1


def test_an_empty_entry_for_a_tied_head_is_refused_in_words(tmp_path):
    header = json.dumps({"lm_head.weight": {"dtype": "", "shape": [], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="names an unknown dtype"):
        open_checkpoint(tmp_path)


# --- variants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
def test_two_variants_in_one_folder(tmp_path, stem):
    save_file({"a": A.half()}, tmp_path / f"{stem}.fp16.safetensors")
    assert open_checkpoint(tmp_path).tensors[0].dtype == "float16", "the only one there is"
    save_file({"a": A}, tmp_path / f"{stem}.fp32.safetensors")
    with pytest.raises(CheckpointError, match=r"several ways.*variant='fp16' or variant='fp32'"):
        open_checkpoint(tmp_path)
    save_file({"a": A.bfloat16()}, tmp_path / f"{stem}.safetensors")
    found = {one: open_checkpoint(tmp_path, variant=one).tensors[0].dtype for one in (None, "fp16", "fp32")}
    assert found == {None: "bfloat16", "fp16": "float16", "fp32": "float32"}
    with pytest.raises(ValueError, match=r"variant='int8': found .*of its variants fp16, fp32; expected"):
        open_checkpoint(tmp_path, variant="int8")


def test_a_sharded_variant(tmp_path):
    sharded(tmp_path, [{"a": A}, {"b": B}], {"a": 1, "b": 2})
    names = [f"model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, tensors in zip(names, ({"a": A.half()}, {"b": B.half()}), strict=True):
        save_file(tensors, tmp_path / name)
    for _ in range(2):
        assert {info.dtype for info in open_checkpoint(tmp_path).tensors} == {"float32"}
        assert [info.dtype for info in open_checkpoint(tmp_path, variant="fp16").tensors] == ["float16"] * 2
        index = {"weight_map": dict(zip("ab", names, strict=True))}
        (tmp_path / "model.safetensors.index.fp16.json").write_text(json.dumps(index), encoding="utf-8")


def test_a_variant_of_files_or_of_dictionaries(tmp_path):
    torch.save({"model": {"a": A}, "ema": {"a": B}}, tmp_path / "pytorch_model.bin")
    torch.save({"a": C}, tmp_path / "pytorch_model.fp16.bin")
    asked = {one: open_checkpoint(tmp_path, variant=one).read("a").shape for one in ("model", "ema", "fp16")}
    assert asked == {"model": A.shape, "ema": B.shape, "fp16": C.shape}


def test_numbers_in_names_are_no_variants():
    for names in (["a.0.safetensors", "a.1.safetensors"], ["Qwen2.5-7B.safetensors", "vision_fp16.safetensors"]):
        assert choose_files(names) == names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.gguf.part1of2", "m.gguf.part1of2 looks like a piece of a file that was cut: join all pieces"),
        ("__0_0.distcp", "pieces of torch.distributed.checkpoint: join them with"),
    ],
)
def test_pieces_are_told_how_to_be_joined(tmp_path, name, words):
    (tmp_path / name).write_bytes(np.zeros(9).tobytes())
    with pytest.raises(FileNotFoundError, match=words):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path / name)


def test_parts_and_variants_in_a_store(tmp_path):
    names = split_gguf(tmp_path)
    for name in ("model", "model.fp16"):
        save_file({"a": A.half() if "fp16" in name else A}, tmp_path / f"{name}.safetensors")
    store = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        store.pipe(f"/{path.name.partition('.')[0][:1]}-{path.suffix[1:]}/{path.name}", path.read_bytes())
    for source in ("memory://m-gguf", f"memory://m-gguf/{names[0]}"):
        assert [info.name for info in open_checkpoint(source).tensors] == ["a.weight", "b.weight", "c.bias"]
    found = [open_checkpoint("memory://m-safetensors", variant=one).read("a").dtype for one in (None, "fp16")]
    assert found == [torch.float32, torch.float16]
    store.rm(f"/m-gguf/{names[2]}")
    for source in ("memory://m-gguf", f"memory://m-gguf/{names[0]}"):
        with pytest.raises(FileNotFoundError, match="00003-of-00003"):
            open_checkpoint(source)
    for number in (1, 3):
        store.pipe(f"/some/model-0000{number}-of-00003.safetensors", (tmp_path / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="2 of 3 shards model-…: found numbers"):
        open_checkpoint("memory://some")


# --- files that cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf", "model.pt", "pytorch_model.bin"])
def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, name):
    try:
        (tmp_path / name).symlink_to("/proc/self/mem")  # a file that gives an error of input and output
        with open(tmp_path / name, "rb") as file:
            file.read(1)
    except FileNotFoundError:
        pytest.skip("no such file here")
    except OSError:
        pass
    with pytest.raises(CheckpointError, match=r"cannot be read \(.*\); what it holds may be sound") as caught:
        open_checkpoint(tmp_path)
    assert "ownload" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model.gguf"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", r"pointer of Git LFS.*Run `git lfs pull`"),
        ("\n<!DOCTYPE html>\n<html>Log in</html>\n", r"is a web page.*download the file again"),
    ],
    ids=["pointer", "page"],
)
def test_what_stands_in_place_of_a_file_is_not_called_damaged(tmp_path, name, content, words):
    (tmp_path / name).write_text(content, encoding="utf-8")
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=words):
            open_checkpoint(source)
