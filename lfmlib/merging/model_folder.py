"""Write a model as a folder of safetensors files, which appears only when it is complete.

While it is written the folder is called ``OUT.partial``. No library takes that for a model: its files of weights have
other names, and its configuration is written last. A run that was stopped goes on from what is there.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..checkpoints.checkpoint import Checkpoint
from ..surveys.outcome import died
from ..surveys.threads import one_thread
from .beside import copy_files
from .shard_writer import Entry, ShardWriter

ABOUT_FILE = "merge.json"
"""The file that says what a folder was made of."""
ODD_SUFFIX = ".odd"
"""Suffix of the file beside a shard, while it is written, with the names of tensors whose values are not all finite."""
Pieces = Callable[[str], Iterable[torch.Tensor]]
"""A function of a tensor's name that gives its values, in flat pieces."""


def write(
    out: Path,
    about: Mapping,
    like: Checkpoint,
    entries: Sequence[Entry],
    make: Callable[[Iterable[str]], Pieces],
    *,
    dtype: str | None = None,
    resume: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> list[str]:
    """Write a model, or go on writing it where an earlier run stopped.

    Args:
        out: a folder that does not exist, or is empty.
        about: what the model is made of, in JSON's types; an earlier run is continued only if it said the same.
        like: the checkpoint whose division into files is kept, and whose configuration and tokenizer are copied.
        entries: all tensors of ``like``, with the types that they are to have.
        make: function from the names of some tensors to their `Pieces` (picklable, if there is an executor).
        dtype: type to be named in the configuration; None: as in that of ``like``.
        resume: continue an earlier run; False: begin again.
        executor: where the files are written, one task each; None: in this process, one after the other.
        progress: show a bar.

    Returns:
        The names of tensors that were written with values that are not finite.

    Raises:
        FileExistsError: ``out`` is not empty.
        ValueError: ``OUT.partial`` belongs to another model, or to nobody, or another process is writing it.
        OSError: the disk is full.
        RuntimeError: workers of the executor died.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already: name another folder, or remove it")
    partial = out.with_name(out.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"{out} cannot be made ({error}): expected a folder that can be written. Name another"
        ) from error
    try:
        with FileLock(partial / ".lock", timeout=0):
            _claim(partial, about, resume)
            _weights(partial, layout(like, entries), make, executor, progress)
            _copy(like, partial, dtype)
    except Timeout:
        raise ValueError(f"another process writes {partial}: wait for it, or name another folder") from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        left = sum(entry.bytes for entry in entries) - _size(partial)
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: {max(left, 0):,} bytes of weights are still to be written to {partial}. Make room and "
            "run the same again: it goes on from there",
        ) from error
    notes = sorted(partial.glob(f"*{ODD_SUFFIX}"))
    odd = [name for note in notes for name in note.read_text(encoding="utf-8").split("\n") if name]
    for beside in (partial / ".lock", *partial.glob("*.lock"), *notes):
        beside.unlink(missing_ok=True)
    os.replace(partial, out)
    return list(dict.fromkeys(odd))  # one that was interrupted is there twice


def layout(like: Checkpoint, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Name of each file → the tensors it holds, divided as in the files of ``like``, with the names of transformers."""
    files: dict[Path | None, list[Entry]] = {}
    for entry in entries:
        files.setdefault(getattr(like.stored[entry.name], "path", None), []).append(entry)
    count = len(files)
    if count == 1:
        return {"model.safetensors": list(entries)}
    return {f"model-{i:05}-of-{count:05}.safetensors": some for i, some in enumerate(files.values(), 1)}


def _claim(folder: Path, about: Mapping, resume: bool) -> None:
    """Make the folder that of this model, or refuse it as another's."""
    path, text = folder / ABOUT_FILE, json.dumps(about, indent=2, sort_keys=True) + "\n"
    ours = {".lock", path.name, path.with_suffix(".new").name}
    if not path.exists() and (others := sorted(one.name for one in folder.iterdir() if one.name not in ours)):
        raise ValueError(
            f"{folder}, where the model would be put together, holds {', '.join(others[:3])} and no {ABOUT_FILE}, so "
            "it is not from here: remove it, or name another folder"
        )
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{folder} holds a part of something else (see its {ABOUT_FILE}): remove it, or name another folder"
        )
    if not resume:
        for one in folder.glob("*.safetensors*"):
            one.unlink()
    if not path.exists():
        new = path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)


def _weights(
    folder: Path,
    shards: dict[str, list[Entry]],
    make: Callable[[Iterable[str]], Pieces],
    executor: Executor | None,
    progress: bool,
) -> None:
    """Write all files of weights, from where an earlier run stopped, and their index."""
    total = sum(one.bytes for entries in shards.values() for one in entries)
    left = total - _size(folder)
    if left > (free := shutil.disk_usage(folder).free):
        raise OSError(
            f"{folder.parent} has {free:,} bytes free, and {left:,} more are to be written: make room, or name another "
            "place"
        )
    calls = {shard: make(one.name for one in entries) for shard, entries in shards.items()}
    with tqdm(total=total, desc="writing", unit="B", unit_scale=True, disable=not progress, delay=1) as bar:
        if executor is None:
            for shard, entries in shards.items():
                _shard(folder / shard, entries, calls[shard], bar.update)
        else:
            running = {
                executor.submit(_shard, folder / shard, entries, calls[shard]): entries
                for shard, entries in shards.items()
            }
            try:
                for future in as_completed(running):
                    _finished(future, folder)
                    bar.update(sum(one.bytes for one in running[future]))
            finally:
                for future in running:
                    future.cancel()
    if len(shards) > 1:
        places = {one.name: shard for shard, entries in shards.items() for one in entries}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _finished(future: Future, folder: Path) -> None:
    """Raise what the task of a file raised."""
    try:
        future.result()
    except Exception as error:
        if not died(error):
            raise
        raise RuntimeError(
            f"a worker that wrote a shard died ({type(error).__name__}: {error}). What was written is kept in "
            f"{folder}. Run the same again: it goes on from there"
        ) from error


def _shard(path: Path, entries: list[Entry], pieces: Pieces, told: Callable[[int], object] | None = None) -> None:
    """Write one file, or go on with it. The lock keeps out an earlier worker that was wrongly taken for dead."""
    with one_thread(), FileLock(path.with_name(path.name + ".lock")), ShardWriter(path, entries) as writer:
        if told:
            told(sum(one.bytes for one in entries[: writer.done]))
        for entry in entries[writer.done :]:
            writer.write(_watched(pieces(entry.name), entry.name, path.with_name(path.name + ODD_SUFFIX)))
            if told:
                told(entry.bytes)


def _watched(pieces: Iterable[torch.Tensor], name: str, note: Path) -> Iterator[torch.Tensor]:
    """The pieces of a tensor; its name is noted if some values are not finite."""
    odd = False
    for piece in pieces:
        if piece.is_floating_point() and not math.isfinite(piece.sum()):  # a sum is fast, and may be too large itself
            odd = odd or not bool(piece.isfinite().all())
        yield piece
    if odd:
        with note.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")


def _size(folder: Path) -> int:
    """Bytes of weights that are written."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors*"))


def _copy(like: Checkpoint, folder: Path, dtype: str | None) -> None:
    """Copy what lies beside the weights, and last write the configuration."""
    copy_files(like, folder, ("config.json", ABOUT_FILE))
    if like.config:
        named = {name: dtype for name in ("dtype", "torch_dtype") if name in like.config} or {"dtype": dtype}
        config = dict(like.config) | (named if dtype else {})
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
