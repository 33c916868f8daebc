"""What the chapters need of Jupyter: the claim box, sentences with measured numbers, the parameter check."""

from __future__ import annotations

import ast
import math
import uuid
import warnings
from base64 import b64encode
from pathlib import Path

import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, display
from matplotlib_inline.backend_inline import set_matplotlib_formats

from .. import findings, plots, records
from ..findings import Finding, scoreboard
from ..findings.finding import whole
from ..findings.markup import code, escaped, inline, plain, to_html
from ..provenance import HOME
from . import TEMPORARY, refusals
from .interactive import edge, explore, histograms
from .layout import Layout, writable

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
LINKED = 2_000_000
"""Bytes up to which a table travels inside the page that links to it."""
_PROSE = "white-space:normal;min-width:11em;text-align:left"  # of a cell that holds a sentence


class Claim:
    """The box at the top of a chapter: shown empty, filled at the end.

    It is one display that is updated in place, so it reads the same in JupyterLab, in papermill's output and in the
    rendered book.
    """

    def __init__(self, id: str):
        self.id = id
        self._display = uuid.uuid4().hex
        display(HTML(self._box("", "The verdict appears here when the chapter has run.")), display_id=self._display)

    def settle(self, found: Finding | list[Finding], folder: Path | str) -> Finding | list[Finding]:
        """Show the verdict in the box, one line a model, and keep each finding as JSON in ``folder``.

        Findings on a selection of tensors are not kept.
        """
        several = found if isinstance(found, list) else [found]
        partial = any(finding.provenance.get("parameters", {}).get("select") for finding in several)
        if not partial:
            for finding in several:
                findings.write(finding, folder)
        body = _verdict(found) if isinstance(found, Finding) else _verdicts(several)
        if partial:
            body += "<p><b>Of a selection of tensors only</b>, so it is not kept for the scoreboard.</p>"
        verdicts = {finding.verdict for finding in several}
        display(
            HTML(self._box(scoreboard.css(verdicts.pop()) if len(verdicts) == 1 else "lfm-mixed", body)),
            display_id=self._display,
            update=True,
        )
        return found

    def _box(self, verdict: str, body: str) -> str:
        statement = escaped(scoreboard.sentence(findings.STATEMENTS[self.id]))
        claim = f"<p><b>Claim {self.id}.</b> {statement} <small>(Si et al., 2025)</small></p>"
        return _box(verdict or "lfm-open", claim + body)


class Question:
    """The box at the top of a chapter that asks what no paper claims: shown empty, filled at the end with what came
    out."""

    def __init__(self, asked: str):
        self.asked = asked
        self._display = uuid.uuid4().hex
        display(
            HTML(self._box("lfm-open", ["The answer appears here when the chapter has run."])), display_id=self._display
        )

    def settle(self, sentences: list[str]) -> None:
        """Show the answer, a paragraph a sentence."""
        display(HTML(self._box("lfm-mixed", sentences)), display_id=self._display, update=True)

    def _box(self, verdict: str, sentences: list[str]) -> str:
        asked = f"<p><b>This book asks.</b> {escaped(self.asked)}</p>"
        return _box(verdict, asked + "".join(f"<p>{inline(one)}</p>" for one in sentences))


class Board:
    """The box at the top of the report: shown empty, filled at the end with the verdicts on one model."""

    def __init__(self):
        self._display = uuid.uuid4().hex
        waiting = "<p>The verdicts appear here when the report has run.</p>"
        display(HTML(_box("lfm-open", waiting)), display_id=self._display)

    def settle(self, found: list[Finding], folder: Path) -> list[Finding]:
        """Show the verdicts, one line a claim, and keep each finding as JSON in ``folder``."""
        for finding in found:
            findings.write(finding, folder)
        lines = "".join(
            f"<tr><th style='min-width:0'>{one.id}</th><td>{_name(one)}</td>"
            f"<td style='{_PROSE}'>{escaped(one.statement)}</td>"
            f"<td style='{_PROSE}'>{inline(scoreboard.measured(one))}</td>"
            f"<td style='{_PROSE}'>{inline(scoreboard.control(one)) if one.value is not None else ''}</td></tr>"
            for one in found
        )
        head = "<tr><th></th><th>verdict</th><th>the paper says</th><th>measured</th><th>the control gives</th></tr>"
        body = (
            f"<p>On <b>{escaped(found[0].model)}</b>, by rules that were fixed beforehand:</p>"
            "<div class='lfm-scroll' tabindex='0' role='region' aria-label='verdicts'>"
            f"<table class='dataframe lfm-table'><thead>{head}</thead><tbody>{lines}</tbody></table></div>"
        )
        display(HTML(_box("lfm-mixed", body)), display_id=self._display, update=True)
        return found


