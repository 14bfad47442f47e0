"""A study: which student of one sensor is best within limits.

A grid trains everything on every seed. A search tries candidates on its seeds and trains the finalists on the others.
Validation alone chooses; finished networks of the table read the test windows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.evaluation.label_leak import leak_of
from mmkd_models.experiments.folder import TEACHER_CHECKPOINT, Folder, spread_in_time
from mmkd_models.experiments.plan import Candidate, Trial, candidates
from mmkd_models.experiments.prepare import MeasureLatency, PreparedStudy, StudyOptions, prepare_study
from mmkd_models.experiments.progress import Progress
from mmkd_models.experiments.runs import (
    Run,
    grid_phases,
    make_claimed,
    make_runs,
    read_exportable_student,
    student_run,
    until,
)
from mmkd_models.experiments.search import distilled_candidates, proposals
from mmkd_models.experiments.table import (
    TestedEntry,
    choose,
    dataset_facts,
    entry_rows,
    rival_rows,
    selection,
    teacher_rows,
    tested_entries,
    trial_rows,
)
from mmkd_models.experiments.workers import Workers, torch_threads
from mmkd_models.metrics.scores import gain_metric, measures_of, written_measures
from mmkd_models.training.checkpoint import file_sha256, library_versions, write_student
from mmkd_report.schema.figures import LabelledGroups
from mmkd_report.schema.study import Recommendation, StudyDocument, StudyFacts, StudyMethod, TrialCounts, TrialRow

STUDENT_FILE = "student.ckpt"
STUDY_FILE = "study.json"
_SEARCH_TIME = 0.5  # of the budget, so that finalists can be trained


def study(
    dataset: Dataset,
    options: StudyOptions,
    *,
    out: Path,
    measure_latency: MeasureLatency | None = None,
    progress: Progress | None = None,
) -> StudyDocument:
    """Run or resume a study, and write `study.json` and the chosen `student.ckpt` into `out`.

    Raises:
        UsageError: the options make no sense.
        PerformanceError: no student size keeps the limits.
        UnavailableError: Ray is not installed.
        MmkdError: what a worker raised.
    """
    began = time.monotonic()
    prepared = prepare_study(dataset, options, out=out, measure_latency=measure_latency)
    run_study(prepared, progress=progress)
    with torch_threads(options.conditions.threads):
        document = _document(prepared, out, measure_latency)
    document = msgspec.structs.replace(document, duration_s=round(time.monotonic() - began, 1))
    write_document(out, document)
    return document


def write_document(out: Path, document: StudyDocument) -> None:
    """Replace `study.json`, all or nothing."""
    write_file(out / STUDY_FILE, msgspec.json.format(msgspec.json.encode(document), indent=1))


def run_study(prepared: PreparedStudy, *, progress: Progress | None = None) -> None:
    """Train the missing runs within the budget; errors as `study`."""
    options, folder, progress = prepared.options, prepared.folder, progress or Progress()
    with Workers(options.workers, executor=options.executor, threads=options.conditions.threads) as workers:
        if options.grid:
            chosen = candidates(folder.space, prepared.impossible)
        else:
            _search(prepared, workers, progress)
            chosen = prepared.finalists
        _make_phases(prepared, workers, progress, _grid(prepared, chosen))


def _grid(prepared: PreparedStudy, chosen: Sequence[Candidate]) -> list[list[Run]]:
    phases = list[list[Run]]()
    for seed in prepared.seeds:
        first, _, later = grid_phases(prepared.folder, chosen, [seed], rivals=prepared.options.rivals)
        phases += [first, later]
    return phases


def _search(prepared: PreparedStudy, workers: Workers, progress: Progress) -> None:
    folder, trials, seeds = prepared.folder, prepared.options.trials, prepared.search_seeds
    first, _, _ = grid_phases(folder, candidates(folder.space, prepared.impossible), seeds, rivals=())
    distilled = distilled_candidates(folder, prepared.impossible)[:trials]
    planned = [student_run(folder, Trial(candidate=candidate, seed=seed)) for candidate in distilled for seed in seeds]
    _make_phases(prepared, workers, progress, [first], planned)
    proposed = until(prepared.deadline(_SEARCH_TIME), proposals(folder, prepared.impossible, seeds, trials=trials))
    workers.run(make_claimed, proposed, on_step=progress.on_step, on_end=progress.on_end)


def _make_phases(
    prepared: PreparedStudy,
    workers: Workers,
    progress: Progress,
    phases: Sequence[Sequence[Run]],
    planned: Sequence[Run] = (),
) -> None:
    progress.expect([*phases, planned])
    for phase in phases:
        make_runs(workers, phase, deadline=prepared.deadline(), on_step=progress.on_step, on_end=progress.on_end)


def _document(prepared: PreparedStudy, out: Path, measure_latency: MeasureLatency | None) -> StudyDocument:
    """Let validation choose, and write the chosen student into the study's folder."""
    folder, options = prepared.folder, prepared.options
    tested = tested_entries(folder, prepared.table_entries, prepared.seeds, prepared.search_seeds)
    chosen = choose(tested, prepared.seeds)
    trials = trial_rows(folder, prepared.impossible, sorted({*prepared.search_seeds, *prepared.seeds}))
    if chosen is None:
        reason = next((f" (the first failed: {trial.reason})" for trial in trials if trial.reason), "")
        raise UsageError(
            f"study {folder.out}: expected a finished trial to report, got none of {len(trials)} that ended{reason}; "
            "give more --budget-hours, the same command continues"
        )
    return StudyDocument(
        facts=_facts(prepared),
        coverage=_coverage(prepared, tested, trials),
        dataset=dataset_facts(folder.dataset),
        students=prepared.sizes,
        teachers=teacher_rows(folder, tested),
        methods=tuple(
            msgspec.json.decode(msgspec.json.encode(method), type=StudyMethod) for method in folder.space.methods
        ),
        skipped=prepared.skipped,
        entries=entry_rows(folder, tested, prepared.sizes, chosen),
        rivals=rival_rows(folder, options.rivals, sorted({seed for row in tested for seed in row.results})),
        selection=selection(tested, prepared.seeds) if options.grid else None,
        recommendation=_recommendation(prepared, chosen, out / STUDENT_FILE, measure_latency),
        trials=trials,
        versions=library_versions(),
        duration_s=0.0,
        figures=written_measures(folder.dataset.spec.task),
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
        label_fraction=conditions.labelled.share if groups is None else None,
        metric=metric,
        gain_metric=msgspec.UNSET if reported == metric else reported,
        search_seeds=prepared.search_seeds,
        seeds=prepared.seeds,
        threads=conditions.threads,
        student_steps=conditions.student_train.steps,
        teacher_steps=conditions.teacher_train.steps,
        learning_rates=space.learning_rates,
        max_latency_ms=options.max_latency_ms,
        max_parameters=options.max_parameters,
        labelled_groups=None
        if groups is None
        else LabelledGroups(labelled=groups, of=tuple(fold.training.train.group_count for fold in folds)),
        labels_spread_in_time=leak_of([spread_in_time(fold) for fold in folds], measures_of(task)[0].name),
        choose=conditions.choose or msgspec.UNSET,
    )


