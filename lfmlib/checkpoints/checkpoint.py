"""Open a checkpoint from anywhere: names, shapes, dtypes, roles and depths first; values when asked for."""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from . import places
from .addresses import is_address, locate_remote, meant
from .chunks import CHUNK_BYTES, aligned, between, flat, lazily
from .http import Traffic
from .listing import read_files, read_memory
from .locate import locate
from .quantized import resolve
from .remote import ahead
from .roles import parts
from .slices import Part
from .stored import CheckpointError, Held, Stored

__all__ = ["Checkpoint", "CheckpointError", "TensorInfo", "open_checkpoint"]


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before its values are read.

    `shape` is the logical one, (out, in) for matrices; `dtype` a name such as "bfloat16"; `role`, `depth` and `tower`
    are those of `lfmlib.checkpoints.roles`; `numel` counts values. `quantized` says what the codes are of a tensor
    whose values are computed from codes and scales (see `lfmlib.checkpoints.quantized`); it is empty for all others.

    Examples:
        >>> info = lfmlib.open_checkpoint("minilm").tensors[5]
        >>> info.name, info.shape, info.dtype, info.role
        ('embeddings.word_embeddings.weight', (30522, 384), 'float32', 'embed')
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

    Examples:
        >>> lfmlib.open_checkpoint("minilm")
        <Checkpoint minilm @ 1110a243: 104 tensors, 22,713,728 values (float32, int64), 6 layers, 1 files, 0 skipped>
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

        Examples:
            >>> checkpoint = lfmlib.open_checkpoint("minilm")
            >>> checkpoint.read("pooler.dense.weight").shape
            torch.Size([384, 384])
        """
        part = self._part(name)
        return aligned(part.take(self._stored[part.stored]))

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

        Examples:
            >>> checkpoint = lfmlib.open_checkpoint("minilm")
            >>> [chunk.numel() for chunk in checkpoint.chunks("pooler.dense.weight", bytes=1 << 18)]
            [65536, 65536, 16384]
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
            return lazily(part, entry, bytes, start, stop)
        if not whole:
            return between(part, entry, bytes, start, stop)
        values = part.unordered(entry.load())
        # A generator of its own, so that a wrong name is reported by the call and not by the first value.
        return (aligned(piece) for piece in flat(values, max(1, bytes // values.element_size())))

    def sample(self, name: str, bytes: int, groups: int = places.GROUPS, seed: int = 0) -> list[torch.Tensor]:
        """Values from evenly spread places of a tensor, about `bytes` together; of the rest nothing is read.

        They come in groups, each a flat tensor of pieces spread over the whole (`lfmlib.checkpoints.places.ranges`),
        at places drawn from `seed` and the tensor's name. How many pieces there are depends on what one costs: here
        `lfmlib.checkpoints.places.SCATTERED`, fewer of a quantized tensor, and from afar one for each group. A tensor
        that is not larger than `bytes` comes whole; one with fewer values than groups in fewer groups.

        Raises as `read` does, and ValueError for `bytes` or `groups` below 1.
        """
        if bytes < 1 or groups < 1:
            raise ValueError(f"bytes={bytes} and groups={groups}: expected at least 1 of both.")
        part = self._part(name)
        entry = self._stored[part.stored].near()
        pieces = groups if entry.remote else places.COMPUTED if entry.lazy else places.SCATTERED
        rng = np.random.default_rng([seed, *name.encode()])
        most = bytes // getattr(torch, entry.dtype).itemsize
        found = places.ranges(math.prod(part.shape), most, groups, pieces, rng)
        calls = (partial(part.pieces, entry, one) for one in found)
        return [aligned(piece) for piece in (ahead(calls, 8) if entry.remote else (call() for call in calls))]

    def rows(self, name: str, most: int) -> torch.Tensor:
        """The first rows of a matrix, at most so many; where rows lie together no others are read. Raises as `read`."""
        part = self._part(name)
        if len(part.shape) != 2:
            raise ValueError(f"{name!r} of {self.name} has the shape {part.shape}: rows are those of a matrix")
        if part.transposed or not math.prod(part.shape):
            return self.read(name)[:most]
        out, width = part.shape
        entry = self._stored[part.stored].near()
        return aligned(part.piece(entry, 0, min(most, out) * width)).reshape(-1, width)

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

        Examples:
            >>> checkpoint = lfmlib.open_checkpoint("minilm").select("layer.0.*query.weight")
            >>> [info.name for info in checkpoint.tensors]
            ['encoder.layer.0.attention.self.query.weight']
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
    *,
    revision: str | None = None,
    select: str | None = None,
) -> Checkpoint:
    """List the tensors of a checkpoint without reading their values.

    Args:
        source: `"minilm"` (the embedded model, its sha256 verified); a folder or weight file (.safetensors, .gguf,
            .bin, .pt, .pth); a hub id such as `"gpt2"` (weight files and config.json are downloaded; with
            HF_HUB_OFFLINE=1 only the cache is used); an address, of which only what is asked for is read and nothing
            is kept: `"hf://org/name"`, a file or folder at `"https://…"`, `"s3://…"`, `"gs://…"` and others that
            fsspec knows; a `torch.nn.Module`; a mapping from names to tensors or arrays; a `Checkpoint`, as it is.
        revision: branch, tag or commit of a hub id; the commit it meant is kept in `.revision`.
        select: regular expression searched in tensor names; others are left out.

    Raises:
        FileNotFoundError: nothing of that name exists, or not where it can be reached.
        CheckpointError: files are missing, damaged or unsafe.
        ValueError: `source` is blank; `select` is no regular expression or matches nothing; a revision of something
            that has none.
        TypeError: `source` is of another kind.

    Examples:
        >>> weights = {"layers.0.q_proj.weight": np.zeros((8, 4)), "layers.0.norm.weight": np.ones(4)}
        >>> for info in lfmlib.open_checkpoint(weights).tensors:
        ...     print(info.name, info.shape, info.role, info.depth)
        layers.0.q_proj.weight (8, 4) q 0
        layers.0.norm.weight (4,) norm 0
    """
    revision, select = revision or None, select or None  # papermill passes "" as readily as None
    if isinstance(source, Checkpoint):
        if revision not in (None, source.revision):
            raise ValueError(f"revision={revision!r} was given for {source.name}, which is open already. Leave it out.")
        return source if select is None else source.select(select)
    if isinstance(source, str | Path):
        source = meant(source)
        located = locate_remote(str(source), revision) if is_address(str(source)) else locate(source, revision)
        stored, skipped = read_files(located)
        words = str(source) if located.traffic is None else str(source).split("?", 1)[0]  # a query may be a secret
    else:
        if revision is not None:
            raise ValueError(f"revision={revision!r} was given for a {type(source).__name__}; only hub ids have one.")
        located, stored, skipped = read_memory(source)
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
