"""An adaptation: every method is tried and judged, and the best of those that pass the gate is the result.

How far to go with labels is chosen and judged by the same old windows: what it shows of forgetting is optimistic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.manifest import Adapted
from mmkd_edge.errors import UsageError
from mmkd_models.adaptation.domains import Domain, few_labels
from mmkd_models.adaptation.judge import (
    AdaptationJudge,
    StudentScores,
    class_fractions,
    forgets,
    importance,
    judge_method,
    score_student,
    vanished_classes,
)
from mmkd_models.adaptation.methods import AdaptationMethod, AdaptationTask, adapt_student, interpolate
from mmkd_models.carried import CarriedWindows, most_carried
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.likelihood import Floats
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherFile
from mmkd_models.training.fitting import with_novelty
from mmkd_models.training.predict import logits_of
from mmkd_models.training.ridge import label_answers, teachers_answers
from mmkd_models.training_hashes import joined_hashes, training_hashes
from mmkd_report.schema.adaptation import AdaptationDocument, DomainFacts, EstimateKind, MethodResult

FRACTIONS = (1.0, 0.75, 0.5, 0.25)
"""Of the distance from the student to what learnt from labels, the largest first."""

FOLDS = 2
"""Of the labels: each half is judged by a student that learns from the other."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """The result of an adaptation: the student, None if no method passes, and `tried`, that of every method."""

    checkpoint: StudentCheckpoint | None
    document: AdaptationDocument
    tried: Mapping[str, StudentCheckpoint]


@dataclass(frozen=True, kw_only=True)
class AdaptationRequest:
    """A student, two domains, and limits.

    Attributes:
        new: with the student's modality and the teacher's.
        labels: labels of each class to use; 0 uses none.
    """

    student: StudentCheckpoint
    student_sha256: str
    new: Domain
    old: Domain
    teacher: TeacherFile | None
    labels: int
    train: TrainConfig
    max_forget: float

    @property
    def methods(self) -> tuple[AdaptationMethod, ...]:
        """The methods that apply."""
        student = self.student
        # Values that are normalised by group are statistics already, as are convolutional features of audio.
        is_fixed = student.modality.normalise == "per_group" or (
            student.config.kind != "transformer" and student.modality.kind != "series"
        )
        methods: list[AdaptationMethod] = [] if is_fixed else ["statistics"]
        methods += ["teacher"] if self.teacher is not None else []
        methods += ["labels"] if self.labels else []
        return tuple(methods)

    def teacher_answers(self, windows: Windows) -> Floats | None:
        """Return a teacher's probabilities (N, K) of new windows; None without a teacher."""
        if self.teacher is None:
            return None
        return teachers_answers([self.teacher], windows, np.arange(len(windows)))


def run_adaptation(
    request: AdaptationRequest, task: AdaptationTask, *, on_method: Callable[[str], None] = lambda method: None
) -> Adaptation:
    """Try every method, and return the best of those that pass the gate; `task` is from `task_of`."""
    labelled = few_labels(task.new.learn, request.labels, seed=request.train.seed) if request.labels else None
    judge = judge_of(request, task, labelled)
    before = score_student(judge, request.student)
    tried: dict[str, StudentCheckpoint] = {}
    results = []
    for method in request.methods:
        on_method(method)
        began = time.monotonic()
        student = adapt_student(task, method, labelled=labelled)
        if method != "labels" or labelled is None:
            result = judge_method(judge, method, before, score_student(judge, student), seconds=0.0)
        else:
            student, result = _limit_forgetting(judge, task, before, student, labelled)
        tried[method] = student
        results.append(msgspec.structs.replace(result, seconds=time.monotonic() - began))
    chosen = max((result for result in results if not result.refusals), key=lambda one: one.estimate, default=None)
    document = _document(request, task, judge, before, tuple(results), chosen, labelled)
    checkpoint = None if chosen is None else _finish(request, tried[chosen.method], chosen, task, labelled)
    return Adaptation(checkpoint=checkpoint, document=document, tried=tried)


