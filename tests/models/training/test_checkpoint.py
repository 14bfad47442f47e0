"""Checkpoints: whole round trips, and files that are none: each refused with its message, none of them run."""

import os
import pickle
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from mmkd_edge.errors import CheckpointError
from mmkd_models.carried import carried_windows
from mmkd_models.data.batches import channel_statistics
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.tensors import read_tensors, write_tensors
from mmkd_models.training import checkpoint
from mmkd_models.training.fitting import set_normalisation
from tests.edge.said import LFS_POINTER, said
from tests.models.training.looping import rewrite


@pytest.fixture
def path(tmp_path, student_checkpoint):
    """A sound student checkpoint, for tests that read it."""
    checkpoint.write_student(tmp_path / "student.ckpt", student_checkpoint)
    return tmp_path / "student.ckpt"


def test_networks_come_back_as_written_and_answer_alike(tmp_path, student_checkpoint, teacher_checkpoint, path):
    written = student_checkpoint
    checkpoint.write_student(tmp_path / "new" / "student.ckpt", written)  # the folder is made
    read = checkpoint.read_student(tmp_path / "new" / "student.ckpt")
    for part in ("modality", "task", "config", "facts"):
        assert getattr(read, part) == getattr(written, part)
    assert list(read.state) == sorted(written.state)
    assert all(torch.equal(read.state[name], value) for name, value in written.state.items())
    np.testing.assert_array_equal(read.carried.windows, written.carried.windows)  # NaN where NaN was
    np.testing.assert_array_equal(read.carried.labels, written.carried.labels)
    written = teacher_checkpoint
    checkpoint.write_teacher(tmp_path / "teacher.ckpt", written)
    read = checkpoint.read_teacher(tmp_path / "teacher.ckpt")
    for part in ("modalities", "task", "config", "facts"):
        assert getattr(read, part) == getattr(written, part)
    assert all(torch.equal(read.state[name], value) for name, value in written.state.items())
    torch.manual_seed(0)
    expected = Student(student_checkpoint.modality, 2, student_checkpoint.config).eval()
    network = checkpoint.read_student(path).network()
    window = torch.randn(2, 40, 2), torch.ones(2, 40, 2)
    assert not network.training
    assert torch.equal(network(*window).logits, expected(*window).logits)


def test_a_student_file_holds_the_student_and_its_windows_and_nothing_else(path, student_checkpoint):
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        assert set(file.metadata()) == {"student", "content_sha256"}
    assert names == {f"student/{name}" for name in student_checkpoint.state} | {"carried/windows", "carried/labels"}
    assert not [name for name in names if "teacher" in name or "contrast" in name or "queue" in name]


def test_writing_replaces_an_older_file_and_leaves_no_other(path, student_checkpoint):
    checkpoint.write_student(path, replace(student_checkpoint, carried=None))
    assert checkpoint.read_student(path).carried is None
    assert [entry.name for entry in path.parent.iterdir()] == ["student.ckpt"]


def test_carried_windows_are_a_repeatable_draw_of_labelled_validation_windows(dataset):
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


def test_every_front_end_has_the_statistics_of_training(dataset, teacher_checkpoint, student_checkpoint):
    network = Teacher(dataset.spec.modalities, 2, teacher_checkpoint.config)
    windows = dataset.split("train")
    set_normalisation(network, windows)
    for name in ("acc", "gyro"):
        mean, std = channel_statistics(windows, name)
        assert network.state_dict()[f"encoders.{name}.front.mean"].tolist() == mean.tolist()
        assert network.state_dict()[f"encoders.{name}.front.std"].tolist() == std.tolist()
    assert said(ValueError, set_normalisation, student_checkpoint.network(), dataset.split("train")) == (
        "student: expected windows of one modality, got ['acc', 'gyro']; choose with with_modalities"
    )


def test_versions_name_what_a_result_depends_on():
    versions = checkpoint.library_versions()
    assert set(versions) == {"python", "mmkd-edge", "torch", "numpy", "lightning-fabric", "safetensors"}
    assert versions["numpy"] == np.__version__


def refusal(path, read=checkpoint.read_student):
    assert CheckpointError.exit_code == 6
    return said(CheckpointError, read, path)


def altered(path, *, tensors=lambda tensors: None, text=lambda text: text):
    """Writes the file again as another program would: all its metadata as it was, but for what is changed."""
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = dict(file.metadata())
    tensors(parts)
    metadata["student"] = text(metadata["student"])
    save_file(parts, path, metadata)


def nudged(name):
    return lambda parts: parts[name].view(-1)[:1].add_(0.5)


MEAN, STD = "student/encoder.front.mean", "student/encoder.front.std"


