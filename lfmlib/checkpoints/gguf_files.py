"""GGUF files of llama.cpp: list their tensors, and compute the values of block-quantized ones.

The `gguf` package dequantizes blocks. Tensors of plain numbers (F32, F16, BF16) are mapped. The header is parsed here
and not by the package, which trusts every length in it: an array said to have 2^60 elements keeps it busy for ever, and
it makes a Python object of each element of a long array.
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

from ..extras import need
from . import gguf_cells
from .cells import Cells
from .packings import Dequantized
from .safetensors_files import MAX_HEADER_BYTES, Mapped
from .stored import CheckpointError, Stamp, Stored, check_readable, check_shape, stamp_of

PLAIN_DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"}
PLAIN_DTYPES |= {name: f"int{name[1:]}" for name in ("I8", "I16", "I32", "I64")}
VERSIONS = (2, 3)
NUMBER_FORMATS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # code of a value's type → `struct` format
STRING_CODE, ARRAY_CODE = 8, 9
MAX_ARRAY_DEPTH = 4  # of arrays nested in arrays
MAX_AXES = 8  # llama.cpp has at most 4


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in a GGUF header: name of its format, logical shape, and offset in the file in bytes."""

    format: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class GgufBlocks(Dequantized):
    """A matrix in a block-quantized format of GGUF; `data` is a uint8 `Stored` of its blocks."""

    data: Stored
    shape: tuple[int, ...]
    format: str

    @property
    def kind(self) -> str:
        """The quantization in words."""
        return f"{self.format} of GGUF, blocks of {_format(self.format)[1]}"

    @property
    def intervals(self) -> bool:
        """See `Stored`."""
        return self.format in gguf_cells.FORMATS

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized`."""
        _, block, size = _format(self.format)
        row = self.shape[-1] // block * size
        return self._values(self.data.span(start * row, stop * row).numpy().reshape(-1, row))

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of the flattened tensor, from whole blocks and not rows, which may be huge."""
        if start >= stop:
            return torch.empty(0)
        data, wanted = self._blocks(start, stop)
        return self._values(data.reshape(1, -1)).reshape(-1)[wanted]

    def cells(self, start: int, stop: int) -> Cells:
        """See `Stored`; from whole blocks, in which a quantizer stores the extremes exactly."""
        if start >= stop:
            return Cells(*(torch.empty(0) for _ in range(3)))
        data, wanted = self._blocks(start, stop)
        values = self._values(data.reshape(1, -1)).reshape(len(data), -1)
        with np.errstate(all="ignore"):
            ends = gguf_cells.ends(data, self.format, values.numpy())
        return Cells(*(one.reshape(-1)[wanted] for one in (values, *map(torch.from_numpy, ends))))

    def _blocks(self, start: int, stop: int) -> tuple[np.ndarray, slice]:
        """The blocks (blocks, bytes) that hold values `start` to `stop`, and where these are among theirs."""
        _, block, size = _format(self.format)
        first = start // block
        data = self.data.span(first * size, -(-stop // block) * size).numpy().reshape(-1, size)
        return data, slice(start - first * block, stop - first * block)

    def _values(self, data: np.ndarray) -> torch.Tensor:
        from gguf import quants

        with np.errstate(all="ignore"):  # damaged scales give NaN or infinities, which surveys count
            values = quants.dequantize(data, _format(self.format)[0])
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def read_gguf(path: Path) -> tuple[dict, dict]:
    """List the tensors of a GGUF file, in its order: name → `Stored`, and name → reason for those not read.

    Raises CheckpointError, FileNotFoundError.
    """
    found = _read(path)[0]
    stamp = stamp_of(path)
    return stored_tensors(found, lambda offset, shape, dtype: Mapped(path, offset, shape, dtype, stamp))


def read_config(path: Path) -> dict:
    """The settings in a GGUF header, renamed as in config.json if it has them. Raises as `read_gguf`."""
    return _read(path)[1]


def check_parts(paths: list[Path]) -> None:
    """Raise CheckpointError unless these files are all parts of one GGUF file, in order; one whole file is."""
    found = [_read(path) for path in paths]
    told = [settings["gguf"].get("split.count", 1) for _, settings in found]
    if len(paths) == 1 and told in ([0], [1]):
        return
    places = [settings["gguf"].get("split.no") for _, settings in found]
    if any(count != len(paths) for count in told) or places != [*range(len(paths))]:
        raise CheckpointError(
            f"{paths[0]} says that it is one of {told[0]} parts, and found are {len(paths)}, with the places {places}: "
            "expected all parts of one file, beside each other and with the names that llama-gguf-split gave them."
        )
    tensors, total = sum(len(one) for one, _ in found), found[0][1]["gguf"].get("split.tensors.count")
    if total not in (None, tensors):
        raise CheckpointError(
            f"{paths[0]} says that its {len(paths)} parts have {total} tensors, and they have {tensors}: they are of "
            "different files. Download them again."
        )


def stored_tensors(found: dict[str, GgufTensor], make: Callable[[int, tuple, str], Stored]) -> tuple[dict, dict]:
    """Turn the tensors of a header into `Stored` ones; result as of `read_gguf`.

    Args:
        found: name → tensor.
        make: from offset in the file in bytes, shape and dtype to a `Stored` of plain numbers.
    """
    stored, left_out = {}, {}
    for name, one in found.items():
        if one.format in PLAIN_DTYPES:
            stored[name] = make(one.offset, one.shape, PLAIN_DTYPES[one.format])
        elif not _is_readable(one.format):
            left_out[name] = f"quantized, and not read: the gguf package does not know the values of {one.format}"
        else:
            _, block, size = _format(one.format)
            blocks = make(one.offset, (math.prod(one.shape) // block * size,), "uint8")
            stored[name] = GgufBlocks(blocks, one.shape, one.format)
    return stored, left_out


def list_tensors(start: bytes, size: int) -> dict[str, GgufTensor] | None:
    """The tensors in a header, given the first bytes of a file of `size` bytes; None if these end before the header.

    Raises ValueError if the header is damaged.
    """
    try:
        return _parse(io.BytesIO(start), size)[0]
    except EOFError:
        return None


def _read(path: Path) -> tuple[dict[str, GgufTensor], dict]:
    check_readable(path, "a GGUF file")
    return _read_once(path, stamp_of(path))


@functools.lru_cache(maxsize=64)  # skipping a large vocabulary takes a second
def _read_once(path: Path, stamp: Stamp) -> tuple[dict[str, GgufTensor], dict]:
    try:
        with open(path, "rb") as file:
            return _parse(file, stamp.size)
    except (ValueError, EOFError) as error:
        raise CheckpointError(
            f"{path} ({stamp.size} bytes) is not a sound GGUF file ({error}): it is truncated, damaged or of another "
            "kind. Download it again."
        ) from error


class _Header:
    """Reads a header from front to back, and checks every length in it against the size of the file."""

    def __init__(self, stream: BinaryIO, size: int):
        self.stream, self.at, self.size = stream, 0, min(size, MAX_HEADER_BYTES)

    def need(self, count: int) -> None:
        """Raise ValueError if fewer than `count` bytes of the file are left."""
        if count > self.size - self.at:
            raise ValueError(
                f"at byte {self.at} its header asks for {count} more bytes, where {self.size - self.at} are left"
            )

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises EOFError if the stream ends before the file does."""
        self.need(count)
        data = self.stream.read(count)
        if len(data) < count:
            raise EOFError(f"it ends after {self.at + len(data)} bytes")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        """Skip `count` bytes."""
        self.need(count)
        self.stream.seek(count, 1)
        self.at += count

    def number(self, code: str):
        """The next number, of a `struct` format."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        """The next string."""
        return self.take(self.number("Q")).decode()

    def value(self, kind: int, depth: int = 0):
        """The next value, of the type with code `kind`; None for arrays, which are skipped."""
        if kind in NUMBER_FORMATS:
            return self.number(NUMBER_FORMATS[kind])
        if kind == STRING_CODE:
            return self.text()
        if kind != ARRAY_CODE or depth == MAX_ARRAY_DEPTH:
            raise ValueError(f"before byte {self.at} a value of kind {kind}, {depth} arrays deep, cannot be read")
        inner, count = self.number("I"), self.number("Q")
        if inner in NUMBER_FORMATS:
            self.skip(count * struct.calcsize(NUMBER_FORMATS[inner]))
            return None
        self.need(8 * count)  # each begins with a length
        for _ in range(count):
            if inner == STRING_CODE:
                self.skip(self.number("Q"))
            else:
                self.value(inner, depth + 1)
        return None


def _parse(stream: BinaryIO, size: int) -> tuple[dict[str, GgufTensor], dict]:
    """Name → tensor, and the settings, of a file of `size` bytes.

    Raises ValueError if the header is damaged, EOFError if the stream ends before the header does.
    """
    need("gguf", "a GGUF file")
    header = _Header(stream, size)
    if (magic := header.take(4)) != b"GGUF":
        raise ValueError(f"it begins with {magic!r}, where b'GGUF' was expected")
    version = header.number("I")
    if version and version & 0xFFFF == 0:
        raise ValueError("its bytes are in the other order; convert it with gguf-py's gguf_convert_endian.py")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, where one of {VERSIONS} was expected")
    tensors, keys = header.number("Q"), header.number("Q")
    header.need(24 * tensors + 13 * keys)  # the least bytes that each takes
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
        if (axes := header.number("I")) > MAX_AXES:
            raise ValueError(f"{name!r} has {axes} axes, where at most {MAX_AXES} were expected")
        shape = tuple(reversed([header.number("Q") for _ in range(axes)]))
        found[name] = GgufTensor(_format_name(header.number("I")), shape, header.number("Q"))
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its alignment is {alignment!r}, where a power of two was expected")
    start = -(-header.at // alignment) * alignment
    found = {name: replace(one, offset=start + one.offset) for name, one in found.items()}
    _check_offsets(found, size)
    return found, _to_config(fields)


def _format_name(number: int) -> str:
    from gguf import GGMLQuantizationType

    try:
        return GGMLQuantizationType(number).name
    except ValueError:
        raise ValueError(f"a tensor has the format {number}, which the gguf package does not know") from None


def _check_offsets(found: dict[str, GgufTensor], size: int) -> None:
    """Raise ValueError if a tensor ends beyond the file, two overlap, or rows are not whole blocks."""
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


def _to_config(fields: dict) -> dict:
    """The header's fields as config.json names them (model type and heads), and all but the tokenizer's as "gguf"."""
    kept = {name: value for name, value in fields.items() if value is not None and not name.startswith("tokenizer.")}
    arch = kept.get("general.architecture", "")
    known = {"head_count": "num_attention_heads", "head_count_kv": "num_key_value_heads", "key_length": "head_dim"}
    heads = {ours: kept.get(f"{arch}.attention.{theirs}") for theirs, ours in known.items()}
    return {"model_type": arch} | {name: n for name, n in heads.items() if n is not None} | {"gguf": kept}


@functools.cache
def _format(name: str) -> tuple:
    """A format's member of the package's enumeration, and the values and the bytes of one of its blocks."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType[name]
    return kind, *GGML_QUANT_SIZES[kind]


@functools.cache
def _is_readable(name: str) -> bool:
    from gguf import quants

    kind, _, size = _format(name)
    try:
        quants.dequantize(np.zeros((1, size), dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True