def task_of(request: AdaptationRequest) -> AdaptationTask:
    """Return what is adapted; the teacher answers for the new windows here.

    Raises UsageError if no method applies to the student.
    """
    student, new = request.student, request.new
    if student.task.kind != "classification":
        raise UsageError(
            f"mmkd-adapt: expected a student of classes, got one of the kind {student.task.kind}; train a new student "
            "with mmkd-distill"
        )
    if student.modality.kind == "video":
        raise UsageError(
            f"mmkd-adapt: expected a student of a series or of audio, got video, {student.modality.name!r}; train a "
            "new student with mmkd-distill"
        )
    if not request.methods:
        raise UsageError(
            f"mmkd-adapt: {student.modality.name!r} has no statistics to adapt; pass --teacher or --labels"
        )
    name = (student.modality.name,)
    narrow = replace(new, learn=new.learn.with_modalities(name), judge=new.judge.with_modalities(name))
    answers = request.teacher_answers(new.learn)
    return AdaptationTask(student=student, new=narrow, old=request.old, answers=answers, train=request.train)


def judge_of(request: AdaptationRequest, task: AdaptationTask, labelled: NDArray[np.int64] | None) -> AdaptationJudge:
    """Return the judge of the methods; `labelled` are the rows of the new windows whose labels are used."""
    reference, weights, new = request.teacher_answers(request.new.judge), None, task.new.judge
    estimated_by: EstimateKind = "agreement"
    if labelled is not None:
        new, estimated_by = task.new.learn.subset(labelled), "labels"
        reference = label_answers(request.student.task, new.labels)
    elif reference is None:
        estimated_by, weights = "weighted", importance(request.student, new, request.old.judge)
    return AdaptationJudge(
        new=new,
        reference=reference,
        weights=weights,
        estimated_by=estimated_by,
        old=request.old.judge,
        metric=request.student.facts.metric,  # type: ignore[arg-type]
        max_forget=request.max_forget,
        methods=len(request.methods),
    )


def _limit_forgetting(
    judge: AdaptationJudge,
    task: AdaptationTask,
    before: StudentScores,
    whole: StudentCheckpoint,
    labelled: NDArray[np.int64],
) -> tuple[StudentCheckpoint, MethodResult]:
    """The student that goes as far as it does not forget too much or lose a class; else the whole one.

    Labels that trained it are judged by students that did not see them.
    """
    windows = task.new.learn.subset(labelled)
    part = parts_of_labels(windows.labels)
    halves = [_without_part(task, labelled, part, number) for number in range(FOLDS)]
    first: tuple[StudentCheckpoint, StudentScores, MethodResult] | None = None
    for fraction in FRACTIONS:
        student = interpolate(task.student, whole, fraction)
        others = [interpolate(task.student, half, fraction) for half in halves]
        after = score_student(judge, student, new_logits=logits_of_others(windows, part, others))
        judged = judge_method(judge, "labels", before, after, seconds=0.0)
        result = msgspec.structs.replace(judged, step_fraction=fraction)
        first = first or (student, after, result)
        if not forgets(result, judge.max_forget) and not vanished_classes(judge, first[1], after):
            return student, result
    assert first is not None
    return first[0], first[2]


def _without_part(
    task: AdaptationTask, labelled: NDArray[np.int64], part: NDArray[np.int64], number: int
) -> StudentCheckpoint:
    folder = None if task.run_dir is None else task.run_dir / f"fold-{number}"
    return adapt_student(replace(task, run_dir=folder), "labels", labelled=labelled[part != number])


def logits_of_others(
    windows: Windows, part: NDArray[np.int64], students: Sequence[StudentCheckpoint]
) -> NDArray[np.float32]:
    """Return logits (N, K) of labelled windows, those of each part by the student that did not see it."""
    logits = np.zeros((len(windows), len(students[0].task.labels)), dtype=np.float32)
    for number, student in enumerate(students):
        rows = part == number
        shown = windows.subset(np.flatnonzero(rows))
        logits[rows] = logits_of(student.network(), shown, modality=student.modality.name)
    return logits


