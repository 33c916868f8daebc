"""Language data that is already on every machine: the source text of Python's standard library, as bytes.

A token is a byte, so the vocabulary has 256 entries and nothing has to be learned before training starts. Files end
with one NUL byte, which Python sources cannot contain.

What is read: the ``.py`` files of the modules named in `sys.stdlib_module_names`. Left out are folders of tests,
modules that are tables rather than text (``encodings``, ``pydoc_data``), and modules that distributions package apart
or that newer Pythons dropped (``idlelib``, ``tkinter``, ``turtledemo``, ``ensurepip``, ``distutils``, ``lib2to3``), so
that one Python version gives the same text on more machines. Another Python version is another text: `Text.sha256` says
which.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

VOCABULARY = 256
END_OF_FILE = b"\0"
SPLITS = {"train": 0.80, "validation": 0.10, "test": 0.10}  # expected shares of the files

HEADERS = ("c10", "torch")
"""Of PyTorch's headers, those that say its own: the core, and the C++ interface."""
_TEST_FOLDERS = {"test", "tests", "idle_test", "__pycache__"}
_LEFT_OUT = {
    "distutils",
    "encodings",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "tkinter",
    "turtledemo",
}


@dataclass(frozen=True, eq=False)
class Text:
    """The bytes of three sets of files; no file, and no copy of one, is in two sets.

    Attributes:
        train, validation, test: uint8, one dimension, read-only; files one after the other in the order of `files`.
        files: split → paths relative to the standard library, with ``/``, sorted.
        sha256: hash of all paths and bytes read; it changes with the version of Python.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    files: dict[str, tuple[str, ...]]
    sha256: str


def fraction(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone: the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def split_of(key: str, shares: dict[str, float]) -> str:
    """Which split the file named `key` belongs to, with the expected `shares` (which sum to 1)."""
    position, names = fraction(key), list(shares)
    for name in names[:-1]:
        position -= shares[name]
        if position < 0:
            return name
    return names[-1]


def read(folder: Path, modules: frozenset[str]) -> Text:
    """Read the ``.py`` files of the top-level `modules` in `folder`, and split them by a hash of their path.

    Of files with the same content the first is kept, in the order of paths. Line ends become ``\\n``.
    Raises FileNotFoundError where the folder holds none of the modules (a zipped standard library, for example).
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.glob("*.py") if path.stem in modules}
    for module in modules:
        paths |= {path.relative_to(folder).as_posix(): path for path in (folder / module).rglob("*.py")}
    found = _split({name: path for name, path in paths.items() if _TEST_FOLDERS.isdisjoint(name.split("/"))})
    if not found.sha256:
        raise FileNotFoundError(
            f"{folder} holds no .py file of Python's standard library; install Python with sources."
        )
    return found


def headers(folder: Path) -> Text:
    """Read the C++ headers in the folders `HEADERS` of ``folder``, and split them like `read`.

    Raises FileNotFoundError where there are none.
    """
    paths = [path for inner in HEADERS for path in (folder / inner).rglob("*.h")]
    found = _split({path.relative_to(folder).as_posix(): path for path in paths})
    if not found.sha256:
        raise FileNotFoundError(f"{folder} holds no C++ headers; install PyTorch from a wheel.")
    return found


def _split(paths: dict[str, Path]) -> Text:
    """The content of files by their names, split by a hash of these; without a hash if there are none."""
    files = {split: [] for split in SPLITS}
    contents = {split: [] for split in SPLITS}
    total, seen = hashlib.sha256(), set()
    for name in sorted(paths):
        content = paths[name].read_bytes().replace(b"\r\n", b"\n").replace(END_OF_FILE, b"") + END_OF_FILE
        digest = hashlib.sha256(content).digest()
        if digest in seen:
            continue
        seen.add(digest)
        total.update(name.encode() + b"\0" + digest)
        split = split_of(name, SPLITS)
        files[split].append(name)
        contents[split].append(content)
    if not seen:
        return Text(*(np.empty(0, np.uint8) for _ in SPLITS), files={}, sha256="")
    arrays = {split: np.frombuffer(b"".join(parts), dtype=np.uint8) for split, parts in contents.items()}
    return Text(**arrays, files={split: tuple(names) for split, names in files.items()}, sha256=total.hexdigest())


