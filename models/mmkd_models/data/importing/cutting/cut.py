"""Windows of recordings on their grids: where each starts, its label and facts, and which are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.importing.cutting.labels import Answers, as_numbers, labelled_intervals, majority, window_answers
from mmkd_models.data.importing.recipe import LabelRule, SplitRule, WindowRule
from mmkd_models.data.importing.recording import SECOND_NS, Interval, Times
from mmkd_models.data.importing.timing.clock import time_text
from mmkd_models.data.importing.timing.grids import GridRecording, Grids, sums_before
from mmkd_models.data.sources import first_sample, latest_start_s, window_starts_s

_HARDLY = 1e-6  # of a sample
_WHOLE = 1 - 1e-6  # of a window: one value from its start to its end, roundings aside


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """The windows (W,) of one recording, in order of time.

    Attributes:
        starts_s: seconds from the origin of the recording's grids.
        facts: by part of the path or column: metadata, group and split; empty if the value changes.
    """

    starts_s: npt.NDArray[np.float64]
    answers: Answers
    facts: Mapping[str, npt.NDArray[np.object_]]
    left_out: Counter[str]


def most_windows(recording: GridRecording, modalities: Sequence[ModalitySpec], windows: WindowRule) -> int:
    """Return the largest number of windows that a recording may have, before any is planned."""
    if windows.at == "intervals":
        return len(recording.labels) + sum(map(len, recording.runs.values()))
    latest_s = latest_start_s([recording.lengths[modality.name] for modality in modalities], modalities)
    return int(max(0.0, latest_s) / windows.hop_s) + 2


def cut(
    recording: GridRecording,
    grids: Grids,
    modalities: Sequence[ModalitySpec],
    *,
    labels: LabelRule,
    windows: WindowRule,
    split: SplitRule,
) -> Cut:
    """Plan the windows of a recording. Raise DatasetError if labels overlap or are unknown, or a group is missing."""
    origin_ns = recording.origin_ns
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
    """Return the starts (W,) in seconds and labels (W,) of a window in the middle of each interval.

    A window starts on a sample of the slowest sensor, so that all sensors begin at one moment, and is moved into the
    recording if it would reach beyond an end. One that then misses the middle of its interval is left out.
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
    """Return a part of the path, or the value of a column; an empty text if it changes in the window."""
    if name in recording.parts:
        return np.full(len(starts_ns), recording.parts[name], dtype=object)
    runs = [run for run in recording.runs.get(name, ()) if run.value]
    return majority(runs, starts_ns, length_ns, purity=_WHOLE)


def _refuse_no_group(recording: GridRecording, group: str, at_start: npt.NDArray[np.object_], starts_ns: Times) -> None:
    missing = np.flatnonzero(at_start == "")
    if len(missing):
        start_ns = int(starts_ns[missing[0]])
        when = time_text(start_ns) if recording.is_utc else f"{start_ns / SECOND_NS:g} s"
        raise DatasetError(
            f"{recording.name}: expected a value of {group!r}, the group, for every window, got none at {when}"
            f" ({len(missing)} such); fill it in, or choose another 'split.group'"
        )


def _find_filled(
    recording: GridRecording, grids: Grids, modalities: Sequence[ModalitySpec], starts_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return (W, M) whether each sensor has a value in the window."""
    has_value = np.zeros((len(starts_s), len(modalities)), dtype=bool)
    samples, present = grids.mapped()
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
