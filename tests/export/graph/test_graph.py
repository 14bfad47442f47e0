import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmkd_edge.errors import GateError
from mmkd_edge.spec import TensorSpec
from mmkd_export.graph import onnx_graph
from tests.edge.said import said

X = TensorSpec(name="x", dtype="float32", shape=(1, 8, 3))
ADVICE = "please report it with the checkpoint"
Y = TensorSpec(name="y", dtype="float32", shape=(1, 8, 5))


def _graph(*, opset=20, ir_version=10, nodes=None):
    weights = numpy_helper.from_array(np.ones((3, 5), dtype=np.float32), "w")
    weights.doc_string = "from /home/me/train.py"
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product", doc_string="/home/me/student.py")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me")
    graph = helper.make_graph(
        nodes or [node],
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, Y.shape)],
        [weights],
        doc_string="/home/me",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_version="2.13.0+cpu")
    model.ir_version = ir_version
    model.metadata_props.add(key="host", value="build-7")
    return model


def test_a_cleaned_graph_keeps_its_weights_and_loses_its_origin():
    model = _graph()
    before = model.SerializeToString()
    cleaned = onnx_graph.clean_graph(model, metadata=[("mmkd_edge.labels", '["a"]')])
    data = onnx_graph.graph_bytes(cleaned)
    for trace in (b"/home", b"torch", b"2.13.0", b"build-7"):
        assert trace not in data
    assert [(entry.key, entry.value) for entry in cleaned.metadata_props] == [("mmkd_edge.labels", '["a"]')]
    np.testing.assert_array_equal(numpy_helper.to_array(cleaned.graph.initializer[0]), np.ones((3, 5)))
    assert model.SerializeToString() == before
    onnx_graph.check_exported(cleaned, inputs=(X,), outputs=(Y,))


UNSORTED = (
    "the exported graph is not valid ONNX: Nodes in a graph must be topologically sorted, however input 'missing' of "
    "node: "
)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_graph(opset=21), f"the exported graph: expected opset 20 and no other operators, got {{'': 21}}; {ADVICE}"),
        (_graph(ir_version=9), f"the exported graph: expected IR version 10, got 9; {ADVICE}"),
        (_graph(nodes=[helper.make_node("MatMul", ["x", "missing"], ["y"])]), f"{UNSORTED}; {ADVICE}"),
    ],
)
def test_a_graph_that_breaks_a_rule_is_refused(model, message):
    assert said(GateError, onnx_graph.check_exported, model, inputs=(X,), outputs=(Y,)) == message


def test_a_graph_with_another_signature_is_refused():
    wanted = TensorSpec(name="x", dtype="float32", shape=(1, 9, 3))
    assert said(GateError, onnx_graph.check_exported, _graph(), inputs=(wanted,), outputs=(Y,)) == (
        f"the exported graph: expected x float32 (1, 9, 3), got x float32 (1, 8, 3); {ADVICE}"
    )


def test_multiply_adds_are_counted_as_by_hand():
    # MatMul (1, 8, 3) @ (3, 5): 8 * 3 * 5. Conv of (1, 3, 8), 6 filters of 3 channels x 5, stride 2: 4 outputs each.
    # Gemm (1, 24) @ (24, 2): 48.
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["t", "filters"], ["c"], kernel_shape=[5], strides=[2], pads=[2, 2]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "head"], ["z"]),
    ]
    model = _graph(nodes=nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((6, 3, 5), dtype=np.float32), "filters"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((24, 2), dtype=np.float32), "head"))
    assert onnx_graph.multiply_adds(model) == 8 * 3 * 5 + 6 * 4 * 3 * 5 + 24 * 2


@pytest.fixture(scope="module")
def model(student_graph):
    return onnx.load_from_string(student_graph)


def test_layers_are_named_and_measured_as_the_network_is_built(model):
    # 64 samples halve to 32 positions; width 16, so D = 16, with 2 tokens more.
    found = {layer.name: (layer.op, layer.m, layer.k, layer.n) for layer in onnx_graph.learnt_layers(model)}
    assert found == {
        "encoder.stem.0": ("Conv", 32, 45, 16),
        "encoder.spectrum": ("Gemm", 1, 21, 16),  # 7 bands of 3 channels: the lowest two of 8 fall together
        "encoder.statistics": ("Gemm", 1, 48, 16),
        "encoder.blocks.0.attention.project": ("MatMul", 34, 16, 48),
        "encoder.blocks.0.attention.out": ("MatMul", 34, 16, 16),
        "encoder.blocks.0.feedforward.up": ("MatMul", 34, 16, 32),
        "encoder.blocks.0.feedforward.down": ("MatMul", 34, 32, 16),
        "pool.mix": ("Gemm", 1, 48, 16),
        "head": ("Gemm", 1, 16, 4),
    }


def test_the_front_end_is_in_front_of_the_first_layer(model):
    behind = onnx_graph.nodes_behind_front_end(model)
    front = [node for index, node in enumerate(model.graph.node) if index not in behind]
    constants = {name for node in front for name in node.input if name.startswith("student.encoder")}
    fronts = {f"student.encoder.front.{name}" for name in ["mean", "std", "spectrum_basis", "spectrum_bands", "levels"]}
    assert constants == fronts | {"student.encoder.coverage"}
