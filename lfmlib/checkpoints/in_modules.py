"""Weights that a module in memory computes and no state dict tells: parametrized ones, and those of peft's layers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import parametrize

from .row_layouts import FLOATS
from .stored import InMemory, Stored, dtype_name


def computed(module: torch.nn.Module) -> dict[str, Stored]:
    """What the modules inside this one compute and no state dict tells: name → the tensor.

    That is, what parametrizations of `torch.nn.utils.parametrize` make, but for weight norm and spectral norm, which
    their stored pieces tell; and the weights of peft's layers with their active adapters.
    """
    found: dict[str, Stored] = {}
    for path, one in module.named_modules():
        home = f"{path}." if path else ""
        if parametrize.is_parametrized(one):
            made: Any = one.parametrizations
            found |= {f"{home}{name}": InMemory(_evaluated(whole)) for name, whole in made.items() if not _told(whole)}
        if all(hasattr(one, name) for name in ("base_layer", "merge", "merged_adapters", "get_base_layer")):
            layer: Any = one
            weight = getattr(layer.get_base_layer(), "weight", None)
            if isinstance(weight, torch.Tensor) and dtype_name(weight.dtype) in FLOATS:
                found[f"{home}weight"] = Adapted(one)
    return found


def _told(whole) -> bool:
    return [type(one).__name__ for one in whole] in (["_WeightNorm"], ["_SpectralNorm"])


def _evaluated(whole: torch.nn.Module) -> torch.Tensor:
    """What a parametrization makes when its module is not in training, which this leaves as it is."""
    whole = copy.deepcopy(whole).eval()
    with torch.no_grad():
        return whole()


@dataclass(frozen=True)
class Adapted(Stored):
    """The weight of a layer of peft's with its active adapters, as peft merges them."""

    layer: Any
    lazy = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.layer.get_base_layer().weight.shape)

    @property
    def dtype(self) -> str:
        """Name of the dtype."""
        return dtype_name(self.layer.get_base_layer().weight.dtype)

    def load(self) -> torch.Tensor:
        """The weight; the layer is left as it is."""
        layer = copy.deepcopy(self.layer)
        with torch.no_grad():
            if not layer.disable_adapters:
                layer.merge()
            return layer.get_base_layer().weight.detach()

    def preloaded(self) -> InMemory:
        """The weight in memory: every part of it takes the whole to compute."""
        return InMemory(self.load())

    def __reduce__(self):
        """Pickle the weight, not the layer."""
        return InMemory, (self.load(),)
