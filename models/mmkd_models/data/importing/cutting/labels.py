"""What windows are of, by what is known of stretches of time: a class, the labels that are on, or a number."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.cutting.label_files import LABEL_COLUMNS, label_block
from mmkd_models.data.importing.patterns import RecipeFolder
from mmkd_models.data.importing.readers.csv_file import csv_blocks, layout_of
from mmkd_models.data.importing.readers.table import RowBlock, require_columns, texts
from mmkd_models.data.importing.recipe import TARGET, LabelRule
from mmkd_models.data.importing.recorded import SECOND_NS, ImportedRecording, Interval, Times
from mmkd_models.data.importing.timing.clock import TimeColumn
from mmkd_models.data.importing.timing.grids import Grids, Placed
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


@dataclass(frozen=True, kw_only=True)
class LabelledIntervals:
    """Intervals of the recordings whose path has these parts."""

    parts: Mapping[str, str]
    interval: Interval

    def is_of(self, parts: Mapping[str, str]) -> bool:
        """Whether this is a recording with such parts."""
        return all(parts.get(name) == value for name, value in self.parts.items())


def read_intervals(folder: RecipeFolder, rule: LabelRule) -> list[LabelledIntervals]:
    """Read all interval files of a rule. Raise DatasetError with the line of the first fault."""
    files = folder.files(rule.files, key="labels.files")
    if not files:
        path = folder.path / rule.files
        raise DatasetError(f"'labels.files': expected files, found none at {path}; correct the pattern")
    found: list[LabelledIntervals] = []
    for file in files:
        found += _of_file(file.path, file.parts, rule)
    return found


def _of_file(file: Path, parts: Mapping[str, str], rule: LabelRule) -> list[LabelledIntervals]:
    start, end = TimeColumn(rule, rule.start), TimeColumn(rule, rule.end)
    found: list[LabelledIntervals] = []
    for block in _blocks(file, rule):
        starts, ends = start.read(block)[0], end.read(block)[0]
        names = texts(block, rule.label, rule)
        matched = {part: texts(block, column, rule) for part, column in rule.match.items()}
        offset = round(rule.offset_s * SECOND_NS)
        for row, name in enumerate(names):
            place = block.place(row)
            if ends[row] <= starts[row]:
                raise DatasetError(
                    f"{place}: expected an interval that ends after its start, got one of"
                    f" {(ends[row] - starts[row]) / SECOND_NS:g} s; correct the line"
                )
            interval = Interval(
                start_ns=int(starts[row]) + offset, end_ns=int(ends[row]) + offset, value=name, place=place
            )
            here = {part: values[row] for part, values in matched.items()}
            found.append(LabelledIntervals(parts={**parts, **here}, interval=interval))
    return found


def _blocks(file: Path, rule: LabelRule) -> Iterator[RowBlock]:
    wanted = [rule.start, rule.end, rule.label, *rule.match.values()]
    if rule.format == "csv":
        layout = layout_of(file, rule)
        require_columns(f"{file}:1", layout.names, wanted)
        yield from csv_blocks(file, layout, list(dict.fromkeys(wanted)))
        return
    require_columns(str(file), LABEL_COLUMNS, wanted)
    block = label_block(file, rule)
    if len(block.frame):
        yield block


@dataclass(frozen=True, kw_only=True)
class TableLine:
    """A line of a table of recordings.

    Attributes:
        parts: of the path of its recording; empty where `file` says which it is.
    """

    parts: Mapping[str, str]
    file: str
    facts: Mapping[str, str]
    place: str


def read_table(folder: RecipeFolder, rule: LabelRule) -> list[TableLine]:
    """Read the table of recordings of a rule. Raise DatasetError if it is missing, or lacks a column."""
    file = folder.file(rule.table, key="labels.table")
    if not file.is_file():
        raise DatasetError(f"'labels.table': expected a file, found none at {file}; correct the name")
    layout = layout_of(file, rule)
    labels = [*rule.flags.values()] or [rule.label]
    require_columns(f"{file}:1", layout.names, [*labels, *(rule.match.values() or [rule.file])])
    found: list[TableLine] = []
    for block in csv_blocks(file, layout, layout.names):
        columns = {name: texts(block, name, rule) for name in layout.names}
        for row in range(len(block.frame)):
            facts = {name: values[row] for name, values in columns.items()}
            found.append(
                TableLine(
                    parts={part: facts[column] for part, column in rule.match.items()},
                    file="" if rule.match else facts[rule.file],
                    facts=facts,
                    place=block.place(row),
                )
            )
    return found


def known_labels(intervals: Sequence[Interval], rule: LabelRule) -> list[Interval]:
    """Return the intervals that have a label. Raise DatasetError if one is none of the classes, or no number."""
    kept = [one for one in intervals if one.value and one.value not in rule.ignore]
    for one in kept:
        if rule.task == "regression" and not _is_number(one.value):
            raise DatasetError(
                f"{one.place}: expected a number as label, got {one.value!r}; correct it, add it to 'labels.ignore', or"
                " set labels.task = 'classification'"
            )
        if rule.classes and one.value not in rule.classes:
            raise DatasetError(
                f"{one.place}: expected a label of {', '.join(rule.classes)}, got {one.value!r};"
                " add it to 'labels.classes', or to 'labels.ignore'"
            )
    return kept


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(np.float32(text)))
    except ValueError:
        return False


def refuse_overlaps(intervals: Sequence[Interval]) -> None:
    """Raise DatasetError, naming both places, if two intervals share time."""
    ordered = sorted(intervals, key=lambda one: (one.start_ns, one.end_ns))
    for first, second in itertools.pairwise(ordered):
        if second.start_ns < first.end_ns:
            shared_s = (min(first.end_ns, second.end_ns) - second.start_ns) / SECOND_NS
            raise DatasetError(
                f"{second.place}: expected intervals apart, got {second.value!r} that shares {shared_s:g} s with"
                f" {first.value!r} of {first.place}; correct one of them"
            )


class RunCollector:
    """Makes intervals of a column that comes block by block: one as long as the value stays."""

    def __init__(self, still_open: tuple[int, str, str] | None = None, intervals: Sequence[Interval] = ()) -> None:
        """Continue from another one's state: start, value and place of its open interval, and those that ended."""
        self.still_open = still_open
        self.intervals = list(intervals)

    def add(self, times: Times, values: Sequence[str], places: Mapping[int, str]) -> None:
        """Add rows in order of time."""
        for row, place in places.items():
            if self.still_open is None or self.still_open[1] != values[row]:
                self.close(int(times[row]))
                self.still_open = (int(times[row]), values[row], place)

    def close(self, end_ns: int) -> None:
        """End the interval that is open."""
        if self.still_open is not None and end_ns > self.still_open[0]:
            start_ns, value, place = self.still_open
            self.intervals.append(Interval(start_ns=start_ns, end_ns=end_ns, value=value, place=place))
        self.still_open = None


