"""`.tflite` files, checked from their bytes before LiteRT sees them.

Refuses unlisted operators, control flow, variables, data outside the file, tensors whose size differs from their
values, and shapes computed from a window. LiteRT plans all memory when it opens a file, and checks indices at every
run. Fields: tensorflow/compiler/mlir/lite/schema/schema.fbs (version 3); layout: flatbuffers
(google.github.io/flatbuffers/md__internals.html).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from mmkd_edge.install.graph_calls import require
from mmkd_edge.install.graph_shapes import GraphCost
from mmkd_edge.install.graphs import MAX_NODES, MAX_TENSORS

_TAKEN = """
ADD=0 AVERAGE_POOL_2D=1 CONCATENATION=2 CONV_2D=3 DEPTHWISE_CONV_2D=4 DEQUANTIZE=6 FLOOR=8 FULLY_CONNECTED=9
LOGISTIC=14 MAX_POOL_2D=17 MUL=18 RELU=19 RELU_N1_TO_1=20 RELU6=21 RESHAPE=22 SOFTMAX=25 TANH=28 PAD=34 GATHER=36
TRANSPOSE=39 MEAN=40 SUB=41 DIV=42 SQUEEZE=43 STRIDED_SLICE=45 EXP=47 SPLIT=49 LOG_SOFTMAX=50 CAST=53 PRELU=54
MAXIMUM=55 ARG_MAX=56 MINIMUM=57 LESS=58 NEG=59 PADV2=60 GREATER=61 GREATER_EQUAL=62 LESS_EQUAL=63 SELECT=64 SLICE=65
SIN=66 EXPAND_DIMS=70 EQUAL=71 NOT_EQUAL=72 LOG=73 SUM=74 SQRT=75 RSQRT=76 POW=78 REDUCE_MAX=82 PACK=83 LOGICAL_OR=84
LOGICAL_AND=86 LOGICAL_NOT=87 UNPACK=88 REDUCE_MIN=89 SQUARE=92 LEAKY_RELU=98 SQUARED_DIFFERENCE=99 ABS=101
SPLIT_V=102 GATHER_ND=107 COS=108 ELU=111 QUANTIZE=114 ROUND=116 HARD_SWISH=117 SELECT_V2=123 BATCH_MATMUL=126
BROADCAST_TO=130 CONV_3D=132 GELU=150 RELU_0_TO_1=152 SIGN=158
"""
OPERATORS = {int(number): name for name, _, number in (entry.partition("=") for entry in _TAKEN.split())}
"""The operators that a student may use."""

MAX_WORKING_BYTES = 1 << 30
"""All computed tensors: half of the sandbox's memory."""

_CONSTANT_INPUTS = {
    "ARG_MAX": (1,), "BROADCAST_TO": (1,), "EXPAND_DIMS": (1,), "MEAN": (1,), "PAD": (1,), "PADV2": (1,),
    "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "RESHAPE": (1,), "SLICE": (1, 2), "SPLIT": (0,), "SPLIT_V": (1, 2),
    "STRIDED_SLICE": (1, 2, 3), "SUM": (1,), "TRANSPOSE": (1,),
}  # fmt: skip
"""Inputs that decide the output shape."""

_DEPTH_AXES = {
    "BATCH_MATMUL": (-2,), "CONV_2D": (-3, -2, -1), "CONV_3D": (-5, -4, -3, -2), "DEPTHWISE_CONV_2D": (-3, -2),
    "FULLY_CONNECTED": (-1,),
}  # fmt: skip
"""Axes of the weights that an output value sums over."""

_MAX_ITEMS = 1_000_000  # in all lists, which may overlap
_MAX_BUFFERS = 2 * MAX_TENSORS  # one per tensor, and metadata
_MAX_RANK = 16
_VERSION = 3
# Bits per value of float32, float16, int32, uint8, int64, bool, int16, int8 and int4.
_BITS = {0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 9: 8, 17: 4}


