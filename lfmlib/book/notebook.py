"""What the chapters need of Jupyter: the answer and the box of a claim, sentences and tables with measured numbers, a
record with where it comes from, the parameter check."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import pandas as pd
from IPython import get_ipython
from matplotlib_inline.backend_inline import set_matplotlib_formats

from .. import plots, records
from ..findings.markup import code, plain
from ..provenance import HOME
from . import refusals
from .boxes import Board, Claim, Question
from .interactive import edge, explore, histograms
from .layout import Layout, writable
from .tables import download, say, table

__all__ = [
    "Board",
    "Claim",
    "Question",
    "begin",
    "code",
    "download",
    "edge",
    "explore",
    "histograms",
    "plain",
    "record",
    "say",
    "table",
]

PROFILES = ("quick", "default", "full")


def record(name: str, profile: str, cells: str = "trainings", again: bool = True) -> pd.DataFrame:
    """The table of a long experiment for a chapter, and, folded, where it comes from.

    Under ``default`` it is the record; one of its cells, drawn by the hash of the commit, is measured again and what
    came out is said. If it did not come out as recorded, and no other processor excuses that, ``attrs["failed"]`` says
    how: it goes with every finding on the record to the scoreboard. ``quick`` and ``full`` measure here (see
    `lfmlib.records.table`).

    Args:
        name: of the experiment.
        profile: of the chapter.
        cells: what its cells are called.
        again: measure one again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a warning would say of the record, the sentence says
        found = records.table(name, profile)
    count = found["cell"].nunique()
    if profile != "default":
        size = " at toy size" if profile == "quick" else ""
        when = "before, by the same code" if found.attrs["cached"] else "now"
        say(f"{count} {cells}{size}, measured {when}.")
        return found
    about = found.attrs
    origin = f"{', '.join(about['commits'])}, {about['core_seconds'] / 3600:.1f} hours of one core"
    gpus = f", on {', '.join(about['gpus'])}" if about["gpus"] else ""
    told = [f"{count} {cells}, recorded at commit {origin}{gpus}."]
    notice, lacks, warned = about["notice"], "", []
    if about["stale"]:
        warned.append(f"**{notice}**")
    elif notice:  # "This record holds 3 of 4 cells: …"
        told.append(notice)
        lacks = notice.partition(":")[0].removeprefix("This record")
    if again:
        words, failed = _again(name)
        (warned if "**" in words else told).append(words)
        if failed:
            found.attrs["failed"] = failed
    say(" ".join(told), fold=f"The record “{name}”{lacks}: where it comes from")
    for one in warned:
        say(one)  # never folded
    return found


def _again(name: str) -> tuple[str, str]:
    """Measure a cell of a record again: what came out in a sentence, and in words what marks the record's findings, if
    anything does."""
    try:
        found = records.remeasure(name, kept=True)
    except ValueError as error:  # a stale record, or one with no cell to draw
        return f"**Nothing was measured again:** {error}", ""
    settings = ", ".join(f"{key} {value}" for key, value in found.cell.items() if value != "")
    when = "earlier, on this machine and by the same code," if found.known else f"now, in {found.seconds:.0f} s,"
    outcome = "came out within its tolerances" if found.equal else f"**did not come out as recorded**: {found}"
    other = " It had been recorded on another kind of processor." if not found.equal and found.alike is False else ""
    drawn = f"One of them, drawn by the hash of this commit ({settings}), was measured again {when}"
    before = f" {records.rehearsed(name)}" if found.rehearsed else ""
    return f"{drawn} and {outcome}.{other}{before}", found.differences[0] if found.failed else ""


def begin() -> Path:
    """Check a chapter's parameters, set the figures' style, and return the results folder.

    Reads the parameters from the notebook's own variables; it is called right behind the cell that declares them.

    Returns:
        The absolute results folder: ``results`` resolved against the repository; if empty, ``_build/quick`` for quick
        runs and ``_build/results`` otherwise, and the like in ``_build/models/NAME`` on the reader's own model.

    Raises:
        ValueError: papermill was given a parameter that the chapter does not have, or a value it cannot take; or
            nothing can be written to the folder.
    """
    refusals.install(get_ipython())
    variables = get_ipython().user_ns
    declared, injected = _parameters(variables.get("In", []))
    if unknown := sorted(set(injected) - set(declared)):
        raise ValueError(f"unknown parameter {', '.join(unknown)}: valid ones are {', '.join(declared)}")
    kinds = _kinds(variables.get("In", []))
    for name, kind in kinds.items():
        variables[name] = _as_declared(name, variables[name], kind)
    profile, seed = variables["profile"], variables["seed"]
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: valid ones are {', '.join(PROFILES)}")
    if seed < 0:
        raise ValueError(f"seed is {seed!r}: expected a whole number from 0 on")
    plots.style()
    set_matplotlib_formats("svg")
    if variables["results"]:
        return writable(HOME / Path(variables["results"]).expanduser())
    # of its parameters alone: chapter 6 imports a module of the name of one that chapter 12 declares
    given = {name: variables[name] for name in ("model", "adapt", "tuned", "base", "revision") if name in kinds}
    model = given.get("model") or given.get("adapt") or given.get("tuned")
    own = {"base": given.get("base"), "revision": given.get("revision")}
    return writable(Layout.of(HOME, model=model, profile=profile, **own).results)


def _parameters(cells: list[str]) -> tuple[list[str], list[str]]:
    """Names that a chapter declares, and those that papermill's injected cell behind it assigns: it only warns of
    unknown ones. Nothing of both where nothing was injected."""
    places = [at for at, cell in enumerate(cells) if cell.startswith("# Parameters\n")]
    if not places:
        return [], []
    return _assigned(cells[places[-1] - 1]), _assigned(cells[places[-1]])


def _kinds(cells: list[str]) -> dict[str, str]:
    """Name → declared type of each parameter of a chapter."""
    for cell in reversed(cells):
        if "profile: str" in cell:
            found = [one for one in ast.parse(cell).body if isinstance(one, ast.AnnAssign)]
            return {ast.unparse(one.target): ast.unparse(one.annotation) for one in found}
    return {}


def _as_declared(name: str, value, kind: str):
    """A parameter as the type that it is declared as: papermill makes the number 5 of `-p select 5`, and a fraction of
    1e6."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "str" and (value is None or number or isinstance(value, str | Path)):
        return "" if value is None else str(value)
    if kind == "int" and number and float(value).is_integer():
        return int(value)
    expected = {"str": f"text, which papermill takes with -r {name} …", "int": "a whole number"}
    if kind in expected:
        raise ValueError(f"{name} is {value!r}: expected {expected[kind]}")
    return value


def _assigned(cell: str) -> list[str]:
    """Names that a cell assigns at its top."""
    found = []
    for statement in ast.parse(cell).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        found += [target.id for target in targets if isinstance(target, ast.Name)]
    return found
