"""What no engine is given: told from the bytes of a graph, by us."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from mmkd_edge import Bundle, example_bundle
from mmkd_edge.install.graphs import check_graph
from mmkd_edge.opening.sandbox import check_graphs
from tests.edge.said import said

FILES = Path(__file__).parents[2] / "files"


@pytest.fixture
def student(kit):
    return onnx.load_from_string(kit.model(kit.modality))


def refusal(model):
    return said(ValueError, check_graph, model if isinstance(model, bytes) else model.SerializeToString())


def node(*arguments, **attributes):
    return lambda model: model.graph.node.append(helper.make_node(*arguments, **attributes))


def constant(**facts):
    return lambda model: model.graph.initializer.append(TensorProto(data_type=1, **facts))


def with_branch(model):
    node("Identity", ["acc"], ["same"])(model)
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node[-1].attribute.append(helper.make_attribute("then_branch", inner))


def with_sparse(model):
    values = helper.make_tensor("v", 1, [1], [1.0])
    places = helper.make_tensor("i", 7, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [1 << 40]))


FUNCTION = helper.make_function("own", "F", ["x"], ["y"], [], [helper.make_opsetid("", 20)])
THEIRS = helper.make_opsetid("com.microsoft", 20)
SEQUENCE = helper.make_tensor_sequence_value_info("acc", 1, [1, 20, 3])
LOOP = helper.make_graph([], "body", [], [])
REFUSED = {
    "the operator 'Loop'; expected one that students are made of": node("Loop", ["count", "on"], [], body=LOOP),
    "field 6 of a attribute; expected only what mmkd-export writes": with_branch,
    "field 25 of a model; expected only what mmkd-export writes": lambda model: model.functions.append(FUNCTION),
    "weights in another file; expected all in this one, which is verified": constant(dims=[0], data_location=1),
    "an attribute of 'MaxPool' of 1099511627776; expected up to 2147483647": node(
        "MaxPool", ["acc"], ["p"], kernel_shape=[2], pads=[0, 1 << 40]
    ),
    "field 15 of a graph; expected only what mmkd-export writes": with_sparse,
    "an operator of the domain 'com.microsoft'; expected ONNX's own": node(
        "MatMul", ["acc"], ["x"], domain="com.microsoft"
    ),
    "the domain 'com.microsoft'; expected ONNX's own": lambda model: model.opset_import[0].CopyFrom(THEIRS),
    "field 4 of a type; expected only what mmkd-export writes": lambda model: model.graph.input[0].CopyFrom(SEQUENCE),
    "two tensors with the name 'acc'; expected one": node("Identity", ["acc"], ["acc"]),
    "inputs ['nobody'] of 'Relu' that nothing gives; expected tensors": node("Relu", ["nobody"], ["r"]),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_graph_that_could_be_turned_against_the_device_is_refused(student, fault):
    REFUSED[fault](student)
    assert refusal(student).startswith(f"the graph has {fault}")


def test_bytes_of_no_known_graph_or_version_are_refused(student):
    student.opset_import[0].version = 99
    assert refusal(student) == "the graph has opset 99; expected 17 to 21"
    data = student.SerializeToString()  # a protobuf parser merges both
    assert refusal(data + data) == "the graph has 2 graphs and 2 opsets; expected one of each"
    assert refusal(b"") == "the graph has 0 graphs and 0 opsets; expected one of each"
    assert refusal(b"not a model") == "a field of wire type 6, which no engine takes"
    assert refusal(b"\x3a\xff\x01") == "a field is longer than its message"
    # Field 7 of a model, the graph, as the number 1; an opset whose domain is the number 1.
    assert refusal(b"\x38\x01\x42\x02\x10\x14") == "the graph has a number where a graph belongs"
    assert refusal(b"\x3a\x00\x42\x02\x08\x01") == "the graph has a number where a name belongs"


def test_reading_ends_at_a_count_of_fields_and_at_every_truncation(student, monkeypatch, kit):
    monkeypatch.setattr("mmkd_edge.install.graphs.MAX_FIELDS", 40)
    assert refusal(student) == "the graph has more fields; expected at most 40"
    monkeypatch.setattr("mmkd_edge.install.graphs.MAX_FIELDS", 1000)
    node("MaxPool", ["acc"], ["p"], kernel_shape=[1] * 2000)(student)
    packed = student.SerializeToString().replace(b"\x40\x01" * 2000, b"")
    assert len(packed) < len(student.SerializeToString())
    assert refusal(student) == "the graph has more fields; expected at most 1000"
    data = kit.model(kit.modality)
    for size in range(0, len(data), 3):
        refusal(data[:size])


def test_students_pass(kit, student):
    student.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    student.producer_name, student.producer_version, student.doc_string = "mmkd-export", "0.1.0", "a student"
    node("Constant", [], ["c"], value_ints=[1, -1])(student)
    student.graph.node[-1].attribute[0].doc_string = "two numbers"
    node("Clip", ["acc", "", "c"], ["k"])(student)
    check_graph(student.SerializeToString())


@pytest.mark.parametrize("path", [example_bundle(), *sorted(FILES.rglob("*.edge"))], ids=lambda path: path.stem)
def test_bundles_pass(path):
    with Bundle.open(path) as bundle:
        check_graphs(bundle)


PLACES = [
    ("Gather", 1), ("GatherND", 1), ("Pad", 1), ("Pad", 3), ("Reshape", 1), ("Slice", 2), ("Split", 1), ("Squeeze", 1),
    ("ReduceSum", 1),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "place"), PLACES)
def test_what_depends_on_a_window_is_refused(student, operator, place):
    node("Cast", ["acc"], ["places"], to=TensorProto.INT64)(student)
    node("Shape", ["acc"], ["sizes"])(student)
    student.graph.node.append(helper.make_node(operator, ["acc", *["sizes"] * place], ["a"]))
    check_graph(student.SerializeToString())
    student.graph.node[-1].input[place] = "places"
    told = f"an input {place} of {operator!r} that is computed from a window; expected a constant"
    assert refusal(student) == f"the graph has {told}"


@pytest.mark.parametrize(
    ("made", "is_float"),
    [
        (node("Cast", ["acc"], ["n"], to=TensorProto.INT32), False),
        (node("Cast", ["acc"], ["n"], to=TensorProto.FLOAT16), True),
        (node("ArgMax", ["acc"], ["n"]), False),
        (node("Constant", [], ["n"], value_int=1), False),
        (node("Constant", [], ["n"], value_float=1.0), True),
        (node("Constant", [], ["n"], value=helper.make_tensor("v", TensorProto.INT64, [1], [1])), False),
        (node("DequantizeLinear", ["acc", "weights"], ["n"]), True),
        (node("Where", ["acc", "weights", "weights"], ["n"]), True),
    ],
)
def test_whole_numbers_are_not_divided(student, made, is_float):
    made(student)
    node("Div", ["n", "n"], ["d"])(student)
    if is_float:
        check_graph(student.SerializeToString())
    else:
        assert refusal(student).startswith("the graph has a division of whole numbers")


def test_a_step_graph_may_look_up_what_the_number_of_a_step_says():
    with Bundle.open(FILES / "causal.edge") as bundle:
        streaming = bundle.manifest.models[0].streaming
        step = bundle.read(streaming.artifacts[0].file)
    check_graph(step, steps=True)
    assert refusal(step).endswith("of 'GatherND' that is computed from a window; expected a constant")
