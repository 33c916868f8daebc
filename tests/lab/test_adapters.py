"""Adapters of the lab: as many trained parameters as LoRA, ΔW that begins at zero, merged as they speak."""

import pytest
import torch
from torch import nn

from lfmlib import noise_adapter
from lfmlib.lab import adapters, models

SHAPES = [(96, 96)] * 4 + [(256, 96)] * 2 + [(96, 256)]


def trained(model: nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "classifier" not in name)


def test_there_is_an_adapter_for_every_law_of_noise():
    assert tuple(f"noise-{law}" for law in noise_adapter.LAWS) == adapters.NOISE_BUILT


@pytest.mark.parametrize("name", ["vit", "decoder", "clip"])
@pytest.mark.parametrize("rank", [1, 4])
def test_all_train_as_many_parameters_as_lora_or_a_little_less(name, rank):
    count = {
        adapter: trained(adapters.adapt(models.build(name, 0), adapter, rank, seed=0))
        for adapter in (*adapters.ADAPTERS[:-1],)
    }
    assert count["lora"] == rank * sum(map(sum, adapters.linear_layers(models.build(name, 0)).values()))
    for adapter in (*adapters.NOISE_BUILT, adapters.DEEPER):
        assert count[adapter] == count["lora"]
    for adapter in adapters.FROZEN:
        assert 0.9 * count["lora"] <= count[adapter] <= count["lora"]
    assert count["dora"] > count["lora"]  # it learns the length of every row beside


@pytest.mark.parametrize("adapter", adapters.ADAPTERS[:-1])
def test_what_it_says_begins_as_the_base_and_survives_merging(adapter):
    pixels = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        base = models.build("vit", 0).eval()(pixel_values=pixels).logits
        model = adapters.adapt(models.build("vit", 0), adapter, 2, seed=3).eval()
        assert torch.allclose(model(pixel_values=pixels).logits, base, atol=1e-5)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "classifier" not in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        said = model(pixel_values=pixels).logits
        assert not torch.allclose(said, base, atol=1e-3)
        again = adapters.merged(model)(pixel_values=pixels).logits
    assert torch.allclose(said, again, atol=1e-4)
    assert model.state_dict().keys() == models.build("vit", 0).state_dict().keys()


@pytest.mark.parametrize("adapter", adapters.FROZEN)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_matching_sizes_fit_the_budget(adapter, rank):
    size = adapters.matching(adapter, SHAPES, rank)
    budget = rank * sum(map(sum, SHAPES))
    if adapter == "vera":
        count = len(SHAPES) * size + sum(out for out, _ in SHAPES)
    else:
        count = sum(-(-min(shape) // size) * (size + min(shape)) for shape in SHAPES)
    assert 0.9 * budget <= count <= budget


def test_what_cannot_be_small_enough_says_so():
    with pytest.raises(ValueError, match="vera trains more than LoRA of rank 0, 0 parameters, at its smallest"):
        adapters.matching("vera", SHAPES, 0)


def test_scales_grow_with_depth_and_are_one_in_the_mean():
    config = adapters.configuration(models.build("clip", 0), adapters.DEEPER, 1, 0)
    scales = config.scale_pattern
    assert scales["text_model.encoder.layers.0.mlp.fc1"] == 0.5 == scales["vision_model.encoder.layers.0.mlp.fc1"]
    assert scales["text_model.encoder.layers.2.self_attn.q_proj"] == 1.5
    assert sum(scales.values()) / len(scales) == pytest.approx(1)
