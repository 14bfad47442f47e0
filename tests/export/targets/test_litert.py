"""The `.tflite` of a student, and the runtime that answers with it. Needs pip install 'mmkd-edge[litert-export]'."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import graph_inputs, graph_outputs
from mmkd_edge.errors import GateError, MmkdError
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.verify.answers import answers_from_student, graph_feeds
from mmkd_export.verify.artifacts import prove_fp32
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.training.checkpoint import write_student

pytest.importorskip("litert_torch", reason="needs pip install 'mmkd-edge[litert-export]'")

from mmkd_edge.backends.litert import LitertBackend
from mmkd_export.targets.litert import int8_tflite, tflite_from_checkpoint
from tests.export.students import make_proof_set, make_student

# litert-torch and its jax announce their own deprecations when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore")
UNJUDGED = {"targets": ("litert",), "accept_unjudged": True, "platform": "cpu-arm"}


def model_metadata(model):
    from ai_edge_litert import schema_py_generated as schema

    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    return {entry.name.decode(): bytes(content.buffers[entry.buffer].data) for entry in content.metadata}


@pytest.fixture(scope="module")
def tflite(student_file):
    return tflite_from_checkpoint(student_file)


def test_it_answers_as_torch_with_the_tensors_and_names_of_the_manifest(tflite, student, tmp_path, student_file):
    backend = LitertBackend(tflite)
    expected = answers_from_student(student, student.carried.windows)
    for number, feeds in enumerate(graph_feeds(student.carried.windows, student.modality)):
        logits, probabilities = backend.run(feeds)
        # float32 sums in another order.
        np.testing.assert_allclose(logits[0], expected.logits[number], atol=1e-5)
        np.testing.assert_allclose(probabilities[0], expected.probabilities[number], atol=1e-5)
    assert backend.inputs == graph_inputs(student.modality)
    assert backend.outputs == graph_outputs(student.task)
    assert repr(backend) == f"LitertBackend({backend.version}, threads=1)"
    modality = msgspec.structs.replace(student.modality, name="2.axis-b")
    write_student(tmp_path / "s.ckpt", make_student(modality=modality))
    assert LitertBackend(tflite_from_checkpoint(tmp_path / "s.ckpt")).inputs == graph_inputs(modality)
    assert tflite_from_checkpoint(student_file) == tflite
    metadata = model_metadata(tflite)
    assert msgspec.json.decode(metadata["mmkd_edge.modality.acc"], type=type(student.modality)) == student.modality
    assert metadata["mmkd_edge.labels"] == b'["rest","walk","run","fall"]'
    for text in (b"mmkd_models", b"torch", b"__main__", b".py"):
        assert text not in tflite


@pytest.fixture(scope="module")
def int8_bundle(student_file, tmp_path_factory):
    output = tmp_path_factory.mktemp("litert-int8") / "student.edge"
    return export(ExportPlan(source=student_file, output=output, precisions=("int8", "fp16"), **UNJUDGED))


def _fully_connected(model):
    """Shapes of the INT8 weights of fully connected operators, read from the file itself."""
    from ai_edge_litert import schema_py_generated as schema

    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    graph = content.subgraphs[0]
    weights = [
        graph.tensors[operator.inputs[1]]
        for operator in graph.operators
        if content.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.FULLY_CONNECTED
    ]
    return [tuple(map(int, one.shape)) for one in weights if one.type == schema.TensorType.INT8]


def test_both_forms_are_made_and_the_runtime_answers_with_either(int8_bundle, student):
    artifacts = int8_bundle.report.artifacts
    forms = ["fp32.onnx", "fp32.tflite", "fp16.onnx", "int8.onnx", "int8.tflite"]
    assert [artifact.file for artifact in artifacts] == [f"acc/model.{form}" for form in forms]
    assert artifacts[1].parity.max_abs_error < 1e-5
    tflite = artifacts[4]
    assert tflite.gate.passed
    assert 0 < tflite.parity.max_abs_error < 0.1  # other arithmetic than fp32, and near it
    window = student.carried.windows[0]
    with EdgePredictor.open(int8_bundle.path) as reference:
        expected = reference.predict(window)
    for precision in ("int8", "fp32"):
        with EdgePredictor.open(int8_bundle.path, backend="litert", precision=precision) as ours:
            assert ours.selftest().label_agreement == 1.0
            assert (ours.backend.name, ours.info().artifact) == ("litert", f"acc/model.{precision}.tflite")
            found = ours.predict(window)
            assert found.label == expected.label
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)


def test_the_int8_tflite_quantises_the_products_of_the_blocks_and_no_others(int8_bundle):
    with Bundle.open(int8_bundle.path) as bundle:
        int8, fp32 = bundle.read("acc/model.int8.tflite"), bundle.read("acc/model.fp32.tflite")
    # One block of width 16: queries, keys and values, the projection, and the two products of the feed-forward net.
    assert _fully_connected(int8) == [(48, 16), (16, 16), (32, 16), (16, 32)]
    assert _fully_connected(fp32) == []
    assert model_metadata(int8)["mmkd_edge.labels"] == model_metadata(fp32)["mmkd_edge.labels"]
    for text in (b"mmkd_models", b"torch", b"__main__", b".py"):
        assert text not in int8


def test_a_tflite_of_another_network_is_not_quantised_by_its_layers(tflite):
    config = StudentConfig(preset="toy", encoder=EncoderConfig(width=32, heads=2, depth=1, spectrum_bands=8))
    graph = onnx_from_student(make_student(config=config))
    with pytest.raises(
        GateError, match=r"^int8 \.tflite: expected the 4 products of the fp32 graph, got 0 of their sizes"
    ):
        int8_tflite(tflite, graph)


def _with_its_head_turned(model):
    """Gives a model whose head has the signs of its weights turned: 4 labels from a width of 16, or of 3 times that."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    heads = [one for one in content.subgraphs[0].tensors if list(one.shape) in ([4, 16], [4, 48])]
    assert heads
    for tensor in heads:
        weights = np.asarray(content.buffers[tensor.buffer].data, dtype=np.uint8).view(np.float32)
        content.buffers[tensor.buffer].data = (-weights).view(np.uint8)
    builder = flatbuffers.Builder(len(model))
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_an_int8_tflite_that_answers_otherwise_ends_the_export(student_file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "mmkd_export.targets.litert.int8_tflite", lambda model, graph: _with_its_head_turned(int8_tflite(model, graph))
    )
    plan = ExportPlan(source=student_file, output=tmp_path / "s.edge", precisions=("int8",), **UNJUDGED)
    with pytest.raises(GateError, match=r"^int8 \.tflite: .*; no bundle was written\. Export without --target litert"):
        export(plan)
    assert list(tmp_path.iterdir()) == []


