"""A real JupyterLab server for tests, with a folder of its own for what it keeps."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

TOKEN = "lab"


@contextlib.contextmanager
def jupyterlab(private: Path, options: list[str], cwd: Path) -> Iterator[str]:
    """The address of a server that listens, which ends with the block.

    Args:
        private: folder for its configuration, data and log.
        options: words of its command line.
        cwd: where it is started.
    """
    places = {f"JUPYTER_{kind}_DIR": str(private) for kind in ("RUNTIME", "CONFIG", "DATA")}
    command = [sys.executable, "-m", "jupyterlab", *options, "--no-browser", "--ServerApp.port=0", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}"]
    log = private / "server.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=cwd, stderr=file, env=os.environ | places)
    try:
        yield _listening(log)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it waits for a kernel that does not come up
            process.kill()
            process.wait()


def _listening(log: Path) -> str:
    for _ in range(300):
        if found := re.search(r"http://127\.0\.0\.1:(\d+)/lab", log.read_text(encoding="utf-8")):
            address = f"http://127.0.0.1:{found[1]}"
            with contextlib.suppress(OSError):  # it prints its address before it listens
                urllib.request.urlopen(f"{address}/api", timeout=10).close()
                return address
        time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')}")
