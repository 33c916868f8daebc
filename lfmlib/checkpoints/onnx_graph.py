"""What the graph of an ONNX file says of a weight: which layer uses it, which of its axes are inputs, and its name.

Exporters transpose the weights of linear layers for MatMul, and call the result "onnx::MatMul_470" or "val_37". A
weight is followed through nodes that pass it on to those that use it. Its module is that of the bias that is added to
the product, else the one that the exporter wrote beside the node, else that of the node's own path.
"""

from __future__ import annotations

import ast
import re
from collections import ChainMap, Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from .onnx_wire import Graph, Node, Tensor

ANONYMOUS = re.compile(
    r"/.*|[\w.]+/shape|\d+|onnx::\w+|(?:val|t|const|constant|_?initializer|lifted_tensor|tensor_constant|scalar_tensor(?:_default)?"
    r"|_tensor_constant|ortshared|Constant|cst|new_shape|shape_override)_?\d[\w.]*",
    re.IGNORECASE,
)
"""A name that an exporter or optimizer made up."""
OPERATOR = re.compile(r"\.(?:MatMul|Gemm)(?=\.\w+$)")
"""In the name of a weight, the operator that uses it: "q_proj.MatMul.weight" of onnxruntime-genai."""
CODED = re.compile(r"_(?:quantized|quant|DQ_Q\d|Q\d(?:G\d+)?)$", re.IGNORECASE)
"""What quantizers put behind the name of what they quantize."""
BIAS = re.compile(r"(^|.*[._])bias$")
MAX_ROOT = 8  # parts of a path that are exchanged, at most
MAX_STEPS = 4  # from a product to the node that adds its bias
MAX_USES = 8  # of a value on that way, and of a named weight from which the exporter's root is learned

