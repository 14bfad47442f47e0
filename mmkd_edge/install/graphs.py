"""Graphs of a bundle, checked from their bytes before an engine sees them.

Refuses control flow, functions, foreign operators, data outside of the file, and fields that mmkd-export does not
write. Shapes, axes and paddings follow from constants, indices also from the step number, and whole numbers are not
divided: so every run costs what a run in the sandbox check costs, and no window can lead out of a tensor.

Field numbers: onnx.proto (ONNX 1.17); tensorflow/compiler/mlir/lite/schema/schema.fbs (version 3), whose layout is that
of flatbuffers (google.github.io/flatbuffers/md__internals.html).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmkd_edge.backends.onnx_wire import Value, fields, numbers
from mmkd_edge.install.trees import TREES_DOMAIN, TREES_OPERATOR, TREES_VERSION, check_trees, require

OPSETS = range(17, 22)
MAX_FIELDS = 1_000_000
"""Fields or list items of a file: a few seconds of reading."""
_MAX_NUMBER = (1 << 31) - 1
_OWN_DOMAINS = ("", "ai.onnx")
_FLOATS = (1, 10, 11, 16)
# Read below: model 7 graph, 8 opset; opset 1 domain; graph 1 node, 5 weights, 11 input; node 1 input, 2 output,
# 4 operator, 5 attribute, 7 domain; attribute 1 name, 3 number, 5 tensor, 8 numbers; tensor 2 type, 8 name, 14 place of
# its data; signature 1 name, 2 type.
_KNOWN: Mapping[str, frozenset[int]] = {
    "model": frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14)),
    "opset": frozenset((1, 2)),
    "graph": frozenset((1, 2, 5, 10, 11, 12, 13, 14, 16)),
    "node": frozenset((1, 2, 3, 4, 5, 6, 7, 9)),
    "attribute": frozenset((1, 2, 3, 4, 5, 7, 8, 13, 20)),
    "tensor": frozenset((1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 14, 16)),
    "signature": frozenset((1, 2, 3)),
    "type": frozenset((1,)),
    "tensor type": frozenset((1, 2)),
}

_OPERATORS = """
Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Clip Concat Constant Conv Cos DequantizeLinear Div Equal
Erf Exp Flatten Floor Gather GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual
Log LogSoftmax MatMul Max MaxPool Mean Min Mul Neg Not Or PRelu Pad Pow QuantizeLinear Reciprocal ReduceMax ReduceMean
ReduceMin ReduceSum ReduceSumSquare Relu Reshape Round Shape Sigmoid Sign Sin Slice Softmax Softplus Split Sqrt Squeeze
Sub Sum Tanh TopK Transpose Unsqueeze Where
"""
OPERATORS = frozenset(_OPERATORS.split())
"""The ONNX operators that a student may use."""
_FIXED_INPUTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Gather", "GatherND", "Reshape", "Split", "Squeeze", "TopK", "Unsqueeze"), (1,)),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"), (1,)),
    "Pad": (1, 3),
    "Slice": (1, 2, 3, 4),
}
_INDEXED = ("Gather", "GatherND")
_BOOLEAN = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or")
_NOT_FLOAT = frozenset((*_BOOLEAN, "ArgMax", "ArgMin", "QuantizeLinear", "Shape"))
_CONSTANT, _STEP, _WINDOW = range(3)
_ROW = struct.Struct("<qq")  # the shape of a row, as a constant
_TFLITE = """
ADD=0 AVERAGE_POOL_2D=1 CONCATENATION=2 CONV_2D=3 DEPTHWISE_CONV_2D=4 DEQUANTIZE=6 FLOOR=8 FULLY_CONNECTED=9
LOGISTIC=14 MAX_POOL_2D=17 MUL=18 RELU=19 RELU_N1_TO_1=20 RELU6=21 RESHAPE=22 SOFTMAX=25 TANH=28 PAD=34 GATHER=36
TRANSPOSE=39 MEAN=40 SUB=41 DIV=42 SQUEEZE=43 STRIDED_SLICE=45 EXP=47 SPLIT=49 LOG_SOFTMAX=50 CAST=53 PRELU=54
MAXIMUM=55 ARG_MAX=56 MINIMUM=57 LESS=58 NEG=59 PADV2=60 GREATER=61 GREATER_EQUAL=62 LESS_EQUAL=63 SELECT=64 SLICE=65
SIN=66 EXPAND_DIMS=70 EQUAL=71 NOT_EQUAL=72 LOG=73 SUM=74 SQRT=75 RSQRT=76 POW=78 REDUCE_MAX=82 PACK=83 LOGICAL_OR=84
LOGICAL_AND=86 LOGICAL_NOT=87 UNPACK=88 REDUCE_MIN=89 SQUARE=92 LEAKY_RELU=98 SQUARED_DIFFERENCE=99 ABS=101
SPLIT_V=102 GATHER_ND=107 COS=108 ELU=111 QUANTIZE=114 ROUND=116 HARD_SWISH=117 SELECT_V2=123 BATCH_MATMUL=126
BROADCAST_TO=130 CONV_3D=132 GELU=150 RELU_0_TO_1=152 SIGN=158
"""
TFLITE_OPERATORS = {int(number): name for name, _, number in (entry.partition("=") for entry in _TFLITE.split())}
"""The TFLite operators that a student may use; LiteRT checks indices at every run."""
_TFLITE_FIXED: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("ARG_MAX", "BROADCAST_TO", "EXPAND_DIMS", "MEAN", "PAD", "PADV2", "REDUCE_MAX"), (1,)),
    **dict.fromkeys(("REDUCE_MIN", "RESHAPE", "SUM", "TRANSPOSE"), (1,)),
    "SLICE": (1, 2),
    "SPLIT": (0,),
    "SPLIT_V": (1, 2),
    "STRIDED_SLICE": (1, 2, 3),
}
_OWN_OPTIONS = (5, 7, 8, 9, 10, 11, 12)  # of a node: custom options, variables, intermediates


class _Tensor(NamedTuple):
    """What the values follow from (`_CONSTANT`, `_STEP` or `_WINDOW`), and whether they are floating point."""

    source: int
    is_float: bool


def check_graph(model: bytes, *, steps: bool = False) -> None:
    """Raise ValueError for an ONNX model that no engine may open; `steps` for a step graph."""
    reader = _OnnxReader()
    values = reader.fields("model", memoryview(model))
    graphs, opsets = ([value for number, value in values if number == field] for field in (7, 8))
    require(len(graphs) == 1 <= len(opsets) <= 2, f"{len(graphs)} graphs and {len(opsets)} opsets", "one of each")
    reader.opset(opsets[0], OPSETS, _OWN_DOMAINS)
    for trees in opsets[1:]:
        reader.opset(trees, range(TREES_VERSION, TREES_VERSION + 1), (TREES_DOMAIN,))
    parts = reader.fields("graph", graphs[0])
    for number, value in parts:
        if number == 5:
            name, is_float = reader.tensor(value)
            reader.add(name, _Tensor(_CONSTANT, is_float))
        elif number == 11:
            name, is_float = reader.signature(value)
            reader.add(name, _Tensor(_STEP if steps and name == "slot" else _WINDOW, is_float))
    for number, value in parts:
        if number == 1:
            reader.node(value)


class _OnnxReader:
    def __init__(self) -> None:
        self.count = 0
        self.tensors: dict[str, _Tensor] = {}
        self.rows: dict[str, int] = {}  # constants, and then tensors, that are or have the shape (1, n)

    def fields(self, kind: str, message: Value) -> list[tuple[int, Value]]:
        values = []
        for number, value in fields(_message(message, kind)):
            self.count += 1
            require(self.count <= MAX_FIELDS, "more fields", f"at most {MAX_FIELDS}")
            require(number in _KNOWN[kind], f"field {number} of a {kind}", "only what mmkd-export writes")
            values.append((number, value))
        return values

    def opset(self, message: Value, versions: range, domains: Sequence[str]) -> None:
        for number, value in self.fields("opset", message):
            if number == 1:
                require(_text(value) in domains, f"the domain {_text(value)!r}", domains[0] or "ONNX's own")
            else:
                require(value in versions, f"opset {value!r}", f"{versions.start} to {versions.stop - 1}")

    def add(self, name: str, tensor: _Tensor) -> None:
        require(name not in self.tensors, f"two tensors with the name {name!r}", "one")
        self.tensors[name] = tensor

    def tensor(self, message: Value) -> tuple[str, bool]:
        name, is_float, data = "", False, b""
        for number, value in self.fields("tensor", message):
            if number == 2:
                is_float = value in _FLOATS
            elif number == 8:
                name = _text(value)
            elif number == 9:
                data = bytes(_message(value, "tensor")[: _ROW.size + 1])
            elif number == 14:
                require(value == 0, "weights in another file", "all in this one, which is verified")
        if not is_float and len(data) == _ROW.size and _ROW.unpack(data)[0] == 1:
            self.rows[name] = _ROW.unpack(data)[1]
        return name, is_float

    def signature(self, message: Value) -> tuple[str, bool]:
        name, is_float = "", False
        for number, value in self.fields("signature", message):
            if number == 1:
                name = _text(value)
            elif number == 2:
                parts = [part for _, kind in self.fields("type", value) for part in self.fields("tensor type", kind)]
                is_float = any(field == 1 and kind in _FLOATS for field, kind in parts)
        return name, is_float

    def node(self, message: Value) -> None:
        values = self.fields("node", message)
        operator = "".join(_text(value) for number, value in values if number == 4)
        known = operator in OPERATORS or operator == TREES_OPERATOR
        require(known, f"the operator {operator!r}", "one that students are made of")
        domain = "".join(_text(value) for number, value in values if number == 7)
        domains = (TREES_DOMAIN,) if operator == TREES_OPERATOR else _OWN_DOMAINS
        require(domain in domains, f"an operator of the domain {domain!r}", domains[0] or "ONNX's own")
        names = [_text(value) for number, value in values if number == 1]
        unknown = [name for name in names if name and name not in self.tensors]
        require(not unknown, f"inputs {unknown} of {operator!r} that nothing gives", "tensors")
        inputs = [self.tensors[name] if name else _Tensor(_CONSTANT, is_float=True) for name in names]
        for place in _FIXED_INPUTS.get(operator, ()):
            latest = _STEP if operator in _INDEXED else _CONSTANT
            fits = place >= len(inputs) or inputs[place].source <= latest
            require(fits, f"an input {place} of {operator!r} that is computed from a window", "a constant")
        if operator == TREES_OPERATOR:
            columns = self.rows.get(f"tensor {names[0]}") if len(names) == 1 else None
            require(columns is not None, "trees on features without a fixed shape", "the output of a Reshape to a row")
            check_trees([value for number, value in values if number == 5], columns=columns or 0)
            values = [(number, value) for number, value in values if number != 5]
        is_float = inputs[0].is_float if inputs else False
        require(operator != "Div" or is_float, "a division of whole numbers, which crashes where it is by 0", "none")
        for name, is_float_value in [self._attribute(value, operator) for number, value in values if number == 5]:
            if operator == "Constant" or (operator, name) == ("Cast", "to"):
                is_float = is_float_value
        if operator in ("DequantizeLinear", "Where") and len(inputs) > 1:
            is_float = inputs[1].is_float
        source = _CONSTANT if operator == "Shape" else max((tensor.source for tensor in inputs), default=_CONSTANT)
        outputs = [_text(value) for number, value in values if number == 2]
        for place, name in enumerate(outputs):
            is_index = operator == "TopK" and place == 1
            self.add(name, _Tensor(source, is_float and operator not in _NOT_FLOAT and not is_index))
        if operator == "Reshape" and len(names) > 1 and names[1] in self.rows:
            self.rows.update((f"tensor {name}", self.rows[names[1]]) for name in outputs)

    def _attribute(self, message: Value, operator: str) -> tuple[str, bool]:
        """Return the name, and whether the value is, or the type is of, floating point."""
        name, is_float = "", False
        for number, value in self.fields("attribute", message):
            if number == 1:
                name = _text(value)
            elif number in (3, 8):
                self.count += 0 if isinstance(value, int) else len(value)
                require(self.count <= MAX_FIELDS, "more fields", f"at most {MAX_FIELDS}")
                largest = max(map(abs, numbers(value)), default=0)
                require(largest <= _MAX_NUMBER, f"an attribute of {operator!r} of {largest}", f"up to {_MAX_NUMBER}")
                is_float = number == 3 and value in _FLOATS and operator == "Cast"
            elif number == 5:
                is_float = self.tensor(value)[1]
            elif number in (2, 7):
                is_float = True
        return name, is_float


def _message(value: Value, what: str) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"the graph has a number where a {what} belongs")  # noqa: TRY004 - it is the file that is wrong
    return value


def _text(value: Value) -> str:
    return bytes(_message(value, "name")).decode("utf-8", "surrogateescape")


def check_tflite(model: bytes) -> None:
    """Raise ValueError for a `.tflite` file that LiteRT may not open."""
    require(model[4:8] == b"TFL3", f"the mark {model[4:8]!r}", "b'TFL3'")
    reader = TableReader(model)
    # Fields: root 1 codes, 2 graphs, 4 buffers; tensor 2 buffer; node 0 code, 1 inputs, 2 outputs.
    root = reader.table(reader.number("<I", 0))
    codes = []
    for code in root.tables(1):
        require(not code.has(1), "an operator of somebody else", "LiteRT's own")
        codes.append(max(code.number("<b", 0), code.number("<i", 3)))  # earlier versions use the first field
        require(codes[-1] in TFLITE_OPERATORS, f"the operator {codes[-1]}", "one that students are made of")
    graphs = root.tables(2)
    require(len(graphs) == 1, f"{len(graphs)} subgraphs", "one, without control flow")
    sizes = [data_bytes(buffer, len(model)) for buffer in root.tables(4)]
    is_constant = []
    for tensor in graphs[0].tables(0):
        is_variable = tensor.has(6) or tensor.number("<B", 5) or tensor.has(9)
        require(not is_variable, "a sparse or variable tensor", "none")
        place = _item(tensor.number("<I", 2), range(len(sizes)), "a tensor's values")
        is_constant.append(sizes[place] > 0)
    for node in graphs[0].tables(3):
        foreign = any(node.has(field) for field in _OWN_OPTIONS)
        require(not foreign, "an operator with options of its own or variables", "LiteRT's own without a state")
        name = TFLITE_OPERATORS[codes[_item(node.number("<I", 0), range(len(codes)), "an operator")]]
        # -1: it is left out
        inputs = [_item(place, range(-1, len(is_constant)), "an operator's input") for place in node.list("<i", 1)]
        for place in node.list("<i", 2):
            _item(place, range(len(is_constant)), "an operator's output")
        fixed = [inputs[place] for place in _TFLITE_FIXED.get(name, ()) if place < len(inputs)]
        fits = all(place < 0 or is_constant[place] for place in fixed)
        require(fits, f"an operator {name} whose output's shape is computed from a window", "a constant one")


def data_bytes(buffer: _Table, file_bytes: int) -> int:
    """The data is in place or further back in the file (ai-edge-quantizer); several lists may share their bytes."""
    held, start, count = buffer.length(0), buffer.number("<Q", 1), buffer.number("<Q", 2)
    if start == 0 == count:
        return held
    # The schema reserves the offsets 0 and 1.
    is_inside = held == 0 and start > 1 and start + count <= file_bytes
    require(is_inside, f"{count} bytes of data at byte {start}", f"all within its {file_bytes} bytes, in one place")
    return count


def _item(place: int, known: range, what: str) -> int:
    require(place in known, f"the number {place} for {what}", f"{known.start} to {known.stop - 1}")
    return place


class TableReader:
    """Reads the tables of a FlatBuffers file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.items = 0

    def number(self, code: str, place: int) -> int:
        """Return the number at a place; ValueError outside of the file."""
        if not 0 <= place <= len(self.data) - struct.calcsize(code):
            raise ValueError("the graph points to something outside of the file")
        return int(struct.unpack_from(code, self.data, place)[0])

    def table(self, place: int) -> _Table:
        """Return the table at a place."""
        vtable = place - self.number("<i", place)
        return _Table(self, place, vtable, self.number("<H", vtable))


