"""A study: the best student of one sensor within limits. Only validation chooses; finished networks are tested."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from mmkd_documents.figures import LabelledGroups
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
from mmkd_models.data.folds import check_seeds, fold_count, fold_indices
from mmkd_models.data.labelled import choose_labels
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.evaluation.gains import leak_of
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.experiments import plan, runs, table
from mmkd_models.experiments.search import distilled_candidates, finalists, proposals
from mmkd_models.experiments.workers import Executor, Workers, torch_threads
from mmkd_models.losses.term import Goal
from mmkd_models.metrics.scores import check_metric, gain_metric, measures_of
from mmkd_models.networks.config import Preset, student_config, teacher_config
from mmkd_models.networks.student import Student, count_values
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import file_sha256, library_versions, read_student, write_student, write_teacher
from mmkd_models.training.inputs import TrainingRequest, TrainingRun
from mmkd_models.training.trainings import train_teacher, train_transformer

STUDY_FILE = "study.json"
_SEARCH_TIME = 0.5  # of the budget; the rest trains finalists
MeasureLatency = Callable[[Path, Path], PairLatency]
"""From a student's and a teacher's checkpoint to the latencies of both, exported, on this machine."""


class StudyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a study."""

    conditions: plan.Conditions
    space: plan.Space
    grid: bool = False  # everything on every seed, instead of a search
    trials: int = 40  # candidates of a search
    finalists: int = 3  # of them, trained on the seeds that did not search
    seeds: int = 5
    search_seeds: int = 1
    max_latency_ms: float | None = None
    budget_hours: float | None = None
    workers: int = 1
    executor: Executor = "local"
    rivals: tuple[RivalName, ...] = ("extra_trees",)


@dataclass(frozen=True, kw_only=True)
class PreparedStudy:
    """A checked study with possible sizes and methods."""

    options: StudyOptions
    folder: plan.Folder
    sizes: tuple[StudentSize, ...]
    skipped: tuple[SkippedCombination, ...]
    impossible: tuple[plan.Entry, ...]
    search_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    began_s: float

    def deadline(self, fraction: float = 1.0) -> float | None:
        """Return when this fraction of the budget is used, in seconds since the epoch."""
        hours = self.options.budget_hours
        return None if hours is None else self.began_s + 3600 * hours * fraction

    @property
    def table_entries(self) -> tuple[plan.Entry, ...]:
        """All entries of a grid, or finalists and baselines."""
        if self.options.grid:
            return plan.entries(self.folder.space, self.impossible)
        return tuple(candidate.entry for candidate in self.finalists)

    @property
    def finalists(self) -> tuple[plan.Candidate, ...]:
        """The best candidates so far."""
        return finalists(self.folder, self.impossible, self.search_seeds, most=self.options.finalists)


def prepare_study(
    dataset: Dataset, options: StudyOptions, *, out: Path, measure_latency: MeasureLatency | None = None
) -> PreparedStudy:
    """Check options and folder, and find possible sizes and methods."""
    began_s = time.time()
    _check_study(dataset, options)
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    folder = plan.Folder(out=out.absolute(), dataset=dataset, conditions=options.conditions, space=options.space)
    seeds = tuple(range(options.seeds))
    if not options.grid:
        seeds = seeds_that_count(dataset, seeds=options.seeds, search_seeds=options.search_seeds)
    _impossible_entries(folder)  # refuses methods that no pair can have, before anything is measured
    sizes = _student_sizes(folder, options, measure_latency)
    students = tuple(preset for preset, size in zip(options.space.students, sizes, strict=True) if not size.excluded)
    folder = replace(folder, space=msgspec.structs.replace(options.space, students=students))
    reasons = _impossible_entries(folder)
    possible = {entry.method for entry in plan.entries(folder.space, tuple(reasons))}
    methods = tuple(method for method in folder.space.methods if method.name in possible)
    return PreparedStudy(
        options=options,
        folder=replace(folder, space=msgspec.structs.replace(folder.space, methods=methods)),
        sizes=sizes,
        skipped=tuple(
            SkippedCombination(**msgspec.structs.asdict(entry), reason=reason) for entry, reason in reasons.items()
        ),
        impossible=tuple(entry for entry in reasons if entry.method in possible),
        search_seeds=() if options.grid else tuple(range(options.search_seeds)),
        seeds=seeds,
        began_s=began_s,
    )


