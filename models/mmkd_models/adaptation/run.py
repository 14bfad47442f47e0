"""An adaptation from the student as it is to the one that may be written: every way tried, judged, and the gate.

Adapts only what gets better: where no way passes the gate there is no adapted student. How far to go with labels is
chosen and judged by the same old windows, up to four looks at them, so that what it says of forgetting is optimistic.
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
from mmkd_models.adaptation.judging import Court, Heard, forgets, heard, importance, judged, shares_of, vanished
from mmkd_models.adaptation.ways import AdaptationWay, Floats, Task, adapted, part_way
from mmkd_models.carried import CarriedWindows, most_carried
from mmkd_models.data.windows import Windows
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import StudentCheckpoint
from mmkd_models.training.closed_form.targets import label_answers, teachers_answers
from mmkd_models.training.predict import logits_of
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_models.training.trainings import with_novelty
from mmkd_models.training_hashes import joined_hashes, training_hashes
from mmkd_report.schema.adaptation import AdaptationDocument, DomainFacts, EstimateKind, WayJudgement

OnWay = Callable[[str], None]
"""Is told which way is tried next."""

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of the way from the student as it is to what learnt from labels, the longest first."""

FOLDS = 2
"""Of the labels that are given: each half is judged by what learns from the other."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How an adaptation ended.

    Attributes:
        checkpoint: the adapted student; None where no way may be written.
        document: what was tried; nothing is written yet.
        tried: the student of every way, whether it may be written or not.
    """

    checkpoint: StudentCheckpoint | None
    document: AdaptationDocument
    tried: Mapping[str, StudentCheckpoint]


@dataclass(frozen=True, kw_only=True)
class AdaptationRequest:
    """What is asked for.

    Attributes:
        new: with the student's modality and the teacher's.
        labels: how many labels of each class are seen; 0 sees none.
    """

    student: StudentCheckpoint
    student_sha256: str
    new: Domain
    old: Domain
    teacher: TaughtBy | None
    labels: int
    train: TrainConfig
    most_forgotten: float


def run_adaptation(asked: AdaptationRequest, base: Task, *, on_way: OnWay | None = None) -> Adaptation:
    """Tries every way there is, and gives the best of those that pass the gate.

    Args:
        base: as `task_of` gives it, with what its trainings are to write and tell.
    """
    labelled = few_labels(base.new.learn, asked.labels, seed=asked.train.seed) if asked.labels else None
    court = court_of(asked, base, labelled)
    before = heard(court, asked.student)
    found: dict[str, StudentCheckpoint] = {}
    judgements = []
    for way in _ways(asked):
        if on_way is not None:
            on_way(way)
        began = time.monotonic()
        whole = adapted(base, way, labelled=labelled)
        if way != "labels" or labelled is None:
            found[way], judgement = whole, judged(court, way, before, heard(court, whole), seconds=0.0)
        else:
            found[way], judgement = _by_labels(court, base, before, whole, labelled)
        judgements.append(msgspec.structs.replace(judgement, seconds=time.monotonic() - began))
    passed = [one for one in judgements if not one.refusals]
    chosen = max(passed, key=lambda one: one.estimate, default=None)
    document = _document(asked, base, court, before, tuple(judgements), chosen, labelled)
    if chosen is None:
        return Adaptation(checkpoint=None, document=document, tried=found)
    checkpoint = _finished(asked, found[chosen.way], chosen, base, labelled)
    return Adaptation(checkpoint=checkpoint, document=document, tried=found)


def task_of(asked: AdaptationRequest) -> Task:
    """Gives what is adapted with what; the teacher is asked about the new windows here.

    Raises UsageError where the student is of another kind of task than classes.
    """
    student = asked.student
    if student.task.kind != "classification":
        raise UsageError(
            f"mmkd-adapt: expected a student of classes, got one of the kind {student.task.kind}, whose answers have no"
            " shares to guard; train it anew with mmkd-distill"
        )
    if student.modality.kind == "video":
        raise UsageError(
            f"mmkd-adapt: expected a student of a series or of sound, got video, {student.modality.name!r}; train"
            " it anew with mmkd-distill"
        )
    answers = None if asked.teacher is None else _answers(asked.teacher, asked.new.learn, asked.new)
    return Task(student=student, new=_for_student(asked), old=asked.old, answers=answers, train=asked.train)


