"""The house keeps its order: imports go down only, names in words exist, tests stand where their modules do."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re

import pytest

import lfmlib
from lfmlib.provenance import ROOT

FLOORS = (
    ("provenance", "cache", "extras", "notices", "options"),
    ("checkpoints", "noise_adapter"),
    ("distribution",),
    ("structure",),
    ("surveys", "losses"),
    ("health", "deltas"),
    ("merging",),
    ("findings",),
    ("plots",),
    ("lab",),
    ("records",),
    ("experiments",),
    ("chapters",),
    ("book",),
    ("cli",),
)
"""The packages and single modules of the library, from the ground up; those of one floor do not import each other."""
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
SOURCES = sorted((ROOT / "lfmlib").rglob("*.py"))
WORDS = [*SOURCES, *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("book/**/*.md"), *ROOT.glob("*.md"), ROOT / "Makefile"]
DOTTED = re.compile(r"(?<![\w./-])lfmlib(?:\.[A-Za-z_]\w*)+")


def modules() -> list[str]:
    return [one.name for one in pkgutil.walk_packages(lfmlib.__path__, "lfmlib.") if not one.name.endswith("__main__")]


def imported(source: str, package: list[str]) -> set[str]:
    """The modules that a source file imports, by absolute name; those that only type checkers import do not count."""
    tree, found = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{one.name}" for one in node.names)}
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
    return {name for name in found if name.startswith("lfmlib.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_imports_only_packages_below_it(path):
    place = path.relative_to(ROOT).with_suffix("").parts
    if place[1] in ("__init__", "__main__"):
        return  # the faces of the library, which hand out names of many floors
    own = place[1]
    for name in imported(path.read_text(encoding="utf-8"), list(place[:-1])):
        other = name.split(".")[1]
        if other != own and other in FLOOR:
            assert FLOOR[other] < FLOOR[own], f"{path.relative_to(ROOT)} on floor {own} imports {name}, not below it"


def test_every_module_has_a_floor():
    assert {name.split(".")[1] for name in modules()} == set(FLOOR)


def test_the_order_can_fail():
    assert imported("from ..book import build", ["lfmlib", "lab"]) == {"lfmlib.book", "lfmlib.book.build"}
    assert imported("import lfmlib.book.build", ["lfmlib"]) == {"lfmlib.book.build"}


def test_no_module_bears_the_name_of_a_public_function():
    functions = {name for name in lfmlib.__all__ if not inspect.ismodule(getattr(lfmlib, name))}
    own = ("plots", "experiments", "chapters", "book")  # parts of the book are named after what they are about
    assert not {name for name in modules() if name.rpartition(".")[2] in functions and name.split(".")[1] not in own}
    assert inspect.isfunction(lfmlib.survey) and inspect.ismodule(importlib.import_module("lfmlib.surveys"))


OPTIONS = ("select", "executor", "progress", "seed")
"""Options that many functions have, in the order in which they stand before all others."""
SUBJECT = {"depth_trend": ("column",), "merge": ("method", "weights")}
"""What has a default and may be given by place: it says what is asked, not how it is measured."""


@pytest.mark.parametrize("name", [name for name in lfmlib.__all__ if inspect.isfunction(getattr(lfmlib, name))])
def test_options_are_keywords_in_one_order(name):
    parameters = inspect.signature(getattr(lfmlib, name)).parameters.values()
    by_place = [one.name for one in parameters if one.kind != one.KEYWORD_ONLY and one.default is not one.empty]
    assert set(by_place) <= {*SUBJECT.get(name, ()), "width"}
    keywords = [one.name for one in parameters if one.kind == one.KEYWORD_ONLY]
    shared = [one for one in OPTIONS if one in keywords]
    assert keywords[: len(shared)] == shared or name == "open_checkpoint"


@pytest.mark.parametrize("name", modules())
def test_no_name_of_a_package_hides_a_module(name):
    module = importlib.import_module(name)
    above, _, own = name.rpartition(".")
    assert getattr(importlib.import_module(above), own) is module


def resolved(name: str) -> object:
    """What a dotted name stands for. Raises ImportError or AttributeError where nothing does."""
    parts = name.split(".")
    found, rest = lfmlib, parts[1:]
    for i, part in enumerate(rest):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(".".join(parts[: i + 2]))
    return found


@pytest.mark.parametrize("path", WORDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_dotted_name_in_words_and_strings_exists(path):
    for name in sorted(set(DOTTED.findall(path.read_text(encoding="utf-8")))):
        if not name.startswith(("lfmlib.css", "lfmlib.js")):
            resolved(name)


def test_a_name_that_is_not_there_is_seen():
    with pytest.raises(ImportError):
        resolved("lfmlib.checkpoints.nothing")


def test_the_page_on_the_house_has_every_floor_and_every_file_it_names():
    page = (ROOT / "book" / "house.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+)\|", page, re.MULTILINE)
    told = {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert {name: floor for name, floor in told.items() if name in FLOOR} == FLOOR
    for name in re.findall(r"`((?:\w+/)+\w+\.\w+)`", page + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        assert (ROOT / name).exists() or (ROOT / "lfmlib" / name).exists(), name


def test_tests_stand_where_their_modules_do():
    packages = {path.parent.name for path in SOURCES} - {"lfmlib", "plots"}
    assert packages <= {path.name for path in (ROOT / "tests").iterdir()}
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names), "two test files of one name hide each other"


MODE = re.compile(r"[rwxa+bt]{1,3}")


def without_encoding(source: str) -> list[int]:
    """Lines where text is read, written or taken from a process in whatever encoding the machine's locale has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or {"encoding", None} & {word.arg for word in node.keywords}:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = [*node.args, *(word.value for word in node.keywords)]
        modes = [one.value for one in given if isinstance(one, ast.Constant) and MODE.fullmatch(str(one.value))]
        archive = isinstance(node.func, ast.Attribute) and node.args and ast.unparse(node.args[0])[1:-1] not in modes
        opens = name == "open" and not archive and not any("b" in mode for mode in modes)
        text = any(word.arg in ("text", "universal_newlines") for word in node.keywords)
        if opens or name in ("read_text", "write_text") or (name in ("run", "Popen", "check_output") and text):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("folder", ["lfmlib", "tests"])
def test_text_has_an_encoding(folder):
    paths = (ROOT / folder).rglob("*.py")
    lines = {path: without_encoding(path.read_text(encoding="utf-8")) for path in paths}
    assert not {f"{path.relative_to(ROOT)}:{line}" for path, found in lines.items() for line in found}


def test_an_encoding_that_lacks_is_seen():
    bad = ["open(p)", "p.open('w')", "p.read_text()", "p.write_text(t)", "run(c, text=True)", "open(p, mode='r')"]
    good = [
        "open(p, 'rb')",
        "p.open('wb')",
        "p.read_text(encoding='utf-8')",
        "zip.open('a/b', 'w')",
        "run(c, check=True)",
    ]
    assert [without_encoding(line) for line in bad + good] == [[1]] * len(bad) + [[]] * len(good)
