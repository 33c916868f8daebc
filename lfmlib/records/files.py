"""A record's two files, NAME.csv and NAME.json: made for git, and exact. `lfmlib.records` says what they hold."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..provenance import ROOT

_SCANNED = json.JSONDecoder().scan_once
"""JSON that begins at a place of a text, and where it ends: a third of the time of `json.loads`, by which a record with
800,000 fields takes a second."""


def measured_by(name: str) -> str:
    """The command that measures a record, as code: an installed library has no Makefile."""
    return f"`make records {name}`" if (ROOT / "Makefile").is_file() else f"`python -m lfmlib.records run {name}`"


def path(name: str, folder: Path, suffix: str) -> Path:
    """Where a record's file is."""
    return folder / f"{name}.{suffix}"


def head(name: str, folder: Path) -> dict:
    """What NAME.json holds, which is small beside the table.

    Raises:
        FileNotFoundError: there is no such record.
        ValueError: the file cannot be read.
    """
    if not path(name, folder, "json").exists():
        raise FileNotFoundError(f"there is no record {name} in {folder.name}/: measure it with {measured_by(name)}")
    try:
        return json.loads(path(name, folder, "json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(name, error) from error


def read(name: str, folder: Path, *, strict: bool = True) -> tuple[dict, dict[str, list[dict]]]:
    """What NAME.json holds, and the rows of each of its cells.

    Unless ``strict``, cells whose rows are not all there are left out of the rows.

    Raises:
        FileNotFoundError: there is no such record.
        ValueError: the files cannot be read, or do not belong together.
    """
    record = head(name, folder)
    rows: dict[str, list[dict]] = {}
    try:
        with path(name, folder, "csv").open(encoding="utf-8", newline="") as file:
            columns, *lines = csv.reader(file)
        for line in lines:
            row = {column: value(field) for column, field in zip(columns, line, strict=True)}
            rows.setdefault(row["cell"], []).append(row)
        whole = {key: rows[key] for key, entry in record["cells"].items() if len(rows.get(key, ())) == entry["rows"]}
        if strict and len(whole) < len(record["cells"]):
            raise ValueError("rows are missing")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise _damaged(name, error) from error
    return record, whole


def _damaged(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"the record {name} is damaged ({error}): restore {name}.csv and {name}.json from git, or delete both and "
        f"measure again with {measured_by(name)}"
    )


def write(record: dict, rows: dict[str, list[dict]], folder: Path, *, keys: Sequence[str]) -> None:
    """Keep a record, its cells in the order of ``keys``.

    The table comes first, then what makes its rows count; each file is replaced as a whole or not at all.
    """
    keys = [key for key in keys if key in record["cells"]]
    columns = list(dict.fromkeys(column for key in keys for row in rows[key] for column in row))
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows([field(row.get(column)) for column in columns] for key in keys for row in rows[key])
    used = {record["cells"][key]["origin"] for key in keys} | {record.get("spread", {}).get("origin")}
    used |= {one["origin"] for key in keys for one in record["cells"][key].get("rehearsed", {}).values()}
    origins = {key: origin for key, origin in record["origins"].items() if key in used}
    head = {name: part for name, part in record.items() if name != "cells"} | {"origins": origins}
    cells = ",\n".join(f"    {to_json(key)}: {to_json(record['cells'][key])}" for key in keys)  # one line each
    text = json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}")
    _replace(path(record["name"], folder, "csv"), table.getvalue())
    _replace(path(record["name"], folder, "json"), f'{text},\n  "cells": {{\n{cells}\n  }}\n}}\n')


def _replace(target: Path, text: str) -> None:
    partial = target.with_name(target.name + ".part")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def field(value_: object) -> str:
    """A value as it stands in the table: on one line, and never to be taken for another."""
    if value_ is None:
        return ""
    if isinstance(value_, str) and value_.isprintable() and value(value_) == value_:
        return value_
    return to_json(value_)


def value(text: str) -> object:
    """What `field` wrote."""
    if not text:
        return None
    try:
        found, end = _SCANNED(text, 0)
    except (StopIteration, ValueError):
        return text
    return found if end == len(text) else text


def to_json(data: object) -> str:
    """JSON on one line; NumPy's and torch's scalars are taken for the numbers they are."""
    return json.dumps(data, default=lambda scalar: scalar.item())


def sha256(data: object) -> str:
    """The hash of the canonical JSON: keys sorted, no blanks."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
