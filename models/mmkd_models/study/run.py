"""A study: which student is best within a latency budget, and what shows it.

Joins the parts: limits, workers, the table, the choice. Chooses by validation alone; the test windows are read by
finished networks of the table, after everything that is chosen is chosen by other windows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from mmkd_edge.bundle.files import write_file
from mmkd_edge.command.outputs import check_folder
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_models.compare.one_fold import spread_in_time
from mmkd_models.data.checking.related import refuse_shared_samples
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import check_seeds, fold_count, fold_indices
from mmkd_models.data.labelled import seen_labels
from mmkd_models.data.split import OF_GROUPS, split_facts
from mmkd_models.evaluate.label_leak import leak_of
from mmkd_models.evaluate.rivals import RivalName
from mmkd_models.metrics.measures import measures_of, told_by, written_measures
from mmkd_models.metrics.scores import check_metric
from mmkd_models.ray_tasks import Executor
from mmkd_models.study.progress import Snapshot, StudyWatch
from mmkd_models.study.results import collect, restore
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
from mmkd_models.training.folder_owner import owner_of_folder
from mmkd_models.trials.by_validation import best_seed, finalist_candidates
from mmkd_models.trials.executors import run_workers
from mmkd_models.trials.folder import StudyFolder
from mmkd_models.trials.sizes import MeasureLatency, impossible_entries, possible_methods, student_sizes
from mmkd_models.trials.space import Entry, Space, StudyConditions, TeacherChoice, candidates, check_space, entries
from mmkd_models.trials.students import STUDENT_CHECKPOINT, TrialResult, student_of
from mmkd_models.trials.teachers import TEACHER_CHECKPOINT
from mmkd_models.trials.worker import WorkOrder
from mmkd_report.documents.figures import LabelledGroups, SplitBy
from mmkd_report.documents.study import (
    Recommendation,
    Skipped,
    StudentSize,
    StudyDataset,
    StudyDocument,
    StudyFacts,
    StudyMethod,
    TrialCounts,
)

STUDY_FILE, STUDENT_FILE, CLAIM_FILE, JOURNAL_FILE = "study.json", "student.ckpt", "folder.json", "study.journal"


class StudyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a study is told.

    Attributes:
        grid: train everything on every seed, in place of a search.
        trials: candidates that a search may try, labels alone not counted.
        finalists: entries that a search trains on all seeds that count.
        seeds: seeds (and folds), from 0.
        search_seeds: how many of them the search learns from; they do not count in its table.
        max_latency_ms: of the exported student's median; None for any.
        max_parameters: of the student; None for any.
        budget_hours: after which nothing new is begun; None for any.
        workers: how many trainings at once.
        storage: as `open_storage` takes it; None keeps a journal in the study's folder.
        rivals: what is trained without a network to compare with.
        compared: teachers, of one member each, that are trained for their figures and teach nobody.
        required: methods that must be possible; others that no pair of networks can have are left out.
    """

    conditions: StudyConditions
    space: Space
    grid: bool = False
    trials: int = 40
    finalists: int = 3
    seeds: int = 5
    search_seeds: int = 1
    max_latency_ms: float | None = None
    max_parameters: int | None = None
    budget_hours: float | None = None
    workers: int = 1
    executor: Executor = "local"
    storage: str | None = None
    rivals: tuple[RivalName, ...] = ("extra_trees",)
    compared: tuple[TeacherChoice, ...] = ()
    required: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PreparedStudy:
    """What is known before anything is trained."""

    folder: StudyFolder
    order: WorkOrder
    sizes: tuple[StudentSize, ...]
    skipped: tuple[Skipped, ...]


