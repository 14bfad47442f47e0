"""Novelty from the checkpoint to the device: every kind of student, every engine, every precision."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from mmkd_edge import EdgePredictor, GateError, ModalitySpec, TaskSpec
from mmkd_edge.backends.base import is_installed, open_backend
from mmkd_edge.install.graphs import check_graph
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_export.graph.calibration import tensor_magnitudes
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.graph.onnx_graph import learnt_layers, nodes_behind_front_end
from mmkd_export.inspect.files import inspect_file
from mmkd_export.precision.rewrite import half_graph
from mmkd_export.verify.answers import NOVELTY_TOLERANCE, answers_from_student, graph_feeds, with_missing_samples
from mmkd_export.verify.gate import GateRule, gate_result, gate_summary
from mmkd_models.training.references import embeddings_summary
from tests.export.students import card_of, export_student, make_proof_set, make_student, of_features

MIC = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=2000.0, samples=800)
CAM = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=25.0, samples=10, height=12, width=16)
SENSORS = {"sound": MIC, "video": CAM}
TASKS = {
    "several labels": TaskSpec(kind="multi_label", labels=("worn", "hot")),
    "a number": TaskSpec(kind="regression", labels=("wear",), unit="um"),
}


def with_seen(student):
    """The same student, as if its training had seen the windows that it carries."""
    values, present = prepare_batch(student.carried.windows, student.modality)
    with torch.no_grad():
        embeddings = student.network()(torch.from_numpy(values), torch.from_numpy(present)).embedding.numpy()
    return replace(student, embeddings=embeddings_summary(embeddings, embeddings))


def built(what):
    if what in SENSORS:
        return make_student(modality=SENSORS[what], windows=24)
    if what in TASKS:
        return make_student(task=TASKS[what], windows=24)
    return make_student(windows=40) if what == "transformer" else of_features(make_student(windows=40), what)


FURTHER = ("transformer,convolutions", "sound", *TASKS)  # made of the parts of the others
SLOW = [pytest.param(what, marks=pytest.mark.slow) for what in FURTHER]


@pytest.mark.parametrize("what", ["transformer", "convolutions", "video", *SLOW])
def test_every_kind_of_student_has_it_in_every_engine(what):
    student = with_seen(built(what))
    windows = student.carried.windows[:6]
    windows = np.ma.concatenate([windows, with_missing_samples(windows, seed=0)])
    windows = windows if student.modality.kind == "video" else np.asarray(windows.filled(np.nan))
    expected = answers_from_student(student, windows).novelty
    graph = onnx_from_student(student)
    check_graph(graph)
    for engine in filter(is_installed, ("ort", "openvino")):
        backend = open_backend(engine, graph, threads=1)
        found = np.concatenate([backend.run(feeds)[2] for feeds in graph_feeds(windows, student.modality)])
        backend.close()
        np.testing.assert_allclose(found, expected, rtol=NOVELTY_TOLERANCE, atol=NOVELTY_TOLERANCE)


@pytest.fixture(scope="module")
def student():
    return with_seen(make_student(windows=240))


@pytest.fixture(scope="module")
def made(student, tmp_path_factory):
    options = {"precisions": ("fp32", "fp16", "int8"), "accept_unjudged": True}
    return export_student(tmp_path_factory.mktemp("novelty"), student, **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_device_calls_a_window_unknown_in_every_precision(made, precision):
    rng = np.random.default_rng(0)
    with EdgePredictor.open(made.path, backend="ort", precision=precision, unknown_level=0.02) as predictor:
        golden = predictor.bundle.golden("acc")
        usual = [predictor.predict(window) for window in golden.windows[:40]]
        steps = np.where(rng.random((20, *predictor.modality.shape)) < 0.5, -40.0, 40.0).astype(np.float32)
        strange = [predictor.predict(window) for window in steps]
        predictor.selftest()
    assert sum(one.status == "unknown" for one in usual) <= 3
    assert min(one.novelty for one in usual) < 0.5 < max(one.novelty for one in usual)
    assert np.mean([one.status == "unknown" for one in strange]) > 0.9


def test_each_artifact_has_p_values_and_a_gate_of_its_own(made):
    (entry,) = made.manifest.models
    assert entry.has_novelty
    by_precision = {artifact.precision: artifact.novelty for artifact in entry.artifacts}
    assert {name: len(one.scores) for name, one in by_precision.items()} == dict.fromkeys(("fp32", "fp16", "int8"), 240)
    assert by_precision["fp32"].tolerance == NOVELTY_TOLERANCE
    assert by_precision["int8"].tolerance > by_precision["int8"].max_error
    fp32, *lower = made.report.artifacts
    assert fp32.parity.novelty.max_error < NOVELTY_TOLERANCE
    for artifact in lower:
        assert artifact.gate.novelty_agreement > 0.9


def test_people_are_told_that_a_bundle_has_it(made):
    assert inspect_file(made.path)["acc/model.fp32.onnx.novelty"] == "unknown from a level of 0.0042 on, by 240 windows"
    card = card_of(made.path)
    assert "## Unknown windows" in card
    assert "`logits` and `probabilities`, both (1, 4), and `novelty` (1, 1)." in card


def test_nothing_of_it_leaves_float32(student):
    model = onnx.load_from_string(onnx_from_student(student))
    own = {index for index, node in enumerate(model.graph.node) if any("novelty" in name for name in node.output)}
    assert own
    assert not own & nodes_behind_front_end(model)
    assert not any("novelty" in layer.name for layer in learnt_layers(model))
    half = half_graph(model, graph_feeds(student.carried.windows[:8], student.modality)).model
    weights = {tensor.name: tensor.data_type for tensor in half.graph.initializer if tensor.name.startswith("novelty.")}
    assert weights
    assert set(weights.values()) == {onnx.TensorProto.FLOAT}
    assert tensor_magnitudes(half, ["novelty"], graph_feeds(student.carried.windows[:8], student.modality))


def test_scores_in_another_order_fail_the_gate(student):
    proof_set = make_proof_set(student)
    judging, answers = proof_set.judging, proof_set.judging.answers
    rule = GateRule(metric="accuracy", max_drop_points=1.0)
    assert gate_result(answers, judging, rule, proof_set.task).passed
    result = gate_result(replace(answers, novelty=-answers.novelty), judging, rule, proof_set.task)
    assert not result.passed
    assert gate_summary(result).endswith("novelty agrees with a rank correlation of -1.00 (at least 0.90)")


def test_another_score_than_the_stored_one_fails_the_self_test(made, tmp_path):
    with EdgePredictor.open(made.path, backend="ort", selftest=False) as predictor:
        engine = predictor._active.current.opened[0]
        run = engine.backend.run
        engine.backend.run = lambda feeds: (*run(feeds)[:2], 1.1 * run(feeds)[2])
        with pytest.raises(GateError, match=r"self-test: golden window \d+: expected the stored novelty within 0.1%"):
            predictor.selftest()


def test_tensorrt_builds_it(student):
    module = pytest.importorskip("tensorrt_rtx", reason="needs pip install 'mmkd-edge[trt-rtx]'")
    from mmkd_edge.backends.trt.build import engine_from_onnx

    assert engine_from_onnx(onnx_from_student(student), module, workspace_bytes=1 << 28).plan
