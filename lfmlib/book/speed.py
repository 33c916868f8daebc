"""What measuring takes at any size: what was measured, and the arithmetic that follows from it, as tables of a page.

``make bench`` measures; the results that the book shows lie in ``book/speed``, with the machine they were measured on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..provenance import ROOT

FOLDER = ROOT / "book" / "speed"
LAPTOP, WHOLE, LARGE = "two-cores", "book-and-tests", "h100"
"""Results by file name: rates on two cores; minutes that book and tests take; rates on many cores and a GPU."""
SAMPLE, PIECES = 1 << 20, 32
"""Bytes of each matrix that are reckoned with where a sample is read, and the requests that these take from afar."""
MODELS = (
    ("1 B, 16 layers", 1.24e9, 16 * 7 + 1),
    ("8 B, 32 layers", 8.03e9, 32 * 7 + 2),
    ("70 B, 80 layers", 70.6e9, 80 * 7 + 2),
    ("405 B, 126 layers", 405.9e9, 126 * 7 + 2),
    ("1 T, 60 layers of 384 experts", 1.03e12, 60 * (384 + 1) * 3 + 61 * 8),
)
"""Name, parameters and matrices of models of the shapes in use: Llama's, and a mixture of experts'."""
CORE, EACH = "survey, bytes/s of a core", "sampled survey, s a matrix"
"""Names of the rates that are reckoned with."""
CENSUS = 100_000
"""Models that a census is reckoned for."""


def tables(folder: Path = FOLDER) -> dict[str, str]:
    """Markdown, by the name of the file that the page includes; where nothing was measured it says so."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return {
        "_limits.md": _limits([found[name] for name in (LAPTOP, WHOLE) if name in found]),
        "_cores.md": _cores(found.get(LARGE)),
        "_costs.md": _costs(found.get(LAPTOP)),
        "_census.md": _census(found.get(LAPTOP)),
    }


MET = {True: "met", False: "**missed**", None: ""}
NOTHING = "Nothing has been measured yet: `make bench` does.\n"


def _limits(runs: Sequence[dict]) -> str:
    """Each limit beside what was measured, a table for each run."""
    texts = []
    for found in runs:
        rows = [(*(one[key] for key in ("name", "value", "limit")), MET[one["met"]]) for one in found["lines"]]
        texts.append(_table(("", "Measured", "Limit", ""), rows, "lrrl") + f"\nMeasured on {_machine(found)}.\n")
    return "\n".join(texts) or NOTHING


def _cores(found: dict | None) -> str:
    """How a survey goes on more and more cores, and counting and spectra on a GPU: all rates that were noted."""
    if not found:
        return NOTHING
    side, alone = {}, []
    for name, value in found["rates"].items():
        if match := re.fullmatch(r"(.*?),? (\d+) (threads|workers), (\S+)", name):
            what, count, kind, unit = match.groups()
            side.setdefault(f"{what}, {kind}, {unit}", {})[int(count)] = f"{value:.3g}"
        else:
            alone.append((name, f"{value:.3g}"))
    counts = sorted({count for row in side.values() for count in row})
    rows = [(name, *(row.get(count, "") for count in counts)) for name, row in side.items()]
    text = _table(("", *map(str, counts)), rows, "l" + "r" * len(counts))
    return f"{text}\n{_table(('On the GPU', 'Measured'), alone, 'lr')}\nMeasured on {_machine(found)}.\n"


def _costs(found: dict | None) -> str:
    """Bytes, core hours and time on a wire for one model, in full and by a sample of each matrix."""
    if not found:
        return NOTHING
    rows = []
    for name, parameters, matrices in MODELS:
        full, some = _effort(found, parameters, matrices)
        rows.append((name, f"{matrices:,}", *_told(full, 1e9 / 8), *_told(some, 1e9 / 8), f"{matrices * PIECES:,}"))
    head = ("Model", "Matrices", "In full", "Core time", "At 1 Gbit/s", "Sampled", "Core time", "At 1 Gbit/s")
    core, each = (found["rates"][name] for name in (CORE, EACH))
    rates = f"Reckoned with {core / 1e9:.2g} GB/s of a core, and {each:.2g} s for each sampled matrix, measured on "
    return _table((*head, "Requests"), rows, "l" + "r" * 8) + f"\n{rates}{_machine(found)}.\n"


def _census(found: dict | None) -> str:
    """Bytes, core time and time on a wire for a census of very many models, in full and by samples."""
    if not found:
        return NOTHING
    rows = []
    for name, parameters, matrices in MODELS[:3]:
        full, some = ([CENSUS * one for one in effort] for effort in _effort(found, parameters, matrices))
        requests = f"{CENSUS * matrices * PIECES:,}"
        rows.append((f"{CENSUS:,} of {name}", *_told(full, 1e10 / 8), *_told(some, 1e10 / 8), requests))
    head = ("Models", "In full", "Core time", "At 10 Gbit/s", "Sampled", "Core time", "At 10 Gbit/s", "Requests")
    return _table(head, rows, "l" + "r" * 7)


def _effort(found: dict, parameters: float, matrices: int) -> tuple[list[float], list[float]]:
    """Bytes and core seconds of one model in bfloat16, read in full and sampled."""
    rates = found["rates"]
    full = [2 * parameters, 2 * parameters / rates[CORE]]
    return full, [min(matrices * SAMPLE, 2 * parameters), matrices * rates[EACH]]


def _told(effort: Sequence[float], wire: float) -> tuple[str, str, str]:
    """Bytes, core time, and the time that the bytes take on a wire of so many bytes a second, in words."""
    return size(effort[0]), duration(effort[1]), duration(effort[0] / wire)


def size(bytes: float) -> str:
    """Bytes in decimal units, two digits."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB")):
        if bytes >= unit:
            return f"{_two(bytes / unit)} {name}"
    return f"{_two(bytes / 1e6)} MB"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them, two digits."""
    for unit, name in ((365.25 * 86400, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{_two(seconds / unit)} {name}"
    return f"{_two(seconds)} s"


def _two(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.10g}"


def _machine(found: dict) -> str:
    about = found["about"]
    card = f", {about['GPU']}" if about.get("GPU") else ""
    words = f"{about['Cores']} cores ({about['Processor']}), {about['Memory']}{card}"
    return f"{words}; torch {about['torch']}, Python {about['Python']}, commit `{about['commit']}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], sides: str) -> str:
    marks = ["---:" if side == "r" else "---" for side in sides]
    kept = [
        [row[0], *(cell.replace(" ", "\u00a0") for cell in row[1:])] for row in rows
    ]  # units stay with their numbers
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *kept)) + "\n"
