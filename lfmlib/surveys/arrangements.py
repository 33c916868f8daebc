"""How the entries of every matrix of a checkpoint are arranged: `iid` and `spectrum` of each, and of its controls."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd

from ..checkpoints.checkpoint import Checkpoint
from ..structure.controls import control, named
from ..structure.entries import FIGURES, iid
from ..structure.spectra import spectrum
from .run import Rows, tabulate

DERIVED = ("lag_one", "row_alike", "col_alike", "unequal")
"""Properties of `IID` that the rule of finding F4 is about."""
SPECTRAL = {"ks": "mp_ks"} | {
    name: name
    for name in ("top_ratio", "outliers", "outlier_share", "outlier_variance", "stable_rank", "effective_rank")
}
"""Figures of `Spectrum` and their columns; ``mp_ks`` is the distance to Marchenko and Pastur's law."""


def arrangement(
    source,
    select: str | None = None,
    controls: str | Iterable[str] | None = (),
    seed: int = 0,
    executor: Executor | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure the arrangement of every floating-point matrix of a checkpoint that has 40 rows and columns.

    Each matrix is held as some five float64 copies while it is measured, one matrix per worker.

    Args:
        source: anything `open_checkpoint` takes, or a `Checkpoint`.
        select: regular expression; only tensors whose name it finds.
        controls: names of `lfmlib.structure.controls.CONTROLS` to measure in the same way.
        seed: of the controls; each tensor's stream also depends on its name.
        executor: where to run; default a thread per core. It is not shut down.
        progress: show a progress bar.

    Returns:
        For each matrix one row for itself (``control`` is "none") and one for each control, in checkpoint order: its
        `TensorInfo` (the name in column ``tensor``), the figures of its `IID` with `DERIVED`, those of its `Spectrum`,
        and the nulls as ``…_null_low`` and ``…_null_high``. ``attrs`` as of `survey`.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from `open_checkpoint`; an unknown control.

    Examples:
        >>> table = lfmlib.arrangement("minilm", select="layer.0.*query", controls="permuted", progress=False)
        >>> table[["role", "control", "row_share"]].round(2)
          role   control  row_share
        0    q      none       0.03
        1    q  permuted       0.00
    """
    measure = partial(_measure_batch, controls=named(controls), seed=seed)
    return tabulate(source, select, measure, _columns(), executor, progress)


def _measure_batch(checkpoint: Checkpoint, controls: tuple[str, ...], seed: int) -> Rows:
    results: Rows = []
    for info in checkpoint.tensors:
        about = asdict(info)
        about["tensor"] = about.pop("name")
        stream = int(np.random.SeedSequence([seed, *info.name.encode()]).generate_state(1, np.uint64)[0] >> 1)
        try:
            matrix = checkpoint.read(info.name)
            rows = [about | {"control": "none"} | figures(matrix)]
            for name in controls:
                rows.append(about | {"control": name} | figures(control(matrix, name, seed=stream)))
        except ValueError as error:
            results.append((info.name, str(error)))
            continue
        results.append((info.name, rows))
    return results


def figures(matrix) -> dict[str, float]:
    """Every figure of a matrix, with its null: what a row says of it."""
    entries, values = iid(matrix), spectrum(matrix)
    row = {name: getattr(entries, name) for name in (*FIGURES, *DERIVED)}
    row |= {column: getattr(values, name) for name, column in SPECTRAL.items()}
    bands = dict(entries.null) | {column: values.null[name] for name, column in SPECTRAL.items()}
    for name, (low, high) in bands.items():
        row |= {f"{name}_null_low": low, f"{name}_null_high": high}
    return row


def _columns() -> list[str]:
    names = ["tensor", "role", "depth", "shape", "dtype", "numel", "control"]
    nulled = (*FIGURES, *SPECTRAL.values())
    names += [*FIGURES, *DERIVED, *SPECTRAL.values()]
    return names + [f"{name}_null_{side}" for name in nulled for side in ("low", "high")]
