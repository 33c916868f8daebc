"""The report's tables: small, true to the survey they are read off, and with intervals that hold the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hubserver import HubServer, Repository
from peft import LoraConfig, get_peft_model
from safetensors.torch import save, save_file
from torch import nn

import lfmlib
from lfmlib import findings, records
from lfmlib.chapters import census, ch13_layers, ch13_matrices, ch13_pictures, ch13_report, lab_runs
from lfmlib.findings import scoreboard
from lfmlib.health import planted
from lfmlib.provenance import HOME, ROOT
from lfmlib.structure import made_matrices
from lfmlib.surveys import values


def layers(count: int = 6, width: int = 128, dtype=torch.bfloat16) -> dict[str, torch.Tensor]:
    """A made model: rows of unlike scale, some sharp, one untrained."""
    rng = np.random.default_rng(0)
    tensors = {}
    for i in range(count):
        for role, kind in (("self_attn.q_proj", "row scales"), ("mlp.up_proj", "Laplace"), ("mlp.down_proj", "noise")):
            made = 0.02 * made_matrices.matrix(kind, 0.4, (width, width), rng)
            tensors[f"model.layers.{i}.{role}.weight"] = torch.tensor(made).to(dtype)
    return tensors


@pytest.fixture
def sampling(monkeypatch):
    """For a sample of matrices so small that they would be read whole."""
    monkeypatch.setattr(values, "WHOLE_BYTES", 0)


@pytest.fixture(scope="module")
def model():
    checkpoint = lfmlib.open_checkpoint(layers())
    return checkpoint, lfmlib.survey(checkpoint, progress=False)


@pytest.mark.filterwarnings("ignore:sample=")
def test_what_a_sample_says_of_roles_holds_the_whole(model, sampling):
    checkpoint, whole = model
    sampled = lfmlib.survey(checkpoint, progress=False, sample=8192)
    assert ch13_report.identity(checkpoint, sampled).iloc[-1].tolist() == [
        "sampled in",
        "up to 1,024 pieces of each tensor",
    ]
    assert "sampled in" not in ch13_report.identity(checkpoint, whole)[""].tolist()
    value, low, high = findings.gaussian_share(sampled)
    assert low <= findings.gaussian_share(whole)[0] <= high and low <= value <= high
    table, full = (ch13_report.by_role(one).set_index("role") for one in (sampled, whole))
    assert list(table.index) == ["all", "q", "up", "down"]
    for role in table.index:
        words = table.loc[role, "median kl_bits"]
        low, high = (float(one) for one in words[words.index("[") + 1 : -1].split(", "))
        assert low <= float(full.loc[role, "median kl_bits"]) <= high
    assert "[" not in full.loc["all", "median kl_bits"], "a census has no interval"


def test_the_farthest_matrices_come_first_with_a_reason(model):
    _, table = model
    found = ch13_report.unlike(table)
    assert (found["role"] == "up").head(6).all() and found["why"].str.contains("sharp").head(6).all()
    reach = ch13_report.outliers(table)
    assert len(reach) == 8 and float(reach["largest, in std"].iloc[0]) > float(reach["of noise"].iloc[0])


def test_takeaways_are_of_this_model(model):
    checkpoint, table = model
    part = ch13_matrices.chosen(checkpoint, "quick")
    arranged = lfmlib.arrangement(part, controls=["permuted", "fresh"], progress=False)
    found = pd.DataFrame({"state": ["zeroed"]})
    tested = pd.DataFrame({"planted": ["zeroed", "swapped"], "called": ["zeroed", "nothing"]})
    body = findings.shown(table)
    bell, legs, states = ch13_pictures.takeaways(body, arranged, found, 18, tested).splitlines()
    assert "of the judged weights lie in" in bell and "the farthest is up, layer" in bell
    assert "of noise’s spectrum**. Of fresh noise 100" in legs
    assert "Of 18 matrices **1** looks untrained" in states and "of 2 damages planted in copies 1 are" in states
    none = ch13_pictures.takeaways(body.iloc[:0], arranged.iloc[:0], found, 0, tested.iloc[:0])
    assert "**No matrix**" in none and "**no judged matrix**" in none and "none was planted" in none


def test_pictures_have_what_the_tables_have(model):
    checkpoint, table = model
    reach = ch13_pictures.reach(table)
    assert reach["of"].value_counts().nunique() == 1 and reach["matrix"].iloc[0].startswith("up, layer")
    legs = ch13_pictures.legs(pd.DataFrame())
    assert list(legs) == ["leg", "of", "mean", "low", "high"] and legs.empty
    part = ch13_matrices.chosen(checkpoint, "quick")
    arranged = lfmlib.arrangement(part, controls=["permuted", "fresh"], progress=False)
    words = ch13_matrices.legs(arranged)
    for _, row in ch13_pictures.legs(arranged).iterrows():
        leg = next(name for name, called in ch13_pictures.LEGS.items() if called == row["leg"])
        assert words.loc[row["of"], leg] == findings.scoreboard.part(row["mean"])
    assert ch13_pictures.place(HOME / "_build").parts[-1] == "_build"
    assert ch13_pictures.place(HOME.parent / "elsewhere") == HOME.parent / "elsewhere"


def test_damage_is_planted_and_called_by_its_name(model):
    checkpoint, _ = model
    part = ch13_matrices.chosen(checkpoint, "quick")
    assert len(part.tensors) == ch13_matrices.MAX_MATRICES["quick"]
    found = planted.self_test(part, seed=0)
    assert found["planted"].tolist() == list(planted.PLANTED)
    assert (found["planted"] == found["called"]).sum() >= 3  # what was noise before stays noise in another order


def test_a_cut_of_a_large_matrix_is_its_first_rows(model):
    checkpoint, _ = model
    name = checkpoint.tensors[0].name
    part = checkpoint.cut([name], 70 * 128)
    assert torch.equal(part.read(name), checkpoint.read(name)[:70])
    assert (part.tensors[0].role, part.tensors[0].shape) == ("q", (70, 128))
    assert "; of 1 the first rows" in ch13_matrices.looked(part, checkpoint)


def test_quantized_matrices_are_marked_and_their_pieces_counted_together():
    codes = {f"layers.{i}.q_proj.weight": torch.randn(64, 64).to(torch.float8_e4m3fn) for i in range(9)}
    scales = {f"{name}_scale_inv": torch.rand(1, 1) for name in codes}
    table = lfmlib.survey(codes | scales, progress=False)
    assert "**9 of 9 matrices are quantized** (float8_e4m3fn, a scale for 64 × 64)" in ch13_report.coded(table)
    assert f"9 × {findings.shares.QUANTIZED_PARTS}" in findings.left_out(table)


def test_layers_are_judged_in_words():
    checkpoint = lfmlib.open_checkpoint("minilm")
    sound = pd.DataFrame({"role": ["q"], "depth": [pd.NA], "state": ["zeroed"]})
    assert "No two layers look exchanged" in ch13_layers.layers(checkpoint, sound, 0, 0)
    assert "named rightly" in ch13_layers.exchange_test(checkpoint, sound, 0, 0, most=2)
    few = lfmlib.open_checkpoint(layers(4))
    hurt = pd.DataFrame({"role": "q", "depth": [1, 1, 3], "state": "zeroed"})
    assert "cannot be told: 2 layers" in (words := ch13_layers.layers(few, hurt, 0, 0))
    assert words.endswith("Left out: layers 1, 3.")
    assert "fewer than four" in ch13_layers.exchange_test(few, hurt, 0, 0)


def report(folder: Path, *parameters: str) -> subprocess.CompletedProcess:
    notebook = ROOT / "notebooks" / "13_what_does_the_report_say.ipynb"
    command = [sys.executable, "-m", "papermill", str(notebook), str(folder / "out.ipynb"), "--no-progress-bar"]
    command += ["--cwd", str(ROOT), "-p", "profile", "quick", "-p", "results", str(folder / "results"), *parameters]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, stdin=subprocess.DEVNULL, check=False, encoding="utf-8"
    )


@pytest.mark.slow
def test_the_report_on_a_model_elsewhere_by_samples(tmp_path):
    """The chapter itself, on a server's address: bytes read, verdicts kept, tables to take along."""
    served = Repository()
    tensors = layers(4, 256)
    served.commit({"model.safetensors": save(tensors), "config.json": b'{"model_type": "made"}'})
    with HubServer({"made/model": served}) as hub:
        done = report(tmp_path, "-p", "model", f"{hub.url}/made/model", "-p", "sample", "16384")
        assert done.returncode == 0, done.stderr[-3000:]
        read = sum(sent for _, _, sent in hub.ranges)
    assert read < 0.8 * sum(one.nbytes for one in tensors.values())
    place = tmp_path / "results" / "report"
    assert {one.id for one in findings.load(place)} == {"F1", "F3", "F4", "F9", "F10", "F12"}
    table = pd.read_parquet(*place.glob("*/matrices.parquet"))
    assert len(table) == len(tensors) and table["kl_bits_high"].notna().all()
    text = json.dumps(json.loads((tmp_path / "out.ipynb").read_text(encoding="utf-8")))
    assert "read from afar" in text and "MB in" in text and "32 pieces of each tensor" in text


