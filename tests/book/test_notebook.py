"""What chapters need of Jupyter: parameters that are checked."""

from __future__ import annotations

import base64
import dataclasses
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from IPython.core.interactiveshell import InteractiveShell

from lfmlib import findings
from lfmlib.book import boxes, notebook, one_file, refusals, tables
from lfmlib.findings import Finding, scoreboard
from lfmlib.provenance import ROOT, recorded
from lfmlib.records import Comparison, Rehearsal

DECLARED = 'model: str = ""  # a model\nseed: int = 0\nprofile: str = "default"\nresults: str = ""\n'


@pytest.fixture
def cells(monkeypatch, tmp_path):
    """Make `begin` believe that it stands in a notebook in which these cells ran."""

    def cells(*sources: str) -> None:
        variables = {"In": ["", *sources]}
        for source in sources:
            exec(source, variables)
        shell = SimpleNamespace(user_ns=variables, set_custom_exc=lambda kinds, handler: None)
        monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
        monkeypatch.setattr(notebook, "HOME", tmp_path)
        monkeypatch.setattr(notebook, "set_matplotlib_formats", lambda kind: None)

    return cells


@pytest.mark.parametrize(
    ("injected", "place"),
    [
        ("", "_build/results"),
        ("profile = 'quick'", "_build/quick"),
        ("results = 'elsewhere'", "elsewhere"),
        ("model = 'org/name'", "_build/models/org--name/results"),
        ("model = 'org/name'; results = 'elsewhere'", "elsewhere"),
        ("model = 'org/name'; revision = 'v1'; profile = 'quick'", "_build/models/org--name--at--v1/quick"),
        ("model = 'tuned'; base = 'org/name'", "_build/models/tuned--from--org--name/results"),
        ("adapt = 'gpt2'", "_build/models/gpt2/results"),
        ("base = 'gpt2'; tuned = 'one'", "_build/models/one--from--gpt2/results"),
    ],
)
def test_results_have_a_folder_for_every_model_and_profile(cells, tmp_path, injected, place):
    more = "".join(f'{name}: str = ""\n' for name in ("base", "revision", "adapt", "tuned"))
    cells(DECLARED + more, f"# Parameters\n{injected}\n")
    assert notebook.begin() == tmp_path / place


def test_what_a_chapter_imports_is_no_parameter(cells, tmp_path):
    """Chapter 6 imports a module that has the name of a parameter of chapter 12."""
    cells("import json as tuned, math as base\n", DECLARED)
    assert notebook.begin() == tmp_path / "_build/results"


def test_a_results_folder_that_takes_no_file_is_refused_at_once(cells, tmp_path):
    (tmp_path / "file").touch()
    cells(DECLARED, f"# Parameters\nresults = '{tmp_path}/file/results'\n")
    with pytest.raises(
        ValueError, match=r"nothing can be written to .*file/results \(Not a directory\): make it a wri"
    ):
        notebook.begin()


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("import lfmlib; lfmlib.open_checkpoint('no such model')", "FileNotFoundError: 'no such model' was not found."),
        ("lfmlib.open_checkpoint('no/such-model')", "FileNotFoundError: 'no/such-model' is not an existing path"),
        ("lfmlib.open_checkpoint('minilm', select='(')", "ValueError: select="),
        ("lfmlib.open_checkpoint(torn)", "CheckpointError: "),
        ("%tb", None),
        ("lfmlib.findings.judge(1, 2, 3)", None),  # a mistake
        ("int('x')", None),  # the reader's own
    ],
)
def test_a_refusal_is_its_sentence_and_all_else_a_traceback(capsys, monkeypatch, tmp_path, source, shown):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    shell = InteractiveShell(user_ns={"torn": tmp_path / "torn.safetensors"})
    refusals.install(shell)
    try:
        shell.run_cell("import lfmlib")
        if source == "%tb":
            shell.run_cell("lfmlib.open_checkpoint('no such model')")
        capsys.readouterr()
        shell.run_cell(source)
        said = capsys.readouterr()
    finally:
        InteractiveShell.clear_instance()
    text = re.sub(r"\x1b\[[0-9;]*m", "", said.out + said.err).strip()
    if shown is None:
        assert "Traceback (most recent call last)" in text
    else:
        assert text.startswith(shown) and len(text.splitlines()) == 2, text


