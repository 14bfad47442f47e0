"""What the figures of each kind of task are called, what they are counted in, and which of two is the better one.

Said here once: tables, gains and pages ask, and none of them knows a kind of task of its own.
"""

from __future__ import annotations

import math

import msgspec

from mmkd_edge.spec import TaskKind, TaskSpec
from mmkd_report.documents.figures import MEASURES, Measure

_OF_KIND: dict[TaskKind, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "macro_f1"),
    "multi_label": ("macro_f1", "mean_average_precision", "subset_accuracy"),
    "regression": ("mae", "rmse", "r2", "pearson"),
}


def measures_of(task: TaskSpec) -> tuple[Measure, ...]:
    """Gives the figures of a task in the order of a table; the first is what a gain is told in."""
    found = [measure_named(name) for name in _OF_KIND[task.kind]]
    return tuple(_in_unit(measure, task.unit or "") if measure.lower_is_better else measure for measure in found)


def written_measures(task: TaskSpec) -> tuple[Measure, ...] | msgspec.UnsetType:
    """Gives what a document says of its figures: nothing where they are those of classes, as documents always had."""
    return msgspec.UNSET if task.kind == "classification" else measures_of(task)


def measure_named(name: str) -> Measure:
    """Gives a figure by its name, an error without the unit that its task gives it."""
    return next(measure for measure in MEASURES if measure.name == name)


def told_by(task: TaskSpec, metric: str) -> Measure:
    """Gives what a study tells gains in: the metric that validation maximised, of a number the error in its unit."""
    first = measures_of(task)[0]
    return first if first.lower_is_better else next(one for one in measures_of(task) if one.name == metric)


def figure_text(measure: Measure, figure: float) -> str:
    """Gives a figure in its unit, without the unit: percent with one digit after the point, else three digits.

    Example:
        >>> figure_text(measure_named("accuracy"), 0.8125), figure_text(measure_named("mae"), 1234.5)
        ('81.2', '1234')
    """
    return f"{measure.scale * figure:.1f}" if measure.is_share else significant_text(figure)


def gain_text(measure: Measure, gain: float) -> str:
    """Gives a signed difference in the measure's `gain_unit`, without the unit.

    Example:
        >>> gain_text(measure_named("accuracy"), 3.16), gain_text(measure_named("mae"), -0.01234)
        ('+3.2', '-0.0123')
    """
    return f"{gain:+.1f}" if measure.is_share else ("-" if gain < 0 else "+") + significant_text(abs(gain))


def spread_text(measure: Measure, mean: float, std: float | None) -> str:
    """Gives a figure with its spread for a terminal: shares as fractions, errors in their unit.

    Example:
        >>> spread_text(measure_named("accuracy"), 0.8125, 0.025), spread_text(measure_named("mae"), 12.25, None)
        ('0.812 ± 0.025', '12.2')
    """
    both = [value for value in (mean, std) if value is not None]
    return " ± ".join(significant_text(value) if measure.lower_is_better else f"{value:.3f}" for value in both)


def with_unit(text: str, unit: str) -> str:
    """Gives a figure with the unit behind it; as it is where there is none."""
    return f"{text} {unit}" if unit else text


def significant_text(value: float, digits: int = 3) -> str:
    """Gives a number with that many digits that count, and no more than whole ones of a large number.

    Example:
        >>> significant_text(0.01234), significant_text(101325.0), significant_text(0.0)
        ('0.0123', '101325', '0')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return f"{value:.{max(0, places)}f}"


def _in_unit(measure: Measure, unit: str) -> Measure:
    return msgspec.structs.replace(measure, unit=unit, gain_unit=unit)
