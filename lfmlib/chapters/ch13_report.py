"""What the report on a model puts on its page: tables read off a survey, small whatever the size of the model.

Where a tensor was sampled, its figures have intervals, and so have those of many tensors: a share or a median lies
between where it would lie if every interval were at its lower end, and at its upper.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from .. import findings
from ..checkpoints import places
from ..checkpoints.addresses import normalized_source
from ..checkpoints.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from ..checkpoints.locate import HUB_ID
from ..checkpoints.named import named
from ..deltas import pairs
from ..deltas.comparison import compare
from ..deltas.pairs import akin, is_adapter
from ..distribution import sampled
from ..findings import RULES, Finding, judge, scoreboard
from ..findings.markup import plain
from ..health import gains, order, planted
from ..structure.krylov import MIN_SIDE
from ..surveys.arrangements import arrangement, cost_of, figures
from ..surveys.counted import LEFT
from ..surveys.forecast import CALM_SECONDS, COUNTING_BYTES, line
from ..surveys.optimal_laws import LAW_NANOSECONDS
from ..surveys.threads import one_thread
from ..surveys.values import FIGURES_NANOSECONDS, noise_twin
from . import census, lab_runs
from .sentences import MISSING

MAX_MATRICES = findings.MOST_MATRICES | {"default": 36}
"""Profile → how many matrices of a whole model the arrangement of entries is measured of, evenly chosen; under "full"
all. Of those that a reader selects it is measured as in chapter 4."""
MAX_VALUES = 1 << 20
"""Values that are looked at of each of these matrices, at most: its first rows, which are judged like a whole matrix,
since rows of noise are noise."""
STARTING_SECONDS = 15.0
"""Seconds that a chapter takes to start, draw and write, whatever the model."""
LARGE_MATRIX, LARGE_MODEL = 1 << 24, 1 << 30
"""Weights of a judged matrix, or of all of them, beyond which the first rows are few: whole matrices are then looked
at, with the effort "fast"."""


def opened(model: str, revision: str, select: str, sample: int, base: str = "") -> Checkpoint:
    """The checkpoint of a report; a hub id is read from the hub in ranges where only a sample is wanted, and the folder
    of an adapter is laid over the base.

    Raises ValueError for a sample that says nothing, for a base that is none, and for an adapter without one, before
    anything is measured; and whatever `open_checkpoint` raises.
    """
    if not isinstance(sample, int) or 0 < sample < sampled.MIN_SAMPLE_BYTES or sample < 0:
        raise ValueError(
            f"sample is {sample!r}: expected bytes to read of each tensor, {sampled.MIN_SAMPLE_BYTES:,} or more, or 0 "
            "for all"
        )
    if is_adapter(model):
        if not base:
            raise ValueError(f"{model} holds an adapter, which is no model by itself: name the base it was trained on")
        _, (merged,) = pairs.opened(base, model, whole=True)
        return merged.select(select) if select else merged
    model = normalized_source(model)
    afar = sample and HUB_ID.match(model) and named(model) is None and not Path(model).expanduser().exists()
    checkpoint = open_checkpoint(f"hf://{model}" if afar else model, revision=revision, select=select)
    if base:
        akin(base, checkpoint)
    return checkpoint


def changed(base: str, model: str, checkpoint: Checkpoint, select: str, seed: int) -> pd.DataFrame:
    """`lfmlib.compare` of the checkpoint of a report with its base; of an adapter, the selected matrices that it
    changes."""
    tuned = model if is_adapter(model) else checkpoint
    return compare(base, tuned, select=select or None, controls=["noise"], seed=seed)


def identity(checkpoint: Checkpoint, table: pd.DataFrame) -> pd.DataFrame:
    """What the model is: one row per property, in words."""
    kind = checkpoint.config.get("architectures") or [checkpoint.config.get("model_type") or "not said"]
    layers = {(info.tower, info.depth) for info in checkpoint.tensors if info.depth is not None}
    coded = sorted({info.quantized for info in checkpoint.tensors if info.quantized})
    words = {
        "source": checkpoint.source,
        "revision": checkpoint.revision or "not said",
        "architecture": ", ".join(map(str, kind)),
        "weights": f"{sum(info.numel for info in checkpoint.tensors):,} in {len(checkpoint.tensors):,} tensors, "
        f"{len(layers)} layers, {max(1, len(checkpoint.files))} file{'s' if len(checkpoint.files) > 1 else ''}",
        "stored as": "; ".join(
            [
                *([f"quantized: {', '.join(coded[:4])}"] if coded else []),
                *sorted({info.dtype for info in checkpoint.tensors if not info.quantized}),
            ]
        ),
        "measured": f"{table['count'].sum():,} of {table['numel'].sum():,} weights in {len(table):,} matrices",
    }
    if (table["count"] + table["nonfinite"] < table["numel"]).any():
        words["sampled in"] = _pieces(checkpoint)
    if checkpoint.traffic is not None:
        words["read from afar"] = str(checkpoint.traffic)
    return pd.DataFrame({"": words.keys(), "this model": words.values()})


def _pieces(checkpoint: Checkpoint) -> str:
    """In how many pieces a sample of each tensor was read, in words."""
    if checkpoint.traffic is not None:
        return f"{places.SAMPLE_GROUPS} pieces of each tensor, since each is a request: a few heavy rows may be missed"
    coded = (
        f" ({places.COMPUTED_PIECES} of quantized ones)" if any(info.quantized for info in checkpoint.tensors) else ""
    )
    return f"up to {places.MAPPED_PIECES:,} pieces of each tensor{coded}"


def by_role(body: pd.DataFrame) -> pd.DataFrame:
    """How Gaussian the matrices of each role are."""
    rows = []
    for role, some in [("all", body), *findings.by_role(body)]:
        rows.append({
            "role": role,
            "matrices": len(some),
            "weights": int(some["numel"].sum()),
            "median kl_bits": _ranged(*(some[name].median() for name in _ends(some, "kl_bits")), "{:.4f}"),
            "noise": f"{some['kl_bits_null_high'].median():.5f}",
            "share Gaussian": _ranged(*findings.gaussian_share(some), "{:.0%}"),
            "gg_shape": _ranged(*(some[name].median() for name in _ends(some, "gg_shape")), "{:.2f}"),
            "most often": some["label"].mode()[0],
        })  # fmt: skip
    return pd.DataFrame(rows)


def unlike(body: pd.DataFrame, most: int = 10) -> pd.DataFrame:
    """The matrices farthest from noise, and in what."""
    far = body.assign(cost=body["kl_bits"] + body["tail_bits"]).sort_values("cost", ascending=False)
    far = far[far["kl_bits"] > far["kl_bits_null_high"]].head(most)
    table = far[["tensor", "role", "kl_bits", "tail_bits"]].reset_index(drop=True)
    return table.assign(why=[_why(row) for row in far.to_dict("records")])


def _why(row: dict) -> str:
    """In what a matrix differs from Gaussian noise, the plainest first."""
    words = {"sharp": "a sharp peak", "inverted-t": "a spike on a wide floor", "linear": "straight flanks"}
    said = [words[row["label"]]] if row["label"] in words else []
    if not said and row["gg_shape"] < row["gg_shape_null_low"]:
        said.append(f"a sharper peak and longer tails (gg_shape {row['gg_shape']:.2f})")
    if not said and row["gg_shape"] > row["gg_shape_null_high"]:
        said.append(f"a flatter top (gg_shape {row['gg_shape']:.2f})")
    if row["tail_bits"] > max(0.01, row["tail_bits_null_high"]) or row["excess_kurtosis"] > 20:
        said.append(f"far tails (excess kurtosis {row['excess_kurtosis']:.4g})")
    if row["asymmetry_excess"] > findings.MAX_ASYMMETRY_EXCESS:
        said.append("lopsided")
    if row["mean_ratio"] > findings.MAX_MEAN_RATIO:
        said.append(f"off centre ({row['mean_ratio']:.2f} std)")
    return "; ".join(said) or "a little of everything"


def outliers(table: pd.DataFrame, most: int = 8) -> pd.DataFrame:
    """The matrices with the farthest weights, in standard deviations, and how far noise of their size reaches."""
    far = farthest(table, most)
    return pd.DataFrame({
        "tensor": far["tensor"],
        "role": far["role"],
        "largest, in std": far["reach"].round(1).astype(str),
        "of noise": [f"{value:.1f}" for value in far["noise"]],
        "excess kurtosis": [f"{value:.4g}" for value in far["excess_kurtosis"]],
    })  # fmt: skip


def farthest(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Rows of the matrices with the farthest weights: ``reach`` is the largest, ``noise`` that of noise of their size
    in the median, in standard deviations."""
    reach = np.maximum((table["max"] - table["mean"]).abs(), (table["min"] - table["mean"]).abs()) / table["std"]
    far = table.assign(reach=reach).dropna(subset=["reach"]).sort_values("reach", ascending=False).head(most)
    return far.assign(noise=[float(stats.norm.isf(0.5 / count)) for count in far["count"] / 2])


