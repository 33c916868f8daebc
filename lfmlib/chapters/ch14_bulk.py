"""What chapter 14 reads off its records, `replacement` and `soups`: what of the weights noise can stand for.

Functions of ``record`` take rows of `replacement` (see `lfmlib.experiments.replacement.run`), those of ``soups`` rows
of `soups` (see `lfmlib.experiments.soups.run`). The *gap* is what a model knows: the loss of knowing nothing but
frequencies less its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pandas as pd

from .. import findings
from ..experiments.replacement import PLANTED_LESS, PLANTED_SHARE
from ..losses import replace
from .names import SHORT, by_model, key, where
from .sentences import MISSING, listed, mean, runs, span, table, worded

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
"""Those that the figure shows; the others lie on the first."""
RESIDUALS = {"own": "own residual", "permuted": "permuted", "noise": "fresh noise"}
"""What is added to the mean of many fine-tunes, as tables name it."""
ROLE_COLUMNS = {"role": "role", "depth": "part of the depth"}
"""Headings of `groups`."""


def gaps(rows: pd.DataFrame) -> pd.Series:
    """The gap in nats, by seed; of rows of one model."""
    own = where(rows, what="model").groupby("seed")[["own", "prior"]].first()
    return own["prior"] - own["own"]


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


def part(values: pd.Series) -> str:
    """Shares of runs in per cent, with their mean and interval, to two digits: they lie between nothing and all."""
    if not len(values):
        return MISSING
    ends = [f"{100 * min(max(one, 0.0), 1.0):.2g}" for one in findings.over_runs(values) if not math.isnan(one)]
    return f"{ends[0]} [{ends[1]}, {ends[2]}]" if len(ends) == 3 else f"{ends[0]} (one run)"


def averaged(rows: pd.DataFrame, **settings) -> pd.DataFrame:
    """Curves of one model and setting, draws averaged: seed, share, replaced, energy, and ``cost``, the rise of the
    loss as a share of the gap."""
    some = where(rows, **settings)
    found = some.groupby(["seed", "share"])[["replaced", "energy", "rise"]].mean().reset_index()
    return found.assign(cost=found["rise"] / found["seed"].map(gaps(rows)))


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


def replaceable(rows: pd.DataFrame, bound: float, of: str = "energy", **settings) -> pd.Series:
    """By seed the largest part that can be replaced for a share of the gap (see `lfmlib.replace.replaceable`).

    Args:
        rows: of one model.
        bound: one of `BOUNDS`.
        of: "energy", or "replaced": the share of directions, entries, ….
        settings: of the rows that are looked at: ``what``, and by which rule and stand-in.
    """
    found = averaged(rows, **settings)
    each = {
        seed: replace.replaceable(some.assign(draw=0, rise=some["cost"]), bound, of)[of].item()
        for seed, some in found.groupby("seed")
    }
    return pd.Series(each, dtype=float)


def foretold(rows: pd.DataFrame, of: str = "energy") -> pd.Series:
    """By seed what the edge of Marchenko and Pastur's law calls noise: its share of the energy, or of directions."""
    return where(rows, what="edge", stand_in="noise").set_index("seed")[of]


def edge_cost(rows: pd.DataFrame, stand_in: str = "noise") -> pd.Series:
    """By seed what it costs to replace all that lies below the edge, as a share of the gap."""
    rises = where(rows, what="edge", stand_in=stand_in).set_index("seed")["rise"]
    return rises / gaps(rows).reindex(rises.index)


def shares(record: pd.DataFrame) -> pd.DataFrame:
    """For a picture: by model and mark the share of the energy, its mean over runs and interval."""
    marks: dict[str, Callable[[pd.DataFrame], pd.Series]] = {"foretold by the edge": foretold} | {
        f"{STAND_INS[stand_in]}, {bound:.0%} of the gap": lambda rows, stand_in=stand_in, bound=bound: replaceable(
            rows, bound, what="curve", rule="directions", stand_in=stand_in
        )
        for stand_in, bound in (("noise", BOUNDS[0]), ("noise", BOUNDS[1]), ("zero", BOUNDS[1]))
    }
    found = []
    for name, rows in by_model(record):
        for mark, figure in marks.items():
            if len(values := figure(rows)):
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
        "as long a step on top of all": span(lambda rows: edge_cost(rows, replace.CONTROL), 0, times=100),
        **{f"energy replaceable for {bound:.0%}": found(bound, "energy") for bound in BOUNDS},
        **{f"directions replaceable for {bound:.0%}": found(bound, "replaced") for bound in BOUNDS},
    }
    return table(by_model(record), columns).T


