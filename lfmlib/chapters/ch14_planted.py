"""Chapter 14's controls, read off its record `replacement`: noise that was planted or taken out, and models that know
nothing yet.
"""

from __future__ import annotations

import pandas as pd

from .. import findings
from ..experiments.replacement import PLANTED, PLANTED_SHARE
from ..structure.shrinkage import WAYS
from .ch14_bulk import BOUNDS, averaged, crossings, digits, gaps, mean_draw, narrow, part, replaceable
from .names import by_model, key, where
from .sentences import span, table

ANEW, TRAINED = "planted noise", "the weights as trained"
"""What is drawn anew, as the figure names it."""


def drawn_anew(record: pd.DataFrame) -> pd.DataFrame:
    """What it costs to draw planted noise anew, and as much of the model as it was, as a share of what it knows:
    columns model, drawn, mean, low, high, over runs."""
    rows = []
    for name, some in by_model(record):
        if len(found := _both(some)):
            for drawn, cost in found.items():
                mean, low, high = findings.over_runs(cost.dropna())
                rows.append({"model": name, "drawn": drawn, "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["model", "drawn", "mean", "low", "high"])


def _both(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """By seed what drawing anew costs, of one model: `ANEW`, of the gap that planting left, and `TRAINED`."""
    some = where(rows, what="planted")
    if some.empty:
        return {}
    share = PLANTED.get(key(rows), PLANTED_SHARE)
    anew = where(mean_draw(some, _gap(rows, some)), share=share)
    trained = where(averaged(rows, what="curve", rule="directions", stand_in="noise"), share=share)
    return {ANEW: anew.set_index("seed")["cost"], TRAINED: trained.set_index("seed")["cost"]}


def _gap(rows: pd.DataFrame, planted: pd.DataFrame) -> pd.Series:
    """What a model knows with noise planted in it, in nats, by seed; NaN where that is nothing."""
    prior = where(rows, what="model").groupby("seed")["prior"].first()
    gap = (prior - planted.dropna(subset=["own"]).set_index("seed")["own"]).dropna()
    return gap.where(gap > 0)


def planted(record: pd.DataFrame) -> pd.DataFrame:
    """The control whose answer is known: models in which noise was planted, asked again, in words."""

    def told(rows: pd.DataFrame) -> dict:
        some = where(rows, what="planted")
        if some.empty:
            return {}
        gap = _gap(rows, some)
        again = mean_draw(some, gap)
        share = PLANTED.get(key(rows), PLANTED_SHARE)
        draws = where(some, share=share)
        costs = draws["rise"] / draws["seed"].map(gap)
        how = {"what": "curve", "rule": "directions", "stand_in": "noise"}
        return {
            "energy planted": digits(some.groupby("seed")["planted"].first()),
            "left of the gap": findings.span(100 * gap / gaps(rows).reindex(gap.index), 0),
            "drawing it anew costs": f"{100 * costs.min():.1f} to {100 * costs.max():.1f}",
            "as much without planting": findings.span(
                100 * where(averaged(rows, **how), share=share).set_index("seed")["cost"], 1
            ),
            f"replaceable for {BOUNDS[1]:.0%}": part(crossings(again, BOUNDS[1])),
            "without planting": part(replaceable(rows, BOUNDS[1], **how)),
        }

    return narrow(table(by_model(record), told).T)


def shrunk(record: pd.DataFrame) -> pd.DataFrame:
    """What it costs to take the noise out, by way of shrinking, as a share of the gap, in words."""

    def cost(rows: pd.DataFrame, how: str) -> pd.Series:
        rises = where(rows, what="shrunk", how=how).set_index("seed")["rise"]
        return rises / gaps(rows).reindex(rises.index)

    columns = {f"{how} shrinkage costs": span(lambda rows, how=how: cost(rows, how), 0, times=100) for how in WAYS}
    energy = span(lambda rows: where(rows, what="shrunk", how="optimal").set_index("seed")["energy"], 0, times=100)
    return table(by_model(record), {"energy taken out by the optimal": energy} | columns)


def untrained(record: pd.DataFrame) -> str:
    """What models know before training, in a sentence."""
    said = []
    for name, rows in by_model(record, what="untrained"):
        above, rise = (rows["own"] - rows["prior"]).mean(), rows["rise"].mean()
        said.append(f"of the {name} {above:+.3f} nats, which fresh noise for all matrices changes by {rise:+.3f}")
    if not said:
        return ""
    return (
        f"Before training, the loss less that of knowing nothing is {'; '.join(said)}. So no share is given of an "
        "untrained model."
    )
