"""Single HTTP requests for a range of a file, from the Hugging Face hub or any server, and what answers mean."""

from __future__ import annotations

import email.utils
import functools
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .stored import CheckpointError

TIMEOUT_SECONDS = 30.0  # without a byte received
MAX_WAIT_SECONDS = 300.0  # that a server may ask for (Retry-After); a longer wait is an error
RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)


class Transient(OSError):
    """A failure that may not recur; `wait` is the pause in seconds that the server asked for."""

    def __init__(self, words: str, wait: float = 0.0):
        super().__init__(words)
        self.wait = wait


class Traffic:
    """What this process read from remote files: `bytes` received, `requests` made, and `retries` among these."""

    def __init__(self):
        self.bytes = self.requests = self.retries = 0
        self._lock = threading.Lock()

    def add(self, bytes: int = 0, requests: int = 0, retries: int = 0) -> None:
        """Add to the counts."""
        with self._lock:
            self.bytes += bytes
            self.requests += requests
            self.retries += retries

    def __str__(self) -> str:
        """In words, for a progress bar."""
        again = f", {self.retries} of them again" if self.retries else ""
        return f"{self.bytes / 1e6:,.1f} MB in {self.requests:,} requests{again}"

    def __reduce__(self):
        """Pickle no counts: another process counts its own."""
        return Traffic, ()


def without_query(url: str) -> str:
    """An address without its query, which may hold a secret."""
    return url.split("?", 1)[0]


def read_range(file, start: int, stop: int) -> Iterator[bytes]:
    """Yield bytes `start` to `stop` of a `lfmlib.checkpoints.remote.RemoteFile` as they arrive.

    Raises Transient, CheckpointError, FileNotFoundError.
    """
    with _request(file.url, start, stop, file.traffic) as response:
        first, size = _range_of(response, file.url)
        version = response.headers.get("etag", "")
        if size != file.size or (file.version and version and version != file.version):
            raise CheckpointError(f"{file} was changed while it was read. Open it again.")
        if first != start:
            raise CheckpointError(f"{file} answered with bytes from {first}, where those from {start} were asked for.")
        yield from _body(response, stop - start, file.url, file.traffic)


def read_start(url: str, first: int, traffic: Traffic) -> tuple[int, str, bytes]:
    """Size of a file, its ETag, and its first bytes, at most `first`. Raises as `read_range`."""
    with _request(url, 0, first, traffic) as response:
        start, size = _range_of(response, url)
        if start:
            raise CheckpointError(
                f"{without_query(url)} answered with bytes from {start}, where those from 0 were asked for."
            )
        data = b"".join(_body(response, min(first, size), url, traffic))
    if len(data) < min(first, size):
        raise Transient(f"{without_query(url)}: the answer ended early")
    return size, response.headers.get("etag", ""), data


@contextmanager
def _request(url: str, start: int, stop: int, traffic: Traffic):
    """The response to a request for bytes `start` to `stop`. Raises as `read_range`."""
    from huggingface_hub.utils import get_session

    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity", **_credentials(url)}
    traffic.add(requests=1)
    with ExitStack() as stack:
        try:
            asked = get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True)
            response = stack.enter_context(asked)
        except network_errors() as error:
            raise Transient(f"{without_query(url)} cannot be reached ({type(error).__name__}: {error})") from error
        _check(response, url)
        yield response


def _body(response, max_bytes: int, url: str, traffic: Traffic) -> Iterator[bytes]:
    have = 0
    try:
        for data in response.iter_raw():
            have += len(data)
            traffic.add(bytes=len(data))
            if have > max_bytes:
                raise CheckpointError(f"{without_query(url)} sent more than the {max_bytes} bytes that were asked for.")
            yield data
    except network_errors() as error:
        raise Transient(f"{without_query(url)} broke off ({type(error).__name__})") from error


def _check(response, url: str) -> None:
    """Raise the error that a response's status means; status 206, a range, is none."""
    status, at = response.status_code, without_query(url)
    if status == 206:
        return
    if status in RETRY_STATUSES:
        wait = _retry_after(response.headers.get("retry-after", ""))
        if wait > MAX_WAIT_SECONDS:
            raise CheckpointError(f"{at} asks to wait {wait:.0f} s (status {status}). Try again then.")
        raise Transient(f"{at} answered with status {status}", wait)
    if status == 200:
        raise CheckpointError(
            f"{at} does not serve ranges: asked for a few bytes, it sends the whole file. Download the file and open "
            "it by its path, or use a server that answers range requests (Accept-Ranges: bytes)."
        )
    if response.headers.get("x-error-code") == "GatedRepo":
        raise gated_error(at)
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


def gated_error(at: str) -> CheckpointError:
    """The error for a repository of the hub whose terms were not accepted; `at` names it."""
    return CheckpointError(f"{at} is gated: accept its terms on the hub's page of the model, then run `hf auth login`.")


def _range_of(response, url: str) -> tuple[int, int]:
    """Position of the first byte sent, and size of the file, from a header Content-Range: "bytes 0-99/1234"."""
    said = response.headers.get("content-range", "")
    try:
        span, size = said.removeprefix("bytes ").split("/")
        first, size = int(span.split("-")[0]), int(size)
        if not 0 <= first <= size < 2**63:
            raise ValueError
        return first, size
    except ValueError:
        raise CheckpointError(
            f"{without_query(url)} answered with the range {said!r}, where bytes FIRST-LAST/SIZE was expected."
        ) from None


def _retry_after(said: str) -> float:
    """Seconds to wait, from the value of a Retry-After header: a number of seconds or a date."""
    if said.strip().isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _credentials(url: str) -> dict[str, str]:
    """Headers with the user's token if the address is the hub's; no other server may see it."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers() if url.startswith(f"{constants.ENDPOINT}/") else {}


@functools.cache
def network_errors() -> tuple[type[Exception], ...]:
    """What the hub's HTTP client raises when a connection fails; which client it is depends on the hub's version."""
    from huggingface_hub.utils import get_session

    module = __import__(type(get_session()).__module__.split(".")[0])
    return (module.TransportError, ConnectionError, TimeoutError)
