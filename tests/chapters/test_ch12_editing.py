"""What chapter 12 prints: planted gains, factors and losses of a made record; what it merges, and where."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import lfmlib
from lfmlib import findings, records
from lfmlib.chapters import ch12_editing, ch12_gains, own_folder, yours
from lfmlib.experiments import editing, made_laws
from lfmlib.findings import METHOD_NAMES
from lfmlib.merging import methods
from lfmlib.provenance import ROOT

GAIN = 0.02


def made(seeds: int = 5) -> pd.DataFrame:
    """Amplifying adds `GAIN` on the ViT and takes twice as much on the decoder; controls change nothing."""
    rows = []
    for seed in range(seeds):
        level = 0.8 + 0.01 * seed
        for model, sets in {"vit": ("parity+rotation", "large+parity+rotation"), "decoder": ("headers+prose",)}.items():
            gain = GAIN if model == "vit" else -2 * GAIN
            for task in sorted({task for tasks in sets for task in tasks.split("+")}):
                rows.append(
                    {"part": "tuned", "model": model, "seed": seed, "task": task, "score": 0.9, "base": 0.3,
                     "norm": 0.1}
                )  # fmt: skip
                for arm in ("plain", "amplified", "wide", "random"):
                    rows.append(
                        {"part": "negated", "model": model, "seed": seed, "tasks": task, "task": task, "arm": arm,
                         "normalized": 0.4 - (arm == "amplified") * GAIN, "base": 0.96, "scale": 0.3, "factor": 2.0}
                    )  # fmt: skip
            for tasks in sets:
                for method in METHOD_NAMES:
                    for arm in ("plain", *ch12_editing.ARMS, *methods.PROJECTIONS):
                        about = {"scale": 0.7, "factor": {"plain": np.nan, "auto": 1.1}.get(arm, 2.0)}
                        about |= {"valid": 0.9 if method == "ties" else 0.8}
                        more = {"outliers": 0.004, "energy": 0.03, "alike": 0.1} if arm == "plain" else {}
                        for place, task in enumerate(tasks.split("+")):
                            first = about | more if place == 0 and "scale" in about else {}
                            value = level + gain * (arm == "amplified") * (2 if place == 0 else 0.5)
                            rows.append(
                                {"part": "merged", "model": model, "seed": seed, "tasks": tasks, "method": method,
                                 "arm": arm, "task": task, "normalized": value, **first}
                            )  # fmt: skip
    return pd.DataFrame(rows).assign(cell="0")


@pytest.fixture(scope="module")
def record() -> pd.DataFrame:
    return made()


def test_findings_follow_the_planted_gains(record):
    found = {one.model: one for one in ch12_editing.found(record, seed=0)}
    assert {model: one.verdict for model, one in found.items()} == {
        "lab ViT": "supported",
        "lab decoder": "contradicted",
    }
    assert all(one.provenance["record"]["name"] == "editing" for one in found.values())


def test_tables_say_what_was_planted(record):
    tables = dict(ch12_editing.by_model(record))
    assert list(tables) == ["lab decoder", "lab ViT"]
    row = ch12_editing.kept(tables["lab decoder"]).loc["TIES"]
    assert row["plain keeps"].startswith("82.0 [") and row["outliers, tuned factor"].startswith("-5.00 [-5.00")
    assert row["random set instead"].startswith("+0.00")
    gains = ch12_editing.gains(record)["lab ViT"]
    assert set(gains["arm"]) == set(ch12_editing.ARMS.values()) and len(gains) == 6 * len(ch12_editing.ARMS)
    assert (gains.loc[gains["arm"] == "outliers, tuned factor", "low"] > 0).all()
    assert list(ch12_editing.by_number(record)) == ["2 tasks", "3 tasks"]
    assert "2: 100%" in ch12_editing.chosen(record).loc["lab ViT", "outliers, tuned factor"]
    assert ch12_editing.chosen(record).loc["lab ViT", "outliers, data-free factor"].startswith("1.10")
    assert "lab ViT 0% at 0.1, 0% at 1.6" in ch12_editing.ends(record)
    assert "lab ViT 100% at 0.1" in ch12_editing.ends(
        record.assign(scale=record["scale"].mask(record["scale"] == 0.7, 0.1))
    )
    assert set(ch12_editing.scales(record)["lab ViT"]) == {"0.7, 0.7"}
    assert "worse by more in 100%" in ch12_editing.hurts(record).partition("ViT")[0]
    assert ch12_editing.projected(record).loc["lab ViT", "symmetric"].startswith("+0.00")
    assert list(ch12_editing.tuned(record)["model"]) == ["lab decoder"] * 2 + ["lab ViT"] * 3
    assert "-2.00" in ch12_editing.forgotten(record).query("model == 'lab ViT'").iloc[1]["against plain"]
    assert row["outliers"] == "0.40 %" and row["of the norm²"] == "3.0 %"
    merged = ch12_editing.sets(record)
    assert merged["best on validation data"].str.startswith("TIES 82").all()
    assert (merged["base keeps"] == "33.3").all()  # 0.3 of 0.9
    assert set(merged["a point, of what tuning added"]) == {"1.5 %"}
    some = record[~((record["part"] == "tuned") & (record["task"] == "parity"))]
    assert ch12_editing.sets(some)["base keeps"].to_list() == ["33.3", "–", "–"]
    assert "lab ViT, of 6: 6 better and 0 worse than a random set" in ch12_editing.against_controls(record)
    assert "lab decoder, of 6: 0 better and 6 worse than a random set" in ch12_editing.against_controls(record)
    assert "points)" in ch12_editing.tested(record) and "parity" in ch12_editing.chance(record)


def test_takeaways_turn_with_the_record(record):
    averaged = made_laws.averaged((1, 4), 20_000, 0)

    def told(rows):
        return ch12_gains.takeaways(ch12_editing.found(rows, seed=0), rows, averaged)

    gains, reach, tasks = told(record).splitlines()
    assert "in **1 of 2** pairs" in gains  # all methods are alike there, and so are counted once
    assert gains.endswith("made as large does as well in 0 of these.")
    assert "outliers of 4 models" in reach and "it is **1.10** in the median" in reach
    assert "**71% rise**" in tasks and "29% fall" in tasks
    flat = told(record.assign(normalized=0.5))
    assert "in **0 of 2** pairs" in flat and "**0% rise**" in flat
    gone = record.assign(normalized=record["normalized"].where(record["seed"] > 0))
    assert "Too few runs" in told(gone)


def test_figures_have_a_row_for_each_mark(record):
    amplified = ch12_gains.amplified(record)
    assert len(amplified) == 12 and set(amplified["model"]) == {"lab decoder", "lab ViT"}
    assert (amplified.query("model == 'lab decoder'")["high"] < 0).all()
    assert set(ch12_gains.keeps(record)["set"]) == {"lab decoder, 2 tasks", "lab ViT, 2 tasks", "lab ViT, 3 tasks"}
    forgetting = ch12_gains.forgetting(record).set_index(["arm", "model"])["mean"]
    assert forgetting[ch12_editing.ARMS["amplified"], "lab ViT"] == pytest.approx(-2)


def test_arms_that_a_model_was_not_asked_about_are_left_out():
    record = made()
    some = record[~((record["model"] == "decoder") & record["arm"].isin(["wide", *methods.PROJECTIONS]))]
    tables = dict(ch12_editing.by_model(some))
    assert ch12_editing.ARMS["wide"] not in ch12_editing.kept(tables["lab decoder"]) and ch12_editing.ARMS[
        "wide"
    ] in ch12_editing.kept(tables["lab ViT"])
    assert list(ch12_editing.projected(some).index) == ["lab ViT"]
    assert ch12_editing.chosen(some).loc["lab decoder", ch12_editing.ARMS["wide"]] == "–"


def test_methods_that_a_model_was_not_merged_by_are_left_out():
    record = made()
    some = record[~((record["model"] == "decoder") & (record["method"] == "nan"))]
    assert ch12_editing.scales(some).loc["NAN"].to_dict() == {"lab decoder": "–", "lab ViT": "0.7, 0.7"}
    assert "lab decoder, of 5: 0 better and 5 worse" in ch12_editing.against_controls(some)
    assert list(dict(ch12_editing.by_model(some))) == ["lab decoder", "lab ViT"]


def test_tests_count_methods_that_differ_once():
    """Six methods with the same scores are one test; with scores of their own they are six, and p is six times as
    large."""
    rng = np.random.default_rng(0)
    record = made().query("model == 'vit'")
    noise = pd.Series(rng.normal(0, 0.01, 5))
    once = record.assign(normalized=record["normalized"] + (record["arm"] == "amplified") * record["seed"].map(noise))
    places = {method: place for place, method in enumerate(METHOD_NAMES)}
    apart = once.assign(normalized=once["normalized"] + 1e-6 * once["method"].map(places).fillna(0))
    one, six = (float(ch12_editing.tested(rows).split("lab ViT ")[1].split(" (")[0]) for rows in (once, apart))
    assert six == pytest.approx(6 * one, rel=0.05)


def test_a_method_without_any_difference_has_no_p_value():
    flat = made().assign(normalized=0.5)
    assert "lab ViT 1 (" in ch12_editing.tested(flat)


def test_averages_move_outliers_inwards():
    table = made_laws.averaged((1, 4), 100_000, 0)
    assert np.allclose(table["reach of the average"], table["that over √n"], rtol=0.1)
    factor = table["data-free factor"]
    assert factor["4"] == pytest.approx(2, rel=0.1) and factor["1"] == 1
    assert table.loc["4", "planted"] == "0.4 %" and float(table.loc["4", "found"][:4]) == pytest.approx(0.4, abs=0.06)


def test_masks_of_dare_make_outliers_of_noise_and_sums_do_not():
    table = made_laws.merged_noise((2,), 60_000, 0)["of 2 merged"]
    assert table["average"] == table["task arithmetic"] == table["NAN"] == "0.00 %"
    assert float(table["DARE"][:4]) > 0.1


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    assert own_folder.place("", tmp_path, theirs=True) == tmp_path / "merged"
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "model.safetensors").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"merged is there already: name another folder with `-p out …`"):
        own_folder.place("", tmp_path, theirs=True)
    with pytest.raises(FileExistsError):
        own_folder.place(str(tmp_path / "merged"), tmp_path, theirs=False)
    example = tmp_path / "merged-example"
    example.mkdir()
    (example / "merge.json").write_text("{}", encoding="utf-8")
    assert own_folder.place("", tmp_path, theirs=False) == example and not example.exists()


@pytest.fixture
def other_run(tmp_path):
    """A function that starts another run of a chapter, which takes its folder and lives on, and gives that folder."""
    running = []

    def start(out: str, theirs: bool) -> Path:
        ask = "import sys; from pathlib import Path; from lfmlib.chapters import own_folder\n"
        ask += f"print(own_folder.place({out!r}, Path({str(tmp_path)!r}), {theirs}), flush=True); sys.stdin.read()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
        running.append(subprocess.Popen([sys.executable, "-c", ask], cwd=ROOT, **pipes))
        return Path(running[-1].stdout.readline().strip())

    yield start
    for one in running:
        one.communicate()


def test_two_runs_at_once_never_write_to_one_folder(tmp_path, other_run):
    theirs = other_run("", False)
    assert theirs == tmp_path / "merged-example"
    theirs.mkdir()
    (theirs / "merge.json").write_text("theirs", encoding="utf-8")
    half = tmp_path / "merged-example-2.partial"
    half.mkdir()
    (half / "merge.json").write_text("of a run that was killed", encoding="utf-8")
    ours = own_folder.place("", tmp_path, theirs=False)
    assert ours == tmp_path / "merged-example-2" == own_folder.place("", tmp_path, theirs=False)
    assert (theirs / "merge.json").read_text(encoding="utf-8") == "theirs" and not half.exists()
    chosen = other_run(str(tmp_path / "mine"), True)
    with pytest.raises(FileExistsError, match=r"another run .* writes to .*mine: name another folder with `-p out …`"):
        own_folder.place(str(chosen), tmp_path, theirs=True)


def test_the_readers_own_models_are_looked_at(tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    start = torch.randn(80, 70)
    for place, one in (("base", start), ("one", start + 0.1 * torch.randn(80, 70)), ("two", start + 0.1)):
        save_file({name: one}, tmp_path / f"{place}.safetensors")
    files = [str(tmp_path / f"{place}.safetensors") for place in ("base", "one", "two")]
    before, models, words = yours.example(files[0], f" {files[1]}, {files[2]} ,", "quick")
    assert len(models) == 2 and "one" in words and "two" in words
    assert torch.allclose(
        yours.average(before, models, name), (models[0].read(name) + models[1].read(name)) / 2 - start, atol=1e-6
    )
    table = lfmlib.overlap(before, models, progress=False)
    assert "cosine of two ΔW" in yours.conflict(table, 2) and "one model" in yours.conflict(table, 1)
    assert "none" in yours.outliers(table.assign(outliers=0.0)) and "1 of 1" in yours.outliers(
        table.assign(outliers=0.1)
    )
    assert list(yours.by_role(table).index) == ["up"]
    out = lfmlib.merge(before, models, "average", out=tmp_path / "out", progress=False)
    assert "2 files" in yours.written(out) and "`merge.json`" in yours.written(out)


def test_findings_on_the_record_itself_are_kept(tmp_path):
    """Counts of NumPy's stood in the details of a model whose merges gain, and no toy has one."""
    found = ch12_editing.found(records.load("editing"), seed=0)
    for one in found:
        findings.write(one, tmp_path)
    assert {one.model for one in findings.load(tmp_path)} == {one.model for one in found}
    assert found[0].model == "smollm2-135m" and found[0].details["of"] == len(editing.ONE_BY_ONE["smollm2-135m"])
