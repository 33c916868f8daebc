"""Check what callers pass as options, which have the same name and meaning in every function, in one place.

An option of the wrong kind would otherwise end deep inside a measurement, in an error that names neither.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from reprlib import repr as shortened
from typing import Any


def _is_integer(value: Any, least: int = 0) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str) and bool(os.fspath(value))


def _all(values: Any, good: Callable[[Any], bool]) -> bool:
    """Whether values can be gone through, more than once, and are all good."""
    return isinstance(values, Iterable) and not isinstance(values, str | bytes | dict) and all(map(good, values))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "select": (
        lambda value: isinstance(value, str | re.Pattern),
        "a regular expression for names of tensors, as text, or None",
    ),
    "executor": (
        lambda value: callable(getattr(value, "submit", None)),
        "an executor, such as a ProcessPoolExecutor, or None to run here",
    ),
    "seed": (_is_integer, "a whole number, 0 or more"),
    "controls": (lambda value: _is_text(value) or _all(value, _is_text), "the name of a control, or a list of names"),
    "families": (lambda value: _all(value, _is_text), "a list of names of families"),
    "keep": (_is_path, "a folder to keep rows in, or None"),
    "out": (_is_path, "the path of a folder that is not there yet"),
    "variant": (_is_text, "the name of a variant, or None"),
    "revision": (_is_text, "a branch, tag or commit, or None"),
    "method": (_is_text, "the name of a method"),
    "weights": (lambda value: _all(value, _is_number), "a list of numbers, one for each tuned model, or None"),
    "epsilon": (lambda value: _is_number(value) and value >= 0, "a number, 0 or more, or None"),
    "pruned": (lambda value: _is_number(value) and 0 <= value < 1, "a share of the values, at least 0 and below 1"),
    "tolerance": (lambda value: _is_number(value) and value >= 0, "a number, 0 or more"),
    "draws": (lambda value: _is_integer(value, 1), "a whole number, 1 or more"),
    "most": (_is_integer, "a whole number, 0 or more"),
    "resamples": (_is_integer, "a whole number, 0 or more"),
    "column": (_is_text, "the name of a column"),
    "effort": (
        lambda value: _is_text(value) and value in ("exact", "fast"),
        '"exact", every figure from all entries, or "fast", what takes long estimated from a sample',
    ),
    "kind": (_is_text, "the name of a control"),
}
"""Name of an option → whether a value is of its kind, and what is expected, in words."""


def check(**given: Any) -> None:
    """Raise ValueError for the first option that is not of its kind.

    Args:
        given: options by their names, those of `_RULES`. None passes where it stands for "not given".

    Examples:
        >>> from lfmlib.options import check
        >>> check(seed=0, keep=None, weights=[0.5, 1])
        >>> check(seed="a")
        Traceback (most recent call last):
            ...
        ValueError: seed is 'a': expected a whole number, 0 or more
    """
    for name, value in given.items():
        good, expected = _RULES[name]
        if not good(value) and (value is not None or "None" not in expected):
            raise ValueError(f"{name} is {shortened(value)}: expected {expected}")


def check_table(table: Any, columns: Iterable[str], maker: str) -> None:
    """Raise ValueError unless a table is one of pandas with these columns; ``maker`` is the function that makes it."""
    found = getattr(table, "columns", None)
    if not hasattr(table, "to_dict") or found is None:
        raise ValueError(f"the table is {shortened(table)}: expected one that {maker} returns")
    if missing := [name for name in columns if name not in found]:
        some = ", ".join(map(str, list(found)[:6]))
        raise ValueError(f"the table has no column {missing[0]!r}, but {some} …: expected one that {maker} returns")
