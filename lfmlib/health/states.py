"""Tensors that training never touched, or that were damaged on the way: what the weights themselves give away.

========== ==========================================================================================================
zeroed     every value is zero
constant   every value is the same
non-finite infinities or NaN among the values
swapped    the bytes of each value are in the other order: magnitudes scatter over hundreds of octaves as stored, and
           over a few when the bytes are turned round (Gaussian values: 1.6 octaves)
pruned     at least half of the values are exactly zero
untrained  arranged like noise in every respect that `lfmlib.arrangement` measures, with a law that weights are drawn
           from at the start: Gaussian, truncated at two standard deviations, or uniform
shuffled   arranged like noise, with another law: entries that changed places, or noise of that law
========== ==========================================================================================================

What this cannot tell: a tensor trained so little that it is still arranged like its start from one not trained at all;
a tensor with some values damaged from one with outliers; bytes of one-byte types have no order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from ..checkpoints.checkpoint import Checkpoint

SCATTER = 5.0
"""Octaves: a standard deviation of log2 of the magnitudes that weights do not reach."""
ROOM = 1.2
"""How far beyond the 97.5 % point of noise a figure may lie and still count as noise's: trained ones are farther."""
TOP = 1.05
"""The same for the largest singular value, against that of the permuted matrix."""
CLOSE = 2.0
"""The same for `kl_bits`, whose law on noise is skewed: beyond 1.2 times its 97.5 % point lies up to 1 in 58 matrices
of noise, beyond twice none of 2,400 drawn after it was chosen (the farthest at 1.69)."""
LAWS = {"Gaussian": 0.0, "Gaussian, cut at 2 std": -0.63, "uniform": -1.2}
"""Laws that weights are drawn from at the start, and their excess kurtosis."""
_UNLIKE = ("row_share", "col_share", "row_corr", "col_corr")


def examine(checkpoint: Checkpoint, table: pd.DataFrame, arranged: pd.DataFrame, bytes: int = 1 << 16) -> pd.DataFrame:
    """What is wrong with the matrices of a checkpoint, by their values.

    Args:
        checkpoint: holds them; some ``bytes`` are read of those whose byte order is in doubt.
        table: from `lfmlib.survey`.
        arranged: from `lfmlib.arrangement` with the control "permuted", of as many of them as were looked at; only
            these can be called untrained or shuffled.

    Returns:
        One row per matrix with something to say, in order: tensor, role, depth, state (see the module's table), why.

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
    # Heavy tails alone send a singular value beyond the edge of Gaussian noise: as far as in the permuted matrix.
    edge = (TOP * permuted["top_ratio"]).reindex(looked.index, fill_value=0.0)
    looked = looked.assign(edge=np.maximum(edge, looked["top_ratio_null_high"]))
    rows = []
    for row in table.to_dict("records"):
        one = looked.loc[row["tensor"]] if row["tensor"] in looked.index else None
        state, why = _state(checkpoint, row, one, bytes)
        if state:
            rows.append({name: row[name] for name in ("tensor", "role", "depth")} | {"state": state, "why": why})
    return pd.DataFrame(rows, columns=["tensor", "role", "depth", "state", "why"])


def _state(checkpoint: Checkpoint, row: dict, arranged: pd.Series | None, bytes: int) -> tuple[str, str]:
    if _doubtful(row) and (why := turned(torch.cat(checkpoint.sample(row["tensor"], bytes, groups=4)))):
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


def _doubtful(row: Mapping) -> bool:
    """Whether the magnitudes of a row of a survey are so odd that its bytes deserve a look: weights have an exponent
    entropy of 2.5 to 2.8 bits, bytes in the other order have 5 and more, or next to no normal number. float64 is
    counted as float32, where most such values are zero."""
    lost = row["dtype"] == "float64" and row["zeros"] > row["count"] / 4
    return bool(row["nonfinite"] or lost or row["subnormals"] > row["count"] / 4 or row["exponent_entropy"] > 4)


def turned(values: torch.Tensor) -> str:
    """Why the bytes of these values are in the other order, or nothing."""
    if values.element_size() < 2 or not values.is_floating_point() or not values.numel():
        return ""
    pairs = values.contiguous().view(torch.uint8).reshape(-1, values.element_size())
    here, there = _octaves(values), _octaves(pairs.flip(1).contiguous().view(values.dtype).reshape(-1))
    if here <= SCATTER or there > SCATTER:
        return ""
    spread = "hold no numbers" if math.isinf(here) else f"scatter over {here:.0f} octaves"
    return f"magnitudes {spread} as stored, and over {there:.1f} with the bytes turned round"


def _octaves(values: torch.Tensor) -> float:
    """Standard deviation of log2 of the magnitudes; infinite where many are no numbers, or below what types resolve."""
    kind = torch.finfo(values.dtype)
    size = values.double().abs()
    usable = size.isfinite() & ((size >= kind.smallest_normal) | (size == 0))
    if usable.float().mean() < 0.75:
        return math.inf
    size = size[usable & (size > 0)]
    return float(size.log2().std()) if size.numel() > 1 else 0.0


def _unordered(arranged: Mapping) -> bool:
    """Whether a row of `lfmlib.arrangement`, with the "edge" of noise like it, is that of noise in every respect."""
    inside = all(arranged[name] <= ROOM * arranged[f"{name}_null_high"] for name in _UNLIKE)
    lag = ROOM * 3.0 / math.sqrt(arranged["numel"])
    return bool(inside and arranged["lag_one"] <= lag and arranged["top_ratio"] <= arranged["edge"])


def _start_law(row: Mapping) -> str:
    """The law of `LAWS` that a row of a survey has, by its distance from the Gaussian and its kurtosis; "" for none."""
    error = 4 * math.sqrt(24 / max(row["count"], 1))
    if row["kl_bits"] <= CLOSE * row["kl_bits_null_high"] and abs(row["excess_kurtosis"]) <= error:
        return "Gaussian"
    reach = max(abs(row["min"] - row["mean"]), abs(row["max"] - row["mean"])) / row["std"]
    for law, cut in (("uniform", math.sqrt(3)), ("Gaussian, cut at 2 std", 2 / 0.8796)):
        if abs(row["excess_kurtosis"] - LAWS[law]) <= error + 0.02 and reach <= 1.02 * cut and np.isfinite(reach):
            return law
    return ""
