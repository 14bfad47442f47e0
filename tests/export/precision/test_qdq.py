from __future__ import annotations

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from mmkd_edge.predict.preprocess import prepare
from mmkd_export.graph.calibration import clipping_range, tensor_magnitudes
from mmkd_export.graph.onnx_graph import learnt_layers, select_layers
from mmkd_export.precision.qdq import quantised_graph, quantised_weights, weight_scales
from mmkd_models.training.checkpoint import StudentCheckpoint


@pytest.fixture(scope="module")
def model(student_graph: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(student_graph)


@pytest.fixture(scope="module")
def feeds(student: StudentCheckpoint) -> list[dict[str, np.ndarray]]:
    return [
        dict(zip(("acc", "acc_present"), prepare(w, student.modality), strict=True)) for w in student.carried.windows
    ]


@pytest.fixture(scope="module")
def quantised(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> onnx.ModelProto:
    layers = select_layers(learnt_layers(model), ops=("Conv", "MatMul"))
    found = tensor_magnitudes(model, sorted({layer.source for layer in layers}), feeds)
    return quantised_graph(model, layers, {name: clipping_range(found[name], "minmax") for name in found})


def _logits(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.concatenate([session.run(["logits"], window)[0] for window in feeds])


def test_every_chosen_layer_reads_int8_and_nothing_else_changed(model: onnx.ModelProto, quantised: onnx.ModelProto):
    before = collections.Counter(node.op_type for node in model.graph.node)
    after = collections.Counter(node.op_type for node in quantised.graph.node)
    # Four layers with weights of their own; four different tensors that they read.
    assert after - before == {"QuantizeLinear": 4, "DequantizeLinear": 8}
    assert before - after == {}
    makers = {node.output[0]: node.op_type for node in quantised.graph.node}
    for node in quantised.graph.node:
        if node.op_type in ("Conv", "MatMul") and node.input[1].endswith(".weight_dq"):
            assert [makers[name] for name in node.input[:2]] == ["DequantizeLinear", "DequantizeLinear"]


def test_zero_points_are_zero_weights_are_int8_and_biases_float(quantised: onnx.ModelProto):
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    for node in quantised.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = arrays[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert arrays[node.input[1]].dtype == np.float32
    weights = {name: array for name, array in arrays.items() if name.endswith(".weight_q")}
    assert len(weights) == 4
    assert all(array.dtype == np.int8 and np.abs(array.astype(int)).max() == 127 for array in weights.values())
    assert not any(array.dtype == np.int32 for array in arrays.values())


def test_float_copies_of_quantised_weights_are_gone(model: onnx.ModelProto, quantised: onnx.ModelProto):
    used = {name for node in quantised.graph.node for name in node.input}
    assert {tensor.name for tensor in quantised.graph.initializer} <= used
    assert quantised.ByteSize() < model.ByteSize()


def test_onnxruntime_computes_the_products_in_int8(quantised: onnx.ModelProto, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(quantised.SerializeToString(), options)
    kinds = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["MatMulIntegerToFloat"] == 4  # the four products of the block, each with its bias behind it


def test_answers_stay_near(model: onnx.ModelProto, quantised: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]):
    before, after = _logits(model, feeds), _logits(quantised, feeds)
    difference = np.abs(before - after).max()
    # 8 bits over ranges of a few units, four layers deep: some hundredths; and never exactly the same.
    assert 0 < difference < 0.1


def test_layers_that_read_one_tensor_share_its_q_and_dq():
    nodes = [
        helper.make_node("Conv", ["x", "f"], ["c"], name="stem", kernel_shape=[1]),
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "a"], ["y"]),
        helper.make_node("MatMul", ["t", "b"], ["z"]),
    ]
    rng = np.random.default_rng(0)
    shapes = {"f": (16, 3, 1), "a": (16, 16), "b": (16, 32)}
    weights = [numpy_helper.from_array(rng.random(shape, dtype=np.float32), name) for name, shape in shapes.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8))],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 16)),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 8, 32)),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    layers = select_layers(learnt_layers(model), ops=("MatMul",))
    quantised = quantised_graph(model, layers, {"t": 2.0})
    onnx.checker.check_model(quantised, full_check=True)
    kinds = collections.Counter(node.op_type for node in quantised.graph.node)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (1, 3)
    scale = next(numpy_helper.to_array(t) for t in quantised.graph.initializer if t.name == "t_scale")
    assert scale == np.float32(2.0 / 127)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.floats(-8, 8, width=32)),
    st.integers(0, 1),
)
def test_a_rounded_weight_is_within_half_a_step(values: np.ndarray, axis: int):
    scales = weight_scales(values, axis)
    assert (scales > 0).all()
    shape = [1] * values.ndim
    shape[axis] = -1
    steps = scales.reshape(shape).astype(np.float64)
    restored = quantised_weights(values, scales, axis).astype(np.float64) * steps
    # 1e-6: the scale itself is rounded to float32.
    assert (np.abs(restored - values) <= steps * (0.5 + 1e-5) + 1e-6).all()
