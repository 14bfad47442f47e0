"""Checkpoint files that are no checkpoints: each refused with its message, none of them run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_models.tensors import read_tensors, write_tensors
from mmkd_models.training.checkpoint import (
    StudentCheckpoint,
    TeacherCheckpoint,
    read_student,
    read_teacher,
    write_student,
    write_teacher,
)


@pytest.fixture
def path(tmp_path: Path, student_checkpoint: StudentCheckpoint) -> Path:
    """A sound student checkpoint, for tests that damage it."""
    write_student(tmp_path / "student.ckpt", student_checkpoint)
    return tmp_path / "student.ckpt"


def refusal(path: Path, read: Callable[[Path], object] = read_student) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert caught.value.exit_code == 6
    return str(caught.value)


def outcome(path: Path) -> StudentCheckpoint | CheckpointError:
    try:
        return read_student(path)
    except CheckpointError as error:
        return error


def rewrite(
    path: Path,
    *,
    document: Callable[[dict[str, Any]], object] = lambda document: None,
    tensors: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    kind: str = "student",
) -> None:
    """Writes the file again, its JSON document or its tensors changed in place, with the hash of what it then says."""
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        found = json.loads(file.metadata()[kind])
    document(found)
    tensors(parts)
    write_tensors(path, parts, kind=kind, document=json.dumps(found).encode())


def altered(
    path: Path,
    *,
    tensors: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    text: Callable[[str], str] = lambda text: text,
) -> None:
    """Writes the file again as another program would: all its metadata as it was, but for what is changed."""
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = dict(file.metadata())
    tensors(parts)
    metadata["student"] = text(metadata["student"])
    save_file(parts, path, metadata)


def written_hash(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return file.metadata()["content_sha256"]


@pytest.mark.parametrize("name", ["student/head.weight", "student/encoder.front.std", "carried/windows"])
def test_a_tensor_altered_after_training_is_refused(path: Path, name: str) -> None:
    def nudge(parts: dict[str, Tensor]) -> None:
        parts[name].view(-1)[0] += 0.5

    written = written_hash(path)
    altered(path, tensors=nudge)
    message = refusal(path)
    start = f"{path}: expected the content that was written, of SHA-256 {written}, got "
    assert message.startswith(start)
    assert message[len(start) + 64 :] == (
        ": its tensors or its metadata were altered after training; copy it again from where it was made, "
        "or train again"
    )


def test_swapped_tensors_and_altered_metadata_are_refused(path: Path) -> None:
    def swap(parts: dict[str, Tensor]) -> None:
        names = "student/encoder.front.mean", "student/encoder.front.std"
        parts[names[0]], parts[names[1]] = parts[names[1]], parts[names[0]]

    altered(path, text=lambda text: text.replace('"licence":"', '"licence":"not '))
    assert "were altered after training" in refusal(path)
    altered(path, text=lambda text: text.replace('"licence":"not ', '"licence":"'))
    altered(path, tensors=swap)
    assert "were altered after training" in refusal(path)


def test_a_file_whose_hash_was_taken_out_is_refused_whatever_it_holds(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        text = file.metadata()["student"]
    save_file(parts, path, {"student": text})
    assert refusal(path) == (
        f"{path}: expected a checkpoint with the SHA-256 of its content (content_sha256 in its metadata), got one "
        "without: another program wrote it again; copy it again from where it was made, or train again"
    )


def test_the_same_checkpoint_is_the_same_file_each_time(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(2), "a": torch.zeros(3)}
    # Safetensors orders metadata by a hash that is seeded for every file: eight would be alike once in 128 times.
    files = set()
    for _ in range(8):
        write_tensors(tmp_path / "t.ckpt", tensors, kind="resume", document=b"{}")
        files.add((tmp_path / "t.ckpt").read_bytes())
    assert len(files) == 1


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


def test_a_checkpoint_that_is_cut_short_once_it_was_read_changes_nothing(path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mmkd_models.training.checkpoint import read_student\n"
        "student = read_student(Path(sys.argv[1]))\n"
        "before = {name: tensor.clone() for name, tensor in student.state.items()}\n"
        "os.truncate(sys.argv[1], 100)\n"
        "print(all((student.state[name] == tensor).all() for name, tensor in before.items()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_flipped_bytes_in_the_header_never_raise_anything_else(
    student_checkpoint: StudentCheckpoint, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "student.ckpt"
    write_student(path, student_checkpoint)
    content = bytearray(path.read_bytes())
    header = struct.unpack("<Q", content[:8])[0] + 8
    for position in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    assert isinstance(outcome(path), StudentCheckpoint | CheckpointError)


def test_safetensors_of_another_program_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "student.ckpt"
    save_file({"weight": torch.zeros(2)}, path, {"format": "pt"})
    expected = f"{path}: expected a student checkpoint, got a file of another program; name the right file"
    assert refusal(path) == expected
    save_file({"weight": torch.zeros(2)}, path)
    assert refusal(path) == expected


def test_a_checkpoint_of_another_kind_is_refused_by_its_name(
    path: Path, tmp_path: Path, teacher_checkpoint: TeacherCheckpoint
) -> None:
    assert refusal(path, read_teacher) == (
        f"{path}: expected a teacher checkpoint, got a student checkpoint; name the right file"
    )
    write_teacher(tmp_path / "teacher.ckpt", teacher_checkpoint)
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
    write_tensors(path, {"student/x": torch.zeros(1)}, kind="student", document=text.encode())
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


OTHER_SHAPE = (
    "tensor 'head.weight': expected shape (2, 8) of float32, got {}; the file was altered or made by another version"
)
CARRIED = "carried windows: expected float32 (N, T, C)=(3, 40, 2) with int64 labels (N,), got {}; the file was altered"
BAD_TENSORS: list[tuple[dict[str, Tensor], str]] = [
    ({"student/head.weight": torch.zeros(3, 8)}, OTHER_SHAPE.format("shape (3, 8) of float32")),
    ({"student/head.weight": torch.zeros(2, 8).half()}, OTHER_SHAPE.format("shape (2, 8) of float16")),
    ({"student/head.weight": torch.zeros(2, 8).long()}, OTHER_SHAPE.format("shape (2, 8) of int64")),
    *(
        (
            {"student/head.weight": torch.full((2, 8), value)},
            "tensor 'head.weight': expected finite values, got NaN or infinity; train again",
        )
        for value in (float("nan"), float("inf"))
    ),
    (
        {"student/tail.weight": torch.zeros(2, 8)},
        (
            "expected exactly the tensors of its network, got missing [] and unknown ['tail.weight']; the file was "
            "altered or made by another version"
        ),
    ),
    (
        {"teacher/gate.weight": torch.zeros(1)},
        (
            "expected only tensors named student/ or carried/ or novelty/..., got ['teacher/gate.weight']; the file "
            "was altered"
        ),
    ),
    (
        {"carried/windows": torch.zeros(3, 41, 2)},
        CARRIED.format("torch.float32 (3, 41, 2) with torch.int64 (3,)"),
    ),
    (
        {"carried/windows": torch.zeros(3, 40, 2).double()},
        CARRIED.format("torch.float64 (3, 40, 2) with torch.int64 (3,)"),
    ),
    ({"carried/labels": torch.zeros(2).long()}, CARRIED.format("torch.float32 (3, 40, 2) with torch.int64 (2,)")),
    (
        {"carried/labels": torch.tensor([0, 2, 1])},
        "carried windows: expected labels from 0 to 1, got 0 to 2; the file was altered",
    ),
]


@pytest.mark.parametrize(("tensors", "message"), BAD_TENSORS)
def test_tensors_that_do_not_fit_are_refused(path: Path, tensors: dict[str, Tensor], message: str) -> None:
    rewrite(path, tensors=lambda parts: parts.update(tensors))
    assert refusal(path) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "student/head.weight",
            (
                "expected exactly the tensors of its network, got missing ['head.weight'] and unknown []; the file was "
                "altered or made by another version"
            ),
        ),
        ("carried/labels", CARRIED.format("torch.float32 (3, 40, 2) with torch.float32 (0,)")),
    ],
)
def test_missing_tensors_are_refused(path: Path, name: str, message: str) -> None:
    rewrite(path, tensors=lambda parts: parts.pop(name))
    assert refusal(path) == f"{path}: {message}"


# Sizes that are claimed.


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
def test_sizes_that_no_file_has_are_refused_before_anything_is_built(
    path: Path, change: Callable[[dict[str, Any]], object], name: str
) -> None:
    rewrite(path, document=change)
    begun = time.perf_counter()
    assert refusal(path).startswith(f"{path}: metadata: {name}: expected at most ")
    assert time.perf_counter() - begun < 10


_MANY_CHANNELS = 100_000  # of which every network multiplies each with each: 320 GB of weights


def test_a_student_file_of_a_megabyte_cannot_claim_gigabytes_of_weights(path: Path) -> None:
    names = [str(number) for number in range(_MANY_CHANNELS)]
    rewrite(path, document=lambda d: d["modality"].update(channels=names))
    assert refusal(path) == (
        f"{path}: tensor 'encoder.front.mean': expected shape (100000,) of float32, got shape (2,) of float32; "
        "the file was altered or made by another version"
    )


def test_a_header_of_a_million_tensors_is_not_read(path: Path) -> None:
    path.write_bytes(((16 << 20) + 1).to_bytes(8, "little") + b"{")
    os.truncate(path, 64 << 20)
    assert refusal(path) == (
        f"{path}: expected a header of at most 16777216 bytes, got 16777217; "
        "it is no checkpoint of mmkd-edge, or was altered"
    )


def test_names_that_would_mislead_whoever_reads_them_are_refused(path: Path) -> None:
    rewrite(path, document=lambda d: d["modality"].update(unit="g\x1b]0;owned\x07"))
    assert refusal(path) == (
        f"{path}: metadata: expected names without control characters and line breaks, got 'g\\x1b]0;owned\\x07'; "
        "the file was altered"
    )
