"""Quantisation-aware distillation, from a student that INT8 breaks to the INT8 artifact of what it learnt."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch

from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import CheckpointError, GateError, UnavailableError, UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec
from mmkd_export.graph.onnx_from_student import onnx_from_student, practised_layers
from mmkd_export.graph.onnx_graph import LEARNT_OPS, learnt_layers, learnt_ranges, select_layers
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.precision.rewrite import quantised_graph
from mmkd_export.verify.answers import answers_from_backend
from mmkd_models.commands.distill import run_distill
from mmkd_models.data import Dataset, write_dataset
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.distillation.recipe import default_recipe
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.networks.int8 import FakeInt8Student
from mmkd_models.networks.student import Student
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
    TeacherFile,
    file_sha256,
    read_student,
    write_student,
    write_teacher,
)
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.trainings import distil_int8, train_baseline, train_teacher

WIDTH = 16
ENCODER = EncoderConfig(width=WIDTH, heads=2, depth=1, spectrum_bands=8, dropout=0.0)
BLOCK = "encoder.blocks.0."
OUTLIER = 80.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A dataset, a teacher, a student that INT8 breaks, and what it became by practising."""

    folder: Path
    dataset: Dataset
    data: TrainingData
    teacher: TeacherFile
    hurt: StudentCheckpoint
    repaired: StudentCheckpoint


def _split(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    time_s = np.arange(64) / 50
    phase = rng.uniform(0, 6, (count, 1, 3))
    waves = np.sin(2 * np.pi * (2 + 0.6 * labels)[:, None, None] * time_s[None, :, None] + phase)
    return {"acc": waves + 0.8 * rng.standard_normal(waves.shape), "labels": labels}


def _hurt(student):
    """Two units of each layer become twins, read with +80 and -80 on top of what they were read with.

    In float32 the two cancel. In INT8 they set the scale, and the other weights of these layers round to almost 0.
    """
    state = {name: value.clone() for name, value in student.state.items()}
    value = 2 * WIDTH  # of query, key and value: the first unit of the values
    for reads, writes, unit in (
        ("attention.project", "attention.out", value),
        ("feedforward.up", "feedforward.down", 0),
    ):
        for part in ("weight", "bias"):
            state[f"{BLOCK}{reads}.{part}"][unit + 1] = state[f"{BLOCK}{reads}.{part}"][unit]
        state[f"{BLOCK}{writes}.weight"][:, unit % WIDTH] += OUTLIER
        state[f"{BLOCK}{writes}.weight"][:, (unit + 1) % WIDTH] -= OUTLIER
    return replace(student, state=state)


def _practise(case_data, hurt, teacher, run):
    return distil_int8(
        case_data,
        hurt,
        run,
        start_sha256="a" * 64,
        groups=practised_layers(hurt),
        teachers=[teacher],
        recipe=default_recipe(hurt.task),
    )


def _run(steps, learning_rate):
    train = TrainConfig(steps=steps, batch=32, eval_every=50, learning_rate=learning_rate)
    return TrainingRun(train=train, augment=AugmentConfig())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return _case(tmp_path_factory.mktemp("int8"), steps=20)


def _case(folder, *, steps):
    dataset = write_dataset(
        folder / "hum",
        name="hum",
        labels=["a", "b", "c", "d"],
        modalities=[ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=50.0, samples=64)],
        splits={"train": _split(256, 0), "valid": _split(200, 1), "test": _split(8, 2)},
    )
    data = TrainingData(train=dataset.split("train"), valid=dataset.split("valid"), sha256=dataset.sha256)
    run = _run(steps, 3e-3)
    taught = train_teacher(data, TeacherConfig(preset="toy", encoder=ENCODER, fusion_depth=1), run)
    write_teacher(folder / "teacher.ckpt", taught)
    teacher = TeacherFile(checkpoint=taught, sha256=file_sha256(folder / "teacher.ckpt"))
    hurt = _hurt(train_baseline(data, "acc", StudentConfig(preset="toy", encoder=ENCODER), run))
    repaired = _practise(data, hurt, teacher, _run(steps, 1e-3))
    for name, student in (("hurt", hurt), ("repaired", repaired)):
        write_student(folder / f"{name}.ckpt", student)
    return Case(folder=folder, dataset=dataset, data=data, teacher=teacher, hurt=hurt, repaired=repaired)


