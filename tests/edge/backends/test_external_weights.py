"""Weights outside a model are found by reading it, however it is encoded."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import helper, numpy_helper

from mmkd_edge import BackendError
from mmkd_edge.backends.onnx_wire import has_external_weights, refuse_external_weights


def said(model: bytes) -> str:
    with pytest.raises(BackendError) as caught:
        refuse_external_weights(model)
    return str(caught.value)


OUTSIDE = "its weights are in another file, which nothing verifies"


def with_outside_weights(model: bytes) -> bytes:
    parsed = onnx.load_from_string(model)
    weights = next(tensor for tensor in parsed.graph.initializer if tensor.name == "weights")
    onnx.external_data_helper.set_external_data(weights, "weights.bin")
    data: bytes = parsed.SerializeToString()
    return data


def test_a_length_that_is_written_too_long_hides_nothing(kit: Any) -> None:
    # The same key, its length 8 in two bytes (0x88 0x00): protobuf takes it. Its surroundings grow by that byte.
    parsed = onnx.load_from_string(with_outside_weights(kit.model(kit.modality)))
    entry = parsed.graph.initializer.pop(1)
    assert entry.name == "weights"
    tensor = entry.SerializeToString()
    pair = entry.external_data[0].SerializeToString()
    longer = pair.replace(b"\n\x08location", b"\n\x88\x00location")
    tensor = tensor.replace(bytes([len(pair)]) + pair, bytes([len(longer)]) + longer)
    graph = parsed.graph.SerializeToString() + b"\x2a" + varint(len(tensor)) + tensor
    parsed.ClearField("graph")
    model = parsed.SerializeToString() + b"\x3a" + varint(len(graph)) + graph
    assert onnx.load_from_string(model).graph.initializer[-1].external_data[0].key == "location"
    assert b"\n\x08location" not in model
    assert said(model) == OUTSIDE


def varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def test_weights_outside_are_found_wherever_a_tensor_may_stand(kit: Any) -> None:
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
        assert said(model.SerializeToString()) == OUTSIDE


def test_the_word_alone_is_no_offence(kit: Any) -> None:
    parsed = onnx.load_from_string(kit.model(kit.modality))
    parsed.graph.node[0].name = "location"
    refuse_external_weights(parsed.SerializeToString())
    assert not has_external_weights(parsed.SerializeToString())


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
def test_what_is_no_message_is_refused_where_it_could_name_a_file(data: bytes, reason: str) -> None:
    assert said(data) == f"it is not readable as ONNX: {reason}"
