"""Turn the stage into HTML with Jupyter Book, and look at what came out before anyone else does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from . import slim

__all__ = ["broken_links", "missing_pages", "render"]

_ENTRY_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url=TARGET">
<link rel="icon" href="_static/favicon.svg">
<title>To the book</title>
<a href="TARGET">To the book</a>
</html>
"""


def render(stage: Path, html: Path) -> int:
    """Build the staged book with warnings as errors and references checked; return Jupyter Book's exit status.

    The pages are built beside `html`, made small, and take its place only when the build has succeeded.
    """
    work = html.parent / ".render"
    shutil.rmtree(work, ignore_errors=True)
    # In a process of its own: Sphinx leaves docutils' global tables changed. Warnings go to the standard error stream;
    # the banner on the standard output is shown only when something went wrong.
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(stage)]
    command += ["--path-output", str(work), "--all", "-W", "-n", "--keep-going", "-q"]
    environment = {"PYTHONWARNINGS": "ignore", **os.environ}  # the theme's own deprecation warnings
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, check=False, encoding="utf-8"
    )
    status = done.returncode
    if status == 0:
        _finish_entry_page(work / "_build" / "html" / "index.html")
        slim.site(work / "_build" / "html")
        shutil.rmtree(html, ignore_errors=True)
        shutil.move(work / "_build" / "html", html)
    else:
        print(done.stdout, flush=True)
    shutil.rmtree(work, ignore_errors=True)
    return status


def _finish_entry_page(path: Path) -> None:
    """Make a page of the bare redirection that Jupyter Book writes: with an icon, which browsers miss, and a link."""
    match = re.fullmatch(r'<meta http-equiv="Refresh" content="0; url=([^"]+)" />\s*', path.read_text(encoding="utf-8"))
    if match:
        path.write_text(_ENTRY_PAGE.replace("TARGET", match[1]), encoding="utf-8")


def missing_pages(html: Path, pages: Iterable[str]) -> list[str]:
    """Pages that ought to be there and are not; the entry page is one of them."""
    return [page for page in ["index", *pages] if not (html / f"{page}.html").is_file()]


def broken_links(html: Path) -> list[str]:
    """Links and images inside `html` that lead nowhere, as “page: target”: Sphinx does not check raw HTML."""
    pages = {path.resolve(): _Page.of(path) for path in html.rglob("*.html") if "_static" not in path.parts}
    broken = []
    for path, page in sorted(pages.items()):
        for target in sorted(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = found / "index.html" if found.is_dir() else found
            anchor = unquote(parts.fragment)
            lost = found in pages and anchor and anchor not in pages[found].anchors
            if lost or not found.exists():
                broken.append(f"{path.relative_to(html.resolve())}: {target}")
    return broken


class _Page(HTMLParser):
    """The link targets and the anchors of one page."""

    def __init__(self):
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()

    @classmethod
    def of(cls, path: Path) -> _Page:
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        return page

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif value and (name, tag) in {("href", "a"), ("href", "link"), ("src", "img"), ("src", "script")}:
                self.targets.add(value)
