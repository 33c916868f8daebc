"""Which rules judged when: the first ones, which later readings changed, and every change with its argument."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .rules import RULES, Rule

FIRST_RULES = RULES | {
    "F2": Rule(
        "number of five non-Gaussian starts from which training ends with at least 80 % of the parameters in matrices "
        "with kl_bits ≤ 0.02: all five supported, at least three partly",
        supported=5,
        partly=3,
        unit="of 5",
        control="before training",
        metric="non-Gaussian starts from which ≥ 80 % of the parameters became Gaussian",
    ),
    "F4": replace(
        RULES["F4"],
        text=(
            "independence (correlation of neighbours at most 0.05; squared correlation between rows, and between "
            "columns, at most 1.25 times that of noise), identity (rows and columns explain at most 5 % of the "
            "log-variance beyond noise) and spectrum (at most 1 % of the variance beyond the edge of noise), each for "
            "at least 80 % of the parameters: all three, for the same matrices, supported; one or two partly"
        ),
    ),
    "F5": Rule(
        "(a) the Q–Q plot of ΔW against a Gaussian has an R² of at least 0.99 in matrices with at least 80 % of the "
        "parameters; (b) a ΔW built from frozen Gaussian noise and learned scales, with no more trained parameters "
        "than LoRA, reaches at least 95 % of LoRA’s gain: both supported, one of them partly",
        supported=2,
        partly=1,
        unit="of 2",
        control="with Gaussian noise of ΔW’s size",
        metric="senses in which ΔW can be derived from Gaussian noise: (a) its histogram, (b) built from frozen noise",
    ),
    "F6": replace(
        RULES["F6"],
        text=(
            "share of parameters in matrices whose standard deviation rises: at least 80 % supported, provided that "
            "the median of g = (Var W − Var W₀) / Var ΔW is at least 0.5 and its mean above 0 beyond the interval over "
            "runs; at least 50 % partly; without weight decay and with the default one, the worse of the two counting"
        ),
        metric="share of parameters in matrices whose standard deviation rises",
    ),
    "F7": replace(
        RULES["F7"],
        text=(
            "share of roles in which std(ΔW) grows with depth, that is, with a Spearman correlation of at least 0.5 "
            "in the mean of the runs and an interval over them above 0 (for a single pair: a permutation p, corrected "
            "for the number of roles, of at most 0.05): at least 80 % supported, at least 50 % partly"
        ),
    ),
    "F8": Rule(
        "radius: the noise, in standard deviations of each matrix, that closes 10 % of the gap between a model’s own "
        "loss and that of the class frequencies, with a head fitted in the same way to base and fine-tune and the same "
        "draws of the noise for both: larger for the fine-tune, with an interval over runs above 1, supported; larger, "
        "partly",
        supported=1,
        partly=1,
        unit="times",
        control="with noise in place of ΔW",
        metric="noise radius of the fine-tuned weights over that of the base",
    ),
    "F11": replace(
        RULES["F11"],
        text=(
            "share of the weights that magnitude pruning can set to zero, in every matrix alike and without any "
            "training after it, while the held-out loss rises by at most 1 %: at least 30 % supported, at least 10 % "
            "partly"
        ),
        metric="share of weights that go by magnitude for a rise of the held-out loss of at most 1 %",
    ),
    "F12": replace(
        RULES["F12"],
        text=(
            "law: of what is left when 30 % are pruned, a truncated Gaussian + outliers (at most 1 %) has the "
            "shortest held-out code, parameters charged, in matrices with at least 80 % of the parameters; damage: "
            "zeroing these outliers raises the loss at least 3 times as much as zeroing random sets of equal squared "
            "norm, with a lower limit above 1: both supported, one of them partly"
        ),
    ),
    "F13": Rule(
        "test accuracy of an adapter built from Gaussian noise less that of LoRA, at equal trained parameters, rates "
        "tuned in the same way, over at least five seeds: an interval of the paired difference above 0 supported, its "
        "lower limit at least minus one point partly",
        supported=0,
        partly=-1,
        unit="points",
        control="without an adapter",
        metric="test accuracy of an adapter built from Gaussian noise, less that of LoRA, in points, paired by run",
    ),
    "F14": replace(
        RULES["F14"],
        text=(
            "methods of merging (average, task arithmetic, TIES, DARE, DARE-TIES, NAN) that keep more of the fine- "
            "tunes’ test scores with the outliers of the merged ΔW amplified than without, that is, with an interval "
            "of the paired difference over runs above 0, the scale of ΔW being chosen on the same grid for both: at "
            "least four of the six supported, at least one partly; undecided while intervals that reach above 0 leave "
            "it open"
        ),
        metric="methods of merging that are better with outliers amplified, of six; beside it by how much, in points "
        "of the normalized score",
    ),
}
"""The rules of the first reading: another text, number or bound for some findings; none judged the control."""


@dataclass(frozen=True)
class Reading:
    """A state of the rules.

    Attributes:
        date: from when on they judge.
        rules: their `digest`; empty for the first rules, which had none.
        argument: what changed and why, and what had been seen by then.
    """

    date: str
    rules: str
    argument: str


READINGS = (
    Reading(
        "2026-11-23",
        "",
        "The first rules, fixed after a rough look at one model, all-MiniLM-L6-v2. Their verdicts are kept beside "
        "those of later rules.",
    ),
    Reading(
        "2026-11-29",
        "65fa4e139149",
        "The control goes through the rule as the model does, for every finding; where both come out supported, the "
        "verdict is “true, of noise too”. F2 judges only starts that the training could have made forgotten, since at "
        "a correlation of 0.97 none is; F7 goes by the slope of log std(ΔW) over at least six layers, since ranks of "
        "four hold no evidence; F11 by the share of the gap to guessing, and asks for more than noise of that size "
        "does, which went farther in all five models; F12 has a margin of 0.01 bits and a least damage, since to win "
        "by 0.0001 bits is no margin; F13 judges the insights, not the adapter beside LoRA of rank 1; F14 has a "
        "margin of one point, so that no gain can be found. Seen before: every result of the first reading, and the "
        "single runs on real models that the Methods page lists.",
    ),
    Reading(
        "2026-11-29",
        "be9cd02abb30",
        "F4 looks both ways and at one width, 64 × 64, since likeness grows with width, and orthogonal, symmetric and "
        "block-scaled matrices passed all three legs; its spectrum stands beside that of the same entries in another "
        "order, since heavy tails alone failed it. F6 is judged at the recipe’s own weight decay by the share of "
        "matrices with g above 0, and asks that 2 Cov(W₀, ΔW), the rise beyond that of noise, is not below 0: g "
        "changes its sign with the decay at equal accuracy. Seen before: F4’s and F6’s results by the first rules; "
        "F4’s bounds were fixed before any matrix had been measured by them; for F6 the g of every recorded training "
        "was known.",
    ),
    Reading(
        "2026-11-29",
        "e48ec4313ac0",
        "F5 counts gains in held-out loss, MiniLM’s at rates tuned on validation data, goes by the median of 1 - R², "
        "and asks of the Gaussian that uniform noise and signs do worse, for otherwise any frozen noise will do. F8 "
        "is asked by protocol, since its verdict changed with the head. F6 of a single pair goes by three times the "
        "scatter of noise, not by twice: of 20 draws of independent noise two were called supported, since their "
        "control had failed by chance; and the sign of g of a matrix that hardly moved is chance. Ratios over runs, "
        "in F5 and F12, have Fieller’s interval, which is exact, for that of the delta method. Seen before: F5’s and "
        "F8’s results by the first rules, with the ratios of radii of a timid head, and by protocol those of one seed"
        " of the ViT; for F6 made pairs, and no real one.",
    ),
    Reading(
        "2026-11-30",
        "5a2c7b9d9c37",
        "A word of F13’s: an insight that helps and another that harms are *some of both*, not *some of either*, which "
        "a loss alone would be as well. What is judged, and every verdict, is as before; SmolLM2’s, where σ raised "
        "alone harms, was *contradicted* and is.",
    ),
    Reading(
        "2026-11-30",
        "878e4a2b44c5",
        "F11’s rule in the words of its code, which a reader found it short of: where pruning goes no farther than "
        "noise of its size, and noise reaches 30 % as well, the verdict is “true, of noise too”. What is judged, and "
        "every verdict, is as before.",
    ),
)
"""Every state of the rules, oldest first; the verdicts of a run are by the last."""
