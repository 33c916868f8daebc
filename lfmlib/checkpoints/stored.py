"""`Stored`, the interface of a stored tensor, and what the readers of all file formats share.

A tensor is stored in a safetensors, pickled (`torch.save`), GGUF, ONNX or remote file, or in memory (`InMemory`). Each
reader lists a file without reading values and returns two dictionaries: name → `Stored`, and name → reason for the
tensors that are not read. The order is the file's own: by offset in safetensors and by insertion elsewhere.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import numpy as np
import torch

if TYPE_CHECKING:
    from .cells import Cells


class CheckpointError(ValueError):
    """A checkpoint is incomplete, damaged, unsafe or not understood; the message says what to do.

    Examples:
        >>> lfmlib.open_checkpoint({})
        Traceback (most recent call last):
            ...
        lfmlib.checkpoints.stored.CheckpointError: mapping holds no tensors; expected at least one.
    """


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.bfloat16` → `"bfloat16"`."""
    return str(dtype).removeprefix("torch.")


class Stored:
    """A tensor where it is stored. Each file format has a subclass.

    Attributes:
        shape: the stored shape.
        dtype: name of the dtype, such as "bfloat16".
        lazy: `load` reads or computes every value (that of a mapped tensor does not), so parts are read by `span`.
        remote: its bytes are in a remote file.
        kind: the quantization in words, such as "int4 of GPTQ, groups of 128"; "" for plain numbers.
        inputs_first: a matrix, or each of a stack, is stored as (in, out); its reader knows, whatever its name says.
        intervals: each value is that of a code, and `cells` says for what interval it stands.
    """

    shape: tuple[int, ...]
    dtype: str
    lazy = remote = inputs_first = intervals = False
    kind = ""

    def load(self) -> torch.Tensor:
        """The tensor."""
        raise NotImplementedError

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of the flattened tensor."""
        return self.load().reshape(-1)[start:stop]

    def gather(self, places: torch.Tensor) -> torch.Tensor:
        """The values of the flattened tensor at `places`, int64 indices."""
        return self.load().reshape(-1)[places]

    def cells(self, start: int, stop: int) -> "Cells":
        """Values `start` to `stop` of the flattened tensor and the cells of their codes, where `intervals` is True."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise CheckpointError if a file that holds it was changed since it was opened; of a remote one each answer of
        the server tells.
        """
        for value in vars(self).values():
            for piece in value if isinstance(value, tuple) else (value,):
                if isinstance(piece, Stored):
                    piece.check()

    def preloaded(self) -> "Stored":
        """This tensor, made ready for reading many spans.

        GPTQ and AWQ store codes with the inputs as rows, so a few outputs need bytes from all over the codes: their
        codes and scales are loaded into memory once. Every other tensor is returned as it is.
        """
        return self


@dataclass(frozen=True)
class InMemory(Stored):
    """A tensor in memory, of the host or a GPU."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> str:
        """Name of the dtype."""
        return dtype_name(self.tensor.dtype)

    def load(self) -> torch.Tensor:
        """The tensor itself, not a copy."""
        return self.tensor

    def __reduce__(self):
        """Pickle the bytes of this tensor alone: torch would pickle a whole shared storage, and cannot read float8."""
        flat = self.tensor.cpu().contiguous().reshape(-1)
        return _in_memory, (flat.view(torch.uint8).numpy(), self.shape, self.dtype)


def _in_memory(flat: np.ndarray, shape: tuple[int, ...], dtype: str) -> InMemory:
    return InMemory(torch.from_numpy(flat).view(getattr(torch, dtype)).reshape(shape))


def is_positive_int(value) -> TypeGuard[int]:
    """Whether a value read from a file is an integer above 0; JSON's true, an int in Python, is not."""
    return type(value) is int and value > 0


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError for a shape that no tensor can have; the header of a file without values can claim any."""
    if math.prod(max(length, 1) for length in shape) >= 2**63:
        raise ValueError(f"{name!r} has the shape {shape}, larger than any tensor can be")


class Stamp(NamedTuple):
    """By what a changed file is known: bytes, and nanoseconds of its last writing and of the last change of its inode.

    The last of these no program can set back: it tells a file that was replaced, and given the old time of writing.
    """

    size: int
    written: int
    changed: int


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file as it is now."""
    stat = path.stat()
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def check_unchanged(path: Path, stamp: Stamp) -> None:
    """Raise CheckpointError if a file no longer has the stamp it had when opened, FileNotFoundError if it is gone."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is no longer there: it was moved or deleted since it was opened, or this worker does not see it. "
            "Open it anew, or let every worker see it at the same place."
        )
    if (now := stamp_of(path)) != stamp:
        found = f"has {now.size} bytes, but {stamp.size} were there when it was opened"
        if now.size == stamp.size:
            found = "was written to since it was opened, though its size is the same"
        if now[:2] == stamp[:2]:
            found = "was replaced, or its permissions changed, since it was opened, though size and time are the same"
        raise CheckpointError(
            f"{path} {found}: it changed meanwhile. Open the checkpoint again, once nothing writes to it."
        )


def check_readable(path: Path, kind: str) -> None:
    """Raise FileNotFoundError if there is no such file, CheckpointError if the system does not let it be read, or if it
    is what stands in place of a file that was not downloaded."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there (expected {kind}). Check the path.")
    try:
        with open(path, "rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); what it holds may be sound. Check its permissions, and the disk."
        ) from error
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a pointer of Git LFS, where {kind} was expected. Run `git lfs pull` for that."
        )
    if start.startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            f"{path} is a web page, where {kind} was expected: its address asked for something else, such as a login. "
            "Open it in a browser to see what, and download the file again."
        )


def json_object(content: bytes, name: str, *, unique: bool = False) -> dict:
    """Parse JSON that must be an object.

    Args:
        content: the text.
        name: what error messages call it.
        unique: refuse an object with a repeated key, since readers disagree about which value counts.

    Raises CheckpointError.
    """
    try:
        found = json.loads(content, object_pairs_hook=_refuse_duplicates if unique else None)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} cannot be read as JSON ({error}). Download or save it again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} holds a JSON {type(found).__name__}, where an object was expected.")
    return found


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {name!r} stands there twice")
    return found
