"""What is published, reported and overwritten: only whole chapters, refusals before the work, every model apart."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from safetensors.torch import save_file
from toybooks import chapter, executed, make_book, read

from lfmlib.book import build, execute, stage
from lfmlib.book.layout import Layout
from lfmlib.cache import file_hash


@pytest.fixture(autouse=True)
def no_records(monkeypatch):
    """The pages that are made of records take seconds, and are not what these tests are about."""
    monkeypatch.setattr(stage, "_calibration", lambda: "")
    monkeypatch.setattr(stage, "_models", lambda results, folder: stage._verdicts(results, {}))


LINKS = """[words](02_b.ipynb), [of
a [part]](../notebooks/02_b.ipynb#there), [Figure 2.1](#fig-b), {ref}`fig-b`, {ref}`that <fig-b>`,
{doc}`../notebooks/02_b`, <a href="02_b.html#there">live</a>, [own](#fig-hero), [C](03_c.ipynb#a-section-here)"""
PLAIN = """words, of
a [part], Figure 2.1, a figure of “B?”, that,
B?, live, [own](#fig-hero), [C](03_c.ipynb#a-section-here)"""


def three_chapters(root: Path) -> Path:
    """A toy book whose second chapter the others refer to, run without it."""
    first, second, third = chapter("A?"), chapter("B?"), chapter("C?")
    first.cells.append(new_markdown_cell(LINKS))
    first.cells.append(new_code_cell("", outputs=[new_output("display_data", {"text/markdown": LINKS})]))
    second.cells[3].metadata["mystnb"]["figure"]["name"] = "fig-b"
    make_book(root, c01_a=first, c02_b=second, c03_c=third)
    for name in ("01_a", "03_c"):
        executed(nbformat.read(root / f"notebooks/{name}.ipynb", as_version=4), root / f"_build/executed/{name}.ipynb")
    return root


def test_links_to_chapters_that_were_not_run_are_plain_words(tmp_path):
    root = three_chapters(tmp_path)
    place = root / "_build/stage"
    assert stage.stage(root, place, executed=root / "_build/executed", results=root / "none") == ["02_b"]
    first = nbformat.read(place / "notebooks/01_a.ipynb", as_version=4)
    assert [cell.source for cell in first.cells].count(PLAIN) == 1
    assert first.cells[-2].outputs[0].data["text/markdown"] == PLAIN
    assert read(place / "notebooks/02_b.md").startswith("# B?\n\nThis chapter was not run for this book. `make book C")
    assert "| B? | | | not run | | |" in read(place / "book/_runs.md")


@pytest.mark.slow
def test_a_book_of_some_chapters_is_rendered_and_keeps_their_numbers(tmp_path):
    root = three_chapters(tmp_path)
    (root / "book/intro.md").write_text("# A toy\n\n[B](../notebooks/02_b.ipynb), {ref}`fig-b`\n", encoding="utf-8")
    for path in (root / "_build/executed").iterdir():  # these notebooks have no outputs, and so no figures
        path.write_text(re.sub(r"\[[^\]]*\]\(#fig-\w+\)", "", read(path)), encoding="utf-8")
    assert build.main(["render"], root=root) == 0
    assert '<span class="section-number">3. </span>C?' in read(root / "_build/html/notebooks/03_c.html")
    article = BeautifulSoup(read(root / "_build/html/notebooks/01_a.html"), "html.parser").select_one("article")
    assert not [a for a in article.select("a[href]") if "02_b" in a["href"]] and "of a [part]" in " ".join(
        article.text.split()
    )


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ({"execution_count": None}, "code cells that have not run: 1 of 7, the first of them cell 3"),
        ({"outputs": [new_output("error", ename="E", evalue="x", traceback=[])]}, "cell 3 failed with E: x"),
        ({}, "papermill did not come to its end"),
    ],
)
def test_what_is_not_whole_is_no_report_and_no_page(tmp_path, capsys, harm, words):
    root = make_book(tmp_path)
    torn = chapter()
    path = executed(torn, root / "_build/executed/01_is_it_so.ipynb", complete=False)
    assert execute.unfinished(torn) is None
    torn.cells[2].update(harm)
    torn.metadata.papermill = {"end_time": "2026" if harm else None}
    nbformat.write(torn, path)
    assert build.main(["report", str(path), str(tmp_path / "x.html")], root=root) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "x.html").exists()
    assert stage.stage(root, root / "_build/stage", executed=path.parent, results=root) == ["01_is_it_so"]


