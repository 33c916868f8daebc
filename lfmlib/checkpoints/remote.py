"""Files that are elsewhere, read in ranges: over HTTP, from the Hugging Face hub, or from a store that fsspec knows.

Only the bytes asked for travel. A range is cut into pieces that are asked for side by side; a piece that breaks off
goes on at the byte where it stopped; a server that is busy or fails is asked again, later each time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlsplit

import torch
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from .http import Traffic, Transient, http, probe, short
from .stored import CheckpointError, Stored

PIECE = 8 << 20  # bytes asked for at once
SIDE_BY_SIDE = 8  # requests
TRIES = 6  # in a row without progress
PROGRESS = 4096  # bytes: fewer are none
SMALL = 1 << 16  # bytes: tensors up to this size (scales) are kept, since they are wanted again and again

_pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="range")


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere; make one with `open_remote`. It can be pickled; credentials do not travel with it.

    Attributes:
        url: where it is.
        size: its bytes.
        version: its ETag, "" where there is none; another one later is an error, since the file was changed.
        traffic: what was read, shared by the files of a checkpoint.
    """

    url: str
    size: int
    version: str
    traffic: Traffic = field(compare=False)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1]

    def __str__(self) -> str:
        """Its address, without what may be a secret."""
        return short(self.url)

    def read(self, start: int, stop: int) -> bytearray:
        """Bytes `start` to `stop`.

        Raises CheckpointError: the server does not serve ranges, refuses, keeps failing, or the file was changed.
        """
        if not 0 <= start <= stop <= self.size:
            raise CheckpointError(f"{self} has {self.size} bytes; {start} to {stop} were asked for. Open it again.")
        content = bytearray(stop - start)
        memory = memoryview(content)
        cuts = [*range(start, stop, PIECE), stop]
        pieces = list(pairwise(cuts))
        if len(pieces) == 1:
            _fetch(self, start, stop, memory)
        else:
            jobs = [_pool.submit(_fetch, self, a, b, memory[a - start : b - start]) for a, b in pieces]
            for job in jobs:
                job.result()
        return content


@dataclass(frozen=True)
class Ranged(Stored):
    """A tensor in a file elsewhere: `offset` bytes from its start, row-major, little-endian."""

    file: RemoteFile
    offset: int
    shape: tuple[int, ...]
    dtype: str
    lazy = remote = True

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of the flattened tensor, read."""
        size = getattr(torch, self.dtype).itemsize
        if start == stop:
            return torch.empty(0, dtype=getattr(torch, self.dtype))
        data = self.file.read(self.offset + start * size, self.offset + stop * size)
        return torch.frombuffer(data, dtype=getattr(torch, self.dtype))

    def load(self) -> torch.Tensor:
        """The tensor, read."""
        count = math.prod(self.shape)
        small = count * getattr(torch, self.dtype).itemsize <= SMALL
        return (_kept(self).clone() if small else self.span(0, count)).reshape(self.shape)


@functools.lru_cache(maxsize=1024)
def _kept(entry: Ranged) -> torch.Tensor:
    return entry.span(0, math.prod(entry.shape))


def open_remote(url: str, traffic: Traffic, first: int) -> tuple[RemoteFile, bytes]:
    """A file elsewhere and its first bytes, at most `first`, with one request.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it cannot be read, or not in ranges; the message says what to do.
    """
    if urlsplit(url).scheme in ("http", "https"):
        size, version, start = _persist(traffic, lambda: probe(url, first, traffic))
        return RemoteFile(url, size, version, traffic), start
    files, path = filesystem(url)
    about = _persist(traffic, lambda: _store(url, lambda: files.info(path)))
    version = str(about.get("ETag") or about.get("etag") or about.get("mtime") or "")
    file = RemoteFile(url, int(about["size"]), version, traffic)
    return file, bytes(file.read(0, min(first, file.size)))


def read_whole(url: str, traffic: Traffic, most: int) -> bytes:
    """All bytes of a small file, such as config.json.

    Raises as `open_remote`, and CheckpointError for more than `most` bytes.
    """
    file, start = open_remote(url, traffic, 1 << 16)
    if file.size > most:
        raise CheckpointError(f"{file} has {file.size} bytes, where at most {most} were expected. Check the address.")
    return start + bytes(file.read(len(start), file.size)) if len(start) < file.size else start


def ahead(pieces: Iterator, deep: int = 3) -> Iterator:
    """What the calls in `pieces` return, in order; the next few are made while one is looked at."""
    with ThreadPoolExecutor(deep, thread_name_prefix="ahead") as pool:
        waiting = []
        try:
            for piece in pieces:
                waiting.append(pool.submit(piece))
                if len(waiting) > deep:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for job in waiting:
                job.cancel()


def _fetch(file: RemoteFile, start: int, stop: int, into: memoryview) -> None:
    """Fill `into`; what has come stays, however often the connection breaks."""
    have = 0

    def request() -> None:
        nonlocal have
        before = have
        stream = http if urlsplit(file.url).scheme in ("http", "https") else _stored
        try:
            for data in stream(file, start + have, stop):
                into[have : have + len(data)] = data
                have += len(data)
        except Transient:
            if have - before < PROGRESS:
                raise
        if have - before < min(PROGRESS, len(into) - before):
            raise Transient(f"the answer ended {len(into) - have} bytes early")

    while have < len(into):
        _persist(file.traffic, request)


def _persist(traffic: Traffic, request):
    """What `request` returns, made again while it fails in a way that may pass."""
    backoff = wait_exponential_jitter(multiplier=0.2, max=20)

    def wait(state) -> float:
        traffic.add(retries=1)
        return max(backoff(state), state.outcome.exception().wait)

    try:
        return Retrying(
            stop=stop_after_attempt(TRIES), wait=wait, retry=retry_if_exception_type(Transient), reraise=True
        )(request)
    except Transient as error:
        raise CheckpointError(f"{error}, {TRIES} times in a row. Try again later.") from error


def _stored(file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
    files, path = filesystem(file.url)
    file.traffic.add(requests=1)
    data = _store(file.url, lambda: files.cat_file(path, start=start, end=stop))
    file.traffic.add(bytes=len(data))
    yield data[: stop - start]


def _store(url: str, call):
    """What a call to a store returns, its failures told apart."""
    try:
        return call()
    except FileNotFoundError:
        raise FileNotFoundError(f"{url} was not found. Check the address.") from None
    except PermissionError as error:
        raise CheckpointError(f"{url} refuses ({error}). Check the credentials that this store needs.") from error
    except (OSError, TimeoutError) as error:
        raise Transient(f"{url} cannot be read ({type(error).__name__}: {error})") from error


def filesystem(url: str):
    """fsspec's file system for an address, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except ImportError as error:  # its message names the package
        raise CheckpointError(f"{url}: {error} in the environment of lfmlib.") from error
    except ValueError as error:
        raise CheckpointError(
            f"{url}: {error}. Expected https://, hf://, s3://, gs:// or another that fsspec knows."
        ) from error
