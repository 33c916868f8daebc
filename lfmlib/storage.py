"""Tensors as they are stored: listed without reading a value, mapped from their file when one is wanted.

Three kinds of place hold tensors: a safetensors file, a file pickled by `torch.save`, and memory. Each reader here
returns two dictionaries: what is there (name → a stored tensor with `shape`, `dtype` and `load()`), and what is left
out (name → reason). The order is the file's own: by offset in safetensors, by insertion in the others.

Why values are not taken through `safetensors.safe_open(…, "pt")`: it maps the whole file privately and writable, which
Linux refuses for a file larger than the machine's memory, and it gives no address to map less. So safetensors checks
the header (offsets, overlaps, sizes, dtypes, JSON), and each tensor is then mapped on its own. A mapping is private:
writing into a tensor changes this process's copy of the page, never the file, and reading takes no anonymous memory.
"""

import functools
import json
import math
import mmap
import re
import sys
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from .pickle_guard import look_through

LONGEST = 100_000_000  # bytes of a header: safetensors' own limit
PICKLED = (".bin", ".pt", ".pth")
OVERLAP = 8  # tensors of a pickle may be parts of others; more than so many times the file is none that a model has
NESTING = ("state_dict", "model_state_dict", "model")  # where training scripts keep the weights in a larger dictionary

# safetensors' short names that torch reads one value per element; others (4- and 6-bit packings) are reported.
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


