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
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from ..notices import warn
from .in_memory import Converted, as_stored, is_tensor, read_mapping
from .left_out import LeftOut, without_code
from .safetensors_files import Mapped
from .state_dicts import MODEL_KEYS, model_of, shape_of
from .stored import CheckpointError, InMemory, Stamp, Stored, check_readable, check_unchanged, stamp_of

PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pth.tar")
MAX_OVERLAP = 8
"""Bytes of all tensors together, over the file's size: tensors of a pickle may share memory, but hardly more often."""
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
ALLOCATOR_CLASSES = re.compile(r"(?:\w+ bytearray|torch\S* (?!DTensor)\w*Tensor|torch\.storage \w+)")
SLOW_CODECS = re.compile(r"[\W_]*(?:punycode|idna)[\W_]*", re.IGNORECASE)


@dataclass(frozen=True)
class Pickled(Stored):
    """A tensor named `key` in the model's dictionary of a file of `torch.save`; `variant` as in `read_pickled`."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str
    stamp: Stamp
    kind: str = ""
    variant: str | None = None

    def check(self) -> None:
        """See `Stored.check`."""
        check_unchanged(self.path, self.stamp)

    def load(self) -> torch.Tensor:
        """The tensor, mapped if the file has the zip format (torch ≥ 1.6). Raises CheckpointError."""
        self.check()
        entry = as_stored(_model(self.path, self.variant)[0].get(self.key))
        if isinstance(entry, str) or (entry.shape, entry.dtype) != (self.shape, self.dtype):
            raise CheckpointError(
                f"{self.path} holds another {self.key!r} than when it was opened: it changed meanwhile. Open it again."
            )
        return entry.load()


def read_pickled(path: Path, variant: str | None = None) -> tuple[dict, dict]:
    """List the tensors of a file of `torch.save`: name → `Stored`, and name → reason for those not read.

    Args:
        path: of the file.
        variant: key of the dictionary to read where there are several (see `lfmlib.checkpoints.state_dicts`).

    Raises CheckpointError, FileNotFoundError, and ValueError for an unknown variant.
    """
    check_readable(path, "a file of torch.save")
    stamp = stamp_of(path)
    content, beside, notice = _model(path, variant)
    if notice:
        warn(notice)
    held, left_out = read_mapping(content)
    left_out = beside | left_out | _oversized(held, path)
    kept = {key: entry for key, entry in held.items() if key not in left_out}
    places, entries = _mapped_places(path), {}
    for key, one in kept.items():
        offset = places(one.tensor) if isinstance(one, InMemory) else None
        if offset is None:
            entries[key] = Pickled(path, key, one.shape, one.dtype, stamp, one.kind, variant)
        else:
            entries[key] = Mapped(path, offset, one.shape, one.dtype, stamp)
    return entries, left_out


def _mapped_places(path: Path) -> Callable[[torch.Tensor], int | None]:
    """A function from a tensor that torch mapped to the place of its values in the file in bytes; to None where it is
    not contiguous or not mapped, as in the first format of torch.save and on systems other than Linux.
    """
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return lambda tensor: None
    ranges, inode = [], path.stat().st_ino
    for fields in (line.split(maxsplit=5) for line in lines):
        if len(fields) == 6 and int(fields[4]) == inode:
            start, end = (int(one, 16) for one in fields[0].split("-"))
            ranges.append((start, end, int(fields[2], 16) - start))

    def place(tensor: torch.Tensor) -> int | None:
        at = tensor.data_ptr()
        found = (shift for start, end, shift in ranges if start <= at < end)
        return at + shift if tensor.is_contiguous() and (shift := next(found, None)) is not None else None

    return place


def _oversized(held: Mapping[str, Stored], path: Path) -> dict[str, str]:
    """Name → reason for tensors larger than the file, whose strides repeat a few bytes; reading them may never end."""
    size, total, found = path.stat().st_size, 0, {}
    for name, entry in held.items():
        if isinstance(entry, Converted):  # bounded by `lfmlib.checkpoints.in_memory.MAX_DENSE_BYTES`
            continue
        claimed = math.prod(entry.shape) * getattr(torch, entry.dtype).itemsize
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


def _model(path: Path, variant: str | None) -> tuple[dict, dict[str, str], str]:
    """What `lfmlib.checkpoints.state_dicts.model_of` finds in a file of `torch.save`."""
    return _model_once(path, stamp_of(path), variant)


@functools.lru_cache(maxsize=2)  # mapped files are cheap to keep; only two, since legacy files fill memory
def _model_once(path: Path, stamp: Stamp, variant: str | None) -> tuple[dict, dict[str, str], str]:
    content = _unpickle(path, stamp.size)
    held, beside, notice = model_of(content, str(path), variant)
    if not held:
        raise CheckpointError(
            f"{path} holds no tensors of a model at its top level or one below; found the keys {[*content][:8]}, and "
            f"tensors or one of {list(MODEL_KEYS)} were expected. Load it yourself and pass the mapping of names to "
            "tensors."
        )
    if "param_shapes" in content and not any(math.prod(shape_of(one)) for one in held.values() if is_tensor(one)):
        raise CheckpointError(
            f"{path} holds {sum(map(is_tensor, held.values()))} tensors without values, as DeepSpeed's ZeRO-3 writes "
            "them: the values lie in other files. Join these with zero_to_fp32.py, which lies beside them, and open "
            "what it makes."
        )
    return {str(key): value for key, value in held.items()}, beside, notice


def _unpickle(path: Path, size: int) -> Mapping:
    """The dictionary in a file of `torch.save`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickle protocols and TorchScript
            pickle_bytes = check_pickle(path)
            with without_code(path, pickle_bytes) if pickle_bytes else nullcontext():
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=bool(pickle_bytes))
    except Exception as error:  # a damaged pickle can raise anything: KeyError, EOFError, UnicodeDecodeError…
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise CheckpointError(_has_code(path, code[1])) from error
        lines = [line.strip() for line in reversed(str(error).splitlines()) if line.strip()]
        reason = next((line for line in lines if "rror" in line), "")
        if not reason and isinstance(error, ValueError | RuntimeError):
            reason = next(iter(lines), "")
        raise CheckpointError(
            f"{path} ({size} bytes) cannot be read as a plain dictionary of tensors written by torch.save "
            f"({type(error).__name__}{': ' + reason[:200] if reason else ''}): it is truncated, damaged or of another "
            "kind. Download or save it again, if possible as safetensors."
        ) from error
    if isinstance(content, LeftOut):
        raise CheckpointError(_has_code(path, type(content).__name__))
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, where a dictionary of tensors was expected. Load it yourself "
            "and pass the dictionary that is the model."
        )
    # State dicts have such keys; str() of another object, such as a deeply nested tuple, might never return.
    return {key: value for key, value in content.items() if isinstance(key, str | int)}


def _has_code(path: Path, what: str) -> str:
    return (
        f"{path} holds Python code besides tensors ({what}), which could do anything when loaded; none of it was run. "
        "Ask for a safetensors file; if you trust it, load it yourself and pass the state_dict."
    )


def check_pickle(path: Path) -> int:
    """Check that a file is safe to load; returns the bytes of the pickle in a zip, which torch can map, else 0.

    Raises ValueError if it is not, and whatever zipfile and pickletools raise for a damaged file.
    """
    with open(path, "rb") as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            pickled = _pickle_in_zip(file)
            _check_opcodes(io.BytesIO(pickled))
            return len(pickled)
        file.seek(0)
        start = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    for _ in range(LEGACY_PICKLES):
        if not start.read(1):
            break
        start.seek(-1, 1)
        _check_opcodes(start)
    return 0


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
