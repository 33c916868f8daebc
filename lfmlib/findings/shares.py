"""What the findings share: which matrices count, and the shares of their parameters that verdicts rest on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import special

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..checkpoints.roles import in_order
from ..surveys.rows import by_tower
from .markup import plain

KL_BOUND = 0.02
"""F1: a matrix with at most so many `kl_bits` counts as Gaussian (just under a logistic distribution's 0.0206)."""
SUPPORTED_SHARE = 0.8
"""Share of a model's parameters that must pass for a claim to hold of the model."""
MIN_MATRIX_VALUES = 4096
"""Matrices with fewer values are left out: the figures of noise itself scatter too far there."""
MIN_MATRIX_SIDE = 40
"""Rows, and columns, that a matrix needs for the arrangement of its entries to be measured."""
MOST_MATRICES = {"quick": 6}
"""Profile of a chapter → how many matrices it looks at, at most, beside poolers; under the others at all."""
TOO_SMALL = (
    f"No matrix with {MIN_MATRIX_VALUES:,} or more elements and a distribution to measure is neither embedding, head "
    "nor pooler."
)
"""Why a finding on shares is not judged, where no matrix is `eligible`."""
QUANTIZED_PARTS = "codes and scales of quantized matrices, which are measured"
"""How `left_out` names the tensors that quantized matrices are put together from."""
ROLES_APART = ("embed", "head", "pooler", "norm", "conv")
"""Roles that are reported apart: the paper's claim is about the matrices between them, and norms and kernels that are
stored as matrices are none."""


def eligible(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that findings on shares are about: of large enough matrices, neither embedding, head nor pooler, and
    no norm or kernel that is stored as one.

    Args:
        table: from `lfmlib.survey`, `lfmlib.arrangement`, `lfmlib.laws` or `lfmlib.compare`. In a survey a matrix must
            also have a distribution to measure; in a comparison a ΔW that is zero counts, since that is a measurement.
    """
    known = table["kl_bits"].notna() if "kl_bits" in table and "std_delta" not in table else True
    return table[(table["numel"] >= MIN_MATRIX_VALUES) & ~table["role"].isin(ROLES_APART) & known]


def judged(checkpoint: Checkpoint, most: int | None = None) -> Checkpoint:
    """The part of a checkpoint that findings on shares are about, with its poolers, which serve as controls.

    Args:
        checkpoint: any; of one that has no such matrix all tensors are kept.
        most: largest number of matrices to keep beside the poolers, evenly chosen of those whose arrangement can be
            measured, so that all chapters look at the same; None: all.
    """
    tensors = [
        info
        for info in checkpoint.tensors
        if len(info.shape) == 2 and info.numel >= MIN_MATRIX_VALUES and info.role not in set(ROLES_APART) - {"pooler"}
    ] or checkpoint.tensors
    if most is not None:
        tensors = _evenly(tensors, most)
    return checkpoint.only(info.name for info in tensors)


def can_be_arranged(info: TensorInfo) -> bool:
    """Whether a tensor is a matrix with rows and columns enough for `lfmlib.arrangement`."""
    return len(info.shape) == 2 and min(info.shape) >= MIN_MATRIX_SIDE


def _evenly(tensors: Sequence[TensorInfo], most: int) -> list[TensorInfo]:
    """At most so many tensors, evenly chosen, and all poolers."""
    poolers = [info for info in tensors if info.role == "pooler"]
    others = [info for info in tensors if info.role != "pooler"]
    others = [info for info in others if can_be_arranged(info)] or others
    places = np.linspace(0, len(others) - 1, min(len(others), most)).round().astype(int)
    return [others[place] for place in places] + poolers


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that a chapter's figures show: those of the eligible matrices; where there is none, all measurable ones.

    Args:
        table: as for `eligible`.

    Raises:
        ValueError: there is nothing to show: no matrix could be measured, or ΔW is zero in all.
    """
    rows = eligible(table) if len(eligible(table)) else table
    rows = rows[rows["kl_bits"].notna()] if "kl_bits" in rows else rows
    if rows.empty and "std_delta" in table and len(table):
        raise ValueError(
            f"ΔW is exactly zero in all {len(table)} matrices: {table.attrs.get('source')} and its base "
            f"{table.attrs.get('base')} hold the same weights. Name the model that was tuned, and its base"
        )
    if rows.empty and "kl_bits" not in rows:
        some = "; ".join(f"{name}: {reason}" for name, reason in list(table.attrs.get("skipped", {}).items())[:3])
        raise ValueError(f"{table.attrs.get('source', 'the model')} has no matrix to measure ({some})")
    if rows.empty and (table["std"] > 0).any():
        raise ValueError(
            f"{table.attrs.get('source', 'the model')} has no matrix of which a shape can be told: the means of its "
            f"matrices are up to {(table['mean'].abs() / table['std']).max():.0f} standard deviations from 0, where "
            "float32 is too coarse. Take the mean of each matrix off first"
        )
    if rows.empty:
        raise ValueError(
            f"{table.attrs.get('source', 'the model')} has no floating-point matrix with two different values: nothing "
            "to measure. `lfmlib.survey(model).attrs['skipped']` says why each tensor was left out"
        )
    return rows


def by_role(table: pd.DataFrame) -> pd.api.typing.DataFrameGroupBy:
    """The rows of each role, named by tower where there are several, in the order in which data passes them, whatever
    their order in the file."""
    return _in_order_of_roles(table.assign(role=by_tower(table))).groupby("role", sort=False)


def layer_by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """The rows layer by layer, those without a layer first, and in a layer in the order in which data passes them."""
    return _in_order_of_roles(table).sort_values(["tower", "depth"], kind="stable", na_position="first")


def _in_order_of_roles(table: pd.DataFrame) -> pd.DataFrame:
    place = {role: at for at, role in enumerate(in_order(table["role"]))}
    return table.iloc[np.argsort(table["role"].map(place), kind="stable")]


def left_out(table: pd.DataFrame) -> str:
    """What a survey did not measure, in a sentence: tensors by reason, and the number of infinite and NaN values."""
    skipped = table.attrs.get("skipped", {}).values()
    given = [QUANTIZED_PARTS if one.startswith("a piece of") else one for one in skipped]
    reasons = pd.Series(given, dtype=object).value_counts()
    tensors = "; ".join(f"{count} × {reason}" for reason, count in reasons.head(8).items()) or "nothing"
    if len(reasons) > 8:
        tensors += f"; {reasons.iloc[8:].sum()} for {len(reasons) - 8} other reasons"
    lost = int(table["nonfinite"].sum()) if "nonfinite" in table else 0
    if "kl_bits" in table and (shapeless := int(table["kl_bits"].isna().sum())):
        tensors += f"; {shapeless} × constant, empty of numbers, or finer than can be resolved: not judged"
    return f"Left out: {tensors}." + (f" **{lost:,} values are infinite or NaN** and not counted." if lost else "")


def stored_as(checkpoint: Checkpoint) -> str:
    """How the matrices of a checkpoint are stored, in sentences: their types, and which are quantized and how."""
    found = [info for info in checkpoint.tensors if len(info.shape) == 2 and info.numel and "float" in info.dtype]
    dtypes = ", ".join(sorted({info.dtype for info in found if not info.quantized}))
    coded = [info for info in found if info.quantized]
    if not coded:
        return f"Stored as {dtypes}."
    kinds = list(dict.fromkeys(plain(info.quantized) for info in coded))
    named = "; ".join(kinds[:4]) + (f"; and {len(kinds) - 4} more" if len(kinds) > 4 else "")
    left = sum(not checkpoint.has_cells(info.name) for info in coded)
    spread = "values spread evenly over the steps of their codes"
    of = spread if not left else f"{spread}, but for {left}" if left < len(coded) else "the quantizer’s own levels"
    return (
        f"**{len(coded)} of {len(found)} matrices are quantized** ({named}). What is said of their distribution is "
        f"said of {of}; all else of the values that a model computes with."
        + (f" The others are stored as {dtypes}." if dtypes else "")
    )


def gaussian(table: pd.DataFrame, bound: float = KL_BOUND) -> pd.Series:
    """Which rows of a survey are within ``bound`` bits of a Gaussian, or as near as 97.5 % of noise is."""
    return table["kl_bits"] <= table["kl_bits_null_high"].clip(lower=bound)


def gaussian_share(table: pd.DataFrame, bound: float = KL_BOUND) -> tuple[float, float, float]:
    """Share of the parameters in matrices within ``bound`` bits of a Gaussian; at least; at most: the three are one
    where all was read.

    Args:
        table: eligible rows of a survey.
        bound: see `gaussian`.
    """
    value = share(table, gaussian(table, bound))
    return value, *(interval_over_samples(table, lambda rows: gaussian(rows, bound)) or (value, value))


def share(table: pd.DataFrame, hit: pd.Series, weight: str = "numel") -> float:
    """Share of the parameters of ``table`` that lie in the rows where ``hit`` is true; NaN of an empty table.

    Args:
        table: one row for each matrix.
        hit: boolean, with the index of the table.
        weight: column with the number of parameters of a row.
    """
    total = table[weight].sum() if len(table) else 0
    return float(table.loc[hit, weight].sum() / total) if total else math.nan


def interval_over_samples(
    table: pd.DataFrame, passes: Callable[[pd.DataFrame], pd.Series]
) -> tuple[float, float] | None:
    """Limits of the share of parameters in matrices that pass, where a survey read only a sample of each matrix.

    Args:
        table: eligible rows of a survey.
        passes: which rows pass.

    Returns:
        The share with every figure at the worse end of its interval, and at the better end; None where all was read.
    """
    if "kl_bits_low" not in table:
        return None
    worse, better = (share(table, passes(_at(table, end))) for end in ("high", "low"))
    return worse, better


def interval_over_matrices(
    table: pd.DataFrame, passes: Callable[[pd.DataFrame], pd.Series], whole: pd.DataFrame | None
) -> tuple[float, float] | None:
    """95 % limits of the share of parameters in matrices that pass, where only some matrices were measured.

    Wilson's interval (1927) of the share, for the effective number of matrices of unlike size (Kish 1965), divided by
    the share of matrices that were not measured (finite population correction).

    Args:
        table: eligible rows of the matrices that were measured, evenly chosen.
        passes: which rows pass.
        whole: a survey of all matrices; None: the table has all.

    Returns:
        None where all matrices were measured, or none.
    """
    of = 0 if whole is None else _count_choosable(whole)
    if len(table) == 0 or len(table) >= of:
        return None
    p, weight = share(table, passes(table)), table["numel"] / table["numel"].sum()
    n = 1 / float((weight**2).sum()) / (1 - len(table) / of)
    z = float(special.ndtri(0.975))
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    half /= 1 + z * z / n
    return max(middle - half, 0.0), min(middle + half, 1.0)


def looked_at(table: pd.DataFrame, whole: pd.DataFrame | None) -> str:
    """How many matrices a verdict rests on, in words; empty where all were measured whole.

    Args:
        table: eligible rows of the matrices that were measured.
        whole: a survey of all matrices; None: the table has all.
    """
    if whole is None or table.empty:
        return ""
    of, sizes = _count_choosable(whole), whole.set_index("tensor")["numel"]
    cut = int((table["numel"] < sizes.reindex(table["tensor"]).to_numpy()).sum())
    words = [f"looked at: {len(table)} of {of} matrices, evenly chosen"] if len(table) < of else []
    if cut:
        words.append(f"of {cut} matrices the first rows stand for all, and how far those differ is not known")
    return "; ".join(words)


def _count_choosable(whole: pd.DataFrame) -> int:
    """How many matrices of a survey a report may choose for an arrangement."""
    return int((eligible(whole)["shape"].map(min) >= MIN_MATRIX_SIDE).sum())


def _at(table: pd.DataFrame, end: str) -> pd.DataFrame:
    """The rows of a survey of samples, with the figures that findings judge at one end of their intervals."""
    ends = {name: table[f"{name}_{end}"] for name in ("kl_bits", "mean_ratio", "asymmetry")}
    typical = table["asymmetry"] - table["asymmetry_excess"]
    return table.assign(**ends, asymmetry_excess=ends["asymmetry"] - typical)
