"""A dataset directory from recordings: onto grids, cut into windows, split, written."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from mmkd_models.data.importing.cutting.deal import deal_groups, far_apart, named_splits, split_by_time
from mmkd_models.data.importing.cutting.labels import answers_task, encode_answers
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
from mmkd_models.data.importing.recording import SECOND_NS, ImportedRecording, ImportedSensor
from mmkd_models.data.importing.timing.grids import GridRecording, Grids
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

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class BuiltReport:
    """The dataset that was made of recordings.

    Attributes:
        absent: sensors that were not there, as `recording: sensor`.
        classes: by split, the windows of each class or label.
        targets: by split, the lowest, mean and highest number of a regression; empty without labels.
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
class _Plan:
    """The plan of every window, (N,) each, in order of recordings and time."""

    recording: Rows
    starts_s: npt.NDArray[np.float64]
    labels: Labels
    splits: Rows
    folds: Rows | None
    facts: Mapping[str, npt.NDArray[np.str_]]

    def subset(self, keep: _Mask) -> _Plan:
        return _Plan(
            recording=self.recording[keep],
            starts_s=self.starts_s[keep],
            labels=self.labels[keep],
            splits=self.splits[keep],
            folds=None if self.folds is None else self.folds[keep],
            facts={name: values[keep] for name, values in self.facts.items()},
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

    Raise DatasetError if recordings break a rule, UsageError if `path` exists; nothing is written then.
    """
    path = Path(path)
    check_absent(path)
    labels, split = labels or LabelRule(), split or SplitRule()
    problems = [f"sensor {sensor.name!r}: {text}" for sensor in sensors if (text := name_problem(sensor.name))]
    refuse("import_recordings", [*problems, *rule_problems(windows, "windows"), *rule_problems(split, "split")])
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name,
        Grids(Path(name), sensors, cover=windows.cover) as grids,
    ):
        recording = (grids.add(recorded) for recorded in recordings)
        return build_dataset(
            path, recording, grids, scratch=Path(name), windows=windows, labels=labels, split=split, facts=facts
        )


def build_dataset(
    path: Path,
    recordings: Iterable[GridRecording],
    grids: Grids,
    *,
    scratch: Path,
    windows: WindowRule,
    labels: LabelRule,
    split: SplitRule,
    facts: DatasetFacts | None,
) -> BuiltReport:
    """Make a dataset directory of recordings, which are put on the grids one by one; errors as `import_recordings`."""
    facts = facts or DatasetFacts()
    modalities = [sensor.modality(windows.length_s) for sensor in grids.sensors if sensor.name != TARGET]
    refuse("windows", [text for modality in modalities for text in _modality_problems(modality)])
    done, cuts = _cut_recordings(recordings, grids, modalities, windows=windows, labels=labels, split=split)
    left_out = sum((part.left_out for part in cuts), Counter[str]())
    if not any(len(part.starts_s) for part in cuts):
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        raise DatasetError(
            f"'windows': expected windows, got none{f' ({reasons})' if reasons else ''};"
            " shorten 'length_s', or look at the times of sensors and labels"
        )
    answers = [answer for part in cuts for answer in part.answers]
    task = answers_task(answers, labels)
    plan = _plan_windows(done, cuts, encode_answers(answers, task), split)
    plan = _drop_leaks(plan, grids, done, modalities, windows=windows, split=split, left_out=left_out)
    is_utc = all(recording.is_utc for recording in done)
    source = _source(grids, done, modalities, plan, hop_s=windows.hop_s)
    splits: dict[str, dict[str, AnyArray | dict[str, AnyArray]]] = {}
    for number, name in enumerate(SPLIT_NAMES):
        rows = np.flatnonzero(plan.splits == number)
        splits[name] = {"labels": plan.labels[rows], "episodes": plan.recording[rows]}
        for modality in modalities:
            splits[name][modality.name] = _store(scratch / f"{name}-{modality.name}.npy", source, modality, rows)
        if split.group:
            splits[name]["groups"] = plan.facts[split.group][rows]
        if plan.folds is not None:
            splits[name]["folds"] = plan.folds[rows]
        if is_utc:
            origins_s = np.array([recording.origin_ns for recording in done], dtype=np.float64) / SECOND_NS
            splits[name]["times"] = origins_s[plan.recording[rows]] + plan.starts_s[rows]
        if windows.metadata:
            splits[name]["metadata"] = {fact: plan.facts[fact][rows] for fact in windows.metadata}
    dataset = write_dataset(
        path,
        name=facts.name or path.name,
        labels=task,
        modalities=modalities,
        splits=splits,
        source=facts.source,
        licence=facts.licence,
        left_out=left_out,
        episode_names=[recording.name for recording in done],
    )
    return BuiltReport(
        dataset=dataset,
        recordings=len(done),
        cover=windows.cover,
        left_out=left_out,
        absent=tuple(f"{recording.name}: {name}" for recording in done for name in recording.absent if name != TARGET),
        has_times=is_utc,
        classes={name: _class_counts(labels, task) for name, labels in _by_split(plan)},
        targets={name: _label_range(labels) for name, labels in _by_split(plan)} if task.kind == "regression" else {},
    )


def _cut_recordings(
    recordings: Iterable[GridRecording],
    grids: Grids,
    modalities: Sequence[ModalitySpec],
    *,
    windows: WindowRule,
    labels: LabelRule,
    split: SplitRule,
) -> tuple[list[GridRecording], list[Cut]]:
    bytes_each, count = sum(map(window_bytes, modalities)) + WINDOW_FACTS_BYTES, 0
    done, cuts = list[GridRecording](), list[Cut]()
    for recording in recordings:
        refuse_more(
            (count + most_windows(recording, modalities, windows)) * bytes_each,
            grids.most_bytes,
            where=recording.name,
            what=f"windows every {windows.hop_s:g} s",
            cure="lengthen 'windows.stride_s'",
        )
        done.append(recording)
        cuts.append(cut(recording, grids, modalities, labels=labels, windows=windows, split=split))
        count += len(cuts[-1].starts_s)
    return done, cuts


def _drop_leaks(
    plan: _Plan,
    grids: Grids,
    done: Sequence[GridRecording],
    modalities: Sequence[ModalitySpec],
    *,
    windows: WindowRule,
    split: SplitRule,
    left_out: Counter[str],
) -> _Plan:
    """Return the plan without windows that must not be in their split; count them in `left_out`."""

    def drop(plan: _Plan, reason: str, is_wrong: _Mask) -> _Plan:
        left_out.update({reason: int(is_wrong.sum())} if is_wrong.any() else {})
        return plan.subset(~is_wrong)

    least_s = windows.length_s + split.gap_s
    plan = drop(plan, "between splits", ~far_apart(plan.splits, plan.recording, plan.starts_s, least_s=least_s))
    if split.drop_copies:
        source = _source(grids, done, modalities, plan, hop_s=windows.hop_s)
        plan = drop(plan, "equal to one of another split", _copies(plan, source, modalities))
    # A split without any label is one that nobody has labelled yet, as of a new machine.
    has_label = is_labelled(plan.labels)
    needs_label = (plan.splits > 0) & np.isin(plan.splits, np.unique(plan.splits[has_label]))
    return drop(plan, "without a label in valid or test", needs_label & ~has_label)


def _modality_problems(modality: ModalitySpec) -> Iterator[str]:
    """Yield what no dataset may have, before hours of recordings are read."""
    size = size_problem(modality)
    yield from (f"{modality.name!r}: {text}" for text in (*kind_problems(modality), *([size] if size else ())))


def _plan_windows(done: Sequence[GridRecording], cuts: Sequence[Cut], labels: Labels, split: SplitRule) -> _Plan:
    recording = np.repeat(np.arange(len(cuts)), [len(part.starts_s) for part in cuts])
    facts = {
        name: np.array([value for part in cuts for value in part.facts[name]], dtype=np.str_) for name in cuts[0].facts
    }
    folds = None
    if split.column:
        names = [done[number].name for number in recording.tolist()]
        splits = named_splits(facts[split.column].tolist(), names, column=split.column)
    elif split.group:
        splits, folds = deal_groups(facts[split.group], strata_of(labels), split)
    else:
        splits = split_by_time(recording, strata_of(labels), split)
    starts_s = np.concatenate([part.starts_s for part in cuts])
    return _Plan(recording=recording, starts_s=starts_s, labels=labels, splits=splits, folds=folds, facts=facts)


def _source(
    grids: Grids, done: Sequence[GridRecording], modalities: Sequence[ModalitySpec], plan: _Plan, *, hop_s: float
) -> CutWindows:
    names = [modality.name for modality in modalities]
    lengths = {name: np.array([recording.lengths[name] for recording in done], dtype=np.int64) for name in names}
    samples, present = grids.mapped()
    return CutWindows(
        samples=samples,
        present=present,
        scale={},
        offsets={name: np.array([recording.first[name] for recording in done], dtype=np.int64) for name in names},
        lengths=lengths,
        recording=plan.recording,
        start_s=plan.starts_s,
        latest_start_s=np.array(
            [latest_start_s(row, modalities) for row in np.stack(list(lengths.values()), axis=1).tolist()]
        ),
        hop_s=hop_s,
    )


def _copies(plan: _Plan, source: CutWindows, modalities: Sequence[ModalitySpec]) -> _Mask:
    """Return which windows equal one in a higher split: test before valid before train."""
    windows = Windows(
        spec=DatasetSpec(
            name="", task=TaskSpec(labels=()), modalities=tuple(modalities), splits=dict.fromkeys(SPLIT_NAMES, 0)
        ),
        labels=plan.labels,
        groups=plan.recording,
        has_groups=False,
        splits=plan.splits,
        folds=None,
        source=source,
        rows=np.arange(len(plan.labels)),
    )
    digests = scan_windows(windows).digests
    highest: dict[bytes, int] = {}
    for digest, number in zip(digests, plan.splits.tolist(), strict=True):
        highest[digest] = max(number, highest.get(digest, 0))
    return np.array(
        [bool(digest) and number < highest[digest] for digest, number in zip(digests, plan.splits, strict=True)]
    )


def _store(file: Path, source: CutWindows, modality: ModalitySpec, rows: Rows) -> AnyArray:
    """Write windows as the dataset stores them to a scratch file, and map it."""
    dtype = np.dtype({"series": "<f4", "audio": "<i2", "video": "u1"}[modality.kind])
    present = np.ones((len(rows), modality.samples), dtype=np.uint8)
    header = {"descr": dtype.str, "fortran_order": False, "shape": (len(rows), *modality.shape)}
    block = windows_at_once(modality)
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]
        for first in range(0, len(rows), block):
            values = source.gather(modality, rows[first : first + block], shift_s=None)
            frames = present_of(values) if modality.kind == "video" else None
            if frames is not None:
                present[first : first + block] = frames
            plain = values.view(np.ndarray)
            stream.write(np.ascontiguousarray(_counts(plain) if modality.kind == "audio" else plain).data)
    stored: AnyArray = np.load(file, mmap_mode="r" if len(rows) else None)
    return with_present(stored, present) if modality.kind == "video" else stored


def _counts(sound: Values) -> Values:
    counts = np.rint(np.nan_to_num(sound) * FULL_SCALE).clip(-FULL_SCALE + 1, FULL_SCALE - 1).astype(np.int16)
    return np.where(np.isnan(sound), MISSING_COUNT, counts)


def _by_split(plan: _Plan) -> Iterator[tuple[str, Labels]]:
    return ((split, plan.labels[plan.splits == number]) for number, split in enumerate(SPLIT_NAMES))


def _class_counts(labels: Labels, task: TaskSpec) -> dict[str, int]:
    names = task.labels if task.kind != "regression" else ()
    return {
        name: int((labels[:, number] == 1 if labels.ndim == 2 else labels == number).sum())
        for number, name in enumerate(names)
    }


def _label_range(labels: Labels) -> tuple[float, ...]:
    known = labels[is_labelled(labels)]
    return (float(known.min()), float(known.mean()), float(known.max())) if len(known) else ()
