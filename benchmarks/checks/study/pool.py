"""Pool studies of several sets, as Markdown: the gain of each method over all of them, then a table for each sensor.

Reads results alone, no dataset and no checkpoint, so results of other machines count too. Validation chose the learning
rates; no test score chooses anything here.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import msgspec
import numpy as np

from checks.script import row
from checks.study.files import SeedResults, SizeResults
from mmkd_documents.figures import Interval
from mmkd_documents.study import NONE
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
from mmkd_models.metrics.scores import Metric
from mmkd_models.networks.config import Preset
from mmkd_models.training.checkpoint import library_versions

ALL_MODALITIES = "all"
OUTPUTS = "logit"
"""The method that learns from the teacher's outputs alone, which every further term must beat."""
METRICS: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "macro_f1")
NEAR_BEST = 0.005  # fraction below the best validation score that a smaller teacher may lie
RIVAL_NAMES = {"extra_trees": "extra-trees", "mini_rocket": "MiniRocket"}
_SIZE = re.compile(":" + "|:".join(get_args(Preset)))
_Key = TypeVar("_Key", bound=Hashable)
_Tests = Mapping[int, TestedNetwork]


@dataclass(frozen=True, kw_only=True)
class TestedModel:
    """A model's tests and validation scores by seed, with the learning rate that validated best."""

    tests: dict[int, TestedNetwork]
    valid: dict[int, float]
    parameters: int

    def shared(self, other: _Tests) -> tuple[list[TestedNetwork], list[TestedNetwork]]:
        """Return the tests of both on the seeds that both have."""
        seeds = [seed for seed in self.tests if seed in other]
        return [self.tests[seed] for seed in seeds], [other[seed] for seed in seeds]


@dataclass(frozen=True, kw_only=True)
class StudentRow:
    """A student of one sensor's table, on the seeds that labels only has too.

    Attributes:
        pair: the teacher's name with `all` for all modalities of the set.
        gain: over labels only, and `over_trees` over extra-trees, in points; None without such seeds.
        gap: fraction of the gap between labels only and the teacher; None if the gap's interval includes 0.
    """

    entry: Entry
    pair: str
    tests: Sequence[TestedNetwork]
    valid_gain: float
    gain: Interval | None
    over_trees: Interval | None
    gap: float | None
    parameters: int


@dataclass(frozen=True, kw_only=True)
class SensorTable:
    """The results of one sensor of one set with one choice of labels."""

    seeds: Sequence[SeedResults]
    teachers: dict[str, TestedModel]
    rivals: dict[str, TestedModel]
    students: dict[Entry, TestedModel]
    rows: tuple[StudentRow, ...]
    sizes: SizeResults | None

    @property
    def dataset(self) -> str:
        """The set's name."""
        return self.seeds[0].dataset.name

    @property
    def modality(self) -> str:
        """The sensor."""
        return self.seeds[0].conditions.modality

    @property
    def layout(self) -> tuple[float, bool]:
        """The label fraction, and whether whole groups were labelled."""
        labelled = self.seeds[0].conditions.labelled
        return labelled.fraction, bool(labelled.groups)


@dataclass(frozen=True, kw_only=True)
class PooledRow:
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
    layout: tuple[float, bool]
    sets: tuple[str, ...]
    folds: int
    gain: Interval
    over_outputs: Interval | None
    below_baseline: tuple[str, ...]
    below_extra_trees: tuple[str, ...]
    valid_gain: float


@dataclass(frozen=True, kw_only=True)
class DistillationResults:
    """A table for each sensor and choice of labels, and the pooled gains."""

    metric: Metric
    tables: tuple[SensorTable, ...]
    pooled: tuple[PooledRow, ...]


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
    tables = tuple(
        _table(group, metric, sizes.get((dataset, conditions.modality)))
        for (dataset, conditions), group in groups.items()
    )
    keys = dict.fromkeys(_pool_key(row, table) for table in tables for row in table.rows if row.gain is not None)
    pooled = [_pooled_row(key, tables, metric) for key in keys]
    pooled.sort(key=lambda row: (row.layout[1], -row.layout[0], -len(row.sets), -row.folds, -row.gain.mean))
    return DistillationResults(metric=metric, tables=tables, pooled=tuple(pooled))


