"""One recording as it was read: the samples of each sensor with their times, and what is known of stretches of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalityKind, ModalitySpec, Normalise
from mmkd_models.data.importing.recipe import Resample
from mmkd_models.data.importing.series import SECOND_NS, ClockFacts, Samples, SampleSeries

_GAP_PERIODS = 1.5


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A stretch of time and what is true of it.

    Attributes:
        place: where it is written, for messages.
    """

    start_ns: int
    end_ns: int
    value: str
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class FileClock:
    """The clock of one recording of one sensor, for the report."""

    recording: str
    sensor: str
    facts: ClockFacts
    drift_ppm: float


class ReadingState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the reading of a source of a recording is, between two files.

    Attributes:
        collected: samples in each scratch file.
        last_ns: the last time in each of them.
        origin_ns: when the source began.
        count: rows that were read.
        open_runs: by column, start, value and place of the value that lasts.
        runs: by column, the values before it.
    """

    collected: tuple[int, ...]
    last_ns: tuple[int | None, ...]
    origin_ns: int | None
    count: int
    is_utc: bool
    open_runs: dict[str, tuple[int, str, str] | None]
    runs: dict[str, list[Interval]]


class ReadingPlace(Protocol):
    """Where the samples of a source of a recording are collected, and what an earlier run left there."""

    @property
    def folder(self) -> Path:
        """Of the scratch files."""

    @property
    def name(self) -> str:
        """What their names begin with."""

    @property
    def most_bytes(self) -> int:
        """What an import may write."""

    def begun(self) -> tuple[int, ReadingState | None]:
        """Return how many files were read, and how far that is."""

    def go_on(self, files: int, state: ReadingState, secure: Callable[[], None]) -> None:
        """Is told how far the reading is after so many files; `secure` brings the samples on the disk."""


@dataclass(frozen=True, kw_only=True)
class ImportedSensor:
    """A sensor as the dataset has it, and how its samples get there.

    Attributes:
        kind: of the modality; a camera has `height` and `width`, the size of its frames in the dataset.
        rate_hz: in the dataset.
        native_hz: of the samples; None is `rate_hz`.
        max_gap_s: nothing is interpolated across more; None is one and a half periods of the samples.
        hold_s: of `hold`, how long a sample stays true.
    """

    name: str
    channels: tuple[str, ...]
    rate_hz: float
    kind: ModalityKind = "series"
    height: int | None = None
    width: int | None = None
    unit: str = ""
    range: tuple[float, float] | None = None
    normalise: Normalise = "none"
    native_hz: float | None = None
    max_gap_s: float | None = None
    resample: Resample = "linear"
    hold_s: float | None = None

    @property
    def own_hz(self) -> float:
        """The rate of the samples themselves."""
        return self.rate_hz if self.native_hz is None else self.native_hz

    @property
    def gap_s(self) -> float:
        """Seconds beyond which nothing is interpolated."""
        return _GAP_PERIODS / self.own_hz if self.max_gap_s is None else self.max_gap_s

    def modality(self, length_s: float) -> ModalitySpec:
        """Return what `dataset.json` says of it, for windows of this length."""
        return ModalitySpec(
            name=self.name,
            kind=self.kind,
            channels=self.channels,
            unit=self.unit,
            rate_hz=self.rate_hz,
            samples=max(1, round(length_s * self.rate_hz)),
            height=msgspec.UNSET if self.height is None else self.height,
            width=msgspec.UNSET if self.width is None else self.width,
            range=self.range,
            normalise=self.normalise,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportedRecording:
    """One recording.

    Attributes:
        parts: facts of the whole of it by name, such as person or machine.
        series: by sensor; several series of one sensor hold its channels in order, a camera has its frames. One that
            was absent is left out.
        labels: stretches with a label, none overlapping.
        runs: by column, stretches in which it has one value.
        is_utc: whether times count from 1970.
    """

    name: str
    series: Mapping[str, Sequence[Samples]]
    parts: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[Interval] = ()
    runs: Mapping[str, Sequence[Interval]] = field(default_factory=dict)
    is_utc: bool = True


def series_of(times_s: npt.ArrayLike, values: npt.ArrayLike) -> SampleSeries:
    """Return samples (L, C), or (L,) of one channel, with their times (L,) in seconds, ascending.

    Raise UsageError if shapes do not fit or times do not increase.
    """
    times, samples = np.asarray(times_s, dtype=np.float64), np.asarray(values, dtype=np.float32)
    samples = samples[:, None] if samples.ndim == 1 else samples
    if times.ndim != 1 or samples.ndim != 2 or len(times) != len(samples):
        raise UsageError(
            f"series: expected times (L,) and values (L, C), got {times.shape} and {samples.shape}; fit them"
        )
    if not np.isfinite(times).all() or bool((np.diff(times) <= 0).any()):
        raise UsageError("series: expected times that increase, got others; sort them, each once")
    return SampleSeries(times=np.rint(times * SECOND_NS).astype(np.int64), values=samples)
