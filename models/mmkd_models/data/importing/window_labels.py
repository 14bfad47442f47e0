"""Labels of windows from labelled intervals, and their splits."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.files import read_first
from mmkd_edge.errors import DatasetError, first_line
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.files import AnyArray
from mmkd_models.data.folds import deal_groups
from mmkd_models.data.importing.clock import SECOND_NS, Interval, TimeColumn, Times
from mmkd_models.data.importing.grids import GridRecording, Grids, sums_before
from mmkd_models.data.importing.keys import MAX_LABEL_BYTES, MAX_LABEL_ITEMS, MAX_LABELS
from mmkd_models.data.importing.patterns import RecipeFolder, path_parts
from mmkd_models.data.importing.readers.csv_file import csv_blocks, csv_names
from mmkd_models.data.importing.readers.table import RowBlock, require_columns, texts
from mmkd_models.data.importing.recipe import TARGET, LabelRule, SplitRule
from mmkd_models.data.labels import UNKNOWN
from mmkd_models.data.spec import SPLIT_NAMES
from mmkd_models.data.windows import Rows, first_sample

Answers = npt.NDArray[np.object_]
"""(W,) a class, a set of the labels that are on, or a number; None if nothing decides."""

_ExportRow = tuple[str, tuple[Any, Any, str, str, str]]
"""Place and content of an interval."""
_EXPORT_COLUMNS = ("start", "end", "label", "file", "group")
_OF_A_TASK = ("choices", "number")  # types of answers for all of it
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # put before the name of a file that is uploaded to Label Studio
_ALWAYS = (-(1 << 61), 1 << 61)  # nanoseconds that no recording leaves
_TRAIN, _VALID, _TEST = range(3)


def window_answers(
    recording: GridRecording, grids: Grids, rule: LabelRule, starts_ns: Times, length_ns: int
) -> Answers:
    """Return the answers of windows with ascending starts. Raise DatasetError for wrong labels."""
    if rule.task == "multi_label":
        return _sets(recording, rule, starts_ns, length_ns)
    if rule.task == "regression" and rule.column:
        return _means(recording, grids, rule, starts_ns, length_ns)
    answers = majority(labelled_intervals(recording, rule), starts_ns, length_ns, purity=rule.purity)
    answers[answers == ""] = None
    return as_numbers(answers) if rule.task == "regression" else answers


def as_numbers(answers: Answers) -> Answers:
    """Convert answers from text to numbers."""
    return _objects([None if answer is None else float(answer) for answer in answers])


def labelled_intervals(recording: GridRecording, rule: LabelRule) -> list[Interval]:
    """Return labelled intervals in order of time. Raise DatasetError if two (of one label) overlap."""
    given = [_rename_label(interval, rule) for interval in _source_intervals(recording, rule)]
    intervals = [interval for interval in given if interval.value and _name_of(interval.value, rule.ignore) is None]
    if rule.task == "multi_label":
        intervals = [
            _rename_label(replace(interval, value=label.strip()), rule)
            for interval in intervals
            for label in interval.value.split(rule.separator)
            if label.strip()
        ]
    for interval in intervals:
        if rule.task == "regression" and not _is_number(interval.value):
            raise DatasetError(
                f"{interval.place}: expected a number as label, got {interval.value!r}; correct it, add it to"
                " 'labels.ignore', or set labels.task = 'classification'"
            )
        if rule.classes and interval.value not in rule.classes:
            raise DatasetError(
                f"{interval.place}: expected a label of {', '.join(rule.classes)}, got {interval.value!r};"
                " correct it with 'labels.rename', or add it to 'labels.classes' or 'labels.ignore'"
            )
    if rule.task != "regression" and (count := len({interval.value for interval in intervals})) > MAX_LABELS:
        raise DatasetError(
            f"{recording.name}: expected at most {MAX_LABELS:,} different labels, got {count:,}; name another column,"
            " or set labels.task = 'regression' if they are numbers"
        )
    may_overlap = rule.task == "multi_label"
    ordered = sorted(
        intervals, key=lambda interval: (interval.value if may_overlap else "", interval.start_ns, interval.end_ns)
    )
    for first, second in itertools.pairwise(ordered):
        if second.start_ns < first.end_ns and not (may_overlap and first.value != second.value):
            shared_s = (min(first.end_ns, second.end_ns) - second.start_ns) / SECOND_NS
            is_one_file = rule.files and not rule.match and not path_parts(rule.files)
            cure = ", or name the recording of each line: set match = {PART = 'COLUMN'} under [labels]"
            raise DatasetError(
                f"{second.place}: expected intervals apart, got {second.value!r} that shares {shared_s:g} s with"
                f" {first.value!r} of {first.place}; correct one of them{cure if is_one_file else ''}"
            )
    return sorted(ordered, key=lambda interval: interval.start_ns)


def encode_answers(answers: Sequence[Any], rule: LabelRule) -> tuple[TaskSpec, AnyArray]:
    """Return the task, with the rule's labels or the sorted ones in use, and labels (N, ...) as `labels.py` says."""
    if rule.task == "regression":
        name = rule.target or rule.path or rule.column or rule.label
        task = TaskSpec(kind="regression", labels=(name,), unit=rule.unit)
        return task, np.array([np.nan if answer is None else answer for answer in answers], dtype=np.float32)
    known = [answer for answer in answers if answer is not None]
    used = {label for answer in known for label in answer} if rule.task == "multi_label" else set(known)
    names = rule.classes or tuple(sorted(used))
    if rule.task == "multi_label":
        labels = np.zeros((len(answers), len(names)), dtype=np.uint8)
        for row, answer in enumerate(answers):
            labels[row] = UNKNOWN if answer is None else [name in answer for name in names]
        return TaskSpec(kind="multi_label", labels=names), labels
    names = names if rule.task == "classification" else rule.classes or (rule.normal,)
    numbers = {name: number for number, name in enumerate(names)}
    return TaskSpec(kind=rule.task, labels=names), np.array(
        [numbers.get(answer, -1) for answer in answers], dtype=np.int64
    )


