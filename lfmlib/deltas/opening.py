"""A base and the models that were tuned from it, opened; an adapter is laid over the base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, TypeGuard

import torch

from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..extras import need


def opened(
    base, tuned: Any, *, revision: str | None = None, whole: bool = False
) -> tuple[Checkpoint, list[Checkpoint]]:
    """A base and the models that were tuned from it, opened; an adapter is laid over the base.

    Args:
        base: anything `open_checkpoint` takes.
        tuned: such a model or the folder of an adapter that peft saved (LoRA, DoRA, noise), or a list of these.
        revision: of ``tuned``, if it is a hub id.
        whole: an adapter's model holds what the adapter leaves alone as well, as it is in the base.

    Raises:
        TypeError: what was given as the tuned model is nothing that a model is opened from.
        ValueError: no tuned model, or one side holds factors of an adapter, not a model.
        FileNotFoundError, CheckpointError: from `open_checkpoint`, and from `lfmlib.deltas.adapted.adapted`.
    """
    one = isinstance(tuned, str | Path | Checkpoint | Mapping | torch.nn.Module)
    if not one and (isinstance(tuned, bytes) or not isinstance(tuned, Iterable)):
        raise TypeError(
            f"the tuned model is {shortened(tuned)}: expected a model as `lfmlib.open_checkpoint` takes it, the folder "
            "of an adapter, or a list of these"
        )
    sources = [tuned] if one else list(tuned)
    if not sources:
        raise ValueError("no tuned model was given: expected at least one, beside the base")
    base = open_checkpoint(base)
    _refuse_factors(base, "base")
    models = []
    for source in sources:
        if is_adapter(source):
            need("adapters", "an adapter, which is laid over its base by peft,")
            from . import adapted  # imports peft, which takes seconds

            models.append(adapted.adapted(base, source, whole=whole))
            continue
        models.append(open_checkpoint(source, revision=revision))
        _refuse_factors(models[-1], "tuned model")
    return base, models


def opened_pair(base, tuned: Any, *, revision: str | None = None) -> tuple[Checkpoint, Checkpoint]:
    """A base and the one model that was tuned from it; arguments and errors as of `opened`."""
    base, models = opened(base, tuned, revision=revision)
    if len(models) > 1:
        raise ValueError(f"{len(models)} tuned models were given, and one is compared with a base: expected one")
    return base, models[0]


def is_adapter(source) -> TypeGuard[str | Path]:
    """Whether a source is a folder with an adapter, as peft saves it."""
    return isinstance(source, str | Path) and (Path(source).expanduser() / "adapter_config.json").is_file()


def _refuse_factors(checkpoint: Checkpoint, side: str) -> None:
    names = [*(info.name for info in checkpoint.tensors), *checkpoint.skipped]
    if factors := [
        name for name in names if ".lora_" in name and not checkpoint.skipped.get(name, "").startswith("a p")
    ]:
        raise ValueError(
            f"the {side} ({checkpoint.name}) holds factors of an adapter, such as {factors[0]}: "
            "expected a model as the base, and as the tuned model the adapter's folder, with adapter_config.json"
        )
