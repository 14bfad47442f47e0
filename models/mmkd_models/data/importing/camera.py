"""A source of a recipe that is a camera: its files become frames with times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_edge.frames import Region, cut_out
from mmkd_models.data.importing.limits import refuse_late, refuse_more
from mmkd_models.data.importing.patterns import FoundFile, with_parts
from mmkd_models.data.importing.readers.video_file import video_facts, video_frames
from mmkd_models.data.importing.recipe import SensorSource, rate_problem
from mmkd_models.data.importing.recording import SECOND_NS, ImportedSensor, Spool
from mmkd_models.data.importing.source import SourceSamples, sensor_of
from mmkd_models.data.importing.timing.clock import start_ns

_DIGITS = 7  # of a container's rate: 24000 / 1001 with fewer is a frame off after two minutes


@dataclass(frozen=True, kw_only=True)
class CameraReader:
    """A camera whose first file was opened."""

    source: SensorSource
    sensor: ImportedSensor
    rate_origin: str
    facts: tuple[str, ...] = ()
    has_clock: bool = True

    @property
    def files_of(self) -> str:
        """Modality of the source whose files are read."""
        return self.source.modality

    def read(
        self,
        files: Sequence[FoundFile],
        folder: Path,
        stack: ExitStack,
        *,
        most_bytes: int,
        tell: Callable[[int], None],
    ) -> SourceSamples:
        """Read the files of one recording; arguments and errors as of `SourceReader.read`."""
        source, shape = self.source, self.sensor.modality(1.0).shape[1:]
        spool = Spool(folder, shape, np.uint8)
        stack.callback(spool.close)
        time_ns, repeated = round(source.offset_s * SECOND_NS), 0
        if source.start:
            text = with_parts(source.start, files[0].parts)
            time_ns += start_ns(text, source, place=str(files[0].path))
        for file in files:
            end_ns, count = self._read_file(file.path, spool, time_ns, most_bytes)
            time_ns, repeated = end_ns, repeated + count
            tell(file.path.stat().st_size)
        return SourceSamples(series=[spool.series()], runs={}, is_utc=bool(source.start), repeated=repeated)

    def _read_file(self, file: Path, spool: Spool, origin_ns: int, most_bytes: int) -> tuple[int, int]:
        """Collect the frames of a file. Return when the next file begins, and how many frames equal the one before."""
        source, (height, width, channels) = self.source, self.sensor.modality(1.0).shape[1:]
        count, repeated, first_s, last_s = 0, 0, 0.0, 0.0
        before = None
        for container_s, pixels in video_frames(file):
            _refuse_outside(file, source.region, *pixels.shape[:2])
            first_s = first_s if count else container_s
            refuse_late(file, count, self.sensor.own_hz)
            # Some containers have no times: all are 0.
            time_s = container_s - first_s if container_s else count / self.sensor.own_hz
            if count and time_s <= last_s:
                raise DatasetError(
                    f"{file}: frame {count}: expected times that increase, got {time_s:g} s after {last_s:g} s; encode"
                    f" it anew (ffmpeg -i {file.name} -r {self.sensor.own_hz:g} {file.stem}-new.mp4)"
                )
            repeated += before is not None and np.array_equal(before, pixels)
            frame = cut_out(pixels, source.region, height=height, width=width, is_gray=channels == 1)
            spool.append(np.array([origin_ns + round(time_s * SECOND_NS)]), frame[None])
            before, last_s, count = pixels, time_s, count + 1
            refuse_more(
                spool.size_bytes,
                most_bytes,
                where=str(file),
                what=f"its first {count:,} frames",
                cure="lower 'height' and 'width'",
            )
        if not count:
            raise DatasetError(f"{file}: expected frames, got none; remove the file, or copy it again")
        return origin_ns + round((last_s + 1 / self.sensor.own_hz) * SECOND_NS), repeated


def open_camera(source: SensorSource, first: FoundFile) -> CameraReader:
    """Open the first file of a camera. Raise DatasetError if it is no video, or smaller than the region."""
    container_hz, height, width = video_facts(first.path)
    _refuse_outside(first.path, source.region, height, width)
    if source.rate_hz is None and not 0 < container_hz < float("inf"):
        raise DatasetError(f"{first.path}: expected a container that knows its rate, got none; set 'rate_hz'")
    rate_hz = source.rate_hz or float(f"{container_hz:.{_DIGITS}g}")
    if text := rate_problem(rate_hz):
        raise DatasetError(f"{first.path}: frames a second: {text}")
    return CameraReader(
        source=source,
        sensor=sensor_of(source, tuple(source.channels) or ("gray",), rate_hz, "nearest"),
        rate_origin="as 'rate_hz' says" if source.rate_hz else f"as {first.path} says",
    )


def _refuse_outside(file: Path, region: Region | None, height: int, width: int) -> None:
    if region is not None and (region[0] + region[2] > width or region[1] + region[3] > height):
        raise DatasetError(
            f"{file}: expected frames that hold the region {list(region)}, got frames of {width}x{height};"
            " correct 'region'"
        )
