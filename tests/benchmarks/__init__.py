"""Speed, memory and the project’s own times against the limits: ``make bench``."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = Path("_build/bench")
"""Where made checkpoints and other people's environments are kept between runs."""
LINES: list[dict] = []
RATES: dict[str, float] = {}
"""What was reported in this run, and what `rate` noted."""
SAID = {True: "met", False: "MISSED", None: "not judged"}


def report(name: str, value: str, limit: str, met: bool | None) -> None:
    """One line of the table; ``met`` is None where no limit is set."""
    met = met if met is None else bool(met)
    LINES.append({"name": name.strip(), "value": value, "limit": limit, "met": met})
    print(f"{name:<66} {value:>16}   limit {limit:<10} {SAID[met]}", flush=True)


def rate(name: str, value: float) -> None:
    """Note a figure that the book reckons with."""
    RATES[name] = float(f"{value:.4g}")


def best(*runs: Callable[[], object], repeats: int = 5) -> list[float]:
    """Shortest seconds of each, the runs taking turns."""
    seconds = [[] for _ in runs]
    for _ in range(repeats):
        for times, run in zip(seconds, runs, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return [min(times) for times in seconds]


def repeated(path: Path, shapes: dict[str, tuple[int, int]]) -> Path:
    """A bfloat16 file of made Gaussian values, the same 2²⁶ ones again and again from other places; kept."""
    import torch

    from lfmlib.merging.shard_writer import Entry, ShardWriter

    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    pool = (0.02 * torch.randn(1 << 26, generator=torch.Generator().manual_seed(0))).bfloat16()
    with ShardWriter(path, [Entry(name, shape, "bfloat16") for name, shape in shapes.items()]) as writer:
        for number, shape in enumerate(shapes.values()):
            left, pieces, place = math.prod(shape), [], 7919 * number % len(pool)
            while left:
                pieces.append(pool[place : place + left])
                left, place = left - len(pieces[-1]), 0
            writer.write(pieces)
    return path


def save(path: Path) -> None:
    """Write down what was reported, with the machine that it was measured on."""
    import torch

    from lfmlib.provenance import commit, surroundings
    from lfmlib.records.experiment import processor

    about = {"commit": commit(), **processor(), **surroundings()}
    if torch.cuda.is_available():
        about["GPU"] = torch.cuda.get_device_name()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"about": about, "lines": LINES, "rates": RATES}, indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
