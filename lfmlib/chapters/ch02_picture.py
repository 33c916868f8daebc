"""The picture of chapter 2, a start that fades as a sum grows, held against the record `initialization`.

Every function takes rows of the record: one per training and snapshot, with the training's settings (see
`lfmlib.experiments.initialization.run`).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd

from ..experiments import drift
from ..findings import over_runs
from ..lab.starts import UNLIKE_STARTS
from ..lab.train import Config, left_by_decay
from .ch02_start import OPTIMIZERS
from .lab_runs import last, verdict_runs
from .names import NAMES, where
from .sentences import middle, table, worded

LEAST = 0.005
"""Predictions of `kl_bits` below which measured over foretold is no factor but noise."""


def with_prediction(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with ``ratio``, RMS(D)/RMS(a W₀), and the `kl_bits` ``predicted`` from it for an unlike start."""
    rows = rows.assign(ratio=drift.ratio(rows["memory"]))
    predicted = pd.Series(np.nan, index=rows.index)
    for start, some in rows[rows["start"].isin(UNLIKE_STARTS)].groupby("start"):
        predicted[some.index] = drift.foretold(start, some["ratio"])
    return rows.assign(predicted=predicted)


def picture(rows: pd.DataFrame, bound: float) -> str:
    """How the prediction does where it is put to the test, under AdamW, in a sentence.

    Args:
        rows: from `with_prediction`.
        bound: `kl_bits` at which a start counts as forgotten.
    """
    told = rows[rows["predicted"].notna() & (rows["optimizer"] == "adamw")]
    forgotten = told["predicted"] <= bound
    kept = int((told.loc[forgotten, "kl_bits"] > bound).sum())
    words = (
        f"Under AdamW, of {forgotten.sum():,} snapshots that should have forgotten their start, **{kept:,} have not**."
    )
    half = told[~forgotten & (told["ratio"] > 0.5)]
    if len(half):
        factor = (half["kl_bits"] / half["predicted"]).median()
        words += (
            f" Among the {len(half):,} others to which at least half as much was added as is left of the start, the "
            f"measured distance is **{factor:.2f} times** the foretold one in the median."
        )
    return words


def misses(rows: pd.DataFrame, bound: float) -> pd.DataFrame:
    """How the prediction does: AdamW by how much was added for each part left, the other optimizers as a whole.

    Args:
        rows: from `with_prediction`.
        bound: `kl_bits` at which a start counts as forgotten.

    Returns:
        Columns: snapshots; ``measured / foretold`` of `kl_bits`, median and middle 80 %; how many were ``foretold
        forgotten``, and how many ``of these not``.
    """
    columns = {
        "snapshots": len,
        "measured / foretold": worded(middle, _factor),
        "foretold forgotten": lambda some: int((some["predicted"] <= bound).sum()),
        "of these not": lambda some: int(((some["predicted"] <= bound) & (some["kl_bits"] > bound)).sum()),
    }
    return table(_by_added(rows), columns)


def factors(rows: pd.DataFrame) -> pd.DataFrame:
    """Measured over foretold `kl_bits` of these groups: columns added, mean (the median), low, high (middle 80 %)."""
    found = []
    for name, some in _by_added(rows).items():
        factor = _factor(some)
        if len(factor):
            low, median, high = factor.quantile([0.1, 0.5, 0.9])
            found.append({"added": name, "mean": median, "low": low, "high": high})
    return pd.DataFrame(found, columns=["added", "mean", "low", "high"])


def _factor(rows: pd.DataFrame) -> pd.Series:
    """Measured over foretold `kl_bits`, of snapshots of which that is not lost in the noise of a matrix's own size."""
    return (rows["kl_bits"] / rows["predicted"])[rows["predicted"] >= LEAST]


