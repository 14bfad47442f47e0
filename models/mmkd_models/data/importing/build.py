"""A dataset directory from recordings: resampled, cut, split, written."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from mmkd_models.data.importing.cutting.cut import (
    Cut,
    cut,
    far_apart,
    most_windows,
    named_splits,
    split_by_group,
    split_by_time,
)
from mmkd_models.data.importing.cutting.labels import answers_task, encode_answers
from mmkd_models.data.importing.keys import WINDOW_FACTS_BYTES, refuse_more
from mmkd_models.data.importing.recipe import (
    RECIPE_VERSION,
    TARGET,
    DatasetFacts,
    ImportRecipe,
    LabelRule,
    SplitRule,
    WindowRule,
    rule_problems,
)
from mmkd_models.data.importing.recording import SECOND_NS, ImportedRecording, ImportedSensor
from mmkd_models.data.importing.timing.grids import GridRecording, Grids
from mmkd_models.data.labels import Labels, find_strata, is_labelled
from mmkd_models.data.spec import (
    FULL_SCALE,
    MISSING_COUNT,
    SPLIT_NAMES,
    DatasetSpec,
    frame_presence,
    kind_problems,
    name_problem,
    refuse,
    size_problem,
    window_bytes,
    windows_at_once,
    with_present,
)
from mmkd_models.data.windows import CutWindows, Windows, latest_start_s
from mmkd_models.data.writer import check_absent, write_dataset


@dataclass(frozen=True, kw_only=True)
class BuiltReport:
    """The dataset and what its import found.

    Attributes:
        absent: missing sensors, as `recording: sensor`.
        targets: by split, lowest, mean and highest number of a regression.
    """

    dataset: Dataset
    recordings: int
    cover: Literal["all", "any"]
    left_out: Mapping[str, int]
    absent: tuple[str, ...]
    has_times: bool
    classes: Mapping[str, Mapping[str, int]]
    targets: Mapping[str, Sequence[float]]


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
    """Make a dataset directory, by default labelled by the recordings' intervals and each split by time.

    Raise DatasetError if recordings break a rule, UsageError if `path` exists; nothing is written then.
    """
    path = Path(path)
    check_absent(path)
    recipe = ImportRecipe(
        version=RECIPE_VERSION,
        source=(),
        labels=labels or LabelRule(),
        windows=windows,
        split=split or SplitRule(),
        dataset=facts or DatasetFacts(),
    )
    problems = [f"sensor {sensor.name!r}: {text}" for sensor in sensors if (text := name_problem(sensor.name))]
    refuse("import_recordings", [*problems, *rule_problems(windows, "windows"), *rule_problems(recipe.split, "split")])
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name,
        Grids(Path(name), sensors, cover=windows.cover) as grids,
    ):
        return build_dataset(path, (grids.add(recorded) for recorded in recordings), grids, recipe, scratch=Path(name))


def build_dataset(
    path: Path, recordings: Iterable[GridRecording], grids: Grids, recipe: ImportRecipe, *, scratch: Path
) -> BuiltReport:
    """Make a dataset directory, one recording at a time; errors as `import_recordings`."""
    facts, windows, split = recipe.dataset, recipe.windows, recipe.split
    modalities = [sensor.modality(windows.length_s) for sensor in grids.sensors if sensor.name != TARGET]
    problems = [(modality, [*kind_problems(modality), size_problem(modality)]) for modality in modalities]
    refuse("windows", [f"{modality.name!r}: {text}" for modality, texts in problems for text in texts if text])
    done, cuts = _cut_recordings(recordings, grids, modalities, recipe)
    left_out = sum((part.left_out for part in cuts), Counter[str]())
    if not any(len(part.starts_s) for part in cuts):
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        raise DatasetError(
            f"'windows': expected windows, got none{f' ({reasons})' if reasons else ''};"
            " shorten 'length_s', or look at the times of sensors and labels"
        )
    answers = [answer for part in cuts for answer in part.answers]
    task = answers_task(answers, recipe.labels)
    spec = DatasetSpec(name=facts.name or path.name, task=task, modalities=tuple(modalities), splits={})
    source = _source(grids, done, cuts, modalities, hop_s=windows.hop_s)
    plan = _plan_windows(spec, source, done, cuts, encode_answers(answers, task), split)
    plan = _drop_leaks(plan, source, recipe, left_out)
    is_utc = all(recording.is_utc for recording in done)
    origins_s = np.array([recording.origin_ns for recording in done], dtype=np.float64) / SECOND_NS
    parts = {name: plan.subset(plan.splits == number) for number, name in enumerate(SPLIT_NAMES)}
    splits: dict[str, dict[str, AnyArray | dict[str, AnyArray]]] = {}
    for name, part in parts.items():
        splits[name] = {"labels": part.labels, "episodes": part.groups}
        for modality in modalities:
            splits[name][modality.name] = _store(scratch / f"{name}-{modality.name}.npy", part, modality)
        if split.group:
            splits[name]["groups"] = part.metadata[split.group]
        if part.folds is not None:
            splits[name]["folds"] = part.folds
        if is_utc:
            splits[name]["times"] = origins_s[part.groups] + source.start_s[part.rows]
        if windows.metadata:
            splits[name]["metadata"] = {fact: part.metadata[fact] for fact in windows.metadata}
    dataset = write_dataset(
        path,
        name=spec.name,
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
        classes={name: _class_counts(part.labels, task) for name, part in parts.items()},
        targets={name: _label_range(part.labels) for name, part in parts.items() if task.kind == "regression"},
    )


def _cut_recordings(
    recordings: Iterable[GridRecording], grids: Grids, modalities: Sequence[ModalitySpec], recipe: ImportRecipe
) -> tuple[list[GridRecording], list[Cut]]:
    bytes_each, count = sum(map(window_bytes, modalities)) + WINDOW_FACTS_BYTES, 0
    done, cuts = list[GridRecording](), list[Cut]()
    for recording in recordings:
        refuse_more(
            (count + most_windows(recording, modalities, recipe.windows)) * bytes_each,
            grids.most_bytes,
            where=recording.name,
            what=f"windows every {recipe.windows.hop_s:g} s",
            cure="lengthen 'windows.stride_s'",
        )
        done.append(recording)
        cuts.append(cut(recording, grids, modalities, recipe))
        count += len(cuts[-1].starts_s)
    return done, cuts


def _source(
    grids: Grids,
    done: Sequence[GridRecording],
    cuts: Sequence[Cut],
    modalities: Sequence[ModalitySpec],
    *,
    hop_s: float,
) -> CutWindows:
    names = [modality.name for modality in modalities]
    samples, present = grids.map_arrays()
    return CutWindows(
        samples=samples,
        present=present,
        scale={},
        offsets={name: np.array([recording.first[name] for recording in done], dtype=np.int64) for name in names},
        lengths={name: np.array([recording.lengths[name] for recording in done], dtype=np.int64) for name in names},
        recording=np.repeat(np.arange(len(cuts)), [len(part.starts_s) for part in cuts]),
        start_s=np.concatenate([part.starts_s for part in cuts]),
        latest_start_s=np.array(
            [latest_start_s([recording.lengths[name] for name in names], modalities) for recording in done]
        ),
        hop_s=hop_s,
    )


def _plan_windows(
    spec: DatasetSpec,
    source: CutWindows,
    done: Sequence[GridRecording],
    cuts: Sequence[Cut],
    labels: Labels,
    split: SplitRule,
) -> Windows:
    facts = {
        name: np.array([value for part in cuts for value in part.facts[name]], dtype=np.str_) for name in cuts[0].facts
    }
    folds = None
    if split.column:
        names = [done[number].name for number in source.recording.tolist()]
        splits = named_splits(facts[split.column].tolist(), names, column=split.column)
    elif split.group:
        splits, folds = split_by_group(facts[split.group], find_strata(labels), split)
    else:
        splits = split_by_time(source.recording, find_strata(labels), split)
    return Windows(
        spec=spec,
        labels=labels,
        groups=source.recording,
        has_groups=False,
        splits=splits,
        folds=folds,
        source=source,
        rows=np.arange(len(labels)),
        metadata=facts,
    )


def _drop_leaks(plan: Windows, source: CutWindows, recipe: ImportRecipe, left_out: Counter[str]) -> Windows:
    def drop(plan: Windows, reason: str, is_wrong: npt.NDArray[np.bool_]) -> Windows:
        left_out.update({reason: int(is_wrong.sum())} if is_wrong.any() else {})
        return plan.subset(~is_wrong)

    stays = far_apart(plan.splits, plan.groups, source.start_s, least_s=recipe.windows.length_s + recipe.split.gap_s)
    plan = drop(plan, "between splits", ~stays)
    if recipe.split.drop_copies:  # equal windows stay in the highest split: test, valid, train
        digests, highest = scan_windows(plan).digests, dict[bytes, int]()
        pairs = list(zip(digests, plan.splits.tolist(), strict=True))
        for digest, number in pairs:
            highest[digest] = max(number, highest.get(digest, 0))
        is_copy = np.array([bool(digest) and number < highest[digest] for digest, number in pairs])
        plan = drop(plan, "equal to one of another split", is_copy)
    # A split without labels is a new machine, not labelled yet.
    needs_label = (plan.splits > 0) & np.isin(plan.splits, np.unique(plan.splits[plan.labelled]))
    return drop(plan, "without a label in valid or test", needs_label & ~plan.labelled)


def _store(file: Path, windows: Windows, modality: ModalitySpec) -> AnyArray:
    rows, block = windows.rows, windows_at_once(modality)
    dtype = np.dtype({"series": "<f4", "audio": "<i2", "video": "u1"}[modality.kind])
    present = np.ones((len(rows), modality.samples), dtype=np.uint8)
    header = {"descr": dtype.str, "fortran_order": False, "shape": (len(rows), *modality.shape)}
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]
        for first in range(0, len(rows), block):
            values = windows.source.gather(modality, rows[first : first + block], shift_s=None)
            if modality.kind == "video" and (frames := frame_presence(values)) is not None:
                present[first : first + block] = frames
            plain = values.view(np.ndarray)
            if modality.kind == "audio":
                counts = np.rint(np.nan_to_num(plain) * FULL_SCALE).clip(-FULL_SCALE + 1, FULL_SCALE - 1)
                plain = np.where(np.isnan(plain), MISSING_COUNT, counts.astype(np.int16))
            stream.write(np.ascontiguousarray(plain).data)
    stored: AnyArray = np.load(file, mmap_mode="r" if len(rows) else None)
    return with_present(stored, present) if modality.kind == "video" else stored


def _class_counts(labels: Labels, task: TaskSpec) -> dict[str, int]:
    names = task.labels if task.kind != "regression" else ()
    return {
        name: int((labels[:, number] == 1 if labels.ndim == 2 else labels == number).sum())
        for number, name in enumerate(names)
    }


def _label_range(labels: Labels) -> tuple[float, ...]:
    known = labels[is_labelled(labels)]
    return (float(known.min()), float(known.mean()), float(known.max())) if len(known) else ()
