"""What windows are of, by what is known of stretches of time: a class, the labels that are on, or a number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.grids.grids import Grids, Placed
from mmkd_models.data.importing.intervals import covered_ns, known_labels, majority, refuse_overlaps
from mmkd_models.data.importing.recipe import TARGET, LabelRule
from mmkd_models.data.importing.recorded import ImportedRecording, Interval
from mmkd_models.data.importing.series import SECOND_NS, Times
from mmkd_models.data.labels import UNKNOWN
from mmkd_models.data.sources import Rows, first_sample

Answers = npt.NDArray[np.object_]
"""(W,) a class, a set of the labels that are on, or a number; None where nothing decides."""

_BLOCK_ROWS = 1 << 16
_ON, _OFF = ("1", "1.0", "true", "on", "yes"), ("0", "0.0", "false", "off", "no")


def window_answers(placed: Placed, grids: Grids, rule: LabelRule, starts_ns: Times, length_ns: int) -> Answers:
    """Return the answer of each window of a recording that starts at these times, ascending.

    Raise DatasetError if labels overlap, are unknown, or are no numbers where these are asked for.
    """
    recorded = placed.recorded
    match rule.task:
        case "classification":
            return _classes(recorded, rule, starts_ns, length_ns)
        case "multi_label":
            return _sets(recorded, rule, starts_ns, length_ns)
        case "regression":
            if rule.column:
                return _means(placed, grids, rule, starts_ns, length_ns)
            found = _classes(recorded, rule, starts_ns, length_ns)
            return _objects([None if one is None else float(one) for one in found])


def labelled_intervals(recorded: ImportedRecording, rule: LabelRule) -> list[Interval]:
    """Return the intervals that have a label, in order of time; of several labels at once those of each label.

    Raise DatasetError if two overlap, of several labels two of one label.
    """
    given = recorded.runs.get(rule.column, ()) if rule.column else recorded.labels
    if rule.task == "multi_label":
        found = [one for one in _of_labels(given, rule) if one.value is not None]
        for label in sorted({one.value for one in found}):
            refuse_overlaps([one for one in found if one.value == label])
    else:
        found = known_labels(given, rule)
        refuse_overlaps(found)
    return sorted(found, key=lambda one: one.start_ns)


def encoded(answers: Sequence[Any], task: TaskSpec) -> AnyArray:
    """Return labels as a dataset has them: int64 (N,), of several labels uint8 (N, K), of numbers float32 (N,)."""
    numbers = {name: number for number, name in enumerate(task.labels)}
    match task.kind:
        case "classification":
            return np.array([-1 if one is None else numbers[one] for one in answers], dtype=np.int64)
        case "multi_label":
            labels = np.zeros((len(answers), len(task.labels)), dtype=np.uint8)
            for row, one in enumerate(answers):
                labels[row] = UNKNOWN if one is None else [name in one for name in task.labels]
            return labels
        case "regression":
            return np.array([np.nan if one is None else one for one in answers], dtype=np.float32)


def task_of(answers: Sequence[Any], rule: LabelRule) -> TaskSpec:
    """Return the task that these answers are of: the labels of the rule, or those that are there, sorted."""
    if rule.task == "regression":
        return TaskSpec(kind="regression", labels=(rule.target_name,), unit=rule.unit)
    known = [one for one in answers if one is not None]
    found = {label for one in known for label in one} if rule.task == "multi_label" else set(known)
    return TaskSpec(kind=rule.task, labels=rule.classes or tuple(sorted(found)))


def _objects(values: Sequence[Any]) -> Answers:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _classes(recorded: ImportedRecording, rule: LabelRule, starts_ns: Times, length_ns: int) -> Answers:
    if rule.path or rule.table:
        value = recorded.parts.get(rule.path or rule.label, "")
        whole = known_labels([Interval(start_ns=0, end_ns=0, value=value, place=recorded.name)], rule)
        return _objects([value if whole else None] * len(starts_ns))
    found = majority(labelled_intervals(recorded, rule), starts_ns, length_ns, purity=rule.purity)
    return _objects([one or None for one in found])


def _sets(recorded: ImportedRecording, rule: LabelRule, starts_ns: Times, length_ns: int) -> Answers:
    """The labels that are on: each covers its share of the window, or hardly any of it, or the window has none."""
    if rule.path or (rule.table and not rule.flags):
        value = recorded.parts.get(rule.path or rule.label, "")
        on = _labels_of(Interval(start_ns=0, end_ns=0, value=value, place=recorded.name), rule)
        return _objects([None if on is None else frozenset(on)] * len(starts_ns))
    if rule.table:
        flags = {label: _flag(recorded.parts[column], column, recorded.name) for label, column in rule.flags.items()}
        is_known = None not in flags.values()
        return _objects([frozenset(one for one, on in flags.items() if on) if is_known else None] * len(starts_ns))
    intervals = list(_flag_intervals(recorded, rule)) if rule.flags else labelled_intervals(recorded, rule)
    given = recorded.runs.get(rule.column, ()) if rule.column else recorded.labels
    unknown = [one for one in intervals if not one.value]
    unknown += [one for one in given if not rule.flags and one.value in rule.ignore]
    names = sorted({one.value for one in intervals if one.value})
    shares = [
        covered_ns([one for one in intervals if one.value == name], starts_ns, length_ns) / length_ns for name in names
    ]
    hardly = 1 - rule.purity + 1e-6
    decided = covered_ns(unknown, starts_ns, length_ns) <= hardly * length_ns
    for share in shares:
        decided &= (share >= rule.purity - 1e-6) | (share <= hardly)
    decided &= bool(intervals or given)  # nobody has labelled a recording without a line
    return _objects(
        [
            frozenset(name for name, share in zip(names, shares, strict=True) if share[row] > hardly) if known else None
            for row, known in enumerate(decided.tolist())
        ]
    )


def _of_labels(given: Sequence[Interval], rule: LabelRule) -> Iterator[Interval]:
    """An interval for each label of each interval."""
    for one in given:
        for label in _labels_of(one, rule) or ():
            yield Interval(start_ns=one.start_ns, end_ns=one.end_ns, value=label, place=one.place)


def _labels_of(one: Interval, rule: LabelRule) -> tuple[str, ...] | None:
    """The labels that a text names; none where it is empty; None if it counts as no label."""
    if one.value in rule.ignore:
        return None
    found = tuple(text.strip() for text in one.value.split(rule.separator) if text.strip())
    known_labels([Interval(start_ns=0, end_ns=0, value=label, place=one.place) for label in found], rule)
    return found


def _flag_intervals(recorded: ImportedRecording, rule: LabelRule) -> Iterator[Interval]:
    """When each label is on, by its column; without a value where the column has none."""
    for label, column in rule.flags.items():
        for run in recorded.runs.get(column, ()):
            flag = _flag(run.value, column, run.place)
            if flag is not False:
                value = label if flag else ""
                yield Interval(start_ns=run.start_ns, end_ns=run.end_ns, value=value, place=run.place)


def _flag(text: str, column: str, place: str) -> bool | None:
    if not text:
        return None
    if text.lower() not in (*_ON, *_OFF):
        raise DatasetError(
            f"{place}: column {column!r}: expected 1 or 0, true or false, on or off, got {text!r}; correct it, or add"
            " it to 'null' if it means missing"
        )
    return text.lower() in _ON


def _means(placed: Placed, grids: Grids, rule: LabelRule, starts_ns: Times, length_ns: int) -> Answers:
    """The mean of the target's samples in each window, where enough of them are there."""
    rate_hz = next(sensor.rate_hz for sensor in grids.sensors if sensor.name == TARGET)
    begin, length = placed.first[TARGET], placed.lengths[TARGET]
    first = first_sample((starts_ns - placed.origin_ns) / SECOND_NS, rate_hz)
    wanted = max(1, round(length_ns / SECOND_NS * rate_hz))
    sums, counts = _sums_before(
        grids.mapped()[0][TARGET][begin : begin + length], np.concatenate([first, first + wanted])
    )
    windows = len(first)
    there = counts[windows:] - counts[:windows]
    means = (sums[windows:] - sums[:windows]) / np.maximum(there, 1)
    enough = (there > 0) & (there >= rule.purity * wanted - 1e-6)
    return _objects([mean if known else None for mean, known in zip(means.tolist(), enough.tolist(), strict=True)])


def _sums_before(grid: AnyArray, rows: Rows) -> tuple[npt.NDArray[np.float64], Rows]:
    """Sum and number of the values (L, 1) before each of these rows."""
    rows = np.minimum(rows, len(grid))
    sums, counts = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    total, count = 0.0, 0
    for start in range(0, len(grid), _BLOCK_ROWS):
        block = np.asarray(grid[start : start + _BLOCK_ROWS, 0], dtype=np.float64)
        there = ~np.isnan(block)
        sums_here = np.concatenate([[total], total + np.cumsum(np.where(there, block, 0.0))])
        counts_here = np.concatenate([[count], count + np.cumsum(there)])
        here = (rows > start) & (rows <= start + len(block))
        sums[here], counts[here] = sums_here[rows[here] - start], counts_here[rows[here] - start]
        total, count = float(sums_here[-1]), int(counts_here[-1])
        let_go(grid)
    return sums, counts
