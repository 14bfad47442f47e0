"""Weights outside a model are found by reading it, however it is encoded."""

import onnx
import pytest
from onnx import helper, numpy_helper

from mmkd_edge import BackendError
from mmkd_edge.backends.onnx_wire import has_external_weights, numbers, refuse_external_weights
from tests.edge.said import said

OUTSIDE = "its weights are in another file, which nothing verifies"


def test_weights_outside_are_found_wherever_a_tensor_may_stand_and_the_word_alone_is_none(kit):
    outside = numpy_helper.from_array(numpy_helper.to_array(helper.make_tensor("w", 1, [2], [1.0, 2.0])), "w")
    onnx.external_data_helper.set_external_data(outside, "weights.bin")
    constant = helper.make_node("Constant", [], ["c"], value=outside)
    inner = helper.make_graph([constant], "inner", [], [])
    branch = helper.make_node("If", ["flag"], ["c"], then_branch=inner, else_branch=inner)
    sparse = helper.make_sparse_tensor(outside, helper.make_tensor("i", 7, [2], [0, 1]), [4])
    function = helper.make_function("own", "f", [], ["c"], [constant], [helper.make_opsetid("", 20)])
    opset = [helper.make_opsetid("", 20)]
    for graph, functions in (
        (helper.make_graph([constant], "g", [], []), []),
        (helper.make_graph([branch], "g", [], []), []),
        (helper.make_graph([], "g", [], [], sparse_initializer=[sparse]), []),
        (helper.make_graph([], "g", [], []), [function]),
    ):
        model = helper.make_model(graph, functions=functions, opset_imports=opset)
        assert said(BackendError, refuse_external_weights, model.SerializeToString()) == OUTSIDE
    parsed = onnx.load_from_string(kit.model(kit.modality))
    parsed.graph.node[0].name = "location"
    refuse_external_weights(parsed.SerializeToString())
    assert not has_external_weights(parsed.SerializeToString())
    assert numbers((1 << 64) - 1) == [-1]
    assert numbers(memoryview(b"\x05" + b"\xff" * 9 + b"\x01")) == [5, -1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"location", "a field of wire type 4, which no engine takes"),
        (b"\x3a\x20location", "a field is longer than its message"),
        (b"\x12\x08location\x80", "a number is cut off"),
        (b"\x12\x08location" + b"\x80" * 11, "a number is too long"),
        (b"\x12\x08location\x38\x01", "field 7 of a model is no message"),
    ],
)
def test_what_is_no_message_is_refused_where_it_could_name_a_file(data, reason):
    assert said(BackendError, refuse_external_weights, data) == f"it is not readable as ONNX: {reason}"