def _by_added(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Snapshots with a prediction: AdamW's by how much was added for each part left, the others' as a whole."""
    rows = rows[rows["predicted"].notna()]
    edges = [0, 0.25, 0.5, 0.75, 1.0, 1.5, np.inf]
    adam = rows["optimizer"] == "adamw"
    parts = {
        f"AdamW, {low:g} to {high:g}" if high < np.inf else f"AdamW, above {low:g}": rows[
            adam & rows["ratio"].between(low, high, inclusive="left")
        ]
        for low, high in itertools.pairwise(edges)
    }
    for name, title in OPTIMIZERS.items():
        some = where(rows, optimizer=name)
        parts[f"{title}, at most {some['ratio'].max():.2f}"] = some
    return {name: some for name, some in parts.items() if len(some)}


def crossings(rows: pd.DataFrame, bound: float) -> pd.DataFrame:
    """How far the weights had moved when a training came within ``bound`` bits of a Gaussian, for every unlike start.

    Between the two snapshots around the crossing, all is taken to be linear on logarithmic axes.

    Returns:
        Index: start. Columns: trainings; how many added as much as the prediction asks for (``got there``), and how
        many of these ended within the bound; how many trainings ``crossed`` it, and of these, in words, with the middle
        80 %, RMS(ΔW)/RMS(W₀) there (``moved``), and RMS(D)/RMS(a W₀) there beside the ``foretold`` one.
    """
    found = {}
    for start in UNLIKE_STARTS:
        runs = [run.sort_values("step") for _, run in where(with_prediction(rows), start=start).groupby("cell")]
        there = pd.DataFrame([place for run in runs if (place := _crossing(run, bound)) is not None])
        ends, needed = pd.DataFrame([run.iloc[-1] for run in runs]), drift.forgotten_at(start, bound)
        far = ends["ratio"] >= needed
        found[start] = {
            "trainings": len(runs),
            "got there": int(far.sum()),
            "of these within": int((far & (ends["kl_bits"] <= bound)).sum()),
            "crossed": len(there),
            **{column: middle(there[column]) if len(there) else "–" for column in ("moved", "ratio")},
            "foretold": f"{needed:.2f}",
        }
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

    Diffusion, a sum of independent steps of a size proportional to the rate, gives 1.

    Returns:
        Index: model. Columns: slope, low, high (95 %, over seeds, starts averaged within each), and ``straight``, the
        slope of steps that all point the same way, with the same rates at the same snapshots.
    """
    found = {}
    for model, some in rows[rows["step"] > 0].groupby("model", sort=False):
        runs = some.groupby(["seed", "start", "gain", "part"], sort=False)
        slopes = runs[["moved", "rate_sum", "rate_norm"]].apply(
            lambda one: pd.Series({name: _slope(one["rate_norm"], one[name]) for name in ("moved", "rate_sum")})
        )
        slope, low, high = over_runs(slopes["moved"].groupby("seed").mean())
        straight = slopes["rate_sum"].mean()
        found[NAMES[model]] = {"slope": slope, "low": low, "high": high, "straight": straight}
    return pd.DataFrame.from_dict(found, orient="index")


def _slope(x: pd.Series, y: pd.Series) -> float:
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def drifts(rows: pd.DataFrame) -> pd.DataFrame:
    """What is left of the start at the end, measured and by weight decay alone.

    Returns:
        Index: as in `verdict_runs`. Columns: ``measured``, ``low``, ``high`` (the regression slope of W on W₀, mean and
        95 % interval over seeds, starts averaged within each), ``decay alone``, the share that AdamW’s decay leaves.
    """
    found = {}
    for name, some in verdict_runs(last(rows)).items():
        mean, low, high = over_runs(some.groupby("seed")["left"].mean())
        one = some.iloc[0]
        config = Config(
            one["model"], one["task"], lr=one["lr"], steps=int(one["steps"]), weight_decay=one["weight_decay"]
        )
        found[name] = {"measured": mean, "low": low, "high": high, "decay alone": left_by_decay(config)}
    return pd.DataFrame.from_dict(found, orient="index")


def over_decay(rows: pd.DataFrame) -> pd.DataFrame:
    """What `drifts` measured over what decay alone would leave: columns way, mean, low, high."""
    found = rows[["measured", "low", "high"]].div(rows["decay alone"], axis=0).rename(columns={"measured": "mean"})
    return found.rename_axis("way").reset_index()


def forecast_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The `kl_bits` that trainings should end with, told from how a Gaussian start faded in the same training.

    Nothing measured on an unlike start enters its own forecast: only the correlation that the Gaussian start kept, and
    the law of the start.

    Returns:
        Columns: way (of training, as in `verdict_runs`), start, foretold, measured (mean over seeds).
    """
    found = []
    for way, some in verdict_runs(last(rows)).items():
        added = drift.ratio(where(some, start="gaussian")["memory"].mean())
        for start in UNLIKE_STARTS:
            measured = where(some, start=start)["kl_bits"].mean()
            found.append(
                {"way": way, "start": start, "foretold": float(drift.foretold(start, added)), "measured": measured}
            )
    return pd.DataFrame(found)


def forecasts(rows: pd.DataFrame) -> pd.DataFrame:
    """The same in words: foretold → measured, a row for each way of training and a column for each start."""
    words = rows.assign(told=[f"{one.foretold:.3f} → {one.measured:.3f}" for one in rows.itertuples()])
    found = words.pivot(index="way", columns="start", values="told")
    return found.loc[rows["way"].unique(), rows["start"].unique()].rename_axis(None).rename_axis(None, axis=1)
