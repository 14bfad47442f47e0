"""Answers that are kept: asked once, read back bit by bit, and never taken for those to other windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.errors import CheckpointError
from mmkd_models.data import Dataset, Windows
from mmkd_models.evaluation.suites.faults import sensors_of, with_fault
from mmkd_models.evaluation.suites.inputs import Answers, ModelUnderTest, SuiteInputs, with_stored_answers
from mmkd_models.evaluation.suites.table import conditions
from mmkd_report.schema.judging import JudgedModel


class Counting:
    """Answers by the mean of `acc`, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, windows: Windows) -> Answers:
        self.asked += 1
        mean = windows.take(np.arange(len(windows)))["acc"].mean(axis=(1, 2))
        return np.stack([mean, -mean, 0 * mean], axis=1)


def answering(counting: Counting, sha256: str = "a" * 64) -> ModelUnderTest:
    facts = JudgedModel(name="m", path="m", sha256=sha256, role="distilled", modalities=("acc",), parameters=1)
    return ModelUnderTest(facts=facts, practised=None, cautions=(), predict=counting)


def test_the_same_windows_are_asked_once(sites: Dataset, tmp_path: Path) -> None:
    counting, windows = Counting(), sites.split("test")
    (first,) = with_stored_answers([answering(counting)], tmp_path, sites.sha256)
    (second,) = with_stored_answers([answering(counting)], tmp_path, sites.sha256)  # a later run
    answers = first.answers(windows)
    again = second.answers(windows)
    assert (again.dtype, again.tobytes()) == (answers.dtype, answers.tobytes())
    assert counting.asked == 1


def test_whatever_decides_an_answer_asks_anew(sites: Dataset, tmp_path: Path) -> None:
    counting, windows = Counting(), sites.split("test")
    sensors = sensors_of(sites.split("train"), ("acc",))
    (one,) = with_stored_answers([answering(counting)], tmp_path, sites.sha256)
    one.answers(windows)
    one.answers(windows.subset(np.arange(10)))
    for name, severity, seed in (("noise", 0.2, 0), ("noise", 0.4, 0), ("offset", 0.4, 0), ("noise", 0.4, 1)):
        one.answers(with_fault(windows, name, severity, seed=seed, sensors=sensors))  # type: ignore[arg-type]
    other = {name: replace(sensor, std=2 * sensor.std) for name, sensor in sensors.items()}
    one.answers(with_fault(windows, "noise", 0.2, seed=0, sensors=other))
    (another,) = with_stored_answers([answering(counting, "b" * 64)], tmp_path, sites.sha256)
    another.answers(windows)
    (elsewhere,) = with_stored_answers([answering(counting)], tmp_path, "c" * 64)
    elsewhere.answers(windows)
    assert counting.asked == len(list(tmp_path.glob("*.npy"))) == 9


def test_answers_of_another_release_are_not_taken(
    sites: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting()
    (one,) = with_stored_answers([answering(counting)], tmp_path, sites.sha256)
    one.answers(sites.split("test"))
    monkeypatch.setattr("mmkd_models.evaluation.suites.inputs.__version__", "0.0.0")
    one.answers(sites.split("test"))
    assert counting.asked == 2


def test_what_nobody_can_name_is_asked_every_time(sites: Dataset, tmp_path: Path) -> None:
    counting = Counting()
    (rival,) = with_stored_answers([answering(counting, "")], tmp_path, sites.sha256)
    for _ in range(2):
        rival.answers(sites.split("test"))
    assert counting.asked == 2
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_told(sites: Dataset, tmp_path: Path) -> None:
    (one,) = with_stored_answers([answering(Counting())], tmp_path, sites.sha256)
    one.answers(sites.split("test"))
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        one.answers(sites.split("test"))
    assert str(caught.value) == (
        f"{path}: expected stored answers, got a damaged file (No data left in file); delete it"
    )


def test_every_condition_of_the_suites_is_answered_once(sites: Dataset, tmp_path: Path) -> None:
    counting = Counting()
    (model,) = with_stored_answers([answering(counting)], tmp_path, sites.sha256)
    windows = {"windows": sites.split("test"), "train": sites.split("train"), "calibration": sites.split("valid")}
    parts = conditions(SuiteInputs(models=(model,), **windows), ["faults", "confidence"])
    for part in parts:
        model.answers(part)
    # The intact windows, and 16 faults at 5 severities, one of which the suite confidence uses too.
    assert counting.asked == len(list(tmp_path.glob("*.npy"))) == len(parts) == 81
