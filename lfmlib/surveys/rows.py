"""Which tensors of a checkpoint have rows in a table, and what a row says of its tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..distribution.formats import DTYPES

WEIGHT = re.compile(r"(^|\.)(weight|kernel|Qidxs|trellis)$")
"""Names of weights: a matrix of one of them that is of integers was quantized, in a way that nothing told."""


def about(info: TensorInfo) -> dict:
    """What a row says of its tensor: the fields of its `TensorInfo`, the name in "tensor"."""
    fields = dict(vars(info))
    return {"tensor": fields.pop("name")} | fields


def by_tower(table: pd.DataFrame) -> pd.Series:
    """The roles of a table, named by tower where its layers are of several, as "vision.q": their depths are not one."""
    layers = table["depth"].notna()
    if "tower" not in table or table.loc[layers, "tower"].nunique() < 2:
        return table["role"]
    return table["role"].where(~layers | (table["tower"] == ""), table["tower"] + "." + table["role"])


def matrices(checkpoint: Checkpoint) -> tuple[list[TensorInfo], dict[str, str]]:
    """The floating-point matrices of a checkpoint; and of every other tensor, why it is none."""
    wanted, skipped = [], dict(checkpoint.skipped)
    for info in checkpoint.tensors:
        if why := _why_not(info):
            skipped[info.name] = why
        else:
            wanted.append(info)
    return wanted, skipped


def weights_of_other_types(checkpoint: Checkpoint) -> dict[str, str]:
    """Weight matrices of types that are not counted, such as integers or complex numbers, and why."""
    odd = (info for info in checkpoint.tensors if info.dtype not in DTYPES and len(info.shape) > 1)
    return {info.name: _why_not(info) for info in odd if WEIGHT.search(info.name)}


def light(checkpoint: Checkpoint, names: Iterable[str]) -> Checkpoint:
    """These tensors of a checkpoint and nothing else that would have to travel to a worker."""
    return replace(checkpoint.only(names), skipped={}, config={}, files=[])


def _why_not(info: TensorInfo) -> str:
    """Reason why a tensor has no row; empty where it has one."""
    if info.dtype not in DTYPES:
        return f"{info.dtype}: not a floating-point type this survey counts"
    if len(info.shape) != 2:
        return f"{len(info.shape)}-D: not a matrix"
    return "" if info.numel else "empty: no values"
