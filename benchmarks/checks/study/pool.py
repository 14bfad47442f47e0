"""Pool the results of studies of several sets: a table for each sensor, and the gain of each method over all of them.

Reads results alone, no dataset and no checkpoint, so results of other machines count too. Validation chose the learning
rates; no test score chooses anything here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
import numpy as np

from checks.study.files import SeedResults, SizeResults
from mmkd_documents.figures import Spread
from mmkd_documents.study import NONE, ScoreTable, SeedGain
from mmkd_edge.errors import UsageError
from mmkd_models.evaluation.gains import (
    MIN_GROUPS,
    gain_draws,
    gain_over_seeds,
    gain_per_seed,
    gap_recovered,
    groups_tested,
    interval_of,
    spread,
)
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.experiments.plan import Conditions, Entry
from mmkd_models.experiments.runs import Judged
from mmkd_models.experiments.table import score_table
from mmkd_models.metrics.scores import Metric
from mmkd_models.networks.config import Preset
from mmkd_models.training.checkpoint import library_versions

ALL_MODALITIES = "all"
OUTPUTS = "logit"
"""The method that learns from the teacher's outputs alone, which every further term must beat."""
METRICS: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "macro_f1")
_SIZE = re.compile(":" + "|:".join(get_args(Preset)))

NEAR_BEST = 0.005  # fraction below the best validation score that a smaller teacher may lie


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher or a rival of one sensor's table.

    Attributes:
        is_reference: the smallest teacher within half a point of the best on validation, on the seeds that all have.
    """

    name: str
    seeds: tuple[int, ...]
    test: ScoreTable
    valid_score: Spread | None = None
    parameters: int | None = None
    is_reference: bool = False


class MethodRow(msgspec.Struct, frozen=True, kw_only=True):
    """A student of one sensor's table.

    Attributes:
        pair: the teacher's name with `all` for all modalities of the set.
        seeds: those that labels only has too.
        learning_rates: chosen by validation, for each seed.
        gain_points: by metric, over labels only on the same seeds.
        over_extra_trees: by metric.
        gap_recovered: fraction of the gap between labels only and the teacher; None if the gap's interval includes 0.
    """

    student: str
    method: str
    teacher: str | None
    pair: str | None
    seeds: tuple[int, ...]
    groups: int
    learning_rates: tuple[float, ...]
    valid_gain_points: float | None
    test: ScoreTable
    gain_points: dict[str, SeedGain] | None
    over_extra_trees: dict[str, SeedGain] | None
    gap_recovered: float | None
    parameters: int


class SensorTable(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one sensor of one set with one label fraction; `latency` is that of `latency_teacher`."""

    dataset: str
    modality: str
    label_fraction: float
    labelled_groups: int | msgspec.UnsetType = msgspec.UNSET
    seeds: tuple[int, ...]
    trainings: int
    teachers: tuple[ModelRow, ...]
    rivals: tuple[ModelRow, ...]
    students: tuple[MethodRow, ...]
    fewer_parameters: float | None
    latency_teacher: str | None
    latency: dict[str, Any] | None


class PooledGain(msgspec.Struct, frozen=True, kw_only=True):
    """The gain of one method over another on folds that both have: the mean over sets of the mean over sensors.

    `low` and `high` are its 95 % interval, None if a sensor has fewer than `MIN_GROUPS` groups.
    """

    mean: float
    low: float | None
    high: float | None
    folds: int


class PooledRow(msgspec.Struct, frozen=True, kw_only=True):
    """A method over all sets that have it.

    Attributes:
        pair: its teacher's modalities, `all` for all of a set, and how it was made, without the size.
        folds: seeds, summed over sensors.
        over_outputs: gain over the teacher's outputs alone, from the same teachers.
        below_baseline: sensors where the whole interval is below 0.
        below_extra_trees: sensors where the student's mean is below that of extra-trees.
        valid_gain: mean over sets of the gain on validation, by which recipes are chosen.
    """

    student: str
    method: str
    pair: str
    label_fraction: float
    whole_groups: bool | msgspec.UnsetType = msgspec.UNSET
    sets: tuple[str, ...]
    folds: int
    gain: PooledGain
    over_outputs: PooledGain | None
    below_baseline: tuple[str, ...]
    below_extra_trees: tuple[str, ...]
    valid_gain: float