def _for_student(asked: AdaptationRequest) -> Domain:
    name = (asked.student.modality.name,)
    new = asked.new
    return replace(new, learn=new.learn.with_modalities(name), judge=new.judge.with_modalities(name))


def _answers(teacher: TaughtBy, windows: Windows, domain: Domain) -> Floats:
    return teachers_answers([teacher], windows, np.arange(len(windows)), dataset_sha256=domain.sha256 or "")


def _ways(asked: AdaptationRequest) -> tuple[AdaptationWay, ...]:
    student = asked.student
    # Scores of a group are statistics already; convolutional features of sound have statistics of log-mels.
    is_fixed = student.modality.normalise == "per_group" or (
        student.config.kind != "transformer" and student.modality.kind != "series"
    )
    found: list[AdaptationWay] = [] if is_fixed else ["statistics"]
    found.append("own answers")
    if student.config.kind != "rocket":  # whose features do not learn to overlook what disturbs
        found.append("consistency")
    if asked.teacher is not None:
        found.append("teacher")
    if asked.labels:
        found.append("labels")
    return tuple(found)


def court_of(asked: AdaptationRequest, base: Task, labelled: NDArray[np.int64] | None) -> Court:
    """Gives what judges the ways; `labelled` are the rows of the new windows whose labels are seen."""
    wanted: Floats | None = None
    estimated_by: EstimateKind = "weighted"
    new = base.new.judge
    if labelled is not None:
        new, estimated_by = base.new.learn.subset(labelled), "labels"
        wanted = label_answers(asked.student.task, new.labels)
    elif asked.teacher is not None:
        wanted, estimated_by = _answers(asked.teacher, asked.new.judge, asked.new), "agreement"
    weights = importance(asked.student, base.new.judge, asked.old.judge) if estimated_by == "weighted" else None
    return Court(
        new=new,
        wanted=wanted,
        weights=weights,
        estimated_by=estimated_by,
        old=asked.old.judge,
        metric=asked.student.facts.metric,  # type: ignore[arg-type]
        most_forgotten=asked.most_forgotten,
        ways=len(_ways(asked)),
    )


def _by_labels(
    court: Court, base: Task, before: Heard, whole: StudentCheckpoint, labelled: NDArray[np.int64]
) -> tuple[StudentCheckpoint, WayJudgement]:
    """What learns from labels, gone as far as it does not forget too much; all the way where it does at any length.

    Labels that taught it are judged by students that did not see them. Going less far must not lose a class.
    """
    part = parts_of_labels(base.new.learn.labels[labelled])
    halves = [_without_part(base, labelled, part, number) for number in range(FOLDS)]
    goes_on: tuple[StudentCheckpoint, Heard, WayJudgement] | None = None
    for share in SHARES:
        student = part_way(base.student, whole, share)
        others = [part_way(base.student, half, share) for half in halves]
        after = heard(court, student, new_logits=logits_of_others(base.new.learn.subset(labelled), part, others))
        found = msgspec.structs.replace(judged(court, "labels", before, after, seconds=0.0), share=share)
        goes_on = goes_on or (student, after, found)
        if not forgets(found, court.most_forgotten) and not vanished(court, goes_on[1], after):
            return student, found
    assert goes_on is not None
    return goes_on[0], goes_on[2]


def _without_part(base: Task, labelled: NDArray[np.int64], part: NDArray[np.int64], number: int) -> StudentCheckpoint:
    """What learns from the labels of the other parts."""
    folder = None if base.run_dir is None else base.run_dir / f"fold-{number}"
    return adapted(replace(base, run_dir=folder), "labels", labelled=labelled[part != number])


def logits_of_others(
    windows: Windows, part: NDArray[np.int64], students: Sequence[StudentCheckpoint]
) -> NDArray[np.float32]:
    """Gives logits (N, K) of labelled windows, those of each part by the student that did not see it."""
    logits = np.zeros((len(windows), len(students[0].task.labels)), dtype=np.float32)
    for number, student in enumerate(students):
        mine = part == number
        shown = windows.subset(np.flatnonzero(mine))
        logits[mine] = logits_of(student.network(), shown, modality=student.modality.name)
    return logits