def seeds_that_count(dataset: Dataset, *, seeds: int, search_seeds: int) -> tuple[int, ...]:
    """Return the seeds whose test windows a search has not seen. Raise UsageError without one.

    Without groups the only fold is the dataset's split, and a search reads validation alone.
    """
    windows = dataset.everything()
    if fold_count(windows) == 1:
        return (0,)
    folds = [fold_indices(windows, fold=seed, seed=0) for seed in range(seeds)]
    searched = np.concatenate([part for fold in folds[:search_seeds] for part in (fold.valid, fold.test)])
    clean = [seed for seed in range(search_seeds, seeds) if not np.isin(folds[seed].test, searched).any()]
    if not clean:
        raise UsageError(
            f"study: expected a seed whose test windows the search did not see, got none of {seeds} after "
            f"{search_seeds}; raise --seeds to {search_seeds + 2} or more, or lower --search-seeds"
        )
    return tuple(clean)


def _check_study(dataset: Dataset, options: StudyOptions) -> None:
    plan.check_space(options.space)
    conditions, windows = options.conditions, dataset.everything()
    for train in (conditions.teacher_train, conditions.student_train):
        check_metric(train.metric, dataset.spec.task.kind)
    for names in ((conditions.modality,), *(teacher.modalities for teacher in options.space.teachers)):
        windows.with_modalities(names)  # refuses unknown names
    check_seeds(windows, options.seeds)
    refuse_shared_samples(windows)
    for seed in range(options.seeds):
        train_windows = windows.subset(fold_indices(windows, fold=seed, seed=0).train)
        choose_labels(train_windows, conditions.labelled, seed=seed)  # refuses what a fold cannot have
    if not options.grid and not 1 <= options.search_seeds < options.seeds and fold_count(windows) > 1:
        raise UsageError(
            f"study: expected search seeds from 1 to {options.seeds - 1} of {options.seeds} seeds, got "
            f"{options.search_seeds}; the others are for the table, raise --seeds or lower --search-seeds"
        )


def _student_sizes(
    folder: plan.Folder, options: StudyOptions, measure_latency: MeasureLatency | None
) -> tuple[StudentSize, ...]:
    sizes = []
    for preset in options.space.students:
        parameters = count_values(_student(folder, preset))
        excluded, latency, limit_ms = "", None, options.max_latency_ms
        if measure_latency is not None:
            latency = _latency_of_size(folder, preset, measure_latency)
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


def _student(folder: plan.Folder, preset: Preset) -> Student:
    spec = folder.dataset.spec
    modality = spec.modality(folder.conditions.modality)
    return Student(modality, len(spec.task.labels), student_config(preset), kind=spec.task.kind)


def _latency_of_size(folder: plan.Folder, preset: Preset, measure_latency: MeasureLatency) -> PairLatency:
    own, teacher = folder.conditions, folder.space.teachers[0]
    key = plan.short_hash([own.dataset_sha256, teacher, this_machine().key])
    path = folder.out / "latency" / f"{own.modality}-{preset}-{key}.json"
    latency = plan.read_result(path, PairLatency)
    if latency is None:
        data, brief = folder.fold(0).training, msgspec.structs.replace(own.student_train, steps=1)
        run = TrainingRun(train=brief, augment=own.augment)
        training_windows = data.with_modalities(teacher.modalities)
        with TemporaryDirectory() as temporary:
            student, taught_by = Path(temporary) / "student.ckpt", Path(temporary) / "teacher.ckpt"
            write_student(student, train_transformer(TrainingRequest(data, own.modality, student_config(preset), run)))
            write_teacher(taught_by, train_teacher(training_windows, teacher_config(teacher.preset), run))
            latency = measure_latency(student, taught_by)
        plan.write_result(path, latency)
    return latency


