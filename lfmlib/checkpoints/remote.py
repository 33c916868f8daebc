"""Read ranges of remote files: over HTTP, from the Hugging Face hub, or from a store that fsspec knows.

Only the bytes asked for are transferred. A long range is split into concurrent requests; an interrupted one resumes at
the byte where it stopped; a busy or failing server is asked again after growing pauses.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlsplit

import torch
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from .http import Traffic, Transient, read_range, read_start, without_query
from .stored import CheckpointError, Stored

REQUEST_BYTES = 8 << 20  # asked for by one request
MAX_CONCURRENT_REQUESTS = 8
MAX_TRIES = 6  # of a request, in a row and without progress
MIN_PROGRESS_BYTES = 4096  # a try that brings fewer counts as one without progress
MAX_CACHED_BYTES = 1 << 16  # tensors up to this size, such as scales, are cached, since they are read again and again


def _renew() -> None:
    global _pool
    _pool = ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS, thread_name_prefix="range")


_renew()
if hasattr(os, "register_at_fork"):  # a child has none of the threads, and would wait for them for ever
    os.register_at_fork(after_in_child=_renew)


@dataclass(frozen=True)
class RemoteFile:
    """A remote file; make one with `open_remote`. It can be pickled, without credentials.

    Attributes:
        url: its address.
        size: its bytes.
        version: its ETag, or "" if the server sends none. A later answer with another ETag is an error.
        traffic: counts what is read, for all files of a checkpoint together.
    """

    url: str
    size: int
    version: str
    traffic: Traffic = field(compare=False)

    @property
    def name(self) -> str:
        """Last part of the path in its address."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1]

    def __str__(self) -> str:
        """Its address without the query, which may hold a secret."""
        return without_query(self.url)

    def read(self, start: int, stop: int) -> bytearray:
        """Bytes `start` to `stop`.

        Raises CheckpointError if the server refuses, keeps failing or serves no ranges, or if the file was changed.
        """
        if not 0 <= start <= stop <= self.size:
            raise CheckpointError(f"{self} has {self.size} bytes; {start} to {stop} were asked for. Open it again.")
        content = bytearray(stop - start)
        memory = memoryview(content)
        cuts = [*range(start, stop, REQUEST_BYTES), stop]
        pieces = list(pairwise(cuts))
        if len(pieces) == 1:
            _fetch(self, start, stop, memory)
        else:
            jobs = [_pool.submit(_fetch, self, a, b, memory[a - start : b - start]) for a, b in pieces]
            for job in jobs:
                job.result()
        return content


