"""Text of three domains that is already on every machine: code, its documentation, and plain English.

    code        the text of CPython's standard library (`lfmlib.lab.text`)
    docstrings  the documentation strings of the same modules, without their code
    english     paragraphs of the licences and READMEs that come with pinned packages

No file, and of English no paragraph, is on two sides of a split.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from . import text

DOMAINS = ("code", "docstrings", "english")
PACKAGES = (
    "accelerate", "annotated-types", "bleach", "charset-normalizer", "defusedxml", "fonttools", "fqdn", "h11",
    "huggingface_hub", "jupyterlab", "jupyterlab_widgets", "llvmlite", "matplotlib", "numba", "numpy", "pandas", "peft",
    "pillow", "psutil", "pyarrow", "pydantic", "regex", "rich", "scipy", "setuptools", "sphinx_external_toc",
    "stack-data", "statsmodels", "sympy", "tabulate", "threadpoolctl", "torch", "tqdm", "transformers", "wcwidth",
)  # fmt: skip
"""Packages whose English is read, of those that the book installs in fixed versions."""
ENGLISH_SPLITS = {"train": 0.4, "validation": 0.2, "test": 0.4}
"""Expected shares of its paragraphs: there are few, and most are to be judged on."""
LEAST_WORDS = 20
"""Words of a docstring or paragraph, at least."""
PLAIN = 0.96
"""Share of a paragraph's characters that are letters, spaces or common marks, at least: what is below is a table, a
list of names, or code."""
_LICENCE = re.compile(r"(?i)(licen[cs]e|copying|notice)")
_MARKS = frozenset(" ,.'’()-;:")


@dataclass(frozen=True)
class Domain:
    """Texts of one domain.

    Attributes:
        name: one of `DOMAINS`.
        sides: "train", "validation" and "test" → texts, one for each file or paragraph.
        sha256: hash of all of them; it changes with the version of Python or of the packages.
    """

    name: str
    sides: dict[str, tuple[str, ...]]
    sha256: str


@functools.cache
def load(name: str) -> Domain:
    """The texts of a domain. Raises ValueError for an unknown one, FileNotFoundError where its sources are missing."""
    readers = {"code": _code, "docstrings": _docstrings, "english": _english}
    if name not in readers:
        raise ValueError(f"unknown domain {name!r}: expected one of {', '.join(DOMAINS)}")
    sides: dict[str, list[str]] = {side: [] for side in text.SPLITS}
    total = hashlib.sha256()
    for side, one in readers[name]():
        sides[side].append(one)
        total.update(side.encode() + b"\0" + one.encode() + b"\0")
    return Domain(name, {side: tuple(some) for side, some in sides.items()}, total.hexdigest())


def _code() -> Iterator[tuple[str, str]]:
    found = text.load()
    for side in text.SPLITS:
        for one in getattr(found, side).tobytes().split(text.END_OF_FILE):
            if one:
                yield side, one.decode("utf-8", "replace")


def _docstrings() -> Iterator[tuple[str, str]]:
    """The docstrings of a file, one after another."""
    folder = Path(sysconfig.get_path("stdlib"))
    for side, names in text.load().files.items():
        for name in names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old sources have escapes that Python warns of
                tree = ast.parse((folder / name).read_bytes())
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
            if some := [one for one in found if one and len(one.split()) >= LEAST_WORDS]:
                yield side, "\n\n".join(some)


def _english() -> Iterator[tuple[str, str]]:
    seen = set()
    for package in PACKAGES:
        for whole in _words_of(package):
            for block in re.split(r"\n\s*\n", whole):
                one = " ".join(block.split())
                if one not in seen and _is_prose(one):
                    seen.add(one)
                    yield text.split_of(one, ENGLISH_SPLITS), one


def _words_of(package: str) -> Iterator[str]:
    """The README of a package and its licences."""
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise FileNotFoundError(
            f"the package {package} is not installed, whose README is part of the English text: expected those that "
            "the book installs. Run: pip install 'lfmlib[book]'"
        ) from None
    yield str(found.metadata.get_payload() or found.metadata.get("Description") or "")
    for file in sorted(found.files or (), key=str):
        if _LICENCE.match(file.name) and (path := Path(str(file.locate()))).is_file():
            yield path.read_text(encoding="utf-8", errors="ignore")


def _is_prose(one: str) -> bool:
    letters = sum(character.isalpha() or character in _MARKS for character in one)
    return len(one.split()) >= LEAST_WORDS and one[0].isupper() and letters >= PLAIN * len(one)
