"""From the folds of a comparison to the document of `mmkd-demo --json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from mmkd_documents import demo
from mmkd_documents.figures import Measure, Spread
from mmkd_models.data.spec import DatasetSpec
from mmkd_models.data.windows import OF_GROUPS
from mmkd_models.evaluation import gains
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.experiments.comparison import FoldResult, SensorResult, groups_labelled
from mmkd_models.experiments.runs import Judged
from mmkd_models.metrics.scores import AnyScores, LabelScores, Scores, measures_of
from mmkd_models.networks.config import named

_INTERVAL = "95 % interval by resampling {} with replacement, the same draw for every sensor"


def demo_document(spec: DatasetSpec, sha256: str, folds: Sequence[FoldResult]) -> demo.DemoDocument:
    """Return the document; that of classification does not name its figures."""
    config, measures = folds[0].config, measures_of(spec.task)
    groups = groups_labelled(folds)
    document = demo.DemoDocument(
        format_version=1,
        dataset=_dataset(spec, sha256, folds),
        split=folds[0].split,
        label_fraction=None if groups else config.conditions.labelled.fraction,
        labelled_groups=groups,
        labels_spread_in_time=gains.leak_of([fold.spread_in_time for fold in folds], measures[0].name),
        seeds=tuple(fold.seed for fold in folds),
        teacher=_teacher(spec, folds, measures),
        students={name: _contest(name, folds, measures) for name in config.modalities},
        mean_gain_points=gain_over_folds(folds, config.modalities, measures[0]),
    )
    if spec.task.kind == "classification":
        return document
    metric = config.conditions.student_train.metric
    return msgspec.structs.replace(document, kind=spec.task.kind, metric=metric, measures=measures)


def gain_over_folds(folds: Sequence[FoldResult], modalities: Sequence[str], measure: Measure) -> demo.Gain:
    """Return the gain of students over baselines, over modalities and folds."""
    pairs = [
        ([fold.students[name].student.test for fold in folds], [fold.students[name].baseline.test for fold in folds])
        for name in modalities
    ]
    gained = "baseline's error minus student's" if measure.lower_is_better else "student minus baseline"
    split, gain = folds[0].split, gains.gain_of_pairs(pairs, measure.name)
    interval = _INTERVAL.format(split.resampled)
    if gain.low is None:
        interval = gains.interval_needs(split) + (", and more seeds test further ones" if split == OF_GROUPS else "")
    return msgspec.structs.replace(gain, method=f"mean over seeds of {gained}; {interval}")


def _dataset(spec: DatasetSpec, sha256: str, folds: Sequence[FoldResult]) -> demo.DemoDataset:
    return demo.DemoDataset(
        name=spec.name,
        source=spec.source,
        licence=spec.licence,
        sha256=sha256,
        windows=msgspec.convert(
            folds[0].windows | {"test": sum(fold.windows["test"] for fold in folds)}, demo.WindowCounts
        ),
        groups=folds[0].groups,
        labels=tuple(spec.task.labels),
        modalities=tuple(
            msgspec.convert(modality, demo.RecordedModality, from_attributes=True) for modality in spec.modalities
        ),
    )


def _teacher(spec: DatasetSpec, folds: Sequence[FoldResult], measures: Sequence[Measure]) -> demo.DemoTeacher:
    network = _network([fold.teacher for fold in folds], measures, preset=folds[0].config.teacher)
    subsets = tuple(
        demo.SubsetScore(
            modalities=tuple(names.split("+")),
            **{measures[0].name: gains.spread([fold.teacher.missing[names] for fold in folds])},
        )
        for names in folds[0].teacher.missing
    )
    return demo.DemoTeacher(
        **msgspec.structs.asdict(network) | {"modalities": tuple(modality.name for modality in spec.modalities)},
        missing=subsets,
        members=folds[0].config.teacher_members if len(folds[0].config.teacher_members) > 1 else (),
    )


def _contest(name: str, folds: Sequence[FoldResult], measures: Sequence[Measure]) -> demo.DemoSensor:
    results, first = [fold.students[name] for fold in folds], measures[0]
    student = [result.student.test for result in results]
    baseline = [result.baseline.test for result in results]
    teacher = [fold.teacher.test for fold in folds]
    rivals = {
        rival: _rival([result.rivals[rival] for result in results], student, measures) for rival in results[0].rivals
    }
    return demo.DemoSensor(
        baseline=_network([result.baseline for result in results], measures),
        student=_network([result.student for result in results], measures, preset=folds[0].config.student),
        extra_trees=rivals["extra_trees"],
        mini_rocket=rivals["mini_rocket"],
        rocket_and_trees=rivals.get("rocket_and_trees"),
        distilled_rocket=rivals.get("distilled_rocket"),
        gain_points=gain_over_folds(folds, (name,), first),
        over_teacher_points=gains.gain_of_pairs([(student, teacher)], first.name),
        gap_points=gains.gain_of_pairs([(teacher, baseline)], first.name),
        gap_recovered=gains.gap_recovered(student, baseline, teacher, first.name),
        parameters_ratio=folds[0].teacher.result.parameters / results[0].student.result.parameters,
        missing=_missing_samples(results),
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


def _missing_samples(results: Sequence[SensorResult]) -> demo.MissingSamples:
    def spreads(curves: Sequence[dict[str, float]]) -> tuple[Spread, ...]:
        return tuple(gains.spread([curve[share] for curve in curves]) for share in curves[0])

    return demo.MissingSamples(
        fractions=tuple(map(float, results[0].student.missing)),
        student=spreads([result.student.missing for result in results]),
        baseline=spreads([result.baseline.missing for result in results]),
    )
