"""What chapters need of Jupyter: parameters that are checked."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lfmlib.book import notebook
from lfmlib.provenance import ROOT
from lfmlib.records import Comparison

DECLARED = 'model: str = ""  # a model\nseed: int = 0\nprofile: str = "default"\nresults: str = ""\n'


@pytest.fixture
def cells(monkeypatch):
    """Make `begin` believe that it stands in a notebook in which these cells ran."""

    def cells(*sources: str) -> None:
        variables = {"In": ["", *sources]}
        for source in sources:
            exec(source, variables)
        monkeypatch.setattr(notebook, "get_ipython", lambda: SimpleNamespace(user_ns=variables))
        monkeypatch.setattr(notebook, "set_matplotlib_formats", lambda kind: None)

    return cells


def test_results_have_a_folder_for_every_profile(cells):
    cells(DECLARED)
    assert notebook.begin() == ROOT / "_build/results"
    cells(DECLARED, "# Parameters\nprofile = 'quick'\n")
    assert notebook.begin() == ROOT / "_build/quick"
    cells(DECLARED, "# Parameters\nresults = 'elsewhere'\n")
    assert notebook.begin() == ROOT / "elsewhere"


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
    monkeypatch.setattr(notebook, "display", lambda html: shown.append(html.data))
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
    ],
)
def test_what_came_out_of_a_cell_measured_again_is_said(monkeypatch, found, words):
    again = Comparison("toy", {"seed": 3, "adapter": ""}, 23.4, pd.DataFrame({"equal": [True], "difference": 0.0}))
    monkeypatch.setattr(notebook.records, "remeasure", lambda name, kept: dataclasses.replace(again, **found))
    assert words in notebook._again("toy")


@pytest.mark.slow
def test_a_chapter_refuses_it_before_anything_is_written(tmp_path):
    """Chapter 2 takes no model; papermill alone would only warn."""
    chapter = next((ROOT / "notebooks").glob("02_*.ipynb"))
    command = [sys.executable, "-m", "papermill", str(chapter), str(tmp_path / "out.ipynb"), "--no-progress-bar"]
    command += ["--cwd", str(ROOT), "-p", "model", "x", "-p", "results", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode != 0 and "unknown parameter model: valid ones are seed, profile, results" in done.stderr
    assert not (tmp_path / "results").exists()
