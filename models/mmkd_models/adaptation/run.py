"""Try and judge every method of adaptation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_documents.adaptation import AdaptationDocument, DomainFacts, EstimateKind, MethodResult
from mmkd_edge.bundle.manifest import Adapted
from mmkd_edge.errors import UsageError
from mmkd_models.adaptation.judge import (
    AdaptationJudge,
    StudentScores,
    class_fractions,
    importance,
    judge_method,
    score_student,
)
from mmkd_models.adaptation.methods import AdaptationTask, adapt_student
from mmkd_models.carried import CarriedWindows, most_carried
from mmkd_models.data.windows import Windows
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form import label_answers
from mmkd_models.training.fitting import with_novelty
from mmkd_models.training.predict import logits_of
from mmkd_models.training_hashes import joined_hashes, training_hashes

_FOLDS = 2  # of the labels: each half is judged by a student that learns from the other


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
        tried[method] = adapt_student(task, method, labelled=task.labelled)
        others = _logits_of_others(judge, task) if method == "labels" else None
        after = score_student(judge, tried[method], new_logits=others)
        results.append(judge_method(judge, method, before, after, seconds=time.monotonic() - began))
    passed = [result for result in results if not result.refusals]
    chosen = max(passed, key=lambda result: result.estimate, default=None)
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


def _logits_of_others(judge: AdaptationJudge, task: AdaptationTask) -> NDArray[np.float32]:
    """(N, K) logits for the labelled windows, each of a student that did not see its label."""
    assert task.labelled is not None
    part = np.zeros(len(judge.new), dtype=np.int64)
    for label in np.unique(judge.new.labels):
        rows = np.flatnonzero(judge.new.labels == label)
        part[rows] = np.arange(len(rows)) % _FOLDS
    logits = np.zeros((len(part), len(task.student.task.labels)), dtype=np.float32)
    for number in range(_FOLDS):
        folder = None if task.run_dir is None else task.run_dir / f"fold-{number}"
        student = adapt_student(replace(task, run_dir=folder), "labels", labelled=task.labelled[part != number])
        windows = judge.new.subset(np.flatnonzero(part == number))
        logits[part == number] = logits_of(student.network(), windows, modality=student.modality.name)
    return logits


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
    )
    name, key = student.modality.name, student.facts.dataset_sha256
    hashes = [training_hashes(windows, name, key=key) for windows in (task.old.learn, task.learn)]
    facts = msgspec.structs.replace(
        student.facts,
        training_hashes=joined_hashes([student.facts.training_hashes or b"", *hashes]),
        score=chosen.old_score,
        adapted=(*(student.facts.adapted or ()), lineage),
        group_reference=None,  # the new domain would look like drift
    )
    new_judge = task.new.judge.with_modalities((name,))
    adapted = replace(student, facts=facts, carried=_choose_carried(task, new_judge), portable=None)
    return with_novelty(adapted, [task.old.learn, task.learn], [task.old.judge, new_judge])


def _choose_carried(task: AdaptationTask, new: Windows) -> CarriedWindows | None:
    before, name = task.student.carried, task.student.modality.name
    if before is None:
        return None
    carried = before if task.old.sha256 is not None else before.subset(task.old.judge.rows)
    if task.labelled is not None and new.labelled.any():
        known, groups = new.only_labelled(), carried.groups
        if groups is not None:
            numbers = np.unique(known.groups, return_inverse=True)[1]
            groups = np.concatenate([groups, numbers + groups.max(initial=-1) + 1])
        windows = np.concatenate([carried.windows, known.take(np.arange(len(known)))[name]])
        carried = CarriedWindows(windows=windows, labels=np.concatenate([carried.labels, known.labels]), groups=groups)
    order = np.random.default_rng(task.train.seed).permutation(len(carried.windows))
    return carried.subset(np.sort(order[: most_carried(task.student.modality)]))


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
