"""The folder of an experiment.

The folder of a run has a name that follows from everything that decides its result, so processes and hosts agree. A run
is finished when its `result.json` exists, after the checkpoint. Whoever makes it locks its folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError
from mmkd_edge.system import lock_file
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import Labelled, LeftOutDomains, fold_indices, fold_without, with_visible_labels
from mmkd_models.data.labels import Labels
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.gains import labels_spread_in_time
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.experiments.plan import (
    Conditions,
    Space,
    TeacherChoice,
    Trial,
    short_hash,
    teacher_name,
    trial_name,
)
from mmkd_models.networks.config import MemberKind
from mmkd_models.train_config import OnStep, TrainConfig
from mmkd_models.training.inputs import LatencyLimit, TrainingData, TrainingRun
from mmkd_models.training.loop import RESUME_FILE

FORMAT_VERSION = 3
ANSWERS_FOLDER = "answers"
STUDENT_CHECKPOINT, TEACHER_CHECKPOINT = "student.ckpt", "teacher.ckpt"
RESULT_FILE, TEST_FILE = "result.json", "test.json"


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

    def run_folder(self, result: RunResult) -> Path:
        """Return the folder of a finished teacher or student."""
        if result.trial is not None:
            return self.trial_folder(result.trial)
        assert result.teacher is not None  # a rival has no network
        return self.teacher_folder(result.teacher, result.seed)

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