PASSING = ("Identity", "Cast", "CastLike", "DequantizeLinear", "QuantizeLinear", "Transpose")
"""Operators behind which a weight is still the same, transposed or not."""
PICKING = ("Gather", "GatherND", "Slice", "Squeeze", "Unsqueeze")
"""Operators behind which there are matrices of a stack."""
SECOND = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "DynamicQuantizeMatMul": 1, "MatMulIntegerToFloat": 1}
SECOND |= {"Attention": 1, "QAttention": 1}
"""Operators that multiply by a weight from the right, which has (in, out) there → the place among their inputs."""
FIRST = {"MatMul": 0, "MatMulInteger": 0, "QLinearMatMul": 0}
"""Operators that multiply by a weight from the left, which has (out, in) there."""
FLAGGED = ("Gemm", "FusedMatMul", "FusedGemm", "QGemm")
"""Operators with attributes that say whether their inputs are transposed."""
AS_STORED = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3, "LSTM": 1, "GRU": 1, "RNN": 1}
AS_STORED |= {"MatMulNBits": 1}
"""Operators that take a weight as torch stores it."""
TABLES = ("Gather", "EmbedLayerNormalization", "QEmbedLayerNormalization", "GatherBlockQuantized")
"""Operators that look up rows."""
NORMS = {"LayerNormalization": 1, "SimplifiedLayerNormalization": 1, "RMSNormalization": 1, "BatchNormalization": 1}
NORMS |= {"GroupNormalization": 1, "InstanceNormalization": 1, "SkipLayerNormalization": 2}
NORMS |= {"SkipSimplifiedLayerNormalization": 2}
"""Operators with a scale, and a shift behind it."""
BIASES = {"Gemm": 2, "FusedGemm": 2, "Conv": 2, "ConvTranspose": 2, "QLinearConv": 8, "QGemm": 6, "Attention": 2}
BIASES |= {"QAttention": 2, "DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6, "MatMulNBits": 5}
"""Operators that add a bias themselves."""
ADDED = {"Add": (0, 1), "BiasGelu": (1,), "FastGelu": (1,), "SkipLayerNormalization": (4,)}
ADDED |= {"SkipSimplifiedLayerNormalization": (3,)}
"""Operators that add a bias to a product → its place among their inputs."""


class Use(NamedTuple):
    """A node that uses a value, as which of its inputs, and whether transposed on the way; None: with other axes."""

    node: Node
    place: int
    turned: bool | None


class Uses:
    """A graph with those inside its nodes, as one: which node makes a value, and which use it."""

    def __init__(self, graph: Graph):
        self.tensors: dict[str, Tensor] = {}
        self.sparse: list[str] = []
        self.constants: set[str] = set()
        self.nodes: list[Node] = []
        self.users: defaultdict[str, list[tuple[Node, int]]] = defaultdict(list)
        self._taken: set[str] = set()
        self._add(graph, ChainMap(), "")
        self.aliases = {
            out: node.inputs[0]
            for node in self.nodes
            if node.op == "Identity" and len(node.inputs) == len(node.outputs) == 1
            for out in node.outputs
        }
        self._by_torch = any(node.scopes for node in self.nodes)
        self.roots = self._learn_roots()

    def _add(self, graph: Graph, outer: ChainMap, place: str) -> None:
        """Take in a graph; a name that stands in another graph already gets the place of this one before it."""
        own: dict[str, str] = {"": ""}
        held = [(one.header.name, one) for one in graph.tensors]
        held += [(node.outputs[0], node.tensor) for node in graph.nodes if node.tensor and node.outputs]
        defined = [name for name, _ in held] + graph.inputs
        for name in (*defined, *(out for node in graph.nodes for out in node.outputs)):
            if name not in own:
                own[name] = name if name not in self._taken else f"{place}{name}"
        self._taken.update(own.values())
        names = outer.new_child(own)
        for name, tensor in held:
            if not name or own[name] in self.tensors:
                raise ValueError(f"the tensor {name!r} {'stands there twice' if name else 'has no name'}")
            self.tensors[own[name]] = tensor
        self.constants.update(own[name] for name, _ in held[len(graph.tensors) :])
        self.sparse += graph.sparse
        for node in graph.nodes:
            known = tuple(names.get(name, name) for name in node.inputs)
            made = replace(node, inputs=known, outputs=tuple(own[name] for name in node.outputs), graphs=())
            self.nodes.append(made)
            for i, name in enumerate(known):
                self.users[name].append((made, i))
            for attribute, inner in node.graphs:
                self._add(inner, names, f"{place}{node.name or node.op}.{attribute}.")

    def of(self, name: str) -> Iterator[Use]:
        """The nodes that use a value, or what nodes pass on of it."""
        ways: list[tuple[str, bool | None]] = [(name, False)]
        seen: set[tuple[str, bool | None]] = set()
        stack = name in self.tensors and len(self.tensors[name].header.dims) == 3
        passing = (*PASSING, *PICKING) if stack else PASSING
        while ways:
            value, turned = ways.pop()
            if (value, turned) in seen:  # a circle, which a graph must not have
                continue
            seen.add((value, turned))
            for node, place in self.users.get(value, ()):
                if node.op in passing and place == 0 and node.outputs:
                    ways.append((node.outputs[0], _after(node, turned)))
                else:
                    yield Use(node, place, turned)

    def shared(self, name: str) -> bool:
        """Whether several nodes use a value, of which another name may be true as well."""
        return len(self.users.get(name, ())) > 1

    def name_of(self, name: str, length: int | None) -> str | None:
        """What a tensor is called as a parameter of a module; None if it is a constant that no layer has for a weight.

        Args:
            name: in the file.
            length: of the bias that its layer may have, its number of outputs; None where that is not known.
        """
        base = OPERATOR.sub("", CODED.sub("", name))
        if not self._is_anonymous(base):
            return base
        for use in self.of(name):
            if (leaf := _leaf(use)) and (module := self._module(use, length if leaf == "weight" else None)):
                return f"{module}.{leaf}" if not BIAS.match(module) else BIAS.sub(rf"\1{leaf}", module)
        return None

    def is_table(self, name: str) -> bool:
        """Whether rows are looked up in a tensor, as in embeddings."""
        return any(use.node.op in TABLES for use in self.of(name))

    def inputs_first(self, name: str) -> bool:
        """Whether a matrix, or a stack of them, has its inputs as rows, as (in, out)."""
        found = [use for use in self.of(name) if use.turned is not None]
        if any(use.node.op in TABLES for use in found):
            return bool(next(use.turned for use in found if use.node.op in TABLES))
        for use in found:
            if (first := _inputs_first(use.node, use.place)) is not None:
                return first != use.turned
        return False

    def _module(self, use: Use, length: int | None) -> str | None:
        """The path of the module that a node computes; that of its bias with the bias's own name."""
        module = _scope(use.node.scopes) or self._rooted(_path(use.node))
        bias = self._bias(use.node, length) if length is not None else None
        if bias and not (module and module.startswith(f"{bias.rpartition('.')[0]}.") and bias.endswith(".bias")):
            return bias
        return module  # inside that of the bias, which is another's as well, as that of BERT's head

    def _bias(self, node: Node, length: int) -> str | None:
        """The name of the bias that is added to a product, by itself or by a node behind it."""
        place = BIASES.get(node.op)
        if place is not None:
            return self._is_bias(node.inputs[place], length) if place < len(node.inputs) else None
        for _ in range(MAX_STEPS):
            users = self.users.get(node.outputs[0], []) if node.outputs else []
            for user, at in users[:MAX_USES]:
                others = [i for i in ADDED.get(user.op, ()) if i != at and i < len(user.inputs)]
                if found := next((one for i in others if (one := self._is_bias(user.inputs[i], length))), None):
                    return found
            if len(users) != 1 or users[0][0].op not in ("Cast", "Mul", "Identity"):
                return None
            node = users[0][0]
        return None

    def _is_bias(self, name: str, length: int) -> str | None:
        """The name of a value, if it is a bias of that length of one layer alone."""
        held = self.aliases.get(name, name)
        if not BIAS.match(name) or self._is_anonymous(name) or self.shared(name) or held not in self.tensors:
            return None
        return name if tuple(self.tensors[held].header.dims) == (length,) else None

    def _is_anonymous(self, name: str) -> bool:
        """Whether a name is that of a value, and not of a parameter; torch calls values by the operator they are of."""
        if ANONYMOUS.fullmatch(name):
            return True
        return (
            self._by_torch
            and "." not in name
            and hasattr(torch.ops.aten, re.sub(r"(?:_default|_cast)?(?:_\d+)?$", "", name))
        )

    def _learn_roots(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """What paths of nodes begin with → what the names of their weights have in its place, as most of these show.

        The last part of either is the first that is alike; without it stands the one that most have.
        """
        votes: defaultdict[tuple[str, ...], Counter[tuple[str, ...]]] = defaultdict(Counter)
        for name in self.tensors:
            module = name.rpartition(".")[0].split(".")
            if module == [""] or self._is_anonymous(name):
                continue
            for node, _ in self.users.get(name, ())[:MAX_USES]:
                path = _path(node)
                same = 0
                while same < min(len(path), len(module)) and path[-1 - same] == module[-1 - same]:
                    same += 1
                if same:
                    theirs, ours = path[: len(path) - same], module[: len(module) - same]
                    votes[*theirs, path[-same]][*ours, path[-same]] += 1
                    votes[*theirs,][*ours,] += 1 if theirs else 0
        return {theirs: max(ours, key=lambda one: ours[one]) for theirs, ours in votes.items() if theirs}

    def _rooted(self, path: list[str]) -> str | None:
        """A path of a node as the names of weights have it."""
        for length in range(min(len(path), MAX_ROOT), 0, -1):
            if (ours := self.roots.get(tuple(path[:length]))) is not None:
                return ".".join([*ours, *path[length:]]) or None
        return ".".join(path) or None


def _after(node: Node, turned: bool | None) -> bool | None:
    """Whether a value is transposed behind a node, if it was before it."""
    if node.op != "Transpose" or turned is None:
        return turned
    order = node.settings.get("perm", (1, 0))
    if not isinstance(order, tuple) or len(order) < 2:
        return None
    last = len(order) - 1
    if order == (*range(last - 1), last, last - 1):
        return not turned
    return turned if order == tuple(range(last + 1)) else None


def _inputs_first(node: Node, place: int) -> bool | None:
    """Whether a node takes (in, out) as this one of its inputs; None where that input is no matrix of a layer."""
    if node.op == "Attention" and node.domain != "com.microsoft":  # that of ONNX takes q, k and v
        return None
    if SECOND.get(node.op) == place:
        return True
    if FIRST.get(node.op) == place or AS_STORED.get(node.op) == place:
        return False
    if node.op in FLAGGED and place == (3 if node.op == "QGemm" else 1):
        return not node.settings.get("transB", 0)
    return bool(node.settings.get("transA", 0)) if node.op in FLAGGED and place == 0 else None


def _leaf(use: Use) -> str | None:
    """What a layer calls this input of a node: "weight", "bias", or nothing that a module stores."""
    node, place, turned = use
    if turned is not None and _inputs_first(node, place) is not None:
        return "weight"
    if (scale := NORMS.get(node.op)) is not None and place in (scale, scale + 1):
        return "weight" if place == scale else "bias"
    return "bias" if BIASES.get(node.op) == place else None


def _path(node: Node) -> list[str]:
    """The module of a node by its name: "/model/model.0/query/MatMul" is of model.0.query."""
    parts: list[str] = []
    for one in node.name.strip("/").split("/")[:-1]:
        if parts and one.startswith(f"{parts[-1]}."):  # a container that is called has a path of its own
            parts.pop()
        parts.append(one)
    return ".".join(parts).split(".") if parts else []


def _scope(text: str) -> str | None:
    """The innermost module in the list that torch's exporter writes: ['', 'encoder', 'encoder.layer.0', 'linear_3']."""
    if not text.startswith("['"):
        return None
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    names = [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
    return names[-2] or None if len(names) > 1 else None
