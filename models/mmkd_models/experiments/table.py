"""The table of a study: finished trials -> entries with scores, gains, effects, and what is recommended.

The only place of a study that asks for test scores, and it asks for the entries of the table and labels only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from mmkd_models.evaluation.gains import gain_over_seeds, gap_recovered, spread
from mmkd_models.evaluation.guessing import guessing
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.experiments.folder import Folder
from mmkd_models.experiments.plan import Candidate, Entry, TeacherChoice, Trial, candidates
from mmkd_models.experiments.runs import (
    TrialResult,
    chosen_trials,
    judge_rivals,
    teacher_outcome,
    teacher_results,
    trial_outcome,
    trial_result,
)
from mmkd_models.experiments.search import scores_of
from mmkd_models.metrics.measures import measures_of, told_by
from mmkd_models.metrics.scores import AnyScores, figures_in
from mmkd_report.schema.study import (
    NONE,
    EntryRow,
    RivalRow,
    ScoreTable,
    SeedGain,
    Selection,
    StudentSize,
    TeacherRow,
    TrialRow,
)

NEAR_BEST = 0.005
"""How far below the best validation score, as a fraction, a smaller teacher may lie and still be the reference."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """An entry on the seeds on which it, its teacher and labels only of its size are finished."""

    entry: Entry
    results: dict[int, TrialResult]
    tests: dict[int, TestedNetwork]
    search_score: float | None


def tested_entries(
    folder: Folder, expected: Sequence[Entry], seeds: Sequence[int], search_seeds: Sequence[int]
) -> tuple[Tested, ...]:
    """Return the entries that are finished on one of the seeds or more, judged on the test windows of those."""
    found = []
    for entry in expected:
        results = chosen_trials(folder, entry, seeds)
        if not results:
            continue
        tests = {seed: trial_outcome(folder, result.trial) for seed, result in results.items()}
        score = _search_score(folder, entry, search_seeds) if search_seeds else None
        found.append(Tested(entry=entry, results=results, tests=tests, search_score=score))
    return tuple(found)


def _search_score(folder: Folder, entry: Entry, seeds: Sequence[int]) -> float | None:
    means = []
    for rate in folder.space.rates_of(entry):
        scores = scores_of(folder, Candidate(entry=entry, learning_rate=rate), seeds)
        if scores is not None:
            means.append(float(np.mean(scores)))
    return max(means, default=None)


def choose(tested: Sequence[Tested], seeds: Sequence[int]) -> Entry | None:
    """Return the entry that validates best: on the search's seeds, or in a grid on all; the first of equals.

    An entry that is not finished on every seed is chosen only where none is.
    """
    whole = [one for one in tested if len(one.results) == len(seeds)] or list(tested)
    return max(whole, key=_valid_score).entry if whole else None


def _valid_score(one: Tested) -> float:
    if one.search_score is not None:
        return one.search_score
    return float(np.mean([result.score for result in one.results.values() if result.score is not None]))


def entry_rows(
    folder: Folder, tested: Sequence[Tested], sizes: Sequence[StudentSize], chosen: Entry | None
) -> tuple[EntryRow, ...]:
    """Return the rows of the table, labels only first in every size, then by the metric of the study."""
    measure = told_by(folder.dataset.spec.task, folder.conditions.student_train.metric)
    latency = {size.preset: None if size.latency is None else size.latency.student_ms["p50"] for size in sizes}
    parameters = {size.preset: size.parameters for size in sizes}
    baselines = {one.entry.student: one for one in tested if one.entry.method == NONE}
    rows = [
        _row(
            folder,
            one,
            baselines.get(one.entry.student),
            latency_ms=latency[one.entry.student],
            parameters=parameters[one.entry.student],
            chosen=one.entry == chosen,
        )
        for one in tested
    ]

    def rank(row: EntryRow) -> tuple[bool, float, str, str]:
        return row.method != NONE, -measure.gain_scale * row.test[measure.name].mean, row.student, row.method

    return tuple(sorted(rows, key=rank))


def _row(
    folder: Folder,
    one: Tested,
    baseline: Tested | None,
    *,
    latency_ms: float | None,
    parameters: int,
    chosen: bool,
) -> EntryRow:
    entry = one.entry
    metrics = [measure.name for measure in measures_of(folder.dataset.spec.task)]
    measure = told_by(folder.dataset.spec.task, folder.conditions.student_train.metric)
    return EntryRow(
        student=entry.student,
        method=entry.method,
        teacher=entry.teacher,
        seeds=tuple(one.results),
        learning_rates=tuple(result.trial.candidate.learning_rate for result in one.results.values()),
        search_score=one.search_score,
        valid_score=spread([result.score for result in one.results.values() if result.score is not None]),
        test=score_table([test.scores for test in one.tests.values()]),
        gain_points=None if baseline is None or entry.method == NONE else _gains(one.tests, baseline.tests, metrics),
        gap_recovered=None if baseline is None else _gap_recovered(folder, one, baseline),
        parameters=parameters,
        latency_ms=latency_ms,
        chosen=chosen,
        guessing=guessing(tuple(one.tests.values()), measure.name),
    )


def _gains(
    ours: dict[int, TestedNetwork], theirs: dict[int, TestedNetwork], metrics: Sequence[str]
) -> dict[str, SeedGain] | None:
    both = [seed for seed in ours if seed in theirs]
    if not both:
        return None
    return {
        metric: gain_over_seeds([ours[seed] for seed in both], [theirs[seed] for seed in both], metric)
        for metric in metrics
    }


def _gap_recovered(folder: Folder, one: Tested, baseline: Tested) -> float | None:
    if one.entry.teacher is None:
        return None
    measure = told_by(folder.dataset.spec.task, folder.conditions.student_train.metric)
    choice = folder.space.teacher(one.entry.teacher)
    both = [seed for seed in one.tests if seed in baseline.tests]
    if not both:
        return None
    ours, alone = ([which.tests[seed] for seed in both] for which in (one, baseline))
    return gap_recovered(ours, alone, [teacher_outcome(folder, choice, seed) for seed in both], measure.name)


def score_table(scores: Sequence[AnyScores]) -> ScoreTable:
    """Return the spreads of all measures over seeds, of one or more scores of one kind."""
    return {name: spread([one.metric(name) for one in scores]) for name in figures_in(scores[0])}


def selection(folder: Folder, tested: Sequence[Tested], seeds: Sequence[int]) -> Selection | None:
    """Return what choosing by validation inside each fold of a grid scores on that fold's test windows."""
    chosen, ours, theirs = [], [], []
    for seed in seeds:
        there = [one for one in tested if seed in one.results]
        if not there:
            continue
        best = max(there, key=lambda one: -math.inf if (score := one.results[seed].score) is None else score)
        alone = next(
            (one for one in there if one.entry.method == NONE and one.entry.student == best.entry.student), None
        )
        if alone is None:
            continue
        chosen.append(f"{best.entry.method} {best.entry.student}")
        ours.append(best.tests[seed])
        theirs.append(alone.tests[seed])
    if not ours:
        return None
    return Selection(
        chosen=tuple(chosen),
        test=score_table([test.scores for test in ours]),
        gain_points={metric: gain_over_seeds(ours, theirs, metric) for metric in figures_in(ours[0].scores)},
    )


