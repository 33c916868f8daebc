"""Tasks from real text with real labels: the docstrings of six packages this library depends on.

An item is the opening of a docstring, up to its first section, example or directive, and what the source says about
the object. Sources are parsed, never imported. Every task takes its labels from the same items, so one base model can
be tuned for several tasks. Words that would give a label away are replaced by ``_``: names of packages, their import
aliases and their public first-level modules (also where these are plain words, such as “random”), types named after a
package (tensor, ndarray, …), whatever is spelt like code (dots, underscores, inner capitals, calls), the name of
the object and of its class, and words for kinds of objects.

Splits are by source file; of items that read alike the first in a fixed shuffled order is kept, whatever its split.
Items come from the installed versions of the packages: `Task.sha256` says which items those were.
"""

from __future__ import annotations

import ast
import functools
import gc
import hashlib
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .. import cache
from .text import fraction, split_of

MASK = "_"
WORDS = 48  # longest text, in words
SPLITS = {"train": 0.45, "validation": 0.11, "test": 0.44}  # expected shares of the files
LIBRARIES = ("numba", "numpy", "pandas", "scipy", "sklearn", "torch")
KINDS = ("class", "function", "method")

# Parsing takes the time, so files with little prose are left out, and some of the large packages' others.
_QUOTES = 0.6 / 1000  # triple quotes per byte, at least
_SHARES = {"numba": 0.8, "pandas": 0.8, "scipy": 0.8, "torch": 0.35}  # share of the files read, by a hash of the path
_SKIPPED = {"tests", "test", "testing", "_testing", "_internal", "externals", "_vendor", "distutils", "conftest.py"}
_ALIASES = "np pd plt sp nb sk scikit pytorch torchscript aten njit nopython cupy dask jax pyarrow"
_TYPES = "tensor tensors ndarray ndarrays dataframe dataframes series multiindex ufunc ufuncs estimator estimators"
_KIND_WORDS = (
    "class classes subclass subclasses superclass metaclass classmethod staticmethod method methods function functions "
    "func funcs routine subroutine routines constructor constructors object objects instance instances mixin "
    "decorator property attribute attributes self init"
)
_SECTION = re.compile(
    r"^\s*(?:[-=~^]{3,}|>>>|\.\. |@|:(?:param|type|returns?|rtype|raises)\b"
    r"|(?:Args?|Arguments|Parameters?|Returns?|Yields?|Raises|Examples?|Notes?|Attributes|Warnings?|References|See Also"
    r"|Usage|Shape|Inputs?|Outputs?|Keyword \w+|Other Parameters)\s*:{1,2}\s*$)",
    re.MULTILINE,
)
_ROLE = re.compile(r":[\w:+-]+:`~?!?([^`]*)`")
_PARAMETERS = re.compile(r"^\s*(?:Parameters\n\s*---|(?:Args?|Arguments|Parameters):|:param\b)", re.MULTILINE)
_BOILERPLATE = re.compile(r"Read more in the[^.]*\.")  # scikit-learn's way to its user guide
_ADDRESS = re.compile(r"<?\b(?:https?://|www\.)[^\s<>`]*[^\s<>`.,;)]|<[^<>\s]*>_*|>`_+")
_CODE = re.compile(
    r"\b\w+\([^()]*\)"  # a call
    r"|\w+(?:\.\w+)+|\w*_\w*|\b\w*[a-z]\w*[A-Z]\w*|\b[A-Z]{2,}\w*[a-z]\w*|\b(?=\w*\d)(?=\w*[A-Za-z])\w+"
)


@dataclass(frozen=True)
class Item:
    """One docstring's opening, masked, and what its source says.

    Attributes:
        text: at most `WORDS` words, with ``_`` for what was masked.
        library: package, one of `LIBRARIES`.
        kind: one of `KINDS`; properties, special methods and nested definitions are no items.
        file: path from the package's parent folder, with ``/``.
        arguments: how many a function or method takes, without ``self`` and ``cls``; None for classes.
        parameters: whether the rest of the docstring has a section on parameters.
        examples: whether it has a doctest.
    """

    text: str
    library: str
    kind: str
    file: str
    arguments: int | None
    parameters: bool
    examples: bool


