"""Sphinx extension: search results show an excerpt also where the book is read from disk.

Sphinx's search fetches each page it has found for the words around a match, and a browser fetches nothing of a page
that lies on disk. There the search page finds the text of all pages in a script beside it.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

from bs4 import BeautifulSoup

_SCRIPT = """if (location.protocol === "file:") {
  const texts = %s;
  const root = new URL(".", location.href).href;
  const name = (address) => new URL(address, location.href).href.slice(root.length).replace(/\\.html.*$/, "");
  window.fetch = async (address) => ({ text: async () => `<div role="main">${texts[name(address)] ?? ""}</div>` });
}
"""
NAME = "excerpts.js"


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("html-page-context", _keep)
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": False}


def _keep(app, page: str, template: str, context: dict, doctree) -> None:
    texts = app.__dict__.setdefault("lfm_texts", {})
    if doctree is not None:
        words = BeautifulSoup(context["body"], "html.parser").get_text().split()
        texts[page] = html.escape(" ".join(words))
    elif page == "search":
        app.add_js_file(NAME)


def _write(app, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        script = _SCRIPT % json.dumps(app.__dict__.get("lfm_texts", {}), ensure_ascii=False)
        (Path(app.outdir) / "_static" / NAME).write_text(script, encoding="utf-8")
