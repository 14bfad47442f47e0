"""The samples of all recordings at the dataset's rates, end to end, one scratch file a sensor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from mmkd_edge.bundle.arrays import let_go
from mmkd_edge.errors import DatasetError, UsageError
from mmkd_models.data.files import AnyArray
from mmkd_models.data.importing.limits import refuse_more
from mmkd_models.data.importing.recording import SECOND_NS, ImportedRecording, ImportedSensor, Interval
from mmkd_models.data.importing.timing.resample import sensor_blocks
from mmkd_models.data.kinds import present_of
from mmkd_models.data.sources import Rows

_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True, eq=False)
class GridRecording:
    """A recording whose samples lie in the grids; `first` is its first sample in each sensor's file."""

    name: str
    parts: Mapping[str, str]
    labels: Sequence[Interval]
    runs: Mapping[str, Sequence[Interval]]
    is_utc: bool
    origin_ns: int
    first: Mapping[str, int]
    lengths: Mapping[str, int]
    absent: tuple[str, ...]


class Grids:
    """The grids of all recordings, in files of a folder."""

    def __init__(
        self,
        folder: Path,
        sensors: Sequence[ImportedSensor],
        *,
        cover: Literal["all", "any"],
        filled: Mapping[str, int] = {},
        most_bytes: int | None = None,
    ) -> None:
        """Open the files for adding, behind the `filled` samples of each sensor."""
        self.sensors, self.most_bytes = sensors, most_bytes
        self._cover, self._folder = cover, folder
        self.filled = {sensor.name: filled.get(sensor.name, 0) for sensor in sensors}
        self._files: dict[str, BinaryIO] = {}
        for sensor in sensors:
            count = self.filled[sensor.name]
            self._open(sensor.name, count * _sample_bytes(sensor))
            if sensor.kind == "video":
                self._open(f"{sensor.name}.present", count)

    def _open(self, name: str, size_bytes: int) -> None:
        file = self._file(name).open("r+b" if size_bytes else "w+b")
        file.truncate(size_bytes)
        file.seek(size_bytes)
        self._files[name] = file

    def add(self, recording: ImportedRecording) -> GridRecording:
        """Put a recording at the end of the grids. Raise DatasetError or UsageError if its samples do not fit them."""
        for name in recording.series:
            if name not in self._files:
                raise UsageError(
                    f"{recording.name}: sensor {name!r}: expected one of 'sensors', got another; describe it there"
                )
        first_ns, last_ns = self._span_ns(recording)
        first, seconds = dict(self.filled), max(0, last_ns - first_ns) / SECOND_NS
        lengths = {sensor.name: int(np.floor(seconds * sensor.rate_hz + 1e-3)) + 1 for sensor in self.sensors}
        for sensor in self.sensors:
            # A filter first needs a grid at the native rate.
            factor = max(1.0, sensor.own_hz / sensor.rate_hz) if sensor.resample == "polyphase" else 1.0
            refuse_more(
                round((self.filled[sensor.name] + factor * lengths[sensor.name]) * _sample_bytes(sensor)),
                self.most_bytes,
                where=f"{recording.name}: sensor {sensor.name!r}",
                what=f"{seconds:g} s at {factor * sensor.rate_hz:g} Hz",
                cure="correct the times or 'resample_hz'",
            )
        for sensor in self.sensors:
            self._append(recording, sensor, origin_ns=first_ns, count=lengths[sensor.name])
        self.filled = {name: first[name] + lengths[name] for name in first}
        return GridRecording(
            name=recording.name,
            parts=recording.parts,
            labels=recording.labels,
            runs=recording.runs,
            is_utc=recording.is_utc,
            origin_ns=first_ns,
            first=first,
            lengths=lengths,
            absent=tuple(sensor.name for sensor in self.sensors if not recording.series.get(sensor.name)),
        )

    def _append(self, recording: ImportedRecording, sensor: ImportedSensor, *, origin_ns: int, count: int) -> None:
        shape = sensor.modality(1.0).shape[1:]
        for block in sensor_blocks(recording.series.get(sensor.name, ()), sensor, origin_ns=origin_ns, count=count):
            if block.shape[1:] != shape:
                raise UsageError(
                    f"{recording.name}: sensor {sensor.name!r}: expected samples of shape {shape}, got"
                    f" {block.shape[1:]}; give one column for each channel"
                )
            self._files[sensor.name].write(np.ascontiguousarray(block.view(np.ndarray)).data)
            if sensor.kind == "video":
                present = present_of(block)
                here = np.ones(len(block), dtype=np.uint8) if present is None else present
                self._files[f"{sensor.name}.present"].write(here.data)

    def _span_ns(self, recording: ImportedRecording) -> tuple[int, int]:
        """Return the first and the last moment of the grids: while all sensors record, or while any does."""
        # Channels that report on change begin when they like: a sensor is there while any of its channels is.
        times = [[series.times for series in parts if len(series)] for parts in recording.series.values()]
        firsts = [min(int(channel[0]) for channel in channels) for channels in times if channels]
        lasts = [max(int(channel[-1]) for channel in channels) for channels in times if channels]
        if not firsts:
            raise DatasetError(f"{recording.name}: expected samples, got none; remove the recording")
        return (max(firsts), min(lasts)) if self._cover == "all" else (min(firsts), max(lasts))

    def secure(self) -> None:
        """Return when everything that was added is on the disk."""
        for file in self._files.values():
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())

    def mapped(self) -> tuple[dict[str, AnyArray], dict[str, AnyArray]]:
        """Return the samples of each sensor (L, ...), and for cameras which frames are there (L,), mapped."""
        samples: dict[str, AnyArray] = {}
        present: dict[str, AnyArray] = {}
        for file in self._files.values():
            file.flush()
        for sensor in self.sensors:
            modality = sensor.modality(1.0)
            if not self.filled[sensor.name]:
                samples[sensor.name] = np.zeros((0, *modality.shape[1:]), dtype=modality.dtype)
                continue
            flat = np.memmap(self._file(sensor.name), dtype=modality.dtype, mode="r")
            samples[sensor.name] = flat.reshape(-1, *modality.shape[1:])
            if sensor.kind == "video":
                present[sensor.name] = np.memmap(self._file(f"{sensor.name}.present"), dtype=np.uint8, mode="r")
        return samples, present

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.grid"

    def __enter__(self) -> Grids:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()


def _sample_bytes(sensor: ImportedSensor) -> int:
    modality = sensor.modality(1.0)
    return math.prod(modality.shape[1:]) * np.dtype(modality.dtype).itemsize


def sums_before(grid: AnyArray, rows: Rows, measure: Callable[[AnyArray], npt.ArrayLike]) -> npt.NDArray[np.float64]:
    """Return the sum of `measure` (B,) of blocks of a grid over all rows before each of these."""
    rows = np.minimum(rows, len(grid))
    sums, total = np.zeros(rows.shape), 0.0
    for start in range(0, len(grid), _BLOCK_ROWS):
        block = np.asarray(grid[start : start + _BLOCK_ROWS])
        running = np.concatenate([[total], total + np.cumsum(measure(block), dtype=np.float64)])
        here = (rows > start) & (rows <= start + len(block))
        sums[here] = running[rows[here] - start]
        total = float(running[-1])
        let_go(grid)
    return sums
