"""What chapter 6 reads off the record `finetuning`: the law of ΔW, and what it does to the standard deviation.

Every function takes rows of the record (see `lfmlib.experiments.finetuning.run`), of which those of fine-tunings are
one per judged matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from .. import findings
from ..deltas.decay import foretold_gain
from ..findings import markup
from ..lab.train import Config, left_by_decay
from .names import NAMES, by_model, key, where
from .sentences import MISSING, Cell, mean, median, number, runs, table
from .tuned import OTHER_TEXT, by_cause, by_way, over, plain, unjudged, ways

PRETRAINED = ("deep-decoder", "decoder", "vit", "clip")
"""The models whose own training is looked at."""


def laws(record: pd.DataFrame) -> pd.DataFrame:
    """The law of ΔW for every model and method: medians over matrices and runs.

    Beside `kl_bits` of ΔW stands what 97.5 % of noise stay below, and what BA of Gaussian factors of the same rank has;
    R² ≥ 0.99 of the Q–Q plot is a share of the parameters, in per cent, beside that of such factors; top / edge is the
    `top_ratio`.
    """

    def told(rows: pd.DataFrame) -> dict:
        known = "rank_qq_r2" in rows and bool(rows["rank_qq_r2"].notna().any())
        return {
            "kl_bits": rows["kl_bits"].median(),
            "noise, 97.5 %": rows["kl_bits_null_high"].median(),
            "Gaussian factors": rows["rank_kl_bits"].median() if known else np.nan,
            "R² ≥ 0.99": _percent(normal_shares(rows)),
            "factors’": f"{findings.share(rows, rows['rank_qq_r2'] >= findings.QQ_BOUND):.0%}" if known else MISSING,
            "top / edge": f"{rows['top_ratio'].median():.1f}",
            "runs": runs(rows),
        }

    return table(((f"{name}, {way}", rows) for name, way, rows in by_way(record)), told)


def normal_shares(rows: pd.DataFrame) -> list[float]:
    """Of each run, the share of the parameters in matrices whose ΔW has R² ≥ 0.99."""
    return [findings.share(run, run["qq_r2"] >= findings.QQ_BOUND) for _, run in rows.groupby("seed")]


def of_laws(record: pd.DataFrame) -> str:
    """What the laws say of full fine-tuning, and where low rank alone explains those of adapters, in a sentence."""
    full, alike, unlike = [], [], []
    for name, way, rows in by_way(record):
        if way == "full":
            value, low, high = findings.over_runs(shares := normal_shares(rows))
            outcome = "missed" if value < findings.SUPPORTED_SHARE else "met"
            outcome = "**not settled**" if low < findings.SUPPORTED_SHARE <= high else outcome
            full.append(f"{name} {outcome}{'' if len(shares) > 1 else ' (one run)'}")
        else:
            ratio = rows["kl_bits"].median() / rows["rank_kl_bits"].median()
            (alike if ratio <= 1.25 else unlike).append((f"{name}, {way}", ratio))
    words = f"R² ≥ 0.99 for 80 % of the parameters, by the interval over seeds, in full fine-tuning: {', '.join(full)}."
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
    listed = ["full", "LoRA 16", "DoRA 16", "full, no decay"]
    listed += [f"{way}, {OTHER_TEXT}" for way in ("full", "LoRA 16")]
    rows = {f"{name}, {way}": some for name, way, some in by_way(record, ways) if way in listed and runs(some) > 1}
    size = median(lambda some: some["std_delta"] / some["std_base"], ".3f")
    return table(rows, WIDENING | {"ΔW / W₀": size, "runs": runs})


def not_passing(record: pd.DataFrame) -> str:
    """The ways of training that F6's rule would not call supported, and what noise would be called, in a sentence."""
    words, noise = [], {}
    for model, name in NAMES.items():
        for way, rows in unjudged(record, model):
            own = findings.widening_over_runs(rows)
            rises, g = own.loc["widened", "mean"], own.loc["gain_mean", "mean"]
            if rises < findings.SUPPORTED_SHARE or own.loc["covariance", "high"] < 0:
                words.append(f"{name}, {way} ({rises:.0%} rise, mean g {g:.2f})")
        if len(rows := plain(record, model)):
            noise[name] = findings.widening_over_runs(rows, "noise_").loc["widened", "mean"]
    below = [f"{name} ({one:.0%})" for name, one in noise.items() if one < findings.SUPPORTED_SHARE]
    but = f", but for {markup.enumerated(below)}" if below else ""
    return (
        f"The verdicts are on full fine-tuning only. Judged alike, these would not be *supported*: "
        f"**{'; '.join(words) or 'none'}**. Noise of the same size would be{but}."
    )


