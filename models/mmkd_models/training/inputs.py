"""The inputs of every training: windows with their labels, and how it is run."""

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


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Windows to learn from and to validate on.

    Attributes:
        sha256: of the dataset.
        fold: whose windows they are; None for the dataset's own split, unset if unknown.
        labelled: the rule by which `train` shows its labels.
    """

    train: Windows
    valid: Windows
    sha256: str
    fold: int | msgspec.UnsetType | None = msgspec.UNSET
    labelled: Labelled = ALL

    def with_modalities(self, names: Sequence[str]) -> TrainingData:
        """Return the same windows with these modalities, in order. Raises UsageError for unknown or repeated names."""
        train, valid = (windows.with_modalities(names) for windows in (self.train, self.valid))
        return replace(self, train=train, valid=valid)

    def for_pair(self, teacher: Sequence[str], student: str) -> TrainingData:
        """Return the same windows with the modalities of a teacher and a student."""
        return self.with_modalities(tuple(dict.fromkeys([*teacher, student])))


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """How a training is run.

    Attributes:
        run_dir: for the resume state and TensorBoard logs; None stores nothing.
        embed_windows: whether a student carries validation windows.
        answers: folder of teachers' answers that distillations with the same batches share; None asks every time.
    """

    train: TrainConfig
    augment: AugmentConfig
    run_dir: Path | None = None
    resume: bool = False
    embed_windows: bool = True
    answers: Path | None = None
    on_step: OnStep | None = None


def check_labels(data: TrainingData) -> None:
    """Raise UsageError if a class or a label has no example."""
    task, known = data.train.spec.task, data.train.labels[data.train.labelled]
    several, absent = task.kind == "multi_label", absent_labels(task, known)
    if absent:
        expected, what = ("every label to be on in", "label") if several else ("every class to have", "class")
        raise UsageError(
            f"training windows: expected {expected} a labelled window, got none for {', '.join(absent)}; "
            f"label some, raise --label-fraction or --labelled-groups, or take the {what} out of the dataset"
        )


def visible_labels(train: Windows, *, share: float = 1.0, groups: int | None = None, seed: int) -> Labels:
    """Return the labels with all but a fraction of each class, or all but those of whole groups, hidden."""
    return hide_labels(train.labels, seen_labels(train, Labelled(share=share, groups=groups), seed=seed))
