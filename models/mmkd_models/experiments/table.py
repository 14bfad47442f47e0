"""The table of a study: entries with scores and gains, and validation's choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from mmkd_documents import study
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.windows import split_facts
from mmkd_models.evaluation.gains import compare_with_chance, gain_over_seeds, gap_recovered, spread
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.experiments.experiment import Experiment, ResultTable
from mmkd_models.experiments.plan import Candidate, Entry, Trial
from mmkd_models.experiments.runs import Judged, trial_result
from mmkd_models.experiments.search import search_scores
from mmkd_models.metrics.scores import AnyScores, figures_in, gain_metric


@dataclass(frozen=True, kw_only=True)
class TestedEntry:
    """An entry on its finished seeds."""

    entry: Entry
    judged: Mapping[int, Judged]
    search_score: float | None = None

    @property
    def valid_scores(self) -> list[float]:
        """Validation scores by seed."""
        return [each.result.score or 0.0 for each in self.judged.values()]

    @property
    def tests(self) -> dict[int, TestedNetwork]:
        """Answers on test windows by seed."""
        return {seed: each.test for seed, each in self.judged.items()}


def tested_entries(experiment: Experiment, results: ResultTable) -> tuple[TestedEntry, ...]:
    """Return the entries finished on a seed or more, with their scores in the search."""
    search, rows = results.plan.search, []
    for entry, judged in results.students[results.plan.sensors[0]].items():
        rates = results.plan.space.learning_rates_for(entry) if search else ()
        candidates = [Candidate(entry=entry, learning_rate=rate) for rate in rates]
        scores = [search_scores(experiment.folder, each, search.seeds if search else ()) for each in candidates]
        score = max((float(np.mean(own)) for own in scores if own is not None), default=None)
        rows.append(TestedEntry(entry=entry, judged=judged, search_score=score))
    return tuple(rows)


def choose(tested: Sequence[TestedEntry], seeds: Sequence[int]) -> TestedEntry | None:
    """Return the best-validated entry, on the search's seeds if any; unfinished only if all are."""
    whole = [row for row in tested if len(row.judged) == len(seeds)] or list(tested)

    def score(row: TestedEntry) -> float:
        return float(np.mean(row.valid_scores)) if row.search_score is None else row.search_score

    return max(whole, key=score, default=None)


def entry_rows(
    results: ResultTable, tested: Sequence[TestedEntry], sizes: Sequence[study.StudentSize], chosen: TestedEntry
) -> tuple[study.EntryRow, ...]:
    """Return the table's rows, labels only first in every size, then by metric."""
    measure = gain_metric(results.spec.task, results.plan.conditions.student_train.metric)
    by_size = {size.preset: size for size in sizes}
    baselines = {row.entry.student: row for row in tested if row.entry.method == study.NONE}
    rows = []
    for row in tested:
        entry, size = row.entry, by_size[row.entry.student]
        baseline = None if entry.teacher is None else baselines.get(entry.student)
        both = [seed for seed in row.judged if baseline is not None and seed in baseline.judged]
        gains, gap = None, None
        if baseline is not None and both:
            gains = _gains(row.tests, baseline.tests, both)
            teacher = results.teachers[entry.teacher or ""]
            teachers = [teacher[seed].test for seed in both if seed in teacher]
            students, references = ([tests[seed] for seed in both] for tests in (row.tests, baseline.tests))
            gap = gap_recovered(students, references, teachers, measure.name)
        rows.append(
            study.EntryRow(
                student=entry.student,
                method=entry.method,
                teacher=entry.teacher,
                seeds=tuple(row.judged),
                learning_rates=tuple(
                    each.result.trial.candidate.learning_rate for each in row.judged.values() if each.result.trial
                ),
                search_score=row.search_score,
                valid_score=spread(row.valid_scores),
                test=score_table([test.scores for test in row.tests.values()]),
                gain_points=gains,
                gap_recovered=gap,
                parameters=size.parameters,
                latency_ms=None if size.latency is None else size.latency.student_ms["p50"],
                chosen=row is chosen,
                chance=compare_with_chance(tuple(row.tests.values()), measure.name),
            )
        )

    def rank(row: study.EntryRow) -> tuple[bool, float, str, str]:
        return row.method != study.NONE, -measure.gain_scale * row.test[measure.name].mean, row.student, row.method

    return tuple(sorted(rows, key=rank))


