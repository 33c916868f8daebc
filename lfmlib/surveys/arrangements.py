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
from ..structure.entries import FIGURES, FURTHER, IID, SUMS
from ..structure.gram import Matrix
from ..structure.inputs import MIN_SIDE
from ..structure.krylov import MIN_SIDE as MIN_ESTIMATED_SIDE
from ..structure.random_matrices import threshold
from ..structure.spectra import MAX_EXACT_SIDE, Spectrum, fast_spectrum
from ..structure.together import together, together_fast
from .forecast import Cost
from .rows import about
from .run import tabulate

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
ESTIMATED = ("row_corr", "col_corr", "row_alike", "col_alike", "mp_ks", "effective_rank")
"""Columns that are estimates of large matrices where the effort is "fast"."""


def arrangement(
    source,
    *,
    select: str | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    seed: int = 0,
    controls: str | Iterable[str] | None = (),
    effort: str = "exact",
    keep: str | Path | None = None,
) -> pd.DataFrame:
    """Measure how the entries of every floating-point matrix with at least 40 rows and columns are arranged.

    While a matrix is measured, memory holds two float32 copies of it (of a float64 one float64), or two float64
    matrices of its smaller side squared (not with ``effort="fast"``); each worker measures one at a time.

    Args:
        source: anything `open_checkpoint` takes.
        select: regular expression; only tensors whose name it finds.
        executor: where to run; default a thread per core. It is not shut down.
        progress: show a progress bar.
        seed: of the controls; each tensor's stream also depends on its name.
        controls: names of `lfmlib.structure.controls.CONTROLS` to measure in the same way.
        effort: "exact", as `lfmlib.iid` and `lfmlib.spectrum` measure, of which the latter estimates beyond a smaller
            side of 4,096; or "fast": of matrices whose smaller side exceeds 1,024, what takes products of all rows or
            columns is estimated, of the matrix and of its controls (see `lfmlib.structure.together.together_fast`): the
            columns `ESTIMATED`. What one pass over the entries gives, and what the singular values beyond the edge
            give, is as of "exact".
        keep: a folder where finished rows are kept, and taken from, as of `survey`; those of either effort apart.

    Returns:
        For each matrix one row for itself (``control`` is "none") and one for each control, in checkpoint order: its
        `TensorInfo` (the name in column ``tensor``), the figures of its `IID` with `DERIVED`, those of its `Spectrum`,
        and the nulls as ``…_null_low`` and ``…_null_high``; `transpose_corr` is NaN where a matrix is not square.
        ``beyond_excess`` is ``beyond_variance`` less that of the same entries in a random order, NaN without the
        control "permuted": heavy tails alone carry variance beyond the edge of Gaussian noise, with no dependence, and
        as much of it in any order. Its null is half of what one direction at the edge carries, either way. That is a
        measured bound and no law: of 1,200 matrices of independent Student's t₃ entries, of six shapes, 2 % lay above
        it and 3 % below; of lighter tails none.
        With ``effort="fast"`` each estimate has its standard error in ``…_err``, 0 where all of a matrix was measured,
        and the null of the estimate. ``attrs`` as of `survey`, and ``effort``.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from `open_checkpoint`; an unknown control. OSError where
        ``keep`` cannot be written.

    Examples:
        >>> table = lfmlib.arrangement("minilm", select="layer.0.*query", controls="permuted", progress=False)
        >>> table[["role", "control", "row_share"]].round(2)
          role   control  row_share
        0    q      none       0.03
        1    q  permuted       0.00
        >>> noise = np.random.default_rng(0).standard_normal((1100, 1200))
        >>> table = lfmlib.arrangement({"w": noise}, effort="fast", progress=False)
        >>> table[["row_alike", "row_alike_err", "outliers", "mp_ks"]].round(3)
           row_alike  row_alike_err  outliers  mp_ks
        0      0.997          0.004         0  0.007
    """
    check(seed=seed, effort=effort)
    fast = effort == "fast"
    names = checked_names(controls)
    measure = partial(_measured, controls=names, seed=seed, fast=fast)
    how = {"select": select, "executor": executor, "progress": progress, "keep": keep}
    table = tabulate(source, measure, _columns(fast), **how, unfit=_too_small, cost=cost_of(names, fast))
    table.attrs["effort"] = effort
    return table


def _too_small(info: TensorInfo) -> str:
    return f"{info.shape}: expected at least {MIN_SIDE} rows and columns" if min(info.shape) < MIN_SIDE else ""