class DistillationResults(msgspec.Struct, frozen=True, kw_only=True):
    """The document: a table for each sensor and label fraction, and the pooled gains."""

    metric: Metric
    student_steps: int
    teacher_steps: int
    tables: tuple[SensorTable, ...]
    pooled: tuple[PooledRow, ...]
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """An entry with its test on every seed, by the learning rate that validated best."""

    entry: Entry
    tests: dict[int, TestedNetwork]
    valid: dict[int, float]
    rates: dict[int, float]
    parameters: int


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The tests of two entries of one set, on the seeds that both have."""

    dataset: str
    ours: list[TestedNetwork]
    theirs: list[TestedNetwork]


def pooled_results(results: Sequence[SeedResults], sizes: Mapping[tuple[str, str], SizeResults]) -> DistillationResults:
    """Return tables and pooled gains of all results of classification; other errors have units, and no mean.

    Raises:
        UsageError: there is no result of classification.
    """
    results = [result for result in results if result.dataset.kind == "classification"]
    if not results:
        raise UsageError("results: expected some of a task with classes, got none; run a study of one first")
    groups: dict[tuple[str, Conditions], list[SeedResults]] = {}
    for result in results:
        groups.setdefault((result.dataset.name, result.conditions), []).append(result)
    metric = next(name for name in METRICS if name == results[0].conditions.student_train.metric)
    tables, tested = [], []
    for (dataset, conditions), group in groups.items():
        entries = _choose_tested(group)
        tables.append(_table(group, entries, metric, sizes.get((dataset, conditions.modality))))
        tested.append(entries)
    last = results[-1]
    return DistillationResults(
        metric=metric,
        student_steps=last.conditions.student_train.steps,
        teacher_steps=last.conditions.teacher_train.steps,
        tables=tuple(tables),
        pooled=_pool_rows(tables, tested, metric),
        versions=library_versions(),
    )


def _choose_tested(group: Sequence[SeedResults]) -> dict[Entry, _Tested]:
    best: dict[tuple[Entry, int], tuple[float, float, Judged]] = {}  # validation score, learning rate
    for results in group:
        for judged in results.trials:
            trial, score = judged.result.trial, judged.result.score
            assert trial is not None
            assert score is not None  # it is finished
            key, rate = (trial.candidate.entry, results.seed), trial.candidate.learning_rate
            if key not in best or score > best[key][0]:
                best[key] = score, rate, judged
    tested: dict[Entry, _Tested] = {}
    for (entry, seed), (score, rate, judged) in sorted(best.items(), key=lambda item: item[0]):
        parameters = judged.result.parameters
        row = tested.setdefault(entry, _Tested(entry=entry, tests={}, valid={}, rates={}, parameters=parameters))
        row.tests[seed], row.valid[seed], row.rates[seed] = judged.test, score, rate
    return tested


def _table(
    group: Sequence[SeedResults], tested: Mapping[Entry, _Tested], metric: Metric, sizes: SizeResults | None
) -> SensorTable:
    first = group[0]
    teachers = _teacher_rows(group)
    judged: dict[str, dict[int, TestedNetwork]] = {}
    for results in group:
        for teacher in results.teachers:
            judged.setdefault(_teacher_name(teacher), {})[results.seed] = teacher.test
    rivals = [(results.seed, rival) for results in group for rival in results.rivals]
    trees = {seed: rival.test for seed, rival in rivals if rival.result.rival == "extra_trees"}
    students = [
        _method_row(student, _alone(tested, student.entry), judged, trees, first.dataset.modalities, metric)
        for student in tested.values()
    ]
    reference = next((row for row in teachers if row.is_reference), None)
    smallest = min((row.parameters for row in students), default=None)
    measured = None if sizes is None else next((size for size in sizes.students if size.latency is not None), None)
    return SensorTable(
        dataset=first.dataset.name,
        modality=first.conditions.modality,
        label_fraction=first.conditions.labelled.fraction,
        labelled_groups=first.conditions.labelled.groups or msgspec.UNSET,
        seeds=tuple(results.seed for results in group),
        trainings=sum(results.trainings for results in group),
        teachers=teachers,
        rivals=_rival_rows(group),
        students=tuple(
            sorted(students, key=lambda row: (row.method != NONE, row.student, -row.test["balanced_accuracy"].mean))
        ),
        fewer_parameters=reference.parameters / smallest
        if reference is not None and reference.parameters and smallest
        else None,
        latency_teacher=None if measured is None or sizes is None else sizes.teacher,
        latency=None if measured is None else msgspec.to_builtins(measured.latency),
    )


def _alone(tested: Mapping[Entry, _Tested], entry: Entry) -> _Tested | None:
    return tested.get(Entry(student=entry.student, method=NONE, teacher=None))


def _teacher_name(judged: Judged) -> str:
    assert judged.result.teacher is not None
    return judged.result.teacher.name


def _teacher_rows(group: Sequence[SeedResults]) -> tuple[ModelRow, ...]:
    by_name: dict[str, dict[int, Judged]] = {}
    for results in group:
        for judged in results.teachers:
            by_name.setdefault(_teacher_name(judged), {})[results.seed] = judged
    rows = [
        ModelRow(
            name=name,
            seeds=tuple(judged),
            test=score_table([teacher.test.scores for teacher in judged.values()]),
            valid_score=spread([teacher.result.score or 0.0 for teacher in judged.values()]),
            parameters=next(iter(judged.values())).result.parameters,
        )
        for name, judged in by_name.items()
    ]
    reference = _reference(rows)
    return tuple(msgspec.structs.replace(row, is_reference=row.name == reference) for row in rows)


def _reference(rows: Sequence[ModelRow]) -> str | None:
    """Return the smallest teacher near the best, by validation on the seeds that all have."""
    common = set.intersection(*(set(row.seeds) for row in rows)) if rows else set()
    if not common:
        return None
    ranked = []
    for row in rows:
        assert row.valid_score is not None  # teachers have it
        scores = [score for seed, score in zip(row.seeds, row.valid_score.per_seed, strict=True) if seed in common]
        ranked.append((row.parameters or 0, row.name, float(np.mean(scores))))
    best = max(score for _, _, score in ranked)
    return next(name for _, name, score in sorted(ranked) if score >= best - NEAR_BEST)


def _rival_rows(group: Sequence[SeedResults]) -> tuple[ModelRow, ...]:
    tests: dict[str, dict[int, TestedNetwork]] = {}
    for results in group:
        for judged in results.rivals:
            tests.setdefault(judged.result.rival or "", {})[results.seed] = judged.test
    return tuple(
        ModelRow(name=name, seeds=tuple(own), test=score_table([outcome.scores for outcome in own.values()]))
        for name, own in tests.items()
    )


def _method_row(
    one: _Tested,
    alone: _Tested | None,
    teachers: Mapping[str, Mapping[int, TestedNetwork]],
    trees: Mapping[int, TestedNetwork],
    modalities: Sequence[str],
    metric: Metric,
) -> MethodRow:
    entry = one.entry
    other = one if alone is None else alone
    seeds = tuple(seed for seed in one.tests if seed in other.tests)
    is_distilled = entry.method != NONE and alone is not None and bool(seeds)
    seeds = seeds if is_distilled else tuple(one.tests)
    with_trees = [seed for seed in seeds if seed in trees]
    return MethodRow(
        student=entry.student,
        method=entry.method,
        teacher=entry.teacher,
        pair=None if entry.teacher is None else entry.teacher.replace("+".join(modalities), ALL_MODALITIES),
        seeds=seeds,
        groups=len(groups_tested(one.tests[seed] for seed in seeds)),
        learning_rates=tuple(one.rates[seed] for seed in seeds),
        valid_gain_points=100 * float(np.mean([one.valid[seed] - other.valid[seed] for seed in seeds]))
        if is_distilled
        else None,
        test=score_table([one.tests[seed].scores for seed in seeds]),
        gain_points=_gains(one.tests, other.tests, seeds) if is_distilled else None,
        over_extra_trees=_gains(one.tests, trees, with_trees) if with_trees else None,
        gap_recovered=_gap(one, other, teachers.get(entry.teacher or "", {}), seeds, metric) if is_distilled else None,
        parameters=one.parameters,
    )


def _gains(
    ours: Mapping[int, TestedNetwork], theirs: Mapping[int, TestedNetwork], seeds: Sequence[int]
) -> dict[str, SeedGain]:
    return {
        metric: gain_over_seeds([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], metric)
        for metric in METRICS
    }


def _gap(
    one: _Tested, alone: _Tested, teacher: Mapping[int, TestedNetwork], seeds: Sequence[int], metric: Metric
) -> float | None:
    both = [seed for seed in seeds if seed in teacher]
    if not both:
        return None
    own, base, top = ([tests[seed] for seed in both] for tests in (one.tests, alone.tests, teacher))
    return gap_recovered(own, base, top, metric)


def _pool_rows(
    tables: Sequence[SensorTable], tested: Sequence[Mapping[Entry, _Tested]], metric: Metric
) -> tuple[PooledRow, ...]:
    keys = dict.fromkeys(
        (row.student, row.method, _pair_without_size(row), _layout(table))
        for table in tables
        for row in table.students
        if row.gain_points is not None
    )
    rows = [_pooled_row(key, tables, tested, metric) for key in keys]
    return tuple(
        sorted(
            rows,
            key=lambda row: (bool(row.whole_groups), -row.label_fraction, -len(row.sets), -row.folds, -row.gain.mean),
        )
    )


def _layout(table: SensorTable) -> tuple[float, bool]:
    """Return the label fraction, and whether whole groups were labelled."""
    return table.label_fraction, bool(table.labelled_groups)


def _pair_without_size(row: MethodRow) -> str:
    return _SIZE.sub("", row.pair or "")


def _find_row(key: tuple[str, str, str, tuple[float, bool]], table: SensorTable) -> MethodRow | None:
    """Return the table's row; of teachers of several sizes the one whose student validates best."""
    rows = [
        row
        for row in table.students
        if (row.student, row.method, _pair_without_size(row), _layout(table)) == key and row.gain_points is not None
    ]
    return max(rows, key=lambda row: row.valid_gain_points or 0.0, default=None)


