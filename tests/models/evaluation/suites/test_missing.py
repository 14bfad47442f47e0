"""Sensors that drop out: every subset of a teacher's, and samples of a student's."""

import numpy as np
import pytest
import torch

from mmkd_models.evaluation.suites.missing import MAX_SUBSETS, subsets_of, with_missing_samples, without_modalities
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.predict import batches_of, logits_of
from tests.models.conftest import STUDENT, TEACHER
from tests.models.kinds_rig import CAM, kinds_dataset


def teacher_of(modalities, classes):
    torch.manual_seed(0)
    return Teacher(modalities, classes, TEACHER).eval()


@pytest.fixture
def judged(machines):
    return machines.split("test")


def presence(windows, name="acc"):
    """(N, T, C) which samples are there."""
    return ~np.isnan(windows.take(np.arange(len(windows)))[name])


def test_of_many_subsets_the_largest_come_first():
    assert subsets_of(["acc", "gyro"]) == [("acc", "gyro"), ("acc",), ("gyro",)]
    subsets = subsets_of("abcdef")
    assert len(subsets) == MAX_SUBSETS == 31  # of 63
    sizes = [len(subset) for subset in subsets]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) == 3


def test_samples_and_frames_go_missing_whole_at_the_rate_that_is_said(machines, judged, tmp_path):
    windows = machines.everything()
    whole = presence(windows)
    assert np.array_equal(presence(with_missing_samples(windows, 0.0, seed=0)), whole)
    for share in (0.3, 0.9):
        present = presence(with_missing_samples(windows, share, seed=0))
        # 60 windows of 40 samples: a standard error of at most sqrt(0.3 * 0.7 / 2400) = 0.01.
        assert present[whole].mean() == pytest.approx(1 - share, abs=0.04)
        both = whole.all(-1)
        assert np.array_equal(present[both][:, 0], present[both][:, 1])  # no channel goes alone
        assert not (present > whole).any()
    first = presence(with_missing_samples(judged, 0.5, seed=4))
    turned = judged.subset(np.arange(len(judged))[::-1])
    assert np.array_equal(presence(with_missing_samples(turned, 0.5, seed=4))[::-1], first)
    assert not np.array_equal(presence(with_missing_samples(judged, 0.5, seed=5)), first)
    gyro = presence(with_missing_samples(judged, 0.5, seed=4), "gyro")
    assert gyro.shape[1] != first.shape[1] or not np.array_equal(gyro[..., 0], first[..., 0])
    data = kinds_dataset(tmp_path / "kinds").split("test")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        camera = Student(CAM, 3, STUDENT).eval()
    empty = torch.zeros(1, *CAM.shape, dtype=torch.uint8), torch.zeros(1, *CAM.presence_shape)
    nothing = camera(*empty).logits[0].detach().numpy()
    found = {
        fraction: logits_of(camera, with_missing_samples(data, fraction, seed=0), modality="cam")
        for fraction in (0.0, 0.5, 1.0)
    }
    np.testing.assert_allclose(found[0.0], logits_of(camera, data, modality="cam"), atol=1e-6)
    assert not np.allclose(found[0.5], found[0.0])
    np.testing.assert_allclose(found[1.0], np.broadcast_to(nothing, found[1.0].shape), atol=1e-5)


def test_a_teacher_without_its_camera_sees_no_frame(tmp_path):
    data = kinds_dataset(tmp_path / "kinds").split("test")
    teacher = teacher_of(data.spec.modalities, 3)
    hidden = {
        name: (values, present * (name != "cam")) for name, (values, present) in next(iter(batches_of(data))).items()
    }
    with torch.no_grad():
        wanted = teacher(hidden).logits.numpy()
    np.testing.assert_allclose(logits_of(teacher, without_modalities(data, ["cam"]), modality=None), wanted, atol=1e-5)
