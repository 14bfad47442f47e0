"""A student that learns from teachers, and the answers of teachers that are kept for other distillations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from mmkd_edge.errors import UsageError
from mmkd_models.data.windows import Windows
from mmkd_models.distillation.answers import AnswerMemory, memory_of
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.goal import goal_of
from mmkd_models.losses.task import TaskTerm
from mmkd_models.networks.committee.network import Committee
from mmkd_models.networks.committee.views import FixedViews
from mmkd_models.networks.config import StudentConfig
from mmkd_models.networks.encoder import blank_inputs
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherCheckpoint
from mmkd_models.training.compatible import check_compatible
from mmkd_models.training.inputs import TrainingData, TrainingRun
from mmkd_models.training.loop import Fit
from mmkd_models.training.predict import answers_to
from mmkd_models.training.teacher_set import OutOfFoldCheckpoint, TaughtBy
from mmkd_models.training.trainings.fitting import (
    LABELLED_SHARE,
    adjusted_result,
    batch_source,
    fit_learner,
    new_student,
)
from mmkd_models.training.trainings.provenance import student_checkpoint


def distil(
    data: TrainingData,
    modality: str,
    config: StudentConfig,
    run: TrainingRun,
    *,
    teacher: TeacherCheckpoint | OutOfFoldCheckpoint,
    teacher_sha256: str,
    recipe: Recipe,
    further: Sequence[TaughtBy] = (),
) -> StudentCheckpoint:
    """Trains a student of one modality with the teacher, on all windows, labelled or not.

    With out-of-fold teachers a window is answered by the one that has not seen its group, and windows are mixed with
    windows of the same part alone, so that it has seen neither of the two.

    Args:
        data: windows of the student's modality and the teachers'.
        recipe: what it learns; its members count the teachers from this one, which is 0.

    Raises UsageError where a teacher was trained for other modalities, labels or windows than `data` has, or is there
    twice.
    """
    teachers = (TaughtBy(checkpoint=teacher, sha256=teacher_sha256), *further)
    check_teachers(teachers, data.train)
    student = new_student(data, modality, config, run)
    result = learn_from(student, data, run, modality=modality, teachers=teachers, recipe=recipe, config=config)
    result, tau = adjusted_result(student, result, data, run, modality=modality)
    return student_checkpoint(data, modality, config, run, result, recipe=recipe, teachers=teachers, tau=tau)


def keep_answers(
    data: TrainingData, run: TrainingRun, block: int, *, teachers: Sequence[TaughtBy], recipe: Recipe
) -> None:
    """Asks the teachers about a block of the steps of a distillation, and keeps it for `distil` where `run` says.

    Nothing is done where the run keeps no answers, or the recipe looks inside the teachers, which nobody can keep.
    """
    memory = _memory(data, run, teachers, recipe)
    if memory is None or any(term.compares_layers() for term in recipe.terms):
        return
    networks = [_network(one.checkpoint, data, recorded=False).eval() for one in teachers]
    source = batch_source(data.train, run, labelled_share=_labelled_share(recipe), part=_common_part(teachers, data))
    memory.write_block(block, networks, source, run.on_step)


def check_teachers(teachers: Sequence[TaughtBy], windows: Windows) -> None:
    """Raises UsageError where a teacher is there twice, or was trained for other modalities or labels."""
    hashes = [one.sha256 for one in teachers]
    for number, one in enumerate(teachers):
        if hashes.index(one.sha256) < number:
            raise UsageError(
                f"distillation: expected each teacher once, got teacher {hashes.index(one.sha256)} again as {number}; "
                "name it once"
            )
        who = "teacher" if len(teachers) == 1 else f"member {number}, a teacher"
        check_compatible(who, one.checkpoint.task, one.checkpoint.modalities, windows)


def learn_from(
    student: nn.Module,
    data: TrainingData,
    run: TrainingRun,
    *,
    modality: str,
    teachers: Sequence[TaughtBy],
    recipe: Recipe,
    config: StudentConfig,
    origin: Mapping[str, Any] | None = None,
) -> Fit:
    """Trains a student with its teachers; `origin` is what else decides where it starts."""
    networks = [_network(one.checkpoint, data, recorded=_asks_once(run, recipe, teachers)) for one in teachers]
    example = {spec.name: blank_inputs(spec) for spec in data.train.spec.modalities}
    first, *further = teachers
    part, labelled_share = _common_part(teachers, data), _labelled_share(recipe)
    memory = _memory(data, run, teachers, recipe)
    learner = DistillLearner(
        student,
        networks,
        recipe,
        modality=modality,
        windows=len(data.train),
        example=example,
        memory=memory,
        goal=goal_of(data.train),
    )
    result = fit_learner(
        learner,
        data,
        run,
        modality=modality,
        labelled_share=labelled_share,
        origin={
            "network": msgspec.to_builtins(config),
            "recipe": msgspec.to_builtins(recipe),
            "teacher": first.sha256,
            **({"further": [one.sha256 for one in further]} if further else {}),
            **(origin or {}),
        },
        part=part,
    )
    if memory is not None:
        memory.write()
    return result


def _memory(data: TrainingData, run: TrainingRun, teachers: Sequence[TaughtBy], recipe: Recipe) -> AnswerMemory | None:
    return memory_of(
        None if _asks_once(run, recipe, teachers) else run.answers,
        data.train,
        dataset_sha256=data.sha256,
        teachers=[one.sha256 for one in teachers],
        train=run.train,
        augment=run.augment,
        labelled_share=_labelled_share(recipe),
        part=_common_part(teachers, data),
    )


def _asks_once(run: TrainingRun, recipe: Recipe, teachers: Sequence[TaughtBy]) -> bool:
    """Whether committees say all that they will about a window when they see it as it was recorded."""
    are_committees = all(isinstance(one.checkpoint, TeacherCheckpoint) and one.checkpoint.committee for one in teachers)
    return are_committees and run.augment.mixup == 0 and all(term.looks_into() is None for term in recipe.terms)


def _network(checkpoint: TeacherCheckpoint | OutOfFoldCheckpoint, data: TrainingData, *, recorded: bool) -> nn.Module:
    if isinstance(checkpoint, TeacherCheckpoint):
        network, names = checkpoint.network(), [spec.name for spec in checkpoint.modalities]
        if not isinstance(network, Committee):
            return network
        return FixedViews(network, lambda member: answers_to(member, data.train.with_modalities(names)), whole=recorded)
    return checkpoint.teachers_of(data.train, dataset_sha256=data.sha256)


def _common_part(teachers: Sequence[TaughtBy], data: TrainingData) -> NDArray[np.int64] | None:
    """(N,) numbers of the windows' parts: those of one part share a part in all the out-of-fold teachers."""
    sets = [one.checkpoint for one in teachers if isinstance(one.checkpoint, OutOfFoldCheckpoint)]
    if not sets:
        return None
    columns = np.stack([one.part_of(data.train, dataset_sha256=data.sha256) for one in sets])  # (sets, N)
    return np.unique(columns, axis=1, return_inverse=True)[1].astype(np.int64).reshape(-1)


def _labelled_share(recipe: Recipe) -> float:
    """A recipe that learns from labels draws part of each batch from the labelled windows."""
    return LABELLED_SHARE if any(isinstance(term, TaskTerm) for term in recipe.terms) else 0.0