def test_tables_replace_each_other_only_when_they_are_whole(tmp_path, monkeypatch):
    frame = pd.DataFrame({"a": [1.0]})
    notebook.download({"t": frame}, tmp_path)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda self, path, **how: path.write_bytes(b"x") / 0)
    with pytest.raises(ZeroDivisionError):
        notebook.download({"t": frame + 1}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.parquet"]
    monkeypatch.undo()
    assert pd.read_parquet(tmp_path / "t.parquet").equals(frame)


@pytest.mark.parametrize(
    ("injected", "words"),
    [
        ("modle = 'x'", "unknown parameter modle: valid ones are model, seed, profile, results"),
        ("base = 'x'", "unknown parameter base"),  # another chapter has it
        ("profile = 'fast'", "unknown profile 'fast': valid ones are quick, default, full"),
        ("seed = -1", "seed is -1: expected a whole number"),
        ("seed = '1'", "seed is '1': expected a whole number"),
        ("seed = 1.5", "seed is 1.5: expected a whole number"),
        ("seed = True", "seed is True: expected a whole number"),
        ("model = True", "model is True: expected text, which papermill takes with -r model"),
        ("model = ['a']", r"model is \['a'\]: expected text"),
    ],
)
def test_what_a_chapter_does_not_have_is_refused(cells, injected, words):
    cells("import lfmlib", DECLARED, f"# Parameters\n{injected}\n")
    with pytest.raises(ValueError, match=words):
        notebook.begin()


@pytest.mark.parametrize(
    ("injected", "name", "value"),
    [
        ("model = 5", "model", "5"),
        ("model = 1.5", "model", "1.5"),
        ("model = None", "model", ""),
        ("seed = 1e6", "seed", 1_000_000),
    ],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_papermill_took_for_a_number_is_what_the_chapter_declares(cells, injected, name, value, by_hand):
    if by_hand:  # in the cell itself, as in JupyterLab
        declared, _, rest = DECLARED.partition(f"{name}: {type(value).__name__}")
        cells(
            "import lfmlib",
            f"{declared}{name}: {type(value).__name__} = {injected.split(' = ')[1]}\n" + rest.split("\n", 1)[1],
        )
    else:
        cells("import lfmlib", DECLARED, f"# Parameters\n{injected}\n")
    notebook.begin()
    found = notebook.get_ipython().user_ns[name]
    assert found == value and type(found) is type(value)


def test_whole_numbers_stay_whole_where_one_is_missing(monkeypatch):
    shown = []
    monkeypatch.setattr(tables, "display", lambda html: shown.append(html.data))
    depth = pd.Series([1, pd.NA, 1200], dtype="Int64")
    notebook.table(
        pd.DataFrame({"depth": [0.0, np.nan, 1.0], "layer": depth, "none": np.nan, "std": [0.5, 1.0, np.nan]})
    )
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", shown[0])
    assert cells == ["0", "1", "–", "0.5000", "–", "–", "–", "1.0000", "1", "1,200", "–", "–"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"known": True}, "(seed 3), was measured again earlier, on this machine and by the same code, and came out"),
        ({}, "was measured again now, in 23 s, and came out within its tolerances."),
        ({"problems": ("3 rows, recorded 4",), "alike": False}, "3 rows, recorded 4. It had been recorded on another"),
        (
            {"rehearsed": True},
            "within its tolerances. Of 8 rehearsed under AVX-512, AVX2, AVX and SSE, 5 stayed within",
        ),
    ],
)
def test_what_came_out_of_a_cell_measured_again_is_said(monkeypatch, found, words):
    monkeypatch.setattr(notebook.records, "rehearsed", lambda name: Rehearsal(30, 8, 5, 1, 0.7, "height"))
    monkeypatch.setattr(notebook.records, "remeasure", lambda name, kept: dataclasses.replace(AGAIN, **found))
    assert words in notebook._again("toy")[0]


AGAIN = Comparison("toy", {"seed": 3, "adapter": ""}, 23.4, pd.DataFrame({"equal": [True], "difference": 0.0}))
OFF = pd.DataFrame(
    {"metric": ["height"], "measured": 0.5, "recorded": 0.25, "difference": 1.0, "allowed": 0.1, "equal": False}
)


