"""Every chapter on a model without layers and roles, with a constant matrix and NaN among its values, whose names are
markup: still a complete run, and a page on which nothing runs and nothing breaks.

A chapter runs in this process, as in a kernel; `test_pages` runs each with papermill, in a process of its own.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import papermill
import pytest
import torch
from browser import SCREENS
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from labserver import TOKEN, jupyterlab
from nbformat.sign import NotebookNotary
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from safetensors.torch import save_file
from traitlets.config import Config

from lfmlib import findings
from lfmlib.book import one_file
from lfmlib.book.unchanged import READS_OTHERS
from lfmlib.findings.rules import CHAPTERS as CLAIMS
from lfmlib.provenance import ROOT

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FOLDER = "<img src=x onerror=ran()> `$x$"
"""Of everything a chapter is given or writes, so that it is in every path."""
MODEL = "<svg onload=ran()> `$x$ **b"
NAMES = (
    "<script>ran()</script>",
    "a`<img src=x onerror=ran()>`b",
    "</code></td></table><svg onload=ran()>",
    r"[x](javascript:ran()) $\frac{x$ \(\href{javascript:ran()}{y}\)"
    + "\u202e\n\n```{raw} html\n<script>ran()</script>\n```",
    "layer" + 60 * "without.a.space",  # as in jupyter-book#1959 and sphinx-book-theme#673
)
IN_LAB = ("01", "12", "13")
"""Chapters that are opened in JupyterLab too, which takes seconds each; all of them passed by hand."""
SEEN_IN_LAB = """() => {
  const outputs = [...document.querySelectorAll(".jp-OutputArea-output")]
  return {
    ran: document.body.dataset.ran ?? "",
    trusted: outputs.some(one => one.classList.contains("jp-mod-trusted")),
    text: outputs.map(one => one.innerText).join("\\n"),
    strange: outputs.flatMap(one => [...one.querySelectorAll(
      ":is(script, iframe, object, [onerror], [onload], a[href^=javascript])")]).map(one => one.outerHTML),
    equations: outputs.flatMap(one => [...one.querySelectorAll("mjx-container, mjx-merror")]).length,
  }
}"""
LOOK = """() => ({
  ran: document.body.dataset.ran ?? "",
  strange: [...document.querySelectorAll("main :is(script, iframe, object, [onerror], [onload], a[href^=javascript])")]
    .map(one => one.outerHTML),
  text: document.querySelector("main").innerText,
  equations: document.querySelectorAll(":is(table.dataframe, .lfm-say, .lfm-claim) mjx-container, mjx-merror").length,
  lost: [...document.querySelectorAll("main > :not(.cell), footer table")].map(one => one.outerHTML.slice(0, 80)),
  sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
})"""

pytestmark = pytest.mark.slow


class Kept(DisplayPublisher):
    """What the cells of a chapter display; a display that is updated changes in place."""

    outputs: ClassVar[list] = []
    named: ClassVar[dict] = {}

    def publish(self, data, metadata=None, *, transient=None, update=False, **more):
        name = (transient or {}).get("display_id")
        if update:
            self.named[name].data = nbformat.NotebookNode(data)
        else:
            self.named[name] = nbformat.v4.new_output("display_data", data)
            self.outputs.append(self.named[name])


@pytest.fixture
def shell(monkeypatch):
    """IPython as in a kernel, in this process."""
    monkeypatch.chdir(ROOT)
    quiet = Config()
    quiet.HistoryManager.enabled = False
    with plt.rc_context(), warnings.catch_warnings():
        shell = InteractiveShell.instance(config=quiet, display_pub_class=Kept)
        yield shell
    plt.close("all")
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, path: Path, parameters: dict) -> nbformat.NotebookNode:
    """The chapter as papermill would leave it; raises what its cells raise."""
    stored = parameterize_notebook(load_notebook_node(str(path)), parameters)
    for cell in stored.cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source, store_history=True).raise_error()
            for number in plt.get_fignums():
                picture = io.StringIO()
                plt.figure(number).savefig(picture, format="svg")
                shell.display_pub.publish({"image/svg+xml": picture.getvalue()})
            plt.close("all")
            cell.outputs, Kept.outputs = Kept.outputs, []
    return stored


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, str]:
    """Parameters of chapters: a model, the base it was tuned from, models to merge, texts, a folder for results."""
    folder = tmp_path_factory.mktemp("hostile") / FOLDER
    weights = torch.randn(96, 64)
    weights[0, 0] = torch.nan
    base = dict(
        zip(
            NAMES,
            (weights, torch.randn(64, 96), torch.ones(64, 64), torch.randn(64, 64), torch.randn(64, 64)),
            strict=True,
        )
    )
    for name, change in {MODEL: 0.1, "base": 0.0, "tuned": 0.2}.items():
        (folder / name).mkdir(parents=True)
        tensors = {key: w + change * torch.randn(w.shape) for key, w in base.items()}
        save_file(tensors | {"steps": torch.arange(3)}, folder / name / "model.safetensors", {"format": NAMES[0]})
        (folder / name / "config.json").write_text(
            json.dumps({"architectures": NAMES, "model_type": NAMES[0]}), encoding="utf-8"
        )
    rows = [{"text": f"{name} text {at}", "label": name} for name in NAMES for at in range(30)]
    pd.DataFrame(rows).to_csv(folder / f"{MODEL}.csv", index=False)
    own = str(folder / MODEL)
    return {"model": own, "base": str(folder / "base"), "tuned": f"{own}, {folder / 'tuned'}", "profile": "quick",
            "data": f"{own}.csv", "results": str(folder / "results")}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab server, its folder, and what signs notebooks there, as those who ran them would."""
    folder, private = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("private")
    settings = private / "lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}', encoding="utf-8")  # all cells are in the page
    notary = NotebookNotary(data_dir=str(private))
    with jupyterlab(private, [f"--ServerApp.root_dir={folder}"], folder) as address:
        yield address, folder, notary


