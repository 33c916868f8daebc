"""Merge fine-tunes of one base, from files to files, tensor by tensor.

A tensor is read, merged (`lfmlib.merging.methods`) and written a piece at a time, except where the method must see it
whole; the next pieces are computed while one is written. Everything goes to ``OUT.partial``, which becomes ``OUT`` when
it is complete; a process that was stopped goes on from there, and ends in the same bytes. On an executor every shard is
a task.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.stored import Stored
from ..deltas.kin import refuse_strangers, stored_pairs
from ..deltas.opening import opened
from ..deltas.partners import FLOATS, partners
from ..notices import warn
from ..options import check
from ..surveys.run import same_library
from ..surveys.threads import one_thread
from . import methods, model_folder
from .one_tensor import BLOCK, Plan, values
from .pieces import in_pieces
from .vocabulary import common_rows

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
        ValueError: options that are not known; models that do not fit: tensors of a layer that one lacks, or of
            another shape (a vocabulary that grew), a base that is not theirs; or a partial folder of another merge.
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
    check(method=method, weights=weights, executor=executor, seed=seed, epsilon=epsilon, out=out)
    factor = _factor(amplify)
    base, models = opened(base, tuned, whole=True)
    base, models = in_pieces(base), [in_pieces(one, base) for one in models]
    density = methods.DENSITY.get(method, 1.0) if density is None else density
    usual = 0.5 if method == "slerp" else 1.0
    weights = [usual] * len(models) if weights is None else [float(one) for one in weights]
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
    if exported := next((one for one in (base, *models) if str([*one.files, ""][0]).endswith(".onnx")), None):
        raise ValueError(
            f"{exported.name} is an ONNX file, whose graph a merge cannot write. Merge the models that were exported, "
            "and export what comes of it."
        )
    if vocabulary:
        models = [common_rows(base, model) for model in models]
    models_of = [partners(base, model) for model in models]
    if executor is not None:
        same_library(executor)
    with one_thread():
        for model, theirs in zip(models, models_of, strict=True):
            refuse_strangers(base, model, stored_pairs(base, theirs))
        kept = _constants(base, models_of)
        factors = _coefficients(method, weights, base, models_of, executor, progress)
    threads = min(os.cpu_count() or 1, MAX_THREADS) if executor is None else 1
    plan = Plan(dict(base.stored), models_of, method, factors, density, epsilon, factor, project, dtype, seed, threads)
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


def _factor(amplify: float | str | None) -> float | str:
    if amplify is None or (isinstance(amplify, str) and amplify == "auto"):
        return amplify or 1.0
    try:
        factor = float(amplify)  # also of "1.5", as it comes from a command line
    except (TypeError, ValueError):
        factor = math.nan
    if not math.isfinite(factor) or factor < 0:
        raise ValueError(f'amplify is {amplify!r:.80}: expected a factor, 0 or more, or "auto", or None')
    return factor


def _constants(base: Checkpoint, tuned: list[dict[str, Callable]]) -> list[str]:
    """The names of counters, of one value each, that differ and are kept as they are in the base, told in a warning.

    Raises:
        ValueError: something else that cannot be added differs.
    """
    kept = []
    for name, one in base.stored.items():
        if not getattr(torch, one.dtype).is_floating_point:
            start, models = values(name, base.stored, tuned)
            if all(torch.equal(start, other.to(start.dtype)) for other in models):
                continue
            if len(start) > 1:
                raise ValueError(
                    f"{name} holds {one.dtype}, and differs between the models: only floating-point tensors can be "
                    "merged. Expected the same values in all"
                )
            kept.append(name)
    if kept:
        warn(
            f"{len(kept)} counters differ between the models, and are kept from the base: {', '.join(kept[:3])}"
            f"{' …' if len(kept) > 3 else ''}"
        )
    return kept


def _tell_odd(
    names: Sequence[str], base: Checkpoint, models: Sequence[Checkpoint], tuned: list[dict[str, Callable]]
) -> None:
    """Warn of merged tensors with values that are not finite, unless these are so in the base and all models alike."""
    found = []
    for name in names:
        start, others = values(name, base.stored, tuned)
        same = torch.stack([one == start for one in others]).all(0)
        odd = {base.name: int((~start.isfinite() & ~same).sum())}
        odd |= {model.name: int((~one.isfinite() & ~same).sum()) for model, one in zip(models, others, strict=True)}
        if whose := [f"{count:,} of {source}" for source, count in odd.items() if count]:
            found.append(f"{name} ({', '.join(whose)})")
    if found:
        warn(
            f"values that are NaN or infinite went into {len(found)} tensors of the merge: {'; '.join(found[:3])}"
            f"{' …' if len(found) > 3 else ''}. Mend these models, or leave them out"
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