def check_tflite(model: bytes) -> GraphCost:
    """Return a run's cost by the declared shapes; ValueError if LiteRT may not open the file."""
    require(model[4:8] == b"TFL3", f"the mark {model[4:8]!r}", "b'TFL3'")
    reading = _Reading(model)
    root = reading.table(reading.number("<I", 0))
    require(root.number("<I", 0) == _VERSION, f"version {root.number('<I', 0)}", str(_VERSION))
    codes = [_operator(code) for code in root.tables(1)]
    graphs = root.tables(2)
    require(len(graphs) == 1, f"{len(graphs)} subgraphs", "one, without control flow")
    buffers = len(root.list("<I", 4))
    require(buffers <= _MAX_BUFFERS, f"{buffers} buffers", f"at most {_MAX_BUFFERS}")
    sizes = [_data_bytes(buffer, len(model)) for buffer in root.tables(4)]
    return _check_subgraph(graphs[0], codes, sizes)


def _operator(code: _Table) -> int:
    require(not code.has(1), "an operator of somebody else", "LiteRT's own")
    number = max(code.number("<b", 0), code.number("<i", 3))  # earlier versions use the first field
    require(number in OPERATORS, f"the operator {number}", "one that students are made of")
    return number


def _data_bytes(buffer: _Table, file_bytes: int) -> int:
    """The data is in place or further back in the file (ai-edge-quantizer)."""
    held, start, count = buffer.length(0), buffer.number("<Q", 1), buffer.number("<Q", 2)
    if start == 0 == count:
        return held
    # The schema reserves the offsets 0 and 1.
    is_inside = held == 0 and start > 1 and start + count <= file_bytes
    require(is_inside, f"{count} bytes of data at byte {start}", f"all within its {file_bytes} bytes, in one place")
    return count


def _check_subgraph(graph: _Table, codes: Sequence[int], sizes: Sequence[int]) -> GraphCost:
    tensors, nodes = graph.tables(0), graph.tables(3)
    require(len(tensors) <= MAX_TENSORS, "more tensors", f"at most {MAX_TENSORS}")
    require(0 < len(nodes) <= MAX_NODES, f"{len(nodes)} operators", f"1 to {MAX_NODES}")
    working = sum(_working_bytes(tensor, sizes) for tensor in tensors)
    require(working <= MAX_WORKING_BYTES, f"{working} bytes to compute in", f"at most {MAX_WORKING_BYTES}")
    _check_places((*graph.list("<i", 1), *graph.list("<i", 2)), range(len(tensors)), "an input or output")
    shapes = [tensor.list("<i", 0) for tensor in tensors]
    is_constant = [sizes[tensor.number("<I", 2)] > 0 for tensor in tensors]
    computed: set[int] = set()
    operations = 0
    for node in nodes:
        _check_places((node.number("<I", 0),), range(len(codes)), "an operator")
        _check_places(node.list("<i", 1), range(-1, len(tensors)), "an operator's input")  # -1: it is left out
        _check_places(node.list("<i", 2), range(len(tensors)), "an operator's output")
        foreign = any(node.has(field) for field in (5, 7, 8, 9, 10, 11, 12))
        require(not foreign, "an operator with options of its own or variables", "LiteRT's own without a state")
        name, inputs, outputs = OPERATORS[codes[node.number("<I", 0)]], node.list("<i", 1), node.list("<i", 2)
        fixed = [inputs[place] for place in _CONSTANT_INPUTS.get(name, ()) if place < len(inputs)]
        require(
            all(place < 0 or is_constant[place] for place in fixed),
            f"an operator {name} whose output's shape is computed from a window",
            "a constant one",
        )
        computed |= set(outputs)
        operations += _operations(
            name, [shapes[place] for place in inputs if place >= 0], [shapes[place] for place in outputs]
        )
    written = all(place in computed and not is_constant[place] for place in graph.list("<i", 2))
    require(written, "an output that no operator gives", "an operator's")
    return GraphCost(operations=operations, memory_bytes=working)