def test_a_notebook_never_run_is_no_report(tmp_path, capsys):
    nbformat.write(chapter(), tmp_path / "x.ipynb")
    assert build.main(["report", str(tmp_path / "x.ipynb"), str(tmp_path / "x.html")], root=tmp_path) == 2
    assert "code cells that have not run: 7 of 7" in capsys.readouterr().err and not (tmp_path / "x.html").exists()
    before = executed(chapter(), tmp_path / "x.ipynb").read_bytes()
    for out in (tmp_path / "x.ipynb", tmp_path):
        assert build.main(["report", str(tmp_path / "x.ipynb"), str(out)], root=tmp_path) == 2
        assert "is no place for the report" in capsys.readouterr().err
    assert (tmp_path / "x.ipynb").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--jobs", "0"], "'0' was given, a whole number from 1 on is expected"),
        (["--jobs=-1"], "'-1' was given, a whole number from 1 on is expected"),
        (["--seed=-1"], "'-1' was given, a whole number from 0 on is expected"),
    ],
)
def test_numbers_that_no_build_can_have(tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit, match="2"):
        build.main(["execute", *arguments], root=tmp_path)
    assert words in capsys.readouterr().err
    with pytest.raises(ValueError, match="jobs is 0: expected"):
        execute.execute([], tmp_path, root=tmp_path, parameters={}, jobs=0)


@pytest.fixture
def no_chapter_starts(monkeypatch):
    monkeypatch.setattr(build, "run_chapters", lambda *arguments, **options: pytest.fail("a chapter was started"))


def test_a_second_build_says_who_is_at_work(tmp_path, capsys, no_chapter_starts):
    root = make_book(tmp_path)
    with Layout.of(root).held():
        assert build.main(["execute"], root=root) == 2
        assert f"_build is being built by process {os.getpid()} on " in capsys.readouterr().err
        with Layout.of(root, model="another").held():
            pass
    with Layout.of(root).held():
        pass


def test_results_that_take_no_file_are_refused_first(tmp_path, capsys, no_chapter_starts):
    root = make_book(tmp_path)
    (root / "_build").mkdir()
    (root / "_build/results").touch()
    assert build.main(["execute"], root=root) == 2
    assert "nothing can be written to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "notes.txt"], "notes.txt"),
        (["--model", "no such model"], "'no such model' was not found"),
        (["--model", "tuned.safetensors", "--base", "stranger.safetensors"], "stranger"),
        (["--base", "absent.safetensors"], "absent.safetensors"),
        (["--select", "("], "select"),
        (["--revision", "v1"], "revision='v1' was given for \"minilm\""),
        (["--model", "tuned.safetensors", "--select", "nothing"], "nothing"),
        (["--model", "tuned.safetensors", "--select", "norm"], "holds no matrix to measure: found 1 tensors ([64] …)"),
        (["--model", "pointer.safetensors"], "is a pointer of Git LFS, where a safetensors file was expected"),
        (["--model", "empty"], "holds no weight files"),
        (
            ["--model", "lora", "--base", "stranger.safetensors"],
            "lora holds an adapter, and most chapters look at a whole",
        ),
        (["--model", "tuned.safetensors", "--base", "wide.safetensors"], "have no matrix of one shape"),
        (["--model", "tuned.safetensors", "--revision", "v1"], "only hub ids have revisions"),
    ],
)
def test_models_are_opened_first_and_refused_once(tmp_path, capsys, monkeypatch, no_chapter_starts, options, words):
    monkeypatch.chdir(tmp_path)
    root = make_book(tmp_path / "toy")
    generator = torch.Generator().manual_seed(0)
    for name in ("tuned", "stranger"):
        weights = {f"layers.{k}.mlp.up_proj.weight": torch.randn(64, 64, generator=generator) for k in range(3)}
        save_file(weights | {"norm": torch.ones(64)}, f"{name}.safetensors")
    save_file({f"layers.{k}.mlp.up_proj.weight": torch.randn(64, 96) for k in range(3)}, "wide.safetensors")
    Path("pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x\n", encoding="utf-8")
    Path("empty").mkdir()
    Path("lora").mkdir()
    Path("lora/adapter_config.json").write_text("{}", encoding="utf-8")
    Path("notes.txt").write_text("hello", encoding="utf-8")
    assert build.main(["execute", *options], root=root) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("lfmlib.book: ") == 1


