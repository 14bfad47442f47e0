"""Recordings become a dataset directory: onto grids, cut into windows, split, written. All or nothing.

Owns the order of these steps. The grids lie in a scratch folder beside the directory, so that memory holds one
recording and one block of windows, whatever the size of the whole.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data.checking.scan import scan_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.cut import Cut, cut
from mmkd_models.data.importing.deal import Dealt, apart, deal_by_time, deal_groups
from mmkd_models.data.importing.recipe import (
    DatasetFacts,
    LabelRule,
    SplitRule,
    WindowRule,
    refuse,
    split_rule_problems,
    window_problems,
)
from mmkd_models.data.importing.recorded import Recorded, Sensor
from mmkd_models.data.importing.regular import on_grid
from mmkd_models.data.importing.series import SECOND_NS, Floats
from mmkd_models.data.sources import CutWindows, Rows, latest_start_s
from mmkd_models.data.spec import SPLIT_NAMES, DatasetSpec
from mmkd_models.data.windows import Windows
from mmkd_models.data.writer import check_absent, write_dataset

_BLOCK_WINDOWS = 256


@dataclass(frozen=True, kw_only=True)
class BuiltReport:
    """A dataset that was made of recordings.

    Attributes:
        dataset: where it is; gone again where it was only tried.
        left_out: how many windows are not in it, by reason.
        absent: sensors that were not there, as `recording: sensor`.
        has_times: whether windows know when they start.
    """

    dataset: Dataset
    recordings: int
    left_out: Mapping[str, int]
    absent: tuple[str, ...]
    has_times: bool
    classes: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _OnGrid:
    """One recording whose samples lie in the scratch files."""

    name: str
    origin_ns: int
    is_utc: bool
    lengths: tuple[int, ...]
    cut: Cut


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """What is known of every window, (N,) each, in order of recordings and time."""

    recording: Rows
    starts_s: npt.NDArray[np.float64]
    labels: Rows
    groups: npt.NDArray[np.str_] | None
    columns: Mapping[str, npt.NDArray[np.str_]]
    dealt: Dealt

    def subset(self, keep: npt.NDArray[np.bool_]) -> _Plan:
        folds = self.dealt.folds
        return _Plan(
            recording=self.recording[keep],
            starts_s=self.starts_s[keep],
            labels=self.labels[keep],
            groups=None if self.groups is None else self.groups[keep],
            columns={name: values[keep] for name, values in self.columns.items()},
            dealt=Dealt(splits=self.dealt.splits[keep], folds=None if folds is None else folds[keep]),
        )


def import_recordings(
    path: str | Path,
    recordings: Iterable[Recorded],
    *,
    sensors: Sequence[Sensor],
    windows: WindowRule,
    labels: LabelRule | None = None,
    split: SplitRule | None = None,
    facts: DatasetFacts | None = None,
) -> BuiltReport:
    """Makes a dataset directory of recordings, whatever they were read from.

    Args:
        recordings: one after the other; each is let go before the next is asked for.
        sensors: every sensor, also one that some recordings lack.
        labels: None takes the intervals of each recording.
        split: None splits each recording by time.

    Raises:
        DatasetError: recordings break a rule; nothing is written.
        UsageError: `path` exists, or an argument is wrong.
    """
    path = Path(path)
    check_absent(path)
    labels, split = labels or LabelRule(), split or SplitRule()
    refuse(
        "import_recordings",
        [
            *(f"'windows.{text}" for text in window_problems(windows)),
            *(f"'split.{text}" for text in split_rule_problems(split)),
        ],
    )
    modalities = [sensor.modality(windows.length_s) for sensor in sensors]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
        scratch = Path(name)
        absent: list[str] = []
        grids = _Grids(scratch, sensors, windows)
        with grids:
            done = [
                _gridded(recorded, grids, modalities, labels=labels, windows=windows, group=split.group, absent=absent)
                for recorded in recordings
            ]
        left_out: Counter[str] = Counter()
        for one in done:
            left_out.update(one.cut.left_out)
        classes = labels.classes or tuple(sorted({label for one in done for label in one.cut.labels if label}))
        plan = _planned(done, classes, split)
        source = _source(scratch, done, modalities, plan, hop_s=windows.hop_s)
        plan, source = _leaks_removed(plan, source, modalities, windows, split, left_out)
        plan, source = _only_train_unlabelled(plan, source, left_out)
        is_utc = all(one.is_utc for one in done)
        arrays = _arrays(scratch, plan, source, modalities, done, is_utc=is_utc)
        dataset = write_dataset(
            path,
            name=(facts.name if facts else "") or path.name,
            labels=TaskSpec(labels=classes),
            modalities=modalities,
            splits=arrays,
            source=facts.source if facts else "",
            licence=facts.licence if facts else "",
        )
    return BuiltReport(
        dataset=dataset,
        recordings=len(done),
        left_out={reason: count for reason, count in left_out.items() if count},
        absent=tuple(absent),
        has_times=is_utc,
        classes=_class_counts(plan, classes),
    )


class _Grids:
    """The samples of all recordings at the dataset's rates, end to end, one scratch file a sensor."""

    def __init__(self, scratch: Path, sensors: Sequence[Sensor], windows: WindowRule) -> None:
        self.sensors = sensors
        self._cover = windows.cover
        self._files = {sensor.name: (scratch / f"{sensor.name}.grid").open("wb") for sensor in sensors}

    def span_ns(self, recorded: Recorded) -> tuple[int, int]:
        """The first and the last moment of the grids: while all sensors record, or while any does."""
        there = [series for one in recorded.series.values() for series in one if len(series)]
        if not there:
            raise DatasetError(f"{recorded.name}: expected samples, got none; remove the recording")
        # Channels of one sensor that report on change begin when they like: a sensor is there while any of them is.
        firsts = [min(int(s.times[0]) for s in one if len(s)) for one in recorded.series.values() if any(map(len, one))]
        lasts = [max(int(s.times[-1]) for s in one if len(s)) for one in recorded.series.values() if any(map(len, one))]
        return (max(firsts), min(lasts)) if self._cover == "all" else (min(firsts), max(lasts))

    def place(self, recorded: Recorded, first_ns: int, last_ns: int) -> dict[str, Floats]:
        """Gives the grid of each sensor (L, C); one that was absent is NaN throughout."""
        found: dict[str, Floats] = {}
        for sensor in self.sensors:
            seconds = max(0, last_ns - first_ns) / SECOND_NS
            count = int(np.floor(seconds * sensor.rate_hz + 1e-3)) + 1
            parts = [
                on_grid(
                    series,
                    origin_ns=first_ns,
                    rate_hz=sensor.rate_hz,
                    count=count,
                    how=sensor.resample,
                    native_hz=sensor.own_hz,
                    max_gap_s=sensor.gap_s,
                    hold_s=sensor.hold_s,
                )
                for series in recorded.series.get(sensor.name, ())
            ]
            empty = np.full((count, len(sensor.channels)), np.nan, dtype=np.float32)
            found[sensor.name] = np.concatenate(parts, axis=1) if parts else empty
            if found[sensor.name].shape[1] != len(sensor.channels):
                raise UsageError(
                    f"{recorded.name}: sensor {sensor.name!r}: expected {len(sensor.channels)} channels,"
                    f" got {found[sensor.name].shape[1]}; give one column for each"
                )
        return found

    def append(self, grids: Mapping[str, Floats]) -> None:
        """Adds the grids of one recording at the end of the files."""
        for name, grid in grids.items():
            self._files[name].write(np.ascontiguousarray(grid).data)

    def __enter__(self) -> _Grids:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()


