"""What fine-tuning adds to plain training: a trained model to start from, and adapters (peft’s) to train instead.

A fine-tuned model is kept merged, as a plain model, so that it is compared with its base like any other.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import torch
from torch import nn

from .. import evidence, noise
from ..checkpoint import open_checkpoint
from ..noise_basis import LAWS

LOW_RANK = ("lora", "dora")
"""Low-rank adapters: LoRA (Hu et al. 2021, arXiv 2106.09685), and DoRA, which learns the length of every row beside it
(Liu et al. 2024, arXiv 2402.09353)."""
NOISE_BUILT = tuple(f"noise-{law}" for law in LAWS)
"""ΔW from frozen noise and learned scales (`lfmlib.noise_adapter`); as many random matrices as LoRA has ranks train as
many parameters."""
ADAPTERS = (*LOW_RANK, *NOISE_BUILT, "head")
"""What can be trained instead of the weights; "head": the head alone, nothing else moves."""
LABELS = ("real", "shuffled", "own")
"""What a model is taught: see `labelled`."""
SCALE = 2.0
"""alpha / rank, by which peft multiplies BA: twice the rank is a common alpha."""
_HEADS = ("classifier", "lm_head")


def inherit(model: nn.Module, base: dict[str, torch.Tensor]) -> None:
    """Copy the weights of a trained model into another, in place, except for a head of another shape."""
    own = model.state_dict()
    model.load_state_dict({name: value for name, value in base.items() if own[name].shape == value.shape}, strict=False)


def adapt(model: nn.Module, adapter: str, rank: int, seed: int) -> nn.Module:
    """Put an adapter on every linear layer but the head; what is trained then is the adapters and the head's classes.

    Args:
        model: changed in place, and returned.
        adapter: one of `ADAPTERS`.
        rank: of BA, where B starts at zero and A as peft draws it; of noise, the number of random matrices.
        seed: of that draw, or of the noise.

    Raises:
        ValueError: the head alone is to be trained, of a model whose head is not for classes.
    """
    if adapter == "head":
        heads = [name for name, _ in model.named_parameters() if name.startswith("classifier.")]
        if not heads:
            raise ValueError(f"{type(model).__name__} has no head named classifier: nothing would be trained")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in heads)
        return model
    from peft import LoraConfig, inject_adapter_in_model  # here, because importing it takes seconds

    from ..noise_adapter import NoiseConfig

    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(head in name for head in _HEADS)
    ]
    if adapter in NOISE_BUILT:
        config = NoiseConfig(law=adapter.removeprefix("noise-"), bases=rank, seed=seed, target_modules=layers)
    else:
        config = LoraConfig(
            r=rank, lora_alpha=SCALE * rank, use_dora=adapter == "dora", target_modules=layers, lora_dropout=0.0
        )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type")
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if name.startswith("classifier."):
            parameter.requires_grad_(True)
    return model


def body(model: nn.Module) -> pd.DataFrame:
    """The matrices that findings are about: one row each, with name, role, depth and numel, in the model's order."""
    tensors = pd.DataFrame(open_checkpoint(model).tensors)
    return evidence.eligible(tensors[tensors["shape"].map(len) == 2])


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
        parameters[name].copy_(noise.added(parameters[name], size * parameters[name].std(correction=0).item(), rng))
    return model


@torch.no_grad()
def merged(model: nn.Module) -> nn.Module:
    """Add the adapters to the weights and take them off, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    return model.requires_grad_(True)


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
