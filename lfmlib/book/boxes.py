"""What stands at the top of a chapter: its answer in a sentence, and the box with the claim and its verdicts.

Both are shown empty and filled when the chapter's last cell has run: each is one display that is updated in place, so a
page reads the same in JupyterLab, in papermill's output and in the rendered book.
"""

from __future__ import annotations

import uuid
from itertools import zip_longest
from pathlib import Path

from IPython.display import HTML, display

from .. import findings
from ..checkpoints.named import titled
from ..findings import Finding, answers, scoreboard
from ..findings.markup import escaped, inline

__all__ = ["Board", "Claim", "Question"]

_PROSE = "white-space:normal;min-width:11em;text-align:left"  # of a cell that holds a sentence
_WIDTH, _HEIGHT, _EDGE = 150, 18, 7  # of the picture of a value, in its own units
BRACKETS = {
    "": "its 95 % interval over runs",
    "F2": "what the limits of the starts would give",
    "F3": "what other models confirm so far, and at most,",
    "F4": "what the limits of the legs would give",
}
"""Finding → what its interval is; "" stands for all others."""


class _Display:
    """A place on the page that is filled later."""

    def __init__(self, html: str):
        self._id = uuid.uuid4().hex
        display(HTML(html), display_id=self._id)

    def fill(self, html: str) -> None:
        display(HTML(html), display_id=self._id, update=True)


class Claim:
    """The claims that a chapter tests: where it is made, the answer will stand; `show` shows the boxes."""

    def __init__(self, *ids: str, asked: str = ""):
        """
        Args:
            ids: of the findings, "F1" to "F14".
            asked: which question the sentence answers (see `lfmlib.findings.answers`); empty: the finding's own.
        """
        self.ids, self._asked = ids, asked
        self._answer = _Display(_answer(["The answer appears here when the chapter has run."]))
        self._boxes: dict[str, _Display] = {}

    def show(self) -> None:
        """Show a box for each claim."""
        self._boxes = {id_: _Display(_claim(id_, "lfm-open", _waiting("verdict"))) for id_ in self.ids}

    def settle(self, found: Finding | list[Finding], folder: Path | str | None = None) -> Finding | list[Finding]:
        """Fill the answer and the boxes, one line a model; keep each finding as JSON in ``folder``, if one is given.

        The chapter that `findings.rules.CHAPTERS` names for a claim keeps what is found of it; another only shows it.
        Findings on a selection of tensors are not kept.
        """
        several = found if isinstance(found, list) else [found]
        partial = any(finding.provenance.get("parameters", {}).get("select") for finding in several)
        if folder is not None and not partial:
            for finding in several:
                findings.write(finding, folder)
        said, sure = [], []
        for id_ in self.ids:
            models = [finding for finding in several if finding.id == id_]
            verdicts = {finding.verdict for finding in models}
            body = _verdict(models[0]) if len(models) == 1 else _verdicts(models)
            if partial:
                body += "<p><b>Of a selection of tensors only</b>, so it is not kept for the scoreboard.</p>"
            if id_ in self._boxes:
                kind = scoreboard.css(verdicts.pop()) if len(verdicts) == 1 else "lfm-mixed"
                self._boxes[id_].fill(_claim(id_, kind, body))
            said.append(answers.answer(models, self._asked))
            sure.append(answers.sureness(models))
        self._answer.fill(_answer(said, sure))
        return found


class Question:
    """The answer and the box of a chapter that asks what no paper claims."""

    def __init__(self, asked: str):
        self.asked = asked
        self._answer = _Display(_answer(["The answer appears here when the chapter has run."]))
        self._box: _Display | None = None

    def show(self) -> None:
        """Show the box."""
        self._box = _Display(self._html("lfm-open", ["The answer appears here when the chapter has run."]))

    def settle(self, sentences: list[str]) -> None:
        """Fill both: the first sentence is the answer, and the box has all, a paragraph a sentence."""
        self._answer.fill(_answer(sentences[:1]))
        if self._box:
            self._box.fill(self._html("lfm-mixed", sentences))

    def _html(self, verdict: str, sentences: list[str]) -> str:
        asked = f"<p><b>This book asks.</b> {escaped(self.asked)}</p>"
        return _box(verdict, asked + "".join(f"<p>{inline(one)}</p>" for one in sentences))


