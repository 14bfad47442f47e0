"""A study: the best student of one sensor within limits. Only validation chooses; finished networks are tested."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from mmkd_documents.study import (
    NONE,
    PairLatency,
    Recommendation,
    SkippedCombination,
    StudentSize,
    StudyDocument,
    StudyFacts,
    StudyMethod,
    TrialCounts,
    TrialRow,
)
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import PerformanceError, UsageError
from mmkd_edge.machine import this_machine
from mmkd_edge.outputs import check_folder
from mmkd_models.carried import carried_windows
from mmkd_models.data.checking.related import refuse_shared_samples
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import check_seeds, choose_labels, fold_count, fold_indices
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.evaluation.gains import leak_of
from mmkd_models.experiments import table
from mmkd_models.experiments.experiment import Experiment, ResultTable, run
from mmkd_models.experiments.folder import STUDENT_CHECKPOINT, read_result, write_result
from mmkd_models.experiments.plan import Entry, ExperimentPlan, check_space, entries, short_hash
from mmkd_models.experiments.runs import Progress
from mmkd_models.losses.term import Goal
from mmkd_models.metrics.scores import check_metric, gain_metric, measures_of
from mmkd_models.networks.config import Preset, student_config, teacher_config
from mmkd_models.networks.student import Student, count_values
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import file_sha256, library_versions, read_student, write_student, write_teacher
from mmkd_models.training.inputs import TrainingRequest, TrainingRun
from mmkd_models.training.trainings import train_teacher, train_transformer

STUDY_FILE = "study.json"
MeasureLatency = Callable[[Path, Path], PairLatency]
"""From a student's and a teacher's checkpoint to the latencies of both, exported, on this machine."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A checked experiment of one sensor, with possible sizes and methods."""

    experiment: Experiment
    sizes: tuple[StudentSize, ...]
    skipped: tuple[SkippedCombination, ...]


def prepare_study(
    dataset: Dataset, plan: ExperimentPlan, *, out: Path, measure_latency: MeasureLatency | None = None
) -> Study:
    """Check plan and folder, and find possible sizes and methods."""
    _check_study(dataset, plan)
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(dataset=dataset, plan=plan, out=out.absolute())
    _impossible_entries(experiment)  # refuses methods that no pair can have, before anything is measured
    sizes = _student_sizes(experiment, measure_latency)
    students = tuple(preset for preset, size in zip(plan.space.students, sizes, strict=True) if not size.excluded)
    experiment = _with_space(experiment, students=students)
    reasons = _impossible_entries(experiment)
    space = experiment.plan.space
    possible = {entry.method for entry in entries(space, tuple(reasons))}
    experiment = _with_space(experiment, methods=tuple(each for each in space.methods if each.name in possible))
    return Study(
        experiment=replace(experiment, impossible=tuple(entry for entry in reasons if entry.method in possible)),
        sizes=sizes,
        skipped=tuple(
            SkippedCombination(**msgspec.structs.asdict(entry), reason=reason) for entry, reason in reasons.items()
        ),
    )


def _with_space(experiment: Experiment, **changed: tuple[Any, ...]) -> Experiment:
    space = msgspec.structs.replace(experiment.plan.space, **changed)
    return replace(experiment, plan=msgspec.structs.replace(experiment.plan, space=space))


