"""Open a checkpoint from anywhere: names, shapes, dtypes, roles and depths first; values when asked for."""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from . import sampling
from .addresses import is_address, list_remote, locate_remote, meant
from .gguf_files import read_gguf
from .hub import Located, locate
from .part import Part
from .quantized import resolve
from .remote import Traffic, ahead
from .roles import parts
from .storage import CheckpointError, Held, Stored, read_file, read_mapping

__all__ = ["Checkpoint", "CheckpointError", "TensorInfo", "open_checkpoint"]

CHUNK_BYTES = 32 * 2**20  # large beside a loop's start-up; views on the file, so memory does not limit it
LAZY_BYTES = 8 * 2**20  # of values that are read from elsewhere or computed, several pieces of which are held
COPY_BYTES = 2**20  # where values must be gathered: small enough to stay in the cache, 8 × faster than 32 MiB


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before its values are read.

    `shape` is the logical one, (out, in) for matrices; `dtype` a name such as "bfloat16"; `role`, `depth` and `tower`
    are those of `lfmlib.roles`; `numel` counts values. `quantized` says what the codes are of a tensor whose values are
    computed from codes and scales (see `lfmlib.quantized`); it is empty for all others.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    depth: int | None
    numel: int
    tower: str = ""
    quantized: str = ""