def beside_control(record: pd.DataFrame) -> str:
    """What fresh noise costs in the place of the least directions, and as long a step on top of all, in sentences."""
    found = _least(record)
    said = "; ".join(
        f"{name} {_percent(own.mean())} and {_percent(control.mean())}" for name, (own, control) in found.items()
    )
    first = []
    for name, rows in by_model(record):
        some = where(rows, what="curve", rule="directions", stand_in="noise")
        if len(some):
            cost = averaged(rows, what="curve", rule="directions", stand_in="noise").groupby("share").mean().iloc[0]
            held = f"{cost['replaced']:.2%}, with {100 * cost['energy']:.2g} % of the squared weights"
            first.append(f"{name} {held}, cost {_percent(cost['cost'])}")
    return (
        f"The least {LEAST:.0%} of the directions drawn anew, and as long a step on top of all, cost, of the gap: "
        f"{said}. The fewest that were tried: {'; '.join(first)}."
    )


def _least(record: pd.DataFrame) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Model → what it costs to draw the least directions anew, by seed; and as long a step on top of all."""

    def cost(rows: pd.DataFrame, stand_in: str) -> pd.Series:
        some = averaged(rows, what="curve", rule="directions", stand_in=stand_in)
        return where(some, share=LEAST).set_index("seed")["cost"]

    both = {name: (cost(rows, "noise"), cost(rows, replace.CONTROL)) for name, rows in by_model(record)}
    return {name: (own, control) for name, (own, control) in both.items() if len(own) and len(control)}


def by_rule(record: pd.DataFrame) -> pd.DataFrame:
    """How many entries, rows, columns or blocks can be noise, or zero, for a tenth of the gap, in words."""
    found = {}
    for name, rows in by_model(record):
        for rule in where(rows, what="curve")["rule"].drop_duplicates():
            words = {}
            for stand_in in ("noise", "zero"):
                how = {"what": "curve", "rule": rule, "stand_in": stand_in}
                values = replaceable(rows, BOUNDS[1], "replaced", **how)
                words[STAND_INS[stand_in]] = findings.span(100 * values, 1, least=0, most=100)
            found[f"{name}, {rule}"] = words
    return pd.DataFrame.from_dict(found, orient="index")


def by_stand_in(record: pd.DataFrame, share: float = 0.5) -> pd.DataFrame:
    """What of the gap is left when a share of the directions is replaced, by stand-in, in words."""

    def left(rows: pd.DataFrame, stand_in: str) -> pd.Series:
        some = averaged(rows, what="curve", rule="directions", stand_in=stand_in)
        return 1 - where(some, share=share).set_index("seed")["cost"]

    columns = {word: span(lambda rows, one=one: left(rows, one), 0, times=100) for one, word in STAND_INS.items()}
    return table(by_model(record), columns).T


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
    """What the least tenth of the directions costs among all ten, replaced by noise or by nothing, in sentences."""
    said = []
    for name, each in tenths(record).items():
        costs = {one: rows.groupby("place")["cost"].mean() for one, rows in each.items()}
        words = [
            f"{_percent(cost.iloc[0])} replaced by {one} (number {int(cost.rank(ascending=False).iloc[0])} of ten)"
            for one, cost in costs.items()
        ]
        said.append(f"of {name} {' and '.join(words)}")
    return f"The least tenth costs, in the mean over runs, {'; '.join(said)}."


def met(record: pd.DataFrame) -> pd.DataFrame:
    """What the least and the largest tenth of the directions hold, meet and carry, in words."""

    def told(rows: pd.DataFrame) -> dict:
        words = {}
        for share, name in ((0.0, "least"), (0.9, "largest")):
            some = where(rows, share=share)
            energy = where(some, what="tenth", stand_in="zero")["energy"].mean()
            found = where(some, what="met")[["met", "carried"]].mean()
            words |= {
                f"the {name} tenth: its share of the squared weights": f"{energy:.1%}",
                f"the {name} tenth: inputs along it": f"{found['met']:.1f} ×",
                f"the {name} tenth: its share of the squared outputs": f"{found['carried']:.1%}",
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
            alone = replaceable(pd.concat([where(rows, what="model"), one]), BOUNDS[0], what="group")
            edge = one.loc[one["share"].isna(), "energy"]
            words = f"{100 * alone.mean():.2g} / {100 * edge.mean():.0f}"
            found.setdefault(group if by == "role" else str(place), {})[name] = words
    return pd.DataFrame.from_dict(found, orient="index").fillna(MISSING).rename_axis(ROLE_COLUMNS[by]).reset_index()


def planted(record: pd.DataFrame) -> pd.DataFrame:
    """The control whose answer is known: models in which noise was planted, asked again, in words."""

    def told(rows: pd.DataFrame) -> dict:
        some = where(rows, what="planted")
        if some.empty:
            return {}
        base = where(rows, what="model").groupby("seed")[["own", "prior"]].first()
        own = some.dropna(subset=["own"]).set_index("seed")["own"]
        gap = base["prior"].reindex(own.index) - own
        again = some.groupby(["seed", "share"])[["energy", "rise"]].mean().reset_index()
        again = again.assign(cost=again["rise"] / again["seed"].map(gap))
        found = {
            seed: replace.replaceable(one.assign(draw=0, rise=one["cost"]), BOUNDS[1])["energy"].item()
            for seed, one in again.groupby("seed")
            if gap[seed] > 0
        }
        inside = again[again["share"] <= PLANTED_LESS.get(key(rows), PLANTED_SHARE)].groupby("seed")["cost"].mean()
        before = replaceable(rows, BOUNDS[1], what="curve", rule="directions", stand_in="noise")
        return {
            "energy planted": part(some.groupby("seed")["planted"].first()),
            "left of the gap": findings.span(100 * gap / gaps(rows).reindex(gap.index), 0),
            "drawing it anew costs, of what is left": findings.span(100 * inside, 1, "+"),
            "energy replaceable for 10%": part(pd.Series(found)),
            "the same before planting": part(before),
        }

    return table(by_model(record), told).T


def shrunk(record: pd.DataFrame) -> pd.DataFrame:
    """What it costs to take the noise out, by way of shrinking, as a share of the gap, in words."""

    def cost(rows: pd.DataFrame, how: str) -> pd.Series:
        rises = where(rows, what="shrunk", how=how).set_index("seed")["rise"]
        return rises / gaps(rows).reindex(rises.index)

    columns = {
        f"{how} shrinkage costs": span(lambda rows, how=how: cost(rows, how), 0, times=100)
        for how in ("hard", "soft", "optimal")
    }
    energy = span(lambda rows: where(rows, what="shrunk", how="optimal").set_index("seed")["energy"], 0, times=100)
    return table(by_model(record), {"energy taken out by the optimal": energy} | columns)


def untrained(record: pd.DataFrame) -> str:
    """What models know before training, in a sentence."""
    said = []
    for name, rows in by_model(record, what="untrained"):
        gap, rise = (rows["prior"] - rows["own"]).mean(), rows["rise"].mean()
        said.append(f"the {name} {gap:+.3f} nats, and fresh noise for all of its matrices costs {rise:+.3f}")
    if not said:
        return ""
    return f"Before training there is nothing to keep: {'; '.join(said)}. So no share is given of an untrained model."


def soups(record: pd.DataFrame) -> pd.DataFrame:
    """Fine-tunes and their mean, losses in nats, by model and rate, in words."""

    def told(rows: pd.DataFrame) -> dict:
        most = where(rows, what="soup", members=rows["count"].iloc[0])
        return {
            "fine-tunes": f"{SHORT[key(rows)]} × {rows['count'].iloc[0]}",
            "rate": f"{rows['lr'].iloc[0]:g}",
            "correlation of two ΔW": f"{most['alike'].mean():.2f}",
            "their loss": f"{most['loss'].mean():.3f}",
            "loss of their mean": f"{most['soup'].mean():.3f}",
        }

    return listed((rows for _, rows in _large(record)), told)


def added(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For a picture: model → what a residual changes of the loss of the mean, by rate (``method``) and by what is put
    in its place (``arm``): mean and interval over fine-tunes and bases."""
    found: dict[str, list[dict]] = {}
    for (model, rate), rows in _large(record):
        for stand_in, name in RESIDUALS.items():
            mean, low, high = findings.over_runs(_residual(rows, stand_in))
            row = {"method": f"rate {rate:g}", "arm": name, "mean": mean, "low": low, "high": high}
            found.setdefault(SHORT[model], []).append(row)
    return {model: pd.DataFrame(rows) for model, rows in found.items()}


