"""Names of tensors: look them up by prefix, take wrappers out of them, and pair those of two checkpoints."""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping


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


WRAPPERS = re.compile(
    r"(?<![^.])(?:_checkpoint_wrapped_module|_fsdp_wrapped_module|_fpw_module|_orig_mod|_forward_module|module"
    r"|base_model\.model|base_layer|modules_to_save\.[^.]+)\."
)
"""Words that checkpointing of activations, FSDP, torch.compile, data parallelism and peft put into names."""
OLD_NORM = re.compile(r"(norm\w*)\.(gamma|beta)$", re.IGNORECASE)
"""What a scale and a shift are called in BERT's first conversions."""

MIN_SHARED_PARTS = 2
"""Dot-separated parts, counted from the end, that two names must share before their prefixes are compared."""

MAX_PREFIX_PARTNERS = 512
"""Names that may share the end of a name for it to vote; an end that more names have says nothing about prefixes."""

MAX_VOTERS, MAX_RENAMINGS = 4096, 24
"""Names that vote for a renaming, at most; and renamings that are tried, since each tower may have its own."""


def plain(name: str) -> str:
    """A name without the words that wrappers put into it.

    Examples:
        >>> from lfmlib.checkpoints.names import plain
        >>> plain("_orig_mod.layers.0._checkpoint_wrapped_module.mlp.up_proj.weight")
        'layers.0.mlp.up_proj.weight'
    """
    words = {"gamma": "weight", "beta": "bias"}
    return OLD_NORM.sub(lambda found: f"{found[1]}.{words[found[2].lower()]}", WRAPPERS.sub("", name))


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Plain name → name, of all; those whose plain names would be the same stay as they are."""
    found = {name: plain(name) for name in names}
    count = Counter(found.values())
    return {short if count[short] == 1 else name: name for name, short in found.items()}


def matched(
    known: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    holds: Callable[[dict[str, str]], bool] = lambda pairs: True,
) -> dict[str, str]:
    """Pair the names of two checkpoints: wanted name → known name.

    Equal names are paired, then names that are equal without wrappers. Of those that are left the longest ends are
    compared: the two prefixes (as "bert." and "") that would join most of them are exchanged, then the next two, and so
    on, since each tower of a model may have been renamed in its own way.

    Args:
        known, wanted: name → shape, or () where it is not known; only tensors that could lie on one another have a say
            in prefixes.
        holds: asked whether pairs that an exchange of prefixes made are right; what is not is left, and the next
            prefixes are tried. Where that leaves no pair at all, those that were tried first are returned.

    Examples:
        >>> from lfmlib.checkpoints.names import matched
        >>> before = {"model.layers.0.q.weight": (4, 4), "visual.patch.proj.weight": (4, 3)}
        >>> after = {"model.language_model.layers.0.q.weight": (4, 4), "model.visual.patch.proj.weight": (4, 3)}
        >>> for pair in matched(before, after).items():
        ...     print(*pair)
        model.language_model.layers.0.q.weight model.layers.0.q.weight
        model.visual.patch.proj.weight visual.patch.proj.weight
    """
    found = {name: name for name in wanted if name in known}
    old, new = (
        {short: name for short, name in plain_names(some).items() if name not in found} for some in (known, wanted)
    )
    found |= {name: old.pop(short) for short, name in new.items() if short in old}
    new = {short: name for short, name in new.items() if name not in found}
    ends = _Ends(old) if new else None
    tried: set[tuple[str, str]] = set()
    refused: dict[str, str] = {}
    while ends and old and new and len(tried) < MAX_RENAMINGS:
        prefixes = ends.vote({short: wanted[name] for short, name in new.items()}, old, known, tried)
        if prefixes is None:
            break
        tried.add(prefixes)
        both = {short: other for short in new if (other := _exchanged(short, *prefixes)) in old}
        pairs = {new[short]: old[other] for short, other in both.items() if other is not None}
        if pairs and not holds(pairs):
            refused = refused or pairs
        elif pairs:
            found |= pairs
            new = {short: name for short, name in new.items() if short not in both}
            for other in both.values():
                old.pop(other, None)
    return found or refused


class _Ends:
    """Names by what they end in."""

    def __init__(self, names: Iterable[str]):
        self.by_end: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for name in names:
            parts = tuple(name.split("."))
            for start in range(len(parts) - MIN_SHARED_PARTS + 1):
                self.by_end.setdefault(parts[start:], []).append(parts)

    def vote(
        self,
        new: Mapping[str, tuple[int, ...]],
        old: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
        tried: set[tuple[str, str]],
    ) -> tuple[str, str] | None:
        """Prefix of the old and of the new names, each with its dot, whose exchange most new names vote for.

        Every new name votes for the prefixes that remain when the longest end it shares with old ones is taken off. Of
        equally many votes, those with the longest shared ends win. Numbers that both prefixes have alike are "#".
        """
        votes: Counter[tuple[str, str]] = Counter()
        lengths: Counter[tuple[str, str]] = Counter()
        for name in list(new)[:: max(1, len(new) // MAX_VOTERS)]:
            parts = tuple(name.split("."))
            for shared in range(len(parts), MIN_SHARED_PARTS - 1, -1):
                some = self.by_end.get(parts[-shared:], ())
                if not some or len(some) > MAX_PREFIX_PARTNERS:
                    continue
                left = [
                    other for other in some if (full := old.get(".".join(other))) and _may_lie(shapes[full], new[name])
                ]
                pairs = {_pattern(other[: len(other) - shared], parts[: len(parts) - shared]) for other in left} - tried
                for pair in pairs:
                    votes[pair] += 1
                    lengths[pair] += shared
                if pairs:
                    break
        return max(votes, key=lambda pair: (votes[pair], lengths[pair])) if votes else None


def _may_lie(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether tensors of these shapes could lie on one another: alike, transposed, or one with more rows."""
    return not one or not other or sorted(one) == sorted(other) or (len(one) == len(other) > 0 and one[1:] == other[1:])


def _pattern(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, str]:
    dotted = ["".join(f"{part}." for part in parts) for parts in (one, other)]
    numbers = [[part for part in parts if part.isdigit()] for parts in (one, other)]
    if numbers[0] == numbers[1]:
        dotted = [re.sub(r"(?<![^.])\d+(?=\.)", "#", prefix) for prefix in dotted]
    return dotted[0], dotted[1]


def _exchanged(name: str, before: str, after: str) -> str | None:
    """The name with the prefix `after` exchanged for `before`; None where it begins otherwise."""
    found = re.match(re.escape(after).replace(r"\#", r"(\d+)"), name)
    if found is None:
        return None
    numbers = iter(found.groups())
    return re.sub("#", lambda _: next(numbers, "#"), before) + name[found.end() :]
