"""The choices that hold where a user makes none."""

from __future__ import annotations

from mmkd_edge.spec import TaskSpec
from mmkd_models.config import Preset
from mmkd_models.recipe import Recipe
from mmkd_models.study_methods import taught_by
from mmkd_models.train_config import TrainConfig

TEACHER_PRESET: Preset = "small"
STUDENT_PRESET: Preset = "tiny"

TEACHER_TRAIN = TrainConfig(steps=300, learning_rate=2e-3)
STUDENT_TRAIN = TrainConfig(steps=800, learning_rate=2e-3)
BASELINE_LEARNING_RATES = (1e-3, 3e-3)
INT8_TRAIN = TrainConfig(steps=300, learning_rate=2e-4)
"""Of quantisation-aware distillation, which goes on with a trained student."""


METHOD, METHOD_OF_OTHERS = "dist", "logit"
"""What students are taught by where nobody says: of three classes or more, and of everything else (decision 012)."""


def default_recipe(task: TaskSpec) -> Recipe:
    """Gives the recipe of `mmkd-distill` where nobody names one.

    DIST correlates probabilities over the classes; of two classes that says nothing but which is larger, and labels
    that do not exclude each other and numbers have no such probabilities.
    """
    several = task.kind == "classification" and len(task.labels) > 2
    return taught_by(METHOD if several else METHOD_OF_OTHERS)
