"""Files pickled by `torch.save`: a dictionary of tensors, mapped; code in them is never run.

torch's restricted unpickler runs no code of the file, but a small file can still take memory and time without bound: a
compressed record may expand a thousandfold; `bytearray(2**40)` is 30 bytes of pickle; forty nested tuples, each with
the one below twice, are small but take days to hash; some text codecs take quadratic time. So `check_pickle` goes
through the opcodes first, without building any object, and refuses what would grow beyond the size of the file.
"""

from __future__ import annotations

import functools
import io
import math
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from .stored import CheckpointError, InMemory, Stored, as_tensor, dtype_name, is_tensor, read_mapping

PICKLED_SUFFIXES = (".bin", ".pt", ".pth")
MAX_OVERLAP = 8
"""Bytes of all tensors together, over the file's size: tensors of a pickle may share memory, but hardly more often."""
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts store the weights in a larger dictionary."""
MAX_PICKLE_BYTES = MAX_PICKLE_STEPS = 100_000_000
"""Size of a pickle; and work to load it: opcodes, times `STEPS_PER_OPCODE`, and the sizes of objects used again."""
STEPS_PER_OPCODE = 8
ZIP_MAGIC = b"PK\3\4"
LEGACY_PICKLES = 5
"""Pickles at the start of a file that is not a zip: magic number, protocol, machine, content, names of storages."""
MARK = 0
"""Stands for pickle's mark object on the stack of `_check_opcodes`."""
ALLOCATOR = -1
"""Stands for a class whose argument says how much memory it takes, on the stack of `_check_opcodes`."""
ALLOCATOR_CLASSES = re.compile(r"(?:\w+ bytearray|torch\S* \w*Tensor|torch\.storage \w+)")
SLOW_CODECS = re.compile(r"[\W_]*(?:punycode|idna)[\W_]*", re.IGNORECASE)


@dataclass(frozen=True)
class Pickled(Stored):
    """A tensor named `key` in a file of `torch.save`."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str

    def load(self) -> torch.Tensor:
        """The tensor, mapped if the file has the zip format (torch ≥ 1.6). Raises CheckpointError."""
        value = _unpickle(self.path).get(self.key)
        tensor, _ = as_tensor(value)
        if tensor is None or (tuple(tensor.shape), dtype_name(tensor.dtype)) != (self.shape, self.dtype):
            raise CheckpointError(
                f"{self.path} holds another {self.key!r} than when it was opened: it changed meanwhile. Open it again."
            )
        return tensor


def read_pickled(path: Path) -> tuple[dict, dict]:
    """List the tensors of a file of `torch.save`: name → `Stored`, and name → reason for those not read.

    Raises CheckpointError, FileNotFoundError.
    """
    held, left_out = read_mapping(_unpickle(path))
    left_out |= _oversized(held, path)
    kept = {key: entry for key, entry in held.items() if key not in left_out}
    return {key: Pickled(path, key, entry.shape, entry.dtype) for key, entry in kept.items()}, left_out


def _oversized(held: Mapping[str, InMemory], path: Path) -> dict[str, str]:
    """Name → reason for tensors larger than the file, whose strides repeat a few bytes; reading them may never end."""
    size, total, found = path.stat().st_size, 0, {}
    for name, entry in held.items():
        claimed = math.prod(entry.shape) * entry.tensor.element_size()
        if claimed > size:
            found[name] = f"it would have {claimed} bytes, and the file has {size}: its values are repeated"
        else:
            total += claimed
    if total > MAX_OVERLAP * size:
        raise CheckpointError(
            f"{path} has {size} bytes, and its tensors would have {total}: they lie on one another. Expected at most "
            f"{MAX_OVERLAP} times the file. Save it again with tensors of their own."
        )
    return found


def _unpickle(path: Path) -> Mapping:
    """The dictionary of tensors in a file of `torch.save`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there (expected a file of torch.save). Check the path.")
    stat = path.stat()
    return _unpickle_once(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=2)  # mapped files are cheap to keep; only two, since legacy files fill memory
def _unpickle_once(path: Path, size: int, mtime: int) -> Mapping:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickle protocols and TorchScript
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=check_pickle(path))
    except Exception as error:  # a damaged pickle can raise anything: KeyError, EOFError, UnicodeDecodeError…
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
    # State dicts have such keys; str() of another object, such as a deeply nested tuple, might never return.
    return {str(key): value for key, value in _unwrap(content, path).items() if isinstance(key, str | int)}


