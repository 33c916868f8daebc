"""What the report on a model puts on its page: tables read off a survey, small whatever the size of the model.

Where a tensor was sampled, its figures have intervals, and so have those of many tensors: a share or a median lies
between where it would lie if every interval were at its lower end, and at its upper.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from .. import findings
from ..checkpoints import places
from ..checkpoints.addresses import normalized_source
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..checkpoints.locate import HUB_ID
from ..checkpoints.named import named
from ..deltas import opening
from ..deltas.comparison import compare
from ..deltas.opening import is_adapter
from ..deltas.pairs import akin
from ..distribution import sampled
from ..findings import RULES, Finding, judge
from ..findings.markup import plain
from ..surveys.counted import LEFT
from ..surveys.values import noise_twin
from . import census, lab_runs
from .ch13_matrices import counted
from .sentences import MISSING


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
        _, (merged,) = opening.opened(base, model, whole=True)
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
            "noise": "–" if math.isnan(noise := some["kl_bits_null_high"].median()) else f"{noise:.5f}",
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


def states(found: pd.DataFrame, of: int, part: Checkpoint) -> str:
    """What `lfmlib.health.states` found, counted, in a sentence.

    Args:
        found: from `lfmlib.health.states.examine`.
        of: matrices that it looked at, embeddings and heads among them.
        part: from `lfmlib.chapters.ch13_matrices.chosen`.
    """
    counts = found["state"].value_counts()
    said = "; ".join(f"{count} {state}" for state, count in counts.items()) or "nothing to say"
    return (
        f"Of all {of} matrices, embeddings and heads among them: **{said}**. Untrained and shuffled ones are told by "
        f"the arrangement of their entries, which was measured of {counted(part)}."
    )


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
    """Whether a finding is on the same files in the same state, all of them, by the same code, and as thorough. A
    record on a model by name is on the files of its pinned package."""
    theirs, ours = (one.get("parameters", {}) for one in (origin, where))
    pinned = "record" in origin and named(origin.get("source", "")) is not None
    told = ("source", "commit") if pinned else ("source", "revision", "state", "commit")
    same = all(origin.get(name) == where.get(name) for name in told)
    return same and not theirs.get("select") and theirs.get("profile") == ours.get("profile")


def _heard(found: Finding) -> Finding:
    """A finding on a sample: where its own noise fails the rule, too little was read, and it is not judged."""
    if found.id not in ("F1", "F9", "F10") or found.null is None or judge(RULES[found.id], found.null) == "supported":
        return found
    reason = f"So little was read of each matrix that noise passes in only {found.null:.0%}: take a larger sample."
    return Finding.of(found.id, found.model, found.provenance, {"reason": reason})