@pytest.mark.slow
def test_the_report_with_a_base_tells_what_fine_tuning_changed(tmp_path):
    tensors = layers(3)
    moved = {name: (one.float() + 0.002 * torch.randn(one.shape)).bfloat16() for name, one in tensors.items()}
    save_file(tensors, tmp_path / "base.safetensors")
    save_file(moved, tmp_path / "tuned.safetensors")
    done = report(
        tmp_path, "-p", "model", str(tmp_path / "tuned.safetensors"), "-p", "base", str(tmp_path / "base.safetensors")
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"F6", "F7"} < {one.id for one in findings.load(tmp_path / "results" / "report")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:sample=")
def test_verdicts_on_a_sample_know_its_error_and_noise_must_pass(sampling):
    rng = np.random.default_rng(0)
    noise = {f"layers.{i}.q_proj.weight": torch.tensor(rng.standard_normal((256, 256))).float() for i in range(4)}
    part, empty = lfmlib.open_checkpoint(noise), pd.DataFrame()
    laws = lfmlib.laws(part, pruned=findings.PRUNED_SHARE)
    for sample, judged in ((1 << 16, True), (8, False)):
        table = lfmlib.survey(part, progress=False, sample=sample)
        found = ch13_report.verdicts(table, lfmlib.noise_twin(table), empty, laws, None, [], "made", {"source": "made"})
        (f1,) = [one for one in found if one.id == "F1"]
        if judged:
            assert f1.interval[0] <= f1.value <= f1.interval[1] and f1.first_verdict in ("supported", "undecided")
        else:
            assert f1.value is None and "larger sample" in f1.details["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("sample", [None, 16384])
def test_verdicts_on_some_matrices_or_rows_know_it(model, sample, sampling):
    checkpoint, whole = model
    part = checkpoint.only([info.name for info in checkpoint.tensors[:: 3 if sample else 1]])
    table = lfmlib.survey(checkpoint, progress=False, sample=sample)
    arranged = lfmlib.arrangement(part, controls=["permuted", "fresh"], progress=False)
    laws = lfmlib.laws(part, pruned=findings.PRUNED_SHARE, progress=False)
    found = ch13_report.verdicts(table, lfmlib.noise_twin(table), arranged, laws, None, [], "made", {"source": "made"})
    f3, f4, f12 = (next(one for one in found if one.id == name) for name in ("F3", "F4", "F12"))
    said = [scoreboard.measured(one) for one in (f3, f4, f12)]
    if not sample:
        assert f4.interval is None and not any("looked at" in one or "of samples" in one for one in said)
        return
    assert f3.interval[0] <= f3.value <= f3.interval[1] and "of 18 matrices may have another shape" in said[0]
    assert f4.interval[0] <= f4.value <= f4.interval[1] and "looked at: 6 of 18 matrices, evenly chosen" in said[1]
    low, high = f12.details["law_limits"]
    assert 0 <= low <= f12.details["law_share"] <= high <= 1 and "6 of 18 matrices" in said[2]
    assert high - low > 0.1
    cut = findings.shares.looked_at(whole.assign(numel=whole["numel"] - 1), whole)
    assert cut.startswith("of 18 matrices the first rows stand for all")


def test_the_share_of_some_matrices_holds_that_of_all():
    """Wilson's interval of 12 of 36 matrices of unlike size, evenly chosen, 400 times."""
    rng, held = np.random.default_rng(0), []
    for _ in range(400):
        whole = pd.DataFrame({"numel": rng.choice([1e5, 4e5], 36), "role": "q", "kl_bits": 0.0})
        whole = whole.assign(shape=[(100, 1000)] * 36, hit=rng.random(36) < rng.uniform(0.1, 0.95))
        some = whole.iloc[rng.permutation(36)[:12]]
        low, high = findings.shares.interval_over_matrices(some, lambda rows: rows["hit"], whole)
        held.append(low <= findings.share(whole, whole["hit"]) <= high)
    assert np.mean(held) >= 0.92
    assert findings.shares.interval_over_matrices(whole, lambda rows: rows["hit"], whole) is None


def test_samples_that_say_nothing_are_refused():
    for sample in (1, -5, "65536"):
        with pytest.raises(ValueError, match="or more, or 0 for all"):
            ch13_report.opened("minilm", "", "", sample)


def test_a_base_that_is_none_is_refused_before_anything_is_measured(tmp_path):
    tensors = layers(2)
    save_file(tensors, tmp_path / "model.safetensors")
    fresh = {name: 0.02 * torch.randn(one.shape).bfloat16() for name, one in tensors.items()}
    other = {name.replace("model.layers", "h").replace("proj", "fc"): one for name, one in tensors.items()}
    wider = {name: torch.randn(160, 160).bfloat16() for name in tensors}
    for i, (base, words) in enumerate(
        ((fresh, "is no fine-tune"), (other, "no matrix in common"), (wider, "no matrix of one shape"))
    ):
        save_file(base, tmp_path / f"base{i}.safetensors")
        with pytest.raises(ValueError, match=words):
            ch13_report.opened(str(tmp_path / "model.safetensors"), "", "", 0, str(tmp_path / f"base{i}.safetensors"))
    with pytest.raises(ValueError, match="the model is ' '"):
        ch13_report.opened("minilm", "", "", 0, " ")
    same = ch13_report.opened(str(tmp_path / "model.safetensors"), "", "", 0, str(tmp_path / "model.safetensors"))
    assert len(same.tensors) == len(tensors)


def test_weights_off_centre_fail_where_their_noise_passes():
    """Their control has a mean of 0, and nothing was read too little of where all was read."""
    rng = np.random.default_rng(0)
    part = lfmlib.open_checkpoint(
        {f"layers.{i}.q_proj.weight": 0.1 * rng.standard_normal((128, 128)) + 0.02 for i in range(4)}
    )
    table = lfmlib.survey(part, progress=False)
    laws = lfmlib.laws(part, pruned=findings.PRUNED_SHARE, progress=False)
    made = table, lfmlib.noise_twin(table), pd.DataFrame(), laws, None, [], "made", {"source": "made"}
    found = {one.id: one for one in ch13_report.verdicts(*made)}
    assert (found["F9"].value, found["F9"].verdict, found["F9"].control_verdict) == (0.0, "contradicted", "supported")
    assert found["F10"].control_verdict == "supported"


@pytest.mark.slow
def test_f3_has_the_witnesses_of_chapter_3(monkeypatch, tmp_path):
    """Straight flanks grew in the lab and in no published model: here as there the lab's models confirm them."""
    rng = np.random.default_rng(0)
    part = {f"layers.{i}.q_proj.weight": torch.tensor(rng.uniform(-1, 1, (128, 128))).float() for i in range(3)}
    table = lfmlib.survey(part, progress=False)
    noise = lfmlib.noise_twin(table)
    laws = lfmlib.laws(part, pruned=findings.PRUNED_SHARE, progress=False)
    grown = list(lab_runs.shapes_grown(records.load("initialization")))
    others = census.found("F3", "default", "made", grown)
    assert "linear" in grown and not any("linear" in one.details["found"] for one in others)

    def f3() -> findings.Finding:
        made = table, noise, pd.DataFrame(), laws, None, [], "made", {"source": "made"}
        return next(one for one in ch13_report.verdicts(*made) if one.id == "F3")

    assert f3() == findings.f3(table, noise, "made", others, grown, {"source": "made"})
    assert f3().interval == (1, 1) and f3().details["confirmed_elsewhere"] == ["linear"]
    for folder in ("FOLDER", "SHIPPED"):
        monkeypatch.setattr(records if folder == "FOLDER" else lab_runs, folder, tmp_path)
    assert f3().interval == (0, 1) and "record of the lab’s trainings is not here" in scoreboard.measured(f3())


def test_an_adapter_is_reported_as_the_model_it_makes(tmp_path):
    base = {name: tensor.float() for name, tensor in layers(3).items()}
    save_file(base, tmp_path / "base.safetensors")
    plain = nn.ModuleDict({"model": nn.ModuleDict({"layers": nn.ModuleList()})})
    for _ in range(3):
        parts = {"q_proj": nn.Linear(128, 128, bias=False)}
        plain["model"]["layers"].append(nn.ModuleDict({"self_attn": nn.ModuleDict(parts)}))
    wrapped = get_peft_model(plain, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "lora")
    given = str(tmp_path / "lora"), "", ""
    with pytest.raises(ValueError, match="holds an adapter, which is no model by itself: name the base"):
        ch13_report.opened(*given, 0)
    checkpoint = ch13_report.opened(*given, 0, str(tmp_path / "base.safetensors"))
    assert {info.name for info in checkpoint.tensors} == base.keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(checkpoint.read(name), base[name])
    start = str(tmp_path / "base.safetensors")
    changed = ch13_report.changed(start, given[0], checkpoint, "", seed=0)
    assert len(changed[changed["control"] == "none"]) == 3 and (changed["std_delta"] > 0).all()
    some = ch13_report.opened(given[0], "", r"layers\.[01]\.", 0, start)
    changed = ch13_report.changed(start, given[0], some, r"layers\.[01]\.", seed=0)
    assert set(changed["depth"]) == {0, 1} == {info.depth for info in some.tensors}


@pytest.mark.slow
def test_one_model_has_one_verdict(model):
    """What a chapter found of the whole checkpoint is taken, where the report looked at some matrices only."""
    checkpoint, table = model
    part = checkpoint.only([info.name for info in checkpoint.tensors[::3]])
    arranged = lfmlib.arrangement(part, controls=["permuted", "fresh"], progress=False)
    laws = lfmlib.laws(part, pruned=findings.PRUNED_SHARE, progress=False)
    where = {"source": "made", "revision": None, "commit": "abc", "parameters": {"select": "", "sample": 0}}

    def f4(others: list, **parameters) -> findings.Finding:
        here = where | {"parameters": where["parameters"] | parameters}
        found = ch13_report.verdicts(table, lfmlib.noise_twin(table), arranged, laws, None, others, "made", here)
        return next(one for one in found if one.id == "F4")

    chapters = findings.Finding.of("F4", "made", where, {"parts": {}}, value=2.0, null=3.0)
    taken = f4([chapters])
    assert (taken.value, taken.verdict) == (2.0, "partly") and taken.details["caveat"] == "as chapter 4 found it"
    others = [
        replace(chapters, model="other"),
        replace(chapters, provenance=where | {"source": "/elsewhere/made"}),
        replace(chapters, provenance=where | {"commit": "older"}),
        replace(chapters, provenance=where | {"parameters": {"select": "q_proj"}}),  # as in prs-eth/Marigold#66
        replace(chapters, provenance=where | {"parameters": {"profile": "quick"}}),  # as in zai-org/GLM-4#748
        replace(chapters, provenance=where | {"state": "trained further"}),
    ]
    assert "looked at: 6 of 18" in f4(others).details["caveat"]
    assert "looked at: 6 of 18" in f4([chapters], select="q_proj").details["caveat"]


@pytest.mark.parametrize("profile", ["quick", "default", "full"])
@pytest.mark.parametrize("select", ["", "encoder", "layer.[0-2]", "pooler", "embeddings", "LayerNorm|key", "bias"])
def test_the_report_and_chapter_4_measure_the_same_matrices(select, profile):
    """The size of MiniLM lets the report measure all; one with more layers is looked at in part, if not selected."""
    checkpoint = lfmlib.open_checkpoint("minilm", select=select)
    theirs = findings.judged(checkpoint, most=findings.MOST_MATRICES.get(profile))
    measured = [info.name for info in theirs.tensors if findings.shares.can_be_arranged(info)]
    part = ch13_matrices.chosen(checkpoint, profile, select)
    assert [info.name for info in part.tensors] == measured
    assert measured or select == "bias"
    own = [info for info in part.tensors if info.role != "pooler"]
    assert len(own) == {"quick": min(6, len(own)), "default": len(own), "full": len(own)}[profile]


def test_of_a_deep_model_all_selected_matrices_are_measured_and_else_some():
    thin = {f"model.layers.{i}.thin_proj.weight": torch.randn(8, 512) for i in range(3)}
    checkpoint = lfmlib.open_checkpoint(layers(14, 64) | thin)
    parts = {select: ch13_matrices.chosen(checkpoint, "default", select).tensors for select in ("", "proj")}
    assert [len(part) for part in parts.values()] == [36, 42]
    quick = findings.judged(checkpoint, most=6).tensors
    assert [info.name for info in quick] == [
        info.name for info in ch13_matrices.chosen(checkpoint, "quick", "proj").tensors
    ]
    assert len(quick) == 6 and not any("thin" in info.name for info in quick)


def test_what_was_looked_at_is_counted_as_the_verdict_counts_it():
    checkpoint = lfmlib.open_checkpoint("minilm")
    part = ch13_matrices.chosen(checkpoint, "full")
    assert ch13_matrices.looked(part, checkpoint).startswith(
        "Looked at: 36 of 36 judged matrices and, as a control, 1 pooler, evenly chosen"
    )


def test_of_large_models_whole_matrices_are_measured_fast(monkeypatch, tmp_path):
    """A matrix so large that its first rows are few; the embedding, which is not judged, does not count."""
    wide = 0.02 * torch.randn(1100, 1200, generator=torch.Generator().manual_seed(0))
    checkpoint = lfmlib.open_checkpoint({"embed_tokens.weight": torch.randn(5000, 400)} | layers(1) | {"up": wide})
    monkeypatch.setattr(ch13_matrices, "MAX_VALUES", 1 << 18)
    part = ch13_matrices.chosen(checkpoint, "full")
    assert ch13_matrices.effort(checkpoint) == "exact" and "; of 1 the first rows." in ch13_matrices.looked(
        part, checkpoint
    )
    monkeypatch.setattr(ch13_matrices, "LARGE_MATRIX", 1 << 20)
    assert ch13_matrices.effort(checkpoint, sample=1 << 20) == "exact" and ch13_matrices.effort(checkpoint) == "fast"
    said = ch13_matrices.looked(part, checkpoint)
    assert "each as a whole. Some are large, so the effort is *fast*" in said and "in 1 of the matrices" in said
    found = ch13_matrices.arrange(checkpoint, part, 0, 0, None)
    assert (found.attrs["effort"], len(found)) == ("fast", 12)
    assert found.loc[found["tensor"] == "up", ["numel", "row_corr_err"]].gt(0).all(axis=None)
    assert found.loc[found["tensor"] == "up", "numel"].eq(wide.numel()).all()
    assert ch13_matrices.arrange(checkpoint, part, 1 << 20, 0, None).attrs["effort"] == "exact"
    monkeypatch.setattr(ch13_matrices, "LARGE_MATRIX", 1 << 24)
    monkeypatch.setattr(ch13_matrices, "LARGE_MODEL", 1 << 20)
    assert ch13_matrices.effort(checkpoint) == "fast"


def test_what_the_report_takes_is_said_before_of_large_models_only(monkeypatch):
    """By arithmetic: no value of these matrices is read."""
    monkeypatch.setattr(ch13_matrices, "_slowness", lambda: 1.0)
    monkeypatch.setattr(ch13_matrices.os, "cpu_count", lambda: 2)
    small = lfmlib.open_checkpoint(layers(1))
    assert ch13_matrices.plan(small, "default", "", 0) == ""
    one = next(info for info in small.tensors if info.role == "q")
    llama = [replace(one, name=f"w{i}", shape=(4096, 11008), numel=4096 * 11008) for i in range(100)]
    monkeypatch.setattr(type(small), "only", lambda self, names: replace(self, tensors=llama[: len(list(names))]))
    said = ch13_matrices.plan(replace(small, tensors=llama), "default", "", 0)
    assert said == "100 matrices, 4.5 G weights: about 7 min on 2 workers, 1.0 GiB"
    few = ch13_matrices.plan(replace(small, tensors=llama), "default", "", 1 << 16)
    assert few == "" or "min" not in few
    assert 0.1 < ch13_matrices._slowness() < 100


def test_towers_have_rows_of_their_own():
    tensors = {f"{tower}.{name}": one for tower in ("encoder", "decoder") for name, one in layers(2).items()}
    table = lfmlib.survey(tensors, progress=False)
    assert list(table["tower"].unique()) == ["encoder", "decoder"]
    roles = ch13_report.by_role(table)["role"].tolist()
    assert roles == ["all", *(f"{tower}.{role}" for tower in ("encoder", "decoder") for role in ("q", "up", "down"))]
    assert ch13_report.by_role(lfmlib.survey(layers(2), progress=False))["role"].tolist() == ["all", "q", "up", "down"]


def test_a_report_on_another_model_does_not_speak_of_the_books_own():
    cells = nbformat.read(ROOT / "notebooks" / "13_what_does_the_report_say.ipynb", as_version=4).cells
    told = [cell.source for cell in cells if "parameters" not in cell.metadata.get("tags", [])]
    assert "minilm" not in "\n".join(told).lower()


def test_a_record_on_a_model_by_name_is_on_its_files_and_on_others_it_is_not_known():
    where = {
        "source": "minilm",
        "revision": "1110a243",
        "state": None,
        "commit": "c",
        "parameters": {"profile": "default"},
    }
    told = {"record": {"name": "optimal"}, "source": "minilm", "commit": "c", "parameters": {"profile": "default"}}
    judged = findings.Finding.of("F12", "minilm", told, {}, value=0.0)
    own = findings.Finding.of("F12", "minilm", where, {})
    found = ch13_report._by_its_chapter(own, [judged], where)
    assert found.verdict == "contradicted" and found.details["caveat"] == "as chapter 10 found it"
    other = replace(judged, provenance=told | {"source": "folder"})
    assert ch13_report._by_its_chapter(own, [other], where | {"source": "folder"}) is own
    assert ch13_report._by_its_chapter(own, [judged], where | {"commit": "d"}) is own
