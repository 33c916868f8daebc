"""Merging files: what is written is what the tensors say; what does not fit is refused; what was stopped goes on."""

import errno
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import fsspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import lfmlib
from lfmlib.merging import methods, model_folder, shard_writer
from lfmlib.merging.shard_writer import Entry, ShardWriter

CONFIG = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=256
)  # fmt: skip


def tuned(model: LlamaForCausalLM, seed: int, size: float = 0.004) -> LlamaForCausalLM:
    other, generator = LlamaForCausalLM(CONFIG), torch.Generator().manual_seed(seed)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for p in other.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator))
            p.view(-1)[seed::401] += 40 * size
    return other


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A sharded base with a tokenizer's file, and three models tuned from it."""
    home = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    base = LlamaForCausalLM(CONFIG)
    base.save_pretrained(home / "base", max_shard_size="200KB")
    (home / "base" / "tokenizer.json").write_text("{}", encoding="utf-8")
    (home / "base" / "README.md").write_text("of the base", encoding="utf-8")
    for seed in range(3):
        tuned(base, seed).save_pretrained(home / f"t{seed}")
    return home


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: value for one in sorted(path.glob("*.safetensors")) for name, value in load_file(one).items()}


def hashes(path: Path) -> dict[str, str]:
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(path.glob("model*"))}


@pytest.mark.parametrize("method", [one for one in methods.METHODS if one not in methods.MIXING])
def test_files_hold_what_the_tensors_say(models, tmp_path, method):
    sources, shares = [models / f"t{k}" for k in range(3)], [1.0, 0.5, 1.0]
    out = lfmlib.merge(models / "base", sources, method, shares, density=0.5, out=tmp_path / "out", progress=False)
    start, others, found = weights(models / "base"), [weights(one) for one in sources], weights(out)
    assert list(found) == list(start) or set(found) == set(start)
    norms = [
        sum((one[name].double() - start[name].double()).square().sum().item() for name in start) ** 0.5
        for one in others
    ]
    scaled = [a * b for a, b in zip(methods.shares(norms), shares, strict=True)] if method == "nan" else shares
    for name, value in found.items():
        deltas = [one[name] - start[name] for one in others]
        deltas = [one if method.startswith("della") else one.flatten() for one in deltas]  # of which rows are ranked
        delta = methods.combine(deltas, method, scaled, density=0.5, seed=f"0/{name}/0")
        assert torch.allclose(value.flatten(), start[name].flatten() + delta.flatten(), rtol=0, atol=1e-7), name
    assert json.loads((out / "merge.json").read_text(encoding="utf-8"))["method"] == method


@pytest.mark.parametrize(
    ("method", "share"), [("slerp", None), ("slerp", 0.2), ("passthrough", 1.0), ("passthrough", 2)]
)
def test_two_models_are_mixed_in_files(tmp_path, method, share):
    names = {"q.weight": (70, 60), "near.weight": (70, 60), "norm.weight": (60,), "steps": ()}
    start = {name: torch.randn(shape) for name, shape in names.items()}
    model = {name: one + 0.7 * torch.randn_like(one) for name, one in start.items()}
    model["near.weight"] = start["near.weight"] + 1e-3 * torch.randn(70, 60)
    weights = None if share is None else [share]
    out = lfmlib.merge(start, model, method, weights, out=tmp_path / "out", progress=False)
    t = 0.5 if share is None else share
    for name, found in load_file(out / "model.safetensors").items():
        a, b = start[name].double(), model[name].double()
        cosine = (a.flatten() @ b.flatten() / a.norm() / b.norm()).item()
        angle = math.acos(max(-1.0, min(1.0, cosine)))
        line = abs(cosine) > 0.9995
        shares = (
            (1 - t, t) if line else (math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle))
        )
        expected = t * b if method == "passthrough" else shares[0] * a + shares[1] * b
        assert torch.allclose(found.double(), expected, rtol=1e-6, atol=1e-6), name
        assert (name in ("near.weight", "steps")) == line
    with pytest.raises(ValueError, match=f"{method} takes a base and one tuned model, and 2 were given"):
        lfmlib.merge(start, [model, model], method, out=tmp_path / "x", progress=False)


