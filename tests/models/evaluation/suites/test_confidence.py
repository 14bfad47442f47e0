"""What a device would estimate of itself, beside the truth, with intact and broken sensors."""

import numpy as np
import pytest

from mmkd_edge.errors import UsageError
from mmkd_models.evaluation.suites.confidence import SUITE, ConditionFigures, ConfidenceSuiteFacts, describe, run
from mmkd_models.metrics.likelihood import probabilities_of
from tests.edge.said import said
from tests.models.judging_rig import suite_inputs, under_test


def sure(windows):
    """Always the first class, with a probability of 0.8 and 0.1 for the others."""
    return np.log(np.tile([0.8, 0.1, 0.1], (len(windows), 1)))


def test_the_estimate_is_the_mean_probability_of_the_answers(machines):
    rows = run(suite_inputs(machines, under_test("sure", sure))).facts.models["sure"]
    assert [one.condition for one in rows][:2] == ["intact", "noise"]
    assert len(rows) == 17
    for one in rows:
        assert one.estimated == pytest.approx(0.8)
        assert one.accuracy == pytest.approx(1 / 3)
        assert one.calibration_error == pytest.approx(0.8 - 1 / 3)


def test_calibration_error_is_that_of_torchmetrics(machines):
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")

    def ask(windows):
        return np.random.default_rng(7).normal(0, 1.5, (len(windows), 3))

    test = machines.split("test")
    intact = run(suite_inputs(machines, under_test("m", ask))).facts.models["m"][0]
    probabilities = probabilities_of(ask(test), kind="classification")
    expected = metrics.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(test.labels), num_classes=3, n_bins=15, norm="l1"
    )
    assert intact.calibration_error == pytest.approx(float(expected), abs=1e-6)  # float32 there


def test_the_verdict_names_the_fault_that_misleads_most():
    def verdict(*broken):
        rows = tuple(
            ConditionFigures(condition=name, estimated=estimated, accuracy=accuracy, calibration_error=0.1)
            for name, estimated, accuracy in (("intact", 0.9, 0.88), *broken)
        )
        return describe("s", ConfidenceSuiteFacts(severity=0.6, misleads_beyond=0.05, models={"s": rows})).verdict

    intact = "Without labels s estimates its accuracy as 90.0% with intact sensors; the true accuracy is 88.0%"
    assert verdict(("hum", 0.8, 0.6), ("gap", 0.7, 0.69)) == (
        intact,
        (
            "Do not trust its own estimate if a sensor breaks: it is too high under 1 of 2 faults, most under hum "
            "(80.0% instead of 60.0%)"
        ),
    )
    assert verdict(("gap", 0.6, 0.69)) == (intact, "Under every fault its own estimate is at most 5% too high")


def test_other_tasks_than_classes_are_refused(rigs):
    assert said(UsageError, SUITE.check, suite_inputs(rigs["regression"], under_test("sure", sure))) == (
        "--suite confidence: expected a dataset of classes, got 'rig' of the kind regression; leave the suite out"
    )