@dataclass(frozen=True, eq=False)
class Split:
    """Texts and their labels: int64 of the same length, indices into the task's classes."""

    texts: list[str]
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Task:
    """A classification task; classes are equally frequent in every split, which is in a fixed shuffled order.

    Attributes:
        name: a key of `TASKS`.
        classes: names of the labels 0, 1, ….
        train, validation, test: the items; no source file is in two of them.
        sha256: hash of classes, texts and labels; it changes with the versions of the packages.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    sha256: str


_MANY = {None: None, 0: 0, 1: 0, 2: None}
# Task → (classes, index of an item's class or None where the question does not arise).
TASKS: dict[str, tuple[tuple[str, ...], Callable[[Item], int | None]]] = {
    "library": (LIBRARIES, lambda item: LIBRARIES.index(item.library)),
    "kind": (KINDS, lambda item: KINDS.index(item.kind)),
    "parameters": (("none", "some"), lambda item: int(item.parameters)),
    "examples": (("none", "some"), lambda item: int(item.examples)),
    "arguments": (("at most one", "three or more"), lambda item: _MANY.get(item.arguments, 1)),
}


def clean(docstring: str, names: frozenset[str]) -> str:
    """The opening of a docstring as masked text; `names` (lower case) are masked beside what is spelt like code."""
    if found := _SECTION.search(docstring):
        end = found.start()
        underlined = docstring[end:].lstrip()[:1] in set("-=~^")
        docstring = docstring[:end].rstrip().rpartition("\n")[0] if underlined else docstring[:end]
    text = _ADDRESS.sub(MASK, _ROLE.sub(r"\1", _BOILERPLATE.sub("", docstring))).replace("`", "").replace("*", "")
    text = " ".join(_CODE.sub(MASK, text).split())
    text = re.sub(r"[A-Za-z]+", lambda word: MASK if word[0].lower() in names else word[0], text)
    text = re.sub(r"(?:_(?:[\s,./=:\-\[\](){}']|$)*){2,}", "_ ", text)  # a run of masks counts for one
    return " ".join(text.split()[:WORDS])


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST, frozenset[str]]]:
    """(kind, node, names to mask) of what stands at the top of a module and of its classes."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in tree.body:
        if isinstance(node, functions):
            yield "function", node, frozenset({node.name.lower()})
        elif isinstance(node, ast.ClassDef):
            yield "class", node, frozenset({node.name.lower()})
            for inner in node.body:
                if isinstance(inner, functions) and not any(
                    "property" in ast.unparse(line) or ".setter" in ast.unparse(line) for line in inner.decorator_list
                ):
                    yield "method", inner, frozenset({inner.name.lower(), node.name.lower()})


def _arguments(node: ast.AST) -> int:
    found = node.args
    named = [argument.arg for argument in (*found.posonlyargs, *found.args, *found.kwonlyargs)]
    return sum(name not in ("self", "cls") for name in named) + bool(found.vararg) + bool(found.kwarg)


def read(library: str, folder: Path, masked: frozenset[str]) -> Iterator[Item]:
    """The items of one package in `folder`, in the order of paths; `masked` are words to mask, in lower case."""
    share = _SHARES.get(library, 1.0)
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder.parent).as_posix()
        skipped = any(part in _SKIPPED or part.startswith("test_") for part in name.split("/"))
        if skipped or fraction("read " + name) >= share:
            continue
        source = path.read_bytes()
        if source.count(b'"""') < _QUOTES * len(source):
            continue
        for kind, node, names in _definitions(ast.parse(source)):
            docstring = ast.get_docstring(node)
            if not docstring or (node.name.startswith("__") and node.name.endswith("__")):
                continue
            text = clean(docstring, masked | names)
            if len(re.findall(r"[A-Za-z]{2,}", text)) < 5:
                continue
            yield Item(
                text=text,
                library=library,
                kind=kind,
                file=name,
                arguments=_arguments(node) if kind != "class" else None,
                parameters=bool(_PARAMETERS.search(docstring)),
                examples=">>>" in docstring,
            )