def teacher_rows(
    folder: Folder, tested: Sequence[Tested], compared: Sequence[TeacherChoice], seeds: Sequence[int]
) -> tuple[TeacherRow, ...]:
    """Return the teachers of the table's entries on the seeds on which they taught, and those that are compared."""
    rows = []
    for choice in (*folder.space.teachers, *compared):
        taught = sorted({seed for one in tested if one.entry.teacher == choice.name for seed in one.results})
        taught = list(seeds) if choice in compared else taught
        found = {seed: results for seed in taught if (results := teacher_results(folder, choice, seed)) is not None}
        if not found:
            continue
        is_one = len(choice.members) == 1
        rows.append(
            TeacherRow(
                name=choice.name,
                modalities=tuple(dict.fromkeys(name for member in choice.members for name in member.modalities)),
                preset="+".join(dict.fromkeys(member.preset for member in choice.members)),
                parameters=sum(one.parameters for one in next(iter(found.values()))),
                seeds=tuple(found),
                valid_score=spread([results[0].score for results in found.values()]) if is_one else None,
                test=score_table([teacher_outcome(folder, choice, seed).scores for seed in found]),
                sha256=tuple(one.sha256 for results in found.values() for one in results),
            )
        )
    reference = smallest_near_best(rows)
    return tuple(msgspec.structs.replace(row, is_reference=row.name == reference) for row in rows)


def smallest_near_best(rows: Sequence[TeacherRow]) -> str | None:
    """Return the smallest of the single teachers within half a point of the best on validation; None where none is."""
    single = [(row.parameters, row.name, row.valid_score.mean) for row in rows if row.valid_score is not None]
    best = max((score for _, _, score in single), default=0.0)
    return next((name for _, name, score in sorted(single) if score >= best - NEAR_BEST), None)


def rival_rows(folder: Folder, rivals: Sequence[RivalName], seeds: Sequence[int]) -> tuple[RivalRow, ...]:
    """The rivals on the same sensor, labels and seeds."""
    rows = []
    judged = [result for seed in seeds for result in judge_rivals(folder, rivals, seed)]
    for rival in rivals:
        results = [result for result in judged if result.rival == rival]
        tests = {result.seed: result.test for result in results if result.test is not None}
        valid = [result.valid_score for result in results if result.valid_score is not None]
        rows.append(
            RivalRow(
                name=rival,
                teacher=next((result.teacher for result in results if result.teacher), None),
                seeds=tuple(tests),
                test=score_table([test.scores for test in tests.values()]) if tests else None,
                reason=next((result.reason for result in results if result.test is None), ""),
                valid_score=spread(valid) if valid and len(valid) == len(results) else None,
            )
        )
    return tuple(rows)


def ended_trials(folder: Folder, impossible: Sequence[Entry], seeds: Sequence[int]) -> tuple[TrialResult, ...]:
    """Return every trial of the study's space that has ended, in a fixed order."""
    trials = (Trial(candidate=one, seed=seed) for one in candidates(folder.space, impossible) for seed in seeds)
    return tuple(result for trial in trials if (result := trial_result(folder, trial)) is not None)


def trial_rows(results: Sequence[TrialResult]) -> tuple[TrialRow, ...]:
    """Return how they ended."""
    return tuple(
        TrialRow(
            student=result.trial.candidate.entry.student,
            method=result.trial.candidate.entry.method,
            teacher=result.trial.candidate.entry.teacher,
            learning_rate=result.trial.candidate.learning_rate,
            seed=result.trial.seed,
            state=result.state,
            score=result.score,
            duration_s=round(result.duration_s, 3),
            reason=result.reason,
            sha256=result.student_sha256,
        )
        for result in results
    )
