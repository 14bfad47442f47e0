"""Recordings become a dataset directory: onto grids, cut into windows, split, written. All or nothing."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data.checking.scan import scan_windows
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.cutting.cut import Cut, cut, most_windows
from mmkd_models.data.importing.cutting.deal import Dealt, apart, deal_as_named, deal_by_time, deal_groups
from mmkd_models.data.importing.cutting.labels import encoded, task_of
from mmkd_models.data.importing.limits import WINDOW_FACTS_BYTES, refuse_more
from mmkd_models.data.importing.recipe import (
    TARGET,
    DatasetFacts,
    LabelRule,
    SplitRule,
    WindowRule,
    refuse,
    rule_problems,
)
from mmkd_models.data.importing.recorded import SECOND_NS, ImportedRecording, ImportedSensor
from mmkd_models.data.importing.timing.grids import Grids, Placed
from mmkd_models.data.kinds import (
    FULL_SCALE,
    MISSING_COUNT,
    Values,
    kind_problems,
    present_of,
    size_problem,
    window_bytes,
    windows_at_once,
    with_present,
)
from mmkd_models.data.labels import Labels, is_labelled, strata_of
from mmkd_models.data.sources import CutWindows, Rows, latest_start_s
from mmkd_models.data.spec import SPLIT_NAMES, DatasetSpec, name_problem
from mmkd_models.data.windows import Windows
from mmkd_models.data.writer import check_absent, write_dataset


@dataclass(frozen=True, kw_only=True)
class BuiltReport:
    """A dataset that was made of recordings.

    Attributes:
        absent: sensors that were not there, as `recording: sensor`.
        classes: by split, how many windows are of each class; of several labels how many have it.
        targets: by split, the lowest, mean and highest number of a regression; empty where there is none.
    """

    dataset: Dataset
    recordings: int
    cover: Literal["all", "any"]
    left_out: Mapping[str, int]
    absent: tuple[str, ...]
    has_times: bool
    classes: Mapping[str, Mapping[str, int]]
    targets: Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _OnGrid:
    """One recording whose samples lie in the scratch files, and its windows."""

    placed: Placed
    cut: Cut


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """What is known of every window, (N,) each, in order of recordings and time."""

    recording: Rows
    starts_s: npt.NDArray[np.float64]
    labels: Labels
    groups: npt.NDArray[np.str_] | None
    metadata: Mapping[str, npt.NDArray[np.str_]]
    dealt: Dealt

    def subset(self, keep: npt.NDArray[np.bool_]) -> _Plan:
        folds = self.dealt.folds
        return _Plan(
            recording=self.recording[keep],
            starts_s=self.starts_s[keep],
            labels=self.labels[keep],
            groups=None if self.groups is None else self.groups[keep],
            metadata={name: values[keep] for name, values in self.metadata.items()},
            dealt=Dealt(splits=self.dealt.splits[keep], folds=None if folds is None else folds[keep]),
        )


def import_recordings(
    path: str | Path,
    recordings: Iterable[ImportedRecording],
    *,
    sensors: Sequence[ImportedSensor],
    windows: WindowRule,
    labels: LabelRule | None = None,
    split: SplitRule | None = None,
    facts: DatasetFacts | None = None,
) -> BuiltReport:
    """Make a dataset directory of recordings, whatever they were read from.

    Args:
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
            *(f"sensor {one.name!r}: {text}" for one in sensors if (text := name_problem(one.name))),
            *rule_problems(windows, "windows"),
            *rule_problems(split, "split"),
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name,
        Grids(Path(name), sensors, cover=windows.cover) as grids,
    ):
        placed = (grids.add(recorded) for recorded in recordings)
        return build_dataset(
            path, placed, grids, scratch=Path(name), windows=windows, labels=labels, split=split, facts=facts
        )


def build_dataset(
    path: Path,
    recordings: Iterable[Placed],
    grids: Grids,
    *,
    scratch: Path,
    windows: WindowRule,
    labels: LabelRule,
    split: SplitRule,
    facts: DatasetFacts | None,
) -> BuiltReport:
    """Make a dataset directory of recordings on their grids; arguments and errors as of `import_recordings`.

    Args:
        recordings: asked for one after the other; each puts its samples on the grids before it comes.
    """
    made = _prepared(recordings, grids, windows=windows, labels=labels, split=split)
    left_out = {reason: count for reason, count in made.left_out.items() if count}
    dataset = write_dataset(
        path,
        name=(facts.name if facts else "") or path.name,
        labels=made.task,
        modalities=made.modalities,
        splits=_arrays(scratch, made),
        source=facts.source if facts else "",
        licence=facts.licence if facts else "",
        left_out=left_out,
        episode_names=[one.placed.recorded.name for one in made.done],
    )
    return BuiltReport(
        dataset=dataset,
        recordings=len(made.done),
        cover=windows.cover,
        left_out=left_out,
        absent=tuple(
            f"{one.placed.recorded.name}: {name}" for one in made.done for name in one.placed.absent if name != TARGET
        ),
        has_times=made.is_utc,
        classes=_class_counts(made.plan, made.task),
        targets=_targets(made.plan, made.task),
    )


