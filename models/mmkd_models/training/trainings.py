"""The three trainings, from windows to a checkpoint: a teacher, a baseline on labels alone, a distilled student.

Owns how a training is put together. The commands and the demo call these; neither knows more than they do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmkd_edge.errors import UsageError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_models.carried import MOST_WINDOWS, carried_windows
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.data.labelled import ALL, Labelled, seen_labels
from mmkd_models.data.labels import Labels, absent_labels, hide_labels
from mmkd_models.data.windows import Windows
from mmkd_models.distil.answers import AnswerMemory, memory_of
from mmkd_models.distil.learner import DistillLearner, SelfTrainingLearner, SupervisedLearner
from mmkd_models.distil.recipe import Recipe
from mmkd_models.losses.goal import goal_of
from mmkd_models.losses.task import TaskTerm
from mmkd_models.metrics.scores import check_metric
from mmkd_models.networks.committee.network import Committee
from mmkd_models.networks.committee.views import FixedViews
from mmkd_models.networks.config import StudentConfig, TeacherConfig
from mmkd_models.networks.encoder import blank_inputs
from mmkd_models.networks.fake_int8 import FakeInt8Student, learnt_student
from mmkd_models.networks.inherit import take_teacher
from mmkd_models.networks.int8 import LearntInt8
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.train_config import OnStep, TrainConfig
from mmkd_models.training.checkpoint import Provenance, StudentCheckpoint, TeacherCheckpoint, library_versions
from mmkd_models.training.compatible import check_compatible, check_start
from mmkd_models.training.drift_reference import group_reference
from mmkd_models.training.judging.novelty import seen_by
from mmkd_models.training.judging.prior import adjusted_fit
from mmkd_models.training.loop import Fit, fit
from mmkd_models.training.normalisation import set_normalisation
from mmkd_models.training.predict import answers_to, scores_of
from mmkd_models.training.teacher_set import OutOfFoldCheckpoint, TaughtBy

_LABELLED_SHARE = 0.25
"""Share of a batch that is drawn from labelled windows where labels and a teacher teach together."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a training sees: windows to learn from and to validate on, and whose they are.

    Attributes:
        fold: number of the fold that the windows are of; None for the dataset's own split, unset where nobody knows.
        labelled: what of `train` shows its labels.
        held_back: of cross-fitted teachers, the number of the part that `train` is without, and how many there are.
    """

    train: Windows
    valid: Windows
    sha256: str
    fold: int | msgspec.UnsetType | None = msgspec.UNSET
    labelled: Labelled = ALL
    held_back: tuple[int, int] | None = None

    def with_modalities(self, names: Sequence[str]) -> TrainingData:
        """Gives the same windows with these modalities only, in this order.

        Raises UsageError where a name is unknown or there twice, or there is none.
        """
        train, valid = (windows.with_modalities(names) for windows in (self.train, self.valid))
        return replace(self, train=train, valid=valid)

    def for_pair(self, teacher: Sequence[str], student: str) -> TrainingData:
        """Gives the same windows with what a teacher of these modalities and a student of this one see."""
        return self.with_modalities(tuple(dict.fromkeys([*teacher, student])))


@dataclass(frozen=True, kw_only=True)
class TeacherStart:
    """A teacher whose weights another one starts with, and the SHA-256 of its file."""

    checkpoint: TeacherCheckpoint
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """How a training is run.

    Attributes:
        run_dir: where the resume state and TensorBoard logs go; None keeps nothing.
        answers: folder in which answers of teachers are kept for other distillations that see the same batches; None
            asks the teachers in every one.
    """

    train: TrainConfig
    augment: AugmentConfig
    run_dir: Path | None = None
    resume: bool = False
    embed_windows: bool = True
    answers: Path | None = None
    on_step: OnStep | None = None


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
    result = _fit(learner, data, run, modality=None, labelled_share=1.0, origin=origin)
    result, tau = _adjusted(teacher, result, data, run, modality=None)
    return TeacherCheckpoint(
        modalities=spec.modalities,
        task=spec.task,
        config=config,
        facts=_facts(data, run, result, recipe=None, tau=tau, started_from=None if start is None else start.sha256),
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
    result = _fit(learner, data, run, modality=None, labelled_share=_LABELLED_SHARE, origin=origin)
    result, tau = _adjusted(teacher, result, data, run, modality=None)
    if result.scores.metric(run.train.metric) <= first.facts.score:
        return first
    facts = _facts(data, run, result, recipe=None, tau=tau, started_from=first.facts.started_from or None)
    return replace(first, facts=facts, state=result.state)


def train_baseline(data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun) -> StudentCheckpoint:
    """Trains a student on the labels of one modality alone: what distillation is measured against."""
    check_labels(data)
    student = _new_student(data, modality, config, run)
    learner = SupervisedLearner(student, modality=modality, goal=goal_of(data.train))
    origin = {"network": msgspec.to_builtins(config)}
    result = _fit(learner, data, run, modality=modality, labelled_share=1.0, origin=origin)
    result, tau = _adjusted(student, result, data, run, modality=modality)
    return _student_checkpoint(data, modality, config, run, result, recipe=None, tau=tau)


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
    student = _new_student(data, modality, config, run)
    result = _learn(student, data, run, modality=modality, teachers=teachers, recipe=recipe, config=config)
    result, tau = _adjusted(student, result, data, run, modality=modality)
    return _student_checkpoint(data, modality, config, run, result, recipe=recipe, teachers=teachers, tau=tau)


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
    result = _learn(
        student, data, run, modality=modality, teachers=teachers, recipe=recipe, config=start.config, origin=origin
    )
    student.load_state_dict(result.state)
    state, inputs = learnt_student(student.cpu())
    int8 = LearntInt8(student_sha256=start_sha256, score=result.scores.metric(run.train.metric), inputs=inputs)
    kept = replace(start, state=state).network()
    result = replace(
        result, state=state, scores=scores_of(kept, data.valid.with_modalities((modality,)), modality=modality)
    )
    checkpoint = _student_checkpoint(data, modality, start.config, run, result, recipe=recipe, teachers=teachers)
    return replace(checkpoint, int8=int8)


def _learn(
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
    result = _fit(
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
    source = _source(data.train, run, labelled_share=_labelled_share(recipe), part=_common_part(teachers, data))
    memory.write_block(block, networks, source, run.on_step)


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


def _source(
    windows: Windows, run: TrainingRun, *, labelled_share: float, part: NDArray[np.int64] | None
) -> BatchSource:
    return BatchSource(
        windows, run.augment, batch=run.train.batch, labelled_share=labelled_share, seed=run.train.seed, part=part
    )


def _some_windows(data: TrainingData, modality: str, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and presence (N, T, C) of some training windows."""
    windows = data.train.with_modalities((modality,))
    rows = np.sort(np.random.default_rng(seed).permutation(len(windows))[:MOST_WINDOWS])
    values, present = prepare_batch(windows.take(rows)[modality], windows.spec.modality(modality))
    return torch.from_numpy(values), torch.from_numpy(present)


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
    return _LABELLED_SHARE if any(isinstance(term, TaskTerm) for term in recipe.terms) else 0.0


