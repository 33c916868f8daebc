"""Peak anonymous memory of a survey, of a comparison and of a merge, above the bare interpreter's.

    python -m tests.benchmarks.memory

Each is measured in a process of its own, sampled from the inside every five milliseconds. Nothing heavy is imported
here until the baseline is taken.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

LIMIT = 512
SHAPES = {"q": (4096, 4096), "o": (4096, 4096), "up": (11008, 4096), "down": (4096, 11008)}
WORK = {
    "survey": "lfmlib.survey({0!r}, progress=False)",
    "compare": "lfmlib.compare({0!r}, {1!r}, progress=False)",
    "compare with a noise control": "lfmlib.compare({0!r}, {1!r}, controls=['noise'], progress=False)",
    "merge": "lfmlib.merge({0!r}, [{1!r}], 'average', out={2!r}, progress=False)",
}


def anonymous() -> int:
    """Bytes of anonymous memory of this process (Linux)."""
    with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
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


def inside(code: str) -> None:
    """Print the peak of some code, what importing takes, both above the bare interpreter, and seconds."""
    bare = anonymous()
    import lfmlib

    imported = anonymous()
    started = time.perf_counter()
    highest, _ = peak(lambda: eval(code, {"lfmlib": lfmlib}))
    print(highest - bare, imported - bare, time.perf_counter() - started)


def measured(code: str) -> tuple[float, float, float]:
    """MiB above the interpreter, MiB of importing, and seconds of some code in a process of its own."""
    command = [sys.executable, "-c", f"from tests.benchmarks.memory import inside; inside({code!r})"]
    run = subprocess.run(command, capture_output=True, check=True, encoding="utf-8")
    highest, imported, seconds = map(float, run.stdout.split())
    return highest / 2**20, imported / 2**20, seconds


def made(sizes: tuple[int, ...], tensor: int) -> dict:
    """Checkpoints of so many GB and a file with one matrix of so many, by what they are; kept for the next run."""
    from . import FOLDER, repeated

    layer = 2 * sum(a * b for a, b in SHAPES.values()) / 1e9
    sources = {}
    for size in sizes:
        folder = FOLDER / f"repeated-{size}GB"
        layers = max(1, round(size / layer))
        for first in range(0, layers, 8):
            names = [(i, name) for i in range(first, min(first + 8, layers)) for name in SHAPES]
            shapes = {f"model.layers.{i}.{name}_proj.weight": SHAPES[name] for i, name in names}
            repeated(folder / f"model-{first // 8:05}.safetensors", shapes)
        sources[f"{size} GB in {4 * layers} matrices"] = folder
    shape = round(tensor * 1e9 / 2 / 8192), 8192
    path = repeated(FOLDER / f"one-{tensor}GB.safetensors", {"model.embed_tokens.weight": shape})
    return sources | {f"one matrix of {tensor} GB": path}


def main() -> None:
    """Measure and print."""
    import shutil

    from . import FOLDER, merges, rate, report

    sources = made((1, 4, 16), 8)
    for words, source in sources.items():
        most, imported, seconds = measured(WORK["survey"].format(str(source)))
        report(f"survey of {words}: peak memory", f"{most:.0f} MiB", f"≤ {LIMIT} MiB", most <= LIMIT)
        print(f"  {seconds:.1f} s; importing lfmlib (torch, scipy, numba) takes {imported:.0f} MiB of it", flush=True)
    rate("import_mib", imported)
    base, one, _ = map(str, merges.made())
    out = str(FOLDER / "merged-memory")
    for what in (*WORK,)[1:]:
        shutil.rmtree(out, ignore_errors=True)
        most, _, seconds = measured(WORK[what].format(base, one, out))
        report(f"{what} of two models of 1 GB: peak memory", f"{most:.0f} MiB", f"≤ {LIMIT} MiB", most <= LIMIT)
        print(f"  {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