def _rename_label(interval: Interval, rule: LabelRule) -> Interval:
    """Return an interval with the name that `rename` and `classes` give its label."""
    old = _name_of(interval.value, rule.rename)
    new = interval.value if old is None else rule.rename[old]
    return replace(interval, value=_name_of(new, rule.classes) or new)


def _name_of(label: str, names: Collection[str]) -> str | None:
    """Return the name that is a label's: 2 is also that of 2.0."""
    plain = _plain(label)
    return next((name for name in (label, plain, f"{plain}.0") if name in names), None)


def _plain(label: str) -> str:
    return re.sub(r"^(-?\d+)\.0+$", r"\1", label.strip())


def check_labels(recordings: Iterable[GridRecording], rule: LabelRule) -> None:
    """Raise DatasetError if two labels differ by case alone, or `rename` has one that does not occur."""
    seen: set[str] = set()
    spellings: dict[str, Interval] = {}
    for recording in recordings:
        for interval in _source_intervals(recording, rule) if rule.rename else ():
            several = rule.task == "multi_label"
            seen |= {_plain(label) for label in (interval.value.split(rule.separator) if several else [interval.value])}
        for interval in labelled_intervals(recording, rule) if rule.task != "regression" and not rule.classes else ():
            other = spellings.setdefault(_plain(interval.value.casefold()), interval)
            if other.value != interval.value:
                raise DatasetError(
                    f"{interval.place}: expected one spelling of a label, got {interval.value!r} and, in {other.place},"
                    f" {other.value!r}; set rename = {{{json.dumps(interval.value)} = {json.dumps(other.value)}}} under"
                    " [labels], or name both in 'classes'"
                )
    for name in rule.rename:
        if _plain(name) not in seen:
            known = ", ".join(sorted(map(repr, seen)))
            raise DatasetError(f"'labels.rename': expected labels that occur, got {name!r}; they are {known}")


