"""What an experiment combines, and its folder.

The folder of a run has a name that follows from everything that decides its result, so processes and hosts agree. A run
is finished when its `result.json` exists, after the checkpoint. Whoever makes it locks its folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mmkd_documents.study import NONE
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.system import lock_file
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import LeftOutDomains, fold_indices, fold_without
from mmkd_models.data.labelled import Labelled, with_visible_labels
from mmkd_models.data.labels import Labels
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.recipe import Method
from mmkd_models.evaluation.gains import labels_spread_in_time
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.networks.config import MemberKind, Preset, preset_named, student_config, teacher_config
from mmkd_models.train_config import OnStep, TrainConfig
from mmkd_models.training.committee import default_members
from mmkd_models.training.inputs import LatencyLimit, TrainingData, TrainingRun
from mmkd_models.training.loop import RESUME_FILE

_METHOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*(@[A-Za-z0-9][A-Za-z0-9_.+-]*)?")
_DIGITS = 10
_COMMITTEE = "committee"
FORMAT_VERSION = 3
ANSWERS_FOLDER = "answers"
STUDENT_CHECKPOINT, TEACHER_CHECKPOINT = "student.ckpt", "teacher.ckpt"
RESULT_FILE, TEST_FILE = "result.json", "test.json"


class TeacherChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A teacher; `committee` has its members' kinds, if any."""

    modalities: tuple[str, ...]
    preset: Preset
    committee: tuple[MemberKind, ...] = ()

    @property
    def name(self) -> str:
        """`acc+gyro:small`, or `acc+gyro:small,committee`."""
        return f"{'+'.join(self.modalities)}:{self.preset}" + (f",{_COMMITTEE}" if self.committee else "")


def teachers_from_text(texts: Sequence[str], dataset: Dataset) -> tuple[TeacherChoice, ...]:
    """Parse `small`, `gyro:tiny`, `acc+gyro:small,committee`."""
    teachers = []
    for text in texts:
        name, *settings = text.split(",")
        if settings not in ([], [_COMMITTEE]):
            got = ",".join(settings)
            raise UsageError(
                f"--teacher {text}: expected nothing or {_COMMITTEE} after the size, got {got!r}; correct it"
            )
        modalities, _, size = name.rpartition(":")
        names = modalities.split("+") if modalities else [spec.name for spec in dataset.spec.modalities]
        dataset.everything().with_modalities(names)  # refuses names that are unknown or there twice
        specs = [spec for spec in dataset.spec.modalities if spec.name in names]
        teachers.append(
            TeacherChoice(
                modalities=tuple(spec.name for spec in specs),
                preset=preset_named(size, option="--teacher"),
                committee=default_members(specs) if settings else (),
            )
        )
    return tuple(teachers)


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings that decide the weights of all runs; a `Comparison` fills in its dataset and sensors.

    `choose` trains students in several forms for validation, `labels_compete` lets labels only join. None in `left_out`
    deals folds by groups. Without `members` a student is a transformer, and choices are among all.
    """

    dataset_sha256: str = ""
    modality: str = ""
    labelled: Labelled
    teacher_train: TrainConfig
    student_train: TrainConfig
    augment: AugmentConfig
    choose: bool = False
    labels_compete: bool = False
    left_out: LeftOutDomains | None = None
    members: tuple[MemberKind, ...] | msgspec.UnsetType = msgspec.UNSET


class Space(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Teachers, sizes, methods and learning rates to combine."""

    teachers: tuple[TeacherChoice, ...]
    students: tuple[Preset, ...]
    methods: tuple[Method, ...]
    learning_rates: tuple[float, ...]
    baseline_learning_rates: tuple[float, ...] = ()

    def learning_rates_for(self, entry: Entry) -> tuple[float, ...]:
        """Return an entry's learning rates."""
        return (self.baseline_learning_rates if entry.method == NONE else ()) or self.learning_rates

    def teacher(self, name: str) -> TeacherChoice:
        """Return the teacher of that name."""
        return next(teacher for teacher in self.teachers if teacher.name == name)

    def method(self, name: str) -> Method:
        """Return the method of that name."""
        return next(method for method in self.methods if method.name == name)


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, order=True):
    """A table row; no teacher for labels only."""

    student: Preset
    method: str
    teacher: str | None


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry with a learning rate."""

    entry: Entry
    learning_rate: float


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A candidate on one seed (and fold): one training."""

    candidate: Candidate
    seed: int


