"""Matrices that training never touched, or that were damaged afterwards, told by their values alone.

========== ==========================================================================================================
zeroed     every value is zero
constant   every value is the same
non-finite infinities or NaN among the values
swapped    the bytes of each value are in reverse order: log2 of the magnitudes has a standard deviation of hundreds
           as stored, and of a few when the bytes are reversed (of Gaussian values: 1.6)
unwritten  no value but zero is as large as the smallest normal number, as in memory that nobody has filled
pruned     at least half of the values are exactly zero
untrained  arranged like noise in every respect that `lfmlib.arrangement` measures, with a law that weights are drawn
           from at the start: Gaussian, truncated at two standard deviations, or uniform
shuffled   arranged like noise, with another law: entries that changed places, or noise of that law
========== ==========================================================================================================

What this cannot tell apart: a matrix trained so little that it is still arranged like its start, and one not trained at
all; a matrix with a few damaged values, and one with outliers. Values of one byte have no order of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from ..checkpoints.checkpoint import Checkpoint

MAX_OCTAVES = 5.0
"""Standard deviation of log2 of the magnitudes, in octaves, that weights do not exceed."""
MIN_OCTAVES = 0.5
"""And that they do not fall short of: of values that are all of one size no order of bytes is more like weights."""
WIDE = 1e-30
"""A type whose smallest normal number is below this holds no weights that are smaller than that; float16 does."""
NOISE_FACTOR = 1.2
"""Multiple of the 97.5 % point of noise up to which a figure of the arrangement counts as that of noise."""
TOP_FACTOR = 1.05
"""Multiple of the largest singular value of the permuted matrix up to which that of the matrix counts as noise's."""
KL_FACTOR = 2.0
"""Multiple of the 97.5 % point of noise up to which `kl_bits` count as those of noise. Their distribution on noise is
skewed: up to 1 in 58 matrices of noise exceed 1.2 times that point; of 2,400 drawn after this bound was chosen none
exceeded twice the point (the largest reached 1.69 times)."""
START_LAWS = {"Gaussian": 0.0, "Gaussian, cut at 2 std": -0.63, "uniform": -1.2}
"""Laws that weights are drawn from at the start → their excess kurtosis."""
_ABOUT = ("tensor", "role", "depth", "tower")
_ARRANGED = ("row_share", "col_share", "row_corr", "col_corr")


def examine(checkpoint: Checkpoint, table: pd.DataFrame, arranged: pd.DataFrame, bytes: int = 1 << 16) -> pd.DataFrame:
    """The matrices of a checkpoint that are untrained or damaged.

    Args:
        checkpoint: holds the matrices.
        table: from `lfmlib.survey`.
        arranged: from `lfmlib.arrangement` with the control "permuted", of all or some of the matrices; only these can
            be called untrained or shuffled.
        bytes: how many are read of each matrix whose byte order is in doubt.

    Returns:
        One row for each such matrix, in the order of ``table``: tensor, role, depth, tower, state (see the module's
        table), why.

    Examples:
        >>> from lfmlib.health.states import examine
        >>> rng = np.random.default_rng(0)
        >>> weights = {"q_proj.weight": rng.standard_normal((64, 64)), "k_proj.weight": np.zeros((64, 64))}
        >>> model = lfmlib.open_checkpoint(weights)
        >>> table = lfmlib.survey(model, progress=False)
        >>> arranged = lfmlib.arrangement(model, select="q_proj", controls="permuted", progress=False)
        >>> examine(model, table, arranged)[["role", "state"]]
          role      state
        0    q  untrained
        1    k     zeroed
    """
    looked, permuted = (arranged[arranged["control"] == kind].set_index("tensor") for kind in ("none", "permuted"))
    # Heavy tails alone push the largest singular value beyond the edge of Gaussian noise, also in the permuted matrix.
    edge = (TOP_FACTOR * permuted["top_ratio"]).reindex(looked.index, fill_value=0.0)
    looked = looked.assign(edge=np.maximum(edge, looked["top_ratio_null_high"]))
    rows = []
    for row in table.to_dict("records"):
        one = looked.loc[row["tensor"]] if row["tensor"] in looked.index else None
        state, why = _state(checkpoint, row, one, bytes)
        if state:
            rows.append({name: row[name] for name in _ABOUT} | {"state": state, "why": why})
    return pd.DataFrame(rows, columns=[*_ABOUT, "state", "why"])


