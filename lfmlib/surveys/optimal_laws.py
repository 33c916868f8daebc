"""`lfmlib.optimal_law` of every matrix of a checkpoint, and of Gaussian noise like it."""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import pandas as pd

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..distribution.blas import one_blas_thread
from ..distribution.coding import VARIANTS
from ..distribution.law import MIN_KEPT_VALUES, Law, optimal_law
from ..options import check, check_table
from .counted import law_sketch, noise_like
from .forecast import Cost
from .rows import about
from .run import tabulate

LAW_NANOSECONDS = 1.3e8
"""Of a core, that fitting the laws to a sketch takes about, whose values are counted in about two nanoseconds each."""


def laws(
    source,
    *,
    select: str | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    pruned: float = 0.0,
    keep: str | Path | None = None,
) -> pd.DataFrame:
    """`optimal_law` of every floating-point matrix of a checkpoint.

    Args:
        source, select, executor, progress: as `lfmlib.survey`.
        pruned: share of the values of each matrix, those of smallest magnitude, to leave out.
        keep: a folder where finished rows are kept, and taken from, as of `survey`.

    Returns:
        One row per matrix: its `TensorInfo` (the name in column ``tensor``), how many of its values are NaN or infinite
        and were left out (``nonfinite``), and the fields of its `Law`, the code lengths as ``bits_…``.
        ``table.attrs["skipped"]`` says of every other tensor why it has no row.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from `open_checkpoint`; OSError: ``keep`` cannot be written.

    Examples:
        >>> table = lfmlib.laws("minilm", select="pooler", progress=False)
        >>> table[["role", "name", "sigma"]].round(3)
             role      name  sigma
        0  pooler  gaussian  0.009
    """
    check(pruned=pruned)
    with one_blas_thread():  # here, since not every thread of a pool may set it
        return tabulate(
            source,
            partial(_measured, pruned=pruned),
            _COLUMNS,
            select=select,
            executor=executor,
            progress=progress,
            keep=keep,
            unfit=_too_small,
            cost=Cost(lambda info: LAW_NANOSECONDS + 2.0 * info.numel),
        )


def _too_small(info: TensorInfo) -> str:
    return f"{info.numel} values: expected at least {MIN_KEPT_VALUES}" if info.numel < MIN_KEPT_VALUES else ""


def noise_laws(table: pd.DataFrame, *, seed: int = 0, pruned: float = 0.0) -> pd.DataFrame:
    """`laws` of Gaussian noise of the size, type, mean and standard deviation of each matrix, quantized where it is.

    Args:
        table: rows of `lfmlib.survey`; matrices that are constant or too small for a law are left out.
        seed: of the noise; that of each matrix also depends on its name.
        pruned: as for `laws`.

    Returns:
        As from `laws`; ``attrs["skipped"]`` says of every other row why it has none.
    """
    check(seed=seed, pruned=pruned)
    check_table(table, (*_INFO, "std"), "lfmlib.survey")
    rows, skipped = [], {}
    for row in table.to_dict("records"):
        if not row["std"] > 0:
            skipped[row["tensor"]] = f"its standard deviation is {row['std']:g}: expected above 0"
            continue
        try:
            law = optimal_law(noise_like(row, seed).law, pruned=pruned)
        except ValueError as error:
            skipped[row["tensor"]] = str(error)
            continue
        rows.append({name: row[name] for name in _INFO} | {"nonfinite": 0} | _figures(law))
    found = pd.DataFrame(rows, columns=_COLUMNS)
    found.attrs["skipped"] = skipped
    return found


def _measured(checkpoint: Checkpoint, info: TensorInfo, pruned: float) -> list[dict]:
    sketch = law_sketch(checkpoint, info.name)
    return [about(info) | {"nonfinite": sketch.nonfinite} | _figures(optimal_law(sketch, pruned=pruned))]


def _figures(law: Law) -> dict:
    """The columns of a law in a row."""
    bits = {f"bits_{name}": bits for name, bits in law.code_lengths.items()}
    return {name: getattr(law, name) for name in _FIELDS} | bits


_INFO = ("tensor", "role", "depth", "tower", "shape", "dtype", "numel")


_FIELDS = (
    "name", "variant", "mean", "sigma", "gg_shape", "lower", "upper", "outlier_share", "outlier_cut", "pruned", "kept",
    "misfit",
)  # fmt: skip


_BITS = tuple(f"bits_{name}" for name in VARIANTS)


_COLUMNS = [*_INFO, "nonfinite", *_FIELDS, *_BITS]