def _operations(name: str, inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> int:
    """One per value read or written, and the products of layers."""
    moved = sum(map(math.prod, (*inputs, *outputs)))
    if name not in _DEPTH_AXES or len(inputs) < 2 or not outputs:
        return moved
    weights = inputs[1]
    depth = math.prod(weights[axis] for axis in range(len(weights)) if axis - len(weights) in _DEPTH_AXES[name])
    return moved + math.prod(outputs[0]) * depth


def _working_bytes(tensor: _Table, sizes: Sequence[int]) -> int:
    shape, kind = tensor.list("<i", 0), tensor.number("<b", 1)
    require(kind in _BITS, f"a tensor of the type {kind}", "numbers")
    require(not (tensor.has(6) or tensor.number("<B", 5) or tensor.has(9)), "a sparse or variable tensor", "none")
    require(len(shape) <= _MAX_RANK, f"a tensor of {len(shape)} axes", f"up to {_MAX_RANK}")
    require(all(size >= 0 for size in shape), f"a tensor of the shape {shape}", "sizes from 0 on")
    needed = math.prod(shape) * _BITS[kind] + 7 >> 3
    buffer = tensor.number("<I", 2)
    _check_places((buffer,), range(len(sizes)), "a tensor's values")
    if sizes[buffer] == 0:
        return needed
    require(needed == sizes[buffer], f"a tensor of the shape {shape} in {sizes[buffer]} bytes", f"{needed}")
    return 0


def _check_places(places: Sequence[int], known: range, what: str) -> None:
    wrong = next((place for place in places if place not in known), None)
    require(wrong is None, f"the number {wrong} for {what}", f"{known.start} to {known.stop - 1}")


class _Reading:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.items = 0

    def number(self, code: str, place: int) -> int:
        if not 0 <= place <= len(self.data) - struct.calcsize(code):
            raise ValueError("the graph points to something outside of the file")
        number: int = struct.unpack_from(code, self.data, place)[0]
        return number

    def table(self, place: int) -> _Table:
        table = place - self.number("<i", place)
        return _Table(self, place, table, self.number("<H", table))


class _Table:
    def __init__(self, reading: _Reading, place: int, vtable: int, vtable_bytes: int) -> None:
        self._reading = reading
        self._place = place
        self._vtable = vtable
        self._vtable_bytes = vtable_bytes

    def has(self, field: int) -> bool:
        return self._field(field) != 0

    def number(self, code: str, field: int) -> int:
        place = self._field(field)
        return self._reading.number(code, place) if place else 0

    def list(self, code: str, field: int) -> Sequence[int]:
        place = self._behind(field)
        if not place:
            return ()
        count, data = self._reading.number("<I", place), self._reading.data
        self._require_inside(place, count, struct.calcsize(code))
        self._reading.items += count
        require(self._reading.items <= _MAX_ITEMS, "more items in lists", f"at most {_MAX_ITEMS}")
        return struct.unpack_from(f"<{count}{code[1]}", data, place + 4)

    def length(self, field: int) -> int:
        """Several lists may share their bytes."""
        place = self._behind(field)
        count = self._reading.number("<I", place) if place else 0
        self._require_inside(place, count, 1)
        return count

    def tables(self, field: int) -> Sequence[_Table]:
        place = self._behind(field)
        offsets = self.list("<I", field)
        first = place + 4
        return [self._reading.table(first + 4 * number + offset) for number, offset in enumerate(offsets)]

    def _require_inside(self, place: int, count: int, item_bytes: int) -> None:
        end = place + 4 + count * item_bytes
        require(end <= len(self._reading.data), f"a list of {count} items", "one inside of the file")

    def _field(self, field: int) -> int:
        entry = 4 + 2 * field
        if entry + 2 > self._vtable_bytes:
            return 0
        offset = self._reading.number("<H", self._vtable + entry)
        return self._place + offset if offset else 0

    def _behind(self, field: int) -> int:
        place = self._field(field)
        return place + self._reading.number("<I", place) if place else 0