@pytest.mark.parametrize(
    ("found", "marked"),
    [
        ({}, ""),
        ({"metrics": OFF}, ""),  # another kind of processor, perhaps
        ({"metrics": OFF, "alike": False}, ""),
        ({"metrics": OFF, "alike": True}, "height is 0.5, recorded 0.25"),
        ({"metrics": OFF, "alike": False, "rehearsed": True}, "height is 0.5, recorded 0.25"),
        ({"problems": ("3 rows, recorded 4",), "alike": False}, "3 rows, recorded 4"),
    ],
)
def test_a_record_that_fails_marks_its_findings(monkeypatch, found, marked):
    """On the scoreboard, also those of other chapters on the same record; what another processor excuses does not."""
    table = pd.DataFrame({"cell": ["a"]})
    table.attrs = {"commits": ["abc"], "core_seconds": 9.0, "notice": "", "gpus": [], "stale": False}
    monkeypatch.setattr(notebook.records, "table", lambda name, profile: table)
    monkeypatch.setattr(notebook.records, "remeasure", lambda name, kept: dataclasses.replace(AGAIN, **found))
    monkeypatch.setattr(notebook.records, "rehearsed", lambda name: Rehearsal(30, 8, 5, 1, 0.7, "height"))
    monkeypatch.setattr(tables, "display", lambda *_, **__: None)
    origins = [
        recorded("toy", notebook.record("toy", "default")),
        {"record": {"name": "toy"}},
        {"record": {"name": "b"}},
    ]
    judged = [Finding.of(f"F{at}", "m", one, {}, value=0.9) for at, one in enumerate(origins, 9)]
    rows = [line for line in scoreboard.table(judged).splitlines() if line.startswith("| m")]
    assert ["**its record failed**" in row and marked in row for row in rows] == [bool(marked), bool(marked), False]
    told = [one for one in scoreboard.mixed(judged) if one.startswith("**Not as recorded**: F9, F10 rest on")]
    assert len(told) == bool(marked)


@pytest.mark.parametrize(
    ("notice", "stale", "line", "open_"),
    [
        ("", False, "The record “toy”: where it comes from", 0),
        ("This record holds 3 of 4 cells: `make` it.", False, "The record “toy” holds 3 of 4 cells: where it", 0),
        ("This record was measured with others: `make` it.", True, "The record “toy”: where it comes from", 1),
    ],
)
def test_where_a_record_comes_from_folds_and_that_it_is_stale_does_not(shown, monkeypatch, notice, stale, line, open_):
    table = pd.DataFrame({"cell": ["a"]})
    table.attrs = {"commits": ["abc"], "core_seconds": 9.0, "notice": notice, "gpus": [], "stale": stale}
    monkeypatch.setattr(notebook.records, "table", lambda name, profile: table)
    notebook.record("toy", "default", again=False)
    assert read(shown[0]).summary.get_text().startswith(line) and len(shown) == 1 + open_
    assert notice.replace("`", "") in " ".join(read(one).get_text() for one in shown)


HOSTILE = "a`<img src=x onerror=alert(1)>`$b$\u202e*c*"
SEEN = "a`<img src=x onerror=alert(1)>`$b$\\u202e*c*"


@pytest.fixture
def shown(monkeypatch):
    """The HTML of what is displayed, in order."""
    pages = []
    for module in (boxes, tables):
        monkeypatch.setattr(
            module, "display", lambda what, **how: pages.append(what["text/html"] if how.get("raw") else what.data)
        )
    return pages


def read(page: str) -> BeautifulSoup:
    soup = BeautifulSoup(page, "html.parser")
    assert not soup.find(["img", "script", "a"])
    assert all("mathjax_ignore" in found["class"] for found in soup.find_all(recursive=False) if found.name != "style")
    return soup


def test_names_are_words_in_sentences_and_tables(shown):
    notebook.say(f"The matrix **{notebook.plain(HOSTILE)}** is {notebook.code(HOSTILE)}.")
    assert read(shown[0]).get_text() == f"The matrix {SEEN} is {SEEN}."
    frame = pd.DataFrame({HOSTILE: [HOSTILE, "b"], "value": [0.5, 1.5]}, index=[HOSTILE, "row"])
    for index in (True, False):
        shown.clear()
        notebook.table(frame, index=index)
        cells = [cell.get_text() for cell in read(shown[0]).find_all(["th", "td"]) if cell.get_text().strip()]
        assert cells.count(SEEN) == 2 + index and "0.5000" in cells


def test_a_table_that_is_cut_says_so(shown):
    notebook.table(pd.DataFrame({"value": range(50)}), most=20)
    assert len(read(shown[0]).select("tbody tr")) == 20 and "The first 20 of 50 rows." in shown[1]
    notebook.table(pd.DataFrame({"value": range(20)}), most=20)
    assert len(shown) == 3


