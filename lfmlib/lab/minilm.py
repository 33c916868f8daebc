"""What MiniLM is asked: to classify docstrings, and, its own kind of question, which texts belong together."""

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

from ..checkpoints.named import MINILM_SHA256
from . import docstrings, models
from .scores import contrast, evenly, first_of, frequency_loss, judged


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
        sides = [self._encoded(side.texts) for side in (self.task.train, self.task.test)]
        self.data_hash = hashlib.sha256(repr((self.task.sha256, MINILM_SHA256, sides)).encode()).hexdigest()
        self.train, self.test = ([torch.tensor(ids) for ids in side] for side in sides)

    def batch(self, seed: int, step: int, size: int, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids int64 ``(size, longest of them)``, padded at the end, and labels int64 ``(size,)``."""
        rows = np.random.default_rng([seed, step]).integers(first_of(share, len(self.train)), size=size)
        return self._padded(self.train, rows), torch.from_numpy(self.task.train.labels[rows])

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy in nats."""
        ids, labels = (part.to(model.device) for part in batch)
        return functional.cross_entropy(self._logits(model, ids), labels)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, most: int | None = None) -> dict[str, float]:
        """Test loss in nats and accuracy, and the share of the most frequent class."""
        return judged(*self._answers(model, self.test, self.task.test.labels, most))

    def score(self, model: nn.Module, side: str = "test", most: int | None = None) -> float:
        """Accuracy on held-out texts."""
        return self.figures(model, side, most)["accuracy"]

    def figures(self, model: nn.Module, side: str = "test", most: int | None = None) -> dict[str, float]:
        """Loss and accuracy, as in `evaluate`."""
        texts = self.test if side == "test" else self.validation
        return judged(*self._answers(model, texts, getattr(self.task, side).labels, most))

    def count(self, side: str = "test") -> int:
        """How many texts are asked about."""
        return len(getattr(self.task, side).labels)

    @functools.cached_property
    def validation(self) -> list[torch.Tensor]:
        """Token ids of the texts of that split."""
        return [torch.tensor(ids) for ids in self._encoded(self.task.validation.texts)]

    @torch.no_grad()
    def _answers(
        self, model: nn.Module, texts: list[torch.Tensor], labels: np.ndarray, most: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of texts."""
        rows = evenly(np.arange(len(texts)), most)
        order = rows[np.argsort([len(texts[row]) for row in rows], kind="stable")]  # one length needs no padding
        parts = np.array_split(order, math.ceil(len(order) / 128))
        logits = torch.cat([self._logits(model, self._padded(texts, rows).to(model.device)) for rows in parts])
        return logits.cpu(), torch.tensor(labels[order])

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        """Token ids, one text by one: the tokenizer's threads would warn of every process forked afterwards."""
        tokenizer = Tokenizer.from_file(str(models.pretrained().files[0].with_name("tokenizer.json")))
        tokenizer.no_padding()  # the file asks for 128 tokens, always
        tokenizer.enable_truncation(self.length)
        return [tokenizer.encode(one).ids for one in texts]

    def prior(self, most: int | None = None) -> float:
        """Test loss of the frequencies of the classes in the training data."""
        return frequency_loss(self.task.train.labels, evenly(self.task.test.labels, most))

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


class Halves(Docstrings):
    """Which second half belongs to which first half of a docstring: MiniLM's own kind of task, on other texts.

    all-MiniLM-L6-v2 was trained to find, for one text of a pair, the other among those of its batch, by the cosine of
    their mean states, times 20 (Reimers and Gurevych 2019, arXiv 1908.10084, and the model's card). On these texts that
    is too sure of itself: whatever blurs the model lowers its loss. So the factor is the one with the smallest loss on
    training pairs. Nothing else is added: the head of the lab's classifier is not used. A half has at least `least`
    tokens.
    """

    classes, group, scale, least = 2, 64, 11.0, 5

    def __init__(self):
        super().__init__("library")  # its texts; the labels are not used
        self.train, self.test = (
            [ids for ids in side if len(ids) >= 2 * self.least + 2] for side in (self.train, self.test)
        )
        self.data_hash = hashlib.sha256(f"halves of {self.data_hash}".encode()).hexdigest()

    def batch(self, seed: int, step: int, size: int, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second halves: token ids int64 ``(size, longest of them)``, padded at the end."""
        rows = np.random.default_rng([seed, step]).choice(first_of(share, len(self.train)), size=size, replace=False)
        return self._halves(self.train, rows)

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy in nats of finding the other half, both ways."""
        similar = self._similar(model, batch)
        return contrast(similar, torch.eye(len(similar), device=similar.device))

    @torch.no_grad()
    def evaluate(self, model: nn.Module, most: int | None = None, skip: int = 0) -> dict[str, float]:
        """Held-out loss in nats and accuracy in groups of `group` pairs, and the accuracy of guessing.

        Args:
            model: MiniLM in the lab's form.
            most: number of groups; None is all that are whole.
            skip: number of groups to pass over first.
        """
        whole = len(self.test) // self.group
        losses, hits = [], []
        for place in range(skip, whole if most is None else min(whole, skip + most)):
            rows = np.arange(self.group) + place * self.group
            similar = self._similar(model, self._halves(self.test, rows))
            losses.append(contrast(similar, torch.eye(self.group, device=similar.device)).item())
            hits.append((similar.argmax(1).cpu() == torch.arange(self.group)).double().mean().item())
        return {"loss": float(np.mean(losses)), "accuracy": float(np.mean(hits)), "trivial_accuracy": 1 / self.group}

    def prior(self, most: int | None = None, skip: int = 0) -> float:
        """Loss of a model that cannot tell the texts of a group apart, whichever they are."""
        return math.log(self.group)

    def _halves(self, texts: list[torch.Tensor], rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Every text cut in the middle, both parts between the marks that begin and end a text."""
        parts = [[], []]
        for row in rows:
            ids = texts[row]
            middle = len(ids) // 2
            parts[0].append(torch.cat([ids[:middle], ids[-1:]]))
            parts[1].append(torch.cat([ids[:1], ids[middle:]]))
        return tuple(pad_sequence(part, batch_first=True, padding_value=self.padding) for part in parts)

    def _similar(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Scaled cosines ``(first halves, second halves)``."""
        units = []
        for ids in batch:
            ids = ids.to(model.device)
            mask = (ids != self.padding).long()
            states = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            units.append(functional.normalize((states * mask[:, :, None]).sum(1), dim=1))
        return self.scale * units[0] @ units[1].T
