"""Safetensors files: list tensors without reading values, and map each one from the file when it is loaded.

Values are not read with `safetensors.safe_open(…, "pt")`, because it maps the whole file privately and writable, which
Linux refuses for a file larger than the machine's memory, and it cannot map less. So safetensors checks the header
(offsets, overlaps, sizes, dtypes, JSON), and each tensor is then mapped on its own. Mappings are private: writing to a
tensor changes this process's copy of the page, never the file, and reading takes no anonymous memory.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .stored import (
    CheckpointError,
    Stamp,
    Stored,
    check_readable,
    check_shape,
    check_unchanged,
    dtype_name,
    json_object,
    stamp_of,
)

MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit

# safetensors' dtypes with one value per element; others (4- and 6-bit packings) are skipped with a reason.
TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    **({"F8_E8M0": torch.float8_e8m0fnu} if hasattr(torch, "float8_e8m0fnu") else {}),
}


@dataclass(frozen=True)
class Mapped(Stored):
    """A tensor that starts `offset` bytes into a file, row-major, little-endian; `stamp` is the file's when opened."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str
    stamp: Stamp
    inputs_first: bool = False

    def load(self) -> torch.Tensor:
        """Map the tensor; values are read when touched. Raises CheckpointError, FileNotFoundError."""
        return self._mapped(scattered=False)

    def check(self) -> None:
        """See `Stored.check`."""
        from .bus_errors import lost  # imports numba, which takes a second, and which listing a file does not need

        check_unchanged(self.path, self.stamp)
        if lost((self.path, self.stamp)):
            raise CheckpointError(
                f"the system could not read a part of {self.path}, which was not changed. Check the disk or the "
                "network, and start again."
            )

    def gather(self, places: torch.Tensor) -> torch.Tensor:
        """As `Stored.gather`; the kernel is told not to read ahead, which could be megabytes around each value."""
        return self._mapped(scattered=True).reshape(-1)[places]

    def _mapped(self, scattered: bool) -> torch.Tensor:
        self.check()
        dtype = getattr(torch, self.dtype)
        count = math.prod(self.shape)
        if count == 0:
            return torch.empty(self.shape, dtype=dtype)
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        end = self.offset + count * dtype.itemsize
        with open(self.path, "rb") as file:
            memory = _map_privately(file.fileno(), end - start, start)
        if sys.platform == "linux":
            from .bus_errors import guard

            guard(memory, (self.path, self.stamp))
        if scattered and hasattr(mmap, "MADV_RANDOM"):
            memory.madvise(mmap.MADV_RANDOM)
        return torch.frombuffer(memory, dtype=dtype, count=count, offset=self.offset - start).reshape(self.shape)


def read_safetensors(path: Path) -> tuple[dict, dict]:
    """List the tensors of a safetensors file: name → `Stored`, and name → reason for those not read.

    Raises CheckpointError, FileNotFoundError.
    """
    check_readable(path, "a safetensors file")
    stamp = stamp_of(path)
    check_safetensors(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json_object(file.read(length), str(path), unique=True)

    def made(offset: int, shape: tuple[int, ...], dtype: str) -> Mapped:
        return Mapped(path, 8 + length + offset, shape, dtype, stamp)

    return list_header(header, str(path), made)


def check_safetensors(path: Path, name: str = "") -> None:
    """Let safetensors check a file's header. Raises CheckpointError, which calls the file `name` if given."""
    try:
        # "np" checks the header as "pt" does, but maps read-only, which works for files of any size.
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{name or path} is not a sound safetensors file: {_explain(path, error)}") from error


def list_header(header: dict, name: str, make: Callable[[int, tuple, str], object]) -> tuple[dict, dict]:
    """List the tensors in the parsed header of a safetensors file that `check_safetensors` accepted.

    Args:
        header: its JSON.
        name: what error messages call the file.
        make: from the offset in bytes after the header, the shape and the dtype to a `Stored` tensor.

    Returns:
        As `read_safetensors`.

    Raises CheckpointError.
    """
    metadata = header.pop("__metadata__", None) or {}
    stored, left_out = {}, {}
    for tensor, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape = tuple(entry["shape"])
        try:
            check_shape(tensor, shape)
        except ValueError as error:
            raise CheckpointError(f"{name} is not a sound safetensors file: {error}. Save it again.") from None
        if entry["dtype"] in TORCH_DTYPES:
            stored[tensor] = make(entry["data_offsets"][0], shape, dtype_name(TORCH_DTYPES[entry["dtype"]]))
        else:
            left_out[tensor] = f"dtype {entry['dtype']} packs several values in a byte and is not read"
    # safetensors.torch.save_model records in the metadata which names it dropped because another holds their values.
    ties = {tied: f"tied to {kept}" for tied, kept in metadata.items() if kept in header and tied not in header}
    return stored, left_out | ties


def _map_privately(fileno: int, length: int, offset: int) -> mmap.mmap:
    """A private mapping of part of a file, on Linux without reserving swap, so that it may be larger than memory."""
    if sys.platform != "linux":
        return mmap.mmap(fileno, length, access=mmap.ACCESS_COPY, offset=offset)
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named in Python's mmap since 3.13
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    memory = mmap.mmap(fileno, length, flags=mmap.MAP_PRIVATE | no_reserve, prot=protection, offset=offset)
    return memory


def _explain(path: Path, error: Exception) -> str:
    """What is wrong with a file that safetensors refused, and what to do, in words."""
    said, size = str(error), path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(23)
    declared = int.from_bytes(start[:8], "little")
    key = said.lower().replace(" ", "")  # older versions of safetensors write messages in CamelCase
    if start == b"version https://git-lfs":
        what = "it is a pointer of Git LFS, not the file itself (`git lfs pull` brings that)"
    elif size < 8:
        what = f"it has {size} bytes, too few for a header. It is truncated or empty"
    elif 8 + declared > size:
        what = f"its first 8 bytes declare a header of {declared} bytes, and the file has {size}. It is cut or damaged"
    elif "notfullycovered" in key or "metadataincomplete" in key:
        what = f"its header describes other data than the {size} bytes there are. It is truncated, or bytes were added"
    elif "offset" in key or "tensorinvalidinfo" in key:
        what = f"the places of its tensors overlap, leave holes or do not fit their shapes ({said})"
    elif "unknownvariant" in key:
        what = f"it names an unknown dtype ({said})"
    else:
        what = said
    return f"{what}. Download or save it again."
