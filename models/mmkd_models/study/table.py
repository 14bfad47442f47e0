"""The table of a study: finished trials -> entries with scores, gains, effects, and what is recommended.

The only place of a study that asks for test scores, and it asks for the entries of the table and labels alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from mmkd_models.compare.comparison import NEAR_BEST
from mmkd_models.evaluation.gains import gain_over_seeds, gap_recovered, spread
from mmkd_models.evaluation.guessing import guessing
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.metrics.measures import measures_of, told_by
from mmkd_models.metrics.scores import AnyScores, figures_in
from mmkd_models.study.effects import FactorScore, effects
from mmkd_models.trials.by_validation import chosen_trials, scores_of_candidate
from mmkd_models.trials.folder import StudyFolder
from mmkd_models.trials.rivals import rivals_on
from mmkd_models.trials.space import Candidate, Entry, TeacherChoice, Trial, candidates
from mmkd_models.trials.students import TrialResult, trial_outcome, trial_result
from mmkd_models.trials.teachers import teacher_outcome, teacher_results
from mmkd_report.schema.study import (
    NONE,
    Effect,
    EntryRow,
    RivalRow,
    ScoreTable,
    SeedGain,
    Selection,
    StudentSize,
    TeacherRow,
    TrialRow,
)


@dataclass(frozen=True, kw_only=True)
class Tested:
    """An entry on the seeds on which it, its teacher and labels alone of its size are finished."""

    entry: Entry
    results: dict[int, TrialResult]
    tests: dict[int, TestedNetwork]
    search_score: float | None


def tested_entries(
    folder: StudyFolder, wanted: Sequence[Entry], seeds: Sequence[int], search_seeds: Sequence[int]
) -> tuple[Tested, ...]:
    """Gives the entries that are finished on one of the seeds or more, judged on the test windows of those."""
    found = []
    for entry in wanted:
        results = chosen_trials(folder, entry, seeds)
        if not results:
            continue
        tests = {seed: trial_outcome(folder, result.trial) for seed, result in results.items()}
        score = _search_score(folder, entry, search_seeds) if search_seeds else None
        found.append(Tested(entry=entry, results=results, tests=tests, search_score=score))
    return tuple(found)


def _search_score(folder: StudyFolder, entry: Entry, seeds: Sequence[int]) -> float | None:
    means = []
    for rate in folder.space.rates_of(entry):
        scores = scores_of_candidate(folder, Candidate(entry=entry, learning_rate=rate), seeds)
        if scores is not None:
            means.append(float(np.mean(scores)))
    return max(means, default=None)


def choose(tested: Sequence[Tested], seeds: Sequence[int]) -> Entry | None:
    """Gives the entry that validates best: on the search's seeds, or in a grid on all; the first of equals.

    An entry that is not finished on every seed is chosen only where none is.
    """
    whole = [one for one in tested if len(one.results) == len(seeds)] or list(tested)
    return max(whole, key=_valid_score).entry if whole else None


def _valid_score(one: Tested) -> float:
    if one.search_score is not None:
        return one.search_score
    return float(np.mean([result.score for result in one.results.values() if result.score is not None]))


def entry_rows(
    folder: StudyFolder, tested: Sequence[Tested], sizes: Sequence[StudentSize], chosen: Entry | None
) -> tuple[EntryRow, ...]:
    """Gives the rows of the table, labels alone first in every size, then by the metric of the study."""
    measure = told_by(folder.dataset.spec.task, folder.conditions.student_train.metric)
    latency = {size.preset: None if size.latency is None else size.latency.student_ms["p50"] for size in sizes}
    parameters = {size.preset: size.parameters for size in sizes}
    baselines = {one.entry.student: one for one in tested if one.entry.method == NONE}
    means = {one.entry: measure.gain_scale * _mean(one, measure.name) for one in tested}
    rows = [
        _row(
            folder,
            one,
            baselines.get(one.entry.student),
            latency_ms=latency[one.entry.student],
            parameters=parameters[one.entry.student],
            on_front=_is_on_front(one.entry, means, latency),
            chosen=one.entry == chosen,
        )
        for one in tested
    ]

    def rank(row: EntryRow) -> tuple[bool, float, str, str]:
        return row.method != NONE, -measure.gain_scale * row.test[measure.name].mean, row.student, row.method

    return tuple(sorted(rows, key=rank))


def _mean(one: Tested, metric: str) -> float:
    return float(np.mean([test.scores.metric(metric) for test in one.tests.values()]))


def _is_on_front(entry: Entry, means: dict[Entry, float], latency: dict[str, float | None]) -> bool:
    """No other entry is better without being slower, or as good and faster; without latencies there is no front."""
    own = latency[entry.student]
    if own is None:
        return False
    for other, mean in means.items():
        time = latency[other.student]
        if time is not None and time <= own and mean >= means[entry] and (time, -mean) != (own, -means[entry]):
            return False
    return True


def _row(
    folder: StudyFolder,
    one: Tested,
    baseline: Tested | None,
    *,
    latency_ms: float | None,
    parameters: int,
    on_front: bool,
    chosen: bool,
) -> EntryRow:
    entry, method = one.entry, folder.space.method(one.entry.method)
    metrics = [measure.name for measure in measures_of(folder.dataset.spec.task)]
    measure = told_by(folder.dataset.spec.task, folder.conditions.student_train.metric)
    return EntryRow(
        student=entry.student,
        method=entry.method,
        kind=method.kind,
        level=method.level,
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
        on_front=on_front,
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


def _gap_recovered(folder: StudyFolder, one: Tested, baseline: Tested) -> float | None:
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
    """Gives the spreads of all measures over seeds, of one or more scores of one kind."""
    return {name: spread([one.metric(name) for one in scores]) for name in figures_in(scores[0])}


def selection(folder: StudyFolder, tested: Sequence[Tested], seeds: Sequence[int]) -> Selection | None:
    """Gives what choosing by validation inside each fold of a grid scores on that fold's test windows."""
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
    folder: StudyFolder, tested: Sequence[Tested], compared: Sequence[TeacherChoice], seeds: Sequence[int]
) -> tuple[TeacherRow, ...]:
    """Gives the teachers of the table's entries on the seeds on which they taught, and those that are compared."""
    rows = []
    for choice in (*folder.space.teachers, *compared):
        taught = sorted({seed for one in tested if one.entry.teacher == choice.name for seed in one.results})
        taught = list(seeds) if choice in compared else taught
        found = {seed: results for seed in taught if (results := teacher_results(folder, choice, seed)) is not None}
        if not found:
            continue
        is_one = len(choice.members) == 1 and not choice.out_of_fold
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
    """Gives the smallest of the single teachers within half a point of the best on validation; None where none is."""
    single = [(row.parameters, row.name, row.valid_score.mean) for row in rows if row.valid_score is not None]
    best = max((score for _, _, score in single), default=0.0)
    return next((name for _, name, score in sorted(single) if score >= best - NEAR_BEST), None)