def _gridded(
    recorded: Recorded,
    grids: _Grids,
    modalities: Sequence[ModalitySpec],
    *,
    labels: LabelRule,
    windows: WindowRule,
    group: str,
    absent: list[str],
) -> _OnGrid:
    for name in recorded.series:
        if name not in {sensor.name for sensor in grids.sensors}:
            raise UsageError(
                f"{recorded.name}: sensor {name!r}: expected one of 'sensors', got another; describe it there"
            )
    first_ns, last_ns = grids.span_ns(recorded)
    placed = grids.place(recorded, first_ns, last_ns)
    absent += [f"{recorded.name}: {sensor.name}" for sensor in grids.sensors if not recorded.series.get(sensor.name)]
    found = cut(recorded, placed, modalities, origin_ns=first_ns, labels=labels, windows=windows, group=group)
    grids.append(placed)
    return _OnGrid(
        name=recorded.name,
        origin_ns=first_ns,
        is_utc=recorded.is_utc,
        lengths=tuple(len(placed[modality.name]) for modality in modalities),
        cut=found,
    )


def _planned(done: Sequence[_OnGrid], classes: Sequence[str], split: SplitRule) -> _Plan:
    if not any(len(one.cut.starts_s) for one in done):
        reasons = Counter[str]()
        for one in done:
            reasons.update(one.cut.left_out)
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        raise DatasetError(
            f"'windows': expected windows, got none{f' ({told})' if told else ''};"
            " shorten 'length_s', or look at the times of sensors and labels"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers.get(label, -1) for one in done for label in one.cut.labels], dtype=np.int64)
    recording = np.repeat(np.arange(len(done)), [len(one.cut.starts_s) for one in done])
    groups = None
    if split.group:
        groups = np.array(
            [name for one in done for name in (one.cut.groups if one.cut.groups is not None else ())], dtype=np.str_
        )
    return _Plan(
        recording=recording,
        starts_s=np.concatenate([one.cut.starts_s for one in done]),
        labels=labels,
        groups=groups,
        columns={
            name: np.array([value for one in done for value in one.cut.columns[name]], dtype=np.str_)
            for name in done[0].cut.columns
        },
        dealt=deal_by_time(recording, labels, split) if groups is None else deal_groups(groups, labels, split),
    )