def _gains(
    models: Mapping[int, TestedNetwork], baseline: Mapping[int, TestedNetwork], seeds: Sequence[int]
) -> dict[str, study.SeedGain]:
    pairs = [models[seed] for seed in seeds], [baseline[seed] for seed in seeds]
    return {metric: gain_over_seeds(*pairs, metric) for metric in figures_in(pairs[0][0].scores)}


def score_table(scores: Sequence[AnyScores]) -> study.ScoreTable:
    """Return the spreads of all measures over seeds."""
    return {name: spread([score.metric(name) for score in scores]) for name in figures_in(scores[0])}


def selection(tested: Sequence[TestedEntry], seeds: Sequence[int]) -> study.Selection | None:
    """Return the test score of choosing by validation inside each fold."""
    chosen, models, baselines = [], {}, {}
    for seed in seeds:
        finished = [row for row in tested if seed in row.judged]
        if not finished:
            continue
        best = max(finished, key=lambda row: row.judged[seed].result.score or 0.0)
        size = best.entry.student
        baseline = next((row for row in finished if row.entry.method == study.NONE and row.entry.student == size), None)
        if baseline is not None:
            chosen.append(f"{best.entry.method} {size}")
            models[seed], baselines[seed] = best.tests[seed], baseline.tests[seed]
    if not models:
        return None
    return study.Selection(
        chosen=tuple(chosen),
        test=score_table([test.scores for test in models.values()]),
        gain_points=_gains(models, baselines, list(models)),
    )


def teacher_rows(results: ResultTable) -> tuple[study.TeacherRow, ...]:
    """Return the teachers of the table on the seeds they taught."""
    rows = []
    for teacher in results.plan.space.teachers:
        judged = results.teachers[teacher.name]
        if judged:
            rows.append(
                study.TeacherRow(
                    name=teacher.name,
                    modalities=teacher.modalities,
                    preset=teacher.preset,
                    parameters=next(iter(judged.values())).result.parameters,
                    seeds=tuple(judged),
                    valid_score=spread([each.result.score or 0.0 for each in judged.values()]),
                    test=score_table([each.test.scores for each in judged.values()]),
                    sha256=tuple(each.result.sha256 or "" for each in judged.values()),
                )
            )
    return tuple(rows)


def rival_rows(results: ResultTable) -> tuple[study.RivalRow, ...]:
    """Return rivals on the same sensor, labels and seeds."""
    rows = []
    for rival, by_seed in results.rivals[results.plan.sensors[0]].items():
        judged = {seed: each for seed, each in by_seed.items() if not isinstance(each, str)}
        reasons = [each for each in by_seed.values() if isinstance(each, str)]
        valid = [each.result.score or 0.0 for each in judged.values()]
        rows.append(
            study.RivalRow(
                name=rival,
                teacher=results.plan.teacher.name if rival == "distilled_rocket" else None,
                seeds=tuple(judged),
                test=score_table([each.test.scores for each in judged.values()]) if judged else None,
                reason=reasons[0] if reasons else "",
                valid_score=spread(valid) if valid and not reasons else None,
            )
        )
    return tuple(rows)


def trial_rows(experiment: Experiment) -> tuple[study.TrialRow, ...]:
    """Return every trial that has ended."""
    plan = experiment.plan
    seeds = sorted({*(plan.search.seeds if plan.search else ()), *plan.seeds})
    trials = [Trial(candidate=candidate, seed=seed) for candidate in experiment.all_candidates() for seed in seeds]
    return tuple(
        study.TrialRow(
            **msgspec.structs.asdict(trial.candidate.entry),
            learning_rate=trial.candidate.learning_rate,
            seed=trial.seed,
            state="failed" if result.reason else "finished",
            score=result.score,
            reason=result.reason,
            sha256=result.sha256,
        )
        for trial in trials
        if (result := trial_result(experiment.folder, trial)) is not None
    )


def dataset_facts(dataset: Dataset) -> study.StudyDataset:
    """Describe the dataset for a document."""
    spec, windows = dataset.spec, dataset.everything()
    return study.StudyDataset(
        name=spec.name,
        sha256=dataset.sha256,
        source=spec.source,
        licence=spec.licence,
        labels=tuple(spec.task.labels),
        modalities=tuple(modality.name for modality in spec.modalities),
        windows=len(windows),
        groups=windows.group_count,
        split=split_facts(windows),
        kind=spec.task.kind,
    )