def look_in_lab(browser, lab, notebook: nbformat.NotebookNode) -> dict:
    """What a reader sees of a trusted notebook in JupyterLab, where script could reach the kernel."""
    address, folder, notary = lab
    nbformat.write(notebook, folder / "seen.ipynb")
    notary.sign(nbformat.read(folder / "seen.ipynb", as_version=4))
    page = browser.new_page()
    page.add_init_script("window.ran = () => document.body.dataset.ran = 'yes'")
    page.goto(f"{address}/doc/tree/seen.ipynb?token={TOKEN}")
    outputs = sum(len(cell.get("outputs", ())) for cell in notebook.cells)
    shown = f"() => document.querySelectorAll('.jp-OutputArea-output').length >= {outputs}"
    page.wait_for_function(shown, timeout=60_000)
    page.wait_for_timeout(1000)  # MathJax, and pictures that are not there
    seen = page.evaluate(SEEN_IN_LAB)
    page.close()
    return seen


def test_what_runs_in_jupyterlab_is_seen(browser, lab):
    """The look itself can fail."""
    output = nbformat.v4.new_output("display_data", {"text/html": "<img src=x onerror=ran()>"})
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    seen = look_in_lab(browser, lab, nbformat.v4.new_notebook(cells=[cell]))
    assert seen["ran"] == "yes" and seen["trusted"] and len(seen["strange"]) == 1


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_names_are_words_on_every_page(path, shell, given, browser, tmp_path, request):
    declared = papermill.inspect_notebook(str(path))
    if not {"model", "tuned", "data"} & set(declared):
        pytest.skip("this chapter is given no names")
    executed = run(shell, path, {name: value for name, value in given.items() if name in declared})
    executed.metadata["papermill"] = {"parameters": given, "input_path": str(path)}
    nbformat.write(executed, tmp_path / path.name)
    report = one_file.write_report(tmp_path / path.name, tmp_path / "report.html")
    kept = [one for place in Path(given["results"]).rglob("F*.json") for one in findings.load(place.parent)]
    keeps = path.stem in {*CLAIMS.values(), READS_OTHERS}  # others judge nothing, or show what another keeps
    assert "model" not in declared or not keeps or MODEL in {one.model for one in kept}
    page = browser.new_page()
    wrong = []
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.add_init_script("window.ran = () => document.body.dataset.ran = 'yes'")
    page.goto(report.as_uri())
    page.evaluate("() => window.MathJax?.startup?.promise.then(() => null)")
    for size in SCREENS.values():
        page.set_viewport_size(size)
        seen = page.evaluate(LOOK)
        text = seen.pop("text")
        assert seen == {"ran": "", "strange": [], "equations": 0, "lost": [], "sideways": 0} and wrong == []
        assert MODEL in text
    page.close()
    if path.stem.startswith(IN_LAB):
        seen = look_in_lab(browser, request.getfixturevalue("lab"), executed)
        assert MODEL in seen.pop("text")
        assert seen == {"ran": "", "trusted": True, "strange": [], "equations": 0}
