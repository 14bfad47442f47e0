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
from mmkd_export.verify.windows import judging_half, windows_from_checkpoint, windows_from_path
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
        windows_from_path(path, modality=modality or student.modality, task=student.task)
    return str(error.value)


def test_carried_windows_are_taken_as_they_are(student: StudentCheckpoint):
    real = windows_from_checkpoint(student.carried, checkpoint=Path("student.ckpt"))
    np.testing.assert_array_equal(real.windows, student.carried.windows)
    assert real.source == "validation windows carried by the checkpoint"
    assert real.judge.sum() == 6


def test_a_checkpoint_without_windows_says_what_to_do():
    with pytest.raises(UsageError) as error:
        windows_from_checkpoint(None, checkpoint=Path("student.ckpt"))
    assert str(error.value) == (
        "student.ckpt: expected recorded windows to calibrate and judge lower precision with, got a checkpoint "
        "without any; name some with --calib DATA or --calib FILE.npz, or train again without --no-embed-windows"
    )


def test_a_dataset_gives_its_validation_split(student: StudentCheckpoint, tmp_path: Path):
    real = windows_from_path(_dataset(tmp_path / "set", student), modality=student.modality, task=student.task)
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
    first, second = (windows_from_path(path, modality=student.modality, task=student.task) for _ in range(2))
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


def test_an_npz_file_gives_its_windows(student: StudentCheckpoint, tmp_path: Path):
    path = tmp_path / "line.npz"
    np.savez(path, x_acc=student.carried.windows.astype(np.float64), y=student.carried.labels, x_gyro=np.ones(3))
    real = windows_from_path(path, modality=student.modality, task=student.task)
    assert real.windows.dtype == np.float32
    np.testing.assert_array_equal(real.windows, student.carried.windows)
    np.testing.assert_array_equal(real.labels, student.carried.labels)
    assert real.source.startswith("windows of line.npz (SHA-256 ")


def test_an_npz_file_needs_no_labels(student: StudentCheckpoint, tmp_path: Path):
    path = tmp_path / "line.npz"
    np.savez(path, x_acc=student.carried.windows)
    assert windows_from_path(path, modality=student.modality, task=student.task).labels.tolist() == [-1] * 12


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_gyro": np.ones((2, 64, 3))}, "expected an array 'x_acc', got x_gyro"),
        (
            {"x_acc": np.ones((2, 3, 64))},
            "'x_acc': expected numbers of shape (N, 64, 3) with N > 0, got float64 of shape (2, 3, 64)",
        ),
        (
            {"x_acc": np.ones((0, 64, 3))},
            "'x_acc': expected numbers of shape (N, 64, 3) with N > 0, got float64 of shape (0, 64, 3)",
        ),
        (
            {"x_acc": np.ones((2, 64, 3)), "y": np.array([0, 4])},
            "'y': expected 2 whole numbers from -1 to 3, one per window",
        ),
        (
            {"x_acc": np.ones((2, 64, 3)), "y": np.array([0.0, 1.0])},
            "'y': expected 2 whole numbers from -1 to 3, one per window",
        ),
        (
            {"x_acc": np.ones((2, 64, 3)), "classes": np.array(["a", "b"])},
            "expected the classes rest, walk, run, fall in this order, got a, b; use windows of the same task",
        ),
    ],
)
def test_an_npz_file_that_does_not_fit_is_refused(
    student: StudentCheckpoint, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
):
    path = tmp_path / "line.npz"
    np.savez(path, **arrays)
    assert _refusal(path, student) == f"{path}: {message}"


def test_pickles_are_not_run(student: StudentCheckpoint, tmp_path: Path):
    path = tmp_path / "line.npz"
    np.savez(path, x_acc=np.array([{"a": 1}], dtype=object))
    assert _refusal(path, student) == (
        f"{path}: expected an .npz file of windows, cannot read it: "
        "Object arrays cannot be loaded when allow_pickle=False"
    )


def test_a_single_array_is_no_npz(student: StudentCheckpoint, tmp_path: Path):
    path = tmp_path / "line.npy"
    np.save(path, student.carried.windows)
    assert _refusal(path, student) == (
        f"{path}: expected an .npz file of windows, got a single array; save it with np.savez"
    )


def test_a_file_cannot_stand_for_a_modality_normalised_per_group(student: StudentCheckpoint, tmp_path: Path):
    path = tmp_path / "line.npz"
    np.savez(path, x_acc=student.carried.windows)
    modality = msgspec.structs.replace(student.modality, normalise="per_group")
    assert _refusal(path, student, modality) == (
        f"{path}: modality 'acc' is normalised per group, which a file of windows does not tell; "
        "import the recordings with mmkd-data import --per-group and give that directory to --calib"
    )


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
