"""The architectures of the lab's models, built by transformers from configurations.

Importing transformers takes seconds: `lfmlib.lab.models.build` imports this when it builds one.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from ..checkpoints.checkpoint import Checkpoint


class TextClassifier(nn.Module):
    """A BERT, the mean of its last states over the tokens of a text, and a linear head on it.

    Attributes:
        encoder: the BERT, its parameters named as in its checkpoint after the prefix ``encoder.``.
        classifier: the head, float32 ``(classes, hidden size)`` and a bias, drawn by PyTorch's default.
    """

    def __init__(self, encoder: BertModel, classifier: nn.Linear):
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    @property
    def device(self) -> torch.device:
        """Where its parameters are, as transformers' models tell it."""
        return self.encoder.device

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """``logits`` ``(texts, classes)`` from ids and mask ``(texts, tokens)``; the mask is 0 on padding, else 1."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        share = attention_mask / attention_mask.sum(1, keepdim=True)
        return SequenceClassifierOutput(logits=self.classifier((states * share[:, :, None]).sum(1)))


def text_classifier(checkpoint: Checkpoint, classes: int) -> TextClassifier:
    """The BERT of a checkpoint, whose head is fresh."""
    # Without dropout, as all models here: what is random in a training must follow from its seed and the step.
    config = BertConfig.from_dict(
        checkpoint.config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        attn_implementation="sdpa",
    )
    head = nn.Linear(config.hidden_size, classes)  # first, so that it does not depend on draws that are overwritten
    encoder = BertModel(config, add_pooling_layer=False)  # MiniLM was trained on means; its pooler is untrained
    encoder.load_state_dict({name: checkpoint.read(name) for name in encoder.state_dict()})
    return TextClassifier(encoder, head)


def llama(layers: int) -> LlamaForCausalLM:
    """A byte-level decoder."""
    config = LlamaConfig(
        vocab_size=256, hidden_size=96, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=False, attn_implementation="sdpa",
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def vit(classes: int) -> ViTForImageClassification:
    """A vision transformer for images of 8 × 8 pixels."""
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=96, intermediate_size=192, num_hidden_layers=4,
        num_attention_heads=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=classes,
        attn_implementation="sdpa",
    )  # fmt: skip
    return ViTForImageClassification(config)


def clip() -> CLIPModel:
    """A CLIP of captions of 32 bytes and the images of `vit`."""
    shared = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = CLIPTextConfig(
        **shared, vocab_size=256, max_position_embeddings=32, bos_token_id=1, eos_token_id=0, pad_token_id=2,
        projection_dim=64,
    )  # fmt: skip
    vision = CLIPVisionConfig(**shared, image_size=8, patch_size=2, num_channels=1, projection_dim=64)
    both = {"text_config": text.to_dict(), "vision_config": vision.to_dict()}
    return CLIPModel(CLIPConfig(**both, projection_dim=64, attn_implementation="sdpa"))
