"""Chapter 14 in words: the answer, and what is taken from the chapter, read off its records."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from .. import findings
from ..findings import markup
from ..losses import replace
from .ch14_bulk import BOUNDS, edge_cost, foretold, least, part, percent, replaceable
from .ch14_planted import ANEW, TRAINED, drawn_anew
from .names import by_model

MUCH = 0.1
"""Share of the squared weights from which noise stands for a part of a model worth the name."""


def answer(record: pd.DataFrame, more: str = "") -> list[str]:
    """In short what came out; then what the picture of an optimum and noise foretells, what was seen, and what follows.

    Args:
        record: rows of `replacement`.
        more: what else follows.
    """
    known = {name: rows for name, rows in by_model(record) if len(foretold(rows)) and len(edge_cost(rows).dropna())}
    if not known:
        return ["Nothing has been measured yet."]
    return [
        _in_short(known),
        "**Foretold.** If weights were an optimum of few directions and Gaussian noise, all that lies below the edge "
        f"of noise could be drawn anew for nothing: {_each(known, foretold)} of the squared weights.",
        "**Seen.** That costs, of what each knows (beyond 100 %: worse than guessing), "
        f"{_each(known, edge_cost)} (as long a step on top of all weights: "
        f"{_each(known, lambda rows: edge_cost(rows, replace.CONTROL))}).",
        f"**Follows.** {_follows(known)} {_of_least(record)}{more}",
    ]


def _in_short(known: dict[str, pd.DataFrame]) -> str:
    """Of how much of the weights noise can take the place for a hundredth of what a model knows."""
    each = {name: replaceable(rows, BOUNDS[0], what="curve", rule="directions", stand_in="noise")
            for name, rows in known.items()}  # fmt: skip
    much = [found["value"].mean() >= MUCH for found in each.values()]
    lead = "Much" if all(much) else "It depends on the model" if any(much) else "Little"
    shares = {name: _short(found).replace("< ", "<\u00a0") for name, found in each.items()}
    first, *rest = shares
    said = [f"{shares[first]}\u00a0% of the squared weights ({first})"]
    said += [f"{shares[name]}\u00a0% ({name})" for name in rest]
    alike = sorted(100 * foretold(rows).mean() for rows in known.values())
    said, ends = markup.enumerated(said), markup.ends(*(f"{one:.0f}" for one in (alike[0], alike[-1])))
    return (
        f"**{lead}.** For 1 % of what a model knows, noise can stand for {said}. Of the squared weights {ends}\u00a0% "
        "look like noise."
    )


def takeaways(record: pd.DataFrame, residuals: str) -> str:
    """Three sentences: what drawing the bulk anew costs, whether planted noise is seen, and what fine-tunes say.

    Args:
        record: rows of `replacement`.
        residuals: the third, from `lfmlib.chapters.ch14_soups.beside_noise`.
    """
    return "\n".join(f"- {one}" for one in (_of_bulk(record), _of_control(record), residuals))


def _of_bulk(record: pd.DataFrame) -> str:
    known = {name: edge_cost(rows).mean() for name, rows in by_model(record) if len(edge_cost(rows).dropna())}
    if not known:
        return "What it costs to draw the bulk anew was **not measured**."
    low, high = min(known, key=known.get), max(known, key=known.get)
    ends = markup.ends(*(f"**{100 * known[one] + 0:.0f} %** ({one})" for one in (low, high)))
    return f"To draw anew all that looks like noise costs {ends} of what a model knows."


def _of_control(record: pd.DataFrame) -> str:
    found = drawn_anew(record)
    if found.empty:
        return "Whether noise would be seen where it is planted was **not measured**."
    name = found["model"].iloc[0]
    anew, trained = (
        found.loc[(found["model"] == name) & (found["drawn"] == drawn), ["mean", "low", "high"]].iloc[0]
        for drawn in (ANEW, TRAINED)
    )
    apart = anew["mean"] < trained["mean"] - BOUNDS[0] and not anew["high"] >= trained["low"]  # NaN: one run
    seen = "noise is seen where it is" if apart else "noise is **not told** from weights there"
    noise, weights = (findings.bracketed(*100 * one, 0, unit=" %") for one in (anew, trained))
    return (
        f"In {name}, drawing planted noise anew costs {noise} of the gap that planting leaves. As much of the trained "
        f"weights costs **{weights}** of the whole gap: {seen}."
    )


def _follows(known: dict[str, pd.DataFrame]) -> str:
    """What the costs of the bulk say of it, by model."""
    said = {
        "Below the edge of {} lies next to nothing.": [],
        "The bulk of {} is no noise, however much it looks like it.": [],
        "That of {} can be drawn anew for less than a tenth, and as much noise be put on top of all: tolerance.": [],
        "That of {} can be drawn anew for less than a tenth, as much noise on top costs more: it acts as noise.": [],
        "Of {} it is open: the interval of the cost holds a tenth.": [],
    }
    empty, dear, tolerant, noise, unclear = said.values()
    for name, rows in known.items():
        above, below = _beside(edge_cost(rows), BOUNDS[1])
        if foretold(rows).mean() < BOUNDS[1]:
            empty.append(name)
        elif above or not below:
            (dear if above else unclear).append(name)
        else:
            (tolerant if edge_cost(rows, replace.CONTROL).mean() <= BOUNDS[1] else noise).append(name)
    return " ".join(words.format(markup.enumerated(names)) for words, names in said.items() if names)


def _of_least(record: pd.DataFrame) -> str:
    """What the least directions are worth beside as long a step on top of all, by model; with a space behind."""
    said = []
    for name, costs in least(record).items():
        control = costs[replace.CONTROL]
        for one, words in (("zero", "left out"), ("noise", "drawn anew")):
            if _beside(costs[one] - control, BOUNDS[0])[0]:
                beside = f"{percent(costs[one].mean())} (as long a step on top of all {percent(control.mean())})"
                said.append(f"The least tenth of the directions of {name}, {words}, costs {beside}. ")
                break
    return "".join(said)


def _beside(costs: pd.Series, bound: float) -> tuple[bool, bool]:
    """Whether costs lie above a bound, and below it, with their interval over runs; of one run, itself."""
    mean, low, high = findings.over_runs(costs.dropna())
    low, high = (mean if math.isnan(end) else end for end in (low, high))
    return low > bound, high <= bound


def _short(found: pd.DataFrame) -> str:
    """`part` without its interval."""
    return part(found).partition(" [")[0].removesuffix(" (one run)")


def _each(known: dict[str, pd.DataFrame], figure: Callable[[pd.DataFrame], pd.Series]) -> str:
    """A share of each model, in per cent."""
    return ", ".join(f"{name} {100 * figure(rows).mean() + 0:.0f} %" for name, rows in known.items())
