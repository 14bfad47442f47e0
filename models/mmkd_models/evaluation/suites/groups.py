"""Gaps between groups or values of metadata, and the effect of distillation on them.

Intervals resample the same blocks of windows for all models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_documents.figures import Interval
from mmkd_documents.judging import SuiteResult, SuiteTable
from mmkd_edge.errors import UsageError
from mmkd_models.data.folds import is_unknown, values_by
from mmkd_models.data.labels import block_length
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.gains import draw_groups, interval_of
from mmkd_models.evaluation.suites.inputs import Suite, SuiteInputs, check_classes, listed
from mmkd_models.metrics.likelihood import Floats

MIN_WINDOWS = 30
"""A value with fewer windows is shown and not judged."""
_MAX_VALUES = 50
_MAX_NAMED = 5
_DRAWS = 1000
_CHANCE = 0.95  # fraction of smaller gaps if all values are alike

GroupMeasure = Literal["accuracy", "recall"]
"""`recall` is the mean over the classes that occur."""
MEASURES: tuple[GroupMeasure, ...] = get_args(GroupMeasure)


class GroupFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a value, by model and measure."""

    value: str
    windows: int
    is_judged: bool
    figures: dict[str, dict[GroupMeasure, float]]


class Gap(Interval, frozen=True, kw_only=True):
    """Best judged value's figure minus the worst's (fairlearn's `difference`); 5 % exceed `chance` if all are alike."""

    chance: float
    best: str
    worst: str


class GroupsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Figures by group or metadata; `gaps`, by measure and model, is empty below two judged values.

    `changes`, the first model's gap minus the baseline's, needs a distilled model and a baseline; `unknown` windows
    have no value.
    """

    by: str
    least_windows: int
    values: tuple[GroupFigures, ...]
    gaps: dict[GroupMeasure, dict[str, Gap]]
    changes: dict[GroupMeasure, Interval]
    unknown: int = 0


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


def judge_groups(inputs: SuiteInputs) -> GroupsFacts:
    """Measure the models on each value."""
    windows, baseline = inputs.windows, inputs.baseline
    values = values_by(windows, inputs.by, suite="groups")
    unknown = is_unknown(values)
    names = np.unique(values[~unknown]).tolist()
    sizes = {name: int((values == name).sum()) for name in names}
    judged = [name for name in names if sizes[name] >= MIN_WINDOWS]
    whole, gaps, drawn = {}, dict[GroupMeasure, dict[str, Gap]](), {}
    for model in inputs.models:
        probabilities = model.probabilities(windows)
        counts = {name: _count(windows, probabilities, values == name) for name in names}
        whole[model.name] = {
            name: {key: float(value[0]) for key, value in _figures(parts, np.ones((1, len(parts)))).items()}
            for name, parts in counts.items()
        }
        draws = []
        for row, name in enumerate(judged):  # the same draws for every model
            weights = draw_groups(len(counts[name]), np.random.default_rng([inputs.seed, row]), _DRAWS)
            draws.append(_figures(counts[name], weights.astype(np.float64)))
        drawn[model.name] = {measure: np.array([draw[measure] for draw in draws]) for measure in MEASURES}  # (V, D)
        for measure in MEASURES if len(judged) > 1 else ():
            figures = {name: whole[model.name][name][measure] for name in judged}
            worst, best = (end(figures, key=lambda name: figures[name]) for end in (min, max))
            low, high = interval_of(np.ptp(drawn[model.name][measure], axis=0))
            noise = drawn[model.name][measure] - np.array([figures[name] for name in judged])[:, None]
            blocks = np.array([len(counts[name]) for name in judged])[:, None]
            noise *= np.sqrt(blocks / np.maximum(blocks - 1, 1))  # a bootstrap of B blocks varies by (B - 1) / B
            gaps.setdefault(measure, {})[model.name] = Gap(
                mean=figures[best] - figures[worst],
                low=low,
                high=high,
                chance=float(np.quantile(np.ptp(noise, axis=0), _CHANCE)),
                best=str(best),
                worst=str(worst),
            )
    changes = {}
    if gaps and baseline is not None and inputs.first.role not in ("labels only", "teacher"):
        for measure in MEASURES:
            student, reference = (np.ptp(drawn[name][measure], axis=0) for name in (inputs.first.name, baseline))
            low, high = interval_of(student - reference)
            mean = gaps[measure][inputs.first.name].mean - gaps[measure][baseline].mean
            changes[measure] = Interval(mean=mean, low=low, high=high)
    return GroupsFacts(
        by=inputs.by or "group",
        least_windows=MIN_WINDOWS,
        values=tuple(
            GroupFigures(
                value=str(name),
                windows=sizes[name],
                is_judged=name in judged,
                figures={model: by_value[name] for model, by_value in whole.items()},
            )
            for name in names
        ),
        gaps=gaps,
        changes=changes,
        unknown=int(unknown.sum()),
    )


def _count(windows: Windows, probabilities: Floats, here: npt.NDArray[np.bool_]) -> Floats:
    """Count right answers and windows (B, 2, K) by block of one value's windows, and class."""
    rows = np.flatnonzero(here)
    rows = rows[np.argsort(np.unique(windows.groups[rows], return_inverse=True)[1], kind="stable")]
    block, labels = np.arange(len(rows)) // block_length(len(rows)), windows.labels[rows]
    counts = np.zeros((int(block.max()) + 1, 2, probabilities.shape[1]))
    right = (probabilities[rows].argmax(axis=1) == labels).astype(np.float64)
    np.add.at(counts[:, 0], (block, labels), right)
    np.add.at(counts[:, 1], (block, labels), 1.0)
    return counts


