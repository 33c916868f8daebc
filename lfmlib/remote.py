"""Files that are elsewhere, read in ranges: over HTTP, from the Hugging Face hub, or from a store that fsspec knows.

Only the bytes asked for travel. A range is cut into pieces that are asked for side by side; a piece that breaks off
goes on at the byte where it stopped; a server that is busy or fails is asked again, later each time.
"""

from __future__ import annotations

import email.utils
import functools
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlsplit

import torch
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from .storage import CheckpointError, Stored

PIECE = 8 << 20  # bytes asked for at once
SIDE_BY_SIDE = 8  # requests
TRIES = 6  # in a row without progress
PROGRESS = 4096  # bytes: fewer are none
TIMEOUT = 30.0  # seconds without a byte
PATIENCE = 300.0  # seconds: the longest wait that a server may ask for
SMALL = 1 << 16  # bytes: tensors up to this size (scales) are kept, since they are wanted again and again
BUSY = (408, 425, 429, 500, 502, 503, 504)

_pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="range")


class Transient(OSError):
    """A failure that may be gone the next time; `wait` is what the server asked for, in seconds."""

    def __init__(self, words: str, wait: float = 0.0):
        super().__init__(words)
        self.wait = wait


class Traffic:
    """What was read from elsewhere, in this process: `bytes` received, `requests` made, `retries` among them."""

    def __init__(self):
        self.bytes = self.requests = self.retries = 0
        self._lock = threading.Lock()

    def add(self, bytes: int = 0, requests: int = 0, retries: int = 0) -> None:
        """Count some more."""
        with self._lock:
            self.bytes += bytes
            self.requests += requests
            self.retries += retries

    def __str__(self) -> str:
        """For a progress bar."""
        again = f", {self.retries} of them again" if self.retries else ""
        return f"{self.bytes / 1e6:,.1f} MB in {self.requests:,} requests{again}"

    def __reduce__(self):
        """Another process counts its own."""
        return Traffic, ()


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
        return _persist(traffic, lambda: _probe(url, first, traffic))
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


def short(url: str) -> str:
    """An address without its query, which may hold a secret."""
    return url.split("?", 1)[0]


# --- one range ------------------------------------------------------------------------------------------------------


def _fetch(file: RemoteFile, start: int, stop: int, into: memoryview) -> None:
    """Fill `into`; what has come stays, however often the connection breaks."""
    have = 0

    def request() -> None:
        nonlocal have
        before = have
        stream = _http if urlsplit(file.url).scheme in ("http", "https") else _stored
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


def _http(file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
    """Bytes of a range as they come."""
    with _asked(file.url, start, stop, file.traffic) as response:
        first, size = _range_of(response, file.url)
        version = response.headers.get("etag", "")
        if size != file.size or (file.version and version and version != file.version):
            raise CheckpointError(f"{file} was changed while it was read. Open it again.")
        if first != start:
            raise CheckpointError(f"{file} answered with bytes from {first}, where those from {start} were asked for.")
        yield from _received(response, stop - start, file.url, file.traffic)


def _probe(url: str, first: int, traffic: Traffic) -> tuple[RemoteFile, bytes]:
    """The first request: how large the file is, which version, and how it begins."""
    with _asked(url, 0, first, traffic) as response:
        start, size = _range_of(response, url)
        if start:
            raise CheckpointError(f"{short(url)} answered with bytes from {start}, where those from 0 were asked for.")
        data = b"".join(_received(response, min(first, size), url, traffic))
    if len(data) < min(first, size):
        raise Transient(f"{short(url)}: the answer ended early")
    return RemoteFile(url, size, response.headers.get("etag", ""), traffic), data


@contextmanager
def _asked(url: str, start: int, stop: int, traffic: Traffic):
    """The answer to a request for bytes `start` to `stop`, or the error that says why there is none."""
    from huggingface_hub.utils import get_session

    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity", **_credentials(url)}
    traffic.add(requests=1)
    with ExitStack() as stack:
        try:
            asked = get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True)
            response = stack.enter_context(asked)
        except network_errors() as error:
            raise Transient(f"{short(url)} cannot be reached ({type(error).__name__}: {error})") from error
        _check(response, url)
        yield response


def _received(response, most: int, url: str, traffic: Traffic) -> Iterator[bytes]:
    have = 0
    try:
        for data in response.iter_raw():
            have += len(data)
            traffic.add(bytes=len(data))
            if have > most:
                raise CheckpointError(f"{short(url)} sent more than the {most} bytes that were asked for.")
            yield data
    except network_errors() as error:
        raise Transient(f"{short(url)} broke off ({type(error).__name__})") from error


def _check(response, url: str) -> None:
    """Raise what an answer other than a range means."""
    status, at = response.status_code, short(url)
    if status == 206:
        return
    if status in BUSY:
        wait = _retry_after(response.headers.get("retry-after", ""))
        if wait > PATIENCE:
            raise CheckpointError(f"{at} asks to wait {wait:.0f} s (status {status}). Try again then.")
        raise Transient(f"{at} answered with status {status}", wait)
    if status == 200:
        raise CheckpointError(
            f"{at} does not serve ranges: asked for a few bytes, it sends the whole file. Download the file and open "
            "it by its path, or use a server that answers range requests (Accept-Ranges: bytes)."
        )
    if response.headers.get("x-error-code") == "GatedRepo":
        raise gated(at)
    if status in (401, 403):
        raise CheckpointError(
            f"{at} refuses (status {status}): it is private or the address has expired. For the hub run `hf auth "
            "login`, for a signed address get a new one."
        )
    if status in (404, 410):
        raise FileNotFoundError(f"{at} was not found (status {status}). Check the address.")
    if status == 416:
        raise CheckpointError(f"{at} is empty, or shorter than it was (status 416). Open it again.")
    raise CheckpointError(f"{at} answered with status {status}, where a range (206) was expected. Check the address.")


def gated(at: str) -> CheckpointError:
    """The error for a repository of the hub whose terms were not accepted; `at` names it."""
    return CheckpointError(f"{at} is gated: accept its terms on the hub's page of the model, then run `hf auth login`.")


def _range_of(response, url: str) -> tuple[int, int]:
    """First byte and size of the file, from Content-Range: "bytes 0-99/1234"."""
    said = response.headers.get("content-range", "")
    try:
        span, size = said.removeprefix("bytes ").split("/")
        first, size = int(span.split("-")[0]), int(size)
        if not 0 <= first <= size < 2**63:
            raise ValueError
        return first, size
    except ValueError:
        raise CheckpointError(
            f"{short(url)} answered with the range {said!r}, where bytes FIRST-LAST/SIZE was expected."
        ) from None


def _retry_after(said: str) -> float:
    """Seconds that a Retry-After header asks for, a number or a date."""
    if said.strip().isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _credentials(url: str) -> dict[str, str]:
    """The hub's own headers, for the hub alone."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers() if url.startswith(f"{constants.ENDPOINT}/") else {}


@functools.cache
def network_errors() -> tuple[type[Exception], ...]:
    """What the hub's HTTP client raises when a connection fails or breaks, whichever client that is."""
    from huggingface_hub.utils import get_session

    module = __import__(type(get_session()).__module__.split(".")[0])
    return (module.TransportError, ConnectionError, TimeoutError)


# --- other stores ---------------------------------------------------------------------------------------------------


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
