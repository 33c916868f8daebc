"""What language models are asked: the next symbol of a text."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from . import docstrings, text
from .scores import evenly


class Bytes:
    """Next byte of a text, in windows whose places are drawn at random.

    Args:
        train, validation, test: the text, uint8.
        data_hash: of it.

    Attributes:
        length: symbols to predict in a window.
        classes: how many symbols there are.
        held: windows of each side that is held out.
        together: windows that are judged at once.
    """

    length, classes, held, together = 128, text.VOCABULARY, 64, 16

    def __init__(self, train: np.ndarray, validation: np.ndarray, test: np.ndarray, data_hash: str):
        self.train, self.data_hash = train, data_hash
        self.validation, self.held_out = (text.windows(side, self.length, self.held) for side in (validation, test))

    def batch(self, seed: int, step: int, size: int, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes and what follows each of them, both int64 ``(size, length)``."""
        some = self.train[: max(self.length + 1, round(share * len(self.train)))]
        windows = next(text.batches(some, self.length, size, seed, first=step))
        return windows[:, :-1], windows[:, 1:]

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy in nats per symbol."""
        now, following = (part.to(model.device) for part in batch)
        return functional.cross_entropy(model(input_ids=now).logits.flatten(0, 1), following.flatten())

    @torch.no_grad()
    def evaluate(self, model: nn.Module, most: int | None = None, skip: int = 0) -> dict[str, float]:
        """Held-out loss in nats per symbol, and that of a code that knows the frequencies of symbols; ``skip`` windows
        are passed over first."""
        parts = self._some("test", most, skip).split(self.together)
        losses = [self.loss(model, (part[:, :-1], part[:, 1:])).item() for part in parts]
        loss = np.average(losses, weights=[len(part) for part in parts])
        return {"loss": float(loss), "trivial_loss": self.prior(), "uniform_loss": math.log(self.classes)}

    def prior(self, most: int | None = None, side: str = "test", skip: int = 0) -> float:
        """Loss of a code that knows the frequencies of symbols in the training text, on the same held-out windows."""
        some = self._some(side, most, skip).numpy().astype(self.train.dtype).ravel()
        return text.frequency_loss(self.train[: 1 << 22], some, order=0, vocabulary=self.classes)

    @torch.no_grad()
    def score(self, model: nn.Module, side: str = "test", most: int | None = None) -> float:
        """Nats per symbol that the model saves against the frequencies of symbols, on held-out text."""
        parts = self._some(side, most).split(self.together)
        losses = [self.loss(model, (part[:, :-1], part[:, 1:])).item() for part in parts]
        return self.prior(most, side) - float(np.average(losses, weights=[len(part) for part in parts]))

    @torch.no_grad()
    def figures(self, model: nn.Module, side: str = "test", most: int | None = None) -> dict[str, float]:
        """Loss in nats per symbol, and the share of symbols that are the most likely ones."""
        losses, hits = [], []
        for part in self._some(side, most).split(self.together):
            logits, following = model(input_ids=part[:, :-1].to(model.device)).logits.cpu(), part[:, 1:]
            losses.append(functional.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none"))
            hits.append(logits.argmax(-1).flatten() == following.flatten())
        return {"loss": torch.cat(losses).double().mean().item(), "accuracy": torch.cat(hits).double().mean().item()}

    def count(self, side: str = "test") -> int:
        """How many symbols are asked for."""
        return self._side(side)[:, 1:].numel()

    def _side(self, side: str) -> torch.Tensor:
        return {"validation": self.validation, "test": self.held_out}[side]

    def _some(self, side: str, most: int | None, skip: int = 0) -> torch.Tensor:
        return evenly(self._side(side)[skip:], most)


class Tokens(Bytes):
    """Next token of a text, in windows of 256; those held out are in a fixed shuffled order, so that the first few, or
    the next, are a fair sample.

    Args:
        train, validation, test, data_hash: as of `Bytes`, of any type of integers.
        vocabulary: how many tokens there are.
    """

    length, together = 256, 4

    def __init__(self, train: np.ndarray, validation: np.ndarray, test: np.ndarray, data_hash: str, vocabulary: int):
        self.classes = vocabulary
        self.held = min(self.held, *((len(side) - 1) // self.length for side in (validation, test)))
        super().__init__(train, validation, test, data_hash)
        order = np.random.default_rng(0).permutation(self.held)
        self.validation, self.held_out = self.validation[order], self.held_out[order]

    def _some(self, side: str, most: int | None, skip: int = 0) -> torch.Tensor:
        return self._side(side)[skip : None if most is None else skip + most]


def language() -> Bytes:
    """The text of CPython's standard library: code."""
    found = text.load()
    return Bytes(found.train, found.validation, found.test, found.sha256)


def headers() -> Bytes:
    """The C++ headers of PyTorch."""
    found = text.load_headers()
    return Bytes(found.train, found.validation, found.test, found.sha256)


def prose() -> Bytes:
    """The openings of docstrings (`lfmlib.lab.docstrings`), a line each: prose, split by source file."""
    sides = {side: [] for side in docstrings.SPLITS}
    for item in docstrings.items():
        sides[text.split_of(item.file, docstrings.SPLITS)].append(item.text)
    train, validation, test = ("\n".join(sides[side]).encode() for side in docstrings.SPLITS)
    data_hash = hashlib.sha256(train + text.END_OF_FILE + test).hexdigest()
    return Bytes(*(np.frombuffer(side, np.uint8) for side in (train, validation, test)), data_hash)