@functools.cache
def load_headers() -> Text:
    """The C++ headers of the installed PyTorch. Raises FileNotFoundError."""
    return headers(Path(torch.__file__).with_name("include"))


@functools.cache
def load() -> Text:
    """The standard library of the running Python (about 8 MB, read once per process). Raises FileNotFoundError."""
    return read(Path(sysconfig.get_path("stdlib")), frozenset(sys.stdlib_module_names - _LEFT_OUT))


def batches(values: np.ndarray, length: int, batch: int, seed: int, *, first: int = 0) -> Iterator[torch.Tensor]:
    """Draw windows at random places of one split, for ever.

    Args:
        values: one of `Text`'s arrays.
        length: bytes to predict per window.
        batch: windows per draw.
        seed: what the places depend on, together with the number of the draw.
        first: number of the first draw. A run resumed at step k gets, with ``first=k``, what it would have got.

    Yields:
        int64 of shape (batch, length + 1): inputs are ``[:, :-1]``, what follows each of them is ``[:, 1:]``.

    Raises:
        ValueError: at once, if a window is longer than the data.
    """
    _check(values, length)
    return _draw(values, length, batch, seed, first)


def _draw(values: np.ndarray, length: int, batch: int, seed: int, draw: int) -> Iterator[torch.Tensor]:
    while True:
        starts = np.random.default_rng([seed, draw]).integers(0, len(values) - length, size=batch)
        yield _gather(values, starts, length)
        draw += 1


def windows(values: np.ndarray, length: int, count: int) -> torch.Tensor:
    """Evenly spaced windows for evaluation: int64 of shape (count, length + 1).

    Neighbours share at most one byte (the last to be predicted is the first input of the next), so no byte is judged
    twice. Raises ValueError where the data are too short for that.
    """
    _check(values, length)
    if count < 1 or count * length >= len(values):
        raise ValueError(f"{count} windows of {length} bytes do not fit into {len(values)}; at least one, and fewer.")
    starts = np.arange(count) * ((len(values) - 1 - length) // max(count - 1, 1)) if count > 1 else np.zeros(1, int)
    return _gather(values, starts, length)


def frequency_loss(train: np.ndarray, held_out: np.ndarray, order: int = 0, *, vocabulary: int = VOCABULARY) -> float:
    """What a model must beat: loss in nats per symbol of `held_out` under counts of `train`, each count raised by one.

    `order` 0 knows how frequent symbols are, 1 how frequent after the one before. Raises ValueError for other orders.
    """
    if order not in (0, 1):
        raise ValueError(f"order {order}: 0 (single bytes) and 1 (pairs) are known.")

    def table(values: np.ndarray) -> np.ndarray:
        keys = values.astype(np.int64)
        keys = keys if order == 0 else keys[:-1] * vocabulary + keys[1:]
        return np.bincount(keys, minlength=vocabulary ** (order + 1)).reshape(-1, vocabulary)

    counts, wanted = table(train) + 1.0, table(held_out)
    return float(-(wanted * np.log(counts / counts.sum(axis=1, keepdims=True))).sum() / wanted.sum())


def _check(values: np.ndarray, length: int) -> None:
    if not 0 < length < len(values):
        raise ValueError(f"a window of {length} + 1 bytes cannot be cut from {len(values)}.")


def _gather(values: np.ndarray, starts: np.ndarray, length: int) -> torch.Tensor:
    return torch.from_numpy(values[starts[:, None] + np.arange(length + 1)].astype(np.int64))
