"""Checkpoints: whole round trips, and nothing in them that does not belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mmkd_models.carried import carried_windows
from mmkd_models.data import Dataset
from mmkd_models.data.batches import channel_statistics
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
    TeacherCheckpoint,
    library_versions,
    read_student,
    read_teacher,
    write_student,
    write_teacher,
)
from mmkd_models.training.fitting import set_normalisation


@pytest.fixture
def path(tmp_path: Path, student_checkpoint: StudentCheckpoint) -> Path:
    """A sound student checkpoint, for tests that read it."""
    write_student(tmp_path / "student.ckpt", student_checkpoint)
    return tmp_path / "student.ckpt"


def test_a_student_comes_back_as_it_was_written(tmp_path: Path, student_checkpoint: StudentCheckpoint) -> None:
    written = student_checkpoint
    write_student(tmp_path / "new" / "student.ckpt", written)  # the folder is made
    read = read_student(tmp_path / "new" / "student.ckpt")
    for part in ("modality", "task", "config", "facts"):
        assert getattr(read, part) == getattr(written, part)
    assert list(read.state) == sorted(written.state)
    assert all(torch.equal(read.state[name], value) for name, value in written.state.items())
    assert read.carried is not None
    assert written.carried is not None
    np.testing.assert_array_equal(read.carried.windows, written.carried.windows)  # NaN where NaN was
    np.testing.assert_array_equal(read.carried.labels, written.carried.labels)


def test_a_teacher_comes_back_as_it_was_written(tmp_path: Path, teacher_checkpoint: TeacherCheckpoint) -> None:
    written = teacher_checkpoint
    write_teacher(tmp_path / "teacher.ckpt", written)
    read = read_teacher(tmp_path / "teacher.ckpt")
    for part in ("modalities", "task", "config", "facts"):
        assert getattr(read, part) == getattr(written, part)
    assert all(torch.equal(read.state[name], value) for name, value in written.state.items())


def test_the_network_of_a_checkpoint_answers_like_the_one_that_was_trained(
    path: Path, student_checkpoint: StudentCheckpoint
) -> None:
    torch.manual_seed(0)
    expected = Student(student_checkpoint.modality, 2, student_checkpoint.config).eval()
    network = read_student(path).network()
    window = torch.randn(2, 40, 2), torch.ones(2, 40, 2)
    assert not network.training
    assert torch.equal(network(*window).logits, expected(*window).logits)


def test_a_student_file_holds_the_student_and_its_windows_and_nothing_else(
    path: Path, student_checkpoint: StudentCheckpoint
) -> None:
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        assert set(file.metadata()) == {"student", "content_sha256"}
    assert names == {f"student/{name}" for name in student_checkpoint.state} | {"carried/windows", "carried/labels"}
    assert not [name for name in names if "teacher" in name or "contrast" in name or "queue" in name]


def test_writing_replaces_an_older_file_and_leaves_no_other(path: Path, student_checkpoint: StudentCheckpoint) -> None:
    write_student(path, replace(student_checkpoint, carried=None))
    assert read_student(path).carried is None
    assert [entry.name for entry in path.parent.iterdir()] == ["student.ckpt"]


def test_carried_windows_are_a_repeatable_draw_of_labelled_validation_windows(dataset: Dataset) -> None:
    valid = dataset.split("valid")
    labels = valid.labels.copy()
    labels[:4] = -1
    partly = valid.with_labels(labels)
    first, second = (carried_windows(partly, "acc", seed=3, most=5) for _ in range(2))
    np.testing.assert_array_equal(first.windows, second.windows)
    assert first.windows.shape == (5, 40, 2)
    assert first.windows.dtype == np.float32
    every = valid.take(np.arange(4, 16))["acc"]
    rows = [int(np.flatnonzero([np.array_equal(w, e, equal_nan=True) for e in every])[0]) for w in first.windows]
    assert rows == sorted(set(rows))
    assert first.labels.tolist() == labels[4:][rows].tolist()


def test_training_statistics_are_put_into_every_front_end_of_a_teacher(
    dataset: Dataset, teacher_checkpoint: TeacherCheckpoint
) -> None:
    network = Teacher(dataset.spec.modalities, 2, teacher_checkpoint.config)
    windows = dataset.split("train")
    set_normalisation(network, windows)
    for name in ("acc", "gyro"):
        mean, std = channel_statistics(windows, name)
        assert network.state_dict()[f"encoders.{name}.front.mean"].tolist() == mean.tolist()
        assert network.state_dict()[f"encoders.{name}.front.std"].tolist() == std.tolist()


def test_a_student_takes_the_statistics_of_one_modality_only(
    dataset: Dataset, student_checkpoint: StudentCheckpoint
) -> None:
    with pytest.raises(ValueError) as caught:
        set_normalisation(student_checkpoint.network(), dataset.split("train"))
    assert str(caught.value) == (
        "student: expected windows of one modality, got ['acc', 'gyro']; choose with with_modalities"
    )


def test_versions_name_what_a_result_depends_on() -> None:
    versions = library_versions()
    assert set(versions) == {"python", "mmkd-edge", "torch", "numpy", "lightning-fabric", "safetensors"}
    assert versions["numpy"] == np.__version__