def _plan(case, name, tmp_path):
    return ExportPlan(
        source=case.folder / f"{name}.ckpt",
        output=tmp_path / "student.edge",
        accept_unjudged=True,
        precisions=("int8",),
        platform="jp6.2",
    )


@pytest.mark.slow
def test_a_student_that_no_remedy_saves_is_saved_by_practising(tmp_path, monkeypatch):
    case = _case(tmp_path / "int8", steps=150)
    monkeypatch.setattr("mmkd_export.precision.make._MAX_REVERTED", 0.3)  # reverting cannot mend both twins
    with pytest.raises(GateError) as error:
        export(_plan(case, "hurt", tmp_path))
    assert "mmkd-distill TEACHER.ckpt DATA --modality acc --qat STUDENT.ckpt -o student-qat.ckpt" in str(error.value)
    report = export(_plan(case, "repaired", tmp_path)).report
    (attempt,) = report.artifacts[-1].attempts
    assert (attempt.remedy, attempt.method, attempt.layers) == ("quantisation-aware distillation", "learnt", 4)
    assert attempt.gate.passed
    # Practising must not have been paid for in float32.
    assert case.repaired.facts.score >= case.hurt.facts.score - 0.02  # four of 200 windows


def test_the_artifact_has_the_learnt_ranges(case, tmp_path):
    with Bundle.open(export(_plan(case, "repaired", tmp_path)).path) as bundle:
        graph = onnx.load_from_string(bundle.read("acc/model.int8.onnx")).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers = learnt_layers(onnx.load_from_string(onnx_from_student(case.repaired)))
    sources = {layer.name: layer.source for layer in layers}
    for name in ("attention.out", "feedforward.up", "feedforward.down"):
        scale = values[f"{sources[BLOCK + name]}_scale"]
        assert 127 * scale == pytest.approx(case.repaired.int8.ranges[BLOCK + name])


def test_practised_arithmetic_is_that_of_the_graph_in_onnxruntime(case):
    student, windows = case.hurt, case.hurt.carried.windows
    values, present = map(torch.from_numpy, prepare_batch(windows, student.modality))
    practised = FakeInt8Student(student.network(), practised_layers(student), values, present).eval()
    with torch.no_grad():
        expected = practised(values, present).logits.numpy()
    state = practised.student.state_dict()
    graph = onnx.load_from_string(onnx_from_student(replace(student, state=state)))
    layers = select_layers(learnt_layers(graph), ops=LEARNT_OPS)
    names = [name for group in practised.groups for name in group]
    assert [layer.name for layer in layers] == names
    ranges = dict(zip(names, practised.ranges.tolist(), strict=True))
    quantised = quantised_graph(graph, layers, {layer.source: ranges[layer.name] for layer in layers})
    got = answers_from_backend(OrtBackend(quantised.SerializeToString()), windows, student.modality).logits
    assert (got.argmax(1) == expected.argmax(1)).all()
    # Sums in another order put a value on the other side of a half now and then: one level of one activation, which
    # a weight near the largest multiplies. Median: float32's own rounding of sums with weights of 80.
    errors = np.abs(got - expected).max(1)
    assert np.median(errors) < 1e-4
    assert errors.max() < 0.1 * np.abs(expected).max()


def test_the_layers_that_practise_are_those_that_the_export_quantises(case):
    graph = onnx.load_from_string(onnx_from_student(case.repaired))
    layers = select_layers(learnt_layers(graph), ops=LEARNT_OPS)
    assert set(learnt_ranges(graph)) == {layer.name for layer in layers}
    assert learnt_ranges(onnx.load_from_string(onnx_from_student(case.hurt))) == {}


def test_a_checkpoint_keeps_what_was_learnt_and_names_its_start(case):
    read = read_student(case.folder / "repaired.ckpt")
    assert read.int8 == case.repaired.int8
    assert read.int8.student_sha256 == "a" * 64
    assert read_student(case.folder / "hurt.ckpt").int8 is None


