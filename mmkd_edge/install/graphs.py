"""ONNX graphs, checked from their bytes before an engine sees them.

Refuses loops, branches, functions, operators unknown to `graph_shapes`, tensors with more values than the file, and
fields that mmkd-export does not write. Field numbers: onnx.proto (ONNX 1.17).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd_edge.backends.onnx_wire import Value, fields, numbers
from mmkd_edge.bundle.manifest import MAX_WINDOW_VALUES
from mmkd_edge.install.graph_calls import Attribute, Node, Tensor, require
from mmkd_edge.install.graph_shapes import DTYPES, ITEM_BYTES, MAX_RANK, OPERATORS, GraphCost, measure_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPSETS = range(17, 22)
IR_VERSIONS = range(8, 11)
MAX_NODES = 5_000
MAX_TENSORS = 10_000
MAX_FIELDS = 1_000_000  # per model: a few seconds of reading
_MAX_NUMBER = (1 << 31) - 1  # in an attribute
_MAX_NAME_BYTES = 1 << 10
_MAX_PACKED_BYTES = 1 << 20
_VALUES_PER_BYTE = 2  # int4, the smallest type
_OWN_DOMAINS = (b"", b"ai.onnx")

_MODEL = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14))
_GRAPH = frozenset((1, 2, 5, 10, 11, 12, 13, 14, 16))
_NODE = frozenset((1, 2, 3, 4, 5, 6, 7, 9))
_ATTRIBUTE = frozenset((1, 2, 3, 4, 5, 7, 8, 13, 20))
_ATTRIBUTE_KINDS = {1: (2, False), 2: (3, False), 3: (4, False), 4: (5, False), 6: (7, True), 7: (8, True)}
"""Type number to the field of its value, and whether that is a list."""
_VALUE_FIELDS = frozenset((2, 3, 4, 5, 7, 8))
_RAW_DATA = 9
_DATA_FIELDS = frozenset((4, 5, 7, _RAW_DATA, 10, 11))
_TENSOR = frozenset((1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 14, 16))


def check_graph(model: bytes, *, slots: int = 0) -> GraphCost:
    """Return a run's cost; ValueError if no engine may open it. A step graph has `slots` state slots."""
    reading = _Reading()
    reading.read(memoryview(model))
    return measure_graph(reading.nodes, reading.tensors, reading.outputs, slots=slots)