def _pooled_row(
    key: tuple[str, str, str, tuple[float, bool]],
    tables: Sequence[SensorTable],
    tested: Sequence[Mapping[Entry, _Tested]],
    metric: Metric,
) -> PooledRow:
    student, method, pair, (label_fraction, whole_groups) = key
    matches: list[tuple[SensorTable, MethodRow]] = []
    over_alone, over_outputs = [], []
    for table, entries in zip(tables, tested, strict=True):
        row = _find_row(key, table)
        if row is None:
            continue
        matches.append((table, row))
        own = next(key for key in entries if (key.student, key.method, key.teacher) == (student, method, row.teacher))
        over_alone.append(_pair(table, entries, own, msgspec.structs.replace(own, method=NONE, teacher=None)))
        outputs = msgspec.structs.replace(own, method=OUTPUTS)
        if method != OUTPUTS and outputs in entries:
            over_outputs.append(_pair(table, entries, own, outputs))
    gain = _pooled_gain(over_alone, metric)
    assert gain is not None  # a row of a table has a gain
    named = [(f"{table.dataset} {table.modality}", row) for table, row in matches]
    return PooledRow(
        student=student,
        method=method,
        pair=pair,
        label_fraction=label_fraction,
        whole_groups=whole_groups or msgspec.UNSET,
        sets=tuple(dict.fromkeys(table.dataset for table, _ in matches)),
        folds=gain.folds,
        gain=gain,
        over_outputs=_pooled_gain(over_outputs, metric),
        below_baseline=tuple(name for name, row in named if _is_worse((row.gain_points or {})[metric])),
        below_extra_trees=tuple(
            name for name, row in named if row.over_extra_trees is not None and row.over_extra_trees[metric].mean < 0
        ),
        valid_gain=float(
            _over_sets([table.dataset for table, _ in matches], [row.valid_gain_points or 0.0 for _, row in matches])
        ),
    )


