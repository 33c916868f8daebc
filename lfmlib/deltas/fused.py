"""Fused and split tensors under one set of names: a q, k, v or a stack of experts that another checkpoint stores apart.

Where names and shapes alone do not tell how a fused tensor is cut, the shapes of the tensors on the other side do, and
where these leave several ways, the values.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.names import matched
from ..checkpoints.roles import MAX_EXPERTS
from ..checkpoints.slices import Part
from ..checkpoints.stored import Stored
from .kin import kinship

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
    usual: dict[str, tuple[bool, int]] = {}
    for part, keys in fused.items():
        partners = [theirs[pairs[key]] for key in keys if key in pairs]
        if len(partners) < len(keys) or not all(one.shape for one in partners):
            whole.add(part.stored)
            continue
        loads = [(one.part, other.stored[one.part.stored]) for one in partners]
        roles = [key.split(".")[-2] for key in keys]
        last = _END.sub("", part.stored).rpartition(".")[2]
        cut = _layout(part, checkpoint.stored[part.stored], roles, loads, usual.get(last))
        if not cut:
            whole.add(part.stored)
            continue
        usual[last] = (cut[0].transposed, cut[0].groups)
        made.setdefault(part.stored if part.name not in checkpoint._parts else part.name, []).extend(cut)
    made = {name: cut for name, cut in made.items() if not {part.stored for part in cut} & whole}
    return _with_parts(checkpoint, made) if made else checkpoint


def _layout(
    part: Part, entry: Stored, roles: list[str], others: Sequence[tuple[Part, Stored]], usual: tuple[bool, int] | None
) -> list[Part]:
    """The parts of a fused one that lie on ``others``, in the layout whose values are most alike; empty: none fits."""
    rows, widths = [one.shape[0] for one, _ in others], {one.shape[1] for one, _ in others}
    ways = [part.transposed, not part.transposed] if part.expert is not None else [part.transposed]
    fitting = [way for way in ways if _turned(part, way).shape == (sum(rows), *widths)]
    numbers = range(1, math.gcd(*rows) + 1) if len(rows) > 1 else [1]
    layouts = [(way, groups) for groups in numbers if math.gcd(*rows) % groups == 0 for way in fitting]
    layouts.sort(key=lambda one: one != usual)
    best: list[Part] = []
    highest = -math.inf
    values = [one.load(stored) for one, stored in others] if len(layouts) > 1 else []
    for way, groups in layouts:
        cut = _pieces(_turned(part, way), roles, rows, groups)
        alike = min((kinship(one.load(entry), new) for one, new in zip(cut, values, strict=False)), default=1.0)
        if alike > highest:
            best, highest = cut, alike
        if alike > SURE:
            break
    return best


def _turned(part: Part, transposed: bool) -> Part:
    return part if transposed == part.transposed else replace(part, shape=part.shape[::-1], transposed=transposed)


def _pieces(part: Part, roles: list[str], rows: list[int], groups: int) -> list[Part]:
    """A part cut into as many rows for each role, in so many equal groups."""
    if len(roles) == 1:
        return [replace(part, role=roles[0])]
    stops = list(itertools.accumulate(count // groups for count in rows))
    return [
        replace(part, name=f"{part.name}[{role}]", role=role, shape=(count, part.shape[1]), groups=groups,
                start=stop - count // groups, stop=stop)
        for role, count, stop in zip(roles, rows, stops, strict=True)
    ]  # fmt: skip


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
