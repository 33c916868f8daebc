"""Lay out everything Jupyter Book reads, in one folder that can be thrown away: pages, executed chapters, settings.

The stage keeps `book/` and `notebooks/` as siblings, as the repository does, so a relative link means the same in
JupyterLab, on the forge and in the rendered book.
"""

from __future__ import annotations

import html
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import yaml

from ..findings import markup
from . import partial, slim, speed
from .execute import is_complete

__all__ = ["chapter_number", "clean_outputs", "repository", "stage", "toc_chapters", "toc_pages"]

_SVG = "image/svg+xml"
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


def stage(root: Path, folder: Path, *, executed: Path, results: Path) -> list[str]:
    """Fill `folder` anew from `root`, the notebooks in `executed` and the findings in `results`.

    Returns the chapters that were not executed to their end, which `lfmlib.book.partial` stands in for.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "book", folder / "book")
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    missing = {}
    for chapter in toc_chapters(root):
        if is_complete(executed / chapter.name):
            _stage_chapter(executed / chapter.name, folder / "notebooks" / chapter.name)
        else:
            missing[chapter] = _title(chapter)
    shutil.copy(root / "_toc.yml", folder / "_toc.yml")
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    text = yaml.safe_dump(_with_addresses(settings), sort_keys=False, allow_unicode=True)
    (folder / "_config.yml").write_text(text, encoding="utf-8")
    made = _models(results, folder / "book/_static/atlas") | speed.tables(root / "book" / "speed")
    made |= {"_calibration.md": _calibration(), "_rehearsals.md": _rehearsals(), "_runs.md": _runs(root, executed)}
    made |= {"_surroundings.md": _surroundings(root, executed)}
    for name, text in made.items():
        (folder / "book" / name).write_text(text, encoding="utf-8")
    partial.complete(folder, missing)
    return [chapter.stem for chapter in missing]


def toc_pages(root: Path) -> list[str]:
    """Every page named in `_toc.yml`, without suffix, in reading order."""

    def walk(node) -> Iterator[str]:
        for entry in node.get("chapters", []) + node.get("sections", []):
            if "file" in entry:
                yield entry["file"]
            yield from walk(entry)
        for part in node.get("parts", []):
            yield from walk(part)

    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *walk(toc)]


def toc_chapters(root: Path) -> list[Path]:
    """The executable chapters of `_toc.yml`: the pages below `notebooks/`."""
    paths = [root / f"{page}.ipynb" for page in toc_pages(root) if page.startswith("notebooks/")]
    if absent := [path.name for path in paths if not path.exists()]:
        raise FileNotFoundError(f"_toc.yml lists chapters that are not in {root / 'notebooks'}: {', '.join(absent)}")
    return paths


def chapter_number(root: Path, stem: str) -> int | None:
    """The number the rendered book gives to the chapter `stem`: its place among the numbered parts' pages."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    parts = [part for part in toc.get("parts", []) if part.get("numbered")]
    pages = [Path(chapter["file"]).name for part in parts for chapter in part["chapters"]]
    return pages.index(stem) + 1 if stem in pages else None


