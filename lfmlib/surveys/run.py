"""Hand the tensors of a checkpoint to an executor, batch by batch, and make a table of what comes back.

A task is a function and a small checkpoint that names files and places in them, so it travels to other processes and
machines that see the same files. A worker that dies takes nothing with it: its tasks are the executor's to give to
another one, and where it does not, the tensors are told and the rows of all others are kept.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..checkpoints.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from ..distribution.formats import DTYPES
from ..provenance import sources
from .journal import Journal

Rows = list[tuple[str, list[dict] | str]]
"""For each tensor its name and its rows, or why it could not be measured."""
LEAST, MOST, TASKS = 1 << 22, 1 << 27, 2048
"""A task measures tensors of so many values together, so that small ones do not cost one each: between these bounds
what makes about so many tasks. On other processes a `Spread` may ask for larger ones."""
FEW = 32
"""About how many tasks there are to be at least before they are made larger than `LEAST`."""
SPREAD = 1 << 27
"""Values of a huge tensor that are one task."""


@dataclass(frozen=True)
class Spread:
    """How a huge tensor is measured in parts, on several workers.

    Attributes:
        part: picklable; of a checkpoint, a name, and the first and last but one of the values in the order of
            `Checkpoint.chunks`: something that adds up (``+``, in any order), or why it cannot be measured.
        rows: of a tensor and the sum of its parts, as for the tensor in one piece.
        worth: values that are worth a task on another process, where they are read from a disk: each task costs whoever
            hands it over some milliseconds.
    """

    part: Callable[[Checkpoint, str, int, int], Any]
    rows: Callable[[TensorInfo, Any], Rows]
    worth: int


def tabulate(
    source,
    select: str | None,
    measure: Callable[[Checkpoint], Rows],
    columns: Sequence[str],
    executor: Executor | None,
    progress: bool,
    keep: str | Path | None = None,
    spread: Spread | None = None,
) -> pd.DataFrame:
    """A table of what ``measure`` says of every floating-point matrix, in checkpoint order.

    Args:
        source, select, executor, progress: as for `lfmlib.survey`.
        measure: picklable; gets a checkpoint with a few of the tensors.
        columns: of the table.
        keep: folder where rows are kept, and taken from if they lie there already (see `lfmlib.surveys.journal`).
        spread: how huge tensors are measured in parts; default as all others.

    ``attrs`` holds source, revision, skipped (why each other tensor is not there) and interrupted.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from `open_checkpoint`.
        RuntimeError: the executor's workers have no lfmlib, or another.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    if select is not None:
        checkpoint = checkpoint.select(select)
    wanted, skipped = matrices(checkpoint)
    journal = Journal(keep, measure) if keep is not None else None
    task = lambda names: partial(measure, light(checkpoint, names))  # noqa: E731
    rows, failed, interrupted = over(checkpoint, wanted, task, executor, progress, journal, spread)
    table = pd.DataFrame([row for info in wanted for row in rows.get(info.name, ())], columns=list(columns))
    table["depth"] = table["depth"].astype("Int64")
    about = {"source": checkpoint.name, "revision": checkpoint.revision}
    table.attrs.update(about, skipped=skipped | failed, interrupted=interrupted)
    return table


def matrices(checkpoint: Checkpoint) -> tuple[list[TensorInfo], dict[str, str]]:
    """The floating-point matrices of a checkpoint; and of every other tensor, why it is none."""
    wanted, skipped = [], dict(checkpoint.skipped)
    for info in checkpoint.tensors:
        if reason := _why_not(info):
            skipped[info.name] = reason
        else:
            wanted.append(info)
    return wanted, skipped


def light(checkpoint: Checkpoint, names: Sequence[str]) -> Checkpoint:
    """These tensors of a checkpoint and nothing else that would have to travel."""
    return replace(checkpoint.only(names), skipped={}, config={}, files=[])


