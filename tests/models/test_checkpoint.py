"""Checkpoints: whole round trips, nothing that does not belong, and every bad file refused without running it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.augment import AugmentConfig, channel_statistics
from mmkd_models.checkpoint import (
    CarriedWindows,
    Facts,
    StudentCheckpoint,
    TeacherCheckpoint,
    carried_windows,
    file_sha256,
    library_versions,
    read_student,
    read_teacher,
    set_normalisation,
    write_student,
    write_teacher,
)
from mmkd_models.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.data import Dataset
from mmkd_models.distill import CrdTerm, LogitTerm, Recipe, constant
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.tensors import read_tensors, write_tensors
from mmkd_models.train import CurvePoint, TrainConfig

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=40, range=(-8.0, 8.0))
GYRO = ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=20, normalise="per_group")
TASK = TaskSpec(labels=("slow", "fast"))
ENCODER = EncoderConfig(width=8, heads=2, depth=1, most_tokens=8)
STUDENT = StudentConfig(preset="test", encoder=ENCODER)
TEACHER = TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1)
FACTS = Facts(
    dataset="two",
    dataset_sha256="ab" * 32,
    licence="BSD-3-Clause",
    metric="balanced_accuracy",
    score=0.75,
    best_step=4,
    teacher_sha256="cd" * 32,
    training=TrainConfig(steps=6),
    augment=AugmentConfig(noise=0.1),
    recipe=Recipe(terms=(LogitTerm(weight=constant(1.0)), CrdTerm(weight=constant(0.2)))),
    curve=(CurvePoint(step=4, train_loss=0.5, valid_score=0.75, terms={"logit": 0.5}),),
    versions={"python": "3.11"},
)


def student_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Student(ACC, 2, STUDENT).state_dict()


def student(**changes: Any) -> StudentCheckpoint:
    windows = np.random.default_rng(0).normal(size=(3, 40, 2)).astype(np.float32)
    windows[1, 5:9] = np.nan
    parts: dict[str, Any] = {
        "modality": ACC,
        "task": TASK,
        "config": STUDENT,
        "facts": FACTS,
        "state": student_state(),
        "carried": CarriedWindows(windows=windows, labels=np.array([0, 1, 1])),
    }
    return StudentCheckpoint(**{**parts, **changes})


def teacher() -> TeacherCheckpoint:
    torch.manual_seed(1)
    state = Teacher((ACC, GYRO), 2, TEACHER).state_dict()
    return TeacherCheckpoint(modalities=(ACC, GYRO), task=TASK, config=TEACHER, facts=FACTS, state=state)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound student checkpoint, for tests that damage it."""
    write_student(tmp_path / "student.ckpt", student())
    return tmp_path / "student.ckpt"


def refusal(path: Path, read: Callable[[Path], object] = read_student) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert caught.value.exit_code == 6
    return str(caught.value)


def rewrite(
    path: Path,
    *,
    document: Callable[[dict[str, Any]], object] = lambda document: None,
    tensors: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    kind: str = "student",
) -> None:
    """Writes the file again, its JSON document or its tensors changed in place."""
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        found = json.loads(file.metadata()[kind])
    document(found)
    tensors(parts)
    save_file(parts, path, {kind: json.dumps(found)})


def test_a_student_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = student()
    write_student(tmp_path / "new" / "student.ckpt", written)  # the folder is made
    read = read_student(tmp_path / "new" / "student.ckpt")
    assert (read.modality, read.task, read.config, read.facts) == (ACC, TASK, STUDENT, FACTS)
    assert list(read.state) == sorted(written.state)
    assert all(torch.equal(read.state[name], value) for name, value in written.state.items())
    assert read.carried is not None
    assert written.carried is not None
    np.testing.assert_array_equal(read.carried.windows, written.carried.windows)  # NaN where NaN was
    np.testing.assert_array_equal(read.carried.labels, written.carried.labels)


