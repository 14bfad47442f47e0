"""The full check of a dataset: every rule of docs/datasets.md, the values of the windows included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import ModalitySpec, TaskSpec, task_text
from mmkd_models.data.checking.odd_recordings import ODD_ADVICE, odd_warnings
from mmkd_models.data.checking.related import Overlaps, group_warnings, overlaps_of, place, split_problems, time_text
from mmkd_models.data.checking.scan import ModalityScan, Scan, scan_windows
from mmkd_models.data.dataset import loaded, located, windows_of
from mmkd_models.data.files import RECORDINGS, Arrays, file_of
from mmkd_models.data.kinds import windows_at_once
from mmkd_models.data.labels import Labels, absent_labels, is_labelled
from mmkd_models.data.sources import Rows
from mmkd_models.data.spec import SPLIT_NAMES, DatasetSpec, problem_message
from mmkd_models.data.windows import Windows, split_facts

_UNKNOWN = "may share people and machines with training; with groups they cannot"
_LEAST_FOLDS = 3  # train, valid and test in one fold of cross-validation
# A channel whose farthest value lies this many times beyond where 99.9 % of its values lie has a glitch, not a signal.
_GLITCH_RATIO = 10.0
_GLITCH_SHARE = 0.999
_MOST_GLITCH_VALUES = 2_000_000
_MOST_NAMED = 3
ABSENT_ADVICE = "a student of this sensor can only guess there; leave them out (cover = 'all' in a recipe)"
_FULL = 32766 / 32768  # of sound; the largest count of int16 is 32767


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What the check of a sound dataset found."""

    facts: tuple[str, ...]
    warnings: tuple[str, ...]
    has_labels: bool


def check_dataset(path: str | Path) -> CheckReport:
    """Check every rule of the dataset directory, and reads every value once.

    Raise DatasetError if the directory breaks its contract; the message lists every problem found.
    """
    path = located(path)
    spec, arrays, cut = loaded(path)
    windows = windows_of(spec, arrays, cut=cut)
    scan, overlaps = scan_windows(windows), overlaps_of(windows)
    problems = list(content_problems(windows, scan, overlaps, cut=cut))
    if problems:
        raise DatasetError(problem_message(path, problems))
    warnings = [*_unused_files(path, arrays), *group_warnings(windows, overlaps), *_warnings(windows, scan)]
    has_labels = bool(windows.labelled[split_numbers(spec) == 0].any())
    return CheckReport(facts=tuple(_facts(windows, scan)), warnings=tuple(warnings), has_labels=has_labels)


def content_problems(windows: Windows, scan: Scan, overlaps: Overlaps, *, cut: bool) -> Iterator[str]:
    """Yield a message for every rule that the windows of a dataset of sound structure break."""
    spec = windows.spec
    split_of = split_numbers(spec)
    yield from _label_problems(windows.labels[split_of == 0], spec.task)
    for name, found in scan.modalities.items():
        yield from _value_problems(name, found, split_of, cut=cut)
        if spec.modality(name).kind == "audio":
            yield from _sound_problems(name, found)
    yield from _copy_problems(windows, scan, split_of)
    yield from split_problems(windows, overlaps)
    folds = [] if windows.folds is None else np.unique(windows.folds).tolist()
    if windows.folds is not None and len(folds) < _LEAST_FOLDS:
        yield f"folds: expected {_LEAST_FOLDS} or more, got {len(folds)}; deal the groups into more, or leave them out"


def _label_problems(labels: Labels, task: TaskSpec) -> Iterator[str]:
    """What the labels of train lack; without it nothing can be learnt."""
    known = labels[is_labelled(labels)]
    if len(known) == 0:  # a new machine's, which nobody has labelled yet: what needs labels refuses it
        return
    if task.kind == "regression":
        if len(np.unique(known)) < 2:
            yield (
                f"target {task.labels[0]!r}: expected two different numbers or more in train, got one or none;"
                " move groups, or label more"
            )
        return
    for number, name in enumerate(task.labels):
        if task.kind == "classification" and not (known == number).any():
            yield f"class {name!r} ({number}) has no window in train; move a group that has it, or remove the class"
        elif task.kind == "multi_label" and len(np.unique(known[:, number])) < 2:
            state = "on" if known[:, number].any() else "off"
            yield (
                f"label {name!r} ({number}) is {state} in every labelled window of train, which teaches nothing;"
                " move groups, or remove the label"
            )


