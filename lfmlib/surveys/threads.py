"""Let torch use one thread for each operation, where several operations run at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class _OneThread:
    """How many threads are inside of `one_thread`, and how many torch used for an operation before."""

    def __init__(self):
        self.users, self.before, self.lock = 0, 1, threading.Lock()


_inside = _OneThread()


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch uses one thread for each operation; ends when the last thread inside leaves it."""
    with _inside.lock:
        if not _inside.users:
            _inside.before = torch.get_num_threads()
        _inside.users += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _inside.lock:
            _inside.users -= 1
            if not _inside.users:
                torch.set_num_threads(_inside.before)


def in_worker(call: Callable) -> Any:
    """Make a call; in a forked process with one thread of torch.

    OpenMP's threads are not forked with their process, and an operation that shares its work among them waits for them
    for ever if the parent had done so before. `ProcessPoolExecutor` forks on Linux until Python 3.13.
    """
    if os.getpid() != _IMPORTED_BY:
        torch.set_num_threads(1)
    return call()


_IMPORTED_BY = os.getpid()
"""The process that imported this module; one that was forked from it has another number."""
