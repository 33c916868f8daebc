"""List the stored tensors of a model, from its files or from memory, with reasons for those that are not read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..notices import warn
from .addresses import list_remote
from .ctranslate2_files import is_ctranslate2, read_ctranslate2
from .file_names import hint
from .gguf_files import read_gguf
from .in_memory import read_mapping
from .in_modules import computed
from .locate import Located
from .onnx_files import apart, read_onnx
from .pickled_files import PICKLED_SUFFIXES, read_pickled
from .safetensors_files import read_safetensors
from .state_dicts import flat, model_of
from .stored import CheckpointError


def read_files(located: Located) -> tuple[dict, dict]:
    """List the tensors of all weight files, in order: name → `Stored`, and name → reason for those not read.

    Of a name in two files, the one counts that the index names; a tied head that it names needs not be stored.

    Raises CheckpointError if two files hold the same name, or a shard lacks a tensor that the index says it holds.
    """
    stored, skipped, where = {}, {}, {}
    owners = dict(zip(sorted(set(located.index.values())), located.files, strict=False))
    for path, (found, left_out) in zip(located.files, _listings(located), strict=True):
        for name in [name for name in found if name in where]:
            if (owner := owners.get(located.index.get(name, ""))) not in (path, where[name]):
                raise CheckpointError(
                    f"{name!r} is in both {where[name]} and {path}; expected each tensor once. They look like two "
                    "copies of a model, or like slices of one for several devices: give one file by its path, or join "
                    "the slices first."
                )
            if owner != path:
                del found[name]
        stored |= found
        skipped |= left_out
        where |= dict.fromkeys(found, path)
    embedding = next((name for name in stored if EMBEDDING.search(name)), None)
    for name, shard in located.index.items():
        if name in stored or name in skipped:
            continue
        if embedding is None or not TIED.search(name) or not _ties(located.config):
            raise CheckpointError(
                f"the index of {located.name} promises {name!r} in {shard}, which does not hold it: index and shards "
                "are of different checkpoints. Download or save them again."
            )
        skipped[name] = f"tied to {embedding}"
    return stored, skipped


EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|shared)\.weight$")
TIED = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output|predictions\.decoder|(?:en|de)coder\.embed_tokens)\.weight$")
"""Heads, and the embeddings of T5's towers, that many models share with the word embeddings."""


def _ties(config: Mapping) -> bool:
    """Whether a model's head may be its word embeddings: transformers ties them unless config.json says otherwise."""
    text = config.get("text_config")
    return (text if isinstance(text, Mapping) else {}).get(
        "tie_word_embeddings", config.get("tie_word_embeddings", True)
    )


def _listings(located: Located) -> Iterable[tuple[dict, dict]]:
    """The listing of each file; headers of remote files are read concurrently."""
    if (traffic := located.traffic) is None:
        listings = (_read_file(Path(path), located.variant) for path in located.files)
        if len(located.files) > 1 and str(located.files[0]).endswith(".onnx"):  # exports of the parts of one model
            return apart([*listings], [f"{Path(path).name.split('_')[0]}." for path in located.files])
        return listings
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda url: list_remote(url, traffic), map(str, located.files)))


def _read_file(path: Path, variant: str | None) -> tuple[dict, dict]:
    """List the tensors of a local file with the reader for its suffix."""
    if path.suffix == ".bin" and is_ctranslate2(path):
        return read_ctranslate2(path)
    if path.name.endswith(PICKLED_SUFFIXES):
        return read_pickled(path, variant)
    readers = {".safetensors": read_safetensors, ".gguf": read_gguf, ".onnx": read_onnx}
    if path.suffix not in readers:
        raise CheckpointError(
            f"{path} ends in {path.suffix!r}; this library reads {', '.join([*readers, *PICKLED_SUFFIXES])}."
            f"{hint([path.name])} Convert it, or load it yourself and pass the mapping of names to tensors."
        )
    return readers[path.suffix](path)


def read_memory(source: torch.nn.Module | Mapping, variant: str | None = None) -> tuple[Located, dict, dict]:
    """List the tensors of a module (those of its state_dict) or of a mapping, as `read_files` does.

    Of a mapping that holds several dictionaries, as `torch.load` gives it of a training checkpoint, the one is listed
    that `lfmlib.checkpoints.state_dicts` takes for the model, or that is called `variant`.
    """
    if isinstance(source, torch.nn.Module):
        if variant is not None:
            raise ValueError(
                f"variant={variant!r} was given for a {type(source).__name__}, which has none. Leave it out."
            )
        state = flat(source.state_dict())  # what torch quantized lies in tuples
        stored, skipped = read_mapping(state)
        buffers = {name: "a buffer not saved with the model" for name, _ in source.named_buffers() if name not in state}
        to_dict = getattr(getattr(source, "config", None), "to_dict", None)
        config: Any = to_dict() if callable(to_dict) else {}
        return Located(type(source).__name__, (), config), stored | computed(source), buffers | skipped
    if isinstance(source, Mapping):
        held, beside, notice = model_of(source, "the mapping", variant)
        if notice:
            warn(notice)
        stored, skipped = read_mapping(held or source)
        return Located("mapping", (), {}), stored, beside | skipped
    raise TypeError(
        f'a {type(source).__name__} cannot be opened as a checkpoint. Expected a path, a hub id, an address, "minilm", '
        "a torch.nn.Module, or a mapping from names to tensors. Name one of these."
    )
