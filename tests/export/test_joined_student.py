"""A student of two sensors, of which either may be missing: taught, exported, and answering on a device."""

import numpy as np
import pytest

import mmkd_app.verbs as mm
from mmkd_app.commands.distill import run_distill
from mmkd_app.commands.export import run_export
from mmkd_app.commands.train import run_train
from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.inspect.files import inspect_file
from mmkd_models.data import open_dataset, write_dataset
from mmkd_models.training.checkpoint import file_sha256, read_student
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=16.0, samples=32, range=(-30.0, 30.0))
GYRO = ModalitySpec(name="gyro", channels=("z",), rate_hz=16.0, samples=32)
TASK = TaskSpec(labels=("still", "shaken", "turned", "both"))


def written(path, task):
    """Windows of four classes: acc swings in the second and fourth, gyro in the third and fourth."""
    splits = {}
    for seed, (name, count) in enumerate({"train": 96, "valid": 48, "test": 48}.items()):
        rng, labels = np.random.default_rng(seed), np.arange(count) % 4
        acc = rng.normal(size=(count, *ACC.shape)) * (1 + 4 * (labels % 2))[:, None, None]
        gyro = rng.normal(size=(count, *GYRO.shape)) * (1 + 4 * (labels // 2))[:, None, None]
        groups = 100 * seed + np.arange(count) // 8
        splits[name] = {"acc": acc, "gyro": gyro, "labels": labels % len(task.labels), "groups": groups}
    write_dataset(path, name="table", labels=task, modalities=[ACC, GYRO], splits=splits)


def call(run, line, **files):
    with pytest.raises(SystemExit) as ended:
        run(line.format(**files).split())
    assert not ended.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset, and a student of both sensors from its labels, with its bundle."""
    path = tmp_path_factory.mktemp("joined")
    written(path / "data", TASK)
    options = "--modality gyro+acc --members convolutions,trees --preset tiny"
    call(run_train, f"student {{path}}/data {options} -o {{path}}/pair.ckpt", path=path)
    call(run_export, "{path}/pair.ckpt -o {path}/pair.edge", path=path)
    return path


def test_it_knows_what_the_present_sensor_shows(folder):
    student, test = mm.Student.load(folder / "pair.ckpt"), open_dataset(folder / "data").split("test")
    windows, truth = test.take(np.arange(len(test))), test.labels
    chances = {}
    with EdgePredictor.open(folder / "pair.edge") as predictor:
        for missing in ("", "gyro", "acc"):
            left = {name: np.full_like(one, np.nan) if name == missing else one for name, one in windows.items()}
            chances[missing] = student.predict_proba(left)
            own = {name: one for name, one in windows.items() if name != missing}
            answers = predictor.predict_batch([{name: one[n] for name, one in own.items()} for n in range(len(test))])
            np.testing.assert_allclose([one.probabilities for one in answers], chances[missing], atol=1e-4)
        assert {(answer.status, answer.reason) for answer in answers} == {("degraded", "sensor 'acc' is missing")}
        assert predictor.selftest().label_agreement == 1.0
    assert (chances[""].argmax(1) == truth).mean() > 0.9
    assert (chances["gyro"].argmax(1) % 2 == truth % 2).mean() > 0.9
    assert (chances["acc"].argmax(1) // 2 == truth // 2).mean() > 0.9
    assert chances[""].max(1).mean() > chances["gyro"].max(1).mean() + 0.1  # it knows what it cannot know


def test_bundle_card_and_golden_windows_have_both_and_each_alone(folder):
    with Bundle.open(folder / "pair.edge") as bundle:
        (entry,) = bundle.manifest.models
        golden, card = bundle.golden(entry.name), bundle.read("README.md").decode()
    assert [tensor.name for tensor in entry.inputs] == ["acc_and_gyro", "acc_and_gyro_present"]
    assert (entry.modality.title, entry.modality.parts) == ("acc+gyro", (ACC, GYRO))
    lacking = np.isnan(golden.windows).all(axis=1)
    for judged in (lacking[golden.judge], lacking[~golden.judge]):  # gates and calibration alike
        assert {tuple(one) for one in judged.tolist()} == {(False,) * 3, (True, True, False), (False, False, True)}
    assert (
        'These are 2 sensors, `acc+gyro`: pass `{"acc": acc, "gyro": gyro}`, None where one is missing, or their '
        "channels side by side. The windows that judged it lack each of them in turn."
    ) in card
    for file in ("pair.ckpt", "pair.edge"):
        inspected = inspect_file(folder / file)
        assert inspected["acc_and_gyro.acc"] == "32 samples x x, y at 16 Hz, may be missing"
        assert inspected["acc_and_gyro.gyro"] == "32 samples x z at 16 Hz, may be missing"


def test_a_teacher_of_all_sensors_teaches_it_and_normal_running_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    call(run_train, "teacher data --members transformer --preset tiny --steps 4")
    call(run_distill, "teacher.ckpt data --modality acc+gyro --preset tiny --steps 4 --no-choose")
    student = read_student(folder / "student.ckpt")
    assert student.facts.teacher_sha256 == file_sha256(folder / "teacher.ckpt")
    assert (student.modality.name, student.embeddings is None) == ("acc_and_gyro", False)
    written(tmp_path / "normal", TaskSpec(kind="normal", labels=("ok",)))
    line = ["student", str(tmp_path / "normal"), "--modality", "acc+gyro", "-o", "no.ckpt"]
    assert said(UsageError, run_train, line) == (
        "joined sensor 'acc+gyro': expected labelled windows, got normal running, of which a missing sensor would be a "
        "fault; train a student of each"
    )