def training_recordings(
    recordings: Iterable[Placed], grids: Grids, *, windows: WindowRule, labels: LabelRule, split: SplitRule
) -> list[int]:
    """Return the numbers of the recordings that windows of train come from; arguments and errors of the import."""
    made = _prepared(recordings, grids, windows=windows, labels=labels, split=split)
    found: list[int] = np.unique(made.plan.recording[made.plan.dealt.splits == 0]).tolist()
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """Everything that is known before the dataset is written."""

    modalities: Sequence[ModalitySpec]
    done: Sequence[_OnGrid]
    task: TaskSpec
    plan: _Plan
    source: CutWindows
    left_out: Counter[str]

    @property
    def is_utc(self) -> bool:
        return all(one.placed.recorded.is_utc for one in self.done)


def _prepared(
    recordings: Iterable[Placed], grids: Grids, *, windows: WindowRule, labels: LabelRule, split: SplitRule
) -> _Prepared:
    modalities = [sensor.modality(windows.length_s) for sensor in grids.sensors if sensor.name != TARGET]
    refuse("windows", [text for modality in modalities for text in _window_faults(modality)])
    done: list[_OnGrid] = []
    bytes_each, count = sum(map(window_bytes, modalities)) + WINDOW_FACTS_BYTES, 0
    for placed in recordings:
        refuse_more(
            (count + most_windows(placed, modalities, windows)) * bytes_each,
            grids.most_bytes,
            where=placed.recorded.name,
            what=f"windows every {windows.hop_s:g} s",
            cure="lengthen 'windows.stride_s'",
        )
        done.append(
            _OnGrid(placed=placed, cut=cut(placed, grids, modalities, labels=labels, windows=windows, split=split))
        )
        count += len(done[-1].cut.starts_s)
    left_out: Counter[str] = Counter()
    for one in done:
        left_out.update(one.cut.left_out)
    answers = [answer for one in done for answer in one.cut.answers]
    task = task_of(answers, labels)
    plan = _planned(done, encoded(answers, task), split)
    source = _source(grids, done, modalities, plan, hop_s=windows.hop_s)
    plan, source = _leaks_removed(plan, source, modalities, windows, split, left_out)
    plan, source = _partly_unlabelled_removed(plan, source, left_out)
    return _Prepared(modalities=modalities, done=done, task=task, plan=plan, source=source, left_out=left_out)


def _window_faults(modality: ModalitySpec) -> Iterator[str]:
    """What no dataset may have, told before hours of recordings are read."""
    size = size_problem(modality)
    yield from (f"{modality.name!r}: {text}" for text in (*kind_problems(modality), *([size] if size else ())))


def _planned(done: Sequence[_OnGrid], labels: Labels, split: SplitRule) -> _Plan:
    if not any(len(one.cut.starts_s) for one in done):
        reasons = Counter[str]()
        for one in done:
            reasons.update(one.cut.left_out)
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        raise DatasetError(
            f"'windows': expected windows, got none{f' ({told})' if told else ''};"
            " shorten 'length_s', or look at the times of sensors and labels"
        )
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
        metadata={
            name: np.array([value for one in done for value in one.cut.metadata[name]], dtype=np.str_)
            for name in done[0].cut.metadata
        },
        dealt=_dealt(done, recording, strata_of(labels), groups, split),
    )


def _dealt(
    done: Sequence[_OnGrid], recording: Rows, strata: Rows, groups: npt.NDArray[np.str_] | None, split: SplitRule
) -> Dealt:
    if split.column:
        named = [name for one in done for name in (one.cut.splits if one.cut.splits is not None else ())]
        return deal_as_named(
            named, [done[number].placed.recorded.name for number in recording.tolist()], column=split.column
        )
    return deal_by_time(recording, strata, split) if groups is None else deal_groups(groups, strata, split)


