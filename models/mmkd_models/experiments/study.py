"""A study: which student of one sensor is best within limits, and what shows it.

A grid trains everything on every seed. A search tries candidates on the search's seeds and trains the finalists on
the seeds that count. Validation alone chooses; the test windows are read by finished networks of the table.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.evaluation.label_leak import leak_of
from mmkd_models.experiments.folder import STUDENT_CHECKPOINT, TEACHER_CHECKPOINT, Folder, spread_in_time
from mmkd_models.experiments.plan import Candidate, Trial, candidates, entries
from mmkd_models.experiments.prepare import MeasureLatency, PreparedStudy, StudyOptions, prepare_study
from mmkd_models.experiments.progress import Progress
from mmkd_models.experiments.results import collect, dataset_facts, restore
from mmkd_models.experiments.runs import (
    Run,
    TrialResult,
    chosen_trials,
    grid_phases,
    is_over,
    make_claimed,
    make_runs,
    student_of,
    student_run,
    teacher_results,
    teacher_run,
)
from mmkd_models.experiments.search import distilled_candidates, proposals
from mmkd_models.experiments.table import (
    Tested,
    choose,
    ended_trials,
    entry_rows,
    rival_rows,
    selection,
    teacher_rows,
    tested_entries,
    trial_rows,
)
from mmkd_models.experiments.workers import Workers, torch_threads
from mmkd_models.metrics.measures import measures_of, told_by, written_measures
from mmkd_models.training.checkpoint import file_sha256, library_versions, write_student
from mmkd_report.schema.figures import LabelledGroups
from mmkd_report.schema.study import NONE, Recommendation, StudyDocument, StudyFacts, StudyMethod, TrialCounts

STUDENT_FILE = "student.ckpt"
STUDY_FILE = "study.json"


def study(
    dataset: Dataset,
    options: StudyOptions,
    *,
    out: Path,
    measure_latency: MeasureLatency | None = None,
    progress: Progress | None = None,
    results: Path | None = None,
) -> StudyDocument:
    """Run a study, or go on with it, and write `study.json` and the chosen `student.ckpt` into `out`.

    Args:
        out: studies of other methods, sizes, seeds or limits in the same folder share its trials.
        measure_latency: from checkpoints of a student and a teacher to their latencies on this machine.
        results: folder of compact results: what they know is not trained, and what is finished is added to them.

    Raises:
        UsageError: the options make no sense.
        PerformanceError: no student size keeps the limits.
        UnavailableError: Ray is not installed.
        MmkdError: what a worker raised.
    """
    began = time.monotonic()
    prepared = prepare_study(dataset, options, out=out, measure_latency=measure_latency)
    run_study(prepared, progress=progress, results=results)
    with torch_threads(options.conditions.threads):
        document = document_of(prepared, out, measure_latency)
    document = msgspec.structs.replace(document, duration_s=round(time.monotonic() - began, 1))
    write_document(out, document)
    return document


def write_document(out: Path, document: StudyDocument) -> None:
    """Replace `study.json`, all or nothing."""
    write_file(out / STUDY_FILE, msgspec.json.format(msgspec.json.encode(document), indent=1))


def run_study(prepared: PreparedStudy, *, progress: Progress | None = None, results: Path | None = None) -> None:
    """Train what is missing, until all is there or the time is used up; arguments and errors as `study`."""
    options, folder = prepared.options, prepared.folder
    seeds = sorted({*prepared.search_seeds, *prepared.seeds})
    if results is not None:
        restore(folder, results, seeds)
    progress = progress or Progress()
    threads = options.conditions.threads
    with Workers(options.workers, executor=options.executor, threads=threads) as workers:
        if options.grid:
            everything = candidates(folder.space, prepared.impossible)
            _make_phases(prepared, workers, progress, _grid(prepared, everything))
        else:
            _search(prepared, workers, progress)
            _make_phases(prepared, workers, progress, _grid(prepared, prepared.finalists))
    if results is not None:
        with torch_threads(threads):
            collect(
                folder,
                results,
                seeds=prepared.seeds,
                impossible=prepared.impossible,
                compared=options.compared,
                rivals=options.rivals,
            )


def _grid(prepared: PreparedStudy, chosen: Sequence[Candidate]) -> list[list[Run]]:
    """One seed after the other, so that what is finished early can be compared."""
    options, folder, phases = prepared.options, prepared.folder, list[list[Run]]()
    for seed in prepared.seeds:
        first, _, later = grid_phases(folder, chosen, [seed], rivals=options.rivals)
        compared = [teacher_run(folder, one, seed, figures_alone=True) for one in options.compared]
        phases += [first, [*later, *compared]]
    return phases


def _search(prepared: PreparedStudy, workers: Workers, progress: Progress) -> None:
    folder, options, seeds = prepared.folder, prepared.options, prepared.search_seeds
    first, _, _ = grid_phases(folder, candidates(folder.space, prepared.impossible), seeds, rivals=())
    distilled = distilled_candidates(folder, prepared.impossible)[: options.trials]
    planned = [student_run(folder, Trial(candidate=one, seed=seed)) for one in distilled for seed in seeds]
    progress.expect([first, planned])
    make_runs(workers, first, deadline=prepared.deadline, on_step=progress.on_step, on_end=progress.on_end)

    def runs_in_time() -> Iterator[Run]:
        for run in proposals(folder, prepared.impossible, seeds, trials=options.trials):
            if is_over(prepared.deadline and prepared.deadline - _finalists_s(prepared)):
                return
            yield run

    workers.run(make_claimed, runs_in_time(), on_step=progress.on_step, on_end=progress.on_end)


def _make_phases(
    prepared: PreparedStudy, workers: Workers, progress: Progress, phases: Sequence[Sequence[Run]]
) -> None:
    progress.expect(phases)
    for phase in phases:
        make_runs(workers, phase, deadline=prepared.deadline, on_step=progress.on_step, on_end=progress.on_end)


def _finalists_s(prepared: PreparedStudy) -> float:
    """How long the finalists will take, from the trainings so far."""
    folder, options = prepared.folder, prepared.options
    baselines = [entry for entry in entries(folder.space) if entry.method == NONE]
    students = [
        result.duration_s
        for entry in baselines
        for result in chosen_trials(folder, entry, prepared.search_seeds).values()
    ]
    teachers = [
        sum(result.duration_s for result in results)
        for teacher in folder.space.teachers
        for seed in prepared.search_seeds
        if (results := teacher_results(folder, teacher, seed)) is not None
    ]
    student_s = float(np.mean(students)) if students else 0.0
    teacher_s = float(np.mean(teachers)) if teachers else student_s
    count = options.finalists + min(options.finalists, len(folder.space.students))
    taught_by = min(options.finalists, len(folder.space.teachers))
    return len(prepared.seeds) * (student_s * count + teacher_s * taught_by) / options.workers


def document_of(prepared: PreparedStudy, out: Path, measure_latency: MeasureLatency | None) -> StudyDocument:
    """Read what is finished, let validation choose, and write the chosen student into the study's folder.

    Args:
        out: the study's folder as the user named it.

    Raises:
        UsageError: no trial is finished.
    """
    folder, options, impossible = prepared.folder, prepared.options, prepared.impossible
    tested = tested_entries(folder, prepared.table_entries, prepared.seeds, prepared.search_seeds)
    chosen = choose(tested, prepared.seeds)
    ended = ended_trials(folder, impossible, sorted({*prepared.search_seeds, *prepared.seeds}))
    if chosen is None:
        raise UsageError(
            f"study {folder.out}: expected a finished trial to report, got none of {len(ended)} that ended"
            f"{_first_reason(ended)}; give more --budget-hours, the same command continues"
        )
    best = next(one for one in tested if one.entry == chosen)
    return StudyDocument(
        facts=_facts(prepared),
        coverage=_coverage(prepared, tested, ended),
        dataset=dataset_facts(folder.dataset),
        students=prepared.sizes,
        teachers=teacher_rows(folder, tested, options.compared, prepared.seeds),
        methods=tuple(msgspec.json.decode(msgspec.json.encode(one), type=StudyMethod) for one in folder.space.methods),
        skipped=prepared.skipped,
        entries=entry_rows(folder, tested, prepared.sizes, chosen),
        rivals=rival_rows(folder, options.rivals, sorted({seed for one in tested for seed in one.results})),
        selection=selection(folder, tested, prepared.seeds) if options.grid else None,
        recommendation=_recommendation(prepared, best, out / STUDENT_FILE, measure_latency),
        trials=trial_rows(ended),
        versions=library_versions(),
        duration_s=0.0,
        figures=written_measures(folder.dataset.spec.task),
    )


def _first_reason(ended: Sequence[TrialResult]) -> str:
    return next((f" (the first failed: {result.reason})" for result in ended if result.reason), "")


def _facts(prepared: PreparedStudy) -> StudyFacts:
    options, task = prepared.options, prepared.folder.dataset.spec.task
    conditions, space = options.conditions, options.space
    folds = [prepared.folder.fold(seed) for seed in prepared.seeds]
    groups, metric = conditions.labelled.groups, conditions.student_train.metric
    reported = told_by(task, metric).name
    return StudyFacts(
        mode="grid" if options.grid else "search",
        modality=conditions.modality,
        label_share=conditions.labelled.share if groups is None else None,
        metric=metric,
        told_by=msgspec.UNSET if reported == metric else reported,
        search_seeds=prepared.search_seeds,
        seeds=prepared.seeds,
        threads=conditions.threads,
        student_steps=conditions.student_train.steps,
        teacher_steps=conditions.teacher_train.steps,
        learning_rates=space.learning_rates,
        baseline_learning_rates=tuple(
            rate for rate in space.baseline_learning_rates if rate not in space.learning_rates
        ),
        trials=None if options.grid else options.trials,
        budget_hours=options.budget_hours,
        max_latency_ms=options.max_latency_ms,
        max_parameters=options.max_parameters,
        labelled_groups=None
        if groups is None
        else LabelledGroups(labelled=groups, of=tuple(fold.training.train.group_count for fold in folds)),
        labels_spread_in_time=leak_of([spread_in_time(fold) for fold in folds], measures_of(task)[0].name),
        choose=conditions.choose or msgspec.UNSET,
    )


def _coverage(prepared: PreparedStudy, tested: Sequence[Tested], ended: Sequence[TrialResult]) -> TrialCounts:
    states = [result.state for result in ended]
    is_whole = sum(len(one.results) == len(prepared.seeds) for one in tested) == len(prepared.table_entries)
    expected = None
    if prepared.options.grid:
        expected = len(candidates(prepared.folder.space, prepared.impossible)) * len(prepared.seeds)
    return TrialCounts(
        complete=is_whole and (expected is None or len(ended) >= expected),
        finished=states.count("finished"),
        failed=states.count("failed"),
        expected=expected,
    )


def _recommendation(
    prepared: PreparedStudy, one: Tested, path: Path, measure_latency: MeasureLatency | None
) -> Recommendation:
    """Write the chosen student, and measure it as it will run; one of other machines' results is figures alone."""
    folder, limit = prepared.folder, prepared.options.max_latency_ms
    seed = max(sorted(one.results), key=lambda seed: one.results[seed].score or 0.0)
    result, latency = one.results[seed], None
    is_here = (folder.of_trial(result.trial) / STUDENT_CHECKPOINT).exists()
    if is_here:
        write_student(path, student_of(folder, result.trial))
        teacher = _a_teacher(folder, one)
        latency = measure_latency(path, teacher) if measure_latency is not None and teacher is not None else None
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


def _a_teacher(folder: Folder, one: Tested) -> Path | None:
    """The checkpoint to measure a student against: its own teacher, or for labels only the first there is.

    Of several teachers it is the first one.
    """
    names = [choice.name for choice in folder.space.teachers] if one.entry.teacher is None else [one.entry.teacher]
    paths = [
        folder.of_teacher(member, seed) / TEACHER_CHECKPOINT
        for name in names
        for member in folder.space.teacher(name).members
        for seed in one.results
    ]
    return next((path for path in paths if path.exists()), None)
