"""A small server that speaks the Hugging Face hub's protocol for reading: commits, branches, a log of requests."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Commits (sha → file name → content), and branches (name → sha)."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit and move the branch to it; its sha."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha


class HubServer:
    """`with HubServer({"org/name": Repository()}) as hub:` serves at `hub.url`; `hub.log` holds (method, path)."""

    def __init__(self, repositories: dict[str, Repository]):
        self.repositories = repositories
        self.log: list[tuple[str, str]] = []

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.log.append((self.command, unquote(urlsplit(self.path).path)))
                status, headers, body = hub.answer(unquote(urlsplit(self.path).path))
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
            return _json([{"type": "file", "path": f, "size": len(b), "oid": _oid(b)} for f, b in files.items()])
        if api:
            return _json({"id": name, "modelId": name, "sha": sha, "siblings": [{"rfilename": f} for f in files]})
        if repo.gated:
            return _error(403, "GatedRepo", "Access to this model is restricted")
        if file not in files:
            return _error(404, "EntryNotFound", "Entry not found")
        return 200, {"X-Repo-Commit": sha, "ETag": f'"{_oid(files[file])}"', "Accept-Ranges": "none"}, files[file]


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _json(content) -> tuple[int, dict, bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _error(status: int, code: str, message: str) -> tuple[int, dict, bytes]:
    return status, {"X-Error-Code": code, "X-Error-Message": message}, b""
