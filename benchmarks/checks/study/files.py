"""The compact results that the proof reads, and the file of what students cost."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mmkd_models.experiments.folder import read_result
from mmkd_models.experiments.results import SeedResults
from mmkd_report.schema.study import StudentSize

FORMAT_VERSION = 1


class SizeResults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What students of one sensor cost, and their latency beside a teacher's on the machine that was measured last."""

    format_version: int = FORMAT_VERSION
    dataset: str
    dataset_sha256: str
    modality: str
    teacher: str
    students: tuple[StudentSize, ...]


def size_file(results: Path, dataset: str, modality: str) -> Path:
    """Gives where the costs of a sensor's students are kept."""
    return results / f"{dataset}-{modality}-sizes.json"


def read_seeds(results: Path) -> tuple[SeedResults, ...]:
    """Gives the results of all seeds in a folder, by dataset, modality, label share and seed."""
    found = [read_result(path, SeedResults) for path in results.glob("*-seed*.json")]
    return tuple(
        sorted(
            (one for one in found if one is not None),
            key=lambda one: (
                one.dataset.name,
                one.conditions.modality,
                one.conditions.labelled.groups or 0,
                -one.conditions.labelled.share,
                one.seed,
            ),
        )
    )


def read_sizes(results: Path) -> dict[tuple[str, str], SizeResults]:
    """Gives the costs of students in a folder by dataset and modality."""
    found = [read_result(path, SizeResults) for path in sorted(results.glob("*-sizes.json"))]
    return {(one.dataset, one.modality): one for one in found if one is not None}
