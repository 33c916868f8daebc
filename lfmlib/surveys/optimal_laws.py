"""The law of what pruning keeps, for every matrix of a checkpoint, and for noise in its place."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd

from ..checkpoints.checkpoint import Checkpoint
from ..distribution import nulls
from ..distribution.coding import VARIANTS
from ..distribution.law import Law, optimal_law
from .run import Rows, tabulate


def laws(
    source, *, pruned: float = 0.0, select: str | None = None, executor: Executor | None = None, progress: bool = True
) -> pd.DataFrame:
    """`optimal_law` of every floating-point matrix of a checkpoint.

    Args:
        source, select, executor, progress: as `lfmlib.survey`.
        pruned: share of each matrix's values to leave out.

    Returns:
        One row per matrix: its `TensorInfo` (the name in column ``tensor``) and the fields of its `Law`, the code
        lengths as ``bits_…``. ``table.attrs["skipped"]`` says of every other tensor why it is not there.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from `open_checkpoint`.

    Examples:
        >>> table = lfmlib.laws("minilm", select="pooler", progress=False)
        >>> table[["role", "name", "sigma"]].round(3)
             role      name  sigma
        0  pooler  gaussian  0.009
    """
    return tabulate(source, select, partial(_laws, pruned=pruned), [*_INFO, *_FIELDS, *_BITS], executor, progress)


def noise_laws(table: pd.DataFrame, *, pruned: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """The same of Gaussian noise in the place of each matrix, of its size, type, mean and standard deviation.

    Args:
        table: rows of `lfmlib.survey`; those without a standard deviation, and too small ones, are left out.
        pruned: share of the noise to leave out.
        seed: of the noise, with the tensors' names.

    Returns:
        As `laws`.
    """
    rows = []
    for row in table[table["std"] > 0].to_dict("records"):
        rng = np.random.default_rng([seed, *row["tensor"].encode()])
        try:
            law = optimal_law(nulls.draw(row["dtype"], row["count"], rng, row["mean"], row["std"]), pruned=pruned)
        except ValueError:
            continue
        rows.append({name: row[name] for name in _INFO} | _figures(law))
    return pd.DataFrame(rows, columns=[*_INFO, *_FIELDS, *_BITS])


def _laws(checkpoint: Checkpoint, pruned: float) -> Rows:
    results: Rows = []
    for info in checkpoint.tensors:
        try:
            law = optimal_law(checkpoint.chunks(info.name), pruned=pruned)
        except ValueError as error:
            results.append((info.name, str(error)))
            continue
        row = asdict(info)
        row["tensor"] = row.pop("name")
        results.append((info.name, [row | _figures(law)]))
    return results


def _figures(law: Law) -> dict:
    """What a row says of a law."""
    bits = {f"bits_{name}": bits for name, bits in law.code_lengths.items()}
    return {name: getattr(law, name) for name in _FIELDS} | bits


_INFO = ("tensor", "role", "depth", "shape", "dtype", "numel")


_FIELDS = (
    "name", "variant", "mean", "sigma", "gg_shape", "lower", "upper", "outlier_share", "outlier_cut", "pruned", "kept",
    "misfit",
)  # fmt: skip


_BITS = tuple(f"bits_{name}" for name in VARIANTS)