def _objects(values: Sequence[Any]) -> Answers:
    answers = np.empty(len(values), dtype=object)
    answers[:] = values
    return answers


def _source_intervals(recording: GridRecording, rule: LabelRule) -> Sequence[Interval]:
    part = rule.path or (rule.label if rule.table else "")
    is_all_normal = rule.task == "normal" and not (part or rule.column or rule.files)
    if part or is_all_normal:
        text = rule.normal if is_all_normal else recording.parts.get(part, "")
        return [Interval(start_ns=_ALWAYS[0], end_ns=_ALWAYS[1], value=text, place=recording.name)]
    return recording.runs.get(rule.column, ()) if rule.column else recording.labels


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(np.float32(text)))
    except ValueError:
        return False


def _sets(recording: GridRecording, rule: LabelRule, starts_ns: Times, length_ns: int) -> Answers:
    """Return the labels that are on; None if one covers some of the window but less than its fraction."""
    given, intervals = list(_source_intervals(recording, rule)), labelled_intervals(recording, rule)
    unknown = [interval for interval in given if _name_of(interval.value, rule.ignore) is not None]
    names = sorted({interval.value for interval in intervals})
    fractions = [
        covered_ns([interval for interval in intervals if interval.value == name], starts_ns, length_ns) / length_ns
        for name in names
    ]
    hardly = 1 - rule.purity + 1e-6
    decided = covered_ns(unknown, starts_ns, length_ns) <= hardly * length_ns
    for fraction in fractions:
        decided &= (fraction >= rule.purity - 1e-6) | (fraction <= hardly)
    decided &= bool(given)  # nobody has labelled a recording without a line
    return _objects(
        [
            frozenset(name for name, covered in zip(names, fractions, strict=True) if covered[row] > hardly)
            if is_decided
            else None
            for row, is_decided in enumerate(decided.tolist())
        ]
    )


def _means(recording: GridRecording, grids: Grids, rule: LabelRule, starts_ns: Times, length_ns: int) -> Answers:
    rate_hz = next(sensor.rate_hz for sensor in grids.sensors if sensor.name == TARGET)
    begin, length = recording.first[TARGET], recording.lengths[TARGET]
    grid = grids.map_arrays()[0][TARGET][begin : begin + length]
    first = first_sample((starts_ns - recording.origin_ns) / SECOND_NS, rate_hz)
    count = max(1, round(length_ns / SECOND_NS * rate_hz))
    rows = np.stack([first, first + count])
    sums = np.diff(sums_before(grid, rows, lambda block: np.nan_to_num(block[:, 0])), axis=0)[0]
    known = np.diff(sums_before(grid, rows, lambda block: ~np.isnan(block[:, 0])), axis=0)[0]
    means, enough = sums / np.maximum(known, 1), known >= max(1, rule.purity * count - 1e-6)
    answers = _objects(means.tolist())
    answers[~enough] = None
    return answers


def read_intervals(folder: RecipeFolder, rule: LabelRule) -> list[tuple[Mapping[str, str], Interval]]:
    """Read all interval files, with their path parts. Raise DatasetError with the faulty line."""
    files = folder.files(rule.files, key="labels.files")
    if not files:
        path = folder.path / rule.files
        raise DatasetError(
            f"'labels.files': expected files, found none at {path}; correct the pattern, or set 'path', 'column' or"
            " 'table' where labels are not in files of intervals, or classes = [...] and unlabelled ="
            " 'keep' without any"
        )
    intervals: list[tuple[Mapping[str, str], Interval]] = []
    for file in files:
        start, end = TimeColumn(rule, rule.start), TimeColumn(rule, rule.end)
        for block in _interval_blocks(file.path, rule):
            starts, ends = start.read(block), end.read(block)
            matched = {part: texts(block, column, rule) for part, column in rule.match.items()}
            offset = round(rule.offset_s * SECOND_NS)
            for row, name in enumerate(texts(block, rule.label, rule)):
                place = block.place(row)
                if ends[row] <= starts[row]:
                    raise DatasetError(
                        f"{place}: expected an interval that ends after its start, got one of"
                        f" {(ends[row] - starts[row]) / SECOND_NS:g} s; correct the line"
                    )
                start_ns, end_ns = int(starts[row]) + offset, int(ends[row]) + offset
                interval = Interval(start_ns=start_ns, end_ns=end_ns, value=name, place=place)
                parts = {**file.parts, **{part: values[row] for part, values in matched.items()}}
                intervals.append((parts, interval))
    return intervals


