"""The reference keeps its promises: every public name has an entry, an example that runs, and names its arguments."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from functools import cache, reduce

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sphinx.pycode import ModuleAnalyzer

import lfmlib
from lfmlib.book import reference, stage
from lfmlib.provenance import ROOT

BOOK = ("lab", "plots", "records", "experiments", "chapters", "book", "cli")  # packages that are no part of the library
PAGES = sorted((ROOT / "book" / "reference").glob("*.md"))
DIRECTIVE = re.compile(r"^\.\. auto(\w+):: ([\w.]+)((?:\n   :.*)*)", re.MULTILINE)
METHODS = ("Sketch.of", "Checkpoint.read", "Checkpoint.chunks", "Checkpoint.select")
FUNCTIONS = ("findings.load", "pruning.curve", "tolerance.radius", "noise_adapter.NoiseConfig")
FUNCTIONS += tuple(f"outliers.{name}" for name in ("damage", "quantized", "as_many", "as_large"))
GIVEN = {"np": np, "pd": pd, "torch": torch, "lfmlib": lfmlib}  # what the page of the library says is imported
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def of(name: str) -> object:
    """What stands in `lfmlib` under a dotted name."""
    module = importlib.import_module("lfmlib.noise_adapter")  # the library does not import it by itself
    assert module
    return reduce(getattr, name.removeprefix("lfmlib.").split("."), lfmlib)


@cache
def modules() -> list[str]:
    found = [one.name for one in pkgutil.walk_packages(lfmlib.__path__, "lfmlib.")]
    return [name for name in found if name.split(".")[1] not in BOOK and not name.endswith("__main__")]


@cache
def examples() -> dict[str, doctest.DocTest]:
    finder = doctest.DocTestFinder()
    tests = [test for name in modules() for test in finder.find(importlib.import_module(name), globs=dict(GIVEN))]
    return {test.name: test for test in tests if test.examples}


@cache
def entries() -> dict[str, str]:
    """Documented name → kind of entry, as the pages' sources have them."""
    found = {}
    for page in PAGES:
        for kind, name, options in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            assert name not in found, f"{name} has two entries"
            found[name] = kind
            if members := re.search(r":members: (.*)", options):
                found |= {f"{name}.{member}": "member" for member in members[1].split(", ")}
    return found


def public() -> list[str]:
    """Functions and classes of the library's face, and what its modules are asked for."""
    face = [name for name in lfmlib.__all__ if not inspect.ismodule(getattr(lfmlib, name))]
    return [*face, *METHODS, *FUNCTIONS]


def callables() -> list[str]:
    return [name for name in entries() if inspect.isfunction(of(name)) or inspect.ismethod(of(name))]


