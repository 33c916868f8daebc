"""What lies beside the weights of a model is copied to the merged one: all that it needs, whatever it is called."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

import lfmlib
from lfmlib import cache

COPIED = (
    "tokenizer.json", "vocab.bpe", "bpe.codes", "qwen.tiktoken", "tokenizer.bin", "vocab.pt", "sentencepiece.bpe.model",
    "dict.txt", "LICENSE", "generation_config.json", "chat_template.jinja", "mel_filters.npz", "tekken.json",
    "modeling_own.py", "additional_chat_templates/tools.jinja", "code/layers.py", "1_Pooling/config.json",
    "2_Dense/model.safetensors", "SOURCE_QWENTOKENIZER.model",
)  # fmt: skip
LEFT = (
    "pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "optimizer.pt",
    "model.safetensors.index.fp16.json", "consolidated.00.pth", "model.onnx", "model.onnx_data", "model.onnx.data",
    "tf_model.h5", "flax_model.msgpack", "model.Q4_K_M.gguf", "adapter_config.json", "adapter_model.safetensors",
    "weights.npz", "README.md", ".gitattributes", "onnx/model.onnx", "onnx/config.json", "runs/events.out.tfevents.1",
    "checkpoint-500/model.safetensors", "checkpoint-500/trainer_state.json", ".cache/x.json", "events.out.tfevents.1.2",
)  # fmt: skip


@pytest.mark.parametrize("config", [True, False])
def test_all_but_weights_and_what_is_said_of_them(tmp_path, config):
    home, start = tmp_path / "base", {"w": torch.randn(70, 60)}
    home.mkdir()
    save_file(start, home / "model.safetensors")
    if config:
        (home / "config.json").write_text("{}", encoding="utf-8")
    base = lfmlib.open_checkpoint(home)  # before there is what it would take for more weights
    for name in (*COPIED, *LEFT):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name, encoding="utf-8")
    (home / "3_Normalize").mkdir()
    modules = [{"path": one} for one in ("", "1_Pooling", "2_Dense", "3_Normalize", "4_None")]
    (home / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    out = lfmlib.merge(base, {"w": start["w"] + 0.1}, "average", out=tmp_path / "out", progress=False)
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {*COPIED, "modules.json", "merge.json", "model.safetensors"}
    assert all((out / name).read_text(encoding="utf-8") == name for name in COPIED) and (out / "3_Normalize").is_dir()


def test_the_notes_of_the_cache_stay_there_and_others_files_of_that_name_travel(tmp_path):
    start = {"w": torch.randn(70, 60)}

    def build(folder):
        save_file(start, folder / "model.safetensors")
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "vocab.txt").write_text("a", encoding="utf-8")

    home = cache.kept(tmp_path / "models" / "named", {"package": "x==1"}, build)
    assert (home / cache.MANIFEST).is_file()
    theirs = ["[]", "{", '{"description": {}, "sha256": {"model.safetensors": "unknown"}}', "[" * 9**5]
    for number, text in enumerate([None, *theirs]):
        copied = tmp_path / f"{number}"
        shutil.copytree(home, copied)
        if text is not None:
            (copied / cache.MANIFEST).write_text(text, encoding="utf-8")
        out = lfmlib.merge(copied, {"w": start["w"] + 0.1}, "average", out=tmp_path / f"out{number}", progress=False)
        found = {path.name for path in out.iterdir()} - {"model.safetensors", "config.json", "vocab.txt", "merge.json"}
        assert found == (set() if text is None else {cache.MANIFEST})
        assert text is None or (out / cache.MANIFEST).read_text(encoding="utf-8") == text


def test_nothing_is_copied_beside_a_file_on_its_own(tmp_path):
    start = {"w": torch.randn(70, 60)}
    save_file(start, tmp_path / "one.safetensors")
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    tuned = {"w": start["w"] + 0.1}
    out = lfmlib.merge(tmp_path / "one.safetensors", tuned, "average", out=tmp_path / "out", progress=False)
    assert sorted(path.name for path in out.iterdir()) == ["merge.json", "model.safetensors"]


@pytest.mark.parametrize("online", [True, False])
def test_the_tokenizer_of_a_model_of_the_hub_is_fetched_when_it_is_needed(tmp_path, monkeypatch, online):
    """Opening it fetched weights and configuration alone."""
    home, start, asked = tmp_path / "snapshots" / ("a" * 40), {"w": torch.randn(70, 60)}, []
    home.mkdir(parents=True)
    save_file(start, home / "model.safetensors")
    (home / "config.json").write_text("{}", encoding="utf-8")
    base = replace(lfmlib.open_checkpoint(home), name="org/model", source="org/model", revision=home.name)

    def download(repo, revision, ignore_patterns):
        asked.append((repo, revision))
        names = ["tokenizer.json", "vocab.bpe", "x.safetensors", "pytorch_model.bin", "onnx/model.onnx_data"]
        assert list(filter_repo_objects(names, ignore_patterns=ignore_patterns)) == names[:2]
        if not online:
            raise ConnectionError
        (home / "tokenizer.json").write_text("{}", encoding="utf-8")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    told = (
        nullcontext() if online else pytest.warns(UserWarning, match=r"of org/model on the hub, such as its tokenizer")
    )
    with told:
        out = lfmlib.merge(base, {"w": start["w"] + 0.1}, "average", out=tmp_path / "out", progress=False)
    assert asked == [("org/model", home.name)] and (out / "tokenizer.json").exists() == online
