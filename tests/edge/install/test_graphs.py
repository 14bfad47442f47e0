"""What no engine is given: told from the bytes of a graph, by us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mmkd_edge.install.graphs import MAX_NODES, check_graph

Change = Callable[[ModelProto], object]


@pytest.fixture
def student(kit: Any) -> ModelProto:
    return onnx.load_from_string(kit.model(kit.modality))


def refusal(model: ModelProto | bytes) -> str:
    with pytest.raises(ValueError) as caught:
        check_graph(model if isinstance(model, bytes) else model.SerializeToString())
    return str(caught.value)


def node(*arguments: Any, **attributes: Any) -> Change:
    """Adds a node."""
    return lambda model: model.graph.node.append(helper.make_node(*arguments, **attributes))


def constant(**facts: Any) -> Change:
    """Adds a constant."""
    return lambda model: model.graph.initializer.append(TensorProto(data_type=1, **facts))


def with_branch(model: ModelProto) -> None:
    node("Identity", ["acc"], ["same"])(model)
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node[-1].attribute.append(helper.make_attribute("then_branch", inner))


def with_function(model: ModelProto) -> None:
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], [], [helper.make_opsetid("", 20)]))


def with_sparse(model: ModelProto) -> None:
    values = helper.make_tensor("v", 1, [1], [1.0])
    places = helper.make_tensor("i", 7, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [1 << 40]))


def with_many_nodes(model: ModelProto) -> None:
    model.graph.node.extend(helper.make_node("Identity", ["acc"], [f"n{n}"]) for n in range(MAX_NODES))


def with_large_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 40


def with_sequence_input(model: ModelProto) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("acc", 1, [1, 20, 3]))


def with_domain(model: ModelProto) -> None:
    model.opset_import[0].domain = "com.microsoft"


def with_too_few_values(model: ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("few", TensorProto.INT64, [3], [1, 2, 3]))
    model.graph.initializer[-1].dims[0] = 2


def with_many_packed(model: ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("packed", TensorProto.INT64, [1 << 20], [200] * (1 << 20)))


LOOP = helper.make_graph([], "body", [], [])
CLAIM = TensorProto(name="bomb", data_type=1, dims=[1 << 40])
REFUSED: dict[str, Change] = {
    "the operator 'Loop'; expected one that students are made of": node("Loop", ["count", "on"], [], body=LOOP),
    "field 6 of a attribute; expected only what mmkd-export writes": with_branch,
    "field 25 of a model; expected only what mmkd-export writes": with_function,
    "a tensor of the shape (1048576, 1048576) in ": constant(name="bomb", dims=[1 << 20, 1 << 20]),
    "a tensor of the shape (1099511627776,) in ": node("Constant", [], ["c"], value=CLAIM),
    "weights in another file; expected all in this one, which is verified": constant(dims=[0], data_location=1),
    "an attribute of 'MaxPool' of 1099511627776; expected up to 2147483647": node(
        "MaxPool", ["acc"], ["p"], kernel_shape=[2], pads=[0, 1 << 40]
    ),
    "an empty last input of 'LayerNormalization'; expected none": node(
        "LayerNormalization", ["acc", "weights", ""], ["n"]
    ),
    "field 15 of a graph; expected only what mmkd-export writes": with_sparse,
    "more nodes; expected at most 5000": with_many_nodes,
    "an input or output of the shape [1, 1099511627776, 3]; ": with_large_input,
    "an input or output of the shape []; ": with_sequence_input,
    "an operator of the domain 'com.microsoft'; expected ONNX's own": node(
        "MatMul", ["acc"], ["x"], domain="com.microsoft"
    ),
    "the domain com.microsoft; expected ONNX's own": with_domain,
    "a tensor with its values in two places; expected one": constant(dims=[1], float_data=[1], raw_data=b"1234"),
    "a tensor of the shape (2,) with 3 values; expected as many": with_too_few_values,
    "many packed numbers; expected at most 1048576 bytes": with_many_packed,
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_graph_that_could_be_turned_against_the_device_is_refused(student: ModelProto, fault: str) -> None:
    REFUSED[fault](student)
    assert refusal(student).startswith(f"the graph has {fault}")


def test_versions_that_no_export_writes_are_refused(student: ModelProto) -> None:
    student.opset_import[0].version = 99
    assert refusal(student) == "the graph has opset 99; expected 17 to 21"
    student.opset_import[0].version = 20
    student.ir_version = 999
    assert refusal(student) == "the graph has IR version 999; expected 8 to 10"


def test_a_second_graph_does_not_hide_behind_the_first(student: ModelProto) -> None:
    data = student.SerializeToString()  # a protobuf parser merges both
    assert refusal(data + data) == "the graph has 2 graphs and 2 opsets; expected one of each"


def test_bytes_that_are_no_graph_are_refused() -> None:
    assert refusal(b"") == "the graph has 0 graphs and 0 opsets; expected one of each"
    assert refusal(b"not a model") == "a field of wire type 6, which no engine takes"
    assert refusal(b"\x3a\xff\x01") == "a field is longer than its message"


def test_fields_are_counted_so_that_reading_ends(student: ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmkd_edge.install.graphs.MAX_FIELDS", 40)
    assert refusal(student) == "the graph has more fields; expected at most 40"


def test_every_truncation_of_a_student_is_refused_with_a_value_error(kit: Any) -> None:
    data = kit.model(kit.modality)
    for size in range(len(data)):
        refusal(data[:size])


def test_students_pass(kit: Any, student: ModelProto) -> None:
    check_graph(kit.model(kit.modality))
    student.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    student.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 3), np.float32), "none"))
    student.graph.node.append(helper.make_node("Constant", [], ["c"], value_ints=[1, -1]))
    check_graph(student.SerializeToString())


def test_who_made_a_graph_may_be_said(student: ModelProto) -> None:
    student.producer_name, student.producer_version, student.doc_string = "mmkd-export", "0.1.0", "a student"
    student.graph.node.append(helper.make_node("Constant", [], ["c"], value_int=1))
    student.graph.node[-1].attribute[0].doc_string = "a number"
    check_graph(student.SerializeToString())


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x38\x01\x42\x02\x10\x14", "graph"),  # field 7 of a model, the graph, as the number 1; opset 20
        (b"\x3a\x00\x40\x01", "opset"),
        (b"\x3a\x00\x42\x02\x08\x01", "domain"),  # an opset whose domain is the number 1
    ],
)
def test_a_number_in_the_place_of_something_else_is_refused(data: bytes, what: str) -> None:
    assert refusal(data) == f"the graph has a number where a {what} belongs"


def test_bytes_in_the_place_of_a_number_are_refused() -> None:
    tensor = b"\x12\x01\x01"  # field 2 of a tensor, its type, as bytes
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    model = b"\x42\x02\x10\x14\x3a" + bytes([len(graph)]) + graph
    assert refusal(model) == "the graph has bytes where a type belongs"


def test_whole_numbers_may_be_packed(student: ModelProto) -> None:
    student.graph.initializer.append(helper.make_tensor("packed", TensorProto.INT64, [1], [0]))
    student.graph.initializer.append(helper.make_tensor("floats", TensorProto.FLOAT, [1, 1], [0.5]))
    student.graph.node.append(helper.make_node("Squeeze", ["floats", "packed"], ["one"]))
    check_graph(student.SerializeToString())