class Board:
    """The box at the top of the report: shown empty, filled at the end with the verdicts on one model."""

    def __init__(self):
        self._answer = _Display(_answer(["The answer appears here when the report has run."]))
        self._box: _Display | None = None

    def show(self) -> None:
        """Show the box."""
        self._box = _Display(_box("lfm-open", _waiting("verdicts")))

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
            f"<p>On <b>{escaped(titled(found[0].model))}</b>, by rules that were fixed beforehand:</p>"
            f"{_scroll(f'<thead>{head}</thead><tbody>{lines}</tbody>')}"
        )
        if self._box:
            self._box.fill(_box("lfm-mixed", body))
        self._answer.fill(_answer([answers.report(found)]))
        return found


def _answer(sentences: list[str], sure: list[str] | None = None) -> str:
    """The sentences that answer a title, a paragraph each, and behind each how sure it is, where that is said."""
    said = ""
    for one, words in zip_longest(sentences, sure or [], fillvalue=""):
        said += f"<p>{inline(one)}" + (f" <small class='lfm-sure'>{inline(words)}</small>" if words else "") + "</p>"
    return f'<div class="lfm-answer mathjax_ignore" style="font-size:1.15em">{said}</div>'


def _box(verdict: str, body: str) -> str:
    """A box with a plain style of its own, for JupyterLab; no dollar in it begins an equation."""
    style = "border-left:4px solid;padding:.4em 1em"
    return f'<div class="lfm-claim {verdict} mathjax_ignore" style="{style}">{body}</div>'


def _claim(id_: str, verdict: str, body: str) -> str:
    statement = escaped(scoreboard.sentence(findings.STATEMENTS[id_]))
    return _box(verdict, f"<p><b>Claim {id_}.</b> {statement} <small>(Si et al., 2025)</small></p>{body}")


def _waiting(what: str) -> str:
    return f"<p>The {what} appear{'' if what.endswith('s') else 's'} here when the chapter has run.</p>"


def _verdict(finding: Finding) -> str:
    """What the box says of one model."""
    model = f"<b>{escaped(titled(finding.model))}</b>"
    if finding.value is None:
        return f"<p>Verdict on {model}: <b>not judged</b>. {inline(scoreboard.value(finding))}</p>"
    name = findings.RULES[finding.id].control
    control = "" if finding.null is None else f" ({name} {inline(scoreboard.control(finding))})"
    census = "" if finding.interval else " Every matrix is measured, so the number has no sampling error."
    return (
        f"<p>Verdict on {model}: <b class='lfm-verdict'>{finding.verdict}</b>.</p>"
        f"<p>{escaped(scoreboard.sentence(answers.MEASURED[finding.id]))[:-1]}: "
        f"<b>{inline(scoreboard.measured(finding))}</b>{control}.{census}</p>{_fold([finding])}"
    )


def _verdicts(several: list[Finding]) -> str:
    """What the box says of several models: a row for each with a picture, nothing left out. Why a model was not judged
    takes the place of its numbers."""
    lines = ""
    for one in several:
        if one.value is None:
            said = f"<td colspan='2' style='{_PROSE}'>{inline(scoreboard.value(one))}</td>"
        else:
            said = f"<td>{_picture(one)}</td><td>{escaped(_short(one))}</td>"
        lines += f"<tr><th>{escaped(titled(one.model))}</th>{said}<td>{_name(one)}</td></tr>"
    return (
        f"<p>{escaped(scoreboard.sentence(answers.MEASURED[several[0].id]))}<br><small>{_key(several)}</small></p>"
        f"{_scroll(f'<tbody>{lines}</tbody>')}{_fold(several)}"
    )


def _short(finding: Finding) -> str:
    """A value with its interval, where that has a width."""
    if finding.interval and finding.interval[0] == finding.interval[1] == finding.value:
        return scoreboard.number(finding, finding.value)
    return scoreboard.value(finding)


def _key(several: list[Finding]) -> str:
    """What the marks of the pictures mean, as far as they are there."""
    rule = findings.RULES[several[0].id]
    wide = any(one.interval and one.interval[0] < one.interval[1] for one in several)
    marks = ["<b class='lfm-dot'>●</b> the model" + f", {BRACKETS.get(several[0].id, BRACKETS[''])} as a line" * wide]
    if any(one.value is not None and one.null is not None for one in several):
        marks.append(f"<b class='lfm-ring'>○</b> the control, {escaped(rule.control)}")
    judged = [one for one in several if one.value is not None] or several
    widest = max(judged, key=lambda one: one.details.get("of", 0))  # the bounds are those of a model that tried all
    named = {rule.supported: "supported", rule.partly: "partly"}  # the higher of two that are one
    if bounds := [f"{named[one]} from {escaped(scoreboard.number(widest, one))}" for one in _bounds(rule)]:
        marks.append(f"dotted: {', '.join(bounds)}")
    if rule.of_noise:
        marks.append("noise must pass, as the claim is that weights are like it")
    return "; ".join(marks) + "."