def test_a_teacher_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = teacher()
    write_teacher(tmp_path / "teacher.ckpt", written)
    read = read_teacher(tmp_path / "teacher.ckpt")
    assert (read.modalities, read.task, read.config, read.facts) == ((ACC, GYRO), TASK, TEACHER, FACTS)
    assert all(torch.equal(read.state[name], value) for name, value in written.state.items())


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=10, deadline=None)
def test_any_weights_survive_the_round_trip(tmp_path_factory: pytest.TempPathFactory, seed: int, carried: bool) -> None:
    file = tmp_path_factory.mktemp("round") / "student.ckpt"
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(value.shape, generator=generator) * 1e3 for name, value in student_state().items()}
    written = student(state=state) if carried else student(state=state, carried=None)
    write_student(file, written)
    read = read_student(file)
    assert all(torch.equal(read.state[name], value) for name, value in state.items())
    assert (read.carried is None) == (not carried)


def test_the_network_of_a_checkpoint_answers_like_the_one_that_was_trained(path: Path) -> None:
    torch.manual_seed(0)
    expected = Student(ACC, 2, STUDENT).eval()
    network = read_student(path).network()
    window = torch.randn(2, 40, 2), torch.ones(2, 40, 2)
    assert not network.training
    assert torch.equal(network(*window).logits, expected(*window).logits)


