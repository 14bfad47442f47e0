"""The folder of an experiment: where its runs lie, the windows of its folds, and how results are read and written.

A run is finished when its JSON file is there; the checkpoint is written before it. A run belongs to whoever holds the
lock in its folder; the kernel frees the lock of a process that ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import fold_indices
from mmkd_models.data.labelled import Labelled
from mmkd_models.data.labels import Labels
from mmkd_models.data.left_out import LeftOutDomains, fold_without
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.label_leak import labels_spread_in_time
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.experiments.plan import Conditions, Space, TeacherChoice, Trial, teacher_name, trial_name
from mmkd_models.train_config import OnStep, TrainConfig
from mmkd_models.training.inputs import TrainingData, TrainingRun, visible_labels
from mmkd_models.training.loop import RESUME_FILE

FORMAT_VERSION = 2
TEACHERS_FOLDER, TRIALS_FOLDER, ANSWERS_FOLDER = "teachers", "trials", "answers"
STUDENT_CHECKPOINT, TEACHER_CHECKPOINT, TEST_FILE = "student.ckpt", "teacher.ckpt", "test.json"


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """The windows of one fold, with the labels that training may see.

    Attributes:
        truth: all labels that the training windows have in the dataset; no training sees them.
    """

    training: TrainingData
    test: Windows
    truth: Labels


def fold_data(dataset: Dataset, *, seed: int, labelled: Labelled, left_out: LeftOutDomains | None = None) -> FoldData:
    """Return fold number `seed`; its training windows keep some of their labels, chosen by the seed.

    Args:
        left_out: what the folds leave out; None deals them by groups.

    Raises:
        UsageError: the dataset has no such fold (without groups its own split is fold 0, the only one), or not these
            labels.
    """
    windows = dataset.everything()
    if left_out is None:
        number: int | msgspec.UnsetType = seed
        fold = fold_indices(windows, fold=seed, seed=0)
    else:
        fold, number = fold_without(windows, left_out, fold=seed), msgspec.UNSET  # no fold that others deal again
    whole = windows.subset(fold.train)
    train = whole.with_labels(visible_labels(whole, share=labelled.share, groups=labelled.groups, seed=seed))
    training = TrainingData(
        train=train, valid=windows.subset(fold.valid), sha256=dataset.sha256, fold=number, labelled=labelled
    )
    return FoldData(training=training, test=windows.subset(fold.test), truth=whole.labels)


def spread_in_time(data: FoldData) -> TestedNetwork | None:
    """Judge labels spread in time on the hidden labels of a fold; whole groups leave nothing to spread."""
    if data.training.labelled.groups is not None:
        return None
    return labels_spread_in_time(data.training.train, data.truth)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The runs of one sensor. Folders of several sensors may share `out`, and then share their teachers.

    Attributes:
        embed_windows: keep validation windows in each student's checkpoint, for its export.
    """

    out: Path
    dataset: Dataset
    conditions: Conditions
    space: Space
    embed_windows: bool = False

    def of_trial(self, trial: Trial) -> Path:
        """The folder of a trial."""
        return self.out / TRIALS_FOLDER / trial_name(self.conditions, self.space, trial)

    def of_teacher(self, teacher: TeacherChoice, seed: int) -> Path:
        """The folder of a teacher."""
        return self.out / TEACHERS_FOLDER / teacher_name(self.conditions, teacher, seed)

    def fold(self, seed: int) -> FoldData:
        """The windows of a seed's fold; errors as `fold_data`."""
        own = self.conditions
        return fold_data(self.dataset, seed=seed, labelled=own.labelled, left_out=own.left_out)

    def training_run(
        self, train: TrainConfig, path: Path, seed: int, on_step: OnStep, *, embed_windows: bool = False
    ) -> TrainingRun:
        """How a training in this folder is run: resumed where it was, with the folder's memory of answers."""
        return TrainingRun(
            train=msgspec.structs.replace(train, seed=seed),
            augment=self.conditions.augment,
            run_dir=path / "run",
            resume=True,
            embed_windows=embed_windows,
            answers=self.out / ANSWERS_FOLDER,
            on_step=on_step,
        )


def drop_resume_states(path: Path) -> None:
    """Remove the resume states of a finished training; its TensorBoard logs stay."""
    for state in list((path / "run").rglob(RESUME_FILE)):
        state.unlink()


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Yield whether this process alone works in the folder, until the block ends."""
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


Result = TypeVar("Result", bound=msgspec.Struct)


def read_result(path: Path, kind: type[Result]) -> Result | None:
    """Read a result, or None if there is none yet. Raises CheckpointError if the file is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: expected a result of this release, got a damaged or earlier file ({error}); delete it"
        ) from error


def write_result(path: Path, value: msgspec.Struct) -> None:
    """Replace the file, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, msgspec.json.format(msgspec.json.encode(value), indent=1))
