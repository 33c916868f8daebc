"""One executed chapter as one HTML file: no code, no network, nothing beside it. Made to be sent to a colleague.

nbconvert renders the cells; what it does not know is added here: numbered captions and alternative texts, which the
book keeps in cell metadata, links that lead nowhere outside the book, and equations without a network.
"""

from __future__ import annotations

import copy
import functools
import gzip
import html
import re
from base64 import b64encode
from importlib.metadata import distribution
from pathlib import Path
from string import Template
from urllib.parse import quote

import nbformat
from bs4 import BeautifulSoup, Tag
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from ..findings.markup import escaped
from ..provenance import ROOT
from .stage import chapter_number, clean_outputs

__all__ = ["write_report"]

_IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif")  # in order of preference
_PLAIN = " !'()*+,-./:;=?@[]^_`{|}~"
"""What stands for itself in the address of an image that holds its text."""
_END = '<div class="lfm-end"></div>'  # where what folds ends
_MATH = re.compile(r"\$[^$\s]|\\\(|\\\[|\\begin\{")

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$css
</style>
$script</head>
<body>
<main>
$body
</main>
<footer>$footer</footer>
</body>
</html>
""")

# The menu is off because it would load parts of MathJax from beside the page. A long equation scrolls in its own box on
# a phone, so the keyboard must be able to reach it. MathJax travels compressed, and begins when it has been unpacked.
_MATHJAX = """<script type="text/plain" id="lfm-mathjax">SOURCE</script>
<script>
window.MathJax = {
  tex: {inlineMath: [['$', '$'], ['\\\\(', '\\\\)']], processEscapes: true},
  options: {enableMenu: false},
  startup: {pageReady: () => MathJax.startup.defaultPageReady().then(() => {
    for (const equation of document.querySelectorAll('mjx-container[display="true"]')) equation.tabIndex = 0;
  })}
};
window.MathJax.startup.promise = (async () => {
  const packed = Uint8Array.from(atob(document.getElementById("lfm-mathjax").textContent), one => one.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = Object.assign(document.createElement("script"), {text: await new Response(unpacked).text()});
  document.head.append(script);
  return MathJax.startup.promise;
})();
</script>
"""
_FONTS = ("Zero", "Main-Regular", "Main-Bold", "Main-Italic", "Math-Italic", "Math-BoldItalic", "AMS-Regular")
_FONTS += ("Calligraphic-Regular", "SansSerif-Regular", "Typewriter-Regular")
_FONTS += ("Size1-Regular", "Size2-Regular", "Size3-Regular", "Size4-Regular")
"""Fonts that equations of chapters may ask for: those of letters, blackboard bold, operators and words."""


STYLES = Path(__file__).parents[1] / "_static"
"""The style sheets where the library is installed without its repository: package data of the wheel."""


def write_report(notebook: Path, target: Path, *, root: Path = ROOT, baseurl: str = "") -> Path:
    """Write the executed `notebook` as the single file `target`.

    `root` is the repository: its table of contents numbers the figures and its style sheets dress the page. Without
    one the notebook's name begins with the chapter's number, and the style sheets are the wheel's. Links to other pages
    of the book become absolute below `baseurl`, or plain text where no address is known.
    """
    content = copy.deepcopy(nbformat.read(notebook, as_version=4))
    _obey_tags(content)
    clean_outputs(content)
    numbers = _caption_figures(content, _chapter(notebook, content, root))
    title = _title(content, notebook)
    styles = STYLES if STYLES.is_dir() else root / "book" / "_static"
    body = _finish_html(_render(content, notebook.parent), numbers, baseurl)
    page = _PAGE.substitute(
        title=html.escape(title),
        css="\n".join((styles / name).read_text(encoding="utf-8") for name in ("lfm.css", "report.css")),
        script=_mathjax() if _MATH.search(body) else "",
        body=body,
        footer=_footer(content),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return target


def _obey_tags(notebook: nbformat.NotebookNode) -> None:
    """Leave out what the tags leave out of the book; the code of every cell is left out anyway."""
    kept = []
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        if tags & {"remove-cell", "remove_cell", "injected-parameters"}:
            continue
        if cell.cell_type == "code" and tags & {"remove-output", "remove_output"}:
            cell.outputs = []
        kept.append(cell)
    notebook.cells = kept


def _chapter(path: Path, notebook: nbformat.NotebookNode, root: Path) -> int | None:
    """The chapter's number, also for an output of papermill under another name."""
    source = Path(notebook.metadata.get("papermill", {}).get("input_path") or path)
    if (root / "_toc.yml").is_file() and (number := chapter_number(root, source.stem)):
        return number
    prefix = re.match(r"\d\d(?=_)", source.stem)
    return int(prefix[0]) if prefix else None


def _caption_figures(notebook: nbformat.NotebookNode, chapter: int | None) -> dict[str, str]:
    """Turn images and their `mystnb` metadata into figures with caption and alt text; return each name's number."""
    numbers: dict[str, str] = {}
    count = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        settings = cell.metadata.get("mystnb", {})
        figure, image = settings.get("figure"), settings.get("image", {})
        for output in cell.outputs:
            data = output.get("data", {})
            shown = _image(data, image.get("alt", "")) or (figure and data.get("text/html"))
            if not shown:
                continue
            if figure:
                count += 1
                label = f"Figure {chapter}.{count}" if chapter else f"Figure {count}"
                name = str(figure.get("name", ""))
                numbers.setdefault(name, label)
                caption = markdown2html(str(figure.get("caption", ""))).strip()
                caption = caption.removeprefix("<p>").removesuffix("</p>")
                text = f'<span class="caption-number">{label} </span>{caption}'
                shown = f'<figure id="{html.escape(name)}">{shown}<figcaption>{text}</figcaption></figure>'
            output.data = nbformat.NotebookNode({"text/html": shown})
    return numbers


def _image(data: dict, alt: str) -> str | None:
    for kind in _IMAGES:
        if kind in data:
            raw = data[kind]
            coded = _as_text(raw) if kind == "image/svg+xml" else ";base64," + raw.replace("\n", "")
            return f'<img src="data:{kind}{coded}" alt="{html.escape(alt)}">'
    return None


def _as_text(svg: str) -> str:
    """A drawing in the address of an image: as text, since base64 would add a third."""
    quoted = svg.replace("'", "&apos;").replace('"', "'").replace("\n", " ")
    return "," + quote(quoted, safe=_PLAIN)


def _render(notebook: nbformat.NotebookNode, folder: Path) -> str:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":  # nbconvert closes what folds at once; `_finish_html` reads the mark
            cell.source = cell.source.replace("</details>", _END)
    exporter = HTMLExporter(
        template_name="basic",  # the cells alone, without a page around them
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        embed_images=True,
    )
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(folder)}})
    return body


