"""Hand the tensors of a checkpoint to an executor, batch by batch, and make a table of what comes back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from .checkpoint import Checkpoint, TensorInfo, open_checkpoint
from .grid import DTYPES
from .journal import Journal

Rows = list[tuple[str, list[dict] | str]]
"""For each tensor its name and its rows, or why it could not be measured."""


def tabulate(
    source,
    select: str | None,
    measure: Callable[[Checkpoint], Rows],
    columns: Sequence[str],
    executor: Executor | None,
    progress: bool,
    keep: str | Path | None = None,
) -> pd.DataFrame:
    """A table of what ``measure`` (see `over`) says of every floating-point matrix, in checkpoint order.

    Rows are kept in the folder ``keep``, and those that lie there already are taken (see `lfmlib.journal`).

    ``attrs`` holds source, revision, skipped (why each other tensor is not there) and interrupted.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: from `open_checkpoint`.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    if select is not None:
        checkpoint = checkpoint.select(select)
    wanted, skipped = matrices(checkpoint)
    rows, failed, interrupted = over(checkpoint, wanted, measure, executor, progress, keep)
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


def over(
    checkpoint: Checkpoint,
    wanted: list[TensorInfo],
    measure: Callable[[Checkpoint], Rows],
    executor: Executor | None,
    progress: bool,
    keep: str | Path | None = None,
) -> tuple[dict[str, list[dict]], dict[str, str], bool]:
    """Measure tensors on an executor.

    Args:
        checkpoint: holds them.
        wanted: the tensors to measure.
        measure: picklable; gets a checkpoint with a few of them.
        executor: where to run; default a thread per core. It is not shut down.
        progress: show a progress bar.
        keep: folder where finished rows are kept; those that lie there already are not measured.

    Returns:
        Rows by tensor name; reasons by name of tensors that could not be measured; whether Ctrl-C came, which
        warns and keeps what was finished.
    """
    own = ThreadPoolExecutor(max_workers=os.cpu_count()) if executor is None else None
    bar = tqdm(
        total=sum(info.numel for info in wanted), unit="w", unit_scale=True, disable=not progress, leave=False, delay=1
    )
    journal = Journal(keep, measure) if keep is not None else None
    rows = journal.known(checkpoint, [info.name for info in wanted]) if journal else {}
    todo = [info for info in wanted if info.name not in rows]
    bar.update(sum(info.numel for info in wanted if info.name in rows))
    failed, interrupted = {}, False
    futures: dict[Future, list[TensorInfo]] = {}
    try:
        for batch in _batches(todo):
            futures[(executor or own).submit(measure, checkpoint.only([info.name for info in batch]))] = batch
        for future in as_completed(futures):
            measured = dict(future.result())
            finished = {name: result for name, result in measured.items() if not isinstance(result, str)}
            rows |= finished
            failed |= {name: result for name, result in measured.items() if name not in finished}
            if journal:
                journal.keep(finished)
            bar.update(sum(info.numel for info in futures[future]))
    except KeyboardInterrupt:
        interrupted = True
        for future in futures:
            future.cancel()
        warnings.warn(f"interrupted: {len(rows)} of {len(wanted)} tensors measured", stacklevel=3)
        failed |= {info.name: "interrupted before it was measured" for info in wanted if info.name not in rows}
    finally:
        bar.close()
        if own:
            own.shutdown(cancel_futures=True)
    return rows, failed, interrupted


def _why_not(info: TensorInfo) -> str:
    """Reason why a tensor has no row; empty where it has one."""
    if info.dtype not in DTYPES:
        return f"{info.dtype}: not a floating-point type this survey counts"
    if len(info.shape) != 2:
        return f"{len(info.shape)}-D: not a matrix"
    return "" if info.numel else "empty: no values"


def _batches(wanted: list[TensorInfo], least: int = 1 << 22) -> Iterator[list[TensorInfo]]:
    """Neighbouring tensors together until they hold ``least`` values, so that small ones do not cost a task each."""
    batch: list[TensorInfo] = []
    for info in wanted:
        batch.append(info)
        if sum(i.numel for i in batch) >= least:
            yield batch
            batch = []
    if batch:
        yield batch
