"""The trainings: of a teacher, and of a transformer on labels or with teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import torch
from torch import nn

from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.answers import AnswerMemory
from mmkd_models.distillation.learner import DistillLearner, SupervisedLearner
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import OutputTerm, training_goal
from mmkd_models.networks.committee import Committee, FixedViews
from mmkd_models.networks.config import TeacherConfig
from mmkd_models.networks.encoder import blank_inputs
from mmkd_models.networks.teacher import Teacher, take_teacher
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherCheckpoint, TeacherFile
from mmkd_models.training.fitting import (
    LABELLED_FRACTION,
    adjusted_fit,
    finish_student,
    fit_learner,
    new_student,
    set_normalisation,
    training_facts,
)
from mmkd_models.training.inputs import (
    TrainingData,
    TrainingRequest,
    TrainingRun,
    check_compatible,
    check_labels,
    check_start,
)
from mmkd_models.training.loop import Fit
from mmkd_models.training.predict import answers_to


def train_teacher(
    data: TrainingData, config: TeacherConfig, run: TrainingRun, *, start: TeacherFile | None = None
) -> TeacherCheckpoint:
    """Train a teacher on the labelled windows of all modalities, from the weights of `start` if given."""
    check_labels(data)
    if start is not None:
        check_start(start.checkpoint, config, data.train)
    spec = data.train.spec
    torch.manual_seed(run.train.seed)
    teacher = Teacher(spec.modalities, len(spec.task.labels), config, kind=spec.task.kind)
    set_normalisation(teacher, data.train)
    if start is not None:
        take_teacher(teacher, start.checkpoint.transformer())
    learner = SupervisedLearner(
        teacher, modality=None, modality_dropout=config.modality_dropout, goal=training_goal(data.train)
    )
    started_from = None if start is None else start.sha256
    origin = {"network": msgspec.to_builtins(config), **({"start": started_from} if started_from else {})}
    result = fit_learner(learner, data, run, modality=None, labelled_fraction=1.0, origin=origin)
    result, tau = adjusted_fit(teacher, result, data, run, modality=None)
    facts = training_facts(
        data, run, modality=spec.modalities[0].name, tau=tau, result=result, started_from=started_from
    )
    return TeacherCheckpoint(modalities=spec.modalities, task=spec.task, config=config, facts=facts, state=result.state)


def train_transformer(training: TrainingRequest) -> StudentCheckpoint:
    """Train a student on labels of its modality alone, or, by a recipe, with its teachers, in the recipe's order."""
    data, modality, run, recipe = training.data, training.modality, training.run, training.recipe
    origin: dict[str, Any] = {"network": msgspec.to_builtins(training.config)}
    if training.teachers and recipe is not None:
        check_teachers(training.teachers, data.train)
        student = new_student(training)
        result = _learn_from(student, training, recipe, origin)
        return finish_student(training, student, result)
    check_labels(data)
    student = new_student(training)
    learner = SupervisedLearner(student, modality=modality, goal=training_goal(data.train))
    result = fit_learner(learner, data, run, modality=modality, labelled_fraction=1.0, origin=origin)
    return finish_student(replace(training, teachers=(), recipe=None), student, result)


def check_teachers(teachers: Sequence[TeacherFile], windows: Windows) -> None:
    """Raise UsageError if a teacher is repeated, or has other modalities or labels."""
    hashes = [teacher.sha256 for teacher in teachers]
    for number, teacher in enumerate(teachers):
        if hashes.index(teacher.sha256) < number:
            raise UsageError(
                f"distillation: expected each teacher once, got teacher {hashes.index(teacher.sha256)} again as "
                f"{number}; name it once"
            )
        who = "teacher" if len(teachers) == 1 else f"member {number}, a teacher"
        check_compatible(who, teacher.checkpoint.task, teacher.checkpoint.modalities, windows)


def _learn_from(student: nn.Module, training: TrainingRequest, recipe: Recipe, origin: Mapping[str, Any]) -> Fit:
    data, modality, run, teachers = training.data, training.modality, training.run, training.teachers
    recorded = _answers_once(run, recipe, teachers)
    memory = _memory(data, run, teachers, recipe)
    learner = DistillLearner(
        student,
        [_network(teacher.checkpoint, data, recorded=recorded) for teacher in teachers],
        recipe,
        modality=modality,
        example={spec.name: blank_inputs(spec) for spec in data.train.spec.modalities},
        memory=memory,
        goal=training_goal(data.train),
    )
    taught = {"recipe": msgspec.to_builtins(recipe), "teachers": [teacher.sha256 for teacher in teachers]}
    fraction = _labelled_fraction(recipe)
    result = fit_learner(learner, data, run, modality=modality, labelled_fraction=fraction, origin={**origin, **taught})
    if memory is not None:
        memory.write()
    return result


def _memory(
    data: TrainingData, run: TrainingRun, teachers: Sequence[TeacherFile], recipe: Recipe
) -> AnswerMemory | None:
    if run.answers is None or run.augment.clock_error_s or _answers_once(run, recipe, teachers):
        return None
    windows, train = data.train, run.train
    decides = {
        "dataset": data.sha256,
        "windows": [hashlib.sha256(array.tobytes()).hexdigest() for array in (windows.labels, windows.groups)],
        "modalities": windows.spec.modalities,
        "teachers": [teacher.sha256 for teacher in teachers],
        "batch": [train.batch, train.seed, train.precision, _labelled_fraction(recipe)],
        "augment": run.augment,
        "arithmetic": [str(torch.__version__), torch.get_num_threads()],
    }
    return AnswerMemory(run.answers, decides, steps=train.steps)


def _answers_once(run: TrainingRun, recipe: Recipe, teachers: Sequence[TeacherFile]) -> bool:
    are_committees = all(teacher.checkpoint.committee for teacher in teachers)
    return are_committees and run.augment.mixup == 0 and all(isinstance(term, OutputTerm) for term in recipe.terms)


def _network(checkpoint: TeacherCheckpoint, data: TrainingData, *, recorded: bool) -> nn.Module:
    network, names = checkpoint.network(), [spec.name for spec in checkpoint.modalities]
    if not isinstance(network, Committee):
        return network
    return FixedViews(network, lambda member: answers_to(member, data.train.with_modalities(names)), whole=recorded)


def _labelled_fraction(recipe: Recipe) -> float:
    return LABELLED_FRACTION if any(isinstance(term, TaskTerm) for term in recipe.terms) else 0.0
