"""GGUF files, as llama.cpp writes them: listed, and their block-quantized tensors given as values.

The `gguf` package knows the formats; here its blocks become entries like those of other files. Tensors of plain numbers
(F32, F16, BF16) are mapped as they are. The header is read here and not by the package, whose reader believes every
number: an array of 2^60 elements keeps it busy for ever, and a long one that is there becomes as many Python objects.
"""

from __future__ import annotations

import functools
import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from .packings import Dequantized
from .safetensors_files import LONGEST, Mapped
from .stored import CheckpointError, Stored, check_shape

PLAIN = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"}
PLAIN |= {name: f"int{name[1:]}" for name in ("I8", "I16", "I32", "I64")}
VERSIONS = (2, 3)
NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # kinds of values, and their codes in `struct`
STRING, ARRAY = 8, 9
DEEPEST = 4  # arrays in arrays
MOST_AXES = 8  # llama.cpp has at most 4


@dataclass(frozen=True)
class Found:
    """A tensor that a header names: its format, its logical shape, and where it begins in the file."""

    format: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Blocks(Dequantized):
    """Rows of blocks of one of GGUF's formats; `data` holds their bytes."""

    data: Stored
    shape: tuple[int, ...]
    format: str

    @property
    def kind(self) -> str:
        """In words."""
        return f"{self.format} of GGUF, blocks of {_format(self.format)[1]}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized`."""
        _, block, size = _format(self.format)
        row = self.shape[-1] // block * size
        return self._values(self.data.span(start * row, stop * row).numpy().reshape(-1, row))

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of the flattened tensor, by blocks: a row may be as long as the file."""
        if start >= stop:
            return torch.empty(0)
        _, block, size = _format(self.format)
        first = start // block
        data = self.data.span(first * size, -(-stop // block) * size).numpy().reshape(1, -1)
        return self._values(data).reshape(-1)[start - first * block : stop - first * block]

    def _values(self, data: np.ndarray) -> torch.Tensor:
        from gguf import quants

        with np.errstate(
            all="ignore"
        ):  # a damaged scale makes values that are no numbers, and they are counted as such
            values = quants.dequantize(data, _format(self.format)[0])
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def read_gguf(path: Path) -> tuple[dict, dict]:
    """List the tensors of a GGUF file, in its order. Raises CheckpointError, FileNotFoundError."""
    return entries(_read(path)[0], lambda offset, shape, dtype: Mapped(path, offset, shape, dtype))


def config(path: Path) -> dict:
    """What the header says of the model, by the names of config.json where it has them. Raises as `read_gguf`."""
    return _read(path)[1]


def entries(found: dict[str, Found], place: Callable[[int, tuple, str], object]) -> tuple[dict, dict]:
    """Stored tensors, and the reasons for those that are not read; `place` is that of `safetensors_files.listed`."""
    stored, left_out = {}, {}
    for name, one in found.items():
        if one.format in PLAIN:
            stored[name] = place(one.offset, one.shape, PLAIN[one.format])
        elif not _readable(one.format):
            left_out[name] = f"quantized, and not read: the gguf package does not know the values of {one.format}"
        else:
            _, block, size = _format(one.format)
            stored[name] = Blocks(
                place(one.offset, (math.prod(one.shape) // block * size,), "uint8"), one.shape, one.format
            )
    return stored, left_out


def list_tensors(start: bytes, size: int) -> dict[str, Found] | None:
    """The tensors that a header names, of a file of `size` bytes that begins with `start`; None where the header goes
    on behind that. Raises ValueError: it is not sound."""
    try:
        return _parse(io.BytesIO(start), size)[0]
    except EOFError:
        return None


def _read(path: Path) -> tuple[dict[str, Found], dict]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there (expected a GGUF file). Check the path.")
    stat = path.stat()
    return _read_once(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4)  # a large vocabulary takes a second to pass over
def _read_once(path: Path, size: int, mtime: int) -> tuple[dict[str, Found], dict]:
    try:
        with open(path, "rb") as file:
            return _parse(file, size)
    except (ValueError, EOFError) as error:
        raise CheckpointError(
            f"{path} ({size} bytes) is not a sound GGUF file ({error}): it is truncated, damaged or of another kind. "
            "Download it again."
        ) from error


class _Header:
    """A header, read from front to back. No number in it is believed beyond what the file can hold."""

    def __init__(self, stream: BinaryIO, size: int):
        self.stream, self.at, self.size = stream, 0, min(size, LONGEST)

    def need(self, count: int) -> None:
        """Raise ValueError where fewer than `count` bytes are left."""
        if count > self.size - self.at:
            raise ValueError(
                f"at byte {self.at} its header asks for {count} more bytes, where {self.size - self.at} are left"
            )

    def take(self, count: int) -> bytes:
        """The next bytes. Raises EOFError where the stream ends before the file."""
        self.need(count)
        data = self.stream.read(count)
        if len(data) < count:
            raise EOFError(f"it ends after {self.at + len(data)} bytes")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        self.need(count)
        self.stream.seek(count, 1)
        self.at += count

    def number(self, code: str):
        """A number, by its code in `struct`."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        """A string."""
        return self.take(self.number("Q")).decode()

    def value(self, kind: int, depth: int = 0):
        """A value of a kind; None for arrays, which are passed over."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY or depth == DEEPEST:
            raise ValueError(f"before byte {self.at} a value of kind {kind}, {depth} arrays deep, cannot be read")
        inner, count = self.number("I"), self.number("Q")
        if inner in NUMBERS:
            self.skip(count * struct.calcsize(NUMBERS[inner]))
            return None
        self.need(8 * count)  # each begins with a length
        for _ in range(count):
            if inner == STRING:
                self.skip(self.number("Q"))
            else:
                self.value(inner, depth + 1)
        return None


