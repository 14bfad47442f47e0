"""What an ONNX graph must be before any engine sees it, read from its bytes by us.

Owns the bounds on nodes and tensors. Refuses what an engine could turn against the device: loops and branches,
functions, operators that are not listed in `graph_shapes`, tensors that claim more values than the file has, fields
that no exporter of ours writes. Field numbers are those of onnx.proto (ONNX 1.17).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_edge.backends.onnx_wire import Value, fields, numbers
from mmkd_edge.bundle.manifest import MAX_WINDOW_VALUES
from mmkd_edge.install.graph_shapes import (
    DTYPES,
    ITEM_BYTES,
    MOST_RANK,
    OPERATORS,
    Attribute,
    GraphCost,
    Node,
    Tensor,
    measure_graph,
    require,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPSETS = range(17, 22)
IR_VERSIONS = range(8, 11)
MOST_NODES = 5_000
MOST_TENSORS = 10_000
MOST_FIELDS = 1_000_000  # of all messages together: some seconds of our own reading
_MOST_NUMBER = (1 << 31) - 1  # of an attribute: an axis, a size, a step, a padding
_MOST_NAME_BYTES = 1 << 10
_MOST_PACKED_BYTES = 1 << 20
_VALUES_PER_BYTE = 2  # int4 is the smallest type there is
_OWN_DOMAINS = (b"", b"ai.onnx")

_MODEL = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14))
_GRAPH = frozenset((1, 2, 5, 10, 11, 12, 13, 14, 16))
_NODE = frozenset((1, 2, 3, 4, 5, 6, 7, 9))
_ATTRIBUTE = frozenset((1, 2, 3, 4, 5, 7, 8, 13, 20))
_ATTRIBUTE_KINDS = {1: (2, False), 2: (3, False), 3: (4, False), 4: (5, False), 6: (7, True), 7: (8, True)}
"""By the number of a type: the field that has its value, and whether it is a list."""
_RAW_DATA = 9
_DATA_FIELDS = frozenset((4, 5, 7, _RAW_DATA, 10, 11))  # of a tensor
_TENSOR = frozenset((1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 14, 16))


def check_graph(model: bytes, *, slots: int = 0) -> GraphCost:
    """Return what one run of a graph costs, if an engine may be given it.

    Args:
        model: an ONNX model.
        slots: of a step graph: how many slots its states have.

    Raises:
        ValueError: it may not; the message says what is in the way.
    """
    reading = _Reading()
    reading.model(memoryview(model))
    return measure_graph(reading.nodes, reading.tensors, reading.outputs, slots=slots)


class _Reading:
    """One pass over a model, and what it has found so far."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.count = 0
        self.fields = 0

    def model(self, message: memoryview) -> None:
        found = self._fields("model", message, _MODEL)
        graphs, opsets = ([value for number, value in found if number == wanted] for wanted in (7, 8))
        counts = len(graphs), len(opsets)
        require(counts == (1, 1), f"{counts[0]} graphs and {counts[1]} opsets", "one of each")
        for version in (value for number, value in found if number == 1):
            require(version in IR_VERSIONS, f"IR version {version!r}", _span(IR_VERSIONS))
        self.opset(_bytes(opsets[0], "opset"))
        self.graph(_bytes(graphs[0], "graph"))

    def opset(self, message: memoryview) -> None:
        version: Value = 0
        for number, value in self._fields("opset", message, frozenset((1, 2))):
            if number == 1:
                require(bytes(_bytes(value, "domain")) in _OWN_DOMAINS, f"the domain {_text(value)}", "ONNX's own")
            else:
                version = value
        require(version in OPSETS, f"opset {version!r}", _span(OPSETS))

    def graph(self, message: memoryview) -> None:
        for number, value in self._fields("graph", message, _GRAPH):
            if number == 1:
                self.node(_bytes(value, "node"))
            elif number == 5:
                self.add(self.tensors, *self.tensor(_bytes(value, "tensor")))
            elif number in (11, 12):
                self.add(self.tensors if number == 11 else self.outputs, *self.signature(_bytes(value, "signature")))

    def add(self, tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
        require(name not in tensors, f"two tensors with the name {name!r}", "one")
        tensors[name] = tensor

    def node(self, message: memoryview) -> None:
        require(len(self.nodes) < MOST_NODES, "more nodes", f"at most {MOST_NODES}")
        operator, inputs, outputs = "", list[str](), list[str]()
        attributes: dict[str, Attribute] = {}
        for number, value in self._fields("node", message, _NODE):
            if number in (1, 2):
                (inputs if number == 1 else outputs).append(_name(value))
            elif number == 4:
                operator = _text(value)
                require(operator in OPERATORS, f"the operator {operator!r}", "one that students are made of")
            elif number == 5:
                name, attribute = self.attribute(_bytes(value, "attribute"), operator)
                require(name not in attributes, f"two attributes {name!r} of {operator!r}", "one")
                attributes[name] = attribute
            elif number == 7:
                domain = bytes(_bytes(value, "domain"))
                require(domain in _OWN_DOMAINS, f"an operator of the domain {_text(value)!r}", "ONNX's own")
        require(bool(operator), "a node without an operator", "one")
        # One that is left out is left out at the end; ONNX Runtime 1.32 crashes over a LayerNormalization with "".
        require(not inputs or inputs[-1] != "", f"an empty last input of {operator!r}", "none")
        self.nodes.append(Node(operator=operator, inputs=tuple(inputs), outputs=tuple(outputs), attributes=attributes))

    def attribute(self, message: memoryview, operator: str) -> tuple[str, Attribute]:
        name, kind, given = "", 0, dict[int, list[Any]]()
        for number, value in self._fields("attribute", message, _ATTRIBUTE):
            if number == 1:
                name = _text(value)
            elif number == 20:
                kind = _number(value, "type")
            elif number in (3, 8):
                given.setdefault(number, []).extend(numbers(_number(value, "number") if number == 3 else value))
            elif number == 5:
                given.setdefault(number, []).append(self.tensor(_bytes(value, "tensor"))[1])
            elif number in (2, 7):
                given.setdefault(number, []).extend(np.frombuffer(_bytes(value, "number"), "<f4"))
            elif number == 4:
                given.setdefault(number, []).append(_text(value))
        field, is_list = _ATTRIBUTE_KINDS.get(kind, (0, False))
        values = given.get(field, [])
        fits = set(given) <= {field} and (is_list or len(values) == 1)
        require(fits, f"an attribute {name!r} of {operator!r} of several values or kinds", "one")
        largest = max(map(abs, values), default=0) if field in (3, 8) else 0
        require(largest <= _MOST_NUMBER, f"an attribute of {operator!r} of {largest}", f"up to {_MOST_NUMBER}")
        if field in (2, 7):
            return name, np.array(values if is_list else values[0], np.float32)
        return name, tuple(values) if is_list else values[0]

    def tensor(self, message: memoryview) -> tuple[str, Tensor]:
        self.count += 1
        require(self.count <= MOST_TENSORS, "more tensors", f"at most {MOST_TENSORS}")
        name, kind, shape = "", 0, list[int]()
        data: dict[int, list[memoryview]] = {}
        for number, value in self._fields("tensor", message, _TENSOR):
            if number == 1:
                shape += numbers(value)
            elif number == 2:
                kind = _number(value, "type")
            elif number == 8:
                name = _name(value)
            elif number == 14:
                require(value == 0, "weights in another file", "all in this one, which is verified")
            elif number in _DATA_FIELDS:
                data.setdefault(number, []).append(_bytes(value, "list of values"))
        most = _VALUES_PER_BYTE * len(message)
        require(len(shape) <= MOST_RANK, f"a tensor of {len(shape)} axes", f"up to {MOST_RANK}")
        fits = all(size >= 0 for size in shape) and math.prod(shape) <= most
        require(fits, f"a tensor of the shape {tuple(shape)} in {len(message)} bytes", "no more values than it has")
        require(kind in ITEM_BYTES, f"a tensor of the type {kind}", "numbers")
        return name, Tensor(shape=tuple(shape), kind=kind, values=_values(data, kind, tuple(shape)))

    def signature(self, message: memoryview) -> tuple[str, Tensor]:
        """Of an input or output: a tensor that a window could be; one window, where its first axis has a name."""
        name = "".join(_name(value) for number, value in fields(message) if number == 1)
        tensors = [tensor for kind in _parts(message, 2, "type") for tensor in _parts(kind, 1, "tensor type")]
        sizes = [size for one in tensors for shape in _parts(one, 2, "shape") for size in _parts(shape, 1, "size")]
        values = [dict(fields(size)).get(1, 0 if axis else 1) for axis, size in enumerate(sizes)]
        whole = [value for value in values if isinstance(value, int) and 0 < value <= MAX_WINDOW_VALUES]
        fits = bool(sizes) and len(whole) == len(values) <= MOST_RANK and math.prod(whole) <= MAX_WINDOW_VALUES
        require(fits, f"an input or output of the shape {values}", f"a tensor of 1 to {MAX_WINDOW_VALUES} values")
        kinds = [value for one in tensors for number, value in fields(one) if number == 1]
        kind = _number(kinds[0], "type") if len(kinds) == 1 else 0
        require(kind in ITEM_BYTES, f"an input or output of the type {kind}", "numbers")
        return name, Tensor(shape=tuple(whole), kind=kind)

    def _fields(self, kind: str, message: memoryview, known: frozenset[int]) -> list[tuple[int, Value]]:
        found = []
        for number, value in fields(message):
            self.fields += 1
            require(self.fields <= MOST_FIELDS, "more fields", f"at most {MOST_FIELDS}")
            require(number in known, f"field {number} of a {kind}", "only what mmkd-export writes")
            found.append((number, value))
        return found


def _values(data: dict[int, list[memoryview]], kind: int, shape: tuple[int, ...]) -> tuple[NDArray[Any]] | None:
    """The values of a constant, where they are of a type that can be read here."""
    if kind not in DTYPES or not data:
        return None
    require(len(data) == 1, "a tensor with its values in two places", "one")
    ((number, parts),) = data.items()
    if number == _RAW_DATA or DTYPES[kind] == "<f4":
        values = np.frombuffer(parts[-1] if number == _RAW_DATA else b"".join(parts), DTYPES[kind])
    elif number in (5, 7) and sum(map(len, parts)) <= _MOST_PACKED_BYTES:
        values = np.array([one for part in parts for one in numbers(part)], np.int64).astype(DTYPES[kind])
    else:
        return None
    require(values.size == math.prod(shape), f"a tensor of the shape {shape} with {values.size} values", "as many")
    return (values.reshape(shape),)


def _parts(message: memoryview, wanted: int, what: str) -> list[memoryview]:
    return [_bytes(value, what) for number, value in fields(message) if number == wanted]


def _bytes(value: Value, what: str) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"the graph has a number where a {what} belongs")  # noqa: TRY004 - it is the file that is wrong
    return value


def _number(value: Value, what: str) -> int:
    if not isinstance(value, int):
        raise ValueError(f"the graph has bytes where a {what} belongs")  # noqa: TRY004 - it is the file that is wrong
    return value


def _name(value: Value) -> str:
    name = bytes(_bytes(value, "name"))
    require(len(name) <= _MOST_NAME_BYTES, f"a name of {len(name)} bytes", f"at most {_MOST_NAME_BYTES}")
    return name.decode("utf-8", "surrogateescape")


def _text(value: Value) -> str:
    return bytes(_bytes(value, "name"))[:64].decode("utf-8", "replace")


def _span(versions: range) -> str:
    return f"{versions.start} to {versions.stop - 1}"