def parts_of_labels(labels: NDArray[np.generic]) -> NDArray[np.int64]:
    """Gives (N,) a number below `FOLDS` for each window, so that each part has some of every class."""
    part = np.zeros(len(labels), dtype=np.int64)
    for number in np.unique(labels):
        mine = np.flatnonzero(labels == number)
        part[mine] = np.arange(len(mine)) % FOLDS
    return part


def _finished(
    asked: AdaptationRequest,
    student: StudentCheckpoint,
    chosen: WayJudgement,
    base: Task,
    labelled: NDArray[np.int64] | None,
) -> StudentCheckpoint:
    lineage = Adapted(
        from_sha256=asked.student_sha256,
        dataset=asked.new.name,
        dataset_sha256=asked.new.sha256 or "",
        way=chosen.way,
        teacher_sha256=None if asked.teacher is None else asked.teacher.sha256,
        labels=0 if labelled is None else len(labelled),
        gain_points=chosen.gain_points,
        forgotten_points=chosen.forgotten_points,
        share=None if chosen.share == 1.0 else chosen.share,
    )
    name, key = student.modality.name, student.facts.dataset_sha256
    taught = [training_hashes(windows, name, key=key) for windows in (asked.old.learn, base.new.learn)]
    facts = msgspec.structs.replace(
        student.facts,
        training_hashes=joined_hashes([student.facts.training_hashes or b"", *taught]),
        score=chosen.old_score,
        adapted=(*(student.facts.adapted or ()), lineage),
        # It would take the new domain for a drift.
        group_reference=msgspec.UNSET,
    )
    adapted = replace(student, facts=facts, carried=_carried(asked, base, labelled))
    return with_novelty(adapted, [asked.old.learn, base.new.learn], [asked.old.judge, base.new.judge])


def _carried(asked: AdaptationRequest, base: Task, labelled: NDArray[np.int64] | None) -> CarriedWindows | None:
    """Windows that taught nothing, so that an export can be judged by them: the old ones that judged, and new ones.

    New ones are those of the validation split that have a label, where labels were asked for.
    """
    before, name = asked.student.carried, asked.student.modality.name
    if before is None:
        return None
    if asked.old.sha256 is None:
        before = _all_of(asked.old.judge, name)
    new = base.new.judge
    parts = [before]
    if labelled is not None and new.labelled.any():
        parts.append(_all_of(new.subset(np.flatnonzero(new.labelled)), name))
    windows = np.concatenate([one.windows for one in parts])
    labels = np.concatenate([one.labels for one in parts])
    order = np.random.default_rng(asked.train.seed).permutation(len(windows))
    rows = np.sort(order[: most_carried(asked.student.modality)])
    return CarriedWindows(windows=windows[rows], labels=labels[rows])


def _all_of(windows: Windows, name: str) -> CarriedWindows:
    return CarriedWindows(windows=windows.take(np.arange(len(windows)))[name], labels=windows.labels)


def _document(
    asked: AdaptationRequest,
    base: Task,
    court: Court,
    before: Heard,
    judgements: tuple[WayJudgement, ...],
    chosen: WayJudgement | None,
    labelled: NDArray[np.int64] | None,
) -> AdaptationDocument:
    return AdaptationDocument(
        student_sha256=asked.student_sha256,
        teacher_sha256=None if asked.teacher is None else asked.teacher.sha256,
        modality=asked.student.modality.name,
        metric=asked.student.facts.metric,
        new=_domain_facts(replace(base.new, judge=court.new)),
        old=_domain_facts(asked.old),
        estimated_by=court.estimated_by,
        estimate=float(before.closeness.mean()),
        old_score=before.old_score,
        max_forget_points=asked.most_forgotten,
        ways=judgements,
        chosen=None if chosen is None else chosen.way,
        written=None,
        labels=0 if labelled is None else len(labelled),
        classes=asked.student.task.labels,
        shares=shares_of(before.answers, len(asked.student.task.labels)),
        right_shares=() if court.right is None else shares_of(court.right, len(asked.student.task.labels)),
    )


def _domain_facts(domain: Domain) -> DomainFacts:
    return DomainFacts(name=domain.name, sha256=domain.sha256, learn=len(domain.learn), judge=len(domain.judge))
