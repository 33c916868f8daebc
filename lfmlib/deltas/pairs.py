"""Which matrix of a fine-tune belongs to which of its base, and how the two are laid over each other.

Matrices are paired by name, through other prefixes, and in another layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..checkpoints.names import matched
from ..surveys.rows import matrices
from .fused import alike, pieces
from .kin import KINSHIP_ROWS, MIN_KINSHIP, kinship, median_kinship, refuse_strangers
from .opening import opened_pair


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


def akin(base, tuned) -> None:
    """Raise ValueError where the tuned model is no fine-tune of the base, by names, shapes and some rows.

    Args:
        base, tuned: as for `lfmlib.compare`. Rows are looked at where these are at hand.
    """
    base, tuned = opened_pair(base, tuned)
    base, tuned = alike(base, tuned)
    pairs, _ = pair(base, tuned)
    if base.traffic is None and tuned.traffic is None:
        refuse_strangers(base, tuned, [partial(read_pair, one, tuned, base) for one in pairs])


def pair(base: Checkpoint, tuned: Checkpoint) -> tuple[list[Pair], dict[str, str]]:
    """Pair the floating-point matrices of two checkpoints, by `lfmlib.checkpoints.names.matched`.

    Args:
        base, tuned: as `lfmlib.deltas.fused.alike` returns them, where one may store fused what the other stores apart.

    Returns:
        Pairs, in the order of ``tuned``; and for every other tensor of either, by name, why it has no partner.

    Raises:
        ValueError: there is no pair at all; the message says what either holds.
    """
    (old, skipped_old), (new, skipped_new) = matrices(base), matrices(tuned)
    known, wanted = _by_key(base, old), _by_key(tuned, new)

    def hold(pairs: dict[str, str]) -> bool:
        some = [_fit(known[other], wanted[key]) for key, other in pairs.items()]
        loads = [partial(_first_rows, one, tuned, base) for one in some if isinstance(one, Pair)]
        return bool(loads) and median_kinship(loads) >= MIN_KINSHIP

    shapes = [{key: info.shape for key, info in some.items()} for some in (known, wanted)]
    partner = matched(shapes[0], shapes[1], holds=hold)
    found, left = [], {}
    for key, info in wanted.items():
        if key not in partner:
            left[info.name] = f"only in the tuned model ({tuned.name})"
            continue
        made = _fit(known[partner[key]], info)
        if isinstance(made, str):
            left[info.name] = made
        else:
            found.append(made)
    taken = {one.base for one in found}
    reason = f"only in the base ({base.name})"
    left |= {one.name: reason for one in old if one.name not in taken and one.name not in left}
    if not found:
        if unlike := next(((name, why) for name, why in left.items() if why.startswith("of shape ")), None):
            raise ValueError(
                f"the tuned model ({tuned.name}) and the base ({base.name}) have no matrix of one shape: {unlike[0]} "
                f"is {unlike[1]}; expected a model and the one it was fine-tuned from, which have the same size"
            )
        some = [", ".join([one.name for one in infos][:3]) or "no floating-point matrix" for infos in (old, new)]
        raise ValueError(
            f"the tuned model ({tuned.name}) and the base ({base.name}) have no matrix in common: found {some[1]} … "
            f"and {some[0]} …; expected a model and the one it was fine-tuned from"
        )
    return found, left | skipped_old | skipped_new  # what a checkpoint says of its own tensor comes first


def _by_key(checkpoint: Checkpoint, infos: Sequence[TensorInfo]) -> dict[str, TensorInfo]:
    """These matrices by the names under which both checkpoints are looked through; a fused one by its first."""
    keys: dict[str, str] = {}
    for key, piece in pieces(checkpoint).items():
        keys.setdefault(piece.part.name, key)
    return {keys[info.name]: info for info in infos}


def read_pair(one: Pair, tuned: Checkpoint, base: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """W and W₀ of a pair, laid over each other; of square ones the values tell whether one is stored transposed."""
    new, old = tuned.read(one.tuned), base.read(one.base)
    square = old.shape[0] == old.shape[1]
    if one.transposed or (square and kinship(new, old) < MIN_KINSHIP <= kinship(new, old.T)):
        old = old.T
    return (new, old) if one.rows is None else (new[: one.rows], old[: one.rows])


def _first_rows(one: Pair, tuned: Checkpoint, base: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a pair as much as is needed to see whether it is one, and of remote files no more."""
    if one.transposed or (base.traffic is None and tuned.traffic is None):
        return read_pair(one, tuned, base)
    most = min(KINSHIP_ROWS, one.rows or KINSHIP_ROWS)
    return tuned.rows(one.tuned, most), base.rows(one.base, most)


def _fit(old: TensorInfo, new: TensorInfo) -> Pair | str:
    """How two matrices are laid over each other, or why they cannot be."""
    if old.shape == new.shape:
        return Pair(old.name, new.name)
    if old.shape == new.shape[::-1]:
        return Pair(old.name, new.name, transposed=True)
    if old.shape[1] == new.shape[1] and old.role in ("embed", "head") and new.role in ("embed", "head"):
        return Pair(old.name, new.name, rows=min(old.shape[0], new.shape[0]))
    return f"of shape {new.shape}, and {old.name} of {old.shape}"
