"""What chapter 14 reads off its record `replacement`: what of the weights noise can stand for.

Every function takes rows of the record (see `lfmlib.experiments.replacement.run`). The *gap* is what a model knows: the
loss of knowing nothing but frequencies less its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from .. import findings
from ..findings.runs import whole_mean
from ..losses import replace
from .names import by_model, where
from .sentences import MISSING, mean, runs, span, table, worded

BOUNDS = (0.01, 0.1)
"""Shares of the gap that replacing a part may cost; by the first the part is called replaceable."""
LEAST = 0.1
"""Share of the directions that is called the least."""
STAND_INS = {
    "noise": "fresh noise",
    "rotated": "random directions",
    "permuted": "permuted",
    "sizes": "sizes, random signs",
    "signs": "signs, one size",
    "zero": "nothing",
    replace.CONTROL: "noise on top of all (control)",
}
"""Stand-ins as tables and figures name them."""
DRAWN = ("noise", "zero", "rotated", "signs", replace.CONTROL)
"""Those that the figure shows; the others stand in a table."""
ROLE_COLUMNS = {"role": "role", "depth": "part of the depth"}
"""Headings of `groups`."""


def gaps(rows: pd.DataFrame) -> pd.Series:
    """The gap in nats, by seed, of rows of one model; NaN where it knows no more than frequencies."""
    own = where(rows, what="model").groupby("seed")[["own", "prior"]].first()
    gap = own["prior"] - own["own"]
    return gap.where(gap > 0)


def asked(record: pd.DataFrame) -> pd.DataFrame:
    """What the models are asked, and what they know, in words."""
    columns = {
        "asked": lambda rows: rows["task"].iloc[0],
        "runs": lambda rows: f"{runs(rows)}",
        "own loss, nats": mean(lambda rows: where(rows, what="model").groupby("seed")["own"].first(), ".2f"),
        "knowing nothing": mean("prior", ".2f"),
        "gap": mean(gaps, ".2f"),
    }
    return table(by_model(record), columns)


def part(found: pd.DataFrame) -> str:
    """Shares from `replaceable` in words, in per cent: mean and interval over runs, to two digits; or "< x", where even
    the least part that was tried costs more."""
    if found.empty or found["value"].isna().any():
        return MISSING
    if (found["low"] == 0).all():
        return f"< {_two(100 * found['high'].mean())}"
    return digits(found["value"])


def digits(values: pd.Series) -> str:
    """Shares of runs in per cent, mean and interval, to two digits; they lie between nothing and all."""
    mean, *ends = (_two(100 * min(max(one, 0.0), 1.0)) for one in findings.over_runs(values) if one == one)
    return f"{mean} [{', '.join(ends)}]" if ends else f"{mean} (one run)"


def _two(value: float) -> str:
    """Two digits of a number."""
    return f"{float(f'{value:.2g}'):g}"


def averaged(rows: pd.DataFrame, **settings) -> pd.DataFrame:
    """Curves of one model and setting, draws averaged: seed, share, replaced, energy, and ``cost``, the rise of the
    loss as a share of the gap."""
    some = where(rows, **settings)
    return mean_draw(some, gaps(rows))


def mean_draw(rows: pd.DataFrame, gap: pd.Series) -> pd.DataFrame:
    """Curves with draws averaged; a draw whose loss overflowed is not left out."""
    each = rows.groupby(["seed", "share"])[["replaced", "energy", "rise"]]
    found = each.agg(whole_mean).reset_index()
    return found.assign(cost=found["rise"] / found["seed"].map(gap))


def curves(record: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Model → stand-in, as the figure names it → rows of `averaged`, of directions."""
    found = {}
    for name, rows in by_model(record):
        each = {STAND_INS[one]: averaged(rows, what="curve", rule="directions", stand_in=one) for one in DRAWN}
        if each := {one: some for one, some in each.items() if len(some)}:
            found[name] = each
    return found


