"""The gain of the norm in front of a matrix: what it multiplies the matrix's columns with.

Where a norm stands between the residual stream and a matrix, its gain g is multiplied in: what acts on the stream is
W · diag(g). Two matrices that read the stream alike may differ in W and g, since only the product counts. Names tell
where norms stand:

- *before*: in front of attention and in front of the MLP, or one for both (Llama, GPT-2, ViT, T5, GPT-J);
- *behind*: behind attention and behind the MLP, on the stream itself (BERT), or inside the branch (OLMo 2): what the
  norm gives is the stream, which a matrix reads as it is.

PyTorch's and fairseq's layers have names for both (``norm1``, ``self_attn_layer_norm``); a norm behind the last layer
tells that theirs stand before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..checkpoints.roles import inside_layer

ATTENTION, MLP = ("q", "k", "v", "qkv"), ("gate", "up", "gate_up")
READERS = (*ATTENTION, *MLP)
"""Roles whose inputs are the residual stream."""
ZERO_CENTRED = (
    "gemma", "gemma2", "gemma3", "gemma3_text", "t5gemma", "t5gemma2", "vaultgemma", "recurrent_gemma", "nemotron",
    "qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text",
)  # fmt: skip
"""Model types whose norms multiply by 1 + weight; llama.cpp's files of them hold the sum."""
# Names inside a layer, without ".weight"; of several that fit, the first pattern's.
_BEFORE = {
    ATTENTION: [
        r"(?:input|(?:pre_)?attention)_?layer_?norm|(?:pre_)?(?:attn|attention)_norm|operator_norm|ln_?1|ln_attn",
        r"layer_norm_?1|layernorm_before|norm_1|norm_attn_norm\.norm_1|layer\.0\.layer_norm",
    ],
    MLP: [
        r"pre_(?:feedforward|mlp|ff|moe)_(?:layer)?norm|(?:ffn|ff|mlp)_norm|feedforward_layernorm|ln_?2|ln_mlp",
        r"layer_norm_?2|layernorm_after|norm_2|norm_attn_norm\.norm_2|layer\.2\.layer_norm",
        r"layer\.1\.layer_norm|post_attention_layernorm",
    ],
}
_EITHER = {ATTENTION: [r"norm1|self_attn_layer_norm"], MLP: [r"norm3|final_layer_norm", r"norm2"]}
_BRANCHED = re.compile(r"post_feedforward_layernorm")  # beside it, a post_attention_layernorm stands in the branch too
_NO_END = re.compile(r"emb|predictions|cls\.|pooler")  # norms outside layers that are not behind the last


def front_norms(checkpoint: Checkpoint) -> dict[str, str]:
    """The norm between the residual stream and each matrix that reads it, by name; only where there is one.

    Examples:
        >>> from lfmlib.health.gains import front_norms
        >>> names = ("input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "mlp.up_proj")
        >>> sizes = {name: (8,) if "norm" in name else (8, 8) for name in names}
        >>> model = lfmlib.open_checkpoint({f"layers.0.{name}.weight": np.ones(sizes[name]) for name in names})
        >>> front_norms(model)["layers.0.mlp.up_proj.weight"]
        'layers.0.post_attention_layernorm.weight'
    """
    layers: dict[tuple, dict[str, str]] = {}
    ends = set()
    for info in checkpoint.tensors:
        if info.role != "norm" or len(info.shape) != 1:
            continue
        if info.depth is not None and (inside := inside_layer(info.name)):
            layers.setdefault((info.tower, info.depth, *info.shape), {})[inside.removesuffix(".weight")] = info.name
        elif info.depth is None and not _NO_END.search(info.name):
            ends.add((info.tower, *info.shape))
    found = {}
    for info in checkpoint.tensors:
        if reads(info):
            norms = layers.get((info.tower, info.depth, info.shape[1]), {})
            closed = bool(ends & {(info.tower, info.shape[1]), ("", info.shape[1])})
            if norm := _front(info.role, norms, closed):
                found[info.name] = norm
    return found


def reads(info: TensorInfo) -> bool:
    """Whether a tensor is a matrix of a layer that reads the residual stream; cross-attention reads another tower."""
    crossed = re.search(r"cross|EncDec|encoder_attn", info.name)
    return info.role in READERS and len(info.shape) == 2 and info.depth is not None and not crossed


def gain(checkpoint: Checkpoint, norm: str) -> torch.Tensor:
    """What a norm multiplies each dimension with, float64: its weight, or 1 + weight (see `ZERO_CENTRED`)."""
    weight = checkpoint.read(norm).double()
    text = checkpoint.config.get("text_config")
    kinds = {checkpoint.config.get("model_type"), text.get("model_type") if isinstance(text, Mapping) else None}
    if not kinds & set(ZERO_CENTRED) or "gguf" in checkpoint.config:
        return weight
    tower = next(info.tower for info in checkpoint.tensors if info.name == norm)
    return weight if tower in ("vision", "audio") else weight + 1


def _front(role: str, norms: Mapping[str, str], closed: bool) -> str | None:
    """Of the norms of a layer, by their names inside it, that in front of a matrix.

    Args:
        role: of the matrix.
        norms: of the matrix's width.
        closed: whether a norm stands behind the last layer.
    """
    part, other = (ATTENTION, MLP) if role in ATTENTION else (MLP, ATTENTION)
    patterns = {place: [*_BEFORE[place], *(_EITHER[place] if closed else [])] for place in _BEFORE}
    if any(map(_BRANCHED.fullmatch, norms)):
        norms = {inside: name for inside, name in norms.items() if inside != "post_attention_layernorm"}
    if norm := _named(norms, patterns[part]):
        return norm
    return _named(norms, patterns[other]) if len(norms) == 1 else None  # attention and MLP side by side, behind one


def _named(norms: Mapping[str, str], patterns: list[str]) -> str | None:
    return next((norms[inside] for one in patterns for inside in norms if re.fullmatch(one, inside)), None)