class _Reading:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.tensor_count = 0
        self.field_count = 0

    def read(self, message: memoryview) -> None:
        values = self._fields("model", message, _MODEL)
        graphs, opsets = ([value for number, value in values if number == field] for field in (7, 8))
        counts = len(graphs), len(opsets)
        require(counts == (1, 1), f"{counts[0]} graphs and {counts[1]} opsets", "one of each")
        for number, version in values:
            require(number != 1 or version in IR_VERSIONS, f"IR version {version!r}", _span(IR_VERSIONS))
        opset: Value = 0
        for number, value in self._fields("opset", _bytes(opsets[0], "opset"), frozenset((1, 2))):
            if number == 1:
                require(bytes(_bytes(value, "domain")) in _OWN_DOMAINS, f"the domain {_text(value)}", "ONNX's own")
            else:
                opset = value
        require(opset in OPSETS, f"opset {opset!r}", _span(OPSETS))
        self._graph(_bytes(graphs[0], "graph"))

    def _graph(self, message: memoryview) -> None:
        for number, value in self._fields("graph", message, _GRAPH):
            if number == 1:
                self._node(_bytes(value, "node"))
            elif number == 5:
                self._add(self.tensors, *self._tensor(_bytes(value, "tensor")))
            elif number in (11, 12):
                self._add(self.tensors if number == 11 else self.outputs, *self._signature(_bytes(value, "signature")))

    def _add(self, tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
        require(name not in tensors, f"two tensors with the name {name!r}", "one")
        tensors[name] = tensor

    def _node(self, message: memoryview) -> None:
        require(len(self.nodes) < MAX_NODES, "more nodes", f"at most {MAX_NODES}")
        values = self._fields("node", message, _NODE)
        operator = "".join(_text(value) for number, value in values if number == 4)
        require(operator in OPERATORS, f"the operator {operator!r}", "one that students are made of")
        inputs, outputs = (tuple(_name(value) for number, value in values if number == field) for field in (1, 2))
        # ONNX Runtime 1.32 crashes on a LayerNormalization whose last input is "".
        require(not inputs or inputs[-1] != "", f"an empty last input of {operator!r}", "none")
        attributes: dict[str, Attribute] = {}
        for number, value in values:
            if number == 5:
                name, attribute = self._attribute(_bytes(value, "attribute"), operator)
                require(name not in attributes, f"two attributes {name!r} of {operator!r}", "one")
                attributes[name] = attribute
            elif number == 7:
                domain = bytes(_bytes(value, "domain"))
                require(domain in _OWN_DOMAINS, f"an operator of the domain {_text(value)!r}", "ONNX's own")
        self.nodes.append(Node(operator=operator, inputs=inputs, outputs=outputs, attributes=attributes))

    def _attribute(self, message: memoryview, operator: str) -> tuple[str, Attribute]:
        name, kind, fields_by_number = "", 0, dict[int, list[Any]]()
        for number, value in self._fields("attribute", message, _ATTRIBUTE):
            parts: Iterable[Any] = ()
            if number == 1:
                name = _text(value)
            elif number == 20:
                kind = _number(value, "type")
            elif number in (3, 8):
                parts = numbers(_number(value, "number") if number == 3 else value)
            elif number == 5:
                parts = [self._tensor(_bytes(value, "tensor"))[1]]
            elif number in (2, 7):
                parts = np.frombuffer(_bytes(value, "number"), "<f4")
            elif number == 4:
                parts = [_text(value)]
            if number in _VALUE_FIELDS:
                fields_by_number.setdefault(number, []).extend(parts)
        field, is_list = _ATTRIBUTE_KINDS.get(kind, (0, False))
        values = fields_by_number.get(field, [])
        fits = set(fields_by_number) <= {field} and (is_list or len(values) == 1)
        require(fits, f"an attribute {name!r} of {operator!r} of several values or kinds", "one")
        largest = max(map(abs, values), default=0) if field in (3, 8) else 0
        require(largest <= _MAX_NUMBER, f"an attribute of {operator!r} of {largest}", f"up to {_MAX_NUMBER}")
        if field in (2, 7):
            return name, np.array(values if is_list else values[0], np.float32)
        return name, tuple(values) if is_list else values[0]

    def _tensor(self, message: memoryview) -> tuple[str, Tensor]:
        self.tensor_count += 1
        require(self.tensor_count <= MAX_TENSORS, "more tensors", f"at most {MAX_TENSORS}")
        name, kind, sizes = "", 0, list[int]()
        data: dict[int, list[memoryview]] = {}
        for number, value in self._fields("tensor", message, _TENSOR):
            if number == 1:
                sizes += numbers(value)
            elif number == 2:
                kind = _number(value, "type")
            elif number == 8:
                name = _name(value)
            elif number == 14:
                require(value == 0, "weights in another file", "all in this one, which is verified")
            elif number in _DATA_FIELDS:
                data.setdefault(number, []).append(_bytes(value, "list of values"))
        shape, most = tuple(sizes), _VALUES_PER_BYTE * len(message)
        require(len(shape) <= MAX_RANK, f"a tensor of {len(shape)} axes", f"up to {MAX_RANK}")
        fits = all(size >= 0 for size in shape) and math.prod(shape) <= most
        require(fits, f"a tensor of the shape {shape} in {len(message)} bytes", "no more values than it has")
        require(kind in ITEM_BYTES, f"a tensor of the type {kind}", "numbers")
        return name, Tensor(shape=shape, kind=kind, values=_values(data, kind, shape))

    def _signature(self, message: memoryview) -> tuple[str, Tensor]:
        """A tensor no larger than a window; a named first axis is 1."""
        name = "".join(_name(value) for number, value in fields(message) if number == 1)
        tensors = [tensor for kind in _parts(message, 2, "type") for tensor in _parts(kind, 1, "tensor type")]
        sizes = [
            size for tensor in tensors for shape in _parts(tensor, 2, "shape") for size in _parts(shape, 1, "size")
        ]
        values = [dict(fields(size)).get(1, 0 if axis else 1) for axis, size in enumerate(sizes)]
        whole = [value for value in values if isinstance(value, int) and 0 < value <= MAX_WINDOW_VALUES]
        fits = bool(sizes) and len(whole) == len(values) <= MAX_RANK and math.prod(whole) <= MAX_WINDOW_VALUES
        require(fits, f"an input or output of the shape {values}", f"a tensor of 1 to {MAX_WINDOW_VALUES} values")
        kinds = [value for tensor in tensors for number, value in fields(tensor) if number == 1]
        kind = _number(kinds[0], "type") if len(kinds) == 1 else 0
        require(kind in ITEM_BYTES, f"an input or output of the type {kind}", "numbers")
        return name, Tensor(shape=tuple(whole), kind=kind)

    def _fields(self, kind: str, message: memoryview, known: frozenset[int]) -> list[tuple[int, Value]]:
        values = []
        for number, value in fields(message):
            self.field_count += 1
            require(self.field_count <= MAX_FIELDS, "more fields", f"at most {MAX_FIELDS}")
            require(number in known, f"field {number} of a {kind}", "only what mmkd-export writes")
            values.append((number, value))
        return values


def _values(data: dict[int, list[memoryview]], kind: int, shape: tuple[int, ...]) -> tuple[NDArray[Any]] | None:
    """From raw bytes or packed integers; None for other fields."""
    require(len(data) <= 1, "a tensor with its values in two places", "one")
    if kind not in DTYPES or not set(data) & {5, 7, _RAW_DATA}:
        return None
    ((number, parts),) = data.items()
    if number == _RAW_DATA:
        values = np.frombuffer(parts[-1], DTYPES[kind])
    else:
        require(sum(map(len, parts)) <= _MAX_PACKED_BYTES, "many packed numbers", f"at most {_MAX_PACKED_BYTES} bytes")
        values = np.array([value for part in parts for value in numbers(part)], np.int64).astype(DTYPES[kind])
    require(values.size == math.prod(shape), f"a tensor of the shape {shape} with {values.size} values", "as many")
    return (values.reshape(shape),)


def _parts(message: memoryview, field: int, what: str) -> list[memoryview]:
    return [_bytes(value, what) for number, value in fields(message) if number == field]


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
    require(len(name) <= _MAX_NAME_BYTES, f"a name of {len(name)} bytes", f"at most {_MAX_NAME_BYTES}")
    return name.decode("utf-8", "surrogateescape")


def _text(value: Value) -> str:
    return bytes(_bytes(value, "name"))[:64].decode("utf-8", "replace")


def _span(versions: range) -> str:
    return f"{versions.start} to {versions.stop - 1}"
