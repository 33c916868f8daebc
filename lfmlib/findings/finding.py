"""A finding: one claim on one model, as measured and judged; kept as JSON.

A chapter measures, a module of this package makes a `Finding` of it under its rule (`lfmlib.findings.rules`), `write`
keeps it as a file, and the scoreboard page is written from these files. Nothing else decides a verdict.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ..checkpoints.named import named
from .rules import RULES, STATEMENTS, beside_noise, digest, judge

MAX_NAME = 80
"""Letters of a model's name in the name of a file, at most: file systems take 255 bytes."""


@dataclass(frozen=True)
class Finding:
    """One finding on one model, as measured.

    Attributes:
        id: "F1" to "F14".
        model: the model's name.
        statement: the claim.
        metric: what ``value`` is, in words.
        value: what the verdict rests on; None where there was nothing to measure (``details["reason"]`` says why).
        interval: the 95 % limits of ``value``; None where the value is a census and has none.
        null: the same metric on the noise control; None where there is no control.
        rule: the rule in words.
        verdict: one of `lfmlib.findings.VERDICTS`, by the second rules.
        provenance: where it comes from: checkpoint, revision, versions, commit, parameters, and the rules' hash.
        details: further figures that stand beside the value.
        first_verdict: what the first rules say, which did not judge the control; kept, never reckoned again.
        control_verdict: what the rule says of the control; None where there is none.

    Examples:
        >>> from lfmlib.findings import Finding
        >>> Finding.of("F1", "toy", {}, {}, value=0.6).verdict
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
    first_verdict: str | None = None
    control_verdict: str | None = None

    @classmethod
    def of(
        cls,
        id_: str,
        model: str,
        provenance: dict,
        details: dict,
        value: float | None = None,
        interval: tuple[float, float] | None = None,
        null: float | None = None,
        verdict: str | None = None,
        control: str | None = None,
        first: str | None = None,
    ) -> Finding:
        """A finding with the statement, the metric and the words of its rule.

        Args:
            id_: a key of `lfmlib.findings.RULES`.
            model, provenance, details, value, interval, null: as the attributes.
            verdict: None: as the rule judges the value, and "undecided" without a value.
            control: what the rule says of the control; None: as it judges ``null``.
            first: the verdict by the first rule (`lfmlib.findings.FIRST_RULES`); None: by the same rule.
        """
        rule = RULES[id_]
        if verdict is None:
            verdict = "undecided" if value is None else judge(rule, value, interval)
        if control is None and null is not None and not math.isnan(null):
            control = judge(rule, null)
        origin = provenance | {"rules": digest()}
        read_twice = beside_noise(verdict, control), origin, details, first or verdict, control
        return cls(id_, model, STATEMENTS[id_], rule.metric, value, interval, null, rule.text, *read_twice)


def write(finding: Finding, folder: str | Path = "_build/results") -> Path:
    """Write a finding as ``<id>-<model>.json``; an earlier one of the same claim and checkpoint is replaced.

    Args:
        finding: any.
        folder: where to write; made if it is not there.

    Returns:
        The path of the file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{finding.id}-{stem(finding.model, finding.provenance)}.json"
    known = asdict(finding) | {"details": _finite(finding.details)}
    text = json.dumps(known, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with whole(path) as partial:  # a path may be no UTF-8; JSON reads back what is escaped
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def _finite(details):
    """Details as JSON knows them: numbers are Python's, and a limit that is infinite, or not known, is null."""
    if isinstance(details, dict):
        return {name: _finite(one) for name, one in details.items()}
    if isinstance(details, list | tuple):
        return [_finite(one) for one in details]
    details = details.item() if isinstance(details, np.generic) else details
    return None if isinstance(details, float) and not math.isfinite(details) else details


def stem(model: str, provenance: dict) -> str:
    """How files of results on a model are called: its name, and a hash of what else tells checkpoints apart.

    Two folders of the same name are two models, and so are two revisions; what was measured beside another base, or on
    other tensors or a sample of them, is another result.
    """
    source, given = provenance.get("source", model), provenance.get("parameters", {})
    told = [] if source == model else [source]
    if named(source) is None:  # which is one file, always
        told.append(provenance.get("revision"))
    told += [given.get(name) for name in ("base", "base_revision", "select", "sample")]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model)
    told += [model] if len(name) > MAX_NAME else []
    apart = "\0".join(str(one) for one in told if one).encode(errors="backslashreplace")
    return f"{name[:MAX_NAME]}-{hashlib.sha256(apart).hexdigest()[:8]}" if apart else name


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` when it is whole, also while others write the same."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(folder: str | Path = "_build/results") -> list[Finding]:
    """All findings in a folder, in the order of the paper's claims, then by model, those trained in the lab last.

    Args:
        folder: where `write` put them.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a file is no finding.

    Examples:
        >>> import tempfile
        >>> from lfmlib.findings import Finding, load, write
        >>> finding = Finding.of("F1", "toy", {}, {}, value=0.9)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write(finding, folder)
        ...     print(path.name, load(folder)[0].verdict)
        F1-toy.json supported
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no results in {folder}: run a chapter, or `lfmlib report MODEL --results FOLDER`, first"
        )
    found = []
    for path in folder.glob("F*.json"):
        try:
            finding = _read(path)
        except (TypeError, ValueError, OSError) as error:
            raise ValueError(f"{path} is not a finding ({error}): delete it and run its chapter again") from error
        found.append(finding)
    order = list(STATEMENTS)
    return sorted(found, key=lambda finding: (order.index(finding.id), finding.model.startswith("lab "), finding.model))


def _read(path: Path) -> Finding:
    """The finding in a file. Raises TypeError, ValueError or OSError where there is none."""
    found = Finding(**json.loads(path.read_text(encoding="utf-8")))
    if found.id not in STATEMENTS or not isinstance(found.model, str):
        raise ValueError(f"id {found.id!r} and model {found.model!r}: expected F1 to F14, and a name")
    return found if found.interval is None else replace(found, interval=tuple(found.interval))
