"""What a device would estimate of itself, beside the truth, with sound and broken sensors; sets from validation."""

from __future__ import annotations

import numpy as np
import pytest

from mmkd_edge.errors import UsageError
from mmkd_models.data import Dataset, Windows
from mmkd_models.evaluation.suites.answering import Answers, AskedModel
from mmkd_models.evaluation.suites.confidence import judge_confidence
from mmkd_models.evaluation.suites.under_faults import FaultySource
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_report.schema.judging import JudgedModel

FACTS = JudgedModel(name="sure", path="sure", sha256="0" * 64, role="labels alone", modalities=("acc",), parameters=1)


def sure(windows: Windows) -> Answers:
    """Always the first class, with a probability of 0.8 and 0.1 for the others."""
    return np.log(np.tile([0.8, 0.1, 0.1], (len(windows), 1)))


MODEL = AskedModel(facts=FACTS, practised=None, cautions=(), ask=sure)


def test_the_estimate_is_the_mean_probability_of_the_answers(machines: Dataset) -> None:
    parts = {"train": machines.split("train"), "calibration": machines.split("valid")}
    found = judge_confidence([MODEL], machines.split("test"), **parts, seed=0, on_part=lambda part: None)
    rows = found.models["sure"].rows
    assert [one.condition for one in rows][:2] == ["sound", "noise"]
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

    model = AskedModel(facts=FACTS, practised=None, cautions=(), ask=ask)
    test = machines.split("test")
    parts = {"train": machines.split("train"), "calibration": machines.split("valid")}
    sound = judge_confidence([model], test, **parts, seed=0, on_part=lambda part: None).models["sure"].rows[0]
    probabilities = probabilities_of(ask(test), kind="classification")
    expected = metrics.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(test.labels), num_classes=3, n_bins=15, norm="l1"
    )
    assert sound.calibration_error == pytest.approx(float(expected), abs=1e-6)  # float32 there


def test_label_sets_are_made_from_validation_windows(machines: Dataset) -> None:
    parts = {"train": machines.split("train"), "calibration": machines.split("valid")}
    found = judge_confidence([MODEL], machines.split("test"), **parts, seed=0, on_part=lambda part: None)
    # 12 validation windows, a third with 0.8 and two thirds with 0.1 for the true label: sets hold everything.
    assert [(one.error_level, one.coverage, one.mean_set_size) for one in found.models["sure"].coverages] == [
        (0.1, 1.0, 3.0),
        (0.2, 1.0, 3.0),
    ]


def test_label_sets_of_sound_sensors_are_tried_under_every_fault(machines: Dataset) -> None:
    def ask(windows: Windows) -> Answers:
        """The true label has 0.8 with sound sensors, and 0.1 where a sensor is broken."""
        share = 0.1 if isinstance(windows.source, FaultySource) else 0.8
        shares = np.full((len(windows), 3), (1 - share) / 2)
        shares[np.arange(len(windows)), windows.labels] = share
        return np.log(shares)

    model = AskedModel(facts=FACTS, practised=None, cautions=(), ask=ask)
    parts = {"train": machines.split("train"), "calibration": machines.split("valid")}
    found = judge_confidence([model], machines.split("test"), **parts, seed=0, on_part=lambda part: None)
    assert found.set_level == 0.1
    assert [one.covered for one in found.models["sure"].rows] == [1.0] + 16 * [0.0]


def test_label_sets_need_validation_windows_enough(machines: Dataset) -> None:
    parts = {"train": machines.split("train"), "calibration": machines.split("valid").subset(np.arange(8))}
    found = judge_confidence([MODEL], machines.split("test"), **parts, seed=0, on_part=lambda part: None)
    assert {one.covered for one in found.models["sure"].rows} == {None}  # a tenth of 8 + 1 is none


def test_a_number_has_no_confidence(rigs: dict[str, Dataset]) -> None:
    speed = rigs["regression"]
    parts = {"train": speed.split("train"), "calibration": speed.split("valid")}
    with pytest.raises(UsageError) as error:
        judge_confidence([MODEL], speed.split("test"), **parts, seed=0, on_part=lambda part: None)
    assert str(error.value) == (
        "--suite confidence: expected a dataset of classes, got 'rig' of the kind regression; leave the suite out"
    )


def test_without_validation_labels_there_is_no_confidence(machines: Dataset) -> None:
    parts = {"train": machines.split("train"), "calibration": machines.split("valid").subset(np.arange(0))}
    with pytest.raises(UsageError) as error:
        judge_confidence([MODEL], machines.split("test"), **parts, seed=0, on_part=lambda part: None)
    assert str(error.value) == (
        "--suite confidence: expected labelled windows of validation, which label sets are made of, got none; label"
        " some, or leave the suite out"
    )
