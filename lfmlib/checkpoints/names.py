"""Names of tensors: finding those that begin alike, and the prefixes in which two checkpoints differ."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable


class Names(dict):
    """A dictionary whose names that begin alike are found without looking at all: a model may have 100,000."""

    @functools.cached_property
    def _sorted(self) -> list[str]:
        return sorted(self)

    def under(self, prefix: str) -> list[str]:
        """The names that begin with `prefix`."""
        first = bisect_left(self._sorted, prefix)
        last = bisect_left(self._sorted, prefix + chr(0x10FFFF))
        return self._sorted[first:last]


SHARED = 2
"""Parts of a name, counted from its end, that two names must share before their prefixes are compared."""


MOST = 512
"""Partners that one name may have by its end; where there are more, the end is too common to tell."""


def prefixes(known: Iterable[str], wanted: Iterable[str]) -> tuple[str, str]:
    """Prefixes of two checkpoints' names that, taken off, join most ``wanted`` names without a namesake.

    Every name votes for the partners it shares most with, counted in parts from its end; of prefixes with equally many
    votes, those that leave the longest names win.
    """
    known = dict.fromkeys(known)
    by_end: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name in known:
        parts = tuple(name.split("."))
        for start in range(len(parts) - SHARED + 1):
            by_end.setdefault(parts[start:], []).append(parts)
    votes: Counter[tuple[str, str]] = Counter()
    lengths: Counter[tuple[str, str]] = Counter()
    for name in wanted:
        if name in known:
            continue
        parts = tuple(name.split("."))
        shared = next((k for k in range(len(parts), SHARED - 1, -1) if parts[-k:] in by_end), 0)
        partners = by_end[parts[-shared:]] if shared else []
        if len(partners) > MOST:  # an end that everything has says nothing
            continue
        for other in partners:
            pair = _dotted(other[: len(other) - shared]), _dotted(parts[: len(parts) - shared])
            votes[pair] += 1
            lengths[pair] += shared
    return max(votes, key=lambda pair: (votes[pair], lengths[pair])) if votes else ("", "")


def _dotted(parts: tuple[str, ...]) -> str:
    return "".join(f"{part}." for part in parts)
