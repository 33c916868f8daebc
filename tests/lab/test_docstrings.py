"""Docstring tasks: real labels, no file on two sides, and no word left in that gives the label away."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from lfmlib.lab import docstrings
from lfmlib.lab.docstrings import SPLITS, TASKS, clean
from lfmlib.lab.text import split_of
from lfmlib.provenance import ROOT

NAMES = re.compile(r"\b(numba|numpy|pandas|scipy|sklearn|scikit|torch|pytorch|np|pd|ndarrays?|tensors?|dataframes?)\b")


@pytest.fixture(scope="module")
def items() -> tuple[docstrings.Item, ...]:
    return docstrings.items()


@pytest.fixture(scope="module")
def places(items) -> dict[str, str]:
    """Text → file."""
    return {item.text: item.file for item in items}


@pytest.mark.parametrize("name", TASKS)
def test_no_file_and_no_text_is_on_two_sides(name, places):
    task = docstrings.load(name)
    sides = [getattr(task, side).texts for side in SPLITS]
    files = [{places[text] for text in side} for side in sides]
    for first, second in itertools.combinations(range(3), 2):
        assert files[first].isdisjoint(files[second])
        assert set(sides[first]).isdisjoint(sides[second])
    for side, texts in zip(SPLITS, sides, strict=True):
        assert len(set(texts)) == len(texts)
        assert {split_of(places[text], SPLITS) for text in texts} == {side}


@pytest.mark.parametrize("name", TASKS)
def test_sizes_and_balance(name):
    task = docstrings.load(name)
    assert len(task.test.texts) >= 2000 and len(task.train.texts) >= 1800 and len(task.validation.texts) >= 400
    for split in (task.train, task.validation, task.test):
        counts = np.bincount(split.labels, minlength=len(task.classes))
        assert split.labels.dtype == np.int64 and len(split.labels) == len(split.texts)
        assert (counts == counts[0]).all()
        halves = np.bincount(split.labels[: len(split.labels) // 2], minlength=len(counts))
        assert abs(halves - counts / 2).max() < 5 * np.sqrt(counts[0]) / 2, "classes come in runs"


@pytest.mark.parametrize("name", TASKS)
def test_words_tell_something_but_not_everything(name):
    majority, accuracy, telling = docstrings.bag_of_words(docstrings.load(name))
    assert majority == pytest.approx(1 / len(TASKS[name][0]), abs=1e-9)
    assert majority + 0.1 < accuracy < 0.85
    assert not [word for words in telling.values() for word in words if NAMES.search(word)]
    assert set(telling) == set(TASKS[name][0])


def test_nothing_masked_is_left(items):
    kinds = re.compile(r"\b(class|function|method|constructor|attribute|object)(e?s)?\b", re.IGNORECASE)
    found = [item.text for item in items if NAMES.search(item.text.lower()) or kinds.search(item.text)]
    assert not found
    assert not [item.text for item in items if ">>>" in item.text or "`" in item.text or "://" in item.text]
    assert max(len(item.text.split()) for item in items) <= docstrings.WORDS


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("Fit the model.\n\nParameters\n----------\nx : array", "Fit the model."),
        ("Parameters\n----------\nx : array", ""),
        ("Fit it.\n\nArgs:\n    x: an array", "Fit it."),
        ("Fit it.\n>>> fit()\n1", "Fit it."),
        ("Fit it.\n\n.. versionadded:: 1.0", "Fit it."),
        ("Wraps :func:`~numpy.linalg.norm` of `x` (see ``y``).", "Wraps _ of x (see y)."),
        ("Calls fit(x, y) of LinearModel, my_name, x.y and f32.", "Calls _ of _ and _."),
        ("A Tensor or a numpy array of np or secret type.", "A _ or a _ array of _ or _ type."),
        ("See https://numpy.org/doc and `here <http://x.y>`_.", "See _ and here _."),
        ("A class with methods, for sure.\nMore text", "A _ with _, for sure. More text"),
        ("Sum. Read more in the :ref:`User Guide <sums>`.", "Sum."),
        ("A line.\n\nExamples\n========\nnone", "A line."),
    ],
)
def test_masking(docstring, text):
    masked = frozenset({"numpy", "np", "tensor", "class", "methods", "secret"})
    assert clean(docstring, masked) == text


def test_labels_come_from_the_source(tmp_path):
    package = tmp_path / "sklearn"
    (package / "tests").mkdir(parents=True)
    (package / "tests" / "test_x.py").write_text('def f():\n    """One two three four five six."""\n', encoding="utf-8")
    (package / "code.py").write_text(
        'class Model:\n    """A model that learns from many examples."""\n'
        '    def fit(self, x=1):\n        """Learn from given examples, slowly but surely.\n\n        >>> 1"""\n'
        '    @property\n    def size(self):\n        """The number of things that were learned."""\n'
        '    def __len__(self):\n        """The number of other things that were learned."""\n'
        'def _helper(x, *y, z=1):\n    """Does what nobody else wants to do.\n\n    Args:\n        x: this"""\n'
        '    def inner():\n        """Is not looked at, since it is nested."""\n'
        'def short():\n    """Too short."""\n',
        encoding="utf-8",
    )
    found = list(docstrings.read("sklearn", package, frozenset()))
    assert [(i.kind, i.arguments, i.parameters, i.examples) for i in found] == [
        ("class", None, False, False),
        ("method", 1, False, True),
        ("function", 3, True, False),
    ]
    assert found[0].text == "A _ that learns from many examples."
    assert {item.file for item in found} == {"sklearn/code.py"}


@pytest.mark.slow
def test_another_process_gives_the_same_and_imports_none_of_the_packages(tmp_path):
    code = """
from sys import modules
from lfmlib.lab import docstrings
before = set(modules)
print(*(docstrings.load(name).sha256 for name in docstrings.TASKS))
print([name for name in set(modules) - before if name.split(".")[0] in docstrings.LIBRARIES])
"""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LFMLIB_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    hashes, imported = done.stdout.splitlines()
    assert hashes.split() == [docstrings.load(name).sha256 for name in TASKS]
    assert imported == "[]"


def test_unknown_task_and_missing_package(monkeypatch):
    with pytest.raises(ValueError, match=r"no task 'mood'; there are library, kind"):
        docstrings.load("mood")
    monkeypatch.setattr(docstrings, "LIBRARIES", ("nopackageofthisname",))
    with pytest.raises(ModuleNotFoundError, match="source of nopackageofthisname"):
        docstrings.items.__wrapped__()
