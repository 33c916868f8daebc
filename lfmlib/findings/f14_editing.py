"""F14: the insights help editing: amplifying outliers, on top of the usual ways of merging."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from .finding import Finding
from .readings import FIRST_RULES
from .rules import RULES, judge
from .runs import compared, over_runs, sides

METHOD_NAMES = {
    "average": "average",
    "task_arithmetic": "task arithmetic",
    "ties": "TIES",
    "dare": "DARE",
    "dare_ties": "DARE-TIES",
    "nan": "NAN",
}
"""Methods of merging that the finding is judged on, as they are printed."""


def kept_score(rows: pd.DataFrame, method: str, arm: str) -> pd.Series:
    """Normalized test score of a merge, by run: the mean over the tasks of a set, and then over the sets of tasks.

    Args:
        rows: part "merged" of the record `editing`, of one model.
        method: one of `METHOD_NAMES`.
        arm: see `lfmlib.experiments.amplifying.arms`.

    Returns:
        Index: seed.
    """
    some = rows[(rows["method"] == method) & (rows["arm"] == arm)]
    return some.groupby(["seed", "tasks"])["normalized"].mean().groupby("seed").mean()


def improvement(rows: pd.DataFrame, method: str, arm: str = "amplified", against: str = "plain") -> pd.Series:
    """`kept_score` of one arm less that of another, by run; both arms of a run merge the same fine-tunes.

    Args:
        rows, method, arm: as for `kept_score`.
        against: the other arm.
    """
    return kept_score(rows, method, arm) - kept_score(rows, method, against)


def f14_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F14 of a model that was fine-tuned for several tasks, several times.

    The value counts the methods that are better with their outliers amplified, than plain and than with a random set of
    entries of equal squared norm amplified in their place, its scale chosen in the same way (see
    `lfmlib.findings.runs.compared`); methods that give the same merges count once. Its interval ends with the number
    of those that may be. The largest gain that the intervals leave open stands beside it, and how many of the better
    methods are better than the plain merge made as large as the amplified one, too, which the rule does not ask. The
    null is the same count for the random set against the plain merge.

    Args:
        rows: part "merged" of the record `editing`, of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two runs.
    """
    if (runs := rows["seed"].nunique()) < 2:
        raise ValueError(f"F14 of {model} needs at least two runs: measure the record")
    methods = [method for method in METHOD_NAMES if method in set(rows["method"])]
    both = {method: [improvement(rows, method), improvement(rows, method, "random")] for method in methods}
    if failed := [METHOD_NAMES[method] for method, each in both.items() if any(one.isna().any() for one in each)]:
        reason = f"Some runs of {', '.join(failed)} have no score."
        return Finding.of("F14", model, provenance, {"reason": reason})
    if short := [METHOD_NAMES[method] for method, (one, _) in both.items() if len(one) < runs]:
        reason = f"Not every run has merges by {', '.join(short)}: measure the record."
        return Finding.of("F14", model, provenance, {"reason": reason})
    spans = {method: over_runs(100 * both[method][0]) for method in methods}
    first = [float(sum(one > 0 for one in ends)) for ends in zip(*(span[1:] for span in spans.values()), strict=True)]
    apart = distinct(rows)
    beside = {method: improvement(rows, method, against="random") for method in apart}
    found = compared({method: both[method][0] for method in apart}, beside)
    chance = compared({method: both[method][1] for method in apart})
    better, perhaps, placebo = (float(sum(one in some for one in given)) for given, some in (
        (found.values(), {"gain"}), (found.values(), {"gain", "open"}), (chance.values(), {"gain"})))  # fmt: skip
    rule = replace(RULES["F14"], supported=len(apart) // 2 + 1)
    largest = max(high for *_, high in spans.values())
    parts = {"largest gain left open": f"{largest:+.2f}"}
    larger = _beyond_all(rows, [method for method, one in found.items() if one == "gain"])
    if better and larger is not None:
        parts["of these, beyond all of ΔW made as large"] = f"{larger} of {better:.0f}"
    parts |= {
        METHOD_NAMES[method]: f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" for method, (mean, low, high) in spans.items()
    }
    parts["no gain in"] = (
        f"{list(found.values()).count('no gain') + list(found.values()).count('loss')} of {len(apart)}"
    )
    details = {
        "of": len(apart),
        "parts": parts,
        "largest_gain": largest,
        "runs": int(runs),
        "sets": int(rows["tasks"].nunique()),
        "methods": found,
        "beyond_all": larger,
    }
    return Finding.of(
        "F14", model, provenance, details, better, (better, perhaps), placebo, judge(rule, better, (better, perhaps)),
        judge(rule, placebo), judge(FIRST_RULES["F14"], first[0], (first[0], first[1])),
    )  # fmt: skip


def _beyond_all(rows: pd.DataFrame, methods: list[str]) -> int | None:
    """How many of these methods keep more with outliers amplified than with all of ΔW scaled to the same norm, beyond
    the interval; None where that was not tried."""
    larger = "as large as amplified"
    if larger not in set(rows["arm"]):
        return None
    return sides(over_runs(improvement(rows, method, against=larger)) for method in methods)[0]


def distinct(rows: pd.DataFrame) -> list[str]:
    """The methods whose merges differ, of one model: of those with the same scores in every run and arm, the first."""
    kept: dict[bytes, str] = {}
    for method in (name for name in METHOD_NAMES if name in set(rows["method"])):
        scores = [kept_score(rows, method, arm) for arm in ("plain", "amplified")]
        kept.setdefault(np.round(np.concatenate(scores), 9).tobytes(), method)
    return list(kept.values())


def f14(model: str, provenance: dict) -> Finding:
    """Finding F14 of a reader’s own models: not judged, since how good a merge is, only their tasks tell."""
    reason = (
        "How good a merge is takes the tasks of the models, held-out data, and fine-tunes of five seeds. "
        "`lfmlib.merge` makes both merges to compare."
    )
    return Finding.of("F14", model, provenance, {"reason": reason})