@pytest.mark.parametrize(
    "change",
    [
        *({"tensors": nudged(name)} for name in ("student/head.weight", STD, "carried/windows")),
        {"tensors": lambda parts: parts.update({MEAN: parts[STD], STD: parts[MEAN]})},
        {"text": lambda text: text.replace('"licence":"', '"licence":"not ')},
    ],
)
def test_what_was_altered_after_training_is_refused(path, change):
    with safe_open(path, framework="pt") as file:
        written = file.metadata()["content_sha256"]
    altered(path, **change)
    message = refusal(path)
    start = f"{path}: expected the content that was written, of SHA-256 {written}, got "
    assert message.startswith(start)
    assert message[len(start) + 64 :] == (
        ": its tensors or its metadata were altered after training; copy it again from where it was made, "
        "or train again"
    )


def test_a_file_whose_hash_was_taken_out_is_refused_whatever_it_holds(path):
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        text = file.metadata()["student"]
    save_file(parts, path, {"student": text})
    assert refusal(path) == (
        f"{path}: expected a checkpoint with the SHA-256 of its content (content_sha256 in its metadata), got one "
        "without: another program wrote it again; copy it again from where it was made, or train again"
    )


def test_the_same_checkpoint_is_the_same_file_each_time(tmp_path):
    tensors = {"b": torch.ones(2), "a": torch.zeros(3)}
    # Safetensors orders metadata by a hash that is seeded for every file: eight would be alike once in 128 times.
    files = set()
    for _ in range(8):
        write_tensors(tmp_path / "t.ckpt", tensors, kind="resume", document=b"{}")
        files.add((tmp_path / "t.ckpt").read_bytes())
    assert len(files) == 1


