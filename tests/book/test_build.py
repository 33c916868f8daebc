"""The book's machinery on a toy book: run, stage, render, report, and every way it can fail."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from browser import opened
from nbformat.v4 import new_code_cell, new_notebook
from toybooks import chapter, make_book, read

from lfmlib import findings
from lfmlib.book import build, execute, one_file, render, stage
from lfmlib.book.layout import Layout
from lfmlib.findings import front, grid, scoreboard
from lfmlib.provenance import ROOT


@pytest.fixture(autouse=True, scope="module")
def surroundings():
    """No addresses in the environment, and a stand-in for the scoreboard: these tests are about the book."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BOOK_REPOSITORY", "BOOK_BRANCH", "BOOK_BASEURL"):
            patch.delenv(name, raising=False)
        patch.setattr(findings, "load", lambda folder: [Path(folder).name])
        patch.setattr(
            scoreboard, "table", lambda found: f"| Finding | Verdict |\n|---|---|\n| F1 | partly, from {found} |\n"
        )
        patch.setattr(front, "summary", lambda found: f"Holds: {found}\n")
        patch.setattr(grid, "grid", lambda found, sizes: f"<table><tr><td>{found}</td></tr></table>\n")
        patch.setattr(scoreboard, "changes", lambda found: f"Changed: {found}\n")
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory, surroundings):
    """One toy book, built from end to end; the tests below look at it."""
    root = make_book(tmp_path_factory.mktemp("toy"))
    assert build.main(["--seed", "7"], root=root) == 0
    return root / "_build"


# --- a book that builds ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_page_is_there(built):
    assert render.missing_pages(built / "html", stage.toc_pages(built.parent)) == []
    assert render.broken_links(built / "html") == []
    assert "partly, from" in read(built / "html/book/findings.html")
    assert not (built / ".render").exists()


@pytest.mark.slow
def test_chapter_page(built):
    page = read(built / "html/notebooks/01_is_it_so.html")
    assert '<span class="section-number">1. </span>Is it so?' in page
    assert '<span class="caption-number">Figure 1.1 </span>' in page
    assert 'alt="Histogram of nine weights"' in page
    assert "seed 7" in page  # the parameter arrived
    assert "# Parameters" not in page  # papermill's own cell is not shown
    assert "on stderr" not in page.replace('"on stderr"', "").replace("&quot;on stderr&quot;", "")
    assert "cdn" not in page and "unpkg" not in page  # nothing from the network
    assert '<a href="../reports/01_is_it_so.html">' in page
    assert (built / "html/reports/01_is_it_so.html").exists()
    assert page.count("search-button-field") == 1


@pytest.mark.slow
def test_no_buttons_without_repository(built):
    page = read(built / "html/notebooks/01_is_it_so.html")
    assert "github.com" not in page and "colab" not in page and "executablebooks/jupyter-book" not in page
    assert "download-source-button" in page


@pytest.mark.slow
def test_runs_are_recorded(built):
    row = read(built / "stage/book/_runs.md").splitlines()[-1]
    assert re.fullmatch(
        r"\| \[Is it so\?\]\(\.\./notebooks/01_is_it_so\.ipynb\) \| default \| default "
        r"\| \d{4}-\d\d-\d\d \d\d:\d\d \| \d+ s \| `unknown` \|",
        row,
    )


@pytest.mark.slow
def test_surroundings_are_recorded_and_folders_are_not(built):
    rows = read(built / "stage/book/_surroundings.md").splitlines()
    facts = dict(row.strip("| ").split(" | ") for row in rows[2:])
    assert facts["Cores"] == str(os.cpu_count()) and facts["Python"].startswith("3.")
    assert facts["lfmlib"] == "0.1.0" and facts["torch"] and "unknown" not in facts.values()
    run = nbformat.read(built / "html/_sources/notebooks/01_is_it_so.ipynb", as_version=4).metadata.papermill
    assert run.input_path == run.output_path == "01_is_it_so.ipynb"


def test_surroundings_that_differ_are_all_listed(tmp_path):
    root = make_book(tmp_path, c01_a=chapter("A?"), c02_b=chapter("B?"), c03_c=chapter("C?"))
    assert stage._surroundings(root, tmp_path) == "No chapter has noted what it ran on.\n"
    for name, cores in (("01_a", "2"), ("02_b", "8")):
        ran = nbformat.read(root / f"notebooks/{name}.ipynb", as_version=4)
        ran.metadata["lfm"] = {"complete": True, "surroundings": {"Cores": cores, "Python": "3.12.1"}}
        nbformat.write(ran, tmp_path / f"{name}.ipynb")
    assert stage._surroundings(root, tmp_path) == "| | |\n|---|---|\n| Cores | 2, 8 |\n| Python | 3.12.1 |\n"


