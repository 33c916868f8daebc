"""What chapter 6 reads off the record `finetuning`: the law of ΔW, and what it does to the standard deviation.

Every function takes rows of the record (see `lfmlib.experiments.finetuning.run`), of which those of fine-tunings are
one per judged matrix.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import findings
from ..lab.train import Config, rate
from .names import PRETRAINED, SHORT, by_cause, methods, over, plain, unjudged, where


def laws(record: pd.DataFrame) -> pd.DataFrame:
    """The law of ΔW for every model and method: medians over matrices and runs.

    Returns:
        `kl_bits` of ΔW; what 97.5 % of noise stay below; what BA of Gaussian factors of the same rank has (NaN for full
        fine-tuning); share of parameters with R² of the Q–Q plot ≥ 0.99, in per cent, from three runs on with its 95 %
        interval over them, and with such factors; top / edge, the `top_ratio`; runs.
    """
    found = {}
    for model, name in SHORT.items():
        for way, rows in methods(record, model).items():
            runs = [run for _, run in rows.groupby("seed")]
            factors = rows["rank_qq_r2"] if "rank_qq_r2" in rows else pd.Series(np.nan, rows.index)
            known = bool(factors.notna().any())
            found[f"{name}, {way}"] = {
                "kl_bits": rows["kl_bits"].median(),
                "noise, 97.5 %": rows["kl_bits_null_high"].median(),
                "Gaussian factors": rows["rank_kl_bits"].median() if known else np.nan,
                "R² ≥ 0.99": _percent([findings.share(run, run["qq_r2"] >= findings.QQ_BOUND) for run in runs]),
                "factors’": f"{findings.share(rows, factors >= findings.QQ_BOUND):.0%}" if known else "–",
                "top / edge": f"{rows['top_ratio'].median():.1f}",
                "runs": len(runs),
            }
    return pd.DataFrame.from_dict(found, orient="index")


def of_laws(record: pd.DataFrame) -> str:
    """What the laws say of full fine-tuning, and where low rank alone explains those of adapters, in a sentence."""
    full, alike, unlike = [], [], []
    for model, name in SHORT.items():
        for way, rows in methods(record, model).items():
            if way == "full":
                shares = [findings.share(run, run["qq_r2"] >= findings.QQ_BOUND) for _, run in rows.groupby("seed")]
                mean, low, high = findings.over_runs(shares)
                outcome = "missed" if mean < findings.SUPPORTED_SHARE else "met"
                outcome = "**not settled**" if low < findings.SUPPORTED_SHARE <= high else outcome
                full.append(f"{name} {outcome}{'' if len(shares) > 1 else ' (one run)'}")
            else:
                ratio = rows["kl_bits"].median() / rows["rank_kl_bits"].median()
                (alike if ratio <= 1.25 else unlike).append((f"{name}, {way}", ratio))
    words = f"The 80 % of the rule, with the interval over the seeds, under full fine-tuning: {', '.join(full)}."
    if alike:
        words += f" Low rank alone explains `kl_bits`, to within a quarter, of {'; '.join(name for name, _ in alike)}."
    if unlike:
        least, most = (pick(unlike, key=lambda one: one[1]) for pick in (min, max))
        words += (
            f" The other {len(unlike)} adapters have {least[1]:.1f} times ({least[0]}) to {most[1]:.0f} times "
            f"({most[0]}) the `kl_bits` of Gaussian factors: what they show, training has done."
        )
    return words


def budgets(record: pd.DataFrame) -> pd.DataFrame:
    """What ΔW does to the std, for every model, method and weight decay, in words: mean [95 % interval over seeds]."""
    found = {}
    for model, name in SHORT.items():
        ways = {f"{way}": rows for way, rows in methods(record, model).items() if way in ("full", "LoRA 16", "DoRA 16")}
        ways |= {"full, no decay": where(record, part="plain", model=model, weight_decay=0.0)}
        for way, rows in ways.items():
            if rows["seed"].nunique() > 1:
                size = (rows["std_delta"] / rows["std_base"]).median()
                found[f"{name}, {way}"] = _widening(rows) | {"ΔW / W₀": f"{size:.3f}", "runs": rows["seed"].nunique()}
    return pd.DataFrame.from_dict(found, orient="index")


def not_passing(record: pd.DataFrame) -> str:
    """The ways of training that F6's rule would not call supported, and what noise would be called, in a sentence."""
    words, noise = [], [1.0]
    for model, name in SHORT.items():
        for way, rows in unjudged(record, model):
            own = findings.widening_over_runs(rows)
            rises, g = own.loc["rises", "mean"], own.loc["gain_median", "mean"]
            if rises < findings.SUPPORTED_SHARE or g < findings.GAIN_BOUND or own.loc["gain_mean", "low"] <= 0:
                words.append(f"{name}, {way} ({rises:.0%} rise, median g {g:.2f})")
        if len(rows := plain(record, model)):
            noise.append(findings.widening_over_runs(rows, "noise_").loc["rises", "mean"])
    return (
        f"The verdicts are on full fine-tuning only. Judged alike, these would not be *supported*: "
        f"**{'; '.join(words) or 'none'}**. Noise of the same size would be ({min(noise):.0%} rise)."
    )