def _coverage(prepared: PreparedStudy, tested: Sequence[TestedEntry], trials: Sequence[TrialRow]) -> TrialCounts:
    expected, failed = None, sum(trial.state == "failed" for trial in trials)
    if prepared.options.grid:
        expected = len(candidates(prepared.folder.space, prepared.impossible)) * len(prepared.seeds)
    is_whole = sum(len(row.results) == len(prepared.seeds) for row in tested) == len(prepared.table_entries)
    return TrialCounts(
        complete=is_whole and (expected is None or len(trials) >= expected),
        finished=len(trials) - failed,
        failed=failed,
        expected=expected,
    )


def _recommendation(
    prepared: PreparedStudy, chosen: TestedEntry, path: Path, measure_latency: MeasureLatency | None
) -> Recommendation:
    folder, limit_ms = prepared.folder, prepared.options.max_latency_ms
    seed = max(sorted(chosen.results), key=lambda seed: chosen.results[seed].score or 0.0)
    result, latency, teacher = chosen.results[seed], None, _any_teacher(folder, chosen)
    trial = result.trial
    assert trial is not None  # it is a student's
    write_student(path, read_exportable_student(folder, trial))
    if measure_latency is not None and teacher is not None:
        latency = measure_latency(path, teacher)
    return Recommendation(
        **msgspec.structs.asdict(chosen.entry),
        learning_rate=trial.candidate.learning_rate,
        seed=seed,
        checkpoint=str(path),
        sha256=file_sha256(path),
        valid_score=result.score or 0.0,
        latency=latency,
        within_limits=limit_ms is None or latency is None or latency.student_ms["p50"] <= limit_ms,
    )


def _any_teacher(folder: Folder, chosen: TestedEntry) -> Path | None:
    teachers = [teacher for teacher in folder.space.teachers if chosen.entry.teacher in (None, teacher.name)]
    paths = (folder.teacher_folder(teacher, seed) for teacher in teachers for seed in chosen.results)
    return next((file for path in paths if (file := path / TEACHER_CHECKPOINT).exists()), None)
