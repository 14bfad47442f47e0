"""What a comparison is told and what it finds on one fold, as `fold.json` keeps it.

Owns the words of that file. Computes nothing.
"""

from __future__ import annotations

import msgspec

from mmkd_models.augment import AugmentConfig
from mmkd_models.config import Preset
from mmkd_models.distill import Recipe
from mmkd_models.evaluate.metrics import Scores
from mmkd_models.train import CurvePoint, TrainConfig


class ComparisonConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides a comparison but the fold.

    Attributes:
        label_share: share of the training windows whose labels anyone sees.
        modalities: those a student is trained for.
        teacher: size of the teacher.
        student: size of students and baselines.
        self_training: train a second generation of the teacher on the unlabelled windows too.
        teacher_train: how the teacher is trained; its seed is the fold's.
        student_train: how students and baselines are trained.
        baseline_learning_rates: those the baseline may choose from, by validation.
        augment: the same for everyone.
        recipe: of the distillation.
    """

    label_share: float
    modalities: tuple[str, ...]
    teacher: Preset
    student: Preset
    self_training: bool
    teacher_train: TrainConfig
    student_train: TrainConfig
    baseline_learning_rates: tuple[float, ...]
    augment: AugmentConfig
    recipe: Recipe


class GroupCount(msgspec.Struct, frozen=True, kw_only=True):
    """Right answers and windows of one group in the test split."""

    group: int
    right: int
    windows: int


class NetworkResult(msgspec.Struct, frozen=True, kw_only=True):
    """A trained network on the test windows."""

    scores: Scores
    by_group: tuple[GroupCount, ...]
    parameters: int
    learning_rate: float
    valid_score: float
    curve: tuple[CurvePoint, ...]


class RivalResult(msgspec.Struct, frozen=True, kw_only=True):
    """A rival's scores, or the reason why there are none."""

    scores: Scores | None
    reason: str = ""


class MissingCurve(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy of student and baseline by share of missing samples."""

    shares: tuple[float, ...]
    student: tuple[float, ...]
    baseline: tuple[float, ...]


class ModalityResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one modality on one fold."""

    baseline: NetworkResult
    student: NetworkResult
    extra_trees: RivalResult
    mini_rocket: RivalResult
    missing: MissingCurve


class SubsetAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """The teacher's accuracy when only these modalities are there."""

    modalities: tuple[str, ...]
    accuracy: float


class FoldResult(msgspec.Struct, frozen=True, kw_only=True):
    """One fold of a comparison, as it stands in `fold.json`."""

    config: ComparisonConfig
    dataset_sha256: str
    seed: int
    windows: dict[str, int]
    groups: int
    teacher: NetworkResult
    teacher_subsets: tuple[SubsetAccuracy, ...]
    students: dict[str, ModalityResult]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Mean, sample standard deviation (None for a single seed) and the figure of every seed."""

    mean: float
    std: float | None
    per_seed: tuple[float, ...]


class TriedSize(msgspec.Struct, frozen=True, kw_only=True):
    """One size of teacher and its score on validation; both figures are None where it was the only one."""

    preset: Preset
    parameters: int | None
    valid_score: Spread | None
    chosen: bool
