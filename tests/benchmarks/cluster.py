"""A survey on a Dask cluster of this machine: one worker, more, and the most of them of which one is killed.

    python -m tests.benchmarks.cluster [WORKERS …]

The work is a made matrix of 8 GB, whose parts are spread over the workers, and a made checkpoint of 4 GB; the tables
are compared by the hash of their CSV. Workers have one thread each. Scheduler and client run in this process: on few
cores they take from the workers what is printed beside each time.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from unittest.mock import patch

from . import memory, rate, report

TURNS = 5
"""How often each is timed; the shortest counts."""


def main(counts: tuple[int, ...] = (1, 2)) -> None:
    """Measure and print.

    Dask leaves variables for its workers in the environment of this process (one thread, memory given back at once),
    which would slow down whatever is started after: they are taken out again.
    """
    with patch.dict(os.environ):
        _measured(counts)


def _measured(counts: tuple[int, ...]) -> None:
    from distributed import Client, LocalCluster

    import lfmlib

    for words, source in memory.made((4,), 8).items():
        seconds, digests = [], set()
        lfmlib.survey(source, progress=False)  # the page cache
        os.sync()
        for workers, killed in (*((count, False) for count in counts), (counts[-1], True)):
            with (
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
                Client(cluster) as client,
                client.get_executor(retries=3) as executor,
            ):
                imported, turns, own = client.run(_ready), [], []
                for _ in range(1 if killed else TURNS):
                    started, worked = time.perf_counter(), time.process_time()
                    if killed:
                        pid = next(iter(imported.values()))
                        threading.Timer(seconds[-1] / 2, os.kill, (pid, signal.SIGKILL)).start()
                    table = lfmlib.survey(source, executor=executor, progress=False)
                    turns.append(time.perf_counter() - started)
                    own.append(time.process_time() - worked)
                seconds.append(min(turns))
            digest = hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:12]
            digests.add(digest)
            what = f"{workers} worker{'s' * (workers > 1)}{', one killed half-way' * killed}"
            print(f"  {words}, {what}: {seconds[-1]:.2f} s, table {digest}; ", end="")
            print(f"scheduler and client {own[turns.index(min(turns))]:.2f} s of a core", flush=True)
            if not killed:
                rate(f"dask, {words}, {workers} workers, s", seconds[-1])
        same = "the same" if len(digests) == 1 else "DIFFER"
        report(f"{words}: tables of all these runs", same, "the same", len(digests) == 1)
        if counts[:2] == (1, 2):
            gain = seconds[0] / seconds[1]
            report(f"{words}: two Dask workers against one", f"{gain:.2f} ×", "≥ 1.7 ×", gain >= 1.7)


def _ready() -> int:
    """Import and compile what a worker needs; its process."""
    import torch

    import lfmlib

    lfmlib.survey({"w": torch.randn(64, 64).bfloat16()}, progress=False)
    return os.getpid()


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or (1, 2))
