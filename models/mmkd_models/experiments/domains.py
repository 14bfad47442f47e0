"""Comparisons that leave a domain out at a time, or the end of the campaign: what is trained, and what it says.

Owns the figures over domains. What is left out is `data.left_out`'s; training and its files are the comparison's: a
finished domain is a file, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from mmkd_models.data.checking.related import refuse_shared_samples
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.labelled import Labelled
from mmkd_models.data.left_out import Domains, LeftOutDomains, domains_of, fold_without, shared_groups
from mmkd_models.data.spec import DatasetSpec
from mmkd_models.evaluation.gains import gain_on_windows
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.experiments.comparison import Comparison, ComparisonConfig, FoldResult, compare
from mmkd_models.experiments.progress import Progress
from mmkd_models.experiments.runs import RivalResult
from mmkd_models.experiments.workers import Workers
from mmkd_models.metrics.measures import measures_of, told_by
from mmkd_report.schema.demo import LABELS_ONLY
from mmkd_report.schema.figures import CONTESTANTS, Measure
from mmkd_report.schema.judging import STUDENT, TEACHER, DomainFigures, DomainSpread, ShiftFacts, TimeFigures

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for a 95 % interval with 1 to 9 degrees of freedom: NIST/SEMATECH e-Handbook, section 1.3.6.7.2."""
_SEED = 0  # of intervals
_RIVALS: tuple[RivalName, ...] = ("extra_trees", "mini_rocket")


@dataclass(frozen=True, kw_only=True)
class ShiftOrder:
    """What is asked.

    Attributes:
        config: of every fold, of one sensor; its `left_out` is by metadata or the groups.
        out: folder that keeps what is trained.
        in_time: leave out the end of the campaign too.
        workers: trainings at a time, one thread each.
    """

    dataset: Dataset
    config: ComparisonConfig
    out: Path
    in_time: bool
    workers: int

    @property
    def by(self) -> str:
        """Whose values the domains are."""
        return (self.config.left_out and self.config.left_out.by) or "group"


def check_shift(order: ShiftOrder) -> None:
    """Check every fold, before anything is trained.

    Raises:
        UsageError: a fold is impossible.
        DatasetError: windows of different groups share samples, so that groups leak into one another.
    """
    windows = order.dataset.everything()
    refuse_shared_samples(windows)
    for number in range(len(domains_of(windows, order.by).names)):
        fold_without(windows, LeftOutDomains(by=order.by), fold=number)
    if order.in_time:
        fold_without(windows, LeftOutDomains(by=None), fold=0)


def judge_shift(
    order: ShiftOrder, *, progress: Progress | None = None, say: Callable[[str], None] = lambda line: None
) -> ShiftFacts:
    """Train teacher, labels only, student and rivals without each domain, and judge them on it.

    Figures are the same for any number of workers. The order is one that `check_shift` does not refuse.

    Raises:
        CheckpointError: a file in the folder is damaged.
        MmkdError: a worker died.
    """
    windows = order.dataset.everything()
    domains = domains_of(windows, order.by)
    comparison = Comparison(dataset=order.dataset, config=order.config, out=order.out)
    in_time = None
    if not all(comparison.result_path(seed).exists() for seed in range(len(domains.names))):
        folds_in_words = (f"seed {seed} without {order.by} {name}" for seed, name in enumerate(domains.names))
        say(f"shift: {', '.join(folds_in_words)}")
    with Workers(order.workers) as workers:
        folds = compare(comparison, range(len(domains.names)), workers, progress=progress)
        if order.in_time:
            config = msgspec.structs.replace(order.config, left_out=LeftOutDomains(by=None))
            (in_time,) = compare(replace(comparison, config=config), [0], workers, progress=progress)
    facts = facts_of_domains(order.dataset.spec, domains, folds, in_time, by=order.by, shared=_shared(order, domains))
    unknown = int((domains.of_window < 0).sum())
    return msgspec.structs.replace(facts, unknown=unknown, has_groups=windows.has_groups)


def _shared(order: ShiftOrder, domains: Domains) -> tuple[int, ...]:
    windows, left_out = order.dataset.everything(), LeftOutDomains(by=order.by)
    folds = (fold_without(windows, left_out, fold=number) for number in range(len(domains.names)))
    return tuple(shared_groups(windows, fold) for fold in folds)


