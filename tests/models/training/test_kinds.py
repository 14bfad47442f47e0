"""Teachers of series, sound and video, and students of each, from files to checkpoints."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.frames import frame_bytes, missing_frames
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.carried import MIN_WINDOWS, carried_windows
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import channel_statistics, spread_rows
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import constant
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig, student_members
from mmkd_models.networks.student import Student
from mmkd_models.train_config import TrainConfig
from mmkd_models.training import checkpoint
from mmkd_models.training.committee import default_members, train_committee
from mmkd_models.training.fitting import set_normalisation
from mmkd_models.training.inputs import TrainingData, TrainingRequest, TrainingRun
from mmkd_models.training.predict import logits_of
from mmkd_models.training.students import train_student
from tests.edge.said import said
from tests.models.kinds_rig import CAM, MIC, kinds_dataset
from tests.models.training.looping import rewrite

ENCODER = EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0)
RUN = TrainingRun(
    train=TrainConfig(steps=40, batch=12, learning_rate=5e-3, ema_decay=0.0, eval_every=20),
    augment=AugmentConfig(mixup=0.3),
)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return kinds_dataset(tmp_path_factory.mktemp("kinds") / "data")


@pytest.fixture(scope="module")
def data(kinds):
    return TrainingData(train=kinds.split("train"), valid=kinds.split("valid"), sha256="ab" * 32)


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    members = default_members(data.train.spec.modalities)
    assert members == ("transformer", "convolutions", "trees")
    trained = train_committee(data, TeacherConfig(preset="toy", encoder=ENCODER, fusion_depth=1), RUN, members=members)
    path = tmp_path_factory.mktemp("teacher") / "teacher.ckpt"
    checkpoint.write_teacher(path, trained)
    return checkpoint.TeacherFile(checkpoint=checkpoint.read_teacher(path), sha256=checkpoint.file_sha256(path))


def test_a_teacher_of_all_kinds_and_its_other_members_hear_see_and_come_back(teacher, kinds):
    test = kinds.split("test")
    assert (logits_of(teacher.checkpoint.network(), test, modality=None).argmax(1) == test.labels).mean() >= 0.9
    scores = {member.kind: member.score for member in teacher.checkpoint.committee.members}
    assert scores["trees"] >= 0.9
    assert scores["convolutions"] >= 0.9


@pytest.mark.parametrize(
    ("modality", "kind", "causal"),
    [
        ("mic", "transformer", False),
        pytest.param("cam", "transformer", False, marks=pytest.mark.slow),
        ("mic", "transformer", True),
        pytest.param("mic", "convolutions", False, marks=pytest.mark.slow),
        ("cam", "convolutions", False),
        pytest.param("mic", "transformer,convolutions", False, marks=pytest.mark.slow),
    ],
)
def test_a_student_of_every_kind_is_taught_by_it(teacher, data, tmp_path, modality, kind, causal):
    recipe = Recipe(terms=(TaskTerm(weight=constant(1.0)), LogitTerm(weight=constant(1.0))))
    config = StudentConfig(preset="tiny", encoder=ENCODER, members=student_members(kind), causal=causal)
    made = train_student(TrainingRequest(data, modality, config, RUN, [teacher], recipe))
    path = tmp_path / "student.ckpt"
    checkpoint.write_student(path, made)
    found = checkpoint.read_student(path)
    valid = data.valid.with_modalities([modality])
    wanted, got = (logits_of(one.network(), valid, modality=modality) for one in (made, found))
    assert np.array_equal(wanted, got)
    assert found.facts.score >= 0.9
    assert len(found.carried.windows) == len(valid)


def test_normalisation_is_that_of_the_training(data):
    torch.manual_seed(0)
    mic, cam = (Student(spec, 3, StudentConfig(preset="toy", encoder=ENCODER)) for spec in (MIC, CAM))
    for network, name in ((mic, "mic"), (cam, "cam")):
        set_normalisation(network, data.train.with_modalities((name,)))
    frames = data.train.take(np.arange(len(data.train)))["cam"]
    pixels = frame_bytes(frames)[~missing_frames(frames)].astype(np.float64)
    assert cam.encoder.front.mean.item() == pytest.approx(pixels.mean(), abs=1e-4)
    assert cam.encoder.front.std.item() == pytest.approx(pixels.std(), abs=1e-4)
    front = mic.encoder.front
    values, present = (torch.from_numpy(one) for one in prepare_batch(data.train.take(np.arange(24))["mic"], MIC))
    mels, there = front.log_mels(values, present)
    known = mels[there > 0]
    torch.testing.assert_close(front.mel_mean[0], known.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(front.mel_std[0], known.std(0, correction=0), atol=1e-4, rtol=0)


def test_no_more_sound_and_video_is_carried_or_counted_than_there_is_room_for(kinds, monkeypatch):
    valid, train = kinds.split("valid"), kinds.split("train")
    assert len(carried_windows(valid, "cam", seed=0).windows) == 12
    monkeypatch.setattr("mmkd_models.carried.MAX_CARRIED_BYTES", 20 * 10 * 12 * 16 + 1)
    carried = carried_windows(train, "cam", seed=0)
    assert (carried.windows.dtype, carried.windows.shape) == (np.dtype(np.uint8), (20, *CAM.shape))
    monkeypatch.setattr("mmkd_models.carried.MAX_CARRIED_BYTES", 1)
    assert len(carried_windows(train, "mic", seed=0).windows) == MIN_WINDOWS
    assert len(carried_windows(train, "acc", seed=0).windows) == 24
    monkeypatch.setattr("mmkd_models.data.batches._MAX_VALUES", 1)
    assert [len(spread_rows(train, name)) for name in ("acc", "mic", "cam")] == [24, 16, 16]


def test_missing_frames_stay_missing_in_a_checkpoint_and_have_one_shape(data, tmp_path, student_checkpoint):
    path = _camera_checkpoint(data, tmp_path, student_checkpoint)
    missing = missing_frames(checkpoint.read_student(path).carried.windows)
    assert (missing.sum(), missing.any(axis=1).sum()) == (2, 1)
    rewrite(path, kind="student", tensors=lambda parts: parts.update({"carried/frames": torch.ones(3, 2)}))
    assert said(CheckpointError, checkpoint.read_student, path) == (
        f"{path}: carried windows: expected which frames are there, bool (N, T)=(12, 10), got torch.float32 (3, 2); "
        "the file was altered"
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"height": 1 << 15}, "metadata: cam: pixels of a side: expected at most 16384, got 32768"),
        ({"height": 1 << 20}, "metadata: cam: values of a window: expected at most 16777216, got 167772160"),
    ],
)
def test_absurd_sizes_are_refused_before_a_network_is_built(data, tmp_path, student_checkpoint, changes, says):
    path = _camera_checkpoint(data, tmp_path, student_checkpoint, modality=msgspec.structs.replace(CAM, **changes))
    assert said(CheckpointError, checkpoint.read_student, path) == f"{path}: {says}; the file was altered"


def test_a_causal_student_of_sound_trains_with_the_log_mels_of_its_data(data):
    config = StudentConfig(preset="toy", encoder=ENCODER, causal=True)
    trained = train_student(TrainingRequest(data, "mic", config, RUN))
    mean, std = channel_statistics(data.train, "mic")
    assert trained.normalisation == {"mean": mean.tolist(), "std": std.tolist()}
    front = trained.network().encoder.front
    values = torch.from_numpy(np.nan_to_num(data.train.take(np.arange(len(data.train)))["mic"]))
    mels, there = front.log_mels(values, torch.ones_like(values))
    assert mels.shape == (*there.shape, front.mels.count)
    assert float((mels.mean((0, 2)) - front.mel_mean).abs().max()) < 0.5


def _camera_checkpoint(data, folder, like, *, modality=CAM):
    """The file of an untrained student of the camera, with carried windows."""
    config, path = StudentConfig(preset="toy", encoder=ENCODER), folder / "cam.ckpt"
    own = {"modality": modality, "task": data.train.spec.task, "config": config}
    state, carried = Student(CAM, 3, config).state_dict(), carried_windows(data.valid, "cam", seed=0)
    checkpoint.write_student(path, replace(like, **own, state=state, carried=carried))
    return path


def test_a_causal_student_of_video_is_refused(data):
    causal = StudentConfig(preset="toy", encoder=ENCODER, causal=True)
    assert said(UsageError, train_student, TrainingRequest(data, "cam", causal, RUN)) == (
        "modality 'cam': expected a series or audio for a causal student, got video; train a windowed one"
    )
