"""An adaptation: every method is tried and judged, and the best that passes the gate is the result.

The same old windows choose and judge how far to go, so forgetting is underestimated.
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
from mmkd_models.adaptation.methods import AdaptationTask, adapt_student, interpolate
from mmkd_models.carried import CarriedWindows, most_carried
from mmkd_models.data.windows import Windows
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.fitting import with_novelty
from mmkd_models.training.predict import logits_of
from mmkd_models.training.ridge import label_answers
from mmkd_models.training_hashes import joined_hashes, training_hashes
from mmkd_report.schema.adaptation import AdaptationDocument, DomainFacts, EstimateKind, MethodResult

FRACTIONS = (1.0, 0.75, 0.5, 0.25)
"""Of the distance from the student to what learnt from labels, the largest first."""

FOLDS = 2
"""Of the labels: each half is judged by a student that learns from the other."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """The adapted student, None if no method passes, and all results."""

    checkpoint: StudentCheckpoint | None
    document: AdaptationDocument
    tried: Mapping[str, StudentCheckpoint]


def run_adaptation(task: AdaptationTask, *, on_method: Callable[[str], None] = lambda method: None) -> Adaptation:
    """Return the best method that passes the gate. Raise UsageError if none applies."""
    _check_student(task)
    judge = _build_judge(task)
    before = score_student(judge, task.student)
    tried: dict[str, StudentCheckpoint] = {}
    results = []
    for method in task.methods:
        on_method(method)
        began = time.monotonic()
        student = adapt_student(task, method, labelled=task.labelled)
        if method == "labels":
            student, result = _limit_forgetting(judge, task, before, student)
        else:
            result = judge_method(judge, method, before, score_student(judge, student), seconds=0.0)
        tried[method] = student
        results.append(msgspec.structs.replace(result, seconds=time.monotonic() - began))
    chosen = max((result for result in results if not result.refusals), key=lambda one: one.estimate, default=None)
    document = _document(task, judge, before, tuple(results), chosen)
    checkpoint = None if chosen is None else _finish(task, tried[chosen.method], chosen)
    return Adaptation(checkpoint=checkpoint, document=document, tried=tried)


def _check_student(task: AdaptationTask) -> None:
    student = task.student
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
    if not task.methods:
        raise UsageError(
            f"mmkd-adapt: {student.modality.name!r} has no statistics to adapt; pass --teacher or --labels"
        )


def _build_judge(task: AdaptationTask) -> AdaptationJudge:
    new, weights = task.new.judge.with_modalities((task.student.modality.name,)), None
    reference = task.teacher_answers(task.new.judge)
    estimated_by: EstimateKind = "agreement"
    if task.labelled is not None:
        new, estimated_by = task.learn.subset(task.labelled), "labels"
        reference = label_answers(task.student.task, new.labels)
    elif reference is None:
        estimated_by, weights = "weighted", importance(task.student, new, task.old.judge)
    return AdaptationJudge(
        new=new,
        reference=reference,
        weights=weights,
        estimated_by=estimated_by,
        old=task.old.judge,
        metric=task.student.facts.metric,  # type: ignore[arg-type]
        max_forget=task.max_forget,
        methods=len(task.methods),
    )


def _limit_forgetting(
    judge: AdaptationJudge, task: AdaptationTask, before: StudentScores, whole: StudentCheckpoint
) -> tuple[StudentCheckpoint, MethodResult]:
    """Go as far as the student neither forgets too much nor loses a class, else all the way.

    Students that did not see training labels judge them.
    """
    part = _parts_of_labels(judge.new.labels)
    halves = [_without_part(task, part, number) for number in range(FOLDS)]
    first: tuple[StudentCheckpoint, StudentScores, MethodResult] | None = None
    for fraction in FRACTIONS:
        student = interpolate(task.student, whole, fraction)
        others = [interpolate(task.student, half, fraction) for half in halves]
        after = score_student(judge, student, new_logits=_logits_of_others(judge.new, part, others))
        result = msgspec.structs.replace(
            judge_method(judge, "labels", before, after, seconds=0.0), step_fraction=fraction
        )
        first = first or (student, after, result)
        if not forgets(result, judge.max_forget) and not vanished_classes(judge, first[1], after):
            return student, result
    assert first is not None
    return first[0], first[2]


def _without_part(task: AdaptationTask, part: NDArray[np.int64], number: int) -> StudentCheckpoint:
    assert task.labelled is not None
    folder = None if task.run_dir is None else task.run_dir / f"fold-{number}"
    return adapt_student(replace(task, run_dir=folder), "labels", labelled=task.labelled[part != number])


def _logits_of_others(
    windows: Windows, part: NDArray[np.int64], students: Sequence[StudentCheckpoint]
) -> NDArray[np.float32]:
    logits = np.zeros((len(windows), len(students[0].task.labels)), dtype=np.float32)
    for number, student in enumerate(students):
        rows = part == number
        shown = windows.subset(np.flatnonzero(rows))
        logits[rows] = logits_of(student.network(), shown, modality=student.modality.name)
    return logits


def _parts_of_labels(labels: NDArray[np.generic]) -> NDArray[np.int64]:
    part = np.zeros(len(labels), dtype=np.int64)
    for number in np.unique(labels):
        rows = np.flatnonzero(labels == number)
        part[rows] = np.arange(len(rows)) % FOLDS
    return part


def _finish(task: AdaptationTask, student: StudentCheckpoint, chosen: MethodResult) -> StudentCheckpoint:
    lineage = Adapted(
        from_sha256=task.student_sha256,
        dataset=task.new.name,
        dataset_sha256=task.new.sha256 or "",
        method=chosen.method,
        teacher_sha256=None if task.teacher is None else task.teacher.sha256,
        labels=0 if task.labelled is None else len(task.labelled),
        gain_points=chosen.gain_points,
        forgotten_points=chosen.forgotten_points,
        fraction=None if chosen.step_fraction == 1.0 else chosen.step_fraction,
    )
    name, key = student.modality.name, student.facts.dataset_sha256
    hashes = [training_hashes(windows, name, key=key) for windows in (task.old.learn, task.learn)]
    facts = msgspec.structs.replace(
        student.facts,
        training_hashes=joined_hashes([student.facts.training_hashes or b"", *hashes]),
        score=chosen.old_score,
        adapted=(*(student.facts.adapted or ()), lineage),
        group_reference=msgspec.UNSET,  # the new domain would look like drift
    )
    new_judge = task.new.judge.with_modalities((name,))
    adapted = replace(student, facts=facts, carried=_carried(task, new_judge))
    return with_novelty(adapted, [task.old.learn, task.learn], [task.old.judge, new_judge])


def _carried(task: AdaptationTask, new: Windows) -> CarriedWindows | None:
    before, name = task.student.carried, task.student.modality.name
    if before is None:
        return None

    def carry(windows: Windows) -> CarriedWindows:
        return CarriedWindows(windows=windows.take(np.arange(len(windows)))[name], labels=windows.labels)

    parts = [before if task.old.sha256 is not None else carry(task.old.judge)]
    if task.labelled is not None and new.labelled.any():
        parts.append(carry(new.only_labelled()))
    windows = np.concatenate([part.windows for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    order = np.random.default_rng(task.train.seed).permutation(len(windows))
    rows = np.sort(order[: most_carried(task.student.modality)])
    return CarriedWindows(windows=windows[rows], labels=labels[rows])


def _document(
    task: AdaptationTask,
    judge: AdaptationJudge,
    before: StudentScores,
    results: tuple[MethodResult, ...],
    chosen: MethodResult | None,
) -> AdaptationDocument:
    classes = task.student.task.labels
    new, old = (
        DomainFacts(name=domain.name, sha256=domain.sha256, learn=len(domain.learn), judge=len(windows))
        for domain, windows in ((task.new, judge.new), (task.old, judge.old))
    )
    return AdaptationDocument(
        student_sha256=task.student_sha256,
        teacher_sha256=None if task.teacher is None else task.teacher.sha256,
        modality=task.student.modality.name,
        metric=task.student.facts.metric,
        new=new,
        old=old,
        estimated_by=judge.estimated_by,
        estimate=float(before.closeness.mean()),
        old_score=before.old_score,
        max_forget_points=task.max_forget,
        methods=results,
        chosen=None if chosen is None else chosen.method,
        written=None,
        labels=0 if task.labelled is None else len(task.labelled),
        classes=classes,
        class_fractions=class_fractions(before.answers, len(classes)),
        reference_fractions=() if judge.right is None else class_fractions(judge.right, len(classes)),
    )