def _table(group: Sequence[SeedResults], metric: Metric, sizes: SizeResults | None) -> SensorTable:
    judged = [(results, one) for results in group for one in (*results.teachers, *results.trials, *results.rivals)]
    teachers = _by_key((one.result.teacher.name, results, one) for results, one in judged if one.result.teacher)
    rivals = _by_key((str(one.result.rival), results, one) for results, one in judged if one.result.rival)
    trials = _by_key((one.result.trial.candidate.entry, results, one) for results, one in judged if one.result.trial)
    students = dict(sorted(trials.items()))
    trees = rivals["extra_trees"].tests if "extra_trees" in rivals else {}
    modalities = "+".join(group[0].dataset.modalities)
    rows = []
    for entry, student in students.items():
        alone = students.get(_alone(entry))
        seeds = [] if entry.method == NONE or alone is None else [seed for seed in student.tests if seed in alone.tests]
        tests = {seed: student.tests[seed] for seed in seeds or student.tests}
        own = TestedModel(tests=tests, valid=student.valid, parameters=student.parameters)
        gap, teacher = None, teachers.get(entry.teacher or "")
        if alone is not None and teacher is not None and (both := [seed for seed in seeds if seed in teacher.tests]):
            ours, base, top = ([one.tests[seed] for seed in both] for one in (own, alone, teacher))
            gap = gap_recovered(ours, base, top, metric)
        rows.append(
            StudentRow(
                entry=entry,
                pair=(entry.teacher or "").replace(modalities, ALL_MODALITIES),
                tests=list(tests.values()),
                valid_gain=100 * float(np.mean([own.valid[seed] - alone.valid[seed] for seed in seeds]))
                if alone is not None and seeds
                else 0.0,
                gain=gain_over_seeds(*own.shared(alone.tests), metric) if alone is not None and seeds else None,
                over_trees=gain_over_seeds(*pair, metric) if (pair := own.shared(trees))[0] else None,
                gap=gap,
                parameters=own.parameters,
            )
        )
    rows.sort(key=lambda row: (row.entry.method != NONE, row.entry.student, -_mean(row.tests, "balanced_accuracy")))
    return SensorTable(seeds=group, teachers=teachers, rivals=rivals, students=students, rows=tuple(rows), sizes=sizes)


def _by_key(judged: Iterable[tuple[_Key, SeedResults, Judged]]) -> dict[_Key, TestedModel]:
    best: dict[_Key, dict[int, Judged]] = {}
    for key, results, one in judged:
        seeds = best.setdefault(key, {})
        if results.seed not in seeds or (one.result.score or 0.0) > (seeds[results.seed].result.score or 0.0):
            seeds[results.seed] = one
    return {
        key: TestedModel(
            tests={seed: one.test for seed, one in seeds.items()},
            valid={seed: one.result.score or 0.0 for seed, one in seeds.items()},
            parameters=next(iter(seeds.values())).result.parameters,
        )
        for key, seeds in best.items()
    }


def _alone(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, method=NONE, teacher=None)


def _mean(tests: Sequence[TestedNetwork], metric: Metric) -> float:
    return float(np.mean([test.scores.metric(metric) for test in tests]))


def _pool_key(row: StudentRow, table: SensorTable) -> tuple[str, str, str, tuple[float, bool]]:
    return row.entry.student, row.entry.method, _SIZE.sub("", row.pair), table.layout


def _pooled_row(
    key: tuple[str, str, str, tuple[float, bool]], tables: Sequence[SensorTable], metric: Metric
) -> PooledRow:
    student, method, pair, layout = key
    matches: list[tuple[SensorTable, StudentRow]] = []
    for table in tables:
        rows = [row for row in table.rows if row.gain is not None and _pool_key(row, table) == key]
        if rows:  # of teachers of several sizes the one whose student validates best
            matches.append((table, max(rows, key=lambda row: row.valid_gain)))
    sets, named = (
        [table.dataset for table, _ in matches],
        [(f"{one.dataset} {one.modality}", row) for one, row in matches],
    )
    over_alone = [(table, row.entry, _alone(row.entry)) for table, row in matches]
    outputs = [(table, own, msgspec.structs.replace(own, method=OUTPUTS)) for table, own, _ in over_alone]
    gain, folds = _pooled_gain(over_alone, metric)
    assert gain is not None  # a row of a table has a gain
    return PooledRow(
        student=student,
        method=method,
        pair=pair,
        layout=layout,
        sets=tuple(dict.fromkeys(sets)),
        folds=folds,
        gain=gain,
        over_outputs=None if method == OUTPUTS else _pooled_gain(outputs, metric)[0],
        below_baseline=tuple(
            name for name, row in named if row.gain and row.gain.high is not None and row.gain.high < 0
        ),
        below_extra_trees=tuple(name for name, row in named if row.over_trees is not None and row.over_trees.mean < 0),
        valid_gain=float(_over_sets(sets, [row.valid_gain for _, row in matches])),
    )


