"""Measure the distribution of every matrix of a checkpoint: one row for each.

Tensors are measured on any `concurrent.futures.Executor`: threads (the default; the counting loop releases the GIL), a
pool of processes, or that of a Dask cluster. Sketches are exact, so that every executor gives the same table.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..checkpoints.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from ..distribution import like_noise, nulls, sampled
from ..distribution.distances import measure
from ..distribution.shapes import FAMILIES, SHAPES, classify, standings
from ..distribution.sketch import Sketch
from ..notices import warn
from ..options import check, check_table
from .counted import Counted, count, count_sample, how_quantized, noise_like
from .forecast import Cost
from .outcome import Spread, reason
from .rows import about
from .run import tabulate


def survey(
    source,
    *,
    select: str | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    sample: int | None = None,
    keep: str | Path | None = None,
) -> pd.DataFrame:
    """Measure every floating-point matrix of a checkpoint.

    Args:
        source: anything `open_checkpoint` takes.
        select: regular expression; only tensors whose name it finds.
        executor: where to run, such as a `ProcessPoolExecutor`, or ``client.get_executor(retries=3)`` of a Dask
            cluster whose machines see the same files; default a thread per core. It is not shut down.
        progress: show a progress bar.
        sample: bytes to read of each tensor, in evenly spread pieces; default all of them. Figures are then those of
            the sample, ``count`` is the number of values read, the ``…_low`` and ``…_high`` of each figure say where
            that of the whole tensor lies, with 95 %, and ``label_possible`` which labels it may have (see
            `lfmlib.distribution.sampled`). Below `lfmlib.distribution.sampled.MIN_SAMPLE_BYTES` a warning is given. A
            tensor at hand of at most `WHOLE_BYTES` is read whole, which costs less than these intervals.
        keep: a folder where finished rows are kept as they come. A survey that was stopped in any way, even by a power
            cut (but for the rows of its last seconds), goes on from them when it is called again; tensors whose file
            has changed are measured anew (see `lfmlib.surveys.journal`).

    Returns:
        One row per 2-D floating-point tensor, in checkpoint order: its `TensorInfo` (the name in column ``tensor``),
        the statistics of its `Sketch`, the figures of its `Normality`, its `Shape` (``label``, ``label_margin`` and the
        ``score_…`` of each family), and the null of each figure as ``…_null_low`` and ``…_null_high``.
        ``table.attrs["skipped"]`` says of every other tensor why it is not there; ``table.attrs["interrupted"]`` is
        True after Ctrl-C, which keeps the rows that were finished.

        Of a tensor that is quantized, which its column ``quantized`` tells, the statistics from ``count`` to ``std``
        and ``mean_ratio`` are of the dequantized values, those that a model computes with. All other figures, those of
        `Normality` and `Shape`, are of the same values spread evenly over the cells of their codes
        (`lfmlib.checkpoints.cells`), without which rounding to a few levels would pass for the weights' own
        distribution. ``table.attrs["quantized"]`` says of each quantization whether that could be done.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from `open_checkpoint`; ValueError for ``sample`` below 1;
        OSError where ``keep`` cannot be written; RuntimeError where the executor's workers have no lfmlib, or another.

    Examples:
        >>> table = lfmlib.survey("minilm", select="layer.0.attention", progress=False)
        >>> table[["role", "depth", "std", "kl_bits", "label"]].round(3)
          role  depth    std  kl_bits     label
        0    o      0  0.043    0.008  gaussian
        1    k      0  0.092    0.017  gaussian
        2    q      0  0.095    0.014  gaussian
        3    v      0  0.044    0.004  gaussian
    """
    sample = None if sample is None else _whole(sample)
    if sample is not None and sample < sampled.MIN_SAMPLE_BYTES:
        warn(
            f"sample={sample}: of so few bytes of each tensor little can be said, and noise may not pass for noise; "
            f"expected {sampled.MIN_SAMPLE_BYTES:,} or more"
        )
    ends = [*(f"{name}_{end}" for name in SAMPLED for end in ("low", "high")), "label_possible"] if sample else []
    spread = None if sample else Spread(_count_part, _row, worth=1 << 26)
    checkpoint = open_checkpoint(source, select=select)
    table = tabulate(
        checkpoint,
        partial(_measured, sample=sample),
        [*_columns(), *ends],
        select=None,
        executor=executor,
        progress=progress,
        keep=keep,
        spread=spread,
        cost=Cost(lambda info: FIGURES_NANOSECONDS + (min(info.numel, sample) if sample else info.numel)),
    )
    table.attrs["quantized"] = how_quantized(checkpoint, table)
    return table


def _whole(sample) -> int:
    """A number of bytes as an integer, which 1e6 is not."""
    number = isinstance(sample, int | float | np.integer) and not isinstance(sample, bool)
    if not number or not float(sample).is_integer() or sample < 1:
        raise ValueError(f"sample={sample!r}: expected a number of bytes from each tensor, or None to read all")
    return int(sample)


def noise_twin(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The survey of Gaussian noise like a checkpoint: of the size, type, mean and standard deviation of each tensor.

    Noise in the place of a quantized tensor is quantized as it is, with its own scales in blocks as large, and then
    spread in the same way (`lfmlib.checkpoints.quantizers`); of a large one only the first rows, some hundred
    thousand values, so that the scatter of its figures is that of so many.

    Args:
        table: from `survey`.
        seed: of the noise; that of each tensor also depends on its name, so that it is the same in any selection.

    Returns:
        A table with the same rows and columns; tensors that are constant or have no finite value are left out.

    Examples:
        >>> table = lfmlib.survey("minilm", select="layer.0.attention", progress=False)
        >>> twin = lfmlib.noise_twin(table)
        >>> bool((twin["kl_bits"] < 0.0005).all()), bool((table["kl_bits"] > 0.002).all())
        (True, True)
    """
    check(seed=seed)
    check_table(table, _INFO, "lfmlib.survey")
    rows = []
    for row in table[table["std"] > 0].to_dict("records"):
        info = {name: row[name] for name in _INFO}
        rows.append(info | _figures(noise_like(row, seed), row["tensor"]))
    twin = pd.DataFrame(rows, columns=list(_columns()))
    twin["depth"] = twin["depth"].astype("Int64")
    return twin


