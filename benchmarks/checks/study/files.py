"""Read the folders of the sets of `make study`: finished runs, and the sizes of students."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mmkd_documents.study import StudentSize, StudyDataset
from mmkd_models.evaluation.outcome import TestedNetwork
from mmkd_models.experiments.folder import RESULT_FILE, TEST_FILE, read_result, read_run
from mmkd_models.experiments.plan import Conditions
from mmkd_models.experiments.runs import Judged

DATASET_FILE = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class SeedResults:
    """All results of one sensor, one choice of labels and one seed; `trainings` counts the finished students."""

    dataset: StudyDataset
    conditions: Conditions
    seed: int
    trainings: int
    teachers: tuple[Judged, ...]
    trials: tuple[Judged, ...]
    rivals: tuple[Judged, ...]


class SizeResults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of one sensor's students, and their latency and a teacher's on the machine that was measured last."""

    dataset: str
    modality: str
    teacher: str
    students: tuple[StudentSize, ...]


def size_file(folder: Path, modality: str) -> Path:
    """Return the file of the sizes of a sensor's students."""
    return folder / f"{modality}-sizes.json"


def read_seeds(build: Path) -> tuple[SeedResults, ...]:
    """Return the results of all seeds, by dataset, modality, label fraction and seed."""
    found = [one for path in sorted(build.glob(f"*/{DATASET_FILE}")) for one in _seeds_of(path)]
    return tuple(
        sorted(
            found,
            key=lambda one: (
                one.dataset.name,
                one.conditions.modality,
                one.conditions.labelled.groups or 0,
                -one.conditions.labelled.fraction,
                one.seed,
            ),
        )
    )


def _seeds_of(path: Path) -> Iterator[SeedResults]:
    dataset = read_result(path, StudyDataset)
    assert dataset is not None  # the file is there
    paths = [file.parent for file in sorted(path.parent.glob(f"*/*/{RESULT_FILE}"))]
    ended = {path: result for path in paths if (result := read_run(path)) is not None and not result.reason}
    tests = {path: test for path in ended if (test := read_result(path / TEST_FILE, TestedNetwork)) is not None}
    judged = [Judged(result=ended[path], test=test) for path, test in tests.items()]
    trials = [result for result in ended.values() if result.trial is not None]
    for conditions, seed in dict.fromkeys((result.conditions, result.seed) for result in trials):
        own = [one for one in judged if one.result.seed == seed]
        own = [one for one in own if one.result.conditions.labelled == conditions.labelled]
        sensor = [one for one in own if one.result.conditions.modality == conditions.modality]
        yield SeedResults(
            dataset=dataset,
            conditions=conditions,
            seed=seed,
            trainings=sum((one.conditions, one.seed) == (conditions, seed) for one in trials),
            teachers=tuple(one for one in own if one.result.trial is None and one.result.rival is None),
            trials=tuple(one for one in sensor if one.result.trial and one.result.conditions == conditions),
            rivals=tuple(one for one in sensor if one.result.rival),
        )


def read_sizes(build: Path) -> dict[tuple[str, str], SizeResults]:
    """Return the sizes of students by dataset and modality."""
    found = [read_result(path, SizeResults) for path in sorted(build.glob("*/*-sizes.json"))]
    return {(one.dataset, one.modality): one for one in found if one is not None}