def _impossible_entries(folder: plan.Folder) -> dict[plan.Entry, str]:
    spec, task = folder.dataset.spec, folder.dataset.spec.task
    reasons = {}
    for entry in plan.entries(folder.space):
        recipe = folder.space.method(entry.method).recipe
        if recipe is None or entry.teacher is None:
            continue
        choice = folder.space.teacher(entry.teacher)
        modalities = [spec.modality(name) for name in choice.modalities]
        teacher = Teacher(modalities, len(task.labels), teacher_config(choice.preset), kind=task.kind)
        student, goal = _student(folder, entry.student), Goal(kind=task.kind)
        try:
            DistillLearner(student, teacher, recipe, modality=folder.conditions.modality, goal=goal)
        except UsageError as error:
            reasons[entry] = str(error)
    if reasons and {entry.method for entry in plan.entries(folder.space, tuple(reasons))} == {NONE}:
        entry, reason = next(iter(reasons.items()))
        raise UsageError(f"method {entry.method!r}: expected a teacher and a student that can have it: {reason}")
    return reasons


def study(
    dataset: Dataset,
    options: StudyOptions,
    *,
    out: Path,
    measure_latency: MeasureLatency | None = None,
    progress: runs.Progress | None = None,
) -> StudyDocument:
    """Write `study.json` and `student.ckpt`, or resume. Raise UsageError, or PerformanceError if no size fits."""
    began = time.monotonic()
    prepared = prepare_study(dataset, options, out=out, measure_latency=measure_latency)
    run_study(prepared, progress=progress)
    with torch_threads():
        document = _document(prepared, out)
    document = msgspec.structs.replace(document, duration_s=round(time.monotonic() - began, 1))
    write_document(out, document)
    return document


def write_document(out: Path, document: StudyDocument) -> None:
    """Replace `study.json` atomically."""
    write_file(out / STUDY_FILE, msgspec.json.format(msgspec.json.encode(document), indent=1))


def run_study(prepared: PreparedStudy, *, progress: runs.Progress | None = None) -> None:
    """Train the missing runs within the budget."""
    options, folder, progress = prepared.options, prepared.folder, progress or runs.Progress()
    with Workers(options.workers, executor=options.executor) as workers:
        if options.grid:
            chosen = plan.candidates(folder.space, prepared.impossible)
        else:
            _search(prepared, workers, progress)
            chosen = prepared.finalists
        phases = list[list[runs.Run]]()
        for seed in prepared.seeds:  # in turn, so that early results can be compared
            first, later = runs.grid_phases(folder, chosen, [seed], rivals=options.rivals)
            phases += [first, later]
        _make_phases(prepared, workers, progress, phases)


def _search(prepared: PreparedStudy, workers: Workers, progress: runs.Progress) -> None:
    folder, trials, seeds = prepared.folder, prepared.options.trials, prepared.search_seeds
    first, _ = runs.grid_phases(folder, plan.candidates(folder.space, prepared.impossible), seeds, rivals=())
    distilled = distilled_candidates(folder, prepared.impossible)[:trials]
    planned = [
        runs.student_run(folder, plan.Trial(candidate=candidate, seed=seed))
        for candidate in distilled
        for seed in seeds
    ]
    _make_phases(prepared, workers, progress, [first], planned)
    proposed = runs.until(prepared.deadline(_SEARCH_TIME), proposals(folder, prepared.impossible, seeds, trials=trials))
    workers.run(runs.make_claimed, proposed, on_step=progress.on_step, on_end=progress.on_end)


def _make_phases(
    prepared: PreparedStudy,
    workers: Workers,
    progress: runs.Progress,
    phases: Sequence[Sequence[runs.Run]],
    planned: Sequence[runs.Run] = (),
) -> None:
    progress.expect([*phases, planned])
    for phase in phases:
        runs.make_runs(workers, phase, deadline=prepared.deadline(), on_step=progress.on_step, on_end=progress.on_end)


