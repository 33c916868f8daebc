"""Hand the tensors of a checkpoint to an executor, batch by batch, and make a table of what comes back.

A task is a function and a small checkpoint that names files and places in them, so it travels to other processes and
machines that see the same files. A worker that dies takes nothing with it: its tasks are the executor's to give to
another one, and where it does not, the tensors are told and the rows of all others are kept.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..checkpoints.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from ..checkpoints.unread import tell_unread
from ..options import check
from ..provenance import sources
from .forecast import Cost, Forecast
from .journal import Journal
from .outcome import LOST, Outcome, Rows, Spread, Task, died, reason
from .rows import light, matrices, weights_of_other_types
from .threads import in_worker

MIN_TASK_VALUES, MAX_TASK_VALUES, MAX_TASKS = 1 << 22, 1 << 27, 2048
"""A task measures tensors of so many values together, so that small ones do not cost one each: between these bounds
what makes about so many tasks. On other processes a `Spread` may ask for larger ones."""
MIN_TASKS = 32
"""About how many tasks there are to be before they are made larger than `MIN_TASK_VALUES`."""
PART_VALUES = 1 << 27
"""Values of a huge tensor that are one task."""


def tabulate(
    source,
    measure: Callable[[Checkpoint, TensorInfo], list[dict]],
    columns: Iterable[str],
    *,
    select: str | None,
    executor: Executor | None,
    progress: bool,
    keep: str | Path | None = None,
    spread: Spread | None = None,
    unfit: Callable[[TensorInfo], str] = lambda info: "",
    cost: Cost = Cost(),  # noqa: B008
) -> pd.DataFrame:
    """A table of what ``measure`` says of every floating-point matrix, in checkpoint order.

    Args:
        source, select, executor, progress: as for `lfmlib.survey`.
        measure: picklable; the rows of one tensor of a checkpoint. Where it raises an error, that is the reason why the
            tensor has no row.
        columns: of the table.
        keep: folder where rows are kept, and taken from if they lie there already (see `lfmlib.surveys.journal`).
        spread: how huge tensors are measured in parts; default as all others.
        unfit: why a matrix is not one that the table is about; "" where it is.
        cost: how long a matrix takes beside others, and how much memory.

    Returns:
        The table. ``attrs`` holds source, revision, skipped (why each other tensor is not there) and interrupted. A
        warning says how many matrices have no row, and why the first has none; another one how many tensors could not
        be read.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from `open_checkpoint`.
        RuntimeError: the executor's workers have no lfmlib, or another.
    """
    keep = None if isinstance(keep, str) and not keep else keep  # papermill passes "" for None
    check(select=select, executor=executor, keep=keep)
    checkpoint = open_checkpoint(source, select=select)
    wanted, skipped = matrices(checkpoint)
    skipped |= {info.name: why for info in wanted if (why := unfit(info))}
    wanted = [info for info in wanted if info.name not in skipped]
    if wanted:
        tell_unread(checkpoint.skipped | weights_of_other_types(checkpoint))
    journal = Journal(keep, measure) if keep is not None else None
    call = lambda names: partial(each, light(checkpoint, names), measure)  # noqa: E731
    how = {"executor": executor, "progress": progress, "journal": journal, "spread": spread, "cost": cost}
    outcome = over(checkpoint, wanted, call, **how)
    return outcome.table(columns, skipped, source=checkpoint.name, revision=checkpoint.revision)


def each(checkpoint: Checkpoint, measure: Callable[[Checkpoint, TensorInfo], list[dict]]) -> Rows:
    """The rows of every tensor of a checkpoint, or why there are none: the one loop over tensors of all tables."""
    results: Rows = []
    for info in checkpoint.tensors:
        try:
            rows = measure(checkpoint, info)
            checkpoint.check(info.name)
            results.append((info.name, rows))
        except Exception as error:  # whatever is wrong with one tensor, the others have their rows
            results.append((info.name, reason(error)))
    return results


def over(
    checkpoint: Checkpoint,
    wanted: list[TensorInfo],
    call: Callable[[list[str]], Callable[[], Rows]],
    *,
    executor: Executor | None,
    progress: bool,
    journal: Journal | None = None,
    spread: Spread | None = None,
    cost: Cost = Cost(),  # noqa: B008
) -> Outcome:
    """Measure tensors on an executor.

    Args:
        checkpoint: holds them.
        wanted: the tensors to measure.
        call: from the names of some of them to the picklable call that measures these.
        executor: where to run; default a thread per core. It is not shut down.
        progress: show a progress bar, and once the first tasks are done what to expect, if it is long.
        journal: keeps finished rows; those that it has already are not measured.
        spread: how huge tensors are measured in parts.
        cost: what each takes; the bar goes by it.

    Returns:
        What came of it. Ctrl-C gives a warning and keeps what was finished.

    Raises:
        RuntimeError: from `same_library`.
    """
    outcome = Outcome(wanted, journal, spread)
    if journal:
        outcome.rows |= journal.known(checkpoint, [info.name for info in wanted])
    todo = [info for info in wanted if info.name not in outcome.rows]
    plan = _Plan(checkpoint, todo, call, spread, executor, cost)
    running: dict[Future, Task] = {}
    with _workers(executor, len(plan.batches)) as workers, _bar(plan.tasks, progress) as bar:
        try:
            if plan.tasks:
                same_library(workers)
            forecast = Forecast(todo, plan.tasks, cost, getattr(workers, "_max_workers", None), time.perf_counter())
            for task in plan.tasks:
                running[_submit(workers, task.call)] = task
            for future in as_completed(running):
                task = running.pop(future)  # what it returned is not kept any longer than needed
                outcome.take(task, _result(future, task.tensors))
                del future
                bar.update(task.cost)
                if progress and (line := forecast.after(running.values(), time.perf_counter())):
                    bar.write(line, file=sys.stderr)
        except KeyboardInterrupt:
            outcome.interrupted = True
        finally:
            for future in running:  # after Ctrl-C or an error
                future.cancel()
    outcome.warn()
    return outcome


def _bar(tasks: list[Task], progress: bool) -> tqdm:
    """A bar that goes by the cost of tasks, so that the time it says remains is what they take."""
    form = "{l_bar}{bar}| {elapsed}<{remaining}"
    total = sum(task.cost for task in tasks)
    return tqdm(total=total, bar_format=form, smoothing=0, disable=not progress, leave=False, delay=1)


@contextmanager
def _workers(executor: Executor | None, batches: int) -> Iterator[Executor]:
    """The executor that was given, or a thread per core, which is shut down at the end."""
    if executor is not None:
        yield executor
        return
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    # Tasks that work side by side, each with several threads of torch, wait for one another.
    torch.set_num_threads(min(threads, max(1, cores // max(1, batches))))
    own = ThreadPoolExecutor(max_workers=cores)
    try:
        yield own
    finally:
        own.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


class _Plan:
    """Which calls measure the tensors: small ones together, and a huge one in parts where it can be shared out.

    Attributes:
        batches: tensors that are measured together.
        tasks: of all batches, in checkpoint order.
    """

    def __init__(self, checkpoint: Checkpoint, todo: list[TensorInfo], call, spread: Spread | None, executor, cost):
        near = executor is None or isinstance(executor, ThreadPoolExecutor)
        if not near and not checkpoint.files:
            spread = None  # what is in memory would travel whole with each part
        worth = spread.worth if spread and not near and checkpoint.traffic is None else MIN_TASK_VALUES
        self.checkpoint, self.call, self.spread, self.cost = checkpoint, call, spread, cost
        self.batches = list(_batches(todo, worth, huge=PART_VALUES if spread else None))
        self.tasks = [task for batch in self.batches for task in self._of(batch)]

    def _of(self, batch: list[TensorInfo]) -> Iterator[Task]:
        if self.spread and batch[0].numel > PART_VALUES:
            yield from self._parts(batch[0], self.spread)
        else:
            yield Task(self.call([info.name for info in batch]), batch, sum(map(self.cost.time, batch)))

    def _parts(self, info: TensorInfo, spread: Spread) -> Iterator[Task]:
        alone, cuts = light(self.checkpoint, [info.name]), _cuts(info)
        for start, stop in cuts:
            cost = self.cost.time(info) * (stop - start) / info.numel
            yield Task(partial(spread.part, alone, info.name, start, stop), [info], cost, len(cuts))


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
        return workers.submit(in_worker, call)
    except BrokenExecutor as error:
        lost: Future = Future()
        lost.set_exception(error)
        return lost
    except RuntimeError as error:  # of a pool that was shut down
        raise RuntimeError(f"the executor takes no more work ({error}): give one that is not shut down") from error


def _result(future: Future, batch: list[TensorInfo]):
    """What a task returned; where its worker died, once more often than the executor bears, that for each tensor."""
    try:
        return future.result()
    except Exception as error:
        if not died(error):
            raise
        return [(info.name, f"{LOST} ({type(error).__name__}: {error})") for info in batch]


def _batches(wanted: list[TensorInfo], worth: int, huge: int | None = None) -> Iterator[list[TensorInfo]]:
    """Neighbouring tensors together, cut wherever enough values have gone by; those of more than ``huge`` are alone.

    Enough is what is ``worth`` a task, but in a small checkpoint less, so that there are some for everyone.
    """
    values = sum(info.numel for info in wanted if not huge or info.numel <= huge)
    least = min(max(values // MAX_TASKS, min(worth, values // MIN_TASKS), MIN_TASK_VALUES), MAX_TASK_VALUES)
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
    """First value of each part of a huge tensor, and the one after its last: whole rows, if they are not huge too."""
    width = info.shape[1]
    step = max(1, PART_VALUES // width) * width if width <= PART_VALUES else PART_VALUES
    return [(start, min(start + step, info.numel)) for start in range(0, info.numel, step)]