def over(
    checkpoint: Checkpoint,
    wanted: list[TensorInfo],
    task: Callable[[list[str]], Callable[[], Rows]],
    executor: Executor | None,
    progress: bool,
    journal: Journal | None = None,
    spread: Spread | None = None,
) -> tuple[dict[str, list[dict]], dict[str, str], bool]:
    """Measure tensors on an executor.

    Args:
        checkpoint: holds them.
        wanted: the tensors to measure.
        task: from the names of some of them to the picklable call that measures these.
        executor: where to run; default a thread per core. It is not shut down.
        progress: show a progress bar.
        journal: keeps finished rows; those that it has already are not measured.
        spread: how huge tensors are measured in parts.

    Returns:
        Rows by tensor name; reasons by name of tensors that could not be measured; whether Ctrl-C came, which
        warns and keeps what was finished.

    Raises:
        RuntimeError: from `same_library`.
    """
    cores = os.cpu_count() or 1
    own = ThreadPoolExecutor(max_workers=cores) if executor is None else None
    workers = own or executor
    bar = tqdm(
        total=sum(info.numel for info in wanted), unit="w", unit_scale=True, disable=not progress, leave=False, delay=1
    )
    rows = journal.known(checkpoint, [info.name for info in wanted]) if journal else {}
    todo = [info for info in wanted if info.name not in rows]
    bar.update(sum(info.numel for info in wanted if info.name in rows))
    if spread and not checkpoint.files and not isinstance(workers, ThreadPoolExecutor):
        spread = None  # what is in memory would travel whole with each part
    failed, interrupted = {}, False
    sums: dict[str, _Sum] = {}
    running: dict[Future, tuple[list[TensorInfo], int]] = {}
    near = isinstance(workers, ThreadPoolExecutor)
    worth = spread.worth if spread and not near and checkpoint.traffic is None else LEAST
    batches = list(_batches(todo, worth, huge=SPREAD if spread else None))
    threads = torch.get_num_threads()
    if own:  # tasks that work side by side, each with several threads, wait for one another
        torch.set_num_threads(min(threads, max(1, cores // max(1, len(batches)))))
    try:
        if batches:
            same_library(workers)
        for batch in batches:
            if spread and batch[0].numel > SPREAD:
                info, alone = batch[0], light(checkpoint, [batch[0].name])
                cuts = _cuts(info)
                sums[info.name] = _Sum(len(cuts))
                calls = [(partial(spread.part, alone, info.name, *cut), cut[1] - cut[0]) for cut in cuts]
            else:
                calls = [(task([info.name for info in batch]), sum(info.numel for info in batch))]
            for call, values in calls:
                running[_submit(workers, call)] = (batch, values)
        for future in as_completed(running):
            batch, values = running.pop(future)  # what it returned is not kept any longer than needed
            found = _result(future, batch)
            del future
            if batch[0].name in sums:
                found = sums[batch[0].name].add(found, batch[0], spread)
            finished = {name: result for name, result in found if not isinstance(result, str)}
            rows |= finished
            failed |= {name: result for name, result in found if name not in finished}
            if journal and finished:
                journal.keep(finished)
            bar.update(values)
    except KeyboardInterrupt:
        interrupted = True
        warnings.warn(f"interrupted: {len(rows)} of {len(wanted)} tensors measured", stacklevel=3)
        failed = {info.name: "interrupted before it was measured" for info in wanted if info.name not in rows} | failed
    finally:
        for future in running:  # after Ctrl-C or an error
            future.cancel()
        bar.close()
        if own:
            own.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
    if lost := sum(reason.startswith(LOST) for reason in failed.values()):
        text = f"{lost} of {len(wanted)} tensors were not measured: their workers died. Call again for these"
        warnings.warn(text, stacklevel=3)
    return rows, failed, interrupted


LOST = "the worker that measured it died"


def died(error: BaseException) -> bool:
    """Whether an executor says with this that a worker died, more often than it bears."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ in ("KilledWorker", "NoValidWorkerError")


_ASK = "__import__('lfmlib.provenance', fromlist=['sources']).sources()"


def same_library(workers: Executor) -> None:
    """Ask a worker of a cluster whether it has this library.

    What a worker cannot unpickle breaks its connection to some schedulers (Dask's), and is then handed out again for
    ever, without a word; a pool of this machine tells.

    Raises:
        RuntimeError: it has none, or another.
    """
    if isinstance(workers, ThreadPoolExecutor | ProcessPoolExecutor):
        return
    advice = "install it on every worker as it is here, and start them again (and this Python, if the library changed)"
    try:  # needs nothing but Python there; asked anew each time, for Dask keeps the answer to what was asked before
        theirs = workers.submit(eval, _ASK, {"asked": uuid4().hex}).result()
    except (ImportError, AttributeError) as error:
        raise RuntimeError(f"a worker of the executor has no lfmlib, or an old one ({error}): {advice}") from error
    except Exception as error:
        if not died(error):
            raise
        return  # which tensors are lost with it is told when these are handed over
    if theirs != sources():
        raise RuntimeError(
            f"a worker of the executor has another lfmlib (its sources hash to {theirs[:12]}, those here to "
            f"{sources()[:12]}): {advice}"
        )


def _submit(workers: Executor, call: Callable) -> Future:
    """A task handed over; where the workers are dead already, a future that says so."""
    try:
        return workers.submit(call)
    except BrokenExecutor as error:
        lost: Future = Future()
        lost.set_exception(error)
        return lost


def _result(future: Future, batch: list[TensorInfo]):
    """What a task returned; where its worker died, once more often than the executor bears, that for each tensor."""
    try:
        return future.result()
    except Exception as error:
        if not died(error):
            raise
        return [(info.name, f"{LOST} ({type(error).__name__}: {error})") for info in batch]


class _Sum:
    """The parts of one huge tensor as they come; integers add up to the same whatever their order."""

    def __init__(self, count: int):
        self.left, self.total = count, None

    def add(self, part, info: TensorInfo, spread: Spread) -> Rows:
        """The tensor's rows when this was the last part, or why it has none; nothing until then."""
        self.left -= 1
        if isinstance(part, list):  # its worker died
            ((_, part),) = part
        if isinstance(part, str) or isinstance(self.total, str):
            self.total = self.total if isinstance(self.total, str) else part
        else:
            self.total = part if self.total is None else self.total + part
        if self.left:
            return []
        return [(info.name, self.total)] if isinstance(self.total, str) else spread.rows(info, self.total)


def _why_not(info: TensorInfo) -> str:
    """Reason why a tensor has no row; empty where it has one."""
    if info.dtype not in DTYPES:
        return f"{info.dtype}: not a floating-point type this survey counts"
    if len(info.shape) != 2:
        return f"{len(info.shape)}-D: not a matrix"
    return "" if info.numel else "empty: no values"


def _batches(wanted: list[TensorInfo], worth: int, huge: int | None = None) -> Iterator[list[TensorInfo]]:
    """Neighbouring tensors together, cut wherever enough values have gone by; those of more than ``huge`` are alone.

    Enough is what is ``worth`` a task, but in a small checkpoint less, so that there are some for everyone.
    """
    values = sum(info.numel for info in wanted if not huge or info.numel <= huge)
    least = min(max(values // TASKS, min(worth, values // FEW), LEAST), MOST)
    batch: list[TensorInfo] = []
    gone = 0
    for info in wanted:
        if huge and info.numel > huge:
            yield [info]
            continue
        batch.append(info)
        before, gone = gone, gone + info.numel
        if before // least < gone // least:
            yield batch
            batch = []
    if batch:
        yield batch


def _cuts(info: TensorInfo) -> list[tuple[int, int]]:
    """First and last but one of the values of each part of a huge tensor: whole rows, if they are not huge too."""
    width = info.shape[1]
    step = max(1, SPREAD // width) * width if width <= SPREAD else SPREAD
    return [(start, min(start + step, info.numel)) for start in range(0, info.numel, step)]
