"""Results of studies in compact files, one for a dataset, sensor, labels and seed: figures without weights.

Read back into a folder, what they know is finished, and only what is missing is trained: a study can be done in
portions, on several machines and days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.windows import split_facts
from mmkd_models.distillation.methods import Method
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.evaluation.rivals import RivalName
from mmkd_models.experiments.folder import (
    FORMAT_VERSION,
    TEACHERS_FOLDER,
    TEST_FILE,
    TRIALS_FOLDER,
    Folder,
    read_result,
    write_result,
)
from mmkd_models.experiments.plan import Conditions, Entry, TeacherChoice, entries
from mmkd_models.experiments.runs import (
    TEACHER_FILE,
    TRIAL_FILE,
    RivalResult,
    TeacherResult,
    TrialResult,
    chosen_trials,
    judge_rivals,
    rival_file,
    teacher_outcome,
    teacher_results,
    trial_outcome,
    trial_result,
    trials_of,
)
from mmkd_models.training.checkpoint import library_versions
from mmkd_report.schema.study import StudyDataset


class TrialRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finished trial: its folder's name, how it ended, and its test if the table needed it."""

    name: str
    result: TrialResult
    test: TestedNetwork | None


class TeacherRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What taught: its folder's name; how its training ended, if it is one file; its test."""

    name: str
    choice: TeacherChoice
    result: TeacherResult | None
    test: TestedNetwork | None


