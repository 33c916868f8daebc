"""A toy book with this repository's settings, for tests of the machinery that makes books."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lfmlib.provenance import ROOT

INTRO = "# A toy book\n\nRead {doc}`../notebooks/01_is_it_so`, {ref}`fig-hero` and {cite}`toy2025`.\n"
FINDINGS = "# What was found\n\n```{include} _scoreboard.md\n```\n"
METHODS = "# Methods\n\n## How it is done\n\n$$y = x^2$$\n\n```{include} _runs.md\n```\n"
REFERENCES = "# References\n\n```{bibliography}\n:all:\n```\n"
BIB = "@article{toy2025, title={A toy}, author={Doe, Jane}, year={2025}, journal={Toys}}\n"
CLAIM = (
    '<div class="lfm-claim lfm-partly"><p><b>Claim.</b> It is so. '
    '<span class="lfm-verdict">partly supported</span>: 61.2 % '
    '(<a href="../book/methods.html#how-it-is-done">rule</a>)</p></div>'
)
DRAW = """import matplotlib.pyplot as plt
%config InlineBackend.figure_formats = ["svg"]
fig, ax = plt.subplots(figsize=(5.6, 3), facecolor="none")
ax.set_facecolor("none")
ax.tick_params(colors="0.5")
ax.hist([1, 2, 2, 3, 3, 3, 4, 4, 5], bins=5)
plt.show()"""


def chapter(title: str = "Is it so?", *, draw: str = DRAW, extra: str = "") -> nbformat.NotebookNode:
    """A chapter as the contract wants it, small."""
    figure = {
        "figure": {"caption": "Weights $w$ of **one** tensor.", "name": "fig-hero"},
        "image": {"alt": "Histogram of nine weights", "classes": "dark-light"},
    }
    parameters = 'model = "minilm"  # what to measure\nseed = 0  # of everything random\nresults = ""  # folder'
    cells = [
        new_markdown_cell(
            f"# {title}\n\nInline $\\sigma^2 < 1$; see [Methods](../book/methods.md) and [Figure 1.1](#fig-hero)."
        ),
        new_code_cell(parameters, metadata={"tags": ["parameters", "hide-input"]}),
        new_code_cell(f"from IPython.display import HTML, Markdown, display\ndisplay(HTML({CLAIM!r}))"),
        new_code_cell(draw, metadata={"mystnb": figure, "tags": ["remove-input"]}),
        new_markdown_cell("## A section here\n\n$$\\mathrm{KL}(p \\| q) = \\sum_i p_i \\log_2 \\frac{p_i}{q_i}$$"),
        new_code_cell(
            'display(Markdown(f"Measured $x = 1$, seed {seed}; see [how](../book/methods.html#how-it-is-done)."))'
        ),
        new_code_cell('import pandas as pd\npd.DataFrame({f"a rather long column {k}": [k, 2.5] for k in range(9)})'),
        new_code_cell('import sys\nprint("on stderr", file=sys.stderr)'),
        new_code_cell('print("not to be seen")', metadata={"tags": ["remove-output"]}),
    ]
    if extra:
        cells.append(new_code_cell(extra))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def make_book(root: Path, **chapters: nbformat.NotebookNode) -> Path:
    """A toy book with this repository's settings and style sheets."""
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    pages = {"intro": INTRO, "findings": FINDINGS, "methods": METHODS, "references": REFERENCES}
    for name, text in pages.items():
        (root / "book" / f"{name}.md").write_text(text, encoding="utf-8")
    (root / "book" / "references.bib").write_text(BIB, encoding="utf-8")
    (root / "notebooks").mkdir()
    for name, notebook in (chapters or {"01_is_it_so": chapter()}).items():
        nbformat.write(notebook, root / "notebooks" / f"{name.removeprefix('c')}.ipynb")
    shutil.copy(ROOT / "_config.yml", root)
    files = sorted(path.stem for path in (root / "notebooks").iterdir())
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    numbered = next(part for part in toc["parts"] if part.get("numbered"))
    numbered["chapters"] = [{"file": f"notebooks/{stem}"} for stem in files]
    toc["parts"] = [numbered, {"caption": "About", "chapters": [{"file": f"book/{p}"} for p in list(pages)[1:]]}]
    (root / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")
    return root


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def executed(notebook: nbformat.NotebookNode, path: Path, *, complete: bool = True) -> Path:
    """A notebook as if it had been run."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = 1
    notebook.metadata["papermill"] = {"end_time": "2026-01-01T00:00:00"}
    if complete:
        notebook.metadata["lfm"] = {"complete": True}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path