def residuals(record: pd.DataFrame) -> str:
    """How like noise residuals look, entry by entry and by their spectrum, in a sentence."""
    law = record[record["what"] == "law"].groupby("model", sort=False)[["kl_bits", "noise_kl_bits", "outlier_variance"]]
    said = [
        f"of {SHORT[model]} {one['kl_bits']:.4f} bits from a Gaussian (noise {one['noise_kl_bits']:.4f}), and "
        f"{one['outlier_variance']:.0%} of the variance beyond the edge of noise (noise none)"
        for model, one in law.median().iterrows()
    ]
    return f"A residual, in the median of its matrices: {'; '.join(said)}."


def grows(record: pd.DataFrame) -> str:
    """How the loss of the mean goes with the number of fine-tunes, in a sentence."""
    said = []
    for (model, rate), rows in _large(record):
        each = where(rows, what="soup").groupby("members")["soup"].mean()
        of = ", ".join(f"{loss:.3f} of {count:g}" for count, loss in each.items())
        said.append(f"{SHORT[model]} at {rate:g} {of}")
    return f"Loss of the mean by the number of fine-tunes: {'; '.join(said)}."


def _large(record: pd.DataFrame):
    """Rows by model and rate, of cells with the most fine-tunes."""
    most = record.groupby("model")["count"].transform("max")
    return record[record["count"] == most].groupby(["model", "lr"], sort=False)


