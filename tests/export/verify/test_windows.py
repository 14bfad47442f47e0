from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_export.verify.windows import judging_half, windows_from_dataset
from mmkd_models.data.writer import write_dataset
from mmkd_models.training.checkpoint import StudentCheckpoint


def _dataset(path: Path, student: StudentCheckpoint, *, modality: ModalitySpec | None = None, labels=None) -> Path:
    modality = modality or student.modality
    windows, classes = student.carried.windows, student.carried.labels
    arrays = {
        split: {modality.name: windows + shift, "labels": classes}
        for shift, split in enumerate(("train", "valid", "test"))
    }
    write_dataset(path, name="toy", labels=labels or student.task.labels, modalities=[modality], splits=arrays)
    return path


def _refusal(path: Path, student: StudentCheckpoint, modality: ModalitySpec | None = None) -> str:
    with pytest.raises(UsageError) as error:
        windows_from_dataset(path, modality=modality or student.modality, task=student.task)
    return str(error.value)


def test_a_dataset_gives_its_validation_split(student: StudentCheckpoint, tmp_path: Path):
    real = windows_from_dataset(_dataset(tmp_path / "set", student), modality=student.modality, task=student.task)
    np.testing.assert_array_equal(real.windows, student.carried.windows + 1)  # the second split
    np.testing.assert_array_equal(real.labels, student.carried.labels)
    assert real.source == "windows of the validation split of dataset 'toy'"


def test_a_large_dataset_gives_256_windows_and_the_same_each_time(student: StudentCheckpoint, tmp_path: Path):
    many = replace(
        student,
        carried=replace(
            student.carried,
            windows=np.random.default_rng(0).standard_normal((300, 64, 3)).astype(np.float32),
            labels=np.arange(300) % 4,
        ),
    )
    path = _dataset(tmp_path / "set", many)
    first, second = (windows_from_dataset(path, modality=student.modality, task=student.task) for _ in range(2))
    assert len(first.windows) == 256
    np.testing.assert_array_equal(first.windows, second.windows)


def test_a_dataset_recorded_otherwise_is_refused(student: StudentCheckpoint, tmp_path: Path):
    other = msgspec.structs.replace(student.modality, rate_hz=100.0)
    path = _dataset(tmp_path / "set", student, modality=other)
    assert _refusal(path, student) == (
        f"{path}: modality 'acc': expected rate_hz 50.0 as in the checkpoint, got 100.0; "
        "use the dataset the student was trained on, or one recorded alike"
    )


def test_a_dataset_with_classes_in_another_order_is_refused(student: StudentCheckpoint, tmp_path: Path):
    path = _dataset(tmp_path / "set", student, labels=("walk", "rest", "run", "fall"))
    assert _refusal(path, student) == (
        f"{path}: expected the classes rest, walk, run, fall in this order, got walk, rest, run, fall; "
        "use windows of the same task"
    )


def test_a_dataset_without_the_modality_is_refused(student: StudentCheckpoint, tmp_path: Path):
    other = msgspec.structs.replace(student.modality, name="gyro")
    path = _dataset(tmp_path / "set", student, modality=other)
    assert _refusal(path, student) == "dataset 'toy': modality 'acc' is not in it; choose one of gyro"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=60))
def test_half_of_all_and_about_half_of_each_class_judges(labels: list[int]):
    array = np.array(labels)
    judge = judging_half(array)
    assert judge.sum() == (len(labels) + 1) // 2
    for label in set(labels):
        share = judge[array == label].sum() - (array == label).sum() / 2
        assert abs(share) <= 0.5  # alternating in the order of classes
    np.testing.assert_array_equal(judge, judging_half(array))