def _bounds(rule: findings.Rule) -> list[float]:
    """The bounds of a rule that are drawn: not at an end of the picture."""
    return sorted({one for one in (rule.partly, rule.supported) if 0.02 < one / _most(rule) < 1})


def _most(rule: findings.Rule) -> float:
    return float(rule.unit.removeprefix("of ")) if rule.unit.startswith("of ") else 1.0


def _picture(finding: Finding) -> str:
    """A value, its interval and its control between nothing and all, with the rule's bounds, as a small picture: the
    number stands beside it in words."""
    rule = findings.RULES[finding.id]
    most = _most(rule)

    def x(value: float) -> float:
        return _EDGE + (_WIDTH - 2 * _EDGE) * min(max(value / most, 0.0), 1.0)

    middle = _HEIGHT / 2
    parts = [f"<path class='lfm-axis' d='M{x(0)} {middle}H{x(most)}'/>"]
    parts += [f"<path class='lfm-bound' d='M{x(one):.1f} 1V{_HEIGHT - 1}'/>" for one in _bounds(rule)]
    if finding.null is not None and finding.null == finding.null:
        parts.append(f"<circle class='lfm-ring' cx='{x(finding.null):.1f}' cy='{middle}' r='4.5'/>")
    if finding.interval and finding.interval[0] < finding.interval[1]:
        low, high = map(x, finding.interval)
        parts.append(f"<path class='lfm-range' d='M{low:.1f} {middle}H{high:.1f}'/>")
    parts.append(f"<circle class='lfm-dot' cx='{x(finding.value):.1f}' cy='{middle}' r='3.5'/>")
    return (
        f"<svg class='lfm-picture {scoreboard.css(finding.verdict)}' aria-hidden='true' width='{_WIDTH}' "
        f"height='{_HEIGHT}' viewBox='0 0 {_WIDTH} {_HEIGHT}' stroke='currentColor' fill='none'>{''.join(parts)}</svg>"
    )


def _fold(several: list[Finding]) -> str:
    """The rule, what the first rules said where that is something else, and all numbers, behind a line to open."""
    judged = [one for one in several if one.value is not None]
    table = _numbers(judged) if judged and (len(several) > 1) else ""
    other = [one for one in several if scoreboard.first(one) not in ("–", one.verdict)]
    said = "; ".join(f"{escaped(titled(one.model))} <b>{one.first_verdict}</b>" for one in other)
    first = f"<p>By the first rules, which did not judge the control: {said}.</p>" if other else ""
    rule = f"<p>Rule, fixed beforehand: {escaped(several[0].rule)}; else contradicted.</p>"
    return f"<details class='lfm-fold'><summary>The rule and all numbers</summary>{rule}{first}{table}</details>"


def _numbers(several: list[Finding]) -> str:
    """All numbers of all models: the shares that a value rests on get columns, and so does the control."""
    parts = dict.fromkeys(part for finding in several for part in finding.details.get("parts", {}))
    head = "".join(f"<th>{escaped(name)}</th>" for name in ("model", *parts, findings.RULES[several[0].id].control))
    lines = ""
    for one in several:
        own = one.details.get("parts", {})
        cells = [*(scoreboard.part(own.get(part)) for part in parts), scoreboard.control_number(one)]
        lines += (
            f"<tr><th>{escaped(titled(one.model))}</th>{''.join(f'<td>{escaped(each)}</td>' for each in cells)}</tr>"
        )
    return _scroll(f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody>")


def _scroll(rows: str) -> str:
    return (
        "<div class='lfm-scroll' tabindex='0' role='region' aria-label='verdicts'>"
        f"<table class='dataframe lfm-table'>{rows}</table></div>"
    )


def _name(finding: Finding) -> str:
    if finding.value is None:
        return "<i>not judged</i>"
    return f"<b class='{scoreboard.css(finding.verdict)}'>{finding.verdict}</b>"
