"""The rules, fixed before the results: what each finding claims, the number it measures, and the bounds on that."""

from __future__ import annotations

import ast
import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

OF_NOISE_TOO = "true, of noise too"
"""What a statement comes to that holds, and of its noise control by the same rule as well: so it tells nothing apart
from noise."""
VERDICTS = ("supported", OF_NOISE_TOO, "partly", "contradicted", "undecided")
"""What a finding can come to; undecided where its interval straddles the bound next to its value."""
UNLIKE_STARTS = ("uniform", "signs", "laplace", "student-t3", "sparse-90")
"""Starts that F2 is about: laws of initial weights that are not Gaussian (see `lfmlib.lab.starts`)."""
SCORE_SIGNS = {"accuracy": 1, "loss": -1}
"""Held-out scores of the records: 1 where a higher score is better, -1 where a lower one is."""
STATEMENTS = {
    "F1": "weights predominantly follow a Gaussian distribution",
    "F2": "weights become Gaussian regardless of the initialization",
    "F3": "there are occasional sharp, inverted-T-shaped or linear patterns",
    "F4": "weights share the i.i.d. properties of Gaussian noise",
    "F5": "transformation weights can be derived from Gaussian noise",
    "F6": "transformation weights mainly increase the standard deviation",
    "F7": "the standard deviation of transformation weights grows with layer depth",
    "F8": "transformation weights broaden the acceptable deviation from the optimal weights",
    "F9": "optimal weights are zero-mean",
    "F10": "optimal weights are symmetric",
    "F11": "optimal weights are sparse",
    "F12": "their sparse values are a truncated Gaussian and a few outliers",
    "F13": "these insights help adaptation",
    "F14": "these insights help editing",
}
"""What the paper claims, shortened; the keys order the scoreboard."""
CHAPTERS = {
    "F1": "01_are_the_weights_gaussian",
    "F2": "02_does_the_start_matter",
    "F3": "03_which_shapes_occur",
    "F4": "04_are_the_weights_independent",
    "F5": "07_can_it_be_made_from_noise",
    "F6": "06_what_does_fine_tuning_add",
    "F7": "08_depth_data_and_rank",
    "F8": "09_how_far_may_weights_stray",
    **dict.fromkeys(("F9", "F10", "F11", "F12"), "10_what_is_an_optimal_weight"),
    "F13": "11_does_it_help_adaptation",
    "F14": "12_does_it_help_editing",
}
"""The chapter that measures each finding."""


@dataclass(frozen=True)
class Rule:
    """The number that a finding measures, and the bounds on it; a larger number is better for the claim.

    Attributes:
        text: the rule in words, as printed.
        supported: from this number on the claim is supported.
        partly: from this number on it is partly supported; below, contradicted.
        unit: "%" for a share; otherwise what is printed behind the number, such as "of 5".
        control: where the control was measured, in words.
        metric: what the number is, in words.
        of_noise: the claim is that weights are like noise, so that noise must pass: where it does, the measure is
            sound, and where weights pass too, nothing tells them from noise, as the claim has it.
    """

    text: str
    supported: float
    partly: float
    unit: str = ""
    control: str = "on Gaussian noise"
    metric: str = ""
    of_noise: bool = False


