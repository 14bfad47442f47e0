"""Gaps between groups, machines or any other column: who is served worse, and whether teaching changed that.

A gap is the best value's figure minus the worst's (fairlearn's `difference`). Intervals resample blocks of neighbouring
windows inside each value, the same ones for all models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_models.data.labels import block_length
from mmkd_models.data.left_out import is_unknown, values_by
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.gains import interval_of
from mmkd_models.evaluation.suites.answering import AskedModel
from mmkd_models.metrics.likelihood import probabilities_of
from mmkd_report.schema.judging import (
    BiasChange,
    Gap,
    GapChange,
    GroupFigures,
    GroupMeasure,
    GroupsFacts,
    JudgedModel,
)

LEAST_WINDOWS = 30
"""Below it a value is shown and not judged."""
MEASURES: tuple[GroupMeasure, ...] = ("accuracy", "recall", "calibration error")
_MOST_VALUES = 50
_DRAWS = 1000
_CHANCE = 0.95  # of the draws in which values that are all served alike lie no farther apart
_BINS = 15  # as the calibration error everywhere else: `evaluate.confidence`

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Counted:
    """What one model did on the windows of one value, block by block.

    Attributes:
        right: (B, K) right answers by true class.
        windows: (B, K) windows by true class.
        surplus: (B, bins) right answers minus probabilities of the answers, by bin of that probability.
    """

    right: Floats
    windows: Floats
    surplus: Floats

    def figures(self, weights: Floats) -> dict[GroupMeasure, Floats]:
        """Gives each measure (D,) when blocks count as often as drawn, (D, B)."""
        right, windows = weights @ self.right, weights @ self.windows  # (D, K)
        every = np.maximum(windows.sum(axis=1), 1)
        there = windows > 0
        recalls = np.where(there, right / np.maximum(windows, 1), 0.0)
        return {
            "accuracy": right.sum(axis=1) / every,
            "recall": recalls.sum(axis=1) / np.maximum(there.sum(axis=1), 1),
            "calibration error": np.abs(weights @ self.surplus).sum(axis=1) / every,
        }


def judge_groups(
    models: Sequence[AskedModel], windows: Windows, *, by: str | None, baseline: str | None, seed: int
) -> GroupsFacts:
    """Judges models on each value of the groups, or of a column.

    Raises:
        UsageError: the task is not one of classes, there is no such column, or it has too many values.
    """
    values = values_of(windows, by)
    unknown = is_unknown(values)
    names = np.unique(values[~unknown])
    counted = {one.facts.name: _counted_by_value(one, windows, values, names) for one in models}
    sizes = {name: int((values == name).sum()) for name in names.tolist()}
    judged = [name for name in names.tolist() if sizes[name] >= LEAST_WINDOWS]
    drawn = {name: _drawn(found, judged, seed) for name, found in counted.items()}
    gaps: dict[GroupMeasure, dict[str, Gap | None]] = {
        measure: {name: _gap(counted[name], drawn[name], judged, measure) for name in counted} for measure in MEASURES
    }
    return GroupsFacts(
        by=by or "group",
        least_windows=LEAST_WINDOWS,
        values=tuple(
            GroupFigures(
                value=str(name),
                windows=sizes[name],
                is_judged=name in judged,
                figures={model: _whole(found[name]) for model, found in counted.items()},
            )
            for name in names.tolist()
        ),
        gaps=gaps if len(judged) > 1 else {},
        changes=tuple(_changes([one.facts for one in models], drawn, judged, baseline)) if len(judged) > 1 else (),
        unknown=int(unknown.sum()),
    )


def values_of(windows: Windows, by: str | None) -> npt.NDArray[Any]:
    """Gives (N,) the value of each window. Raises UsageError where they cannot be judged by it."""
    kind, name = windows.spec.task.kind, windows.spec.name
    if kind != "classification":
        raise UsageError(
            f"--suite groups: expected a dataset of classes, got {name!r} of the kind {kind}; leave the suite out"
        )
    values = values_by(windows, by, suite="groups")
    count = len(np.unique(values[~is_unknown(values)]))
    if count == 0:
        raise UsageError(f"--by {by}: expected a value of some windows that judge, got none; name another column")
    if count > _MOST_VALUES:
        raise UsageError(
            f"--by {by or 'group'}: expected at most {_MOST_VALUES} values, got {count}; write a column that pools them"
        )
    return values


def _counted_by_value(
    one: AskedModel, windows: Windows, values: npt.NDArray[Any], names: npt.NDArray[Any]
) -> dict[Any, Counted]:
    probabilities = probabilities_of(one.answers(windows), kind="classification")
    return {name: _counted(windows, probabilities, values == name) for name in names.tolist()}


def _counted(windows: Windows, probabilities: Floats, here: npt.NDArray[np.bool_]) -> Counted:
    rows = np.flatnonzero(here)
    rows = rows[np.argsort(np.unique(windows.groups[rows], return_inverse=True)[1], kind="stable")]
    block = np.arange(len(rows)) // block_length(len(rows))
    labels, top = windows.labels[rows], probabilities[rows].max(axis=1)
    right = (probabilities[rows].argmax(axis=1) == labels).astype(np.float64)
    bins = np.clip(np.ceil(top * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    found = [np.zeros((int(block.max()) + 1, size)) for size in (probabilities.shape[1], probabilities.shape[1], _BINS)]
    np.add.at(found[0], (block, labels), right)
    np.add.at(found[1], (block, labels), 1.0)
    np.add.at(found[2], (block, bins), right - top)
    return Counted(right=found[0], windows=found[1], surplus=found[2])


def _whole(found: Counted) -> dict[GroupMeasure, float]:
    return {name: float(value[0]) for name, value in found.figures(np.ones((1, len(found.right)))).items()}


def _drawn(found: Mapping[Any, Counted], judged: Sequence[Any], seed: int) -> dict[GroupMeasure, Floats]:
    """By measure the figure of each value under each draw, (V, D)."""
    each = []
    for number, name in enumerate(judged):
        blocks = len(found[name].right)
        rng = np.random.default_rng([seed, number])  # the same draws for every model
        weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=_DRAWS).astype(np.float64)
        each.append(found[name].figures(weights))
    if len(each) < 2:
        return {}
    return {measure: np.stack([one[measure] for one in each]) for measure in MEASURES}


def _gap(
    found: Mapping[Any, Counted], drawn: Mapping[GroupMeasure, Floats], judged: Sequence[Any], measure: GroupMeasure
) -> Gap | None:
    if len(judged) < 2:
        return None
    figures = {name: _whole(found[name])[measure] for name in judged}
    sign = -1 if measure == "calibration error" else 1
    worst, best = (end(figures, key=lambda name: sign * figures[name]) for end in (min, max))
    low, high = interval_of(np.ptp(drawn[measure], axis=0))
    strayed = drawn[measure] - np.array([figures[name] for name in judged])[:, None]
    blocks = np.array([len(found[name].right) for name in judged])[:, None]
    strayed *= np.sqrt(blocks / np.maximum(blocks - 1, 1))  # a bootstrap of B blocks varies by (B - 1) / B too little
    return Gap(
        gap=abs(figures[best] - figures[worst]),
        low=low,
        high=high,
        chance=float(np.quantile(np.ptp(strayed, axis=0), _CHANCE)),
        best=str(best),
        worst=str(worst),
    )


def _changes(
    models: Sequence[JudgedModel],
    drawn: Mapping[str, Mapping[GroupMeasure, Floats]],
    judged: Sequence[Any],
    baseline: str | None,
) -> list[GapChange]:
    """What teaching did to the gap of the first model, measure by measure; nothing without labels alone beside it."""
    first = models[0]
    if baseline is None or first.role in ("labels alone", "teacher"):
        return []
    teacher = next((one.name for one in models[1:] if one.role == "teacher"), None)
    found = []
    for measure in MEASURES:
        ours, labels = (np.ptp(drawn[name][measure], axis=0) for name in (first.name, baseline))
        of_teacher = None if teacher is None else np.ptp(drawn[teacher][measure], axis=0)
        low, high = interval_of(ours - labels)
        found.append(
            GapChange(
                measure=measure,
                change=change_of(ours, labels, of_teacher),
                low=low,
                high=high,
            )
        )
    return found


def change_of(ours: Floats, labels: Floats, teacher: Floats | None) -> BiasChange:
    """Gives what teaching did to a gap, from its draws (D,) for the student, labels alone and the teacher.

    `removed` and the others only where the whole interval of student minus labels alone lies on one side of 0; a larger
    gap is `inherited` where the teacher's is certainly larger than that of labels alone too, and the student's not
    certainly larger than the teacher's; else it is `amplified`.
    """
    low, high = interval_of(ours - labels)
    if high < 0:
        return "removed"
    if low <= 0:
        return "no certain difference"
    if teacher is not None and interval_of(teacher - labels)[0] > 0 and interval_of(ours - teacher)[0] <= 0:
        return "inherited"
    return "amplified"