def _is_worse(gain: SeedGain) -> bool:
    return gain.high is not None and gain.high < 0


def _pair(table: SensorTable, entries: Mapping[Entry, _Tested], own: Entry, other: Entry) -> _Pair:
    ours, theirs = entries[own].tests, entries[other].tests
    seeds = [seed for seed in ours if seed in theirs]
    return _Pair(dataset=table.dataset, ours=[ours[seed] for seed in seeds], theirs=[theirs[seed] for seed in seeds])


def _pooled_gain(pairs: Sequence[_Pair], metric: Metric) -> PooledGain | None:
    pairs = [pair for pair in pairs if pair.ours]
    if not pairs:
        return None
    sets = [pair.dataset for pair in pairs]
    means = [np.mean(gain_per_seed(pair.ours, pair.theirs, metric)) for pair in pairs]
    drawn = [gain_draws(pair.ours, pair.theirs, metric) for pair in pairs]
    low, high = interval_of(_over_sets(sets, drawn))
    is_known = min(len(groups_tested(pair.ours)) for pair in pairs) >= MIN_GROUPS
    return PooledGain(
        mean=float(_over_sets(sets, means)),
        low=low if is_known else None,
        high=high if is_known else None,
        folds=sum(len(pair.ours) for pair in pairs),
    )


def _over_sets(sets: Sequence[str], figures: Sequence[Any]) -> Any:
    """Return the mean over sets of the mean over a set's sensors, of numbers or arrays."""
    by_set: dict[str, list[Any]] = {}
    for dataset, figure in zip(sets, figures, strict=True):
        by_set.setdefault(dataset, []).append(figure)
    return np.nanmean([np.nanmean(own, axis=0) for own in by_set.values()], axis=0)