def test_counters_that_differ_are_kept_from_the_base_and_told(tmp_path):
    """Of batch norm; one with an axis, as some libraries store it; of a queue, and a flag."""
    start = {
        "w": torch.randn(70, 60), "bn.num_batches_tracked": torch.tensor(10), "a.num_batches_tracked": torch.tensor(10),
        "b.num_batches_tracked": torch.tensor(7), "queue_ptr": torch.tensor([64]), "initted": torch.tensor([True]),
        "same": torch.arange(4),
    }  # fmt: skip
    other = start | {
        "w": start["w"] + 0.01, "bn.num_batches_tracked": torch.tensor(20), "a.num_batches_tracked": torch.tensor([30]),
        "b.num_batches_tracked": torch.tensor(9.0), "queue_ptr": torch.tensor([128]), "initted": torch.tensor([False]),
    }  # fmt: skip
    with pytest.warns(UserWarning, match=r"^5 counters differ between the models, and are kept from the base: bn\.num"):
        out = lfmlib.merge(start, [other, other], "average", out=tmp_path / "out", progress=False)
    found = load_file(out / "model.safetensors")
    assert all(torch.equal(found[name], one) for name, one in start.items() if name != "w")
    assert torch.allclose(found["w"], other["w"])
    assert json.loads((out / "merge.json").read_text(encoding="utf-8"))["kept"] == list(start)[1:-1]


@pytest.mark.parametrize("method", methods.METHODS)
def test_values_that_are_not_finite_are_told(tmp_path, method):
    """One NaN, in one model; a mask that is infinite in all of them is as it was, and not told."""
    mask = torch.full((8, 8), -math.inf).triu(1)
    start = {"w": torch.randn(70, 60), "v": torch.randn(70, 60), "mask": mask}
    bad = start | {"w": start["w"] + 0.01}
    bad["w"][2, 3] = math.nan
    if method == "nan":
        with pytest.raises(ValueError, match="some weights are infinite or NaN"):
            lfmlib.merge(start, bad, method, out=tmp_path / "out", progress=False)
        return
    with pytest.warns(
        UserWarning, match=r"that are NaN or infinite went into 1 tensors of the merge: w \(1 of mapping\)"
    ):
        out = lfmlib.merge(start, bad, method, out=tmp_path / "out", progress=False)
    found = load_file(out / "model.safetensors")
    assert math.isnan(found["w"][2, 3]) and torch.equal(found["mask"], mask) and found["v"].isfinite().all()
    assert sorted(path.name for path in out.iterdir()) == ["merge.json", "model.safetensors"]


