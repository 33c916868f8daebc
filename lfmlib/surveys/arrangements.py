"""How the entries of every matrix of a checkpoint are arranged: `iid` and `spectrum` of each, and of its controls."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..options import check
from ..structure.controls import checked_names, control
from ..structure.entries import FIGURES, FURTHER, MIN_SIDE, SUMS
from ..structure.random_matrices import threshold
from ..structure.spectra import spectrum
from ..structure.together import together
from .run import about, tabulate

DERIVED = ("lag_one", "row_alike", "col_alike", "unequal")
"""Properties of `IID` that sum up several figures; the rule of finding F4 is about these."""
WHOLE = (*FIGURES, *FURTHER, *dict.fromkeys((*DERIVED, *SUMS)))
"""Columns that say what `IID` says of a matrix; all have a null."""
BEYOND = ("beyond_variance", "beyond_excess")
"""Columns: `Spectrum.beyond_variance`, and what it is more than that of the matrix's own entries in a random order."""
SPECTRAL = {"ks": "mp_ks"} | {
    name: name
    for name in ("top_ratio", "outliers", "outlier_share", "outlier_variance", "stable_rank", "effective_rank")
}
"""Figures of `Spectrum` → their columns; ``mp_ks`` is the distance from the law of Marchenko and Pastur."""


def arrangement(
    source,
    *,
    select: str | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    seed: int = 0,
    controls: str | Iterable[str] | None = (),
    keep: str | Path | None = None,
) -> pd.DataFrame:
    """Measure how the entries of every floating-point matrix with at least 40 rows and columns are arranged.

    While a matrix is measured, memory holds two float32 copies of it (of a float64 one float64), or two float64
    matrices of its smaller side squared; each worker measures one at a time.

    Args:
        source: anything `open_checkpoint` takes.
        select: regular expression; only tensors whose name it finds.
        executor: where to run; default a thread per core. It is not shut down.
        progress: show a progress bar.
        seed: of the controls; each tensor's stream also depends on its name.
        controls: names of `lfmlib.structure.controls.CONTROLS` to measure in the same way.
        keep: a folder where finished rows are kept, and taken from, as of `survey`.

    Returns:
        For each matrix one row for itself (``control`` is "none") and one for each control, in checkpoint order: its
        `TensorInfo` (the name in column ``tensor``), the figures of its `IID` with `DERIVED`, those of its `Spectrum`,
        and the nulls as ``…_null_low`` and ``…_null_high``; `transpose_corr` is NaN where a matrix is not square.
        ``beyond_excess`` is ``beyond_variance`` less that of the same entries in a random order, NaN without the
        control "permuted": heavy tails alone carry variance beyond the edge of Gaussian noise, with no dependence, and
        as much of it in any order. Its null is half of what one direction at the edge carries, either way. That is a
        measured bound and no law: of 1,200 matrices of independent Student's t₃ entries, of six shapes, 2 % lay above
        it and 3 % below; of lighter tails none.
        ``attrs`` as of `survey`.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from `open_checkpoint`; an unknown control. OSError where
        ``keep`` cannot be written.

    Examples:
        >>> table = lfmlib.arrangement("minilm", select="layer.0.*query", controls="permuted", progress=False)
        >>> table[["role", "control", "row_share"]].round(2)
          role   control  row_share
        0    q      none       0.03
        1    q  permuted       0.00
    """
    check(seed=seed)
    measure = partial(_measured, controls=checked_names(controls), seed=seed)
    how = {"select": select, "executor": executor, "progress": progress, "keep": keep}
    return tabulate(source, measure, _columns(), **how, unfit=_too_small)


def _too_small(info: TensorInfo) -> str:
    return f"{info.shape}: expected at least {MIN_SIDE} rows and columns" if min(info.shape) < MIN_SIDE else ""


def _measured(checkpoint: Checkpoint, info: TensorInfo, controls: tuple[str, ...], seed: int) -> list[dict]:
    """The row of a matrix, and those of its controls."""
    stream = int(np.random.SeedSequence([seed, *info.name.encode()]).generate_state(1, np.uint64)[0] >> 1)
    matrix = checkpoint.read(info.name)
    rows: list[dict[str, Any]] = [about(info) | {"control": "none"} | figures(matrix)]
    for name in controls:
        made = control(matrix, name, seed=stream)
        rows.append(about(info) | {"control": name} | figures(made))
        if name == "rescaled" and "permuted" in controls:  # its entries are others
            rows[-1]["beyond_excess"] = beyond_excess(made, rows[-1]["beyond_variance"], seed=stream)
    shuffled = next((row["beyond_variance"] for row in rows if row["control"] == "permuted"), np.nan)
    for row in rows:
        gaussian = row["control"] == "fresh"  # whose entries, in any order, lie within the edge
        row.setdefault("beyond_excess", row["beyond_variance"] - shuffled * (not gaussian))
    return rows


def beyond_excess(matrix, own: float, *, seed: int = 0) -> float:
    """Variance of a matrix beyond the edge of noise, less that of the same entries in a random order.

    Args:
        matrix: as for `lfmlib.spectrum`.
        own: its `Spectrum.beyond_variance`.
        seed: of the order.
    """
    return own - spectrum(control(matrix, "permuted", seed=seed)).beyond_variance if own > 0 else 0.0


def figures(matrix) -> dict[str, float]:
    """The figures of a row of `arrangement`: those of a matrix, and their nulls.

    Args:
        matrix: as for `lfmlib.iid`.
    """
    entries, values = together(matrix)
    row = {name: getattr(entries, name) for name in WHOLE}
    row |= {
        column: getattr(values, name) for name, column in (SPECTRAL | {"beyond_variance": "beyond_variance"}).items()
    }
    bands = (
        dict.fromkeys(WHOLE, (np.nan, np.nan))
        | dict(entries.null)
        | {column: values.null[name] for name, column in SPECTRAL.items()}
    )
    r, c = entries.shape
    half = threshold(r, c) ** 2 / (2 * r * c)
    bands |= {"beyond_variance": values.null["beyond_variance"], "beyond_excess": (-half, half)}
    for name, (low, high) in bands.items():
        row |= {f"{name}_null_low": low, f"{name}_null_high": high}
    return row


def _columns() -> list[str]:
    names = ["tensor", "role", "depth", "tower", "shape", "dtype", "numel", "control"]
    nulled = (*WHOLE, *SPECTRAL.values(), *BEYOND)
    names += nulled
    return names + [f"{name}_null_{side}" for name in nulled for side in ("low", "high")]
