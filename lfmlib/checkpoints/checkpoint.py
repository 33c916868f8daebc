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

from ..options import check
from . import places
from .addresses import is_address, locate_remote, normalized_source
from .cells import Spread
from .chunks import CHUNK_BYTES, aligned, flat_chunks, lazy_chunks, range_chunks
from .http import Traffic
from .listing import read_files, read_memory
from .locate import locate
from .quantized import resolve
from .remote import prefetched
from .reparametrized import effective
from .roles import logical_parts
from .slices import Part
from .stored import CheckpointError, InMemory, Stored

__all__ = ["Checkpoint", "CheckpointError", "TensorInfo", "open_checkpoint"]


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before its values are read.

    Attributes:
        name: name in the checkpoint, with the part in brackets where a stored tensor was split, as in "c_attn[q]".
        shape: the logical shape, (out, in) for matrices however they are stored.
        dtype: of the values, such as "bfloat16".
        role, depth, tower: see `lfmlib.checkpoints.roles`.
        numel: number of values.
        quantized: the quantization in words where values are computed from codes and scales (see
            `lfmlib.checkpoints.quantized`); empty for all other tensors.

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

    It keeps paths and metadata, opens a file only while mapping a tensor, and needs no closing. It can be pickled and
    sent to other processes that see the same files; tensors in memory are pickled by value.

    Attributes:
        name: short name for titles.
        source: what was opened, in words.
        revision: the hub commit, or None.
        tensors: TensorInfo of each tensor: shards in the order of their names, in a shard by position in the file.
        skipped: name → reason, for tensors that are stored or named but not in `tensors` (tied duplicates and so on).
        config: content of config.json, or {}.
        files: paths of the weight files; addresses of remote ones.
        traffic: counts what this process reads from remote files; None for local checkpoints.

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

        The file is mapped: values are read when they are touched. Only head-interleaved q, k, v (whose rows are not
        evenly spaced in memory) and legacy .bin files are copied. Writing to the tensor does not change the file.

        Raises:
            ValueError: there is no such tensor; the message suggests near names.
            CheckpointError: the file was changed since it was opened; of a change after that, `check` tells.

        Examples:
            >>> checkpoint = lfmlib.open_checkpoint("minilm")
            >>> checkpoint.read("pooler.dense.weight").shape
            torch.Size([384, 384])
        """
        part = self._part(name)
        return aligned(part.load(self._stored[part.stored]))

    @property
    def stored(self) -> Mapping[str, Stored]:
        """The tensors as the files store them, by stored name: each has ``shape``, ``dtype``, and ``load()``.

        `tensors` are parts of these: a fused q, k, v is one tensor here and three there.
        """
        return MappingProxyType(self._stored)

    def origin(self, name: str) -> tuple[Part, Stored]:
        """The stored tensor that holds `name`, and which part of it `name` is. Raises ValueError as `read` does."""
        part = self._part(name)
        return part, self._stored[part.stored]

    def chunks(
        self, name: str, bytes: int = CHUNK_BYTES, *, start: int = 0, stop: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Yield the tensor's values as flat tensors of at most `bytes` each (at least one value).

        Chunks are views on the mapped file; values that are not contiguous there are copied. They come in the order of
        `read(name).flatten()`, but transposed tensors in stored order. An empty tensor has no chunk. `start` and `stop`
        count values in that order and limit what is read, so that workers can share a huge tensor.

        Raises as `read` does, and ValueError for `bytes` below 1, or `start` and `stop` outside the tensor.

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
            pieces = lazy_chunks(part, entry, bytes, start, stop)
        elif not whole:
            pieces = range_chunks(part, entry, bytes, start, stop)
        else:
            values = part.in_stored_order(entry.load())
            pieces = map(aligned, flat_chunks(values, max(1, bytes // values.element_size())))
        return _then_checked(pieces, entry)  # a wrong name raises here, and not when the first chunk is taken

    def spread(
        self, name: str, bytes: int = CHUNK_BYTES, *, start: int = 0, stop: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Yield a quantized tensor's values, and beside them the values spread evenly over the cells of their codes.

        Args:
            name, bytes, start, stop: as of `chunks`.

        Returns:
            float32 ``(2, n)`` for each chunk ``(n,)`` of `chunks`: row 0 is that chunk; row 1 is what figures of a
            distribution are taken of (see `lfmlib.checkpoints.cells`). The same values come in any chunks.

        Raises as `chunks`, and ValueError where `has_cells` is False.
        """
        return self._spreading(name).chunks(name, bytes, start=start, stop=stop)

    def has_cells(self, name: str) -> bool:
        """Whether a tensor is quantized with codes that stand for intervals, so that `spread` has values.

        Ternary weights, lattice codes of GGUF (IQ1 to IQ3) and quantized tensors in memory have none. Raises as `read`.
        """
        return self._stored[self._part(name).stored].intervals

    def _spreading(self, name: str) -> "Checkpoint":
        """The same checkpoint, in which one quantized tensor is stored as its values beside the spread ones."""
        if not self.has_cells(name):
            raise ValueError(f"the values of {name!r} of {self.name} are not those of codes with a known step")
        stored = self._part(name).stored
        return replace(self, _stored=self._stored | {stored: Spread(self._stored[stored])})

    def check(self, name: str) -> None:
        """Raise CheckpointError if a file that holds the tensor was changed since it was opened.

        To be asked after values of `read` were used, which may have been mixed from two states of the file; `chunks`,
        `sample` and `rows` ask themselves.
        """
        part = self._part(name)
        self._stored[part.stored].check()

    def sample(
        self, name: str, bytes: int, groups: int = places.SAMPLE_GROUPS, seed: int = 0, *, spread: bool = False
    ) -> list[torch.Tensor]:
        """Read about `bytes` of a tensor's values, from pieces spread evenly over it; nothing else is read.

        Where the pieces lie is drawn from `seed` and the tensor's name (`lfmlib.checkpoints.places.sample_ranges`).
        There are `lfmlib.checkpoints.places.MAPPED_PIECES` of them in a local file or in memory, fewer in a quantized
        tensor, which is computed, and one for each group in a remote file, where each costs a request. With `spread`
        the tensors have two rows, as those of `Checkpoint.spread`.

        Returns:
            One flat tensor for each group, its pieces spread over the whole tensor; fewer groups where the tensor has
            fewer values. All values, where they take no more than `bytes`.

        Raises as `read` does, and ValueError for `bytes` or `groups` below 1.
        """
        if bytes < 1 or groups < 1:
            raise ValueError(f"bytes={bytes} and groups={groups}: expected at least 1 of both.")
        if spread:
            return self._spreading(name).sample(name, bytes, groups, seed)
        part = self._part(name)
        entry = self._stored[part.stored].preloaded()
        pieces = groups if entry.remote else places.COMPUTED_PIECES if entry.lazy else places.MAPPED_PIECES
        rng = np.random.default_rng([seed, *name.encode()])
        wanted = bytes // getattr(torch, entry.dtype).itemsize
        found = places.sample_ranges(math.prod(part.shape), wanted, groups, pieces, rng)
        calls = (partial(part.load_ranges, entry, one) for one in found)
        pieces = prefetched(calls, 8) if entry.remote else (call() for call in calls)
        return list(_then_checked(map(aligned, pieces), self._stored[part.stored]))

    def rows(self, name: str, most: int) -> torch.Tensor:
        """The first rows of a matrix, at most `most`; only transposed matrices are read whole. Raises as `read`."""
        part = self._part(name)
        if len(part.shape) != 2:
            raise ValueError(f"{name!r} of {self.name} has the shape {part.shape}: rows are those of a matrix")
        if part.transposed or not math.prod(part.shape):
            return self.read(name)[:most]
        out, width = part.shape
        entry = self._stored[part.stored].preloaded()
        rows = part.load_range(entry, 0, min(most, out) * width).clone()
        self.check(name)
        return rows.reshape(-1, width)

    def cut(self, names: Iterable[str], most: int) -> "Checkpoint":
        """A checkpoint in memory that holds the first rows of each of these matrices: at least 64 rows, and more as
        long as they have no more than about `most` values. Raises as `rows`.
        """
        known = {info.name: info for info in self.tensors}
        held, tensors, places = {}, [], {}
        for name in names:
            rows = self.rows(name, max(64, most // max(1, self._part(name).shape[-1])))
            info = replace(known[name], shape=tuple(rows.shape), numel=rows.numel())
            tensors.append(info)
            held[name] = InMemory(rows)
            places[name] = Part(name, name, info.shape, info.role, info.depth, info.tower)
        return replace(self, tensors=tensors, skipped={}, files=[], traffic=None, _parts=places, _stored=held)

    def select(self, pattern: str) -> "Checkpoint":
        """The same checkpoint with only the tensors in whose names the regular expression `pattern` is found.

        Raises ValueError if it is not a regular expression or matches nothing.

        Examples:
            >>> checkpoint = lfmlib.open_checkpoint("minilm").select("layer.0.*query.weight")
            >>> [info.name for info in checkpoint.tensors]
            ['encoder.layer.0.attention.self.query.weight']
        """
        if not isinstance(pattern, str | re.Pattern):
            raise ValueError(f"select={pattern!r}: expected a regular expression, as text, for names of tensors.")
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
        """Index in `tensors` of each name; computed once, since a survey of 100,000 tensors calls `only` as often."""
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
    variant: str | None = None,
) -> Checkpoint:
    """List the tensors of a checkpoint without reading their values.

    Args:
        source: a name that `lfmlib models` lists, such as `"minilm"` (a published model, fetched if need be, its sha256
            verified); a folder or weight file (.safetensors, .gguf, .bin, .pt, .pth, .ckpt, .onnx, CTranslate2's
            model.bin); a hub id such as `"gpt2"` (weight files and config.json are downloaded; with HF_HUB_OFFLINE=1
            only the cache is used); an address, of which only what is asked for is read and nothing is kept:
            `"hf://org/name"`, a file or folder at `"https://…"`, `"s3://…"`, `"gs://…"` and others that fsspec knows; a
            `torch.nn.Module`; a mapping from names to tensors or arrays; a `Checkpoint`, as it is.
        revision: branch, tag or commit of a hub id; the commit it meant is kept in `.revision`.
        select: regular expression searched in tensor names; others are left out.
        variant: which of several in one place: "fp16" of `model.fp16.safetensors` beside `model.safetensors`, "Q4_K_M"
            of a folder of GGUF files, or "ema" of the dictionaries in a training checkpoint, of which the largest is
            read by default (see `lfmlib.checkpoints.file_names` and `lfmlib.checkpoints.state_dicts`).

    Raises:
        FileNotFoundError: nothing of that name exists, or not where it can be reached.
        CheckpointError: files are missing, damaged or unsafe.
        ValueError: `source` is blank; `select` is no regular expression or matches nothing; a revision or a
            variant of something that has none.
        TypeError: `source` is of another kind.

    Examples:
        >>> weights = {"layers.0.q_proj.weight": np.zeros((8, 4)), "layers.0.norm.weight": np.ones(4)}
        >>> for info in lfmlib.open_checkpoint(weights).tensors:
        ...     print(info.name, info.shape, info.role, info.depth)
        layers.0.q_proj.weight (8, 4) q 0
        layers.0.norm.weight (4,) norm 0
    """
    check(revision=revision, select=select, variant=variant)
    revision, select, variant = revision or None, select or None, variant or None  # papermill passes "" for None
    if isinstance(source, Checkpoint):
        if revision not in (None, source.revision):
            raise ValueError(f"revision={revision!r} was given for {source.name}, which is open already. Leave it out.")
        if variant is not None:
            raise ValueError(f"variant={variant!r} was given for {source.name}, which is open already. Leave it out.")
        return source if select is None else source.select(select)
    if isinstance(source, str | Path):
        source = normalized_source(source)
        afar = is_address(str(source))
        located = locate_remote(str(source), revision, variant) if afar else locate(source, revision, variant)
        stored, skipped = read_files(located)
        words = str(source) if located.traffic is None else str(source).split("?", 1)[0]  # a query may be a secret
    else:
        if revision is not None:
            raise ValueError(f"revision={revision!r} was given for a {type(source).__name__}; only hub ids have one.")
        located, stored, skipped = read_memory(source, variant)
        words = f"{type(source).__module__}.{type(source).__qualname__} in memory"
    stored, left_out = resolve(stored, located.config)
    skipped |= left_out
    stored, left_out = effective(stored)
    skipped |= left_out
    if not stored:
        reasons = {reason: name for name, reason in reversed(skipped.items()) if not reason.startswith("beside codes")}
        why = "; ".join(f"{name}: {reason}" for reason, name in list(reasons.items())[::-1][:3])
        raise CheckpointError(
            f"{located.name} holds no tensors{f' that are read ({why})' if why else ''}; expected at least one."
        )

    first = {name for name, entry in stored.items() if entry.inputs_first}
    shapes = {
        name: (*entry.shape[:-2], *entry.shape[:-3:-1]) if name in first else entry.shape
        for name, entry in stored.items()
    }
    logical = {part.name: part for part in logical_parts(shapes, located.config, first)}
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


def _then_checked(pieces: Iterable[torch.Tensor], entry: Stored) -> Iterator[torch.Tensor]:
    """The pieces; after the last one the file is looked at, which may have been changed while they were read."""
    yield from pieces
    entry.check()


def _info(part: Part, entry) -> TensorInfo:
    size = math.prod(part.shape)
    kind = entry.kind
    return TensorInfo(part.name, part.shape, entry.dtype, part.role, part.depth, size, part.tower, kind)
