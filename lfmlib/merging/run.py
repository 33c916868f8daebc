"""Merge fine-tunes of one base, from files to files, tensor by tensor.

A tensor is read, merged (`lfmlib.merging.methods`) and written a piece at a time, except where the method must see it
whole; the next pieces are computed while one is written. Everything goes to ``OUT.partial``, which becomes ``OUT`` when
it is complete; a process that was stopped goes on from there, and ends in the same bytes. On an executor every shard is
a task.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..checkpoints.remote import ahead
from ..checkpoints.stored import Stored
from ..deltas.comparison import KIN
from ..deltas.pairs import FLOATS, partners
from ..surveys.run import same_library
from ..surveys.threads import one_thread
from . import methods, model_folder
from .shard_writer import Entry

PIECE = 1 << 22
"""Values that are written at a time; what is random is drawn piece by piece, so another number is another merge."""
BLOCK = 1 << 17
"""Values that are computed at a time where nothing is drawn, so that what is between reading and writing stays in a
core's cache. (Of more than four models the last digit may depend on it, as PyTorch's order of adding does.)"""
MOST = 8
"""Threads, at most: each has a piece under way, and one waits to be written."""
LOOKED_AT, SEEN = 8, 1 << 18
"""Matrices in which a model is compared with its base before anything is written, and how many values of each."""


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
    executor: Executor | None = None,
    progress: bool = True,
) -> Path:
    """Merge models that were tuned from one base, and write the result as a folder like that of the base.

    Args:
        base, tuned: anything `open_checkpoint` takes, and a list of these.
        method: one of `lfmlib.merging.methods.METHODS`: "average", "task_arithmetic" (the sum), "ties", "dare",
            "dare_ties", "nan" (shares in inverse proportion to the norm of all of ΔW).
        weights: what each ΔW is multiplied with; None: 1 each.
        density: share of each ΔW that "ties", "dare" and "dare_ties" keep; None: as in
            `lfmlib.merging.methods.DENSITY`.
        amplify: factor for the outliers of the merged ΔW of every matrix (or stack of matrices, of experts); "auto"
            finds one without data, matrix by matrix (`lfmlib.merging.methods.restoring`), and is meant for averages and
            sums; None or 1 changes nothing.
        project: None, or one of `lfmlib.merging.methods.PROJECTIONS`, what the merged matrices are made.
        dtype: to store floating-point tensors in; None: what each has in the base. Sums are taken in float32 (float64
            if there is any).
        seed: of the methods that draw at random, with the tensors' names.
        out: folder that is not there yet.
        executor: where to run, shard by shard: a `ProcessPoolExecutor`, or ``client.get_executor(retries=3)`` of a Dask
            cluster whose machines see the same files. It is not shut down. Default: here, with a thread per core.
        progress: show a bar.

    Returns:
        ``out``, with shards named as in the base, its configuration and tokenizer, and ``merge.json``, which says what
        was merged. If the process was stopped, the same call goes on.

    Raises:
        ValueError: options that are not known; models that do not fit: tensors that one lacks, or of another shape (a
            vocabulary that grew), a base that is not theirs; or a partial folder of another merge.
        FileExistsError: ``out`` is there.
        OSError: no room on the disk, before or while it is written.
        RuntimeError: workers of the executor died, and the same call goes on; or they have no lfmlib, or another.
        FileNotFoundError, CheckpointError: from `open_checkpoint`; or what is stored cannot be merged, such as
            quantized weights.

    Examples:
        >>> import tempfile
        >>> base = {"q_proj.weight": np.zeros((64, 64), np.float32)}
        >>> tuned = [{"q_proj.weight": np.full((64, 64), value, np.float32)} for value in (1, 3)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out = lfmlib.merge(base, tuned, "average", out=f"{folder}/merged", progress=False)
        ...     print(float(lfmlib.open_checkpoint(out).read("q_proj.weight").mean()))
        2.0
    """
    tuned = listed(tuned)
    density = methods.DENSITY.get(method, 1.0) if density is None else density
    weights = [1.0] * len(tuned) if weights is None else [float(one) for one in weights]
    factor = _factor(amplify)
    methods.check(method, len(tuned), weights, density)
    if project not in (None, *methods.PROJECTIONS):
        raise ValueError(f"unknown projection {project!r}: expected one of {', '.join(methods.PROJECTIONS)}, or None")
    if dtype not in (None, *FLOATS):
        raise ValueError(f"dtype is {dtype!r}: expected one of {', '.join(FLOATS)}, or None")
    base, *models = (one if isinstance(one, Checkpoint) else open_checkpoint(one) for one in (base, *tuned))
    if distant := next((one for one in (base, *models) if one.traffic is not None), None):
        raise ValueError(
            f"{distant.name} is elsewhere, and a merge reads every byte of it, some more than once. Download it, and "
            "give its folder."
        )
    models_of = [partners(base, model) for model in models]
    if executor is not None:
        same_library(executor)
    with one_thread():
        _related(base, models, models_of)
        _constants(base, models_of)
        factors = _coefficients(method, weights, base, models_of, executor, progress)
    threads = min(os.cpu_count() or 1, MOST) if executor is None else 1
    task = _Task(dict(base.stored), models_of, method, factors, density, factor, project, dtype, seed, threads)
    about = {
        "method": method, "weights": weights, "density": density if method in methods.THINNING else None,
        "amplify": factor, "project": project, "dtype": dtype, "seed": seed if method in methods.RANDOM else None,
        "base": _identity(base), "tuned": [_identity(model) for model in models],
    }  # fmt: skip
    out = Path(out).expanduser().resolve()
    entries = [task.entry(name) for name in base.stored]
    on_disk = all(one.files for one in (base, *models))  # what lies in memory may change between two runs
    model_folder.write(
        out, about, base, entries, task.only, dtype=dtype, resume=on_disk, executor=executor, progress=progress
    )
    return out


def listed(tuned) -> list:
    """Models as a list, where a single one was given as well."""
    return [tuned] if isinstance(tuned, str | Path | Checkpoint | Mapping | torch.nn.Module) else list(tuned)


@dataclass
class _Task:
    """What is merged, and how; it can be pickled."""

    base: dict[str, Stored]
    tuned: list[dict[str, Callable[[], torch.Tensor]]]  # for each model: name in the base → how its tensor is loaded
    method: str
    coefficients: list[float]  # what each ΔW is multiplied with
    density: float
    factor: float | str
    project: str | None
    dtype: str | None
    seed: int
    threads: int

    def only(self, names: Iterable[str]) -> Callable[[str], Iterator[torch.Tensor]]:
        """`pieces` of these tensors: the less that travels to a worker, the better."""
        names = list(names)
        some = {name: self.base[name] for name in names}
        return replace(self, base=some, tuned=[{name: one[name] for name in names} for one in self.tuned]).pieces

    def entry(self, name: str) -> Entry:
        """How a tensor of the base is written."""
        one = self.base[name]
        return Entry(name, one.shape, self.dtype if self.dtype and one.dtype in FLOATS else one.dtype)

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """The merged tensor, flat, in the dtype it is written in."""
        entry, (start, models) = self.entry(name), _values(name, self.base, self.tuned)
        if not start.is_floating_point():
            yield start
            return
        size = len(start)
        wide = torch.float64 if any(one.dtype == torch.float64 for one in (start, *models)) else torch.float32
        matrix = len(entry.shape) in (2, 3) and min(entry.shape) > 1  # or a stack of them, of experts
        amplify, project = matrix and self.factor != 1 and size > 0, matrix and self.project
        whole = self.method in methods.WHOLE
        block = PIECE if self.method in methods.RANDOM else BLOCK

        def delta(model: torch.Tensor, part: slice = slice(None)) -> torch.Tensor:
            return model[part].to(wide) - start[part].to(wide)

        # One after the other: each takes several times its own memory.
        kept = [methods.trimmed(delta(one), self.density) for one in models] if whole else []

        def merged(first: int) -> torch.Tensor:
            part = slice(first, first + block)
            some = [one[part] for one in kept] or [delta(one, part) for one in models]
            density, seed = 1.0 if whole else self.density, f"{self.seed}/{name}/{first}"
            return methods.combine(some, self.method, self.coefficients, density=density, seed=seed)

        blocks: Callable[[int], torch.Tensor] = merged
        if (project or self.factor == "auto" or (amplify and whole)) and size:  # it must be seen whole, or again
            held = torch.cat([merged(first) for first in range(0, size, block)])
            blocks = lambda first: held[first : first + block]  # noqa: E731
        factor, beyond = self.factor, math.inf
        if amplify:
            beyond = methods.cut(blocks(first) for first in range(0, size, block))
            if factor == "auto":
                given = [one for one, weight in zip(models, self.coefficients, strict=True) if weight]
                single = [methods.reach(one, methods.cut(one)) for one in map(delta, given)]
                factor = methods.restoring(single, methods.reach(held, beyond))

        def added(first: int) -> torch.Tensor:
            part = blocks(first)
            new = start[first : first + len(part)].to(wide)
            return new + (part if math.isinf(beyond) else methods.amplified(part, factor, beyond))

        if project and size:
            yield _stored(
                methods.projected(torch.cat([added(first) for first in range(0, size, block)]), project), entry
            )
            return

        def piece(first: int) -> torch.Tensor:
            stop = min(first + PIECE, size)
            found = torch.empty(stop - first, dtype=getattr(torch, entry.dtype))
            for at in range(first, stop, block):
                part = added(at)[: stop - at]
                found[at - first : at - first + len(part)] = _stored(part, entry)
            return found

        yield from self._together(partial(piece, first) for first in range(0, size, PIECE))

    def _together(self, calls: Iterable[Callable[[], torch.Tensor]]) -> Iterator[torch.Tensor]:
        """What calls return, in order, several at once; not of those that draw, for all of torch has one generator."""
        if self.threads == 1 or self.method in methods.RANDOM:
            return (call() for call in calls)
        return ahead(iter(calls), self.threads)


def _values(
    name: str, base: Mapping[str, Stored], tuned: Sequence[Mapping[str, Callable]]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A tensor of the base, and of every model, flat."""
    return base[name].load().cpu().flatten(), [one[name]().cpu().flatten() for one in tuned]


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


def _related(base: Checkpoint, models: list[Checkpoint], tuned: list[dict[str, Callable]]) -> None:
    """Raises ValueError where a model was hardly tuned from that base: their weights are unlike."""
    names = [name for name, one in base.stored.items() if len(one.shape) == 2 and math.prod(one.shape) >= 4096]
    found: list[list[float]] = [[] for _ in models]
    for name in names[:: max(1, len(names) // LOOKED_AT)]:
        start, others = _values(name, base.stored, tuned)
        for each, other in zip(found, others, strict=True):
            step = max(1, len(start) // SEEN)
            pair = torch.stack([start[::step].double(), other[::step].double()])
            each.append(float(torch.corrcoef(pair[:, pair.isfinite().all(0)])[0, 1]))
    for each, model in zip(found, models, strict=True):
        known = [one for one in each if math.isfinite(one)]
        if known and np.median(known) < KIN:
            raise ValueError(
                f"{model.name} was hardly tuned from {base.name}: the correlation of their weights is "
                f"{np.median(known):.2f} in the median of {len(known)} matrices, expected {KIN} or more. Name its base"
            )


def _constants(base: Checkpoint, tuned: list[dict[str, Callable]]) -> None:
    """Raises ValueError where something that cannot be added differs."""
    for name, one in base.stored.items():
        if not getattr(torch, one.dtype).is_floating_point:
            start, models = _values(name, base.stored, tuned)
            if any(not torch.equal(start, other) for other in models):
                raise ValueError(
                    f"{name} holds {one.dtype}, and differs between the models: only floating-point tensors can be "
                    "merged. Expected the same values in all"
                )


def _coefficients(
    method: str,
    weights: list[float],
    base: Checkpoint,
    tuned: list[dict[str, Callable]],
    executor: Executor | None,
    progress: bool,
) -> list[float]:
    """What each ΔW is multiplied with: for "nan" it takes the norm of all of every ΔW, so everything is read twice."""
    if method != "nan":
        return weights
    names = [name for name, one in base.stored.items() if one.dtype in FLOATS]
    calls = [partial(_squares, base.stored[name], [one[name] for one in tuned]) for name in names]
    found = (call() for call in calls) if executor is None else executor.map(_called, calls)
    squares = [0.0] * len(tuned)
    for some in tqdm(found, "norms", len(names), disable=not progress, leave=False, delay=1):
        squares = [a + b for a, b in zip(squares, some, strict=True)]
    norms = [math.sqrt(one) for one in squares]
    return [share * one for share, one in zip(methods.shares(norms), weights, strict=True)]


def _called(call: Callable):
    with one_thread():
        return call()


def _squares(place: Stored, loads: Sequence[Callable[[], torch.Tensor]]) -> list[float]:
    """The sum of squares of every ΔW of one tensor."""
    start, models = place.load().cpu().flatten(), [load().cpu().flatten() for load in loads]
    squares = [0.0] * len(models)
    for first in range(0, len(start), BLOCK):
        old = start[first : first + BLOCK].double()
        for number, one in enumerate(models):
            squares[number] += (one[first : first + BLOCK].double() - old).square().sum().item()
    return squares


def _identity(checkpoint: Checkpoint) -> dict:
    """What a checkpoint was: where its files are, of what size, and from when."""
    files = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in checkpoint.files]
    return {"name": checkpoint.name, "source": checkpoint.source, "revision": checkpoint.revision, "files": files}
