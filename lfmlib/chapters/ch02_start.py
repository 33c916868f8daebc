"""What chapter 2 reads off its record, `initialization`: tables of the trainings from unlike starts.

Every function takes rows of the record: one per training and snapshot, with the training's settings (see
`lfmlib.experiments.initialization.run`).
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pandas as pd

from .. import findings
from ..checkpoints.checkpoint import open_checkpoint
from ..distribution import nulls
from ..experiments import drift
from ..findings import bracketed, over_runs, shares_by_start
from ..lab import models, text
from ..lab.problems import problem
from ..lab.starts import STARTS, UNLIKE_STARTS
from ..lab.train import Config, rate
from .lab_runs import last, verdict_runs
from .names import LAB, where
from .sentences import Cell, arrow, at_end, mean, middle, number, span, table, within, worded


def optimizer_runs(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of the other optimizers, by a name such as "lab ViT, SGD"; empty where none were run."""
    names = {"adagrad": "Adagrad", "sgd": "SGD"}
    found = {
        f"{LAB[model]}, {words}": where(rows, part="optimizer", model=model, optimizer=optimizer)
        for optimizer, words in names.items()
        for model in LAB
    }
    return {name: some for name, some in found.items() if len(some)}


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
        table[f"{LAB[model]}, {optimizer}" if several else LAB[model]] = {
            start: f"{100 * row.before:.0f} → {bracketed(100 * row.after, 100 * row.low, 100 * row.high, 0)}"
            for start, row in found.iterrows()
        }
    return pd.DataFrame(table)


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


def with_prediction(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with ``ratio``, RMS(D)/RMS(a W₀), and the `kl_bits` ``predicted`` from it for an unlike start."""
    rows = rows.assign(ratio=drift.ratio(rows["memory"]))
    predicted = pd.Series(np.nan, index=rows.index)
    for start, some in rows[rows["start"].isin(UNLIKE_STARTS)].groupby("start"):
        predicted[some.index] = drift.foretold(start, some["ratio"])
    return rows.assign(predicted=predicted)


def misses(rows: pd.DataFrame, bound: float, least: float = 0.005) -> pd.DataFrame:
    """How the prediction does: AdamW by how much was added for each part left, the other optimizers as a whole.

    Args:
        rows: from `with_prediction`.
        bound: `kl_bits` at which a start counts as forgotten.
        least: snapshots with a smaller prediction have no factor; it would be lost in the noise of a matrix's own size.

    Returns:
        Columns: snapshots; ``measured / foretold`` of `kl_bits`, median and middle 80 %; how many were ``foretold
        forgotten``, and how many ``of these not``.
    """
    rows = rows[rows["predicted"].notna()]
    edges = [0, 0.25, 0.5, 0.75, 1.0, 1.5, np.inf]
    adam = rows["optimizer"] == "adamw"
    parts = {
        f"adamw, {low:g} to {high:g}" if high < np.inf else f"adamw, above {low:g}": rows[
            adam & rows["ratio"].between(low, high, inclusive="left")
        ]
        for low, high in itertools.pairwise(edges)
    }
    for name in ("sgd", "adagrad"):
        some = where(rows, optimizer=name)
        parts[f"{name}, at most {some['ratio'].max():.2f}"] = some
    columns = {
        "snapshots": len,
        "measured / foretold": worded(
            middle, lambda some: (some["kl_bits"] / some["predicted"])[some["predicted"] >= least]
        ),
        "foretold forgotten": lambda some: int((some["predicted"] <= bound).sum()),
        "of these not": lambda some: int(((some["predicted"] <= bound) & (some["kl_bits"] > bound)).sum()),
    }
    return table(parts, columns)


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
        found[LAB[model]] = {"slope": slope, "low": low, "high": high, "straight": straight}
    return pd.DataFrame.from_dict(found, orient="index")


def _slope(x: pd.Series, y: pd.Series) -> float:
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def forecasts(rows: pd.DataFrame) -> pd.DataFrame:
    """The `kl_bits` that trainings should end with, told from how a Gaussian start faded in the same training.

    Nothing measured on an unlike start enters its own forecast: only the correlation that the Gaussian start kept, and
    the law of the start.

    Returns:
        For each way of training (as in `verdict_runs`) and unlike start, in words: foretold → measured, means over
        seeds.
    """

    def foretold(some: pd.DataFrame, start: str) -> float:
        return float(drift.foretold(start, drift.ratio(where(some, start="gaussian")["memory"].mean())))

    columns = {
        start: arrow(
            number(functools.partial(foretold, start=start), ".3f"), within(mean("kl_bits", ".3f"), start=start)
        )
        for start in UNLIKE_STARTS
    }
    return table(verdict_runs(last(rows)), columns)


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


def drifts(rows: pd.DataFrame) -> pd.DataFrame:
    """What is left of the start at the end, measured and by weight decay alone.

    Returns:
        Index: as in `verdict_runs`. Columns: ``measured``, ``low``, ``high`` (the regression slope of W on W₀, mean and
        95 % interval over seeds, starts averaged within each), ``decay alone``, the product of 1 - rate × decay.
    """
    found = {}
    for name, some in verdict_runs(last(rows)).items():
        mean, low, high = over_runs(some.groupby("seed")["left"].mean())
        one = some.iloc[0]
        config = Config(one["model"], one["task"], lr=one["lr"], steps=int(one["steps"]))
        alone = math.prod(1 - one["weight_decay"] * rate(config, step) for step in range(config.steps))
        found[name] = {"measured": mean, "low": low, "high": high, "decay alone": alone}
    return pd.DataFrame.from_dict(found, orient="index")


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
