"""`Stored`, the interface of a stored tensor, and what the readers of all file formats share.

A tensor is stored in a safetensors, pickled (`torch.save`), GGUF or remote file, or in memory (`InMemory`). Each reader
lists a file without reading values and returns two dictionaries: name → `Stored`, and name → reason for the tensors
that are not read. The order is the file's own: by offset in safetensors and by insertion elsewhere.
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch


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
        """The values of the flattened tensor at `places`, int64 indices."""
        return self.load().reshape(-1)[places]

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


def read_mapping(tensors: Mapping) -> tuple[dict, dict]:
    """List tensors or arrays in memory; of names that share the same memory only the first is kept."""
    stored, left_out, kept = {}, {}, {}
    for name, value in tensors.items():
        tensor, reason = as_tensor(value)
        if tensor is None:
            left_out[str(name)] = reason
            continue
        identity = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and identity in kept:
            left_out[str(name)] = f"tied to {kept[identity]}"
            continue
        kept[identity] = name
        stored[str(name)] = InMemory(tensor)
    return stored, left_out


def is_tensor(value) -> bool:
    """Whether a value is a torch tensor or a NumPy array."""
    return isinstance(value, torch.Tensor | np.ndarray)


def as_tensor(value) -> tuple[torch.Tensor | None, str]:
    """A value as a tensor that shares its memory, and ""; or None, and why it cannot be one."""
    if np.ma.is_masked(value):
        return (
            None,
            f"{np.ma.count_masked(value):,} of its {value.size:,} entries are masked: fill them, or cut them out",
        )
    if not isinstance(value, torch.Tensor) and hasattr(value, "__array__"):  # such as a table of pandas
        try:
            value = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            return None, f"NumPy makes no array of a {type(value).__name__} ({error})"
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
        array = array.copy()  # torch has no negative strides
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        try:
            return torch.from_numpy(array), ""
        except TypeError:
            # torch does not convert ml_dtypes' bfloat16 and float8: pass their bits as integers of the same width.
            dtype = getattr(torch, array.dtype.name, None)
            if not isinstance(dtype, torch.dtype) or dtype.itemsize != array.dtype.itemsize:
                return None, f"dtype {array.dtype} is not one of torch's"
            return torch.from_numpy(array.view(f"u{dtype.itemsize}")).view(dtype), ""