@pytest.mark.parametrize("levels", [1, 2])
def test_names_of_axes_and_captions_in_attributes_are_words(shown, levels):
    """pandas escapes no name of an axis (phenobarbital/ai-parrot#1159); a quote ends no attribute (tokenizers#2210)."""
    names = [HOSTILE, '" onload=alert(1) x="'][:levels]
    index = pd.MultiIndex.from_product([["a", "b"]] * levels, names=names)
    frame = pd.DataFrame({"value": np.arange(len(index)) / 3}, index=index).rename_axis(columns=HOSTILE)
    notebook.table(frame)
    page = read(shown[0])
    heads = [cell.get_text() for cell in page.select("th.index_name")]
    assert heads.count(SEEN) == 2 and set(heads) >= set(names[1:])
    assert frame.index.names == names and frame.columns.name == HOSTILE  # the table itself keeps them
    assert not [tag for tag in page.find_all(True) if any(key.startswith("on") for key in tag.attrs)]


def test_names_are_words_in_boxes_and_the_report(shown, tmp_path):
    parts = {HOSTILE: 0.25, "words": HOSTILE}
    found = [
        findings.Finding.of("F11", HOSTILE, {}, {"reason": "`lfmlib.pruning.curve` measures it."}),
        findings.Finding.of("F11", "lab", {}, {"parts": parts}, value=0.7, interval=(0.6, 0.8), null=0.1),
        findings.Finding.of("F11", HOSTILE + "2", {}, {"parts": parts}, value=0.7),
    ]
    for some in (found, found[0], found[2]):
        shown.clear()
        claim = notebook.Claim("F11")
        claim.show()
        claim.settle(some, tmp_path)
        assert SEEN in read(shown[2]).get_text() and read(shown[3])
    board = notebook.Board()
    board.show()
    board.settle(found, tmp_path)
    assert read(shown[-2]).get_text().count(SEEN) >= 2 and SEEN in read(shown[-1]).get_text()


def test_why_a_model_is_not_judged_wraps_beside_the_numbers_of_others(shown, tmp_path):
    reason = findings.f11("own", {})
    judged = findings.Finding.of("F11", "lab", {}, {"parts": {"Wanda": 0.2, "random": 0.1}}, value=0.7, null=0.1)
    claim = notebook.Claim("F11")
    claim.show()
    claim.settle([reason, judged], tmp_path)
    own, lab = read(shown[-2]).select("div.lfm-claim > .lfm-scroll tbody tr")
    why = own.find("td")
    assert int(why["colspan"]) == len(lab.find_all("td")) - 1 == 2
    assert "white-space:normal" in why["style"] and why.code.get_text() == "lfmlib.pruning.curve"
    assert "`" not in own.get_text()
    folded = read(shown[-2]).select("details tbody tr")
    assert [[cell.get_text() for cell in row] for row in folded] == [
        ["lab", "20\u00a0%", "10\u00a0%", "10.0\u00a0%; partly"]
    ]


def test_a_box_draws_a_value_where_it_lies(shown, tmp_path):
    """Between nothing and all, its interval a line, its control a ring; the bounds of the rule dotted."""
    some = [
        findings.Finding.of("F6", "one", {}, {}, value=0.5, interval=(0.25, 0.75), null=1.0),
        findings.Finding.of("F6", "two", {}, {}, value=0.0),
    ]
    claim = notebook.Claim("F6")
    claim.show()
    claim.settle(some, tmp_path)
    first, second = read(shown[-2]).select("svg.lfm-picture")
    assert float(first.select_one(".lfm-dot")["cx"]) == 75 and float(first.select_one(".lfm-ring")["cx"]) == 143
    assert first.select_one(".lfm-range")["d"] == "M41.0 9.0H109.0" and len(first.select(".lfm-bound")) == 2
    assert not second.select(".lfm-ring, .lfm-range") and float(second.select_one(".lfm-dot")["cx"]) == 7
    assert "lfm-undecided" in first["class"] and first["aria-hidden"] == "true"


def test_bounds_in_a_box_are_those_of_a_model_that_tried_all():
    """The first of several had four methods: “supported from 4 of 4” stood there, where three are enough."""
    more = {"largest_gain": 0.1, "parts": {}}
    some = [Finding.of("F14", name, {}, more | {"of": of}, value=1.0) for name, of in (("a", 4), ("b", 6), ("c", 5))]
    assert "dotted: partly from 1\u00a0of 6, supported from 4\u00a0of 6" in boxes._key(some)


