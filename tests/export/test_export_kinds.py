"""Exports of every kind of task, and of long windows."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from mmkd_bench.rivals import largest_difference
from mmkd_documents.export import decode_report
from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.graph.onnx_graph import tensor_shapes
from mmkd_export.verify.answers import NetworkAnswers, answers_from_student, compare
from mmkd_export.verify.gate import GateRule, GateWindows, gate_result, gate_summary
from mmkd_models.metrics.scores import label_scores, value_scores
from mmkd_models.networks.config import EncoderConfig, StudentConfig, student_config
from mmkd_models.training.checkpoint import read_student
from tests.export.students import export_student, make_student

STATES = TaskSpec(kind="multi_label", labels=("hot", "worn", "loose"), threshold=0.45)
SPEED = TaskSpec(kind="regression", labels=("speed",), unit="rpm")
TASKS = {"multi_label": STATES, "regression": SPEED}
KINDS = pytest.mark.parametrize("kind", list(TASKS))


@pytest.fixture(scope="module")
def students():
    """By kind, with random weights; the regression's target lies around 1200 rpm."""
    found = {kind: make_student(task=task) for kind, task in TASKS.items()}
    state = {**found["regression"].state, "answer.mean": torch.tensor([1200.0]), "answer.std": torch.tensor([150.0])}
    return {**found, "regression": replace(found["regression"], state=state)}


@pytest.fixture(scope="module")
def bundles(students, tmp_path_factory):
    """By kind: fp32, fp16 and int8, for a platform on which nothing is timed."""
    options = {"accept_unjudged": True, "precisions": ("fp16", "int8"), "platform": "jp6.2"}
    options["max_drop_points"] = 30.0  # untrained: R2 is far below 0, where rounding moves it most
    return {kind: export_student(tmp_path_factory.mktemp(kind), one, **options) for kind, one in students.items()}


@KINDS
def test_a_bundle_answers_as_its_checkpoint_does(bundles, students, kind):
    student = students[kind]
    expected = answers_from_student(student, student.carried.windows)
    with EdgePredictor.open(bundles[kind].path, backend="ort") as predictor:
        assert predictor.task == TASKS[kind]
        tested = predictor.selftest()
        assert (tested.windows, tested.label_agreement) == (12, 1.0)
        assert tested.max_abs_error < 1e-5
        for number, window in enumerate(student.carried.windows):
            found = predictor.predict(window)
            if kind == "regression":
                assert found.value == pytest.approx(float(expected.probabilities[number, 0]), rel=1e-5)
            else:
                np.testing.assert_allclose(found.probabilities, expected.probabilities[number], atol=1e-5)
                on = [name for name, share in zip(STATES.labels, found.probabilities, strict=True) if share >= 0.45]
                assert found.labels == tuple(on)


def test_values_and_gates_are_in_the_unit_of_the_target(bundles, students):
    expected = answers_from_student(students["regression"], students["regression"].carried.windows)
    with Bundle.open(bundles["regression"].path) as bundle:
        golden = bundle.golden("acc")
    np.testing.assert_array_equal(golden.labels, students["regression"].carried.labels)
    np.testing.assert_allclose(golden.probabilities, 1200 + 150 * golden.logits, rtol=1e-6)
    np.testing.assert_allclose(golden.probabilities, expected.probabilities, rtol=1e-6)
    (entry,) = bundles["regression"].manifest.models
    assert [tensor.name for tensor in entry.outputs] == ["logits", "value"]
    assert entry.statistics.label_fractions == ()
    logits = np.linspace(-2, 2, 200, dtype=np.float32)[:, None]
    labels = (1200 + 150 * logits[:, 0]).astype(np.float32)
    for shift, agrees in ((0.05, 1.0), (0.2, 0.0)):
        got = NetworkAnswers(logits=logits + np.float32(shift), probabilities=1200 + 150 * (logits + np.float32(shift)))
        facts = gate_result(got, judging(labels, logits), GateRule(metric="r2", max_drop_points=1.0), SPEED)
        assert facts.label_agreement == agrees
        assert facts.drop_points == pytest.approx(100 * shift**2 / float(logits.var()), rel=1e-3)
        assert facts.passed == (agrees == 1.0)
    assert gate_summary(facts).endswith("answers agree on 0.0% of 200 (at least 99.0%)")
    expected = NetworkAnswers(logits=np.float32([[0], [1]]), probabilities=np.float32([[1000], [2000]]))
    got = NetworkAnswers(logits=np.float32([[0], [1]]), probabilities=np.float32([[1000], [2001]]))
    assert compare(expected, got, task=SPEED).max_abs_error == pytest.approx(1 / 2000, rel=1e-3)

    expected = [(np.float32([[0.5]]), np.float32([[1000]])), (np.float32([[1.0]]), np.float32([[2000]]))]
    answers = [(np.float32([[0.5]]), np.float32([[1001]])), (np.float32([[1.0]]), np.float32([[2000]]))]
    assert largest_difference(answers, expected, SPEED) == pytest.approx(1 / 2000)
    assert largest_difference(answers, expected, STATES) == 1.0
    assert largest_difference([(expected[0][0], np.float32([[np.nan]])), expected[1]], expected, SPEED) == np.inf