def _box(verdict: str, body: str) -> str:
    """A box with a plain style of its own, for JupyterLab; no dollar in it begins an equation."""
    style = "border-left:4px solid;padding:.4em 1em"
    return f'<div class="lfm-claim {verdict} mathjax_ignore" style="{style}">{body}</div>'


def _verdict(finding: Finding) -> str:
    """What the box says of one model."""
    model = f"<b>{escaped(finding.model)}</b>"
    if finding.value is None:
        return f"<p>Verdict on {model}: <b>not judged</b>. {inline(scoreboard.value(finding))}</p>"
    name = findings.RULES[finding.id].control
    control = "" if finding.null is None else f" ({name} {inline(scoreboard.control(finding))})"
    census = "" if finding.interval else " Every matrix is measured, so the number has no sampling error."
    return (
        f"<p>Verdict on {model}: <b class='lfm-verdict'>{finding.verdict}</b>.</p>"
        f"<p>{escaped(scoreboard.sentence(finding.metric))[:-1]}: <b>{inline(scoreboard.measured(finding))}</b>"
        f"{control}.{census}</p>{_first_rule([finding])}{_rule(finding)}"
    )


def _verdicts(several: list[Finding]) -> str:
    """What the box says of several models: a table, nothing left out; the shares that a count rests on get columns. Why
    a model was not judged takes the place of all its numbers."""
    parts = dict.fromkeys(part for finding in several for part in finding.details.get("parts", {}))
    names = ["model", "verdict", "measured", *parts, findings.RULES[several[0].id].control]

    def numbers(finding: Finding) -> str:
        if finding.value is None:
            why = inline(scoreboard.value(finding))
            return f"<td colspan='{len(names) - 2}' style='{_PROSE}'>{why}</td>"
        own = finding.details.get("parts", {})
        each = (scoreboard.value(finding), *(scoreboard.part(own.get(part)) for part in parts))
        return "".join(f"<td>{escaped(one)}</td>" for one in (*each, scoreboard.control_number(finding)))

    lines = "".join(f"<tr><th>{escaped(one.model)}</th><td>{_name(one)}</td>{numbers(one)}</tr>" for one in several)
    head = "<tr>" + "".join(f"<th>{escaped(name)}</th>" for name in names) + "</tr>"
    return (
        f"<p>{escaped(scoreboard.sentence(several[0].metric))}</p>"
        "<div class='lfm-scroll' tabindex='0' role='region' aria-label='verdicts'>"
        f"<table class='dataframe lfm-table'><thead>{head}</thead><tbody>{lines}</tbody></table></div>"
        f"{_first_rule(several)}{_rule(several[0])}"
    )


def _name(finding: Finding) -> str:
    if finding.value is None:
        return "<i>not judged</i>"
    return f"<b class='{scoreboard.css(finding.verdict)}'>{finding.verdict}</b>"


def _rule(finding: Finding) -> str:
    return f"<p><small>Rule, fixed beforehand: {escaped(finding.rule)}; else contradicted.</small></p>"


def _first_rule(several: list[Finding]) -> str:
    """What the first rules said, where that is something else."""
    other = [one for one in several if scoreboard.first(one) not in ("–", one.verdict)]
    if not other:
        return ""
    said = "; ".join(f"{escaped(one.model)} <b>{one.first_verdict}</b>" for one in other)
    return f"<p><small>By the first rules, which did not judge the control: {said}.</small></p>"