def _measured(checkpoint: Checkpoint, info: TensorInfo, sample: int | None) -> list[dict]:
    """The row of a tensor, from all of its values or from a sample of ``sample`` bytes."""
    if sample:
        return [about(info) | _sampled(checkpoint, info, sample)]
    return _row(info, count(checkpoint, info.name))


def _count_part(checkpoint: Checkpoint, name: str, start: int, stop: int) -> Counted | str:
    """The sketches of a part of a huge tensor, or the reason why there are none."""
    try:
        return count(checkpoint, name, start=start, stop=stop)
    except Exception as error:  # as of `lfmlib.surveys.run.each`
        return reason(error)


def _row(info: TensorInfo, counted: Counted) -> list[dict]:
    """The row of a tensor whose values were counted."""
    return [about(info) | _figures(counted, info.name)]


def _sampled(checkpoint: Checkpoint, info: TensorInfo, sample: int) -> dict[str, Any]:
    """Figures of a sample of a tensor, and the ends of their intervals; of one that is cheaper to read whole, of it."""
    if _is_cheap(checkpoint, info):
        row = _figures(count(checkpoint, info.name), info.name)
        ends = {f"{name}_{end}": row[name] for name in SAMPLED for end in ("low", "high")}
        return row | ends | {"label_possible": row["label"]}
    parts = count_sample(checkpoint, info.name, sample)
    laws = [part.law for part in parts]
    found = sampled.intervals(laws, info.numel, _distances, SAMPLED)
    if laws[0] is not parts[0].values:
        found |= sampled.intervals([part.values for part in parts], info.numel, _centre, ("mean", "std", "mean_ratio"))
    ends = {
        f"{name}_{end}": value for name, both in found.items() for end, value in zip(("low", "high"), both, strict=True)
    }
    return _figures(reduce(add, parts), info.name) | ends | {"label_possible": _possible(laws, info.numel)}


