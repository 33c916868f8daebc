"""Which stored tensor of a fine-tune stands in the place of each of its base's, and how it is loaded in its layout.

`lfmlib.deltas.pairs` finds the matrices that are compared; here every tensor counts, since what is merged is a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from ..checkpoints.checkpoint import Checkpoint, CheckpointError
from ..checkpoints.names import matched
from ..checkpoints.slices import Part
from ..checkpoints.state_dicts import BESIDE
from ..notices import warn
from .fused import Assembled, alike, cut_alike, pieces
from .kin import MIN_KINSHIP, median_kinship

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Types whose values can be added; smaller ones are quantized."""
CONSTANT = re.compile(r"(^|\.)(position_ids|token_type_ids|attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq)$")
"""Names of what is stored beside weights, such as masks, by some versions of a library and not by others; a bias with
one axis is a weight."""

GROWN = 'Resize one to the other’s first; `lfmlib.merge` merges what they have in common by vocabulary="common"'
"""What to do where a vocabulary grew."""
NO_WEIGHTS = ("tied to", "a copy of", "a buffer", "a constant of the graph", BESIDE)
"""What a reason begins with for which a tensor is not listed, where nothing would have to be added to it."""
LAYER = re.compile(r"((?:.*?\.)?(?:layers?|h|blk|blocks?|resblocks))\.\d+\.")
"""A layer: what it is called in, and its own number."""
FORETELLS = re.compile(r"\.(?:eh_proj|enorm|hnorm|shared_head)\.")
"""Names in a layer that foretells the token after next (DeepSeek's multi-token prediction)."""


def partners(
    base: Checkpoint, model: Checkpoint, unfit: dict[str, str] | None = None
) -> dict[str, Callable[[], torch.Tensor]]:
    """For every tensor stored in the base, how that of the model is loaded which stands in its place.

    What the model stores fused and the base apart, or the other way round, is laid out as in the base. Heads, towers
    and other tensors outside layers that the model lacks are as in the base; of these, and of tensors that the model
    has beside the base's, warnings are given.

    Args:
        base, model: as `opened` returns them.
        unfit: takes up, by the base's name, why a tensor of the model does not fit; it is as in the base then. None
            raises that.

    Raises:
        ValueError: the model lacks some that are inside its layers, or has them in another shape or of another kind.
        CheckpointError: something is stored that has no values to add.
    """
    base, model = alike(base, model)
    for one in (base, model):
        if odd := [name for name, why in one.skipped.items() if not why.startswith(NO_WEIGHTS)]:
            why, piece = one.skipped[odd[0]], one.skipped[odd[0]].startswith(("quantized", "a piece of"))
            advice = ". Dequantize it first" if piece else ""
            if why.endswith("not measured"):
                advice = ". Merge the adapter into its base with peft, and give the merged model"
            raise CheckpointError(f"{odd[0]} of {one.name} cannot be added: {why}{advice}")
    known, own = pieces(base), pieces(model)
    first = {piece.part.stored: piece for piece in reversed(own.values())}
    for name, why in model.skipped.items():
        if target := first.get(why.removeprefix("tied to ")):
            own.setdefault(name, target)
    shapes = [{key: piece.shape for key, piece in some.items()} for some in (known, own)]

    def hold(pairs: dict[str, str]) -> bool:
        some = [(own[key].part, known[other].part) for key, other in pairs.items()]
        loads = [partial(_of_both, *two, model, base) for two in some if two[0].shape == two[1].shape]
        matrices = [load for load, two in zip(loads, some, strict=False) if len(two[0].shape) > 1]
        return median_kinship(matrices or loads) >= MIN_KINSHIP

    partner = {other: own[key].part for key, other in matched(shapes[0], shapes[1], holds=hold).items()}
    for other in _of_other_classes({key: (known[key].part, part) for key, part in partner.items()}, base):
        del partner[other]
    parts: dict[str, dict[Part, Part | None]] = {}
    for key, piece in known.items():
        parts.setdefault(piece.part.stored, {})[piece.part] = partner.get(key)
    lacking = [name for name, some in parts.items() if None in some.values()]
    _refuse_half_layers(lacking, [name for name in parts if name not in lacking], base, model)
    found = {name: base.stored[name].load for name in lacking}
    for name, some in parts.items():
        if name not in found:
            pairs = [(one, other) for one, other in some.items() if other]
            try:
                found[name] = _loader(name, pairs, base, model)
            except ValueError as error:
                if unfit is None or isinstance(error, CheckpointError):
                    raise
                unfit[name] = str(error)
                found[name] = base.stored[name].load
    taken = {other.stored for other in partner.values()}
    _tell(
        f"of {model.name} are not in the base, and are left out", [name for name in model.stored if name not in taken]
    )
    weights = [name for name in lacking if not _constant(name, base.stored[name])]
    _tell(f"of {base.name} are not in {model.name}, and stay as they are", weights)
    return {name: found[name] for name in base.stored}