def beside_noise(record: pd.DataFrame, more: dict[str, tuple[dict, dict]]) -> pd.DataFrame:
    """What ΔW does to the std and, in brackets, what norm-matched noise does; means over runs.

    Args:
        record: as everywhere.
        more: name → (`lfmlib.findings.widening` of ΔW, of noise), to stand above.
    """
    for model, name in SHORT.items():
        if len(rows := plain(record, model)):
            spans = (findings.widening_over_runs(rows, prefix)["mean"].to_dict() for prefix in ("", "noise_"))
            more |= {f"{name}, full": tuple(spans)}
    columns = {
        "rises": ("share that rises (noise)", "{:.1%}"),
        "gain_median": ("median g (noise)", "{:.2f}"),
        "gain_mean": ("mean g (noise)", "{:.2f}"),
    }
    table = {
        name: {words: f"{form.format(own[key])} ({form.format(noise[key])})" for key, (words, form) in columns.items()}
        for name, (own, noise) in more.items()
    }
    return pd.DataFrame.from_dict(table, orient="index")


def motion_alone(record: pd.DataFrame) -> str:
    """Mean g of the decoder with nothing to learn, beside that with real labels, in a sentence."""
    own = by_cause(record)
    if "own labels" not in own or own["own labels"]["seed"].nunique() < 2:
        return "Own labels were not trained on here."
    spans = {cause: findings.widening_over_runs(own[cause]).loc["gain_mean"] for cause in ("own labels", "unchanged")}
    more = spans["own labels"]["low"] > spans["unchanged"]["mean"]
    return (
        f"Mean g on own labels **{_span(spans['own labels'])}**, on real ones {_span(spans['unchanged'])}. "
        + ("It is larger where there is nothing to learn. " if more else "")
        + ("**A g above 1 is no sign of learning.**" if spans["own labels"]["low"] > 1 else "")
    )


def of_the_rate(record: pd.DataFrame) -> str:
    """What the learning rate does to the width and to g, in a sentence; of the decoder."""
    own = by_cause(record)
    rates = sorted((rows["lr"].iloc[0], rows) for cause, rows in own.items() if cause.startswith("rate")) if own else []
    if len(rates) < 2:
        return "One rate alone was trained with here."
    spans = [findings.widening_over_runs(rows)["mean"] for _, rows in rates]
    width = rates[-1][1]["std_delta"].median() / rates[0][1]["std_delta"].median()
    medians = [one["gain_median"] for one in (*spans, findings.widening_over_runs(own["unchanged"])["mean"])]
    return (
        f"From the smallest rate to the largest, {rates[-1][0] / rates[0][0]:.0f} times as large, ΔW becomes "
        f"{width:.0f} times as wide, and the share that rises goes from {spans[0]['rises']:.0%} to "
        f"{spans[-1]['rises']:.0%}, while the median g stays between {min(medians):.2f} and {max(medians):.2f}: "
        "the rate decides how large the rise is, and hardly how much of ΔW goes into it."
    )


