"""What the figures of chapter 10 are drawn from, with intervals over runs, and its three sentences.

Every function takes rows of the record `optimal` (see `lfmlib.experiments.optimal.run`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pandas as pd

from .. import findings
from ..findings import Finding, markup
from ..losses.outliers import RANGES
from .ch10_optimal import each_model, own_loss, relative, wins
from .names import where

ARMS = {"magnitude": "smallest to zero", "noise": "noise of that size", "random": "random to zero"}
"""Ways of taking weights away, as the first figure names them."""
SETS = {"outliers": "outliers", "as large": "random, as large", "as many": "random, as many"}
"""Sets of entries that are zeroed, as figures name them."""
GROUPS = {
    "Gaussian": ("gaussian",),
    "Gaussian + outliers": ("gaussian+outliers",),
    "truncated Gaussian + outliers": ("truncated-gaussian+outliers",),
    "gen. Gaussian": ("generalized-gaussian", "truncated-generalized-gaussian"),
    "gen. Gaussian + outliers": ("generalized-gaussian+outliers", "truncated-generalized-gaussian+outliers"),
}
"""Laws, put together for a figure of their shares; the third is the claimed one. What is left is called other."""


def free(record: pd.DataFrame) -> pd.DataFrame:
    """Share of the weights that can go for one per cent of what a model knows: model, arm, mean, low, high."""
    shares = {name: partial(findings.free_share, arm=arm, of="gap") for arm, name in ARMS.items()}
    return _spans(each_model(record), shares, "arm", most=1.0)


def damage(record: pd.DataFrame) -> pd.DataFrame:
    """Relative rise of the loss, in per cent, when outliers are zeroed, and when random sets are: model, entries, mean,
    low, high."""

    def rise(rows: pd.DataFrame, entries: str) -> pd.Series:
        some = where(rows, what="damage", entries=entries, change="zeroed")
        return 100 * some.groupby("seed")["rise"].mean() / own_loss(rows)

    return _spans(each_model(record), {name: partial(rise, entries=one) for one, name in SETS.items()}, "entries")


def quantized(record: pd.DataFrame) -> pd.DataFrame:
    """Relative rise of the loss, in per cent, when weights are rounded to few bits: model, range, mean, low, high."""

    def rise(rows: pd.DataFrame, range_of: str) -> pd.Series:
        some = where(rows, what="quantized", range_of=range_of)
        return 100 * relative(some, rows).groupby("seed")["rise"].mean()

    return _spans(each_model(record), {one: partial(rise, range_of=one) for one in RANGES}, "range")


def _spans(
    models: Iterable[tuple[str, pd.DataFrame]],
    figures: dict[str, Callable[[pd.DataFrame], pd.Series]],
    lines: str,
    most: float = float("inf"),
) -> pd.DataFrame:
    """Means and intervals over runs; of shares they are cut at 0 and at ``most``."""
    found = []
    for model, rows in models:
        for name, figure in figures.items():
            mean, low, high = findings.over_runs(figure(rows).dropna())
            cut = (max(low, 0.0), min(high, most)) if most < float("inf") else (low, high)
            found.append((model, name, mean, *cut))
    return pd.DataFrame(found, columns=["model", lines, "mean", "low", "high"])


def shortest(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Share of the parameters for which the laws of `GROUPS` are the shortest, by model: of weights, and of pruned
    noise of the same sizes."""
    return {"weights": _grouped(wins(record)), "noise": _grouped(wins(record, column="noise_wins"))}


def _grouped(shares: pd.DataFrame) -> pd.DataFrame:
    sums = {name: shares.reindex(columns=list(laws), fill_value=0.0).sum(axis=1) for name, laws in GROUPS.items()}
    found = pd.DataFrame(sums, index=shares.index)
    return found.assign(other=(1 - found.sum(axis=1)).clip(lower=0))


def takeaways(found: dict[str, list[Finding]], record: pd.DataFrame) -> str:
    """What this run says of the four claims, in three sentences, as a list.

    Args:
        found: findings by id.
        record: the record.
    """
    return "\n".join(f"- {one}" for one in (_of_centre(found), _of_pruning(free(record)), _of_law(record)))


def _of_centre(found: dict[str, list[Finding]]) -> str:
    judged = [one for id_ in ("F9", "F10") for one in found[id_] if one.value is not None]
    if not judged:
        return "Mean and symmetry were not judged in this run."
    low, null = min(one.value for one in judged), [one.null for one in judged if one.null is not None]
    noise = f"; of noise, {100 * min(null):.0f} % do" if null else ""
    return f"In every model at least **{100 * low:.0f} %** of the weights pass as zero-mean and as symmetric{noise}."


def _of_pruning(free: pd.DataFrame) -> str:
    if free.empty:
        return "Pruning was not measured in this run."
    means = free.pivot(index="model", columns="arm", values="mean")
    own, noise = means[ARMS["magnitude"]], means[ARMS["noise"]]
    ends = markup.ends(*(f"{100 * end:.0f}" for end in (own.min(), own.max())))
    return (
        f"For 1 % of what a model knows **{ends} %** of the weights can go, smallest first; noise as large goes as far "
        f"or farther in {(noise >= own).sum()} of {len(own)} models."
    )


def _of_law(record: pd.DataFrame) -> str:
    laws = shortest(record)["weights"]
    if laws.empty:
        return "No law was measured in this run."
    most = laws["truncated Gaussian + outliers"].max()
    each = [findings.damage_ratio(rows)[:2] for _, rows in each_model(record)]
    worth = [ratio for ratio, low in each if low > 1]
    times = markup.ends(*(f"{one:.1f}" for one in (min(worth), max(worth)))) if worth else ""
    wins = f"at most **{100 * most:.0f} %**" if most >= 0.005 else "**none**"
    return (
        f"A truncated Gaussian with outliers is the shortest code for {wins} of a model’s weights; outliers cost more "
        f"than random sets as large in {len(worth)} of {len(each)} models{f', {times} times' if worth else ''}."
    )
