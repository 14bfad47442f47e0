"""Predictions of several labels and of numbers: what they hold, when there is none, what is counted of them."""

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.manifest import Normal, graph_outputs
from mmkd_edge.bundle.manifest_json import encode_manifest
from mmkd_edge.errors import ManifestError, UsageError
from mmkd_edge.health.running import measure_statistics
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.predict.novelty import score_limit
from mmkd_edge.predict.postprocess import is_available, with_fault
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.predict.sensors import WindowFault
from mmkd_edge.spec import ModalitySpec, TaskSpec, labels_text
from mmkd_edge.testing import FakeBackend, fake_entry, fake_predictor
from tests.edge.conftest import manifest_of
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=20)
STATES = TaskSpec(kind="multi_label", labels=("hot", "worn", "loose"), threshold=0.4)
RUNNING = TaskSpec(kind="normal", labels=("running",))
SPEED = TaskSpec(kind="regression", labels=("speed",), unit="rpm", range=(0.0, 3000.0))
WINDOW = np.zeros((20, 2), dtype=np.float32)


def predict(answer, task, window=WINDOW, **options):
    return fake_predictor(answer, modality=ACC, labels=task, **options).predict(window)


def test_labels_are_on_from_the_threshold_or_none_is():
    found = predict([0.39, 0.4, 0.9], STATES)
    assert (found.labels, found.label, found.index, found.status) == (("worn", "loose"), "loose", 2, "ok")
    assert [found.probability, *found.probabilities.tolist()] == pytest.approx([0.9, 0.39, 0.4, 0.9])
    assert found.value is None
    assert predict([0.39, 0.4, 0.9], msgspec.structs.replace(STATES, threshold=None)).labels == ("loose",)
    found = predict([0.1, 0.3, 0.2], STATES)
    assert (found.labels, found.status, found.label) == ((), "ok", "worn")  # the most probable one, and it is off


def test_a_number_comes_in_its_unit_and_inside_its_range():
    found = predict([1480.5], SPEED)
    assert (found.value, found.label, found.index, found.status) == (1480.5, "speed", 0, "ok")
    assert (found.labels, found.probability, found.probabilities.shape) == ((), 0.0, (0,))
    assert [predict([speed], SPEED).value for speed in (3100.0, -5.0)] == [3000.0, 0.0]
    assert predict([-5.0], msgspec.structs.replace(SPEED, range=None)).value == -5.0


@pytest.mark.parametrize(
    ("answer", "task", "what"),
    [
        ([0.1, 1.2, 0.2], STATES, "has others than probabilities"),
        ([0.1, np.nan, 0.2], STATES, "has others than probabilities"),
        ([np.inf], SPEED, "is not a number"),
    ],
)
def test_an_answer_that_cannot_be_is_invalid(answer, task, what):
    found = predict(answer, task)
    assert (found.status, found.reason, found.index, found.label) == ("invalid", f"the model's answer {what}", -1, "")
    assert (found.labels, found.value) == ((), None)
    assert not found.probabilities.any()


@pytest.mark.parametrize(("answer", "task"), [([0.1, 0.9, 0.2], STATES), ([1500.0], SPEED)])
def test_without_data_there_is_no_answer_and_a_withheld_one_keeps_nothing_of_it(answer, task):
    found = predict(answer, task, np.full((20, 2), np.nan))
    assert (found.status, found.labels, found.value, found.index) == ("invalid", (), None, -1)
    gap = WINDOW.copy()
    gap[:5] = np.nan
    found = predict(answer, task, gap)
    assert (found.status, found.missing_fraction) == ("degraded", 0.25)
    assert found.labels == ("worn",) if task is STATES else found.value == 1500.0
    found = predict(answer, task, gap, policy="abstain")
    assert (found.status, found.labels, found.value, found.index) == ("degraded", (), None, -1)


def rule_of(groups, level=0.2, unknown_level=None):
    """A student whose score is the window's first value; those of nine normal windows are 1 to 9."""
    scores = tuple(map(float, range(1, 10)))
    normal = Normal(scores=scores, windows=9, groups=groups, hours=1, level=level, window_rate=0.1, groups_above=0)
    entry = msgspec.structs.replace(fake_entry(modality=ACC, labels=RUNNING), normal=normal)
    backend = FakeBackend(lambda feeds: [feeds["acc"][0, 0, 0]], inputs=entry.inputs, outputs=entry.outputs)
    return EdgePredictor.with_backend(entry, backend, options=OpenOptions(unknown_level=unknown_level))


