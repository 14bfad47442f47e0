"""Stretches of time with a value: read from files, made of columns, refused where they overlap, asked about windows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.clocks.clock import TimeColumn
from mmkd_models.data.importing.patterns import RecipeFolder
from mmkd_models.data.importing.readers.block import RowBlock, require_columns, texts
from mmkd_models.data.importing.readers.csv_file import csv_blocks, layout_of
from mmkd_models.data.importing.readers.label_files import LABEL_COLUMNS, label_block
from mmkd_models.data.importing.recipe import LabelRule
from mmkd_models.data.importing.recorded import Interval
from mmkd_models.data.importing.series import SECOND_NS, Times


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
        file: as the recipe would write it.
        facts: every column and its value.
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

    def __init__(self, *, still_open: tuple[int, str, str] | None = None, ended: Sequence[Interval] = ()) -> None:
        """Go on where another one was: `still_open` and `ended` are its own."""
        self._open = still_open
        self._closed = list(ended)

    @property
    def still_open(self) -> tuple[int, str, str] | None:
        """Start, value and place of the interval that is open."""
        return self._open

    def add(self, times: Times, values: Sequence[str], places: Mapping[int, str]) -> None:
        """Add rows in order of time.

        Args:
            places: where each row is whose value differs from the one before.
        """
        for row, place in places.items():
            value = values[row]
            if self._open is not None and self._open[1] == value:
                continue
            self.close(int(times[row]))
            self._open = (int(times[row]), value, place)

    def close(self, end_ns: int) -> None:
        """End the interval that is open."""
        if self._open is not None and end_ns > self._open[0]:
            start_ns, value, place = self._open
            self._closed.append(Interval(start_ns=start_ns, end_ns=end_ns, value=value, place=place))
        self._open = None

    @property
    def intervals(self) -> list[Interval]:
        """Those that have ended."""
        return self._closed


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
    """Return (W,) how much of each window these intervals cover.

    Args:
        starts_ns: (W,) ascending.
    """
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
