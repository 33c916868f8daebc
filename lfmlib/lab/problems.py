"""What the lab models learn: a batch, its loss, and how well it went on data held out.

A batch depends on the seed and the number of the step alone, so a training can resume anywhere. It is a tuple with the
labels last, and may be drawn from the first part of the training data only: their order is a fixed shuffled one. Of
the held-out data, ``most`` says how many examples are looked at, evenly chosen; None is all of them.
"""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ..hub import MINILM_SHA256
from . import digits, docstrings, models, text

PROBLEMS = {
    "decoder": ("language", "prose"),
    "deep-decoder": ("language", "prose"),
    "vit": (*digits.TASKS, "shuffled"),
    "clip": ("pairs",),
    "minilm": tuple(docstrings.TASKS),
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
        return Docstrings(task)
    if task == "language":
        return language()
    if task == "prose":
        return prose()
    return Pairs() if task == "pairs" else Digits(task)


class Bytes:
    """Next byte of a text, in windows of 128 bytes, whose places are drawn at random.

    Args:
        train, test: the text, uint8.
        data_hash: of both.
    """

    length, classes = 128, 256

    def __init__(self, train: np.ndarray, test: np.ndarray, data_hash: str):
        self.train, self.data_hash = train, data_hash
        self.held_out = text.windows(test, self.length, 64)

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
        some = _evenly(self.held_out, most)
        loss = np.mean([self.loss(model, (part[:, :-1], part[:, 1:])).item() for part in some.split(16)])
        train = self.train[: 1 << 22]
        trivial = text.frequency_loss(train, self.held_out.numpy().astype(np.uint8).ravel(), order=0)
        return {"loss": float(loss), "trivial_loss": trivial, "uniform_loss": math.log(256)}

    def prior(self, most: int | None = None) -> float:
        """Loss of a code that knows the frequencies of bytes in the training text, on the same held-out windows."""
        some = _evenly(self.held_out, most).numpy().astype(np.uint8).ravel()
        return text.frequency_loss(self.train[: 1 << 22], some, order=0)


def language() -> Bytes:
    """The text of CPython's standard library: code."""
    found = text.load()
    return Bytes(found.train, found.test, found.sha256)


def prose() -> Bytes:
    """The openings of docstrings (`lfmlib.lab.docstrings`), a line each: prose, split by source file."""
    sides = {side: [] for side in docstrings.SPLITS}
    for item in docstrings.items():
        sides[text.split_of(item.file, docstrings.SPLITS)].append(item.text)
    train, test = ("\n".join(sides[side]).encode() for side in ("train", "test"))
    data_hash = hashlib.sha256(train + text.END_OF_FILE + test).hexdigest()
    return Bytes(np.frombuffer(train, np.uint8), np.frombuffer(test, np.uint8), data_hash)


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
        rows = rng.integers(_part(share, len(side.labels)), size=size)
        labels = rng.integers(self.classes, size=size) if self.shuffled else side.labels[rows]
        return torch.from_numpy(side.images[rows]), torch.from_numpy(labels)

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy in nats."""
        images, labels = (part.to(model.device) for part in batch)
        return functional.cross_entropy(model(pixel_values=images).logits, labels)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, most: int | None = None) -> dict[str, float]:
        """Test loss and accuracy, and the share of the most frequent class."""
        side = self.task.test
        images, labels = torch.tensor(_evenly(side.images, most)), torch.tensor(_evenly(side.labels, most))
        return _judged(model(pixel_values=images.to(model.device)).logits.cpu(), labels)

    def prior(self, most: int | None = None) -> float:
        """Test loss of the frequencies of the classes in the training data."""
        return _frequency_loss(self.task.train.labels, _evenly(self.task.test.labels, most))

    @torch.no_grad()
    def first(self, model: nn.Module, count: int) -> np.ndarray:
        """Show a model the first training examples; their labels."""
        model(pixel_values=torch.tensor(self.task.train.images[:count]).to(model.device))
        return self.task.train.labels[:count]


class Pairs:
    """Images of digits and captions for them, told apart by contrast within a batch."""

    classes = 10

    def __init__(self):
        self.images = digits.load("class")
        self.data_hash = self.images.sha256
        self.captions = torch.from_numpy(digits.prompts().transpose(1, 0, 2).copy())  # (digit, template, length)

    def batch(
        self, seed: int, step: int, size: int, share: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images ``(size, 1, 8, 8)``, one caption each ``(size, length)``, and the digits ``(size,)``."""
        side, rng = self.images.train, np.random.default_rng([seed, step])
        rows = rng.integers(_part(share, len(side.labels)), size=size)
        labels = torch.from_numpy(side.labels[rows])
        wording = torch.from_numpy(rng.integers(self.captions.shape[1], size=size))
        return torch.from_numpy(side.images[rows]), self.captions[labels, wording], labels

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Contrast both ways; every caption of the same digit counts as right, with equal weight."""
        images, ids, labels = (part.to(model.device) for part in batch)
        out = model(input_ids=ids, pixel_values=images, attention_mask=(ids != digits.PAD).long())
        same = (labels[:, None] == labels).float()
        target = same / same.sum(1, keepdim=True)
        image, caption = out.logits_per_image, out.logits_per_text
        return (functional.cross_entropy(image, target) + functional.cross_entropy(caption, target)) / 2

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Share of test images whose nearest caption names their digit; by chance a tenth."""
        side, ids = self.images.test, self.captions.flatten(0, 1).to(model.device)
        images = model.get_image_features(pixel_values=torch.tensor(side.images).to(model.device))
        captions = model.get_text_features(input_ids=ids, attention_mask=(ids != digits.PAD).long())
        images, captions = (getattr(part, "pooler_output", part).cpu().numpy() for part in (images, captions))
        per_template = captions.reshape(*self.captions.shape[:2], -1).transpose(1, 0, 2)
        return {
            "accuracy": digits.retrieval_accuracy(images, per_template, side.labels),
            "trivial_accuracy": float(np.bincount(side.labels).max() / len(side.labels)),
        }


class Docstrings:
    """A classification task on docstrings (`lfmlib.lab.docstrings`), in the tokens of MiniLM.

    All these tasks share one base model: whatever the task and the seed, a training starts from the very bits of
    MiniLM's checkpoint, and only the head on top is drawn anew. So differences to the base can be compared, added and
    merged across tasks.
    """

    length = 48  # tokens at most, the first and the last one special; a quarter of the texts is cut
    padding = 0  # id of [PAD]

    def __init__(self, task: str):
        self.task = docstrings.load(task)
        self.classes = len(self.task.classes)
        tokenizer = Tokenizer.from_file(str(models.pretrained().files[0].with_name("tokenizer.json")))
        tokenizer.no_padding()  # the file asks for 128 tokens, always
        tokenizer.enable_truncation(self.length)
        # One by one: the tokenizer's threads would warn of every process forked afterwards.
        sides = [[tokenizer.encode(one).ids for one in side.texts] for side in (self.task.train, self.task.test)]
        self.data_hash = hashlib.sha256(repr((self.task.sha256, MINILM_SHA256, sides)).encode()).hexdigest()
        self.train, self.test = ([torch.tensor(ids) for ids in side] for side in sides)

    def batch(self, seed: int, step: int, size: int, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids int64 ``(size, longest of them)``, padded at the end, and labels int64 ``(size,)``."""
        rows = np.random.default_rng([seed, step]).integers(_part(share, len(self.train)), size=size)
        return self._padded(self.train, rows), torch.from_numpy(self.task.train.labels[rows])

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy in nats."""
        ids, labels = (part.to(model.device) for part in batch)
        return functional.cross_entropy(self._logits(model, ids), labels)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, most: int | None = None) -> dict[str, float]:
        """Test loss in nats and accuracy, and the share of the most frequent class."""
        rows = _evenly(np.arange(len(self.test)), most)
        order = rows[np.argsort([len(self.test[row]) for row in rows], kind="stable")]  # one length needs no padding
        parts = np.array_split(order, math.ceil(len(order) / 128))
        logits = torch.cat([self._logits(model, self._padded(self.test, rows).to(model.device)) for rows in parts])
        return _judged(logits.cpu(), torch.tensor(self.task.test.labels[order]))

    def prior(self, most: int | None = None) -> float:
        """Test loss of the frequencies of the classes in the training data."""
        return _frequency_loss(self.task.train.labels, _evenly(self.task.test.labels, most))

    @torch.no_grad()
    def first(self, model: nn.Module, count: int) -> np.ndarray:
        """Show a model the first training examples; their labels."""
        for rows in np.array_split(np.arange(min(count, len(self.train))), math.ceil(count / 128)):
            self._logits(model, self._padded(self.train, rows).to(model.device))
        return self.task.train.labels[:count]

    def _padded(self, texts: list[torch.Tensor], rows: np.ndarray) -> torch.Tensor:
        return pad_sequence([texts[row] for row in rows], batch_first=True, padding_value=self.padding)

    def _logits(self, model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids, attention_mask=(ids != self.padding).long()).logits


def _judged(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Loss in nats and accuracy of a classifier, and the share of the most frequent class."""
    return {
        "loss": functional.cross_entropy(logits, labels).item(),
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "trivial_accuracy": float(np.bincount(labels).max() / len(labels)),
    }


def _frequency_loss(train: np.ndarray, test: np.ndarray) -> float:
    """Mean cross-entropy in nats of a classifier that knows nothing but how frequent each class is."""
    counts = np.bincount(train, minlength=int(test.max()) + 1)
    return float(-np.log(counts[test] / counts.sum()).mean())


def _evenly(items, most: int | None):
    """At most so many of the items, evenly chosen."""
    return items if most is None else items[:: math.ceil(len(items) / most)]


def _part(share: float, whole: int) -> int:
    return max(1, round(share * whole))
