"""One tensor of a merge: what becomes of the base's and the models' values, a block at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..checkpoints.remote import prefetched
from ..checkpoints.stored import Stored
from ..deltas.partners import FLOATS
from . import methods
from .shard_writer import Entry

PIECE = 1 << 22
"""Values that are written at a time; what is random is drawn piece by piece, so another number is another merge."""
BLOCK = 1 << 17
"""Values that are computed at a time where nothing is drawn, so that what is between reading and writing stays in a
core's cache. (Of more than four models the last digit may depend on it, as PyTorch's order of adding does.)"""


@dataclass
class Plan:
    """What is merged, and how; it can be pickled."""

    base: dict[str, Stored]
    tuned: list[dict[str, Callable[[], torch.Tensor]]]  # for each model: name in the base → how its tensor is loaded
    method: str
    coefficients: list[float]  # what each ΔW is multiplied with
    density: float
    epsilon: float | None
    factor: float | str
    project: str | None
    dtype: str | None
    seed: int
    threads: int

    @property
    def draws(self) -> bool:
        """Whether every piece draws random numbers; all of torch has one generator."""
        return self.method in methods.RANDOM and self.method not in methods.WHOLE

    def only(self, names: Iterable[str]) -> Callable[[str], Iterator[torch.Tensor]]:
        """`pieces` of these tensors: the less that travels to a worker, the better."""
        names = list(names)
        some = {name: self.base[name] for name in names}
        return replace(self, base=some, tuned=[{name: one[name] for name in names} for one in self.tuned]).pieces

    def entry(self, name: str) -> Entry:
        """How a tensor of the base is written."""
        one = self.base[name]
        return Entry(name, one.shape, self.dtype if self.dtype and one.dtype in FLOATS else one.dtype)

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """The merged tensor, flat, in the dtype it is written in."""
        start, models = values(name, self.base, self.tuned)
        if not start.is_floating_point():
            return iter([start])
        calls = Merged(self, name, start, models).pieces()
        if self.threads == 1 or self.draws:
            return (call() for call in calls)
        return prefetched(calls, self.threads)


class Merged:
    """One tensor of a merge: base and models as flat values, and what becomes of them, block by block."""

    def __init__(self, plan: Plan, name: str, start: torch.Tensor, models: list[torch.Tensor]):
        self.plan, self.entry, self.start, self.models = plan, plan.entry(name), start, models
        self.size = len(start)
        self.wide = torch.float64 if any(one.dtype == torch.float64 for one in (start, *models)) else torch.float32
        self.block = PIECE if plan.draws else BLOCK
        whole = plan.method in methods.WHOLE
        # One after the other: each takes several times its own memory.
        self.trimmed = self._kept() if whole else []
        self.mixed = self._mix() if plan.method in methods.MIXING else None
        shape = self.entry.shape
        matrix = len(shape) in (2, 3) and min(shape) > 1 and self.size > 0  # or a stack of them, of experts
        self.project = plan.project if matrix else None
        amplify = matrix and plan.factor != 1
        self.held = None
        if self.size and (self.project or plan.factor == "auto" or (amplify and whole)):  # seen whole, or again
            self.held = torch.cat([self._combined(first) for first in self._firsts()])
        self.factor, self.cut = self._amplification() if amplify else (1.0, math.inf)

    def pieces(self) -> Iterator[Callable[[], torch.Tensor]]:
        """Calls that each give the next values to write."""
        if self.project:
            yield partial(self._projected, self.project)
            return
        for first in range(0, self.size, PIECE):
            yield partial(self._piece, first, min(first + PIECE, self.size))

    def _firsts(self) -> range:
        return range(0, self.size, self.block)

    def _delta(self, model: torch.Tensor, part: slice = slice(None)) -> torch.Tensor:
        new, old = model[part].to(self.wide), self.start[part].to(self.wide)
        delta = new - old
        if not math.isfinite(delta.sum()):  # of infinite values, as masks have them
            delta[new == old] = 0
        return delta

    def _kept(self) -> list[torch.Tensor]:
        """What a method that sees tensors whole keeps of each ΔW."""
        plan = self.plan
        if plan.method == "ties":
            return [methods.trimmed(self._delta(one), plan.density) for one in self.models]
        drawn, shape = methods.drawing(f"{plan.seed}/{self.entry.name}/0"), self.entry.shape
        deltas = (self._delta(one).view(shape) for one in self.models)
        return [methods.thinned(one, plan.density, plan.epsilon, drawn).flatten() for one in deltas]

    def _mix(self) -> tuple[float, float]:
        """What base and model are multiplied with, by a method that takes these themselves."""
        products = [0.0] * 3
        for first in self._firsts():
            old, new = (one[first : first + self.block].double() for one in (self.start, *self.models))
            if not math.isfinite(old.sum() + new.sum()):  # as in a mask; these say nothing of the direction
                finite = old.isfinite() & new.isfinite()
                old, new = old[finite], new[finite]
            some = (torch.dot(a, b).item() for a, b in ((old, old), (old, new), (new, new)))
            products = [before + one for before, one in zip(products, some, strict=True)]
        return methods.mix(self.plan.method, self.plan.coefficients[0], (products[0], products[1], products[2]))

    def _mixed(self, first: int, of_base: float, of_model: float) -> torch.Tensor:
        """The new weights of a block, by a method that takes base and model themselves."""
        old, new = (one[first : first + self.block].to(self.wide) for one in (self.start, *self.models))
        terms = [share * one for share, one in ((of_base, old), (of_model, new)) if share]  # 0 · ∞ would be NaN
        return terms[0] + terms[1] if len(terms) == 2 else terms[0] if terms else torch.zeros_like(old)

    def _combined(self, first: int) -> torch.Tensor:
        """The merged ΔW of the block that begins with value ``first``, before anything is amplified."""
        if self.held is not None:
            return self.held[first : first + self.block]
        part, plan = slice(first, first + self.block), self.plan
        if self.mixed:
            return self._mixed(first, *self.mixed) - self.start[part].to(self.wide)
        some = [one[part] for one in self.trimmed] or [self._delta(one, part) for one in self.models]
        density = 1.0 if self.trimmed else plan.density
        seed = f"{plan.seed}/{self.entry.name}/{first}"
        return methods.combine(some, plan.method, plan.coefficients, density=density, seed=seed)

    def _amplification(self) -> tuple[float, float]:
        """The factor of the outliers of the merged ΔW, and the magnitude beyond which they lie."""
        cut = methods.cut(self._combined(first) for first in self._firsts())
        if not isinstance(self.plan.factor, str):
            return self.plan.factor, cut
        given = [one for one, weight in zip(self.models, self.plan.coefficients, strict=True) if weight]
        single = [methods.reach(one, methods.cut(one)) for one in map(self._delta, given)]
        assert self.held is not None  # as it is where the factor is "auto"
        return methods.restoring(single, methods.reach(self.held, cut)), cut

    def _new(self, first: int) -> torch.Tensor:
        """The new weights of a block, in the type they are computed in."""
        if self.mixed and math.isinf(self.cut):
            return self._mixed(first, *self.mixed)
        part = self._combined(first)
        old = self.start[first : first + len(part)].to(self.wide)
        return old + (part if math.isinf(self.cut) else methods.amplified(part, self.factor, self.cut))

    def _piece(self, start: int, stop: int) -> torch.Tensor:
        found = torch.empty(stop - start, dtype=getattr(torch, self.entry.dtype))
        for at in range(start, stop, self.block):
            part = self._new(at)[: stop - at]
            found[at - start : at - start + len(part)] = _stored(part, self.entry)
        return found

    def _projected(self, how: str) -> torch.Tensor:
        whole = torch.cat([self._new(first) for first in self._firsts()])
        return _stored(methods.projected(whole, how), self.entry)


def values(
    name: str, base: Mapping[str, Stored], tuned: Sequence[Mapping[str, Callable]]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A tensor of the base, and of every model, flat."""
    return base[name].load().cpu().flatten(), [one[name]().cpu().flatten() for one in tuned]


def _stored(values: torch.Tensor, entry: Entry) -> torch.Tensor:
    """Values in the dtype they are written in; what is too large for it is an error."""
    found = values.to(getattr(torch, entry.dtype))
    if entry.dtype == "float16" and (lost := int((found.isinf() & values.isfinite()).sum())):
        raise ValueError(f'{lost} values of {entry.name} are too large for float16: choose dtype="bfloat16"')
    return found
