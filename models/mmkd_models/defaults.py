"""The defaults of all trainings."""

from __future__ import annotations

import msgspec

from mmkd_models.data.augment import AugmentConfig
from mmkd_models.metrics.scores import AnyMetric
from mmkd_models.networks.config import MemberKind, Preset
from mmkd_models.train_config import TrainConfig

TEACHER_PRESET: Preset = "small"
STUDENT_PRESET: Preset = "tiny"

COMMITTEE: tuple[MemberKind, ...] = ("transformer", "convolutions", "trees")

AUGMENT = AugmentConfig()
TEACHER_TRAIN = TrainConfig(steps=300, learning_rate=2e-3)
STUDENT_TRAIN = TrainConfig(steps=400, learning_rate=2e-3)
BASELINE_LEARNING_RATES = (1e-3, 3e-3)

METHOD, METHOD_OF_OTHERS = "dist", "logit"
"""Default methods of distillation: for three classes or more, and for all other tasks (decision 012)."""


def default_trainings(metric: AnyMetric, steps: int | None) -> tuple[TrainConfig, TrainConfig]:
    """Return the trainings of teachers and students, with this metric and number of steps."""
    teacher, student = (
        msgspec.structs.replace(train, metric=metric, steps=steps or train.steps)
        for train in (TEACHER_TRAIN, STUDENT_TRAIN)
    )
    return teacher, student