def facts_of_domains(
    spec: DatasetSpec,
    domains: Domains,
    folds: Sequence[FoldResult],
    in_time: FoldResult | None,
    *,
    by: str,
    shared: Sequence[int],
) -> ShiftFacts:
    """Return what the folds say, one a domain; `shared` are the groups of each that are in training too."""
    config = folds[0].config
    measure = told_by(spec.task, config.student_train.metric)
    found = [dict(_figures(fold, measure)) for fold in folds]
    everywhere = [name for name in found[0] if all(name in one for one in found)]
    figures = {name: [one[name] for one in found] for name in everywhere}
    names = domains.names
    scale = measure.gain_scale

    def gain(ours: str, theirs: str) -> DomainSpread:
        return spread_of([scale * (a - b) for a, b in zip(figures[ours], figures[theirs], strict=True)])

    return ShiftFacts(
        by=by,
        sensor=config.modalities[0],
        teacher=config.teacher,
        student=config.student,
        labels=_labels_in_words(config.labelled),
        steps=(config.teacher_train.steps, config.student_train.steps),
        measure=measure,
        domains=tuple(
            DomainFigures(name=name, windows=fold.windows["test"], shared_groups=of, figures=one)
            for name, fold, one, of in zip(names, folds, found, shared, strict=True)
        ),
        models={name: _possible(spread_of(values), measure) for name, values in figures.items()},
        worst={
            name: names[min(range(len(values)), key=lambda row: measure.rank(values[row]))]
            for name, values in figures.items()
        },
        gains={name: gain(STUDENT, name) for name in figures if name != STUDENT},
        teacher_gain=gain(TEACHER, LABELS_ONLY),
        absent={name: one.reason for fold in folds for name, one in _rivals(fold) if one.reason},
        time=None if in_time is None else _in_time(spec, in_time),
    )


def spread_of(values: Sequence[float]) -> DomainSpread:
    """Return mean and 95 % interval over at most ten domains, by Student's t: a bootstrap of so few is too narrow.

    Example:
        >>> spread_of([1.0, 3.0])
        DomainSpread(mean=2.0, low=-10.706, high=14.706)
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return DomainSpread(mean=mean, low=None, high=None)
    reach = _T_975[len(values) - 2] * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return DomainSpread(mean=mean, low=mean - reach, high=mean + reach)


def _possible(one: DomainSpread, measure: Measure) -> DomainSpread:
    """The same with an interval that ends where the measure does."""
    if one.low is None or one.high is None:
        return one
    low, high = max(one.low, measure.floor), min(one.high, measure.ceiling)
    return msgspec.structs.replace(one, low=low, high=high)


def _figures(fold: FoldResult, measure: Measure) -> Iterator[tuple[str, float]]:
    """By contestant; rivals that could not be run are not among them."""
    (of_sensor,) = fold.students.values()
    yield TEACHER, fold.teacher.test.scores.metric(measure.name)
    yield STUDENT, of_sensor.student.test.scores.metric(measure.name)
    yield LABELS_ONLY, of_sensor.baseline.test.scores.metric(measure.name)
    for name, rival in _rivals(fold):
        if rival.test is not None:
            yield name, rival.test.scores.metric(measure.name)


def _rivals(fold: FoldResult) -> Iterator[tuple[str, RivalResult]]:
    (of_sensor,) = fold.students.values()
    for rival in _RIVALS:
        yield CONTESTANTS[rival], of_sensor.rivals[rival]


def _in_time(spec: DatasetSpec, fold: FoldResult) -> TimeFigures:
    measure = measures_of(spec.task)[0]
    (of_sensor,) = fold.students.values()
    return TimeFigures(
        measure=measure,
        windows=(fold.windows["train"], fold.windows["valid"], fold.windows["test"]),
        figures=dict(_figures(fold, measure)),
        gain=gain_on_windows(of_sensor.student.test, of_sensor.baseline.test, measure.name, seed=_SEED),
    )


def _labels_in_words(labelled: Labelled) -> str:
    if labelled.groups is not None:
        return f"{labelled.groups} groups labelled"
    return "all windows labelled" if labelled.is_all else f"{labelled.share:.0%} of the windows labelled"
