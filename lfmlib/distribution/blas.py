"""Let BLAS use one thread where its operations are tiny.

L-BFGS-B of two or three numbers takes ten times as long with two threads, which wait for each other by spinning.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

_taken = threading.Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """A context in which BLAS uses one thread for each operation.

    The limit is the process's: who comes while another is inside finds it there, and only who set it takes it away.
    """
    if not _taken.acquire(blocking=False):
        yield
        return
    try:
        with _libraries().limit(limits=1, user_api="blas"):
            yield
    finally:
        _taken.release()


@cache
def _libraries() -> ThreadpoolController:
    """The loaded libraries of BLAS; to look for them takes some milliseconds."""
    return ThreadpoolController()