def test_altered_weights_and_failed_conversions_are_told(tflite, student, tmp_path):
    proof_set = make_proof_set(make_student(seed=1))
    with pytest.raises(GateError, match=r"^fp32 \.tflite: expected the checkpoint's answers within 0.0001 on 12 "):
        prove_fp32(tflite, proof_set, file_format="tflite")
    (tmp_path / "s.ckpt").write_bytes(b"{}")
    with pytest.raises(MmkdError, match=r"^litert-torch could not convert the network: .*CheckpointError.*s\.ckpt"):
        tflite_from_checkpoint(tmp_path / "s.ckpt")


def test_the_command_keeps_converter_and_quantiser_off_the_terminal(student_file, tmp_path):
    command = [sys.executable, "-m", "mmkd_app", "export", str(student_file), "-o", str(tmp_path / "s.edge")]
    command += ["--target", "litert", "--precision", "int8", "--accept-unjudged"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("INFO: Created TensorFlow Lite")]
    compared = ["1/6 read the checkpoint", "2/6 convert it to ONNX", "3/6 compare with torch"]
    assert lines == [*compared, "4/6 convert it to LiteRT", "5/6 make int8", "6/6 write the bundle"]
    shown = [" ".join(line.split()[:2]) for line in done.stdout.splitlines()[2:6]]
    assert shown == ["fp32 onnx", "fp32 tflite", "int8 onnx", "int8 tflite"]
