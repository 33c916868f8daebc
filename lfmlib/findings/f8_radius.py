"""F8: transformation weights broaden the acceptable deviation from the optimal weights."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from .finding import Finding
from .rules import RULES, judge
from .runs import over_runs


def log_ratios(rows: pd.DataFrame, which: str = "tuned", kind: str = "matrix", head: str | None = None) -> pd.Series:
    """Logarithm of a model's noise radius over that of its base, by seed: means over the draws that both share.

    Args:
        rows: part "radius", or one protocol, of the record `radius`, of one model and one task.
        which: the model: "tuned", or "random", the base plus noise of the size of ΔW.
        kind: of the noise that is added: one of `lfmlib.tolerance.KINDS`.
        head: the head that the radii were measured with; None: the one that the first rule rests on (any but "timid").

    Returns:
        Index: seed. Draws in which either radius is zero or infinite are left out.
    """
    same = rows[(rows["kind"] == kind) & ((rows["head"] != "timid") if head is None else (rows["head"] == head))]
    table = same.pivot_table(index=["seed", "draw"], columns="which", values="radius")
    if which not in table or "base" not in table:
        return pd.Series(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = pd.Series(np.log(table[which]) - np.log(table["base"]))
    return logs[np.isfinite(logs)].groupby("seed").mean()


def geometric_mean(logs: pd.Series) -> tuple[float, float, float]:
    """Geometric mean over independent runs, and its 95 % limits.

    Args:
        logs: natural logarithms, one for each run.
    """
    mean, low, high = (math.exp(one) for one in over_runs(logs))
    return mean, low, high


def f8_judged(logs: pd.Series) -> str:
    """The verdict of F8 on logarithms of ratios, one for each run.

    "supported" where the ratio is above 1 beyond its interval, "partly" where it is above 1; where it is not,
    "undecided" as long as the interval reaches above 1, and "contradicted" otherwise.
    """
    value, low, high = geometric_mean(logs)
    if low > 1:
        return "supported"
    if value > 1:
        return "partly"
    return "undecided" if high > 1 else "contradicted"


def by_protocol(rows: pd.DataFrame, which: str = "tuned") -> pd.DataFrame:
    """Radius of a model over that of its base, by protocol.

    Args:
        rows: part "protocols" of the record `radius`, of one model.
        which: as for `log_ratios`.

    Returns:
        A row for each protocol in which every run has a radius of both models: task ("new", which it was tuned for, or
        "old"), head, unit (one of `lfmlib.experiments.radius.UNITS`), and the ratio's geometric mean, low and high over
        runs. ``attrs["undefined"]`` counts the others.
    """
    found, undefined = [], 0
    old = rows["judged_on"] != rows["task"]
    protocols = rows.assign(task=np.where(old, "old", "new"), head=rows["head"].astype(object).fillna(""))
    for (task, head, unit), some in protocols.groupby(["task", "head", "unit"], sort=False):
        logs = log_ratios(some, which, head=str(head))
        if len(logs) > 1 and len(logs) == some["seed"].nunique():
            found.append((task, head, unit, *geometric_mean(logs)))
        else:
            undefined += 1
    table = pd.DataFrame(found, columns=["task", "head", "unit", "ratio", "low", "high"])
    table.attrs["undefined"] = undefined
    return table


def share_of_protocols(protocols: pd.DataFrame) -> tuple[float, tuple[float, float]]:
    """Share of protocols in which a ratio is above 1 beyond its interval; and its limits, which reach from there to the
    share of those in which it is not below 1 beyond it.

    Args:
        protocols: from `by_protocol`, of at least one row.
    """
    value = float((protocols["low"] > 1).mean())
    return value, (value, float((protocols["high"] > 1).mean()))


def f8_over_runs(rows: pd.DataFrame, model: str, provenance: dict) -> Finding:
    """Finding F8 of a model fine-tuned several times: by how many of the protocols the fine-tune stands more noise.

    The first rule knows one protocol, the noise in standard deviations of each model's own matrices on the task it was
    tuned for, with fitted heads; its verdict is that of `f8_judged`, "undecided" where a run has no radius to compare.

    Args:
        rows: parts "radius" and "protocols" of the record `radius`, of one model.
        model: its name.
        provenance: of the record.

    Raises:
        ValueError: fewer than two seeds.
    """
    protocols = rows[rows["part"] == "protocols"]
    own = rows[(rows["part"] == "radius") & (rows["judged_on"] == rows["task"])]
    if min(own["seed"].nunique(), protocols["seed"].nunique()) < 2:
        raise ValueError(f"F8 of {model} needs at least two runs: measure the record")
    table, control = by_protocol(protocols), by_protocol(protocols, "random")
    logs = log_ratios(own)
    if table.empty or len(logs) < 2:
        reason = "Base or fine-tune is no better than the class frequencies."
        return Finding.of("F8", model, provenance, {"reason": reason})
    first = f8_judged(logs) if len(logs) == own["seed"].nunique() else "undecided"
    value, interval = share_of_protocols(table)
    parts = {
        "W stands more noise in": f"{(table['low'] > 1).sum()} of {len(table)} protocols",
        "less in": f"{(table['high'] < 1).sum()}",
        "W / W₀": f"{table['ratio'].min():.2f} to {table['ratio'].max():.2f}",
        "by the first rule": _span(logs),
    }
    details = {"parts": parts, "runs": len(logs), "undefined": int(table.attrs["undefined"])}
    noise, judged = None, None
    if len(control):
        noise, limits = share_of_protocols(control)
        judged = judge(RULES["F8"], noise, limits)
    return Finding.of("F8", model, provenance, details, value, interval, noise, control=judged, first=first)


def _span(logs: pd.Series) -> str:
    value, low, high = geometric_mean(logs)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def f8(model: str, provenance: dict) -> Finding:
    """Finding F8 of one pair: not judged, since a radius takes the loss of the task that the model was tuned for."""
    reason = (
        "The noise radius is about a loss: it takes the task that the model was tuned for, and fine-tunes of five "
        "seeds. `lfmlib.tolerance.radius` measures it for any loss."
    )
    return Finding.of("F8", model, provenance, {"reason": reason})
