"""A reader's text, and a causal model of theirs that is asked for its next token: the loss of chapters 9 and 10."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..checkpoints.named import named
from ..deltas.opening import is_adapter
from ..lab import smollm
from ..lab.language import Tokens
from ..notices import warn

MOST_BYTES = 16_000_000
"""Bytes of a text that are read."""
PARTS, WINDOWS = 5, 4
"""Parts of the text, each with losses of its own, and windows of each, at most; in quick runs `QUICK`."""
QUICK = (2, 1)

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Text:
    """What was read; false where no file was named.

    Attributes:
        name: of the file, "" where none was named.
        content: of it, or its beginning.
    """

    name: str
    content: str

    def __bool__(self) -> bool:
        return bool(self.name)

    def origin(self) -> dict[str, str]:
        """What provenance says of it: its name, and the hash of what was read."""
        return {"text": self.name, "text_sha256": hashlib.sha256(self.content.encode()).hexdigest()} if self else {}


def read(text: str) -> Text:
    """The reader's text. Of a longer one than `MOST_BYTES` the beginning, with a warning.

    Args:
        text: path of the file; "" for none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text in UTF-8.
    """
    if not text:
        return Text("", "")
    place = Path(text).expanduser()
    if not place.is_file():
        found = "a folder" if place.is_dir() else "no file"
        raise FileNotFoundError(f"{place} is {found}: expected a file of text, which the model is asked to foretell")
    with place.open("rb") as file:
        content = file.read(MOST_BYTES)
    if place.stat().st_size > MOST_BYTES:
        warn(f"{place.name}: only its first {MOST_BYTES / 1e6:.0f} MB are read")
    try:
        return Text(place.name, content.decode("utf-8-sig", "strict" if len(content) < MOST_BYTES else "ignore"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{place.name} is no text in UTF-8 (byte {error.start:,}): expected plain text") from error


def loaded(source: str, revision: str = "") -> tuple[nn.Module, Encode]:
    """A causal model in float32, and its tokenizer, a function of a text that returns ids.

    Raises:
        ValueError: there is no causal model, whole and not quantized, or no tokenizer; the message says which.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if source == smollm.NAME:
        tokens = smollm.tokenizer()
        return smollm.build().to(device).eval(), lambda text: tokens.encode(text, add_special_tokens=False).ids
    if named(source) or Path(source).expanduser().is_file() or is_adapter(source):
        raise ValueError(
            f"`text` was given, and {source!r} cannot be asked: expected {smollm.NAME!r}, a hub id, or a folder with "
            "config.json, weights and tokenizer; merge an adapter into its model first"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"revision": revision or None, "trust_remote_code": False}
    whole = {"dtype": torch.float32, "output_loading_info": True} | where
    with smollm.quietly():
        tokenizer = _had("tokenizer", source, partial(AutoTokenizer.from_pretrained, source, **where))
        model, about = _had("causal model", source, partial(AutoModelForCausalLM.from_pretrained, source, **whole))
    if missing := sorted(about["missing_keys"]):
        raise ValueError(f"{source!r} lacks {missing[0]}, without which it foretells nothing: expected a causal model")
    if getattr(model.config, "quantization_config", None):
        raise ValueError(f"{source!r} is quantized: expected weights in a float type, which can be pruned")
    return model.to(device).eval(), lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def _had(what: str, source: str, load: Callable):
    """What ``load`` gives, or a ValueError that says what was not to be had."""
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError, TypeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300] or repr(error)
        raise ValueError(
            f"`text` was given, and transformers finds no {what} in {source!r}: expected a hub id, or a folder with "
            f"config.json, weights and tokenizer. It says: {said}"
        ) from error


class OwnText(Tokens):
    """A text that is all held out, since nothing is trained; what is known without the model are the frequencies of
    the text itself, the least that a code by frequencies could reach."""

    def __init__(self, ids: np.ndarray, vocabulary: int):
        super().__init__(ids, ids, ids, "", vocabulary)

    def prior(self, most: int | None = None, side: str = "test", skip: int = 0) -> float:
        """Loss of these frequencies, in nats per token, on some of the windows."""
        counts = np.bincount(self.train, minlength=self.classes)
        return float(-np.log(counts[self._some(side, most, skip)[:, 1:].numpy()] / len(self.train)).mean())

    def parts(self, profile: str) -> list[dict[str, int]]:
        """Parts of the held-out windows, as arguments of `evaluate` and `prior`: `PARTS` of `WINDOWS`, or fewer."""
        parts, windows = QUICK if profile == "quick" else (PARTS, WINDOWS)
        parts = min(parts, len(self.held_out))
        windows = min(windows, len(self.held_out) // parts)
        return [{"most": windows, "skip": part * windows} for part in range(parts)]


def asked(text: Text, encode: Encode, model: nn.Module) -> OwnText:
    """The next token of a text, in windows of 256.

    Raises:
        ValueError: the text is too short for two windows, the tokenizer is not the model's, or the model sees what it
            is asked for.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = np.asarray(encode(text.content), dtype=np.int32)
    if len(ids) <= 2 * Tokens.length:
        raise ValueError(
            f"the text has {len(ids):,} tokens for this model: expected more than {2 * Tokens.length}, and "
            f"{PARTS * WINDOWS * Tokens.length + 1:,} for {PARTS} parts of full size"
        )
    if ids.max() >= vocabulary:
        raise ValueError(
            f"the tokenizer has ids up to {ids.max():,}, the model {vocabulary:,} tokens: they do not belong together"
        )
    seen = torch.from_numpy(ids[:9].astype(np.int64))[None].to(model.device)
    other = seen.clone()
    other[0, -1] = (other[0, -1] + 1) % vocabulary
    with torch.no_grad():
        first, second = (model(input_ids=one).logits[0, :-1].float() for one in (seen, other))
    if (first - second).abs().max() > 1e-3 * first.abs().max():
        raise ValueError("what this model says of a token depends on the next: expected a causal model")
    return OwnText(ids, vocabulary)