def points(record: pd.DataFrame) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The lines of that figure for `lfmlib.book.notebook.explore`: energy replaced, and share of the gap left."""
    return {
        model: {
            name: [
                (float(f"{one.energy:.4g}"), round(1 - one.cost, 4))
                for one in rows.groupby("share")[["energy", "cost"]].mean().itertuples()
            ]
            for name, rows in each.items()
        }
        for model, each in curves(record).items()
    }


def replaceable(rows: pd.DataFrame, bound: float, of: str = "energy", **settings) -> pd.DataFrame:
    """By seed the largest part that can be replaced for a share of the gap (see `lfmlib.replace.replaceable`).

    Args:
        rows: of one model.
        bound: one of `BOUNDS`.
        of: "energy", or "replaced": the share of directions, entries, ….
        settings: of the rows that are looked at: ``what``, and by which rule and stand-in.

    Returns:
        Columns: value, low and high; NaN where there is no gap.
    """
    return crossings(averaged(rows, **settings), bound, of)


def crossings(found: pd.DataFrame, bound: float, of: str = "energy") -> pd.DataFrame:
    """The same of curves with draws averaged, from `mean_draw`."""
    gapless = (found["cost"].isna() & found["rise"].notna()).groupby(found["seed"]).any()
    known = found.assign(draw=found["seed"], rise=found["cost"])  # NaN, of a loss that overflowed, exceeds any bound
    values = replace.replaceable(known, bound, of).rename(columns={of: "value"}).rename_axis("seed")
    return values.mask(gapless, math.nan)


def foretold(rows: pd.DataFrame, of: str = "energy") -> pd.Series:
    """By seed what the edge of Marchenko and Pastur's law calls noise: its share of the energy, or of directions."""
    return where(rows, what="edge", stand_in="noise").set_index("seed")[of]


def edge_cost(rows: pd.DataFrame, stand_in: str = "noise") -> pd.Series:
    """By seed what it costs to replace all that lies below the edge, as a share of the gap."""
    rises = where(rows, what="edge", stand_in=stand_in).set_index("seed")["rise"]
    return rises / gaps(rows).reindex(rises.index)


def shares(record: pd.DataFrame) -> pd.DataFrame:
    """For a picture: by model and mark the share of the energy, its mean over runs and interval."""
    marks: dict[str, Callable[[pd.DataFrame], pd.Series]] = {"looks like noise": foretold} | {
        f"can be noise, for {100 * bound:.0f} %": lambda rows, bound=bound: replaceable(
            rows, bound, what="curve", rule="directions", stand_in="noise"
        )["value"]
        for bound in BOUNDS
    }
    found = []
    for name, rows in by_model(record):
        for mark, figure in marks.items():
            if len(values := figure(rows).dropna()):
                share, low, high = findings.over_runs(values)
                ends = (
                    {"low": max(low, 0.0), "high": min(high, 1.0)} if len(values) > 1 else {"low": share, "high": share}
                )
                found.append({"model": name, "mark": mark, "share": share, **ends})
    return pd.DataFrame(found)


def shown(record: pd.DataFrame) -> pd.DataFrame:
    """The noise-replaceable share of every model in words, in per cent, beside what the edge foretells."""

    def found(bound: float, of: str):
        how = {"what": "curve", "rule": "directions", "stand_in": "noise"}
        return worded(part, lambda rows: replaceable(rows, bound, of, **how))

    columns = {
        "energy below the edge": span(foretold, 0, times=100),
        "replacing that costs, of the gap": span(edge_cost, 0, times=100),
        "leaving it out costs": span(lambda rows: edge_cost(rows, "zero"), 0, times=100),
        "as long a step on top of all": span(lambda rows: edge_cost(rows, replace.CONTROL), 0, times=100),
        **{f"energy replaceable for {bound:.0%}": found(bound, "energy") for bound in BOUNDS},
        **{f"directions replaceable for {bound:.0%}": found(bound, "replaced") for bound in BOUNDS},
    }
    return narrow(table(by_model(record), columns).T)


def narrow(words: pd.DataFrame) -> pd.DataFrame:
    """A table without a word on models that were asked once: how often each was, stands in `asked`."""
    return words.map(lambda cell: cell.removesuffix(" (one run)"))


def beside_control(record: pd.DataFrame) -> str:
    """What the least directions cost, replaced by noise, by nothing, and as long a step on top of all, by model."""
    said = [
        f"The least {LEAST:.0%} of the directions, replaced by noise, by nothing, and as long a step on top of all, "
        "cost, of the gap; then the fewest directions that were drawn anew:",
        "",
    ]
    few = {name: averaged(rows, what="curve", rule="directions", stand_in="noise") for name, rows in by_model(record)}
    for name, costs in least(record).items():
        first = few[name].groupby("share").mean().iloc[0]
        fewest = f"{first['replaced']:.2%}, with {100 * first['energy']:.2g} % of the squared weights"
        of = ", ".join(percent(cost.mean()) for cost in costs.values())
        said.append(f"- {name}: {of}; {fewest}, cost {percent(first['cost'])}")
    return "\n".join(said)


def least(record: pd.DataFrame) -> dict[str, dict[str, pd.Series]]:
    """Model → stand-in → what it costs to replace the least directions, by seed."""
    found = {}
    for name, rows in by_model(record):
        each = {
            one: where(averaged(rows, what="curve", rule="directions", stand_in=one), share=LEAST)
            for one in ("noise", "zero", replace.CONTROL)
        }
        if all(len(some) for some in each.values()):
            found[name] = {one: some.set_index("seed")["cost"] for one, some in each.items()}
    return found


