"""What the lab models learn from scratch: a batch, its loss, and how well it went on data held out.

A batch depends on the seed and the number of the step alone, so a training can resume anywhere.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from . import digits, text

PROBLEMS = {
    "decoder": ("language",),
    "deep-decoder": ("language",),
    "vit": (*digits.TASKS, "shuffled"),
    "clip": ("pairs",),
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
    if task == "language":
        return Language()
    return Pairs() if task == "pairs" else Digits(task)


class Language:
    """Next byte of the text of CPython's standard library, in windows of 128 bytes."""

    length, classes = 128, 256

    def __init__(self):
        self.text = text.load()
        self.data_hash = self.text.sha256
        self.held_out = text.windows(self.text.test, self.length, 64)

    def batch(self, seed: int, step: int, size: int) -> torch.Tensor:
        """int64 ``(size, length + 1)``."""
        return next(text.batches(self.text.train, self.length, size, seed, first=step))

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats per byte."""
        batch = batch.to(model.device)
        logits = model(input_ids=batch[:, :-1]).logits
        return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Held-out loss in nats per byte, and that of a code that knows the frequencies of pairs of bytes."""
        loss = np.mean([self.loss(model, part).item() for part in self.held_out.split(16)])
        train = self.text.train[: 1 << 22]
        trivial = text.frequency_loss(train, self.held_out.numpy().astype(np.uint8).ravel(), order=0)
        return {"loss": float(loss), "trivial_loss": trivial, "uniform_loss": math.log(256)}


class Digits:
    """A classification task on scikit-learn's handwritten digits.

    "shuffled" is "class" with labels drawn anew for every batch: gradients like any other, and nothing to learn.
    """

    def __init__(self, task: str):
        self.shuffled = task == "shuffled"
        self.task = digits.load("class" if self.shuffled else task)
        self.classes, self.data_hash = len(self.task.classes), self.task.sha256

    def batch(self, seed: int, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 ``(size, 1, 8, 8)`` and labels int64 ``(size,)``."""
        side = self.task.train
        rng = np.random.default_rng([seed, step])
        rows = rng.integers(len(side.labels), size=size)
        labels = rng.integers(self.classes, size=size) if self.shuffled else side.labels[rows]
        return torch.from_numpy(side.images[rows]), torch.from_numpy(labels)

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy in nats."""
        images, labels = (part.to(model.device) for part in batch)
        return functional.cross_entropy(model(pixel_values=images).logits, labels)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Test loss and accuracy, and the share of the most frequent class."""
        side = self.task.test
        logits = model(pixel_values=torch.tensor(side.images).to(model.device)).logits.cpu()
        labels = torch.tensor(side.labels)
        return {
            "loss": functional.cross_entropy(logits, labels).item(),
            "accuracy": (logits.argmax(1) == labels).double().mean().item(),
            "trivial_accuracy": float(np.bincount(side.labels).max() / len(side.labels)),
        }


class Pairs:
    """Images of digits and captions for them, told apart by contrast within a batch."""

    classes = 10

    def __init__(self):
        self.images = digits.load("class")
        self.data_hash = self.images.sha256
        self.captions = torch.from_numpy(digits.prompts().transpose(1, 0, 2).copy())  # (digit, template, length)

    def batch(self, seed: int, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images ``(size, 1, 8, 8)``, one caption each ``(size, length)``, and the digits ``(size,)``."""
        side, rng = self.images.train, np.random.default_rng([seed, step])
        rows = rng.integers(len(side.labels), size=size)
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