@pytest.mark.parametrize(
    ("score", "p_value", "status"), [(0.5, 1.0, "ok"), (7.0, 0.4, "ok"), (8.5, 0.2, "unknown"), (20.0, 0.1, "unknown")]
)
def test_a_window_is_normal_above_the_level_and_has_no_label_below(score, p_value, status):
    found = rule_of(9).predict(np.full((20, 2), score))
    assert (found.score, found.p_value, found.status) == (score, p_value, status)
    assert (found.label, found.index) == (("running", 0) if status == "ok" else ("", -1))
    assert (found.probability, found.probabilities.shape, found.value, found.novelty) == (0.0, (0,), None, None)
    reason = f"unlike what training saw: p-value {p_value:g}, at most 0.2 is unknown"
    assert found.reason == (reason if status == "unknown" else "")
    assert score_limit(rule_of(9).entry.normal) == 8.0  # a larger score is among at most one as large: (1 + 1) / 10


def test_a_level_of_the_caller_replaces_the_bundles_down_to_what_groups_can_judge():
    assert rule_of(9, unknown_level=0.1).predict(np.full((20, 2), 8.5)).status == "ok"
    # Without groups it is the windows that count.
    for groups, count in ((9, "9 groups of normal windows"), (0, "9 normal windows")):
        assert said(UsageError, rule_of, groups, unknown_level=0.09) == (
            f"model 'acc': unknown_level=0.09: expected 0.1 or more, because {count} calibrated it; choose a higher "
            "level, or record more machines or days"
        )
    assert rule_of(0, unknown_level=0.1).entry.normal.groups == 0


def test_without_data_a_window_is_neither_normal_nor_unknown_and_the_next_sensor_answers():
    empty = rule_of(9).predict(np.full((20, 2), np.nan))
    assert (empty.status, empty.label, empty.score, empty.p_value) == ("invalid", "", None, None)
    unusual = rule_of(9).predict(np.full((20, 2), 20.0))
    assert [is_available(found) for found in (empty, unusual)] == [False, True]  # a sensor that sees a fault works
    dead = with_fault(unusual, WindowFault(status="invalid", reason="dead"))
    assert (dead.status, dead.score, dead.p_value) == ("invalid", None, None)
    withheld = predict([2.0], RUNNING, policy="abstain")
    assert (withheld.status, withheld.score, withheld.p_value) == ("unknown", 2.0, 0.5)


def test_health_counts_what_is_on_and_statistics_go_by_kind():
    answers = iter([[0.1, 0.9, 0.9], [0.1, 0.9, 0.1]])
    predictor = fake_predictor(lambda feeds: next(answers), modality=ACC, labels=STATES)
    predictor.predict(WINDOW)
    predictor.predict(WINDOW)
    assert predictor.health().models[0].label_fractions == {"hot": 0.0, "worn": 1.0, "loose": 0.5}
    numbers = fake_predictor([1500.0], modality=ACC, labels=SPEED)
    numbers.predict(WINDOW)
    found = numbers.health()
    assert (found.models[0].label_fractions, found.models[0].label_psi, found.predictions["ok"]) == ({}, None, 1)
    windows = np.zeros((4, 20, 2), dtype=np.float32)
    shares = np.float32([[0.9, 0.1, 0.5], [0.5, 0.1, 0.1], [0.1, 0.1, 0.1], [0.1, 0.1, 0.9]])
    assert measure_statistics(*prepare_batch(windows, ACC), shares, task=STATES).label_fractions == (0.5, 0.0, 0.5)
    assert measure_statistics(*prepare_batch(windows, ACC), shares[:, :1], task=SPEED).label_fractions == ()
    stream = fake_predictor([1500.0], modality=ACC, labels=SPEED).stream(hop=20)
    assert [found.value for found in stream.push(np.zeros((40, 2), dtype=np.float32))] == [1500.0, 1500.0]
    assert [tensor.name for tensor in graph_outputs(STATES)] == ["logits", "probabilities"]
    assert [(tensor.name, tensor.shape) for tensor in graph_outputs(SPEED)] == [("logits", (1, 1)), ("value", (1, 1))]
    texts = [labels_text(task) for task in (STATES, SPEED, TaskSpec(labels=("a", "b")))]
    assert texts == ["labels hot, worn, loose", "target speed in rpm", "a, b"]


FALLING = msgspec.structs.replace(rule_of(9).entry.normal, scores=(2.0, 1.0))


@pytest.mark.parametrize(
    ("task", "normal", "problem"),
    [
        (TaskSpec(kind="normal", labels=()), None, "task.labels: expected 1 to 10000 labels, got 0"),
        (RUNNING, None, "normal: expected scores of normal windows, got none"),
        (SPEED, rule_of(9).entry.normal, "normal: expected none, got one"),
        (RUNNING, FALLING, "normal.scores: expected rising numbers, got 2.0 before 1.0"),
    ],
)
def test_a_manifest_without_the_scores_that_its_task_needs_is_refused(task, normal, problem):
    entry = fake_entry(modality=ACC, labels=task)
    entry = msgspec.structs.replace(entry, normal=normal, outputs=graph_outputs(task))
    told = f"manifest.json: models[0].{problem}; export the bundle again"
    assert said(ManifestError, lambda: encode_manifest(manifest_of(entry))) == told
