"""A batch axis that may vary: asked for, proven at every size, and refused where it lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mmkd_edge import EdgePredictor
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.manifest import BatchRange, graph_inputs
from mmkd_edge.errors import GateError, UsageError
from mmkd_export.graph.layers import learnt_layers
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.graph.onnx_graph import multiply_adds
from mmkd_export.pipeline import ExportResult, export
from mmkd_export.plan import ExportPlan, export_plan
from mmkd_export.verify.answers import answers_from_student
from mmkd_export.verify.artifacts import prove_fp32
from mmkd_export.verify.batch import batch_from_dim, require_batches
from mmkd_export.verify.proof_set import ProofSet
from mmkd_models.training.checkpoint import StudentCheckpoint

Answer = Callable[[NDArray[np.float32]], NDArray[np.float32]]
RANGE = BatchRange(minimum=1, optimum=2, maximum=8)


@pytest.fixture(scope="module")
def any_batch_graph(student: StudentCheckpoint) -> bytes:
    return onnx_from_student(student, batch=RANGE)


@pytest.fixture(scope="module")
def proof_set(student: StudentCheckpoint, build_proof_set) -> ProofSet:
    return build_proof_set(student)


@pytest.fixture(scope="module")
def batched(student_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """A bundle for a GPU, so that nothing is timed, of every precision and for 1 to 8 windows at once."""
    output = tmp_path_factory.mktemp("batched") / "student.edge"
    precisions = ("fp16", "int8")
    return export(
        ExportPlan(
            source=student_file,
            output=output,
            accept_unjudged=True,
            precisions=precisions,
            platform="jp6.2",
            batch=RANGE,
        )
    )


def test_a_range_is_read_from_its_text():
    assert batch_from_dim("batch=1:2:8") == RANGE


@pytest.mark.parametrize(
    "text", ["batch=8", "batch=2:2:8", "batch=1:9:8", "batch=1:1:65", "batch=1:1:1", "time=1:1:8", "batch=1:1:8 "]
)
def test_another_axis_or_no_range_is_refused(text: str):
    with pytest.raises(UsageError) as error:
        batch_from_dim(text)
    assert str(error.value) == (
        f"--dim {text!r}: expected batch=1:OPT:MAX with 1 <= OPT <= MAX and MAX from 2 to 64; "
        "the runtime gives one window at a time, and the length of a window belongs to the student"
    )


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_batch_is_answered_as_torch_answers_it(any_batch_graph: bytes, student: StudentCheckpoint, size: int):
    windows = student.carried.windows[:size]
    present = np.isfinite(windows).astype(np.float32)
    session = onnxruntime.InferenceSession(any_batch_graph, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"acc": np.nan_to_num(windows), "acc_present": present})
    np.testing.assert_allclose(logits, answers_from_student(student, windows).logits, atol=1e-5)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest, student: StudentCheckpoint) -> Answer:
    """An engine with a graph for 1 to 16 windows: logits of (B, T, C) windows."""
    graph = onnx_from_student(student, batch=BatchRange(minimum=1, optimum=2, maximum=16))
    if request.param == "onnxruntime":
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        return lambda x: session.run(["logits"], {"acc": np.nan_to_num(x), "acc_present": present_in(x)})[0]
    core = pytest.importorskip("openvino").Core()
    compiled = core.compile_model(core.read_model(graph, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: compiled({"acc": np.nan_to_num(x), "acc_present": present_in(x)})["logits"]


def present_in(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.isfinite(windows).astype(np.float32)


def test_fifteen_sizes_are_answered_as_torch_answers_them(engine: Answer, student: StudentCheckpoint):
    for size in range(1, 16):
        windows = np.resize(student.carried.windows, (size, *student.modality.shape))
        np.testing.assert_allclose(engine(windows), answers_from_student(student, windows).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "longer", "wider"), [(1, -1, 0), (1, 1, 0), (2, 1, 0), (1, 0, -1), (1, 0, 1), (3, 9, 1)]
)
def test_windows_of_six_other_shapes_are_refused(
    engine: Answer, student: StudentCheckpoint, size: int, longer: int, wider: int
):
    samples, channels = student.modality.shape
    with pytest.raises(Exception, match=r"(?i)shape|dimension"):
        engine(np.zeros((size, samples + longer, channels + wider), np.float32))


def test_for_one_window_the_graph_is_that_without_a_batch(
    any_batch_graph: bytes, student_graph: bytes, student: StudentCheckpoint
):
    many, one = onnx.load_from_string(any_batch_graph), onnx.load_from_string(student_graph)
    assert multiply_adds(many) == multiply_adds(one)
    shapes = [[(layer.name, layer.m, layer.k, layer.n) for layer in learnt_layers(model)] for model in (many, one)]
    assert shapes[0] == shapes[1]
    # The runtime opens it as a graph for one window, so that what the manifest says of its tensors holds.
    assert OrtBackend(any_batch_graph).inputs == graph_inputs(student.modality)


def test_every_artifact_says_and_proves_its_range(batched: ExportResult):
    assert [artifact.batch for artifact in batched.manifest.models[0].artifacts] == [RANGE] * 3
    for artifact in batched.report.artifacts:
        assert artifact.batch is not None
        assert (artifact.batch.minimum, artifact.batch.optimum, artifact.batch.maximum) == (1, 2, 8)
        assert artifact.batch.max_abs_error < 1e-2


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_runtime_answers_one_window_at_a_time(batched: ExportResult, precision: str):
    with EdgePredictor.open(batched.path, precision=precision) as predictor:
        assert predictor.selftest().windows == 12


def test_a_bundle_passes_its_range_on(batched: ExportResult, tmp_path: Path):
    plan = ExportPlan(
        source=batched.path, output=tmp_path / "s.edge", accept_unjudged=True, precisions=("int8",), platform="jp6.2"
    )
    assert [artifact.batch for artifact in export(plan).manifest.models[0].artifacts] == [RANGE] * 3


def test_a_bundle_cannot_be_given_another_range(exported: ExportResult, tmp_path: Path):
    with pytest.raises(UsageError) as error:
        export(ExportPlan(source=exported.path, output=tmp_path / "s.edge", batch=RANGE))
    assert str(error.value) == (
        f"{exported.path}: --dim: expected a checkpoint, because the graph of a bundle keeps its axes, got a bundle; "
        "export the checkpoint with --dim"
    )


def _with_fixed_batch(graph: bytes) -> bytes:
    """The logits go through a Reshape to one window, as exporters write that took the traced size for the truth."""
    model = onnx.load_from_string(graph)
    producer = next(node for node in model.graph.node if "logits" in node.output)
    producer.output[0] = "free"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 4], dtype=np.int64), "one"))
    model.graph.node.insert(
        list(model.graph.node).index(producer) + 1, helper.make_node("Reshape", ["free", "one"], ["logits"])
    )
    return model.SerializeToString()


def _with_mixed_windows(graph: bytes) -> bytes:
    """The logits are the mean over the batch: right for one window, wrong for two."""
    model = onnx.load_from_string(graph)
    index = next(i for i, node in enumerate(model.graph.node) if "probabilities" in node.output)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], dtype=np.int64), "first"))
    producer = next(node for node in model.graph.node if "logits" in node.output)
    producer.output[0] = "free"
    for node in model.graph.node:
        node.input[:] = ["free" if name == "logits" else name for name in node.input]
    added = [
        helper.make_node("ReduceMean", ["free", "first"], ["batch_mean"], keepdims=1),
        helper.make_node("Sub", ["free", "batch_mean"], ["apart"]),
        helper.make_node("Sub", ["free", "apart"], ["logits"]),
    ]
    for offset, node in enumerate(added):
        model.graph.node.insert(index + offset, node)
    return model.SerializeToString()


def test_an_axis_that_fails_at_another_size_is_caught(any_batch_graph: bytes, proof_set: ProofSet):
    with pytest.raises(GateError) as error:
        prove_fp32(_with_fixed_batch(any_batch_graph), proof_set, batch=RANGE)
    message = str(error.value)
    assert message.startswith(
        "fp32 graph: the batch axis is declared 1 to 8, and the graph fails with 2 windows at once: [ONNXRuntimeError]"
    )
    assert message.endswith("; no bundle was written. Export without --dim")
    assert error.value.exit_code == 4


def test_an_axis_that_mixes_windows_is_caught(any_batch_graph: bytes, proof_set: ProofSet):
    lying = _with_mixed_windows(any_batch_graph)
    with pytest.raises(GateError) as error:
        require_batches(lying, RANGE, proof_set, tolerance=1e-4, what="fp32 graph")
    message = str(error.value)
    assert message.startswith(
        "fp32 graph: the batch axis is declared 1 to 8, and 2 windows at once are answered otherwise than one by one: "
    )
    assert message.endswith("where 0.0001 is allowed; no bundle was written. Export without --dim")
    assert error.value.exit_code == 4


def test_without_the_option_the_shape_is_static(exported: ExportResult, student_file: Path):
    assert export_plan(student_file).batch is None
    assert exported.manifest.models[0].artifacts[0].batch is None