def study(
    dataset: Dataset,
    options: StudyOptions,
    *,
    out: Path,
    measure_latency: MeasureLatency | None = None,
    on_progress: Callable[[Snapshot], None] | None = None,
    results: Path | None = None,
) -> StudyDocument:
    """Runs a study, or goes on with it, and writes `study.json` and the chosen `student.ckpt` into `out`.

    Args:
        dataset: where the windows come from.
        options: see there.
        out: the study's folder; it belongs to one dataset, modality and share of labels. Studies of other methods,
            sizes, seeds or limits in the same folder share its trials.
        measure_latency: from checkpoints of a student and a teacher to their latencies on this machine.
        on_progress: called about once a second while trials are trained.
        results: folder of compact results: what they know is not trained, and what is finished is added to them.

    Raises:
        UsageError: the options make no sense, or the folder belongs to another study.
        PerformanceError: no student size keeps the limits.
        UnavailableError: Ray was asked for and is not installed.
        MmkdError: what a worker raised.
    """
    began = time.monotonic()
    prepared = prepare_study(dataset, options, out=out, measure_latency=measure_latency)
    run_study(prepared, options, on_progress=on_progress, results=results)
    document = _document(prepared, options, measure_latency)
    document = msgspec.structs.replace(document, duration_s=round(time.monotonic() - began, 1))
    write_document(out, document)
    return document


def prepare_study(
    dataset: Dataset, options: StudyOptions, *, out: Path, measure_latency: MeasureLatency | None = None
) -> PreparedStudy:
    """Checks options and folder, and finds which sizes and methods are possible; arguments and errors as `study`."""
    _check(dataset, options, measure_latency)
    _take(out, options.conditions, split_facts(dataset.everything()).by)
    return _prepare(dataset, options, out, measure_latency)


def run_study(
    prepared: PreparedStudy,
    options: StudyOptions,
    *,
    on_progress: Callable[[Snapshot], None] | None = None,
    results: Path | None = None,
) -> None:
    """Trains what is missing, until all is there or the time is used up; arguments and errors as `study`."""
    folder, order = prepared.folder, prepared.order
    seeds = sorted({*order.search_seeds, *order.seeds})
    if results is not None:
        restore(folder, results, seeds)
    watch = StudyWatch(folder, order, on_progress)
    run_workers(order, executor=options.executor, watch=watch)
    watch.last()
    if results is None:
        return
    collect(
        folder,
        results,
        dataset=_dataset(folder.dataset),
        seeds=order.seeds,
        impossible=order.impossible,
        compared=options.compared,
        rivals=options.rivals,
    )


def write_document(out: Path, document: StudyDocument) -> None:
    """Replaces `study.json`, all or nothing."""
    write_file(out / STUDY_FILE, msgspec.json.format(msgspec.json.encode(document), indent=1))


def _check(dataset: Dataset, options: StudyOptions, measure_latency: MeasureLatency | None) -> None:
    check_space(options.space)
    conditions = options.conditions
    for train in (conditions.teacher_train, conditions.student_train):
        check_metric(train.metric, dataset.spec.task.kind)
    dataset.everything().with_modalities((conditions.modality,))  # refuses a name that is unknown
    for teacher in (*options.space.teachers, *options.compared):
        for member in teacher.members:
            dataset.everything().with_modalities(member.modalities)
    for teacher in options.compared:
        if len(teacher.members) > 1:
            raise UsageError(
                f"--compare-teacher {teacher.name}: expected a single teacher, got several; name them apart"
            )
    if options.max_latency_ms is not None and measure_latency is None:
        raise UsageError("max_latency_ms: expected a way to measure latencies, got none; give measure_latency")
    if options.seeds < 1 or options.workers < 1 or options.trials < 1 or options.finalists < 1:
        raise UsageError(
            "study: expected seeds, workers, trials and finalists of 1 or more, got "
            f"{options.seeds}, {options.workers}, {options.trials} and {options.finalists}; correct them"
        )
    windows = dataset.everything()
    check_seeds(windows, options.seeds)
    refuse_shared_samples(windows)
    for seed in range(options.seeds):
        known = windows.subset(fold_indices(windows, fold=seed, seed=0).train)
        seen_labels(known, conditions.labelled, seed=seed)  # refuses what a fold cannot have, before a folder is taken
    if not options.grid and not 1 <= options.search_seeds < options.seeds and fold_count(windows) > 1:
        raise UsageError(
            f"study: expected search seeds from 1 to {options.seeds - 1} of {options.seeds} seeds, got "
            f"{options.search_seeds}; the others are for the table, raise --seeds or lower --search-seeds"
        )