def _figures(counts: Floats, weights: Floats) -> dict[GroupMeasure, Floats]:
    sums = np.tensordot(weights, counts, axes=1)
    right, windows = sums[:, 0], sums[:, 1]  # (D, K)
    recalls = np.where(windows > 0, right / np.maximum(windows, 1), 0.0)
    return {
        "accuracy": right.sum(axis=1) / np.maximum(windows.sum(axis=1), 1),
        "recall": recalls.sum(axis=1) / np.maximum((windows > 0).sum(axis=1), 1),
    }


def describe(inputs: SuiteInputs, facts: GroupsFacts) -> SuiteResult:
    """Return verdict and tables."""
    unknown = f" {facts.unknown} windows have no value and are not judged here." if facts.unknown else ""
    return SuiteResult(
        title="Which group has the lowest score?",
        lead=(
            f"By {facts.by}, in %. Recall is the mean over the classes that occur. Values with fewer than "
            f"{MIN_WINDOWS} windows are not judged. The gap is the best value minus the worst, with a 95 % interval "
            f"that resamples blocks of windows inside each value.{unknown}"
        ),
        facts=facts,
        verdict=tuple(_verdict(inputs, facts)),
        record=tuple(_record(inputs, facts)),
        tables=tuple(_table(inputs, facts, measure) for measure in MEASURES),
    )


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
        cells = [f"{100 * gap.mean:.1f} ({_ends(gap)})" for gap in gaps]
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
        f"{figures[gap.best]:.1%}, on {gap.best}: a gap of {100 * gap.mean:.1f} points (95 % CI {_ends(gap)})"
    )
    significant = False
    for measure, change in facts.changes.items():
        if change.low is not None and change.high is not None and not change.low <= 0 <= change.high:
            significant = True
            yield (
                f"The gap of {measure} is {'smaller' if change.high < 0 else 'larger'} than that of {inputs.baseline}: "
                f"{100 * change.mean:+.1f} points (95 % CI {100 * change.low:+.1f} to {100 * change.high:+.1f})"
            )
    if facts.changes and not significant:
        yield f"Distillation has no significant effect on the gaps between {facts.by} values"


def _ends(gap: Gap) -> str:
    return f"{100 * (gap.low or 0.0):.1f} to {100 * (gap.high or 0.0):.1f}"


def _record(inputs: SuiteInputs, facts: GroupsFacts) -> Iterator[str]:
    gap = facts.gaps["accuracy"][inputs.first.name] if facts.gaps else None
    if gap is not None and gap.mean > gap.chance:
        yield f"more of {facts.by} {gap.worst}"
    few = [value.value for value in facts.values if not value.is_judged]
    if few:
        more = [] if len(few) <= _MAX_NAMED else [f"{len(few) - _MAX_NAMED} more"]
        yield f"at least {facts.least_windows} windows of {facts.by} {listed([*few[:_MAX_NAMED], *more], 'and')}"


SUITE = Suite(check=check, run=run)
