"""Fused and split tensors under one set of names: a q, k, v or a stack of experts that another checkpoint stores apart.

Where names and shapes alone do not tell how a fused tensor is cut, the shapes of the tensors on the other side do, and
where these leave several ways, the values. One whose parts are like those on the other side in no way is left out.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.names import matched
from ..checkpoints.roles import MAX_EXPERTS
from ..checkpoints.slices import Part
from ..checkpoints.stored import Stored
from .kin import MIN_KINSHIP, kinship

SHARES = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
"""Roles of fused tensors, and of what is in them."""
FUSED = {"W_pack": "qkv", "wqkv": "qkv"}
"""Last words of fused tensors whose layout is never certain, so that they have no role (Baichuan, InternLM2)."""
ROLES = {role for some in SHARES.values() for role in some} | {"down"}
"""Roles by which tensors are called that some checkpoints store fused or stacked, in place of their own last word."""
SURE = 0.9
"""Correlation of all parts of a fused tensor with those on the other side from which no other layout is tried."""
_EXPERTS = re.compile(r"(?:^|\.)experts\.\w+$")
_END = re.compile(r"[._](?:weight|bias)$")


@dataclass(frozen=True)
class Piece:
    """A tensor that some checkpoint may store apart.

    Attributes:
        part: where it lies.
        shape: its shape; () where ``part`` holds others as well and it is not known how these are cut.
    """

    part: Part
    shape: tuple[int, ...]


def pieces(checkpoint: Checkpoint) -> dict[str, Piece]:
    """Every smallest tensor that is stored, or that another checkpoint may store, by a name that both have."""
    parts: dict[str, list[Part]] = {}
    for part in checkpoint._parts.values():
        parts.setdefault(part.stored, []).append(part)
    found: list[tuple[str, str, Piece]] = []
    for name, entry in checkpoint.stored.items():
        own, shape = parts.get(name, []), tuple(entry.shape)
        if not any(part.transposed or part.stop or part.expert is not None for part in own):
            own = [replace(part, shape=shape) for part in own] or [Part(name, name, shape)]  # as it is stored now
        end = "weight"
        if bias := _of_bias(name, shape, parts):
            own, end = bias, "bias"
        found += [(key, part.name, piece) for part in own for key, part, piece in _named(part, end)]
    count = Counter(key for key, *_ in found)
    return {key if count[key] == 1 else name: piece for key, name, piece in found}


def _of_bias(name: str, shape: tuple[int, ...], parts: dict[str, list[Part]]) -> list[Part]:
    """A bias, or a stack of them, cut as its weight is; nothing of any other tensor."""
    if not name.endswith("bias"):
        return []
    weight = parts.get(f"{name[:-4]}weight") or parts.get(name[:-5], [])
    cut = [replace(part, name=name + part.name[len(part.stored) :], stored=name, shape=part.shape[:1], transposed=False)
           for part in weight if len(part.shape) == 2]  # fmt: skip
    lengths = [math.prod(part.shape) for part in cut]
    return cut if sum(lengths) == math.prod(shape) else []


def _named(part: Part, end: str) -> Iterator[tuple[str, Part, Piece]]:
    """The names of what is in a part, each with the smallest part that is known to hold it."""
    stem = _END.sub("", part.stored)
    home, _, last = stem.rpartition(".")
    role = FUSED.get(last, part.role) if part.stop is None else part.role
    roles = SHARES.get(role, (role,))
    if len(part.shape) == 3 and _EXPERTS.search(stem) and part.shape[0] <= MAX_EXPERTS:
        experts = [
            replace(part, name=f"{part.name}[{i}]", shape=part.shape[1:], expert=i) for i in range(part.shape[0])
        ]
    else:
        experts = [part]
    for one, each in itertools.product(experts, roles):
        if each not in ROLES:
            yield part.name, part, Piece(part, part.shape)
            continue
        number = "" if one.expert is None else f"{one.expert}."
        known = one is part and len(roles) == 1
        yield f"{home}{'.' if home else ''}{number}{each}.{end}", one, Piece(one, one.shape if known else ())


def alike(base: Checkpoint, tuned: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Two checkpoints, with what one of them stores fused cut as the other stores it apart."""
    sides = [(one, pieces(one)) for one in (base, tuned)]
    if all(piece.shape for _, some in sides for piece in some.values()):
        return base, tuned
    (_, known), (_, wanted) = sides
    shapes = [{key: piece.shape for key, piece in some.items()} for some in (known, wanted)]
    pairs = matched(shapes[0], shapes[1])
    back = {key: name for name, key in pairs.items()}
    return _cut(*sides[0], *sides[1], back), _cut(*sides[1], *sides[0], pairs)


def _cut(
    checkpoint: Checkpoint, own: dict[str, Piece], other: Checkpoint, theirs: dict[str, Piece], pairs: dict[str, str]
) -> Checkpoint:
    """One of the two, cut as the other; ``pairs`` gives the names in the other."""
    fused: dict[Part, list[str]] = {}
    for key, piece in own.items():
        if not piece.shape and len(piece.part.shape) == 2:
            fused.setdefault(piece.part, []).append(key)
    made: dict[str, list[Part]] = {}
    whole: set[str] = set()
    unlike: dict[str, str] = {}
    usual: dict[str, _Layout] = {}
    for part, keys in fused.items():
        partners = [theirs[pairs[key]] for key in keys if key in pairs]
        if len(partners) < len(keys) or not all(one.shape for one in partners):
            whole.add(part.stored)
            continue
        loads = [(one.part, other.stored[one.part.stored]) for one in partners]
        roles = [key.split(".")[-2] for key in keys]
        last = _END.sub("", part.stored).rpartition(".")[2]
        layout, likeness = _layout(part, checkpoint.stored[part.stored], roles, loads, usual.get(last))
        if layout is None:
            whole.add(part.stored)
        elif likeness < MIN_KINSHIP:
            unlike[part.stored] = (
                f"fused, in an order that is not known: however {', '.join(roles)} are cut out of it, one correlates "
                f"by {likeness:.2f} at most with that of {other.name}. Split it first, as {other.name} is"
            )
        else:
            usual[last] = layout
            cut = _pieces(part, roles, [one.shape[0] for one, _ in loads], layout)
            made.setdefault(part.stored if part.name not in checkpoint._parts else part.name, []).extend(cut)
    made = {name: cut for name, cut in made.items() if not {part.stored for part in cut} & (whole | unlike.keys())}
    checkpoint = _without(checkpoint, unlike) if unlike else checkpoint
    return _with_parts(checkpoint, made) if made else checkpoint


