"""Window starts, labels and facts of a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.checking.related import time_text
from mmkd_models.data.folds import deal_groups
from mmkd_models.data.importing.cutting.labels import Answers, as_numbers, labelled_intervals, majority, window_answers
from mmkd_models.data.importing.recipe import ImportRecipe, SplitRule, WindowRule
from mmkd_models.data.importing.recording import SECOND_NS, Interval, Times
from mmkd_models.data.importing.timing.grids import GridRecording, Grids, sums_before
from mmkd_models.data.spec import SPLIT_NAMES
from mmkd_models.data.windows import Rows, first_sample, latest_start_s, window_starts_s

_HARDLY = 1e-6  # of a sample
_WHOLE = 1 - 1e-6  # of a window: one value from its start to its end, roundings aside


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """Windows (W,) of one recording in order of time; `starts_s` counts from its grids' origin."""

    starts_s: npt.NDArray[np.float64]
    answers: Answers
    facts: Mapping[str, npt.NDArray[np.object_]]
    left_out: Counter[str]


def most_windows(recording: GridRecording, modalities: Sequence[ModalitySpec], windows: WindowRule) -> int:
    """Return an upper bound of a recording's windows."""
    if windows.at == "intervals":
        return len(recording.labels) + sum(map(len, recording.runs.values()))
    latest_s = latest_start_s([recording.lengths[modality.name] for modality in modalities], modalities)
    return int(max(0.0, latest_s) / windows.hop_s) + 2


def cut(recording: GridRecording, grids: Grids, modalities: Sequence[ModalitySpec], recipe: ImportRecipe) -> Cut:
    """Plan the windows of a recording. Raise DatasetError if labels overlap or are unknown, or a group is missing."""
    labels, windows, split, origin_ns = recipe.labels, recipe.windows, recipe.split, recording.origin_ns
    lengths = [recording.lengths[modality.name] for modality in modalities]
    left_out: Counter[str] = Counter()
    length_ns = round(windows.length_s * SECOND_NS)
    if windows.at == "intervals":
        intervals = labelled_intervals(recording, labels)
        starts_s, answers = _centre_windows(intervals, lengths, modalities, origin_ns=origin_ns, length_ns=length_ns)
        answers = as_numbers(answers) if labels.task == "regression" else answers
        left_out["beyond the recording"] += len(intervals) - len(starts_s)
    else:
        starts_s = np.array(window_starts_s(lengths, modalities, hop_s=windows.hop_s), dtype=np.float64)
    starts_ns = origin_ns + np.rint(starts_s * SECOND_NS).astype(np.int64)
    if windows.at == "stride":
        answers = window_answers(recording, grids, labels, starts_ns, length_ns)
    names = dict.fromkeys(name for name in (*windows.metadata, split.group, split.column) if name)
    facts = {name: _fact(recording, name, starts_ns, length_ns) for name in names}
    has_value = _find_filled(recording, grids, modalities, starts_s)
    reasons = {"without any value": ~has_value.any(axis=1)}
    if windows.cover == "all":
        reasons |= {
            f"without a value of {modality.name}": ~has_value[:, number] for number, modality in enumerate(modalities)
        }
    if split.group:
        at_start = _fact(recording, split.group, starts_ns, 2)
        _refuse_no_group(recording, split.group, at_start, starts_ns)
        reasons[f"with more than one {split.group}"] = facts[split.group] == ""
    if labels.unlabelled == "drop":
        reasons["without a label"] = np.array([answer is None for answer in answers], dtype=bool)
    keep = np.ones(len(starts_s), dtype=bool)
    for reason, mask in reasons.items():
        left_out[reason] += int((keep & mask).sum())
        keep &= ~mask
    facts = {name: values[keep] for name, values in facts.items()}
    return Cut(starts_s=starts_s[keep], answers=answers[keep], facts=facts, left_out=left_out)


def _centre_windows(
    intervals: Sequence[Interval],
    lengths: Sequence[int],
    modalities: Sequence[ModalitySpec],
    *,
    origin_ns: int,
    length_ns: int,
) -> tuple[npt.NDArray[np.float64], Answers]:
    """Return starts (W,) in seconds and labels (W,) of a window in the middle of each interval.

    Windows start on a sample of the slowest sensor, so that all sensors begin together, and are moved inside the
    recording. One that then misses the middle of its interval is left out.
    """
    end_s = min(length / modality.rate_hz for length, modality in zip(lengths, modalities, strict=True))
    slowest_hz = min(modality.rate_hz for modality in modalities)
    latest_s, length_s = latest_start_s(lengths, modalities), length_ns / SECOND_NS
    starts, labels = [], []
    for interval in intervals:
        begin_s, stop_s = (interval.start_ns - origin_ns) / SECOND_NS, (interval.end_ns - origin_ns) / SECOND_NS
        if stop_s <= 0 or begin_s >= end_s:
            raise DatasetError(
                f"{interval.place}: expected an interval inside the recording, where all sensors last {end_s:.4g} s,"
                f" got {begin_s:g} to {stop_s:g} s from its start; correct the line, or 'time_unit'; where a sensor"
                " stopped, cover = 'any'"
            )
        middle_s = (begin_s + stop_s) / 2
        best_s = round((middle_s - length_s / 2) * slowest_hz) / slowest_hz
        start_s = min(max(best_s, 0.0), np.floor(latest_s * slowest_hz + _HARDLY) / slowest_hz)
        if latest_s >= 0 and start_s <= middle_s <= start_s + length_s:
            starts.append(start_s)
            labels.append(interval.value)
    return np.array(starts, dtype=np.float64), np.array(labels, dtype=object)


