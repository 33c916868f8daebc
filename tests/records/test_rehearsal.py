"""Rehearsals: which cells come apart under other instructions, and that those are not drawn."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import toyexperiments
from toyexperiments import TOY, cells, tides

from lfmlib import records
from lfmlib.chapters import rehearsals
from lfmlib.records import Experiment, files, instructions, rehearsal, runs
from lfmlib.records.__main__ import main
from lfmlib.records.instructions import InstructionSet

HERE = instructions.torch.backends.cpu.get_cpu_capability()
CALM, WINDY = InstructionSet("fins", HERE), InstructionSet("fins", HERE, None, {"TOY_WIND": "2e-4"})
STEADY, NARROW, APART = {0, 1, 2}, {3, 4}, {6, 7}
"""Seeds, by what the wind lifts them: a fifth of what is allowed for each."""


@pytest.fixture
def register(monkeypatch, tmp_path):
    """Register the toy, changed as wanted, with its records and cache in folders of its own and two sets to play."""
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    monkeypatch.setattr(instructions, "SETS", {"calm": CALM, "windy": WINDY})
    monkeypatch.setattr(instructions, "_flags", lambda: {"fins"})
    monkeypatch.setattr(rehearsal, "CELLS", 8)
    monkeypatch.setenv("LFMLIB_CACHE", str(tmp_path / "cache"))

    def register(**changes) -> Experiment:
        seeds = sorted(STEADY | NARROW | APART)
        tidal = {"run": tides, "cells": [{"seed": seed} for seed in seeds], "metrics": {"height": 1e-3}}
        toy = dataclasses.replace(TOY, **(tidal | changes))
        monkeypatch.setattr(toyexperiments, "CURRENT", toy, raising=False)
        monkeypatch.setitem(records.EXPERIMENTS, "toy", "toyexperiments:CURRENT")
        return toy

    return register


@pytest.fixture
def here(monkeypatch):
    """Play in this process, which is quick; return what was measured: (seed, wind, folder of the cache)."""
    measured = []

    def each(function, items, jobs, environment):
        for item in list(items):
            with monkeypatch.context() as patch:
                for name, value in environment.items():
                    patch.delenv(name, raising=False) if value is None else patch.setenv(name, value)
                measured.append((item["seed"], os.getenv("TOY_WIND"), Path(os.environ["LFMLIB_CACHE"]).name))
                try:
                    result = function(item)
                except Exception as error:
                    result = error
            yield item, result

    monkeypatch.setattr(rehearsal, "each", each)
    return measured


@pytest.fixture
def rehearsed(register, here):
    """The toy, recorded and rehearsed."""
    toy = register()
    assert records.run("toy", jobs=0) == 0 and records.rehearse("toy") == 0
    return toy


def outcomes() -> dict[int, dict]:
    """Seed → set → outcome, as NAME.json holds them."""
    return {entry["cell"]["seed"]: entry.get("rehearsed", {}) for entry in records.provenance("toy")["cells"].values()}


def test_what_comes_apart_is_never_drawn(rehearsed):
    drawn = Counter(records.remeasure("toy", pick=str(pick)).cell["seed"] for pick in range(200))
    assert set(drawn) == STEADY and min(drawn.values()) > 40
    assert records.remeasure("toy").rehearsed
    assert [one.rehearsed for one in records.check("toy", jobs=0)] == [True] * 3 + [False] * 4  # all are checked


def test_the_record_says_how_every_cell_came_out(rehearsed):
    found = outcomes()
    assert {seed for seed, sets in found.items() if sets["windy"]["ratio"] > 1} == APART
    assert found[2]["windy"]["ratio"] == pytest.approx(0.4, abs=1e-3) and found[2]["windy"]["at"] == "height"
    assert all(sets["calm"]["ratio"] == 0 for sets in found.values())
    assert {one["origin"] for sets in found.values() for one in sets.values()} <= set(
        records.provenance("toy")["origins"]
    )
    about = records.rehearsed("toy")
    assert (about.recorded, about.cells, about.steady, about.apart, about.metric) == (7, 7, 3, 2, "height")
    assert about.largest == pytest.approx(0.8, abs=1e-3)  # of those that came out
    assert str(about) == "Of 7 rehearsed under calm and windy, 3 stayed within 0.5 of every tolerance; 2 came apart."


def test_the_table_does_not_change(register, here):
    register(run=lambda cell: [{"height": 0.1 + 0.2, "text": '1e5"', "none": None}])
    records.run("toy", jobs=0)
    before = (records.FOLDER / "toy.csv").read_bytes()
    records.rehearse("toy")
    assert (records.FOLDER / "toy.csv").read_bytes() == before


def test_a_rehearsal_goes_on_where_it_stopped(register, here, monkeypatch, capsys):
    register()
    records.run("toy", jobs=0)
    keep, kept = files.write, []

    def interrupted(*arguments, **options):
        keep(*arguments, **options)
        kept.append(1)
        if len(kept) == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", interrupted)
        assert main(["rehearse", "toy"]) == 130
    assert sum(map(len, outcomes().values())) == 9 and len(here) == 9
    assert records.rehearsed("toy").cells == 2  # under both
    assert main(["rehearse", "toy"]) == 0 and main(["rehearse", "toy"]) == 0
    assert len(here) == len(set(here)) == 14
    assert "toy: Of 7 rehearsed under calm and windy" in capsys.readouterr().out


def test_half_a_rehearsal_tells_what_not_to_draw_and_no_more(register, here, monkeypatch, capsys):
    monkeypatch.setitem(instructions.SETS, "ice", InstructionSet("skates", HERE))
    register()
    records.run("toy", jobs=0)
    assert main(["rehearse", "toy"]) == 0
    told = capsys.readouterr()
    assert "no rehearsal under ice: this processor has no skates" in told.err
    assert "nothing was rehearsed under every set" in told.out
    drawn = {records.remeasure("toy", pick=str(pick)).cell["seed"] for pick in range(200)}
    assert drawn == STEADY | NARROW and not records.remeasure("toy").rehearsed


def test_a_record_of_which_all_comes_apart_is_not_measured_again(register, here):
    register(cells=[{"seed": seed} for seed in APART])
    records.run("toy", jobs=0)
    assert records.remeasure("toy").equal
    records.rehearse("toy")
    with pytest.raises(ValueError, match=r"Of 2 rehearsed under calm and windy, 0 stayed .*; 2 came apart"):
        records.remeasure("toy")


def test_a_record_without_a_steady_cell_is_drawn_from_what_was_not_rehearsed(register, here, monkeypatch):
    toy = register(cells=[{"seed": seed} for seed in (*APART, *NARROW)])
    records.run("toy", jobs=0)
    monkeypatch.setattr(rehearsal, "chosen", lambda *_: [toy.key({"seed": seed}) for seed in APART])
    records.rehearse("toy")
    assert {records.remeasure("toy", pick=str(pick)).cell["seed"] for pick in range(200)} == NARROW
    assert not records.remeasure("toy").rehearsed


def test_nothing_is_made_of_what_another_set_left(rehearsed, here, tmp_path):
    assert {(wind, folder) for _, wind, folder in here} == {(None, "calm"), ("2e-4", "windy")}
    models = tmp_path / "cache" / "models"
    (models / "minilm").mkdir()
    assert all((tmp_path / "cache/rehearsals" / name / "models/minilm").is_dir() for name in instructions.SETS)


def test_rehearsals_stay_when_cells_are_added_and_go_with_their_cell(register, rehearsed, here):
    before = outcomes()
    toy = register(cells=[*rehearsed.cells, {"seed": 9}])
    records.run("toy", jobs=0)
    assert outcomes() == before | {9: {}}
    path = records.FOLDER / "toy.csv"
    text = path.read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines(True) if toy.key({"seed": 2}) in line]
    path.write_text(text.replace(line, ""), encoding="utf-8")
    records.run("toy", jobs=0)  # measures that cell anew
    assert outcomes() == before | {2: {}, 9: {}}


@pytest.mark.parametrize("changes", [{"metrics": {"height": 1e-2}}, {"least": {"height": 5.0}}])
def test_rehearsals_by_other_tolerances_do_not_count(register, rehearsed, here, changes):
    register(**changes)
    assert records.rehearsed("toy").cells == 0 and str(records.rehearsed("toy")) == ""
    assert not records.remeasure("toy").rehearsed
    records.run("toy", jobs=0)
    assert records.rehearsed("toy").cells == 0
    before = len(here)
    records.rehearse("toy")
    assert len(here) == before + 14 and records.rehearsed("toy").steady == 7


def test_what_no_tolerance_covers_comes_apart(register, here, monkeypatch):
    flagged = InstructionSet("fins", HERE, None, {"TOY_FLAG": "red"})
    monkeypatch.setattr(instructions, "SETS", {"calm": CALM, "flagged": flagged})
    register()
    records.run("toy", jobs=0)
    records.rehearse("toy")
    found = outcomes()[0]["flagged"]
    assert found["ratio"] is None and found["at"].startswith("label is 'red', recorded 'none'")
    assert records.rehearsed("toy").apart == 7


def test_a_measurement_that_fails_is_told_and_tried_again(register, here, capsys):
    toy = register()
    records.run("toy", jobs=0)
    register(run=lambda cell: tides(cell | {"fails": cell["seed"] == 1}))
    assert main(["rehearse", "toy"]) == 1
    assert 'toy failed under windy for {"seed": 1}' in capsys.readouterr().err
    assert outcomes()[1] == {} and records.rehearsed("toy").cells == 6
    register(run=toy.run)
    assert records.rehearse("toy") == 0 and records.rehearsed("toy").cells == 7


@pytest.fixture
def several(register):
    """A toy of six kinds of nine cells each, and its record: 5 core-seconds a cell."""
    kinds = [(part, model) for part in ("a", "b") for model in ("x", "y", "z")]
    toy = register(cells=[{"part": part, "model": model, "seed": n} for part, model in kinds for n in range(9)])
    return toy, {"cells": {toy.key(cell): {"core_seconds": 5.0, "gpu": None} for cell in toy.cells}, "spread": {}}


def kinds_of(toy: Experiment, keys: list[str]) -> Counter:
    by_key = {toy.key(cell): cell for cell in toy.cells}
    return Counter((by_key[key]["part"], by_key[key]["model"]) for key in keys)


def test_all_parts_and_models_are_rehearsed_in_turn(several):
    toy, about = several
    taken = rehearsal.chosen(toy, about, 50)
    assert len(taken) == 8 and sorted(kinds_of(toy, taken).values()) == [1, 1, 1, 1, 2, 2]
    for entry in about["cells"].values():
        entry["core_seconds"] = 50.0
    assert rehearsal.chosen(toy, about, 50) == taken[:2] and rehearsal.chosen(toy, about, 49) == []


def test_others_take_the_places_of_unsteady_cells(several, monkeypatch):
    """Cells of other parts and models first."""
    toy, about = several
    monkeypatch.setattr(rehearsal, "CELLS", 4)
    first = rehearsal.chosen(toy, about, 50)
    assert set(kinds_of(toy, first).values()) == {1} and len(first) == 4
    allowed = rehearsal._allowed(toy, about, {})
    for key in first[:2]:
        about["cells"][key]["rehearsed"] = {"calm": {"ratio": 3.0, "at": "height", "allowed": allowed, "origin": ""}}
    then = rehearsal.chosen(toy, about, 50)
    assert set(first) < set(then) and len(then) == len(first) + 2
    assert not kinds_of(toy, then[len(first) :]).keys() & kinds_of(toy, first[:2]).keys()


def test_it_goes_on_until_enough_are_steady(register, here, monkeypatch):
    register()
    monkeypatch.setattr(rehearsal, "CELLS", 2)
    records.run("toy", jobs=0)
    records.rehearse("toy")
    assert records.rehearsed("toy").steady == 2
    tried = {seed for seed, sets in outcomes().items() if sets}
    assert len(tried & STEADY) == 2


@pytest.mark.slow
def test_every_process_is_fresh_and_plays_its_set(register, capfd):
    """In processes of their own, as outside of tests."""
    register(cells=[{"seed": 1}, {"seed": 7}])
    records.run("toy", jobs=0)
    before = dict(os.environ)
    assert records.rehearse("toy") == 0 and os.environ == before
    assert [one["ratio"] > 1 for seed in (1, 7) for one in outcomes()[seed].values()] == [False, False, False, True]


def test_a_process_that_does_not_play_its_set_measures_nothing(register, here, monkeypatch, capsys):
    register(cells=cells(1))
    records.run("toy", jobs=0)
    monkeypatch.setitem(instructions.SETS, "other", InstructionSet("fins", "ABACUS"))
    assert records.rehearse("toy") == 1
    assert f"PyTorch computes with {HERE}, expected ABACUS" in capsys.readouterr().err
    assert set(outcomes()[0]) == {"calm", "windy"}


def test_methods_lists_every_record(register, here, monkeypatch):
    register()
    monkeypatch.setattr(records, "EXPERIMENTS", {"toy": "toyexperiments:CURRENT"})
    records.run("toy", jobs=0)
    assert rehearsals.table().splitlines()[2] == "| `toy` | 7 | 0 | 0 | 0 | – |"
    records.rehearse("toy")
    assert rehearsals.table().splitlines()[2] == "| `toy` | 7 | 7 | 3 | 2 | 0.8 (`height`) |"


PLAYED = """
import sys
import torch
from lfmlib.records.instructions import SETS
SETS[sys.argv[1]].check()
some = torch.ones(64, 64)
with torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON):
    some @ some
