"""Merge fine-tunes of one base, from files to files, tensor by tensor.

A tensor is read, merged (`lfmlib.merging.methods`) and written a piece at a time, except where the method must see it
whole; the next pieces are computed while one is written. Everything goes to ``OUT.partial``, which becomes ``OUT`` when
it is complete; a process that was stopped goes on from there, and ends in the same bytes. On an executor every shard is
a task.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.remote import prefetched
from ..checkpoints.stored import Stored
from ..deltas.pairs import FLOATS, opened, partners, refuse_strangers
from ..surveys.run import same_library
from ..surveys.threads import one_thread
from . import methods, model_folder
from .pieces import in_pieces
from .shard_writer import Entry
from .vocabulary import common_rows

PIECE = 1 << 22
"""Values that are written at a time; what is random is drawn piece by piece, so another number is another merge."""
BLOCK = 1 << 17
"""Values that are computed at a time where nothing is drawn, so that what is between reading and writing stays in a
core's cache. (Of more than four models the last digit may depend on it, as PyTorch's order of adding does.)"""
MAX_THREADS = 8
"""Threads, at most: each has a piece under way, and one waits to be written."""


def merge(
    base,
    tuned,
    method: str = "ties",
    weights: Sequence[float] | None = None,
    *,
    executor: Executor | None = None,
    progress: bool = True,
    seed: int = 0,
    density: float | None = None,
    epsilon: float | None = None,
    amplify: float | str | None = None,
    project: str | None = None,
    dtype: str | None = None,
    vocabulary: str | None = None,
    out: str | Path,
) -> Path:
    """Merge models that were tuned from one base, and write the result as a folder like that of the base.

    Args:
        base, tuned: anything `open_checkpoint` takes, and a list of these, or of folders with adapters of that base
            (LoRA, DoRA and noise, as peft saves them).
        method: one of `lfmlib.merging.methods.METHODS`: "average", "task_arithmetic" (the sum), "ties", "dare",
            "dare_ties", "nan" (shares in inverse proportion to the norm of all of ΔW), "della", "della_linear"; of one
            tuned model "slerp", which goes from the base to it on a circle, and "passthrough", which is the model.
        weights: what each ΔW is multiplied with; of "slerp", how far it goes from 0, the base, to 1; of "passthrough",
            what the model is multiplied with. None: 1 each, and 0.5 of "slerp".
        executor: where to run, shard by shard: a `ProcessPoolExecutor`, or ``client.get_executor(retries=3)`` of a Dask
            cluster whose machines see the same files. It is not shut down. Default: here, with a thread per core.
        progress: show a bar.
        seed: of the methods that draw at random, with the tensors' names.
        density: share of each ΔW that the methods in `lfmlib.merging.methods.THINNING` keep; None: as in
            `lfmlib.merging.methods.DENSITY`.
        epsilon: how far the chances of "della" and "della_linear" reach below and above the density; None:
            `lfmlib.merging.methods.EPSILON`.
        amplify: factor for the outliers of the merged ΔW of every matrix (or stack of matrices, of experts); "auto"
            finds one without data, matrix by matrix (`lfmlib.merging.methods.restoring`), which is meant for averages
            and sums; None or 1 changes nothing.
        project: None, or one of `lfmlib.merging.methods.PROJECTIONS`, what the merged matrices are made.
        dtype: to store floating-point tensors in; None: what each has in the base. Sums are taken in float32 (float64
            if there is any).
        vocabulary: "common" merges the rows that embeddings and heads of different lengths have in common, the first
            ones, which are taken for the same tokens; the others are as in the base. None refuses such models.
        out: folder that is not there yet.

    Returns:
        ``out``, with shards named as in the base, what lies beside its weights (all but model cards), and
        ``merge.json``, which says what was merged. If the process was stopped, the same call goes on.

    A warning names counters that differ between the models and are kept from the base, and tensors into which values
    went that are NaN or infinite. Weights under weight norm or spectral norm are merged and written in their pieces.

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
    base, models = opened(base, tuned, whole=True)
    base, models = in_pieces(base), [in_pieces(one, base) for one in models]
    density = methods.DENSITY.get(method, 1.0) if density is None else density
    usual = 0.5 if method == "slerp" else 1.0
    weights = [usual] * len(models) if weights is None else [float(one) for one in weights]
    factor = _factor(amplify)
    methods.check(method, len(models), weights, density, epsilon)
    if project not in (None, *methods.PROJECTIONS):
        raise ValueError(f"unknown projection {project!r}: expected one of {', '.join(methods.PROJECTIONS)}, or None")
    if dtype not in (None, *FLOATS):
        raise ValueError(f"dtype is {dtype!r}: expected one of {', '.join(FLOATS)}, or None")
    if vocabulary not in (None, "common"):
        raise ValueError(f'vocabulary is {vocabulary!r}: expected "common", or None')
    if distant := next((one for one in (base, *models) if one.traffic is not None), None):
        raise ValueError(
            f"{distant.name} is elsewhere, and a merge reads every byte of it, some more than once. Download it, and "
            "give its folder."
        )
    if vocabulary:
        models = [common_rows(base, model) for model in models]
    models_of = [partners(base, model) for model in models]
    if executor is not None:
        same_library(executor)
    with one_thread():
        for model, theirs in zip(models, models_of, strict=True):
            refuse_strangers(base, model, _matrices(base, theirs))
        kept = _constants(base, models_of)
        factors = _coefficients(method, weights, base, models_of, executor, progress)
    threads = min(os.cpu_count() or 1, MAX_THREADS) if executor is None else 1
    plan = _Plan(dict(base.stored), models_of, method, factors, density, epsilon, factor, project, dtype, seed, threads)
    about = {
        "method": method, "weights": weights, "density": density if method in methods.THINNING else None,
        "amplify": factor, "project": project, "dtype": dtype, "seed": seed if method in methods.RANDOM else None,
        "base": _identity(base), "tuned": [_identity(model) for model in models],
    }  # fmt: skip
    about |= {"epsilon": epsilon} if method.startswith("della") and epsilon is not None else {}
    about |= {"kept": kept} if kept else {}
    about |= {"vocabulary": vocabulary} if vocabulary else {}
    out = Path(out).expanduser().resolve()
    entries = [plan.entry(name) for name in base.stored]
    on_disk = all(one.files for one in (base, *models))  # what lies in memory may change between two runs
    odd = model_folder.write(
        out, about, base, entries, plan.only, dtype=dtype, resume=on_disk, executor=executor, progress=progress
    )
    _tell_odd(odd, base, models, models_of)
    return out


