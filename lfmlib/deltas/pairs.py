"""A base and its fine-tunes: opening them, whether they are kin, and which tensor of one belongs to which of another.

Tensors are paired by name, through other prefixes, and in another layout.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.checkpoint import Checkpoint, CheckpointError, TensorInfo, open_checkpoint
from ..checkpoints.names import prefixes
from ..checkpoints.state_dicts import BESIDE
from ..surveys.run import matrices

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Types whose values can be added; smaller ones are quantized."""
CONSTANT = re.compile(r"(^|\.)(position_ids|token_type_ids|attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq)$")
"""Names of what is stored beside weights, such as masks, by some versions of a library and not by others; a bias with
one axis is a weight."""

GROWN = 'Resize one to the other’s first, or merge what they have in common by vocabulary="common"'
"""What to do where a vocabulary grew."""
MIN_KINSHIP = 0.2
"""Median correlation of W and W₀ below which two checkpoints are no fine-tune of one another."""
KINSHIP_MATRICES, KINSHIP_ROWS = 16, 64
"""Matrices, and rows of each, in which W and W₀ are correlated before anything is measured or written."""


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


def opened(
    base, tuned: Any, *, revision: str | None = None, whole: bool = False
) -> tuple[Checkpoint, list[Checkpoint]]:
    """A base and the models that were tuned from it, opened; an adapter is laid over the base.

    Args:
        base: anything `open_checkpoint` takes.
        tuned: such a model or the folder of an adapter that peft saved (LoRA, DoRA, noise), or a list of these.
        revision: of ``tuned``, if it is a hub id.
        whole: an adapter's model holds what the adapter leaves alone as well, as it is in the base.

    Raises:
        ValueError: no tuned model, or one side holds factors of an adapter, not a model.
        FileNotFoundError, CheckpointError: from `open_checkpoint`, and from `lfmlib.deltas.adapted.adapted`.
    """
    one = isinstance(tuned, str | Path | Checkpoint | Mapping | torch.nn.Module)
    sources = [tuned] if one else list(tuned)
    if not sources:
        raise ValueError("no tuned model was given: expected at least one, beside the base")
    base = open_checkpoint(base)
    _refuse_factors(base, "base")
    models = []
    for source in sources:
        if isinstance(source, str | Path) and (Path(source).expanduser() / "adapter_config.json").is_file():
            from . import adapted  # imports peft, which takes seconds

            models.append(adapted.adapted(base, source, whole=whole))
            continue
        models.append(open_checkpoint(source, revision=revision))
        _refuse_factors(models[-1], "tuned model")
    return base, models


def _refuse_factors(checkpoint: Checkpoint, side: str) -> None:
    names = [*(info.name for info in checkpoint.tensors), *checkpoint.skipped]
    if factors := [
        name for name in names if ".lora_" in name and not checkpoint.skipped.get(name, "").startswith("a p")
    ]:
        raise ValueError(
            f"the {side} ({checkpoint.name}) holds factors of an adapter, such as {factors[0]}: "
            "expected a model as the base, and as the tuned model the adapter's folder, with adapter_config.json"
        )


def akin(base, tuned) -> None:
    """Raise ValueError where the tuned model is no fine-tune of the base, by names, shapes and some rows.

    Args:
        base, tuned: as for `lfmlib.compare`. Rows are looked at where these are at hand.
    """
    base, (tuned,) = opened(base, tuned)
    pairs, _ = pair(base, tuned)
    if base.traffic is None and tuned.traffic is None:
        refuse_strangers(base, tuned, [partial(read_pair, one, tuned, base) for one in pairs])


