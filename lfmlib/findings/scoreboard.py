"""Findings as they are printed, in sentences of `lfmlib.findings.markup`: a value with its interval, and the
scoreboard."""

from __future__ import annotations

from ..checkpoints.named import named, titled
from .finding import Finding
from .markup import cell, plain
from .readings import READINGS
from .rules import CHAPTERS, OF_NOISE_TOO, RULES, STATEMENTS

GROUPS = ("holds", "noise", "mixed", "fails", "open")
"""What became of a statement on all models: it holds on each that it was judged on; it does, and of noise as well; it
holds on some, or in part; on none; nothing was decided."""
SIGNS = {"supported": "●", OF_NOISE_TOO: "≈", "partly": "◐", "contradicted": "○", "undecided": "?"}
"""Verdict → its sign: colour only repeats it."""
NOT_JUDGED = "·"
PARTS_SHOWN = {"F14": 1}
"""Of the figures that a value rests on, how many stand on the scoreboard, where it is not all: a method of merging each
stands in the chapter."""


def css(verdict: str) -> str:
    """The class of a verdict in pages and boxes."""
    return f"lfm-{'noise-too' if verdict == OF_NOISE_TOO else verdict}"


def own_model(findings: list[Finding]) -> str:
    """The model that a book is on: the one that chapter 1 looked at itself; empty where there is none, or several."""
    names = {finding.model for finding in findings if finding.id == "F1" and "record" not in finding.provenance}
    return names.pop() if len(names) == 1 else ""


def table(findings: list[Finding]) -> str:
    """The scoreboard as Markdown: a line for each claim with the number of its verdicts, which opens what is measured
    and a row for every model, nothing left out, the book's own model first and then other published ones; claims
    without a row listed below."""
    if not findings:
        return "*Nothing has been measured yet.*\n"
    sections, findings, failed = [], _own_first(findings), _failed(findings)
    for id_, statement in STATEMENTS.items():
        models = [finding for finding in findings if finding.id == id_]
        if not models:
            continue
        link = f"[chapter {int(CHAPTERS[id_][:2])}](../notebooks/{CHAPTERS[id_]}.ipynb)"
        said = f"{cell(sentence(RULES[id_].metric))} Measured in {link}."
        head = [f":::{{dropdown}} **{id_}** {statement} — {_counted(models)}", f":name: {id_.lower()}", "", said, ""]
        head += ["| Model | Verdict | Measured | Control | First rule |", "|---|---|---|---|---|"]
        sections.append("\n".join([*head, *(_row(finding, failed) for finding in models), "", ":::"]))
    waiting = [id_ for id_ in STATEMENTS if id_ not in {finding.id for finding in findings}]
    if waiting:
        listed = [f"- **{id_}**: {STATEMENTS[id_]}" for id_ in waiting]
        sections.append("\n".join(["## Not measured yet", "", *listed]))
    return "\n\n".join(sections) + "\n"


def _row(finding: Finding, failed: dict[str, str]) -> str:
    """The row of one model under its claim, marked where it rests on a record that ``failed``."""
    verdict = (
        f'<b class="{css(finding.verdict)}">{finding.verdict}</b>' if finding.value is not None else "*not judged*"
    )
    if (name := _record(finding).get("name")) in failed:
        verdict += f"; **its record failed**: a cell of {plain(name)}, measured again, was not as recorded"
        verdict += f" ({plain(failed[name])})"
    said = cell(measured(finding, PARTS_SHOWN.get(finding.id)))
    cells = (plain(titled(finding.model)), verdict, said, cell(control(finding)), first(finding))
    return f"| {' | '.join(cells)} |"


def _counted(models: list[Finding]) -> str:
    """How many models have which verdict, in signs: "4 ≈ 4 ◐ 1 ○"."""
    signs = [SIGNS[one.verdict] if one.value is not None else NOT_JUDGED for one in models]
    return "\u2002".join(f"{signs.count(sign)}\u00a0{sign}" for sign in (*SIGNS.values(), NOT_JUDGED) if sign in signs)


def _record(finding: Finding) -> dict:
    """What a finding says of the record that it rests on; nothing where it rests on none."""
    return finding.provenance.get("record", {})


def _failed(findings: list[Finding]) -> dict[str, str]:
    """Name of a record → how a cell of it, measured again, was not as recorded. One chapter measures it again, and what
    it saw marks the findings of all that use the record."""
    return {_record(one)["name"]: _record(one)["failed"] for one in findings if "failed" in _record(one)}


def sentence(words: str) -> str:
    """Words with a capital letter in front and a full stop behind."""
    return f"{words[0].upper()}{words[1:]}."


def group(verdicts: list[str], of_noise: bool = False) -> str:
    """A key of `GROUPS`: "holds" where all are supported, "noise" where all that hold do of noise too, "fails" where
    some are contradicted and none holds or holds partly, "open" where all are undecided, else "mixed".

    Args:
        verdicts: on the models that a statement was judged on.
        of_noise: the statement is that weights are like noise (see `lfmlib.findings.Rule`).
    """
    found = set(verdicts)
    if found <= {"supported", OF_NOISE_TOO} and (of_noise or found == {"supported"}):
        return "holds"
    if found == {OF_NOISE_TOO}:
        return "noise"
    if found & {"supported", OF_NOISE_TOO, "partly"}:
        return "mixed"
    return "fails" if "contradicted" in found else "open"


