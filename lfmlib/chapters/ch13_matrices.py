"""Which matrices of a model the report looks at more closely, with what effort, how long that takes, and what it found
of how their entries are arranged."""

from __future__ import annotations

import math
import os
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from .. import findings
from ..checkpoints.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from ..findings import scoreboard
from ..structure.krylov import MIN_SIDE
from ..surveys.arrangements import arrangement, cost_of, figures
from ..surveys.forecast import CALM_SECONDS, COUNTING_BYTES, line
from ..surveys.optimal_laws import LAW_NANOSECONDS
from ..surveys.threads import one_thread
from ..surveys.values import FIGURES_NANOSECONDS
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
    return f"Looked at: {counted(part, f' of {of}')}, evenly chosen{rows}."


def counted(part: Checkpoint, of: str = "") -> str:
    """How many matrices the arrangement was measured of, poolers apart: they are a control, and not judged."""
    poolers = sum(info.role == "pooler" for info in part.tensors)
    beside = f" and, as a control, {poolers} pooler{'s' if poolers > 1 else ''}" if poolers else ""
    return f"{len(part.tensors) - poolers}{of} judged matrices{beside}"