def by_rule(record: pd.DataFrame) -> pd.DataFrame:
    """How many entries, rows, columns or blocks can be noise, or zero, for a tenth of the gap, in words."""
    found = {}
    for name, rows in by_model(record):
        for rule in where(rows, what="curve")["rule"].drop_duplicates():
            words = {}
            for stand_in in ("noise", "zero"):
                how = {"what": "curve", "rule": rule, "stand_in": stand_in}
                words[STAND_INS[stand_in]] = part(replaceable(rows, BOUNDS[1], "replaced", **how))
            found[f"{name}, {rule}"] = words
    return pd.DataFrame.from_dict(found, orient="index")


def by_stand_in(record: pd.DataFrame) -> pd.DataFrame:
    """What of the gap is left when half of the directions are replaced, by stand-in, in words."""

    def left(rows: pd.DataFrame, stand_in: str) -> pd.Series:
        some = averaged(rows, what="curve", rule="directions", stand_in=stand_in)
        return 1 - where(some, share=0.5).set_index("seed")["cost"]

    columns = {word: span(lambda rows, one=one: left(rows, one), 0, times=100) for one, word in STAND_INS.items()}
    return narrow(table(by_model(record), columns).T)


def tenths(record: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Model → stand-in → rows with seed, ``place`` of the tenth of the directions that is replaced, from 1, the least,
    its energy, and its ``cost``, a share of the gap."""
    found = {}
    for name, rows in by_model(record):
        some = {one: averaged(rows, what="tenth", stand_in=one) for one in ("noise", "zero")}
        if len(some["noise"]):
            found[name] = {
                STAND_INS[one]: each.assign(place=(10 * each["share"]).round() + 1) for one, each in some.items()
            }
    return found


def of_tenths(record: pd.DataFrame) -> str:
    """What the least tenth of the directions costs among all ten, replaced by noise or by nothing: a line a model."""
    said = ["The least tenth costs, in the mean over runs:", ""]
    for name, each in tenths(record).items():
        costs = {one: rows.groupby("place")["cost"].mean() for one, rows in each.items()}
        words = [
            f"{percent(cost.iloc[0])} replaced by {one} (number {int(cost.rank(ascending=False).iloc[0])} of ten)"
            for one, cost in costs.items()
        ]
        said.append(f"- {name}: {', '.join(words)}")
    return "\n".join(said)


def met(record: pd.DataFrame) -> pd.DataFrame:
    """What the least and the largest tenth of the directions hold, meet and carry, in words."""

    def told(rows: pd.DataFrame) -> dict:
        words = {}
        for share, name in ((0.0, "least"), (0.9, "largest")):
            some = where(rows, share=share)
            energy = where(some, what="tenth", stand_in="zero")["energy"].mean()
            found = where(some, what="met")[["met", "carried"]].mean()
            words |= {
                f"{name} tenth, of squared weights": f"{energy:.1%}",
                f"{name} tenth, inputs along it": f"{found['met']:.1f} ×",
                f"{name} tenth, of squared outputs": f"{found['carried']:.1%}",
            }
        return words

    return table(((name, rows) for name, rows in by_model(record) if "met" in set(rows["what"])), told).T


def groups(record: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of the matrices of one role, or of some layers, replaced alone: the noise-replaceable share at a hundredth of the
    model's gap, and what the edge foretells, in per cent of their energy, in words.

    Args:
        by: "role", or "depth": the layers in as many parts as the record has, from the first.
    """
    found: dict[str, dict[str, str]] = {}
    for name, rows in by_model(record):
        some = where(rows, what="group", by=by)
        for place, group in enumerate(some["group"].drop_duplicates(), start=1):
            one = where(some, group=group)
            edge = one.loc[one["share"].isna(), "energy"]
            one = one.assign(share=one["share"].fillna(one["replaced"]))  # a point of the curve as well
            alone = replaceable(pd.concat([where(rows, what="model"), one]), BOUNDS[0], what="group")
            words = f"{part(alone).removesuffix(' (one run)')} / {100 * edge.mean():.0f}"
            found.setdefault(group if by == "role" else str(place), {})[name] = words
    return pd.DataFrame.from_dict(found, orient="index").fillna(MISSING).rename_axis(ROLE_COLUMNS[by]).reset_index()


def percent(value: float) -> str:
    """A share to a tenth of a per cent; nothing has no sign."""
    return f"{value:.1%}".replace("-0.0%", "0.0%")