def test_several_claims_have_a_box_each_and_one_answer(shown, tmp_path):
    claims = notebook.Claim("F9", "F10")
    claims.show()
    assert len(shown) == 3 and "appears here" in shown[0]
    found = [findings.Finding.of(id_, "m", {}, {}, value=1.0, null=1.0) for id_ in ("F9", "F10", "F9")]
    claims.settle([*found[:2], dataclasses.replace(found[2], model="n")], tmp_path)
    assert len(shown) == 6 and "Claim F9." in shown[3] and "Claim F10." in shown[4]
    assert [one.get_text().split(".")[0] for one in read(shown[5]).find_all("p")] == ["Yes, but of noise as well"] * 2


def test_a_selection_of_tensors_is_shown_and_not_kept(shown, tmp_path):
    where = {"parameters": {"select": "x"}}
    claim = notebook.Claim("F9")
    claim.show()
    claim.settle(findings.Finding.of("F9", "m", where, {}, value=1.0, null=1.0), tmp_path)
    assert "Of a selection of tensors only" in shown[-2] and not list(tmp_path.iterdir())


def test_what_another_chapter_keeps_is_shown_alone(shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim = notebook.Claim("F9")
    claim.show()
    claim.settle(findings.Finding.of("F9", "m", {}, {}, value=1.0, null=1.0))
    assert "lfm-verdict" in shown[-2] and not list(tmp_path.iterdir())


def test_what_folds_can_be_opened_and_taken_away(shown):
    notebook.say("**Two** words.", fold="What was <read>")
    page = read(shown[0])
    assert page.details.summary.get_text() == "What was <read>" and page.strong.get_text() == "Two"
    frame = pd.DataFrame({"model": ["a", "=b"], "value": [0.5, 1.5]})
    notebook.table(frame, index=False, fold="Numbers behind the figure")
    link = BeautifulSoup(shown[1], "html.parser").details.a
    assert link["download"] == "numbers-behind-the-figure.csv"
    text = base64.b64decode(link["href"].split("base64,")[1]).decode()
    assert text.splitlines() == ["model,value", "a,0.5", "'=b,1.5"]


def test_a_spreadsheet_computes_no_name(shown, tmp_path):
    table = pd.DataFrame(
        {"tensor": ["=1+1", "@x", "-x", "a"], "value": [-1.5, 2.0, 3.0, 4.0], "why": [None, "", "", ""]}
    )
    notebook.download({"matrices": table}, tmp_path)
    text = base64.b64decode(re.search('base64,([^"]+)', shown[0])[1]).decode()
    assert text == (tmp_path / "matrices.csv").read_text(encoding="utf-8") and "-1.5" in text
    assert pd.read_csv(tmp_path / "matrices.csv")["tensor"].tolist() == ["'=1+1", "'@x", "'-x", "a"]
    assert pd.read_parquet(tmp_path / "matrices.parquet")["tensor"].tolist() == table["tensor"].tolist()


def test_a_solution_folds_in_a_report_as_in_the_book(tmp_path):
    """nbconvert closes an HTML block at its end, so that all in it would stand open."""
    solution = "<details><summary>Solution</summary>\n\n```python\n1 + 1\n```\n\nTwo.\n\n</details>"
    text = f"# A question?\n\n1. One.\n\n{solution}\n\n2. Two.\n\n{solution}\n\nThe end."
    path = tmp_path / "01_a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), path)
    page = one_file.write_report(path, tmp_path / "a.html")
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    assert ["".join(one.get_text().split()) for one in soup.select("details")] == ["Solution1+1Two."] * 2
    assert not soup.select(".lfm-end") and "The end." in soup.get_text()


@pytest.mark.slow
def test_a_chapter_refuses_it_before_anything_is_written(tmp_path):
    """Chapter 2 takes no model; papermill alone would only warn."""
    chapter = next((ROOT / "notebooks").glob("02_*.ipynb"))
    command = [sys.executable, "-m", "papermill", str(chapter), str(tmp_path / "out.ipynb"), "--no-progress-bar"]
    command += ["--cwd", str(ROOT), "-p", "model", "x", "-p", "results", str(tmp_path / "results")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, stdin=subprocess.DEVNULL, check=False, encoding="utf-8"
    )
    assert done.returncode != 0 and "unknown parameter model: valid ones are seed, profile, results" in done.stderr
    assert not (tmp_path / "results").exists()
