"""The two maps that people look at: of one window, over time tokens, rows that sum to 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import Dataset, Windows
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.predict import attention_view, logits_of
from mmkd_report.schema.demo import AttentionMaps

ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8)
TEACHER = TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=2)


@pytest.fixture(scope="module")
def teacher(machines: Dataset) -> Teacher:
    torch.manual_seed(0)
    return Teacher(machines.spec.modalities, 3, TEACHER).eval()


def student_of(dataset: Dataset, modality: str) -> Student:
    torch.manual_seed(1)
    return Student(dataset.spec.modality(modality), 3, StudentConfig(preset="test", encoder=ENCODER)).eval()


def view_of(teacher: Teacher, dataset: Dataset, modality: str, windows: Windows) -> AttentionMaps:
    view = attention_view(teacher, student_of(dataset, modality), windows, modality=modality)
    assert view is not None
    return view


@pytest.mark.parametrize("modality", ["acc", "gyro"])
def test_both_maps_are_square_over_the_same_tokens_and_rows_sum_to_one(
    machines: Dataset, teacher: Teacher, modality: str
) -> None:
    view = view_of(teacher, machines, modality, machines.split("test"))
    length = student_of(machines, modality).encoder.length
    for weights in map(np.array, (view.teacher, view.student)):
        assert weights.shape == (length, length)
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-3)  # four digits
    assert view.seconds == 2.0


def test_the_window_is_the_one_that_the_teacher_answers_best(machines: Dataset, teacher: Teacher) -> None:
    windows = machines.split("test")
    logits = torch.from_numpy(logits_of(teacher, windows, modality=None))
    chances = logits.softmax(-1)[np.arange(len(windows)), windows.labels]
    best = int(chances.argmax())
    view = view_of(teacher, machines, "acc", windows)
    alone = view_of(teacher, machines, "acc", windows.subset(np.array([best])))
    assert view.window_label == machines.spec.task.labels[windows.labels[best]]
    np.testing.assert_allclose(view.teacher, alone.teacher, atol=2e-4)  # four digits
    np.testing.assert_allclose(view.student, alone.student, atol=2e-4)


def test_the_students_map_is_the_mean_of_its_heads_between_time_tokens(machines: Dataset, teacher: Teacher) -> None:
    windows = machines.split("test").subset(np.array([0]))
    student = student_of(machines, "acc")
    values, present = prepare_batch(windows.take([0])["acc"], machines.spec.modality("acc"))
    heads = student(torch.from_numpy(values), torch.from_numpy(present), taps=True).attention[-1][0].detach().numpy()
    length = student.encoder.length
    expected = np.zeros((length, length))
    for query in range(length):
        for key in range(length):
            expected[query, key] = sum(head[query, key] for head in heads) / len(heads)
        expected[query] /= expected[query].sum()
    view = attention_view(teacher, student, windows, modality="acc")
    assert view is not None
    np.testing.assert_allclose(view.student, expected, atol=1e-4)


def test_without_windows_or_another_sensor_there_is_nothing_to_compare(machines: Dataset, teacher: Teacher) -> None:
    heat = ModalitySpec(name="heat", channels=("t",), rate_hz=1.0, samples=4)
    alone = Teacher(machines.spec.modalities[:1], 3, TEACHER).eval()
    others = Teacher([machines.spec.modality("gyro"), heat], 3, TEACHER).eval()
    some, none = machines.split("test"), machines.split("test").subset(np.array([], dtype=np.int64))
    for other, windows in ((alone, some), (others, some), (teacher, none)):
        assert attention_view(other, student_of(machines, "acc"), windows, modality="acc") is None
