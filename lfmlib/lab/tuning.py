"""What fine-tuning adds to plain training: a trained start, a fitted head, other labels, noise, gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from .. import findings
from ..checkpoints.checkpoint import open_checkpoint
from ..deltas import stand_ins

LABELS = ("real", "shuffled", "own")
"""What a model is taught: see `labelled`."""
HEAD_ITEMS = 1024
"""Training examples that a head is fitted to."""
DEAD = 1e-3
"""Standard deviation of a feature, over the median of all, below which a head does not use it."""
TIMID = 1e-3
"""Inverse penalty of a head that is kept small, in scikit-learn's units."""


def inherit(model: nn.Module, base: dict[str, torch.Tensor]) -> None:
    """Copy the weights of a trained model into another, in place, except for a head of another shape."""
    own = model.state_dict()
    model.load_state_dict({name: value for name, value in base.items() if own[name].shape == value.shape}, strict=False)


def body(model: nn.Module) -> pd.DataFrame:
    """The matrices that findings are about: one row each, with name, role, depth and numel, in the model's order."""
    tensors = pd.DataFrame(open_checkpoint(model).tensors)
    return findings.eligible(tensors[tensors["shape"].map(len) == 2])


@torch.no_grad()
def jittered(model: nn.Module, size: float, seed: int) -> nn.Module:
    """Add Gaussian noise to the `body` of a model, in place.

    Args:
        model: changed, and returned.
        size: of the noise, in units of each matrix's standard deviation.
        seed: of the noise, with the matrix's name.
    """
    parameters = dict(model.named_parameters())
    for name in body(model)["name"]:
        rng = np.random.default_rng([seed, 17, *name.encode()])
        parameters[name].copy_(stand_ins.added(parameters[name], size * parameters[name].std(correction=0).item(), rng))
    return model


@torch.no_grad()
def fit_head(model: nn.Module, task, strengths: Sequence[float], items: int = HEAD_ITEMS) -> float:
    """Fit the head of a classifier by logistic regression on what its body makes of the first training examples.

    Features are brought to mean 0 and variance 1 first, which is then put into the head's weights. Dead ones, which
    hardly vary beside the others (`DEAD`; of MiniLM's 384 three), are left at 0: a weight that makes up for their size
    would be a million times the others, and a fine-tuning that wakes them would lose everything by it.

    Args:
        model: with a linear layer ``classifier``, which is replaced, in place.
        task: of any number of classes.
        strengths: inverse penalties, from which five-fold cross-validation by loss chooses.
        items: how many training examples.

    Returns:
        The inverse penalty that was chosen.
    """
    seen: list[torch.Tensor] = []
    old = model.classifier
    hook = old.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().cpu()))
    try:
        labels = task.first(model, items)
    finally:
        hook.remove()
    features = torch.cat(seen).double().numpy()
    middle, scale = features.mean(0), features.std(0)
    alive = scale > DEAD * np.median(scale)
    scaled = np.where(alive, (features - middle) / np.where(alive, scale, 1.0), 0.0)
    chosen = strengths[0]
    if len(strengths) > 1:
        from sklearn.model_selection import cross_val_score

        losses = [
            -cross_val_score(_logistic(c), scaled, labels, cv=5, scoring="neg_log_loss").mean() for c in strengths
        ]
        chosen = strengths[int(np.argmin(losses))]
    fitted = _logistic(chosen).fit(scaled, labels)
    head = nn.Linear(features.shape[1], task.classes).to(old.weight.device)
    slopes, bias = fitted.coef_, fitted.intercept_
    if task.classes == 2:  # of two classes scikit-learn has the logit of the second alone
        slopes, bias = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-bias, bias]) / 2
    weight = np.where(alive, slopes / np.where(alive, scale, 1.0), 0.0)
    head.weight.copy_(torch.from_numpy(weight))
    head.bias.copy_(torch.from_numpy(bias - weight @ middle))
    model.classifier = head
    return chosen


def _logistic(strength: float):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000)


def labelled(
    batch: tuple[torch.Tensor, ...], labels: str, seed: int, before: nn.Module | None = None
) -> tuple[torch.Tensor, ...]:
    """A batch with other labels, its last part.

    Shuffled labels are right in number and wrong in place. A classifier cannot learn from them more than their
    frequencies; a language model that is good already is taught by them to forget what follows what. Its own
    predictions, drawn at random, are what leaves nothing to learn there: the expected gradient is zero at the start.

    Args:
        batch: from a problem.
        labels: one of `LABELS`.
        seed: of the exchange, or of the draw.
        before: the model whose predictions are drawn, for "own"; the batch is then one of texts.
    """
    if labels == "real":
        return batch
    *rest, real = batch
    generator = torch.Generator().manual_seed(seed)
    if labels == "shuffled":
        order = torch.randperm(real.numel(), generator=generator)
        return (*rest, real.flatten()[order].view_as(real))
    with torch.no_grad():
        logits = before(input_ids=rest[0].to(before.device)).logits.float().cpu().flatten(0, 1)
    return (*rest, torch.multinomial(logits.softmax(1), 1, generator=generator).view_as(real))


def gradients(model: nn.Module, task, *, seed: int = 0, batches: int = 8, size: int = 8) -> pd.DataFrame:
    """How large the loss's gradient is in every matrix.

    Args:
        model: as it is before its first step; it is not changed, but its gradients are.
        task: what it is to learn (see `lfmlib.lab.problems`).
        seed: of the batches; they are not those of a training.
        batches, size: how many, and how many examples each.

    Returns:
        One row per matrix: tensor; ``gradient``, the root mean square over entries and batches; ``agreement``, the
        root mean square of the mean gradient over that: 1 where all batches agree, 1/√batches for unrelated ones.
    """
    named = {name: p for name, p in model.named_parameters() if p.dim() == 2}
    mean, square = {}, dict.fromkeys(named, 0.0)
    model.train()
    for number in range(batches):
        model.zero_grad(set_to_none=True)
        task.loss(model, task.batch(seed + 10_007, number, size)).backward()
        for name, p in named.items():
            if p.grad is not None:
                mean[name] = mean.get(name, 0) + p.grad / batches
                square[name] += p.grad.double().square().mean().item() / batches
    model.zero_grad(set_to_none=True)
    rows = [
        (name, math.sqrt(square[name]), math.sqrt(one.double().square().mean().item() / square[name]))
        for name, one in mean.items()
        if square[name] > 0
    ]
    return pd.DataFrame(rows, columns=["tensor", "gradient", "agreement"])
