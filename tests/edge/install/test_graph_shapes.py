"""What a graph computes is known before it runs: shapes as an engine finds them, indices in range, and the cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mmkd_edge import Bundle, example_bundle
from mmkd_edge.install.graph_shapes import OPERATORS, Folding, GraphCost
from mmkd_edge.install.graphs import check_graph
from mmkd_edge.opening.sandbox import check_graphs

FILES = Path(__file__).parents[2] / "files"
X = np.arange(1, 49, dtype=np.float32).reshape(1, 6, 8) / 10
IMAGE = np.arange(1, 129, dtype=np.float32).reshape(1, 2, 8, 8) / 100
WHERE = TensorProto.FLOAT


def graph_of(
    operator: str,
    inputs: dict[str, NDArray[Any]],
    constants: dict[str, NDArray[Any] | None],
    outputs: Any,
    **attributes: Any,
) -> bytes:
    """One operator: what it is given by a window, then by constants, one that is None left out."""
    names = [*inputs, *("" if value is None else name for name, value in constants.items())]
    node = helper.make_node(operator, names, list(outputs), **attributes)
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    made = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items() if value is not None]
    graph = helper.make_graph([node], "one", given, made, stored)
    opset = 21 if operator == "GroupNormalization" else 20
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
    ).SerializeToString()
    return data


def ints(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def ones(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


def example(operator: str, *constants: Any, x: NDArray[Any] = X, y: Any = None, **attributes: Any) -> Any:
    given = {"x": x} if y is None else {"x": x, "y": y}
    return pytest.param(operator, given, {f"c{n}": value for n, value in enumerate(constants)}, attributes, id=operator)


UNARY = """
Abs Cos Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Log Neg Reciprocal Relu Round Sigmoid Sign Sin
Softplus Sqrt Tanh
"""
BINARY = "Add Div Equal Greater GreaterOrEqual Less LessOrEqual Mul Pow Sub"
TRUE = X > 2
BYTES = np.ones((1, 6, 8), np.uint8)
EXAMPLES = [
    *(example(name, x=X) for name in UNARY.split()),
    *(example(name, ones(6, 1)) for name in BINARY.split()),
    *(example(name, ones(6, 1), ones(2, 1, 1, 1)) for name in ("Max", "Mean", "Min", "Sum")),
    *(example(name, x=TRUE, y=TRUE[:, :1]) for name in ("And", "Or")),
    *(example(name, ints(1), keepdims=0) for name in ("ReduceMax", "ReduceMean", "ReduceMin")),
    *(example(name, ints(-1, 0), keepdims=1) for name in ("ReduceSum", "ReduceSumSquare")),
    example("ReduceSum"),
    example("ReduceSum", noop_with_empty_axes=1),
    *(example(name, axis=1, keepdims=0) for name in ("ArgMax", "ArgMin")),
    *(example(name, axis=-1) for name in ("Softmax", "LogSoftmax")),
    *(example(name, x=IMAGE) for name in ("GlobalAveragePool", "GlobalMaxPool")),
    example("AveragePool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 1], pads=[1, 0, 1, 0]),
    example("MaxPool", x=IMAGE, kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    example("MaxPool", x=IMAGE, kernel_shape=[3, 2], dilations=[2, 1]),
    example("BatchNormalization", ones(6), ones(6), ones(6), ones(6)),
    example("GroupNormalization", ones(6), ones(6), num_groups=2),
    example("InstanceNormalization", ones(6), ones(6)),
    example("LayerNormalization", ones(8), ones(8), axis=-1),
    example("Cast", to=TensorProto.FLOAT16),
    example("Cast", x=BYTES, to=TensorProto.FLOAT),
    example("Clip", None, np.float32(3)),
    example("Concat", ones(1, 6, 2), axis=-1),
    example("Conv", ones(4, 3, 5), ones(4), group=2, strides=[2], pads=[2, 1], dilations=[1], kernel_shape=[5]),
    example("Conv", ones(4, 2, 3, 3), x=IMAGE, dilations=[2, 1]),
    example("DequantizeLinear", np.float32(0.1), np.uint8(3), x=BYTES),
    example("QuantizeLinear", ones(6), np.zeros(6, np.int8), axis=1),
    example("QuantizeLinear", np.float32(0.1)),
    example("Flatten", axis=2),
    example("Flatten", axis=-1),
    example("Gather", ints(0, -6, 5), axis=1),
    example("Gather", np.int64(3), axis=2),
    example("GatherND", np.array([[[0, 7], [5, -8]]]), batch_dims=1),
    example("Gemm", ones(3, 8), ones(3), x=X[0], transB=1),
    example("Gemm", ones(8, 3), x=X[0]),
    example("MatMul", ones(8, 3)),
    example("MatMul", ones(8)),
    example("MatMul", ones(2, 1, 8, 3)),
    example("Not", x=TRUE),
    example("PRelu", ones(8)),
    example("Pad", ints(0, 1, 2, 0, 0, 3)),
    example("Pad", ints(5, 4), None, ints(-2), mode="reflect"),
    example("Reshape", ints(0, 2, -1)),
    example("Reshape", ints(48)),
    example("Shape", start=-2),
    example("Slice", ints(1), ints(2**63 - 1), ints(1)),
    example("Slice", ints(-1, 0), ints(-(2**63), -1), ints(2, 1), ints(-3, 2)),
    example("Split", axis=2, num_outputs=3),
    example("Split", ints(1, 5), axis=1),
    example("Squeeze", ints(0)),
    example("Squeeze"),
    example("Transpose", perm=[2, 0, 1]),
    example("Transpose"),
    example("Unsqueeze", ints(0, -1)),
    example("Where", ones(1, 1, 8), ones(6, 1), x=TRUE),
]


@pytest.mark.parametrize(("operator", "given", "constants", "attributes"), EXAMPLES)
def test_every_operator_has_the_shape_that_an_engine_finds(
    operator: str, given: dict[str, NDArray[Any]], constants: dict[str, Any], attributes: dict[str, Any]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    stored = {name: None if value is None else np.asarray(value) for name, value in constants.items()}
    count = {"Split": 2 if stored else 3}.get(operator, 1)
    names = [f"z{number}" for number in range(count)]
    loose = dict.fromkeys(names, (0, (1,)))
    model = onnx.load_from_string(graph_of(operator, given, stored, loose, **attributes))
    for output in model.graph.output:
        output.ClearField("type")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(names, given)
    outputs = {
        name: (helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(names, found, strict=True)
    }
    if any(shape == () for _, shape in outputs.values()):  # a signature has at least one axis
        pytest.fail("choose an example with an axis")
    cost = check_graph(graph_of(operator, given, stored, outputs, **attributes))
    assert cost.memory_bytes == sum(value.nbytes for value in found)
    assert cost.operations >= sum(value.size for value in found)


def test_every_operator_has_an_example() -> None:
    named = {str(one.values[0]) for one in EXAMPLES}
    assert OPERATORS - named == {"Constant"}


def refusal(operator: str, given: Any, constants: Any, **attributes: Any) -> str:
    with pytest.raises(ValueError) as caught:
        check_graph(graph_of(operator, given, constants, {"z": (WHERE, (1, 6, 8))}, **attributes))
    return str(caught.value)


PLACES = np.zeros((1, 3), np.int64)
COMPUTED = "has an input 1 that is computed from a window; only a constant is in range for sure"


DIVIDES = "divides whole numbers, which crashes where it is by 0"
MIRROR = {"c": ints(9, 9), "d": None, "e": ints(1)}


@pytest.mark.parametrize(
    ("operator", "given", "constants", "attributes", "told"),
    [
        ("Gather", {"x": X, "y": PLACES}, {}, {"axis": 1}, "(1, 6, 8), (1, 3) " + COMPUTED),
        ("GatherND", {"x": X, "y": PLACES}, {}, {}, "(1, 6, 8), (1, 3) " + COMPUTED),
        ("Pad", {"x": X, "y": PLACES[0]}, {}, {}, "(1, 6, 8), (3,) " + COMPUTED),
        ("Reshape", {"x": X, "y": PLACES[0]}, {}, {}, "(1, 6, 8), (3,) " + COMPUTED),
        ("Split", {"x": X, "y": PLACES[0]}, {}, {}, "(1, 6, 8), (3,) " + COMPUTED),
        ("Squeeze", {"x": X, "y": PLACES[0]}, {}, {}, "(1, 6, 8), (3,) " + COMPUTED),
        ("ReduceSum", {"x": X, "y": PLACES[0]}, {}, {}, "(1, 6, 8), (3,) " + COMPUTED),
        ("Gather", {"x": X}, {"c": ints(0, 6)}, {"axis": 1}, "(1, 6, 8), (2,) has indices from 0 to 6 of 6 places"),
        ("Gather", {"x": X}, {"c": ints(-9)}, {"axis": 2}, "(1, 6, 8), (1,) has indices from -9 to -9 of 8 places"),
        ("GatherND", {"x": X}, {"c": ints(0, 6)}, {}, "(1, 6, 8), (2,) has indices from 6 to 6 of 6 places"),
        ("Pad", {"x": X}, {"c": ints(0, 0, 0, 0, -1, 0)}, {}, "(1, 6, 8), (6,) has the paddings [0, 0, 0, 0, -1, 0]"),
        ("Pad", {"x": X}, MIRROR, {"mode": "reflect"}, "(1, 6, 8), (2,), -, (1,) reflects 9 and 9 values"),
        ("Split", {"x": X}, {"c": ints(7)}, {"axis": 1}, "(1, 6, 8), (1,) has parts of the sizes [7]"),
        ("Slice", {"x": X}, {"c": ints(4), "d": ints(0)}, {}, "(1, 6, 8), (1,), (1,) gives the shape (0, 6, 8)"),
        ("Reshape", {"x": X}, {"c": ints(5, -1)}, {}, "(1, 6, 8), (2,) asks for the shape [5, -1]"),
        ("Squeeze", {"x": X}, {"c": ints(1)}, {}, "(1, 6, 8), (1,) gives the shape (1, 8)"),
        ("Div", {"x": PLACES}, {"c": PLACES}, {}, "(1, 3), (1, 3) " + DIVIDES),
        ("MatMul", {"x": X}, {"c": ones(7, 3)}, {}, "(1, 6, 8), (7, 3) multiplies what does not fit together"),
        ("Add", {"x": X}, {"c": ones(7)}, {}, "(1, 6, 8), (7,) has shapes that do not fit together"),
        ("Conv", {"x": X}, {"c": ones(4, 6, 9)}, {}, "(1, 6, 8), (4, 6, 9) has a kernel that is longer than axis 2"),
        ("Conv", {"x": X}, {"c": ones(4, 6, 3)}, {"strides": [0]}, "(1, 6, 8), (4, 6, 3) has steps that do not fit"),
        ("Transpose", {"x": X}, {}, {"perm": [0, 1, 1]}, "(1, 6, 8) has the order [0, 1, 1]"),
        ("Concat", {"x": X, "y": X[:, :2]}, {}, {"axis": 2}, "(1, 6, 8), (1, 2, 8) joins what does not fit together"),
        ("Clip", {"x": X[:, :, :1]}, {"c": X}, {}, "(1, 6, 1), (1, 6, 8) has a parameter that does not fit"),
        ("Softmax", {"x": X}, {}, {"axis": 3}, "(1, 6, 8) has the axis 3 of 3"),
        ("Cast", {"x": X}, {}, {"to": 8}, "(1, 6, 8) gives the type 8"),
    ],
)  # fmt: skip
def test_what_may_leave_its_range_or_depends_on_a_window_is_refused(
    operator: str, given: Any, constants: Any, attributes: Any, told: str
) -> None:
    assert (
        refusal(operator, given, constants, **attributes)
        == f"the graph's operator {operator!r} with inputs of the shapes {told}"
    )


def test_what_an_operator_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"^the graph's operator 'Gemm' lacks input 1$"):
        check_graph(graph_of("Gemm", {"x": X[0]}, {}, {"z": (WHERE, (6, 8))}))


def test_constants_are_folded_as_far_as_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    def folded() -> GraphCost:
        add = helper.make_node("Add", ["a", "a"], ["b"])
        reshape = helper.make_node("Reshape", ["x", "b"], ["z"])
        model = onnx.load_from_string(graph_of("Relu", {"x": X}, {"a": ints(3, 8, 1)}, {"z": (WHERE, (6, 16, 2))}))
        del model.graph.node[:]
        constant = helper.make_node("Constant", [], ["x2"], value=numpy_helper.from_array(ones(192), "x2"))
        reshape.input[0] = "x2"
        model.graph.node.extend([add, constant, reshape])
        return check_graph(model.SerializeToString())

    assert folded() == GraphCost(operations=3 + 192, memory_bytes=24 + 4 * 192)
    monkeypatch.setattr("mmkd_edge.install.graph_shapes._MAX_FOLDED", 2)
    with pytest.raises(ValueError, match="has an input 1 that is computed from a window"):
        folded()
    monkeypatch.setattr("mmkd_edge.install.graph_shapes._MAX_FOLDED", 4096)
    monkeypatch.setattr("mmkd_edge.install.graph_shapes.Folding", lambda: Folding(left=1))
    with pytest.raises(ValueError, match="has an input 1 that is computed from a window"):
        folded()


def test_inputs_and_outputs_are_what_is_computed() -> None:
    with pytest.raises(ValueError) as caught:
        check_graph(graph_of("Relu", {"x": X}, {}, {"z": (WHERE, (1, 6, 9))}))
    assert (
        str(caught.value) == "the graph has an output 'z' of the shape (1, 6, 9); expected (1, 6, 8), which is computed"
    )
    model = onnx.load_from_string(graph_of("Relu", {"x": X}, {}, {"z": (WHERE, (1, 6, 8))}))
    model.graph.node[0].input[0] = "nobody"
    with pytest.raises(ValueError) as caught:
        check_graph(model.SerializeToString())
    assert str(caught.value) == "the graph has an input 'nobody' of 'Relu' that nothing gives; expected a tensor"
    model.graph.node[0].input[0] = "x"
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "time"
    with pytest.raises(ValueError) as caught:
        check_graph(model.SerializeToString())
    assert str(caught.value) == (
        "the graph has an input or output of the shape [1, 0, 8]; expected a tensor of 1 to 16777216 values"
    )


def test_an_attribute_means_to_us_what_it_means_to_an_engine() -> None:
    model = onnx.load_from_string(graph_of("Gather", {"x": X}, {"c": ints(7)}, {"z": (WHERE, (1, 6, 1))}, axis=2))
    check_graph(model.SerializeToString())
    attribute = model.graph.node[0].attribute[0]
    attribute.ints.append(1)
    with pytest.raises(ValueError) as caught:
        check_graph(model.SerializeToString())
    assert str(caught.value) == "the graph has an attribute 'axis' of 'Gather' of several values or kinds; expected one"
    attribute.ClearField("ints")
    model.graph.node[0].attribute.append(attribute)
    with pytest.raises(ValueError) as caught:
        check_graph(model.SerializeToString())
    assert str(caught.value) == "the graph has two attributes 'axis' of 'Gather'; expected one"


def test_the_cost_of_a_product_and_of_functions_is_counted() -> None:
    product = graph_of("MatMul", {"x": X}, {"c": ones(8, 3)}, {"z": (WHERE, (1, 6, 3))})
    assert check_graph(product) == GraphCost(operations=6 * 3 * 8 + 18, memory_bytes=4 * 18)
    assert check_graph(graph_of("Erf", {"x": X}, {}, {"z": (WHERE, (1, 6, 8))})).operations == 11 * 48


def test_a_step_graph_may_look_up_what_the_number_of_a_step_says() -> None:
    with Bundle.open(FILES / "causal.edge") as bundle:
        streaming = bundle.manifest.models[0].streaming
        assert streaming is not None
        step = bundle.read(streaming.artifacts[0].file)
    check_graph(step, slots=streaming.slots)
    with pytest.raises(ValueError, match=r"operator 'GatherND' .* has an input 1 that is computed from a window"):
        check_graph(step)
    with pytest.raises(ValueError, match=r"operator 'GatherND' .* has indices from 0 to 6 of 6 places"):
        check_graph(step, slots=streaming.slots + 2)


@pytest.mark.parametrize("path", [example_bundle(), *sorted(FILES.rglob("*.edge"))], ids=lambda path: path.stem)
def test_what_was_exported_is_admitted(path: Path) -> None:
    with Bundle.open(path) as bundle:
        check_graphs(bundle)
