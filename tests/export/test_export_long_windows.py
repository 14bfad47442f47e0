"""A student of long windows through the whole export: its size, every precision, every engine that is here."""

import numpy as np
import onnx
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.spec import ModalitySpec
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.graph.onnx_graph import tensor_shapes
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_models.networks.config import EncoderConfig, StudentConfig, student_config
from mmkd_models.training.checkpoint import read_student, write_student
from tests.export.students import make_student

SECOND = ModalitySpec(name="vib", channels=("x", "y", "z"), unit="g", rate_hz=10_000.0, samples=10_000)
SHORT = ModalitySpec(name="vib", channels=("x", "y", "z"), unit="g", rate_hz=200.0, samples=203)


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """A student whose windows are long because its frames are short."""
    encoder = EncoderConfig(width=16, heads=2, depth=1, spectrum_bands=8, frame=16)
    path = tmp_path_factory.mktemp("long") / "student.ckpt"
    write_student(path, make_student(modality=SHORT, config=StudentConfig(preset="toy", encoder=encoder)))
    return path


@pytest.fixture(scope="module")
def long_bundle(long_file):
    plan = ExportPlan(
        source=long_file,
        output=long_file.with_suffix(".edge"),
        precisions=("fp16", "int8"),
        platform="cpu-x86",
        accept_unjudged=True,
    )
    return export(plan)


@pytest.mark.slow
def test_a_tiny_student_of_ten_thousand_samples_is_a_graph_below_2_mb():
    graph = onnx_from_student(make_student(modality=SECOND, config=student_config("tiny"), windows=None))
    assert len(graph) < 2e6


def test_every_precision_and_engine_answers_as_the_checkpoint_does(long_bundle):
    artifacts = long_bundle.report.artifacts
    assert [artifact.precision for artifact in artifacts] == ["fp32", "fp16", "int8"]
    assert all(artifact.backend.startswith("onnxruntime ") for artifact in artifacts)
    assert all(artifact.gate is None or artifact.gate.passed for artifact in artifacts)
    for precision in ("fp32", "fp16", "int8"):
        with EdgePredictor.open(long_bundle.path, backend="ort", precision=precision) as predictor:
            assert predictor.selftest().windows == 12
    reasons = long_bundle.report.artifacts[2].float_layers
    assert reasons["encoder.stem.0"] == "the first layer: its range is that of the sensor's glitches"
    assert not [name for name in reasons if "front" in name]


def test_the_graph_of_a_long_window_holds_no_matrix_of_the_whole_window(long_file):
    student = read_student(long_file)
    assert student.config.encoder.frame == 16
    assert student.network().encoder.front.cuts == ((13, 16), (1, 26))
    model = onnx.load_from_string(onnx_from_student(student))
    weights = {tensor.name for tensor in model.graph.initializer}
    largest = max(int(np.prod(shape)) for name, shape in tensor_shapes(model).items() if name in weights)
    assert largest < SHORT.samples * SHORT.samples / 8
