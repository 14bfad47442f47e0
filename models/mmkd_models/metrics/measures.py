"""Names, units and direction of the figures of each kind of task."""

from __future__ import annotations

import msgspec

from mmkd_edge.spec import TaskKind, TaskSpec
from mmkd_report.schema.figures import MEASURES, Measure

_OF_KIND: dict[TaskKind, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "macro_f1"),
    "multi_label": ("macro_f1", "mean_average_precision", "subset_accuracy"),
    "regression": ("mae", "rmse", "r2", "pearson"),
}


def measures_of(task: TaskSpec) -> tuple[Measure, ...]:
    """Return the figures of a task in the order of a table; gains are reported in the first."""
    found = [measure_named(name) for name in _OF_KIND[task.kind]]
    return tuple(_in_unit(measure, task.unit or "") if measure.lower_is_better else measure for measure in found)


def written_measures(task: TaskSpec) -> tuple[Measure, ...] | msgspec.UnsetType:
    """Return the figures that a document names; unset for classification."""
    return msgspec.UNSET if task.kind == "classification" else measures_of(task)


def measure_named(name: str) -> Measure:
    """Return a figure by its name, an error without the unit of its task."""
    return next(measure for measure in MEASURES if measure.name == name)


def told_by(task: TaskSpec, metric: str) -> Measure:
    """Gives what a study tells gains in: the metric that validation maximised, of a number the error in its unit."""
    first = measures_of(task)[0]
    return first if first.lower_is_better else next(one for one in measures_of(task) if one.name == metric)


def _in_unit(measure: Measure, unit: str) -> Measure:
    return msgspec.structs.replace(measure, unit=unit, gain_unit=unit)
