"""Files of CTranslate2 (`model.bin`): list their variables, and compute the values of quantized ones.

A file is one header after the other, each with its values behind it; all of them are read when it is opened. Names have
dots here where the file has slashes, and `layer.3` where it has `layer_3`. Codes (int8 with a scale for each row, int16
with one) are divided by their scale.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from .packings import CodedRows
from .safetensors_files import Mapped
from .stored import CheckpointError, Stored, check_shape, stamp_of

NEWEST = 6  # version of a file that is known
FIRST_WITH_ALIASES, FIRST_WITH_TYPES = 3, 4
DTYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")  # by code
WIDTHS = {4: "float32", 2: "int16", 1: "int8"}  # by bytes, in versions without codes
SPEC = re.compile(rb"[A-Za-z_]\w*\0", re.ASCII)
"""Name of the model's specification behind version and length, such as "TransformerSpec"."""


@dataclass(frozen=True)
class Reciprocal(Stored):
    """Scales by which codes are divided, as those by which they are multiplied."""

    scale: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the scales."""
        return self.scale.shape

    dtype = "float32"

    def load(self) -> torch.Tensor:
        """All scales."""
        return self.span(0, math.prod(self.shape)).reshape(self.shape)

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Some scales."""
        return self.scale.span(start, stop).double().reciprocal().float()


def is_ctranslate2(path: Path) -> bool:
    """Whether a file begins as CTranslate2 writes it; False of one that cannot be read, or is none."""
    if not path.is_file():  # reading a pipe may never end
        return False
    try:
        with open(path, "rb") as file:
            version, length = struct.unpack("<IH", file.read(6).ljust(6, b"\0"))
            return 2 <= version < 100 and bool(SPEC.fullmatch(file.read(length)))
    except OSError:
        return False


def read_ctranslate2(path: Path) -> tuple[dict, dict]:
    """List the variables of a file, in its order: name → `Stored`, and name → reason for those not read.

    Raises CheckpointError.
    """
    try:
        with open(path, "rb") as file:
            found, aliases = _parse(file, path)
    except (ValueError, struct.error) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) begins as a file of CTranslate2, and the values of its variables, "
            f"which were expected behind it, cannot be found ({error}). Copy it, or convert the model again."
        ) from error
    stored, left_out = {}, {alias: f"tied to {name}" for alias, name in aliases}
    for name, entry in found.items():
        codes = name.removesuffix("_scale")
        if codes != name and codes in found and found[codes].dtype in ("int8", "int16"):
            left_out[name] = f"a piece of {codes}"
        elif entry.dtype not in ("int8", "int16") or (scale := found.get(f"{name}_scale")) is None:
            stored[name] = entry
        elif len(entry.shape) == 2 and scale.dtype == "float32" and scale.shape in ((), (1,), entry.shape[:1]):
            block = (1, entry.shape[1]) if scale.shape == entry.shape[:1] else entry.shape
            kind = f"{entry.dtype} of CTranslate2, a scale for {block[0]} × {block[1]}"
            stored[name] = CodedRows(entry, Reciprocal(scale), entry.shape, block, kind)
        else:
            left_out[name] = (
                f"quantized, and not read: {entry.dtype} {entry.shape} of CTranslate2 with scales {scale.dtype} "
                f"{scale.shape}, where a matrix and float32 scales of its rows were expected; convert it as float32"
            )
    return stored, left_out


def _parse(file: BinaryIO, path: Path) -> tuple[dict[str, Mapped], list[tuple[str, str]]]:
    """Name → variable, and pairs of alias and name. Raises ValueError or struct.error where the file is damaged."""
    stamp = stamp_of(path)

    def number(format: str) -> int:
        return struct.unpack(f"<{format}", file.read(struct.calcsize(format)))[0]

    def name() -> str:
        text = file.read(number("H")).decode().removesuffix("\0")
        return re.sub(r"\blayer_(\d+)\b", r"layer.\1", text).replace("/", ".")

    if (version := number("I")) > NEWEST:
        raise ValueError(f"its version is {version}, where at most {NEWEST} was expected")
    _ = name(), number("I")  # the specification and its revision
    found = {}
    for _ in range(number("I")):
        one, axes = name(), number("B")
        shape = tuple(number("I") for _ in range(axes))
        check_shape(one, shape)
        code, count = number("B"), number("I")
        dtype = dict(enumerate(DTYPES)).get(code) if version >= FIRST_WITH_TYPES else WIDTHS.get(code)
        width = getattr(torch, dtype).itemsize if dtype else 0
        values = count // width if width and version >= FIRST_WITH_TYPES else count
        at = file.tell()
        if one in found or dtype is None or values != math.prod(shape) or at + values * width > stamp[0]:
            raise ValueError(f"{one!r} of type {code} and shape {shape} is not all there, or stands there twice")
        found[one] = Mapped(path, at, shape, dtype, stamp)
        file.seek(values * width, 1)
    return found, [(name(), name()) for _ in range(number("I") if version >= FIRST_WITH_ALIASES else 0)]
