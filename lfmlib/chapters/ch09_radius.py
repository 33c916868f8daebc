"""What chapter 9 reads off its record, `radius`: how much noise base and fine-tune stand, and why.

Every function takes rows of the record (see `lfmlib.experiments.radius.run`).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from .. import findings
from ..experiments.radius import CLOSED, SCALES, UNITS
from ..findings import Finding
from ..losses.tolerance import KINDS
from ..provenance import recorded
from .names import NAMES, by_model, key, stored_tuned, where
from .sentences import MISSING, mean, median, table, within, worded
from .tuned import MEASURED

WHICH = {"base": "W₀", "tuned": "W", "random": "W₀ + noise"}
"""The models that are shaken, as tables name them."""
HEADS = {"fitted": "fitted anew", "timid": "kept small", "frozen": "frozen", "": "its own"}
UNIT_NAMES = dict(zip(UNITS, ("in σ of W", "in σ of W₀", "one size for all"), strict=True))
"""Heads, and units of the noise, as tables name them."""


def f8_found(record: pd.DataFrame, **parameters) -> list[Finding]:
    """Finding F8 of every model; ``parameters`` of the chapter go into its provenance."""
    origin = recorded("radius", record, **parameters)
    each = ((stored_tuned(key(rows)), rows) for _, rows in by_model(record))
    return [findings.f8_over_runs(rows, name, origin | {"source": name}) for name, rows in each]


def tasks(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of radii by what they are about: each model on its new task and, where there is one, on its old."""
    found = {}
    for name, rows in by_model(record, part="radius"):
        rows = rows.assign(head=rows["head"].astype(object).fillna(""))
        for old in (False, True):
            some = rows[(rows["judged_on"] != rows["task"]) == old]
            if len(some):
                found[f"{name}, {'old' if old else 'new'} task"] = some
    return found