def parts_of_labels(labels: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return (N,) a number below `FOLDS` for each window, so that each part has some of every class."""
    part = np.zeros(len(labels), dtype=np.int64)
    for number in np.unique(labels):
        rows = np.flatnonzero(labels == number)
        part[rows] = np.arange(len(rows)) % FOLDS
    return part


def _finish(
    request: AdaptationRequest,
    student: StudentCheckpoint,
    chosen: MethodResult,
    task: AdaptationTask,
    labelled: NDArray[np.int64] | None,
) -> StudentCheckpoint:
    lineage = Adapted(
        from_sha256=request.student_sha256,
        dataset=request.new.name,
        dataset_sha256=request.new.sha256 or "",
        method=chosen.method,
        teacher_sha256=None if request.teacher is None else request.teacher.sha256,
        labels=0 if labelled is None else len(labelled),
        gain_points=chosen.gain_points,
        forgotten_points=chosen.forgotten_points,
        fraction=None if chosen.step_fraction == 1.0 else chosen.step_fraction,
    )
    name, key = student.modality.name, student.facts.dataset_sha256
    hashes = [training_hashes(windows, name, key=key) for windows in (request.old.learn, task.new.learn)]
    facts = msgspec.structs.replace(
        student.facts,
        training_hashes=joined_hashes([student.facts.training_hashes or b"", *hashes]),
        score=chosen.old_score,
        adapted=(*(student.facts.adapted or ()), lineage),
        group_reference=msgspec.UNSET,  # the new domain would look like drift
    )
    adapted = replace(student, facts=facts, carried=_carried(request, task, labelled))
    return with_novelty(adapted, [request.old.learn, task.new.learn], [request.old.judge, task.new.judge])


def _carried(
    request: AdaptationRequest, task: AdaptationTask, labelled: NDArray[np.int64] | None
) -> CarriedWindows | None:
    """Windows that were not trained on: the old ones that judged, and the labelled ones of the new validation split."""
    before, name = request.student.carried, request.student.modality.name
    if before is None:
        return None

    def all_of(windows: Windows) -> CarriedWindows:
        return CarriedWindows(windows=windows.take(np.arange(len(windows)))[name], labels=windows.labels)

    parts, new = [before if request.old.sha256 is not None else all_of(request.old.judge)], task.new.judge
    if labelled is not None and new.labelled.any():
        parts.append(all_of(new.subset(np.flatnonzero(new.labelled))))
    windows = np.concatenate([part.windows for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    order = np.random.default_rng(request.train.seed).permutation(len(windows))
    rows = np.sort(order[: most_carried(request.student.modality)])
    return CarriedWindows(windows=windows[rows], labels=labels[rows])


def _document(
    request: AdaptationRequest,
    task: AdaptationTask,
    judge: AdaptationJudge,
    before: StudentScores,
    results: tuple[MethodResult, ...],
    chosen: MethodResult | None,
    labelled: NDArray[np.int64] | None,
) -> AdaptationDocument:
    classes = request.student.task.labels
    new, old = (
        DomainFacts(name=one.name, sha256=one.sha256, learn=len(one.learn), judge=len(one.judge))
        for one in (replace(task.new, judge=judge.new), request.old)
    )
    return AdaptationDocument(
        student_sha256=request.student_sha256,
        teacher_sha256=None if request.teacher is None else request.teacher.sha256,
        modality=request.student.modality.name,
        metric=request.student.facts.metric,
        new=new,
        old=old,
        estimated_by=judge.estimated_by,
        estimate=float(before.closeness.mean()),
        old_score=before.old_score,
        max_forget_points=request.max_forget,
        methods=results,
        chosen=None if chosen is None else chosen.method,
        written=None,
        labels=0 if labelled is None else len(labelled),
        classes=classes,
        class_fractions=class_fractions(before.answers, len(classes)),
        reference_fractions=() if judge.right is None else class_fractions(judge.right, len(classes)),
    )
