"""What a reader loads, made small: figures without what no eye sees, a folder of static files that pages do load.

Figures shrink where chapters are staged and reports written; notebooks keep them as they were drawn. The theme and
MathJax bring several times what one way of showing pages uses; the rest goes when the book has been rendered.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from PIL import Image

__all__ = ["LIMIT", "drawing", "own_weight", "site"]

LIMIT = 1_500_000
"""Bytes that a page may weigh beside what all pages share."""
_LONG = re.compile(r"-?\d+\.\d{3,}")
_USE = r'<use xlink:href="[^"]*" x="[^"]*" y="[^"]*" style="{}"/>'
_MARKERS = re.compile(f"{_USE}(?:{_USE})+".format('([^"]*)', r"\1"))
_ICONS = re.compile(r'\s*<script src="[^"]*/fontawesome/[^"]*\.js[^"]*"></script>')
_KEPT_MATHJAX = ("tex-chtml.js", "output/chtml/fonts/*", "input/tex/extensions/*", "a11y/*")
_KEPT_MATHJAX += ("sre/mathmaps/base.json", "sre/mathmaps/en.json", "sre/mathmaps/nemeth.json")
_SHARED = ("_static",)
_LOADED = re.compile(r"""<(?:img|script|source|embed|object)\b[^>]*?\s(?:src|data)=["']([^"'#?]+)""")


def drawing(svg: str) -> str:
    """A figure that matplotlib drew, in fewer bytes: a third of them where it is a cloud of markers.

    Coordinates of lines keep two decimals of a point, those of markers one: a fifteenth of a pixel at most. The style
    of a cloud of markers is said once. Comments go, and names that nothing refers to; the others are short.
    """
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:d|points)="[^"]*"', lambda match: _LONG.sub(_short, match[0]), svg)
    svg = re.sub(r' [xy]="[^"]*"', lambda match: _LONG.sub(_shorter, match[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><")
    svg = _MARKERS.sub(lambda match: _said_once(match[0], match[1]), svg)
    used = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    names = {name: f"i{number:x}" for number, name in enumerate(used)}
    svg = re.sub(r' id="([^"]+)"', lambda match: f' id="{names[match[1]]}"' if match[1] in names else "", svg)
    svg = re.sub(r'(href="|url\()#([^")]+)', lambda match: f"{match[1]}#{names[match[2]]}", svg)
    return svg.replace("xlink:href=", "href=")


def _short(number: re.Match, decimals: int = 2) -> str:
    return f"{float(number[0]):.{decimals}f}".rstrip("0").rstrip(".")


def _shorter(number: re.Match) -> str:
    return _short(number, 1)


def _said_once(markers: str, style: str) -> str:
    said = f' style="{style}"'
    return f"<g{said}>{markers.replace(said, '')}</g>"


def site(html: Path) -> None:
    """Take from a rendered book what no page loads, and from its pages the icons' script.

    Icons are letters of a font; the theme's script, 1.5 MB of it, would draw each a second time.
    """
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if (slim := _ICONS.sub("", text)) != text:
            page.write_text(slim, encoding="utf-8")
    static = html / "_static"
    for folder in static.glob("vendor/fontawesome/*/js"):
        shutil.rmtree(folder)
    shutil.rmtree(static / "locales", ignore_errors=True)  # read while pages are made
    for pattern in ("**/*.map", "vendor/**/*.ttf"):
        for path in [*static.glob(pattern)]:
            path.unlink()
    mathjax = static / "mathjax"
    kept = {path for pattern in _KEPT_MATHJAX for path in mathjax.rglob(pattern)}
    for path in [*mathjax.rglob("*")]:
        if path.is_file() and path not in kept and not any(part in kept for part in path.parents):
            path.unlink()
    for path in (html / "_images").glob("*.png"):
        _few_colours(path)
        copied = static / "atlas" / path.name  # the stage's own folder of figures, which pages do not load
        copied.unlink(missing_ok=True)


def _few_colours(path: Path) -> None:
    """A picture of 256 colours, with which lines, letters and markers on a plain ground look the same."""
    with Image.open(path) as picture:
        few = picture.convert("RGBA").quantize(256, method=Image.Quantize.FASTOCTREE)
    before = path.read_bytes()
    few.save(path, "PNG", optimize=True)
    if path.stat().st_size >= len(before):
        path.write_bytes(before)


def own_weight(page: Path, html: Path) -> int:
    """Bytes of a page and of what it loads beside the files that all pages share, those in ``_static``."""
    text = page.read_text(encoding="utf-8")
    loaded = {(page.parent / target).resolve() for target in _LOADED.findall(text) if ":" not in target}
    own = [path for path in loaded if path.is_file() and path.relative_to(html.resolve()).parts[0] not in _SHARED]
    return page.stat().st_size + sum(path.stat().st_size for path in own)
