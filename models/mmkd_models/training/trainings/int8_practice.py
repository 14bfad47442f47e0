"""A trained student that practises the arithmetic of its INT8 graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.carried import MOST_WINDOWS
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.networks.fake_int8 import FakeInt8Student, learnt_student
from mmkd_models.networks.int8 import LearntInt8
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.compatible import check_compatible
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.predict import scores_of
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_models.training.trainings.distillation import check_teachers, learn_from
from mmkd_models.training.trainings.provenance import student_checkpoint


def distil_int8(
    data: TrainingData,
    start: StudentCheckpoint,
    run: TrainingRun,
    *,
    start_sha256: str,
    groups: Sequence[Sequence[str]],
    teachers: Sequence[TaughtBy],
    recipe: Recipe,
) -> StudentCheckpoint:
    """Goes on with a trained student that computes as its INT8 graph will, taught by the recipe.

    What is kept are the weights that INT8 computes with and the ranges of what its layers read; validation chooses by
    the INT8 arithmetic. The facts' score is that of the float32 network with these weights.

    Args:
        data: windows of the student's modality and the teachers'.
        run: how it is trained; a few hundred steps at a tenth of the usual learning rate are enough.
        groups: names of the layers that INT8 computes in, those that read one tensor together; the export knows them.
        teachers: what it learns from, in the order that the recipe's members count.

    Raises UsageError where a teacher or the student was trained for other modalities, labels or windows than `data`
    has, no layer computes in INT8, or the recipe starts from the teacher's weights.
    """
    check_teachers(teachers, data.train)
    modality = start.modality.name
    check_compatible("student", start.task, (start.modality,), data.train)
    if recipe.init == "teacher":
        raise UsageError(
            "recipe: init 'teacher': expected 'fresh', because practising INT8 starts with the student's own weights; "
            "leave it out"
        )
    if not groups:
        raise UsageError(
            "student: expected a layer that INT8 makes faster, got none: every product has a side below 16; "
            "export it in fp32"
        )
    torch.manual_seed(run.train.seed)
    student = FakeInt8Student(
        start.transformer(asked_by="practising INT8"), groups, *_some_windows(data, modality, seed=run.train.seed)
    )
    origin = {"int8": start_sha256, "int8_layers": [list(group) for group in groups]}
    result = learn_from(
        student, data, run, modality=modality, teachers=teachers, recipe=recipe, config=start.config, origin=origin
    )
    student.load_state_dict(result.state)
    state, inputs = learnt_student(student.cpu())
    int8 = LearntInt8(student_sha256=start_sha256, score=result.scores.metric(run.train.metric), inputs=inputs)
    kept = replace(start, state=state).network()
    result = replace(
        result, state=state, scores=scores_of(kept, data.valid.with_modalities((modality,)), modality=modality)
    )
    checkpoint = student_checkpoint(data, modality, start.config, run, result, recipe=recipe, teachers=teachers)
    return replace(checkpoint, int8=int8)


def _some_windows(data: TrainingData, modality: str, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and presence (N, T, C) of some training windows."""
    windows = data.train.with_modalities((modality,))
    rows = np.sort(np.random.default_rng(seed).permutation(len(windows))[:MOST_WINDOWS])
    values, present = prepare_batch(windows.take(rows)[modality], windows.spec.modality(modality))
    return torch.from_numpy(values), torch.from_numpy(present)