def _residual(rows: pd.DataFrame, stand_in: str, beside: str = "none") -> pd.Series:
    """What a residual changes of the loss, in nats, by base and fine-tune."""
    some = where(rows, what="residual").pivot(index=["seed", "member"], columns="stand_in", values="loss")
    return some[stand_in] - some[beside]


def answer(record: pd.DataFrame, soup: pd.DataFrame) -> list[str]:
    """Three sentences: what the picture of an optimum and noise foretells, what was seen, and what follows."""
    columns: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
        "edge": foretold,
        "cost": edge_cost,
        "control": lambda rows: edge_cost(rows, replace.CONTROL),
        "part": lambda rows: replaceable(rows, BOUNDS[0], what="curve", rule="directions", stand_in="noise"),
    }
    found = pd.DataFrame(
        {name: {column: figure(rows).mean() for column, figure in columns.items()} for name, rows in by_model(record)}
    ).T.dropna()
    if found.empty:
        return ["Nothing has been measured yet."]
    dear = found[found["cost"] > BOUNDS[1]]
    cheap = found.drop(dear.index)
    anywhere = cheap[cheap["control"] <= BOUNDS[1]]
    follows = [
        (dear, "The bulk of {} is no noise, however much it looks like it."),
        (anywhere, "{} can have its bulk drawn anew, and as much noise anywhere else: that is tolerance."),
        (
            cheap.drop(anywhere.index),
            "The bulk of {} behaves as noise does: it can be drawn anew, and nothing else can.",
        ),
    ]
    said = " ".join(words.format(_listed(some.index)) for some, words in follows if len(some))
    small = [name for name, (own, other) in _least(record).items() if (own - other).mean() > BOUNDS[0]]
    if small:
        said += f" Of {_listed(small)} the least directions bear noise worse than others do: training made them small."
    return [
        "**Foretold.** If weights were an optimum of few directions and Gaussian noise, all that lies below the edge "
        f"of noise could be drawn anew for nothing: {_each(found['edge'])} of the squared weights.",
        f"**Seen.** That costs, of what each knows, {_each(found['cost'])} (as long a step on top of all weights: "
        f"{_each(found['control'])}). For one per cent, fresh noise can stand for {_each(found['part'], '.2g')} of the "
        "squared weights.",
        f"**Follows.** {said} {_own(soup)}",
    ]


def _own(soups: pd.DataFrame) -> str:
    """Whether what fine-tunes have of their own is more than noise, in a sentence."""
    sides = [findings.over_runs(_residual(rows, "own", "noise")) for _, rows in _large(soups)]
    better, worse = sum(high < 0 for _, _, high in sides), sum(low > 0 for _, low, _ in sides)
    return (
        "What a fine-tune has beyond the mean of its siblings lowers the loss by more than noise of that size in "
        f"{better} of {len(sides)} cases (a model at a rate), and by less in {worse}."
    )


def _percent(value: float) -> str:
    return f"{value:.1%}".replace("-0.0%", "0.0%")


def _each(values: pd.Series, form: str = ".0f") -> str:
    """A share of each model, in per cent."""
    return ", ".join(f"{name} {100 * value + 0:{form}} %" for name, value in values.items())


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
