"""ONNX files: list the weights of a model by the names and in the orientation that its modules have.

Nothing of the values is read but where two tensors would get one name, whether they are the same. The walk through the
file is in `onnx_wire`, where values lie in `onnx_tensors`, names and orientation in `onnx_graph`, codes and scales in
`onnx_quantized`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..extras import need
from .onnx_graph import Uses
from .onnx_quantized import Joined, join
from .onnx_tensors import check_apart, stored
from .onnx_wire import read_graph
from .stored import CheckpointError, Stored, check_readable, stamp_of

CONSTANT = "a constant of the graph, which no layer uses as its weight"
MAX_TABLES = 4  # of one shape, with which what may be a tied head is compared
COMPARED_VALUES = 1 << 20  # at a time, of two tensors that would get one name


def read_onnx(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """List the weights of an ONNX file, in its order: name → `Stored`, and name → reason for those not read.

    Raises CheckpointError, FileNotFoundError.
    """
    check_readable(path, "an ONNX file")
    need("onnx", "an ONNX file")
    stamp = stamp_of(path)
    try:
        with open(path, "rb", buffering=0) as file:
            graph = Uses(read_graph(file, stamp[0]))
        held = {name: stored(name, one, path, stamp) for name, one in graph.tensors.items()}
        entries = {name: one for name, one in held.items() if isinstance(one, Stored)}
        same = check_apart(entries)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(
            f"{path} ({stamp[0]} bytes) is not a sound ONNX file ({error}): it is truncated, damaged or of another "
            "kind. Download it again, or export the model again."
        ) from error
    unread = {name: one for name, one in held.items() if isinstance(one, str)}
    return _named(graph, entries, unread, same)


def _named(graph: Uses, entries: dict[str, Stored], unread: dict[str, str], same: dict[str, str]) -> tuple[dict, dict]:
    """The tensors of a graph under the names of parameters; result as of `read_onnx`."""
    joined = join(graph, entries, unread)
    wanted: dict[str, list[str]] = {}
    made, left_out = {}, dict.fromkeys(graph.sparse, "sparse, and not read")
    for name in graph.tensors:
        if name in graph.constants and len(graph.tensors[name].header.dims) < 2 and name not in joined.found:
            continue  # a number or a shape that an operator takes
        if reason := _reason(name, joined, unread):
            left_out[name] = reason
            continue
        entry: Any = joined.found.get(name, entries[name])
        first = graph.inputs_first(name) if len(entry.shape) > 1 else False
        called = graph.name_of(name, _outputs(entry.shape, first))
        if called is None:
            left_out[name] = CONSTANT
            continue
        made[name] = replace(entry, inputs_first=True) if first else entry
        wanted.setdefault(called, []).append(name)
    called = {}
    for name, some in wanted.items():
        known = sorted(some, key=lambda one: one != name)  # what bears the name itself comes first
        copies = [one for one in known[1:] if same.get(one) == known[0] or is_copy(made[one], made[known[0]])]
        left_out |= dict.fromkeys(copies, f"a copy of {name}")
        alone = [one for one in known if one not in copies]
        called |= {one: name if len(alone) == 1 or one == name else one for one in alone}
    for one, first in same.items():
        if one in called and first in called and made[one].shape == made[first].shape:
            left_out[one] = f"a copy of {called[first]}"
            del called[one]
    tables: dict[tuple[int, ...], list[str]] = {}
    for one in called:
        if len(made[one].shape) == 2 and graph.is_table(one):
            tables.setdefault(_swapped(made[one].shape), []).append(one)
    for one in [one for one in called if made[one].inputs_first and called[one] != one]:
        near = tables.get(made[one].shape, [])[:MAX_TABLES]
        if table := next((table for table in near if is_copy(made[one], made[table])), None):
            left_out[one] = f"tied to {called[table]}"
            del called[one]
    for alias, name in graph.aliases.items():
        if name in called and graph.name_of(alias, None) == alias:
            left_out[alias] = f"tied to {called[name]}"
    left_out |= {piece: f"a piece of {called.get(codes, codes)}" for piece, codes in joined.pieces.items()}
    found = {called[name]: one for name, one in made.items() if name in called}
    return found, {name: reason for name, reason in left_out.items() if name not in found}


def _reason(name: str, joined: Joined, unread: Mapping[str, str]) -> str:
    """Why a tensor is not listed; "" for one that may be."""
    if name in joined.refused:
        return joined.refused[name]
    if name in joined.pieces:
        return f"a piece of {joined.pieces[name]}"
    if name in unread:
        return unread[name]
    return "a scale or zero point of what the model computes" if name in joined.beside else ""


def _outputs(shape: tuple[int, ...], inputs_first: bool) -> int | None:
    """How many outputs a weight has; None for a vector."""
    if len(shape) < 2:
        return None
    return shape[-1] if inputs_first else shape[0]


def is_copy(one: Stored, other: Stored) -> bool:
    """Whether two tensors hold the same values, bit by bit, one of them transposed perhaps."""
    turned = one.inputs_first != other.inputs_first
    if one.dtype != other.dtype or one.shape != (_swapped(other.shape) if turned else other.shape):
        return False
    if not math.prod(one.shape) or not one.shape:
        return not one.shape and torch.equal(*(entry.load().reshape(1).view(torch.uint8) for entry in (one, other)))
    values = [entry.load() for entry in (one, other)]
    first, second = values[0], values[1].mT if turned else values[1]
    rows = max(1, COMPARED_VALUES // (math.prod(one.shape) // one.shape[0]))
    return all(
        torch.equal(*(values[at : at + rows].contiguous().view(torch.uint8) for values in (first, second)))
        for at in range(0, one.shape[0], rows)
    )


def _swapped(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], *shape[:-3:-1])


def apart(
    listings: list[tuple[dict[str, Stored], dict[str, str]]], prefixes: list[str]
) -> list[tuple[dict[str, Stored], dict[str, str]]]:
    """Listings of the files of one model, in which no name stands twice.

    Of a name that two files have, the first counts where the values are the same, as those of an embedding that encoder
    and decoder share; else, and of what is not read, each gets its file's prefix.
    """
    seen: dict[str, Stored] = {}
    twice: set[str] = set()
    copies: set[str] = set()
    for found, _ in listings:
        for name in found.keys() & seen.keys():
            (copies if is_copy(found[name], seen[name]) else twice).add(name)
        seen = found | seen
    told = Counter(name for listing in listings for name in listing[1])
    twice |= {name for name, count in told.items() if count > 1}
    made = []
    for (found, left_out), prefix in zip(listings, prefixes, strict=True):
        kept = {f"{prefix}{name}" if name in twice else name: one for name, one in found.items()}
        left = {f"{prefix}{name}" if name in twice else name: why for name, why in left_out.items()}
        if made:
            left |= {f"{prefix}{name}": f"a copy of {name}" for name in copies - twice if kept.pop(name, None)}
        made.append((kept, left))
    return made