@dataclass
class _Plan:
    """What is merged, and how; it can be pickled."""

    base: dict[str, Stored]
    tuned: list[dict[str, Callable[[], torch.Tensor]]]  # for each model: name in the base → how its tensor is loaded
    method: str
    coefficients: list[float]  # what each ΔW is multiplied with
    density: float
    epsilon: float | None
    factor: float | str
    project: str | None
    dtype: str | None
    seed: int
    threads: int

    @property
    def draws(self) -> bool:
        """Whether every piece draws random numbers; all of torch has one generator."""
        return self.method in methods.RANDOM and self.method not in methods.WHOLE

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
        start, models = _values(name, self.base, self.tuned)
        if not start.is_floating_point():
            return iter([start])
        calls = _Merged(self, name, start, models).pieces()
        if self.threads == 1 or self.draws:
            return (call() for call in calls)
        return prefetched(calls, self.threads)


class _Merged:
    """One tensor of a merge: base and models as flat values, and what becomes of them, block by block."""

    def __init__(self, plan: _Plan, name: str, start: torch.Tensor, models: list[torch.Tensor]):
        self.plan, self.entry, self.start, self.models = plan, plan.entry(name), start, models
        self.size = len(start)
        self.wide = torch.float64 if any(one.dtype == torch.float64 for one in (start, *models)) else torch.float32
        self.block = PIECE if plan.draws else BLOCK
        whole = plan.method in methods.WHOLE
        # One after the other: each takes several times its own memory.
        self.trimmed = self._kept() if whole else []
        self.mixed = self._mix() if plan.method in methods.MIXING else None
        shape = self.entry.shape
        matrix = len(shape) in (2, 3) and min(shape) > 1 and self.size > 0  # or a stack of them, of experts
        self.project = plan.project if matrix else None
        amplify = matrix and plan.factor != 1
        self.held = None
        if self.size and (self.project or plan.factor == "auto" or (amplify and whole)):  # seen whole, or again
            self.held = torch.cat([self._combined(first) for first in self._firsts()])
        self.factor, self.cut = self._amplification() if amplify else (1.0, math.inf)

    def pieces(self) -> Iterator[Callable[[], torch.Tensor]]:
        """Calls that each give the next values to write."""
        if self.project:
            yield partial(self._projected, self.project)
            return
        for first in range(0, self.size, PIECE):
            yield partial(self._piece, first, min(first + PIECE, self.size))

    def _firsts(self) -> range:
        return range(0, self.size, self.block)

    def _delta(self, model: torch.Tensor, part: slice = slice(None)) -> torch.Tensor:
        new, old = model[part].to(self.wide), self.start[part].to(self.wide)
        delta = new - old
        if not math.isfinite(delta.sum()):  # of infinite values, as masks have them
            delta[new == old] = 0
        return delta

    def _kept(self) -> list[torch.Tensor]:
        """What a method that sees tensors whole keeps of each ΔW."""
        plan = self.plan
        if plan.method == "ties":
            return [methods.trimmed(self._delta(one), plan.density) for one in self.models]
        drawn, shape = methods.drawing(f"{plan.seed}/{self.entry.name}/0"), self.entry.shape
        deltas = (self._delta(one).view(shape) for one in self.models)
        return [methods.thinned(one, plan.density, plan.epsilon, drawn).flatten() for one in deltas]

    def _mix(self) -> tuple[float, float]:
        """What base and model are multiplied with, by a method that takes these themselves."""
        products = [0.0] * 3
        for first in self._firsts():
            old, new = (one[first : first + self.block].double() for one in (self.start, *self.models))
            if not math.isfinite(old.sum() + new.sum()):  # as in a mask; these say nothing of the direction
                finite = old.isfinite() & new.isfinite()
                old, new = old[finite], new[finite]
            some = (torch.dot(a, b).item() for a, b in ((old, old), (old, new), (new, new)))
            products = [before + one for before, one in zip(products, some, strict=True)]
        return methods.mix(self.plan.method, self.plan.coefficients[0], (products[0], products[1], products[2]))

    def _mixed(self, first: int, of_base: float, of_model: float) -> torch.Tensor:
        """The new weights of a block, by a method that takes base and model themselves."""
        old, new = (one[first : first + self.block].to(self.wide) for one in (self.start, *self.models))
        terms = [share * one for share, one in ((of_base, old), (of_model, new)) if share]  # 0 · ∞ would be NaN
        return terms[0] + terms[1] if len(terms) == 2 else terms[0] if terms else torch.zeros_like(old)

    def _combined(self, first: int) -> torch.Tensor:
        """The merged ΔW of the block that begins with value ``first``, before anything is amplified."""
        if self.held is not None:
            return self.held[first : first + self.block]
        part, plan = slice(first, first + self.block), self.plan
        if self.mixed:
            return self._mixed(first, *self.mixed) - self.start[part].to(self.wide)
        some = [one[part] for one in self.trimmed] or [self._delta(one, part) for one in self.models]
        density = 1.0 if self.trimmed else plan.density
        seed = f"{plan.seed}/{self.entry.name}/{first}"
        return methods.combine(some, plan.method, plan.coefficients, density=density, seed=seed)

    def _amplification(self) -> tuple[float, float]:
        """The factor of the outliers of the merged ΔW, and the magnitude beyond which they lie."""
        cut = methods.cut(self._combined(first) for first in self._firsts())
        if not isinstance(self.plan.factor, str):
            return self.plan.factor, cut
        given = [one for one, weight in zip(self.models, self.plan.coefficients, strict=True) if weight]
        single = [methods.reach(one, methods.cut(one)) for one in map(self._delta, given)]
        assert self.held is not None  # as it is where the factor is "auto"
        return methods.restoring(single, methods.reach(self.held, cut)), cut

    def _new(self, first: int) -> torch.Tensor:
        """The new weights of a block, in the type they are computed in."""
        if self.mixed and math.isinf(self.cut):
            return self._mixed(first, *self.mixed)
        part = self._combined(first)
        old = self.start[first : first + len(part)].to(self.wide)
        return old + (part if math.isinf(self.cut) else methods.amplified(part, self.factor, self.cut))

    def _piece(self, start: int, stop: int) -> torch.Tensor:
        found = torch.empty(stop - start, dtype=getattr(torch, self.entry.dtype))
        for at in range(start, stop, self.block):
            part = self._new(at)[: stop - at]
            found[at - start : at - start + len(part)] = _stored(part, self.entry)
        return found

    def _projected(self, how: str) -> torch.Tensor:
        whole = torch.cat([self._new(first) for first in self._firsts()])
        return _stored(methods.projected(whole, how), self.entry)


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