def test_a_chapter_changed_since_its_run_is_named(tmp_path, capsys, monkeypatch):
    root = three_chapters(tmp_path)
    monkeypatch.setattr(build, "render", lambda *folders: 1)  # what is said before
    for name in ("01_a", "03_c"):
        path = root / f"_build/executed/{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["lfm"]["chapter"] = file_hash(root / f"notebooks/{name}.ipynb")
        nbformat.write(notebook, path)
    nbformat.write(chapter("Another?"), root / "notebooks/03_c.ipynb")
    assert build.main(["render"], root=root) == 1
    said = capsys.readouterr().out
    assert "not run to their end, so only named in the book: 02_b\n" in said
    assert "changed since they were run, and shown as they were then: 03_c\n" in said


def test_a_full_disk_is_called_one(tmp_path, monkeypatch):
    child = object.__new__(execute._Child)
    child.target, child.started, child.basis = tmp_path / "01_a.ipynb", time.monotonic(), None
    child.source = make_book(tmp_path / "toy", c01_a=chapter()) / "notebooks/01_a.ipynb"
    child.log, child.process = tmp_path / "01_a.log", SimpleNamespace(returncode=1)
    child.target.write_text('{"cells": [', encoding="utf-8")
    child.log.write_text("OSError: [Errno 28] No space left on device", encoding="utf-8")
    words = r"writing its notebook \(only a part of it is there\): [\d,]+ MB are free on the disk of .*No space left"
    assert re.match(words, child.finish({}).failure, flags=re.DOTALL)
    child.process.returncode = 0  # it fills up when the notebook is marked as complete
    executed(chapter(), child.target, complete=False)
    child.log.touch()
    monkeypatch.setattr(nbformat, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert child.finish({}).failure.startswith("writing its notebook (No space left on device): ")
    assert not execute.is_complete(child.target) and not list(tmp_path.glob("*.part"))


def test_models_never_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one/model", "two/model"):
        (tmp_path / name).mkdir(parents=True)
    sources = ["one/model", "two/model", "hub/model", "hub-model", "hf://hub/model", "a b", "a-b", "one/model.gguf"]
    outs = {Layout.of(tmp_path, model=source).out for source in sources}
    outs |= {Layout.of(tmp_path, model="hub/model", revision=one).out for one in ("main", "refs/pr/1", "refs-pr-1")}
    outs |= {Layout.of(tmp_path, model=source, base=base).out for source, base in [("x", "y"), ("x--from--y", "z")]}
    assert len(outs) == len(sources) + 5
    assert Layout.of(tmp_path, model=str(tmp_path / "one/model")).out == Layout.of(tmp_path, model="one/model/").out


def test_lists_of_models_never_share_a_folder(tmp_path, monkeypatch):
    outs = set()
    for place in ("here", "there"):
        for name in ("one/model", "two/model"):
            (tmp_path / place / name).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / place)
        outs |= {Layout.of(tmp_path, model=many).out for many in ("one/model, two/model", "two/model,one/model")}
        whole = ",".join(str(tmp_path / place / name) for name in ("one/model", "two/model"))
        assert Layout.of(tmp_path, model=whole).out in outs
    assert len(outs) == 4


@pytest.mark.parametrize(
    ("asked", "run", "words"),
    [
        ({"seed": 3}, {"model": "minilm", "seed": 3}, "saved with model = '/my/own', run with model = 'minilm'"),
        ({"model": "gpt2", "seed": None, "base": "x"}, {"model": "gpt2", "seed": 0}, ""),
    ],
)
def test_a_chapter_runs_with_the_books_values_whatever_was_saved(tmp_path, asked, run, words):
    saved = chapter()
    saved.cells[1].metadata["lfm"] = {"defaults": {"model": "minilm", "seed": 0, "results": ""}}
    saved.cells[1].source = saved.cells[1].source.replace('"minilm"', '"/my/own"')
    nbformat.write(saved, tmp_path / "01_a.ipynb")
    given, told = execute._given(tmp_path / "01_a.ipynb", asked)
    assert given == {"results": ""} | run
    assert told == (words and f"{words}: `git restore {tmp_path.name}/01_a.ipynb` undoes it")