def refuse_strangers(
    base: Checkpoint, tuned: Checkpoint, pairs: Sequence[Callable[[], tuple[torch.Tensor, torch.Tensor]]]
) -> None:
    """Raise ValueError where W and W₀ correlate no more than those of unrelated models do.

    Args:
        base, tuned: for their names.
        pairs: each loads a W and its W₀, laid over each other; some of them are looked at. What cannot be read is left
            to whoever measures it.
    """
    found = []
    for load in pairs[:: max(1, -(-len(pairs) // KINSHIP_MATRICES))]:
        with suppress(OSError, CheckpointError):
            found.append(kinship(*load()))
    if found and (middle := float(np.median(found))) < MIN_KINSHIP:
        raise ValueError(
            f"the tuned model ({tuned.name}) is no fine-tune of the base ({base.name}): their matrices correlate by "
            f"{middle:.3f} in the median, as unrelated models do; expected at least {MIN_KINSHIP}. Name the model it "
            "was fine-tuned from"
        )


def kinship(new: torch.Tensor, old: torch.Tensor) -> float:
    """Correlation of some rows of W and W₀, of values that are finite in both; 1 where one side is constant."""
    a, b = (w[:: max(1, len(w) // KINSHIP_ROWS)].double().flatten() for w in (new, old))
    finite = a.isfinite() & b.isfinite()
    a, b = a[finite] - a[finite].mean(), b[finite] - b[finite].mean()
    norm = float(a.norm() * b.norm())
    return float(a @ b) / norm if norm > 0 else 1.0


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


def read_pair(one: Pair, tuned: Checkpoint, base: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """W and W₀ of a pair, laid over each other; of square ones the values tell whether one is stored transposed."""
    new, old = tuned.read(one.tuned), base.read(one.base)
    square = old.shape[0] == old.shape[1]
    if one.transposed or (square and kinship(new, old) < MIN_KINSHIP <= kinship(new, old.T)):
        old = old.T
    return (new, old) if one.rows is None else (new[: one.rows], old[: one.rows])


def partners(base: Checkpoint, model: Checkpoint) -> dict[str, Callable[[], torch.Tensor]]:
    """For every tensor stored in the base, how that of the model is loaded which stands in its place.

    Of tensors that the model has beside these, a warning is given.

    Raises:
        ValueError: the model lacks some, or has them in another shape or of another kind.
        CheckpointError: something is stored that has no values to add.
    """
    known, own = base.stored, model.stored
    for one in (base, model):
        if odd := [name for name, why in one.skipped.items() if not why.startswith(("tied to", "a buffer", BESIDE))]:
            why, piece = one.skipped[odd[0]], one.skipped[odd[0]].startswith(("quantized", "a piece of"))
            raise CheckpointError(
                f"{odd[0]} of {one.name} cannot be added: {why}{'. Dequantize it first' if piece else ''}"
            )
    tied = {name: why.removeprefix("tied to ") for name, why in model.skipped.items() if why.startswith("tied to ")}
    before, after = prefixes(known, own)
    names = {before + name.removeprefix(after): name for name in [*own, *tied] if name.startswith(after)}
    names |= {name: name for name in [*own, *tied]}
    wanted = {name: place for name, place in known.items() if name in names or not _constant(name, place)}
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(
            f"{model.name} lacks {len(missing)} of the {len(known)} tensors of {base.name}, such as {missing[0]}; it "
            f"has {next(iter(own))} …: expected a model that was tuned from that base"
        )
    taken = {name: tied.get(names[name], names[name]) for name in wanted}
    for name, partner in taken.items():
        _same_kind(name, known[name], own[partner], base, model)
    if extra := [name for name in own if name not in taken.values()]:
        warnings.warn(
            f"{len(extra)} tensors of {model.name} are not in the base, and are left out: {', '.join(extra[:3])}"
            f"{' …' if len(extra) > 3 else ''}",
            stacklevel=3,
        )
    theirs = {name: own[partner].load for name, partner in taken.items()}
    return {name: theirs.get(name, place.load) for name, place in known.items()}


def _constant(name: str, place) -> bool:
    """Whether a tensor is no weight, so that a model may lack it: it is as in the base then."""
    floating = getattr(torch, place.dtype).is_floating_point
    return not floating or (len(place.shape) != 1 and CONSTANT.search(name) is not None)


def _same_kind(name: str, place, theirs, base: Checkpoint, model: Checkpoint) -> None:
    """Raise what `partners` raises of one tensor."""
    if math.prod(place.shape) == math.prod(theirs.shape) == 1 and not getattr(torch, place.dtype).is_floating_point:
        return  # a counter, which nothing is added to
    if theirs.shape != place.shape:
        grown = len(place.shape) == 2 and theirs.shape[1:] == place.shape[1:]
        why = f"their vocabularies differ. {GROWN}" if grown else "they are not of one kind"
        raise ValueError(f"{name} is {theirs.shape} in {model.name}, and {place.shape} in {base.name}: {why}")
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


def _fit(old: TensorInfo, new: TensorInfo) -> Pair | str:
    """How two matrices are laid over each other, or why they cannot be."""
    if old.shape == new.shape:
        return Pair(old.name, new.name)
    if old.shape == new.shape[::-1]:
        return Pair(old.name, new.name, transposed=True)
    if old.shape[1] == new.shape[1] and old.role in ("embed", "head") and new.role in ("embed", "head"):
        return Pair(old.name, new.name, rows=min(old.shape[0], new.shape[0]))
    return f"of shape {new.shape}, and {old.name} of {old.shape}"
