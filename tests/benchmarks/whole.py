"""Minutes that ``make book`` takes, first, with all caches, and with nothing changed; and both runs of the tests.

    python -m tests.benchmarks.whole [RESULTS.json]

The caches of the lab and of compiled loops are new ones, and each run of tests has its own, as after an installation.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lfmlib.provenance import ROOT

from . import FOLDER, report, save

NOT_MEANT = ("MAKEFLAGS", "MFLAGS", "MODEL", "BASE", "PROFILE", "CHAPTERS", "FORCE", "JOBS", "ARGS", "OMP_NUM_THREADS")


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "book"
        builds = ("first run after installation", 6), ("with the lab cached, every chapter run again", 2)
        for what, limit in (*builds, ("nothing changed", 2)):
            force = () if what == "nothing changed" else ("FORCE=1",)  # there may be a book already
            _timed(f"make book, {what}", "book", limit, cache, *force)
        _timed("make test after installation", "test", 5, Path(folder) / "tests")
        _timed("make test-all, the slow tests too, after installation", "test-all", 12, Path(folder) / "all")
    save(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "book-and-tests.json")


def _timed(name: str, target: str, limit: int, cache: Path, *options: str) -> None:
    """Make a target with these options and this cache; a line says how long it took, and whether it went well at all.

    What was given to the `make` that runs this, and how many threads there may be, is not meant for it.
    """
    environment = {key: value for key, value in os.environ.items() if key not in NOT_MEANT}
    environment |= {"LFMLIB_CACHE": str(cache), "NUMBA_CACHE_DIR": str(cache.with_name(f"{cache.name}-compiled"))}
    started = time.perf_counter()
    run = subprocess.run(["make", target, *options], cwd=ROOT, env=environment, check=False)
    minutes = (time.perf_counter() - started) / 60
    value = f"{minutes:.1f} min" if run.returncode == 0 else f"FAILED after {minutes:.1f} min"
    report(name, value, f"≤ {limit} min", run.returncode == 0 and minutes <= limit)


if __name__ == "__main__":
    main()