class SeedResults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: everything that is finished on one seed and its fold; teachers that were only compared too."""

    format_version: int = FORMAT_VERSION
    dataset: StudyDataset
    seed: int
    conditions: Conditions
    versions: dict[str, str]
    methods: tuple[Method, ...]
    teachers: tuple[TeacherRecord, ...]
    trials: tuple[TrialRecord, ...]
    rivals: tuple[RivalResult, ...]


def seed_file(results: Path, dataset: str, conditions: Conditions, seed: int) -> Path:
    """Where the results of a seed are kept: `watch_exercises-gyro-10-seed0.json`, or `...-2groups-seed0.json`."""
    labelled = conditions.labelled
    part = f"{100 * labelled.share:g}" if labelled.groups is None else f"{labelled.groups}groups"
    return results / f"{dataset}-{conditions.modality}-{part}-seed{seed}.json"


def restore(folder: Folder, results: Path, seeds: Sequence[int]) -> None:
    """Write what these results know into a study's folder, unless it is there.

    Raises:
        UsageError: the results are of another dataset, or of trainings under other conditions.
        CheckpointError: a file is damaged.
    """
    for seed in seeds:
        path = seed_file(results, folder.dataset.spec.name, folder.conditions, seed)
        found = read_result(path, SeedResults)
        if found is None:
            continue
        _check_same(found, folder, path)
        files: dict[Path, msgspec.Struct | None] = {}
        for trial in found.trials:
            files[folder.out / TRIALS_FOLDER / trial.name / TEST_FILE] = trial.test
            files[folder.out / TRIALS_FOLDER / trial.name / TRIAL_FILE] = trial.result
        for teacher in found.teachers:
            files[folder.out / TEACHERS_FOLDER / teacher.name / TEST_FILE] = teacher.test
            files[folder.out / TEACHERS_FOLDER / teacher.name / TEACHER_FILE] = teacher.result
        files |= {rival_file(folder, rival.rival, seed): rival for rival in found.rivals}
        for file, value in files.items():
            if value is not None and not file.exists():
                write_result(file, value)


def _check_same(found: SeedResults, folder: Folder, path: Path) -> None:
    pairs = {
        name: (getattr(found.conditions, name), getattr(folder.conditions, name))
        for name in Conditions.__struct_fields__
    }
    pairs["split"] = (found.dataset.split and found.dataset.split.by, split_facts(folder.dataset.everything()).by)
    for name, (got, expected) in pairs.items():
        if got != expected:
            texts = [msgspec.json.encode(one).decode() for one in (expected, got)]
            raise UsageError(
                f"{path}: expected results with {name} {texts[0]}, got {texts[1]}; name another folder of results, or "
                "give the same options"
            )


def collect(
    folder: Folder,
    results: Path,
    *,
    seeds: Sequence[int],
    impossible: Sequence[Entry],
    compared: Sequence[TeacherChoice] = (),
    rivals: Sequence[RivalName] = (),
) -> None:
    """Add what a study's folder has finished to the results, judged on the test windows if the table needs it.

    Earlier results stay, unless the same trial is here too. A seed of which nothing is finished gets no file.
    """
    for seed in seeds:
        path = seed_file(results, folder.dataset.spec.name, folder.conditions, seed)
        before = read_result(path, SeedResults)
        if before is not None:
            _check_same(before, folder, path)
        trials = list(_trial_records(folder, impossible, seed))
        teachers = list(_teacher_records(folder, compared, seed))
        if not trials and not teachers:
            continue
        judged = [one for one in judge_rivals(folder, rivals, seed) if one.test is not None]
        found = SeedResults(
            dataset=dataset_facts(folder.dataset),
            seed=seed,
            conditions=folder.conditions,
            versions=library_versions(),
            methods=_merge(before.methods if before else (), folder.space.methods),
            teachers=_merge(before.teachers if before else (), teachers),
            trials=_merge(before.trials if before else (), trials),
            rivals=_merge(before.rivals if before else (), judged),
        )
        write_lines(path, found)


def _trial_records(folder: Folder, impossible: Sequence[Entry], seed: int) -> Iterator[TrialRecord]:
    for entry in entries(folder.space, impossible):
        for result in chosen_trials(folder, entry, [seed]).values():
            trial_outcome(folder, result.trial)
        for trial in trials_of(folder, entry, [seed]):
            ended, path = trial_result(folder, trial), folder.of_trial(trial)
            if ended is not None and ended.state == "finished":
                yield TrialRecord(name=path.name, result=ended, test=read_result(path / TEST_FILE, TestedNetwork))


def _teacher_records(folder: Folder, compared: Sequence[TeacherChoice], seed: int) -> Iterator[TeacherRecord]:
    """Members, and what several of them answer together."""
    choices = (*folder.space.teachers, *compared)
    for one in dict.fromkeys([*(member for choice in choices for member in choice.members), *choices]):
        results = teacher_results(folder, one, seed)
        if results is not None:
            yield TeacherRecord(
                name=folder.of_teacher(one, seed).name,
                choice=one,
                result=results[0] if len(results) == 1 else None,
                test=teacher_outcome(folder, one, seed),
            )


class _HasName(Protocol):
    @property
    def name(self) -> str: ...


_Named = TypeVar("_Named", bound=_HasName)


def _merge(before: Sequence[_Named], now: Sequence[_Named]) -> tuple[_Named, ...]:
    """By name, the later ones in place of the earlier ones."""
    merged = {one.name: one for one in (*before, *now)}
    return tuple(merged[name] for name in sorted(merged))


def write_lines(path: Path, value: msgspec.Struct) -> None:
    """Replace the file: JSON with a line for every key, and for every item of a list, so that diffs are small."""
    parts = []
    for key, item in msgspec.to_builtins(value).items():
        text = msgspec.json.encode(item).decode()
        if isinstance(item, (list, tuple)) and item and isinstance(item[0], dict):
            text = "[\n  " + ",\n  ".join(msgspec.json.encode(one).decode() for one in item) + "\n ]"
        parts.append(f'"{key}": {text}')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, ("{\n " + ",\n ".join(parts) + "\n}\n").encode())


def dataset_facts(dataset: Dataset) -> StudyDataset:
    """What a document says of the dataset."""
    spec, windows = dataset.spec, dataset.everything()
    return StudyDataset(
        name=spec.name,
        sha256=dataset.sha256,
        source=spec.source,
        licence=spec.licence,
        labels=tuple(spec.task.labels),
        modalities=tuple(modality.name for modality in spec.modalities),
        windows=len(windows),
        groups=windows.group_count,
        split=split_facts(windows),
        kind=spec.task.kind,
    )
