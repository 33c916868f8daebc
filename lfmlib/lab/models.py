"""The lab's models: small, but of the architectures people use, built by transformers from configurations.

Sizes are chosen so that every matrix the findings judge has at least 4,096 entries, and a training takes half a minute
of one core.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

MODELS = ("decoder", "deep-decoder", "vit", "clip")
"""A byte-level Llama-type decoder, one of 12 layers, a vision transformer, and a CLIP of both kinds."""


def build(name: str, seed: int, classes: int = 10) -> nn.Module:
    """A freshly initialized model.

    Args:
        name: one of `MODELS`.
        seed: of the library's own initialization, which `lfmlib.lab.inits` then replaces where asked to.
        classes: outputs of the ViT's head.

    Raises:
        ValueError: unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown lab model {name!r}: expected one of {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "vit":
            return ViTForImageClassification(_vit(classes))
        if name == "clip":
            return CLIPModel(_clip())
        return LlamaForCausalLM(_llama(layers=12 if name == "deep-decoder" else 4))


def _llama(layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=256, hidden_size=96, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=False, attn_implementation="sdpa",
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def _vit(classes: int) -> ViTConfig:
    return ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=96, intermediate_size=192, num_hidden_layers=4,
        num_attention_heads=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=classes,
        attn_implementation="sdpa",
    )  # fmt: skip


def _clip() -> CLIPConfig:
    shared = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = CLIPTextConfig(
        **shared, vocab_size=256, max_position_embeddings=32, bos_token_id=1, eos_token_id=0, pad_token_id=2,
        projection_dim=64,
    )  # fmt: skip
    vision = CLIPVisionConfig(**shared, image_size=8, patch_size=2, num_channels=1, projection_dim=64)
    return CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64, attn_implementation="sdpa"
    )
