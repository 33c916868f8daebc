"""Throw damaged checkpoints at the readers: `python tests/fuzz.py [--minutes M] [--target NAME] [--seed N]`.

What is thrown is that of hostile.py: a script of bytes says how a sound file is changed. Scripts come from atheris, led
by coverage, where it is installed; else, or with --plain, from a seeded generator. Whatever comes of one must open and
read, or be refused in words, soon and in little memory. A finding is printed with its script: `--script HEX` tries it
again.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from sys import modules

import torch
from hostile import SEEDS, attempt, damaged

SECONDS = 10
SPARE = 6 << 30  # bytes of address space above the start
READERS = r"lfmlib\.checkpoints\.\w+"


class Hang(BaseException):
    """It takes too long."""


def _ring(*_):
    raise Hang


class Fuzzer:
    """Counts what was tried, and prints what was found, each kind of it once."""

    def __init__(self, target: str, minutes: float):
        self.target, self.minutes = target, minutes
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.tried, self.read, self.found, self.slowest = 0, 0, {}, 0.0
        self.start = time.monotonic()
        signal.signal(signal.SIGALRM, _ring)

    def one(self, script: bytes) -> None:
        """Try a script."""
        self.tried += 1
        signal.alarm(SECONDS)
        start = time.monotonic()
        try:
            self.read += attempt(self.folder, damaged(self.target, script)) == "read"
        except (Exception, Hang) as error:
            places = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)]
            ours = [place for place in places if not place.startswith(("hostile.py", "fuzz.py"))]
            key = (type(error).__name__, *ours[-1:])
            if key not in self.found:
                print(f"FOUND {self.target} {type(error).__name__}: {str(error)[:300]} at {' '.join(places[-4:])}")
                print(f"  again with: --target {self.target} --script {script.hex()}", flush=True)
            self.found[key] = self.found.get(key, 0) + 1
        finally:
            signal.alarm(0)
            self.slowest = max(self.slowest, time.monotonic() - start)
        if self.tried % 500 == 0 and time.monotonic() - self.start > 60 * self.minutes:
            self.end()

    def end(self) -> None:
        """Say what came of it, and stop."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{self.target}: {self.tried:,} inputs in {time.monotonic() - self.start:.0f} s, {self.read:,} read, "
            f"{len(self.found)} kinds of findings {self.found}; slowest {self.slowest:.2f} s, peak {peak} MiB",
            flush=True,
        )
        shutil.rmtree(self.folder)
        sys.stdout.flush()
        os._exit(bool(self.found))  # atheris catches everything else


def main() -> None:
    """See the module's first line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--target", choices=SEEDS, default="safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--script", help="hex of one input to try")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    options = parser.parse_args()
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, used + SPARE))
    fuzzer = Fuzzer(options.target, options.minutes)
    if options.script is not None:
        print(attempt(fuzzer.folder, damaged(options.target, bytes.fromhex(options.script))))
        fuzzer.end()
    try:
        import atheris
    except ImportError:
        atheris = None
    if atheris is None or options.plain:
        draw = random.Random(options.seed)
        while True:
            fuzzer.one(draw.randbytes(1 + 6 * draw.choice((1, 1, 1, 2, 2, 3, 5))))
    for name, module in [*modules.items()]:
        if re.fullmatch(READERS, name):
            for one in vars(module).values():
                if getattr(one, "__module__", "") == name and hasattr(one, "__code__"):
                    one.__code__ = atheris.instrument_func(one).__code__
    atheris.Setup(
        [sys.argv[0], f"-seed={options.seed + 1}", "-max_len=49", "-len_control=0", "-rss_limit_mb=0", "-verbosity=0"],
        fuzzer.one,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