def _source(
    grids: Grids, done: Sequence[_OnGrid], modalities: Sequence[ModalitySpec], plan: _Plan, *, hop_s: float
) -> CutWindows:
    names = [modality.name for modality in modalities]
    lengths = np.array([[one.placed.lengths[name] for name in names] for one in done], dtype=np.int64)  # (R, M)
    samples, present = grids.mapped()
    return CutWindows(
        samples=samples,
        present=present,
        scale={},
        offsets={name: np.array([one.placed.first[name] for one in done], dtype=np.int64) for name in names},
        lengths={name: lengths[:, number] for number, name in enumerate(names)},
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


def _partly_unlabelled_removed(plan: _Plan, source: CutWindows, left_out: Counter[str]) -> tuple[_Plan, CutWindows]:
    # A split without any label is one that nobody has labelled yet, as of a new machine.
    known = is_labelled(plan.labels)
    labelled_splits = np.unique(plan.dealt.splits[known])
    keep = known | (plan.dealt.splits == 0) | ~np.isin(plan.dealt.splits, labelled_splits)
    left_out["without a label in valid or test"] += int((~keep).sum())
    return plan.subset(keep), _rows_of(source, keep)


def _arrays(scratch: Path, made: _Prepared) -> dict[str, dict[str, AnyArray | dict[str, AnyArray]]]:
    plan = made.plan
    origins_s = np.array([one.placed.origin_ns for one in made.done], dtype=np.float64) / SECOND_NS
    found: dict[str, dict[str, AnyArray | dict[str, AnyArray]]] = {}
    for number, split in enumerate(SPLIT_NAMES):
        rows = np.flatnonzero(plan.dealt.splits == number)
        part: dict[str, AnyArray | dict[str, AnyArray]] = {
            modality.name: _stored(scratch / f"{split}-{modality.name}.npy", made.source, modality, rows)
            for modality in made.modalities
        }
        part["labels"] = plan.labels[rows]
        part["episodes"] = plan.recording[rows]
        if plan.groups is not None:
            part["groups"] = plan.groups[rows]
        if plan.dealt.folds is not None:
            part["folds"] = plan.dealt.folds[rows]
        if made.is_utc:
            part["times"] = origins_s[plan.recording[rows]] + plan.starts_s[rows]
        if plan.metadata:
            part["metadata"] = {name: values[rows] for name, values in plan.metadata.items()}
        found[split] = part
    return found


def _stored(file: Path, source: CutWindows, modality: ModalitySpec, rows: Rows) -> AnyArray:
    """The windows of these rows as the dataset stores them, in a scratch file that is mapped."""
    dtype = np.dtype({"series": "<f4", "audio": "<i2", "video": "u1"}[modality.kind])
    present = np.ones((len(rows), modality.samples), dtype=np.uint8)
    header = {"descr": dtype.str, "fortran_order": False, "shape": (len(rows), *modality.shape)}
    block = windows_at_once(modality)
    with file.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, header)  # type: ignore[no-untyped-call]
        for first in range(0, len(rows), block):
            values = source.gather(modality, rows[first : first + block], shift_s=None)
            there = present_of(values) if modality.kind == "video" else None
            if there is not None:
                present[first : first + block] = there
            opened.write(np.ascontiguousarray(_as_stored(values.view(np.ndarray), modality)).data)
    stored: AnyArray = np.load(file, mmap_mode="r" if len(rows) else None)
    return with_present(stored, present) if modality.kind == "video" else stored


def _as_stored(values: Values, modality: ModalitySpec) -> Values:
    """Sound as int16 counts, everything else as it is."""
    if modality.kind != "audio":
        return values
    counts = np.rint(np.nan_to_num(values) * FULL_SCALE).clip(-FULL_SCALE + 1, FULL_SCALE - 1).astype(np.int16)
    return np.where(np.isnan(values), MISSING_COUNT, counts)


def _class_counts(plan: _Plan, task: TaskSpec) -> dict[str, dict[str, int]]:
    if task.kind == "regression":
        return {split: {} for split in SPLIT_NAMES}
    labels = plan.labels
    return {
        split: {
            name: int(((labels[:, label] == 1 if labels.ndim == 2 else labels == label) & here).sum())
            for label, name in enumerate(task.labels)
        }
        for split, here in _by_split(plan).items()
    }


def _targets(plan: _Plan, task: TaskSpec) -> dict[str, tuple[float, ...]]:
    if task.kind != "regression":
        return {}
    known = {split: plan.labels[here & is_labelled(plan.labels)] for split, here in _by_split(plan).items()}
    return {
        split: (float(one.min()), float(one.mean()), float(one.max())) if len(one) else ()
        for split, one in known.items()
    }


def _by_split(plan: _Plan) -> dict[str, npt.NDArray[np.bool_]]:
    return {split: plan.dealt.splits == number for number, split in enumerate(SPLIT_NAMES)}
