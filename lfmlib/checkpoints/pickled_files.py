"""Files pickled by `torch.save`: a dictionary of tensors, mapped; code in them is never run.

torch's restricted unpickler runs no code of the file, but it believes what it reads: a compressed record may unfold to
a thousand times its size; `bytearray(2**40)` takes 30 bytes to write; a tuple that holds another one twice, forty times
over, is small in memory and takes days to hash; some text codecs take a time that grows with the square of the text.
So the pickle is gone through first, without making anything of it (`look_through`), and nothing in it outgrows the
file.
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
        tensor, _ = as_tensor(value)
        if tensor is None or (tuple(tensor.shape), dtype_name(tensor.dtype)) != (self.shape, self.dtype):
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


MOST = 100_000_000  # bytes of a pickle, and steps and letters in it, shared parts counted each time
STEP = 8  # what an instruction counts for
ZIP = b"PK\3\4"
PICKLES = 5  # that a file without a zip begins with: magic number, protocol, machine, content, names of storages
MARK = 0
MAKER = -1  # a class that takes as much memory as a number says
MAKERS = re.compile(r"(?:\w+ bytearray|torch\S* \w*Tensor|torch\.storage \w+)")
SLOW = re.compile(r"[\W_]*(?:punycode|idna)[\W_]*", re.IGNORECASE)


def look_through(path: Path) -> bool:
    """Whether the file is a zip.

    Raises ValueError, and whatever zipfile and pickletools make of a damaged file.
    """
    with open(path, "rb") as file:
        if file.read(len(ZIP)) == ZIP:
            _walk(io.BytesIO(_unzipped(file)))
            return True
        file.seek(0)
        start = io.BytesIO(file.read(MOST))
    for _ in range(PICKLES):
        if not start.read(1):
            break
        start.seek(-1, 1)
        _walk(start)
    return False


def _unzipped(file: BinaryIO) -> bytes:
    """The pickle in a zip, nothing of which is compressed and which other readers cannot see differently."""
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
        if pickles[0].file_size > MOST:
            raise ValueError(f"its data.pkl has {pickles[0].file_size} bytes, where at most {MOST} were expected")
        return archive.read(pickles[0])


def _walk(stream: BinaryIO) -> None:
    """Go through one pickle with a stack of sizes in the place of objects."""
    stack, memo, steps, encodes, slow = [], {}, 0, False, False
    for opcode, value, _ in pickletools.genops(stream):
        name, takes = opcode.name, opcode.stack_before
        steps += STEP
        if name == "GLOBAL":
            stack.append(MAKER if MAKERS.fullmatch(str(value)) else 1)
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
            if MAKER in (held[:-2] + held[-1:] if name == "TUPLE" else held):
                raise ValueError("it makes a bytearray or a tensor without any bytes in the file")
            size = sum(held) + (len(value) if isinstance(value, str | bytes) else 1)
            slow |= isinstance(value, str) and bool(SLOW.fullmatch(value))
            stack += [abs(size)] * len(opcode.stack_after)
        if steps > MOST:
            raise ValueError(f"it would unfold to more than {MOST} steps")
        if encodes and slow:
            raise ValueError("it asks for a text codec that takes for ever")