def cost_of(controls: tuple[str, ...], fast: bool) -> Cost:
    """What a matrix takes with these controls: about how many nanoseconds of one core, and bytes."""
    return Cost(partial(_time, rows=len(controls) + 1, fast=fast), partial(_memory, controls, fast=fast))


def _time(info: TensorInfo, rows: int, fast: bool) -> float:
    """About how many nanoseconds of one core a matrix takes with its controls, on a machine of 2024: passes over its
    entries, Gram matrices and eigenvalues, or a Krylov space in their place; and the making of controls."""
    p = min(info.shape)
    if fast and p > MIN_ESTIMATED_SIDE:
        each = 125.0 * info.numel
    elif p <= MAX_EXACT_SIDE:
        each = info.numel * (45 + p / 30) + p**3 / 14
    else:
        each = info.numel * (125 + p / 30)
    return rows * each + (rows - 1) * 60 * info.numel


def _memory(controls: tuple[str, ...], info: TensorInfo, fast: bool) -> int:
    """Bytes while a matrix is measured: its copies, or a Gram matrix and that in which its eigenvalues are found; or
    while a control is made: rescaled in float64, or an order of the entries."""
    p, fine = min(info.shape), 2 if info.dtype == "float64" else 1
    gram = 0 if (fast and p > MIN_ESTIMATED_SIDE) or p > MAX_EXACT_SIDE else 16 * p * p
    made = 20 if "rescaled" in controls else 12 if controls else 0
    return max(max(8 * fine, made) * info.numel, gram)


def _measured(checkpoint: Checkpoint, info: TensorInfo, controls: tuple[str, ...], seed: int, fast: bool) -> list[dict]:
    """The row of a matrix, and those of its controls."""
    stream = int(np.random.SeedSequence([seed, *info.name.encode()]).generate_state(1, np.uint64)[0] >> 1)
    matrix = checkpoint.read(info.name)
    of = partial(fast_figures, seed=stream) if fast else figures
    rows: list[dict[str, Any]] = [about(info) | {"control": "none"} | of(matrix)]
    for name in controls:
        made = control(matrix, name, seed=stream)
        rows.append(about(info) | {"control": name} | of(made))
        if name == "rescaled" and "permuted" in controls:  # its entries are others
            rows[-1]["beyond_excess"] = beyond_excess(made, rows[-1]["beyond_variance"], seed=stream)
    shuffled = next((row["beyond_variance"] for row in rows if row["control"] == "permuted"), np.nan)
    for row in rows:
        gaussian = row["control"] == "fresh"  # whose entries, in any order, lie within the edge
        row.setdefault("beyond_excess", row["beyond_variance"] - shuffled * (not gaussian))
    return rows


def beyond_excess(matrix, own: float, *, seed: int = 0) -> float:
    """Variance of a matrix beyond the edge of noise, less that of the same entries in a random order.

    For the latter, eigenvalues beyond the edge are enough: `fast_spectrum` finds them, off by less than 1e-3 of the
    null's width.

    Args:
        matrix: as for `lfmlib.spectrum`.
        own: its `Spectrum.beyond_variance`.
        seed: of the order.
    """
    if not own > 0:
        return 0.0
    values, _ = fast_spectrum(Matrix(control(matrix, "permuted", seed=seed)), seed=seed)
    return own - values.beyond_variance


def figures(matrix) -> dict[str, float]:
    """The figures of a row of `arrangement`: those of a matrix, and their nulls.

    Args:
        matrix: as for `lfmlib.iid`.
    """
    return _row(*together(matrix))


def fast_figures(matrix, *, seed: int = 0) -> dict[str, float]:
    """`figures`, of a large matrix those of `ESTIMATED` estimated, with their standard errors as ``…_err``.

    Args:
        matrix: as for `lfmlib.iid`.
        seed: of what is sampled.
    """
    entries, values, errors = together_fast(matrix, seed=seed)
    columns = {SPECTRAL.get(name, name): error for name, error in errors.items()}
    return _row(entries, values) | {f"{name}_err": columns.get(name, 0.0) for name in ESTIMATED}


def _row(entries: IID, values: Spectrum) -> dict[str, float]:
    """The columns of a row."""
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


def _columns(fast: bool) -> list[str]:
    names = ["tensor", "role", "depth", "tower", "shape", "dtype", "numel", "control"]
    nulled = (*WHOLE, *SPECTRAL.values(), *BEYOND)
    names += nulled
    names += [f"{name}_null_{side}" for name in nulled for side in ("low", "high")]
    return names + [f"{name}_err" for name in ESTIMATED if fast]