def clean_outputs(notebook: nbformat.NotebookNode) -> None:
    """Drop what is of use only while a chapter runs: progress bars, widgets and the standard error stream; and make
    figures small.

    A widget's state would also make the page load its scripts from the network.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_noise(output)]
            for data in (output.data for output in cell.outputs if _SVG in output.get("data", {})):
                data[_SVG] = slim.drawing(data[_SVG])


def _is_noise(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stderr"
    return bool({_WIDGET_VIEW, _WIDGET_STATE} & set(output.get("data", {})))


def _stage_chapter(source: Path, target: Path) -> None:
    notebook = nbformat.read(source, as_version=4)
    clean_outputs(notebook)
    run = notebook.metadata.get("papermill", {})
    for name in {"input_path", "output_path"} & set(run):  # readers download this: nobody's folders in it
        run[name] = Path(run[name]).name
    for cell in notebook.cells:
        tags = cell.metadata.setdefault("tags", [])
        if "injected-parameters" in tags and "remove-cell" not in tags:
            tags.append("remove-cell")
    # Raw HTML on purpose: the report is made beside the pages, so it is no document that Sphinx could check.
    report = f"../reports/{source.stem}.html"
    line = f'<p class="lfm-send"><a href="{report}">Send this chapter: one-file report (HTML)</a></p>'
    notebook.cells.append(nbformat.v4.new_markdown_cell(line, id="lfm-report", metadata={"tags": []}))
    nbformat.write(notebook, target)


def repository(settings: dict) -> dict[str, str]:
    """Address and branch of the repository, from `_config.yml` or the environment; "" where no address is given."""
    given = settings.get("repository") or {}
    return {
        "url": os.environ.get("BOOK_REPOSITORY") or given.get("url") or "",
        "branch": os.environ.get("BOOK_BRANCH") or given.get("branch") or "main",
    }


def _with_addresses(settings: dict) -> dict:
    """Settings with the public addresses filled in, from `_config.yml` or the environment; none is invented.

    Buttons that need the repository appear only where its address is known; Colab can open GitHub's notebooks only, and
    `lfmlib.book.launch` leads it to those that install what they need.
    """
    known = repository(settings)
    settings.setdefault("repository", {}).update(known)
    page = settings.setdefault("html", {})
    page["baseurl"] = os.environ.get("BOOK_BASEURL") or page.get("baseurl") or ""
    there = bool(known["url"])
    page.update(use_repository_button=there, use_issues_button=there, use_edit_page_button=there)
    if there and "github.com" in known["url"]:
        settings.setdefault("launch_buttons", {}).update(
            colab_url="https://colab.research.google.com", binderhub_url="https://mybinder.org"
        )
        settings["sphinx"]["config"]["extensions"].append("lfmlib.book.launch")
    return settings


def _verdicts(results: Path, sizes: dict[str, int]) -> dict[str, str]:
    """The front page's sentences and grid, the scoreboard, and what the rules were, by the file that pages include."""
    from .. import findings
    from ..findings import front, grid, scoreboard

    # No folder yet: nothing measured, and the pages say so.
    found = findings.load(results) if results.is_dir() else []
    return {
        "_summary.md": front.summary(found),
        "_grid.md": grid.grid(found, sizes),
        "_scoreboard.md": scoreboard.table(found),
        "_changes.md": scoreboard.changes(found),
        "_readings.md": scoreboard.readings(),
    }


def _calibration() -> str:
    """The tables of the calibration page, read off its record."""
    from .. import records
    from ..chapters import calibration

    return calibration.page(records.load("calibration"))


def _rehearsals() -> str:
    """How recorded cells came out under other instruction sets, read off the records."""
    from ..chapters import rehearsals

    return rehearsals.table()


def _models(results: Path, folder: Path) -> dict[str, str]:
    """The page on published models, read off their record, whose figures go into a folder; the list of all models that
    verdicts are on; and the verdicts."""
    from .. import records
    from ..chapters import atlas, census, names

    record = records.load("census")
    weights = {name: int(body["numel"].sum()) for name, body in census.bodies(record).items()}
    sizes = names.sizes(weights)
    return atlas.pages(record, folder) | {"_models.md": names.listing(sizes)} | _verdicts(results, sizes)


def _runs(root: Path, executed: Path) -> str:
    """A table of what ran when, how long, and from which commit, out of what papermill left in the notebooks."""
    rows = ["| Chapter | Model | Profile | Started (UTC) | Took | Commit |", "|---|---|---|---|---:|---|"]
    for chapter in toc_chapters(root):
        path = executed / chapter.name
        if not is_complete(path):
            rows.append(f"| {_title(chapter)} | | | not run | | |")
            continue
        metadata = nbformat.read(path, as_version=4).metadata
        run = metadata.get("papermill", {})
        given = run.get("parameters", {})
        model = markup.cell(markup.code(given["model"])) if given.get("model") else "default"
        started = str(run.get("start_time", ""))[:16].replace("T", " ")
        seconds = f"{run.get('duration') or 0:.0f} s"
        commit = metadata.get("lfm", {}).get("commit", "unknown")
        name = f"[{_title(chapter)}](../notebooks/{chapter.name})"
        rows.append(f"| {name} | {model} | {given.get('profile', 'default')} | {started} | {seconds} | `{commit}` |")
    return "\n".join(rows) + "\n"


def _surroundings(root: Path, executed: Path) -> str:
    """A table of what the chapters ran on, as each run noted it; chapters that ran on different things give several."""
    stamps = [nbformat.read(path, as_version=4).metadata.get("lfm", {}) for path in _executed(root, executed)]
    noted = [stamp["surroundings"] for stamp in stamps if stamp.get("surroundings")]
    if not noted:
        return "No chapter has noted what it ran on.\n"
    rows = ["| | |", "|---|---|"]
    for name in dict.fromkeys(name for note in noted for name in note):
        values = dict.fromkeys(note.get(name, "unknown") for note in noted)
        rows.append(f"| {name} | {', '.join(values)} |")
    return "\n".join(rows) + "\n"


def _executed(root: Path, executed: Path) -> list[Path]:
    return [path for chapter in toc_chapters(root) if is_complete(path := executed / chapter.name)]


def _title(chapter: Path) -> str:
    first = nbformat.read(chapter, as_version=4).cells[0].source
    return html.escape(first.splitlines()[0].lstrip("# ").strip(), quote=False)