def test_a_merge_that_goes_on_remembers_what_was_not_finite(tmp_path, monkeypatch):
    start = {name: torch.randn(70, 60) for name in ("a", "b")}
    bad = {name: one + 0.01 for name, one in start.items()}
    bad["a"][0, 0] = math.inf
    for name, tensors in (("base", start), ("bad", bad)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    sources = [tmp_path / "base.safetensors", tmp_path / "bad.safetensors"]
    write = ShardWriter.write

    def stopping(self, pieces):
        write(self, pieces)
        if self.done == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        lfmlib.merge(*sources, "average", out=tmp_path / "out", progress=False)
    monkeypatch.setattr(ShardWriter, "write", write)
    with pytest.warns(UserWarning, match=r"NaN or infinite went into 1 tensors of the merge: a \(1 of bad\)"):
        lfmlib.merge(*sources, "average", out=tmp_path / "out", progress=False)


def test_a_merged_folder_is_a_model_like_its_base(models, tmp_path):
    out = lfmlib.merge(models / "base", [models / "t0", models / "t1"], "average", out=tmp_path / "a", progress=False)
    model = AutoModelForCausalLM.from_pretrained(out)
    mean = (weights(models / "t0")["model.norm.weight"] + weights(models / "t1")["model.norm.weight"]) / 2
    assert torch.allclose(model.model.norm.weight, mean, atol=1e-6)
    assert len(list(out.glob("*.safetensors"))) == len(list((models / "base").glob("*.safetensors"))) > 2
    assert (out / "tokenizer.json").exists() and not (out / "README.md").exists()
    assert not (tmp_path / "a.partial").exists() and not list(out.glob(".*")) and not list(out.glob("*.part*"))
    half = lfmlib.merge(
        models / "base", models / "t0", "average", dtype="bfloat16", out=tmp_path / "half", progress=False
    )
    assert {value.dtype for value in weights(half).values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(half).dtype == torch.bfloat16


def test_types_may_be_mixed_and_tied_names_too(models, tmp_path):
    w, v, ids = "layer.0.weight", "layer.0.bias", "layer.position.ids"
    start = {w: torch.randn(80, 70).bfloat16(), v: torch.randn(9), ids: torch.arange(5)}
    other = {w: start[w].float() + 0.01, v: start[v].double() + 1e-9, ids: torch.arange(5)}
    out = lfmlib.merge(start, [other, other], "average", out=tmp_path / "out", progress=False)
    found = load_file(out / "model.safetensors")
    assert [found[name].dtype for name in start] == [torch.bfloat16, torch.float32, torch.int64]
    assert torch.equal(found[w], other[w].bfloat16())
    assert torch.equal(found[v], (start[v].double() + 1e-9).float())
    prefixed = {f"bert.{name}": value for name, value in other.items()} | {"head.weight": torch.ones(2, 2)}
    with pytest.warns(UserWarning, match=r"1 tensors of mapping are not in the base, and are left out: head.weight"):
        again = lfmlib.merge(start, [prefixed, prefixed], "average", out=tmp_path / "two", progress=False)
    assert torch.equal(load_file(again / "model.safetensors")[w], found[w])


def test_amplifying_by_one_is_nothing_and_by_more_is_outliers(models, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    kept = (name, "model.norm.weight")
    start, *others = ({key: weights(models / one)[key] for key in kept} for one in ("base", "t0", "t1"))

    def made(folder: str, **options) -> dict[str, torch.Tensor]:
        return weights(lfmlib.merge(start, others, "average", out=tmp_path / folder, progress=False, **options))

    plain, one, more, auto = (
        made("plain"),
        made("one", amplify=1.0),
        made("more", amplify=2.0),
        made("auto", amplify="auto"),
    )
    even = made("even", project="symmetric")
    assert all(torch.equal(plain[key], one[key]) for key in plain)
    delta, changed = plain[name] - start[name], more[name] - plain[name]
    beyond = methods.cut(delta)
    assert torch.equal(changed != 0, delta.abs() > beyond) and 0 < (changed != 0).float().mean() < 0.01
    assert torch.allclose(changed[changed != 0], delta[changed != 0], atol=1e-6)
    assert 1.2 < ((auto[name] - start[name])[changed != 0].norm() / delta[changed != 0].norm()) < 1.6  # about √2
    assert torch.equal(more["model.norm.weight"], plain["model.norm.weight"])  # vectors have no law
    assert even[name].mean().abs() < 1e-7 < plain[name].mean().abs()


def test_random_merges_depend_on_the_seed(models, tmp_path):
    found = [
        hashes(lfmlib.merge(models / "base", [models / "t0"], "dare", seed=seed, out=tmp_path / name, progress=False))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert found[0] == found[1] != found[2]


def test_large_tensors_come_in_pieces(tmp_path, monkeypatch):
    start = {"w": torch.randn(100, 90)}
    other = {"w": start["w"] + 0.01 * torch.randn(100, 90)}
    monkeypatch.setattr("lfmlib.merging.one_tensor.PIECE", 1000)
    seen = []
    combine = methods.combine
    monkeypatch.setattr(methods, "combine", lambda d, *a, **k: seen.append(d[0].numel()) or combine(d, *a, **k))
    out = lfmlib.merge(start, [other], "dare", density=0.5, amplify=1.5, out=tmp_path / "out", progress=False)
    assert max(seen) == 1000 and sum(seen) == 2 * 9000  # once for the law, once to be written
    delta = load_file(out / "model.safetensors")["w"] - start["w"]
    assert (delta == 0).float().mean() == pytest.approx(0.5, abs=0.02)
    assert len({tuple((delta.flatten()[k : k + 50] == 0).tolist()) for k in range(0, 9000, 1000)}) > 1  # not one mask


def test_what_does_not_fit_is_refused_before_anything_is_written(models, tmp_path):
    start = weights(models / "base")
    grown = dict(start) | {"model.embed_tokens.weight": torch.randn(260, 64)}
    short = {name: value for name, value in start.items() if "layers.1" not in name}
    torch.manual_seed(1)
    stranger = LlamaForCausalLM(CONFIG)
    small = dict(start) | {"lm_head.weight": start["lm_head.weight"].to(torch.float8_e4m3fn)}
    ints = {"w": torch.zeros(4, 4), "ids": torch.arange(3)}
    cases = [
        (start, grown, ValueError, r"model.embed_tokens.weight is \(260, 64\) in .*: their vocabularies differ"),
        (start, short, ValueError, r"lacks 9 of the 21 tensors of mapping, such as model.layers.1"),
        (models / "base", stranger, ValueError, r"is no fine-tune of the base .*correlate by -?0.0"),
        (start, small, lfmlib.CheckpointError, r"stored as float8_e4m3fn, which is quantized"),
        ({"w": torch.ones(3, 3)}, {"w": torch.ones(3, 4)}, ValueError, "not of one kind"),
        ({"w": torch.ones(3, 3)}, {"w": torch.ones(3, 3).int()}, ValueError, "expected both to be of floating point"),
        (ints, ints | {"ids": torch.arange(3) + 1}, ValueError, "ids holds int64, and differs between the models"),
        (start, start, ValueError, "unknown method 'sum'"),
    ]
    for number, (base, other, kind, message) in enumerate(cases):
        method = "sum" if "method" in message else "ties"
        with pytest.raises(kind, match=message):
            lfmlib.merge(base, [other], method, out=tmp_path / str(number), progress=False)
        assert not (tmp_path / str(number)).exists()
    for options, message in (
        ({"amplify": "much"}, "amplify is 'much': expected a factor"),
        ({"amplify": -1}, "amplify is -1"),
        ({"project": "round"}, "unknown projection"),
        ({"dtype": "int8"}, "dtype is 'int8': expected one of float16"),
        ({"weights": [1, 2]}, "expected a number for each of the 1"),
    ):
        with pytest.raises(ValueError, match=message):
            lfmlib.merge(start, [start], out=tmp_path / "x", progress=False, **options)
    with pytest.raises(ValueError, match="expected at least one, beside the base"):
        lfmlib.merge(start, [], out=tmp_path / "x", progress=False)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "note").touch()
    with pytest.raises(FileExistsError, match="is there already: name another folder"):
        lfmlib.merge(start, [start], out=tmp_path / "there", progress=False)


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_quantized_weights_are_refused_whichever_they_are_in(tmp_path, side):
    """Codes with their scales, whose values are computed; codes alone are tried above."""
    plain = {"layers.0.q_proj.weight": torch.randn(64, 64), "norm.weight": torch.ones(64)}
    codes = {"layers.0.q_proj.weight": plain["layers.0.q_proj.weight"].to(torch.float8_e4m3fn)}
    quantized = plain | codes | {"layers.0.q_proj.weight_scale_inv": torch.ones(1, 1)}
    pair = (quantized, plain) if side == "base" else (plain, quantized)
    with pytest.raises(lfmlib.CheckpointError, match=r"q_proj\.weight.* Dequantize it first"):
        lfmlib.merge(pair[0], [pair[1]], out=tmp_path / "out", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_checkpoints_elsewhere_are_refused_and_none_of_their_values_read(tmp_path, side):
    tensors = {"w": torch.randn(64, 4096), "v": torch.ones(64)}
    fsspec.filesystem("memory").pipe("/elsewhere/model.safetensors", save(tensors))
    distant = lfmlib.open_checkpoint("memory://elsewhere")
    opened = distant.traffic.bytes
    pair = (distant, [tensors]) if side == "base" else (tensors, [tensors, distant])
    with pytest.raises(ValueError, match=r"^elsewhere is elsewhere, and a merge reads every byte .* Download it, and"):
        lfmlib.merge(*pair, out=tmp_path / "out", progress=False)
    assert distant.traffic.bytes == opened and not list(tmp_path.iterdir())


@pytest.mark.parametrize("after", [0, 3, 11])
def test_a_stopped_merge_loads_nowhere_and_goes_on(models, tmp_path, monkeypatch, after):
    options = {"method": "dare_ties", "density": 0.4, "seed": 3, "progress": False}
    sources = [models / "t0", models / "t1"]
    whole = hashes(lfmlib.merge(models / "base", sources, out=tmp_path / "whole", **options))
    write, count = ShardWriter.write, []

    def broken(pieces):
        yield next(pieces)[:7]
        raise KeyboardInterrupt

    def stopping(self, pieces):
        count.append(1)
        write(self, broken(pieces) if len(count) > after else pieces)

    monkeypatch.setattr(ShardWriter, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        lfmlib.merge(models / "base", sources, out=tmp_path / "out", **options)
    monkeypatch.setattr(ShardWriter, "write", write)
    assert not (tmp_path / "out").exists()
    with pytest.raises((OSError, ValueError)):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out.partial")
    with pytest.raises(ValueError, match="holds a part of something else"):
        lfmlib.merge(models / "base", sources, out=tmp_path / "out", **options | {"seed": 4})
    writes = []
    monkeypatch.setattr(ShardWriter, "write", lambda self, pieces: writes.append(1) or write(self, pieces))
    assert hashes(lfmlib.merge(models / "base", sources, out=tmp_path / "out", **options)) == whole
    assert len(writes) == 21 - after


@pytest.mark.slow
def test_a_killed_merge_goes_on(models, tmp_path):
    code = (
        "import sys, lfmlib, lfmlib.merging.shard_writer as s; write = s.ShardWriter.write; import time\n"
        "def slow(self, pieces):\n    write(self, pieces); time.sleep(0.05)\n"
        "s.ShardWriter.write = slow; s.SYNC_BYTES = 1\n"
        "base, one, two, out = sys.argv[1:]\n"
        "lfmlib.merge(base, [one, two], 'dare', density=0.5, out=out, progress=False)"
    )
    names = [str(models / name) for name in ("base", "t0", "t1")]
    child = subprocess.Popen([sys.executable, "-c", code, *names, str(tmp_path / "out")])
    partial = tmp_path / "out.partial"
    while child.poll() is None and len(list(partial.glob("*.safetensors"))) < 2:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert partial.exists() and not (tmp_path / "out").exists()
    options = {"method": "dare", "density": 0.5, "progress": False}
    resumed = hashes(lfmlib.merge(names[0], names[1:], out=tmp_path / "out", **options))
    assert resumed == hashes(lfmlib.merge(names[0], names[1:], out=tmp_path / "whole", **options))


def test_a_full_disk_is_said_before_and_while_writing(models, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(model_folder.shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 5000, 5000))
        with pytest.raises(OSError, match=r"has 5,000 bytes free, and \d[\d,]+ more are to be written: make room"):
            lfmlib.merge(models / "base", [models / "t0"], "average", out=tmp_path / "out", progress=False)

    class Full:
        """A file on a disk that takes so many bytes more."""

        def __init__(self, file, room):
            self.file, self.room = file, room

        def write(self, data):
            if self.room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = self.file.write(data[: self.room])
            self.room -= written
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

    enter = ShardWriter.__enter__

    def full(self):
        enter(self)
        if not self.finished and "00002" in self.path.name:
            self._file = Full(self._file, 90_000)
        return self

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "__enter__", full)
        with pytest.raises(
            OSError, match=r"the disk is full: [\d,]+ bytes of weights are still to be written to .*out.partial"
        ):
            lfmlib.merge(models / "base", [models / "t0"], "average", out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    out = lfmlib.merge(models / "base", [models / "t0"], "average", out=tmp_path / "out", progress=False)
    found, expected = weights(out), weights(models / "t0")
    assert all(torch.allclose(found[name], expected[name], atol=1e-7) for name in found)


def test_what_a_version_of_a_library_leaves_out_is_as_in_the_base(tmp_path):
    start = {
        "layer.0.weight": torch.randn(70, 60),
        "layer.0.attn.bias": torch.ones(1, 1, 4, 4),
        "embeddings.position_ids": torch.arange(4),
    }
    other = {"layer.0.weight": start["layer.0.weight"] + 0.01}
    found = load_file(
        lfmlib.merge(start, other, "average", out=tmp_path / "new" / "out", progress=False) / "model.safetensors"
    )
    assert torch.equal(found["layer.0.weight"], other["layer.0.weight"]) and len(found) == 3
    assert torch.equal(found["layer.0.attn.bias"], start["layer.0.attn.bias"])
    lacking = {"layer.0.attn.bias": start["layer.0.attn.bias"]}
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 tensors of mapping, such as layer.0.weight"):
        lfmlib.merge(start, lacking, out=tmp_path / "x", progress=False)


def test_minilm_is_merged_with_its_modules(tmp_path):
    base = lfmlib.open_checkpoint("minilm")
    moved = {
        name: one.load() + 0.001 * torch.randn(one.shape) for name, one in base.stored.items() if "LayerNorm" in name
    }
    tuned = {name: moved.get(name, one.load()) for name, one in base.stored.items() if "position_ids" not in name}
    out = lfmlib.merge("minilm", tuned, "task_arithmetic", out=tmp_path / "out", progress=False)
    model = AutoModel.from_pretrained(out)
    name = "encoder.layer.0.output.LayerNorm.weight"
    assert torch.allclose(dict(model.named_parameters())[name], moved[name], atol=1e-6)
    assert (out / "1_Pooling" / "config.json").exists() and (out / "tokenizer.json").exists()


def test_a_stray_value_neither_hides_a_stranger_nor_overflows(tmp_path):
    start = {"w": torch.randn(80, 80)}
    stranger = {"w": torch.randn(80, 80)}
    stranger["w"][3, 3] = math.nan
    with pytest.raises(ValueError, match="is no fine-tune of the base"):
        lfmlib.merge(start, stranger, out=tmp_path / "x", progress=False)
    large = {"w": start["w"].clone()}
    large["w"][0, 0] = 1e5
    with pytest.raises(ValueError, match=r"1 values of w are too large for float16: choose dtype="):
        lfmlib.merge(large, large, dtype="float16", out=tmp_path / "x", progress=False)


def test_what_is_random_is_so_whatever_else_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("lfmlib.merging.one_tensor.PIECE", 1000)
    start = {"w": torch.randn(100, 90)}
    other = {"w": start["w"] + 0.01 * torch.randn(100, 90)}
    made = [
        load_file(
            lfmlib.merge(start, other, "dare", out=tmp_path / name, progress=False, **options) / "model.safetensors"
        )
        for name, options in (("a", {}), ("b", {"amplify": 1.5}), ("c", {"amplify": "auto"}))
    ]
    assert all(torch.equal(one["w"] == start["w"], made[0]["w"] == start["w"]) for one in made)


def test_two_processes_do_not_write_one_folder(models, tmp_path):
    from filelock import FileLock

    (tmp_path / "out.partial").mkdir()
    with FileLock(tmp_path / "out.partial" / ".lock"), pytest.raises(ValueError, match="another process writes"):
        lfmlib.merge(models / "base", [models / "t0"], out=tmp_path / "out", progress=False)


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.sampled_from(["float32", "bfloat16", "int64", "bool"])),
             min_size=1, max_size=5),
    st.integers(0, 6),
)  # fmt: skip
def test_shards_are_what_safetensors_writes(tmp_path_factory, shapes, stop):
    home = tmp_path_factory.mktemp("shard")
    tensors = {
        f"t{i}": torch.arange(a * b).reshape(a, b).to(getattr(torch, dtype)) for i, (a, b, dtype) in enumerate(shapes)
    }
    entries = [Entry(name, tuple(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in tensors.items()]
    with ShardWriter(home / "a", entries) as writer:
        for x in list(tensors.values())[:stop]:
            writer.write(iter(x.flatten().split(3)))
    with ShardWriter(home / "a", entries) as writer:
        assert writer.done <= min(stop, len(entries))  # one without values may be written again
        for x in list(tensors.values())[writer.done :]:
            writer.write([x])
    assert sorted(path.name for path in home.iterdir()) == ["a"]
    found = load_file(home / "a")
    save_file(tensors, home / "b", metadata={"format": "pt"})
    theirs = load_file(home / "b")
    assert all(torch.equal(found[name], theirs[name]) and found[name].dtype == x.dtype for name, x in tensors.items())


def test_a_shard_takes_no_wrong_pieces(tmp_path):
    with ShardWriter(tmp_path / "a", [Entry("w", (2, 3), "float32")]) as writer:
        with pytest.raises(ValueError, match="w: a piece is float64, expected float32"):
            writer.write([torch.ones(6).double()])
        with pytest.raises(ValueError, match="w: 20 bytes were given, expected 24"):
            writer.write([torch.ones(5)])
    assert not (tmp_path / "a").exists() and shard_writer.SYNC_BYTES > 0


def test_what_the_disk_refused_once_is_not_taken_for_written(tmp_path, monkeypatch):
    """An fsync after one that failed succeeds, though the bytes are gone: the note stays at the last good place."""
    entries = [Entry(name, (1000,), "float32") for name in "abcd"]
    values = [torch.full((1000,), float(i)) for i in range(4)]
    sync, calls = os.fsync, []

    def refusing(file):
        calls.append(file)
        if len(calls) == 3:  # the header's, that of a, that of b
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(file)

    monkeypatch.setattr(shard_writer, "SYNC_BYTES", 1)
    monkeypatch.setattr(shard_writer.os, "fsync", refusing)
    with pytest.raises(OSError, match=r"Input/output"), ShardWriter(tmp_path / "w", entries) as writer:
        for value in values:
            writer.write([value])
    with ShardWriter(tmp_path / "w", entries) as writer:
        assert writer.done == 1
        for value in values[1:]:
            writer.write([value])
    assert all(torch.equal(one, value) for one, value in zip(load_file(tmp_path / "w").values(), values, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_disk_that_is_full_when_a_shard_is_opened_leaves_nothing_running(tmp_path, monkeypatch):
    """The header is the first thing that is written; the file is closed, its thread has ended, and it goes on later."""
    entries = [Entry("a", (1000,), "float32")]
    sync = os.fsync

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer, before = ShardWriter(tmp_path / "w", entries), threading.active_count()
    monkeypatch.setattr(shard_writer.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), writer:
        pass
    assert writer._file.closed and threading.active_count() == before
    monkeypatch.setattr(shard_writer.os, "fsync", sync)
    with ShardWriter(tmp_path / "w", entries) as writer:
        writer.write([torch.ones(1000)])
    assert torch.equal(load_file(tmp_path / "w")["a"], torch.ones(1000))


@pytest.mark.parametrize("name", ["model.safetensors", "notes/of/mine.txt"])
def test_a_partial_folder_that_is_not_from_here_is_left_alone(tmp_path, name):
    """Its weights were taken for what an earlier run had written."""
    file = tmp_path / "out.partial" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    base = {"q_proj.weight": torch.randn(64, 64, generator=torch.Generator().manual_seed(0))}
    tuned = {name: w + 0.01 for name, w in base.items()}
    with pytest.raises(ValueError, match=r"holds (model.safetensors|notes) and no merge.json, so it is not from here"):
        lfmlib.merge(base, [tuned], "average", out=tmp_path / "out", progress=False)
    assert file.read_bytes() == b"mine" and not (tmp_path / "out").exists()
