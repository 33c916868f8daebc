"""What the lab models learn: a batch, its loss, and how well it went on data held out.

A batch depends on the seed and the number of the step alone, so a training can resume anywhere. It is a tuple with the
labels last, and may be drawn from the first part of the training data only: their order is a fixed shuffled one. Of
the held-out data, ``most`` says how many examples are looked at, evenly chosen; None is all of them. Every problem has
``figures``, loss and accuracy on one side of the held-out data, and ``count``, of how many answers.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from . import digits, docstrings, text
from .minilm import Docstrings, Halves
from .scores import contrast, evenly, first_of, frequency_loss, judged

PROBLEMS = {
    "decoder": ("language", "prose", "headers"),
    "deep-decoder": ("language", "prose"),
    "vit": (*digits.TASKS, "shuffled"),
    "clip": ("pairs", "turned pairs"),
    "minilm": (*docstrings.TASKS, "halves"),
}
"""What each of `lfmlib.lab.models.MODELS` can be trained to do."""


@functools.cache
def problem(model: str, task: str):
    """The problem ``task`` for a model: ``classes``, ``data_hash``, ``batch``, ``loss`` and ``evaluate``.

    Raises:
        ValueError: there is no such model or task.
    """
    if task not in PROBLEMS.get(model, ()):
        known = "; ".join(f"{name}: {', '.join(tasks)}" for name, tasks in PROBLEMS.items())
        raise ValueError(f"no problem {task!r} for model {model!r}: expected one of {known}")
    if model == "minilm":
        return Halves() if task == "halves" else Docstrings(task)
    if texts := {"language": language, "prose": prose, "headers": headers}.get(task):
        return texts()
    return Pairs(turned=task == "turned pairs") if "pairs" in task else Digits(task)


class Bytes:
    """Next byte of a text, in windows of 128 bytes, whose places are drawn at random.

    Args:
        train, validation, test: the text, uint8.
        data_hash: of it.
    """

    length, classes = 128, 256

    def __init__(self, train: np.ndarray, validation: np.ndarray, test: np.ndarray, data_hash: str):
        self.train, self.data_hash = train, data_hash
        self.validation, self.held_out = (text.windows(side, self.length, 64) for side in (validation, test))

    def batch(self, seed: int, step: int, size: int, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes and what follows each of them, both int64 ``(size, length)``."""
        some = self.train[: max(self.length + 1, round(share * len(self.train)))]
        windows = next(text.batches(some, self.length, size, seed, first=step))
        return windows[:, :-1], windows[:, 1:]

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy in nats per byte."""
        now, following = (part.to(model.device) for part in batch)
        return functional.cross_entropy(model(input_ids=now).logits.flatten(0, 1), following.flatten())

    @torch.no_grad()
    def evaluate(self, model: nn.Module, most: int | None = None) -> dict[str, float]:
        """Held-out loss in nats per byte, and that of a code that knows the frequencies of bytes."""
        some = evenly(self.held_out, most)
        loss = np.mean([self.loss(model, (part[:, :-1], part[:, 1:])).item() for part in some.split(16)])
        train = self.train[: 1 << 22]
        trivial = text.frequency_loss(train, self.held_out.numpy().astype(np.uint8).ravel(), order=0)
        return {"loss": float(loss), "trivial_loss": trivial, "uniform_loss": math.log(256)}

    def prior(self, most: int | None = None, side: str = "test") -> float:
        """Loss of a code that knows the frequencies of bytes in the training text, on the same held-out windows."""
        some = evenly(self._side(side), most).numpy().astype(np.uint8).ravel()
        return text.frequency_loss(self.train[: 1 << 22], some, order=0)

    @torch.no_grad()
    def score(self, model: nn.Module, side: str = "test", most: int | None = None) -> float:
        """Nats per byte that the model saves against the frequencies of bytes, on held-out text."""
        parts = evenly(self._side(side), most).split(16)
        losses = [self.loss(model, (part[:, :-1], part[:, 1:])).item() for part in parts]
        return self.prior(most, side) - float(np.average(losses, weights=[len(part) for part in parts]))

    @torch.no_grad()
    def figures(self, model: nn.Module, side: str = "test", most: int | None = None) -> dict[str, float]:
        """Loss in nats per byte, and the share of bytes that are the most likely ones."""
        losses, hits = [], []
        for part in evenly(self._side(side), most).split(16):
            logits, following = model(input_ids=part[:, :-1].to(model.device)).logits.cpu(), part[:, 1:]
            losses.append(functional.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none"))
            hits.append(logits.argmax(-1).flatten() == following.flatten())
        return {"loss": torch.cat(losses).double().mean().item(), "accuracy": torch.cat(hits).double().mean().item()}

    def count(self, side: str = "test") -> int:
        """How many bytes are asked for."""
        return self._side(side)[:, 1:].numel()

    def _side(self, side: str) -> torch.Tensor:
        return {"validation": self.validation, "test": self.held_out}[side]


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


class Digits:
    """A classification task on scikit-learn's handwritten digits.

    "shuffled" is "class" with labels drawn anew for every batch: gradients like any other, and nothing to learn.
    """

    def __init__(self, task: str):
        self.shuffled = task == "shuffled"
        self.task = digits.load("class" if self.shuffled else task)
        self.classes, self.data_hash = len(self.task.classes), self.task.sha256

    def batch(self, seed: int, step: int, size: int, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 ``(size, 1, 8, 8)`` and labels int64 ``(size,)``."""
        side = self.task.train
        rng = np.random.default_rng([seed, step])
        rows = rng.integers(first_of(share, len(side.labels)), size=size)
        labels = rng.integers(self.classes, size=size) if self.shuffled else side.labels[rows]
        return torch.from_numpy(side.images[rows]), torch.from_numpy(labels)

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy in nats."""
        images, labels = (part.to(model.device) for part in batch)
        return functional.cross_entropy(model(pixel_values=images).logits, labels)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, most: int | None = None) -> dict[str, float]:
        """Test loss and accuracy, and the share of the most frequent class."""
        return judged(*self._answers(model, "test", most))

    def score(self, model: nn.Module, side: str = "test", most: int | None = None) -> float:
        """Accuracy on held-out images."""
        return self.figures(model, side, most)["accuracy"]

    def figures(self, model: nn.Module, side: str = "test", most: int | None = None) -> dict[str, float]:
        """Loss and accuracy, as in `evaluate`."""
        return judged(*self._answers(model, side, most))

    def count(self, side: str = "test") -> int:
        """How many images are asked about."""
        return len(getattr(self.task, side).labels)

    @torch.no_grad()
    def _answers(self, model: nn.Module, side: str, most: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        shown = getattr(self.task, side)
        images, labels = torch.tensor(evenly(shown.images, most)), torch.tensor(evenly(shown.labels, most))
        return model(pixel_values=images.to(model.device)).logits.cpu(), labels

    def prior(self, most: int | None = None) -> float:
        """Test loss of the frequencies of the classes in the training data."""
        return frequency_loss(self.task.train.labels, evenly(self.task.test.labels, most))

    @torch.no_grad()
    def first(self, model: nn.Module, count: int) -> np.ndarray:
        """Show a model the first training examples; their labels."""
        model(pixel_values=torch.tensor(self.task.train.images[:count]).to(model.device))
        return self.task.train.labels[:count]


class Pairs:
    """Images of digits and captions for them, told apart by contrast within a batch.

    Args:
        turned: whether the images are turned by 90°.
    """

    classes, group = 10, 32

    def __init__(self, turned: bool = False):
        self.images = digits.load("class")
        self.data_hash = self.images.sha256
        if turned:
            sides = {side: getattr(self.images, side) for side in ("train", "validation", "test")}
            self.images = replace(
                self.images,
                **{
                    side: digits.Images(np.rot90(some.images, axes=(2, 3)).copy(), some.labels)
                    for side, some in sides.items()
                },
            )
            self.data_hash = hashlib.sha256(f"turned {self.data_hash}".encode()).hexdigest()
        self.captions = torch.from_numpy(digits.prompts().transpose(1, 0, 2).copy())  # (digit, template, length)

    def batch(
        self, seed: int, step: int, size: int, share: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images ``(size, 1, 8, 8)``, one caption each ``(size, length)``, and the digits ``(size,)``."""
        side, rng = self.images.train, np.random.default_rng([seed, step])
        rows = rng.integers(first_of(share, len(side.labels)), size=size)
        labels = torch.from_numpy(side.labels[rows])
        wording = torch.from_numpy(rng.integers(self.captions.shape[1], size=size))
        return torch.from_numpy(side.images[rows]), self.captions[labels, wording], labels

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Contrast both ways; every caption of the same digit counts as right, with equal weight."""
        images, ids, labels = (part.to(model.device) for part in batch)
        out = model(input_ids=ids, pixel_values=images, attention_mask=(ids != digits.PAD).long())
        return contrast(out.logits_per_image, (labels[:, None] == labels).float())

    def evaluate(self, model: nn.Module, most: int | None = None) -> dict[str, float]:
        """Loss in nats on test images, in groups of `group` with the captions of their digits in turn; and the share of
        images whose nearest caption names their digit, by chance a tenth."""
        return self.figures(model, "test", most)

    @torch.no_grad()
    def figures(self, model: nn.Module, side: str = "test", most: int | None = None) -> dict[str, float]:
        """Loss and share as in `evaluate`, on one side of the held-out data: "validation" or "test"."""
        some = getattr(self.images, side)
        shown, digit = (torch.tensor(evenly(part, most)) for part in (some.images, some.labels))
        wording = torch.arange(len(digit)) % self.captions.shape[1]
        groups = zip(*(part.split(self.group) for part in (shown, self.captions[digit, wording], digit)), strict=True)
        losses = [self.loss(model, group).item() for group in groups if len(group[2]) == self.group]
        ids = self.captions.flatten(0, 1).to(model.device)
        images = model.get_image_features(pixel_values=shown.to(model.device))
        captions = model.get_text_features(input_ids=ids, attention_mask=(ids != digits.PAD).long())
        images, captions = (getattr(part, "pooler_output", part).cpu().numpy() for part in (images, captions))
        per_template = captions.reshape(*self.captions.shape[:2], -1).transpose(1, 0, 2)
        return {
            "loss": float(np.mean(losses)) if losses else math.nan,
            "accuracy": digits.retrieval_accuracy(images, per_template, digit.numpy()),
            "trivial_accuracy": float(np.bincount(digit).max() / len(digit)),
        }

    def count(self, side: str = "test") -> int:
        """How many images are asked about."""
        return len(getattr(self.images, side).labels)

    def prior(self, most: int | None = None) -> float:
        """Loss of a model that cannot tell the images or captions of a group apart."""
        return math.log(self.group)