def test_ranges_of_layers_that_do_not_exist_are_refused(case, tmp_path):
    entry = msgspec.structs.replace(case.repaired.int8.inputs[0], layers=("encoder.blocks.9.up",))
    wrong = msgspec.structs.replace(case.repaired.int8, inputs=(entry,))
    write_student(tmp_path / "wrong.ckpt", replace(case.repaired, int8=wrong))
    with pytest.raises(CheckpointError) as error:
        read_student(tmp_path / "wrong.ckpt")
    assert str(error.value) == (
        f"{tmp_path / 'wrong.ckpt'}: INT8 ranges: expected names of layers of its network, got "
        "['encoder.blocks.9.up']; the file was altered"
    )


class _StopError(Exception):
    pass


@pytest.mark.slow
def test_an_interrupted_practice_ends_on_the_weights_of_an_uninterrupted_one(case, tmp_path):
    def stop(progress):
        if progress.step == 5:
            raise _StopError

    train = TrainConfig(steps=6, batch=8, eval_every=2)
    run = TrainingRun(train=train, augment=AugmentConfig(), run_dir=tmp_path, resume=True)
    expected = _practise(case.data, case.hurt, case.teacher, replace(run, run_dir=None))
    with pytest.raises(_StopError):
        _practise(case.data, case.hurt, case.teacher, replace(run, on_step=stop))
    resumed = _practise(case.data, case.hurt, case.teacher, run)
    assert resumed.int8 == expected.int8
    assert all(torch.equal(resumed.state[name], value) for name, value in expected.state.items())


@pytest.mark.slow
def test_the_command_writes_a_student_that_exports_and_says_how(case, tmp_path, capsys):
    output = tmp_path / "practised.ckpt"
    teacher, start = case.folder / "teacher.ckpt", case.folder / "hurt.ckpt"
    arguments = [str(teacher), str(case.dataset.path), "--modality", "acc", "--qat", str(start), "--batch", "8"]
    with pytest.raises(SystemExit) as ended:
        run_distill([*arguments, "--steps", "2", "-o", str(output)])
    assert ended.value.code == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"wrote {output}; next: mmkd-export {output} --precision int8 -o {tmp_path / 'practised.edge'}"
    written = read_student(output)
    assert written.int8.student_sha256 == file_sha256(start)
    assert written.facts.training.learning_rate == 2e-4
    report = export(ExportPlan(source=output, output=tmp_path / "practised.edge")).report
    assert [artifact.precision for artifact in report.artifacts] == ["fp32"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--preset", "base"],
            "--preset cannot be combined with --qat, which continues with a trained student; leave it out",
        ),
        (
            ["--modality", "acc@25Hz"],
            "--qat {start}: expected a windowed student of 'acc__25Hz', got one of 'acc'; choose another",
        ),
        (["--causal"], "--causal cannot be combined with --qat, which continues with a trained student; leave it out"),
        (
            ["--qat", "{causal}"],
            "--qat {causal}: expected a windowed student of 'acc', got a causal one; choose another",
        ),
        (
            ["-o", "{start}", "--force"],
            "--out {start}: expected another file than the student's, got the same; choose another",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(case, tmp_path, options, message):
    start, causal = str(case.folder / "hurt.ckpt"), str(tmp_path / "causal.ckpt")
    if "{causal}" in options:
        config = msgspec.structs.replace(case.hurt.config, causal=True)
        state = Student(case.hurt.modality, len(case.hurt.task.labels), config).state_dict()
        write_student(Path(causal), replace(case.hurt, config=config, state=state))

    def filled(text):
        return text.replace("{start}", start).replace("{causal}", causal)

    usual = ["--modality", "acc", "-o", str(tmp_path / "no.ckpt"), "--qat", "{start}"]
    with pytest.raises(UsageError) as error:
        run_distill([str(case.folder / "teacher.ckpt"), str(case.dataset.path), *map(filled, [*usual, *options])])
    assert str(error.value) == filled(message)
    assert not (tmp_path / "no.ckpt").exists()


def test_practising_without_the_exports_libraries_names_the_extra(case, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    usual = ["--modality", "acc", "-o", str(tmp_path / "no.ckpt"), "--qat", str(case.folder / "hurt.ckpt")]
    with pytest.raises(UnavailableError) as error:
        run_distill([str(case.folder / "teacher.ckpt"), str(case.dataset.path), *usual])
    assert str(error.value) == (
        "--qat asks the export which layers compute in INT8, and needs onnxscript, which this Python lacks; "
        "run: pip install 'mmkd-edge[export]'"
    )
