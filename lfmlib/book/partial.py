"""A book of which some chapters were not run: a page says so and keeps the number, links to them are plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import nbformat

_PAGE = "# {title}\n\nThis chapter was not run for this book. `make book CHAPTERS={number}` runs it and adds it.\n"
# In each, TARGETS stands for what is missing: in `[words](../notebooks/02_x.ipynb#there)` and `[words](#fig-x)`, …
_LINK = r"(?<!!)\[(?P<words>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?:[^()\s#]*/|#)?(?:TARGETS)(?:\.\w+)?(?:#[^()\s]*)?\)"
# … in `<a href="02_x.html#there">words</a>`, …
_ANCHOR = r"<a\s[^>]*href=\"(?:[^\"#]*/|#)?(?:TARGETS)(?:\.\w+)?(?:#[^\"]*)?\"[^>]*>(?P<words>.*?)</a>"
# … and in {doc}`../notebooks/02_x` and {ref}`words <fig-x>`.
_ROLE = r"\{(?:doc|ref|numref)\}`(?:(?P<words>[^`<]*?)\s*<)?(?:[^`<>]*/)?(?P<target>TARGETS)>?`"


def complete(folder: Path, missing: Mapping[Path, str]) -> None:
    """Give the staged book in ``folder`` a page for each chapter that is ``missing``, and unlink what leads to one.

    Args:
        folder: the stage, with everything else in its place.
        missing: the chapters' notebooks as they are stored, and their titles.
    """
    if not missing:
        return
    there = sorted((folder / "notebooks").glob("*.ipynb"))
    targets = {chapter.stem: title for chapter, title in missing.items()}
    for chapter, title in missing.items():
        targets |= dict.fromkeys(_figures(chapter), f"a figure of “{title}”")
        page = _PAGE.format(title=title, number=chapter.stem[:2])
        (folder / "notebooks" / f"{chapter.stem}.md").write_text(page, encoding="utf-8")
    for name in [name for path in there for name in _figures(path)]:
        targets.pop(name, None)  # a staged chapter has a figure of that name, too
    for path in folder.rglob("*.md"):
        path.write_text(unlinked(path.read_text(encoding="utf-8"), targets), encoding="utf-8")
    for path in there:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = unlinked(cell.source, targets)
            for data in (output.get("data", {}) for output in cell.get("outputs", [])):
                for kind in {"text/markdown", "text/html"} & set(data):
                    data[kind] = unlinked(data[kind], targets)
        nbformat.write(notebook, path)


def unlinked(text: str, targets: Mapping[str, str]) -> str:
    """Markdown or HTML with its links to ``targets``, pages or anchors, as the words they consist of; a reference
    without words becomes the title that ``targets`` gives."""
    names = "|".join(map(re.escape, targets))
    for pattern in (_LINK, _ANCHOR, _ROLE):
        text = re.sub(
            pattern.replace("TARGETS", names),
            lambda found: found["words"] or targets[found["target"]],
            text,
            flags=re.DOTALL,
        )
    return text


def _figures(notebook: Path) -> list[str]:
    """The names of a chapter's figures."""
    settings = [cell.metadata.get("mystnb", {}) for cell in nbformat.read(notebook, as_version=4).cells]
    return [str(one["figure"]["name"]) for one in settings if one.get("figure", {}).get("name")]
