"""Tell a tensor's role and depth from its name, and split fused and stacked tensors into logical matrices.

Roles are the field's short names:

=========== ==================================================================================================
q k v o     attention projections, in self- and cross-attention alike (the tensor's name tells which)
qkv         a fused projection whose layout is not certain, left whole
gate up     into the hidden layer of the MLP; an MLP without a gate has `up` first and `down` second
down        out of the hidden layer
gate_up     gate and up fused in a layout that is not certain, left whole
router      the choice of experts
embed       word, position and token-type embeddings, class and mask tokens, T5's table of relative positions, and
            matrices between narrow embeddings and the layers (ALBERT, ELECTRA, OPT)
head        from the model's last state to its answer: vocabulary, classes, or CLIP's shared space
pooler      BERT's and ViT's dense layer on the first token
norm        scales of normalization layers, those with a row for each head too
bias        every bias vector, those of normalization layers too
conv        convolution kernels, patch embeddings and depthwise ones stored as matrices among them
other       everything else: a name that no rule knows is never guessed
=========== ==================================================================================================

Depth is the index of the layer inside its tower, None outside layers; a layer that is used several times over, as
ALBERT's, has one. Where a model has several towers with layers
(encoder and decoder of T5, text and vision of CLIP), `tower` tells them apart.

Every logical matrix is (out, in), as `torch.nn.Linear` stores it. Tensors that store several are split:

- `name[q]`, `name[k]`, `name[v]`: fused attention, where model type, head counts or shapes make the layout certain
- `name[gate]`, `name[up]`: fused MLP
- `name[3]`, `name[3][gate]`: one expert of a stack

Names of CTranslate2 (`self_attention.linear_0`) and of llama.cpp (`blk.0.attn_q.weight`) are known too. The latter's
conversion reorders the rows of q and k of some models.

GPT-2's Conv1D stores (in, out). Its names (c_attn, c_fc, c_proj) are used with Linear too (GPTBigCode, open_clip,
nanoGPT), so orientation is decided by shapes: a bias is as long as the outputs.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from .names import PrefixDict, plain_names
from .slices import Part
from .stored import is_positive_int

READING_ORDER = ("q", "k", "v", "qkv", "o", "router", "gate", "gate_up", "up", "down")
"""Roles inside a layer, in the order in which data passes them."""
MAX_EXPERTS = 4096  # a longer stack holds something else than experts, and would become that many tensors

_ATTENTION = (
    r"(?:attn|attention|self|self_attn|self_attention|encoder_attn|multihead_attn|SelfAttention|EncDecAttention)"
)

# (pattern on the end of a matrix's dotted name without ".weight", role); the first match decides.
_MATRIX_RULES = [
    (re.compile(rf"(?:^|\.)(?:{pattern})$"), role)
    for pattern, role in [
        # attention
        (rf"q_proj|q_lin|to_q|wq|{_ATTENTION}\.(?:q|query|query_proj|linear_q|q_head)", "q"),
        (rf"k_proj|k_lin|to_k|wk|{_ATTENTION}\.(?:k|key|key_proj|linear_k|k_head)", "k"),
        (rf"v_proj|v_lin|to_v|wv|{_ATTENTION}\.(?:v|value|value_proj|linear_v|v_head)", "v"),
        (
            rf"o_proj|out_lin|{_ATTENTION}\.(?:o|[wW]o|out_proj|c_proj|dense|proj|linear_out|post_proj)|"
            r"attention\.output\.dense",
            "o",
        ),
        (rf"{_ATTENTION}\.(?:c_attn|qkv|query_key_value|qkv_proj|in_proj_weight|Wqkv)", "qkv"),
        # MLP
        (r"gate_proj|wi_0", "gate"),
        (r"up_proj|wi_1|DenseReluDense\.wi|mlp\.c_fc|dense_h_to_4h|intermediate\.dense|ffn\.lin1", "up"),
        (r"albert_layers\.\d+\.ffn|intermediate_dense|pwconv1|(?:ffn|ff)\.(?:linear|layer)_1", "up"),
        (r"albert_layers\.\d+\.ffn_output|output_dense|pwconv2|(?:ffn|ff)\.(?:linear|layer)_2", "down"),
        (r"ffn\.\d+\.output\.dense", "down"),  # MobileBERT has several in a layer
        (r"down_proj|DenseReluDense\.wo|mlp\.c_proj|dense_4h_to_h|layer\.\d+\.output\.dense|ffn\.lin2", "down"),
        # ambiguous outside a layer
        (r"(?:layers?|blocks?|\w+coder_layers)\.\d+\.(?:mlp\.|ffn\.)?(?:fc1|linear1)", "up"),
        (r"(?:layers?|blocks?|\w+coder_layers)\.\d+\.(?:mlp\.|ffn\.)?(?:fc2|linear2)", "down"),
        (r"gate_up_proj", "gate_up"),
        (r"block_sparse_moe\.gate|router|router\.classifier", "router"),
        # llama.cpp
        (r"blk\.\d+\.attn_q", "q"),
        (r"blk\.\d+\.attn_k", "k"),
        (r"blk\.\d+\.attn_v", "v"),
        (r"blk\.\d+\.attn_output", "o"),
        (r"blk\.\d+\.attn_qkv", "qkv"),
        (r"blk\.\d+\.ffn_gate(?:_exps|_shexp)?", "gate"),
        (r"blk\.\d+\.ffn_up(?:_exps|_shexp)?", "up"),
        (r"blk\.\d+\.ffn_down(?:_exps|_shexp)?", "down"),
        (r"blk\.\d+\.ffn_gate_inp", "router"),
        (r"token_embd|position_embd|token_types", "embed"),
        # around the layers
        (r"word_embeddings|position_embeddings|token_type_embeddings|embed_tokens|embed_positions|embed_in", "embed"),
        (r"wte|wpe|tok_embeddings|token_embedding|position_embedding|shared|relative_attention_bias", "embed"),
        (r"pos_embed|decoder_pos_embed|cls_token|mask_token|class_embedding|mask_emb|rel_embeddings", "embed"),
        (r"embedding_hidden_mapping_in|embeddings_project|embedding_transformation|project_(?:in|out)", "embed"),
        (r"word_embedding|(?:^|backbone\.|model\.|rwkv\.|(?:en|de)coder\.)embeddings(?:_\d+)?", "embed"),
        (r"position_encodings\.encodings", "embed"),
        (r"lm_head|embed_out|vocab_projector|score|qa_outputs|classifier|head", "head"),
        (
            r"classifier\.(?:dense|out_proj)|cls\.predictions\.(?:decoder|transform\.dense)|cls\.seq_relationship",
            "head",
        ),
        (r"visual_projection|text_projection|decoder_pred", "head"),
        (r"(?:en|de)coder\.projection", "head"),
        (r"predictions\.dense|\w+_predictions\.(?:dense|dense_prediction)", "head"),
        (r"pooler(?:\.dense)?", "pooler"),
    ]
]
_SWIGLU = {"w1": "gate", "w2": "down", "w3": "up"}  # Mixtral's and the first Llama's names
_NUMBERED = re.compile(r"^(.*\b(self_attention|attention|ffn)\.)(linear_\d(?:_noact)?)$")
"""CTranslate2's names, which count from 0: projections are fused where they read the same, and a gate comes first."""
_NORM = re.compile(r"norm|^ln(?:_|\d|$)|_ln$|^bn\d*$", re.IGNORECASE)  # on the last word of the name
# The same of a matrix, with a row for each head; "norm_proj" is none.
_MATRIX_NORM = re.compile(r"norm(?:_?\d+|_[qkv])?$|_ln$|^ln(?:\d+|_\w+)?$|^[bg]n\d*$", re.IGNORECASE)
_DEPTHWISE = re.compile(r"(?:^|_)(?:dw_?conv\w*|depth_?wise(?:_conv\w*)?|conv\w*_dw|dw)$", re.IGNORECASE)
_MOST_LAYERS = 1 << 31  # a larger number in a name is no depth
_SMALL_KERNEL = 16  # a depthwise kernel has so many values for a channel, at most
_LAYER = re.compile(
    r"(?:^|\.)(?:layers?|h|blk|blocks?|resblocks|(?:en|de)coder_layers|albert_layer_groups)\.(\d+)(?=\.)"
)
# Swin, ConvNeXt, Funnel: two indices, no depth
_STAGED = re.compile(r"(?:layers|stages)\.\d+\.(?:blocks|layers)\.\d+\.|blocks\.\d+\.\d+\.")
_TOWERS = {
    "text_model": "text",
    "language_model": "text",
    "vision_model": "vision",
    "vision_tower": "vision",
    "visual": "vision",
    "audio_tower": "audio",
    "encoder": "encoder",
    "decoder": "decoder",
}
_STACK = re.compile(r"(?:_exps|switch_mlp\.(?:gate|up|down)_proj)\.weight$")  # of llama.cpp and MLX: (experts, out, in)
_CONV1D = re.compile(r"^(.*?)((?:attn|mlp)\.(?:c_attn|c_proj|c_fc))\.weight$")
# Model types whose fused attention runs head by head (q k v, q k v, …); and those whose fused MLP has gate above up.
_HEADWISE_TYPES = ("gpt_neox", "bloom")
_GATE_ABOVE_UP_TYPES = ("phi3", "glm", "glm4", "dia", "modernbert")