def beside_noise(record: pd.DataFrame, more: dict[str, tuple[dict, dict]]) -> pd.DataFrame:
    """What ΔW does to the std and, in brackets, what norm-matched noise does; means over runs.

    Args:
        record: as everywhere.
        more: name → (`lfmlib.findings.widening` of ΔW, of noise), to stand above.
    """
    for model, name in NAMES.items():
        if len(rows := plain(record, model)):
            spans = (findings.widening_over_runs(rows, prefix)["mean"].to_dict() for prefix in ("", "noise_"))
            more |= {f"{name}, full": tuple(spans)}

    def both(figure: str, form: str) -> Cell:
        return lambda pair: f"{pair[0][figure]:{form}} ({pair[1][figure]:{form}})"

    columns = {
        "matrices that widen (noise)": both("widened", ".1%"),
        "median g (noise)": both("gain_median", ".2f"),
        "mean g (noise)": both("gain_mean", ".2f"),
    }
    return table(more, columns)


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
        f"{width:.0f} times as wide. The share of matrices whose std rises goes from {spans[0]['widened']:.0%} to "
        f"{spans[-1]['widened']:.0%}, while the median g stays between {min(medians):.2f} and {max(medians):.2f}."
    )


def decay_cost(record: pd.DataFrame) -> pd.DataFrame:
    """What the usual weight decay takes off the median g, measured, and foretold by `lfmlib.deltas.decay`.

    The 12-layer decoder stands there twice, with a decay of 1, too.
    """
    rows = {}
    for name, change, foretold in costs(record):
        told = {"change of median g": change, "foretold": foretold, "measured less foretold": change - foretold}
        rows[name] = {what: over(values) for what, values in told.items()} | {"runs": len(change)}
    return table(rows, dict)


def costs(record: pd.DataFrame) -> Iterator[tuple[str, pd.Series, pd.Series]]:
    """What decay takes off the median g: model, and by seed the change of it and what is foretold, which rests on the
    trainings without decay alone."""
    listed = {}
    for model, name in NAMES.items():
        listed |= {name: plain(record, model), f"{name}, decay 1": where(record, model=model, cause="decay 1")}
    for name, rows in listed.items():
        if rows.empty or (without := plain(record, key(rows), decay=0.0)).empty:
            continue
        one, same = rows.iloc[0], without[without["seed"].isin(rows["seed"])]
        rates = {"lr": one["lr"], "weight_decay": one["weight_decay"], "steps": int(one["steps"])}
        kept = left_by_decay(Config(key(rows), one["task"], start="library", **rates))
        moved = same["std_delta"] / same["std_base"]
        gains = same.assign(decayed=foretold_gain(kept, moved, same["corr"] * moved))
        found = gains.groupby("seed")[["gain", "decayed"]].median()
        yield name, rows.groupby("seed")["gain"].median() - found["gain"], found["decayed"] - found["gain"]


def causes_of_width(record: pd.DataFrame) -> pd.DataFrame:
    """What ΔW does to the std for every setting of the 12-layer decoder that was changed; with the factor on the median
    std(ΔW), the held-out loss and the number of runs."""
    own = by_cause(record)
    columns = {name: cell for name, cell in WIDENING.items() if name != "mean g"} | {
        "std(ΔW) ×": number(lambda rows: rows["std_delta"].median() / own["unchanged"]["std_delta"].median(), ".2f"),
        "held-out loss": mean("score", ".2f"),
        "runs": runs,
    }
    return table(own, columns)


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
    found = {key(rows): rows for _, rows in by_model(record, part="pretraining")}
    return {NAMES[model]: found[model] for model in PRETRAINED if model in found}


def _widened(figure: str, times: float = 1, digits: int = 2, unit: str = "") -> Cell:
    """A cell with a figure of `lfmlib.findings.widening_over_runs`."""
    return lambda rows: _span(times * findings.widening_over_runs(rows).loc[figure], digits, unit)


def _rises(rows: pd.DataFrame) -> str:
    """The share of matrices that widen, in per cent; without an interval that has no width since all do, or none."""
    return _widened("widened", 100, 0, "\u00a0%")(rows).replace(" [100, 100]", "").replace(" [0, 0]", "")


WIDENING = {"matrices that widen": _rises, "median g": _widened("gain_median"), "mean g": _widened("gain_mean")}
"""What ΔW does to the std of the matrices: heading → cell, from the rows of one way of training."""


def _percent(shares: list[float]) -> str:
    """Mean over runs in per cent, from three runs on with its 95 % interval."""
    mean, low, high = (100 * value for value in findings.over_runs(shares))
    span = f" [{max(low, 0):.0f}, {min(high, 100):.0f}]" if len(shares) > 2 and low < high else ""
    return f"{mean:.1f}{span}"


def _span(row: pd.Series, digits: int = 2, unit: str = "") -> str:
    return findings.bracketed(row["mean"], row["low"], row["high"], digits, unit=unit)
