"""What the lab's problems share: losses, scores and choices of examples."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional


def contrast(similar: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats both ways, all partners of one that are the ``same`` being right, with equal weight."""
    target = same / same.sum(1, keepdim=True)
    return (functional.cross_entropy(similar, target) + functional.cross_entropy(similar.T, target)) / 2


def judged(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Loss in nats and accuracy of a classifier, and the share of the most frequent class."""
    return {
        "loss": functional.cross_entropy(logits, labels).item(),
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "trivial_accuracy": float(np.bincount(labels).max() / len(labels)),
    }


def frequency_loss(train: np.ndarray, test: np.ndarray) -> float:
    """Mean cross-entropy in nats of a classifier that knows nothing but how frequent each class is."""
    counts = np.bincount(train, minlength=int(test.max()) + 1)
    return float(-np.log(counts[test] / counts.sum()).mean())


def evenly(items, most: int | None):
    """At most so many of the items, evenly chosen."""
    return items if most is None else items[:: math.ceil(len(items) / most)]


def first_of(share: float, whole: int) -> int:
    """How many of so many examples a share of them is, at least one."""
    return max(1, round(share * whole))