def logical_parts(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping | None = None, inputs_first: Collection[str] = ()
) -> list[Part]:
    """The logical tensors of a checkpoint, in stored order.

    Args:
        shapes: stored name → shape, of all tensors, since neighbours decide: a bias tells which axis is the output, a
            `w3` that `w1` is a gate.
        config: content of config.json; without it, layouts that need the number of heads are left whole.
        inputs_first: names of those that are stored as (in, out), which is known of them; their shapes in `shapes` are
            (out, in) nevertheless.
    """
    names = plain_names(shapes)  # what wrappers put between the words of a name says nothing of roles
    shapes, config = PrefixDict({short: shapes[name] for short, name in names.items()}), dict(config or {})
    text = config.get("text_config")
    settings = {**config, **text} if isinstance(text, Mapping) else config
    known = {short for short, name in names.items() if name in inputs_first}
    found = [part for name in shapes for part in _split(_unsplit(name, shapes, name in known), shapes, settings)]
    # A tower is worth naming only where there are several; beside one that sees or hears, a nameless one is of text.
    towers = {part.tower for part in found if part.depth is not None}
    if len(towers) < 2:
        found = [replace(part, tower="") for part in found]
    elif "" in towers and towers <= {"", "vision", "audio"}:
        found = [replace(part, tower="text") if part.depth is not None and not part.tower else part for part in found]
    if all(short == name for short, name in names.items()):
        return found
    return [
        replace(part, name=names[part.stored] + part.name[len(part.stored) :], stored=names[part.stored])
        for part in found
    ]