@KINDS
def test_the_report_scores_by_the_metrics_of_the_kind(bundles, students, kind):
    with Bundle.open(bundles[kind].path) as bundle:
        report, golden = decode_report(bundle.read("report.json")), bundle.golden("acc")
        card = bundle.read("README.md").decode()
    truth = golden.labels[golden.judge]
    artifact = report.artifacts[0]
    assert artifact.scores is None
    if kind == "regression":
        scores = value_scores(truth, golden.probabilities[golden.judge, 0])
        wanted = {"mae": scores.mae, "rmse": scores.rmse, "r2": scores.r2, "pearson": scores.pearson}
        assert "answers with a number, the target speed in rpm." in card
        assert "returns `logits` and `value`, both (1, 1)." in card
    else:
        found = label_scores(truth, golden.logits[golden.judge], threshold=0.45)
        wanted = {name: found.metric(name) for name in ("macro_f1", "mean_average_precision", "subset_accuracy")}
        assert "any of 3 labels, each on from a probability of 0.45: hot, worn, loose." in card
    assert artifact.figures == pytest.approx(wanted, rel=1e-4)
    assert f"| labels agree | {' | '.join(wanted)} |" in card
    gate = report.artifacts[1].gate
    assert (gate.metric, gate.labelled) == (report.student.metric, 6)
    assert report.student.metric == ("r2" if kind == "regression" else "macro_f1")


# ---- the gate


def judging(labels, logits):
    answers = NetworkAnswers(logits=logits, probabilities=1200 + 150 * logits)
    return GateWindows(windows=np.zeros((len(logits), 4, 1), np.float32), labels=labels, answers=answers, source="x")


def test_the_gate_of_labels_counts_windows_with_all_labels_the_same():
    logits = np.where(np.arange(600).reshape(200, 3) % 2, 2.0, -2.0).astype(np.float32)
    labels = (logits > 0).astype(np.uint8)
    other = logits.copy()
    other[:5, 1] *= -1  # one label of 5 windows
    got = NetworkAnswers(logits=other, probabilities=other)
    facts = gate_result(got, judging(labels, logits), GateRule(metric="subset_accuracy", max_drop_points=1.0), STATES)
    assert (facts.label_agreement, facts.drop_points, facts.passed) == (0.975, 2.5, False)
    assert gate_summary(facts) == (
        "subset accuracy drops by 2.50 points (at most 1.00), labels agree on 97.5% of 200 (at least 99.0%)"
    )


SECOND = ModalitySpec(name="vib", channels=("x", "y", "z"), unit="g", rate_hz=10_000.0, samples=10_000)
SHORT = ModalitySpec(name="vib", channels=("x", "y", "z"), unit="g", rate_hz=200.0, samples=203)


@pytest.fixture(scope="module")
def long_bundle(tmp_path_factory):
    """Of a student whose windows are long because its frames are short."""
    encoder = EncoderConfig(width=16, heads=2, depth=1, spectrum_bands=8, frame=16)
    student = make_student(modality=SHORT, config=StudentConfig(preset="toy", encoder=encoder))
    options = {"precisions": ("fp16", "int8"), "platform": "cpu-x86", "accept_unjudged": True}
    return export_student(tmp_path_factory.mktemp("long"), student, **options)


@pytest.mark.slow
def test_a_tiny_student_of_ten_thousand_samples_is_a_graph_below_2_mb():
    assert len(onnx_from_student(make_student(modality=SECOND, config=student_config("tiny"), windows=None))) < 2e6


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


def test_the_graph_of_a_long_window_holds_no_matrix_of_the_whole_window(long_bundle):
    student = read_student(long_bundle.path.with_suffix(".ckpt"))
    assert student.config.encoder.frame == 16
    assert student.network().encoder.front.cuts == ((13, 16), (1, 26))
    model = onnx.load_from_string(onnx_from_student(student))
    weights = {tensor.name for tensor in model.graph.initializer}
    largest = max(int(np.prod(shape)) for name, shape in tensor_shapes(model).items() if name in weights)
    assert largest < SHORT.samples * SHORT.samples / 8
