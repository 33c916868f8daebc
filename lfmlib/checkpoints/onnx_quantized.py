"""Codes and scales of quantized ONNX models, joined to the matrices that they stand for.

=========================  ============================================================  ===========================
operator                   codes and scales                                              value
=========================  ============================================================  ===========================
DequantizeLinear           int8, uint8, int16, uint16, int32, float8; a scale for all,   (code − zero) × scale
                           for each index of an axis, or for each block of an axis
MatMulInteger, Gather      int8, uint8, called "X_quantized"; a scale "X_scale"          (code − zero) × scale
MatMulIntegerToFloat,      int8, uint8; the scale is an input of the node                (code − zero) × scale
QLinearMatMul and others
MatMulNBits                4 or 8 bits, (out, groups, bytes), low code first; zero        (code − zero) × scale
                           2^(bits − 1) where none is stored
=========================  ============================================================  ===========================

What else looks quantized is refused with all that belongs to it, and never is a scale taken for a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from .onnx_graph import CODED, Use, Uses
from .onnx_wire import Node
from .packings import CodedRows, Dequantized, unpack
from .row_layouts import FLOAT8, FLOATS, Refused, said
from .stored import Stored, is_positive_int

CODES = ("int8", "uint8", "int16", "uint16", "int32", *FLOAT8)
TWO_SIDES = ((0, 1, 2), (3, 4, 5))
PLACES = {
    "DequantizeLinear": ((0, 1, 2),), "MatMulInteger": ((1, None, 3),), "ConvInteger": ((1, None, 3),),
    "DynamicQuantizeMatMul": ((1, 2, 3),), "MatMulIntegerToFloat": ((1, 3, 5),), "QAttention": ((1, 4, 7),),
    "QLinearMatMul": TWO_SIDES, "QLinearConv": TWO_SIDES[1:], "QGemm": TWO_SIDES[1:], "QLinearAdd": TWO_SIDES,
    "QLinearMul": TWO_SIDES,
}  # fmt: skip
"""Operator → which of its inputs are codes of a weight, their scale (None: it is told by its name) and zero point; of
those that take codes on both sides, of either."""
BIASES = {"QLinearConv": 8, "QGemm": 6, "QAttention": 2, "DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6}
"""Operator on codes → which of its inputs is a bias."""
UNKNOWN = ("QMoE", "MatMulBnb4", "GatherBlockQuantized", "MatMulFpQ4", "QLinearConvTranspose", "QOrderedMatMul")
"""Operators on codes that are not known here."""
UNSEEN = ("Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Expand", "Identity")
"""Operators that change the shape of what is called codes, so that it is not known which scale is whose."""


@dataclass(frozen=True)
class Numbers(Stored):
    """Zero points as float32: integers as they are, or packed in bytes, rows of `columns` codes of `bits` bits."""

    piece: Stored
    bits: int = 0
    columns: int = 0
    dtype = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the zero points."""
        return self.piece.shape if not self.bits else (math.prod(self.piece.shape) // self._width, self.columns)

    @property
    def _width(self) -> int:
        return -(-self.columns * self.bits // 8)

    def load(self) -> torch.Tensor:
        """All zero points."""
        found = self.piece.load()
        return (
            unpack(found.reshape(-1, self._width), self.bits)[:, : self.columns].float() if self.bits else found.float()
        )

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Some of them."""
        if not self.bits:
            return self.piece.span(start, stop).float()
        first, last = start // self.columns, -(-stop // self.columns)
        rows = self.piece.span(first * self._width, last * self._width).reshape(-1, self._width)
        found = unpack(rows, self.bits)[:, : self.columns].reshape(-1).float()
        return found[start - first * self.columns : stop - first * self.columns]


@dataclass(frozen=True)
class Reshaped(Dequantized):
    """A quantized matrix under the shape of the kernel or vector whose values it has."""

    matrix: CodedRows
    shape: tuple[int, ...]
    inputs_first: bool = False

    @property
    def kind(self) -> str:
        """The quantization in words."""
        return self.matrix.kind

    def preloaded(self) -> Reshaped:
        """See `Stored.preloaded`."""
        return replace(self, matrix=self.matrix.preloaded())

    def span(self, start: int, stop: int) -> torch.Tensor:
        """Values `start` to `stop` of the flattened tensor."""
        return self.matrix.span(start, stop)

    def load(self) -> torch.Tensor:
        """All values."""
        return self.matrix.load().reshape(self.shape)


@dataclass
class Joined:
    """What came of a file's quantized tensors.

    Attributes:
        found: name of the codes → values they stand for.
        pieces: name of a scale or zero point → name of the codes.
        refused: name → why it is not read.
        beside: names of scales and zero points of activations.
    """

    found: dict[str, Stored] = field(default_factory=dict)
    pieces: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)


def join(graph: Uses, entries: Mapping[str, Stored], unread: Mapping[str, str]) -> Joined:
    """Join the codes of a file to their scales and zero points.

    Args:
        graph: of the file.
        entries: its tensors by name.
        unread: name → why, of tensors whose type is not read, such as codes of 4 bits.
    """
    made = Joined()
    for name in (*entries, *unread):
        for use in _uses(graph, name):
            pieces = [one for one in use.node.inputs if one in entries or one in unread]
            try:
                if name in unread:
                    raise Refused(unread[name])
                entry, own = _joined(graph, name, use, entries)
            except Refused as reason:
                words = f"quantized, and not read: {reason}; export or save the model without quantization"
                made.refused |= {name: words}
                near = [one for one in (*pieces, *_beside(name, entries)) if one != name and one not in made.found]
                made.refused |= dict.fromkeys(near, f"beside codes that are {words}")
                break
            made.found[name] = entry
            made.pieces |= dict.fromkeys(own, name)
            break
    for name in entries:
        users = graph.users.get(name, ())
        if users and name not in made.found and all(_is_of_activations(node, place) for node, place in users):
            made.beside.add(name)
    return made


def _uses(graph: Uses, name: str) -> list[Use]:
    """The nodes that take a tensor for codes of a weight, the first of them before which it is not transposed."""
    found = []
    for node, place in graph.users.get(name, ()):
        known = _triple(node, place) or (node.op == "MatMulNBits" and place == 1)
        called = CODED.search(name) and place == 0 and node.op in ("Gather", *UNSEEN)
        if known or node.op in UNKNOWN or called:
            found.append(Use(node, place, False))
    return [one for one in found if one.node.op not in UNKNOWN or one.place in (0, 1)]


def _joined(graph: Uses, name: str, use: Use, entries: Mapping[str, Stored]) -> tuple[Stored, list[str]]:
    """What codes stand for, and the names of their scale and zero point. Raises Refused."""
    node, codes = use.node, entries[name]
    if node.op in UNKNOWN:
        raise Refused(f"how {node.op} of {node.domain or 'ONNX'} packs {said(codes)} is not known")
    if node.op in UNSEEN:
        raise Refused(f"{said(codes)}, which {node.op} changes before they are multiplied by a scale")
    if node.op == "MatMulNBits":
        return _packed(node, codes, entries)
    if codes.dtype not in CODES or not math.prod(codes.shape):
        raise Refused(f"{said(codes)}, where codes of 8 bits were expected")
    scales, zeros = _pieces(graph, name, use)
    if scales not in entries:
        raise Refused(f"{said(codes)} whose scale, {scales!r}, is not among the tensors of the file")
    if zeros and zeros not in entries:
        raise Refused(f"{said(codes)} whose zero point, {zeros!r}, is not among the tensors of the file")
    scale, zero = entries[scales], entries[zeros] if zeros else None
    rows, block, words = _blocks(node, codes.shape, scale)
    if zero is not None and (zero.dtype not in CODES or math.prod(zero.shape) != math.prod(scale.shape)):
        raise Refused(f"zero points {said(zero)} for scales {said(scale)}")
    kind = f"{codes.dtype} of ONNX, a scale for {words}"
    made = CodedRows(codes, scale, rows, block, kind, zero=None if zero is None else Numbers(zero))
    whole = made if rows == codes.shape else Reshaped(made, codes.shape)
    return whole, [one for one in (scales, zeros) if one]


def _pieces(graph: Uses, name: str, use: Use) -> tuple[str, str]:
    """The names of scale and zero point; "" for a zero point that is not there."""
    node, place, base = use.node, use.place, CODED.sub("", name)
    if gathered := node.op == "Gather":
        behind = [one for one, at in graph.users.get(node.outputs[0], ()) if at == 0] if node.outputs else []
        node = next((one for one in behind if one.op == "DequantizeLinear"), node)
    _, *places = _triple(node, place) or (0, None, None)
    scale, zero = (node.inputs[i] if i is not None and i < len(node.inputs) else "" for i in places)
    return scale or f"{base}_scale", zero or (f"{base}_zero_point" if gathered else "")


def _triple(node: Node, place: int) -> tuple | None:
    """Where codes, their scale and their zero point stand among the inputs of a node, if codes stand at a place."""
    return next((one for one in PLACES.get(node.op, ()) if one[0] == place), None)


def _blocks(node: Node, shape: tuple[int, ...], scale: Stored) -> tuple[tuple[int, int], tuple[int, int], str]:
    """The matrix as which codes are looked at, rows and columns to which a scale applies, and these in words."""
    count, axes = math.prod(scale.shape), len(shape)
    last = shape[-1] if shape else 1
    whole = (math.prod(shape) // last, last)
    axis, size = node.settings.get("axis", 1), node.settings.get("block_size", 0)
    if scale.dtype not in FLOATS:
        raise Refused(f"scales {said(scale)}, where floats were expected")
    if len(scale.shape) <= 1 and count == 1:
        return whole, whole, "all"
    if node.op == "Gather" or type(axis) is not int or not -axes <= axis < axes:
        raise Refused(f"scales {said(scale)} for codes of shape {shape}, along axis {axis}")
    if node.op != "DequantizeLinear":
        if node.op in ("QLinearAdd", "QLinearMul") and axes != 1:
            raise Refused(f"scales {said(scale)} for codes of shape {shape} of {node.op}")
        kernel = "Conv" in node.op or (node.op == "QGemm" and node.settings.get("transB", 0))
        axis = 0 if kernel else axes - 1
    axis %= axes
    if size:
        if not is_positive_int(size) or axes != 2 or scale.shape != _divided(shape, axis, size):
            raise Refused(f"scales {said(scale)} for blocks of {size!r} along axis {axis} of codes of shape {shape}")
        return whole, (1, size) if axis else (size, 1), f"each block of {size}"
    if scale.shape != (shape[axis],) or axis not in (0, axes - 1):
        raise Refused(f"scales {said(scale)} for codes of shape {shape}, along axis {axis}")
    if axis == 0 and axes != 2:
        rest = math.prod(shape[1:])
        return (shape[0], rest), (1, rest), "each output"
    return (whole, (whole[0], 1), "each column") if axis else (whole, (1, last), "each row")


def _divided(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return tuple(-(-length // size) if i == axis else length for i, length in enumerate(shape))


def _packed(node: Node, codes: Stored, entries: Mapping[str, Stored]) -> tuple[Stored, list[str]]:
    """MatMulNBits: the codes of a row lie side by side, a group after the other."""
    numbers = [found if is_positive_int(found := node.settings.get(one)) else 0 for one in ("K", "N", "block_size")]
    (width, out, size), bits = numbers, node.settings.get("bits", 4)
    inputs = [*node.inputs, "", "", "", ""][2:5]
    scale, zero = entries.get(inputs[0]), entries.get(inputs[1])
    settings = f"K {width}, N {out}, bits {bits!r}, block_size {size}"
    if not all(numbers) or bits not in (4, 8) or size * bits % 8 or codes.dtype != "uint8":
        raise Refused(f"{said(codes)} of MatMulNBits with {settings}")
    groups = -(-width // size)
    packed, plain = out * -(-groups * bits // 8), out * groups
    if codes.shape != (out, groups, size * bits // 8) or scale is None or math.prod(scale.shape) != plain:
        raise Refused(f"{said(codes)} and scales {said(scale)} of MatMulNBits with {settings}")
    if inputs[2] or (inputs[1] and zero is None) or scale.dtype not in FLOATS:
        raise Refused(f"MatMulNBits with scales {said(scale)}, zero points {said(zero)} and groups {inputs[2]!r}")
    if zero is not None and (math.prod(zero.shape), zero.dtype) not in ((packed, "uint8"), (plain, scale.dtype)):
        raise Refused(f"MatMulNBits with zero points {said(zero)} for scales {said(scale)}")
    kind = f"int{bits} of ONNX, groups of {size}"
    zeros = Numbers(zero, bits, groups) if zero is not None and zero.dtype == "uint8" else zero
    offset = 0 if zero is not None else 1 << (bits - 1)
    made = CodedRows(codes, scale, (out, width), (1, size), kind, bits, zero=zeros, offset=offset)
    return made, [one for one in inputs[:2] if one]


def _beside(name: str, entries: Mapping[str, Stored]) -> list[str]:
    base = CODED.sub("", name)
    return [one for end in ("_scale", "_scales", "_zero_point", "_zp") if (one := f"{base}{end}") in entries]


def _is_of_activations(node: Node, place: int) -> bool:
    """Whether an input of a node is a scale or zero point of what the model computes, or of its output."""
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        return place in (1, 2)
    if node.op == "QLinearConcat":  # scale and zero point of what it makes, then codes, scale and zero point of each
        return place < 2 or place % 3 != 2
    if node.op.startswith("QLinear") or node.op in BIASES:
        return place > 0 and place != BIASES.get(node.op) and not _triple(node, place)
    return node.op in ("MatMulInteger", "ConvInteger") and place in (2, 3)