def _source(
    scratch: Path, done: Sequence[_OnGrid], modalities: Sequence[ModalitySpec], plan: _Plan, *, hop_s: float
) -> CutWindows:
    lengths = np.array([one.lengths for one in done], dtype=np.int64)  # (R, M)
    return CutWindows(
        samples={
            modality.name: np.memmap(
                scratch / f"{modality.name}.grid",
                dtype=np.float32,
                mode="r",
                shape=(int(lengths[:, number].sum()), len(modality.channels)),
            )
            for number, modality in enumerate(modalities)
        },
        scale={},
        offsets={
            modality.name: np.cumsum(lengths[:, number]) - lengths[:, number]
            for number, modality in enumerate(modalities)
        },
        lengths={modality.name: lengths[:, number] for number, modality in enumerate(modalities)},
        recording=plan.recording,
        start_s=plan.starts_s,
        latest_start_s=np.array([latest_start_s(row, modalities) for row in lengths.tolist()]),
        hop_s=hop_s,
    )


def _leaks_removed(
    plan: _Plan,
    source: CutWindows,
    modalities: Sequence[ModalitySpec],
    windows: WindowRule,
    split: SplitRule,
    left_out: Counter[str],
) -> tuple[_Plan, CutWindows]:
    """Without windows that share time, or if so wished values, with those of a higher split."""
    least_s = windows.length_s + split.gap_s
    keep = apart(plan.dealt.splits, plan.recording, plan.starts_s, least_s=least_s)
    left_out["between splits"] += int((~keep).sum())
    plan, source = plan.subset(keep), _rows_of(source, keep)
    if split.drop_copies:
        keep = ~_copies(plan, source, modalities)
        left_out["equal to one of another split"] += int((~keep).sum())
        plan, source = plan.subset(keep), _rows_of(source, keep)
    return plan, source