def _interval_blocks(file: Path, rule: LabelRule) -> Iterator[RowBlock]:
    columns = list(dict.fromkeys([rule.start, rule.end, rule.label, *rule.match.values()]))
    if rule.format == "csv":
        require_columns(f"{file}:1", csv_names(file, rule), columns)
        yield from csv_blocks(file, rule, columns)
        return
    import polars as pl

    require_columns(str(file), _EXPORT_COLUMNS, columns)
    content = read_first(file, MAX_LABEL_BYTES + 1, expected="an export of Label Studio")
    items = sum(map(content.count, (b"[", b"{", b",")))  # each takes memory, however short
    if len(content) > MAX_LABEL_BYTES or items > MAX_LABEL_ITEMS:
        raise DatasetError(
            f"{file}: expected an export of at most {MAX_LABEL_BYTES:,} bytes and {MAX_LABEL_ITEMS:,} values, got more;"
            " export fewer tasks at a time"
        )
    try:
        rows = list(_label_studio(file, json.loads(content.decode("utf-8-sig")), rule))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: expected JSON, got {first_line(error)}; export the labels again") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DatasetError(
            f"{file}: expected an export of Label Studio in JSON, got one without {first_line(error)}; export it again"
        ) from error
    if rows:
        values = {name: [row[number] for _, row in rows] for number, name in enumerate(_EXPORT_COLUMNS)}
        frame = pl.DataFrame(values, strict=False)
        yield RowBlock(frame=frame, place=lambda row: f"{file}: {rows[row][0]}")


def _label_studio(file: Path, tasks: Any, rule: LabelRule) -> Iterator[_ExportRow]:
    for number, task in enumerate(tasks):
        task_place = f"task {task.get('id', number)}"
        if len(task["annotations"]) > 1:
            raise DatasetError(
                f"{file}: {task_place}: expected one annotation, got {len(task['annotations'])}; keep one in the export"
            )
        texts = [text for text in task["data"].values() if isinstance(text, str) and "." in PurePosixPath(text).name]
        name = task.get("file_upload") or (texts or [""])[0]
        recording = _UPLOAD.sub("", PurePosixPath(name.partition("?")[0]).stem), str(task["data"].get("group", ""))
        for result in (result for annotation in task["annotations"] for result in annotation["result"]):
            place, value = f"{task_place}, result {result.get('id', '')}", result["value"]
            labels = value.get(result["type"], value.get("labels"))
            if result["type"] in _OF_A_TASK and "start" in task["data"]:  # a window that this project wrote
                value = task["data"]
                labels = [str(labels)] if result["type"] == "number" else labels
            elif result["type"] in _OF_A_TASK or not isinstance(labels, list):
                continue
            if rule.task == "multi_label" and labels:
                labels = [rule.separator.join(labels)]
            if len(labels) != 1 or not isinstance(labels[0], str):
                got = ", ".join(map(str, labels)) or "none"
                raise DatasetError(f"{file}: {place}: expected one label for an interval, got {got}; keep one")
            if "ranges" not in value:
                yield place, (value["start"], value["end"], labels[0], *recording)
            for frames in value.get("ranges", ()):  # of video, in frames that count from 1
                if rule.rate_hz is None:
                    raise DatasetError(
                        f"{file}: expected 'labels.rate_hz', got none; this file counts frames, say how many a second"
                    )
                start, end = (frames["start"] - 1) / rule.rate_hz, frames["end"] / rule.rate_hz
                yield place, (start, end, labels[0], *recording)


