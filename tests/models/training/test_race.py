"""The race between ways of training a student: who takes part, who is shipped, and that a bad teacher hurts nobody."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset
from mmkd_models.defaults import AUGMENT
from mmkd_models.distillation.recipe import default_recipe
from mmkd_models.metrics.scores import DEFAULT_METRIC
from mmkd_models.networks.config import student_config, teacher_config
from mmkd_models.networks.convolutions import LENGTH
from mmkd_models.networks.fronts.as_series import series_view
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import TeacherFile, read_student, write_student
from mmkd_models.training.inputs import StudentTraining, TrainingData, TrainingRun
from mmkd_models.training.students import choose_student
from mmkd_models.training.trainings import train_teacher
from mmkd_report.schema.demo import LABELS_ONLY

RUN = TrainingRun(train=TrainConfig(steps=4, batch=12, eval_every=2, seed=3), augment=AUGMENT)


@pytest.fixture(scope="module")
def data(dataset):
    return TrainingData(train=dataset.split("train"), valid=dataset.split("valid"), sha256="ab" * 32)


def test_labels_only_are_shipped_where_the_teacher_knows_nothing_and_validation_is_sure(data, monkeypatch):
    """The teacher's answers are those of other windows, so what it teaches is wrong half of the time."""
    wrong = 1 - data.train.labels
    fooled = replace(data, train=data.train.with_labels(wrong), valid=data.valid.with_labels(1 - data.valid.labels))
    teacher = train_teacher(
        fooled, teacher_config("tiny"), replace(RUN, train=msgspec.structs.replace(RUN.train, steps=16))
    )
    strong = replace(RUN, train=msgspec.structs.replace(RUN.train, steps=16))
    alone = choose_student(StudentTraining(data.with_modalities(("acc",)), "acc", student_config("tiny"), strong))
    unlabelled = replace(data, train=data.train.with_labels(np.where(np.arange(len(wrong)) < 4, data.train.labels, -1)))
    taught_by, recipe = [TeacherFile(checkpoint=teacher, sha256="cd" * 32)], default_recipe(data.train.spec.task)
    training = StudentTraining(unlabelled, "acc", student_config("tiny"), strong, taught_by, recipe)
    student = choose_student(training, baseline=alone)
    assert student.facts.shipped == LABELS_ONLY
    assert student.facts.teacher_sha256 is None
    assert student.facts.beaten_teachers_sha256 == ("cd" * 32,)
    assert [one.name for one in student.facts.tried or ()][-1] == LABELS_ONLY
    assert all((student.state[name] == alone.state[name]).all() for name in alone.state)
    asked = []
    monkeypatch.setattr("mmkd_models.training.students.labels_win", lambda *given: bool(asked.extend(given)))
    unsure = choose_student(training, baseline=alone)
    assert unsure.facts.shipped != LABELS_ONLY
    assert unsure.facts.teacher_sha256 == "cd" * 32
    assert not unsure.facts.beaten_teachers_sha256
    assert unsure.facts.tried == student.facts.tried
    taught, labels_only, groups = asked
    assert labels_only.log_likelihood > taught.log_likelihood
    np.testing.assert_array_equal(groups, data.valid.groups)


def test_a_causal_student_races_as_a_transformer_alone(data):
    run = replace(RUN, train=msgspec.structs.replace(RUN.train, steps=2))
    student = choose_student(
        StudentTraining(data.with_modalities(("acc",)), "acc", student_config("tiny", causal=True), run)
    )
    assert [one.name for one in student.facts.tried or ()] == [
        "transformer of mixed windows",
        "transformer of unmixed windows",
    ]
    assert student.config.causal


def test_sound_of_fewer_frames_than_a_kernel_races_as_a_transformer_alone(tmp_path):
    rng = np.random.default_rng(0)
    sound = ModalitySpec(name="mic", kind="audio", channels=("m",), rate_hz=16000.0, samples=1600)
    assert series_view(sound).spec.samples < LENGTH < sound.samples
    splits = {
        name: {"mic": rng.normal(0, 0.1, (8, 1600, 1)).astype(np.float32), "labels": np.arange(8) % 2}
        for name in ("train", "valid", "test")
    }
    brief = write_dataset(tmp_path / "brief", name="brief", labels=("a", "b"), modalities=(sound,), splits=splits)
    run = replace(RUN, train=msgspec.structs.replace(RUN.train, steps=1, batch=4))
    seen = TrainingData(train=brief.split("train"), valid=brief.split("valid"), sha256=brief.sha256)
    student = choose_student(StudentTraining(seen, "mic", student_config("tiny"), run))
    assert [one.name for one in student.facts.tried or ()] == [
        "transformer of mixed windows",
        "transformer of unmixed windows",
    ]


@pytest.mark.parametrize("kind", ["classification", "multi_label", "regression"])
def test_every_way_is_in_the_facts_and_the_shipped_one_is_among_them(dataset, rigs, kind, tmp_path):
    rig = rigs.get(kind, dataset)
    train = msgspec.structs.replace(RUN.train, steps=2, metric=DEFAULT_METRIC[rig.spec.task.kind])
    seen = TrainingData(train=rig.split("train"), valid=rig.split("valid"), sha256=rig.sha256)
    student = choose_student(
        StudentTraining(seen.with_modalities(("acc",)), "acc", student_config("tiny"), replace(RUN, train=train))
    )
    race = {one.name: one for one in student.facts.tried}
    assert list(race)[:3] == [
        "transformer of mixed windows",
        "transformer of unmixed windows",
        "convolutions",
    ]
    assert list(race)[3:5] == ["intervals", "trees"]
    assert race[student.facts.shipped].valid_score == student.facts.score
    write_student(tmp_path / "student.ckpt", student)
    assert read_student(tmp_path / "student.ckpt").facts == student.facts