class _Table:
    def __init__(self, reader: TableReader, place: int, vtable: int, vtable_bytes: int) -> None:
        self._reader = reader
        self._place = place
        self._vtable = vtable
        self._vtable_bytes = vtable_bytes

    def has(self, field: int) -> bool:
        return self._field(field) != 0

    def number(self, code: str, field: int) -> int:
        place = self._field(field)
        return self._reader.number(code, place) if place else 0

    def list(self, code: str, field: int) -> Sequence[int]:
        count = self.length(field, struct.calcsize(code))
        self._reader.items += count
        require(self._reader.items <= MAX_FIELDS, "more items in lists", f"at most {MAX_FIELDS}")
        return struct.unpack_from(f"<{count}{code[1]}", self._reader.data, self._behind(field) + 4) if count else ()

    def length(self, field: int, item_bytes: int = 1) -> int:
        place = self._behind(field)
        count = self._reader.number("<I", place) if place else 0
        end = place + 4 + count * item_bytes
        require(end <= len(self._reader.data), f"a list of {count} items", "one inside of the file")
        return count

    def tables(self, field: int) -> Sequence[_Table]:
        first = self._behind(field) + 4
        offsets = enumerate(self.list("<I", field))
        return [self._reader.table(first + 4 * number + offset) for number, offset in offsets]

    def _field(self, field: int) -> int:
        entry = 4 + 2 * field
        if entry + 2 > self._vtable_bytes:
            return 0
        offset = self._reader.number("<H", self._vtable + entry)
        return self._place + offset if offset else 0

    def _behind(self, field: int) -> int:
        place = self._field(field)
        return place + self._reader.number("<I", place) if place else 0
