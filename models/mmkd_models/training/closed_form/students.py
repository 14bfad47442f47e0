"""A student of any kind, from labels alone or from teachers: the one place that asks which kind is trained how."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mmkd_models.distillation.recipe import Recipe
from mmkd_models.networks.config import StudentConfig
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form.hybrid import fit_hybrid
from mmkd_models.training.closed_form.rocket import fit_rocket_student
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_models.training.trainings.distillation import distil
from mmkd_models.training.trainings.from_labels import train_baseline


def labelled_student(data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun) -> StudentCheckpoint:
    """Trains a student of any kind on the labels of one modality alone; errors as of the trainings."""
    match config.kind:
        case "transformer":
            return train_baseline(data, modality, config, run)
        case "rocket":
            return fit_rocket_student(data, modality, config, run)
        case "hybrid":
            rocket = fit_rocket_student(data, modality, config, run)
            return fit_hybrid(data, train_baseline(data, modality, _transformer(config), run), rocket, run)


def taught_student(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TaughtBy],
    recipe: Recipe,
) -> StudentCheckpoint:
    """Distils teachers into a student of any kind; errors as of the trainings.

    Args:
        recipe: what a transformer learns; features learn the teachers' answers.
    """
    match config.kind:
        case "transformer":
            return _distilled(data, modality, config, run, teachers=teachers, recipe=recipe)
        case "rocket":
            return fit_rocket_student(data, modality, config, run, teachers=teachers)
        case "hybrid":
            rocket = fit_rocket_student(data, modality, config, run, teachers=teachers)
            transformer = _distilled(data, modality, _transformer(config), run, teachers=teachers, recipe=recipe)
            return fit_hybrid(data, transformer, rocket, run)


def _distilled(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teachers: Sequence[TaughtBy],
    recipe: Recipe,
) -> StudentCheckpoint:
    first, *further = teachers
    return distil(
        data,
        modality,
        config,
        run,
        teacher=first.checkpoint,
        teacher_sha256=first.sha256,
        recipe=recipe,
        further=further,
    )


def _transformer(config: StudentConfig) -> StudentConfig:
    return msgspec.structs.replace(config, kind="transformer")
