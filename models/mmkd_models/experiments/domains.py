"""Comparisons that leave out a domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from mmkd_documents.demo import LABELS_ONLY
from mmkd_documents.figures import MODEL_NAMES, Interval, Measure
from mmkd_documents.judging import STUDENT, TEACHER, DomainFigures, ShiftFacts
from mmkd_models.data.checking.related import refuse_shared_samples
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.folds import Labelled, LeftOutDomains, find_domains, fold_without, shared_groups
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.experiments.experiment import Experiment, ResultTable, run
from mmkd_models.experiments.plan import Conditions
from mmkd_models.experiments.runs import Progress
from mmkd_models.metrics.scores import gain_metric

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for a 95 % interval with 1 to 9 degrees of freedom: NIST/SEMATECH e-Handbook, section 1.3.6.7.2."""
_RIVALS: tuple[RivalName, ...] = ("extra_trees", "mini_rocket")


def domain_of(conditions: Conditions) -> str:
    """Return the metadata whose values are the domains, or `group`."""
    return (conditions.left_out and conditions.left_out.by) or "group"


def shift_seeds(dataset: Dataset, conditions: Conditions) -> range:
    """Return a seed for each domain. Raise UsageError for an impossible fold, DatasetError for shared samples."""
    windows, by = dataset.everything(), domain_of(conditions)
    refuse_shared_samples(windows)
    seeds = range(len(find_domains(windows, by).names))
    for number in seeds:
        fold_without(windows, LeftOutDomains(by=by), fold=number)
    return seeds


def judge_shift(
    experiment: Experiment,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ShiftFacts:
    """Train all models without each domain, and judge them on it."""
    plan, conditions = experiment.plan, experiment.plan.conditions
    windows, by = experiment.dataset.everything(), domain_of(conditions)
    domains, seeds = find_domains(windows, by), plan.seeds
    if not all(run.is_done() for run in experiment.phases()[-1]):
        named = (f"seed {seed} without {by} {domains.names[seed]}" for seed in seeds)
        say(f"shift: {', '.join(named)}")
    table = run(experiment, progress=progress)
    measure = gain_metric(table.spec.task, conditions.student_train.metric)
    by_fold = [dict(_figures(table, seed, measure)) for seed in seeds]
    everywhere = [name for name in by_fold[0] if all(name in fold for fold in by_fold)]
    figures = {name: [fold[name] for fold in by_fold] for name in everywhere}

    def gain(model: str, other: str) -> Interval:
        pairs = zip(figures[model], figures[other], strict=True)
        return mean_over_domains([measure.gain_scale * (first - second) for first, second in pairs])

    return ShiftFacts(
        by=by,
        sensor=plan.sensors[0],
        teacher=plan.teacher.preset,
        student=plan.student.student,
        labels=_labels_in_words(conditions.labelled),
        steps=(conditions.teacher_train.steps, conditions.student_train.steps),
        measure=measure,
        domains=tuple(
            DomainFigures(
                name=name,
                windows=table.folds[seed].windows["test"],
                shared_groups=shared_groups(windows, fold_without(windows, LeftOutDomains(by=by), fold=seed)),
                figures=by_fold[seed],
            )
            for seed, name in enumerate(domains.names)
        ),
        models={name: _within(mean_over_domains(values), measure) for name, values in figures.items()},
        worst={
            name: domains.names[min(seeds, key=lambda seed: measure.rank(values[seed]))]
            for name, values in figures.items()
        },
        gains={name: gain(STUDENT, name) for name in figures if name != STUDENT},
        teacher_gain=gain(TEACHER, LABELS_ONLY),
        absent={
            MODEL_NAMES[rival]: reason
            for rival, judged in table.rivals[plan.sensors[0]].items()
            for reason in judged.values()
            if rival in _RIVALS and isinstance(reason, str)
        },
        unknown=int((domains.numbers < 0).sum()),
        has_groups=windows.has_groups,
    )


def mean_over_domains(values: Sequence[float]) -> Interval:
    """Return mean and 95 % interval over at most ten domains, by Student's t: a bootstrap is too narrow."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean=mean)
    reach = _T_975[len(values) - 2] * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Interval(mean=mean, low=mean - reach, high=mean + reach)


def _within(spread: Interval, measure: Measure) -> Interval:
    if spread.low is None or spread.high is None:
        return spread
    low, high = max(spread.low, measure.floor), min(spread.high, measure.ceiling)
    return msgspec.structs.replace(spread, low=low, high=high)


def _figures(table: ResultTable, seed: int, measure: Measure) -> Iterator[tuple[str, float]]:
    plan, sensor = table.plan, table.plan.sensors[0]
    students, rivals = table.students[sensor], table.rivals[sensor]
    models = {TEACHER: table.teachers[plan.teacher.name], STUDENT: students[plan.student]}
    models |= {LABELS_ONLY: students[plan.baseline]}
    for name, by_seed in {**models, **{MODEL_NAMES[rival]: rivals[rival] for rival in _RIVALS}}.items():
        if not isinstance(judged := by_seed[seed], str):
            yield name, judged.test.scores.metric(measure.name)


def _labels_in_words(labelled: Labelled) -> str:
    if labelled.groups is not None:
        return f"{labelled.groups} groups labelled"
    return "all windows labelled" if labelled.is_all else f"{labelled.fraction:.0%} of the windows labelled"
