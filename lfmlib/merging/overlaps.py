"""How alike the ΔW of several fine-tunes of one base are, matrix by matrix: what merging has to reconcile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cosine_similarity
from tqdm.auto import tqdm

from ..checkpoints.stored import Stored
from ..checkpoints.unread import tell_unread
from ..deltas.kin import MIN_PAIRED_VALUES, refuse_strangers, stored_pairs
from ..deltas.opening import opened
from ..deltas.partners import FLOATS, partners
from ..options import check
from ..surveys.outcome import reason
from ..surveys.threads import one_thread
from . import methods

THREADED_VALUES = 1 << 20
"""Entries of a matrix from which on several threads save more than they wait for one another."""
_COLUMNS = (
    "tensor", "role", "depth", "numel", "size", "alike", "conflict", "outliers", "energy", "reach_single", "reach",
    "factor",
)  # fmt: skip


def overlap(base, tuned: Sequence, *, select: str | None = None, progress: bool = True) -> pd.DataFrame:
    """What the ΔW of several models have in common, and what an average makes of their outliers.

    All ΔW of one tensor are held as float32 at a time, and two as float64.

    Args:
        base, tuned: anything `open_checkpoint` takes, and a list of these, or of folders with adapters of that base.
        select: regular expression; only tensors of the base whose name it finds.
        progress: show a bar.

    Returns:
        One row per matrix of at least `lfmlib.deltas.kin.MIN_PAIRED_VALUES` entries: tensor, role, depth, numel;
        size, RMS(ΔW) / RMS(W₀), the mean over the models;
        alike, the mean cosine of two ΔW (of independent ones 0 ± 1/√numel);
        conflict, the share of entries in which some ΔW are positive and others negative (of independent ones
        1 - 2^(1 - models));
        outliers, the share of the entries of the averaged ΔW that are outliers of its Gaussian core
        (`lfmlib.merging.methods.cut`), and energy, their share of its squared norm;
        reach_single and reach, how far out outliers lie (`lfmlib.merging.methods.reach`), in the mean of the single ΔW
        and in their average, NaN without outliers; factor, by which the outliers of the average would lie as far out as
        those of the single ΔW (`lfmlib.merging.methods.restoring`).
        alike and conflict are NaN of a single model. ``attrs["source"]`` and ``attrs["base"]`` name the models,
        ``attrs["skipped"]`` says of each matrix that has no row why.

    Raises:
        ValueError: no model; models that do not fit the base; or no matrix that is large enough.
        FileNotFoundError, CheckpointError: from `open_checkpoint`; or what is stored is quantized.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> base = {"q_proj.weight": 0.02 * rng.standard_normal((64, 64))}
        >>> tuned = [{"q_proj.weight": base["q_proj.weight"] + 0.002 * rng.standard_normal((64, 64))} for _ in range(2)]
        >>> lfmlib.overlap(base, tuned, progress=False)[["size", "conflict"]].round(1)
           size  conflict
        0   0.1       0.5
    """
    check(select=select)
    base, models = opened(base, tuned, whole=True)
    unfit: dict[str, str] = {}
    theirs = [partners(base, one, unfit) for one in models]
    for model, some in zip(models, theirs, strict=True):
        refuse_strangers(base, model, stored_pairs(base, some))
    chosen = base.select(select) if select else base
    about = {info.name: (info.role, info.depth) for info in chosen.tensors}
    names = [
        name
        for name, one in chosen.stored.items()
        if len(one.shape) == 2 and math.prod(one.shape) >= MIN_PAIRED_VALUES and one.dtype in FLOATS
    ]
    if not names:
        raise ValueError(f"{base.name} has no matrix of {MIN_PAIRED_VALUES:,} or more entries that is looked at")
    rows = []
    failed = {name: _stack(one) for name, one in chosen.stored.items() if len(one.shape) > 2}
    failed |= {name: unfit[name] for name in names if name in unfit}
    if len(failed.keys() & {*names}) == len(names):
        raise ValueError(failed[names[0]])
    skipped = {name: why for name, one in chosen.stored.items() if name not in names and (why := _left_out(one))}
    for name in tqdm(names, "ΔW", disable=not progress, leave=False, delay=1):
        if name in failed:
            continue
        untouched = [model for model, one in zip(models, theirs, strict=True) if one[name] == base.stored[name].load]
        if any(name not in model.stored for model in untouched):
            skipped[name] = f"only in the base ({base.name})"
            continue
        if len(untouched) == len(models):
            skipped[name] = "no adapter on it"
            continue
        try:
            start = base.stored[name].load().cpu().float()
            deltas = [one[name]().cpu().float() - start for one in theirs]
        except Exception as error:  # whatever is wrong with one tensor, the others have their rows
            failed[name] = reason(error)
            continue
        if odd := sum(int((~one.isfinite()).sum()) for one in deltas):
            failed[name] = f"{odd:,} values of ΔW are not finite"
            continue
        role, depth = about.get(name, ("fused", None))  # several matrices stored as one
        said = {"tensor": name, "role": role, "depth": depth, "numel": start.numel()}
        with one_thread() if start.numel() < THREADED_VALUES else nullcontext():
            rows.append(said | {"size": _size(deltas, start)} | _pairs(deltas) | _outliers(deltas))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    tell_unread(failed | base.skipped)
    if len(table) and not table["size"].isna().any() and not (table["size"] > 0).any():
        raise ValueError(
            f"ΔW is exactly zero in all {len(table)} matrices: {', '.join(one.name for one in models)} and the base "
            f"{base.name} hold the same weights. Name the models that were tuned, and their base"
        )
    table["depth"] = table["depth"].astype("Int64")
    table.attrs.update(source=[one.name for one in models], base=base.name, skipped=skipped | failed)
    return table


def _stack(one: Stored) -> str:
    """Why a stack of matrices has no row."""
    return f"a stack of matrices {tuple(one.shape)}, such as experts: `lfmlib.compare` takes it apart"


def _left_out(one: Stored) -> str:
    """Why a matrix has no row, and is not missed; "" of what is none."""
    if len(one.shape) != 2:
        return ""
    if one.dtype not in FLOATS:
        return f"of type {one.dtype}, which nothing is added to"
    return f"of {math.prod(one.shape):,} entries: {MIN_PAIRED_VALUES:,} or more are looked at"


def _size(deltas: Sequence[torch.Tensor], start: torch.Tensor) -> float:
    whole = start.double().norm().item()
    return float(np.mean([one.double().norm().item() for one in deltas])) / whole if whole else math.nan


def _pairs(deltas: Sequence[torch.Tensor]) -> dict[str, float]:
    if len(deltas) < 2:
        return {"alike": math.nan, "conflict": math.nan}
    cosines = [
        cosine_similarity(*(part.flatten().double() for part in two), dim=0).item()
        for two in itertools.combinations(deltas, 2)
    ]
    positive, negative = (torch.stack([side(one, 0) for one in deltas]).any(0) for side in (torch.gt, torch.lt))
    return {"alike": float(np.mean(cosines)), "conflict": (positive & negative).double().mean().item()}


def _outliers(deltas: Sequence[torch.Tensor]) -> dict[str, float]:
    merged = methods.combine(deltas, "average", [1.0] * len(deltas))
    beyond = methods.cut(merged)
    far, square = merged.abs() > beyond, merged.double().square()
    single = [methods.reach(one, methods.cut(one)) for one in deltas]
    known, reach = [one for one in single if math.isfinite(one)], methods.reach(merged, beyond)
    return {
        "outliers": far.double().mean().item(),
        "energy": (square[far].sum() / square.sum()).item() if square.any() else 0.0,
        "reach_single": float(np.mean(known)) if known else math.nan,
        "reach": reach,
        "factor": methods.restoring(single, reach),
    }
