"""A small server that speaks the Hugging Face hub's protocol for reading: commits, branches, ranges, a log of requests;
and that fails on demand.

As a program it serves a folder as the repository `made/model`: python tests/hubserver.py FOLDER [PORT]
"""

import hashlib
import json
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Commits (sha → file name → content, or a path that holds it), and branches (name → sha)."""

    commits: dict[str, dict[str, bytes | Path]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit and move the branch to it; its sha."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha


class HubServer:
    """`with HubServer({"org/name": Repository()}) as hub:` serves at `hub.url`; `hub.log` holds (method, path).

    Attributes:
        ranges: (file, first byte, bytes sent) of each answer to a range.
        faults: what the next answers to a range do instead, one each: "drop" (half of it, then the line goes dead),
            "hang" (half, then nothing for `pause` seconds), "short" (says and sends half), "long" (sends more than was
            asked), "elsewhere" (another range), "changed" (another ETag), "whole" (status 200, no range), or a status.
        pause: seconds.
        retry_after: of the statuses 429 and 503, or "".
    """

    def __init__(self, repositories: dict[str, Repository], port: int = 0):
        self.repositories, self.port = repositories, port
        self.log: list[tuple[str, str]] = []
        self.ranges: list[tuple[str, int, int]] = []
        self.faults: list[str | int] = []
        self.pause, self.retry_after = 1.0, ""

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.log.append((self.command, unquote(urlsplit(self.path).path)))
                path = unquote(urlsplit(self.path).path)
                status, headers, body = hub.answer(path)
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if status == 200 and asked and "/resolve/" in path:
                    hub.send_range(self, path.rsplit("/", 1)[-1], headers, body, *map(int, asked.groups()))
                    return
                self.send(status, headers, _slice(body, 0, _size(body)) if self.command == "GET" else b"", _size(body))

            def send(self, status, headers, body, length=None):
                self.send_response(status)
                length = len(body) if length is None else length
                for key, value in {"Content-Length": str(length), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()

    def fetched(self, repo: str) -> set[str]:
        """Names of the files whose content was sent."""
        start = f"/{repo}/resolve/"
        return {
            path[len(start) :].split("/", 1)[1] for how, path in self.log if how == "GET" and path.startswith(start)
        }

    def send_range(self, handler, file: str, headers: dict, body: bytes | Path, start: int, last: int) -> None:
        """Bytes `start` to `last` of a file, or what the next fault says."""
        size = _size(body)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            more = {"Retry-After": self.retry_after} if self.retry_after else {}
            return handler.send(fault, more, b"")
        if fault == "whole":
            return handler.send(200, headers, _slice(body, 0, size))
        if start >= size:
            return handler.send(416, {"Content-Range": f"bytes */{size}"}, b"")
        stop = min(last + 1, size)
        start += 1 if fault == "elsewhere" else 0
        stop += 1 if fault == "long" else 0
        data = _slice(body, start, stop)
        if fault == "changed":
            headers = headers | {"ETag": '"another"'}
        if fault == "short":
            data = data[: len(data) // 2]
        headers = headers | {"Content-Range": f"bytes {start}-{start + len(data) - 1}/{size}", "Accept-Ranges": "bytes"}
        sent = len(data) // 2 if fault in ("drop", "hang") else len(data)
        self.ranges.append((file, start, sent))
        handler.send(206, headers, data[:sent], len(data))
        if fault == "hang":
            time.sleep(self.pause)
        if fault in ("drop", "hang"):
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, path: str) -> tuple[int, dict, bytes]:
        """(status, headers, body) for a path."""
        for name, repo in self.repositories.items():
            for start in (f"/api/models/{name}", f"/{name}/resolve"):
                if path == start or path.startswith(start + "/"):
                    return self._answer(name, repo, path[len(start) + 1 :], start.startswith("/api/"))
        return _error(404, "RepoNotFound", "Repository not found")

    def _answer(self, name: str, repo: Repository, rest: str, api: bool) -> tuple[int, dict, bytes]:
        if api:
            verb, _, rest = rest.partition("/")
        revision, _, file = rest.partition("/")
        sha = repo.branches.get(revision or "main", revision)
        if sha not in repo.commits:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repo.commits[sha]
        if api and verb == "tree":
            return _json([{"type": "file", "path": f, "size": _size(b), "oid": _oid(b)} for f, b in files.items()])
        if api:
            return _json({"id": name, "modelId": name, "sha": sha, "siblings": [{"rfilename": f} for f in files]})
        if repo.gated:
            return _error(403, "GatedRepo", "Access to this model is restricted")
        if file not in files:
            return _error(404, "EntryNotFound", "Entry not found")
        return 200, {"X-Repo-Commit": sha, "ETag": f'"{_oid(files[file])}"', "Accept-Ranges": "none"}, files[file]


def _oid(content: bytes | Path) -> str:
    if isinstance(content, Path):
        stat = content.stat()
        content = f"{content} {stat.st_size} {stat.st_mtime_ns}".encode()
    return hashlib.sha1(content).hexdigest()


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _slice(content: bytes | Path, start: int, stop: int) -> bytes:
    if not isinstance(content, Path):
        return content[start:stop]
    with content.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def _json(content) -> tuple[int, dict, bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _error(status: int, code: str, message: str) -> tuple[int, dict, bytes]:
    return status, {"X-Error-Code": code, "X-Error-Message": message}, b""


if __name__ == "__main__":
    served = Repository()
    served.commit({path.name: path for path in sorted(Path(sys.argv[1]).iterdir()) if path.is_file()})
    with HubServer({"made/model": served}, int(sys.argv[2]) if len(sys.argv) > 2 else 0) as hub:
        print(f"{hub.url}/made/model", flush=True)
        threading.Event().wait()
