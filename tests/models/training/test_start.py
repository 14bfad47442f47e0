"""A teacher that starts with the weights of an old one, because a sensor was added."""

from contextlib import suppress
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_export.inspect.files import inspect_file
from mmkd_models.commands.train import run_train
from mmkd_models.data import open_dataset, write_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.networks.config import EncoderConfig, TeacherConfig
from mmkd_models.networks.teacher import Teacher, take_teacher
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import TeacherFile, file_sha256, read_teacher, write_teacher
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.predict import answers_to
from mmkd_models.training.trainings import train_teacher
from tests.edge.said import said

ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8, dropout=0.0)
CONFIG = TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1)
RUN = TrainingRun(
    train=TrainConfig(steps=4, batch=8, eval_every=2),
    augment=AugmentConfig(mixup=0.0, channel_dropout=0.0, span_dropout=0.0),
)
LABELS = ("idle", "busy")


def modality(name, **facts):
    return ModalitySpec(**{"name": name, "channels": ("x",), "rate_hz": 10.0, "samples": 16, **facts})


def recorded(path, *modalities, labels=LABELS):
    splits = {}
    for number, (name, count) in enumerate({"train": 24, "valid": 16, "test": 8}.items()):
        rng = np.random.default_rng(number)
        truth = np.arange(count) % len(labels)
        splits[name] = {
            **{one.name: truth[:, None, None] + rng.normal(0, 0.5, (count, *one.shape)) for one in modalities},
            "labels": truth,
            "groups": 10 * number + np.arange(count) // 8,
        }
    return write_dataset(path, name=path.name, labels=list(labels), modalities=modalities, splits=splits)


def data_of(dataset):
    return TrainingData(train=dataset.split("train"), valid=dataset.split("valid"), sha256=dataset.sha256)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A folder with the recordings of two sensors, the same and a third, and the teacher of the two."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("line")
    two = recorded(folder / "two", modality("acc"), modality("gyro"))
    recorded(folder / "three", modality("acc"), modality("gyro"), modality("temp"))
    write_teacher(folder / "old.ckpt", train_teacher(data_of(two), CONFIG, RUN))
    return folder


def test_without_the_new_sensor_a_teacher_answers_at_first_as_the_old_one(line):
    old = read_teacher(line / "old.ckpt")
    specs = open_dataset(line / "three").spec.modalities
    new = Teacher(specs, 2, CONFIG).eval()
    fresh = take_teacher(new, old.transformer())
    two, three = open_dataset(line / "two").split("test"), open_dataset(line / "three").split("test")
    assert {name.split(".")[1] if name.startswith(("enc", "pool")) else name.split(".")[3] for name in fresh} == {
        "temp"
    }
    windows = three.take(np.arange(8))
    inputs = {}
    for spec in specs:
        values = torch.from_numpy(windows[spec.name]).float()
        there = torch.ones_like(values) if spec.name != "temp" else torch.zeros_like(values)
        inputs[spec.name] = (values * there, there)
    np.testing.assert_array_equal(windows["acc"], two.take(np.arange(8))["acc"])  # the same draws
    with torch.no_grad():
        answers = new(inputs).logits
    torch.testing.assert_close(answers, answers_to(old.transformer(), two))


def test_a_training_begins_where_the_old_teacher_stands(line):
    old = read_teacher(line / "old.ckpt")
    start = TeacherFile(checkpoint=old, sha256="5" * 64)
    still = replace(RUN, train=msgspec.structs.replace(RUN.train, learning_rate=0.0))
    new = train_teacher(data_of(open_dataset(line / "three")), CONFIG, still, start=start)
    assert [spec.name for spec in new.modalities] == ["acc", "gyro", "temp"]
    assert new.facts.started_from == "5" * 64
    for name, value in old.state.items():
        if not name.startswith("head.bias"):  # validation may take back a part of it
            assert torch.equal(new.state[name], value), name


BAD = {
    "no modality in common": (
        ("temp",),
        {},
        CONFIG,
        "--start: expected a teacher of one of the modalities temp, got one of acc, gyro; leave --start out",
    ),
    "other labels": (
        ("acc",),
        {"labels": ("idle", "broken")},
        CONFIG,
        (
            "starting teacher: expected the classes idle, broken of the dataset, got classes idle, busy; "
            "name the dataset of its training, or train a teacher on this dataset"
        ),
    ),
    "other windows": (
        ("acc",),
        {"samples": 32},
        CONFIG,
        (
            "starting teacher: modality 'acc': expected windows (T, C)=(16, 1) at 10.0 Hz, got (32, 1) at 10.0 Hz; "
            "name the dataset of its training, or train a teacher on this dataset"
        ),
    ),
    "another size": (
        ("acc",),
        {},
        msgspec.structs.replace(CONFIG, preset="larger", fusion_depth=2),
        "--start: expected a teacher of the size larger, got test; give --preset test",
    ),
    "the same size, built otherwise": (
        ("acc",),
        {},
        msgspec.structs.replace(CONFIG, fusion_depth=2),
        "--start: expected a teacher of the size test, got test, built otherwise; leave --start out",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_teacher_that_is_no_start_is_refused(line, tmp_path, case):
    names, facts, config, message = BAD[case]
    others = {name: value for name, value in facts.items() if name != "labels"}
    specs = [modality(name, **others) for name in names]
    dataset = recorded(tmp_path / "new", *specs, labels=facts.get("labels", LABELS))
    start = TeacherFile(checkpoint=read_teacher(line / "old.ckpt"), sha256="5" * 64)
    assert said(UsageError, lambda: train_teacher(data_of(dataset), config, RUN, start=start)) == message


def command(*arguments):
    with suppress(SystemExit):
        run_train(["teacher", *map(str, arguments), "--steps", "2", "--members", "transformer", "--preset", "tiny"])


def test_the_command_starts_from_a_file_and_says_so(line, tmp_path, capsys):
    old, new = tmp_path / "old.ckpt", tmp_path / "new.ckpt"
    command(line / "two", "-o", old)
    command(line / "three", "-o", new, "--start", old)
    assert inspect_file(new)["started_from"] == f"teacher {file_sha256(old)}"
    assert "started_from" not in inspect_file(old)
    before = old.read_bytes()
    assert said(UsageError, command, line / "three", "-o", old, "--start", old) == (
        f"--out {old}: expected another file than the teacher's, got the same; choose another name"
    )
    assert old.read_bytes() == before
