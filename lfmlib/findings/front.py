"""The front page: what was found, in three sentences and a count, read off the findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..checkpoints.named import named, titled
from .answers import became, models, ranged, value_of
from .finding import Finding
from .markup import plain
from .rules import RULES, STATEMENTS
from .scoreboard import mixed, own_model


def summary(found: Sequence[Finding]) -> str:
    """The front page's sentences, as Markdown: what the book is on, what was found, what does not belong together."""
    own = own_model(list(found))
    others = len({finding.model for finding in found} - {own})
    beside = f", beside {others} other models and trainings" if others else ""
    lines = [f"This book is on **{plain(titled(own))}**{beside}."] if own else []
    return "\n\n".join([*lines, *front(found), *mixed(list(found))]) + "\n"


def front(found: Sequence[Finding]) -> list[str]:
    """What was found, in three sentences (the weights, what fine-tuning adds, of what use it is) and one that counts.

    Args:
        found: of all models; statements that none was judged on are left out.
    """
    of = {id_: [one for one in found if one.id == id_ and one.value is not None] for id_ in STATEMENTS}
    if not any(of.values()):
        return ["Nothing has been measured yet."]
    themes = {"The weights": ("F1", "F4"), "What fine-tuning adds": ("F6", "F7"), "Of use": ("F13", "F14")}
    told = []
    for theme, ids in themes.items():
        if parts := [_FRONT[id_](of[id_]) for id_ in ids if of[id_]]:
            told.append(f"**{theme}.** {'; '.join(parts)}.")
    return [*told, _counted(of)]


def _counted(of: Mapping[str, Sequence[Finding]]) -> str:
    """How many statements hold of all models, how many of noise as well, and how many of some models or none."""
    became_of = {id_: became(judged) for id_, judged in of.items() if judged}
    words = {
        "holds": "of every model",
        "noise": "of every model, and of pure noise as well",
        "mixed": "of some models, or in part",
        "fails": "of none",
        "open": "of none so far: not decided",
    }
    parts = []
    for name, where in words.items():
        if ids := [id_ for id_, one in became_of.items() if one == name]:
            parts.append(f"**{len(ids)}** {where} ({', '.join(ids)})")
    return f"Of the {len(became_of)} statements that were judged, hold: {'; '.join(parts)}."


def _published(found: Sequence[Finding]) -> list[Finding]:
    """Those on models that others trained; all, where there are none."""
    return [one for one in found if named(one.model)] or list(found)


def _front_gaussian(found: Sequence[Finding]) -> str:
    some = _published(found)
    return f"Within 0.02 bits of a Gaussian are {ranged(some)} of the weights of {models(some)} that others published"


def _front_noise(found: Sequence[Finding]) -> str:
    some = _published(found)
    whole = sum(value_of(one) >= RULES["F4"].supported for one in some)
    return f"arranged like independent, identical noise are those of {whole or 'none'} of {len(some)}"


def _front_std(found: Sequence[Finding]) -> str:
    return f"It raises the standard deviation of {ranged(found)} of the matrices"


def _front_depth(found: Sequence[Finding]) -> str:
    return f"it grows with depth in {ranged(found)} of the roles"


def _front_adaptation(found: Sequence[Finding]) -> str:
    helped = sum(value_of(one) >= 1 for one in found)
    return (
        f"An insight of the paper is seen to raise an adapter’s accuracy on {helped or 'none'} of {len(found)} models "
        f"and tasks{_open(found)}"
    )


def _front_editing(found: Sequence[Finding]) -> str:
    better = [one for one in found if value_of(one) >= 1]
    helped, tried = len(better), [one.details.get("beyond_all") for one in better]
    but = ", but no more than a ΔW that is larger as a whole" if tried and set(tried) == {0} else ""
    return (
        f"amplified outliers are seen to help a merge, by any method, on {helped or 'none'} of {models(found)}"
        f"{_open(found)}{but}"
    )


def _open(found: Sequence[Finding]) -> str:
    """How many of some verdicts are undecided, in brackets; nothing where none is."""
    count = sum(one.verdict == "undecided" for one in found)
    return f" ({count} undecided)" if count else ""


_FRONT: dict[str, Callable[[Sequence[Finding]], str]] = {
    "F1": _front_gaussian,
    "F4": _front_noise,
    "F6": _front_std,
    "F7": _front_depth,
    "F13": _front_adaptation,
    "F14": _front_editing,
}
"""Half a sentence of the front page each."""
