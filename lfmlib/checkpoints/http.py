"""Ranges of files over HTTP, from the Hugging Face hub or any server: one request, what it brings and what it means."""

from __future__ import annotations

import email.utils
import functools
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .stored import CheckpointError

TIMEOUT = 30.0  # seconds without a byte
PATIENCE = 300.0  # seconds: the longest wait that a server may ask for
BUSY = (408, 425, 429, 500, 502, 503, 504)


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


def short(url: str) -> str:
    """An address without its query, which may hold a secret."""
    return url.split("?", 1)[0]


def http(file, start: int, stop: int) -> Iterator[bytes]:
    """Bytes `start` to `stop` of a `lfmlib.checkpoints.remote.RemoteFile` as they come. Raises Transient,
    CheckpointError."""
    with _asked(file.url, start, stop, file.traffic) as response:
        first, size = _range_of(response, file.url)
        version = response.headers.get("etag", "")
        if size != file.size or (file.version and version and version != file.version):
            raise CheckpointError(f"{file} was changed while it was read. Open it again.")
        if first != start:
            raise CheckpointError(f"{file} answered with bytes from {first}, where those from {start} were asked for.")
        yield from _received(response, stop - start, file.url, file.traffic)


def probe(url: str, first: int, traffic: Traffic) -> tuple[int, str, bytes]:
    """The first request: how large the file is, its ETag, and how it begins. Raises as `http`, FileNotFoundError."""
    with _asked(url, 0, first, traffic) as response:
        start, size = _range_of(response, url)
        if start:
            raise CheckpointError(f"{short(url)} answered with bytes from {start}, where those from 0 were asked for.")
        data = b"".join(_received(response, min(first, size), url, traffic))
    if len(data) < min(first, size):
        raise Transient(f"{short(url)}: the answer ended early")
    return size, response.headers.get("etag", ""), data


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
