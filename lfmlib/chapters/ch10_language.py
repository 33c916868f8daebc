"""What chapter 10 reads off its record of SmolLM2 alone: three kinds of text, perplexity, and a multiple choice.

Every function takes rows of the record (see `lfmlib.experiments.optimal.run`), and says nothing where it has none.
"""

from __future__ import annotations

import math

import pandas as pd
from scipy import stats

from ..lab import smollm
from ..lab.choices import OPTIONS
from ..losses.pruning import largest_share
from .names import NAMES, where
from .sentences import table

RISES = (1.01, 1.1, 2.0)
"""Factors of the perplexity that it is told of."""
ARM_NAMES = {"magnitude": "by magnitude", "random": "at random", "noise": "and by noise as large as pruning"}
CHOICE_NAMES = {"magnitude": "pruned by magnitude", "noise": "with noise as large as that"}


def domains(record: pd.DataFrame) -> str:
    """How well SmolLM2 foretells held-out text of three kinds, in a sentence; "" where the record has none of it."""
    words = [
        f"{one.task} **{one.own:.2f}** nats a token (perplexity {math.exp(one.own):.0f}, by frequencies alone "
        f"{math.exp(one.prior):,.0f}; {int(one.held):,} tokens)"
        for one in where(record, part="domain").itertuples()
    ]
    return f"SmolLM2 on held-out text: {'; '.join(words)}." if words else ""


def of_perplexity(record: pd.DataFrame, model: str = smollm.NAME) -> str:
    """How much can go until the perplexity of a language model rises by 1 %, by 10 % and twofold, in a sentence; ""
    where the record has nothing of it."""
    curves = where(record, part="whole", what="curve", model=model)
    if curves.empty:
        return ""
    most, words = curves["share"].max(), []
    for arm in ("magnitude", "Wanda", "random", "noise"):
        each = where(curves, arm=arm).groupby("seed")
        shares = [pd.Series({seed: largest_share(some, math.log(times)) for seed, some in each}) for times in RISES]
        least = curves["share"].min()
        told = [
            f"more than {most:.0%}"
            if (one >= most).any()
            else f"less than {least:.0%}"
            if one.mean() < least
            else f"{one.mean():.0%}"
            for one in shares
        ]
        words.append(f"{ARM_NAMES.get(arm, arm)} {', '.join(told)}")
    return (
        f"The perplexity of {NAMES[model]} rises by 1 %, by 10 % and twofold when so much goes, in the mean of "
        f"{curves['seed'].nunique()} runs: {'; '.join(words)}."
    )


def told(record: pd.DataFrame) -> dict[str, str]:
    """All of this in sentences, by the words on the line that folds them; "" stands open."""
    found = {
        "": of_choices(record),
        f"The pruned shares by perplexity, of {NAMES[smollm.NAME]}": of_perplexity(record),
        f"{NAMES[smollm.NAME]} on three kinds of text": domains(record),
    }
    return {fold: said for fold, said in found.items() if said}


def answers(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Answers to the multiple choice, after each change of the weights: per cent that are right, with Wilson's 95 %
    interval; points against the model as it is, with an interval of the paired difference; and the rise of the loss."""
    rows = where(record, part="choices").drop_duplicates(["arm", "share"])
    losses = _losses(record)

    def columns(one) -> dict[str, str]:
        right = stats.binomtest(round(one.scored * one.held), int(one.held))
        low, high = right.proportion_ci(method="wilson")
        found = {"right, in %": f"{100 * one.scored:.1f} [{100 * low:.1f}, {100 * high:.1f}]"}
        gain, low, high = gained(one)
        found["points gained"] = f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]" if one.lost + one.gained else ""
        rise = losses.get((one.arm, one.share), math.nan)
        return found | {"rise of the loss, in nats": "" if math.isnan(rise) else f"{rise:+.3f}"}

    named = [
        (f"{one.share:.0%} {CHOICE_NAMES[one.arm]}" if one.share else one.arm, one)
        for one in rows.itertuples(index=False)
    ]
    return {f"Answers to the multiple choice, of {NAMES[smollm.NAME]}": table(named, columns)} if named else {}


def _losses(record: pd.DataFrame) -> pd.Series:
    """The rise of the loss by arm and share, the mean over runs."""
    return where(record, part="whole", what="curve", model=smollm.NAME).groupby(["arm", "share"])["rise"].mean()


def gained(one) -> list[float]:
    """Points that a row of the multiple choice gains against the model as it is, and the ends of 95 %: the normal
    interval of a difference of paired shares."""
    gain = (one.gained - one.lost) / one.held
    error = math.sqrt(max(one.gained + one.lost - one.held * gain**2, 0)) / one.held
    return [100 * (gain + z * error) for z in (0, *stats.norm.interval(0.95))]


def of_choices(record: pd.DataFrame) -> str:
    """What the multiple choice says, in sentences."""
    rows = where(record, part="choices")
    if rows.empty:
        return ""
    own, hidden = (rows[rows["arm"] == arm].iloc[0] for arm in ("as it is", "docstrings hidden"))
    words = [
        f"{NAMES[smollm.NAME]} finds the function that a docstring describes, of {OPTIONS} in the same file, "
        f"**{own.scored:.0%}** of {own.held:,.0f} times; {hidden.scored:.0%} where the docstring is hidden; "
        f"chance is {1 / OPTIONS:.0%}."
    ]
    losses = _losses(record)
    for arm, name in CHOICE_NAMES.items():
        some, points = rows[rows["arm"] == arm], []
        for one in some.itertuples():
            gain, low, high = gained(one)
            points.append(f"{gain:+.1f} [{low:+.1f}, {high:+.1f}] at {one.share:.0%}")
        words.append(f"{name.capitalize()}, it gains so many points: {', '.join(points)}.")
        words.append(f"By then the loss has risen by {losses[arm, some['share'].max()]:.3f} nats.")
    return " ".join(words)