def test_the_network_of_a_teacher_answers_like_the_one_that_was_trained(tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher.ckpt", teacher())
    torch.manual_seed(1)
    expected = Teacher((ACC, GYRO), 2, TEACHER).eval()
    network = read_teacher(tmp_path / "teacher.ckpt").network()
    inputs = {s.name: (torch.randn(2, *s.shape), torch.ones(2, *s.shape)) for s in (ACC, GYRO)}
    assert not network.training
    assert torch.equal(network(inputs).logits, expected(inputs).logits)


def test_a_student_file_holds_the_student_and_its_windows_and_nothing_else(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        assert list(file.metadata()) == ["student"]
    assert names == {f"student/{name}" for name in student_state()} | {"carried/windows", "carried/labels"}
    assert not [name for name in names if "teacher" in name or "contrast" in name or "queue" in name]


def test_writing_replaces_an_older_file_and_leaves_no_other(path: Path) -> None:
    write_student(path, student(carried=None))
    assert read_student(path).carried is None
    assert [entry.name for entry in path.parent.iterdir()] == ["student.ckpt"]


def test_a_missing_file_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_student(tmp_path / "none.ckpt")
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"{tmp_path / 'none.ckpt'}: expected a checkpoint of mmkd-edge, found no such file; check the path"
    )


class Evil:
    """An object whose unpickling makes a marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def pickled(path: Path, marker: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps(Evil(marker), protocol=protocol))


def torch_saved(path: Path, marker: Path, *, zipped: bool) -> None:
    torch.save({"weights": torch.zeros(3), "evil": Evil(marker)}, path, _use_new_zipfile_serialization=zipped)


EVIL_FILES: dict[str, Callable[[Path, Path], None]] = {
    "a pickle of protocol 2": lambda path, marker: pickled(path, marker, 2),
    "a pickle of protocol 5": lambda path, marker: pickled(path, marker, 5),
    "the ZIP of torch.save": lambda path, marker: torch_saved(path, marker, zipped=True),
    "the old file of torch.save": lambda path, marker: torch_saved(path, marker, zipped=False),
}


@pytest.mark.parametrize("kind", EVIL_FILES)
@pytest.mark.parametrize("read", [read_student, read_teacher])
def test_a_pickle_is_refused_without_running_it(tmp_path: Path, kind: str, read: Callable[[Path], object]) -> None:
    path, marker = tmp_path / "student.ckpt", tmp_path / "ran"
    EVIL_FILES[kind](path, marker)
    assert refusal(path, read) == (
        f"{path}: expected a safetensors checkpoint of mmkd-edge, got a pickle (or a ZIP with one), which could "
        "run code when it is read; it was not read. Train again with mmkd-train or mmkd-distill"
    )
    assert not marker.exists()


def test_these_pickles_do_run_when_they_are_loaded(tmp_path: Path) -> None:
    # Otherwise the marker of the tests above would prove nothing.
    for number, make in enumerate(EVIL_FILES.values()):
        path, marker = tmp_path / f"{number}.ckpt", tmp_path / f"ran{number}"
        make(path, marker)
        if number < 2:
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        assert marker.exists()


def test_a_pickle_of_the_oldest_protocol_is_refused_without_running_it(tmp_path: Path) -> None:
    path, marker = tmp_path / "student.ckpt", tmp_path / "ran"
    pickled(path, marker, 0)
    message = refusal(path)
    assert message.startswith(
        f"{path}: expected a safetensors checkpoint of mmkd-edge, got a damaged or foreign file ("
    )
    assert not marker.exists()


def test_a_sound_file_whose_header_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    # The first bytes are the header's length, a multiple of 8: one in 32 ends in 0x80, which is how pickles start.
    for padding in range(0, 400, 8):
        path = tmp_path / f"{padding}.ckpt"
        write_tensors(path, {"t": torch.zeros(2)}, kind="student", document=b"x" * padding)
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    tensors, document = read_tensors(path, kind="student")
    assert torch.equal(tensors["t"], torch.zeros(2))
    assert document == b"x" * padding


def foreign_message(path: Path, error: BaseException | None) -> str:
    return (
        f"{path}: expected a safetensors checkpoint of mmkd-edge, got a damaged or foreign file ({error}); "
        "copy it again from where it was made"
    )


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError) as caught:
        read_student(path)
    assert caught.value.__cause__ is not None
    assert str(caught.value) == foreign_message(path, caught.value.__cause__)


@pytest.mark.parametrize(
    "content", [b"hello, world", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 8) + b'{"a": 1}']
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "student.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_student(path)
    assert str(caught.value) == foreign_message(path, caught.value.__cause__)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_flipped_bytes_in_the_header_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "student.ckpt"
    write_student(path, student())
    content = bytearray(path.read_bytes())
    header = struct.unpack("<Q", content[:8])[0] + 8
    for position in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        read_student(path)


def test_safetensors_of_another_program_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "student.ckpt"
    save_file({"weight": torch.zeros(2)}, path, {"format": "pt"})
    expected = f"{path}: expected a student checkpoint, got a file of another program; name the right file"
    assert refusal(path) == expected
    save_file({"weight": torch.zeros(2)}, path)
    assert refusal(path) == expected


def test_a_checkpoint_of_another_kind_is_refused_by_its_name(path: Path, tmp_path: Path) -> None:
    assert refusal(path, read_teacher) == (
        f"{path}: expected a teacher checkpoint, got a student checkpoint; name the right file"
    )
    write_teacher(tmp_path / "teacher.ckpt", teacher())
    assert refusal(tmp_path / "teacher.ckpt") == (
        f"{tmp_path / 'teacher.ckpt'}: expected a student checkpoint, got a teacher checkpoint; name the right file"
    )


@pytest.mark.parametrize("version", [2, "1", None])
def test_another_format_version_is_refused(path: Path, version: object) -> None:
    rewrite(path, document=lambda document: document.update(format_version=version))
    assert refusal(path) == (
        f"{path}: expected format_version 1, got {version}; use the version of mmkd-edge that wrote it"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda document: document.update(colour="red"), "Object contains unknown field `colour`"),
        (lambda document: document["facts"].update(mood=1), "Object contains unknown field `mood` - at `$.facts`"),
        (lambda document: document.pop("task"), "Object missing required field `task`"),
        (
            lambda document: document["modality"].update(samples="many"),
            "Expected `int`, got `str` - at `$.modality.samples`",
        ),
        (
            lambda document: document["config"]["encoder"].update(heads=3),
            "expected sizes >= 1, a width that is a multiple of heads, and a dropout in [0, 1) - at `$.config.encoder`",
        ),
        (
            lambda document: document["facts"]["recipe"]["terms"][0].update(type="magic"),
            "Invalid value 'magic' - at `$.facts.recipe.terms[0].type`",
        ),
    ],
)
def test_metadata_that_breaks_its_contract_is_refused_with_the_path(
    path: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    rewrite(path, document=change)
    assert refusal(path) == f"{path}: metadata: {problem}; the file was altered or made by another version"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "expected an object, got list"),
        ("[" * 100_000, "not a JSON document: nested too deeply"),
        ('{"format_version": 1, "format_version": 1}', "format_version: expected once, got it twice"),
    ],
)
def test_metadata_that_is_no_document_is_refused(path: Path, text: str, problem: str) -> None:
    save_file({"student/x": torch.zeros(1)}, path, {"student": text})
    assert refusal(path) == f"{path}: metadata: {problem}; copy the file again from where it was made"


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda document: document["modality"].update(samples=0), "[('acc', (0, 2), 20.0)] and ['slow', 'fast']"),
        (lambda document: document["modality"].update(channels=[]), "[('acc', (40, 0), 20.0)] and ['slow', 'fast']"),
        (lambda document: document["task"].update(labels=["slow"]), "[('acc', (40, 2), 20.0)] and ['slow']"),
    ],
)
def test_metadata_that_describes_no_network_is_refused(
    path: Path, change: Callable[[dict[str, Any]], object], got: str
) -> None:
    rewrite(path, document=change)
    assert refusal(path) == (
        f"{path}: metadata: expected modalities with samples, channels and a rate, and two labels or more, "
        f"got {got}; the file was altered"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(path: Path, value: float) -> None:
    rewrite(path, tensors=lambda tensors: tensors["student/head.weight"].view(-1)[3].fill_(value))
    assert refusal(path) == (f"{path}: tensor 'head.weight': expected finite values, got NaN or infinity; train again")


@pytest.mark.parametrize(
    ("tensor", "got"),
    [
        (torch.zeros(3, 8), "shape (3, 8) of float32"),
        (torch.zeros(2, 8, dtype=torch.float16), "shape (2, 8) of float16"),
        (torch.zeros(2, 8, dtype=torch.int64), "shape (2, 8) of int64"),
    ],
)
def test_tensors_of_another_shape_or_dtype_are_refused(path: Path, tensor: Tensor, got: str) -> None:
    rewrite(path, tensors=lambda tensors: tensors.update({"student/head.weight": tensor}))
    assert refusal(path) == (
        f"{path}: tensor 'head.weight': expected shape (2, 8) of float32, got {got}; "
        "the file was altered or made by another version"
    )


def test_missing_and_unknown_tensors_of_the_network_are_refused(path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["student/tail.weight"] = tensors.pop("student/head.weight")

    rewrite(path, tensors=change)
    assert refusal(path) == (
        f"{path}: expected exactly the tensors of its network, got missing ['head.weight'] and unknown "
        "['tail.weight']; the file was altered or made by another version"
    )


def test_a_student_file_that_smuggles_a_teacher_is_refused(path: Path) -> None:
    rewrite(path, tensors=lambda tensors: tensors.update({"teacher/gate.weight": torch.zeros(1)}))
    assert refusal(path) == (
        f"{path}: expected only tensors named student/ or carried/..., got ['teacher/gate.weight']; "
        "the file was altered"
    )


def test_a_teacher_file_with_tensors_of_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.ckpt"
    write_teacher(path, teacher())
    rewrite(path, tensors=lambda tensors: tensors.update({"student/x": torch.zeros(1)}), kind="teacher")
    assert refusal(path, read_teacher) == (
        f"{path}: expected only tensors named teacher/..., got ['student/x']; the file was altered"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"carried/windows": torch.zeros(3, 41, 2)},
            "(N, T, C)=(3, 40, 2) with int64 labels (N,), got torch.float32 (3, 41, 2) with torch.int64 (3,)",
        ),
        (
            {"carried/windows": torch.zeros(3, 40, 2, dtype=torch.float64)},
            "(N, T, C)=(3, 40, 2) with int64 labels (N,), got torch.float64 (3, 40, 2) with torch.int64 (3,)",
        ),
        (
            {"carried/labels": torch.zeros(2, dtype=torch.int64)},
            "(N, T, C)=(3, 40, 2) with int64 labels (N,), got torch.float32 (3, 40, 2) with torch.int64 (2,)",
        ),
    ],
)
def test_carried_windows_that_do_not_fit_the_modality_are_refused(
    path: Path, change: dict[str, Tensor], expected: str
) -> None:
    rewrite(path, tensors=lambda tensors: tensors.update(change))
    assert refusal(path) == f"{path}: carried windows: expected float32 {expected}; the file was altered"


def test_carried_windows_without_labels_are_refused(path: Path) -> None:
    rewrite(path, tensors=lambda tensors: tensors.pop("carried/labels"))
    assert refusal(path) == (
        f"{path}: carried windows: expected float32 (N, T, C)=(3, 40, 2) with int64 labels (N,), "
        "got torch.float32 (3, 40, 2) with torch.float32 (0,); the file was altered"
    )


def test_carried_labels_out_of_range_are_refused(path: Path) -> None:
    rewrite(path, tensors=lambda tensors: tensors.update({"carried/labels": torch.tensor([0, 2, 1])}))
    assert refusal(path) == (f"{path}: carried windows: expected labels from 0 to 1, got 0 to 2; the file was altered")


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


def test_all_windows_are_carried_where_there_are_few(dataset: Dataset) -> None:
    assert len(carried_windows(dataset.split("valid"), "gyro", seed=0).labels) == 16


def test_training_statistics_are_put_into_every_front_end_of_a_teacher(dataset: Dataset) -> None:
    network = Teacher(dataset.spec.modalities, 2, TEACHER)
    windows = dataset.split("train")
    set_normalisation(network, windows)
    for name in ("acc", "gyro"):
        mean, std = channel_statistics(windows, name)
        assert network.state_dict()[f"encoders.{name}.front.mean"].tolist() == mean.tolist()
        assert network.state_dict()[f"encoders.{name}.front.std"].tolist() == std.tolist()


def test_training_statistics_travel_in_a_students_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    spec = dataset.spec.modality("acc")
    network = Student(spec, 2, STUDENT)
    set_normalisation(network, dataset.split("train").with_modalities(("acc",)))
    write_student(tmp_path / "s.ckpt", student(modality=spec, state=network.state_dict()))
    mean, _ = channel_statistics(dataset.split("train"), "acc")
    assert read_student(tmp_path / "s.ckpt").network().encoder.front.mean.tolist() == mean.tolist()


def test_a_student_takes_the_statistics_of_one_modality_only(dataset: Dataset) -> None:
    with pytest.raises(ValueError) as caught:
        set_normalisation(Student(ACC, 2, STUDENT), dataset.split("train"))
    assert str(caught.value) == (
        "student: expected windows of one modality, got ['acc', 'gyro']; choose with with_modalities"
    )


def test_the_hash_of_a_file_is_its_sha256(path: Path) -> None:
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_versions_name_what_a_result_depends_on() -> None:
    versions = library_versions()
    assert set(versions) == {"python", "mmkd-edge", "torch", "numpy", "lightning-fabric", "safetensors"}
    assert versions["numpy"] == np.__version__


def test_facts_survive_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(FACTS), type=Facts) == FACTS
