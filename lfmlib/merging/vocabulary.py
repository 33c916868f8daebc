"""Vocabularies that grew: the rows that base and model have in common stand for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.names import matched
from ..checkpoints.stored import Stored, dtype_name
from ..notices import warn


@dataclass(frozen=True)
class Overlaid(Stored):
    """A model's first rows laid over those of the base; where the base has more, the others are the base's."""

    theirs: Stored
    base: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the base's."""
        return tuple(self.base.shape)

    @property
    def dtype(self) -> str:
        """A dtype that holds the values of both."""
        return dtype_name(torch.promote_types(*(getattr(torch, one.dtype) for one in (self.theirs, self.base))))

    @property
    def remote(self) -> bool:
        """Whether one of the two is in a remote file."""
        return self.theirs.remote or self.base.remote

    def load(self) -> torch.Tensor:
        """The tensor, in memory of its own."""
        found = self.base.load().cpu().to(getattr(torch, self.dtype), copy=True)
        rows = min(self.theirs.shape[0], len(found))
        found[:rows] = self.theirs.load()[:rows].cpu()
        return found


def common_rows(base: Checkpoint, model: Checkpoint) -> Checkpoint:
    """A model whose embeddings and head have as many rows as those of the base, told in a warning.

    Tensors are paired by their names; those are laid over each other that differ in nothing but rows: matrices that
    embed, and what else has one row or value for each of these rows, such as a head and its bias. A head of other
    classes is no vocabulary. Whether equal rows are equal tokens is for the caller to know.
    """
    pairs = matched(dict.fromkeys(base.stored, ()), dict.fromkeys(model.stored, ()))
    grown = {
        name: other
        for name, other in pairs.items()
        if len(shape := base.stored[other].shape) and model.stored[name].shape[1:] == shape[1:]
        and model.stored[name].shape[:1] != shape[:1]
    }  # fmt: skip
    roles = {info.name: info.role for info in base.tensors}
    counts = {
        _rows(model.stored[name], base.stored[other])
        for name, other in grown.items()
        if len(base.stored[other].shape) == 2 and roles.get(other) == "embed"
    }
    made: dict[str, Stored] = {
        name: Overlaid(model.stored[name], base.stored[other])
        for name, other in grown.items()
        if _rows(model.stored[name], base.stored[other]) in counts
    }
    if not made:
        return model
    told = ", ".join(f"{name} ({model.stored[name].shape[0]:,}, of {one.shape[0]:,})" for name, one in made.items())
    warn(
        f"{model.name} has other numbers of rows than {base.name}: {told}. What they have in common is merged, and the "
        "rest is as in the base"
    )
    return _with(model, made)


def _rows(theirs: Stored, base: Stored) -> tuple[int, int]:
    return theirs.shape[0], base.shape[0]


def _with(model: Checkpoint, made: Mapping[str, Stored]) -> Checkpoint:
    """The model with these tensors in place of those it has."""
    tensors = [
        replace(info, shape=made[info.name].shape, numel=math.prod(made[info.name].shape), dtype=made[info.name].dtype)
        if info.name in made
        else info
        for info in model.tensors
    ]
    parts = {
        name: replace(part, shape=made[name].shape) if name in made and part.stop is None else part
        for name, part in model._parts.items()
    }
    return replace(model, tensors=tensors, _parts=parts, _stored={**model.stored, **made})