RULES = {
    "F1": Rule(
        "share of parameters in matrices with kl_bits ≤ 0.02: at least 80 % supported, at least 50 % partly",
        supported=0.8,
        partly=0.5,
        unit="%",
        metric="share of parameters in matrices with kl_bits ≤ 0.02",
        of_noise=True,
    ),
    "F2": Rule(
        "of the five non-Gaussian starts those that could be forgotten: training from a Gaussian start ends with at "
        "least 80 % of the parameters in matrices with kl_bits ≤ 0.02, and the correlation of W with the start is so "
        "low that a Gaussian ΔW would hide it; all of them end so, supported, more than half, partly",
        supported=1.0,
        partly=0.51,
        unit="%",
        control="before training",
        metric="share of the starts that could be forgotten from which ≥ 80 % of the parameters became Gaussian",
    ),
    "F3": Rule(
        "sharp, inverted T and linear, each in at least 2 matrices, in at least 2 models or seeds and not at step 0: "
        "all three found supported, one or two partly",
        supported=3,
        partly=1,
        unit="of 3",
        metric="named shapes in at least two matrices (in brackets: confirmed by other models so far, and at most)",
    ),
    "F4": Rule(
        "independence (no neighbours, and no entries across the diagonal, correlated by more than 0.05; correlations "
        "between rows, and between columns, of 64 × 64 submatrices, whose mean square differs from that of noise by at "
        "most 0.05²; between whole rows and columns at least 0.8 times that of noise), identity (rows and columns, and "
        "8 × 8 blocks, explain at most 5 % of the log-variance beyond noise) and spectrum (at most 1 % of the variance "
        "beyond the edge of noise, less that of the same entries in another order), each for at least 80 % of the "
        "parameters: all three, for the same matrices, supported; one or two partly",
        supported=3,
        partly=1,
        unit="of 3",
        metric="legs (independence, identity, spectrum) that hold for at least 80 % of the parameters",
        of_noise=True,
    ),
    "F5": Rule(
        "(a) the median over the matrices of 1 − R² of the Q–Q plot of ΔW against a Gaussian is at most 0.01; (b) a ΔW "
        "built from frozen Gaussian noise and learned scales, with no more trained parameters than LoRA and at rates "
        "tuned alike, reaches at least 95 % of LoRA’s gain in held-out loss: both supported, one of them partly. The "
        "control has noise of ΔW’s size in (a); in (b) uniform noise and ±1, and passes unless the Gaussian is ahead "
        "of both beyond the interval",
        supported=2,
        partly=1,
        unit="of 2",
        control="with noise in ΔW’s place, and built from noise that is not Gaussian",
        metric="senses in which ΔW can be derived from Gaussian noise: (a) its histogram, (b) built from frozen noise",
    ),
    "F6": Rule(
        "share of matrices with g = (Var W − Var W₀) / Var ΔW above 0, at the recipe’s own weight decay: at least 80 % "
        "supported, provided that the rise in variance beyond that of noise of ΔW’s size, 2 Cov(W₀, ΔW), is not below "
        "0 in the mean over the matrices, by its interval over runs; at least 50 % partly (for a single pair: by three "
        "times the scatter of noise of that size; undecided where so small a ΔW leaves the sign of g open)",
        supported=0.8,
        partly=0.5,
        unit="%",
        control="with norm-matched noise",
        metric="share of matrices whose standard deviation rises",
    ),
    "F7": Rule(
        "share of roles, of at least six layers, in which std(ΔW) grows with depth, that is, with a slope of log "
        "std(ΔW) over relative depth above 0 beyond its interval over runs (for a single pair: a permutation p, "
        "corrected for the number of roles, of at most 0.05): at least 80 % supported, at least 50 % partly",
        supported=0.8,
        partly=0.5,
        unit="%",
        control="by random walks",
        metric="share of roles in which std(ΔW) grows with depth",
    ),
    "F8": Rule(
        "radius: the noise that closes 10 % of the gap between a model’s own loss and that of the class frequencies, "
        "with the same draws for base and fine-tune; asked by head (fitted anew to each, kept small, or frozen before "
        "the fine-tuning), by unit of the noise (the standard deviations of W, those of W₀, one size for all) and by "
        "task (new and old), wherever every run has a radius of both. Larger for the fine-tune beyond the interval "
        "over runs in all of these protocols, supported; in some, partly: it depends on the protocol",
        supported=1,
        partly=0.01,
        unit="%",
        control="with noise in place of ΔW",
        metric="share of the protocols in which the noise radius of the fine-tuned weights is larger than the base’s",
    ),
    "F9": Rule(
        "share of parameters in matrices with abs(mean) / std ≤ 0.05: at least 80 % supported, at least 50 % partly",
        supported=0.8,
        partly=0.5,
        unit="%",
        metric="share of parameters in matrices with abs(mean) / std ≤ 0.05",
    ),
    "F10": Rule(
        "share of parameters in matrices whose Kolmogorov–Smirnov distance from their mirror image about the mean is "
        "at most 0.02 more than that of noise: at least 80 % supported, at least 50 % partly",
        supported=0.8,
        partly=0.5,
        unit="%",
        metric="share of parameters in matrices whose distance from their mirror image is ≤ 0.02 beyond that of noise",
    ),
    "F11": Rule(
        "share of the weights that magnitude pruning can set to zero, in every matrix alike and without any training "
        "after it, while the held-out loss closes at most 1 % of the gap to guessing: at least 30 %, and farther than "
        "with noise of that size instead, by a paired interval above 0, supported; no farther, where noise reaches "
        "30 % as well, true of noise too; at least 10 % partly",
        supported=0.3,
        partly=0.1,
        unit="%",
        control="with noise of that size instead",
        metric="share of weights that go by magnitude for at most 1 % of the gap to guessing",
    ),
    "F12": Rule(
        "law: of what is left when 30 % are pruned, a truncated Gaussian + outliers (at most 1 %) is within 0.01 bits "
        "of the shortest held-out code, parameters charged, in matrices with at least 80 % of the parameters, and no "
        "simpler law is; damage: zeroing these outliers raises the loss at least 3 times as much as zeroing random "
        "sets of equal squared norm, with a lower limit above 1, where random sets close at least 1 % of the gap to "
        "guessing: both supported, one of them partly",
        supported=2,
        partly=1,
        unit="of 2",
        control="on pruned noise",
        metric="legs that hold: the law of what pruning keeps, and the damage of losing the outliers",
    ),
    "F13": Rule(
        "insights (Gaussian noise rather than uniform and ±1, scales that grow with depth, a raised σ) that raise the "
        "test accuracy of an adapter built from noise, paired by run, over at least five seeds, with p ≤ 0.05 after "
        "Holm: one or more, and none that harms by more than a point, supported; some of both, partly; undecided "
        "while one may raise it by more than a point",
        supported=1,
        partly=1,
        unit="of 3",
        control="±1 against uniform",
        metric="insights that raise the test accuracy of an adapter built from noise",
    ),
    "F14": Rule(
        "methods of merging (average, task arithmetic, TIES, DARE, DARE-TIES, NAN; those that give the same merges "
        "once) that keep more of the fine-tunes’ test scores with the outliers of the merged ΔW amplified, than "
        "without and than with a random set amplified, the scale of ΔW being chosen on the same grid for all, with p "
        "≤ 0.05 after Holm: more than half supported, at least one partly; undecided while one may gain more than a "
        "point",
        supported=4,
        partly=1,
        unit="of 6",
        control="with a random set amplified",
        metric="methods of merging that are better with outliers amplified; beside it by how much, in points of the "
        "normalized score",
    ),
}
"""The rule of each finding, “F1” to “F14”."""