def read_table(folder: RecipeFolder, rule: LabelRule) -> Iterator[tuple[dict[str, str], str]]:
    """Yield values and place of each line of a recordings table. Raise DatasetError if a column is missing."""
    file = folder.file(rule.table, key="labels.table")
    if not file.is_file():
        raise DatasetError(f"'labels.table': expected a file, found none at {file}; correct the name")
    names = csv_names(file, rule)
    require_columns(f"{file}:1", names, [rule.label, *(rule.match.values() or [rule.file])])
    for block in csv_blocks(file, rule, names):
        for row, values in enumerate(zip(*(texts(block, name, rule) for name in names), strict=True)):
            yield dict(zip(names, values, strict=True)), block.place(row)


def covered_ns(intervals: Sequence[Interval], starts_ns: Times, length_ns: int) -> Times:
    """Return the time (W,) that intervals cover of windows with ascending starts."""
    covered = np.zeros(len(starts_ns), dtype=np.int64)
    for interval in intervals:
        low = int(np.searchsorted(starts_ns, interval.start_ns - length_ns, side="right"))
        high = int(np.searchsorted(starts_ns, interval.end_ns, side="left"))
        starts = starts_ns[low:high]
        shared = np.minimum(starts + length_ns, interval.end_ns) - np.maximum(starts, interval.start_ns)
        covered[low:high] += np.maximum(shared, 0)
    return covered


def _touched(intervals: Sequence[Interval], starts_ns: Times, length_ns: int) -> Rows:
    """Return the windows that share time with intervals; there may be many values, each of few windows."""
    low = np.searchsorted(starts_ns, [interval.start_ns - length_ns for interval in intervals], side="right")
    high = np.searchsorted(starts_ns, [interval.end_ns for interval in intervals], side="left")
    return np.unique(np.concatenate([np.arange(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True)]))


def majority(intervals: Sequence[Interval], starts_ns: Times, length_ns: int, *, purity: float) -> Answers:
    """Return the value that covers at least this fraction, above one half, of each window, or empty text."""
    by_value: dict[str, list[Interval]] = {}
    for interval in intervals:
        by_value.setdefault(interval.value, []).append(interval)
    values, most = np.full(len(starts_ns), "", dtype=object), np.zeros(len(starts_ns), dtype=np.int64)
    # Times are rounded to the nanosecond, and so is what a window shares with an interval.
    least = max(1.0, purity * length_ns - 2 * (1 + len(intervals)))
    for value in sorted(by_value):
        rows = _touched(by_value[value], starts_ns, length_ns)
        covered = covered_ns(by_value[value], starts_ns[rows], length_ns)
        values[rows[(covered > most[rows]) & (covered >= least)]] = value
        most[rows] = np.maximum(most[rows], covered)
    return values


def split_by_column(names: npt.NDArray[np.str_], recordings: Sequence[str], rule: SplitRule) -> Rows:
    """Return the split (N,) that a column names; `recordings` (N,) are for the error."""
    splits = np.full(len(names), -1)
    for number, name in enumerate(SPLIT_NAMES):
        splits[names == name] = number
    for row in np.flatnonzero(splits < 0)[:1]:
        got = repr(str(names[row])) if names[row] else "none, or several in one window"
        raise DatasetError(
            f"{recordings[row]}: expected 'train', 'valid' or 'test' in {rule.column!r}, got {got}; correct it, or"
            " leave 'split.column' out"
        )
    return splits


