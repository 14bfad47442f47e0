"""A recording of another unit or gain is named at import, by the check and in the report; a machine that is off not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import Dataset, check_dataset, write_dataset
from mmkd_models.data.checking.findings import unit_findings
from mmkd_models.data.checking.scan import scan_windows

SPLITS = {"train": range(6), "valid": range(6, 8), "test": range(8, 10)}
ADVICE = "check the unit and the gain; convert the values, or leave the recording out"
Change = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


def plant(path: Path, change: Change, *, groups: bool = True, episode_names: tuple[str, ...] = ()) -> Dataset:
    """Ten machines with twelve windows of two channels, gravity about 9.8 and a movement of 0.5; classes alternate.

    Args:
        change: of the number of the machine, its windows (12, 20, 2) and their labels (12,).
    """
    splits: dict[str, Mapping[str, np.ndarray]] = {}
    for split, machines in SPLITS.items():
        labels = np.arange(12) % 2
        windows = [
            change(number, np.random.default_rng(number).normal([9.8, 0.0], 0.5, (12, 20, 2)), labels)
            for number in machines
        ]
        found = {"acc": np.concatenate(windows), "labels": np.tile(labels, len(machines))}
        numbers = np.repeat(list(machines), 12)
        splits[split] = (
            found | ({"groups": numbers} if groups else {}) | ({"episodes": numbers} if episode_names else {})
        )
    acc = ModalitySpec(name="acc", channels=("ax", "ay"), rate_hz=10, samples=20)
    return write_dataset(
        path, name="plant", labels=("off", "on"), modalities=[acc], splits=splits, episode_names=episode_names
    )


def warnings_of(dataset: Dataset) -> list[str]:
    return [finding.sentence for finding in unit_findings(scan_windows(dataset.everything()))]


def in_mg(number: int, windows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return windows * (1000 if number == 3 else 1)


def test_a_recording_in_another_unit_is_named_at_import_by_the_check_and_in_the_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        plant(tmp_path / "plant", in_mg, episode_names=tuple(f"machine M{number}" for number in range(10)))
    told = "acc: the level of channel ax is 9,798 in {} and 9.797 in the other recordings, 1,000 times as large"
    (logged,) = [record.getMessage() for record in caplog.records]
    assert logged == f"dataset {tmp_path / 'plant'}: {told.format('machine M3')}; {ADVICE}"
    in_dataset = told.format("episode 3 (group 3)")
    findings = check_dataset(tmp_path / "plant").findings
    assert [(one.kind, one.level, one.text) for one in findings if one.kind == "unit"] == [
        ("unit", "problem", f"{in_dataset}; {ADVICE}")
    ]


def still(number: int, windows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each machine stands still in half of its windows, and machine 3 in all of them."""
    off = np.ones(len(labels), dtype=bool) if number == 3 else labels == 0
    return np.where(off[:, None, None], windows * 0.001, windows)


def constant(number: int, windows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The second channel is 0 but for two machines, and machine 3 has no value in the first."""
    windows[:, :, 1] = windows[:, :, 1] if number in (2, 7) else 0.0
    windows[:, :, 0] = np.nan if number == 3 else windows[:, :, 0]
    return windows


def by_nature(number: int, windows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Every machine has a level of its own, from 1 to 500."""
    return windows * 2.0**number


@pytest.mark.parametrize("change", [still, constant, by_nature], ids=lambda change: change.__name__)
def test_a_machine_that_is_off_a_constant_channel_and_unlike_machines_are_not_named(
    change: Change, tmp_path: Path
) -> None:
    assert warnings_of(plant(tmp_path / "plant", change)) == []


def test_of_many_odd_recordings_the_first_are_named_and_all_counted(tmp_path: Path) -> None:
    def change(number: int, windows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return windows * (1000 if number < 4 else 1)

    *named, last = warnings_of(plant(tmp_path / "plant", change))
    assert [f"group {number}" in text for number, text in enumerate(named)] == [True] * 3
    assert last == "acc: 4 recordings in all differ so, the first 3 are named"