@functools.cache
def digest() -> str:
    """A hash of `RULES` and of the constants of this package, such as bounds on figures; 12 hexadecimal digits.

    The last of `READINGS` bears it, so that none of them changes without an entry there. What a function of this
    package does with them is not in it.
    """
    return hashlib.sha256(repr((sorted(RULES.items()), constants())).encode()).hexdigest()[:12]


def constants() -> list[tuple[str, str, str]]:
    """Module, name and value, as written, of all that the findings' modules fix by name: bounds, margins, laws."""
    folder, found = Path(__file__).parent, []
    for path in sorted([*folder.glob("f[0-9]*.py"), folder / "runs.py", folder / "shares.py"]):
        for one in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(one, ast.Assign) and isinstance(one.value, ast.Constant | ast.Tuple):
                found += [(path.stem, ast.unparse(name), ast.unparse(one.value)) for name in one.targets]
    return found


def judge(rule: Rule, value: float, interval: tuple[float, float] | None = None) -> str:
    """The verdict of a rule on a value: by the value itself, unless its interval straddles a bound.

    Args:
        rule: one of `RULES`.
        value: what was measured, in the rule's unit.
        interval: its lower and upper limit with 95 %; None where the value is a census and has none.

    Returns:
        One of `VERDICTS`, without a look at the control (see `beside_noise`); "undecided" where a bound lies above the
        lower limit and not above the upper one.

    Raises:
        ValueError: the value is NaN: nothing was measured.

    Examples:
        >>> from lfmlib.findings import RULES, judge
        >>> judge(RULES["F1"], 0.85), judge(RULES["F1"], 0.85, (0.7, 0.95))
        ('supported', 'undecided')
    """
    if math.isnan(value):
        raise ValueError("nothing was measured: the value is NaN, so no verdict can be given")
    if interval is not None:
        low, high = interval
        if any(low < bound <= high for bound in (rule.supported, rule.partly)):
            return "undecided"
    if value >= rule.supported:
        return "supported"
    return "partly" if value >= rule.partly else "contradicted"


def beside_noise(verdict: str, control: str | None) -> str:
    """The verdict on a model, once its noise control went through the same rule.

    Args:
        verdict, control: what the rule says of the model, and of its control; None where there is no control.

    Examples:
        >>> from lfmlib.findings.rules import beside_noise
        >>> beside_noise("supported", "supported"), beside_noise("supported", "partly")
        ('true, of noise too', 'supported')
    """
    return OF_NOISE_TOO if verdict == control == "supported" else verdict
