"""List the stored tensors of a model, from its files or from memory, with reasons for those that are not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from .addresses import list_remote
from .ctranslate2_files import is_ctranslate2, read_ctranslate2
from .gguf_files import read_gguf
from .locate import Located
from .pickled_files import PICKLED_SUFFIXES, read_pickled
from .safetensors_files import read_safetensors
from .stored import CheckpointError, read_mapping


def read_files(located: Located) -> tuple[dict, dict]:
    """List the tensors of all weight files, in order: name → `Stored`, and name → reason for those not read.

    Raises CheckpointError if two files hold the same name, or a shard lacks a tensor that the index says it holds.
    """
    stored, skipped, where = {}, {}, {}
    for path, (found, left_out) in zip(located.files, _listings(located), strict=True):
        if twice := next((name for name in found if name in where), None):
            raise CheckpointError(
                f"{twice!r} is in both {where[twice]} and {path}; expected each tensor once. They look like two copies "
                "of a model: give one file by its path."
            )
        stored |= found
        skipped |= left_out
        where |= dict.fromkeys(found, path)
    for name, shard in located.index.items():
        if name not in stored and name not in skipped:
            raise CheckpointError(
                f"the index of {located.name} promises {name!r} in {shard}, which does not hold it: index and shards "
                "are of different checkpoints. Download or save them again."
            )
    return stored, skipped


def _listings(located: Located) -> Iterable[tuple[dict, dict]]:
    """The listing of each file; headers of remote files are read concurrently."""
    if (traffic := located.traffic) is None:
        return map(_read_file, map(Path, located.files))
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda url: list_remote(url, traffic), map(str, located.files)))


def _read_file(path: Path) -> tuple[dict, dict]:
    """List the tensors of a local file with the reader for its suffix."""
    readers = {".safetensors": read_safetensors, ".gguf": read_gguf, **dict.fromkeys(PICKLED_SUFFIXES, read_pickled)}
    if path.suffix not in readers:
        raise CheckpointError(
            f"{path} ends in {path.suffix!r}; this library reads {', '.join(readers)}. "
            "Convert it, or load it yourself and pass the mapping of names to tensors."
        )
    return read_ctranslate2(path) if path.suffix == ".bin" and is_ctranslate2(path) else readers[path.suffix](path)


def read_memory(source: torch.nn.Module | Mapping) -> tuple[Located, dict, dict]:
    """List the tensors of a module (those of its state_dict) or of a mapping, as `read_files` does."""
    if isinstance(source, torch.nn.Module):
        state = source.state_dict()
        stored, skipped = read_mapping(state)
        computed = {
            name: "a buffer not saved with the model" for name, _ in source.named_buffers() if name not in state
        }
        to_dict = getattr(getattr(source, "config", None), "to_dict", None)
        config: Any = to_dict() if callable(to_dict) else {}
        return Located(type(source).__name__, (), config), stored, computed | skipped
    if isinstance(source, Mapping):
        return Located("mapping", (), {}), *read_mapping(source)
    raise TypeError(
        f'a {type(source).__name__} cannot be opened as a checkpoint. Expected a path, a hub id, an address, "minilm", '
        "a torch.nn.Module, or a mapping from names to tensors. Name one of these."
    )