# --- examples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", examples())
@pytest.mark.filterwarnings("ignore")
def test_examples_run(name):
    said = []
    doctest.DocTestRunner(optionflags=FLAGS).run(examples()[name], out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", public())
def test_every_public_name_has_an_example(name):
    found = of(name)
    assert ">>> " in (found.__doc__ or ""), f"lfmlib.{name} has no “Examples:”"
    assert f"{found.__module__}.{found.__qualname__}" in examples()


def test_a_wrong_example_is_seen():
    said = []
    test = doctest.DocTestParser().get_doctest(">>> lfmlib.__name__\n'lfm'\n", dict(GIVEN), "wrong", None, None)
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert said


# --- pages ----------------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_contents():
    listed = [page for page in stage.toc_pages(ROOT) if page.startswith("book/reference/")]
    assert sorted(listed) == [f"book/reference/{page.stem}" for page in PAGES]
    packages = {path.name for path in (ROOT / "lfmlib").iterdir() if (path / "__init__.py").exists()}
    assert {page.stem for page in PAGES} == packages - set(BOOK) | {"library", "noise_adapter"}
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    assert [part["caption"] for part in parts if "book/reference/library" in str(part)] == ["Reference"]


@pytest.mark.parametrize("name", public())
def test_every_public_name_has_an_entry_under_that_name(name):
    assert f"lfmlib.{name}" in entries()


@pytest.mark.parametrize("name", entries())
def test_every_entry_exists_and_says_what_it_is_about(name):
    found = importlib.import_module(name) if entries()[name] == "module" else of(name)
    if entries()[name] == "data":
        home, _, own = name.rpartition(".")
        source = ModuleAnalyzer.for_module(home)  # a constant is documented by the string below it, and there alone
        source.analyze()
        assert ("", own) in source.attr_docs
    else:
        assert (found.__doc__ or "").strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_in_the_picture_and_names_on_the_pages_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for name in re.findall(r"`((?:lfmlib|[a-z_]+)\.[\w.]+)`", text):
        assert of(name) is not None
    picture = (ROOT / "book/_static/data-flow.svg").read_text(encoding="utf-8")
    for target in re.findall(r'href="([^"#]+)', picture):
        assert (PAGES[0].parent / target).with_suffix(".md").exists()


# --- docstrings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", callables())
def test_every_argument_is_explained_and_every_result_has_a_type(name):
    found = of(name)
    told = reference.sections(found.__doc__)
    named = [one.lstrip("*") for names, _ in reference.entries(told.get("Args", [])) for one in names]
    signature = inspect.signature(found)
    taken = [one for one in signature.parameters if one not in ("self", "cls")]
    assert set(named) <= set(taken), "an argument is explained that is not taken"
    if named or name.removeprefix("lfmlib.") in public():
        words = re.findall(r"\w+", found.__doc__)
        assert [one for one in taken if one not in words] == [], "an argument is not explained"
        assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", [name for name in entries() if inspect.isclass(of(name))])
def test_every_attribute_that_is_explained_is_there(name):
    found = of(name)
    told = reference.sections(found.__doc__)
    named = {one for names, _ in reference.entries(told.get("Attributes", [])) for one in names}
    fields = {one.name for one in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else named
    assert named <= fields | set(dir(found))
    if named and found.__module__ != "lfmlib.noise_adapter":  # peft's fields are explained by peft
        assert {one for one in fields if not one.startswith("_")} <= named


@pytest.mark.parametrize("name", callables())
def test_every_error_that_is_mentioned_exists(name):
    found = inspect.unwrap(of(name))
    known = {**vars(builtins), **found.__globals__, "CheckpointError": lfmlib.CheckpointError}
    for errors, _ in reference.entries(reference.sections(found.__doc__).get("Raises", [])):
        for error in errors:
            assert issubclass(known[error], Exception)
    raised = {
        node.exc.func.id
        for node in ast.walk(ast.parse(inspect.cleandoc("\n" + inspect.getsource(found))))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }
    elsewhere = re.search(r"Raises (\w+ )*as\b|with its errors", found.__doc__)
    assert elsewhere or not [error for error in raised if error not in found.__doc__], "an error is not mentioned"


# --- from docstrings to pages ---------------------------------------------------------------------------------------


def test_sections_of_a_docstring():
    told = reference.sections(
        "What.\n\n    x    a table\n\nArgs:\n    a, b: one,\n        and more.\n\nReturns:\n    Two."
    )
    assert told == {
        "": ["What.", "", "    x    a table"],
        "Args": ["a, b: one,", "    and more."],
        "Returns": ["Two."],
    }
    assert reference.entries(told["Args"]) == [(["a", "b"], "one, and more.")]
    assert reference.entries(told["Returns"]) == []


def test_a_docstring_becomes_restructured_text():
    def shown(a: int, b: str | None = None) -> float:
        """What it does:

            a    table

        Args:
            a: the first.
            b: the second.

        Returns:
            In bits.

        Raises:
            ValueError: never.
        """

    lines = inspect.cleandoc(shown.__doc__).splitlines()
    reference._dress(None, "function", "shown", shown, None, lines)
    text = "\n".join(lines)
    assert "::\n\n    a    table" in text
    assert ":Parameters:\n    **a** : ``int``\n        the first.\n    **b** : ``str | None``\n" in text
    assert ":Returns: ``float`` – In bits." in text
    assert ":Raises:\n    ``ValueError``\n        never." in text


def test_what_a_name_means():
    known = dict.fromkeys(("lfmlib.survey", "lfmlib.Sketch", "lfmlib.Sketch.of", "lfmlib.pruning.curve"))
    names = {id(of(name)): name for name in known if name != "lfmlib.Sketch.of"}
    meant = {name: reference._meant(name, None, known, names) for name in (
        "survey", "lfmlib.survey", "lfmlib.surveys.values.survey", "Sketch.of", "lfmlib.losses.pruning.curve",
        "pruning.curve", "curve", "std", "lfmlib.nothing", "lfmlib",
    )}  # fmt: skip
    assert meant == {
        "survey": "lfmlib.survey",
        "lfmlib.survey": "lfmlib.survey",
        "lfmlib.surveys.values.survey": "lfmlib.survey",
        "Sketch.of": "lfmlib.Sketch.of",
        "lfmlib.losses.pruning.curve": "lfmlib.pruning.curve",
        "pruning.curve": "lfmlib.pruning.curve",
        "curve": None,
        "std": None,
        "lfmlib.nothing": None,
        "lfmlib": None,
    }
