"""Peak anonymous memory of a survey, sampled from the inside; imports nothing heavy until the baseline is taken."""

import threading
import time


def anonymous() -> int:
    """Bytes of anonymous memory of this process (Linux)."""
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith("Anonymous:"):
                return 1024 * int(line.split()[1])
    raise OSError("no line 'Anonymous:' in /proc/self/smaps_rollup")


def main(source: str) -> None:
    """Print the survey's peak, and what importing takes, both above the bare interpreter."""
    bare = anonymous()
    import lfmlib

    imported = anonymous()
    peak, done = imported, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, anonymous())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    lfmlib.survey(source, progress=False)
    done.set()
    watcher.join()
    print(peak - bare, imported - bare)
