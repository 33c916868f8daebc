"""F14: the insights help editing: amplifying outliers, on top of the usual ways of merging."""

from __future__ import annotations

from functools import partial

import pandas as pd

from ..merging.methods import METHODS
from .finding import Finding
from .shares import over_runs


def kept_score(rows: pd.DataFrame, method: str, arm: str) -> pd.Series:
    """Normalized test score of a merge, by run: the mean over the tasks of a set, and then over the sets.

    Args:
        rows: part "merged" of the record `editing`, of one model.
        method: one of `lfmlib.merging.methods.METHODS`.
        arm: see `lfmlib.experiments.amplifying.arms`.

    Returns:
        Index: seed.
    """
    some = rows[(rows["method"] == method) & (rows["arm"] == arm)]
    return some.groupby(["seed", "tasks"])["normalized"].mean().groupby("seed").mean()


def improvement(rows: pd.DataFrame, method: str, arm: str = "amplified", against: str = "plain") -> pd.Series:
    """Paired difference of `kept_score` between two arms, by run: what makes runs differ is the same in both."""
    return kept_score(rows, method, arm) - kept_score(rows, method, against)


def f14_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F14 of a model that was fine-tuned for several tasks, several times.

    The number judged is how many methods are better with their outliers amplified, the interval over runs of the paired
    difference being above 0; its bracket ends with the number of those whose interval reaches above 0, however little:
    so a small or no effect is undecided, and contradicted is what hurts. How much can be gained at most is said beside
    it. The null asks the same of a random set of entries of equal squared norm in the outliers’ place, tuned alike.

    Args:
        rows: part "merged" of the record `editing`, of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two runs.
    """
    if (runs := rows["seed"].nunique()) < 2:
        raise ValueError(f"F14 of {model} needs at least two runs: measure the record")
    methods = [method for method in METHODS if method in set(rows["method"])]
    both = {method: [improvement(rows, method), improvement(rows, method, "random")] for method in methods}
    if failed := [NAMES[method] for method, each in both.items() if any(one.isna().any() for one in each)]:
        return _finding(model, provenance, {"reason": f"Some runs of {', '.join(failed)} have no score."})
    spans = {method: over_runs(100 * both[method][0]) for method in methods}
    random = [over_runs(100 * both[method][1]) for method in methods]
    better, perhaps, chance = (
        float(sum(bound > 0 for bound in bounds))
        for bounds in (
            [low for _, low, _ in spans.values()],
            [high for *_, high in spans.values()],
            [low for _, low, _ in random],
        )
    )
    parts = {"largest gain left open": f"{max(high for *_, high in spans.values()):+.2f}"}
    parts |= {NAMES[method]: f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" for method, (mean, low, high) in spans.items()}
    details = {"parts": parts, "runs": int(runs), "sets": int(rows["tasks"].nunique())}
    return _finding(model, provenance, details, better, (better, perhaps), chance)


def f14(model: str, provenance: dict) -> Finding:
    """Finding F14 of a reader’s own models: not judged, since how good a merge is takes their tasks."""
    reason = (
        "How good a merge is takes the tasks of the models, held-out data, and fine-tunes of five seeds. "
        "`lfmlib.merge` makes both merges to compare."
    )
    return _finding(model, provenance, {"reason": reason})


NAMES = {
    "average": "average",
    "task_arithmetic": "task arithmetic",
    "ties": "TIES",
    "dare": "DARE",
    "dare_ties": "DARE-TIES",
    "nan": "NAN",
}
"""Methods, as they are printed."""
_finding = partial(
    Finding.of,
    "F14",
    "methods of merging that are better with outliers amplified, of six; beside it by how much, in points of the "
    "normalized score",
)