def _rows_of(source: CutWindows, keep: npt.NDArray[np.bool_]) -> CutWindows:
    return replace(source, recording=source.recording[keep], start_s=source.start_s[keep])


def _copies(plan: _Plan, source: CutWindows, modalities: Sequence[ModalitySpec]) -> npt.NDArray[np.bool_]:
    """Which windows hold the values of one in a higher split: test before valid before train."""
    count = len(plan.labels)
    windows = Windows(
        spec=DatasetSpec(
            name="", task=TaskSpec(labels=()), modalities=tuple(modalities), splits=dict.fromkeys(SPLIT_NAMES, 0)
        ),
        labels=plan.labels,
        groups=plan.recording,
        has_groups=False,
        splits=plan.dealt.splits,
        folds=None,
        source=source,
        rows=np.arange(count),
    )
    digests = scan_windows(windows).digests
    highest: dict[bytes, int] = {}
    for digest, number in zip(digests, plan.dealt.splits.tolist(), strict=True):
        highest[digest] = max(number, highest.get(digest, 0))
    return np.array(
        [bool(digest) and number < highest[digest] for digest, number in zip(digests, plan.dealt.splits, strict=True)]
    )


def _only_train_unlabelled(plan: _Plan, source: CutWindows, left_out: Counter[str]) -> tuple[_Plan, CutWindows]:
    keep = (plan.labels >= 0) | (plan.dealt.splits == 0)
    left_out["without a label in valid or test"] += int((~keep).sum())
    return plan.subset(keep), _rows_of(source, keep)


def _arrays(
    scratch: Path,
    plan: _Plan,
    source: CutWindows,
    modalities: Sequence[ModalitySpec],
    done: Sequence[_OnGrid],
    *,
    is_utc: bool,
) -> dict[str, dict[str, AnyArray | dict[str, AnyArray]]]:
    origins_s = np.array([one.origin_ns for one in done], dtype=np.float64) / SECOND_NS
    found: dict[str, dict[str, AnyArray | dict[str, AnyArray]]] = {}
    for number, split in enumerate(SPLIT_NAMES):
        rows = np.flatnonzero(plan.dealt.splits == number)
        part: dict[str, AnyArray | dict[str, AnyArray]] = {
            modality.name: _stored(scratch / f"{split}-{modality.name}.npy", source, modality, rows)
            for modality in modalities
        }
        part["labels"] = plan.labels[rows]
        part["episodes"] = plan.recording[rows]
        if plan.groups is not None:
            part["groups"] = plan.groups[rows]
        if plan.dealt.folds is not None:
            part["folds"] = plan.dealt.folds[rows]
        if is_utc:
            part["times"] = origins_s[plan.recording[rows]] + plan.starts_s[rows]
        if plan.columns:
            part["columns"] = {name: values[rows] for name, values in plan.columns.items()}
        found[split] = part
    return found


def _stored(file: Path, source: CutWindows, modality: ModalitySpec, rows: Rows) -> AnyArray:
    """The windows of these rows (N, T, C), in a scratch file that is mapped."""
    if not len(rows):
        return np.zeros((0, *modality.shape), dtype=np.float32)
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), *modality.shape)}
    with file.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, header)  # type: ignore[no-untyped-call]
        for first in range(0, len(rows), _BLOCK_WINDOWS):
            values = source.gather(modality, rows[first : first + _BLOCK_WINDOWS], shift_s=None)
            opened.write(np.ascontiguousarray(values).data)
    stored: AnyArray = np.load(file, mmap_mode="r")
    return stored


def _class_counts(plan: _Plan, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    return {
        split: {
            name: int(((plan.labels == label) & (plan.dealt.splits == number)).sum())
            for label, name in enumerate(classes)
        }
        for number, split in enumerate(SPLIT_NAMES)
    }
