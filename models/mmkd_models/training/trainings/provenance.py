"""From a training's result to a student's checkpoint, with what is known of how it came about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from mmkd_models.carried import carried_windows
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.networks.config import StudentConfig
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import Provenance, StudentCheckpoint, library_versions
from mmkd_models.training.drift_reference import group_reference
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.judging.novelty import seen_by
from mmkd_models.training.loop import Fit
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_models.training_hashes import training_hashes


def planned_facts(
    data: TrainingData,
    train: TrainConfig,
    augment: AugmentConfig,
    *,
    recipe: Recipe | None = None,
    teachers: Sequence[TaughtBy] = (),
    started_from: str | None = None,
) -> Provenance:
    """Gives what is known of a checkpoint before its training; its score is NaN."""
    hashes = tuple(one.sha256 for one in teachers)
    spec = data.train.spec
    return Provenance(
        dataset=spec.name,
        dataset_sha256=data.sha256,
        fold=data.fold,
        labelled=msgspec.UNSET if data.labelled.is_all else data.labelled,
        licence=spec.licence,
        metric=train.metric,
        score=math.nan,
        best_step=0,
        teacher_sha256=hashes[0] if hashes else None,
        further_teachers_sha256=hashes[1:] or msgspec.UNSET,
        training=train,
        augment=augment,
        recipe=recipe,
        started_from=started_from or msgspec.UNSET,
        versions=library_versions(),
    )


def facts_of(
    data: TrainingData,
    run: TrainingRun,
    result: Fit,
    *,
    recipe: Recipe | None,
    teachers: Sequence[TaughtBy] = (),
    tau: float = 0.0,
    started_from: str | None = None,
    modality: str | None = None,
) -> Provenance:
    """Gives what is known of a checkpoint after its training; a student has a modality."""
    hashed = modality or data.train.spec.modalities[0].name
    return msgspec.structs.replace(
        planned_facts(data, run.train, run.augment, recipe=recipe, teachers=teachers, started_from=started_from),
        score=result.scores.metric(run.train.metric),
        best_step=result.best_step,
        curve=result.curve,
        prior_tau=tau or msgspec.UNSET,
        training_hashes=training_hashes(data.train, hashed, key=data.sha256),
    )


def student_checkpoint(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    result: Fit,
    *,
    recipe: Recipe | None,
    teachers: Sequence[TaughtBy] = (),
    tau: float = 0.0,
) -> StudentCheckpoint:
    """Gives the trained student with what travels with it: facts, windows, references and what its training saw."""
    carried = carried_windows(data.valid, modality, seed=run.train.seed) if run.embed_windows else None
    facts = facts_of(data, run, result, recipe=recipe, teachers=teachers, tau=tau, modality=modality)
    reference = group_reference(data.train, data.valid, modality)
    checkpoint = StudentCheckpoint(
        modality=data.train.spec.modality(modality),
        task=data.train.spec.task,
        config=config,
        facts=msgspec.structs.replace(facts, group_reference=reference or msgspec.UNSET),
        state=result.state,
        carried=carried,
    )
    return with_novelty(checkpoint, [data.train], [data.valid])


def with_novelty(
    checkpoint: StudentCheckpoint, train: Sequence[Windows], valid: Sequence[Windows]
) -> StudentCheckpoint:
    """Gives the same student with what its training saw.

    Args:
        train: windows that it learnt from.
        valid: windows that say what is usual.
    """
    seen = seen_by(checkpoint.network(), train, valid, modality=checkpoint.modality.name)
    return replace(checkpoint, seen=seen)