def _fact(recording: GridRecording, name: str, starts_ns: Times, length_ns: int) -> npt.NDArray[np.object_]:
    """Return a part of the path, or a column's value; empty if it changes in the window."""
    if name in recording.parts:
        return np.full(len(starts_ns), recording.parts[name], dtype=object)
    runs = [run for run in recording.runs.get(name, ()) if run.value]
    return majority(runs, starts_ns, length_ns, purity=_WHOLE)


def _refuse_no_group(recording: GridRecording, group: str, at_start: npt.NDArray[np.object_], starts_ns: Times) -> None:
    missing = np.flatnonzero(at_start == "")
    if len(missing):
        start_ns = int(starts_ns[missing[0]])
        when = time_text(start_ns / SECOND_NS, "milliseconds") if recording.is_utc else f"{start_ns / SECOND_NS:g} s"
        raise DatasetError(
            f"{recording.name}: expected a value of {group!r}, the group, for every window, got none at {when}"
            f" ({len(missing)} such); fill it in, or choose another 'split.group'"
        )


def _find_filled(
    recording: GridRecording, grids: Grids, modalities: Sequence[ModalitySpec], starts_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return (W, M) whether each sensor has a value."""
    has_value = np.zeros((len(starts_s), len(modalities)), dtype=bool)
    samples, present = grids.map_arrays()
    for number, modality in enumerate(modalities):
        begin, length = recording.first[modality.name], recording.lengths[modality.name]
        grid = (present if modality.kind == "video" else samples)[modality.name][begin : begin + length]
        first = first_sample(starts_s, modality.rate_hz)
        counts = sums_before(
            grid,
            np.stack([first, first + modality.samples]),
            lambda block: block == 1 if block.ndim == 1 else (~np.isnan(block)).any(axis=1),
        )
        has_value[:, number] = counts[1] > counts[0]
    return has_value


_TRAIN, _VALID, _TEST = range(3)


def split_by_group(groups: npt.NDArray[np.str_], strata: Rows, rule: SplitRule) -> tuple[Rows, Rows | None]:
    """Return split and fold (N,), whole groups dealt by strata (N,) or named by the rule."""
    names, group = np.unique(groups, return_inverse=True)
    least = rule.folds or len(SPLIT_NAMES)
    if len(names) < least:
        raise DatasetError(
            f"'split.group': expected {least} values of {rule.group!r} or more, got {len(names)}"
            f" ({', '.join(names.tolist())}); record more, choose another group, or leave it out to split by time"
        )
    counts = np.zeros((len(names), int(strata.max(initial=-1)) + 2))
    np.add.at(counts, (group, strata + 1), 1)
    if rule.folds is not None:
        group_folds = deal_groups(counts, np.full(rule.folds, 1 / rule.folds), seed=rule.seed)
        return np.array([_TEST, _VALID, *[_TRAIN] * (rule.folds - 2)])[group_folds][group], group_folds[group]
    return _split_groups(names, counts, rule)[group], None


def _split_groups(names: npt.NDArray[np.str_], counts: npt.NDArray[np.float64], rule: SplitRule) -> Rows:
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
                    f"'split.{SPLIT_NAMES[number]}': expected values of {rule.group!r}, each in one split, got"
                    f" {name!r}; choose among {', '.join(names.tolist())}"
                )
            group_splits[place[0]] = number
    left = np.flatnonzero(group_splits < 0)
    fractions[_TRAIN] = 1 - sum(fractions.values())
    order = sorted(fractions)
    if len(left) < len(order):
        raise DatasetError(f"'split': expected a group that is left for train, got none; name fewer of {rule.group!r}")
    parts = deal_groups(counts[left], np.array([fractions[number] for number in order]), seed=rule.seed)
    group_splits[left] = np.array(order)[parts]
    return group_splits


def named_splits(names: Sequence[str], recordings: Sequence[str], *, column: str) -> Rows:
    """Return splits (N,) by name. Raise DatasetError if one is not train, valid or test."""
    for name, recording in zip(names, recordings, strict=True):
        if name not in SPLIT_NAMES:
            got = repr(name) if name else "none, or several in one window"
            raise DatasetError(
                f"{recording}: expected 'train', 'valid' or 'test' in {column!r}, got {got}; correct it, or leave"
                " 'split.column' out"
            )
    numbers = {str(name): number for number, name in enumerate(SPLIT_NAMES)}
    return np.array([numbers[name] for name in names], dtype=np.int64)


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
