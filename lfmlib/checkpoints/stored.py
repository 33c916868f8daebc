"""Tensors as they are stored: listed without reading a value; what the readers of all kinds of files share.

A tensor lies in a safetensors file, a file pickled by `torch.save`, one of GGUF, afar or, as here, in memory. Each
reader returns two dictionaries: what is there (name → a `Stored` tensor), and what is left out (name → reason). The
order is the file's own: by offset in safetensors, by insertion in the others.
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch


class CheckpointError(ValueError):
    """A checkpoint that cannot be trusted or understood; the message says what was found, expected, and to do.

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
    """A tensor in its place; `Held` here, others where files of their kind are read.

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


def read_mapping(tensors: Mapping) -> tuple[dict, dict]:
    """List tensors or arrays in memory; of names that share one storage, the first is kept."""
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
        stored[str(name)] = Held(tensor)
    return stored, left_out


def is_tensor(value) -> bool:
    """Whether it is one of torch or an array."""
    return isinstance(value, torch.Tensor | np.ndarray)


def as_tensor(value) -> tuple[torch.Tensor | None, str]:
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
