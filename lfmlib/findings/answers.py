"""What came out, in a sentence or two: the answer at the top of a chapter.

Every word that could be otherwise is read off the findings: how often a statement holds, between which models its
number lies, and what the noise control gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..checkpoints.named import named, titled
from .finding import Finding
from .grid import SHORT
from .markup import ends, enumerated, plain
from .rules import OF_NOISE_TOO, RULES
from .scoreboard import group, number
from .shares import SUPPORTED_SHARE

MEASURED = {
    "F1": "share of the weights in matrices that lie within 0.02 bits of a Gaussian (kl_bits)",
    "F2": "of the starts that training could have hidden, the share from which the weights became Gaussian",
    "F3": "how many of the three named shapes occur, each in at least two matrices",
    "F4": "how many of three legs hold for most weights: independence, identity, the spectrum of noise",
    "F5": "in how many of two senses ΔW can come from noise: its histogram, and what can be built from frozen noise",
    "F6": "share of matrices whose standard deviation rises",
    "F7": "share of roles, such as query or value, in which what fine-tuning adds grows with depth, by its interval",
    "F8": "share of the ways of asking (by task, by the head on top, by the unit of the noise) in which the fine-tune "
    "stands more noise than its base, beyond the interval",
    "F9": "share of the weights in matrices whose mean is at most a twentieth of their standard deviation",
    "F10": "share of the weights in matrices that are their own mirror image, as far as noise is",
    "F11": "share of the weights that can be set to zero, smallest first, for 1 % of what the model knows",
    "F12": "how many of two legs hold: the law of what pruning keeps, and the damage of losing the outliers",
    "F13": "how many of three insights raise the accuracy of an adapter, beyond the interval",
    "F14": "for how many methods of merging amplified outliers help, beyond the interval and more than a random set",
}
"""What each finding's number is, in the words of its box: plainer than the rule's, which stands behind it."""
LEADS = {"holds": "Yes", "noise": "Yes, but of noise as well", "mixed": "In part", "fails": "No", "open": "Not decided"}
"""First word of an answer, by what became of the statement (see `lfmlib.findings.scoreboard.GROUPS`)."""
AGAINST = {"holds": "No", "noise": "No", "mixed": "It depends", "fails": "Yes", "open": "Not decided"}
"""The same where the title asks for the opposite of the statement: does the start matter?"""


def answer(found: Sequence[Finding], asked: str = "") -> str:
    """What came out of one statement, on all models together.

    Args:
        found: findings of one id; the chapter's own model is the first.
        asked: "spectrum", for the spectrum alone of F4; empty: the statement.

    Returns:
        A word that answers, where the models were judged, and sentences with the numbers, as `markup.to_html` takes
        them.

    Examples:
        >>> from lfmlib.findings import Finding
        >>> from lfmlib.findings.answers import answer
        >>> print(answer([Finding.of("F9", "toy", {}, {}, value=0.9, null=0.5)]))
        **Yes.** Of the weights 90.0 % lie in matrices whose mean is nearly 0; of the control, pure noise, 50.0 %.
    """
    judged = [one for one in found if one.value is not None]
    if not judged:
        reasons = dict.fromkeys(str(one.details.get("reason", "")) for one in found)
        return " ".join(["**Not judged.**", *(one for one in reasons if one)])
    id_ = judged[0].id
    said = _spectrum(judged) if asked else _SENTENCES[id_](judged)
    decided = [one for one in judged if one.verdict != "undecided"]
    lead = (AGAINST if id_ == "F2" else LEADS)[became(decided or judged)]
    if decided and len(decided) < len(judged) and lead not in (LEADS["mixed"], AGAINST["mixed"]):
        lead += ", as far as it is decided"
    return said if id_ == "F3" or asked else f"**{lead}.** {said}"


def sureness(found: Sequence[Finding]) -> str:
    """How sure an answer is: what the verdicts behind it rest on, and how many are open; "" where none was judged.

    Examples:
        >>> from lfmlib.findings import Finding
        >>> from lfmlib.findings.answers import sureness
        >>> sureness([Finding.of("F1", "toy", {}, {}, value=0.9, null=1.0)])
        'How sure: each matrix that is judged was measured whole, so there is no sampling error.'
    """
    judged = [one for one in found if one.value is not None]
    if not judged:
        return ""
    ranged = [one for one in judged if one.interval and one.id != "F3"]  # whose bracket is of other models, not of runs
    if not ranged:
        return "How sure: each matrix that is judged was measured whole, so there is no sampling error."
    open_, whole = sum(one.verdict == "undecided" for one in ranged), len(judged) - len(ranged)
    behind = f"of {len(judged)} verdicts behind this, {whole} are of matrices measured whole, {len(ranged)} rest"
    rest = behind if whole else f"each of the {len(judged)} verdicts behind this rests"
    clear = f"{open_} of them undecided" if open_ else "all of them clear of the bound"
    return f"How sure: {rest} on 95 % intervals{_over(ranged)}, {clear}."


def _over(found: Sequence[Finding]) -> str:
    """Over how many runs the intervals are, where all of them are over runs."""
    runs = sorted(one.details.get("runs") or one.details.get("runs_each") or 0 for one in found)
    ends = dict.fromkeys(f"{one}" for one in (runs[0], runs[-1]))
    return f" over {' to '.join(ends)} runs" if runs[0] else ""


def became(judged: Sequence[Finding]) -> str:
    """What became of one statement on all models that it was judged on: one of `lfmlib.findings.scoreboard.GROUPS`."""
    return group([one.verdict for one in judged], RULES[judged[0].id].of_noise)


def report(found: Sequence[Finding]) -> str:
    """What became of the statements on one model, as the report's first sentence."""
    judged = [one for one in found if one.value is not None]
    if not judged:
        return "**Not judged.** No statement could be put to this model."
    words = {
        "supported": "holds",
        OF_NOISE_TOO: "holds, as it does of noise",
        "partly": "holds in part",
        "contradicted": "does not hold",
        "undecided": "is not decided",
    }
    parts = []
    for verdict, said in words.items():
        some = [one for one in judged if one.verdict == verdict]
        if some:
            parts.append(f"{said}: {enumerated([_short(one) for one in some])}")
    return f"Of **{plain(titled(found[0].model))}**, what the paper says " + "; ".join(parts) + "."


