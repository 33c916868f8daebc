"""Merge fine-tunes of one base, from files to files, tensor by tensor.

A tensor is read, merged (`lfmlib.editing`) and written a piece at a time, except where the method must see it whole.
Everything goes to ``OUT.partial``, which becomes ``OUT`` when it is complete; a process that was stopped goes on from
there, and ends in the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from . import editing, folder
from .checkpoint import Checkpoint, open_checkpoint
from .delta import KIN
from .pairs import FLOATS, partners
from .shards import Entry

PIECE = 1 << 22
"""Values that are merged at a time; what is random is drawn piece by piece, so another number is another merge."""
LOOKED_AT = 8
"""Matrices in which a model is compared with its base before anything is written."""


def merge(
    base,
    tuned,
    method: str = "ties",
    weights: Sequence[float] | None = None,
    *,
    density: float | None = None,
    amplify: float | str | None = None,
    project: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
    out: str | Path,
    progress: bool = True,
) -> Path:
    """Merge models that were tuned from one base, and write the result as a folder like that of the base.

    Args:
        base, tuned: anything `open_checkpoint` takes, and a list of these.
        method: one of `lfmlib.editing.METHODS`: "average", "task_arithmetic" (the sum), "ties", "dare", "dare_ties",
            "nan" (shares in inverse proportion to the norm of all of ΔW).
        weights: what each ΔW is multiplied with; None: 1 each.
        density: share of each ΔW that "ties", "dare" and "dare_ties" keep; None: as in `lfmlib.editing.DENSITY`.
        amplify: factor for the outliers of the merged ΔW of every matrix (or stack of matrices, of experts); "auto"
            finds one without data, matrix by matrix (`lfmlib.editing.restoring`), and is meant for averages and sums;
            None or 1 changes nothing.
        project: None, or one of `lfmlib.editing.PROJECTIONS`, what the merged matrices are made.
        dtype: to store floating-point tensors in; None: what each has in the base. Sums are taken in float32 (float64
            if there is any).
        seed: of the methods that draw at random, with the tensors' names.
        out: folder that is not there yet.
        progress: show a bar.

    Returns:
        ``out``, with shards named as in the base, its configuration and tokenizer, and ``merge.json``, which says what
        was merged. If the process was stopped, the same call goes on.

    Raises:
        ValueError: options that are not known; models that do not fit: tensors that one lacks, or of another shape (a
            vocabulary that grew), a base that is not theirs; or a partial folder of another merge.
        FileExistsError: ``out`` is there.
        OSError: no room on the disk, before or while it is written.
        FileNotFoundError, CheckpointError: from `open_checkpoint`; or what is stored cannot be merged, such as
            quantized weights.
    """
    tuned = listed(tuned)
    density = editing.DENSITY.get(method, 1.0) if density is None else density
    weights = [1.0] * len(tuned) if weights is None else [float(one) for one in weights]
    factor = _factor(amplify)
    editing.check(method, len(tuned), weights, density)
    if project not in (None, *editing.PROJECTIONS):
        raise ValueError(f"unknown projection {project!r}: expected one of {', '.join(editing.PROJECTIONS)}, or None")
    if dtype not in (None, *FLOATS):
        raise ValueError(f"dtype is {dtype!r}: expected one of {', '.join(FLOATS)}, or None")
    base, *models = (one if isinstance(one, Checkpoint) else open_checkpoint(one) for one in (base, *tuned))
    if distant := next((one for one in (base, *models) if one.traffic is not None), None):
        raise ValueError(
            f"{distant.name} is elsewhere, and a merge reads every byte of it, some more than once. Download it, and "
            "give its folder."
        )
    task = _Task(
        base,
        [partners(base, model) for model in models],
        method,
        weights,
        density,
        factor,
        project,
        dtype,
        seed,
        progress,
    )
    _related(task, models)
    _constants(task)
    about = {
        "method": method, "weights": weights, "density": density if method in editing.THINNING else None,
        "amplify": factor, "project": project, "dtype": dtype, "seed": seed if method in editing.RANDOM else None,
        "base": _identity(base), "tuned": [_identity(model) for model in models],
    }  # fmt: skip
    out = Path(out).expanduser().resolve()
    entries = [task.entry(name) for name in base.stored]
    on_disk = all(one.files for one in (base, *models))  # what lies in memory may change between two runs
    folder.write(out, about, base, entries, task.pieces, dtype=dtype, resume=on_disk, progress=progress)
    return out


def listed(tuned) -> list:
    """Models as a list, where a single one was given as well."""
    return [tuned] if isinstance(tuned, str | Path | Checkpoint | Mapping | torch.nn.Module) else list(tuned)


@dataclass
class _Task:
    """What is merged, and how."""

    base: Checkpoint
    tuned: list[dict[str, Callable[[], torch.Tensor]]]  # for each model: name in the base → how its tensor is loaded
    method: str
    weights: Sequence[float]
    density: float
    factor: float | str
    project: str | None
    dtype: str | None
    seed: int
    progress: bool

    @cached_property
    def coefficients(self) -> list[float]:
        """What each ΔW is multiplied with."""
        if self.method != "nan":
            return list(self.weights)
        return [share * one for share, one in zip(editing.shares(_norms(self)), self.weights, strict=True)]

    def entry(self, name: str) -> Entry:
        """How a tensor of the base is written."""
        one = self.base.stored[name]
        return Entry(name, one.shape, self.dtype if self.dtype and one.dtype in FLOATS else one.dtype)

    def values(self, name: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """A tensor of the base, and of every model, flat."""
        return self.base.stored[name].load().cpu().flatten(), [one[name]().cpu().flatten() for one in self.tuned]

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """The merged tensor, flat, in the dtype it is written in."""
        entry, (start, models) = self.entry(name), self.values(name)
        if not start.is_floating_point():
            yield start
            return
        wide = torch.float64 if any(one.dtype == torch.float64 for one in (start, *models)) else torch.float32
        matrix = len(entry.shape) in (2, 3) and min(entry.shape) > 1  # or a stack of them, of experts
        amplify, project = matrix and self.factor != 1 and len(start) > 0, matrix and self.project

        def delta(model: torch.Tensor, first: int = 0, size: int | None = None) -> torch.Tensor:
            part = slice(first, None if size is None else first + size)
            return model[part].to(wide) - start[part].to(wide)

        def merged() -> Iterator[torch.Tensor]:
            whole = self.method in editing.WHOLE
            kept = [editing.trimmed(delta(one), self.density) for one in models] if whole else []
            for first in range(0, len(start), PIECE):
                some = [one[first : first + PIECE] for one in kept] or [delta(one, first, PIECE) for one in models]
                density, seed = 1.0 if whole else self.density, f"{self.seed}/{name}/{first}"
                yield editing.combine(some, self.method, self.coefficients, density=density, seed=seed)

        again, factor, beyond = merged, self.factor, math.inf
        if (project or factor == "auto" or (amplify and self.method in editing.WHOLE)) and len(start):
            held = [torch.cat(list(merged()))]  # it must be seen whole, or would be trimmed twice
            again = lambda: held  # noqa: E731
        if amplify:
            beyond = editing.cut(again())
            if factor == "auto":
                given = [one for one, weight in zip(models, self.coefficients, strict=True) if weight]
                single = [editing.reach(one, editing.cut(one)) for one in map(delta, given)]
                factor = editing.restoring(single, editing.reach(held[0], beyond))
        first = 0
        for part in again():
            old, first = start[first : first + len(part)].to(wide), first + len(part)
            new = old + (part if math.isinf(beyond) else editing.amplified(part, factor, beyond))
            yield _stored(editing.projected(new, self.project) if project else new, entry)


def _stored(values: torch.Tensor, entry: Entry) -> torch.Tensor:
    """Values in the dtype they are written in; what is too large for it is an error."""
    found = values.to(getattr(torch, entry.dtype))
    if entry.dtype == "float16" and (lost := int((found.isinf() & values.isfinite()).sum())):
        raise ValueError(f'{lost} values of {entry.name} are too large for float16: choose dtype="bfloat16"')
    return found


def _factor(amplify: float | str | None) -> float | str:
    if amplify is None or amplify == "auto":
        return amplify or 1.0
    try:
        factor = float(amplify)  # also of "1.5", as it comes from a command line
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor) or factor < 0:
        raise ValueError(f'amplify is {amplify!r}: expected a factor, 0 or more, or "auto", or None')
    return factor


def _related(task: _Task, models: list[Checkpoint]) -> None:
    """Raises ValueError where a model was hardly tuned from that base: their weights are unlike."""
    names = [name for name, one in task.base.stored.items() if len(one.shape) == 2 and math.prod(one.shape) >= 4096]
    found: list[list[float]] = [[] for _ in models]
    for name in names[:: max(1, len(names) // LOOKED_AT)]:
        start, others = task.values(name)
        for each, other in zip(found, others, strict=True):
            pair = torch.stack([start[:PIECE].double(), other[:PIECE].double()])
            each.append(float(torch.corrcoef(pair[:, pair.isfinite().all(0)])[0, 1]))
    for each, model in zip(found, models, strict=True):
        known = [one for one in each if math.isfinite(one)]
        if known and np.median(known) < KIN:
            raise ValueError(
                f"{model.name} was hardly tuned from {task.base.name}: the correlation of their weights is "
                f"{np.median(known):.2f} in the median of {len(known)} matrices, expected {KIN} or more. Name its base"
            )


def _constants(task: _Task) -> None:
    """Raises ValueError where something that cannot be added differs."""
    for name, one in task.base.stored.items():
        if not getattr(torch, one.dtype).is_floating_point:
            start, models = task.values(name)
            if any(not torch.equal(start, other) for other in models):
                raise ValueError(
                    f"{name} holds {one.dtype}, and differs between the models: only floating-point tensors can be "
                    "merged. Expected the same values in all"
                )


def _norms(task: _Task) -> list[float]:
    """The norm of all of ΔW of every model."""
    squares = [0.0] * len(task.tuned)
    names = [name for name, one in task.base.stored.items() if one.dtype in FLOATS]
    for name in tqdm(names, "norms", disable=not task.progress, leave=False, delay=1):
        start, models = task.values(name)
        for first in range(0, len(start), PIECE):
            old = start[first : first + PIECE].double()
            for place, one in enumerate(models):
                squares[place] += (one[first : first + PIECE].double() - old).square().sum().item()
    return [math.sqrt(one) for one in squares]


def _identity(checkpoint: Checkpoint) -> dict:
    """What a checkpoint was: where its files are, of what size, and from when."""
    files = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in checkpoint.files]
    return {"name": checkpoint.name, "source": checkpoint.source, "revision": checkpoint.revision, "files": files}