def rival_rows(folder: StudyFolder, rivals: Sequence[RivalName], seeds: Sequence[int]) -> tuple[RivalRow, ...]:
    """Gives the rivals on the same sensor, labels and seeds."""
    rows = []
    judged = rivals_on(folder, rivals, seeds)
    for rival in rivals:
        results = [one for one in judged if one.rival == rival]
        tests = {one.seed: one.test for one in results if one.test is not None}
        valid = [one.valid_score for one in results if one.valid_score is not None]
        rows.append(
            RivalRow(
                name=rival,
                teacher=next((one.teacher for one in results if one.teacher), None),
                seeds=tuple(tests),
                test=score_table([test.scores for test in tests.values()]) if tests else None,
                reason=next((one.reason for one in results if one.test is None), ""),
                valid_score=spread(valid) if valid and len(valid) == len(results) else None,
            )
        )
    return tuple(rows)


def ended_trials(folder: StudyFolder, impossible: Sequence[Entry], seeds: Sequence[int]) -> tuple[TrialResult, ...]:
    """Gives every trial of the study's space that has ended, in a fixed order."""
    trials = (Trial(candidate=one, seed=seed) for one in candidates(folder.space, impossible) for seed in seeds)
    return tuple(result for trial in trials if (result := trial_result(folder, trial)) is not None)


def trial_rows(results: Sequence[TrialResult]) -> tuple[TrialRow, ...]:
    """Gives how they ended."""
    return tuple(
        TrialRow(
            student=result.trial.candidate.entry.student,
            method=result.trial.candidate.entry.method,
            teacher=result.trial.candidate.entry.teacher,
            learning_rate=result.trial.candidate.learning_rate,
            seed=result.trial.seed,
            state=result.state,
            score=result.score,
            best_step=result.best_step,
            duration_s=round(result.duration_s, 3),
            reason=result.reason,
            sha256=result.student_sha256,
        )
        for result in results
    )


def factor_effects(folder: StudyFolder, results: Sequence[TrialResult]) -> tuple[tuple[Effect, ...], tuple[int, ...]]:
    """Gives the effect of each factor on validation, from all finished trials, and the seeds they are from."""
    known = [
        FactorScore(factors=_factors(folder, result), seed=result.trial.seed, score=result.score)
        for result in results
        if result.state == "finished" and result.score is not None
    ]
    return effects(known, folder.conditions.student_train.metric), tuple(sorted({one.seed for one in known}))


def _factors(folder: StudyFolder, result: TrialResult) -> dict[str, str]:
    entry, method = result.trial.candidate.entry, folder.space.method(result.trial.candidate.entry.method)
    found = {
        "method": method.kind,
        "student": entry.student,
        "learning rate": f"{result.trial.candidate.learning_rate:g}",
    }
    if method.level:
        found["level"] = method.level
    if entry.teacher is not None:
        found["teacher"] = entry.teacher
    return found
