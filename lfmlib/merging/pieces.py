"""Reparametrized weights in a merge: what loads the merged model expects the base's form of them.

Where the base has pieces, pieces are merged and written; where it has a plain weight, that which a model's pieces make.
"""

from __future__ import annotations

from dataclasses import replace

from ..checkpoints.checkpoint import Checkpoint, CheckpointError
from ..checkpoints.reparametrized import PARAMETRIZATION, Effective, spectral_norm, weight_norm
from ..checkpoints.stored import Stored

_ENDS = {
    weight_norm: (("_g", "_v"), ("original0", "original1")),
    spectral_norm: (("_orig", "_u", "_v"), ("original", "0._u", "0._v")),
}
"""What the names of pieces end in, by what is made of them: of the older form and of `torch.nn.utils.parametrize`, each
in the order in which `lfmlib.checkpoints.reparametrized.Effective` holds them."""


def in_pieces(checkpoint: Checkpoint, like: Checkpoint | None = None) -> Checkpoint:
    """A checkpoint whose `stored` holds the pieces of weight norm and spectral norm, not what they make.

    Args:
        checkpoint: as `lfmlib.open_checkpoint` lists it.
        like: the base, where ``checkpoint`` is a model tuned from it: pieces have the names of the form that is used
            there, and a weight that is plain there stays whole.

    Raises:
        CheckpointError: another weight is computed, of which pieces cannot be merged one by one; or one is plain here
            and in pieces in the base.
    """
    new = any(PARAMETRIZATION.match(piece) for one in _computed(like or checkpoint) for piece in one.pieces)
    stored: dict[str, Stored] = {}
    theirs = like.stored if like else {}
    for name, one in checkpoint.stored.items():
        other = theirs.get(name)
        if not isinstance(one, Effective):
            if like and isinstance(other, Effective):
                raise CheckpointError(
                    f"{name} is plain in {checkpoint.name}, and computed from {', '.join(other.pieces)} in "
                    f"{like.name}: expected one form. Save the base with plain weights first"
                )
            stored[name] = one
            continue
        if like and (other or not _computed(like)) and not isinstance(other, Effective):
            stored[name] = one
            continue
        if one.formula not in _ENDS:
            raise CheckpointError(
                f"{name} of {checkpoint.name} is computed from {', '.join(one.pieces)}, which cannot be merged one by "
                "one: expected a plain weight. Save the model with it first"
            )
        home, _, last = name.rpartition(".")
        start = f"{home}{'.' if home else ''}parametrizations.{last}." if new else name
        names = [f"{start}{end}" for end in _ENDS[one.formula][new]] if like else list(one.pieces)
        stored |= zip(names, one.pieces.values(), strict=True)
    made = ("(with its adapters)", "(parametrized)")  # of modules in memory: the weight is there, as a plain one
    apart = {piece for one in _computed(checkpoint) for piece in one.pieces}
    skipped = {name: why for name, why in checkpoint.skipped.items() if name not in apart and not why.endswith(made)}
    return replace(checkpoint, skipped=skipped, _stored=stored)


def _computed(checkpoint: Checkpoint) -> list[Effective]:
    return [one for one in checkpoint.stored.values() if isinstance(one, Effective)]