def _short(one: Finding) -> str:
    return f"{SHORT[one.id]} ({number(one, one.value)})"


def value_of(one: Finding) -> float:
    """The value of a finding that was judged."""
    return math.nan if one.value is None else one.value


def ranged(found: Sequence[Finding]) -> str:
    """From the least to the largest value, each with its model; one value without."""
    low, high = min(found, key=value_of), max(found, key=value_of)
    if number(low, low.value) == number(high, high.value):
        return number(low, low.value)
    return f"{_at(low)} to {_at(high)}"


def _at(one: Finding) -> str:
    return f"{number(one, one.value)} ({plain(titled(one.model))})"


def _nulls(found: Sequence[Finding]) -> list[float]:
    return [one.null for one in found if one.null is not None and not math.isnan(one.null)]


def _noise(found: Sequence[Finding]) -> str:
    """What the controls give, from the least to the largest: "79.4 % to 100.0 %"; a dash where there are none."""
    nulls = sorted(_nulls(found))
    return ends(*(number(found[0], one) for one in nulls[:1] + nulls[-1:])) or "–"


def _running(numbers: str) -> str:
    """What a share does that these words give: "is 90 %", "runs from 10 % to 90 %"."""
    return f"runs from {numbers}" if " to " in numbers else f"is {numbers}"


def models(found: Sequence[Finding]) -> str:
    """How many models these are, in words."""
    return f"{len(found)} model{'' if len(found) == 1 else 's'}"


def _f1(found: Sequence[Finding]) -> str:
    own, near = found[0], "lie in matrices within 0.02 bits of a Gaussian"
    beside = f"; over {models(found)} it is {ranged(found)}" if len(found) > 1 else ""
    weights = f"Of the weights of {plain(titled(own.model))}, {number(own, own.value)} {near}"
    return f"{weights}{beside}. Of the control, pure noise, it is {_noise(found)}."


def _f2(found: Sequence[Finding]) -> str:
    whole = sum(value_of(one) >= 1 for one in found)
    some = sum(0 < value_of(one) < 1 for one in found)
    ways = f"{len(found)} way{'' if len(found) == 1 else 's'} of training"
    return (
        f"Of {ways} that moved the weights far enough and kept a Gaussian start, the control, Gaussian, {whole} made "
        f"weights Gaussian from every other start, {some} from some, {len(found) - whole - some} from none."
    )


def _f3(found: Sequence[Finding]) -> str:
    names = {"sharp": "sharp", "inverted-t": "inverted-T", "linear": "linear"}
    counts = {word: sum(shape in one.details.get("found", []) for one in found) for shape, word in names.items()}
    said = enumerated([f"{word} in {count}" for word, count in counts.items()])
    noise = max((one.null or 0 for one in found), default=0)
    return (
        f"Of {models(found)}, matrices are {said}; of the three shapes the control, pure noise, has {noise or 'none'}."
    )


def _legs(found: Sequence[Finding], leg: str, of: str = "legs") -> list[float]:
    """The share of the weights, or of their noise (``null_parts``), that passes a leg of F4, by model; those of which
    it is not known are left out."""
    shares = (one.details.get(of, {}).get(leg) for one in found)
    return [one for one in shares if one is not None]


def _per_cent(found: Sequence[Finding], leg: str) -> str:
    known = sorted(_legs(found, leg))
    return f"{ends(*(f'{100 * one:.0f}' for one in known[:1] + known[-1:]))}\u00a0%"


