"""Tensors of an ONNX file where they lie: in the file itself, in one beside it, or number by number in a message."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from .in_memory import as_stored
from .onnx_wire import BYTES, DOUBLE_DATA, FLOAT_DATA, RAW_DATA, Field, Tensor
from .safetensors_files import Mapped
from .stored import CheckpointError, InMemory, Stamp, Stored, check_readable, check_shape, check_unchanged, stamp_of

MAX_AXES = 32
EXTERNAL = 1  # the data_location of values in another file
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz",
    19: "float8_e5m2", 20: "float8_e5m2fnuz",
}  # fmt: skip
"""Code of a type → its name; others hold text, complex numbers or several values in a byte."""
HELD_IN = {"float32": FLOAT_DATA, "float64": DOUBLE_DATA, "int64": 7, "uint32": 11, "uint64": 11}
"""Type → number of the field that holds values one by one; int32_data of all others."""
INT32_DATA = 5


@dataclass(frozen=True)
class Listed(Stored):
    """A tensor whose values are written one by one in the message between two bytes of a file, read when asked for."""

    path: Path
    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: str
    stamp: Stamp
    inputs_first: bool = False
    lazy = True

    def load(self) -> torch.Tensor:
        """The values. Raises CheckpointError where there are more or fewer than the shape has."""
        from onnx import TensorProto, numpy_helper

        self.check()
        with open(self.path, "rb") as file:
            file.seek(self.start)
            content = file.read(self.stop - self.start)
        try:
            found = as_stored(numpy_helper.to_array(TensorProto.FromString(content)))
            if isinstance(found, str) or found.shape != self.shape:
                raise ValueError(found if isinstance(found, str) else f"they have the shape {found.shape}")
            return found.load().to(getattr(torch, self.dtype))  # onnx before 1.17 gives small floats as float32
        except Exception as error:  # an error of protobuf's own, or of numbers that the type does not have
            raise CheckpointError(
                f"{self.path} holds a tensor at byte {self.start} whose values cannot be read ({error}); expected "
                f"{self.dtype} {self.shape}. Download it again, or export the model again."
            ) from error

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Some values of the flattened tensor."""
        return self.load().reshape(-1)[start:stop]

    def check(self) -> None:
        """See `Stored.check`."""
        check_unchanged(self.path, self.stamp)

    def preloaded(self) -> InMemory:
        """This tensor with its values in memory."""
        return InMemory(self.load())


def stored(name: str, one: Tensor, path: Path, stamp: Stamp) -> Stored | str:
    """A tensor of the file at `path` as it is stored, or why it is not read.

    Raises ValueError where header and values do not agree, CheckpointError for an unsafe or missing file beside it.
    """
    from onnx import TensorProto

    code, shape = one.header.data_type, tuple(one.header.dims)
    if len(shape) > MAX_AXES or min(shape, default=0) < 0:
        raise ValueError(f"{name!r} has {len(shape)} axes, {shape[:4]} …, where at most {MAX_AXES} were expected")
    check_shape(name, shape)
    if code not in DTYPES:
        try:
            known = TensorProto.DataType.Name(code) if code else "none"
        except ValueError:
            raise ValueError(f"{name!r} is of the type {code}, which ONNX does not have") from None
        return f"dtype {known} of ONNX is not read"
    dtype, count = DTYPES[code], math.prod(shape)
    size = count * getattr(torch, dtype).itemsize
    if one.header.data_location == EXTERNAL:
        return _external(name, one, path, shape, dtype, size)
    if one.header.external_data:
        raise ValueError(f"{name!r} names a file for its values, and does not say that they are there")
    if not one.data:
        if count:
            raise ValueError(f"{name!r} has the shape {shape} and no values")
        return Mapped(path, one.start, shape, dtype, stamp)
    first, field = one.data[0], HELD_IN.get(dtype, INT32_DATA)
    if first.number not in (RAW_DATA, field):
        raise ValueError(f"{name!r} has its values in field {first.number}, where that of {dtype} was expected")
    if len(one.data) == 1 and first.kind == BYTES and first.number in (RAW_DATA, FLOAT_DATA, DOUBLE_DATA):
        if (found := first.stop - first.start) != size:
            raise ValueError(f"{name!r} has {found} bytes of values, where its shape {shape} needs {size}")
        return Mapped(path, first.start, shape, dtype, stamp)
    if first.number == RAW_DATA:
        raise ValueError(f"{name!r} has its values twice, or not as bytes")
    if sum(map(_most_values, one.data)) < count:
        raise ValueError(f"{name!r} has the shape {shape}, and fewer values")
    return Listed(path, one.start, one.stop, shape, dtype, stamp)


def _most_values(place: Field) -> int:
    """How many numbers may stand in a field, at most: each takes a byte or more."""
    return place.stop - place.start if place.kind == BYTES else 1


def _external(name: str, one: Tensor, path: Path, shape: tuple[int, ...], dtype: str, size: int) -> Mapped:
    """A tensor in a file beside that at `path`."""
    said = {entry.key: entry.value for entry in one.header.external_data}
    location = said.get("location", "")
    parts = PurePosixPath(str(location).replace("\\", "/"))
    if not location or parts.is_absolute() or ".." in parts.parts or ":" in str(location) or "\0" in str(location):
        raise CheckpointError(
            f"{path} has the values of {name!r} in {location!r}, which is no file in its own folder; only these are "
            "read. Do not trust this model unless you know why; save it again with its data beside it if you do."
        )
    try:
        offset = int(said.get("offset", 0))
        length = int(said.get("length", size))
    except ValueError:
        raise ValueError(f"{name!r} lies at {said}, where numbers were expected") from None
    file = path.parent / parts
    try:
        check_readable(file, f"values of {path.name}, {name!r} among them,")
        stamp = stamp_of(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{error} {path.name} has its values in files beside it: copy them too.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} names {str(location)[:80]!r} for values, which no file can be called") from error
    if offset < 0 or length != size or offset + size > stamp[0]:
        raise CheckpointError(
            f"{path} has {name!r} in bytes {offset} to {offset + length} of {file.name}, which has {stamp[0]}; "
            f"expected {size} bytes for the shape {shape}. The two are of different models, or cut: download both."
        )
    return Mapped(file, offset, shape, dtype, stamp)


def check_apart(entries: dict[str, Stored]) -> dict[str, str]:
    """Name → name of the first tensor with the same bytes of a file, for tensors that lie where another does.

    Raises ValueError where two lie on one another in any other way.
    """
    places = [(one.path, one.offset, _end(one), name) for name, one in entries.items() if isinstance(one, Mapped)]
    found: dict[str, str] = {}
    before: tuple | None = None
    for place in sorted(places, key=lambda place: (str(place[0]), *place[1:3])):
        if place[1] == place[2]:
            continue
        if before and place[:3] == before[:3]:
            found[place[3]] = before[3]
        elif before and place[0] == before[0] and place[1] < before[2]:
            raise ValueError(f"{before[3]!r} and {place[3]!r} lie on one another in {place[0].name}")
        else:
            before = place
    return found


def _end(one: Mapped) -> int:
    return one.offset + math.prod(one.shape) * getattr(torch, one.dtype).itemsize