def role_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Role of the stored tensor `name`, one of the module's table; `shapes` as in `logical_parts`."""
    shape = shapes[name]
    path = re.sub(r"\.(?:base_layer\.)?weight$", "", name)
    weight, leaf = path != name, path.rsplit(".", 1)[-1]
    if leaf == "scale" and _NORM.search(above := path.rpartition(".")[0].rpartition(".")[2]):  # as Flax calls it
        weight, leaf = True, above
    if len(shape) <= 1:
        if len(shape) == 1 and re.search(r"(?:^|_)bias$", leaf):
            return "bias"
        if len(shape) == 1 and weight and _NORM.search(leaf):
            return "norm"
        return "embed" if leaf == "class_embedding" else "other"
    if len(shape) == 2 and _MATRIX_NORM.search(leaf):
        return "norm"
    if _DEPTHWISE.search(leaf) or (len(shape) == 2 and "conv" in leaf and min(shape) <= _SMALL_KERNEL < max(shape)):
        return "conv"
    if weight and len(shape) >= 3 and not _STACK.search(name):
        return "conv" if len(shape) in (4, 5) or "conv" in leaf else "other"
    if leaf in _SWIGLU:
        first, down, up = (shapes.get(f"{path[:-2]}{word}.weight", ()) for word in _SWIGLU)
        return _SWIGLU[leaf] if len(first) == 2 and first == up == down[::-1] else "other"
    if path.endswith(("mlp.Wi", "mlp.Wo")):  # ModernBERT's, whose first may hold gate and up
        up, down = shapes.get(f"{path[:-2]}Wi.weight", ()), shapes.get(f"{path[:-2]}Wo.weight", ())
        if len(up) != 2 or len(down) != 2 or up[1] != down[0] or up[0] not in (down[1], 2 * down[1]):
            return "other"
        return "down" if leaf == "Wo" else "up" if up[0] == down[1] else "gate_up"
    if (numbered := _NUMBERED.match(path)) and weight and f"{numbered[1]}linear_0.weight" in shapes:
        return _role_of_numbered(numbered, shapes)
    if path.endswith("mlp.gate"):  # a router if there are experts beside it; some MLPs name their gate like this
        near = shapes if isinstance(shapes, PrefixDict) else PrefixDict(shapes)
        return "router" if near.with_prefix(f"{path[:-4]}experts.") else "other"
    if name in ("output.weight", "proj_out.weight"):  # heads of the first Llama and of Whisper; not inside a module
        return "head"
    role = next((role for rule, role in _MATRIX_RULES if rule.search(path)), "other")
    return "other" if role == "head" and _LAYER.search(name) else role


