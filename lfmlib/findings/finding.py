"""A finding: a claim on one model, as measured and judged; kept as JSON.

A chapter measures, a module of this package makes a `Finding` of it under its rule (`lfmlib.findings.rules`), `write`
keeps it, and the scoreboard page is written from those files. Nothing else decides a verdict.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .rules import RULES, STATEMENTS, judge


@dataclass(frozen=True)
class Finding:
    """One finding on one model, as measured.

    Attributes:
        id: "F1" to "F14".
        model: the model's name.
        statement: the claim.
        metric: what ``value`` is, in words.
        value: the point estimate the verdict rests on; None where there was nothing to measure (``details`` says why).
        interval: its 95 % interval, or None where the value is a census and has none.
        null: the same metric on the noise control.
        rule: the rule in words.
        verdict: one of `VERDICTS`.
        provenance: where it comes from: checkpoint, revision, versions, commit, parameters.
        details: further figures that stand beside the value.

    Examples:
        >>> from lfmlib.findings import Finding
        >>> Finding.of("F1", "share of the parameters within 0.02 bits", "toy", {}, {}, value=0.6).verdict
        'partly'
    """

    id: str
    model: str
    statement: str
    metric: str
    value: float | None
    interval: tuple[float, float] | None
    null: float | None
    rule: str
    verdict: str
    provenance: dict
    details: dict = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        id_: str,
        metric: str,
        model: str,
        provenance: dict,
        details: dict,
        value: float | None = None,
        interval: tuple[float, float] | None = None,
        null: float | None = None,
        verdict: str | None = None,
    ) -> Finding:
        """A finding under its rule, judged by it unless the verdict is given; undecided without a value."""
        if verdict is None:
            verdict = "undecided" if value is None else judge(RULES[id_], value, interval)
        return cls(
            id=id_,
            model=model,
            statement=STATEMENTS[id_],
            metric=metric,
            value=value,
            interval=interval,
            null=null,
            rule=RULES[id_].text,
            verdict=verdict,
            provenance=provenance,
            details=details,
        )


def write(finding: Finding, folder: str | Path = "_build/results") -> Path:
    """Write a finding as ``<id>-<model>.json`` and return the path; one model has one file for a finding."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # two checkpoints in folders of one name are two models
    source = finding.provenance.get("source", finding.model)
    mark = "" if source == finding.model else f"-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    path = folder / f"{finding.id}-{re.sub(r'[^A-Za-z0-9._-]+', '-', finding.model)}{mark}.json"
    partial = path.with_suffix(".part")
    partial.write_text(
        json.dumps(asdict(finding), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    partial.replace(path)
    return path


def load(folder: str | Path = "_build/results") -> list[Finding]:
    """All findings in a folder, in the order of the paper's claims, then by model, those trained in the lab last.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a file is no finding.

    Examples:
        >>> import tempfile
        >>> from lfmlib.findings import Finding, load, write
        >>> finding = Finding.of("F1", "share of the parameters within 0.02 bits", "toy", {}, {}, value=0.9)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write(finding, folder)
        ...     print(path.name, load(folder)[0].verdict)
        F1-toy.json supported
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no results in {folder}: run a chapter, or `make book`, first")
    found = []
    for path in folder.glob("F*.json"):
        try:
            finding = Finding(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a finding ({error}): delete it and run its chapter again") from error
        found.append(finding)
    order = list(STATEMENTS)
    return sorted(found, key=lambda finding: (order.index(finding.id), finding.model.startswith("lab "), finding.model))
