"""Where a chapter writes the models it makes: a folder that one run of a chapter has for itself."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

_LOCKS: dict[Path, FileLock] = {}
"""The locks of the folders that this process writes to."""


def place(out: str, folder: Path, theirs: bool, name: str = "merged") -> Path:
    """Where a chapter writes the models it makes; a folder that no other run of a chapter gets while this one lives.

    Args:
        out: the reader’s choice; empty: ``name`` in ``folder``.
        folder: of the findings.
        theirs: whether they are made of what is the reader’s; what is made of the lab’s is made anew, in
            ``NAME-example``, or ``NAME-example-2`` while another run is at work in the first, and so on.
        name: what they are called.

    Raises:
        FileExistsError: something is there, or another run writes there, told before anything is measured.
    """
    if out or theirs:
        place = Path(out).expanduser().resolve() if out else folder / name
        if not _held(place):
            raise FileExistsError(
                f"another run of a chapter writes to {place}: name another folder with `-p out …`, or wait for its end"
            )
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise FileExistsError(f"{place} is there already: name another folder with `-p out …`, or remove it")
        return place
    numbers = itertools.chain([""], map("-{}".format, itertools.count(2)))
    place = next(one for number in numbers if _held(one := folder / f"{name}-example{number}"))
    for left in (place, place.with_name(f"{place.name}.partial")):
        shutil.rmtree(left, ignore_errors=True)
    return place


def _held(place: Path) -> bool:
    """Keep other runs out of a folder for as long as this process lives, since a notebook does not say when it is done;
    False where another has it."""
    if place not in _LOCKS:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.with_name(f".{place.name}.lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return False
        _LOCKS[place] = lock  # which would be let go of if nothing referred to it
    return True