def _is_cheap(checkpoint: Checkpoint, info: TensorInfo) -> bool:
    """Whether reading all of a tensor takes less of a core than the intervals of a sample."""
    entry = checkpoint.origin(info.name)[1]
    size = info.numel * getattr(torch, info.dtype).itemsize
    return not entry.remote and size <= (WHOLE_BYTES // COMPUTED_COST if entry.lazy else WHOLE_BYTES)


def _possible(parts: list[Sketch], whole: int) -> str:
    """The labels that the whole tensor may have, with ", " between them.

    The pieces of the sample are joined to a few groups, because classifying is the slowest step of a row.
    """
    joined = [reduce(add, parts[i::LABEL_GROUPS]) for i in range(min(LABEL_GROUPS, len(parts)))]
    found = sampled.intervals(joined, whole, lambda sketch: standings(classify(sketch).scores), SHAPES)
    names = [name for name in SHAPES if found[name][1] > 0]
    return ", ".join(names if any(low > 0 for low, _ in found.values()) else [*names, "other"])


def _figures(counted: Counted, name: str) -> dict[str, Any]:
    """The columns of a row that are about the values of a tensor of that name."""
    row: dict[str, Any] = {name: getattr(counted.values, name) for name in _SKETCH}
    row |= _distances(counted.law) | _centre(counted.values)
    noise = like_noise.null(counted.law, measure, name)
    row["asymmetry_excess"] = row["asymmetry"] - noise["asymmetry"][1] if noise else np.nan
    shape = classify(counted.law)
    row |= {"label": shape.label, "label_margin": shape.margin}
    row |= {f"score_{name}": shape.scores.get(name, np.nan) for name in FAMILIES}
    for figure, (low, _, high) in noise.items():
        row |= {f"{figure}_null_low": low, f"{figure}_null_high": high}
    return row


def _distances(sketch: Sketch) -> dict[str, float]:
    """The figures that have an interval where a tensor is sampled."""
    return _centre(sketch) | measure(sketch)


def _centre(sketch: Sketch) -> dict[str, float]:
    """Mean, standard deviation and their ratio."""
    row = {"mean": sketch.mean, "std": sketch.std}
    return row | {"mean_ratio": abs(sketch.mean) / sketch.std if sketch.std else np.nan}


_INFO = ("tensor", "role", "depth", "tower", "shape", "dtype", "numel", "quantized")
_SKETCH = ("count", "nonfinite", "zeros", "subnormals", "min", "max", "mean", "std")
_NORMALITY = (
    "mean_ratio", "skewness", "excess_kurtosis", "ks", "ks_lower", "ks_upper", "kl_bits", "tail_bits", "wasserstein",
    "gg_shape", "weibull_k", "exponent_entropy", "asymmetry",
    "asymmetry_excess",
)  # fmt: skip


SAMPLED = (
    "mean", "std", "mean_ratio", "skewness", "excess_kurtosis", "ks", "kl_bits", "tail_bits", "wasserstein", "gg_shape",
    "weibull_k", "exponent_entropy", "asymmetry",
)  # fmt: skip
"""Figures that have an interval where a tensor is sampled."""
WHOLE_BYTES = 1 << 29
"""Bytes of a local tensor that are counted in about the time, 0.2 to 0.3 s of a core, that the intervals of a sample
take: each of its 32 groups is left out in turn."""
COMPUTED_COST = 16
"""How many times as long as counting a byte it takes to compute it at least, where a tensor is quantized."""
FIGURES_NANOSECONDS = 1e7
"""Of a core, that figures of a tensor take about, whose values are counted in about one nanosecond each."""
LABEL_GROUPS = 8
"""Number of groups of pieces of a sample whose labels are compared."""


def _columns() -> Iterator[str]:
    yield from (*_INFO, *_SKETCH, *_NORMALITY, "label", "label_margin", *(f"score_{name}" for name in FAMILIES))
    for name in nulls.FIGURES:
        yield f"{name}_null_low"
        yield f"{name}_null_high"