def study_seeds(dataset: Dataset, *, seeds: int, search_seeds: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the seeds of a search, and those whose test windows it has not seen. Raise UsageError without one.

    Without groups the only fold is the dataset's split, and a search reads validation alone.
    """
    windows = dataset.everything()
    check_seeds(windows, seeds)
    if fold_count(windows) == 1:
        return (0,), (0,)
    if not 1 <= search_seeds < seeds:
        raise UsageError(
            f"study: expected search seeds from 1 to {seeds - 1} of {seeds} seeds, got {search_seeds}; the others are "
            "for the table, raise --seeds or lower --search-seeds"
        )
    folds = [fold_indices(windows, fold=seed, seed=0) for seed in range(seeds)]
    searched = np.concatenate([part for fold in folds[:search_seeds] for part in (fold.valid, fold.test)])
    clean = [seed for seed in range(search_seeds, seeds) if not np.isin(folds[seed].test, searched).any()]
    if not clean:
        raise UsageError(
            f"study: expected a seed whose test windows the search did not see, got none of {seeds} after "
            f"{search_seeds}; raise --seeds to {search_seeds + 2} or more, or lower --search-seeds"
        )
    return tuple(range(search_seeds)), tuple(clean)


def _check_study(dataset: Dataset, plan: ExperimentPlan) -> None:
    check_space(plan.space)
    conditions, windows = plan.conditions, dataset.everything()
    for train in (conditions.teacher_train, conditions.student_train):
        check_metric(train.metric, dataset.spec.task.kind)
    for names in (plan.sensors, *(teacher.modalities for teacher in plan.space.teachers)):
        windows.with_modalities(names)  # refuses unknown names
    seeds = {*plan.seeds, *(plan.search.seeds if plan.search else ())}
    check_seeds(windows, max(seeds) + 1)
    refuse_shared_samples(windows)
    for seed in sorted(seeds):
        train_windows = windows.subset(fold_indices(windows, fold=seed, seed=0).train)
        choose_labels(train_windows, conditions.labelled, seed=seed)  # refuses what a fold cannot have


def _student_sizes(experiment: Experiment, measure_latency: MeasureLatency | None) -> tuple[StudentSize, ...]:
    sizes = []
    for preset in experiment.plan.space.students:
        parameters = count_values(_student(experiment, preset))
        excluded, latency, limit_ms = "", None, experiment.plan.max_latency_ms
        if measure_latency is not None:
            latency = _latency_of_size(experiment, preset, measure_latency)
            if limit_ms is not None and latency.student_ms["p50"] > limit_ms:
                excluded = f"{latency.student_ms['p50']:.3g} ms, more than {limit_ms:g} ms"
        sizes.append(StudentSize(preset=preset, parameters=parameters, latency=latency, excluded=excluded))
    if all(size.excluded for size in sizes):
        reasons = "; ".join(f"{size.preset} has {size.excluded}" for size in sizes)
        raise PerformanceError(
            f"study: expected a student size that keeps the limit, got none: {reasons}; raise --max-latency-ms, or "
            "add a smaller --student"
        )
    return tuple(sizes)


def _student(experiment: Experiment, preset: Preset) -> Student:
    spec = experiment.dataset.spec
    modality = spec.modality(experiment.plan.sensors[0])
    return Student(modality, len(spec.task.labels), student_config(preset), kind=spec.task.kind)


def _latency_of_size(experiment: Experiment, preset: Preset, measure_latency: MeasureLatency) -> PairLatency:
    folder, teacher = experiment.folder, experiment.plan.teacher
    own = folder.conditions
    key = short_hash([own.dataset_sha256, teacher, this_machine().key])
    path = folder.out / "latency" / f"{own.modality}-{preset}-{key}.json"
    latency = read_result(path, PairLatency)
    if latency is None:
        data, brief = folder.fold(0).training, msgspec.structs.replace(own.student_train, steps=1)
        run = TrainingRun(train=brief, augment=own.augment)
        training_windows = data.with_modalities(teacher.modalities)
        with TemporaryDirectory() as temporary:
            student, taught_by = Path(temporary) / "student.ckpt", Path(temporary) / "teacher.ckpt"
            write_student(student, train_transformer(TrainingRequest(data, own.modality, student_config(preset), run)))
            write_teacher(taught_by, train_teacher(training_windows, teacher_config(teacher.preset), run))
            latency = measure_latency(student, taught_by)
        write_result(path, latency)
    return latency


def _impossible_entries(experiment: Experiment) -> dict[Entry, str]:
    spec, task, space = experiment.dataset.spec, experiment.dataset.spec.task, experiment.plan.space
    reasons = {}
    for entry in entries(space):
        recipe = space.method(entry.method).recipe
        if recipe is None or entry.teacher is None:
            continue
        choice = space.teacher(entry.teacher)
        modalities = [spec.modality(name) for name in choice.modalities]
        teacher = Teacher(modalities, len(task.labels), teacher_config(choice.preset), kind=task.kind)
        student, goal = _student(experiment, entry.student), Goal(kind=task.kind)
        try:
            DistillLearner(student, teacher, recipe, modality=experiment.plan.sensors[0], goal=goal)
        except UsageError as error:
            reasons[entry] = str(error)
    if reasons and {entry.method for entry in entries(space, tuple(reasons))} == {NONE}:
        entry, reason = next(iter(reasons.items()))
        raise UsageError(f"method {entry.method!r}: expected a teacher and a student that can have it: {reason}")
    return reasons


def study(
    dataset: Dataset,
    plan: ExperimentPlan,
    *,
    out: Path,
    measure_latency: MeasureLatency | None = None,
    progress: Progress | None = None,
) -> StudyDocument:
    """Write `study.json` and `student.ckpt`, or resume. Raise UsageError, or PerformanceError if no size fits."""
    began = time.monotonic()
    prepared = prepare_study(dataset, plan, out=out, measure_latency=measure_latency)
    document = _document(prepared, run(prepared.experiment, progress=progress))
    document = msgspec.structs.replace(document, duration_s=round(time.monotonic() - began, 1))
    write_document(out, document)
    return document


def write_document(out: Path, document: StudyDocument) -> None:
    """Replace `study.json` atomically."""
    write_file(out / STUDY_FILE, msgspec.json.format(msgspec.json.encode(document), indent=1))


def _document(study: Study, results: ResultTable) -> StudyDocument:
    experiment, plan, task = study.experiment, results.plan, results.spec.task
    tested = table.tested_entries(experiment, results)
    chosen = table.choose(tested, plan.seeds)
    trials = table.trial_rows(experiment)
    if chosen is None:
        reason = next((f" (the first failed: {trial.reason})" for trial in trials if trial.reason), "")
        raise UsageError(
            f"study {experiment.out}: expected a finished trial to report, got none of {len(trials)} that "
            f"ended{reason}; give more --budget-hours, the same command continues"
        )
    return StudyDocument(
        facts=_facts(results),
        coverage=_coverage(experiment, tested, trials),
        dataset=table.dataset_facts(experiment.dataset),
        students=study.sizes,
        teachers=table.teacher_rows(results),
        methods=tuple(
            msgspec.json.decode(msgspec.json.encode(method), type=StudyMethod) for method in plan.space.methods
        ),
        skipped=study.skipped,
        entries=table.entry_rows(results, tested, study.sizes, chosen),
        rivals=table.rival_rows(results),
        selection=table.selection(tested, plan.seeds) if plan.search is None else None,
        recommendation=_recommendation(study, chosen),
        trials=trials,
        versions=library_versions(),
        duration_s=0.0,
        measures=measures_of(task),
    )


def _facts(results: ResultTable) -> StudyFacts:
    plan, task = results.plan, results.spec.task
    conditions, metric = plan.conditions, plan.conditions.student_train.metric
    reported = gain_metric(task, metric).name
    leaks = [fold.spread_in_time for fold in results.folds.values()]
    return StudyFacts(
        mode="grid" if plan.search is None else "search",
        modality=plan.sensors[0],
        label_fraction=results.label_fraction,
        metric=metric,
        gain_metric="" if reported == metric else reported,
        search_seeds=() if plan.search is None else plan.search.seeds,
        seeds=plan.seeds,
        student_steps=conditions.student_train.steps,
        teacher_steps=conditions.teacher_train.steps,
        learning_rates=plan.space.learning_rates,
        max_latency_ms=plan.max_latency_ms,
        labelled_groups=results.labelled_groups,
        labels_spread_in_time=leak_of(leaks, measures_of(task)[0].name),
        choose=conditions.choose,
    )


def _coverage(experiment: Experiment, tested: Sequence[table.TestedEntry], trials: Sequence[TrialRow]) -> TrialCounts:
    plan, failed = experiment.plan, sum(trial.state == "failed" for trial in trials)
    expected = len(experiment.all_candidates()) * len(plan.seeds) if plan.search is None else None
    is_whole = sum(len(row.judged) == len(plan.seeds) for row in tested) == len(experiment.table_entries())
    return TrialCounts(
        complete=is_whole and (expected is None or len(trials) >= expected),
        finished=len(trials) - failed,
        failed=failed,
        expected=expected,
    )


def _recommendation(study: Study, chosen: table.TestedEntry) -> Recommendation:
    experiment = study.experiment
    path, folder = experiment.out / STUDENT_CHECKPOINT, experiment.folder
    seed = max(sorted(chosen.judged), key=lambda seed: chosen.judged[seed].result.score or 0.0)
    result = chosen.judged[seed].result
    assert result.trial is not None  # it is a student's
    checkpoint = read_student(folder.run_folder(result) / STUDENT_CHECKPOINT)
    valid = folder.fold(seed).training.valid
    write_student(path, replace(checkpoint, carried=carried_windows(valid, folder.conditions.modality, seed=seed)))
    return Recommendation(
        **msgspec.structs.asdict(chosen.entry),
        learning_rate=result.trial.candidate.learning_rate,
        seed=seed,
        checkpoint=str(path),
        sha256=file_sha256(path),
        valid_score=result.score or 0.0,
        latency=next(size.latency for size in study.sizes if size.preset == chosen.entry.student),
    )
