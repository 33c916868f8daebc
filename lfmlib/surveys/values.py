"""Measure the distribution of every matrix of a checkpoint: one row for each.

Tensors are measured on any `concurrent.futures.Executor`: threads (the default; the counting loop releases the GIL), a
pool of processes, or that of a Dask cluster. Sketches are exact, so that every executor gives the same table.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..distribution import like_noise, nulls, sampled
from ..distribution.distances import measure
from ..distribution.shapes import FAMILIES, SHAPES, classify, standings
from ..distribution.sketch import Sketch
from .run import Spread, about, reason, tabulate


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
            cut, goes on from them when it is called again; tensors whose file has changed are measured anew (see
            `lfmlib.surveys.journal`).

    Returns:
        One row per 2-D floating-point tensor, in checkpoint order: its `TensorInfo` (the name in column ``tensor``),
        the statistics of its `Sketch`, the figures of its `Normality`, its `Shape` (``label``, ``label_margin`` and the
        ``score_…`` of each family), and the null of each figure as ``…_null_low`` and ``…_null_high``.
        ``table.attrs["skipped"]`` says of every other tensor why it is not there; ``table.attrs["interrupted"]`` is
        True after Ctrl-C, which keeps the rows that were finished.

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
        warnings.warn(
            f"sample={sample}: of so few bytes of each tensor little can be said, and noise may not pass for noise; "
            f"expected {sampled.MIN_SAMPLE_BYTES:,} or more",
            stacklevel=2,
        )
    ends = [*(f"{name}_{end}" for name in SAMPLED for end in ("low", "high")), "label_possible"] if sample else []
    spread = None if sample else Spread(_sketch_part, _row, worth=1 << 26)
    return tabulate(
        source,
        partial(_measured, sample=sample),
        [*_columns(), *ends],
        select=select,
        executor=executor,
        progress=progress,
        keep=keep,
        spread=spread,
    )


def _whole(sample) -> int:
    """A number of bytes as an integer, which 1e6 is not."""
    number = isinstance(sample, int | float | np.integer) and not isinstance(sample, bool)
    if not number or not float(sample).is_integer() or sample < 1:
        raise ValueError(f"sample={sample!r}: expected a number of bytes from each tensor, or None to read all")
    return int(sample)


def noise_twin(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The survey of Gaussian noise like a checkpoint: of the size, type, mean and standard deviation of each tensor.

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
    rows = []
    for row in table[table["std"] > 0].to_dict("records"):
        rng = np.random.default_rng([seed, *row["tensor"].encode()])
        centre, scale = like_noise.latent(row["dtype"], row["mean"], row["std"])
        sketch = nulls.draw(row["dtype"], row["count"], rng, centre, scale)
        info = {name: row[name] for name in _INFO}
        rows.append(info | _figures(sketch, row["tensor"]))
    noise = pd.DataFrame(rows, columns=list(_columns()))
    noise["depth"] = noise["depth"].astype("Int64")
    return noise


def _measured(checkpoint: Checkpoint, info: TensorInfo, sample: int | None) -> list[dict]:
    """The row of a tensor, from all of its values or from a sample of ``sample`` bytes."""
    if sample:
        return [about(info) | _sampled(checkpoint, info, sample)]
    return _row(info, Sketch.of(checkpoint.chunks(info.name)))


def _sketch_part(checkpoint: Checkpoint, name: str, start: int, stop: int) -> Sketch | str:
    """The sketch of a part of a huge tensor, or the reason why there is none."""
    try:
        return Sketch.of(checkpoint.chunks(name, start=start, stop=stop))
    except Exception as error:  # as of `lfmlib.surveys.run.each`
        return reason(error)


def _row(info: TensorInfo, sketch: Sketch) -> list[dict]:
    """The row of a tensor whose values were sketched."""
    return [about(info) | _figures(sketch, info.name)]


def _sampled(checkpoint: Checkpoint, info: TensorInfo, sample: int) -> dict[str, Any]:
    """Figures of a sample of a tensor, and the ends of their intervals; of one that is cheaper to read whole, of it."""
    if _is_cheap(checkpoint, info):
        row = _figures(Sketch.of(checkpoint.chunks(info.name)), info.name)
        ends = {f"{name}_{end}": row[name] for name in SAMPLED for end in ("low", "high")}
        return row | ends | {"label_possible": row["label"]}
    parts = [Sketch.of(piece) for piece in checkpoint.sample(info.name, sample)]
    found = sampled.intervals(parts, info.numel, _distances, SAMPLED)
    ends = {
        f"{name}_{end}": value for name, both in found.items() for end, value in zip(("low", "high"), both, strict=True)
    }
    return _figures(reduce(add, parts), info.name) | ends | {"label_possible": _possible(parts, info.numel)}


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


def _figures(sketch: Sketch, name: str) -> dict[str, Any]:
    """The columns of a row that are about the values of a tensor of that name."""
    row: dict[str, Any] = {name: getattr(sketch, name) for name in _SKETCH} | _distances(sketch)
    noise = like_noise.null(sketch, measure, name)
    row["asymmetry_excess"] = row["asymmetry"] - noise["asymmetry"][1] if noise else np.nan
    shape = classify(sketch)
    row |= {"label": shape.label, "label_margin": shape.margin}
    row |= {f"score_{name}": shape.scores.get(name, np.nan) for name in FAMILIES}
    for figure, (low, _, high) in noise.items():
        row |= {f"{figure}_null_low": low, f"{figure}_null_high": high}
    return row


def _distances(sketch: Sketch) -> dict[str, float]:
    """The figures that have an interval where a tensor is sampled."""
    row = {"mean": sketch.mean, "std": sketch.std}
    return row | {"mean_ratio": abs(sketch.mean) / sketch.std if sketch.std else np.nan} | measure(sketch)


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
LABEL_GROUPS = 8
"""Number of groups of pieces of a sample whose labels are compared."""


def _columns() -> Iterator[str]:
    yield from (*_INFO, *_SKETCH, *_NORMALITY, "label", "label_margin", *(f"score_{name}" for name in FAMILIES))
    for name in nulls.FIGURES:
        yield f"{name}_null_low"
        yield f"{name}_null_high"