class Evil:
    """An object whose unpickling makes a marker file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def pickled(path, marker, protocol):
    path.write_bytes(pickle.dumps(Evil(marker), protocol=protocol))


def torch_saved(path, marker, *, zipped):
    torch.save({"weights": torch.zeros(3), "evil": Evil(marker)}, path, _use_new_zipfile_serialization=zipped)


EVIL_FILES = {
    "a pickle of protocol 2": lambda path, marker: pickled(path, marker, 2),
    "a pickle of protocol 5": lambda path, marker: pickled(path, marker, 5),
    "the ZIP of torch.save": lambda path, marker: torch_saved(path, marker, zipped=True),
    "the old file of torch.save": lambda path, marker: torch_saved(path, marker, zipped=False),
}


@pytest.mark.parametrize("kind", EVIL_FILES)
@pytest.mark.parametrize("read", [checkpoint.read_student, checkpoint.read_teacher])
def test_a_pickle_is_refused_without_running_it(tmp_path, kind, read):
    path, marker = tmp_path / "student.ckpt", tmp_path / "ran"
    EVIL_FILES[kind](path, marker)
    assert refusal(path, read) == (
        f"{path}: expected a safetensors checkpoint of mmkd-edge, got a pickle (or a ZIP with one), which could "
        "run code when it is read; it was not read. Train again with mmkd-train or mmkd-distill"
    )
    assert not marker.exists()


def test_a_git_lfs_pointer_is_no_checkpoint(tmp_path):
    path = tmp_path / "student.ckpt"
    path.write_text(LFS_POINTER)
    assert refusal(path) == (
        f"{path}: expected a checkpoint of mmkd-edge, got a Git LFS pointer in place of the file; run git lfs pull in"
        " its repository"
    )


def test_a_pickle_of_the_oldest_protocol_is_refused_without_running_it(tmp_path):
    path, marker = tmp_path / "student.ckpt", tmp_path / "ran"
    pickled(path, marker, 0)
    assert refusal(path).startswith(
        f"{path}: expected a safetensors checkpoint of mmkd-edge, got a damaged or foreign file ("
    )
    assert not marker.exists()


def test_a_sound_file_whose_header_length_looks_like_a_pickle_is_read(tmp_path):
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


def foreign_message(path, error):
    return (
        f"{path}: expected a safetensors checkpoint of mmkd-edge, got a damaged or foreign file ({error}); "
        "copy it again from where it was made"
    )


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_student(path)
    assert caught.value.__cause__ is not None
    assert str(caught.value) == foreign_message(path, caught.value.__cause__)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_a_checkpoint_that_is_cut_short_once_it_was_read_changes_nothing(path):
    student = checkpoint.read_student(path)
    before = {name: tensor.clone() for name, tensor in student.state.items()}
    assert str(path) not in Path("/proc/self/maps").read_text()  # else the next line ends this process
    os.truncate(path, 100)
    assert all(torch.equal(student.state[name], tensor) for name, tensor in before.items())


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_flipped_bytes_in_the_header_never_raise_anything_else(student_checkpoint, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "student.ckpt"
    checkpoint.write_student(path, student_checkpoint)
    content = bytearray(path.read_bytes())
    header = struct.unpack("<Q", content[:8])[0] + 8
    for position in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(CheckpointError):
        assert isinstance(checkpoint.read_student(path), checkpoint.StudentCheckpoint)


def test_safetensors_of_another_program_are_refused(tmp_path):
    path = tmp_path / "student.ckpt"
    save_file({"weight": torch.zeros(2)}, path, {"format": "pt"})
    expected = f"{path}: expected a student checkpoint, got a file of another program; name the right file"
    assert refusal(path) == expected
    save_file({"weight": torch.zeros(2)}, path)
    assert refusal(path) == expected


def test_a_checkpoint_of_another_kind_is_refused_by_its_name(path, teacher_checkpoint):
    assert refusal(path, checkpoint.read_teacher) == (
        f"{path}: expected a teacher checkpoint, got a student checkpoint; name the right file"
    )
    checkpoint.write_teacher(path, teacher_checkpoint)
    assert refusal(path) == (
        f"{path}: expected a student checkpoint, got a teacher checkpoint; make a student of it with mmkd-distill"
    )


OTHER_VERSION = "metadata: {}; the file was altered or made by another version"
NO_NETWORK = (
    "metadata: expected modalities with samples, channels and a rate, and two labels or more, got [('acc', {}, 20.0)] "
    "and {}; the file was altered"
)
BAD_DOCUMENTS = {
    **{
        f"expected format_version 1, got {version}; use the version of mmkd-edge that wrote it": (
            lambda found, version=version: found.update(format_version=version)
        )
        for version in (2, "1", None)
    },
    OTHER_VERSION.format("Object contains unknown field `colour`"): lambda found: found.update(colour="red"),
    OTHER_VERSION.format("Object contains unknown field `mood` - at `$.facts`"): (
        lambda found: found["facts"].update(mood=1)
    ),
    OTHER_VERSION.format("Object missing required field `task`"): lambda found: found.pop("task"),
    OTHER_VERSION.format("Expected `int`, got `str` - at `$.modality.samples`"): (
        lambda found: found["modality"].update(samples="many")
    ),
    OTHER_VERSION.format(
        "expected sizes >= 1, a width that is a multiple of heads, and a dropout in [0, 1) - at `$.config.encoder`"
    ): lambda found: found["config"]["encoder"].update(heads=3),
    OTHER_VERSION.format("Invalid value 'magic' - at `$.facts.recipe.terms[0].type`"): (
        lambda found: found["facts"]["recipe"]["terms"][0].update(type="magic")
    ),
    NO_NETWORK.format("(0, 2)", "['slow', 'fast']"): lambda found: found["modality"].update(samples=0),
    NO_NETWORK.format("(40, 0)", "['slow', 'fast']"): lambda found: found["modality"].update(channels=[]),
    NO_NETWORK.format("(40, 2)", "['slow']"): lambda found: found["task"].update(labels=["slow"]),
    "metadata: expected names without control characters and line breaks, got 'g\\x1b]0;owned\\x07'; the file was "
    "altered": lambda found: found["modality"].update(unit="g\x1b]0;owned\x07"),
}


@pytest.mark.parametrize(("message", "change"), BAD_DOCUMENTS.items())
def test_metadata_that_describes_another_file_is_refused(path, message, change):
    rewrite(path, kind="student", document=change)
    assert refusal(path) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "expected an object, got list"),
        ("[" * 100_000, "not a JSON document: nested too deeply"),
        ('{"format_version": 1, "format_version": 1}', "format_version: expected once, got it twice"),
    ],
)
def test_metadata_that_is_no_document_is_refused(path, text, problem):
    write_tensors(path, {"student/x": torch.zeros(1)}, kind="student", document=text.encode())
    assert refusal(path) == f"{path}: metadata: {problem}; copy the file again from where it was made"


OTHER_SHAPE = (
    "tensor 'head.weight': expected shape (2, 8) of float32, got {}; the file was altered or made by another version"
)
CARRIED = "carried windows: expected float32 (N, T, C)=(3, 40, 2) with int64 labels (N,), got {}; the file was altered"
NOT_FINITE = "tensor '{}': expected finite values, got NaN or infinity; train again"
OTHER_TENSORS = (
    "expected exactly the tensors of its network, got missing {} and unknown {}; the file was altered or made by "
    "another version"
)
BAD_TENSORS = {
    OTHER_TENSORS.format("['head.weight']", "[]"): {"student/head.weight": None},
    OTHER_TENSORS.format("[]", "['tail.weight']"): {"student/tail.weight": torch.zeros(2, 8)},
    OTHER_SHAPE.format("shape (3, 8) of float32"): {"student/head.weight": torch.zeros(3, 8)},
    OTHER_SHAPE.format("shape (2, 8) of float16"): {"student/head.weight": torch.zeros(2, 8).half()},
    OTHER_SHAPE.format("shape (2, 8) of int64"): {"student/head.weight": torch.zeros(2, 8).long()},
    NOT_FINITE.format("head.weight"): {"student/head.weight": torch.full((2, 8), torch.nan)},
    NOT_FINITE.format("head.bias"): {"student/head.bias": torch.full((2,), torch.inf)},
    "expected only tensors named student/ or carried/ or novelty/..., got ['teacher/gate.weight']; the file was "
    "altered": {"teacher/gate.weight": torch.zeros(1)},
    CARRIED.format("torch.float32 (3, 40, 2) with torch.float32 (0,)"): {"carried/labels": None},
    CARRIED.format("torch.float32 (3, 41, 2) with torch.int64 (3,)"): {"carried/windows": torch.zeros(3, 41, 2)},
    CARRIED.format("torch.float64 (3, 40, 2) with torch.int64 (3,)"): {
        "carried/windows": torch.zeros(3, 40, 2).double()
    },
    CARRIED.format("torch.float32 (3, 40, 2) with torch.int64 (2,)"): {"carried/labels": torch.zeros(2).long()},
    "carried windows: expected labels from 0 to 1, got 0 to 2; the file was altered": {
        "carried/labels": torch.tensor([0, 2, 1])
    },
}


@pytest.mark.parametrize(("message", "tensors"), BAD_TENSORS.items())
def test_tensors_that_do_not_fit_are_refused(path, message, tensors):
    def change(parts):
        parts.update(tensors)
        for name in [name for name, tensor in tensors.items() if tensor is None]:
            del parts[name]

    rewrite(path, kind="student", tensors=change)
    assert refusal(path) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda d: d["config"]["encoder"].update(width=48_000_000), "values in attention"),
        (lambda d: d["config"]["encoder"].update(depth=1_000_000), "layers"),
        (lambda d: d["config"]["encoder"].update(spectrum_bands=1 << 31), "spectrum_bands"),
        (lambda d: d["config"]["encoder"].update(most_tokens=1 << 31), "most_tokens"),
        (lambda d: d["config"]["encoder"].update(feedforward_ratio=1 << 31), "feedforward_ratio"),
        (lambda d: d["config"]["encoder"].update(frame=1 << 31), "frame"),
        (lambda d: d["modality"].update(samples=1 << 31), "acc: values of a window"),
        (
            lambda d: (d["modality"].update(samples=4097), d["config"]["encoder"].update(frame=1 << 11)),
            "acc: values of a constant matrix",
        ),
        (
            lambda d: (
                d["modality"].update(kind="audio", samples=1 << 24, channels=["1"], rate_hz=1.0),
                d["config"]["encoder"].update(most_tokens=1 << 14),
            ),
            "acc: values of a constant matrix",
        ),
        (
            lambda d: (
                d["modality"].update(samples=1 << 22),
                d["config"].update(causal=True),
                d["config"]["encoder"].update(spectrum_bands=1 << 12, frame=256),
            ),
            "acc: values of a constant matrix",
        ),
        (lambda d: d["task"].update(labels=[str(n) for n in range(10_001)]), "labels"),
    ],
)
def test_sizes_that_no_file_has_are_refused_before_anything_is_built(path, change, name):
    rewrite(path, kind="student", document=change)
    assert refusal(path).startswith(f"{path}: metadata: {name}: expected at most ")


def test_a_student_file_of_a_megabyte_cannot_claim_gigabytes_of_weights(path):
    channels = [str(number) for number in range(100_000)]  # a network multiplies each with each: 320 GB of weights
    rewrite(path, kind="student", document=lambda d: d["modality"].update(channels=channels))
    assert refusal(path) == (
        f"{path}: tensor 'encoder.front.mean': expected shape (100000,) of float32, got shape (2,) of float32; "
        "the file was altered or made by another version"
    )


def test_a_header_of_a_million_tensors_is_not_read(path):
    path.write_bytes(((16 << 20) + 1).to_bytes(8, "little") + b"{")
    os.truncate(path, 64 << 20)
    assert refusal(path) == (
        f"{path}: expected a header of at most 16777216 bytes, got 16777217; "
        "it is no checkpoint of mmkd-edge, or was altered"
    )
