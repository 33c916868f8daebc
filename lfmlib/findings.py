"""A finding's evidence, its rule and its verdict.

The rules are fixed in `RULES`, before the results: a chapter measures, `judge` applies the rule, `write` keeps the
finding as JSON, and the scoreboard page is written from those files. Nothing else decides a verdict.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

VERDICTS = ("supported", "partly", "contradicted", "undecided")

STATEMENTS = {
    "F1": "weights predominantly follow a Gaussian distribution",
    "F2": "they do so regardless of the initialization",
    "F3": "there are occasional sharp, inverted-T-shaped or linear patterns",
    "F4": "weights share the i.i.d. properties of Gaussian noise",
    "F5": "transformation weights can be derived from Gaussian noise",
    "F6": "transformation weights mainly increase the standard deviation",
    "F7": "the standard deviation of transformation weights grows with layer depth",
    "F8": "transformation weights broaden the acceptable deviation from the optimal weights",
    "F9": "optimal weights are zero-mean",
    "F10": "optimal weights are symmetric",
    "F11": "optimal weights are sparse",
    "F12": "their sparse values are a truncated Gaussian and a few outliers",
    "F13": "these insights help adaptation",
    "F14": "these insights help editing",
}
"""What the paper claims, shortened; the keys order the scoreboard."""

CHAPTERS = {"F1": "01_are_the_weights_gaussian"}
"""The chapter that measures each finding."""


@dataclass(frozen=True)
class Rule:
    """Bounds on one number, larger being better for the claim.

    Attributes:
        text: the rule in words, as printed.
        supported: the claim is supported from here on.
        partly: … and partly supported from here on; below, contradicted.
        unit: "%" for shares, printed as such.
    """

    text: str
    supported: float
    partly: float
    unit: str = ""


RULES = {
    "F1": Rule(
        "share of parameters in matrices with kl_bits ≤ 0.02: at least 80 % supported, at least 50 % partly",
        supported=0.8,
        partly=0.5,
        unit="%",
    ),
}


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


def judge(rule: Rule, value: float, interval: tuple[float, float] | None = None) -> str:
    """The verdict of a rule on a value: by the point estimate, unless the interval straddles the bound next to it.

    Raises:
        ValueError: the value is not a number; nothing was measured, so there is nothing to judge.
    """
    if math.isnan(value):
        raise ValueError("nothing was measured: the value is NaN, so no verdict can be given")
    if interval is not None:
        low, high = interval
        if any(low < bound <= high for bound in (rule.supported, rule.partly)):
            return "undecided"
    if value >= rule.supported:
        return "supported"
    return "partly" if value >= rule.partly else "contradicted"


# -- F1 --------------------------------------------------------------------------------------------------------------

KL_BOUND = 0.02
"""F1: a matrix with at most so many `kl_bits` counts as Gaussian (just under a logistic distribution's 0.0203)."""
LEAST = 4096
"""Matrices with fewer elements are left out: noise itself scatters too far there."""
APART = ("embed", "head", "pooler")
"""Roles reported apart: the paper's claim is about the matrices between them."""


def eligible(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a survey that findings on shares are about: enough elements, neither embedding nor head."""
    return table[(table["numel"] >= LEAST) & ~table["role"].isin(APART)]


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """What a chapter's figures show: the eligible matrices; in a model too small to have any, every measurable one.

    Raises:
        ValueError: no matrix of the survey has a distribution at all.
    """
    rows = eligible(table) if len(eligible(table)) else table
    rows = rows[rows["std"] > 0]
    if rows.empty:
        raise ValueError(
            f"{table.attrs.get('source', 'the model')} has no floating-point matrix with two different values: nothing "
            "to measure. `lfmlib.survey(model).attrs['skipped']` says why each tensor was left out"
        )
    return rows


def gaussian(table: pd.DataFrame, bound: float = KL_BOUND) -> pd.Series:
    """Which tensors are within ``bound`` bits of a Gaussian, or within the 97.5 % point of noise where that is more."""
    return table["kl_bits"] <= table["kl_bits_null_high"].clip(lower=bound)


def share(table: pd.DataFrame, hit: pd.Series, weight: str = "numel") -> float:
    """Share of the parameters of ``table`` that lie in the tensors where ``hit`` is true; NaN of an empty table."""
    total = table[weight].sum() if len(table) else 0
    return float(table.loc[hit, weight].sum() / total) if total else math.nan


def agreement(table: pd.DataFrame) -> pd.Series:
    """Spearman correlation of `kl_bits` with other distances from the Gaussian, over the rows of a survey."""
    others = pd.DataFrame(
        {
            "ks": table["ks"],
            "wasserstein": table["wasserstein"],
            "abs(gg_shape − 2)": (table["gg_shape"] - 2).abs(),
            "abs(excess kurtosis)": table["excess_kurtosis"].abs(),
        }
    )
    return others.corrwith(table["kl_bits"], method="spearman")


def f1(table: pd.DataFrame, noise: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F1 from a survey and its noise twin; not judged where no matrix is eligible."""
    body = eligible(table)
    control = noise[noise["tensor"].isin(body["tensor"])]
    hits, rule = gaussian(body), RULES["F1"]
    value = share(body, hits)
    if body.empty:
        details = {"reason": f"No matrix has {LEAST:,} or more elements and is neither embedding, head nor pooler."}
    else:
        details = _f1_details(body, hits, control)
    return Finding(
        id="F1",
        model=model,
        statement=STATEMENTS["F1"],
        metric="share of parameters in matrices with kl_bits ≤ 0.02",
        value=None if body.empty else value,
        interval=None,  # every matrix of the checkpoint is measured
        null=None if body.empty else share(control, gaussian(control)),
        rule=rule.text,
        verdict="undecided" if body.empty else judge(rule, value),
        provenance=provenance,
        details=details,
    )


def _f1_details(body: pd.DataFrame, hits: pd.Series, control: pd.DataFrame) -> dict:
    return {
        "matrices": len(body),
        "parameters": int(body["numel"].sum()),
        "share_of_matrices": float(hits.mean()),
        "share_at_0.05": share(body, gaussian(body, 0.05)),
        "kl_bits_median": float(body["kl_bits"].median()),
        "kl_bits_max": float(body["kl_bits"].max()),
        "tail_bits_median": float(body["tail_bits"].median()),
        "tail_bits_max": float(body["tail_bits"].max()),
        "noise_kl_bits_max": float(control["kl_bits"].max()),
    }


# -- files and the scoreboard ----------------------------------------------------------------------------------------


def write(finding: Finding, folder: str | Path = "_build/results") -> Path:
    """Write a finding as ``<id>-<model>.json`` and return the path; one model has one file for a finding."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{finding.id}-{re.sub(r'[^A-Za-z0-9._-]+', '-', finding.model)}.json"
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(asdict(finding), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def load(folder: str | Path = "_build/results") -> list[Finding]:
    """All findings in a folder, in the order of the paper's claims, then by model.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a file is no finding.
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
    return sorted(found, key=lambda finding: (order.index(finding.id), finding.model))


def scoreboard_markdown(findings: list[Finding]) -> str:
    """The scoreboard as Markdown: every claim and every model, nothing left out; unmeasured claims listed below."""
    lines = [
        "| | The paper says | Model | Verdict | Measured | Noise gives | Chapter |",
        "|---|---|---|---|---|---|---|",
    ]
    for finding in findings:
        verdict = (
            f'<b class="lfm-{finding.verdict}">{finding.verdict}</b>' if finding.value is not None else "*not judged*"
        )
        chapter = CHAPTERS[finding.id]
        lines.append(
            f"| {finding.id} | {STATEMENTS[finding.id]} | {finding.model} | {verdict} | {measured(finding)} "
            f"| {number(finding, finding.null)} | [{int(chapter[:2])}](../notebooks/{chapter}.ipynb) |"
        )
    waiting = [id_ for id_ in STATEMENTS if id_ not in {finding.id for finding in findings}]
    table = "\n".join(lines) if findings else "*Nothing has been measured yet.*"
    if not waiting:
        return table + "\n"
    listed = "\n".join(f"- **{id_}**: {STATEMENTS[id_]}" for id_ in waiting)
    return f"{table}\n\nNot measured yet:\n\n{listed}\n"


def measured(finding: Finding) -> str:
    """Value and interval as printed: "62 %" for a census, "0.41 [0.30, 0.52]" with its interval."""
    if finding.value is None:
        return finding.details.get("reason", "–")
    text = number(finding, finding.value)
    if finding.interval is None:
        return text
    return f"{text} [{number(finding, finding.interval[0])}, {number(finding, finding.interval[1])}]"


def number(finding: Finding, value: float | None) -> str:
    """A value as printed for a finding: a share in per cent with one decimal, anything else with three digits."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}\u00a0%" if RULES[finding.id].unit == "%" else f"{value:.3g}"