def chosen(checkpoint: Checkpoint, profile: str, select: str = "") -> Checkpoint:
    """First rows of the matrices that the arrangement of entries is measured of, in memory: of a selection those that
    chapter 4 measures, of a whole model at most `MAX_MATRICES` of them, and poolers."""
    return checkpoint.cut(_names(checkpoint, profile, select), MAX_VALUES)


def _names(checkpoint: Checkpoint, profile: str, select: str) -> list[str]:
    """The matrices that `chosen` takes."""
    most = (findings.MOST_MATRICES if select else MAX_MATRICES).get(profile)
    return [info.name for info in _choosable(checkpoint, most)]


def effort(checkpoint: Checkpoint, sample: int = 0) -> str:
    """With what effort `lfmlib.arrangement` measures: "fast", whole matrices, of a model of large ones that is at hand;
    else "exact", of the first rows."""
    sizes = [info.numel for info in _choosable(checkpoint)]
    large = max(sizes, default=0) > LARGE_MATRIX or sum(sizes) > LARGE_MODEL
    return "fast" if large and not sample and checkpoint.traffic is None else "exact"


def plan(checkpoint: Checkpoint, profile: str, select: str, sample: int) -> str:
    """How long the report takes, and how much memory, in a line: by what a matrix of noise takes here; empty where it
    is short."""
    part, how = _names(checkpoint, profile, select), effort(checkpoint, sample)
    controls, rows, cores = ("permuted", "fresh"), [], os.cpu_count() or 1
    for info in checkpoint.only(part).tensors if part else []:
        height = info.shape[0] if how == "fast" else min(info.shape[0], max(64, MAX_VALUES // info.shape[1]))
        rows.append(replace(info, shape=(height, info.shape[1]), numel=height * info.shape[1]))
    cost = cost_of(controls, how == "fast")
    matrices = [info for info in checkpoint.tensors if len(info.shape) == 2]
    counted = sum(min(info.numel, sample or info.numel) + 4 * FIGURES_NANOSECONDS for info in matrices)
    work = counted + sum(cost.time(info) + LAW_NANOSECONDS for info in rows)
    seconds = STARTING_SECONDS + _slowness() * work / 1e9 / cores
    memory = cores * max([COUNTING_BYTES, *map(cost.memory, rows)])
    return line(matrices, seconds, cores, memory) if seconds > CALM_SECONDS + STARTING_SECONDS else ""


def _slowness() -> float:
    """How much longer than foretold a core takes here for the arrangement of noise."""
    noise = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)
    (info,) = open_checkpoint({"noise": noise}).tensors
    with one_thread():
        figures(noise[:64, :64])  # what is compiled and read once
        started = time.thread_time()
        figures(noise)
        return (time.thread_time() - started) * 1e9 / cost_of((), fast=False).time(info)


def arrange(checkpoint: Checkpoint, part: Checkpoint, sample: int, seed: int, keep: Path | None) -> pd.DataFrame:
    """`lfmlib.arrangement` of a part of a checkpoint, from `chosen`, beside permuted entries and fresh noise; with the
    effort "fast" of the same matrices as a whole."""
    how = effort(checkpoint, sample)
    whole = checkpoint.only(info.name for info in part.tensors) if how == "fast" else part
    return arrangement(whole, controls=["permuted", "fresh"], seed=seed, effort=how, keep=keep)


def _choosable(checkpoint: Checkpoint, most: int | None = None) -> list[TensorInfo]:
    """The matrices whose arrangement can be measured, poolers among them."""
    return [one for one in findings.judged(checkpoint, most).tensors if findings.shares.can_be_arranged(one)]


def legs(arranged: pd.DataFrame) -> pd.DataFrame:
    """Medians of the arrangement beside its controls, and the share that passes each leg of F4, as its verdict has it;
    empty without any."""
    if arranged.empty:
        return pd.DataFrame()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # medians of columns that are empty in a toy
        medians = findings.by_control(arranged, ["lag_one", "row_alike", "col_alike", "unequal", "top_ratio"], [])
    for leg in findings.LEGS:
        medians[leg] = [
            MISSING if math.isnan(of[leg]) else scoreboard.part(of[leg]) for of in passed(arranged).values()
        ]
    return medians


def passed(arranged: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Weights and controls, as the table names them → leg of F4 → share of the weights that passes it."""
    controls = arranged["control"].drop_duplicates()
    each = {name: findings.leg_shares(arranged[arranged["control"] == name]) for name in controls}
    return {{"none": "weights"}.get(name, name): shares for name, shares in each.items()}


def _ends(table: pd.DataFrame, name: str) -> tuple[str, str, str]:
    """Columns of a figure, and of the ends of its interval."""
    return (name, f"{name}_low", f"{name}_high") if f"{name}_low" in table else (name, name, name)


def _ranged(value: float, low: float, high: float, form: str) -> str:
    """A number, with its interval where it has one."""
    if low == high == value or math.isnan(value):
        return form.format(value)
    return f"{form.format(value)} [{form.format(low)}, {form.format(high)}]"


def coded(table: pd.DataFrame) -> str:
    """What to keep in mind of quantized matrices, in a sentence."""
    some = table[table["quantized"] != ""]
    if some.empty:
        return "No matrix is quantized."
    kinds = "; ".join(map(plain, some["quantized"].unique()[:4]))
    return (
        f"**{len(some)} of {len(table)} matrices are quantized** ({kinds}). What is said of their marginal law is said "
        f"of values spread evenly over the steps of their codes{_unspread(table)}; null bands are those of unquantized "
        "noise, while the noise beside them was quantized alike."
    )


def _unspread(table: pd.DataFrame) -> str:
    """Which quantizations of a survey were measured as they are, as the rest of a clause."""
    left = [kind for kind, how in table.attrs.get("quantized", {}).items() if how == LEFT]
    return f", but of the quantizer’s own levels for {'; '.join(map(plain, left[:4]))}" if left else ""


def looked(part: Checkpoint, checkpoint: Checkpoint, sample: int = 0) -> str:
    """What the arrangement was measured of, in a sentence."""
    whole = {info.name: info.numel for info in checkpoint.tensors}
    cut = sum(info.numel < whole[info.name] for info in part.tensors)
    of = sum(info.role != "pooler" for info in _choosable(checkpoint))
    rows = f"; of {cut} the first rows" if cut else ""
    if effort(checkpoint, sample) == "fast":
        shapes = [info.shape for info in checkpoint.only(info.name for info in part.tensors).tensors]
        wide = sum(min(shape) > MIN_SIDE for shape in shapes)
        rows = (
            ", each as a whole. Some are large, so the effort is *fast*: what takes products of all rows or columns "
            f"comes from samples of them in {wide} of the matrices, and so does its null"
        )
    return f"Looked at: {_counted(part, f' of {of}')}, evenly chosen{rows}."


def states(found: pd.DataFrame, of: int, part: Checkpoint) -> str:
    """What `lfmlib.health.states` found, counted, in a sentence.

    Args:
        found: from `lfmlib.health.states.examine`.
        of: matrices that it looked at, embeddings and heads among them.
        part: from `chosen`.
    """
    counts = found["state"].value_counts()
    said = "; ".join(f"{count} {state}" for state, count in counts.items()) or "nothing to say"
    return (
        f"Of all {of} matrices, embeddings and heads among them: **{said}**. Untrained and shuffled ones are told by "
        f"the arrangement of their entries, which was measured of {_counted(part)}."
    )


def _counted(part: Checkpoint, of: str = "") -> str:
    """How many matrices the arrangement was measured of, poolers apart: they are a control, and not judged."""
    poolers = sum(info.role == "pooler" for info in part.tensors)
    beside = f" and, as a control, {poolers} pooler{'s' if poolers > 1 else ''}" if poolers else ""
    return f"{len(part.tensors) - poolers}{of} judged matrices{beside}"


def listed(found: pd.DataFrame) -> pd.DataFrame:
    """Matrices with a state as a table: towers where there are several, and a dash for a depth that is not known. Roles
    are left out: names and reasons tell enough, and the page is narrow."""
    named = found.drop(columns=["role"] if found["tower"].any() else ["role", "tower"])
    return named.assign(depth=[MISSING if pd.isna(one) else str(one) for one in named["depth"]])


def change(table: pd.DataFrame) -> pd.DataFrame:
    """What fine-tuning did, by role: medians over the matrices."""
    own = table[table["control"] == "none"]
    own = own.assign(rises=own["std_gain"] > 0, relative=own["std_delta"] / own["std_base"])
    wanted = {"relative": "std ΔW / std W₀", "gain": "g", "corr": "corr(ΔW, W₀)", "kl_bits": "kl_bits of ΔW"}
    medians = findings.by_role(own)[list(wanted)].median().rename(columns=wanted)
    shares = findings.by_role(own)["rises"].mean().map("{:.0%}".format)
    return medians.assign(**{"std rises": shares}).rename_axis(None)


def verdicts(
    table: pd.DataFrame,
    noise: pd.DataFrame,
    arranged: pd.DataFrame,
    laws: pd.DataFrame,
    changed: pd.DataFrame | None,
    others: list,
    name: str,
    where: dict,
) -> list:
    """The findings of the report: those that the weights alone decide, and with a base those on ΔW.

    The noise of F9 and F10 has a mean of 0, as in chapter 10: their control is what the claims say of weights. F3 has
    the witnesses of chapter 3: published models, and lab models that lacked a shape at their start. A base is none: it
    was trained itself, so a shape that it lacks was not absent at step 0.

    Args:
        table, noise, arranged, laws, changed: what was measured.
        others: findings that chapters kept before, also of other models. Of the same checkpoint, read whole by the same
            code, they are taken: here only some matrices were looked at, and one model has one verdict.
        name, where: of the model.
    """
    found = [findings.f1(table, noise, name, where), _f3(table, noise, name, where)]
    if len(arranged):
        found.append(findings.f4(arranged, name, where, table))
    centred = noise_twin(table.assign(mean=0.0), seed=where.get("parameters", {}).get("seed", 0))
    found += [findings.f9(table, centred, name, where), findings.f10(table, centred, name, where)]
    found.append(findings.f12(laws, name, where, table))
    sampled = "kl_bits_low" in table
    found = [_by_its_chapter(_heard(one) if sampled else one, others, where) for one in found]
    if changed is not None:  # all of it, here as in the chapters
        found += [findings.f6(changed, name, where), findings.f7(changed[changed["control"] == "none"], name, where)]
    return found


def _f3(table: pd.DataFrame, noise: pd.DataFrame, name: str, where: dict) -> Finding:
    """F3 by the witnesses that chapter 3 has, or that are left of them."""
    grown = lab_runs.kept_shapes()
    others = census.judged(census.kept(), "F3", name, grown or ())
    found = findings.f3(table, noise, name, others, grown or (), where)
    if grown is not None:
        return found
    lacking = "the record of the lab’s trainings is not here, so shapes that only they confirm count as unconfirmed"
    told = [found.details["caveat"]] if "caveat" in found.details else []
    return replace(found, details=found.details | {"caveat": "; ".join([*told, lacking])})


def _by_its_chapter(found: Finding, others: list[Finding], where: dict) -> Finding:
    """What a chapter found of the same claim and the same whole checkpoint; the report's own where there is none."""
    asked = where.get("parameters", {})
    if asked.get("select") or asked.get("sample"):
        return found
    for one in others:
        if (one.id, one.model) == (found.id, found.model) and _alike(one.provenance, where):
            chapter = int(findings.CHAPTERS[one.id][:2])
            return replace(one, details=one.details | {"caveat": f"as chapter {chapter} found it"})
    return found


def _alike(origin: dict, where: dict) -> bool:
    """Whether a finding is on the same files in the same state, all of them, by the same code, and as thorough."""
    theirs, ours = (one.get("parameters", {}) for one in (origin, where))
    same = all(origin.get(name) == where.get(name) for name in ("source", "revision", "state", "commit"))
    return same and not theirs.get("select") and theirs.get("profile") == ours.get("profile")


def _heard(found: Finding) -> Finding:
    """A finding on a sample: where its own noise fails the rule, too little was read, and it is not judged."""
    if found.id not in ("F1", "F9", "F10") or found.null is None or judge(RULES[found.id], found.null) == "supported":
        return found
    reason = f"So little was read of each matrix that noise passes in only {found.null:.0%}: take a larger sample."
    return Finding.of(found.id, found.model, found.provenance, {"reason": reason})


def layers(checkpoint: Checkpoint, states: pd.DataFrame, sample: int, seed: int) -> str:
    """Whether the layers stand in their order, those without a state of `lfmlib.health.states.examine`, in a
    sentence for each tower."""
    return " ".join(_in_order(*tower) for tower in _towers(checkpoint, states, sample, seed))


def _in_order(tower: str, hurt: list[int], found: order.Likeness | str) -> str:
    """Whether the layers of a tower stand in their order, in a sentence."""
    name = f"{tower.capitalize()}: " if tower else ""
    out = f" Left out: layer{'s' if len(hurt) > 1 else ''} {', '.join(map(str, hurt))}." if hurt else ""
    if isinstance(found, str):
        return f"{name}Whether layers stand in their order cannot be told: {found}.{out}"
    result = found.order()
    alike = (
        f"column norms of neighbouring layers correlate by {result.neighbours:.2f} in the mean, those of distant ones "
        f"by {result.distant:.2f}"
    )
    if not result.judged:
        return f"{name}Whether layers stand in their order cannot be told: {alike}.{out}"
    if result.exchanged.empty:
        return (
            f"{name}**No two layers look exchanged**: {alike}, and no exchange makes neighbours more alike than unlike "
            f"layers do by themselves.{out}"
        )
    best = result.exchanged.iloc[0]
    more = [f"{first:.0f} and {second:.0f}" for first, second in result.exchanged[["first", "second"]].to_numpy()[1:]]
    then = f"; then {', '.join(more)}" if more else ""
    return (
        f"{name}**Layers {best['first']:.0f} and {best['second']:.0f} look exchanged{then}**: {alike}, and putting "
        f"them back raises the sum over neighbours by {best['gain']:.2f} ({best['z']:.1f} standard errors of chance, "
        f"{best['rise']:.1f} of unlikeness).{out}"
    )


def exchange_test(checkpoint: Checkpoint, states: pd.DataFrame, sample: int, seed: int, most: int = 12) -> str:
    """Pairs of layers exchanged in thought, and how many are named rightly, in a sentence for each tower.

    Where the model's own layers look exchanged, they are put back before.
    """
    words = []
    for tower, _, found in _towers(checkpoint, states, sample, seed):
        name = f"{tower.capitalize()}: " if tower else ""
        if isinstance(found, str):
            words.append(f"{name}No exchange can be seen: {found}.")
            continue
        before = ""
        for first, second in found.order().exchanged[["first", "second"]].to_numpy():
            back = np.arange(len(found.depths))
            places = np.searchsorted(found.depths, [first, second])
            back[places] = back[places[::-1]]
            found, before = found.moved(back), ", put in order before"
        called = planted.exchanges(found, seed, most)["called"].value_counts()
        right, wrong, unseen = (called.get(one, 0) for one in ("right", "wrong", "nothing"))
        words.append(
            f"{name}Of {called.sum()} exchanges of two layers of this model{before}, **{right} are named rightly**, "
            f"{wrong} wrongly, and {unseen} are not seen."
        )
    return " ".join(words)


def _towers(
    checkpoint: Checkpoint, states: pd.DataFrame, sample: int, seed: int
) -> Iterator[tuple[str, list[int], order.Likeness | str]]:
    """Of each tower its name, the layers that are damaged, and how alike the others are, or why that is not known."""
    for tower in order.towers(checkpoint) or [""]:
        hurt = sorted(_hurt(states, tower))
        try:
            found = order.profiles(checkpoint, _rows(checkpoint, sample), hurt, tower)
            yield tower, hurt, order.Likeness.of(found, seed=seed)
        except ValueError as error:
            yield tower, hurt, str(error)


def _hurt(states: pd.DataFrame, tower: str) -> set[int]:
    """Depths of a tower's layers with a matrix that is looked at for their order and says nothing of it; pruned ones
    still do."""
    hurt = states["role"].isin(gains.READERS) & (states["state"] != "pruned")
    if "tower" in states:
        hurt &= states["tower"] == tower
    return set(states.loc[hurt, "depth"].dropna().astype(int))


def _rows(checkpoint: Checkpoint, sample: int) -> int:
    """Rows of a matrix to look at for the order of layers: few where only a sample is wanted, and they must travel."""
    widest = max((info.shape[1] for info in checkpoint.tensors if info.role in gains.READERS), default=1)
    return max(16, min(512, sample // (4 * widest))) if sample and checkpoint.traffic is not None else 512