class CheckpointError(ValueError):
    """A checkpoint that cannot be trusted or understood; the message says what was found, expected, and to do."""


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.bfloat16` → `"bfloat16"`."""
    return str(dtype).removeprefix("torch.")


class Stored:
    """A tensor in its place; those of the kinds below, and of `lfmlib.remote` and `lfmlib.quantized`.

    Attributes:
        shape, dtype: as stored, the dtype by its name.
        lazy: loading it costs reading or computing all of it, so a part is asked for by `span`.
        remote: its bytes are elsewhere.
        kind: what its codes are in words, where the values are computed.
    """

    shape: tuple[int, ...]
    dtype: str
    lazy = remote = False
    kind = ""

    def load(self) -> torch.Tensor:
        """The tensor."""
        raise NotImplementedError

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of the flattened tensor."""
        return self.load().reshape(-1)[start:stop]

    def gather(self, places: torch.Tensor) -> torch.Tensor:
        """The values of the flattened tensor at these places, int64."""
        return self.load().reshape(-1)[places]

    def near(self) -> "Stored":
        """The same, with those pieces at hand that its rows do not lie together in."""
        return self


@dataclass(frozen=True)
class Mapped(Stored):
    """A tensor at a known place of a file: `offset` bytes from its start, row-major, little-endian."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def load(self) -> torch.Tensor:
        """The tensor, mapped: its values are read when touched. Raises CheckpointError, FileNotFoundError."""
        return self._mapped(scattered=False)

    def gather(self, places: torch.Tensor) -> torch.Tensor:
        """See `Stored`; the kernel is told not to read around the places, which can be megabytes for each."""
        return self._mapped(scattered=True).reshape(-1)[places]

    def _mapped(self, scattered: bool) -> torch.Tensor:
        dtype = getattr(torch, self.dtype)
        count = math.prod(self.shape)
        if count == 0:
            return torch.empty(self.shape, dtype=dtype)
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        end = self.offset + count * dtype.itemsize
        with open(self.path, "rb") as file:
            # Touching a page beyond the end of a file kills the process, so look before mapping.
            size = file.seek(0, 2)
            if size < end:
                raise CheckpointError(
                    f"{self.path} has {size} bytes, but {end} were there when it was opened: it changed meanwhile. "
                    "Open the checkpoint again."
                )
            memory = _map(file.fileno(), end - start, start)
        if scattered and hasattr(mmap, "MADV_RANDOM"):
            memory.madvise(mmap.MADV_RANDOM)
        return torch.frombuffer(memory, dtype=dtype, count=count, offset=self.offset - start).reshape(self.shape)


@dataclass(frozen=True)
class Pickled(Stored):
    """A tensor named `key` in a file of `torch.save`."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str

    def load(self) -> torch.Tensor:
        """The tensor, mapped where the file is of the zip format (torch ≥ 1.6). Raises CheckpointError."""
        value = _unpickle(self.path).get(self.key)
        tensor, reason = _as_tensor(value)
        if reason or (tuple(tensor.shape), dtype_name(tensor.dtype)) != (self.shape, self.dtype):
            raise CheckpointError(
                f"{self.path} holds another {self.key!r} than when it was opened: it changed meanwhile. Open it again."
            )
        return tensor


@dataclass(frozen=True)
class Held(Stored):
    """A tensor already in memory (possibly a GPU's)."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> str:
        """Name of the dtype."""
        return dtype_name(self.tensor.dtype)

    def load(self) -> torch.Tensor:
        """The tensor itself, not a copy."""
        return self.tensor

    def __reduce__(self):
        """Pickle these values alone: torch would send all of a shared storage, and reads no float8 back."""
        flat = self.tensor.cpu().contiguous().reshape(-1)
        return _held, (flat.view(torch.uint8).numpy(), self.shape, self.dtype)


def _held(flat: np.ndarray, shape: tuple[int, ...], dtype: str) -> Held:
    return Held(torch.from_numpy(flat).view(getattr(torch, dtype)).reshape(shape))


def read_file(path: Path) -> tuple[dict, dict]:
    """List the tensors of a file of safetensors or torch.save. Raises CheckpointError, FileNotFoundError."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix in PICKLED:
        loaded = _unpickle(path)
        held, left_out = read_mapping(loaded)
        left_out |= _outgrown(held, path)
        kept = {key: entry for key, entry in held.items() if key not in left_out}
        return {key: Pickled(path, key, entry.shape, entry.dtype) for key, entry in kept.items()}, left_out
    raise CheckpointError(
        f"{path} ends in {path.suffix!r}; this library reads .safetensors, .gguf, {', '.join(PICKLED)}. "
        "Convert it, or load it yourself and pass the mapping of names to tensors."
    )


def _outgrown(held: Mapping[str, Held], path: Path) -> dict[str, str]:
    """Tensors whose values are those of a few bytes again and again, which would take for ever to go through."""
    size, total, found = path.stat().st_size, 0, {}
    for name, entry in held.items():
        claimed = math.prod(entry.shape) * entry.tensor.element_size()
        if claimed > size:
            found[name] = f"it would have {claimed} bytes, and the file has {size}: its values are repeated"
        else:
            total += claimed
    if total > OVERLAP * size:
        raise CheckpointError(
            f"{path} has {size} bytes, and its tensors would have {total}: they lie on one another. Expected at most "
            f"{OVERLAP} times the file. Save it again with tensors of their own."
        )
    return found


def read_safetensors(path: Path) -> tuple[dict, dict]:
    """List the tensors of a safetensors file. Raises CheckpointError, FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there (expected a safetensors file). Check the path.")
    check_safetensors(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json_object(file.read(length), str(path), once=True)
    return listed(header, str(path), lambda offset, shape, dtype: Mapped(path, 8 + length + offset, shape, dtype))


def check_safetensors(path: Path, name: str = "") -> None:
    """Have the header of a file checked; `name` is what an error calls it. Raises CheckpointError."""
    try:
        # "np" validates the header like "pt", but maps read-only and so opens files of any size.
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{name or path} is not a sound safetensors file: {_explain(path, error)}") from error


def listed(header: dict, name: str, place: Callable[[int, tuple, str], object]) -> tuple[dict, dict]:
    """The tensors that the JSON of a checked safetensors header names. Raises CheckpointError.

    Args:
        header: without the 8 bytes of its length.
        name: what an error calls the file.
        place: from offset behind the header, shape and dtype to a stored tensor.
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
            stored[tensor] = place(entry["data_offsets"][0], shape, dtype_name(TORCH_DTYPES[entry["dtype"]]))
        else:
            left_out[tensor] = f"dtype {entry['dtype']} packs several values in a byte and is not read"
    # safetensors.torch.save_model notes there which names it dropped because another tensor holds their values.
    ties = {tied: f"tied to {kept}" for tied, kept in metadata.items() if kept in header and tied not in header}
    return stored, left_out | ties


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError for a shape that no tensor can have; without values, a file may claim any."""
    if math.prod(max(length, 1) for length in shape) >= 2**63:
        raise ValueError(f"{name!r} has the shape {shape}, larger than any tensor can be")


def json_object(content: bytes, name: str, once: bool = False) -> dict:
    """The object that JSON text holds; `name` is what an error calls it, `once` refuses a name that stands there twice,
    of which readers disagree which one counts. Raises CheckpointError."""
    try:
        found = json.loads(content, object_pairs_hook=_once if once else None)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} cannot be read as JSON ({error}). Download or save it again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} holds a JSON {type(found).__name__}, where an object was expected.")
    return found


def _once(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {name!r} stands there twice")
    return found


class Names(dict):
    """A dictionary whose names that begin alike are found without looking at all: a model may have 100,000."""

    @functools.cached_property
    def _sorted(self) -> list[str]:
        return sorted(self)

    def under(self, prefix: str) -> list[str]:
        """The names that begin with `prefix`."""
        first = bisect_left(self._sorted, prefix)
        last = bisect_left(self._sorted, prefix + chr(0x10FFFF))
        return self._sorted[first:last]


def read_mapping(tensors: Mapping) -> tuple[dict, dict]:
    """List tensors or arrays in memory; of names that share one storage, the first is kept."""
    stored, left_out, kept = {}, {}, {}
    for name, value in tensors.items():
        tensor, reason = _as_tensor(value)
        if reason:
            left_out[str(name)] = reason
            continue
        identity = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and identity in kept:
            left_out[str(name)] = f"tied to {kept[identity]}"
            continue
        kept[identity] = name
        stored[str(name)] = Held(tensor)
    return stored, left_out


def _is_tensor(value) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray)


def _as_tensor(value) -> tuple[torch.Tensor | None, str]:
    """(tensor sharing the value's memory, "") or (None, why there is none)."""
    if isinstance(value, np.ndarray):
        return _from_numpy(value)
    if not isinstance(value, torch.Tensor):
        return None, f"not a tensor ({type(value).__name__})"
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        kind = "quantized" if value.is_quantized else "nested" if value.is_nested else value.layout
        return None, f"layout {kind} is not read"
    if value.is_meta:
        return None, "on the meta device: it has a shape but no values"
    return value.detach().resolve_conj().resolve_neg(), ""


def _from_numpy(array: np.ndarray) -> tuple[torch.Tensor | None, str]:
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch knows no negative strides
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        try:
            return torch.from_numpy(array), ""
        except TypeError:
            # ml_dtypes' bfloat16 and float8 go by torch's own names, and through integers of the same width.
            dtype = getattr(torch, array.dtype.name, None)
            if not isinstance(dtype, torch.dtype) or dtype.itemsize != array.dtype.itemsize:
                return None, f"dtype {array.dtype} is not one of torch's"
            return torch.from_numpy(array.view(f"u{dtype.itemsize}")).view(dtype), ""


def _map(fileno: int, length: int, offset: int) -> mmap.mmap:
    """A private mapping of part of a file; on Linux it reserves no swap, so its length is not limited by memory."""
    if sys.platform != "linux":
        return mmap.mmap(fileno, length, access=mmap.ACCESS_COPY, offset=offset)
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named in Python's mmap since 3.13
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    return mmap.mmap(fileno, length, flags=mmap.MAP_PRIVATE | no_reserve, prot=protection, offset=offset)


def _explain(path: Path, error: Exception) -> str:
    """Plain words and advice for what safetensors says of a file."""
    said, size = str(error), path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(23)
    declared = int.from_bytes(start[:8], "little")
    key = said.lower().replace(" ", "")  # older versions of safetensors say it in CamelCase
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


def _unpickle(path: Path) -> Mapping:
    """The dictionary of tensors in a file of `torch.save`; code in it is never run."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there (expected a file of torch.save). Check the path.")
    stat = path.stat()
    return _unpickle_once(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=2)  # mapped, so cheap to keep; two, for files of the legacy format fill memory
def _unpickle_once(path: Path, size: int, mtime: int) -> Mapping:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickle protocols and TorchScript is not for our readers
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=look_through(path))
    except Exception as error:  # pickle lets a damaged file raise anything: KeyError, EOFError, UnicodeDecodeError…
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise CheckpointError(
                f"{path} holds Python code besides tensors ({code[1]}), which could do anything when loaded; none "
                "of it was run. Ask for a safetensors file; if you trust it, load it yourself and pass the state_dict."
            ) from error
        lines = [line.strip() for line in reversed(str(error).splitlines()) if line.strip()]
        reason = next((line for line in lines if "rror" in line), "")
        if not reason and isinstance(error, ValueError | RuntimeError):
            reason = next(iter(lines), "")
        raise CheckpointError(
            f"{path} ({size} bytes) cannot be read as a plain dictionary of tensors written by torch.save "
            f"({type(error).__name__}{': ' + reason[:200] if reason else ''}): it is truncated, damaged or of another "
            "kind. Download or save it again, if possible as safetensors."
        ) from error
    # Keys are those of a state dict: turning whatever else may be one into words can take for ever.
    return {str(key): value for key, value in _unwrap(content, path).items() if isinstance(key, str | int)}


def _unwrap(content, path: Path) -> Mapping:
    """The level of a loaded object that holds the tensors: the top one, or the only known nesting below it."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, where a dictionary of tensors was expected.")
    if any(_is_tensor(value) for value in content.values()):
        return content
    nested = [key for key in NESTING if isinstance(content.get(key), Mapping)]
    if len(nested) == 1:
        return content[nested[0]]
    found = (
        f"{nested} each hold a dictionary"
        if nested
        else f"found the keys {[k for k in content if isinstance(k, str)][:8]}"
    )
    raise CheckpointError(
        f"{path} has no tensors at its top level; {found}, and one of {list(NESTING)} was expected. "
        "Load it yourself and pass the mapping of names to tensors."
    )
