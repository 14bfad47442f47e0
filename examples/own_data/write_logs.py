"""Writes the shipped shoulder recordings as a plant would log them: `python write_logs.py FOLDER [--people N]`.

For each person one CSV of the accelerometer (local times, decimal commas, 50 Hz) and one of the gyroscope (its own
clock, milliseconds since 1970, three seconds late, 40 Hz), with jitter and gaps, and a file of labelled intervals.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from mmkd_models.data import Dataset, open_dataset, shipped_dataset

BERLIN = ZoneInfo("Europe/Berlin")
LATE_S, PAUSE_S = 3.0, 5.0


def local(seconds: float) -> str:
    """A moment as a German logger writes it."""
    return datetime.fromtimestamp(round(seconds, 3), tz=BERLIN).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def sets_of(dataset: Dataset, person: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Label, acceleration (L, 3) in g and rotation (L, 3) in rad/s of each set of exercises of a person."""
    arrays = {Path(name).stem: array for name, array in dataset.arrays.items()}
    ends = np.cumsum(arrays["lengths"][:, 0])
    for number in np.flatnonzero(arrays["groups"] == person):
        rows = slice(int(ends[number] - arrays["lengths"][number, 0]), int(ends[number]))
        acc, gyro = (arrays[name][rows] * np.array(dataset.spec.recordings.scale[name]) for name in ("acc", "gyro"))
        yield dataset.spec.task.labels[arrays["labels"][number]], acc, gyro


def log(rng: np.random.Generator, seconds: np.ndarray, values: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Samples as they are logged: up to two milliseconds early or late, and some dozens lost now and then."""
    lost = {int(start) + k for start in rng.integers(0, len(values), len(values) // 4000 + 1) for k in range(30)}
    for number, (second, row) in enumerate(zip(seconds, values, strict=True)):
        if number not in lost:
            yield second + rng.uniform(-0.002, 0.002), row


def write_person(folder: Path, dataset: Dataset, person: int) -> None:
    """Writes the three files of one person, whose day this is."""
    rng = np.random.default_rng(person)
    start = datetime(2025, 11, 3, 7, tzinfo=BERLIN).timestamp() + 86_400 * person
    acc, gyro, states = ["zeit;ax;ay;az"], ["ms,wx,wy,wz"], ["begin,finish,exercise"]
    for label, acceleration, rotation in sets_of(dataset, person):
        clock = np.arange(len(acceleration)) / 50
        slow = np.arange(0, clock[-1], 1 / 40)
        slower = np.stack([np.interp(slow, clock, channel) for channel in rotation.T], axis=1)
        for second, row in log(rng, start + clock, acceleration):
            acc.append(";".join([local(second), *(f"{value:.4f}".replace(".", ",") for value in row)]))
        for second, row in log(rng, start + LATE_S + slow, slower):
            gyro.append(",".join([f"{1000 * second:.0f}", *(f"{value:.4f}" for value in row)]))
        states.append(f"{local(start)},{local(start + clock[-1])},{label}")
        start += clock[-1] + PAUSE_S
    folder.mkdir(parents=True)
    for name, lines in (("acc.csv", acc), ("gyro.csv", gyro), ("exercises.csv", states)):
        (folder / name).write_text("\n".join(lines) + "\n")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=10)
    given = parser.parse_args()
    dataset = open_dataset(shipped_dataset("watch_exercises"))
    for person in range(1, given.people + 1):
        write_person(given.folder / f"person_{person}", dataset, person)
    shutil.copy(Path(__file__).with_name("recipe.toml"), given.folder)
    print(f"wrote {given.people} people's logs and a recipe to {given.folder}")


if __name__ == "__main__":
    main()
