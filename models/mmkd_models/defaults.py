"""The choices that hold where a user makes none."""

from __future__ import annotations

from mmkd_models.config import Preset
from mmkd_models.distill import LogitTerm, Recipe, constant
from mmkd_models.train import TrainConfig

TEACHER_PRESET: Preset = "small"
STUDENT_PRESET: Preset = "tiny"

RECIPE = Recipe(terms=(LogitTerm(weight=constant(1.0), temperature=2.0),))

TEACHER_TRAIN = TrainConfig(steps=300, learning_rate=2e-3)
STUDENT_TRAIN = TrainConfig(steps=800, learning_rate=2e-3)
BASELINE_LEARNING_RATES = (1e-3, 3e-3)
INT8_TRAIN = TrainConfig(steps=300, learning_rate=2e-4)
"""Of quantisation-aware distillation, which goes on with a trained student."""
