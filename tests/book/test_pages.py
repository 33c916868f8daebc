"""The real book, made once with the quick profile: each chapter as it ran, and every page in a real browser, wide and
narrow, light and dark, on paper, without a network.

Browser: the system's Chromium or Chrome; without one, what it takes a browser for is skipped.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import SCREENS
from bs4 import BeautifulSoup
from playwright.sync_api import TimeoutError, expect

from lfmlib import findings
from lfmlib.book import build, render, slim, stage
from lfmlib.findings import scoreboard
from lfmlib.provenance import ROOT

PAGES = stage.toc_pages(ROOT)
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
REPORTS = [page.replace("notebooks/", "reports/") for page in CHAPTERS]
ALL_PAGES = [*PAGES, "search", "genindex", *REPORTS]
SMALLEST_LETTER = 7  # CSS pixels
COLOURS = ["color-contrast", "link-in-text-block"]  # rules of axe about colours, which take the longest

# Serious or critical findings of axe that stay, by rule: where, and why.
ALLOWED: dict[str, tuple[str, str]] = {}

pytestmark = pytest.mark.slow

# What a reader would see of the page, gathered in one go.
LOOK = """async () => {
  const shown = element => element.checkVisibility({visibilityProperty: true});
  const width = document.documentElement.clientWidth;
  const images = [];
  for (const image of document.images) {
    const seen = {src: image.currentSrc.slice(0, 90), alt: image.alt, natural: image.naturalWidth,
                  scale: image.getBoundingClientRect().width / image.naturalWidth,
                  captioned: image.closest("figure") !== null, letters: []};
    // Matplotlib writes each text as a group of glyphs, scaled to a hundredth of its size in points.
    if (shown(image) && /svg/.test(image.currentSrc)) {
      const text = await (await fetch(image.currentSrc)).text();
      const letters = text.matchAll(/<g style=["'][^"']*["'] transform=["'][^"']*scale\\(([\\d.]+) -/g);
      seen.letters = [...letters].map(m => 100 * m[1]);
    }
    images.push(seen);
  }
  return {
    images,
    links: [...document.links].map(link => link.href),
    captions: [...document.querySelectorAll("figure")].map(f => f.querySelector("figcaption")?.innerText ?? ""),
    equations: document.querySelectorAll("mjx-container").length,
    faulty: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(e => e.outerHTML.slice(0, 200)),
    text: document.querySelector("article, main").innerText,
    sideways: document.documentElement.scrollWidth - width,
  };
}"""

# Whether all that scrolls sideways can be reached with the keyboard; what cannot, axe tells.
REACHABLE = """() => [...document.querySelectorAll("main pre, main .output, main .lfm-scroll")].every(element =>
  element.scrollWidth <= element.clientWidth || element.tabIndex >= 0)"""

# Elements that paper cuts off: beyond the edge of the sheet, or scrolling inside their own box.
CUT_OFF = """() => [...document.querySelectorAll("main *")].filter(element => {
  if (!element.checkVisibility() || element.closest("svg, mjx-assistive-mml, .visually-hidden")) return false;
  const box = element.getBoundingClientRect();
  const beyond = box.width > 0 && box.right > document.documentElement.clientWidth + 1;
  // An inline equation also holds itself as unseen MathML, wider than what is seen.
  const equation = element.matches("span.math") && element.querySelector("mjx-container");
  if (equation) return equation.getBoundingClientRect().right > box.right + 1;
  const hides = getComputedStyle(element).overflowX !== "visible" && element.clientWidth > 0;
  return beyond || (hides && element.scrollWidth > element.clientWidth + 1);
}).map(element => element.outerHTML.slice(0, 160))"""


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """The real book, quickly measured, with no address of a repository."""
    root = tmp_path_factory.mktemp("book")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BOOK_REPOSITORY", "BOOK_BRANCH", "BOOK_BASEURL"):
            patch.delenv(name, raising=False)
        for name in ("book", "notebooks"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns(".*"))
        for name in ("_toc.yml", "_config.yml"):
            shutil.copy(ROOT / name, root)
        assert build.main(["--profile", "quick"], root=root) == 0
    return root / "_build" / "html"


@pytest.fixture(scope="module")
def site(html) -> str:
    """Address of a loopback server for the book."""

    class Quiet(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=html)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def context(browser):
    return browser.new_context(reduced_motion="reduce")


@pytest.fixture
def visit(context):
    """Open an address in a fresh tab; whatever goes wrong there until the test's end, unless forgiven, fails it."""
    tabs, wrong, forgiven = [], [], []

    def failed(request):
        if request.failure != "net::ERR_ABORTED":  # the reader went on, or the browser saved it as a download
            wrong.append(f"failed: {request.url} {request.failure}")

    def visit(address: str, *, screen: str = "desk", forgive: str = "^$"):
        home = re.match(r"file:///|http://[^/]+/", address)[0]
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.set_viewport_size(SCREENS[screen])
        page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("requestfailed", failed)
        page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        local = (home, "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(local) else wrong.append(f"from elsewhere: {r.url}"))
        tabs.append(page)
        forgiven.append(forgive)
        go(page, address)
        return page

    yield visit
    left = [message for message in wrong if not any(re.search(pattern, message) for pattern in forgiven)]
    for page in tabs:
        page.close()
    assert left == []


def go(page, address: str) -> None:
    """Load a page and wait until its equations are set; the entry page sends the reader on."""
    page.goto(address, wait_until="load")
    if address.endswith("/index.html"):
        page.wait_for_url(f"**/{PAGES[0]}.html")
    page.evaluate("() => window.MathJax?.startup?.promise.then(() => null)")


def source(page: str) -> str:
    """The prose of a page as it is written, without listings."""
    stem = page.replace("reports/", "notebooks/")
    if (ROOT / f"{stem}.ipynb").exists():
        cells = nbformat.read(ROOT / f"{stem}.ipynb", as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    path = ROOT / f"{stem}.md"
    return re.sub(r"(`+)[^`].*?\1", "", path.read_text(encoding="utf-8"), flags=re.DOTALL) if path.exists() else ""


def lost_links(html: Path, site: str, links: list[str]) -> list[str]:
    """Links into the book that lead nowhere: no such file, or no such place in it."""
    lost = []
    for link in sorted(set(links)):
        if link.startswith(site):
            name, _, anchor = link.removeprefix(site).partition("#")
            path = html / (name.partition("?")[0] or "index.html")
            if not path.is_file() or (anchor and path.suffix == ".html" and anchor not in anchors(path)):
                lost.append(link)
    return lost


@functools.cache
def anchors(path: Path) -> set[str]:
    return {tag["id"] for tag in BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").select("[id]")}


def accessibility(page, **options) -> list[str]:
    """Serious and critical findings of axe beyond those that are allowed."""
    found = []
    # Without preload: axe would fetch imported style sheets from where they are not.
    report = Axe().run(page, options={"resultTypes": ["violations"], "preload": False, **options})
    for violation in report.response["violations"]:
        where, _ = ALLOWED.get(violation["id"], (None, ""))
        for node in violation["nodes"]:
            if node["impact"] in ("serious", "critical") and not (where and where in node["html"]):
                found.append(f"{violation['id']}: {node['html'][:200]} {node['failureSummary'][:300]}")
    return found


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_quick_run_is_complete(name, html):
    """Every claim has its box filled and a finding with a verdict, every caption its one figure."""
    chapter, made = Path(name).name, html.parent
    executed = nbformat.read(made / "executed" / f"{chapter}.ipynb", as_version=4)
    shown = [output for cell in executed.cells for output in cell.get("outputs", []) if "data" in output]
    claims = [box for box in (output.data.get("text/html", "") for output in shown) if "lfm-claim" in box]
    verdicts = "|".join(("lfm-verdict", *map(scoreboard.css, findings.VERDICTS)))
    kept = [*findings.load(made / "quick"), *findings.load(made / "quick" / "report")]  # the report keeps its own
    found = {finding.id for finding in kept if finding.verdict}
    assert claims and all(re.search(rf"<b class='({verdicts})'>|>not judged<|>Seen\.<", box) for box in claims), (
        "a box is not filled"
    )
    claimed = [one for box in claims for one in re.findall(r"(?:Claim |<th[^>]*>)(F\d+)(?:\.|</th>)", box)]
    assert claimed or all("This book asks." in box for box in claims)
    assert len(set(claimed)) == len(claimed) and set(claimed) <= found
    for cell in executed.cells:
        if cell.cell_type == "code" and "figure" in cell.metadata.get("mystnb", {}):
            figures = [output for output in cell.outputs if output.output_type in ("display_data", "execute_result")]
            assert len(figures) == 1, f"{chapter}, cell {cell.id}: one figure for one caption"
    text = re.sub(
        r"<script.*?</script>|<style>.*?</style>",
        "",
        (html / f"reports/{chapter}.html").read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    assert f"Figure {CHAPTERS.index(name) + 1}.1" in text
    assert not re.search(r"\{[a-z-]+\}`|^:::|```|mystnb", text, flags=re.MULTILINE)
    assert not re.search(r"""(src|href)=["'](?!data:|#|%23|https?:)""", text)


def test_nothing_is_missing_or_leads_nowhere(html):
    assert render.missing_pages(html, ALL_PAGES) == []
    assert render.broken_links(html) == []


@pytest.mark.parametrize("name", ALL_PAGES)
def test_a_page_weighs_little_beside_what_all_share(name, html):
    assert slim.own_weight(html / f"{name}.html", html) <= slim.LIMIT


def test_what_no_page_loads_is_not_in_the_book(html):
    static = [path for path in (html / "_static").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in static) <= 8_000_000
    assert not [path.name for path in static if path.suffix in (".map", ".po", ".ttf")]
    assert not any(
        "fontawesome" in script
        for script in re.findall(r"<script[^>]*>", (html / f"{PAGES[0]}.html").read_text(encoding="utf-8"))
    )


@pytest.mark.parametrize("name", ALL_PAGES)
def test_page(name, html, site, visit):
    """In one tab: wide, in light and in dark, narrow, then on paper."""
    page = visit(f"{site}{name}.html")
    for screen, size in SCREENS.items():
        page.emulate_media(color_scheme="light")
        wait_for_theme(page, "light")
        page.set_viewport_size(size)
        if name not in REPORTS:  # the theme makes what scrolls reachable, a moment after a resize; axe tells the rest
            with contextlib.suppress(TimeoutError):
                page.wait_for_function(REACHABLE, timeout=3000)
        look = page.evaluate(LOOK)
        assert look["sideways"] <= 0, screen
        looks_whole(look, name)
        assert lost_links(html, site, look["links"]) == []
        if screen == "phone":  # the same colours as on the desk
            assert accessibility(page, rules={rule: {"enabled": False} for rule in COLOURS}) == []
            continue
        assert accessibility(page) == []
        page.emulate_media(color_scheme="dark")
        wait_for_theme(page, "dark")
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        assert accessibility(page, runOnly=COLOURS) == []
    if name in PAGES + REPORTS:
        reads_on_paper(page)


def looks_whole(look: dict, name: str) -> None:
    """Nothing that a reader should see of a page is missing, too small, without words, or raw markup."""
    for image in look["images"]:
        assert image["natural"] > 0, f"not loaded: {image['src']}"
        assert image["alt"].strip(), f"no alternative text: {image['src']}"
        smallest = min(image["letters"], default=99) * 96 / 72 * image["scale"]
        assert smallest >= SMALLEST_LETTER, f"letters of {smallest:.1f} pixels: {image['src']}"
    if name in CHAPTERS + REPORTS:
        numbers = [re.match(r"Figure (\d+)\.(\d+)\s", caption) for caption in look["captions"]]
        assert numbers and all(numbers), look["captions"]
        chapter = (CHAPTERS if name in CHAPTERS else REPORTS).index(name) + 1
        assert [(int(n[1]), int(n[2])) for n in numbers] == [(chapter, k + 1) for k in range(len(numbers))]
        assert all(image["captioned"] for image in look["images"])
        assert any(image["letters"] for image in look["images"])  # else their size would not have been checked
    assert look["faulty"] == []
    assert (look["equations"] > 0) >= ("$" in source(name))
    assert not re.search(r"\$\$|\\\(|\\\[|\\frac|\{[a-z]+\}`", look["text"]), "raw markup on the page"


def reads_on_paper(page) -> None:
    """Printed from a dark screen, a page is dark on light, without its bars, and nothing is cut off."""
    page.emulate_media(color_scheme="dark")
    wait_for_theme(page, "dark")  # before the page is told to print
    page.set_viewport_size({"width": 680, "height": 1000})  # A4 between its margins
    page.emulate_media(media="print")
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    for part in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".prev-next-footer"):
        for element in page.locator(part).all():
            expect(element).to_be_hidden()
    assert page.evaluate(CUT_OFF) == []
    page.wait_for_function("() => document.getAnimations().every(one => one.playState === 'finished')")  # it fades
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert brightness(ink) < 80
    assert paper == "rgba(0, 0, 0, 0)" or brightness(paper) > 240


def brightness(colour: str) -> float:
    """Mean of red, green and blue of a computed CSS colour."""
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3


def test_search_finds_a_word(site, visit):
    page = visit(f"{site}{PAGES[0]}.html")
    page.locator(".search-button-field, .search-button").locator("visible=true").first.click()
    page.keyboard.type("pooler")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=pooler*")
    first = page.locator("#search-results li a").first
    expect(first).to_be_visible()
    expect(page.locator("#search-results")).to_contain_text("matching the search query")
    first.click()
    expect(page.locator("article")).to_contain_text("pooler")


def test_previous_and_next_visit_every_page_in_order(html, site, visit):
    for before, name, after in zip([None, *PAGES], PAGES, [*PAGES[1:], None], strict=False):
        footer = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for side, other in (("left-prev", before), ("right-next", after)):
            links = [
                urljoin(f"{site}{name}.html", link["href"]) for link in footer.select(f".prev-next-footer .{side}")
            ]
            assert links == [f"{site}{other}.html"] * (other is not None)
    page = visit(f"{site}{PAGES[0]}.html")
    page.locator(".prev-next-footer .right-next").click()
    page.wait_for_url(f"{site}{PAGES[1]}.html", wait_until="load")
    page.locator(".prev-next-footer .left-prev").click()
    page.wait_for_url(f"{site}{PAGES[0]}.html", wait_until="load")


def test_theme_switch(site, visit):
    page = visit(f"{site}{PAGES[0]}.html")
    page.emulate_media(color_scheme="light")
    button = page.locator("button.theme-switch-button").locator("visible=true").first
    colours = {}
    for _ in range(3):  # the third click leads back
        mode, theme = page.evaluate("[document.documentElement.dataset.mode, document.documentElement.dataset.theme]")
        colours[mode] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert theme == (mode if mode != "auto" else "light")
        button.click()
    assert sorted(colours) == ["auto", "dark", "light"]
    assert brightness(colours["dark"]) < 60 < 230 < brightness(colours["light"]) == brightness(colours["auto"])
    page.emulate_media(color_scheme="dark")
    wait_for_theme(page, "dark")


def wait_for_theme(page, theme: str) -> None:
    """Wait until a page has followed the system's colours; a report, without a theme, does so by itself."""
    page.wait_for_function(f"(document.documentElement.dataset.theme ?? '{theme}') === '{theme}'")


def test_phone_opens_its_contents(site, visit):
    page = visit(f"{site}{PAGES[0]}.html", screen="phone")
    contents = page.locator(".bd-sidebar-primary")
    expect(contents).not_to_be_in_viewport()
    page.locator(".primary-toggle").locator("visible=true").first.click()
    expect(contents.get_by_role("link").locator("visible=true").first).to_be_in_viewport()
    contents.locator(f"a[href$='{Path(CHAPTERS[0]).name}.html']").click()
    page.wait_for_url(f"{site}{CHAPTERS[0]}.html")


@pytest.mark.parametrize("name", CHAPTERS)
def test_download_is_the_notebook_that_made_the_page(name, site, visit):
    page = visit(f"{site}{name}.html")
    page.locator(".dropdown-download-buttons > button").click()
    with page.expect_download() as download:
        page.locator(".btn-download-source-button").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert download.value.suggested_filename == f"{Path(name).name}.ipynb"
    assert any(cell.get("outputs") for cell in notebook.cells)
    folders = [notebook.metadata.papermill[key] for key in ("input_path", "output_path")]
    assert not any("/" in folder for folder in folders)
    assert json.dumps(str(ROOT))[1:-1] not in text


# Opened as a file, a page may not load its icons early, as the theme would have it; it loads them a moment later.
BLOCKED = r"/webfonts/|^console: Failed to load resource: net::ERR_FAILED"


@pytest.mark.parametrize("name", ["book/methods/sketch", CHAPTERS[0], REPORTS[0]])
def test_opened_as_a_file(name, html, visit):
    """After a double click on the file everything reads, icons and equations too."""
    page = visit((html / f"{name}.html").as_uri(), forgive=BLOCKED)
    assert (page.locator("mjx-container").count() > 0) >= ("$" in source(name))
    for image in page.locator("img").all():
        assert image.evaluate("image => image.naturalWidth") > 0
    assert page.evaluate("document.fonts.load('900 1em \"Font Awesome 6 Free\"').then(fonts => fonts.length)") or (
        name in REPORTS
    )


def test_search_in_a_file(html, visit):
    """Pages are found; only the excerpts below their titles are missing, since a file may not read another."""
    page = visit((html / "search.html").as_uri() + "?q=pooler", forgive=r"/webfonts/|net::ERR_FAILED|\.html|fetch")
    expect(page.locator("#search-results li a").first).to_be_visible()


def test_entry_page_leads_to_the_introduction(html, site, visit):
    assert visit(f"{site}index.html").url == f"{site}{PAGES[0]}.html"
    page = visit((html / "index.html").as_uri(), forgive=BLOCKED)
    assert page.url == (html / f"{PAGES[0]}.html").as_uri()


def test_status_page_tells_what_ran(html):
    text = (
        BeautifulSoup((html / "book/status.html").read_text(encoding="utf-8"), "html.parser")
        .select_one("article")
        .get_text(" ")
    )
    rows = re.findall(r"quick\s+\d{4}-\d\d-\d\d \d\d:\d\d\s+\d+ s\s+(?:unknown|[0-9a-f]{12})", text)
    assert len(rows) == len(CHAPTERS)
    for fact in ("Cores", "Memory", "Python", "numpy", "torch", "jupyter-book"):
        assert re.search(rf"\b{fact}\s+\d", text), fact
    assert str(Path.home()) not in text and str(html) not in text
