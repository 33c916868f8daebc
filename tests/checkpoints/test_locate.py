"""Where files are found: folders, the embedded model, and the hub, asked by real clients in their own processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hubserver import HubServer, Repository
from safetensors.torch import save, save_file

from lfmlib.checkpoints import addresses, locate
from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint

SHARDED = {
    "model-00001-of-00002.safetensors": save({"a.weight": torch.ones(2, 3)}),
    "model-00002-of-00002.safetensors": save({"b.weight": torch.ones(4, 3)}),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "config.json": b'{"model_type": "made"}',
}
CLUTTER = {"README.md": b"# made", "pytorch_model.bin": b"never", "tokenizer.json": b"{}", "onnx/model.onnx": b"no"}

# Opens each [source, revision] of argv and prints, as one JSON line, what came of it.
CLIENT = """
import json, sys
from lfmlib.checkpoints.checkpoint import open_checkpoint
answers = []
for source, revision in json.loads(sys.argv[1]):
    try:
        c = open_checkpoint(source, revision=revision)
        names = [t.name for t in c.tensors]
        answers.append([c.name, c.revision, names, c.config, float(c.read(names[0]).sum())])
    except Exception as error:
        answers.append([type(error).__name__, str(error)])
print("ANSWER" + json.dumps(answers))
"""


def ask(url, home, *questions, offline=False):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    command = [sys.executable, "-c", CLIENT, json.dumps(questions)]
    done = subprocess.run(command, env=env, capture_output=True, timeout=120, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("ANSWER"))[6:])


@pytest.mark.slow
def test_hub_online_pinned_then_offline(tmp_path):
    sharded, moved, gated, bare = Repository(), Repository(), Repository(gated=True), Repository()
    first = sharded.commit(SHARDED | CLUTTER)
    old = moved.commit({"model.safetensors": save({"w": torch.zeros(2)}), "config.json": b"{}"}, branch="v1")
    new = moved.commit({"model.safetensors": save({"w": torch.ones(2)}), "config.json": b"{}"})
    gated.commit(SHARDED)
    bare.commit({"README.md": b"only words"})
    repositories = {"made/sharded": sharded, "moved": moved, "made/gated": gated, "made/bare": bare}

    with HubServer(repositories) as server:
        answers = ask(
            server.url,
            tmp_path,
            ["made/sharded", None],
            ["moved", None],
            ["moved", "v1"],
            ["moved", old],
            ["made/unknown", None],
            ["moved", "no-such-branch"],
            ["made/gated", None],
            ["made/bare", None],
        )
        both = ["a.weight", "b.weight"]
        assert answers[0] == ["made/sharded", first, both, {"model_type": "made"}, 6.0]
        assert server.fetched("made/sharded") == set(SHARDED), "weight files, index and config.json, nothing else"
        assert [(answer[1], answer[4]) for answer in answers[1:4]] == [(new, 2.0), (old, 0.0), (old, 0.0)]
        kinds = [answer[0] for answer in answers[4:]]
        assert kinds == ["FileNotFoundError", "FileNotFoundError", "CheckpointError", "FileNotFoundError"]
        words = ["repository of the hub", "no such branch", "gated", "no weight files"]
        assert all(word in answer[1] for word, answer in zip(words, answers[4:], strict=True)), answers[4:]

        seen = len(server.log)
        questions = [["made/sharded", None], ["moved", "v1"], ["moved", new], ["made/unknown", None]]
        offline = ask(server.url, tmp_path, *questions, offline=True)
        assert len(server.log) == seen, "HF_HUB_OFFLINE=1 asks nobody"
        assert offline[0] == answers[0]
        assert [(answer[1], answer[4]) for answer in offline[1:3]] == [(old, 0.0), (new, 2.0)]
        assert offline[3][0] == "FileNotFoundError"
        assert "offline" in offline[3][1] and "Open it once online" in offline[3][1]

    unreachable = ask(server.url, tmp_path, ["made/sharded", None])
    assert unreachable[0] == answers[0], "without a connection the cache answers"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "huggingface.co.evil.org/a/b",
            "without a scheme: if you mean one, write 'https://huggingface.co.evil.org/a/b'",
        ),
        ("localhost:8000/x.safetensors", "write 'https://localhost:8000/x.safetensors', or http://"),
        ("10.0.0.1:80/a/b", "write 'https://10.0.0.1:80/a/b'"),
        ("https:/huggingface.co/gpt2", "was cut: if you mean one, write 'https://huggingface.co/gpt2', as a string"),
        (Path("hf://org/name"), "write 'hf://org/name', as a string"),
        ("https//example.com/a.safetensors", "write 'https://example.com/a.safetensors'"),
        ("HTTPS://", "names no host"),
    ],
)
def test_half_an_address_is_told_what_is_missing(source, words):
    with pytest.raises(FileNotFoundError, match=re.escape(words)):
        open_checkpoint(source)


@pytest.mark.parametrize("source", ["", " ", "\n"])
def test_a_blank_source_is_not_the_folder_one_is_in(source, tmp_path, monkeypatch):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"the model is .*expected 'minilm'.*Name one"):
        open_checkpoint(source)
    assert open_checkpoint(".").tensors[0].name == "w"


def test_what_is_no_source_at_all_is_told_what_is_one():
    for source in (None, 3, ["gpt2"]):
        with pytest.raises(TypeError, match=r"cannot be opened as a checkpoint.*a hub id"):
            open_checkpoint(source)


def test_the_hubs_own_pages_need_no_scheme_and_files_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert addresses.normalized_source("huggingface.co/org/name") == "https://huggingface.co/org/name"
    assert addresses.normalized_source("hf.co/gpt2") == "https://hf.co/gpt2"
    assert addresses.normalized_source("HTTPS://Host/A") == "https://Host/A"
    assert addresses.normalized_source("org/huggingface.co") == "org/huggingface.co"
    (tmp_path / "hf.co").mkdir()
    (tmp_path / "hf.co" / "gpt2").mkdir()
    assert addresses.normalized_source("hf.co/gpt2") == "hf.co/gpt2"


def test_choose_prefers_safetensors_and_drops_duplicates():
    everything = [
        "model.safetensors.index.json",
        "model.safetensors",
        "pytorch_model.bin.index.json",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "model-00001-of-00001.safetensors",
        "training_args.bin",
        "optimizer.pt",
        "weights.pth",
        "config.json",
    ]
    order = []
    while chosen := locate.choose_files(everything):
        order.append(chosen)
        everything = [name for name in everything if name not in chosen]
    assert order == [
        ["model.safetensors.index.json"],
        ["model.safetensors"],
        ["model-00001-of-00001.safetensors"],
        ["consolidated.safetensors"],
        ["pytorch_model.bin.index.json"],
        ["pytorch_model.bin"],
        ["weights.pth"],
    ]
    assert everything == ["training_args.bin", "optimizer.pt", "config.json"]


def folder_of(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_folder_with_index(tmp_path):
    ckpt = open_checkpoint(folder_of(tmp_path, SHARDED))
    assert [info.name for info in ckpt.tensors] == ["a.weight", "b.weight"]
    assert (ckpt.name, ckpt.revision, ckpt.config["model_type"]) == (tmp_path.name, None, "made")
    assert [path.name for path in ckpt.files] == sorted(name for name in SHARDED if name.startswith("model-"))
    by_index = open_checkpoint(tmp_path / "model.safetensors.index.json")
    assert by_index.tensors == ckpt.tensors


def test_folder_without_index(tmp_path):
    files = {name: content for name, content in SHARDED.items() if "index" not in name}
    assert len(open_checkpoint(str(folder_of(tmp_path, files))).tensors) == 2
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 shards model-.*missing"):
        open_checkpoint(tmp_path)


def test_index_naming_a_missing_shard(tmp_path):
    folder_of(tmp_path, SHARDED)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names 2 shards, and 1 are missing.*model-00002-of-00002"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("path", ["../x.safetensors", "/etc/x.safetensors", "a/../../x", "..\\x", "C:/x", ""])
def test_index_leading_out_of_its_folder(tmp_path, path):
    (tmp_path.parent / "x.safetensors").write_bytes(save({"a": torch.ones(1)}))
    folder_of(tmp_path, {"model.safetensors.index.json": json.dumps({"weight_map": {"a": path}}).encode()})
    with pytest.raises(CheckpointError, match="outside its folder"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "cannot be read as JSON"),
        (b"[]", "JSON list"),
        (b"{}", "weight_map"),
        (b'{"weight_map": [1]}', "weight_map"),
    ],
)
def test_broken_index(tmp_path, content, words):
    folder_of(tmp_path, SHARDED | {"model.safetensors.index.json": content})
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path)


def test_index_promising_a_tensor_no_shard_holds(tmp_path):
    index = json.loads(SHARDED["model.safetensors.index.json"])
    index["weight_map"]["c.weight"] = "model-00001-of-00002.safetensors"
    folder_of(tmp_path, SHARDED | {"model.safetensors.index.json": json.dumps(index).encode()})
    with pytest.raises(CheckpointError, match=r"promises 'c.weight' in model-00001.*does not hold it"):
        open_checkpoint(tmp_path)


def test_the_same_tensor_in_two_files(tmp_path):
    folder_of(tmp_path, {"x.safetensors": save({"a": torch.ones(1)}), "y.safetensors": save({"a": torch.ones(1)})})
    with pytest.raises(CheckpointError, match=r"'a' is in both .*x\.safetensors.*y\.safetensors"):
        open_checkpoint(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"was not found.*Expected"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"was not found.*Expected"):
        open_checkpoint("absent.safetensors")
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"no weight files: found notes.txt; expected \*.safetensors"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"ends in '.txt'; this library reads .safetensors"):
        open_checkpoint(tmp_path / "notes.txt")


def test_a_revision_of_what_has_none(tmp_path):
    folder_of(tmp_path, SHARDED)
    with pytest.raises(ValueError, match="only hub ids have revisions"):
        open_checkpoint(tmp_path, revision="main")
    with pytest.raises(ValueError, match="revision='main' was given for \"minilm\""):
        open_checkpoint("minilm", revision="main")
    with pytest.raises(ValueError, match="only hub ids have one"):
        open_checkpoint({"a": torch.ones(1)}, revision="main")


def test_an_address_of_a_file_is_decoded(tmp_path):
    folder = tmp_path / "w é" / "base m"
    folder.mkdir(parents=True)
    save_file({"q.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    assert open_checkpoint(folder.as_uri()).tensors[0].name == "q.weight"
