"""A table as a file: CSV, Parquet or JSON, all columns and all digits.

A shape is a list of integers in Parquet and JSON, and its JSON in CSV. Missing values are empty fields in CSV and null
in JSON, which has no infinite numbers either: those, such as the end of an open interval, are the strings "Infinity"
and "-Infinity". Parquet also keeps the table's ``attrs``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

SUFFIXES = (".csv", ".parquet", ".json")


def check(path: str | Path) -> Path:
    """The path as one, if a table can be written there; to be called before anything is measured.

    Raises:
        ValueError: its suffix is none of `SUFFIXES`, or it is a folder.
        FileNotFoundError: its folder is not there.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}: expected {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: expected the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}: make it, or name another")
    return path


def write(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table, whole or not at all, in the format that the suffix names. Raises as `check`, and OSError."""
    path = check(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".csv":
            _listed(table, json.dumps).to_csv(partial, index=False, lineterminator="\n")
        elif path.suffix == ".parquet":
            _listed(table, list).to_parquet(partial, index=False)
        else:
            rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")]
            text = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
            partial.write_text(f"[\n{text}\n]\n" if rows else "[]\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _listed(table: pd.DataFrame, change: Callable[[tuple], object]) -> pd.DataFrame:
    """The table with its tuples, such as shapes, changed by a function."""
    tuples = [name for name in table if table[name].map(lambda value: isinstance(value, tuple)).any()]
    return table.assign(**{str(name): table[name].map(change) for name in tuples})


def _plain(value: Any) -> Any:
    """What JSON has for a value of a table."""
    if isinstance(value, tuple):
        return list(value)
    if value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    item = getattr(value, "item", None)  # of numpy's numbers
    return item() if item else value