def _new_student(data: TrainingData, modality: str, config: StudentConfig, run: TrainingRun) -> Student:
    spec = data.train.spec
    torch.manual_seed(run.train.seed)
    student = Student(spec.modality(modality), len(spec.task.labels), config, kind=spec.task.kind)
    set_normalisation(student, data.train.with_modalities((modality,)))
    return student


def _fit(
    learner: nn.Module,
    data: TrainingData,
    run: TrainingRun,
    *,
    modality: str | None,
    labelled_share: float,
    origin: Mapping[str, Any],
    part: NDArray[np.int64] | None = None,
) -> Fit:
    """Trains; `origin` is what else decides the result, so that only the same training is resumed."""
    train = data.train
    check_metric(run.train.metric, train.spec.task.kind)
    if isinstance(learner, SupervisedLearner):
        train = train.subset(np.flatnonzero(train.labelled))
        if modality is not None:
            train = train.with_modalities((modality,))
    valid = data.valid if modality is None else data.valid.with_modalities((modality,))
    source = _source(train, run, labelled_share=labelled_share, part=part)
    settings = {
        "dataset": data.sha256,
        "labels": hashlib.sha256(train.labels.tobytes()).hexdigest(),
        "modality": modality,
        "augment": msgspec.to_builtins(run.augment),
        **({} if data.held_back is None else {"held_back": data.held_back}),
        **origin,
    }
    return fit(
        learner,
        source,
        evaluate=lambda network: scores_of(network, valid, modality=modality),
        config=run.train,
        settings=settings,
        run_dir=run.run_dir,
        resume=run.resume,
        on_step=run.on_step,
    )


def _adjusted(
    network: Student | Teacher, result: Fit, data: TrainingData, run: TrainingRun, *, modality: str | None
) -> tuple[Fit, float]:
    return adjusted_fit(network, result, data.train.labels, data.valid, metric=run.train.metric, modality=modality)


def check_labels(data: TrainingData) -> None:
    """Raises UsageError where a class or a label has no example; numbers are looked at where they are scaled."""
    task, known = data.train.spec.task, data.train.labels[data.train.labelled]
    several, absent = task.kind == "multi_label", absent_labels(task, known)
    if absent:
        wanted, what = ("every label to be on in", "label") if several else ("every class to have", "class")
        raise UsageError(
            f"training windows: expected {wanted} a labelled window, got none for {', '.join(absent)}; "
            f"label some, raise --label-share or --labelled-groups, or take the {what} out of the dataset"
        )


def _facts(
    data: TrainingData,
    run: TrainingRun,
    result: Fit,
    *,
    recipe: Recipe | None,
    teachers: Sequence[TaughtBy] = (),
    tau: float = 0.0,
    started_from: str | None = None,
) -> Provenance:
    return msgspec.structs.replace(
        planned_facts(data, run.train, run.augment, recipe=recipe, teachers=teachers, started_from=started_from),
        score=result.scores.metric(run.train.metric),
        best_step=result.best_step,
        curve=result.curve,
        prior_tau=tau or msgspec.UNSET,
    )


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


def _student_checkpoint(
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
    carried = carried_windows(data.valid, modality, seed=run.train.seed) if run.embed_windows else None
    facts = _facts(data, run, result, recipe=recipe, teachers=teachers, tau=tau)
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
    """Gives the same student with what its training saw; a causal one as it is.

    Args:
        train: windows that it learnt from.
        valid: windows that say what is usual.
    """
    if checkpoint.config.causal:
        return checkpoint
    seen = seen_by(checkpoint.network(), train, valid, modality=checkpoint.modality.name)
    return replace(checkpoint, seen=seen)


def visible_labels(train: Windows, *, share: float = 1.0, groups: int | None = None, seed: int) -> Labels:
    """Gives the labels that training may see, the others hidden: a share of them by class, or those of whole groups."""
    return hide_labels(train.labels, seen_labels(train, Labelled(share=share, groups=groups), seed=seed))


def with_learning_rate(run: TrainingRun, learning_rate: float) -> TrainingRun:
    """Gives the same run with another peak learning rate."""
    return replace(run, train=msgspec.structs.replace(run.train, learning_rate=learning_rate))
