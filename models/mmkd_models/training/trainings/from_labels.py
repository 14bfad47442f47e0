"""Trainings on labels: a teacher, its second generation, and a baseline of one modality."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import torch

from mmkd_models.distillation.learner import SelfTrainingLearner, SupervisedLearner
from mmkd_models.losses.goal import goal_of
from mmkd_models.networks.config import StudentConfig, TeacherConfig
from mmkd_models.networks.inherit import take_teacher
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherCheckpoint
from mmkd_models.training.compatible import check_start
from mmkd_models.training.inputs import TeacherStart, TrainingData, TrainingRun, check_labels
from mmkd_models.training.normalisation import set_normalisation
from mmkd_models.training.trainings.fitting import LABELLED_SHARE, adjusted_result, fit_learner, new_student
from mmkd_models.training.trainings.provenance import facts_of, student_checkpoint


def train_teacher(
    data: TrainingData, config: TeacherConfig, run: TrainingRun, *, start: TeacherStart | None = None
) -> TeacherCheckpoint:
    """Trains a teacher on the labelled windows of all modalities of `data`.

    Args:
        start: whose weights it starts with, for the modalities that both have; None starts fresh.

    Raises UsageError where the two differ in labels, size or a modality that both have, or have none in common.
    """
    spec = data.train.spec
    check_labels(data)
    if start is not None:
        check_start(start.checkpoint, config, data.train)
    torch.manual_seed(run.train.seed)
    teacher = Teacher(spec.modalities, len(spec.task.labels), config, kind=spec.task.kind)
    set_normalisation(teacher, data.train)
    if start is not None:
        take_teacher(teacher, start.checkpoint.transformer())
    learner = SupervisedLearner(
        teacher, modality=None, modality_dropout=config.modality_dropout, goal=goal_of(data.train)
    )
    origin = {"network": msgspec.to_builtins(config), **({} if start is None else {"start": start.sha256})}
    result = fit_learner(learner, data, run, modality=None, labelled_share=1.0, origin=origin)
    result, tau = adjusted_result(teacher, result, data, run, modality=None)
    return TeacherCheckpoint(
        modalities=spec.modalities,
        task=spec.task,
        config=config,
        facts=facts_of(data, run, result, recipe=None, tau=tau, started_from=None if start is None else start.sha256),
        state=result.state,
    )


def self_train(data: TrainingData, first: TeacherCheckpoint, run: TrainingRun) -> TeacherCheckpoint:
    """Trains a second generation of the teacher on all windows and gives the generation that validates better.

    The first one is given back at once where every training window is labelled.
    """
    if bool(data.train.labelled.all()):
        return first
    torch.manual_seed(run.train.seed + 1)
    teacher = Teacher(first.modalities, len(first.task.labels), first.config, kind=first.task.kind)
    set_normalisation(teacher, data.train)
    learner = SelfTrainingLearner(
        teacher, first.transformer(), modality_dropout=first.config.modality_dropout, goal=goal_of(data.train)
    )
    origin = {"network": msgspec.to_builtins(first.config), "first": msgspec.to_builtins(first.facts)}
    result = fit_learner(learner, data, run, modality=None, labelled_share=LABELLED_SHARE, origin=origin)
    result, tau = adjusted_result(teacher, result, data, run, modality=None)
    if result.scores.metric(run.train.metric) <= first.facts.score:
        return first
    facts = facts_of(data, run, result, recipe=None, tau=tau, started_from=first.facts.started_from or None)
    return replace(first, facts=facts, state=result.state)


def train_baseline(data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun) -> StudentCheckpoint:
    """Trains a student on the labels of one modality alone: what distillation is measured against."""
    check_labels(data)
    student = new_student(data, modality, config, run)
    learner = SupervisedLearner(student, modality=modality, goal=goal_of(data.train))
    origin = {"network": msgspec.to_builtins(config)}
    result = fit_learner(learner, data, run, modality=modality, labelled_share=1.0, origin=origin)
    result, tau = adjusted_result(student, result, data, run, modality=modality)
    return student_checkpoint(data, modality, config, run, result, recipe=None, tau=tau)