def _role_of_numbered(found: re.Match, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Role of a matrix by its number in a block of CTranslate2, "kv" of keys and values that read the same."""
    start, block, number = found.groups()
    if block == "ffn":
        gated = f"{start}linear_0_noact.weight" in shapes
        return {"linear_0": "gate" if gated else "up", "linear_0_noact": "up", "linear_1": "down"}.get(number, "other")
    crossed = f"{start}linear_2.weight" in shapes
    order = ("q", "kv", "o") if crossed else ("qkv", "o")
    return dict(zip(("linear_0", "linear_1", "linear_2"), order, strict=False)).get(number, "other")


def depth_and_tower(name: str) -> tuple[int | None, str]:
    """Depth and tower of a tensor; the depth is None outside layers, and where layers are nested in stages."""
    layer = _LAYER.search(name)
    before = name[: layer.start()] if layer else name
    tower = next((_TOWERS[word] for word in before.split(".") if word in _TOWERS), "")
    depth = int(layer[1]) if layer and not _STAGED.search(name) else None
    return (None if depth is not None and depth > _MOST_LAYERS else depth), tower


def inside_layer(name: str) -> str | None:
    """What a tensor is called inside its layer, as "self_attn.q_proj.weight"; None outside layers."""
    return name[layer.end() + 1 :] if (layer := _LAYER.search(name)) else None


def _unsplit(name: str, shapes: Mapping[str, tuple[int, ...]], inputs_first: bool = False) -> Part:
    depth, tower = depth_and_tower(name)
    part = Part(name, name, tuple(shapes[name]), role_of(name, shapes), depth, tower, transposed=inputs_first)
    if inputs_first:
        return part
    return _transpose(part) if len(part.shape) == 2 and _is_conv1d(name, shapes) else part


def _transpose(part: Part) -> Part:
    shape = (*part.shape[:-2], part.shape[-1], part.shape[-2])
    return replace(part, shape=shape, transposed=not part.transposed)


def _is_conv1d(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a c_attn, c_fc or c_proj stores (in, out). Square ones follow the non-square ones of their block."""
    match = _CONV1D.match(name)
    if not match:
        return False
    for layer in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj", "attn.c_proj"):
        weight, bias = shapes.get(f"{match[1]}{layer}.weight", ()), shapes.get(f"{match[1]}{layer}.bias", ())
        if len(weight) == 2 and len(bias) == 1 and weight[0] != weight[1] and bias[0] in weight:
            return bias[0] == weight[1]
    return False


def _split(part: Part, shapes: Mapping[str, tuple[int, ...]], config: Mapping) -> list[Part]:
    """The logical parts of a tensor that is not yet split: itself where it is not fused."""
    if not math.prod(part.shape):  # no values to split, whatever the shape
        return [part]
    if len(part.shape) == 3 and _STACK.search(part.stored):
        return _split_stack(part)
    if len(part.shape) == 3 and re.search(r"experts\.(?:gate_up_proj|gate_proj|up_proj|down_proj)$", part.stored):
        return _split_experts(part, shapes, config)
    if len(part.shape) != 2:
        return [part]
    if part.role == "gate_up" and config.get("model_type") in _GATE_ABOVE_UP_TYPES:
        return _split_rows(part, {"gate": 1, "up": 1}, part.shape[0] // 2)
    if part.role == "kv":
        halves = _split_rows(part, {"k": 1, "v": 1}, part.shape[0] // 2)
        return halves if len(halves) > 1 else [replace(part, role="other")]
    if part.role == "qkv":
        return _split_attention(part, config)
    return [part]


def _split_attention(part: Part, config: Mapping) -> list[Part]:
    rows, columns = part.shape
    leaf = re.sub(r"\.weight$", "", part.stored).rsplit(".", 1)[-1]
    kind, heads = config.get("model_type"), _count(config, "num_attention_heads") or _count(config, "n_head")
    thirds = {"q": 1, "k": 1, "v": 1}
    if rows == 3 * columns and (
        (leaf == "c_attn" and (part.transposed or kind == "qwen") and kind != "gpt_bigcode")
        or (leaf == "qkv" and re.search(r"attn\.qkv\b", part.stored))
        or leaf in ("in_proj_weight", "Wqkv")
    ):
        return _split_rows(part, thirds, columns)
    if leaf == "linear_0" and (shared := (rows - columns) // 2) > 0 and columns % shared == 0:  # CTranslate2
        return _split_rows(part, {"q": columns // shared, "k": 1, "v": 1}, shared)
    if not heads:
        return [part]
    size = _count(config, "head_dim") or columns // heads
    kv_heads = _count(config, "num_key_value_heads") or heads
    if leaf == "query_key_value" and kind in _HEADWISE_TYPES:
        return _split_rows(part, thirds, size, groups=heads)
    if leaf == "query_key_value" and kind == "falcon":
        if config.get("new_decoder_architecture"):
            kv_heads = _count(config, "num_kv_heads") or heads
            return _split_rows(part, {"q": heads // kv_heads, "k": 1, "v": 1}, size, groups=kv_heads)
        if config.get("multi_query"):
            return _split_rows(part, {"q": heads, "k": 1, "v": 1}, size)
        return _split_rows(part, thirds, size, groups=heads)
    if leaf == "qkv_proj" and kind == "phi3":
        return _split_rows(part, {"q": heads, "k": kv_heads, "v": kv_heads}, size)
    if leaf == "c_attn" and kind == "gpt_bigcode":
        if config.get("multi_query"):
            return _split_rows(part, {"q": heads, "k": 1, "v": 1}, size)
        return _split_rows(part, thirds, size, groups=heads)
    return [part]


def _count(config: Mapping, name: str) -> int:
    """An entry of config.json that should be a positive integer; 0 if it is missing or anything else."""
    found = config.get(name)
    return found if is_positive_int(found) else 0


def _split_stack(part: Part) -> list[Part]:
    """One part for each matrix of a stack ``(experts, …)``."""
    if part.shape[0] > MAX_EXPERTS:
        return [part]
    return [replace(part, name=f"{part.name}[{i}]", shape=part.shape[1:], expert=i) for i in range(part.shape[0])]


def _split_experts(part: Part, shapes: Mapping[str, tuple[int, ...]], config: Mapping) -> list[Part]:
    """Split a stack of experts; shapes of gate_up and down tell (experts, out, in) from (experts, in, out)."""
    prefix = part.stored.rsplit(".", 1)[0]
    up, down = shapes.get(f"{prefix}.gate_up_proj", ()), shapes.get(f"{prefix}.down_proj", ())
    if len(up) != 3 or len(down) != 3:
        return [part]
    linear = up[1] == 2 * down[2] and up[2] == down[1]
    if not linear and not (up[2] == 2 * down[1] and up[1] == down[2]):
        return [part]
    each = _split_stack(part)
    each = each if linear else [_transpose(one) for one in each]
    # All 62 architectures of transformers 5.23 with (out, in) stacks hold gate above up. gpt_oss alone interleaves the
    # rows of gate and up; it stores (in, out) in bfloat16 and (out, in) in MXFP4.
    if part.role == "gate_up" and config.get("model_type") == "gpt_oss":
        return [half for one in each for half in _split_rows(one, {"gate": 1, "up": 1}, 1, groups=one.shape[0] // 2)]
    if part.role == "gate_up" and (linear or str(config.get("model_type")).startswith("llama4")):
        return [half for one in each for half in _split_rows(one, {"gate": 1, "up": 1}, one.shape[0] // 2)]
    return each


def in_order(roles: Iterable[str]) -> list[str]:
    """Roles, each once: those of `READING_ORDER`, then others as they come; those of a tower ("vision.q") together.

    Examples:
        >>> from lfmlib.checkpoints.roles import in_order
        >>> in_order(["down", "gate", "up", "k", "v", "q", "o", "other"])
        ['q', 'k', 'v', 'o', 'gate', 'up', 'down', 'other']
    """
    rank = {role: place for place, role in enumerate(READING_ORDER)}
    found = dict.fromkeys(roles)
    towers = list(dict.fromkeys(role.rpartition(".")[0] for role in found))

    def place(role: str) -> tuple[int, int]:
        tower, _, own = role.rpartition(".")
        return towers.index(tower), rank.get(own, len(rank))

    return sorted(found, key=place)


def _split_rows(part: Part, shares: dict[str, int], unit: int, groups: int = 1) -> list[Part]:
    """Cut the rows of each of `groups` equal blocks into `shares` (role → multiple of `unit` rows); the part itself if
    the number of rows does not fit."""
    rows, columns = part.shape
    if rows != groups * unit * sum(shares.values()):
        return [part]
    cut, start = [], 0
    for role, count in shares.items():
        stop = start + count * unit
        shape = (groups * count * unit, columns)
        cut.append(
            replace(part, name=f"{part.name}[{role}]", role=role, shape=shape, groups=groups, start=start, stop=stop)
        )
        start = stop
    return cut
