"""Which tensor of one checkpoint belongs to which of another: by name, through other prefixes, in another layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .checkpoint import Checkpoint, TensorInfo
from .executor import matrices

SHARED = 2
"""Parts of a name, counted from its end, that two names must share before their prefixes are compared."""
MOST = 512
"""Partners that one name may have by its end; where there are more, the end is too common to tell."""


@dataclass(frozen=True)
class Pair:
    """Two matrices that are compared.

    Attributes:
        base, tuned: names in the two checkpoints.
        transposed: the base is stored the other way round.
        rows: rows they have in common, where one has more (a vocabulary that grew); None where all are.
    """

    base: str
    tuned: str
    transposed: bool = False
    rows: int | None = None


def pair(base: Checkpoint, tuned: Checkpoint) -> tuple[list[Pair], dict[str, str]]:
    """Pair the floating-point matrices of two checkpoints.

    Names are paired as they are; where that leaves tensors over, the pair of prefixes that joins most of them is taken
    off (as of "bert.encoder.…" and "encoder.…").

    Returns:
        Pairs, in the order of ``tuned``; and for every other tensor of either, by name, why it has no partner.

    Raises:
        ValueError: there is no pair at all; the message says what either holds.
    """
    (old, skipped_old), (new, skipped_new) = matrices(base), matrices(tuned)
    known, wanted = ({info.name: info for info in some} for some in (old, new))
    before, after = prefixes(known, wanted)
    found, left = [], {}
    for name, info in wanted.items():
        partner = name if name in known else before + name.removeprefix(after) if name.startswith(after) else ""
        if partner not in known:
            left[name] = f"only in the tuned model ({tuned.name})"
            continue
        made = _fit(known[partner], info)
        if isinstance(made, str):
            left[name] = made
        else:
            found.append(made)
    taken = {one.base for one in found}
    left |= {name: f"only in the base ({base.name})" for name in known if name not in taken and name not in left}
    if not found:
        some = [", ".join(list(names)[:3]) or "no floating-point matrix" for names in (known, wanted)]
        raise ValueError(
            f"the tuned model ({tuned.name}) and the base ({base.name}) have no matrix in common: found {some[1]} … "
            f"and {some[0]} …; expected a model and the one it was fine-tuned from"
        )
    return found, left | skipped_old | skipped_new  # what a checkpoint says of its own tensor comes first


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


def _fit(old: TensorInfo, new: TensorInfo) -> Pair | str:
    """How two matrices are laid over each other, or why they cannot be."""
    if old.shape == new.shape:
        return Pair(old.name, new.name)
    if old.shape == new.shape[::-1]:
        return Pair(old.name, new.name, transposed=True)
    if old.shape[1] == new.shape[1] and old.role in ("embed", "head") and new.role in ("embed", "head"):
        return Pair(old.name, new.name, rows=min(old.shape[0], new.shape[0]))
    return f"of shape {new.shape}, and {old.name} of {old.shape}"