def _without(checkpoint: Checkpoint, unlike: dict[str, str]) -> Checkpoint:
    """The checkpoint without these stored tensors, and why."""
    kept = {name: part for name, part in checkpoint._parts.items() if part.stored not in unlike}
    return replace(
        checkpoint,
        tensors=[info for info in checkpoint.tensors if info.name in kept],
        skipped=checkpoint.skipped | unlike,
        _parts=kept,
        _stored={name: one for name, one in checkpoint.stored.items() if name not in unlike},
    )


class _Layout(NamedTuple):
    """How parts lie in a fused tensor: in which order, in how many groups of rows, and whether it is transposed."""

    order: tuple[int, ...]
    transposed: bool
    groups: int


def _layout(
    part: Part, entry: Stored, roles: list[str], others: Sequence[tuple[Part, Stored]], usual: _Layout | None
) -> tuple[_Layout | None, float]:
    """The layout in which the parts of a fused tensor are most alike to ``others``, and the correlation of that which
    is least alike, 1 where nothing had to be compared; None: no layout has their shapes. Other orders than the usual
    one are tried where that leaves a part unlike."""
    rows, widths = [one.shape[0] for one, _ in others], {one.shape[1] for one, _ in others}
    ways = [part.transposed, not part.transposed] if part.expert is not None else [part.transposed]
    fitting = [way for way in ways if _turned(part, way).shape == (sum(rows), *widths)]
    numbers = range(1, math.gcd(*rows) + 1) if len(rows) > 1 else [1]
    groups = [number for number in numbers if math.gcd(*rows) % number == 0]
    best, highest = None, -math.inf
    values = [one.load(stored) for one, stored in others] if len(rows) > 1 or len(fitting) > 1 else []
    for order in itertools.permutations(range(len(rows))):
        layouts = [_Layout(order, way, number) for number in groups for way in fitting]
        for layout in sorted(layouts, key=lambda one: one != usual):
            cut = _pieces(part, roles, rows, layout)
            alike = min((kinship(one.load(entry), new) for one, new in zip(cut, values, strict=False)), default=1.0)
            if alike > highest:
                best, highest = layout, alike
            if alike > SURE:
                return best, highest
        if highest >= MIN_KINSHIP:
            break
    return best, highest if len(rows) > 1 else 1.0


def _turned(part: Part, transposed: bool) -> Part:
    return part if transposed == part.transposed else replace(part, shape=part.shape[::-1], transposed=transposed)


def _pieces(part: Part, roles: list[str], rows: list[int], layout: _Layout) -> list[Part]:
    """A part cut into as many rows for each role, in a layout."""
    part = _turned(part, layout.transposed)
    if len(roles) == 1:
        return [replace(part, role=roles[0])]
    each, start = {}, 0
    for place in layout.order:
        stop = start + rows[place] // layout.groups
        each[place] = replace(
            part, name=f"{part.name}[{roles[place]}]", role=roles[place], shape=(rows[place], part.shape[1]),
            groups=layout.groups, start=start, stop=stop,
        )  # fmt: skip
        start = stop
    return [each[place] for place in range(len(rows))]


def _with_parts(checkpoint: Checkpoint, made: dict[str, list[Part]]) -> Checkpoint:
    """The checkpoint with these tensors listed as their parts."""
    tensors, places = [], {}
    for info in checkpoint.tensors:
        cut = made.get(info.name)
        for part in cut or [checkpoint._parts[info.name]]:
            numel = math.prod(part.shape)
            tensors.append(
                replace(info, name=part.name, shape=part.shape, role=part.role, numel=numel) if cut else info
            )
            places[part.name] = part
    return replace(checkpoint, tensors=tensors, _parts=places)


@dataclass(frozen=True)
class Assembled:
    """A call that loads a stored tensor's values from the tensors of another checkpoint that hold its parts.

    Attributes:
        shape: of the stored tensor.
        parts: each of its parts, where that lies in the other checkpoint, and the tensor that is stored there.
    """

    shape: tuple[int, ...]
    parts: tuple[tuple[Part, Part, Stored], ...]

    def __call__(self) -> torch.Tensor:
        """The values, in the layout of the stored tensor."""
        values = [source.load(entry) for _, source, entry in self.parts]
        dtype = max((one.dtype for one in values), key=lambda dtype: (dtype.itemsize, str(dtype)))
        whole = torch.empty(self.shape, dtype=dtype)
        for (target, *_), one in zip(self.parts, values, strict=True):
            place = target.in_stored_order(whole)
            place.copy_((one.mT if target.transposed else one).reshape(place.shape))
        return whole


def cut_alike(one: Part, other: Part) -> bool:
    """Whether two parts lie alike in what is stored."""
    return all(
        getattr(one, name) == getattr(other, name) for name in ("expert", "transposed", "groups", "start", "stop")
    )
