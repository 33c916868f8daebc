"""Reparametrized weights in a merge: their pieces are merged and written, since what loads the model expects these."""

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
        like: where it is given, pieces have the names of the form that is used there.

    Raises:
        CheckpointError: another weight is computed, of which pieces cannot be merged one by one.
    """
    new = any(PARAMETRIZATION.match(piece) for one in _computed(like or checkpoint) for piece in one.pieces)
    stored: dict[str, Stored] = {}
    for name, one in checkpoint.stored.items():
        if not isinstance(one, Effective):
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