def mixed(findings: list[Finding]) -> list[str]:
    """Sentences on findings that do not belong together, or to what they rest on: of one model in several states of its
    files, by rules that are no longer the last, or of a record that failed when measured again."""
    states: dict[tuple[str, str], dict[tuple, list[str]]] = {}
    for one in findings:
        state = one.provenance.get("revision"), one.provenance.get("state")
        if (source := one.provenance.get("source")) and any(state):  # a record knows neither
            states.setdefault((one.model, source), {}).setdefault(state, []).append(one.id)
    told = []
    for (model, _), by_state in states.items():
        if len(by_state) > 1:
            each = " and ".join(", ".join(ids) for ids in by_state.values())
            told.append(
                f"**{plain(titled(model))} changed between chapters**: {each} are of different states of its files. "
                "Build its chapters anew, or name a revision."
            )
    if old := [one.id for one in findings if one.provenance.get("rules", READINGS[-1].rules) != READINGS[-1].rules]:
        told.append(f"**Judged by earlier rules**: {', '.join(dict.fromkeys(old))}. Run their chapters again.")
    for name in _failed(findings):
        ids = dict.fromkeys(one.id for one in findings if _record(one).get("name") == name)
        told.append(
            f"**Not as recorded**: {', '.join(ids)} rest on the record {plain(name)}; a cell measured again failed."
        )
    return told


def changes(findings: list[Finding]) -> str:
    """How many verdicts the second rules changed, from what into what, and of which findings, as a Markdown table."""
    judged = [one for one in findings if first(one) != "–"]
    moved: dict[tuple[str, str], list[str]] = {}
    for one in judged:
        now = one.verdict if one.value is not None else "not judged"
        if one.first_verdict != now:
            moved.setdefault((first(one), now), []).append(one.id)
    if not moved:
        return f"Of {len(judged)} verdicts the second rules changed none.\n"
    lines = ["| First rule | Now | Verdicts | Findings |", "|---|---|---:|---|"]
    for (before, now), ids in sorted(moved.items()):
        each = ", ".join(f"{id_} × {ids.count(id_)}" for id_ in sorted(set(ids), key=list(STATEMENTS).index))
        lines.append(f"| {before} | {now} | {len(ids)} | {each} |")
    count = sum(map(len, moved.values()))
    return f"Of {len(judged)} verdicts the second rules changed {count}:\n\n" + "\n".join(lines) + "\n"


def readings() -> str:
    """The states of the rules, oldest first, as a Markdown list."""
    hashes = {one: f", rules `{one.rules}`" if one.rules else "" for one in READINGS}
    return "\n".join(f"- **{one.date}**{hashes[one]}: {one.argument}" for one in READINGS) + "\n"


def _own_first(findings: list[Finding]) -> list[Finding]:
    """The findings claim by claim: of each those on the book's own model first, then published ones, the largest file
    first, then models trained in the lab."""
    own, ids = own_model(findings), list(STATEMENTS)

    def place(finding: Finding) -> tuple[int, bool, int]:
        published = named(finding.model)
        return ids.index(finding.id), finding.model != own, -published.bytes if published else 1

    return sorted(findings, key=place)


def measured(finding: Finding, most: int | None = None) -> str:
    """Value, interval and what they rest on, as printed on the scoreboard: "1 of 3: identity 62 %, …"; of the latter at
    ``most`` so many."""
    caveat, parts = finding.details.get("caveat"), finding.details.get("parts") or {}
    return value(finding) + _parts(dict(list(parts.items())[:most])) + (f" ({caveat})" if caveat else "")


def value(finding: Finding) -> str:
    """Value and interval as printed: "62 %" for a census, "0.41 [0.30, 0.52]" with its interval, "3 [2, 4] of 5"."""
    if finding.value is None:
        return finding.details.get("reason", "–")
    if finding.interval is None:
        return number(finding, finding.value)
    middle, low, high = (_plain(finding, one) for one in (finding.value, *finding.interval))
    return f"{middle} [{low}, {high}]{_unit(finding)}"


def control(finding: Finding) -> str:
    """What the control gives, and what the rule says of that, as printed."""
    return number(finding, finding.null) + _parts(finding.details.get("null_parts")) + _judged_alike(finding)


def control_number(finding: Finding) -> str:
    """What the control gives, as printed in a column: without what it rests on."""
    return number(finding, finding.null) + _judged_alike(finding)


def _judged_alike(finding: Finding) -> str:
    return f"; {finding.control_verdict}" if finding.control_verdict else ""


def first(finding: Finding) -> str:
    """The verdict by the first rules, as printed."""
    judged = finding.value is not None or finding.first_verdict != finding.verdict
    return finding.first_verdict or "–" if judged else "–"


def _parts(parts: dict[str, float | str] | None) -> str:
    """What a value rests on, as printed behind it."""
    return ": " + ", ".join(f"{plain(name)} {plain(part(one))}" for name, one in parts.items()) if parts else ""


def part(one: float | str | None) -> str:
    """One of the figures that a value rests on, as printed: a share in per cent, or words as they are."""
    if one is None or isinstance(one, str):
        return one or "–"
    return f"{100 * one:.0f}\u00a0%"


def number(finding: Finding, value: float | None) -> str:
    """A value as printed for a finding: a share in per cent with one decimal, anything else with three digits."""
    return "–" if value is None else _plain(finding, value) + _unit(finding)


def _plain(finding: Finding, value: float) -> str:
    return f"{100 * value:.1f}\u00a0%" if RULES[finding.id].unit == "%" else f"{value:.3g}"


def _unit(finding: Finding) -> str:
    of = finding.details.get("of")
    unit = RULES[finding.id].unit if of is None else f"of {of}"
    return "" if unit in ("", "%") else f"\u00a0{unit}"