def entries(space: Space, impossible: Sequence[Entry] = ()) -> tuple[Entry, ...]:
    """Return every trainable combination, labels only once per size."""
    combined = [
        Entry(student=student, method=method.name, teacher=None if method.recipe is None else teacher.name)
        for student, method, teacher in product(space.students, space.methods, space.teachers)
    ]
    return tuple(dict.fromkeys(entry for entry in combined if entry not in set(impossible)))


def candidates(space: Space, impossible: Sequence[Entry] = ()) -> tuple[Candidate, ...]:
    """Return every entry with every learning rate."""
    return tuple(
        Candidate(entry=entry, learning_rate=rate)
        for entry in entries(space, impossible)
        for rate in space.learning_rates_for(entry)
    )


def check_space(space: Space) -> None:
    """Raise UsageError if a part is empty, repeated, or without the method `none`."""
    parts: dict[str, list[str]] = {
        "--teacher": [teacher.name for teacher in space.teachers],
        "--student": list(space.students),
        "--method": [method.name for method in space.methods],
        "--learning-rate": [f"{rate:g}" for rate in space.learning_rates],
    }
    for option, names in parts.items():
        if not names or len(set(names)) < len(names):
            raise UsageError(f"{option}: expected each once, got {', '.join(names) or 'none'}; name each once")
    for method in space.methods:
        if not _METHOD_NAME.fullmatch(method.name):
            raise UsageError(
                f"method {method.name!r}: expected letters, digits and -_.+ as in 'edam' or 'edam@last'; rename it"
            )
        if (method.name == NONE) != (method.recipe is None):
            raise UsageError(f"method {method.name!r}: expected a recipe, and none for {NONE!r} alone; correct it")
    if NONE not in parts["--method"]:
        raise UsageError(f"--method: expected {NONE!r} among the methods, what others are measured against; add it")
    if min(space.learning_rates) <= 0:
        raise UsageError(f"--learning-rate: expected above 0, got {min(space.learning_rates):g}; correct it")


def trial_name(conditions: Conditions, space: Space, trial: Trial) -> str:
    """Return a student's folder name: words, and a hash of all that decides weights."""
    entry, rate = trial.candidate.entry, trial.candidate.learning_rate
    own = msgspec.structs.replace(
        conditions,
        teacher_train=TrainConfig(),
        labels_compete=conditions.labels_compete and entry.teacher is not None,
    )
    decides = {
        "conditions": own,
        "teacher": None
        if entry.teacher is None
        else teacher_name(conditions, space.teacher(entry.teacher), trial.seed),
        "student": student_config(entry.student),
        "recipe": space.method(entry.method).recipe,
        "learning_rate": rate,
        "beaten": space.baseline_learning_rates if own.labels_compete else (),
        "seed": trial.seed,
    }
    return f"{entry.method}-{conditions.modality}-{entry.student}-{rate:g}-seed{trial.seed}-{short_hash(decides)}"


def teacher_name(conditions: Conditions, teacher: TeacherChoice, seed: int) -> str:
    """Return the name of a teacher's folder."""
    own = msgspec.structs.replace(
        conditions, student_train=TrainConfig(), modality="", choose=False, labels_compete=False
    )
    decides = {"conditions": own, "teacher": teacher, "config": teacher_config(teacher.preset), "seed": seed}
    return f"{teacher.preset}-seed{seed}-{short_hash(decides)}"


