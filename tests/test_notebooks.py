"""Every chapter keeps its contract: what a reader finds in one, they find in all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from lfmlib.book import stage
from lfmlib.findings import rules
from lfmlib.provenance import ROOT

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHARED = {"model", "base", "revision", "select", "seed", "profile", "results"}  # of chapters that take a model
DRAWS = re.compile(r"\b(plots|plt|sns)\.(?!style\b)")
PRINTS = {
    "display",
    "say",
    "show",
    "settle",
    "print",
    "close",
}  # calls that leave nothing to be shown by the cell itself

pytestmark = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


def lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def draws(cell: nbformat.NotebookNode) -> bool:
    code = "\n".join(line for line in cell.source.splitlines() if not re.match(r"\s*(import|from|#)\b", line))
    return "figure" in cell.metadata.get("mystnb", {}) or bool(DRAWS.search(code))


def where(path: Path, cell: nbformat.NotebookNode) -> str:
    return f"{path.name}, cell {cell.id}: {cell.source.splitlines()[0][:60] if cell.source else '(empty)'}"


def test_is_a_valid_notebook_stored_without_outputs(path):
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert (stored.nbformat, stored.nbformat_minor >= 5) == (4, True)
    assert stored.metadata.kernelspec.name == "python3" and stored.metadata.kernelspec.language == "python"
    ids = [cell.id for cell in stored.cells]
    assert len(set(ids)) == len(ids)
    for cell in code_cells(path):
        assert cell.outputs == [] and cell.execution_count is None, where(path, cell)


def test_opens_with_a_question(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert re.fullmatch(r"# .+\?", first.source.splitlines()[0]), first.source.splitlines()[0]
    assert len(re.findall(r"^# ", prose(path), flags=re.MULTILINE)) == 1  # one title


def test_parameters_explain_themselves(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, "exactly one cell is tagged “parameters”"
    declared = papermill.inspect_notebook(str(path))
    assert declared, "papermill --help-notebook finds no parameter"
    unexplained = [name for name, about in declared.items() if not about["help"].strip()]
    assert unexplained == [], "a comment behind each parameter is its help text"
    defaults = {name: ast.literal_eval(about["default"]) for name, about in declared.items()}
    assert tagged[0].metadata["lfm"]["defaults"] == defaults, "what the book is built with, whatever a reader saves"
    if "model" in declared:
        assert set(declared) >= SHARED, f"missing: {SHARED - set(declared)}"


def test_parameters_are_checked(path):
    """`notebook.begin` refuses what the cell before it does not declare."""
    cells = code_cells(path)
    place = next(at for at, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    assert cells[place + 1].source.startswith("folder = notebook.begin()\n")


def test_makes_a_claim(path):
    assert any(re.search(r"\b(Claim|Board|Question)\(", cell.source) for cell in code_cells(path))


def test_a_finding_is_kept_by_its_own_chapter_alone(path):
    """Chapter 5 shows F4 and chapter 4 keeps it: two that write one file leave what the last of them knew."""
    if any("Claim(" in cell.source for cell in code_cells(path)):
        (settled,) = [cell.source for cell in code_cells(path) if "settle(" in cell.source]
        assert ("folder)" in settled) == (path.stem in rules.CHAPTERS.values())


def test_code_is_short(path):
    for cell in code_cells(path):
        assert lines(cell.source) <= 15, where(path, cell)
    assert sum(lines(cell.source) for cell in code_cells(path)) <= 120


def test_prose_is_plain_markdown(path):
    """Plain CommonMark with $…$ reads the same in JupyterLab, in the book and in the one-file report."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", prose(path), flags=re.DOTALL)
    raw = re.findall(r"^:::.*|^\(\S+\)=$|\{[a-z-]+\}(?=`)", prose(path), flags=re.MULTILINE)
    assert raw == [] and "```{" not in prose(path)
    assert re.findall(r"\[\]\([^)]*\)", text) == [], "a link without text: the book shows the caption there"


def test_figures_have_caption_alt_text_and_name(path):
    names = []
    for cell in filter(draws, code_cells(path)):
        settings = cell.metadata.get("mystnb", {})
        figure, image = settings.get("figure", {}), settings.get("image", {})
        assert len(figure.get("caption", "")) >= 40, f"{where(path, cell)}: a caption that can be read alone"
        assert len(image.get("alt", "")) >= 20, f"{where(path, cell)}: mystnb.image.alt"
        classes = image.get("classes")  # one string; MyST-NB refuses a list
        assert isinstance(classes, str) and "dark-light" in classes, f"{where(path, cell)}: mystnb.image.classes"
        assert re.fullmatch(r"fig-[a-z0-9-]+", figure.get("name", "")), f"{where(path, cell)}: mystnb.figure.name"
        names.append(figure["name"])
    assert len(set(names)) == len(names)
    number = stage.chapter_number(ROOT, path.stem)
    labels = {name: f"Figure {number}.{place}" for place, name in enumerate(names, start=1)}
    for text, name in re.findall(r"\[([^\]]*)\]\(#(fig-[^)]*)\)", prose(path)):
        assert text == labels.get(name), f"[{text}](#{name}) is {labels.get(name)}"


def test_no_cell_ends_in_a_bare_figure(path):
    """Its text form would be shown as a second figure."""
    for cell in filter(draws, code_cells(path)):
        statements = ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE)).body
        last = statements[-1] if statements else None
        if not isinstance(last, ast.Expr) or cell.source.rstrip().endswith(";"):
            continue
        call = last.value.func if isinstance(last.value, ast.Call) else None
        name = call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", None)
        assert name in PRINTS, f"{where(path, cell)}: end it with plt.show() or a semicolon"


def test_the_first_screen_answers(path):
    """Title and a few words, the answer, the first figure, the box: imports, parameters and records fold."""
    cells = nbformat.read(path, as_version=4).cells
    assert len(cells[0].source.split()) <= 60
    shown = next(
        at for at, cell in enumerate(cells) if re.search(r"^\w+(\[.*\])?\.show\(\)$", cell.source, re.MULTILINE)
    )
    opening = cells[1:shown]
    assert all(cell.cell_type == "code" and "hide-input" in cell.metadata.tags for cell in opening)
    assert ["figure" in cell.metadata.get("mystnb", {}) for cell in opening].count(True) == 1
    assert re.search(r"\b(Claim|Board|Question)\(", opening[0].source) and "remove-input" in cells[shown].metadata.tags


def test_takeaways_are_printed_and_solutions_unfold(path):
    cells = nbformat.read(path, as_version=4).cells
    place = next(at for at, cell in enumerate(cells) if re.search(r"^## Takeaways$", cell.source, re.MULTILINE))
    assert cells[place].source.endswith("## Takeaways"), "three printed sentences stand right below"
    assert cells[place + 1].cell_type == "code" and "notebook.say(" in cells[place + 1].source
    exercises = prose(path).partition("## Exercises")[2]
    solved = re.findall(r"<details><summary>Solution[^<]*</summary>\n\n(.*?)\n\n *</details>", exercises, re.DOTALL)
    assert len(solved) >= 3 and exercises.count("<details>") == len(solved)
    for solution in solved:
        for kind, block in re.findall(r"```(\w+)\n(.*?)```", solution, re.DOTALL):
            if kind == "python":
                ast.parse(block)
            for name, given in re.findall(r"papermill notebooks/(\w+)\.ipynb (.*)", block):
                declared = papermill.inspect_notebook(str(ROOT / "notebooks" / f"{name}.ipynb"))
                assert set(re.findall(r"-[pr] (\w+)", given)) <= set(declared)