def changes(values: Sequence[str]) -> list[int]:
    """Return the rows whose value differs from the row before, the first one included.

    Example:
        >>> changes(["a", "a", "b", "a"])
        [0, 2, 3]
    """
    array = np.asarray(values, dtype=object)
    found: list[int] = np.flatnonzero(np.concatenate([[True], array[1:] != array[:-1]])).tolist() if len(array) else []
    return found


def covered_ns(intervals: Sequence[Interval], starts_ns: Times, length_ns: int) -> Times:
    """Return (W,) how much of each window these intervals cover."""
    covered = np.zeros(len(starts_ns), dtype=np.int64)
    for one in intervals:
        low = int(np.searchsorted(starts_ns, one.start_ns - length_ns, side="right"))
        high = int(np.searchsorted(starts_ns, one.end_ns, side="left"))
        here = starts_ns[low:high]
        shared = np.minimum(here + length_ns, one.end_ns) - np.maximum(here, one.start_ns)
        covered[low:high] += np.maximum(shared, 0)
    return covered


def majority(
    intervals: Sequence[Interval], starts_ns: Times, length_ns: int, *, purity: float
) -> npt.NDArray[np.object_]:
    """Return for each window the value that covers at least this share of it, above one half; empty where none does.

    Args:
        starts_ns: (W,) ascending.
    """
    by_value: dict[str, list[Interval]] = {}
    for one in intervals:
        by_value.setdefault(one.value, []).append(one)
    names = sorted(by_value)
    best, most = np.zeros((2, len(starts_ns)), dtype=np.int64)
    for number, name in enumerate(names):
        covered = covered_ns(by_value[name], starts_ns, length_ns)
        best[covered > most] = number
        most = np.maximum(most, covered)
    # Times are rounded to the nanosecond, and so is what a window shares with an interval.
    pure = (most > 0) & (most >= purity * length_ns - 2 * (1 + len(intervals)))
    found = np.full(len(starts_ns), "", dtype=object)
    if names:
        found[pure] = np.array(names, dtype=object)[best[pure]]
    return found