@dataclass(frozen=True, repr=False, eq=False)
class Checkpoint:
    """A checkpoint's tensors, listed; made by `open_checkpoint`.

    It keeps paths and metadata, opens a file only while mapping a tensor, needs no closing, and can be pickled (sent to
    other processes that see the same files; tensors held in memory travel by value).

    Attributes:
        name: short name for titles.
        source: what was opened, in words.
        revision: the hub commit, or None.
        tensors: TensorInfo of each tensor, in file order: by place in the file, shards by name.
        skipped: name → reason, for what is stored or named but not listed in `tensors` (tied duplicates and the like).
        config: content of config.json, or {}.
        files: the weight files; addresses, where they are elsewhere.
        traffic: what was read from elsewhere so far, None for what is here.
    """

    name: str
    source: str
    revision: str | None
    tensors: list[TensorInfo]
    skipped: dict[str, str]
    config: dict
    files: list[Path | str]
    traffic: Traffic | None = None
    _parts: dict[str, Part] = field(default_factory=dict)
    _stored: dict[str, Stored] = field(default_factory=dict)

    def read(self, name: str) -> torch.Tensor:
        """The tensor `name`, in its logical shape; for the stored name of a split tensor, the stored tensor.

        Memory is mapped, not filled: values come from the file as they are touched. Two things are copied instead:
        parts whose rows do not lie in equal steps (head-interleaved q, k, v), and legacy .bin files. The tensor may be
        written to, without effect on the file.

        Raises:
            ValueError: there is no such tensor; the message suggests near names.
            CheckpointError: the file changed since it was opened.
        """
        part = self._part(name)
        return _aligned(part.take(self._stored[part.stored]))

    @property
    def stored(self) -> Mapping[str, Stored]:
        """What lies in the files, by the names there, in their order: ``shape``, ``dtype``, and ``load()``, which maps.

        `tensors` are parts of these: one that holds q, k and v is three there.
        """
        return MappingProxyType(self._stored)

    def origin(self, name: str) -> tuple[Part, Stored]:
        """Which part of which stored tensor `name` is. Raises ValueError as `read` does."""
        part = self._part(name)
        return part, self._stored[part.stored]

    def chunks(
        self, name: str, bytes: int = CHUNK_BYTES, *, start: int = 0, stop: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Yield the tensor's values as flat tensors of at most `bytes` each (at least one value).

        Chunks are views on the mapped file, copies of at most `bytes` where values do not lie together. They follow
        `read(name).flatten()`, except for transposed tensors, which come in stored order. An empty tensor has none.
        With `start` and `stop` only the values between these places are read: a huge tensor can be shared out.

        Raises as `read` does, and ValueError for `bytes` below 1, or places that are not in the tensor.
        """
        if bytes < 1:
            raise ValueError(f"bytes={bytes}: a chunk needs at least 1 byte. Leave it out for {CHUNK_BYTES}.")
        part = self._part(name)
        entry = self._stored[part.stored]
        size = math.prod(part.shape)
        whole, stop = (start, stop) in ((0, None), (0, size)), size if stop is None else stop
        if not 0 <= start <= stop <= size:
            raise ValueError(f"start={start} and stop={stop}: {name!r} has {size} values. Expected 0 ≤ start ≤ stop.")
        if entry.lazy:
            return _lazily(part, entry, bytes, start, stop)
        if not whole:
            return _between(part, entry, bytes, start, stop)
        values = part.unordered(entry.load())
        # A generator of its own, so that a wrong name is reported by the call and not by the first value.
        return (_aligned(piece) for piece in _pieces(values, max(1, bytes // values.element_size())))

    def sample(self, name: str, bytes: int, groups: int = sampling.GROUPS, seed: int = 0) -> list[torch.Tensor]:
        """Values from evenly spread places of a tensor, about `bytes` together; of the rest nothing is read.

        They come in groups, each a flat tensor of pieces spread over the whole (`lfmlib.sampling.ranges`), at places
        drawn from `seed` and the tensor's name. How many pieces there are depends on what one costs: here
        `lfmlib.sampling.SCATTERED`, fewer of a quantized tensor, and from afar one for each group. A tensor that is not
        larger than `bytes` comes whole; one with fewer values than groups in fewer groups.

        Raises as `read` does, and ValueError for `bytes` or `groups` below 1.
        """
        if bytes < 1 or groups < 1:
            raise ValueError(f"bytes={bytes} and groups={groups}: expected at least 1 of both.")
        part = self._part(name)
        entry = self._stored[part.stored].near()
        pieces = groups if entry.remote else sampling.COMPUTED if entry.lazy else sampling.SCATTERED
        rng = np.random.default_rng([seed, *name.encode()])
        most = bytes // getattr(torch, entry.dtype).itemsize
        found = sampling.ranges(math.prod(part.shape), most, groups, pieces, rng)
        calls = (partial(part.pieces, entry, one) for one in found)
        return [_aligned(piece) for piece in (ahead(calls, 8) if entry.remote else (call() for call in calls))]

    def rows(self, name: str, most: int) -> torch.Tensor:
        """The first rows of a matrix, at most so many; where rows lie together no others are read. Raises as `read`."""
        part = self._part(name)
        if len(part.shape) != 2:
            raise ValueError(f"{name!r} of {self.name} has the shape {part.shape}: rows are those of a matrix")
        if part.transposed or not math.prod(part.shape):
            return self.read(name)[:most]
        out, width = part.shape
        entry = self._stored[part.stored].near()
        return _aligned(part.piece(entry, 0, min(most, out) * width)).reshape(-1, width)

    def cut(self, names: Iterable[str], most: int) -> "Checkpoint":
        """A checkpoint in memory with the first rows of these matrices: as many as make about `most` values, at least
        64.

        Raises as `rows`.
        """
        known = {info.name: info for info in self.tensors}
        held, tensors, places = {}, [], {}
        for name in names:
            rows = self.rows(name, max(64, most // max(1, self._part(name).shape[-1])))
            info = replace(known[name], shape=tuple(rows.shape), numel=rows.numel())
            tensors.append(info)
            held[name] = Held(rows)
            places[name] = Part(name, name, info.shape, info.role, info.depth, info.tower)
        return replace(self, tensors=tensors, skipped={}, files=[], traffic=None, _parts=places, _stored=held)

    def select(self, pattern: str) -> "Checkpoint":
        """The same checkpoint with only the tensors in whose names the regular expression `pattern` is found.

        Raises ValueError where it is no regular expression or matches nothing.
        """
        try:
            found = re.compile(pattern).search
        except re.error as error:
            raise ValueError(
                f"select={pattern!r} is not a regular expression ({error}). Escape . ( [ and the like."
            ) from None
        names = [info.name for info in self.tensors if found(info.name)]
        skipped = {name: reason for name, reason in self.skipped.items() if found(name)}
        if not names:
            also = "".join(f" ({name} is skipped: {reason}.)" for name, reason in list(skipped.items())[:1])
            some = ", ".join(info.name for info in self.tensors[:: max(1, len(self.tensors) // 6)][:6])
            raise ValueError(
                f"select={pattern!r} matches none of the {len(self.tensors)} tensors of {self.name}.{also} "
                f"Some of the names: {some}."
            )
        return replace(self.only(names), skipped=skipped)

    def only(self, names: Iterable[str]) -> "Checkpoint":
        """The same checkpoint with only these tensors: a small object to send to another process.

        Raises ValueError for a name that is not in `tensors`.
        """
        places, wanted = self._places, set(names)
        if missing := sorted(wanted - places.keys()):
            raise ValueError(f"{self.name} lists no tensor {missing[0]!r}; `tensors` lists all that it has.")
        tensors = [self.tensors[place] for place in sorted(places[name] for name in wanted)]
        kept = {info.name: self._parts[info.name] for info in tensors}
        return replace(
            self,
            tensors=tensors,
            _parts=kept,
            _stored={part.stored: self._stored[part.stored] for part in kept.values()},
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        """Where in `tensors` each name is: a model may have 100,000, and be cut into as many tasks."""
        return {info.name: place for place, info in enumerate(self.tensors)}

    def _part(self, name: str) -> Part:
        if name in self._parts:
            return self._parts[name]
        if name in self._stored:
            return Part(name, name, self._stored[name].shape)
        if name in self.skipped:
            raise ValueError(f"{name!r} of {self.name} is not read: {self.skipped[name]}.")
        near = difflib.get_close_matches(name, self._parts, n=3, cutoff=0.3) or list(self._parts)[:3]
        raise ValueError(f"{self.name} has no tensor {name!r}. Near it: {', '.join(near)}; `tensors` lists all.")

    def __repr__(self) -> str:
        """Name, sizes and dtypes on one line."""
        dtypes = ", ".join(sorted({info.dtype for info in self.tensors}))
        values = sum(info.numel for info in self.tensors)
        layers = len({(info.tower, info.depth) for info in self.tensors if info.depth is not None})
        at = f" @ {self.revision[:8]}" if self.revision else ""
        return (
            f"<Checkpoint {self.name}{at}: {len(self.tensors)} tensors, {values:,} values ({dtypes}), "
            f"{layers} layers, {len(self.files)} files, {len(self.skipped)} skipped>"
        )


def open_checkpoint(
    source: "str | Path | torch.nn.Module | Mapping | Checkpoint",
    revision: str | None = None,
    select: str | None = None,
) -> Checkpoint:
    """List the tensors of a checkpoint without reading their values.

    Args:
        source: `"minilm"` (the embedded model, its sha256 verified); a folder or weight file (.safetensors, .gguf,
            .bin, .pt, .pth); a hub id such as `"gpt2"` (weight files and config.json are downloaded; with
            HF_HUB_OFFLINE=1 only the cache is used); an address, of which only what is asked for is read and nothing
            is kept: `"hf://org/name"`, a file or folder at `"https://…"`, `"s3://…"`, `"gs://…"` and others that
            fsspec knows; a `torch.nn.Module`; a mapping from names to tensors or arrays.
        revision: branch, tag or commit of a hub id; the commit it meant is kept in `.revision`.
        select: regular expression searched in tensor names; others are left out.

    Raises:
        FileNotFoundError: nothing of that name exists, or not where it can be reached.
        CheckpointError: files are missing, damaged or unsafe.
        ValueError: `source` is blank; `select` is no regular expression or matches nothing; a revision of something
            that has none.
        TypeError: `source` is of another kind.
    """
    revision, select = revision or None, select or None  # papermill passes "" as readily as None
    if isinstance(source, str | Path):
        source = meant(source)
        located = locate_remote(source, revision) if is_address(str(source)) else locate(source, revision)
        stored, skipped = _read_files(located)
        words = str(source) if located.traffic is None else str(source).split("?", 1)[0]  # a query may be a secret
    else:
        if revision is not None:
            raise ValueError(f"revision={revision!r} was given for a {type(source).__name__}; only hub ids have one.")
        located, stored, skipped = _read_memory(source)
        words = f"{type(source).__module__}.{type(source).__qualname__} in memory"
    stored, left_out = resolve(stored, located.config)
    skipped |= left_out
    if not stored:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise CheckpointError(f"{located.name} holds no tensors{f' ({why})' if why else ''}; expected at least one.")

    logical = {part.name: part for part in parts({name: entry.shape for name, entry in stored.items()}, located.config)}
    tensors = [_info(part, stored[part.stored]) for part in logical.values()]
    checkpoint = Checkpoint(
        located.name,
        words,
        located.revision,
        tensors,
        skipped,
        located.config,
        list(located.files),
        located.traffic,
        logical,
        stored,
    )
    return checkpoint if select is None else checkpoint.select(select)


def _info(part: Part, entry) -> TensorInfo:
    size = math.prod(part.shape)
    kind = entry.kind
    return TensorInfo(part.name, part.shape, entry.dtype, part.role, part.depth, size, part.tower, kind)


def _read_files(located: Located) -> tuple[dict, dict]:
    """Tensors of all weight files, in order; a name that two files claim is an error, as is a broken promise."""
    stored, skipped, where = {}, {}, {}
    for path, (found, left_out) in zip(located.files, _listings(located), strict=True):
        if twice := next((name for name in found if name in where), None):
            raise CheckpointError(
                f"{twice!r} is in both {where[twice]} and {path}; expected each tensor once. They look like two copies "
                "of a model: give one file by its path."
            )
        stored |= found
        skipped |= left_out
        where |= dict.fromkeys(found, path)
    for name, shard in located.index.items():
        if name not in stored and name not in skipped:
            raise CheckpointError(
                f"the index of {located.name} promises {name!r} in {shard}, which does not hold it: index and shards "
                "are of different checkpoints. Download or save them again."
            )
    return stored, skipped


def _listings(located: Located) -> Iterable[tuple[dict, dict]]:
    """What each file holds; headers elsewhere are read side by side."""
    if located.traffic is None:
        return (read_gguf(path) if path.suffix == ".gguf" else read_file(path) for path in located.files)
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda url: list_remote(url, located.traffic), located.files))


def _read_memory(source: torch.nn.Module | Mapping) -> tuple[Located, dict, dict]:
    """Tensors of a module (its state_dict) or a mapping."""
    if isinstance(source, torch.nn.Module):
        state = source.state_dict()
        stored, skipped = read_mapping(state)
        computed = {
            name: "a buffer not saved with the model" for name, _ in source.named_buffers() if name not in state
        }
        to_dict = getattr(getattr(source, "config", None), "to_dict", None)
        config = to_dict() if callable(to_dict) else {}
        return Located(type(source).__name__, (), config), stored, computed | skipped
    if isinstance(source, Mapping):
        return Located("mapping", (), {}), *read_mapping(source)
    raise TypeError(
        f'a {type(source).__name__} cannot be opened as a checkpoint. Expected a path, a hub id, an address, "minilm", '
        "a torch.nn.Module, or a mapping from names to tensors. Name one of these."
    )


def _lazily(part: Part, entry: Stored, bytes: int, start: int, stop: int) -> Iterator[torch.Tensor]:
    """Flat pieces of a tensor of which no more than a few are in memory; from elsewhere the next are on their way."""
    remote, entry = entry.remote, entry.near()
    width = max(1, entry.shape[-1]) if entry.shape else 1
    count = max(1, min(bytes, LAZY_BYTES) // getattr(torch, entry.dtype).itemsize)
    count -= count % width if count > width else 0  # whole rows: a quantized one is computed at once
    calls = (partial(part.piece, entry, at, min(at + count, stop)) for at in range(start, stop, count))
    return ahead(calls) if remote else (call() for call in calls)


def _between(part: Part, entry: Stored, bytes: int, start: int, stop: int) -> Iterator[torch.Tensor]:
    """Flat pieces of the values between two places; each is mapped on its own."""
    together = part.unordered(entry.load()).is_contiguous()
    count = max(1, (bytes if together else min(bytes, COPY_BYTES)) // getattr(torch, entry.dtype).itemsize)
    for at in range(start, stop, count):
        yield _aligned(part.piece(entry, at, min(at + count, stop)))


def _pieces(values: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Flat pieces of at most `count` values, views where they lie together in memory."""
    if values.numel() == 0:
        return
    if values.is_contiguous():
        yield from values.reshape(-1).split(count)
        return
    row = values[0].numel()
    # Rows that are whole in memory are worth their own chunk if long; short or scattered ones are gathered.
    if row > count or (row * values.element_size() >= 2**16 and values[0].is_contiguous()):
        for one in values:
            yield from _pieces(one, count)
    else:
        for block in values.split(max(1, min(count, COPY_BYTES // values.element_size()) // row)):
            yield block.reshape(-1)


def _aligned(values: torch.Tensor) -> torch.Tensor:
    """Values at an address that is a multiple of their size, as compiled loops expect; rare files need a copy."""
    return values if values.data_ptr() % values.element_size() == 0 else values.clone()
