"""The document of a study: what was trained, the table, and the student that validation recommends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_models.compare.one_fold import spread_in_time
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.windows import split_facts
from mmkd_models.evaluation.label_leak import leak_of
from mmkd_models.metrics.measures import measures_of, told_by, written_measures
from mmkd_models.study.prepare import PreparedStudy
from mmkd_models.study.study_options import StudyOptions
from mmkd_models.study.table import (
    Tested,
    choose,
    ended_trials,
    entry_rows,
    factor_effects,
    rival_rows,
    selection,
    teacher_rows,
    tested_entries,
    trial_rows,
)
from mmkd_models.training.checkpoint import file_sha256, library_versions, write_student
from mmkd_models.trials.by_validation import best_seed, finalist_candidates
from mmkd_models.trials.folder import StudyFolder
from mmkd_models.trials.sizes import MeasureLatency
from mmkd_models.trials.space import Entry, candidates, entries
from mmkd_models.trials.students import STUDENT_CHECKPOINT, TrialResult, student_of
from mmkd_models.trials.teachers import TEACHER_CHECKPOINT
from mmkd_models.trials.worker import WorkOrder
from mmkd_report.schema.figures import LabelledGroups
from mmkd_report.schema.study import (
    Recommendation,
    StudyDataset,
    StudyDocument,
    StudyFacts,
    StudyMethod,
    TrialCounts,
)

STUDENT_FILE = "student.ckpt"


def document_of(
    prepared: PreparedStudy, options: StudyOptions, measure_latency: MeasureLatency | None
) -> StudyDocument:
    """Reads what is finished, lets validation choose, and writes the chosen student into the study's folder.

    Raises UsageError where no trial is finished.
    """
    folder, order = prepared.folder, prepared.order
    wanted = _wanted(folder, order)
    tested = tested_entries(folder, wanted, order.seeds, order.search_seeds)
    chosen = choose(tested, order.seeds)
    all_seeds = sorted({*order.search_seeds, *order.seeds})
    ended = ended_trials(folder, order.impossible, all_seeds)
    if chosen is None:
        raise UsageError(
            f"study {folder.out}: expected a finished trial to report, got none of {len(ended)} that ended"
            f"{_first_reason(ended)}; give more --budget-hours, the same command continues"
        )
    factors, effect_seeds = factor_effects(folder, ended)
    tested_seeds = sorted({seed for one in tested for seed in one.results})
    return StudyDocument(
        facts=_facts(folder, options, order),
        coverage=_coverage(order, wanted, tested, ended),
        dataset=dataset_facts(folder.dataset),
        students=prepared.sizes,
        teachers=teacher_rows(folder, tested, options.compared, order.seeds),
        methods=tuple(msgspec.json.decode(msgspec.json.encode(one), type=StudyMethod) for one in order.space.methods),
        skipped=prepared.skipped,
        entries=entry_rows(folder, tested, prepared.sizes, chosen),
        rivals=rival_rows(folder, options.rivals, tested_seeds),
        selection=selection(folder, tested, order.seeds) if order.grid else None,
        effects=factors,
        effect_seeds=effect_seeds,
        recommendation=_recommendation(
            folder, next(one for one in tested if one.entry == chosen), options, measure_latency
        ),
        trials=trial_rows(ended),
        versions=library_versions(),
        duration_s=0.0,
        figures=written_measures(folder.dataset.spec.task),
    )


def _wanted(folder: StudyFolder, order: WorkOrder) -> tuple[Entry, ...]:
    """The entries of the table: all of a grid, or the finalists of a search with their baselines."""
    if order.grid:
        return entries(order.space, order.impossible)
    chosen = finalist_candidates(folder, impossible=order.impossible, seeds=order.search_seeds, most=order.finalists)
    return tuple(candidate.entry for candidate in chosen)


def _first_reason(ended: Sequence[TrialResult]) -> str:
    return next((f" (the first failed: {result.reason})" for result in ended if result.reason), "")


def _facts(folder: StudyFolder, options: StudyOptions, order: WorkOrder) -> StudyFacts:
    conditions, task = options.conditions, folder.dataset.spec.task
    folds = [folder.fold(seed) for seed in order.seeds]
    count = conditions.labelled.groups
    of = tuple(fold.training.train.group_count for fold in folds)
    return StudyFacts(
        mode="grid" if options.grid else "search",
        modality=conditions.modality,
        label_share=conditions.label_share if count is None else None,
        metric=conditions.student_train.metric,
        told_by=_told_by(task, conditions.student_train.metric),
        search_seeds=order.search_seeds,
        seeds=order.seeds,
        threads=conditions.threads,
        student_steps=conditions.student_train.steps,
        teacher_steps=conditions.teacher_train.steps,
        learning_rates=options.space.learning_rates,
        baseline_learning_rates=options.space.baseline_learning_rates,
        trials=None if options.grid else options.trials,
        budget_hours=options.budget_hours,
        max_latency_ms=options.max_latency_ms,
        max_parameters=options.max_parameters,
        labelled_groups=None if count is None else LabelledGroups(labelled=count, of=of),
        labels_spread_in_time=leak_of(
            [spread_in_time(fold, conditions.labelled) for fold in folds], measures_of(task)[0].name
        ),
        choose=conditions.choose,
    )


def _coverage(
    order: WorkOrder, wanted: Sequence[Entry], tested: Sequence[Tested], ended: Sequence[TrialResult]
) -> TrialCounts:
    states = [result.state for result in ended]
    whole = [one for one in tested if len(one.results) == len(order.seeds)]
    expected = len(candidates(order.space, order.impossible)) * len(order.seeds) if order.grid else None
    return TrialCounts(
        complete=len(whole) == len(wanted) and (expected is None or len(ended) >= expected),
        finished=states.count("finished"),
        pruned=states.count("pruned"),
        failed=states.count("failed"),
        expected=expected,
    )


def dataset_facts(dataset: Dataset) -> StudyDataset:
    """Gives what the document says of the dataset."""
    spec, windows = dataset.spec, dataset.everything()
    facts = StudyDataset(
        name=spec.name,
        sha256=dataset.sha256,
        source=spec.source,
        licence=spec.licence,
        labels=tuple(spec.task.labels),
        modalities=tuple(modality.name for modality in spec.modalities),
        windows=len(windows),
        groups=windows.group_count,
        split=split_facts(windows),
    )
    # Files do not say that a task is one of classes.
    return facts if spec.task.kind == "classification" else msgspec.structs.replace(facts, kind=spec.task.kind)


def _told_by(task: TaskSpec, metric: str) -> str | msgspec.UnsetType:
    name = told_by(task, metric).name
    return msgspec.UNSET if name == metric else name


def _recommendation(
    folder: StudyFolder, one: Tested, options: StudyOptions, measure_latency: MeasureLatency | None
) -> Recommendation:
    """Writes the chosen student, and measures it as it will run; one of other machines' results is figures alone."""
    seed = best_seed(one.results)
    result, path = one.results[seed], folder.out / STUDENT_FILE
    latency = None
    is_here = (folder.of_trial(result.trial) / STUDENT_CHECKPOINT).exists()
    if is_here:
        write_student(path, student_of(folder, result.trial))
        teacher = _a_teacher(folder, one)
        latency = measure_latency(path, teacher) if measure_latency is not None and teacher is not None else None
    limit = options.max_latency_ms
    return Recommendation(
        student=one.entry.student,
        method=one.entry.method,
        teacher=one.entry.teacher,
        learning_rate=result.trial.candidate.learning_rate,
        seed=seed,
        checkpoint=str(path) if is_here else None,
        sha256=file_sha256(path) if is_here else None,
        valid_score=result.score or 0.0,
        latency=latency,
        within_limits=limit is None or latency is None or latency.student_ms["p50"] <= limit,
    )


def _a_teacher(folder: StudyFolder, one: Tested) -> Path | None:
    """The checkpoint to measure a student against: its own teacher, or for labels alone the first there is.

    Of several teachers it is the first one; out-of-fold teachers are no single network to measure.
    """
    names = [choice.name for choice in folder.space.teachers] if one.entry.teacher is None else [one.entry.teacher]
    paths = [
        folder.of_teacher(member, seed) / TEACHER_CHECKPOINT
        for name in names
        for member in folder.space.teacher(name).members
        if not member.out_of_fold
        for seed in one.results
    ]
    return next((path for path in paths if path.exists()), None)
