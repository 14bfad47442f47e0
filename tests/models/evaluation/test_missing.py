"""Sensors that drop out: every subset of a teacher's, and samples of a student's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import Dataset, Windows, write_dataset
from mmkd_models.data.sources import Floats, Rows, WindowSource
from mmkd_models.evaluation.missing import (
    MISSING_SHARES,
    MOST_SUBSETS,
    logits_by_missing_share,
    logits_by_subset,
    scores_by_missing_share,
    scores_by_subset,
)
from mmkd_models.evaluation.rivals import rival_judged
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.predict import batches_of, logits_of, scores_of, series_values
from tests.models.kinds_rig import CAM, kinds_dataset

ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8)


def teacher_of(modalities: Sequence[ModalitySpec], classes: int) -> Teacher:
    torch.manual_seed(0)
    return Teacher(modalities, classes, TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1)).eval()


def student_of(dataset: Dataset, seed: int) -> Student:
    torch.manual_seed(seed)
    return Student(dataset.spec.modality("acc"), 3, StudentConfig(preset="test", encoder=ENCODER)).eval()


@pytest.fixture
def judged(machines: Dataset) -> Windows:
    return machines.split("test")


@dataclass(frozen=True, kw_only=True)
class Muted:
    """A source in which one sensor recorded nothing."""

    source: WindowSource
    absent: str

    @property
    def max_shift_s(self) -> float:
        return self.source.max_shift_s

    def gather(self, modality: ModalitySpec, rows: Rows, *, shift_s: NDArray[np.float64] | None) -> Floats:
        values = self.source.gather(modality, rows, shift_s=shift_s)
        return np.full_like(values, np.nan) if modality.name == self.absent else values


def without(windows: Windows, absent: str) -> Windows:
    return replace(windows, source=Muted(source=windows.source, absent=absent))


def test_a_teacher_is_scored_with_every_subset_largest_first(machines: Dataset, judged: Windows) -> None:
    scores = scores_by_subset(teacher_of(machines.spec.modalities, 3), judged)
    assert list(scores) == [("acc", "gyro"), ("acc",), ("gyro",)]


def test_a_hidden_sensor_counts_like_one_that_recorded_nothing(machines: Dataset, judged: Windows) -> None:
    teacher = teacher_of(machines.spec.modalities, 3)
    scores = scores_by_subset(teacher, judged)
    assert scores["acc", "gyro"] == scores_of(teacher, judged, modality=None)
    assert scores[("acc",)] == scores_of(teacher, without(judged, "gyro"), modality=None)
    assert scores[("gyro",)] == scores_of(teacher, without(judged, "acc"), modality=None)


def test_of_many_subsets_the_largest_are_scored(tmp_path: Path) -> None:
    names = "abcdef"
    rng = np.random.default_rng(0)
    dataset = write_dataset(
        tmp_path / "six",
        name="six",
        labels=["no", "yes"],
        modalities=[ModalitySpec(name=name, channels=("x",), rate_hz=8.0, samples=8) for name in names],
        splits={
            split: {**{name: rng.normal(size=(2, 8, 1)) for name in names}, "labels": np.array([0, 1])}
            for split in ("train", "valid", "test")
        },
    )
    subsets = list(scores_by_subset(teacher_of(dataset.spec.modalities, 2), dataset.split("test")))
    assert len(subsets) == MOST_SUBSETS == 31  # of 63
    assert subsets[0] == tuple(names)
    sizes = [len(subset) for subset in subsets]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) == 3


def presence_seen_by(student: Student) -> list[NDArray[np.float32]]:
    """The presence of every batch that the student gets from now on."""
    seen: list[NDArray[np.float32]] = []

    def record(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[1].numpy().copy())

    student.register_forward_pre_hook(record)
    return seen


def test_samples_go_missing_whole_at_the_rate_that_is_said(machines: Dataset) -> None:
    windows, student = machines.everything(), student_of(machines, 0)
    seen = presence_seen_by(student)
    scores = scores_by_missing_share(student, windows, modality="acc", seed=0, shares=(0.0, 0.3, 0.9))
    assert list(scores) == [0.0, 0.3, 0.9]
    whole = seen[0]
    for share, present in zip((0.3, 0.9), seen[1:], strict=True):
        left = present[whole > 0].mean()
        # 60 windows of 40 samples: a standard error of at most sqrt(0.3 * 0.7 / 2400) = 0.01.
        assert left == pytest.approx(1 - share, abs=0.04)
        both = (whole > 0).all(-1)
        assert np.array_equal(present[both][:, 0], present[both][:, 1])  # no channel goes alone
        assert not (present > whole).any()


def test_nothing_missing_is_the_plain_score(machines: Dataset, judged: Windows) -> None:
    student = student_of(machines, 0)
    scores = scores_by_missing_share(student, judged, modality="acc", seed=0)
    assert tuple(scores) == MISSING_SHARES
    assert scores[0.0] == scores_of(student, judged, modality="acc")


def test_two_students_miss_the_same_samples(machines: Dataset, judged: Windows) -> None:
    seen = []
    for seed in (0, 1):
        student = student_of(machines, seed)
        batches = presence_seen_by(student)
        scores_by_missing_share(student, judged, modality="acc", seed=4, shares=(0.2, 0.5))
        seen.append(batches)
    assert all(np.array_equal(first, second) for first, second in zip(*seen, strict=True))
    assert not np.array_equal(seen[0][0], seen[0][1])


def test_another_seed_hides_other_samples(machines: Dataset, judged: Windows) -> None:
    student = student_of(machines, 0)
    seen = presence_seen_by(student)
    for seed in (0, 1):
        scores_by_missing_share(student, judged, modality="acc", seed=seed, shares=(0.5,))
    assert not np.array_equal(seen[0], seen[1])


def test_frames_of_video_go_missing_as_samples_do(tmp_path: Path) -> None:
    data = kinds_dataset(tmp_path / "kinds").split("test")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        camera = Student(CAM, 3, StudentConfig(preset="test", encoder=ENCODER)).eval()
    empty = torch.zeros(1, *CAM.shape, dtype=torch.uint8), torch.zeros(1, *CAM.presence_shape)
    nothing = camera(*empty).logits[0].detach().numpy()
    for loss in ("samples", "burst"):
        found = logits_by_missing_share(camera, data, modality="cam", seed=0, shares=(0.0, 0.5, 1.0), loss=loss)
        np.testing.assert_allclose(found[0.0], logits_of(camera, data, modality="cam"), atol=1e-6)
        assert not np.allclose(found[0.5], found[0.0])
        np.testing.assert_allclose(found[1.0], np.broadcast_to(nothing, found[1.0].shape), atol=1e-5)


def test_a_teacher_without_its_camera_sees_no_frame(tmp_path: Path) -> None:
    data = kinds_dataset(tmp_path / "kinds").split("test")
    teacher = teacher_of(data.spec.modalities, 3)
    found = logits_by_subset(teacher, data)
    hidden = {
        name: (values, present * (name != "cam")) for name, (values, present) in next(iter(batches_of(data))).items()
    }
    with torch.no_grad():
        wanted = teacher(hidden).logits.numpy()
    np.testing.assert_allclose(found["acc", "mic"], wanted, atol=1e-5)


def test_classical_rivals_take_sound_and_video_as_series(tmp_path: Path) -> None:
    dataset = kinds_dataset(tmp_path / "kinds")
    for name in ("mic", "cam"):
        values = series_values(dataset.split("train"), name)
        assert (len(values), values.ndim) == (24, 3)
        judged = rival_judged("extra_trees", dataset.split("train"), [dataset.split("test")], modality=name, seed=0)
        assert not isinstance(judged, str)
        assert judged[0].scores.metric("accuracy") >= 0.9
    camera = series_values(dataset.split("train"), "cam")
    assert np.isnan(camera[1]).any(axis=1).tolist() == [False] * 3 + [True] * 2 + [False] * 5
    assert np.array_equal(
        series_values(dataset.split("train"), "acc"), dataset.split("train").take(np.arange(24))["acc"]
    )