def decay_cost(record: pd.DataFrame) -> pd.DataFrame:
    """What the usual weight decay takes off g, measured and foretold.

    Decay alone shrinks W₀ by λ times the sum of the rates, so that Cov(ΔW, W₀) falls by that times Var W₀, and g by
    twice that times Var W₀ / Var ΔW; as long as that sum is small.

    Returns:
        Index: model, and the decoder with a decay of 1. Columns, in words: change of the median g, with its 95 %
        interval over seeds; ``foretold``; runs.
    """
    found = {}
    for model, name in SHORT.items():
        without = where(record, part="plain", model=model, weight_decay=0.0)
        ways = {name: plain(record, model), f"{name}, decay 1": where(record, model=model, cause="decay 1")}
        for way, rows in ways.items():
            if not len(rows) or not len(without):
                continue
            same = without[without["seed"].isin(rows["seed"])]
            medians = [some.groupby("seed")["gain"].median() for some in (rows, same)]
            one = rows.iloc[0]
            config = Config(model, one["task"], lr=one["lr"], steps=int(one["steps"]), start="library")
            spent = one["weight_decay"] * sum(rate(config, step) for step in range(config.steps))
            told = -2 * spent * ((same["std_base"] / same["std_delta"]) ** 2).median()
            change = medians[0] - medians[1]
            found[way] = {"change of median g": over(change), "foretold": f"{told:.2f}", "runs": len(change)}
    return pd.DataFrame.from_dict(found, orient="index")


def causes_of_width(record: pd.DataFrame) -> pd.DataFrame:
    """The same, but for the mean g, for every setting of the decoder that was changed; with the factor on the median
    std(ΔW), the held-out loss and the number of runs."""
    own, found = by_cause(record), {}
    for cause, rows in own.items():
        found[cause] = {name: words for name, words in _widening(rows).items() if name != "mean g"} | {
            "std(ΔW) ×": f"{rows['std_delta'].median() / own['unchanged']['std_delta'].median():.2f}",
            "held-out loss": f"{rows['score'].mean():.2f}",
            "runs": rows["seed"].nunique(),
        }
    return pd.DataFrame.from_dict(found, orient="index")


def at_the_end(runs: dict[str, pd.DataFrame]) -> str:
    """Where the lab models' own trainings end, in a sentence; from `pretraining`."""
    ends = {name: rows[rows["step"] == rows["step"].max()][["gain", "rises"]].mean() for name, rows in runs.items()}
    gains, rises = ([one[column] for one in ends.values()] for column in ("gain", "rises"))
    return (
        f"At the end the median g is {min(gains):.2f} to {max(gains):.2f}, and the standard deviation has risen in "
        f"{min(rises):.0%} to {max(rises):.0%} of the matrices, in the mean over seeds."
        + (" From a random start training widens as noise would." if max(abs(g - 1) for g in gains) < 0.1 else "")
    )


def pretraining(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the lab models' own trainings, by name: step, rises, gain, corr, moved."""
    rows = where(record, part="pretraining")
    return {name: some for model, name in PRETRAINED.items() if len(some := where(rows, model=model))}


def _widening(rows: pd.DataFrame) -> dict[str, str]:
    own = findings.widening_over_runs(rows)
    return {
        "std rises": _span(100 * own.loc["rises"], 0, "\u00a0%").replace(" [100, 100]", "").replace(" [0, 0]", ""),
        "median g": _span(own.loc["gain_median"]),
        "mean g": _span(own.loc["gain_mean"]),
    }


def _percent(shares: list[float]) -> str:
    """Mean over runs in per cent, from three runs on with its 95 % interval."""
    mean, low, high = (100 * value for value in findings.over_runs(shares))
    span = f" [{max(low, 0):.0f}, {min(high, 100):.0f}]" if len(shares) > 2 and low < high else ""
    return f"{mean:.1f}{span}"


def _span(row: pd.Series, digits: int = 2, unit: str = "") -> str:
    return findings.bracketed(row["mean"], row["low"], row["high"], digits, unit=unit)