def split_numbers(spec: DatasetSpec) -> Rows:
    """Return int64 (N,): 0 train, 1 valid, 2 test for every window of `Dataset.everything()`."""
    return np.repeat(np.arange(len(SPLIT_NAMES)), [spec.splits[split] for split in SPLIT_NAMES])


def _value_problems(name: str, found: ModalityScan, split_of: Rows, *, cut: bool) -> Iterator[str]:
    for number, split in enumerate(SPLIT_NAMES):
        infinite = found.infinite[split_of == number]
        if infinite.any():
            where = f"{RECORDINGS}/{name}.npy: in windows of {split}" if cut else f"{split}/{name}.npy"
            values, windows = _counted(infinite.sum(), "infinite value"), _counted((infinite > 0).sum(), "window")
            first = int(np.flatnonzero(infinite)[0])
            yield (
                f"{where}: {values} in {windows}, the first in window {first};"
                " expected numbers or NaN for missing: store NaN"
            )
    if (found.unusable[split_of == 0] == found.values).all():
        yield f"modality {name!r} has no valid value in train; correct its values or its range, or leave it out"


def _sound_problems(name: str, found: ModalityScan) -> Iterator[str]:
    low, high = float(np.fmin.reduce(found.low)), float(np.fmax.reduce(found.high))
    if max(-low, high) > 1:
        yield (
            f"modality {name!r}: expected sound from -1 to 1, got {low:g} to {high:g}; divide it by its full scale,"
            " 32768 of 16 bits, or clip it"
        )


def _copy_problems(windows: Windows, scan: Scan, split_of: Rows) -> Iterator[str]:
    first_seen: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []
    for row, digest in enumerate(scan.digests):
        if not digest:
            continue
        first = first_seen.setdefault(digest, row)
        if split_of[first] != split_of[row]:
            copies.append((first, row))
    if copies:
        first, row = copies[0]
        yield (
            f"{place(windows, first)} and {place(windows, row)} are the same window ({len(copies)} in all);"
            " splits must not share windows: remove the copies or give both one group"
        )


def _facts(windows: Windows, scan: Scan) -> Iterator[str]:
    spec = windows.spec
    counts = ", ".join(f"{split} {spec.splits[split]}" for split in SPLIT_NAMES)
    yield f"{len(windows)} windows: {counts}"
    if spec.left_out:
        yield f"left out at import: {left_out_text(spec)}"
    if windows.has_groups:
        yield f"{windows.group_count} groups, none in two splits"
    else:
        yield f"no groups: scores are of {split_facts(windows).judged_on.partition(';')[0]}, which {_UNKNOWN}"
    if windows.folds is not None:
        yield f"{len(np.unique(windows.folds))} folds of whole groups"
    if windows.metadata:
        yield f"metadata: {metadata_text(windows)}"
    if windows.times is not None:
        yield f"times: {times_text(windows.times)}"
    unlabelled = _counted((~windows.labelled).sum(), "unlabelled window")
    yield f"{_task_fact(windows)}; {unlabelled}"
    for name, found in scan.modalities.items():
        total = found.values * len(windows)
        noun = "frames" if spec.modality(name).kind == "video" else "values"
        text = f"{name}: {_percent(int(found.unusable.sum()), total)} of the {noun} missing"
        whole = int((found.unusable == found.values).sum())
        text += f", {_counted(whole, 'window')} without any {noun[:-1]}"
        outside = int(found.outside.sum())
        yield text + (f", {_counted(outside, 'value')} outside the range" if outside else "")


def metadata_text(windows: Windows) -> str:
    """Return the metadata and how many values each has: `machine (3 values), shift (2 values)`."""
    return ", ".join(
        f"{name} ({_counted(len(np.unique(values)), 'value')})" for name, values in windows.metadata.items()
    )


def times_text(times: npt.NDArray[np.float64]) -> str:
    """Return the first and the last start of a window: `2026-11-02T06:00:00Z to 2026-11-06T21:59:58Z`."""
    return f"{time_text(float(times.min()))} to {time_text(float(times.max()))}"


def _task_fact(windows: Windows) -> str:
    task = windows.spec.task
    known = windows.labels[windows.labelled]
    if not len(known):
        return f"{task_text(task)}, no window has a label"
    match task.kind:
        case "classification":
            return f"{len(task.labels)} classes, all in train"
        case "multi_label":
            return f"{len(task.labels)} labels, {known.sum(axis=1).mean():.2f} of them on in a window on average"
        case "regression":
            return f"target {task.labels[0]}: {known.min():g} to {known.max():g}{task.unit_text}"


