"""What chapter 2 reads off its record, `initialization`: tables of the trainings from unlike starts.

Every function takes rows of the record: one per training and snapshot, with the training's settings (see
`lfmlib.lab.experiments.run`).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ..evidence import over_runs, shares_by_start
from . import forgetting
from .inits import STARTS, UNLIKE

REGIMES = {
    "wide start": {"part": "plain", "gain": 1.0},
    "narrow start": {"part": "plain", "gain": 0.25},
    "strong decay": {"part": "decay"},
}
"""The ways of training that the verdict is given on, as settings."""
NAMES = {"decoder": "lab decoder", "vit": "lab ViT", "clip": "lab CLIP"}
"""The models by modality: language, vision, both."""


def where(rows: pd.DataFrame, **settings) -> pd.DataFrame:
    """The rows that have these settings."""
    for name, value in settings.items():
        rows = rows[rows[name] == value]
    return rows


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at the end of each training."""
    return rows[rows["step"] == rows["steps"]]


def verdict_runs(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows each verdict rests on, by a name such as "lab ViT, wide start"; ways that were not run are left out."""
    found = {
        f"{NAMES[model]}, {regime}": where(rows, model=model, **settings)
        for model in NAMES
        for regime, settings in REGIMES.items()
    }
    return {name: some for name, some in found.items() if len(some)}


def shares(rows: pd.DataFrame) -> pd.DataFrame:
    """For each start and model, in words: the share of Gaussian parameters before → after [interval over seeds]."""
    table = {}
    for model, some in rows.groupby("model", sort=False):
        found = shares_by_start(some)
        table[NAMES[model]] = {
            start: f"{100 * row.before:.0f} → {100 * row.after:.0f} [{100 * row.low:.0f}, {100 * row.high:.0f}]"
            for start, row in found.iterrows()
        }
    return pd.DataFrame(table)


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """What the trained models can do on held-out data, mean [interval over starts and seeds], and the worst of them."""
    table = {}
    for name, some in verdict_runs(last(rows)).items():
        mean, low, high = over_runs(some["score"])
        language = (some["model"] == "decoder").all()
        table[name] = {
            "held out": "loss, nats per byte" if language else "accuracy",
            "trained": f"{mean:.3f} [{low:.3f}, {high:.3f}]",
            "worst": f"{some['score'].max() if language else some['score'].min():.3f}",
            "trivial": f"{some['trivial'].mean():.3f}",
        }
    return pd.DataFrame(table).T


def with_prediction(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with ``ratio``, RMS(D)/RMS(a W₀), and the `kl_bits` ``predicted`` from it for an unlike start."""
    rows = rows.assign(ratio=forgetting.ratio(rows["memory"]))
    predicted = pd.Series(np.nan, index=rows.index)
    for start, some in rows[rows["start"].isin(UNLIKE)].groupby("start"):
        predicted[some.index] = forgetting.foretold(start, some["ratio"])
    return rows.assign(predicted=predicted)


def misses(rows: pd.DataFrame, least: float = 0.005) -> pd.DataFrame:
    """How the prediction does, by optimizer and model.

    Args:
        rows: from `with_prediction`.
        least: snapshots with a smaller prediction are left out; there it is lost in the noise of a matrix's own size.

    Returns:
        Columns: snapshots; the largest ratio among them; ``measured / foretold`` of `kl_bits`, its median and middle
        80 %; the median `kl_bits` of what training added, at the end.
    """
    judged = rows[rows["predicted"] >= least]
    factor = judged["kl_bits"] / judged["predicted"]
    found = {}
    for (optimizer, model), some in factor.groupby([judged["optimizer"], judged["model"]], sort=False):
        low, middle, high = some.quantile([0.1, 0.5, 0.9])
        ends = where(last(rows), optimizer=optimizer, model=model)
        found[f"{optimizer}, {NAMES[model]}"] = {
            "snapshots": len(some),
            "added / left, largest": f"{judged.loc[some.index, 'ratio'].max():.2f}",
            "measured / foretold": f"{middle:.2f} ({low:.2f} to {high:.2f})",
            "added part, kl_bits": float(ends["added_kl_bits"].median()),
        }
    return pd.DataFrame.from_dict(found, orient="index")


def crossings(rows: pd.DataFrame, bound: float) -> pd.DataFrame:
    """How far the weights had moved when a training came within ``bound`` bits of a Gaussian, for every unlike start.

    Between the two snapshots around the crossing, all is taken to be linear on logarithmic axes.

    Returns:
        Index: start. Columns: trainings, and how many of them ``crossed``; in words, with the middle 80 %, RMS(ΔW) /
        RMS(W₀) there (``moved``), and RMS(D)/RMS(a W₀) there beside the ``foretold`` one.
    """
    found = {}
    for start in UNLIKE:
        runs = [run.sort_values("step") for _, run in where(with_prediction(rows), start=start).groupby("cell")]
        there = pd.DataFrame([place for run in runs if (place := _crossing(run, bound)) is not None])
        found[start] = {"trainings": len(runs), "crossed": len(there)}
        for column in ("moved", "ratio"):
            low, middle, high = there[column].quantile([0.1, 0.5, 0.9]) if len(there) else [math.nan] * 3
            found[start][column] = f"{middle:.2f} ({low:.2f} to {high:.2f})" if len(there) else "–"
        found[start]["foretold"] = f"{forgetting.forgotten_at(start, bound):.2f}"
    return pd.DataFrame.from_dict(found, orient="index")


def _crossing(run: pd.DataFrame, bound: float) -> dict[str, float] | None:
    """Where one training last came within the bound; None if it ended beyond it."""
    beyond = np.flatnonzero(run["kl_bits"] > bound)
    if len(beyond) == 0 or beyond[-1] == len(run) - 1:
        return None
    out, within = run.iloc[beyond[-1]], run.iloc[beyond[-1] + 1]
    part = math.log(out["kl_bits"] / bound) / math.log(out["kl_bits"] / max(within["kl_bits"], 1e-6))
    return {
        column: math.exp((1 - part) * math.log(max(out[column], 1e-6)) + part * math.log(within[column]))
        for column in ("moved", "ratio")
    }


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """How RMS(ΔW) grows with the learning rates spent: slope on the root of the sum of their squares, log on log.

    Diffusion, a sum of independent steps, gives 1; steps that all point the same way give their plain sum, and so about
    2 while the rate changes little.

    Returns:
        Index: model. Columns: slope, low, high (95 %, over the trainings), runs.
    """
    found = {}
    keys = ["part", "model", "start", "gain", "optimizer", "seed"]
    for model, some in rows[rows["step"] > 0].groupby("model", sort=False):
        slopes = [
            np.polyfit(np.log(one["rate_norm"]), np.log(one["moved"]), 1)[0]
            for _, one in some.groupby(keys, sort=False)
        ]
        found[NAMES[model]] = dict(zip(("slope", "low", "high"), over_runs(slopes), strict=True)) | {
            "runs": len(slopes)
        }
    return pd.DataFrame.from_dict(found, orient="index")


def forecasts(rows: pd.DataFrame) -> pd.DataFrame:
    """The `kl_bits` that trainings should end with, told from how a Gaussian start faded in the same training.

    Nothing measured on an unlike start enters its own forecast: only the correlation that the Gaussian start kept, and
    the law of the start.

    Returns:
        For each way of training (as in `verdict_runs`) and unlike start, in words: foretold → measured, means over
        seeds.
    """
    found = {}
    for name, some in verdict_runs(last(rows)).items():
        at = forgetting.ratio(where(some, start="gaussian")["memory"].mean())
        measured = some.groupby("start")["kl_bits"].mean()
        found[name] = {
            start: f"{float(forgetting.foretold(start, at)):.3f} → {measured[start]:.3f}" for start in UNLIKE
        }
    return pd.DataFrame.from_dict(found, orient="index")


def kept(rows: pd.DataFrame) -> pd.DataFrame:
    """What is left of each start at the end, beside what it had: means over seeds.

    Args:
        rows: of one model trained in one way.
    """
    first, end = (
        some.groupby("start", sort=False).mean(numeric_only=True) for some in (where(rows, step=0), last(rows))
    )
    pairs = {"RMS": "rms", "rows alike": "row_corr", "top": "top_ratio", "zeros seen": "zeros_seen"}
    form = {"rms": "{:.3f}"}
    table = {
        name: first[c].map(form.get(c, "{:.2f}").format) + " → " + end[c].map(form.get(c, "{:.2f}").format)
        for name, c in pairs.items()
    }
    names = {"shape": _commonest(first) + " → " + _commonest(end)}
    frame = pd.DataFrame({"correlation": end["memory"].map("{:.2f}".format)} | names | table)
    kept_by = [start for start in STARTS if start in frame.index]
    return frame.reindex(kept_by).rename_axis(None).replace("nan → nan", "–")


def drifts(rows: pd.DataFrame) -> pd.DataFrame:
    """What is left of the start at the end, measured and by weight decay alone.

    Returns:
        Index: as in `verdict_runs`. Columns: ``measured``, ``low``, ``high`` (the regression slope of W on W₀, its mean
        over starts and seeds and 95 % interval), ``decay alone``, exp(-weight decay × sum of the rates).
    """
    found = {}
    for name, some in verdict_runs(last(rows)).items():
        mean, low, high = over_runs(some["left"])
        alone = np.exp(-some["weight_decay"] * some["rate_sum"]).mean()
        found[name] = {"measured": mean, "low": low, "high": high, "decay alone": alone}
    return pd.DataFrame.from_dict(found, orient="index")


def shapes_grown(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Shapes that training gave to models that started Gaussian, for the rule of F3.

    Returns:
        Shape → the ways of training (as in `verdict_runs`) in which at least two matrices end with it, and none begins
        with it, in at least two seeds.
    """
    found: dict[str, list[str]] = {}
    for name, some in verdict_runs(where(rows, start="gaussian")).items():
        first, end = where(some, step=0), last(some)
        for shape in ("sharp", "inverted-t", "linear"):
            if (first[shape] == 0).all() and (end[shape] >= 2).sum() >= 2:
                found.setdefault(shape, []).append(name)
    return found


def _commonest(means: pd.DataFrame) -> pd.Series:
    """The name that most matrices have."""
    named = means[["sharp", "inverted-t", "linear", "other"]]
    return named.assign(gaussian=means["matrices"] - named.sum(axis=1)).idxmax(axis=1)