@functools.cache
def items() -> tuple[Item, ...]:
    """All items that read differently, in a fixed shuffled order. Raises ModuleNotFoundError for a missing package.

    Parsing takes ten seconds, so they are kept in the lab's cache until a file of a package, or this one, changes.
    """
    folders = {}
    for library in LIBRARIES:
        spec = importlib.util.find_spec(library)  # a top-level name: found, not imported
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"the docstring tasks read the source of {library}: install it (pyproject.toml).")
        folders[library] = Path(spec.submodule_search_locations[0])
    place = cache.artefact(_state(folders), partial(_keep, folders))
    return tuple(Item(**row) for row in json.loads((place / "items.json").read_text(encoding="utf-8")))


def _state(folders: dict[str, Path]) -> dict:
    """What the items depend on: this module, and every file of the packages, by size and time of change."""
    files = [path for folder in folders.values() for path in sorted(folder.rglob("*.py"))]
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    sources = [cache.file_hash(Path(__file__)), cache.file_hash(Path(__file__).with_name("text.py"))]
    digest = hashlib.sha256(repr([sources, sys.version_info[:3], stamps]).encode())
    return {"docstrings": digest.hexdigest()}


def _keep(folders: dict[str, Path], place: Path) -> None:
    (place / "items.json").write_text(json.dumps([asdict(item) for item in _parsed(folders)]), encoding="utf-8")


def _parsed(folders: dict[str, Path]) -> list[Item]:
    """The items of `items`, from the packages' sources."""
    modules = {path.stem for folder in folders.values() for path in folder.glob("*.py")}
    modules |= {path.parent.name for folder in folders.values() for path in folder.glob("*/__init__.py")}
    words = frozenset(
        {*LIBRARIES, *_ALIASES.split(), *_TYPES.split(), *_KIND_WORDS.split(), *(name.lower() for name in modules)}
    )
    enabled = gc.isenabled()
    gc.disable()  # syntax trees are many small objects, none of them garbage until their file is done
    try:
        with warnings.catch_warnings(action="ignore"):  # of old escapes in the packages' strings
            found = [item for name, folder in folders.items() for item in read(name, folder, words)]
    finally:
        if enabled:
            gc.enable()
    kept: dict[str, Item] = {}
    for item in sorted(found, key=lambda item: (fraction(f"{item.file} {item.text}"), item.kind)):
        kept.setdefault(re.sub(r"[^a-z]", "", item.text.lower()), item)
    return list(kept.values())


@functools.cache
def load(name: str) -> Task:
    """The task called `name`; reading takes seconds, once per process. Raises ValueError, ModuleNotFoundError."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; there are {', '.join(TASKS)}.")
    classes, label = TASKS[name]
    sides = {side: [[] for _ in classes] for side in SPLITS}
    for item in items():
        index = label(item)
        if index is not None:
            sides[split_of(item.file, SPLITS)][index].append((fraction("order " + item.text), item.text, index))
    total, splits = hashlib.sha256(repr(classes).encode()), {}
    for side, groups in sides.items():
        cap = min(map(len, groups))
        rows = sorted(row for group in groups for row in group[:cap])  # another order: groups end early in the old one
        splits[side] = Split([text for _, text, _ in rows], np.array([index for *_, index in rows], dtype=np.int64))
        splits[side].labels.setflags(write=False)
        total.update(repr((side, [row[1:] for row in rows])).encode())
    return Task(name, classes, **splits, sha256=total.hexdigest())


def bag_of_words(task: Task) -> tuple[float, float, dict[str, list[str]]]:
    """What a model must beat: shares of the test items named correctly when text is ignored, and when order is.

    Returns the share of the most frequent class, the accuracy of a logistic regression on the words of the training
    items, and for every class the twenty words that speak most for it, the strongest first.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # here, because importing it takes a second
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(min_df=2, sublinear_tf=True)
    model = LogisticRegression(C=3.0, max_iter=500).fit(words.fit_transform(task.train.texts), task.train.labels)
    accuracy = model.score(words.transform(task.test.texts), task.test.labels)
    evidence = model.coef_ if len(task.classes) > 2 else np.vstack([-model.coef_, model.coef_])
    names = words.get_feature_names_out()
    telling = {name: names[np.argsort(-row)[:20]].tolist() for name, row in zip(task.classes, evidence, strict=True)}
    return float(np.bincount(task.test.labels).max() / len(task.test.labels)), float(accuracy), telling
