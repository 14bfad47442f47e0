"""What an ONNX graph must be before any engine sees it, read from its bytes by us.

Owns the list of operators that a student may use, and the bounds on nodes and tensors. Refuses what an engine could
turn against the device, and nothing says so better than a list of what is taken: loops and branches, functions,
operators of other domains, tensors that claim more values than the file has, fields that no exporter of ours writes.
What it cannot see is what a graph makes of its inputs at run time: that is what the trial in a process of its own is
for. Field numbers are those of onnx.proto (ONNX 1.17).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from mmkd_edge.backends.onnx_wire import Value, fields, numbers
from mmkd_edge.bundle.manifest import MAX_WINDOW_VALUES

_TAKEN = """
Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Clip Concat Constant Conv Cos DequantizeLinear Div
Equal Erf Exp Flatten Floor Gather GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Less
LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mul Neg Not Or PRelu Pad Pow QuantizeLinear Reciprocal
ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare Relu Reshape Round Shape Sigmoid Sign Sin Slice Softmax
Softplus Split Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze Where
"""
OPERATORS = frozenset(_TAKEN.split())
"""Every one gives no more than its inputs, its attributes and the file's own constants tell, and runs once."""

OPSETS = range(17, 22)
IR_VERSIONS = range(8, 11)
MOST_NODES = 5_000
MOST_TENSORS = 10_000
MOST_FIELDS = 1_000_000  # of all messages together: some seconds of our own reading
_MOST_NUMBER = (1 << 31) - 1  # of an attribute: an axis, a size, a step, a padding
_MOST_RANK = 16
_VALUES_PER_BYTE = 2  # int4 is the smallest type there is
_OWN_DOMAINS = (b"", b"ai.onnx")

_MODEL = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14))
_GRAPH = frozenset((1, 2, 5, 10, 11, 12, 13, 14, 16))
_NODE = frozenset((1, 2, 3, 4, 5, 6, 7, 9))
_ATTRIBUTE = frozenset((1, 2, 3, 4, 5, 7, 8, 13, 20))
_TENSOR = frozenset((1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 14, 16))


def check_graph(model: bytes) -> None:
    """Nothing, where a graph is one that an engine may be handed.

    Raises:
        ValueError: it is not; the message says what stands in the way.
    """
    _Reading().model(memoryview(model))


