"""GGUF files, as llama.cpp writes them: listed, and their block-quantized tensors given as values.

The `gguf` package reads the header and knows the formats; here its blocks become entries like those of other files.
Tensors of plain numbers (F32, F16, BF16) are mapped as they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .quantized import Dequantized
from .storage import CheckpointError, Mapped

PLAIN = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"}
PLAIN |= {name: f"int{name[1:]}" for name in ("I8", "I16", "I32", "I64")}


@dataclass(frozen=True)
class Found:
    """A tensor that a header names: its format, its logical shape, and where it begins in the file."""

    format: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Blocks(Dequantized):
    """Rows of blocks of one of GGUF's formats; `data` holds their bytes."""

    data: object
    shape: tuple[int, ...]
    format: str

    @property
    def kind(self) -> str:
        """In words."""
        return f"{self.format} of GGUF, blocks of {_format(self.format)[1]}"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See `Dequantized`."""
        from gguf import quants

        kind, block, size = _format(self.format)
        row = self.shape[-1] // block * size
        data = self.data.span(start * row, stop * row).numpy().reshape(-1, row)
        return torch.from_numpy(np.ascontiguousarray(quants.dequantize(data, kind), dtype=np.float32))


def read_gguf(path: Path) -> tuple[dict, dict]:
    """List the tensors of a GGUF file, in its order. Raises CheckpointError, FileNotFoundError."""
    found, _ = _read(path)
    return entries(found, lambda offset, shape, dtype: Mapped(path, offset, shape, dtype))


def config(path: Path) -> dict:
    """What the header says of the model, by the names of config.json where it has them. Raises as `read_gguf`."""
    return _read(path)[1]


def entries(found: dict[str, Found], place: Callable[[int, tuple, str], object]) -> tuple[dict, dict]:
    """Stored tensors, and the reasons for those that are not read; `place` is that of `storage.listed`."""
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


def list_tensors(path: Path, known: int) -> dict[str, Found] | None:
    """The tensors that a header names, of a file of which only the first `known` bytes are what they are in truth; None
    where they do not hold all of the header."""
    try:
        found, _, end = _parse(path)
    except Exception:  # cut off anywhere, a header may fail in any way
        return None
    return found if end <= known else None


def _read(path: Path) -> tuple[dict[str, Found], dict]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there (expected a GGUF file). Check the path.")
    stat = path.stat()
    return _read_once(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4)  # the package takes seconds for a large vocabulary
def _read_once(path: Path, size: int, mtime: int) -> tuple[dict[str, Found], dict]:
    try:
        found, settings, _ = _parse(path)
    except Exception as error:  # whatever a damaged header makes of numpy's views
        raise CheckpointError(
            f"{path} ({size} bytes) is not a sound GGUF file ({type(error).__name__}: {error}): it is truncated, "
            "damaged or of another kind. Download it again."
        ) from error
    return found, settings


def _parse(path: Path) -> tuple[dict[str, Found], dict, int]:
    """Tensors, settings, and where the header ends."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    if reader.byte_order == "S":
        raise ValueError("its bytes are in the other order; convert it with gguf-py's gguf_convert_endian.py")
    found = {}
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape.tolist()))
        found[tensor.name] = Found(tensor.tensor_type.name, shape, int(tensor.data_offset))
    return found, _settings(reader), int(reader.data_offset)


def _settings(reader) -> dict:
    """The few of the header's fields that decide roles, or tell what model it is."""
    kept = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith(("tokenizer.", "GGUF.")) and field.types and field.types[0].name != "ARRAY"
    }
    arch = kept.get("general.architecture", "")
    known = {"head_count": "num_attention_heads", "head_count_kv": "num_key_value_heads", "key_length": "head_dim"}
    heads = {ours: kept.get(f"{arch}.attention.{theirs}") for theirs, ours in known.items()}
    return {"model_type": arch} | {name: int(n) for name, n in heads.items() if n is not None} | {"gguf": kept}


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