def _pooled_gain(compared: Iterable[tuple[SensorTable, Entry, Entry]], metric: Metric) -> tuple[Interval | None, int]:
    """Return the gain of one entry over another on the folds of both, and their number.

    It is the mean over sets of the mean over sensors; without an interval if a sensor has fewer than `MIN_GROUPS`.
    """
    pairs = [
        (table.dataset, *table.students[own].shared(table.students[other].tests))
        for table, own, other in compared
        if other in table.students
    ]
    pairs = [pair for pair in pairs if pair[1]]
    if not pairs:
        return None, 0
    sets = [dataset for dataset, _, _ in pairs]
    mean = float(_over_sets(sets, [np.mean(gain_per_seed(ours, theirs, metric)) for _, ours, theirs in pairs]))
    low, high = interval_of(_over_sets(sets, [gain_draws(ours, theirs, metric) for _, ours, theirs in pairs]))
    is_known = min(len(groups_tested(ours)) for _, ours, _ in pairs) >= MIN_GROUPS
    return Interval(mean=mean, **({"low": low, "high": high} if is_known else {})), sum(
        len(ours) for _, ours, _ in pairs
    )


def _over_sets(sets: Sequence[str], figures: Sequence[Any]) -> Any:
    """Return the mean over sets of the mean over a set's sensors, of numbers or arrays."""
    by_set: dict[str, list[Any]] = {}
    for dataset, figure in zip(sets, figures, strict=True):
        by_set.setdefault(dataset, []).append(figure)
    return np.nanmean([np.nanmean(own, axis=0) for own in by_set.values()], axis=0)


def results_page(results: DistillationResults) -> str:
    """Return the page below its introduction."""
    lines: list[str] = []
    for layout in dict.fromkeys(pooled.layout for pooled in results.pooled):
        lines += _pooled_section(results, layout)
    for table in results.tables:
        lines += _sensor_section(table)
    last = results.tables[-1].seeds[-1].conditions
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    steps = f"Students had {last.student_train.steps} steps, teachers {last.teacher_train.steps}."
    return "\n".join([*lines, f"{steps} Versions: {versions}."]) + "\n"


def _pooled_section(results: DistillationResults, layout: tuple[float, bool]) -> Iterator[str]:
    tables = [table for table in results.tables if table.layout == layout]
    labelled = "some whole groups" if layout[1] else f"{layout[0]:.0%}"
    sets = list(dict.fromkeys(table.dataset for table in tables))
    yield from (f"## Over the sets, {labelled} labelled", "")
    yield (
        f"Covered: {len(sets)} {'set' if len(sets) == 1 else 'sets'} ({', '.join(sets)}); sensors: {len(tables)}; "
        f"folds: {sum(len(table.seeds) for table in tables)}; trainings: {sum(map(_trainings, tables))}. "
        "Gains are points of balanced accuracy over labels only, paired by fold: the mean over sets of the mean over "
        "a set's sensors. Other folds are other people or machines: compare rows of the same coverage, or look at what "
        "each method is better by than outputs alone (`logit`) on the folds that both have. *Below labels only*: "
        "sensors where the whole interval is below 0. *Below extra-trees*: sensors where the student's mean is."
    )
    columns = ("gain, points (95 % interval)", "on validation", "over outputs alone, points")
    yield from (
        "",
        row("method", "sets", "folds", *columns, "below labels only", "below extra-trees"),
        "|---" * 8 + "|",
    )
    for one in (pooled for pooled in results.pooled if pooled.layout == layout):
        name = one.method if one.pair == ALL_MODALITIES else f"{one.method}, {one.pair}"
        gains = (_gain(one.gain), f"{one.valid_gain:+.1f}", _gain(one.over_outputs))
        below = (", ".join(names) or "none" for names in (one.below_baseline, one.below_extra_trees))
        yield row(name, len(one.sets), one.folds, *gains, *below)
    yield ""


