from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from mmkd_export.precision.fp16 import FP16_LIMIT, HalfGraph, half_graph
from mmkd_export.verify.answers import graph_feeds
from mmkd_models.training.checkpoint import StudentCheckpoint

HALF, SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def _half(model: onnx.ModelProto, student: StudentCheckpoint) -> HalfGraph:
    return half_graph(model, graph_feeds(student.carried.windows, student.modality))


@pytest.fixture(scope="module")
def model(student_graph: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(student_graph)


@pytest.fixture(scope="module")
def half(model: onnx.ModelProto, student: StudentCheckpoint) -> HalfGraph:
    return _half(model, student)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for values in (inferred.input, inferred.output, inferred.value_info):
        types |= {value.name: value.type.tensor_type.elem_type for value in values}
    return types


def _logits(model: onnx.ModelProto, student: StudentCheckpoint) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feeds = graph_feeds(student.carried.windows, student.modality)
    return np.concatenate([session.run(["logits"], dict(window))[0] for window in feeds])


def test_the_graph_is_valid_and_its_inputs_and_outputs_stay_float32(half: HalfGraph):
    onnx.checker.check_model(half.model, full_check=True)
    types = _types(half.model)
    tensors = [*half.model.graph.input, *half.model.graph.output]
    assert {types[tensor.name] for tensor in tensors} == {SINGLE}


def test_products_compute_in_fp16_and_sensitive_operators_in_float32(half: HalfGraph):
    types = _types(half.model)
    of = {(node.op_type, types[node.output[0]]) for node in half.model.graph.node}
    assert {("Conv", HALF), ("MatMul", HALF), ("Gelu", HALF)} <= of
    for op in ("LayerNormalization", "Softmax", "ReduceSum", "ReduceMean", "Div", "Sqrt", "Log"):
        assert (op, SINGLE) in of
        assert (op, HALF) not in of


def test_the_front_end_and_the_head_stay_float32(half: HalfGraph):
    types = _types(half.model)
    assert types["student.encoder.front.mean"] == SINGLE
    assert types["student.encoder.front.spectrum_basis"] == SINGLE
    assert types["student.head.weight"] == SINGLE
    assert "student.encoder.stem.0.weight_half" in types


def test_a_tensor_is_cast_once(half: HalfGraph):
    casts = [node.input[0] for node in half.model.graph.node if node.op_type == "Cast" and node.name.endswith("_half")]
    assert len(casts) == len(set(casts))


def test_answers_stay_within_fp16s_rounding(half: HalfGraph, model: onnx.ModelProto, student: StudentCheckpoint):
    difference = np.abs(_logits(half.model, student) - _logits(model, student)).max()
    # 11 bits: 5e-4 of values around 1, a dozen layers deep.
    assert 0 < difference < 5e-3


def test_nothing_is_too_large_in_an_ordinary_student(half: HalfGraph):
    assert half.too_large == {}
    assert half.nodes > 30


def test_what_overflows_fp16_stays_float32_and_is_named(model: onnx.ModelProto, student: StudentCheckpoint):
    loud = onnx.ModelProto()
    loud.CopyFrom(model)
    factor = np.float32(4e6)
    for name, scale in (("student.encoder.stem.0.weight", factor), ("student.encoder.stem.0.bias", factor)):
        tensor = next(tensor for tensor in loud.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * scale, name))
    found = _half(loud, student)
    convolution = next(node.name for node in loud.graph.node if node.op_type == "Conv")
    assert found.too_large[convolution] > FP16_LIMIT
    answers = _logits(found.model, student)
    assert np.isfinite(answers).all()
    np.testing.assert_allclose(answers, _logits(loud, student), atol=0.02)
