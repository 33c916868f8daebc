"""Let torch use one thread for each operation, where several operations run at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch uses one thread for each operation of this thread: how many is each thread's own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