class _Owner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose folder it is."""

    dataset_sha256: str
    modality: str
    label_share: float
    labelled_groups: int | msgspec.UnsetType = msgspec.UNSET
    split: SplitBy = OF_GROUPS.by


def _take(out: Path, conditions: StudyConditions, split: SplitBy) -> None:
    check_folder(out)
    ours = _Owner(
        dataset_sha256=conditions.dataset_sha256,
        modality=conditions.modality,
        label_share=conditions.label_share,
        labelled_groups=conditions.labelled_groups,
        split=split,
    )
    path = out / CLAIM_FILE
    found = owner_of_folder(path, ours, what="whose folder it is", cure="choose another folder")
    for key in _Owner.__struct_fields__:
        wanted, got = getattr(ours, key), getattr(found, key)
        if wanted != got:
            told = ["none" if one is msgspec.UNSET else repr(one) for one in (wanted, got)]
            raise UsageError(f"{path}: expected a study with {key} {told[0]}, got {told[1]}; choose another folder")


def seeds_that_count(dataset: Dataset, *, seeds: int, search_seeds: int) -> tuple[int, ...]:
    """Gives the seeds whose test windows a search has not seen: it neither ran on their fold nor validated on them.

    Of a dataset without groups, whose own split is the only fold, it is that fold: a search looks at validation alone.

    Raises:
        UsageError: there is none.
    """
    windows = dataset.everything()
    if fold_count(windows) == 1:
        return (0,)
    searched = [fold_indices(windows, fold=seed, seed=0) for seed in range(search_seeds)]
    seen = np.concatenate([part for fold in searched for part in (fold.valid, fold.test)])
    clean = [
        seed
        for seed in range(search_seeds, seeds)
        if not np.isin(fold_indices(windows, fold=seed, seed=0).test, seen).any()
    ]
    if not clean:
        raise UsageError(
            f"study: expected a seed whose test windows the search did not see, got none of {seeds} after "
            f"{search_seeds}; raise --seeds to {search_seeds + 2} or more, or lower --search-seeds"
        )
    return tuple(clean)


def _prepare(
    dataset: Dataset, options: StudyOptions, out: Path, measure_latency: MeasureLatency | None
) -> PreparedStudy:
    folder = StudyFolder(out=out, dataset=dataset, conditions=options.conditions, space=options.space)
    sizes = student_sizes(
        folder,
        options.space.students,
        max_latency_ms=options.max_latency_ms,
        max_parameters=options.max_parameters,
        measure_latency=measure_latency,
    )
    kept = tuple(preset for preset, size in zip(options.space.students, sizes, strict=True) if not size.excluded)
    space = msgspec.structs.replace(options.space, students=kept)
    folder = replace(folder, space=space)
    skipped = impossible_entries(folder, required=options.required)
    space = msgspec.structs.replace(space, methods=possible_methods(space, skipped))
    folder = replace(folder, space=space)
    kept_names = [method.name for method in space.methods]
    search_seeds = () if options.grid else tuple(range(options.search_seeds))
    order = WorkOrder(
        dataset=str(dataset.path.absolute()),
        out=str(out.absolute()),
        storage=str((out / JOURNAL_FILE).absolute()) if options.storage is None else options.storage,
        conditions=options.conditions,
        space=space,
        impossible=tuple(msgspec.convert(_named(one), Entry) for one in skipped if one.method in kept_names),
        grid=options.grid,
        trials=options.trials,
        finalists=options.finalists,
        search_seeds=search_seeds,
        seeds=tuple(range(options.seeds))
        if options.grid
        else seeds_that_count(dataset, seeds=options.seeds, search_seeds=options.search_seeds),
        deadline=None if options.budget_hours is None else time.time() + 3600 * options.budget_hours,
        workers=options.workers,
        compared=options.compared,
    )
    return PreparedStudy(folder=folder, order=order, sizes=sizes, skipped=skipped)


def _named(skipped: Skipped) -> dict[str, str | None]:
    return {"student": skipped.student, "method": skipped.method, "teacher": skipped.teacher}


def _document(prepared: PreparedStudy, options: StudyOptions, measure_latency: MeasureLatency | None) -> StudyDocument:
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
        dataset=_dataset(folder.dataset),
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


def _dataset(dataset: Dataset) -> StudyDataset:
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