def _finish_html(body: str, numbers: dict[str, str], baseurl: str) -> str:
    """Mend nbconvert's HTML: heading ids as in the book, live links, tables that scroll, no empty cells."""
    soup = BeautifulSoup(body, "html.parser")
    for heading in soup.find_all(re.compile("^h[1-6]$")):
        heading["id"] = _slug(heading.get_text())
    for link in soup.find_all("a", href=True):
        target = link["href"]
        if target.startswith("#"):
            if not link.get_text(strip=True):
                link.string = numbers.get(target[1:], target[1:])
        elif not re.match(r"[a-z][a-z0-9+.-]*:|//", target):
            if baseurl:
                link["href"] = f"{baseurl.rstrip('/')}/{_page(target)}"
            else:
                link.unwrap()
    for end in soup.select(".lfm-end"):
        _fold_up_to(end)
    for table in soup.find_all("table"):
        if table.find_parent(class_="lfm-scroll") is None:
            table.wrap(soup.new_tag("div", attrs={"class": "lfm-scroll", "tabindex": "0"}))
    for cell in soup.select("div.cell"):
        if not cell.get_text(strip=True) and not cell.find(["img", "svg", "hr", "table"]):
            cell.decompose()
    return str(soup)


def _fold_up_to(end: Tag) -> None:
    """Put all between what folds and the mark of its end back into it; the mark goes."""
    fold, inside = end.find_previous_sibling("details"), []
    for one in fold.next_siblings if fold else ():
        if one is end:
            fold.extend(inside)
            break
        inside.append(one)
    end.decompose()


def _page(target: str) -> str:
    """The address, below the book's, of the page that a chapter links to as `../book/page.md` or `02_chapter.ipynb`."""
    path, mark, anchor = target.partition("#")
    path = path.removeprefix("../") if path.startswith("../") else f"notebooks/{path}"
    return re.sub(r"\.(md|ipynb)$", ".html", path) + mark + anchor


def _slug(text: str) -> str:
    """The id MyST gives to a heading: GitHub's rule."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def _title(notebook: nbformat.NotebookNode, path: Path) -> str:
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := re.match(r"#\s+(.+)", cell.source)):
            return match[1].strip()
    return path.stem


def _footer(notebook: nbformat.NotebookNode) -> str:
    """Where the report comes from: the book, the model it was given, the day and the commit."""
    run = notebook.metadata.get("papermill", {})
    given = run.get("parameters", {})
    parts = ["A chapter of “Gaussian Never Fades”"]
    parts += [f"{name} <code>{escaped(given[name])}</code>" for name in ("model", "base") if given.get(name)]
    if run.get("start_time"):
        parts.append(f"measured {str(run['start_time'])[:10]}")
    stamp = notebook.metadata.get("lfm", {})
    if (commit := stamp.get("commit", "unknown")) != "unknown":
        parts.append(f"commit <code>{html.escape(commit)}</code>")
    elif version := stamp.get("surroundings", {}).get("lfmlib"):
        parts.append(f"lfmlib {html.escape(version)}")
    return " · ".join(parts)


@functools.cache
def _mathjax() -> str:
    """MathJax itself with its fonts, out of the package that also serves the book's equations without a network."""
    package = distribution("sphinx-mathjax-offline")
    place = Path(package.locate_file("sphinx-mathjax-offline/static/mathjax"))
    source = (place / "tex-chtml.js").read_text(encoding="utf-8")
    for name in _FONTS:
        font = f"MathJax_{name}.woff"
        coded = b64encode((place / "output/chtml/fonts/woff-v2" / font).read_bytes()).decode()
        source = source.replace(f"%%URL%%/{font}", f"data:font/woff;base64,{coded}")
    return _MATHJAX.replace("SOURCE", b64encode(gzip.compress(source.encode(), mtime=0)).decode())
