"""Answers over whole splits."""

import numpy as np
import pytest
import torch

from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_models.evaluation.suites.missing import without_modalities
from mmkd_models.networks.student import Student, StudentOutput
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.predict import logits_of, scores_of
from tests.models.conftest import STUDENT, TEACHER


@pytest.fixture(scope="module")
def student(dataset):
    torch.manual_seed(0)
    return Student(dataset.spec.modality("acc"), 2, STUDENT)


def test_a_student_answers_a_split_in_evaluation_mode_and_is_given_back_as_it_was(dataset, student):
    windows, spec = dataset.split("test"), dataset.spec.modality("acc")
    logits = logits_of(student, windows, modality="acc")
    assert logits.shape == (8, 2)
    assert logits.dtype == np.float32
    student.eval()
    for row in range(8):
        feeds = prepare(check_window(windows.take(np.array([row]))["acc"][0], spec), spec)
        alone = student(*(torch.from_numpy(feed) for feed in feeds)).logits[0]
        # A batch of eight and a batch of one sum in other orders.
        np.testing.assert_allclose(logits[row], alone.detach().numpy(), atol=1e-6)
    student.train()
    first, second = (logits_of(student, dataset.split("test"), modality="acc") for _ in range(2))
    assert np.array_equal(first, second)  # dropout would differ
    assert student.training


def test_a_teacher_answers_from_all_its_modalities(dataset):
    torch.manual_seed(0)
    teacher = Teacher(dataset.spec.modalities, 2, TEACHER)
    whole = logits_of(teacher, dataset.split("test"), modality=None)
    deaf = logits_of(teacher, without_modalities(dataset.split("test"), ["gyro"]), modality=None)
    assert whole.shape == (8, 2)
    assert not np.allclose(whole, deaf)


def test_only_windows_with_labels_are_scored_and_answers_of_the_right_kind(dataset, student):
    windows = dataset.split("valid")
    labels = windows.labels.copy()
    labels[8:] = -1
    partly = scores_of(student, windows.with_labels(labels), modality="acc")
    assert partly == scores_of(student, windows.subset(np.arange(8)), modality="acc")
    assert sum(map(sum, partly.confusion)) == 8
    with pytest.raises(UsageError) as caught:
        scores_of(student, windows.with_labels(np.full(16, -1)), modality="acc")
    assert str(caught.value) == "windows to score on: expected some labelled ones, got none; label some"
    with pytest.raises(TypeError) as caught:
        logits_of(Own(wrapped=False), dataset.split("test"), modality="acc")
    assert str(caught.value) == "network: expected a StudentOutput or a TeacherOutput, got Tensor"


class Own(torch.nn.Module):
    """A student of one's own: it answers with the mean of the first channel, as logits or as they are."""

    def __init__(self, *, wrapped):
        super().__init__()
        self.scale, self.wrapped = torch.nn.Parameter(torch.ones(())), wrapped

    def forward(self, values, present):
        logits = values.mean(1) * self.scale
        return StudentOutput(logits=logits, embedding=logits) if self.wrapped else logits
