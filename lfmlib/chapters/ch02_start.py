"""What chapter 2 reads off its record, `initialization`: tables of the trainings from unlike starts.

Every function takes rows of the record: one per training and snapshot, with the training's settings (see
`lfmlib.experiments.initialization.run`).
"""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from .. import findings
from ..checkpoints.checkpoint import open_checkpoint
from ..distribution import nulls
from ..experiments import drift
from ..findings import bracketed, over_runs, shares_by_start
from ..lab import models, text
from ..lab.problems import problem
from ..lab.starts import STARTS
from .lab_runs import REGIMES, last, verdict_runs
from .names import NAMES, where
from .sentences import Cell, arrow, at_end, mean, number, span, table, within

OPTIMIZERS = {"adagrad": "Adagrad", "sgd": "SGD"}
"""The other optimizers of the record, and their names in print."""


def optimizer_runs(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of the other optimizers, by a name such as "lab ViT, SGD"; empty where none were run."""
    found = {
        f"{NAMES[model]}, {words}": where(rows, part="optimizer", model=model, optimizer=optimizer)
        for optimizer, words in OPTIMIZERS.items()
        for model in NAMES
    }
    return {name: some for name, some in found.items() if len(some)}


def ways(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each way of training that the verdict is given on, of all models together."""
    found = {way: where(rows, **settings) for way, settings in REGIMES.items()}
    return {way: some for way, some in found.items() if len(some)}


def noise_bands(runs: dict[str, pd.DataFrame], column: str) -> dict[str, tuple[float, float]]:
    """For each way of training, the central 95 % of a figure on noise of the size of the model's middle matrix."""
    return {name: nulls.band("float32", _middle_size(rows["model"].iloc[0]))[column] for name, rows in runs.items()}


@functools.cache
def _middle_size(model: str) -> int:
    judged = findings.judged(open_checkpoint(models.build(model, seed=0)))
    return int(np.median([info.numel for info in judged.tensors]))


@functools.cache
def pairs_loss() -> float:
    """Held-out loss of a code that knows the frequencies of pairs of bytes, nats per byte."""
    language = problem("decoder", "language")
    held_out = language.held_out.numpy().astype(np.uint8).ravel()
    return text.frequency_loss(language.train[: 1 << 22], held_out, order=1)


def shares(rows: pd.DataFrame) -> pd.DataFrame:
    """For each start and model, in words: the share of Gaussian parameters before → after [interval over seeds].

    Args:
        rows: of models trained in one way, or with several optimizers, which get a column each.
    """
    table = {}
    several = rows["optimizer"].nunique() > 1
    for (model, optimizer), some in rows.groupby(["model", "optimizer"], sort=False):
        found = shares_by_start(some)
        table[f"{NAMES[model]}, {optimizer}" if several else NAMES[model]] = {
            start: f"{100 * row.before:.0f} → {bracketed(100 * row.after, 100 * row.low, 100 * row.high, 0)}"
            for start, row in found.iterrows()
        }
    return pd.DataFrame(table)


def share_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The share of Gaussian parameters at the end: columns start, model, mean, low, high (95 %, over seeds)."""
    found = [
        shares_by_start(some)
        .rename(columns={"after": "mean"})
        .rename_axis("start")
        .reset_index()
        .assign(model=NAMES[model])
        for model, some in rows.groupby("model", sort=False)
    ]
    return pd.concat(found)[["start", "model", "mean", "low", "high"]]


def end_rows(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """A figure of the weights at the end of trainings: columns start, model, mean, low, high (95 %, over seeds)."""
    found = []
    for (model, start), some in last(rows).groupby(["model", "start"], sort=False):
        mean, low, high = over_runs(some[column])
        found.append({"start": start, "model": NAMES[model], "mean": mean, "low": low, "high": high})
    return pd.DataFrame(found)


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """What the trained models can do on held-out data, mean [interval over seeds], and the worst of all.

    Intervals are over seeds, the starts averaged within each. For language, a code that knows the frequencies of pairs
    of bytes stands beside the trivial one.
    """
    columns = {
        "held out": lambda some: "loss, nats per byte" if _is_loss(some) else "accuracy",
        "trained": span(lambda some: some.groupby("seed")["score"].mean(), 3),
        "worst": number(lambda some: some["score"].max() if _is_loss(some) else some["score"].min(), ".3f"),
        "trivial": lambda some: (
            f"{some['trivial'].mean():.3f}" + (f"; pairs {pairs_loss():.3f}" if _is_loss(some) else "")
        ),
    }
    return table(_ends(rows), columns)


def _ends(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows at the end of each training, by the way of training."""
    return verdict_runs(last(rows)) | optimizer_runs(last(rows))


def _is_loss(rows: pd.DataFrame) -> bool:
    """Whether the score of these trainings is a loss, so that less is better."""
    return bool((rows["model"] == "decoder").all())


def learned(rows: pd.DataFrame) -> str:
    """Whether every way of training ends better than guessing, in a sentence; the worst training of each counts."""
    ends, failed = _ends(rows), []
    for name, some in ends.items():
        better = some["score"] < some["trivial"] if _is_loss(some) else some["score"] > some["trivial"]
        if not better.all():
            failed.append(f"{name}: {(~better).sum()} of {len(better)}")
    if failed:
        return f"**No better than the trivial answer** ended {'; '.join(failed)} trainings."
    return f"Every single training, in all {len(ends)} ways, ends better than the trivial answer."


def kept(rows: pd.DataFrame) -> pd.DataFrame:
    """What is left of each start at the end, beside what it had: means over seeds.

    Args:
        rows: of one model trained in one way.
    """
    columns = {
        "correlation": at_end(mean("memory", ".2f")),
        "shape": arrow(within(_commonest, step=0), at_end(_commonest)),
        "RMS": _from_to("rms", ".3f"),
        "shorter side alike": _from_to("rows_alike"),
        "top": _from_to("top_ratio"),
        "zeros seen": _from_to("zeros_seen"),
    }
    return table(((start, where(rows, start=start)) for start in STARTS), columns)


def _from_to(figure: str, form: str = ".2f") -> Cell:
    """A cell with the mean of a figure before and after training."""
    return arrow(within(mean(figure, form), step=0), at_end(mean(figure, form)))


def found(runs: dict[str, pd.DataFrame], where: dict) -> list[findings.Finding]:
    """Finding F2 of every way of training.

    Args:
        runs: rows by name, as from `verdict_runs`.
        where: provenance of the record.
    """
    fading = drift.fading(findings.KL_BOUND)
    return [findings.f2(rows, name, where | {"source": name}, fading) for name, rows in runs.items()]


def _commonest(rows: pd.DataFrame) -> str:
    """The shape that most matrices have, in the mean over runs; Gaussian where they have none of the others."""
    named = rows[["sharp", "inverted-t", "linear", "other"]].mean()
    return pd.concat([named, pd.Series({"gaussian": rows["matrices"].mean() - named.sum()})]).idxmax()