def _unwrap(content, path: Path) -> Mapping:
    """The dictionary that holds the tensors: `content` itself, or the one under a key of `STATE_DICT_KEYS`."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, where a dictionary of tensors was expected.")
    if any(is_tensor(value) for value in content.values()):
        return content
    nested = [key for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping)]
    if len(nested) == 1:
        return content[nested[0]]
    found = (
        f"{nested} each hold a dictionary"
        if nested
        else f"found the keys {[k for k in content if isinstance(k, str)][:8]}"
    )
    raise CheckpointError(
        f"{path} has no tensors at its top level; {found}, and one of {list(STATE_DICT_KEYS)} was expected. "
        "Load it yourself and pass the mapping of names to tensors."
    )


def check_pickle(path: Path) -> bool:
    """Check that a file is safe to load; returns whether it is a zip, which torch can map.

    Raises ValueError if it is not, and whatever zipfile and pickletools raise for a damaged file.
    """
    with open(path, "rb") as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            _check_opcodes(io.BytesIO(_pickle_in_zip(file)))
            return True
        file.seek(0)
        start = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    for _ in range(LEGACY_PICKLES):
        if not start.read(1):
            break
        start.seek(-1, 1)
        _check_opcodes(start)
    return False


def _pickle_in_zip(file: BinaryIO) -> bytes:
    """The pickle in a zip file.

    Raises ValueError if an entry is compressed, or if another zip reader could find other entries than zipfile does.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - 42))
    tail = file.read().rjust(42)
    if tail[20:24] != b"PK\5\6" or (tail[:4] == b"PK\6\7" and int.from_bytes(tail[8:16], "little") != size - 98):
        raise ValueError("its zip directory does not end the file as torch.save has it")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if packed := next((one for one in entries if one.compress_type != zipfile.ZIP_STORED), None):
            raise ValueError(f"{packed.filename!r} in it is compressed, which torch.save never does")
        if (claimed := sum(one.file_size for one in entries)) > size:
            raise ValueError(f"what is in it has {claimed} bytes, and the file has {size}")
        pickles = [one for one in entries if one.filename.endswith("data.pkl")]
        if len(pickles) != 1 or len({one.filename for one in entries}) < len(entries):
            raise ValueError(f"{len(pickles)} times data.pkl in it, or one name twice, where one was expected")
        if pickles[0].file_size > MAX_PICKLE_BYTES:
            raise ValueError(
                f"its data.pkl has {pickles[0].file_size} bytes, where at most {MAX_PICKLE_BYTES} were expected"
            )
        return archive.read(pickles[0])


def _check_opcodes(stream: BinaryIO) -> None:
    """Run the opcodes of one pickle on a stack that holds the size of each object instead of the object.

    Raises ValueError if loading it would take more than `MAX_PICKLE_STEPS`, allocate memory that the file does not
    hold, or decode text with a slow codec.
    """
    stack, memo, steps, encodes, slow = [], {}, 0, False, False
    for opcode, value, _ in pickletools.genops(stream):
        name, takes = opcode.name, opcode.stack_before
        steps += STEPS_PER_OPCODE
        if name == "GLOBAL":
            stack.append(ALLOCATOR if ALLOCATOR_CLASSES.fullmatch(str(value)) else 1)
            encodes |= value == "_codecs encode"
        elif "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if value is None else value] = stack[-1]
        elif name == "DUP" or "GET" in name:
            stack.append(memo[value] if "GET" in name else stack[-1])
            steps += abs(stack[-1])
        elif name == "MARK":
            stack.append(MARK)
        else:
            held = []
            if pickletools.markobject in takes:
                while (item := stack.pop()) != MARK:
                    held.append(item)
                takes = takes[: takes.index(pickletools.markobject)]
            held += [stack.pop() for _ in takes]
            if ALLOCATOR in (held[:-2] + held[-1:] if name == "TUPLE" else held):
                raise ValueError("it makes a bytearray or a tensor without any bytes in the file")
            size = sum(held) + (len(value) if isinstance(value, str | bytes) else 1)
            slow |= isinstance(value, str) and bool(SLOW_CODECS.fullmatch(value))
            stack += [abs(size)] * len(opcode.stack_after)
        if steps > MAX_PICKLE_STEPS:
            raise ValueError(f"it would unfold to more than {MAX_PICKLE_STEPS} steps")
        if encodes and slow:
            raise ValueError("it asks for a text codec that takes for ever")
