"""Look through a file of torch.save before torch loads it, so that nothing in it outgrows the file.

torch's restricted unpickler runs no code of the file, but it believes what it reads: a compressed record may unfold to
a thousand times its size; `bytearray(2**40)` takes 30 bytes to write; a tuple that holds another one twice, forty times
over, is small in memory and takes days to hash; some text codecs take a time that grows with the square of the text.
Here the pickle is gone through without making anything of it.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

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
            stack.append(MAKER if MAKERS.fullmatch(value) else 1)
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