def _matrices(base: Checkpoint, theirs: Mapping[str, Callable]) -> list[Callable]:
    """Calls that load a model's matrix and that of the base, of those that tell whether the two are kin."""
    large = [name for name, one in base.stored.items() if len(one.shape) == 2 and math.prod(one.shape) >= 4096]
    return [partial(_loaded, theirs[name], base.stored[name].load) for name in large]


def _loaded(*loads: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    return [load().cpu() for load in loads]


def _constants(base: Checkpoint, tuned: list[dict[str, Callable]]) -> list[str]:
    """The names of counters, of one value each, that differ and are kept as they are in the base, told in a warning.

    Raises:
        ValueError: something else that cannot be added differs.
    """
    kept = []
    for name, one in base.stored.items():
        if not getattr(torch, one.dtype).is_floating_point:
            start, models = _values(name, base.stored, tuned)
            if all(torch.equal(start, other.to(start.dtype)) for other in models):
                continue
            if len(start) > 1:
                raise ValueError(
                    f"{name} holds {one.dtype}, and differs between the models: only floating-point tensors can be "
                    "merged. Expected the same values in all"
                )
            kept.append(name)
    if kept:
        warnings.warn(
            f"{len(kept)} counters differ between the models, and are kept from the base: {', '.join(kept[:3])}"
            f"{' …' if len(kept) > 3 else ''}",
            stacklevel=3,
        )
    return kept


def _tell_odd(
    names: Sequence[str], base: Checkpoint, models: Sequence[Checkpoint], tuned: list[dict[str, Callable]]
) -> None:
    """Warn of merged tensors with values that are not finite, unless these are so in the base and all models alike."""
    found = []
    for name in names:
        start, others = _values(name, base.stored, tuned)
        same = torch.stack([one == start for one in others]).all(0)
        odd = {base.name: int((~start.isfinite() & ~same).sum())}
        odd |= {model.name: int((~one.isfinite() & ~same).sum()) for model, one in zip(models, others, strict=True)}
        if whose := [f"{count:,} of {source}" for source, count in odd.items() if count]:
            found.append(f"{name} ({', '.join(whose)})")
    if found:
        warnings.warn(
            f"values that are NaN or infinite went into {len(found)} tensors of the merge: {'; '.join(found[:3])}"
            f"{' …' if len(found) > 3 else ''}. Mend these models, or leave them out",
            stacklevel=3,
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
    files = [
        [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in map(Path, checkpoint.files)
    ]
    return {"name": checkpoint.name, "source": checkpoint.source, "revision": checkpoint.revision, "files": files}
