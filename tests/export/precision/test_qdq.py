import collections

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from mmkd_documents.export import GateResult
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.predict.preprocess import prepare
from mmkd_export.graph.calibration import BINS, Magnitudes, add_values, clipping_range, tensor_magnitudes
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.graph.onnx_graph import learnt_layers, select_layers
from mmkd_export.precision import rewrite
from mmkd_export.precision.make import int8_graph
from mmkd_export.verify.answers import answers_from_backend, graph_feeds
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from tests.export.students import make_student


@pytest.fixture(scope="module")
def model(student_graph):
    return onnx.load_from_string(student_graph)


@pytest.fixture(scope="module")
def feeds(student):
    return [dict(window) for window in graph_feeds(student.carried.windows, student.modality)]


@pytest.fixture(scope="module")
def quantised(model, feeds):
    layers = select_layers(learnt_layers(model), ops=("Conv", "MatMul"))
    found = tensor_magnitudes(model, sorted({layer.source for layer in layers}), feeds)
    return rewrite.quantised_graph(model, layers, {name: clipping_range(found[name], "minmax") for name in found})


def _logits(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.concatenate([session.run(["logits"], window)[0] for window in feeds])


def test_chosen_layers_read_int8_and_weights_are_int8_with_zero_at_zero(model, quantised, tmp_path, feeds):
    before = collections.Counter(node.op_type for node in model.graph.node)
    after = collections.Counter(node.op_type for node in quantised.graph.node)
    # Four layers with weights of their own; four different tensors that they read.
    assert after - before == {"QuantizeLinear": 4, "DequantizeLinear": 8}
    assert before - after == {}
    makers = {node.output[0]: node.op_type for node in quantised.graph.node}
    for node in quantised.graph.node:
        if node.op_type in ("Conv", "MatMul") and node.input[1].endswith(".weight_dq"):
            assert [makers[name] for name in node.input[:2]] == ["DequantizeLinear", "DequantizeLinear"]
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
    used = {name for node in quantised.graph.node for name in node.input}
    assert {tensor.name for tensor in quantised.graph.initializer} <= used
    assert quantised.ByteSize() < model.ByteSize()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(quantised.SerializeToString(), options)
    kinds = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["MatMulIntegerToFloat"] == 4  # the four products of the block, each with its bias behind it
    before, after = _logits(model, feeds), _logits(quantised, feeds)
    # 8 bits over ranges of a few units, four layers deep: some hundredths; and never exactly the same.
    assert 0 < np.abs(before - after).max() < 0.1


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
    x, *outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {"x": (1, 3, 8), "y": (1, 8, 16), "z": (1, 8, 32)}.items()
    )
    graph = helper.make_graph(nodes, "g", [x], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    quantised = rewrite.quantised_graph(model, select_layers(learnt_layers(model), ops=("MatMul",)), {"t": 2.0})
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
def test_a_rounded_weight_is_within_half_a_step(values, axis):
    scales = rewrite.weight_scales(values, axis)
    assert (scales > 0).all()
    shape = [1] * values.ndim
    shape[axis] = -1
    steps = scales.reshape(shape).astype(np.float64)
    restored = rewrite.quantised_weights(values, scales, axis).astype(np.float64) * steps
    # 1e-6: the scale itself is rounded to float32.
    assert (np.abs(restored - values) <= steps * (0.5 + 1e-5) + 1e-6).all()


HALF, SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def half(model, student):
    return rewrite.half_graph(model, graph_feeds(student.carried.windows, student.modality))


def _types(model):
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for values in (inferred.input, inferred.output, inferred.value_info):
        types |= {value.name: value.type.tensor_type.elem_type for value in values}
    return types


def test_products_compute_in_fp16_and_sensitive_parts_inputs_and_outputs_in_float32(half, model, feeds):
    onnx.checker.check_model(half.model, full_check=True)
    assert (half.too_large, half.nodes > 30) == ({}, True)
    types = _types(half.model)
    assert {types[tensor.name] for tensor in (*half.model.graph.input, *half.model.graph.output)} == {SINGLE}
    of = {(node.op_type, types[node.output[0]]) for node in half.model.graph.node}
    assert {("Conv", HALF), ("MatMul", HALF), ("Gelu", HALF)} <= of
    for op in ("LayerNormalization", "Softmax", "ReduceSum", "ReduceMean", "Div", "Sqrt", "Log"):
        assert (op, SINGLE) in of
        assert (op, HALF) not in of
    assert types["student.encoder.front.mean"] == SINGLE
    assert types["student.encoder.front.spectrum_basis"] == SINGLE
    assert types["student.head.weight"] == SINGLE
    assert "student.encoder.stem.0.weight_half" in types
    casts = [node.input[0] for node in half.model.graph.node if node.op_type == "Cast" and node.name.endswith("_half")]
    assert len(casts) == len(set(casts))
    # 11 bits: 5e-4 of values around 1, a dozen layers deep.
    assert 0 < np.abs(_logits(half.model, feeds) - _logits(model, feeds)).max() < 5e-3


def test_what_overflows_fp16_stays_float32_and_is_named(model, student, feeds):
    loud = onnx.ModelProto()
    loud.CopyFrom(model)
    for tensor in loud.graph.initializer:
        if tensor.name in ("student.encoder.stem.0.weight", "student.encoder.stem.0.bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(4e6), tensor.name))
    found = rewrite.half_graph(loud, graph_feeds(student.carried.windows, student.modality))
    convolution = next(node.name for node in loud.graph.node if node.op_type == "Conv")
    assert found.too_large[convolution] > rewrite.FP16_LIMIT
    answers = _logits(found.model, feeds)
    assert np.isfinite(answers).all()
    np.testing.assert_allclose(answers, _logits(loud, feeds), atol=0.02)


BLOCK = "encoder.blocks.0."


def _gate(*, passes):
    figures = {"allowed_drop_points": 0.5, "label_agreement": 1.0, "least_agreement": 0.99, "finite": True}
    return GateResult(windows=100, labelled=100, metric="accuracy", drop_points=0.0 if passes else 3.0, **figures)


@pytest.fixture
def search(student, student_graph):
    """Runs the search with a gate that passes at the attempt of that number; 0 never passes."""
    windows = student.carried.windows

    def answer(model):
        return answers_from_backend(OrtBackend(model.SerializeToString()), windows, student.modality)

    def run(*, passing, graph=student_graph, ops=("Conv", "Gemm", "MatMul")):
        count = 0

        def gate(model):
            nonlocal count
            count += 1
            return _gate(passes=count == passing)

        model = onnx.load_from_string(graph)
        layers = select_layers(learnt_layers(model), ops=ops)
        return int8_graph(model, layers, list(graph_feeds(windows, student.modality)), answer=answer, gate=gate)

    return run


REMEDIES = [
    ("all but the first layer", "minmax", 4),
    ("ranges by percentile", "percentile", 4),
    ("last layer in float32", "percentile", 3),
]


@pytest.mark.parametrize(("passing", "tried"), [(1, REMEDIES[:1]), (0, REMEDIES)])
def test_remedies_come_in_order_and_add_up_until_one_passes(search, passing, tried):
    found = search(passing=passing)
    attempts = [(attempt.remedy, attempt.method, attempt.layers) for attempt in found.attempts]
    assert (attempts[: len(tried)], found.attempts[-1].gate.passed) == (tried, passing == 1)
    # Half of four layers must stay INT8, so one more may go back.
    assert ([count for _, _, count in attempts[len(tried) :]], len(found.layers)) == (([], 4) if passing else ([2], 2))


def test_sensitivity_is_measured_for_every_layer_and_the_worst_go_back_first(search):
    found = search(passing=1, ops=("MatMul",))
    names = ("attention.project", "attention.out", "feedforward.up", "feedforward.down")
    assert {row.layer for row in found.sensitivity} == {f"{BLOCK}{name}" for name in names}
    divergences = [row.divergence for row in found.sensitivity]
    assert divergences == sorted(divergences, reverse=True)
    assert all(row.divergence > 0 for row in found.sensitivity)
    encoder = EncoderConfig(width=16, heads=2, depth=2, spectrum_bands=8)
    deeper = make_student(config=StudentConfig(preset="toy", encoder=encoder), windows=3)
    found = search(passing=0, graph=onnx_from_student(deeper))
    reverted = [attempt.remedy for attempt in found.attempts[3:]]
    inner = [row.layer for row in found.sensitivity if row.layer != "encoder.blocks.1.feedforward.down"]
    # Eight layers, the last of them gone before: three more may go, so that half stay INT8.
    assert reverted == [f"{name} in float32" for name in inner[:3]]
    assert [attempt.layers for attempt in found.attempts[3:]] == [6, 5, 4]
    assert set(inner[:3]).isdisjoint(found.layers)


EMPTY = Magnitudes(counts=np.zeros(BINS, dtype=np.int64), top=0.0, largest=0.0)


def _magnitudes(*batches):
    found = EMPTY
    for batch in batches:
        found = add_values(found, batch.astype(np.float32))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=6
    )
)
def test_counts_are_those_of_a_histogram_over_everything(batches):
    found = _magnitudes(*batches)
    everything = np.abs(np.concatenate(batches).astype(np.float64))
    assert found.largest == everything.max()
    assert (found.counts.shape, found.counts.sum()) == ((BINS,), len(everything))  # memory does not grow with windows
    if found.top > 0:
        edges = np.arange(BINS + 1) * (found.top / BINS)
        for value in everything:  # every value is in the bin that counts it, give or take one for values on an edge
            near = slice(max(0, int(value / found.top * BINS) - 1), int(value / found.top * BINS) + 2)
            assert found.counts[near].sum() > 0
        assert edges[-1] >= everything.max()


def test_a_percentile_ignores_one_glitch_in_a_million():
    found = _magnitudes(np.linspace(0, 1, 100_000), np.array([50.0]))
    assert clipping_range(found, "minmax") == 50.0
    # Two bins of a histogram to 64 (the top doubles from 1 until it holds 50) are 1/16 wide together.
    assert clipping_range(found, "percentile") == pytest.approx(1.0, abs=1 / 16)


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-100, 100, width=32)))
def test_no_method_leaves_the_range_of_the_values(values):
    found = _magnitudes(values)
    for method in ("minmax", "percentile"):
        assert 0 < clipping_range(found, method) <= max(found.largest, 1.0)


def test_a_graphs_tensors_are_measured_over_windows(student_graph, student):
    model = onnx.load_from_string(student_graph)
    before = model.SerializeToString()
    feeds = []
    for window in student.carried.windows[:4]:
        values, present = prepare(window, student.modality)
        feeds.append({"acc": values, "acc_present": present})
    found = tensor_magnitudes(model, ["logits", "probabilities"], feeds)
    assert found["probabilities"].counts.sum() == 4 * 4
    assert 0.25 <= found["probabilities"].largest <= 1
    assert model.SerializeToString() == before