class _Reading:
    """One pass over a model, and what has been counted so far."""

    def __init__(self) -> None:
        self.nodes = 0
        self.tensors = 0
        self.fields = 0

    def model(self, message: memoryview) -> None:
        graphs, opsets = 0, 0
        for number, value in self._fields("model", message, _MODEL):
            if number == 1:
                require(value in IR_VERSIONS, f"IR version {value!r}", _span(IR_VERSIONS))
            elif number == 7:
                graphs += 1
                self.graph(_bytes(value, "graph"))
            elif number == 8:
                opsets += 1
                self.opset(_bytes(value, "opset"))
        require((graphs, opsets) == (1, 1), f"{graphs} graphs and {opsets} opsets", "one of each")

    def opset(self, message: memoryview) -> None:
        version: Value = 0
        for number, value in self._fields("opset", message, frozenset((1, 2))):
            if number == 1:
                require(bytes(_bytes(value, "domain")) in _OWN_DOMAINS, f"the domain {_text(value)}", "ONNX's own")
            else:
                version = value
        require(version in OPSETS, f"opset {version!r}", _span(OPSETS))

    def graph(self, message: memoryview) -> None:
        inner: Mapping[int, Callable[[memoryview], None]] = {
            1: self.node,
            5: self.tensor,
            11: self.signature,
            12: self.signature,
        }
        for number, value in self._fields("graph", message, _GRAPH):
            if number in inner:
                inner[number](_bytes(value, "graph's part"))

    def node(self, message: memoryview) -> None:
        self.nodes += 1
        require(self.nodes <= MOST_NODES, "more nodes", f"at most {MOST_NODES}")
        operator, last = "", None
        for number, value in self._fields("node", message, _NODE):
            if number == 1:
                last = bytes(_bytes(value, "input"))
            elif number == 4:
                operator = _text(value)
                require(operator in OPERATORS, f"the operator {operator!r}", "one that students are made of")
            elif number == 5:
                self.attribute(_bytes(value, "attribute"), operator)
            elif number == 7:
                domain = bytes(_bytes(value, "domain"))
                require(domain in _OWN_DOMAINS, f"an operator of the domain {_text(value)!r}", "ONNX's own")
        require(bool(operator), "a node without an operator", "one")
        # One that is left out is left out at the end; ONNX Runtime 1.32 crashes over a LayerNormalization with "".
        require(last != b"", f"an empty last input of {operator!r}", "none")

    def attribute(self, message: memoryview, operator: str) -> None:
        tensors = 0
        for number, value in self._fields("attribute", message, _ATTRIBUTE):
            if number == 5:
                tensors += 1
                require(tensors == 1, "an attribute of several tensors", "one")
                self.tensor(_bytes(value, "tensor"))
            elif number in (3, 8):
                for one in numbers(value):
                    require(abs(one) <= _MOST_NUMBER, f"an attribute of {operator!r} of {one}", f"up to {_MOST_NUMBER}")

    def tensor(self, message: memoryview) -> None:
        self.tensors += 1
        require(self.tensors <= MOST_TENSORS, "more tensors", f"at most {MOST_TENSORS}")
        shape: list[int] = []
        for number, value in self._fields("tensor", message, _TENSOR):
            if number == 1:
                shape += numbers(value)
            elif number == 14:
                require(value == 0, "weights in another file", "all in this one, which is verified")
        most = _VALUES_PER_BYTE * len(message)
        require(len(shape) <= _MOST_RANK, f"a tensor of {len(shape)} axes", f"up to {_MOST_RANK}")
        fits = all(size >= 0 for size in shape) and math.prod(shape) <= most
        require(fits, f"a tensor of the shape {tuple(shape)} in {len(message)} bytes", "no more values than it has")

    def signature(self, message: memoryview) -> None:
        """Of an input or output: a tensor that a window could be, its first axis of any size where it has a name."""
        sizes = [
            size
            for kind in _parts(message, 2, "type")
            for tensor in _parts(kind, 1, "tensor type")
            for shape in _parts(tensor, 2, "shape")
            for size in _parts(shape, 1, "size")
        ]
        values = [dict(fields(size)).get(1, 1) for size in sizes]
        whole = [value for value in values if isinstance(value, int) and 0 < value <= MAX_WINDOW_VALUES]
        fits = bool(sizes) and len(whole) == len(values) <= _MOST_RANK and math.prod(whole) <= MAX_WINDOW_VALUES
        require(fits, f"an input or output of the shape {values}", f"a tensor of 1 to {MAX_WINDOW_VALUES} values")

    def _fields(self, kind: str, message: memoryview, known: frozenset[int]) -> list[tuple[int, Value]]:
        found = []
        for number, value in fields(message):
            self.fields += 1
            require(self.fields <= MOST_FIELDS, "more fields", f"at most {MOST_FIELDS}")
            require(number in known, f"field {number} of a {kind}", "only what mmkd-export writes")
            found.append((number, value))
        return found


def require(condition: bool, got: str, expected: str) -> None:
    """Refuse a graph.

    Raises:
        ValueError: the condition does not hold.
    """
    if not condition:
        raise ValueError(f"the graph has {got}; expected {expected}")


def _parts(message: memoryview, wanted: int, what: str) -> list[memoryview]:
    return [_bytes(value, what) for number, value in fields(message) if number == wanted]


def _bytes(value: Value, what: str) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"the graph has a number where a {what} belongs")  # noqa: TRY004 - it is the file that is wrong
    return value


def _text(value: Value) -> str:
    return bytes(_bytes(value, "name"))[:64].decode("utf-8", "replace")


def _span(versions: range) -> str:
    return f"{versions.start} to {versions.stop - 1}"
