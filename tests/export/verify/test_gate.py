from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from mmkd_edge.errors import GateError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.verify import gate
from mmkd_export.verify.answers import NetworkAnswers
from mmkd_export.verify.artifacts import RejectedError, require_passed
from mmkd_export.verify.proof_set import build_proof_set, check_calibration
from mmkd_export.verify.windows import RealWindows
from tests.edge.said import said

TASK = TaskSpec(labels=("idle", "ok", "worn"))


def _answers(labels, *, classes=3):
    logits = np.eye(classes, dtype=np.float32)[labels]
    return NetworkAnswers(logits=logits, probabilities=logits)


def _judging(labels, answers):
    windows = np.zeros((len(labels), 4, 1), dtype=np.float32)
    return gate.GateWindows(windows=windows, labels=np.array(labels), answers=_answers(answers), source="windows")


def _facts(labels, before, after, *, metric="accuracy", drop=0.5):
    return gate.gate_result(
        _answers(after), _judging(labels, before), gate.GateRule(metric=metric, max_drop_points=drop), TASK
    )


def test_drops_are_paired_and_one_window_of_few_may_differ():
    truth = [0, 1, 2] * 100
    after = list(truth)
    after[:3] = [1, 2, 0]
    facts = _facts(truth, truth, after)
    assert facts.drop_points == pytest.approx(1.0)
    assert facts.label_agreement == pytest.approx(0.99)
    assert not facts.passed  # 1 point is more than 0.5 and more than one of 300 windows
    assert _facts(truth, truth, after, drop=1.0).passed
    truth = [0, 1, 2, 0]
    facts = _facts(truth, truth, [0, 1, 2, 1])
    assert (facts.drop_points, facts.allowed_drop_points) == (25.0, 25.0)
    assert (facts.label_agreement, facts.least_agreement) == (0.75, 0.75)
    assert facts.passed
    assert not _facts(truth, truth, [0, 1, 1, 1]).passed
    truth = [0] * 90 + [1] * 8 + [2] * 2
    after = [0] * 90 + [1] * 8 + [2, 0]
    facts = _facts(truth, truth, after, metric="balanced_accuracy")
    assert facts.allowed_drop_points == pytest.approx(100 / 3 / 2)
    assert facts.drop_points == pytest.approx(100 / 3 / 2)
    assert facts.passed


def test_agreement_counts_with_and_without_labels():
    truth = [0] * 400
    before = [1] * 10 + [0] * 390
    after = [0] * 390 + [1] * 10
    facts = _facts(truth, before, after)
    assert facts.drop_points == 0
    assert not facts.passed
    facts = _facts([-1] * 100, [0] * 100, [0] * 99 + [1])
    assert facts.drop_points is None
    assert facts.labelled == 0
    assert facts.passed
    assert gate.gate_summary(facts) == "labels agree on 99.0% of 100 (at least 99.0%), no labels to score"


def _proven(name, facts):
    return SimpleNamespace(name=name, report=SimpleNamespace(gate=facts))


def test_answers_that_are_no_numbers_fail():
    judging = _judging([0, 1], [0, 1])
    broken = NetworkAnswers(
        logits=np.full((2, 3), np.nan, dtype=np.float32), probabilities=judging.answers.probabilities
    )
    facts = gate.gate_result(broken, judging, gate.GateRule(metric="accuracy", max_drop_points=100), TASK)
    assert not facts.passed
    assert said(RejectedError, require_passed, _proven("fp16 graph", facts), advice="Export without it") == (
        "fp16 graph: some answers are not numbers; no bundle was written. Export without it"
    )


def test_a_failed_gate_says_what_was_lost():
    truth = [0, 1, 2] * 100
    facts = _facts(truth, truth, [1] * 6 + truth[6:], metric="macro_f1")
    message = said(RejectedError, require_passed, _proven("int8 graph", facts), advice="Allow more")
    assert message.startswith("int8 graph: macro f1 drops by 1.3")
    assert message.endswith(
        " points (at most 0.50), labels agree on 98.7% of 300 (at least 99.0%); no bundle was written. Allow more"
    )


def test_fewer_windows_than_the_gates_one_percent_are_refused_unless_accepted():
    strict = gate.GateRule(metric="accuracy", max_drop_points=0.5)
    gate.require_windows(100, what="int8 graph", rule=strict)
    gate.require_windows(2, what="int8 graph", rule=replace(strict, accept_unjudged=True))
    assert said(GateError, gate.require_windows, 2, what="int8 graph", rule=strict) == (
        "int8 graph: expected 100 or more windows to judge by, so that the one that may always differ is at most 1% of "
        "them, got 2, of which it is 50%; no bundle was written. Name more with --eval DATA, or take it unjudged with "
        "--accept-unjudged"
    )


def test_few_windows_judge_and_prove_little():
    assert gate.gate_summary(_facts([0, 1, 2], [0, 1, 2], [0, 1, 2])) == (
        "accuracy drops by 0.00 points (at most 33.33), labels agree on 100.0% of 3 (at least 66.7%), unjudged: fewer "
        "than 100 windows"
    )
    assert _facts([0] * 99, [0] * 99, [0] * 99).unjudged is True
    assert _facts([0] * 100, [0] * 100, [0] * 100).unjudged is None
    assert gate.caution(200) is None
    assert gate.caution(60) == (
        "60 judging windows prove little: even without one disagreement, up to 5.0% remain possible; "
        "name more with --eval DATA"
    )


def test_the_judging_half_keeps_its_answers():
    windows, judge = np.arange(4, dtype=np.float32).reshape(4, 1, 1), np.array([False, True, False, True])
    real = RealWindows(windows=windows, labels=np.array([0, 1, 2, 0]), judge=judge, source="carried")
    modality = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=1)
    every = build_proof_set(
        real,
        modality=modality,
        task=TASK,
        answer=lambda windows: _answers([0, 1, 2, 1]),
        find_clear=lambda windows: np.ones(len(windows), dtype=bool),
        rule=gate.GateRule(metric="accuracy", max_drop_points=0.5),
    )
    judging = every.judging
    assert every.calibration.ravel().tolist() == [0, 2]
    assert judging.windows.ravel().tolist() == [1, 3]
    assert judging.labels.tolist() == [1, 0]
    assert judging.answers.logits.argmax(1).tolist() == [1, 1]


def test_calibration_windows_in_another_unit_are_refused(student, student_graph):
    windows = student.carried.windows.copy()
    windows[:, :, 1] *= 9.81  # as if m/s^2 were given for g
    deviation, mean = np.nanstd(windows[:, :, 1], dtype=np.float64), np.nanmean(windows[:, :, 1], dtype=np.float64)
    assert said(GateError, check_calibration, windows, onnx.load_from_string(student_graph), student.modality) == (
        "calibration windows: channel 'y' of 'acc': expected values like in training, mean 0 and standard deviation 1 "
        f"m/s^2, got mean {mean:.3g} and standard deviation {deviation:.3g}: a factor of {deviation:.3g}, where 0.2 to "
        f"5 is allowed, and a shift of {abs(mean):.3g} standard deviations, where 5 is; check the unit and the "
        "sensor's range"
    )