def split_by_group(
    groups: npt.NDArray[np.str_], strata: Rows, rule: SplitRule, *, lost: str = ""
) -> tuple[Rows, Rows | None]:
    """Return split and fold (N,), whole groups dealt by strata (N,) or named by the rule; `lost` says why few."""
    names, group = np.unique(groups, return_inverse=True)
    least = rule.folds or len(SPLIT_NAMES)
    if len(names) < least:
        raise DatasetError(
            f"'split.group': expected {least} values of {rule.group_text} or more, got {len(names)}"
            f" ({', '.join(names.tolist())}){lost}; record more, choose another group, or leave it out to split by time"
        )
    counts = np.zeros((len(names), int(strata.max(initial=-1)) + 2))
    np.add.at(counts, (group, strata + 1), 1)
    if rule.folds is not None:
        group_folds = deal_groups(counts, np.full(rule.folds, 1 / rule.folds), seed=rule.seed)
        return np.array([_TEST, _VALID, *[_TRAIN] * (rule.folds - 2)])[group_folds][group], group_folds[group]
    group_splits = np.full(len(names), -1, dtype=np.int64)
    fractions: dict[int, float] = {}
    for number, part in ((_VALID, rule.valid), (_TEST, rule.test)):
        if isinstance(part, float | int):
            fractions[number] = float(part)
            continue
        for name in part:
            place = np.flatnonzero(names == name)
            if not len(place) or group_splits[place[0]] >= 0:
                raise DatasetError(
                    f"'split.{SPLIT_NAMES[number]}': expected values of {rule.group_text}, each in one split, got"
                    f" {name!r}; choose among {', '.join(names.tolist())}"
                )
            group_splits[place[0]] = number
    left = np.flatnonzero(group_splits < 0)
    fractions[_TRAIN] = 1 - sum(fractions.values())
    order = sorted(fractions)
    if len(left) < len(order):
        raise DatasetError(
            f"'split': expected a group that is left for train, got none; name fewer of {rule.group_text}"
        )
    parts = deal_groups(counts[left], np.array([fractions[number] for number in order]), seed=rule.seed)
    group_splits[left] = np.array(order)[parts]
    return group_splits[group], None


def split_by_time(recordings: Rows, strata: Rows, rule: SplitRule) -> Rows:
    """Split (N,) each recording and class by time: train, then valid, then test."""
    assert isinstance(rule.valid, float | int)  # the recipe's check: names need a group
    assert isinstance(rule.test, float | int)
    splits = np.zeros(len(recordings), dtype=np.int64)
    _, stratum = np.unique(np.stack([recordings, strata], axis=1), axis=0, return_inverse=True)
    for number in range(int(stratum.max(initial=-1)) + 1):
        rows = np.flatnonzero(stratum.reshape(-1) == number)
        test, valid = round(len(rows) * rule.test), round(len(rows) * rule.valid)
        splits[rows[len(rows) - test - valid :]] = _VALID
        splits[rows[len(rows) - test :]] = _TEST
    return splits


def far_apart(
    splits: Rows, recordings: Rows, starts_s: npt.NDArray[np.float64], *, least_s: float
) -> npt.NDArray[np.bool_]:
    """Return which windows stay, so that splits of one recording start at least this far apart.

    Train makes way for valid, and both for test.
    """
    keep = np.ones(len(splits), dtype=bool)
    for recording in np.unique(recordings).tolist():
        rows = np.flatnonzero(recordings == recording)
        for number in (_TEST, _VALID):
            fixed = starts_s[rows[(splits[rows] == number) & keep[rows]]]
            lower = rows[splits[rows] < number]
            if len(fixed) and len(lower):
                place = np.searchsorted(fixed, starts_s[lower])
                before = np.abs(starts_s[lower] - fixed[np.maximum(place - 1, 0)])
                after = np.abs(starts_s[lower] - fixed[np.minimum(place, len(fixed) - 1)])
                keep[lower[np.minimum(before, after) < least_s - 1e-9]] = False
    return keep
