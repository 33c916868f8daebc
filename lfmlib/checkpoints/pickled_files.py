"""Files pickled by `torch.save`: a dictionary of tensors, mapped; code in them is never run
(`lfmlib.checkpoints.pickle_guard`)."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .pickle_guard import look_through
from .stored import CheckpointError, Held, Stored, as_tensor, dtype_name, is_tensor, read_mapping

PICKLED = (".bin", ".pt", ".pth")
OVERLAP = 8  # tensors of a pickle may be parts of others; more than so many times the file is none that a model has
NESTING = ("state_dict", "model_state_dict", "model")  # where training scripts keep the weights in a larger dictionary


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
        tensor, reason = as_tensor(value)
        if reason or (tuple(tensor.shape), dtype_name(tensor.dtype)) != (self.shape, self.dtype):
            raise CheckpointError(
                f"{self.path} holds another {self.key!r} than when it was opened: it changed meanwhile. Open it again."
            )
        return tensor


def read_pickled(path: Path) -> tuple[dict, dict]:
    """List the tensors of a file of `torch.save`. Raises CheckpointError, FileNotFoundError."""
    held, left_out = read_mapping(_unpickle(path))
    left_out |= _outgrown(held, path)
    kept = {key: entry for key, entry in held.items() if key not in left_out}
    return {key: Pickled(path, key, entry.shape, entry.dtype) for key, entry in kept.items()}, left_out


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
    if any(is_tensor(value) for value in content.values()):
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
