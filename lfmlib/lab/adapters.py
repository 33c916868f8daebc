"""Adapters on the lab's models: peft’s, and those built from noise, with as many trained parameters as asked for.

The unit is what LoRA of rank 1 trains: as many numbers as a layer has inputs and outputs. A noise-built adapter trains
as many for each of its random matrices. VeRA and RandLoRA have frozen random factors as well, and one size for all
layers: it is chosen so that they train as many in all as LoRA does, or, where no size fits, a little less.

A fine-tuned model is kept merged, as a plain model, so that it is compared with its base like any other.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from ..checkpoints.checkpoint import open_checkpoint

LOW_RANK = ("lora", "dora")
"""Low-rank adapters: LoRA (Hu et al. 2021, arXiv 2106.09685), and DoRA, which learns the length of every row beside it
(Liu et al. 2024, arXiv 2402.09353)."""
FROZEN = ("vera", "randlora")
"""Adapters whose random factors are frozen and shared by all layers: VeRA (Kopiczko et al. 2023, arXiv 2310.11454) and
RandLoRA (Albert et al. 2025, arXiv 2502.00987), which sums such products to a full rank."""
NOISE_BUILT = ("noise-gaussian", "noise-uniform", "noise-signs")
"""ΔW from frozen noise of one of `lfmlib.noise_adapter.LAWS`, and learned scales."""
DEEPER = "noise-deeper"
"""ΔW from Gaussian noise whose scale grows with depth, from 2 / (layers + 1) of its own to 2 layers / (layers + 1)."""
ADAPTERS = (*LOW_RANK, *FROZEN, *NOISE_BUILT, DEEPER, "head")
"""What can be trained instead of the weights; "head": the head alone, nothing else moves."""
SCALE = 2.0
"""alpha / rank, by which peft multiplies BA of LoRA and DoRA: twice the rank is a common alpha."""
ALPHA = 20.0
"""alpha / rank of RandLoRA, as its documentation asks for."""
_HEADS = ("classifier", "lm_head", "visual_projection", "text_projection")


def adapt(model: nn.Module, adapter: str, rank: int, seed: int) -> nn.Module:
    """Put an adapter on every linear layer but the head; what is trained then is the adapters and the head's classes.

    Args:
        model: changed in place, and returned.
        adapter: one of `ADAPTERS`.
        rank: of BA, where B starts at zero and A as peft draws it; of noise, the number of random matrices; of `FROZEN`
            ones, that of LoRA with as many trained parameters.
        seed: of that draw, or of the noise.

    Raises:
        ValueError: the head alone is to be trained, of a model whose head is not for classes; or an adapter of this
            kind trains more, at its smallest, than that rank of LoRA.
    """
    if adapter == "head":
        heads = [name for name, _ in model.named_parameters() if name.startswith("classifier.")]
        if not heads:
            raise ValueError(f"{type(model).__name__} has no head named classifier: nothing would be trained")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in heads)
        return model
    from peft import get_peft_model, inject_adapter_in_model  # here, because importing it takes seconds

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type")
        warnings.filterwarnings("ignore", message="Specified to not save")  # the shared factors follow from the seed
        config = configuration(model, adapter, rank, seed)
        torch.manual_seed(seed)
        if adapter in FROZEN:  # peft injects no adapters with factors that layers share
            get_peft_model(model, config)
        else:
            inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if name.startswith("classifier."):
            parameter.requires_grad_(True)
    return model


def configuration(model: nn.Module, adapter: str, rank: int, seed: int):
    """peft’s configuration of an adapter on every linear layer but the head (see `adapt`)."""
    from peft import LoraConfig, RandLoraConfig, VeraConfig

    from ..noise_adapter import NoiseConfig

    layers = linear_layers(model)
    common = {"target_modules": list(layers)}
    if adapter in NOISE_BUILT:
        return NoiseConfig(law=adapter.removeprefix("noise-"), bases=rank, seed=seed, **common)
    if adapter == DEEPER:
        return NoiseConfig(bases=rank, seed=seed, scale_pattern=_growing(model), **common)
    if adapter in FROZEN:
        size = matching(adapter, list(layers.values()), rank)
        if adapter == "vera":
            return VeraConfig(r=size, projection_prng_key=seed, save_projection=False, vera_dropout=0.0, **common)
        return RandLoraConfig(
            r=size, randlora_alpha=round(ALPHA * size), projection_prng_key=seed, save_projection=False, **common
        )
    return LoraConfig(r=rank, lora_alpha=SCALE * rank, use_dora=adapter == "dora", lora_dropout=0.0, **common)


def linear_layers(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Name → outputs and inputs of every linear layer but the head."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(head in name for head in _HEADS)
    }


def matching(adapter: str, shapes: list[tuple[int, int]], rank: int) -> int:
    """The ``r`` of VeRA or RandLoRA that trains as many parameters as LoRA of that rank, or else a little less.

    VeRA trains r and the outputs of every layer; RandLoRA, with b = ⌈min(out, in) / r⌉ products, b (r + min(out, in)).

    Raises:
        ValueError: at its smallest it trains more.
    """
    budget = rank * sum(map(sum, shapes))
    if adapter == "vera":
        size = (budget - sum(out for out, _ in shapes)) // len(shapes)
        if size > 0:
            return size
    else:
        counts = {
            r: sum(-(-min(shape) // r) * (r + min(shape)) for shape in shapes)
            for r in range(1, 1 + max(map(max, shapes)))
        }
        fitting = {r: count for r, count in counts.items() if count <= budget}
        if fitting:
            return max(fitting, key=lambda r: (fitting[r], -r))
    raise ValueError(f"{adapter} trains more than LoRA of rank {rank}, {budget:,} parameters, at its smallest")


def _growing(model: nn.Module) -> dict[str, float]:
    """Name of a layer → its scale, growing with depth within its tower, 1 in the mean."""
    depths = {info.name.removesuffix(".weight"): info for info in open_checkpoint(model).tensors}
    known = {name: depths[name] for name in linear_layers(model) if name in depths and depths[name].depth is not None}
    deepest: dict[str, int] = {}
    for info in known.values():
        deepest[info.tower] = max(deepest.get(info.tower, 0), info.depth)
    return {name: 2 * (info.depth + 1) / (deepest[info.tower] + 2) for name, info in known.items()}


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
