"""Walk an ONNX file, a protobuf message, by its keys and lengths: nodes and headers of tensors are read, values not.

`onnx.load` reads all values, and trusts what a length says. Here every length is checked against the message that holds
it, what is read of all of them together is bounded, and only small pieces, without values, are given to the classes of
the `onnx` package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from .safetensors_files import MAX_HEADER_BYTES

WINDOW_BYTES = 1 << 13  # read at once; of a file of many small nodes many of them
MAX_DEPTH = 8  # of graphs in nodes of graphs
SCOPES = "pkg.torch.onnx.name_scopes"
"""Under which torch's exporter writes beside a node in which modules it is; stack traces it writes as well."""
MAX_SCOPES_BYTES = 1 << 13
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # how the value behind a key is stored

# Numbers of fields, from onnx.proto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_SPARSE = 1, 5, 11, 15
NODE_ATTRIBUTE, NODE_DOC, NODE_METADATA = 5, 6, 9
ATTRIBUTE_NAME, ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 1, 5, 6, 10, 11
ATTRIBUTE_SPARSE = (22, 23)
TENSOR_SEGMENT = 3
TENSOR_HEADER = (1, 2, 8, 13, 14)  # dims, data_type, name, external_data, data_location
FLOAT_DATA, RAW_DATA, DOUBLE_DATA = 4, 9, 10
TENSOR_DATA = (FLOAT_DATA, 5, 6, 7, RAW_DATA, DOUBLE_DATA, 11)  # and of int32, string, int64, uint64


class Field(NamedTuple):
    """A field of a message: its number, how it is stored, and in the file where its key begins and its value lies."""

    number: int
    kind: int
    key: int
    start: int
    stop: int