def _document(prepared: PreparedStudy, out: Path) -> StudyDocument:
    folder, options, task = prepared.folder, prepared.options, prepared.folder.dataset.spec.task
    tested = table.tested_entries(folder, prepared.table_entries, prepared.seeds, prepared.search_seeds)
    chosen = table.choose(tested, prepared.seeds)
    trials = table.trial_rows(folder, prepared.impossible, sorted({*prepared.search_seeds, *prepared.seeds}))
    if chosen is None:
        reason = next((f" (the first failed: {trial.reason})" for trial in trials if trial.reason), "")
        raise UsageError(
            f"study {folder.out}: expected a finished trial to report, got none of {len(trials)} that ended{reason}; "
            "give more --budget-hours, the same command continues"
        )
    return StudyDocument(
        facts=_facts(prepared),
        coverage=_coverage(prepared, tested, trials),
        dataset=table.dataset_facts(folder.dataset),
        students=prepared.sizes,
        teachers=table.teacher_rows(folder, tested),
        methods=tuple(
            msgspec.json.decode(msgspec.json.encode(method), type=StudyMethod) for method in folder.space.methods
        ),
        skipped=prepared.skipped,
        entries=table.entry_rows(folder, tested, prepared.sizes, chosen),
        rivals=table.rival_rows(folder, options.rivals, sorted({seed for row in tested for seed in row.results})),
        selection=table.selection(tested, prepared.seeds) if options.grid else None,
        recommendation=_recommendation(prepared, chosen, out / plan.STUDENT_CHECKPOINT),
        trials=trials,
        versions=library_versions(),
        duration_s=0.0,
        measures=measures_of(task),
    )


def _facts(prepared: PreparedStudy) -> StudyFacts:
    options, task = prepared.options, prepared.folder.dataset.spec.task
    conditions, space = options.conditions, options.space
    folds = [prepared.folder.fold(seed) for seed in prepared.seeds]
    groups, metric = conditions.labelled.groups, conditions.student_train.metric
    reported = gain_metric(task, metric).name
    return StudyFacts(
        mode="grid" if options.grid else "search",
        modality=conditions.modality,
        label_fraction=conditions.labelled.fraction if groups is None else None,
        metric=metric,
        gain_metric="" if reported == metric else reported,
        search_seeds=prepared.search_seeds,
        seeds=prepared.seeds,
        student_steps=conditions.student_train.steps,
        teacher_steps=conditions.teacher_train.steps,
        learning_rates=space.learning_rates,
        max_latency_ms=options.max_latency_ms,
        labelled_groups=None
        if groups is None
        else LabelledGroups(labelled=groups, of=tuple(fold.training.train.group_count for fold in folds)),
        labels_spread_in_time=leak_of([plan.spread_in_time(fold) for fold in folds], measures_of(task)[0].name),
        choose=conditions.choose,
    )


def _coverage(prepared: PreparedStudy, tested: Sequence[table.TestedEntry], trials: Sequence[TrialRow]) -> TrialCounts:
    expected, failed = None, sum(trial.state == "failed" for trial in trials)
    if prepared.options.grid:
        expected = len(plan.candidates(prepared.folder.space, prepared.impossible)) * len(prepared.seeds)
    is_whole = sum(len(row.results) == len(prepared.seeds) for row in tested) == len(prepared.table_entries)
    return TrialCounts(
        complete=is_whole and (expected is None or len(trials) >= expected),
        finished=len(trials) - failed,
        failed=failed,
        expected=expected,
    )


def _recommendation(prepared: PreparedStudy, chosen: table.TestedEntry, path: Path) -> Recommendation:
    seed = max(sorted(chosen.results), key=lambda seed: chosen.results[seed].score or 0.0)
    result, folder = chosen.results[seed], prepared.folder
    assert result.trial is not None  # it is a student's
    checkpoint = read_student(folder.trial_folder(result.trial) / plan.STUDENT_CHECKPOINT)
    valid = folder.fold(seed).training.valid
    write_student(path, replace(checkpoint, carried=carried_windows(valid, folder.conditions.modality, seed=seed)))
    return Recommendation(
        **msgspec.structs.asdict(chosen.entry),
        learning_rate=result.trial.candidate.learning_rate,
        seed=seed,
        checkpoint=str(path),
        sha256=file_sha256(path),
        valid_score=result.score or 0.0,
        latency=next(size.latency for size in prepared.sizes if size.preset == chosen.entry.student),
    )
