"""What LiteRT is never given: told from the bytes of a `.tflite`, by us."""

import struct
import tracemalloc

import pytest

from checks.fuzzing.targets import ADDITION
from mmkd_edge.install.graphs import TFLITE_OPERATORS, TableReader, check_tflite, data_bytes
from tests.edge.said import said

flatbuffers = pytest.importorskip("flatbuffers", reason="needs pip install 'mmkd-edge[litert]'")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs pip install 'mmkd-edge[litert]'")


def tensor(buffer=0):
    made = schema.TensorT()
    made.shape, made.buffer, made.type, made.name = [1, 2], buffer, 0, "t"
    return made


def model():
    """Of one addition: two values to two that the file has."""
    made, graph, code, node = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    made.version, made.subgraphs, made.operatorCodes = 3, [graph], [code]
    empty, values = schema.BufferT(), schema.BufferT()
    values.data = list(bytes(8))
    made.buffers = [empty, values]
    graph.tensors = [tensor(), tensor(buffer=1), tensor()]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [node]
    node.opcodeIndex, node.inputs, node.outputs = 0, [0, 1], [2]
    return made


def packed(made):
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def changing(place, **values):

    def change(made):
        for step in place.split("."):
            made = made[int(step)] if step.isdigit() else getattr(made, step)
        for name, value in values.items():
            setattr(made, name, value)

    return change


def with_a_computed_shape(made):
    made.operatorCodes[0].builtinCode = 22  # RESHAPE
    made.subgraphs[0].operators[0].inputs = [1, 0]


CODE, NODE, VALUES = "operatorCodes.0", "subgraphs.0.operators.0", "buffers.1"
UNKNOWN = "the operator {}; expected one that students are made of"
ELSEWHERE = "8 bytes of data at byte {}; expected all within its BYTES bytes, in one place"
STATELESS = "an operator with options of its own or variables; expected LiteRT's own without a state"
COMPUTED = "an operator RESHAPE whose output's shape is computed from a window; expected a constant one"
REFUSED = [
    (with_a_computed_shape, COMPUTED),
    (changing(CODE, builtinCode=119), UNKNOWN.format(119)),  # WHILE
    (changing(CODE, builtinCode=118), UNKNOWN.format(118)),  # IF
    (changing(CODE, builtinCode=206), UNKNOWN.format(206)),  # STABLEHLO_COMPOSITE
    (changing(CODE, customCode="theirs"), "an operator of somebody else; expected LiteRT's own"),
    (lambda made: made.subgraphs.append(made.subgraphs[0]), "2 subgraphs; expected one, without control flow"),
    (changing(VALUES, data=None, offset=1 << 40, size=8), ELSEWHERE.format(1 << 40)),
    (changing(VALUES, data=None, offset=1, size=8), ELSEWHERE.format(1)),  # in the file's mark
    (changing(VALUES, offset=8, size=8), ELSEWHERE.format(8)),  # and in the buffer too
    (changing("subgraphs.0.tensors.0", isVariable=True), "a sparse or variable tensor; expected none"),
    (changing(NODE, inputs=[0, 7]), "the number 7 for an operator's input; expected -1 to 2"),
    (changing(NODE, opcodeIndex=1), "the number 1 for an operator; expected 0 to 0"),
    (changing("subgraphs.0.tensors.0", buffer=2), "the number 2 for a tensor's values; expected 0 to 1"),
    (changing(NODE, customOptions=[1, 2, 3]), STATELESS),
]


def test_a_graph_of_the_schemas_operators_is_taken_with_values_behind_it():
    check_tflite(packed(model()))
    assert ADDITION.read_bytes() == packed(model())
    made = model()  # as ai-edge-quantizer writes them
    made.buffers[1].data, made.buffers[1].offset, made.buffers[1].size = None, 2, 8
    made.buffers[1].offset = len(packed(made))
    data = packed(made) + bytes(8)
    check_tflite(data)
    with pytest.raises(ValueError, match="8 bytes of data at byte"):
        check_tflite(data[:-1])
    known = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    assert {number: known[number] for number in TFLITE_OPERATORS} == TFLITE_OPERATORS


@pytest.mark.parametrize(("change", "told"), REFUSED)
def test_a_graph_that_could_be_turned_against_the_device_is_refused(change, told):
    made = model()
    change(made)
    data = packed(made)
    assert said(ValueError, lambda: check_tflite(data)) == f"the graph has {told.replace('BYTES', str(len(data)))}"


def test_a_file_that_ends_early_is_refused():
    for length in range(0, 60, 7):
        said(ValueError, check_tflite, packed(model())[:length])


def test_buffers_and_lists_that_overlap_or_end_outside_are_no_trap(monkeypatch):
    made = model()
    shared = schema.BufferT()
    shared.data = list(bytes(1 << 14))
    made.buffers.append(shared)
    many = packed(made)
    reading = TableReader(many)
    buffer = reading.table(reading.number("<I", 0)).tables(4)[2]
    tracemalloc.start()
    try:
        assert data_bytes(buffer, len(many)) == 1 << 14
        assert tracemalloc.get_traced_memory()[1] < 1 << 12
    finally:
        tracemalloc.stop()
    whole = bytearray(packed(model()))
    place = whole.rindex(struct.pack("<I", 8) + bytes(8))
    whole[place : place + 4] = struct.pack("<I", 1 << 20)
    told = "the graph has a list of 1048576 items; expected one inside of the file"
    assert said(ValueError, lambda: check_tflite(bytes(whole))) == told
    monkeypatch.setattr("mmkd_edge.install.graphs.MAX_FIELDS", 30_000)
    made = model()
    made.subgraphs[0].operators = [made.subgraphs[0].operators[0]] * 40
    made.subgraphs[0].operators[0].inputs = [0] * 1000
    told = "the graph has more items in lists; expected at most 30000"
    assert said(ValueError, lambda: check_tflite(packed(made))) == told
