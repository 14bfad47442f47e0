"""From the table of a comparison to the document of `mmkd-demo --json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from mmkd_documents import demo
from mmkd_documents.figures import Measure, Spread
from mmkd_models.data.windows import OF_GROUPS
from mmkd_models.evaluation import gains
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.experiments.experiment import ResultTable, tests_of
from mmkd_models.experiments.runs import Judged
from mmkd_models.metrics.scores import AnyScores, LabelScores, Scores, measures_of
from mmkd_models.networks.config import named

_INTERVAL = "95 % interval by resampling {} with replacement, the same draw for every sensor"


def demo_document(table: ResultTable) -> demo.DemoDocument:
    """Return the document; that of classification does not name its figures."""
    task, measures = table.spec.task, measures_of(table.spec.task)
    document = demo.DemoDocument(
        format_version=1,
        dataset=_dataset(table),
        split=table.split,
        label_fraction=table.label_fraction,
        labelled_groups=table.labelled_groups,
        labels_spread_in_time=gains.leak_of([fold.spread_in_time for fold in table.folds.values()], measures[0].name),
        seeds=table.plan.seeds,
        teacher=_teacher(table, measures),
        students={name: _sensor(table, name, measures) for name in table.plan.sensors},
        mean_gain_points=mean_gain(table, table.plan.sensors, measures[0]),
    )
    if task.kind == "classification":
        return document
    metric = table.plan.conditions.student_train.metric
    return msgspec.structs.replace(document, kind=task.kind, metric=metric, measures=measures)


def mean_gain(table: ResultTable, sensors: Sequence[str], measure: Measure) -> demo.Gain:
    """Return the gain of students over baselines, over sensors and folds."""
    pairs = [(tests_of(table.student(name)), tests_of(table.baseline(name))) for name in sensors]
    gained = "baseline's error minus student's" if measure.lower_is_better else "student minus baseline"
    split, gain = table.split, gains.gain_of_pairs(pairs, measure.name)
    interval = _INTERVAL.format(split.resampled)
    if gain.low is None:
        interval = gains.interval_needs(split) + (", and more seeds test further ones" if split == OF_GROUPS else "")
    return msgspec.structs.replace(gain, method=f"mean over seeds of {gained}; {interval}")


def _dataset(table: ResultTable) -> demo.DemoDataset:
    spec, folds = table.spec, list(table.folds.values())
    return demo.DemoDataset(
        name=spec.name,
        source=spec.source,
        licence=spec.licence,
        sha256=table.sha256,
        windows=msgspec.convert(
            {**folds[0].windows, "test": sum(fold.windows["test"] for fold in folds)}, demo.WindowCounts
        ),
        groups=folds[0].groups,
        labels=tuple(spec.task.labels),
        modalities=tuple(
            msgspec.convert(modality, demo.RecordedModality, from_attributes=True) for modality in spec.modalities
        ),
    )


def _teacher(table: ResultTable, measures: Sequence[Measure]) -> demo.DemoTeacher:
    choice, judged = table.plan.teacher, table.teacher()
    network = _network(judged, measures, preset=choice.preset)
    subsets = tuple(
        demo.SubsetScore(
            modalities=tuple(names.split("+")),
            **{measures[0].name: gains.spread([each.missing[names] for each in judged])},
        )
        for names in judged[0].missing
    )
    return demo.DemoTeacher(
        **msgspec.structs.asdict(network) | {"modalities": choice.modalities},
        missing=subsets,
        members=choice.committee,
    )


def _sensor(table: ResultTable, name: str, measures: Sequence[Measure]) -> demo.DemoSensor:
    judged = table.student(name), table.baseline(name), table.teacher()
    (student, baseline, teacher), first = map(tests_of, judged), measures[0]
    rivals = {rival: _rival(list(each.values()), student, measures) for rival, each in table.rivals[name].items()}
    return demo.DemoSensor(
        baseline=_network(judged[1], measures),
        student=_network(judged[0], measures, preset=table.plan.student.student),
        extra_trees=rivals["extra_trees"],
        mini_rocket=rivals["mini_rocket"],
        rocket_and_trees=rivals.get("rocket_and_trees"),
        distilled_rocket=rivals.get("distilled_rocket"),
        gain_points=mean_gain(table, (name,), first),
        over_teacher_points=gains.gain_of_pairs([(student, teacher)], first.name),
        gap_points=gains.gain_of_pairs([(teacher, baseline)], first.name),
        gap_recovered=gains.gap_recovered(student, baseline, teacher, first.name),
        parameters_ratio=judged[2][0].result.parameters / judged[0][0].result.parameters,
        missing=_missing_samples(*judged[:2]),
    )


def _network(judged: Sequence[Judged], measures: Sequence[Measure], preset: str | None = None) -> demo.Network:
    scores, results = [network.test.scores for network in judged], [network.result for network in judged]
    confusions = [score.confusion for score in scores if isinstance(score, Scores)]
    counts = [score.counts for score in scores if isinstance(score, LabelScores)]
    return demo.Network(
        **_figures(scores, measures),
        valid_score=gains.spread([result.score or 0.0 for result in results]),
        parameters=results[0].parameters,
        preset=preset,
        learning_rate=tuple(result.learning_rate for result in results),
        kinds=tuple(named(result.members) for result in results if result.members),
        shipped=tuple(result.shipped for result in results if result.shipped),
        chance=gains.compare_with_chance([network.test for network in judged], measures[0].name),
        confusion=msgspec.convert(np.sum(confusions, axis=0).tolist(), _Confusion) if confusions else None,
        counts=msgspec.convert(np.sum(counts, axis=0).tolist(), _Counts) if counts else None,
    )


_Confusion = tuple[tuple[int, ...], ...]
_Counts = tuple[tuple[int, int, int, int], ...]


def _figures(scores: Sequence[AnyScores], measures: Sequence[Measure]) -> dict[str, Any]:
    return {measure.name: gains.spread([score.metric(measure.name) for score in scores]) for measure in measures}


def _rival(
    results: Sequence[Judged | str], student: Sequence[TestedNetwork], measures: Sequence[Measure]
) -> demo.DemoRival:
    judged = [result for result in results if isinstance(result, Judged)]
    if len(judged) < len(results):
        reason = next(result for result in results if isinstance(result, str))
        return demo.DemoRival(**dict.fromkeys([measure.name for measure in measures]), reason=reason)
    tests = [rival.test for rival in judged]
    return demo.DemoRival(
        **_figures([test.scores for test in tests], measures),
        valid_score=gains.spread([rival.result.score or 0.0 for rival in judged]),
        chance=gains.compare_with_chance(tests, measures[0].name),
        student_gain_points=gains.gain_of_pairs([(student, tests)], measures[0].name),
    )


def _missing_samples(student: Sequence[Judged], baseline: Sequence[Judged]) -> demo.MissingSamples:
    def spreads(judged: Sequence[Judged]) -> tuple[Spread, ...]:
        return tuple(gains.spread([each.missing[fraction] for each in judged]) for fraction in judged[0].missing)

    return demo.MissingSamples(
        fractions=tuple(map(float, student[0].missing)), student=spreads(student), baseline=spreads(baseline)
    )