def say(text: str) -> None:
    """Show sentences that hold measured numbers (see `lfmlib.findings.markup`)."""
    display({"text/html": to_html(text), "text/plain": text}, raw=True)


def table(frame: pd.DataFrame, index: bool = True, percent: bool = False, most: int | None = None) -> None:
    """Show a small table: floats with four decimals or as per cent, whole numbers with thousands separated, and words
    as they are, never as markup; of a longer one than ``most`` the first rows, and a sentence that says so."""
    if most is not None and len(frame) > most:
        table(frame.head(most), index, percent)
        return say(f"The first {most} of {len(frame):,} rows.")

    def shown(value) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if value is pd.NA or (isinstance(value, float) and math.isnan(value)):
            return "–"
        if isinstance(value, float):
            return f"{100 * value:.1f}\u00a0%" if percent else f"{value + 0.0:.4f}".replace("-0.0000", "0.0000")
        return f"{value:,}" if isinstance(value, int) else escaped(value)

    text = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    floats = [] if percent else frame.select_dtypes("float")
    whole = [name for name in floats if frame[name].notna().any() and (frame[name].dropna() % 1 == 0).all()]
    frame = frame.astype(dict.fromkeys(whole, "Int64")).astype(object)
    frame = frame.rename_axis(index=_axis_name, columns=_axis_name)  # which pandas puts into HTML as they are
    style = frame.style.format(shown).format_index(escaped, axis=0).format_index(escaped, axis=1)
    style = style.set_table_attributes('class="dataframe lfm-table mathjax_ignore"')
    style = style.set_properties(subset=text, **{"text-align": "left"})
    display(HTML((style if index else style.hide(axis="index")).to_html()))


def _axis_name(name: object) -> str | None:
    return None if name is None else escaped(name)


def download(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write tables as CSV and Parquet into ``folder``, and show where; the CSV files also as links that hold them."""
    folder.mkdir(parents=True, exist_ok=True)
    links = []
    for name, frame in tables.items():
        flat = frame.assign(shape=frame["shape"].map(str)) if "shape" in frame else frame.copy()
        flat.attrs = {}  # what a survey notes there is not JSON, which Parquet would make of it
        words = flat.select_dtypes(exclude="number").columns
        text = flat.assign(**{str(one): flat[one].map(_no_formula) for one in words}).to_csv(index=False)
        with whole(folder / f"{name}.csv") as part:
            part.write_text(text, encoding="utf-8")
        with whole(folder / f"{name}.parquet") as part:
            flat.to_parquet(part, index=False)
        data = b64encode(text.encode()).decode()
        size = f"{len(flat):,} rows, {len(text) / 1000:,.0f} kB"
        link = f'<a download="{name}.csv" href="data:text/csv;base64,{data}">{name}.csv</a>'
        links.append(f"{link if len(text) < LINKED else f'{name}.csv'} ({size})")
    where = f"They lie, also as Parquet, in <code>{escaped(folder)}</code>."
    if any(part.startswith(TEMPORARY) for part in folder.parts):
        where = "<code>lfmlib report --results FOLDER</code> keeps them as files, also as Parquet."
    display(HTML(f"<p>{'; '.join(links)}. {where}</p>"))


def _no_formula(value: object) -> object:
    """A cell of a CSV file; a word that a spreadsheet would compute gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def record(name: str, profile: str, cells: str = "trainings", again: bool = True) -> pd.DataFrame:
    """The table of a long experiment for a chapter, with a sentence that says where it comes from.

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
    notice = f" **{about['notice']}**" if about["notice"] else ""
    gpus = f", on {', '.join(about['gpus'])}" if about["gpus"] else ""
    say(f"{count} {cells}, recorded at commit {origin}{gpus}.{notice}")
    if again:
        words, failed = _again(name)
        say(words)
        if failed:
            found.attrs["failed"] = failed
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