with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
    torch.nn.functional.conv2d(some.reshape(1, 1, 64, 64), torch.ones(8, 1, 4, 4))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mkl", "onednn"),
    [
        ("AVX-512", "(Intel(R) AVX-512)", "AVX"),
        ("AVX2", "(Intel(R) AVX2) enabled", "cpu,isa:Intel AVX2\n"),
        ("AVX", "(Intel(R) SSE4.2) enabled", "cpu,isa:Intel AVX\n"),
        ("SSE", "CNR:COMPATIBLE", "cpu,isa:Intel SSE4.1\n"),
    ],
)
def test_the_libraries_play_the_set_that_they_are_told(name, mkl, onednn):
    if reason := instructions.SETS[name].missing:
        pytest.skip(reason)
    if not (instructions.torch.backends.mkl.is_available() and instructions.torch.backends.mkldnn.is_available()):
        pytest.skip("this PyTorch was built without MKL or oneDNN")
    told = instructions.environment(name)
    environment = {key: value for key, value in os.environ.items() if key not in told}
    environment |= {key: value for key, value in told.items() if value is not None}
    run = subprocess.run(
        [sys.executable, "-c", PLAYED, name], env=environment, capture_output=True, check=True, encoding="utf-8"
    )
    assert onednn in run.stdout
    if "Intel" in instructions.Path("/proc/cpuinfo").read_text(encoding="utf-8"):  # on others MKL has names of its own
        assert mkl in run.stdout


def test_where_cells_are_measured_is_one_origin(register):
    register()
    place, here = runs.origin()
    records.run("toy", jobs=0)
    assert records.provenance("toy")["origins"] == {place: here}