@dataclass(frozen=True)
class Tensor:
    """A tensor in the file: its header (an `onnx.TensorProto` without values), and where it and its values lie."""

    header: Any
    data: tuple[Field, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Node:
    """A node of a graph: what an `onnx.NodeProto` says of it, without what its attributes hold of tensors and graphs.

    Attributes:
        op, domain, name: its operator, whose it is ("" of ONNX itself), and what the exporter calls the node.
        inputs, outputs: names of values; "" for an optional one that is not there.
        settings: attributes that are numbers, tuples of numbers, or bytes.
        scopes: the list of modules that it is in, as torch's exporter writes it; else "".
        tensor: that of a Constant.
        graphs: name of an attribute → a graph that it holds.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: dict[str, Any]
    scopes: str
    tensor: Tensor | None
    graphs: tuple[tuple[str, Graph], ...]


@dataclass
class Graph:
    """A graph: nodes and initializers in the file's order, names of its inputs and of its sparse initializers."""

    nodes: list[Node] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    sparse: list[str] = field(default_factory=list)


def read_graph(file: BinaryIO, size: int) -> Graph:
    """The graph of a model in a file of `size` bytes. Raises ValueError where the file is damaged."""
    wire = _Wire(file, size)
    found = [one for one in wire.fields(0, size) if one.number == MODEL_GRAPH and one.kind == BYTES]
    if len(found) != 1:
        raise ValueError(f"it holds {len(found)} graphs, where one was expected")
    return wire.graph(found[0].start, found[0].stop, 0)


class _Wire:
    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self.window, self.begin = b"", 0
        self.left = MAX_HEADER_BYTES

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """The fields of the message between two bytes of the file."""
        at = start
        while at < stop:
            key = at
            code, at = self.varint(at, stop)
            number, kind, first = code >> 3, code & 7, at
            if kind == VARINT:
                _, at = self.varint(at, stop)
            elif kind == BYTES:
                length, first = self.varint(at, stop)
                at = first + length
            elif kind in (EIGHT_BYTES, FOUR_BYTES):
                at += 8 if kind == EIGHT_BYTES else 4
            else:
                raise ValueError(f"at byte {key} stands a field of kind {kind}, which none has")
            if not number or at > stop:
                raise ValueError(f"at byte {key} field {number} would end at byte {at}, beyond {stop}, where it must")
            yield Field(number, kind, key, first, at)

    def varint(self, at: int, stop: int) -> tuple[int, int]:
        """The number at a byte of the file, seven bits a byte, and where it ends."""
        place = at - self.begin
        if not 0 <= place <= len(self.window) - 10:
            self.file.seek(at)
            self.window, self.begin, place = self.file.read(WINDOW_BYTES), at, 0
        value = shift = 0
        for byte in self.window[place : place + 10]:
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                if (end := at + shift // 7) <= stop:
                    return value, end
                break
        raise ValueError(f"at byte {at} a number has no end")

    def take(self, start: int, stop: int) -> bytes:
        """Some bytes of the file."""
        self.left -= stop - start
        if self.left < 0:
            raise ValueError(f"its nodes and names take more than {MAX_HEADER_BYTES} bytes")
        place = start - self.begin
        if place >= 0 and stop - self.begin <= len(self.window):
            return self.window[place : stop - self.begin]
        self.file.seek(start)
        return self.file.read(stop - start)

    def graph(self, start: int, stop: int, depth: int) -> Graph:
        """The graph between two bytes."""
        if depth > MAX_DEPTH:
            raise ValueError(f"at byte {start} graphs lie in graphs, more than {MAX_DEPTH} deep")
        found = Graph()
        for one in self.fields(start, stop):
            if one.kind != BYTES:
                continue
            if one.number == GRAPH_NODE:
                found.nodes.append(self.node(one, depth))
            elif one.number == GRAPH_INITIALIZER:
                found.tensors.append(self.tensor(one))
            elif one.number == GRAPH_INPUT:
                found.inputs += [_text(self.take(i.start, i.stop)) for i in self._only(one, 1)]
            elif one.number == GRAPH_SPARSE:
                found.sparse += [self.tensor(i).header.name for i in self._only(one, 1)]
        return found

    def node(self, place: Field, depth: int) -> Node:
        """The node in a field."""
        import onnx
        from onnx import helper

        kept, tensors, graphs = [], {}, []
        for one in self.fields(place.start, place.stop):
            if one.number == NODE_DOC or (one.number == NODE_METADATA and not self._holds_scopes(one)):
                continue
            held = [*self.fields(one.start, one.stop)] if one.number == NODE_ATTRIBUTE and one.kind == BYTES else []
            large = (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS, *ATTRIBUTE_SPARSE)
            if not any(inner.number in large for inner in held):
                kept.append(self.take(one.key, one.stop))
                continue
            name = "".join(_text(self.take(i.start, i.stop)) for i in held if i.number == ATTRIBUTE_NAME)
            for inner in (i for i in held if i.kind == BYTES):
                if inner.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                    graphs.append((name, self.graph(inner.start, inner.stop, depth + 1)))
                elif inner.number == ATTRIBUTE_TENSOR:
                    tensors[name] = self.tensor(inner)
        said = _parsed(onnx.NodeProto, b"".join(kept), place.start)
        try:
            settings = {one.name: helper.get_attribute_value(one) for one in said.attribute if not one.ref_attr_name}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"an attribute of the node at byte {place.start} is of no kind ({error})") from None
        settings = {name: tuple(one) if hasattr(one, "append") else one for name, one in settings.items()}
        tensor = tensors.get("value") if said.op_type == "Constant" else None
        scopes = "".join(_str(one.value) for one in said.metadata_props)
        return Node(
            _str(said.op_type), _str(said.domain), _str(said.name), tuple(map(_str, said.input)),
            tuple(map(_str, said.output)), settings, scopes, tensor, tuple(graphs),
        )  # fmt: skip

    def tensor(self, place: Field) -> Tensor:
        """The tensor in a field."""
        import onnx

        header, data = [], []
        for one in self.fields(place.start, place.stop):
            if one.number in TENSOR_HEADER:
                header.append(self.take(one.key, one.stop))
            elif one.number in TENSOR_DATA:
                data.append(one)
                if len(data) > 1 and one.number != FLOAT_DATA and len({i.number for i in data}) > 1:
                    raise ValueError(f"the tensor at byte {place.start} has its values twice")
            elif one.number == TENSOR_SEGMENT:
                raise ValueError(f"the tensor at byte {place.start} is a segment of one, which nothing writes")
        said = _parsed(onnx.TensorProto, b"".join(header), place.start)
        _str(said.name)
        return Tensor(said, tuple(data), place.start, place.stop)

    def _holds_scopes(self, place: Field) -> bool:
        """Whether an entry beside a node is the list of modules, by its key."""
        if place.kind != BYTES or place.stop - place.start > MAX_SCOPES_BYTES:
            return False
        return any(self.take(one.start, one.stop) == SCOPES.encode() for one in self._only(place, 1))

    def _only(self, place: Field, number: int) -> list[Field]:
        return [one for one in self.fields(place.start, place.stop) if one.number == number and one.kind == BYTES]


def _parsed(kind: Any, content: bytes, at: int) -> Any:
    try:
        return kind.FromString(content)
    except Exception as error:  # an error of protobuf's own
        raise ValueError(f"at byte {at} stands no {kind.__name__} ({error})") from None


def _text(content: bytes) -> str:
    return content.decode()


def _str(value: str | bytes) -> str:
    """Text of a message; bytes, which the package gives where they are no text, raise ValueError."""
    return value if isinstance(value, str) else bytes(value).decode()