def short_hash(value: Any) -> str:
    """Hash a JSON value."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:_DIGITS]


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """Windows of a fold; no training sees `truth`, all training labels."""

    training: TrainingData
    test: Windows
    truth: Labels


def fold_data(dataset: Dataset, *, seed: int, labelled: Labelled, left_out: LeftOutDomains | None = None) -> FoldData:
    """Return fold `seed`, which also chooses visible labels."""
    windows = dataset.everything()
    if left_out is None:
        number: int | msgspec.UnsetType = seed
        fold = fold_indices(windows, fold=seed, seed=0)
    else:
        fold, number = fold_without(windows, left_out, fold=seed), msgspec.UNSET  # no fold that others deal again
    whole = windows.subset(fold.train)
    train = with_visible_labels(whole, labelled, seed=seed)
    training = TrainingData(
        train=train, valid=windows.subset(fold.valid), sha256=dataset.sha256, fold=number, labelled=labelled
    )
    return FoldData(training=training, test=windows.subset(fold.test), truth=whole.labels)


def spread_in_time(data: FoldData) -> TestedNetwork | None:
    """Judge labels interpolated in time on hidden ones; None if whole groups are labelled."""
    if data.training.labelled.groups is not None:
        return None
    return labels_spread_in_time(data.training.train, data.truth)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Runs of one sensor. Folders with the same `out` share their teachers."""

    out: Path
    dataset: Dataset
    conditions: Conditions
    space: Space
    embed_windows: bool = False
    limit: LatencyLimit | None = None  # of a choice of students

    def trial_folder(self, trial: Trial) -> Path:
        """Return the folder of a student."""
        name = trial_name(self.conditions, self.space, trial)
        return self.out / "trials" / (f"{name}-{self.limit.ms:g}ms" if self.limit else name)

    def teacher_folder(self, teacher: TeacherChoice, seed: int) -> Path:
        """Return the folder of a teacher."""
        return self.out / "teachers" / teacher_name(self.conditions, teacher, seed)

    def rival_folder(self, rival: RivalName, seed: int) -> Path:
        """Return a rival's folder, which depends on its library."""
        own, teacher = self.conditions, self.space.teachers[0]
        decides = {
            "dataset": own.dataset_sha256,
            "labelled": own.labelled,
            "left_out": own.left_out,
            "metric": own.student_train.metric,
            "teacher": teacher_name(own, teacher, seed) if rival == "distilled_rocket" else None,
            "has_aeon": find_spec("aeon") is not None,
        }
        return self.out / "rivals" / f"{own.modality}-{rival}-seed{seed}-{short_hash(decides)}"

    def fold(self, seed: int) -> FoldData:
        """Return a seed's windows."""
        own = self.conditions
        return fold_data(self.dataset, seed=seed, labelled=own.labelled, left_out=own.left_out)

    def training_run(self, train: TrainConfig, path: Path, seed: int, on_step: OnStep) -> TrainingRun:
        """Return a training that resumes in `path`."""
        return TrainingRun(
            train=msgspec.structs.replace(train, seed=seed),
            augment=self.conditions.augment,
            run_dir=path / "run",
            resume=True,
            embed_windows=self.embed_windows,
            answers=self.out / ANSWERS_FOLDER,
            on_step=on_step,
        )


class RunResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Result of a teacher, student (`trial`) or rival."""

    format_version: int = FORMAT_VERSION
    conditions: Conditions
    seed: int
    teacher: TeacherChoice | None = None
    trial: Trial | None = None
    rival: RivalName | None = None
    reason: str = ""  # why there is nothing to judge
    score: float | None = None  # on validation
    learning_rate: float = 0.0
    parameters: int = 0  # of a committee's transformer
    members: tuple[MemberKind, ...] = ()  # the trained student's
    shipped: str = ""  # a race's choice
    sha256: str | None = None


def read_run(path: Path) -> RunResult | None:
    """Return the result of a folder's run, or None without one."""
    return read_result(path / RESULT_FILE, RunResult)


def write_run(path: Path, result: RunResult) -> None:
    """Write a result, and remove resume states."""
    write_result(path / RESULT_FILE, result)
    for state in list((path / "run").rglob(RESUME_FILE)):
        state.unlink()


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Yield whether this process alone works in the folder."""
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    is_ours = True
    try:
        try:
            lock_file(descriptor, wait=False)
        except BlockingIOError:
            is_ours = False
        yield is_ours
    finally:
        os.close(descriptor)


Result = TypeVar("Result")


def read_result(path: Path, kind: type[Result]) -> Result | None:
    """Read a result, or None without one. Raise CheckpointError for a damaged file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: expected a result of this release, got a damaged or earlier file ({error}); delete it"
        ) from error


def write_result(path: Path, value: Any) -> None:
    """Replace the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, msgspec.json.format(msgspec.json.encode(value), indent=1))