def new_tasks(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of radii on the tasks that models were tuned for, by model."""
    end = ", new task"
    return {name.removesuffix(end): rows for name, rows in tasks(record).items() if name.endswith(end)}


def radii(record: pd.DataFrame) -> pd.DataFrame:
    """The noise radii of every model and task, in words: medians over seeds and draws, and ratios to W₀ with intervals.

    Heads are fitted; the unit is each model's own standard deviations.
    """

    def told(rows: pd.DataFrame) -> dict:
        sizes = rows.groupby("which")["radius"].median()
        sizes = sizes[[which for which in WHICH if which in sizes]]
        words = {f"radius of {WHICH[which]}": f"{size:.3f}" if size > 0 else MISSING for which, size in sizes.items()}
        ratios = {which: findings.log_ratios(rows, which) for which in sizes.index[1:]}
        return words | {f"{WHICH[which]} / W₀": times(logs) for which, logs in ratios.items()}

    found = {name: rows[rows["head"] != "timid"] for name, rows in tasks(record).items()}
    return table({name: where(rows, kind=KINDS[0]) for name, rows in found.items()}, told)


def kinds(record: pd.DataFrame) -> pd.DataFrame:
    """Radius of W over that of W₀ by kind of noise, in words."""
    columns = {f"W / W₀, {kind}": worded(times, partial(findings.log_ratios, kind=kind)) for kind in KINDS}
    return table(with_all_kinds(record), columns)


def with_all_kinds(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`tasks` that were asked about with noise of every kind."""
    return {name: rows for name, rows in tasks(record).items() if set(KINDS) <= set(rows["kind"])}


def against_first(record: pd.DataFrame) -> pd.DataFrame:
    """What a kind of noise costs: radius under it over that under noise that treats all matrices alike, same draws.

    Returns:
        Index: model and task. Columns: kinds of noise, for W₀: geometric mean and 95 % over seeds, in words.
    """
    each = {name: ratios_to_first(rows) for name, rows in with_all_kinds(record).items()}
    return table(each, {kind: worded(times, kind) for kind in KINDS[1:]})


def ratios_to_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Logarithm of the radius of W₀ under each kind of noise (columns) over that under the first, by seed."""
    some = rows[(rows["which"] == "base") & (rows["head"] != "timid")]
    logs = np.log(some.pivot_table(index=["seed", "draw"], columns="kind", values="radius")).dropna()
    return logs.sub(logs[KINDS[0]], axis=0).groupby("seed").mean()


def reasons(record: pd.DataFrame) -> pd.DataFrame:
    """Why a radius is larger: a wider gap to close, or a flatter loss.

    Where the loss is quadratic the radius is √(rise / curvature), so that a ratio of radii is the root of the ratio of
    the rises over that of the curvatures.

    Columns: the scale of the noise that the curvature is taken at; W over W₀ of the rise that the radius allows, and of
    the curvature; the ratio of radii that follows; and the one measured.
    """

    def told(rows: pd.DataFrame) -> dict:
        words = {name: times(logs) for name, logs in reason_logs(rows).items()}
        return {"at noise": f"{_nearest_scale(rows):g}"} | words if words else {}

    return table({name: rows[rows["head"] != "timid"] for name, rows in tasks(record).items()}, told)


def reason_logs(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Logarithms, by seed, of W over W₀: of what `reasons` has in its columns, for rows of one model and task.

    The curvature is taken as rise / scale², at the scale of `SCALES` that is nearest to both radii; runs whose loss
    does not rise there have none.
    """
    if not len(measured := findings.log_ratios(rows)):
        return {}
    first = rows.dropna(subset=["own"]).set_index(["seed", "which"])
    allowed = CLOSED * (first["prior"] - first["own"])
    steep = where(rows, scale=_nearest_scale(rows)).set_index(["seed", "which"])["rise"]
    rise, curvature = (
        (logs := np.log(one.where(one > 0)).unstack())["tuned"] - logs["base"] for one in (allowed, steep)
    )
    foretold = (rise - curvature) / 2
    return {
        "allowed rise": rise,
        "curvature": curvature,
        "radius, foretold": foretold,
        "radius, measured": measured,
    }


def _nearest_scale(rows: pd.DataFrame) -> float:
    radii = rows[(rows["kind"] == KINDS[0]) & rows["which"].isin(["base", "tuned"])]["radius"]
    return min(SCALES, key=lambda one: abs(np.log(one) - np.log(radii).mean()))


def curves(record: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Loss against noise on the new task: for every model rows with which, seed, scale and ``closed``, the share of the
    gap to the loss of the class frequencies that the noise closes."""
    found = {}
    for name, rows in new_tasks(record).items():
        same = rows[rows["head"] != "timid"]
        gap = same.dropna(subset=["own"]).set_index(["seed", "which"])
        gap = (gap["prior"] - gap["own"]).rename("gap")
        some = same.dropna(subset=["scale"]).join(gap, on=["seed", "which"])
        found[name] = some.assign(closed=some["rise"] / some["gap"])
    return found


def medians(record: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Median radius on the new task, over seeds and draws: model → which."""
    found = {}
    for name, rows in new_tasks(record).items():
        some = rows[(rows["kind"] == KINDS[0]) & (rows["head"] != "timid")].dropna(subset=["radius"])
        found[name] = some.groupby("which")["radius"].median().to_dict()
    return found


def helps(record: pd.DataFrame) -> pd.DataFrame:
    """Does noise help? Scores of fine-tunings that begin from a base with added noise, in std(W₀), against the same
    seeds without: the change, counted so that more is better, with its 95 % interval over seeds."""
    listed = {
        f"{name}, {jitter:g}": rows
        for name, noisier in by_model(record, part="noisier")
        for jitter, rows in noisier.groupby("jitter")
    }

    def told(rows: pd.DataFrame) -> dict:
        without = where(record, part="radius", model=key(rows)).dropna(subset=["trained"])
        without = without[without["judged_on"] == without["task"]].set_index("seed")["trained"]
        sign = findings.SCORE_SIGNS[MEASURED[key(rows)]]
        change = (sign * (rows.set_index("seed")["score"] - without)).dropna()
        _, low, high = findings.over_runs(change)
        return {
            "score without": f"{without.mean():.3f}",
            "change": findings.span(change, 3, "+"),
            "better": "yes" if low > 0 else "worse" if high < 0 else MISSING if np.isnan(low) else "no",
        }

    return table(listed, told)


def helped(table: pd.DataFrame) -> str:
    """In how many of the cases of `helps` noise before fine-tuning helped, in a sentence."""
    better, worse, unknown = ((table["better"] == word).sum() for word in ("yes", "worse", "–"))
    rest = f"; {unknown} have one run, and no interval" if unknown else ""
    return f"Noise helps, beyond the interval, in **{better} of {len(table)}** cases, and harms in {worse}{rest}."


def protocols(record: pd.DataFrame, which: str = "tuned") -> pd.DataFrame:
    """Radius over that of W₀ by protocol, in words: a row for each model, task and head, a column for each unit.

    An arrow stands where the interval lies above or below 1; protocols in which a run has no radius are left out.
    """
    rows = []
    for name, some in by_model(record, part="protocols"):
        for one in findings.by_protocol(some, which).itertuples():
            words = findings.bracketed(one.ratio, one.low, one.high, 2)
            mark = " ↑" if one.low > 1 else " ↓" if one.high < 1 else ""
            rows.append((name, f"{one.task} task", HEADS[one.head], UNIT_NAMES[one.unit], words + mark))
    about = ["model", "task", "head"]
    told = pd.DataFrame(rows, columns=[*about, "unit", "words"])
    wide = told.pivot(index=about, columns="unit", values="words").reindex(told[about].drop_duplicates())
    return wide.reindex(columns=list(UNIT_NAMES.values())).rename_axis(columns=None).reset_index()


def asked(record: pd.DataFrame) -> str:
    """By how many protocols W, and W₀ + noise, stand more noise than W₀, and by how many less: a list."""
    words, undefined = [], 0
    for name, some in by_model(record, part="protocols"):
        told = []
        for which in ("tuned", "random"):
            found = findings.by_protocol(some, which)
            more, less = (found["low"] > 1).sum(), (found["high"] < 1).sum()
            told.append(f"{WHICH[which]} stands more noise than W₀ in **{more} of {len(found)}**, less in {less}")
            undefined += found.attrs["undefined"] if which == "tuned" else 0
        words.append(f"{name}: {'; '.join(told)}.")
    left = f"\n\n{undefined} protocols are left out: in some run W knows nothing there to lose." if undefined else ""
    return "\n".join(f"- {one}" for one in words) + left


def of_sigma(record: pd.DataFrame) -> str:
    """How much of W / W₀ a changed σ of W makes, in a sentence: the same noise in σ of W₀ over that in σ of W."""
    words = []
    for name, rows in by_model(record, part="protocols"):
        rows = rows[rows["judged_on"] == rows["task"]].assign(head=rows["head"].astype(object).fillna(""))
        some = rows[rows["head"] == rows["head"].iloc[0]]
        own, base = (findings.log_ratios(where(some, unit=unit), head=some["head"].iloc[0]) for unit in UNITS[:2])
        if len(own) > 1 and own.index.equals(base.index):
            total, part = (findings.geometric_mean(logs)[0] for logs in (base, base - own))
            words.append(f"{name} {total:.2f}, the change of σ alone {part:.3f}")
    if not words:
        return "Too few runs have a radius in both units: what a changed σ makes is not told."
    return (
        "The claim gives a reason: σ is raised. Noise in σ of W₀ asks for it, since in σ of W the change of σ is taken "
        f"out; the factor between the two is what it is worth. W / W₀ in σ of W₀: {'; '.join(words)}."
    )


def step_of(record: pd.DataFrame, model: str = "smollm2-135m") -> str:
    """How small a step of a published model changes its radius by how much, beside a random step of that length, in a
    sentence; "" where the record has nothing of it."""
    rows = where(record, part="protocols", model=model)
    if rows.empty or (ratios := findings.by_protocol(rows)["ratio"]).empty:
        return ""
    noise = findings.by_protocol(rows, "random")["ratio"]
    return (
        f"{NAMES[model]} stands {ratios.min():.2f} to {ratios.max():.2f} times the noise after a ΔW of only "
        f"{_moved(rows).mean():.2%} of W₀; a random step of that length leaves {noise.min():.3f} to {noise.max():.3f}."
    )


def _moved(rows: pd.DataFrame) -> pd.Series:
    """RMS ΔW / RMS W₀, by seed."""
    return where(rows, which="tuned").dropna(subset=["moved"]).set_index("seed")["moved"]


def strayed(record: pd.DataFrame) -> pd.DataFrame:
    """How far ΔW itself goes, in std(W₀), beside the radius of W₀ against noise, in words."""
    radius = within(median("radius", ".3f"), which="base", kind="matrix")
    columns = {
        "RMS ΔW / RMS W₀": mean(_moved, ".2g"),
        "radius of W₀": lambda rows: radius(rows[rows["head"] != "timid"]),
    }
    return table(new_tasks(record), columns)


def forgotten(record: pd.DataFrame) -> str:
    """Where a fine-tune is no better on its base's task than the frequencies of the classes, in a sentence."""
    lost = []
    for name, rows in tasks(record).items():
        own = rows[(rows["which"] == "tuned") & (rows["head"] != "timid")].dropna(subset=["own"])
        if count := int((own["own"] >= own["prior"]).sum()):
            lost.append(f"{name} ({count} of {len(own)} runs: {own['own'].mean():.2f} nats, {own['prior'].mean():.2f})")
    if not lost:
        return "Every fine-tune knows more than the frequencies of the classes."
    return (
        f"No radius where W knows no more than the class frequencies: {'; '.join(lost)}. There fine-tuning has "
        "forgotten the task, and there is nothing left to lose."
    )


def little_noise(record: pd.DataFrame) -> str:
    """What the least noise does to the loss of W on its task, in a sentence."""
    least = min(SCALES)
    words = []
    for name, rows in new_tasks(record).items():
        some = where(rows[rows["head"] != "timid"], which="tuned", scale=least)
        if some["seed"].nunique() > 1:
            words.append(f"{name} {findings.span(some.groupby('seed')['rise'].mean(), 4, '+')}")
    return f"Noise of {least:g} std(W) on top of W changes its loss, in nats, by: {'; '.join(words)}."


def times(logs: pd.Series) -> str:
    """Geometric mean and interval over runs of logarithms, in words; nothing of fewer than two, or where one lacks."""
    if len(logs) < 2 or logs.isna().any():  # those that are left would be a selection
        return MISSING
    return findings.bracketed(*findings.geometric_mean(logs), 2)
