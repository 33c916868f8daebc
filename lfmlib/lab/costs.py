"""What an adapter costs: bytes to store, bytes to train, seconds a step."""

from __future__ import annotations

import time

import torch
from safetensors.torch import save
from torch import nn

from .problems import problem
from .train import Config, optimizer_of, start_of

TIMED_STEPS = 3
"""Steps that are timed, after one that is not."""


def costs(config: Config) -> dict[str, float]:
    """What a training costs beside its result.

    Args:
        config: the training.

    Returns:
        ``parameters``, the number of trained ones; ``stored``, bytes of a safetensors file that holds them (frozen
        noise is drawn anew from its seed); ``held``, bytes that one step holds at least: weights and buffers,
        gradients, what the optimizer keeps, and the tensors that are saved for the backward pass; ``step_seconds``,
        processor time of a step, the least of a few.
    """
    torch.set_num_threads(1)
    task, model = problem(config.model, config.task), start_of(config)
    optimizer, saved = optimizer_of(model, config), {}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    seconds = []
    model.train()
    for step in range(1 + TIMED_STEPS):
        batch = task.batch(config.seed, step, config.batch)
        started = time.process_time()
        with torch.autograd.graph.saved_tensors_hooks(_noting(saved if step == 0 else {}, model), lambda one: one):
            loss = task.loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - started)
    kept = [one for state in optimizer.state.values() for one in state.values() if isinstance(one, torch.Tensor)]
    held = [*model.parameters(), *model.buffers(), *(p.grad for p in trained.values() if p.grad is not None), *kept]
    return {
        "parameters": sum(p.numel() for p in trained.values()),
        "stored": len(save({name: p.detach().contiguous() for name, p in trained.items()})),
        "held": sum(one.numel() * one.element_size() for one in held) + sum(saved.values()),
        "step_seconds": float(f"{min(seconds[1:]):.3g}"),
    }


def _noting(saved: dict[int, int], model: nn.Module):
    """A hook that notes how large each storage is that the backward pass keeps, but for the model’s own."""
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}

    def note(one: torch.Tensor) -> torch.Tensor:
        storage = one.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return one

    return note
