"""Gaps between groups or values of metadata, and the effect of distillation on them.

A gap is the best value's figure minus the worst's (fairlearn's `difference`). Intervals resample the same blocks of
windows for all models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_models.data.folds import is_unknown, values_by
from mmkd_models.data.labels import block_length
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.confidence import BINS, probability_bins
from mmkd_models.evaluation.gains import draw_groups, interval_of
from mmkd_models.evaluation.suites.inputs import Suite, SuiteInputs, check_classes, listed
from mmkd_models.metrics.likelihood import Floats
from mmkd_report.schema.judging import SuiteResult, SuiteTable

MIN_WINDOWS = 30
"""A value with fewer windows is shown and not judged."""
_MAX_VALUES = 50
_MAX_NAMED = 5
_DRAWS = 1000
_CHANCE = 0.95  # fraction of smaller gaps if all values are alike

GroupMeasure = Literal["accuracy", "recall", "calibration error"]
"""`recall` is the mean over the classes that occur."""
MEASURES: tuple[GroupMeasure, ...] = ("accuracy", "recall", "calibration error")
BiasChange = Literal["removed", "inherited", "amplified", "not significant"]


class GroupFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a value, by model and measure."""

    value: str
    windows: int
    is_judged: bool
    figures: dict[str, dict[GroupMeasure, float]]


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """The best judged value's figure minus the worst's; 5 % exceed `chance` if all are alike."""

    gap: float
    low: float
    high: float
    chance: float
    best: str
    worst: str


class GapChange(msgspec.Struct, frozen=True, kw_only=True):
    """The 95 % interval of the first model's gap minus that of the baseline."""

    measure: GroupMeasure
    change: BiasChange
    low: float
    high: float


class GroupsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Figures by group or metadata; `gaps`, by measure and model, is empty below two judged values.

    `changes` needs a distilled model and a baseline; `unknown` windows have no value.
    """

    by: str
    least_windows: int
    values: tuple[GroupFigures, ...]
    gaps: dict[GroupMeasure, dict[str, Gap]]
    changes: tuple[GapChange, ...]
    unknown: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Counts:
    """Counts by block (B) of one value's windows.

    Right answers and windows are (B, K); `surplus` (B, bins) is right answers minus probabilities.
    """

    right: Floats
    windows: Floats
    surplus: Floats

    def figures(self, weights: Floats) -> dict[GroupMeasure, Floats]:
        right, windows = weights @ self.right, weights @ self.windows  # (D, K)
        total, occurs = np.maximum(windows.sum(axis=1), 1), windows > 0
        recalls = np.where(occurs, right / np.maximum(windows, 1), 0.0)
        return {
            "accuracy": right.sum(axis=1) / total,
            "recall": recalls.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1),
            "calibration error": np.abs(weights @ self.surplus).sum(axis=1) / total,
        }

    def drawn(self, rng: np.random.Generator) -> dict[GroupMeasure, Floats]:
        return self.figures(draw_groups(len(self.right), rng, _DRAWS).astype(np.float64))

    @property
    def whole(self) -> dict[GroupMeasure, float]:
        return {name: float(value[0]) for name, value in self.figures(np.ones((1, len(self.right)))).items()}


def check(inputs: SuiteInputs) -> None:
    """Raise UsageError if windows cannot be judged by group."""
    check_classes(inputs.windows, "groups")
    values = values_by(inputs.windows, inputs.by, suite="groups")
    count = len(np.unique(values[~is_unknown(values)]))
    if count == 0:
        raise UsageError(f"--by {inputs.by}: no window that judges has a value; name other metadata")
    if count > _MAX_VALUES:
        raise UsageError(
            f"--by {inputs.by or 'group'}: expected at most {_MAX_VALUES} values, got {count}; write metadata that "
            "pools them"
        )


def run(inputs: SuiteInputs) -> SuiteResult:
    """Judge the models on each value."""
    inputs.on_part("groups")
    return describe(inputs, judge_groups(inputs))


def describe(inputs: SuiteInputs, facts: GroupsFacts) -> SuiteResult:
    """Return verdict and tables."""
    unknown = f" {facts.unknown} windows have no value and are not judged here." if facts.unknown else ""
    return SuiteResult(
        title="Which group has the lowest score?",
        lead=(
            f"By {facts.by}, in %. Recall is the mean over the classes that occur; few windows raise the calibration "
            f"error by chance. Values with fewer than {MIN_WINDOWS} windows are not judged. The gap is the best "
            f"value minus the worst, with a 95 % interval that resamples blocks of windows inside each value.{unknown}"
        ),
        facts=facts,
        verdict=tuple(_verdict(inputs, facts)),
        record=tuple(_record(inputs, facts)),
        tables=tuple(_table(inputs, facts, measure) for measure in MEASURES),
        notes=tuple(
            f"gap of {change.measure}, {inputs.first.name} minus {inputs.baseline}: {change.change} (95 % CI "
            f"{100 * change.low:+.1f} to {100 * change.high:+.1f} points)"
            for change in facts.changes
        ),
    )


def judge_groups(inputs: SuiteInputs) -> GroupsFacts:
    """Measure the models on each value."""
    windows = inputs.windows
    values = values_by(windows, inputs.by, suite="groups")
    unknown = is_unknown(values)
    names = np.unique(values[~unknown]).tolist()
    sizes = {name: int((values == name).sum()) for name in names}
    judged = [name for name in names if sizes[name] >= MIN_WINDOWS]
    counts, drawn = {}, {}
    for model in inputs.models:
        probabilities = model.probabilities(windows)
        by_value = counts[model.name] = {name: _count(windows, probabilities, values == name) for name in names}
        # The same draws for every model.
        draws = [by_value[name].drawn(np.random.default_rng([inputs.seed, row])) for row, name in enumerate(judged)]
        drawn[model.name] = {measure: np.array([draw[measure] for draw in draws]) for measure in MEASURES}  # (V, D)
    gaps: dict[GroupMeasure, dict[str, Gap]] = {}
    if len(judged) > 1:
        gaps = {
            measure: {name: _gap(counts[name], drawn[name][measure], judged, measure) for name in counts}
            for measure in MEASURES
        }
    return GroupsFacts(
        by=inputs.by or "group",
        least_windows=MIN_WINDOWS,
        values=tuple(
            GroupFigures(
                value=str(name),
                windows=sizes[name],
                is_judged=name in judged,
                figures={model: by_value[name].whole for model, by_value in counts.items()},
            )
            for name in names
        ),
        gaps=gaps,
        changes=tuple(_changes(inputs, drawn)) if gaps else (),
        unknown=int(unknown.sum()),
    )


def _count(windows: Windows, probabilities: Floats, here: npt.NDArray[np.bool_]) -> _Counts:
    rows = np.flatnonzero(here)
    rows = rows[np.argsort(np.unique(windows.groups[rows], return_inverse=True)[1], kind="stable")]
    block = np.arange(len(rows)) // block_length(len(rows))
    labels, top, classes = windows.labels[rows], probabilities[rows].max(axis=1), probabilities.shape[1]
    hits = (probabilities[rows].argmax(axis=1) == labels).astype(np.float64)
    right, total, surplus = (np.zeros((int(block.max()) + 1, size)) for size in (classes, classes, BINS))
    np.add.at(right, (block, labels), hits)
    np.add.at(total, (block, labels), 1.0)
    np.add.at(surplus, (block, probability_bins(top)), hits - top)
    return _Counts(right=right, windows=total, surplus=surplus)


def _gap(counts: Mapping[Any, _Counts], drawn: Floats, judged: Sequence[Any], measure: GroupMeasure) -> Gap:
    figures = {name: counts[name].whole[measure] for name in judged}
    sign = -1 if measure == "calibration error" else 1
    worst, best = (end(figures, key=lambda name: sign * figures[name]) for end in (min, max))
    low, high = interval_of(np.ptp(drawn, axis=0))
    noise = drawn - np.array([figures[name] for name in judged])[:, None]
    blocks = np.array([len(counts[name].right) for name in judged])[:, None]
    noise *= np.sqrt(blocks / np.maximum(blocks - 1, 1))  # a bootstrap of B blocks varies by (B - 1) / B too little
    return Gap(
        gap=abs(figures[best] - figures[worst]),
        low=low,
        high=high,
        chance=float(np.quantile(np.ptp(noise, axis=0), _CHANCE)),
        best=str(best),
        worst=str(worst),
    )


def _changes(inputs: SuiteInputs, drawn: Mapping[str, Mapping[GroupMeasure, Floats]]) -> Iterator[GapChange]:
    first, baseline = inputs.first, inputs.baseline
    if baseline is None or first.role in ("labels only", "teacher"):
        return
    teacher = next((model.name for model in inputs.models[1:] if model.facts.role == "teacher"), None)
    for measure in MEASURES:
        student, reference = (np.ptp(drawn[name][measure], axis=0) for name in (first.name, baseline))
        taught = None if teacher is None else np.ptp(drawn[teacher][measure], axis=0)
        low, high = interval_of(student - reference)
        change = classify_change(student, reference, taught)
        yield GapChange(measure=measure, change=change, low=low, high=high)


def classify_change(student: Floats, baseline: Floats, teacher: Floats | None) -> BiasChange:
    """Return the effect of distillation on a gap, from draws (D,) of the gaps.

    Significant if the interval of student minus baseline excludes 0. A larger gap is `inherited` if the teacher's is
    significantly larger than the baseline's, and the student's not than the teacher's; else `amplified`.
    """
    low, high = interval_of(student - baseline)
    if high < 0:
        return "removed"
    if low <= 0:
        return "not significant"
    if teacher is not None and interval_of(teacher - baseline)[0] > 0 and interval_of(student - teacher)[0] <= 0:
        return "inherited"
    return "amplified"


def _table(inputs: SuiteInputs, facts: GroupsFacts, measure: GroupMeasure) -> SuiteTable:
    rows = [
        (
            value.value + ("" if value.is_judged else " (not judged)"),
            str(value.windows),
            *(f"{100 * value.figures[name][measure]:.1f}" for name in inputs.names),
        )
        for value in facts.values
    ]
    if facts.gaps:
        gaps = [facts.gaps[measure][name] for name in inputs.names]
        cells = [f"{100 * gap.gap:.1f} ({100 * gap.low:.1f} to {100 * gap.high:.1f})" for gap in gaps]
        rows.append(("gap, points (95 % CI)", "", *cells))
    return SuiteTable(
        caption=f"{measure.capitalize()}, %", heads=(facts.by, "windows", *inputs.names), rows=tuple(rows)
    )


def _verdict(inputs: SuiteInputs, facts: GroupsFacts) -> Iterator[str]:
    name = inputs.first.name
    if not facts.gaps:
        yield f"The gap of {name} by {facts.by} is unknown: fewer than two values have {facts.least_windows} windows"
        return
    gap = facts.gaps["accuracy"][name]
    figures = {value.value: value.figures[name]["accuracy"] for value in facts.values}
    yield (
        f"{name} has the lowest accuracy, {figures[gap.worst]:.1%}, on {facts.by} {gap.worst} and the highest, "
        f"{figures[gap.best]:.1%}, on {gap.best}: a gap of {100 * gap.gap:.1f} points (95 % CI {100 * gap.low:.1f} to "
        f"{100 * gap.high:.1f})"
    )
    significant = [change for change in facts.changes if change.change != "not significant"]
    for change in significant:
        yield (
            f"Compared with {inputs.baseline}, the gap of {change.measure} is {change.change}: 95 % CI "
            f"{100 * change.low:+.1f} to {100 * change.high:+.1f} points"
        )
    if facts.changes and not significant:
        yield f"Distillation has no significant effect on the gaps between {facts.by} values"


def _record(inputs: SuiteInputs, facts: GroupsFacts) -> Iterator[str]:
    gap = facts.gaps["accuracy"][inputs.first.name] if facts.gaps else None
    if gap is not None and gap.gap > gap.chance:
        yield f"more of {facts.by} {gap.worst}"
    few = [value.value for value in facts.values if not value.is_judged]
    if few:
        more = [] if len(few) <= _MAX_NAMED else [f"{len(few) - _MAX_NAMED} more"]
        yield f"at least {facts.least_windows} windows of {facts.by} {listed([*few[:_MAX_NAMED], *more], 'and')}"


SUITE = Suite(check=check, run=run)