@pytest.mark.slow
def test_report_reads_alone(built):
    page = read(built / "html/reports/01_is_it_so.html")
    text = re.sub(r"<script.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "<title>Is it so?</title>" in page
    assert '<figcaption><span class="caption-number">Figure 1.1 </span>Weights $w$ of <strong>one</strong>' in text
    assert 'alt="Histogram of nine weights"' in text and 'src="data:image/svg+xml,' in text
    assert '<a href="#fig-hero">Figure 1.1</a>' in text and 'id="fig-hero"' in text
    assert "MathJax" in page and "seed 7" in text
    assert not re.search(r"mystnb|\{[a-z]+\}`|^:::|```", text, flags=re.MULTILINE)  # no raw MyST
    assert not re.search(r"""(src|href)=["'](?!data:|#|%23|https?://)""", text)  # nothing beside it
    assert not re.search(r"""src=["']https?:""", text)
    for absent in ("import matplotlib", "on stderr", "not to be seen", "# Parameters", "In [", "<Figure size"):
        assert absent not in text


@pytest.mark.slow
def test_report_under_another_name_and_with_an_address(built, tmp_path):
    copy = shutil.copy(built / "executed/01_is_it_so.ipynb", tmp_path / "out.ipynb")
    text = read(
        one_file.write_report(Path(copy), tmp_path / "r.html", root=built.parent, baseurl="https://a.example/b/")
    )
    assert "Figure 1.1" in text
    assert '<a href="https://a.example/b/book/methods.html">Methods</a>' in text
    assert '<a href="https://a.example/b/book/methods.html#how-it-is-done">how</a>' in text


@pytest.mark.slow
def test_render_again_with_repository(built, monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY", "https://github.com/someone/something")
    assert build.main(["render"], root=built.parent) == 0
    page = read(built / "html/notebooks/01_is_it_so.html")
    assert "https://github.com/someone/something/edit/main/notebooks/01_is_it_so.ipynb" in page
    assert "https://colab.research.google.com/github/someone/something/blob/launch/notebooks/01_is_it_so.ipynb" in page
    assert "https://mybinder.org/v2/gh/someone/something/main?urlpath=lab/tree/notebooks/01_is_it_so.ipynb" in page


@pytest.mark.slow
def test_search_shows_excerpts_also_from_disk(built):
    with opened() as browser:
        page = browser.new_page()
        page.goto((built / "html/search.html").as_uri() + "?q=seed")
        page.wait_for_selector("#search-results li p.context", timeout=60_000)
        assert "seed = 0 # of everything random" in " ".join(page.inner_text("#search-results p.context").split())


# --- a book that does not -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_failing_chapter_is_named_and_the_others_run(tmp_path, capfd):
    broken = chapter("Does it break?", extra="x = 1\nraise ValueError('on purpose')")
    dying = chapter("Does it die?", extra="import os\nos._exit(9)")
    root = make_book(tmp_path, c01_breaks=broken, c02_works=chapter("Does it work?"), c03_dies=dying)
    assert build.main(["execute", "--seed", "3"], root=root) == 1
    out, err = capfd.readouterr()
    assert re.search(r"^01_breaks +FAILED +\d+\.\d s$", out, flags=re.MULTILINE)
    assert re.search(r"^02_works +ok +\d+\.\d s$", out, flags=re.MULTILINE)
    assert "01_breaks failed in cell 10 of 10" in err
    assert "| raise ValueError('on purpose')" in err and "ValueError: on purpose" in err
    kept = Path(re.search(r"The notebook is kept: (.+)", err)[1])
    assert kept.exists() and "2 of 3 chapters failed" in err
    assert "03_dies failed in" in err and "DeadKernelError: Kernel died" in err
    for name, whole in (("01_breaks", False), ("02_works", True), ("03_dies", False)):
        path = root / f"_build/executed/{name}.ipynb"
        assert execute.is_complete(path) is whole
        assert (execute.unfinished(nbformat.read(path, as_version=4)) is None) is whole


@pytest.mark.slow
def test_warning_is_an_error(tmp_path, capfd):
    root = make_book(tmp_path)
    (root / "book/intro.md").write_text(
        "# A toy book\n\nSee [nowhere](absent.md) and {ref}`nothing`.\n", encoding="utf-8"
    )
    assert build.main(["render"], root=root) != 0
    err = capfd.readouterr().err
    assert "absent.md" in err and "nothing" in err  # keep going: both are named
    assert not (root / "_build/html").exists()


def test_broken_links_are_found(tmp_path):
    (tmp_path / "index.html").write_text(
        '<a href="a.html#here">x</a><img src="no.png"><a href="https://e.org">y</a>', encoding="utf-8"
    )
    (tmp_path / "a.html").write_text(
        '<p id="there"></p><a href="index.html">z</a><a href="#there">t</a>', encoding="utf-8"
    )
    assert render.broken_links(tmp_path) == ["index.html: a.html#here", "index.html: no.png"]
    assert render.missing_pages(tmp_path, ["a", "b"]) == ["b"]


# --- the pieces -----------------------------------------------------------------------------------------------------


def test_layout(tmp_path):
    own = Layout.of(tmp_path)
    assert (own.html, own.results) == (tmp_path / "_build/html", tmp_path / "_build/results")
    assert Layout.of(tmp_path, model="minilm", profile="quick").results == tmp_path / "_build/quick"
    other = Layout.of(tmp_path, model="org/name", base="/data/b v1")
    assert other.html == tmp_path / "_build/models/org--name--from--b-v1-d7591f80/html"
    long = [Layout.of(tmp_path, model=f"{'o' * 40}/{'n' * 90}", base=f"{'p' * 90}/{end}").out for end in "ab"]
    assert long[0] != long[1] and all(len(one.name) < 200 for one in long)


def test_chapters_are_chosen_by_number_or_name(tmp_path, capsys):
    chapters = [tmp_path / f"{stem}.ipynb" for stem in ("01_a", "02_b", "03_c")]
    assert build._chosen(chapters, "01,03_c") == [chapters[0], chapters[2]]
    assert build.main(["--chapters", "09"], root=make_book(tmp_path / "toy")) == 2
    assert "no chapter 09; the chapters are: 01_is_it_so" in capsys.readouterr().err


def test_only_declared_parameters_are_passed(tmp_path):
    nbformat.write(chapter(), tmp_path / "01_a.ipynb")
    assert execute._declared(tmp_path / "01_a.ipynb") == {"model": "minilm", "seed": 0, "results": ""}


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    environment = execute._environment(2)
    assert (environment["OMP_NUM_THREADS"], environment["NUMBA_NUM_THREADS"]) == ("4", "3")


@pytest.mark.slow
def test_the_report_waits_for_the_chapters_that_it_reads(tmp_path, monkeypatch):
    running, seen = [], {}

    class Child:
        """A process that takes a few turns, the first chapter most."""

        def __init__(self, source, *_):
            seen[source.stem] = list(running)
            running.append(source.stem)
            self.source, self.process, self.left = source, self, 3 if len(running) > 1 else 30

        def poll(self):
            self.left -= 1
            return None if self.left else 0

        def finish(self, stamp):
            running.remove(self.source.stem)
            return execute.Run(self.source.stem, self.source, 0.0)

    monkeypatch.setattr(execute, "_Child", Child)
    monkeypatch.setattr(execute, "_stop", lambda processes: None)
    longest = execute.LONGEST[-1]
    names = ["01_a", "02_b", longest, execute.READS_OTHERS]
    paths = [tmp_path / f"{name}.ipynb" for name in names]
    for path in paths:
        nbformat.write(chapter(), path)
    runs = execute.execute(paths, tmp_path / "out", root=tmp_path, parameters={}, say=lambda *_, **__: None)
    assert [run.chapter for run in runs] == names
    assert seen["01_a"] == [longest] and seen["02_b"] == [longest] and seen[execute.READS_OTHERS] == []
    assert all((ROOT / "notebooks" / f"{name}.ipynb").is_file() for name in (execute.READS_OTHERS, *execute.LONGEST))


def test_a_chapter_that_takes_over_rows_lets_others_pass_until_they_are_there():
    ((second, first),) = execute.TAKES_OVER.items()
    one, two, three, last = (Path(f"{name}.ipynb") for name in (first, second, "12_c", execute.READS_OTHERS))
    assert execute._ready([two, three, last], [one]) == three
    assert execute._ready([two, last], [three]) == two and execute._ready([two, last], [one]) is None
    assert execute._ready([last], [two]) is None and execute._ready([last], []) == last
    assert all((ROOT / "notebooks" / f"{name}.ipynb").is_file() for name in (first, second))


def test_toc_naming_an_absent_chapter(tmp_path, capsys):
    root = make_book(tmp_path)
    (root / "notebooks/01_is_it_so.ipynb").unlink()
    assert build.main(["execute"], root=root) == 2
    assert "01_is_it_so.ipynb" in capsys.readouterr().err


def test_report_of_nothing(tmp_path, capsys):
    assert build.main(["report", str(tmp_path / "no.ipynb"), "x.html"], root=tmp_path) == 2
    assert "execute a chapter first" in capsys.readouterr().err


@pytest.mark.slow
def test_interrupt_leaves_no_process(tmp_path):
    sleeper = new_notebook(
        cells=[
            new_code_cell("seed = 0  # s", metadata={"tags": ["parameters"]}),
            new_code_cell("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(120)"),
        ],
        metadata=chapter().metadata,
    )
    root = make_book(tmp_path, c01_sleeps=sleeper)
    code = "import pathlib, sys; from lfmlib.book import build; "
    code += f"sys.exit(build.main(['execute'], root=pathlib.Path({str(root)!r})))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert _wait(
        lambda: (root / "pid").exists() and read(root / "pid"), 120
    )  # a kernel starts slowly on a busy machine
    kernel = int(read(root / "pid"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=150)  # likewise
    assert process.returncode == 130 and "stopped" in err and "Traceback" not in err
    assert _wait(lambda: not Path(f"/proc/{kernel}").exists(), 15)
    assert not execute.is_complete(root / "_build/executed/01_sleeps.ipynb")


def _wait(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False