def _trainings(table: SensorTable) -> int:
    return sum(results.trainings for results in table.seeds)


def _sensor_section(table: SensorTable) -> Iterator[str]:
    groups = table.seeds[0].conditions.labelled.groups
    labelled = f"{groups} groups" if groups else f"{table.layout[0]:.0%}"
    scores = ("accuracy, %", "balanced accuracy, %", "macro-F1, %")
    gains = ("gain, points (95 % interval)", "over extra-trees, points", "gap recovered")
    yield from (f"## {table.dataset}, {table.modality}, {labelled} labelled", "")
    yield from (row("model", "folds", *scores, *gains, "parameters"), "|---" * 9 + "|")
    models = [(f"teacher {name}", model, f"{model.parameters:,}") for name, model in table.teachers.items()]
    models += [(RIVAL_NAMES.get(name, name), model, "") for name, model in table.rivals.items()]
    for name, model, size in models:
        yield f"| {name} | {len(model.tests)} | {_scores(model.tests.values())} | | | | {size} |"
    has_pairs = len({one.pair for one in table.rows if one.pair}) > 1
    for one in table.rows:
        method = "labels only" if one.entry.method == NONE else one.entry.method + f", {one.pair}" * has_pairs
        gap = "" if one.gap is None else f"{one.gap:.0%}"
        figures = (_scores(one.tests), _gain(one.gain), _gain(one.over_trees), gap, f"{one.parameters:,}")
        yield row(f"{one.entry.student}, {method}", len(one.tests), *figures)
    yield from ("", *_notes(table), "")


def _notes(table: SensorTable) -> Iterator[str]:
    taught = dict.fromkeys(one.entry.teacher for one in table.rows if one.entry.teacher is not None)
    by = f" Teaching: {', '.join(taught)}." if taught else ""
    seeds = ", ".join(str(results.seed) for results in table.seeds)
    yield f"Coverage: folds {seeds}; {_trainings(table)} trainings.{by}"
    reference = _reference(table)
    if reference is None or not table.rows or not table.teachers[reference].parameters:
        return
    fewer = table.teachers[reference].parameters / min(one.parameters for one in table.rows)
    tried = "" if len(table.teachers) > 1 else ", the only one that was tried"
    yield (
        f"Teacher by the rule (the smallest within half a point of the best on validation{tried}): {reference}. "
        f"The smallest student has {fewer:.1f} times fewer parameters{_latency(table)}."
    )


def _reference(table: SensorTable) -> str | None:
    """Return the smallest teacher near the best, by validation on the seeds that all have."""
    common = set.intersection(*(set(one.valid) for one in table.teachers.values())) if table.teachers else set()
    if not common:
        return None
    scores = {name: np.mean([one.valid[seed] for seed in common]) for name, one in table.teachers.items()}
    near = [name for name, score in scores.items() if score >= max(scores.values()) - NEAR_BEST]
    return min(near, key=lambda name: (table.teachers[name].parameters, name))


def _latency(table: SensorTable) -> str:
    students = () if table.sizes is None else table.sizes.students
    latency = next((size.latency for size in students if size.latency is not None), None)
    if latency is None or table.sizes is None:
        return ""
    student, teacher = latency.student_ms["p50"], latency.teacher_ms["p50"]
    return (
        f" and answers {latency.ratio:.1f} times faster than {table.sizes.teacher} ({student:.3f} ms "
        f"against {teacher:.3f} ms, median, one thread, called in turn)"
    )


def _gain(gain: Interval | None) -> str:
    if gain is None:
        return ""
    interval = "" if gain.low is None or gain.high is None else f" ({gain.low:+.1f} to {gain.high:+.1f})"
    return f"{gain.mean:+.1f}{interval}"


def _scores(tests: Iterable[TestedNetwork]) -> str:
    figures = [spread([test.scores.metric(metric) for test in tests]) for metric in METRICS]
    return " | ".join(
        f"{100 * one.mean:.1f}" + ("" if one.std is None else f" ± {100 * one.std:.1f}") for one in figures
    )