def _of_other_classes(pairs: Mapping[str, tuple[Part, Part]], base: Checkpoint) -> list[str]:
    """Heads, and their biases, that have other rows than the base's without an embedding that has: other classes."""
    roles = {info.name: info.role for info in base.tensors}
    rows = {
        key: (one.shape[0], other.shape[0])
        for key, (one, other) in pairs.items()
        if len(one.shape) == len(other.shape) > 0
        and one.shape[1:] == other.shape[1:]
        and one.shape[0] != other.shape[0]
    }
    grown = {counts for key, counts in rows.items() if roles.get(pairs[key][0].stored) == "embed"}
    heads = {
        key: counts for key, counts in rows.items() if roles.get(pairs[key][0].stored) == "head" and counts not in grown
    }
    biases = {key.rpartition(".")[0]: counts for key, counts in heads.items()}
    return [
        key
        for key, counts in rows.items()
        if key in heads or (len(pairs[key][0].shape) == 1 and biases.get(key.rpartition(".")[0]) == counts)
    ]


def _tell(words: str, names: Sequence[str]) -> None:
    if names:
        some = f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        warn(f"{len(names)} tensors {words}: {some}")


def _of_both(one: Part, other: Part, model: Checkpoint, base: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    return one.load(model.stored[one.stored]), other.load(base.stored[other.stored])


def _refuse_half_layers(lacking: Sequence[str], has: Sequence[str], base: Checkpoint, model: Checkpoint) -> None:
    """Raise what `partners` raises of tensors that a model lacks inside towers of which it has layers."""
    towers = {found[1] for name in has if (found := LAYER.match(name))}
    inside = [
        name
        for name in lacking
        if not _constant(name, base.stored[name])
        and (not has or ((found := LAYER.match(name)) and found[1] in towers and not _foretells(found[0], lacking)))
    ]
    if inside:
        raise ValueError(
            f"{model.name} lacks {len(inside)} of the {len(base.stored)} tensors of {base.name}, such as {inside[0]}; "
            f"it has {next(iter(model.stored))} …: expected a model that was tuned from that base"
        )


def _foretells(layer: str, names: Sequence[str]) -> bool:
    """Whether a layer is one that foretells the token after next, beside the others, which fine-tunes drop."""
    return any(name.startswith(layer) and FORETELLS.search(name) for name in names)


def _loader(
    name: str, some: list[tuple[Part, Part]], base: Checkpoint, model: Checkpoint
) -> Callable[[], torch.Tensor]:
    """How the values of a tensor of the base are loaded from the model's: of each part, where it lies there."""
    place = base.stored[name]
    entries = {other.stored: model.stored[other.stored] for _, other in some}
    for one, other in some:
        _same_kind(name, place, entries[other.stored], (one.shape, other.shape), base, model)
    if len(entries) == 1 and all(cut_alike(one, other) for one, other in some):
        (theirs,) = entries.values()
        if theirs.shape == place.shape:
            return theirs.load
    return Assembled(tuple(place.shape), tuple((one, other, entries[other.stored]) for one, other in some))


def _constant(name: str, place) -> bool:
    """Whether a tensor is no weight, so that a model may lack it: it is as in the base then."""
    floating = getattr(torch, place.dtype).is_floating_point
    return not floating or (len(place.shape) != 1 and CONSTANT.search(name) is not None)


def _same_kind(name: str, place, theirs, shapes: tuple[tuple, tuple], base: Checkpoint, model: Checkpoint) -> None:
    """Raise what `partners` raises of one tensor, or of one part; ``shapes`` are those in the base and in the model."""
    here, there = shapes
    if math.prod(place.shape) == math.prod(theirs.shape) == 1 and not getattr(torch, place.dtype).is_floating_point:
        return  # a counter, which nothing is added to
    if there != here:
        roles = {info.role for info in base.tensors if info.name == name}
        grown = bool(roles & {"embed", "head"}) and there[1:] == here[1:]
        why = f"their vocabularies differ. {GROWN}" if grown else "they are not of one kind"
        raise ValueError(f"{name} is {there} in {model.name}, and {here} in {base.name}: {why}")
    floating = [getattr(torch, one.dtype).is_floating_point for one in (place, theirs)]
    if floating[0] != floating[1]:
        raise ValueError(
            f"{name} is {theirs.dtype} in {model.name}, and {place.dtype} in {base.name}: expected both to be of "
            "floating point, or neither"
        )
    for one, of in ((theirs, model), (place, base)):
        if floating[0] and (one.kind or one.dtype not in FLOATS):
            raise CheckpointError(
                f"{name} of {of.name} is stored as {one.kind or one.dtype}, which is quantized: expected "
                f"{', '.join(FLOATS)}. Dequantize it first"
            )