def _unused_files(path: Path, arrays: Arrays) -> Iterator[str]:
    read = set(map(file_of, arrays))
    for file in sorted([*path.rglob("*.npy"), *path.rglob("*.npz")]):
        name = file.relative_to(path).as_posix()
        if name not in read:
            yield f"{name}: this file is not used; describe it in dataset.json or remove it"


def _warnings(windows: Windows, scan: Scan) -> Iterator[str]:
    spec = windows.spec
    split_of = split_numbers(spec)
    for number, split in enumerate(SPLIT_NAMES[1:], start=1):
        absent = absent_labels(spec.task, windows.labels[(split_of == number) & windows.labelled])
        if absent:
            yield f"{split} has no window of {', '.join(absent)}: its scores say nothing about them"
    for modality in spec.modalities:
        found = scan.modalities[modality.name]
        for channel, (low, high) in enumerate(zip(found.low, found.high, strict=True)):
            if low == high:
                name = modality.channels[channel]
                yield f"{modality.name}: channel {name} is always {low:g}: it carries no information"
        if modality.kind == "audio":
            yield from _clipped(windows, modality)
        if modality.range is None and modality.kind == "series":
            yield from _glitches(windows, modality_name=modality.name)
        yield from (f"{text}: {ABSENT_ADVICE}" for text in absent_warnings(windows, modality.name, found))
    yield from (f"{text}; {ODD_ADVICE}" for text in odd_warnings(windows, scan))


def left_out_text(spec: DatasetSpec) -> str:
    """What an import left out and why: `9 windows without a value of temp`; empty if nothing."""
    return ", ".join(f"{_counted(count, 'window')} {reason}" for reason, count in (spec.left_out or {}).items())


def absent_warnings(windows: Windows, name: str, found: ModalityScan) -> Iterator[str]:
    """Yield a sentence if a sensor has no value in some windows, with the groups where it has fewest."""
    absent = found.unusable == found.values
    if not absent.any():
        return
    where = ""
    if windows.has_groups:
        groups, counts = np.unique(windows.groups[absent], return_counts=True)
        most = [groups[number].item() for number in np.argsort(-counts, kind="stable")[:_MOST_NAMED]]
        more = f" and {len(groups) - len(most)} more" if len(groups) > len(most) else ""
        where = f", in {'group' if len(groups) == 1 else 'groups'} {', '.join(map(repr, most))}{more}"
    yield f"{name}: no value in {_counted(int(absent.sum()), 'window')} of {len(windows)} ({absent.mean():.1%}){where}"


def _clipped(windows: Windows, modality: ModalitySpec) -> Iterator[str]:
    """Sound that was recorded too loud: runs of samples at the largest value there can be."""
    count = 0
    block = windows_at_once(modality)
    for start in range(0, len(windows), block):
        values = windows.source.gather(modality, windows.rows[start : start + block], shift_s=None)
        full = np.abs(values) >= _FULL
        count += int((full[:, 1:] & full[:, :-1]).any(axis=(1, 2)).sum())
    if count:
        yield (
            f"{modality.name}: {_counted(count, 'window')} of {len(windows)} with clipped sound, two samples or more in"
            " a row at full scale: record with less gain"
        )


def _glitches(windows: Windows, *, modality_name: str) -> Iterator[str]:
    modality = windows.spec.modality(modality_name)
    step = max(1, len(windows) * modality.samples * len(modality.channels) // _MOST_GLITCH_VALUES)
    values = windows.source.gather(modality, windows.rows[::step], shift_s=None)
    flat = values.reshape(-1, len(modality.channels))
    for channel, name in enumerate(modality.channels):
        column = flat[~np.isnan(flat[:, channel]), channel].astype(np.float64)
        if not len(column):
            continue
        distance = np.abs(column - np.median(column))
        usual = float(np.quantile(distance, _GLITCH_SHARE))
        if distance.max() > _GLITCH_RATIO * usual > 0:
            yield (
                f"{modality_name}: channel {name} reaches {column[int(distance.argmax())]:g}, but 99.9 % of its values"
                f" are within {usual:g} of {np.median(column):g}: set its 'range' if that is a glitch"
            )


def _counted(count: int | np.int64, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.2f} %" if count else "none"
