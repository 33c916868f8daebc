"""What each page of a rendered book weighs, alone and with what all share, and when it is first seen, opened from disk.

    python -m tests.benchmarks.pages [_build/html] [RESULTS.json]

Bytes are those on the disk of all files that a browser asks for; a page's own are its HTML and all that does not lie in
`_static`. First paint is the best of three, in a browser whose cache is empty.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import sync_playwright

from lfmlib.book.slim import LIMIT
from lfmlib.provenance import ROOT

from ..browser import ARGUMENTS, CHROMIUM, SCREENS
from . import FOLDER, report, save

SOON = 1000
"""Milliseconds until something is seen, at most."""
PAINTED = """() => new Promise(resolve => {
  const seen = () => performance.getEntriesByName("first-contentful-paint")[0];
  const look = () => seen() ? resolve(seen().startTime) : setTimeout(look, 10);
  look();
})"""


def main() -> None:
    """Measure and print."""
    html = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_build" / "html").resolve()
    pages = sorted(path for path in html.rglob("*.html") if "_static" not in path.parts and path.name != "index.html")
    if not pages:
        sys.exit(f"{html} holds no rendered book: make book")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        looks = {page: min(look(browser, page, html) for _ in range(3)) for page in pages}
        browser.close()
    print(f"{'page':<52}{'first paint':>12}{'its own':>10}{'shared':>10}")
    for page, (painted, own, shared) in sorted(looks.items(), key=lambda one: -one[1][1]):
        print(f"{page.relative_to(html)!s:<52}{painted:>9.0f} ms{own / 1e6:>7.2f} MB{shared / 1e6:>7.2f} MB")
    whole = sum(path.stat().st_size for path in html.rglob("*") if path.is_file())
    print(f"{'all files of the site':<64}{whole / 1e6:>7.2f} MB\n")
    heaviest, slowest = max(own for _, own, _ in looks.values()), max(painted for painted, _, _ in looks.values())
    report("heaviest page, beside what all share", f"{heaviest / 1e6:.2f} MB", "≤ 1.5 MB", heaviest <= LIMIT)
    report("slowest page, first paint from disk", f"{slowest:.0f} ms", f"≤ {SOON} ms", slowest <= SOON)
    save(Path(sys.argv[2]) if len(sys.argv) > 2 else FOLDER / "pages.json")


def look(browser, path: Path, html: Path) -> tuple[float, int, int]:
    """Milliseconds until the first paint, and the bytes of the files asked for: the page's own, and shared ones."""
    asked: set[Path] = set()
    page = browser.new_page(viewport=SCREENS["desk"])
    page.set_default_timeout(120_000)  # a busy machine is slow, not broken
    page.on("request", lambda request: asked.add(Path(unquote(urlsplit(request.url).path))))
    page.goto(path.as_uri(), wait_until="load")
    page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")
    painted = page.evaluate(PAINTED)
    page.close()
    files = [one for one in asked if one.is_file() and one.is_relative_to(html)]
    shared = [one for one in files if re.match(r"_static\b", one.relative_to(html).as_posix())]
    own = sum(one.stat().st_size for one in set(files) - set(shared))
    return painted, own, sum(one.stat().st_size for one in shared)


if __name__ == "__main__":
    main()
