"""Long tasks in processes of their own, a few at a time: what `lfmlib.records` measures its cells with.

`concurrent.futures` alone would lose every task when one worker is killed, wait for running tasks on Ctrl-C, and leave
workers behind when this process is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def each(
    function: Callable, items: Iterable, jobs: int, environment: Mapping[str, str | None] | None = None
) -> Iterator[tuple[Any, Any]]:
    """Yield (item, what ``function`` returned, or the exception it raised) as they are finished, ``jobs`` at a time.

    The function is importable, items and results are picklable. Workers are fresh interpreters that compute with one
    thread, and with the variables of ``environment`` (None: without that one). Where one dies, the items in progress
    get a BrokenProcessPool and the others go on in new workers. Closing the generator (or an interrupt) ends the
    workers; so does the end of this process, whatever ends it. For 0 jobs, all happens in this process.
    """
    waiting, running, executor = list(items)[::-1], {}, None
    while waiting and not jobs:
        item = waiting.pop()
        yield item, _attempt(function, item)
    others = set(multiprocessing.active_children())
    try:
        while waiting or running:
            executor, broken = executor or _executor(jobs), False
            while waiting and len(running) < jobs and not broken:
                try:
                    running[_submit(executor, function, waiting[-1], environment or {})] = waiting[-1]
                    waiting.pop()
                except BrokenProcessPool:
                    broken = True
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            if broken or any(isinstance(future.exception(), BrokenProcessPool) for future in finished):
                finished, _ = wait(running)  # all of them: an executor does not outlive a worker
                executor.shutdown()
                executor = None
            for future in finished:
                yield running.pop(future), future.exception() or future.result()
    finally:
        if executor is not None:
            if running:
                for process in set(multiprocessing.active_children()) - others:
                    process.terminate()
            executor.shutdown(cancel_futures=True)


def _executor(jobs: int) -> ProcessPoolExecutor:
    # Fresh interpreters: torch's and numba's threads do not survive a fork.
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_settle)


def _submit(executor: ProcessPoolExecutor, function: Callable, item, environment: Mapping[str, str | None]):
    """Submit. A worker starts in here and inherits: what libraries read once from their environment, one thread among
    it, and Ctrl-C held back, so that it cannot interrupt the worker before `_settle` leaves it to this process."""
    own = {**_ONE_THREAD, **environment}
    before = {name: os.environ.get(name) for name in own}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        _set(own)
        return executor.submit(function, item)
    finally:
        _set(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _attempt(function: Callable, item):
    try:
        return function(item)
    except Exception as error:
        return error


def _settle() -> None:
    """What a worker does first: leave Ctrl-C to its parent, and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