def _parse(stream: BinaryIO, size: int) -> tuple[dict[str, Found], dict]:
    """Tensors and settings. Raises ValueError for what is not sound, EOFError where the stream ends before the file."""
    header = _Header(stream, size)
    if (magic := header.take(4)) != b"GGUF":
        raise ValueError(f"it begins with {magic!r}, where b'GGUF' was expected")
    version = header.number("I")
    if version and version & 0xFFFF == 0:
        raise ValueError("its bytes are in the other order; convert it with gguf-py's gguf_convert_endian.py")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, where one of {VERSIONS} was expected")
    tensors, keys = header.number("Q"), header.number("Q")
    header.need(24 * tensors + 13 * keys)  # the least that each takes
    fields = {}
    for _ in range(keys):
        name = header.text()
        if name in fields:
            raise ValueError(f"it has the key {name!r} twice")
        fields[name] = header.value(header.number("I"))
    found = {}
    for _ in range(tensors):
        name = header.text()
        if name in found:
            raise ValueError(f"it names the tensor {name!r} twice")
        if (axes := header.number("I")) > MOST_AXES:
            raise ValueError(f"{name!r} has {axes} axes, where at most {MOST_AXES} were expected")
        shape = tuple(reversed([header.number("Q") for _ in range(axes)]))
        found[name] = Found(_kind(header.number("I")), shape, header.number("Q"))
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its alignment is {alignment!r}, where a power of two was expected")
    start = -(-header.at // alignment) * alignment
    found = {name: replace(one, offset=start + one.offset) for name, one in found.items()}
    _check_places(found, size)
    return found, _settings(fields)


def _kind(number: int) -> str:
    from gguf import GGMLQuantizationType

    try:
        return GGMLQuantizationType(number).name
    except ValueError:
        raise ValueError(f"a tensor has the format {number}, which the gguf package does not know") from None


def _check_places(found: dict[str, Found], size: int) -> None:
    """Whether each tensor lies in the file, and no two in the same place."""
    end, before = 0, ""
    for name, one in sorted(found.items(), key=lambda item: item[1].offset):
        _, block, bytes = _format(one.format)
        if block > 1 and (not one.shape or one.shape[-1] % block):
            raise ValueError(f"{name!r} has the shape {one.shape}, where rows of whole blocks of {block} were expected")
        check_shape(name, one.shape)
        stop = one.offset + math.prod(one.shape) // block * bytes
        if stop > size:
            raise ValueError(f"{name!r} would end at byte {stop}, behind the end of the file")
        if one.offset < end and stop > one.offset:
            raise ValueError(f"{before!r} and {name!r} overlap at byte {one.offset}")
        if stop > end:
            end, before = stop, name


def _settings(fields: dict) -> dict:
    """The few of the header's fields that decide roles, or tell what model it is."""
    kept = {name: value for name, value in fields.items() if value is not None and not name.startswith("tokenizer.")}
    arch = kept.get("general.architecture", "")
    known = {"head_count": "num_attention_heads", "head_count_kv": "num_key_value_heads", "key_length": "head_dim"}
    heads = {ours: kept.get(f"{arch}.attention.{theirs}") for theirs, ours in known.items()}
    return {"model_type": arch} | {name: n for name, n in heads.items() if n is not None} | {"gguf": kept}


@functools.cache
def _format(name: str) -> tuple:
    """The package's member of a format, the values of a block, and its bytes."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType[name]
    return kind, *GGML_QUANT_SIZES[kind]


@functools.cache
def _readable(name: str) -> bool:
    from gguf import quants

    kind, _, size = _format(name)
    try:
        quants.dequantize(np.zeros((1, size), dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True
