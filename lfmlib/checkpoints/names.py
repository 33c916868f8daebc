"""Names of tensors: look them up by prefix, and find the prefixes in which two checkpoints differ."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable


class PrefixDict(dict):
    """A dictionary that finds names by prefix with a binary search, since a model may have 100,000."""

    @functools.cached_property
    def _sorted(self) -> list[str]:
        return sorted(self)

    def with_prefix(self, prefix: str) -> list[str]:
        """The names that begin with `prefix`."""
        first = bisect_left(self._sorted, prefix)
        last = bisect_left(self._sorted, prefix + chr(0x10FFFF))
        return self._sorted[first:last]


MIN_SHARED_PARTS = 2
"""Dot-separated parts, counted from the end, that two names must share before their prefixes are compared."""

MAX_PREFIX_PARTNERS = 512
"""Names that may share the end of a name for it to vote; an end that more names have says nothing about prefixes."""


def prefixes(known: Iterable[str], wanted: Iterable[str]) -> tuple[str, str]:
    """Find the prefixes whose removal makes most names of two checkpoints equal, as "bert." and "".

    Every wanted name that is not known votes for the prefixes that remain when the longest end it shares with known
    names is taken off. Of prefixes with equally many votes, those with the longest shared ends win.

    Returns:
        Prefix of the known names, and prefix of the wanted names, each with its dot; both "" if no ends are shared.
    """
    known = dict.fromkeys(known)
    by_end: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name in known:
        parts = tuple(name.split("."))
        for start in range(len(parts) - MIN_SHARED_PARTS + 1):
            by_end.setdefault(parts[start:], []).append(parts)
    votes: Counter[tuple[str, str]] = Counter()
    lengths: Counter[tuple[str, str]] = Counter()
    for name in wanted:
        if name in known:
            continue
        parts = tuple(name.split("."))
        shared = next((k for k in range(len(parts), MIN_SHARED_PARTS - 1, -1) if parts[-k:] in by_end), 0)
        partners = by_end[parts[-shared:]] if shared else []
        if len(partners) > MAX_PREFIX_PARTNERS:
            continue
        for other in partners:
            pair = _dotted(other[: len(other) - shared]), _dotted(parts[: len(parts) - shared])
            votes[pair] += 1
            lengths[pair] += shared
    return max(votes, key=lambda pair: (votes[pair], lengths[pair])) if votes else ("", "")


def _dotted(parts: tuple[str, ...]) -> str:
    return "".join(f"{part}." for part in parts)
