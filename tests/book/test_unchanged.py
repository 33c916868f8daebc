"""Chapters that need not run again: kept where all that they are made from is as it was."""

from __future__ import annotations

from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from safetensors.torch import save_file
from toybooks import chapter, make_book

from lfmlib.book import build, execute, unchanged
from lfmlib.book.unchanged import READS_OTHERS, Basis
from lfmlib.findings.rules import CHAPTERS

GAUSSIAN = CHAPTERS["F1"]


@pytest.fixture
def book(tmp_path):
    """A toy book whose chapters have run, with a finding each of two of them, and how to ask which are kept."""
    root = make_book(tmp_path, **{f"c{stem}": chapter() for stem in (GAUSSIAN, CHAPTERS["F6"], READS_OTHERS)})
    results = root / "_build/results"
    results.mkdir(parents=True)
    for id_ in ("F1", "F6"):
        (results / f"{id_}-minilm.json").write_text("{}", encoding="utf-8")
    (root / "book/records").mkdir()
    (root / "book/records/toy.csv").write_text("a\n1\n", encoding="utf-8")

    def kept(run: bool = False, models=(), **given) -> set[str]:
        basis = Basis(root, results, models)
        stems = set()
        for source in sorted((root / "notebooks").iterdir()):
            target = root / "_build/executed" / source.name
            if run:
                target.parent.mkdir(exist_ok=True)
                notebook = nbformat.read(source, as_version=4)
                marks = basis.marks(notebook, source, basis.made_from(source, given))
                notebook.metadata["lfm"] = {"complete": True, **marks}
                nbformat.write(notebook, target)
            if basis.keeps(target, source, given):
                stems.add(source.stem)
        return stems

    assert kept() == set() and len(kept(run=True)) == 3 and len(kept()) == 3
    return root, kept


@pytest.mark.slow
def test_what_has_changed_runs_again(book, monkeypatch):
    root, kept = book
    assert kept(seed=1) == set() and kept(models=["/a 0123"]) == set()
    monkeypatch.setenv("LFMLIB_CACHE", "/elsewhere")
    assert len(kept()) == 3  # the same figures lie elsewhere
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "77")
        assert kept() == set()
    nbformat.write(chapter("Another?"), root / f"notebooks/{GAUSSIAN}.ipynb")
    assert kept() == {CHAPTERS["F6"], READS_OTHERS}
    (root / "book/records/toy.csv").write_text("a\n2\n", encoding="utf-8")
    assert kept() == set()


@pytest.mark.parametrize("name", ["commit", "LIBRARY", "surroundings", "distributions"])
def test_other_code_or_versions_run_all_again(book, monkeypatch, tmp_path, name):
    _, kept = book
    (tmp_path / "changed.py").write_text("x = 1", encoding="utf-8")
    other = {"commit": "0123456789ab+", "surroundings": {"Cores": "64"}, "distributions": []}
    monkeypatch.setattr(unchanged, name, tmp_path if name == "LIBRARY" else lambda *_: other[name])
    assert kept() == set()


def test_what_is_no_record_and_a_damaged_package_do_no_harm(book, monkeypatch):
    root, kept = book
    (root / "book/records/toy.lock").touch()
    assert len(kept()) == 3
    monkeypatch.setattr(unchanged, "distributions", lambda: [SimpleNamespace(name=None, version=None)] * 2)
    assert kept() == set()


def test_a_notebook_that_a_reader_changed_runs_again(book):
    root, kept = book
    path = root / f"_build/executed/{GAUSSIAN}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].source += "  # another"
    nbformat.write(notebook, path)
    assert GAUSSIAN not in kept() and len(kept()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["lost", "another", "more"])
def test_findings_that_are_not_as_left_run_their_chapter_and_the_report_again(book, harm):
    root, kept = book
    path = root / "_build/results/F1-minilm.json"
    if harm == "lost":
        path.unlink()
    else:
        (path if harm == "another" else path.with_stem("F1-other")).write_text("[]", encoding="utf-8")
    assert kept() == {CHAPTERS["F6"]}


def test_a_notebook_cut_off_is_not_kept(book):
    root, kept = book
    for text, stem in [('{"cells": [', GAUSSIAN), ("", CHAPTERS["F6"])]:
        (root / f"_build/executed/{stem}.ipynb").write_text(text, encoding="utf-8")
    assert kept() == {READS_OTHERS}
    for text in ("null", "[]", "3", "{}"):
        (root / f"_build/executed/{GAUSSIAN}.ipynb").write_text(text, encoding="utf-8")
    assert kept() == {READS_OTHERS}


def test_states_of_the_readers_models(tmp_path, monkeypatch):
    import torch

    weights = {f"layers.{k}.mlp.up_proj.weight": torch.randn(64, 64) for k in range(3)}
    path = tmp_path / "one.safetensors"
    save_file(weights, path)
    assert build._open(None, None, None, None) == []
    first = build._open(str(path), None, None, None)
    assert first == build._open(str(path), None, None, None) and str(path) in first[0]
    save_file(weights | {"norm": torch.ones(64)}, path)
    assert build._open(str(path), None, None, None) != first
    assert len(build._open(str(path), str(path), None, None)) == 2
    monkeypatch.setattr(build, "state", lambda files: None)  # as of addresses
    assert build._open(str(path), None, None, None) is None


@pytest.mark.slow
def test_what_changed_while_a_chapter_ran_is_not_taken_for_what_it_was_made_from(book):
    root, kept = book
    source, target = root / f"notebooks/{GAUSSIAN}.ipynb", root / f"_build/executed/{GAUSSIAN}.ipynb"
    child = object.__new__(execute._Child)
    child.source, child.target, child.given = source, target, {}
    child.basis = Basis(root, root / "_build/results", ())
    child.made_from = child.basis.made_from(source, {})
    assert child._stamped({}) is None and GAUSSIAN in kept()
    child.made_from = "another"
    assert child._stamped({}) is None and GAUSSIAN not in kept()


@pytest.mark.slow
def test_a_build_keeps_what_it_has(tmp_path, capsys):
    note = tmp_path / "ran"
    cells = [
        new_code_cell("seed = 0  # s", metadata={"tags": ["parameters"]}),
        new_code_cell(f"with open({str(note)!r}, 'a') as file:\n    print(seed, file=file)"),
    ]
    root = make_book(tmp_path / "toy", c01_a=new_notebook(cells=cells, metadata=chapter().metadata))
    for arguments in ([], [], ["--force"], ["--seed", "3"], ["--seed", "3"]):
        assert build.main(["execute", *arguments], root=root) == 0
    assert note.read_text(encoding="utf-8").split() == ["0", "0", "3"]
    said = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()[1:2]) for line in said] == [
        "started",
        "ok",
        "kept:",
        *(["started", "ok"] * 2),
        "kept:",
    ]
