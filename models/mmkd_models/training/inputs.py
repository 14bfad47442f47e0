"""What every training is told: its windows and their labels, how it is run, and whose weights it starts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.labelled import ALL, Labelled, seen_labels
from mmkd_models.data.labels import Labels, absent_labels, hide_labels
from mmkd_models.data.windows import Windows
from mmkd_models.train_config import OnStep, TrainConfig
from mmkd_models.training.checkpoint import TeacherCheckpoint


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a training sees: windows to learn from and to validate on, and whose they are.

    Attributes:
        fold: number of the fold that the windows are of; None for the dataset's own split, unset where nobody knows.
        labelled: what of `train` shows its labels.
        held_back: of cross-fitted teachers, the number of the part that `train` is without, and how many there are.
    """

    train: Windows
    valid: Windows
    sha256: str
    fold: int | msgspec.UnsetType | None = msgspec.UNSET
    labelled: Labelled = ALL
    held_back: tuple[int, int] | None = None

    def with_modalities(self, names: Sequence[str]) -> TrainingData:
        """Gives the same windows with these modalities only, in this order.

        Raises UsageError where a name is unknown or there twice, or there is none.
        """
        train, valid = (windows.with_modalities(names) for windows in (self.train, self.valid))
        return replace(self, train=train, valid=valid)

    def for_pair(self, teacher: Sequence[str], student: str) -> TrainingData:
        """Gives the same windows with what a teacher of these modalities and a student of this one see."""
        return self.with_modalities(tuple(dict.fromkeys([*teacher, student])))


@dataclass(frozen=True, kw_only=True)
class TeacherStart:
    """A teacher whose weights another one starts with, and the SHA-256 of its file."""

    checkpoint: TeacherCheckpoint
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """How a training is run.

    Attributes:
        run_dir: where the resume state and TensorBoard logs go; None keeps nothing.
        answers: folder in which answers of teachers are kept for other distillations that see the same batches; None
            asks the teachers in every one.
    """

    train: TrainConfig
    augment: AugmentConfig
    run_dir: Path | None = None
    resume: bool = False
    embed_windows: bool = True
    answers: Path | None = None
    on_step: OnStep | None = None


def check_labels(data: TrainingData) -> None:
    """Raises UsageError where a class or a label has no example; numbers are looked at where they are scaled."""
    task, known = data.train.spec.task, data.train.labels[data.train.labelled]
    several, absent = task.kind == "multi_label", absent_labels(task, known)
    if absent:
        wanted, what = ("every label to be on in", "label") if several else ("every class to have", "class")
        raise UsageError(
            f"training windows: expected {wanted} a labelled window, got none for {', '.join(absent)}; "
            f"label some, raise --label-share or --labelled-groups, or take the {what} out of the dataset"
        )


def visible_labels(train: Windows, *, share: float = 1.0, groups: int | None = None, seed: int) -> Labels:
    """Gives the labels that training may see, the others hidden: a share of them by class, or those of whole groups."""
    return hide_labels(train.labels, seen_labels(train, Labelled(share=share, groups=groups), seed=seed))


def with_learning_rate(run: TrainingRun, learning_rate: float) -> TrainingRun:
    """Gives the same run with another peak learning rate."""
    return replace(run, train=msgspec.structs.replace(run.train, learning_rate=learning_rate))
