"""One source of a recipe that is a camera: its files become frames with times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_edge.frames import cut_out
from mmkd_models.data.importing.limits import MOST_TIME_NS, refuse_more
from mmkd_models.data.importing.patterns import FoundFile, with_parts
from mmkd_models.data.importing.read_source import ReadSource
from mmkd_models.data.importing.readers.video_file import video_facts, video_frames
from mmkd_models.data.importing.recipe import Region, SensorSource, rate_problem
from mmkd_models.data.importing.recorded import (
    SECOND_NS,
    CameraFrames,
    ClockFacts,
    ImportedSensor,
    Pixels,
    Samples,
    Spool,
    clock_facts,
)
from mmkd_models.data.importing.timing.clock import start_ns
from mmkd_models.data.importing.work_folder import ReadingPlace

_RATE_TOLERANCE = 0.01
_LATE_PERIODS = 0.5  # a frame this far from where the rate puts it was not taken at that rate
_DIGITS = 7  # of a container's rate: 24000 / 1001 with fewer is a frame off after two minutes


@dataclass(frozen=True, kw_only=True)
class CameraReader:
    """A camera with its first file looked into.

    Attributes:
        motions: by the first file of a recording, filled by reading where the region is to be found; else None.
    """

    source: SensorSource
    sensor: ImportedSensor
    region: Region | None
    first_file: Path
    rate_origin: str
    facts: tuple[str, ...] = ()
    motions: dict[Path, Motion] | None = None

    @staticmethod
    def opened(source: SensorSource, first: FoundFile) -> CameraReader:
        """Look into the first file. Raise DatasetError if it is no video, or smaller than the region."""
        found = video_facts(first.path)
        assert source.height is not None  # the recipe's check
        assert source.width is not None
        if source.rate_hz is None and not 0 < found.rate_hz < float("inf"):
            raise DatasetError(f"{first.path}: expected a container that knows its rate, got none; set 'rate_hz'")
        rate_hz = source.rate_hz or float(f"{found.rate_hz:.{_DIGITS}g}")
        if text := rate_problem(rate_hz):
            raise DatasetError(f"{first.path}: frames a second: {text}")
        region = source.region if isinstance(source.region, tuple) else None
        refuse_outside(first.path, region, found.height, found.width)
        return CameraReader(
            source=source,
            sensor=ImportedSensor(
                name=source.modality,
                kind="video",
                channels=tuple(source.channels) or ("gray",),
                rate_hz=source.resample_hz or rate_hz,
                height=source.height,
                width=source.width,
                unit=source.unit,
                native_hz=rate_hz,
                max_gap_s=source.max_gap_s,
                resample="nearest",
            ),
            region=region,
            first_file=first.path,
            rate_origin="as 'rate_hz' says" if source.rate_hz else f"as {first.path} says",
            motions={} if source.region == "auto" else None,
        )

    @property
    def has_clock(self) -> bool:
        """Always: frames have times, counted or read, and some may be missing or repeated."""
        return True

    def with_region(self, region: Region) -> CameraReader:
        """Return the same camera, of whose frames this part is kept."""
        return replace(self, region=region, motions=None)

    def find_region(self, first_files: Sequence[Path]) -> Region:
        """Return the box where things move in these recordings, which were read.

        Raise DatasetError if nothing moves, or their frames differ in size.
        """
        assert self.motions is not None
        found = {file: self.motions[file] for file in first_files if file in self.motions}
        sizes = {(one.width, one.height): file for file, one in found.items()}
        if len(sizes) > 1:
            told = " and ".join(f"{size[0]}x{size[1]} in {file}" for size, file in list(sizes.items())[:2])
            raise DatasetError(
                f"'source' ({self.source.modality}): region = 'auto' expects frames of one size, got {told};"
                " give 'region' in pixels, or make sources of their own"
            )
        height, width, _ = self._shape
        region = moving_box(list(found.values()), height=height, width=width) if found else None
        if region is None:
            raise DatasetError(
                f"'source' ({self.source.modality}): region = 'auto' expects frames that change, got recordings for"
                " training in which nothing moves; give 'region' in pixels, or 'whole'"
            )
        return region

    def clock_facts(self, frames: Samples) -> ClockFacts:
        """Measure the clock of frames."""
        return clock_facts(frames, max_gap_s=self.sensor.gap_s)

    def read(
        self, files: Sequence[FoundFile], place: ReadingPlace, stack: ExitStack, *, told: Callable[[int], None]
    ) -> ReadSource:
        """Read the files of one recording one behind the other; arguments and errors as of `SourceReader.read`.

        Where an earlier run read some of them, all are read again.
        """
        spool = stack.enter_context(Spool(place.folder, place.name, self._shape, np.uint8))
        reading = _Reading(self, spool, place.most_bytes)
        reading.origin_ns = self._origin_ns(files[0])
        for file in files:
            reading.add_file(file.path)
            told(file.path.stat().st_size)
        motion = reading.meter.motion()
        if self.motions is not None and motion is not None:
            self.motions[files[0].path] = motion
        times, values = reading.spool.collected()
        return ReadSource(
            series=[CameraFrames(times=times, values=values)],
            runs={},
            is_utc=bool(self.source.start),
            repeated=reading.repeated,
        )

    @property
    def _shape(self) -> tuple[int, int, int]:
        assert self.sensor.height is not None  # a camera's
        assert self.sensor.width is not None
        return self.sensor.height, self.sensor.width, len(self.sensor.channels)

    def _origin_ns(self, file: FoundFile) -> int:
        offset_ns = round(self.source.offset_s * SECOND_NS)
        if not self.source.start:
            return offset_ns
        text = with_parts(self.source.start, file.parts)
        return start_ns(text, self.source, place=str(file.path)) + offset_ns

    def kept(self, file: Path, pixels: Pixels) -> Pixels:
        """Return of a recorded frame (H, W, 3) what the dataset has. Raise DatasetError if the region is outside."""
        height, width, channels = self._shape
        refuse_outside(file, self.region, *pixels.shape[:2])
        return cut_out(pixels, self.region, height=height, width=width, is_gray=channels == 1)


class _Reading:
    """The reading of one recording: where the next file begins, and what was seen."""

    def __init__(self, reader: CameraReader, spool: Spool, most_bytes: int) -> None:
        self._reader, self._most_bytes = reader, most_bytes
        self.spool = spool
        self.meter = MotionMeter()
        self.origin_ns = 0
        self.repeated = 0

    def add_file(self, file: Path) -> None:
        reader, times_s, time_ns = self._reader, list[float](), self.origin_ns
        before: Pixels | None = None
        for frame in video_frames(file):
            times_s.append(frame.time_s)
            if reader.motions is not None:
                self.meter.add(frame.pixels)
            self.repeated += before is not None and np.array_equal(before, frame.pixels)
            before = frame.pixels
            by_count_s = (len(times_s) - 1) / reader.sensor.own_hz
            since_s = by_count_s if reader.source.frame_times == "count" else frame.time_s - times_s[0]
            time_ns = self.origin_ns + round(since_s * SECOND_NS)
            if abs(time_ns) > MOST_TIME_NS:
                raise DatasetError(
                    f"{file}: frame {len(times_s) - 1}: expected a time within 146 years of 1970, got"
                    f" {time_ns / SECOND_NS:g} s; correct 'rate_hz' or 'start'"
                )
            self.spool.append(np.array([time_ns]), reader.kept(file, frame.pixels)[None])
            refuse_more(
                self.spool.size_bytes,
                self._most_bytes,
                where=str(file),
                what=f"its first {len(times_s):,} frames",
                cure="lower 'height' and 'width'",
            )
        if not times_s:
            raise DatasetError(f"{file}: expected frames, got none; remove the file, or copy it again")
        _refuse_times(file, np.array(times_s), reader)
        self.origin_ns = time_ns + round(SECOND_NS / reader.sensor.own_hz)


def refuse_outside(file: Path, region: Region | None, height: int, width: int) -> None:
    """Raise DatasetError if a region reaches beyond frames of this size."""
    if region is not None and (region[0] + region[2] > width or region[1] + region[3] > height):
        raise DatasetError(
            f"{file}: expected frames that hold the region {list(region)}, got frames of {width}x{height};"
            " correct 'region'"
        )


def _refuse_times(file: Path, times_s: npt.NDArray[np.float64], reader: CameraReader) -> None:
    """Refuse a container whose times go back, or are not those that counting gives."""
    if not times_s.any() and len(times_s) > 1:  # this container has no times
        if reader.source.frame_times == "container":
            raise DatasetError(f"{file}: expected a container with times, got one without; set frame_times = 'count'")
        return
    steps = np.diff(times_s)
    back = np.flatnonzero(steps <= 0)
    if len(back):
        frame = int(back[0])
        raise DatasetError(
            f"{file}: frame {frame + 1}: expected times that increase, got {times_s[frame + 1]:g} s after"
            f" {times_s[frame]:g} s ({len(back)} such); encode it anew (ffmpeg -i {file.name} -r"
            f" {reader.sensor.own_hz:g} {file.stem}-new.mp4)"
        )
    if reader.source.frame_times == "container":
        return
    period_s = 1 / reader.sensor.own_hz
    rate_hz = 1 / float(np.median(steps)) if len(steps) else reader.sensor.own_hz
    if abs(rate_hz / reader.sensor.own_hz - 1) > _RATE_TOLERANCE and _is_even(steps):
        raise DatasetError(
            f"{file}: expected {reader.sensor.own_hz:g} frames a second, {reader.rate_origin}, got {rate_hz:.4g} by the"
            " container's times; correct 'rate_hz'"
        )
    late = np.flatnonzero(np.abs(times_s - times_s[0] - np.arange(len(times_s)) * period_s) > _LATE_PERIODS * period_s)
    if len(late):
        frame = int(late[0])
        raise DatasetError(
            f"{file}: frame {frame}: expected it at {frame * period_s:.4g} s, by {reader.sensor.own_hz:g} frames a"
            f" second {reader.rate_origin}, got {times_s[frame] - times_s[0]:.4g} s by the container: frames were"
            " dropped, or the rate varies; set frame_times = 'container'"
        )


def _is_even(steps: npt.NDArray[np.float64]) -> bool:
    """Whether nine in ten steps are alike: another rate, and not one that varies."""
    usual = float(np.median(steps))
    return float((np.abs(steps - usual) <= 0.1 * usual).mean()) >= 0.9


_MOST_CELLS = 64  # of a map of motion, along its longer side
_LEAST_SHARE = 0.3  # of the liveliest cell's motion: what moves less is a shadow, a collar, a swaying head
_INSIDE = 0.9  # the share of the rest, along each side, that lies in the box


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """How much moves where: the mean change from frame to frame in each cell of a grid (rows, columns)."""

    cells: npt.NDArray[np.float64]
    height: int
    width: int


class MotionMeter:
    """Measures the motion of one recording, frame by frame."""

    def __init__(self) -> None:
        self._sum: npt.NDArray[np.float64] | None = None
        self._before: npt.NDArray[np.float32] | None = None
        self._size = (0, 0)
        self._steps = 0

    def add(self, pixels: Pixels) -> None:
        """Take the next frame (H, W, 3)."""
        import cv2

        height, width = pixels.shape[:2]
        scale = _MOST_CELLS / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA)
        now = small.astype(np.float32)
        if self._before is not None:
            change = np.abs(now - self._before).astype(np.float64)
            self._sum = change if self._sum is None else self._sum + change
            self._steps += 1
        self._before, self._size = now, (height, width)

    def motion(self) -> Motion | None:
        """Return what was measured; None of fewer than two frames."""
        if self._sum is None:
            return None
        return Motion(cells=self._sum / self._steps, height=self._size[0], width=self._size[1])


def moving_box(motions: Sequence[Motion], *, height: int, width: int) -> Region | None:
    """Return the box where things move, of the proportions of the frames in the dataset; None if nothing does.

    The median cell's motion is taken for noise, and cells that move little beside the liveliest do not count. Along
    each side the box holds nine tenths of the rest, and is widened to the proportions, as far as the frame reaches.
    """
    cells = np.mean([one.cells for one in motions], axis=0)
    above = np.maximum(cells - np.median(cells), 0)
    rest = np.where(above >= _LEAST_SHARE * above.max(), above, 0.0)
    if not rest.any():
        return None
    full_height, full_width = motions[0].height, motions[0].width
    top, bottom = _inner(rest.sum(axis=1), full_height)
    left, right = _inner(rest.sum(axis=0), full_width)
    tall, wide = bottom - top, right - left
    if tall * width < wide * height:
        top, bottom = _widened(top, bottom, wide * height / width, full_height)
    else:
        left, right = _widened(left, right, tall * width / height, full_width)
    x, y = round(left), round(top)
    return x, y, max(1, round(right) - x), max(1, round(bottom) - y)


def _inner(profile: npt.NDArray[np.float64], length: int) -> tuple[float, float]:
    """Between which pixels the middle part of a profile over cells lies."""
    edges = np.linspace(0, length, len(profile) + 1)
    reached = np.concatenate([[0], np.cumsum(profile)]) / profile.sum()
    low, high = np.interp([(1 - _INSIDE) / 2, (1 + _INSIDE) / 2], reached, edges)
    return float(low), float(high)


def _widened(low: float, high: float, wanted: float, length: int) -> tuple[float, float]:
    wanted = min(wanted, length)
    start = min(max(0.0, (low + high - wanted) / 2), length - wanted)
    return start, start + wanted