def _f4(found: Sequence[Finding]) -> str:
    lab = [one for one in found if one.model.startswith("lab ")]
    others = [one for one in found if one not in lab]
    groups = {"published models" if all(named(one.model) for one in others) else "models": others}
    said = []
    for kind, some in (groups | {"trainings of the lab": lab}).items():
        passed = sum(value_of(one) >= RULES["F4"].supported for one in some)
        kind = kind.replace("models", "model") if len(some) == 1 else kind
        said += [f"{passed or 'none'} of {len(some)} {kind}"] if some else []
    noise = sum(value >= RULES["F4"].supported for value in _nulls(found))
    independent, identical = _per_cent(found, "independence"), _per_cent(found, "identity")
    return (
        f"Independent, identically distributed and with the spectrum of noise are {enumerated(said)}. Of as much pure "
        f"noise, the control, it is {noise} of {len(found)}. The share of the weights that passes as independent "
        f"{_running(independent)}; as identical it {_running(identical)}."
    )


def _spectrum(found: Sequence[Finding]) -> str:
    whole = sum(one >= SUPPORTED_SHARE for one in _legs(found, "spectrum"))
    noise = sum(one >= SUPPORTED_SHARE for one in _legs(found, "spectrum", "null_parts"))
    return (
        f"Of {models(found)}, {whole} have the spectrum of noise: in matrices with {100 * SUPPORTED_SHARE:.0f}\u00a0% "
        "of their weights, at most 1 % of the variance lies beyond noise’s edge. The share of such weights "
        f"{_running(_per_cent(found, 'spectrum'))} over all. Noise of the same shapes, the control, passes in {noise}."
    )


def _f5(found: Sequence[Finding]) -> str:
    def gained(law: str) -> str:
        shares = sorted(one.details["alike"][law] for one in found)
        return f"{ends(*(f'{100 * one:.0f}' for one in (shares[0], shares[-1])))}\u00a0%"

    return (
        f"A ΔW of frozen Gaussian noise with trained scales reaches {gained('gaussian')} of LoRA’s gain on "
        f"{models(found)}, with as many trained numbers. Made of uniform noise, the control, it reaches "
        f"{gained('uniform')}, of random signs {gained('signs')}."
    )


def _f6(found: Sequence[Finding]) -> str:
    return (
        f"The share of matrices whose standard deviation rises {_running(ranged(found))}. With as much noise in ΔW’s "
        f"place, the control, it {_running(_noise(found))}."
    )


def _f7(found: Sequence[Finding]) -> str:
    return (
        f"With depth it grows in {ranged(found)} of the roles, over {len(found)} fine-tunings. In the control, "
        f"profiles that wander at random, it does in {_noise(found)}."
    )


def _f8(found: Sequence[Finding]) -> str:
    return (
        f"The fine-tune stands more noise than its base in {ranged(found)} of the ways of asking. In the control, with "
        f"noise in the place of what fine-tuning added, it does in {_noise(found)}."
    )


def _centre(what: str) -> Callable[[Sequence[Finding]], str]:
    def said(found: Sequence[Finding]) -> str:
        return f"Of the weights {ranged(found)} {what}; of the control, pure noise, {_noise(found)}."

    return said


def _f11(found: Sequence[Finding]) -> str:
    return (
        f"Smallest first, {ranged(found)} of the weights can be set to zero for 1 % of what the model knows. The "
        f"control puts noise of that size on top of all instead: {_noise(found)}."
    )


def _f12(found: Sequence[Finding]) -> str:
    both, one, none = (sum(each.value == legs for each in found) for legs in (2, 1, 0))
    return f"Law and damage are as claimed in {both} of {models(found)}, one of them in {one}, neither in {none}."


def _f13(found: Sequence[Finding]) -> str:
    helped, noise = sum(value_of(one) >= 1 for one in found), sum(one >= 1 for one in _nulls(found))
    return (
        f"Three insights, that noise be Gaussian, that its scale grow with depth, that σ be raised: on {helped} of "
        f"{len(found)} models and tasks any of them is seen to make an adapter more accurate. The control, random "
        f"signs in place of uniform noise, is on {noise}."
    )


def _f14(found: Sequence[Finding]) -> str:
    best = max(found, key=lambda one: one.details["largest_gain"])
    tried = [one for one in found if one.value and one.details.get("beyond_all") is not None]
    helped, beyond = sum(int(one.value or 0) for one in tried), sum(one.details["beyond_all"] for one in tried)
    as_large = f" Beside all of ΔW made as large, they are better in {beyond} of {helped}." if tried else ""
    return (
        f"Amplified outliers raise what a merge keeps, beyond the interval, for {ranged(found)} methods; the control, "
        f"a random set amplified, for {_noise(found)}. The largest gain that the intervals leave open is "
        f"{best.details['largest_gain']:+.2f} points ({plain(titled(best.model))}).{as_large}"
    )


_SENTENCES: dict[str, Callable[[Sequence[Finding]], str]] = {
    "F1": _f1,
    "F2": _f2,
    "F3": _f3,
    "F4": _f4,
    "F5": _f5,
    "F6": _f6,
    "F7": _f7,
    "F8": _f8,
    "F9": _centre("lie in matrices whose mean is nearly 0"),
    "F10": _centre("lie in matrices that are their own mirror image"),
    "F11": _f11,
    "F12": _f12,
    "F13": _f13,
    "F14": _f14,
}