def _state(checkpoint: Checkpoint, row: dict, arranged: pd.Series | None, bytes: int) -> tuple[str, str]:
    if _unwritten(row):
        return "unwritten", f"no value is larger than {max(abs(row['min']), abs(row['max'])):.3g}, and none is normal"
    if _doubtful(row) and (why := swapped(torch.cat(checkpoint.sample(row["tensor"], bytes, groups=4)))):
        return "swapped", why
    if row["count"] and row["zeros"] == row["count"]:
        return "zeroed", "every value is zero"
    if row["count"] and row["min"] == row["max"]:
        return "constant", f"every value is {row['min']:.4g}"
    if row["nonfinite"]:
        return "non-finite", f"{row['nonfinite']:,} of {row['count'] + row['nonfinite']:,} values are infinite or NaN"
    if row["zeros"] >= row["count"] / 2:
        return "pruned", f"{row['zeros'] / row['count']:.0%} of the values are exactly zero"
    if arranged is None or not _unordered(arranged):
        return "", ""
    law = _start_law(row)
    if not law:
        return (
            "shuffled",
            f"arranged like noise, but not of a law that weights start from (kl_bits {row['kl_bits']:.3f})",
        )
    spread = checkpoint.config.get("initializer_range")
    known = isinstance(spread, int | float) and math.isclose(row["std"], spread, rel_tol=0.02)
    return "untrained", f"like fresh noise, {law}, of std {row['std']:.4g}" + (
        ", the initializer_range" if known else ""
    )


def _unwritten(row: Mapping) -> bool:
    """Whether all values of a row of a survey are zero or subnormal, and not all zero."""
    smallest = torch.finfo(getattr(torch, row["dtype"])).smallest_normal
    return bool(row["subnormals"] and smallest < WIDE and max(abs(row["min"]), abs(row["max"])) < smallest)


def _doubtful(row: Mapping) -> bool:
    """Whether the order of bytes of a row of a survey is in doubt.

    The exponents of weights have an entropy of 2.5 to 2.8 bits; bytes in reverse order give 5 bits and more, or next to
    no normal number. A survey counts float64 as float32, in which most values with reversed bytes are zero.
    """
    lost = row["dtype"] == "float64" and row["zeros"] > row["count"] / 4
    return bool(row["nonfinite"] or lost or row["subnormals"] > row["count"] / 4 or row["exponent_entropy"] > 4)


def swapped(values: torch.Tensor) -> str:
    """Why the bytes of these values must be in reverse order; empty where they need not be."""
    if values.element_size() < 2 or not values.is_floating_point() or not values.numel():
        return ""
    here, there = _octaves(values), _octaves(bytes_reversed(values))
    if here <= MAX_OCTAVES or not MIN_OCTAVES <= there <= MAX_OCTAVES:
        return ""
    spread = "hold no numbers" if math.isinf(here) else f"scatter over {here:.0f} octaves"
    return f"magnitudes {spread} as stored, and over {there:.1f} with the bytes turned round"


def bytes_reversed(values: torch.Tensor) -> torch.Tensor:
    """The values whose bytes are those of ``values`` in reverse order; same shape and type."""
    bytes_of_each = values.contiguous().view(torch.uint8).reshape(-1, values.element_size())
    return bytes_of_each.flip(1).contiguous().view(values.dtype).reshape(values.shape)


def _octaves(values: torch.Tensor) -> float:
    """Standard deviation of log2 of the magnitudes; infinite where a quarter of the values is subnormal, infinite or
    NaN."""
    kind = torch.finfo(values.dtype)
    size = values.double().abs()
    usable = size.isfinite() & ((size >= kind.smallest_normal) | (size == 0))
    if usable.float().mean() < 0.75:
        return math.inf
    size = size[usable & (size > 0)]
    return float(size.log2().std()) if size.numel() > 1 else 0.0


def _unordered(arranged: Mapping | pd.Series) -> bool:
    """Whether a row of `lfmlib.arrangement` is that of noise in every respect; "edge" bounds its ``top_ratio``."""
    inside = all(arranged[name] <= NOISE_FACTOR * arranged[f"{name}_null_high"] for name in _ARRANGED)
    lag = NOISE_FACTOR * 3.0 / math.sqrt(arranged["numel"])  # three standard errors of a correlation
    return bool(inside and arranged["lag_one"] <= lag and arranged["top_ratio"] <= arranged["edge"])


def _start_law(row: Mapping) -> str:
    """The law of `START_LAWS` that a row of a survey has, told by its `kl_bits`, its kurtosis and its range;
    empty where it has none."""
    error = 4 * math.sqrt(24 / max(row["count"], 1))  # four standard errors of the kurtosis of Gaussian values
    if row["kl_bits"] <= KL_FACTOR * row["kl_bits_null_high"] and abs(row["excess_kurtosis"]) <= error:
        return "Gaussian"
    reach = max(abs(row["min"] - row["mean"]), abs(row["max"] - row["mean"])) / row["std"]
    for law, cut in (("uniform", math.sqrt(3)), ("Gaussian, cut at 2 std", 2 / 0.8796)):
        if abs(row["excess_kurtosis"] - START_LAWS[law]) <= error + 0.02 and reach <= 1.02 * cut and np.isfinite(reach):
            return law
    return ""
