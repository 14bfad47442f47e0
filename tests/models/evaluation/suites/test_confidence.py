"""What a device would estimate of itself, beside the truth, with sound and broken sensors; sets from validation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmkd_edge.errors import UsageError
from mmkd_models.data import Dataset, Windows
from mmkd_models.evaluation.suites.confidence import ConfidenceSuiteFacts, check, judge_confidence
from mmkd_models.evaluation.suites.faults import FaultySource
from mmkd_models.evaluation.suites.inputs import Answers, ModelUnderTest, SuiteInputs
from mmkd_models.metrics.likelihood import probabilities_of
from tests.models.judging_rig import suite_inputs, under_test


def sure(windows: Windows) -> Answers:
    """Always the first class, with a probability of 0.8 and 0.1 for the others."""
    return np.log(np.tile([0.8, 0.1, 0.1], (len(windows), 1)))


MODEL = under_test("sure", sure)


def inputs(dataset: Dataset, model: ModelUnderTest, *, labelled: int | None = None) -> SuiteInputs:
    given = suite_inputs(dataset, model)
    if labelled is None:
        return given
    return replace(given, calibration=given.calibration.subset(np.arange(labelled)))


def judged(dataset: Dataset, model: ModelUnderTest, *, labelled: int | None = None) -> ConfidenceSuiteFacts:
    return judge_confidence(inputs(dataset, model, labelled=labelled))


def test_the_estimate_is_the_mean_probability_of_the_answers(machines: Dataset) -> None:
    found = judged(machines, MODEL)
    rows = found.models["sure"]
    assert [one.condition for one in rows][:2] == ["intact", "noise"]
    assert len(rows) == 17
    for one in rows:
        assert one.estimated == pytest.approx(0.8)
        assert one.accuracy == pytest.approx(1 / 3)
        assert one.calibration_error == pytest.approx(0.8 - 1 / 3)


def test_calibration_error_is_that_of_torchmetrics(machines: Dataset) -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")

    def ask(windows: Windows) -> Answers:
        return np.random.default_rng(7).normal(0, 1.5, (len(windows), 3))

    model = under_test("sure", ask)
    test = machines.split("test")
    sound = judged(machines, model).models["sure"][0]
    probabilities = probabilities_of(ask(test), kind="classification")
    expected = metrics.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(test.labels), num_classes=3, n_bins=15, norm="l1"
    )
    assert sound.calibration_error == pytest.approx(float(expected), abs=1e-6)  # float32 there


def test_label_sets_of_sound_sensors_are_tried_under_every_fault(machines: Dataset) -> None:
    def ask(windows: Windows) -> Answers:
        """The true label has 0.8 with sound sensors, and 0.1 where a sensor is broken."""
        share = 0.1 if isinstance(windows.source, FaultySource) else 0.8
        shares = np.full((len(windows), 3), (1 - share) / 2)
        shares[np.arange(len(windows)), windows.labels] = share
        return np.log(shares)

    model = under_test("sure", ask)
    found = judged(machines, model)
    assert found.set_level == 0.1
    assert [one.covered for one in found.models["sure"]] == [1.0] + 16 * [0.0]


def test_label_sets_need_validation_windows_enough(machines: Dataset) -> None:
    found = judged(machines, MODEL, labelled=8)
    assert {one.covered for one in found.models["sure"]} == {None}  # a tenth of 8 + 1 is none


def test_windows_that_cannot_be_judged_are_refused(machines: Dataset, rigs: dict[str, Dataset]) -> None:
    for given, message in (
        (
            inputs(rigs["regression"], MODEL),
            "expected a dataset of classes, got 'rig' of the kind regression; leave the suite out",
        ),
        (
            inputs(machines, MODEL, labelled=0),
            "label sets need labelled validation windows, got none; label some, or leave the suite out",
        ),
    ):
        with pytest.raises(UsageError) as error:
            check(given)
        assert str(error.value) == f"--suite confidence: {message}"
