"""From a survey to a finding: the number each rule is applied to, and what stands beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from .findings import RULES, STATEMENTS, Finding, judge
from .lab.inits import UNLIKE

# -- F1 --------------------------------------------------------------------------------------------------------------

KL_BOUND = 0.02
"""F1: a matrix with at most so many `kl_bits` counts as Gaussian (just under a logistic distribution's 0.0206)."""
LEAST = 4096
"""Matrices with fewer elements are left out: noise itself scatters too far there."""
_TOO_SMALL = (
    f"No matrix with {LEAST:,} or more elements and a distribution to measure is neither embedding, head nor pooler."
)
APART = ("embed", "head", "pooler")
"""Roles reported apart: the paper's claim is about the matrices between them."""


def eligible(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a survey that findings on shares are about: enough elements, neither embedding nor head."""
    return table[(table["numel"] >= LEAST) & ~table["role"].isin(APART) & table["kl_bits"].notna()]


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """What a chapter's figures show: the eligible matrices; in a model too small to have any, every measurable one.

    Raises:
        ValueError: no matrix of the survey has a distribution at all.
    """
    rows = eligible(table) if len(eligible(table)) else table
    rows = rows[rows["kl_bits"].notna()]
    if rows.empty:
        raise ValueError(
            f"{table.attrs.get('source', 'the model')} has no floating-point matrix with two different values: nothing "
            "to measure. `lfmlib.survey(model).attrs['skipped']` says why each tensor was left out"
        )
    return rows


def left_out(table: pd.DataFrame) -> str:
    """What a survey did not measure, in a sentence: tensors by reason, and values that are no numbers."""
    reasons = pd.Series(list(table.attrs.get("skipped", {}).values()), dtype=object).value_counts()
    tensors = "; ".join(f"{count} × {reason}" for reason, count in reasons.items()) or "nothing"
    lost = int(table["nonfinite"].sum())
    if shapeless := int(table["kl_bits"].isna().sum()):
        tensors += f"; {shapeless} × constant, empty of numbers, or finer than can be resolved: not judged"
    return f"Left out: {tensors}." + (f" **{lost:,} values are infinite or NaN** and not counted." if lost else "")


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
    details = {"reason": _TOO_SMALL} if body.empty else _f1_details(body, hits, control)
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


# -- F2 --------------------------------------------------------------------------------------------------------------

ENOUGH = 0.8
"""Share of a model's parameters that must have become Gaussian for a start to count as forgotten."""


def over_runs(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent runs and its Student-t interval; NaN as limits where there are fewer than two.

    Values that are all equal have an interval of no width: that is what the runs say, not that there is no doubt.
    """
    values = np.asarray(values, dtype=float)
    mean = values.mean()
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def shares_by_start(rows: pd.DataFrame) -> pd.DataFrame:
    """The share of Gaussian parameters before and after training, for every start.

    Args:
        rows: of one model trained in one way, from the record `initialization`; all its seeds.

    Returns:
        Index: start. Columns: before, after (means over seeds), low, high (95 % limits of after, within 0 and 1), runs.

    Raises:
        ValueError: a training has no end, or a share is NaN, or a seed is there twice.
    """
    found = {}
    for start, some in rows.groupby("start", sort=False):
        end = some[some["step"] == some["steps"]]
        after = end["share"]
        if len(end) < some["seed"].nunique() or end["seed"].duplicated().any() or after.isna().any():
            raise ValueError(f"the trainings from {start} are not one whole run a seed: measure the record again")
        mean, low, high = over_runs(after)
        limits = np.clip([low, high], 0, 1)
        found[start] = {
            "before": some.loc[some["step"] == 0, "share"].mean(),
            **{"after": mean, "low": limits[0], "high": limits[1], "runs": len(after)},
        }
    return pd.DataFrame.from_dict(found, orient="index")


def f2(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F2 from the trainings of one model in one way (see `shares_by_start`).

    The value counts the unlike starts whose mean share is at least `ENOUGH`; its interval counts those whose lower
    limit is, and those whose upper limit is. The null is the same count before the first step.

    Raises:
        ValueError: an unlike start is missing, or was run only once.
    """
    shares = shares_by_start(rows)
    if missing := [start for start in UNLIKE if start not in shares.index or shares.loc[start, "runs"] < 2]:
        raise ValueError(f"F2 needs at least two runs from every unlike start; {model} lacks {', '.join(missing)}")
    unlike, controls = shares.loc[list(UNLIKE)], shares.drop(list(UNLIKE))
    value, low, high, null = (float((unlike[name] >= ENOUGH).sum()) for name in ("after", "low", "high", "before"))
    last = rows[rows["step"] == rows["steps"]]
    return Finding(
        id="F2",
        model=model,
        statement=STATEMENTS["F2"],
        metric="non-Gaussian starts from which ≥ 80 % of the parameters became Gaussian",
        value=value,
        interval=(low, high),
        null=null,
        rule=RULES["F2"].text,
        verdict=judge(RULES["F2"], value, (low, high)),
        provenance=provenance,
        details={
            "shares": {start: [row.after, row.low, row.high] for start, row in unlike.iterrows()},
            "controls": {start: [row.after, row.low, row.high] for start, row in controls.iterrows()},
            "runs_each": int(shares["runs"].min()),
            "moved": {start: float(some["moved"].mean()) for start, some in last.groupby("start", sort=False)},
            "score": float(last["score"].mean()),
            "trivial_score": float(last["trivial"].mean()),
        },
    )


# -- F3 --------------------------------------------------------------------------------------------------------------


def f3(
    table: pd.DataFrame,
    noise: pd.DataFrame,
    model: str,
    others: list[Finding],
    grown: Sequence[str],
    provenance: dict,
) -> Finding:
    """Finding F3 from a survey and its noise twin.

    A shape found in this model counts for certain once another model has it too: until then the interval reaches from
    the number of shapes that others confirm to the number seen here, and the verdict may stay undecided.

    Args:
        table, noise: of the model.
        model: its name.
        others: the findings F3 of other models.
        grown: the shapes that lab models grew in training (see `lfmlib.lab.initialization.shapes_grown`).
        provenance: of the model.
    """
    body = eligible(table)
    control = noise[noise["tensor"].isin(body["tensor"])]
    seen = shapes_found(body)
    elsewhere = {name for other in others if other.model != model for name in other.details.get("found", [])} | {*grown}
    confirmed = [name for name in seen if name in elsewhere]
    counts = body["label"].value_counts()
    rule, interval = RULES["F3"], (float(len(confirmed)), float(len(seen)))
    return Finding(
        id="F3",
        model=model,
        statement=STATEMENTS["F3"],
        metric="named shapes in at least two matrices (in brackets: confirmed by other models so far, and at most)",
        value=None if body.empty else float(len(seen)),
        interval=None if body.empty else interval,
        null=None if body.empty else float(len(shapes_found(control))),
        rule=rule.text,
        verdict="undecided" if body.empty else judge(rule, len(seen), interval),
        provenance=provenance,
        details={
            "found": seen,
            "confirmed_elsewhere": confirmed,
            "grown_in_the_lab": list(grown),
            "labels": {name: int(count) for name, count in counts.items()},
            "noise_labels": {name: int(count) for name, count in control["label"].value_counts().items()},
        }
        | ({"reason": _TOO_SMALL} if body.empty else {}),
    )


def shapes_found(body: pd.DataFrame) -> list[str]:
    """The named shapes other than the Gaussian that at least two of the rows have."""
    counts = body["label"].value_counts()
    return [name for name in ("sharp", "inverted-t", "linear") if counts.get(name, 0) >= 2]
