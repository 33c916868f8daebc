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

from . import digits, docstrings, smollm
from .language import headers, language, prose
from .minilm import Docstrings, Halves
from .scores import contrast, evenly, first_of, frequency_loss, judged

PROBLEMS = {
    "decoder": ("language", "prose", "headers"),
    "deep-decoder": ("language", "prose"),
    "vit": (*digits.TASKS, "shuffled"),
    "clip": ("pairs", "turned pairs"),
    "minilm": (*docstrings.TASKS, "halves"),
    smollm.NAME: tuple(smollm.TASKS),
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
    if model == smollm.NAME:
        return smollm.asked(task)
    if texts := {"language": language, "prose": prose, "headers": headers}.get(task):
        return texts()
    return Pairs(turned=task == "turned pairs") if "pairs" in task else Digits(task)


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
