"""Peak anonymous memory of some work, sampled from the inside; imports nothing heavy until the baseline is taken."""

import threading
import time
from collections.abc import Callable


def anonymous() -> int:
    """Bytes of anonymous memory of this process (Linux)."""
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith("Anonymous:"):
                return 1024 * int(line.split()[1])
    raise OSError("no line 'Anonymous:' in /proc/self/smaps_rollup")


def peak(work: Callable[[], object]) -> tuple[int, object]:
    """The largest anonymous memory while ``work`` runs, in bytes, and what it returns."""
    highest, done = anonymous(), threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, anonymous())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return_value = work()
    finally:
        done.set()
        watcher.join()
    return highest, return_value


def main(source: str) -> None:
    """Print a survey's peak, and what importing takes, both above the bare interpreter."""
    bare = anonymous()
    import lfmlib

    imported = anonymous()
    highest, _ = peak(lambda: lfmlib.survey(source, progress=False))
    print(highest - bare, imported - bare)