@dataclass(frozen=True)
class RemoteTensor(Stored):
    """A tensor in a remote file: `offset` bytes from its start, row-major, little-endian."""

    file: RemoteFile
    offset: int
    shape: tuple[int, ...]
    dtype: str
    lazy = remote = True

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Read values `start` to `stop` of the flattened tensor."""
        size = getattr(torch, self.dtype).itemsize
        if start == stop:
            return torch.empty(0, dtype=getattr(torch, self.dtype))
        data = self.file.read(self.offset + start * size, self.offset + stop * size)
        return torch.frombuffer(data, dtype=getattr(torch, self.dtype))

    def load(self) -> torch.Tensor:
        """Read the tensor."""
        count = math.prod(self.shape)
        small = count * getattr(torch, self.dtype).itemsize <= MAX_CACHED_BYTES
        return (_read_cached(self).clone() if small else self.span(0, count)).reshape(self.shape)


@functools.lru_cache(maxsize=1024)
def _read_cached(entry: RemoteTensor) -> torch.Tensor:
    return entry.span(0, math.prod(entry.shape))


def open_remote(url: str, traffic: Traffic, first: int) -> tuple[RemoteFile, bytes]:
    """A remote file and its first bytes, at most `first`, with one HTTP request.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it cannot be read, or not in ranges; the message says what to do.
    """
    if urlsplit(url).scheme in ("http", "https"):
        size, version, start = _with_retries(traffic, lambda: read_start(url, first, traffic))
        return RemoteFile(url, size, version, traffic), start
    files, path = filesystem(url)
    about = _with_retries(traffic, lambda: _call_store(url, lambda: files.info(path)))
    version = str(about.get("ETag") or about.get("etag") or about.get("mtime") or "")
    file = RemoteFile(url, int(about["size"]), version, traffic)
    return file, bytes(file.read(0, min(first, file.size)))


def read_small_file(url: str, traffic: Traffic, max_bytes: int) -> bytes:
    """All bytes of a small file, such as config.json.

    Raises as `open_remote`, and CheckpointError for more than `max_bytes` bytes.
    """
    file, start = open_remote(url, traffic, 1 << 16)
    if file.size > max_bytes:
        raise CheckpointError(
            f"{file} has {file.size} bytes, where at most {max_bytes} were expected. Check the address."
        )
    return start + bytes(file.read(len(start), file.size)) if len(start) < file.size else start


def prefetched(calls: Iterator, depth: int = 3) -> Iterator:
    """Results of `calls`, in order; up to `depth` further calls run in threads while the caller works on a result."""
    with ThreadPoolExecutor(depth, thread_name_prefix="prefetch") as pool:
        waiting = []
        try:
            for call in calls:
                waiting.append(pool.submit(call))
                if len(waiting) > depth:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for job in waiting:
                job.cancel()


def _fetch(file: RemoteFile, start: int, stop: int, into: memoryview) -> None:
    """Fill `into` with bytes `start` to `stop`; after a broken connection only the missing bytes are asked for."""
    have = 0

    def request() -> None:
        nonlocal have
        before = have
        stream = read_range if urlsplit(file.url).scheme in ("http", "https") else _read_store_range
        try:
            for data in stream(file, start + have, stop):
                into[have : have + len(data)] = data
                have += len(data)
        except Transient:
            if have - before < MIN_PROGRESS_BYTES:
                raise
        if have - before < min(MIN_PROGRESS_BYTES, len(into) - before):
            raise Transient(f"the answer ended {len(into) - have} bytes early")

    while have < len(into):
        _with_retries(file.traffic, request)


def _with_retries(traffic: Traffic, request):
    """What `request` returns; it is repeated while it raises Transient, up to `MAX_TRIES` times."""
    backoff = wait_exponential_jitter(multiplier=0.2, max=20)

    def wait(state) -> float:
        traffic.add(retries=1)
        return max(backoff(state), state.outcome.exception().wait)

    try:
        return Retrying(
            stop=stop_after_attempt(MAX_TRIES), wait=wait, retry=retry_if_exception_type(Transient), reraise=True
        )(request)
    except Transient as error:
        raise CheckpointError(f"{error}, {MAX_TRIES} times in a row. Try again later.") from error


def _read_store_range(file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
    files, path = filesystem(file.url)
    file.traffic.add(requests=1)
    data = _call_store(file.url, lambda: files.cat_file(path, start=start, end=stop))
    file.traffic.add(bytes=len(data))
    yield data[: stop - start]


def _call_store(url: str, call):
    """What a call to fsspec returns, its exceptions turned into FileNotFoundError, CheckpointError and Transient."""
    try:
        return call()
    except FileNotFoundError:
        raise FileNotFoundError(f"{url} was not found. Check the address.") from None
    except PermissionError as error:
        raise CheckpointError(f"{url} refuses ({error}). Check the credentials that this store needs.") from error
    except (OSError, TimeoutError) as error:
        raise Transient(f"{url} cannot be read ({type(error).__name__}: {error})") from error


def filesystem(url: str):
    """fsspec's file system for an address, and the path in it. Raises CheckpointError for an unknown scheme."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except ImportError as error:  # its message names the package
        raise CheckpointError(f"{url}: {error} in the environment of lfmlib.") from error
    except ValueError as error:
        raise CheckpointError(
            f"{url}: {error}. Expected https://, hf://, s3://, gs:// or another that fsspec knows."
        ) from error
