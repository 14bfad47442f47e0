"""A recipe's source: its columns, read as series, with the line of every fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_edge.frames import Region, cut_out
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.checking.related import exclude_text, time_text
from mmkd_models.data.importing.clock import (
    SECOND_NS,
    Interval,
    Resample,
    SampleSeries,
    Spool,
    TimeColumn,
    Times,
    clock_facts,
    in_order,
    start_ns,
)
from mmkd_models.data.importing.keys import MAX_THINNING, refuse_late, refuse_more
from mmkd_models.data.importing.patterns import FoundFile, suggest_part, with_parts
from mmkd_models.data.importing.readers.formats import Reader, choose_reader, find_format, suffixes
from mmkd_models.data.importing.readers.media_files import video_facts, video_frames
from mmkd_models.data.importing.readers.table import RowBlock, numbers, require_columns, texts
from mmkd_models.data.importing.recipe import TARGET, SensorSource, rate_problem
from mmkd_models.data.windows import Floats

_RATE_DIGITS = 4
_CONTAINER_DIGITS = 7  # of a container's rate: 24000 / 1001 with fewer is a frame off after two minutes
_RATE_ROWS = 1 << 20  # to measure a rate
_GAP_PERIODS = 1.5
_SET_DUPLICATES = "set duplicates = 'first', 'last' or 'mean', or correct the times"


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceSamples:
    """A sensor's samples in one recording; `repeated` frames equal the one before, `empty` channels have no value."""

    series: Sequence[SampleSeries]
    runs: Mapping[str, list[Interval]]
    is_utc: bool
    repeated: int = 0
    empty: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ImportedSensor:
    """A source whose first file was opened.

    Attributes:
        columns: column of each channel; in a tall table, its tag.
        native_hz: rate of the samples themselves.
        files_of: modality of the source whose files are read; a target has those of another.
        facts: columns that labels, groups and metadata need.
        label: the one of them that files may lack.
    """

    source: SensorSource
    columns: Mapping[str, str]
    native_hz: float
    resample: Resample = "linear"
    files_of: str = ""
    facts: tuple[str, ...] = ()
    label: str = ""
    first_file: Path = field(default=Path(), repr=False)  # where it lies is not part of what was read

    @property
    def name(self) -> str:
        """Name of the modality."""
        return self.source.modality

    @property
    def rate_hz(self) -> float:
        """Rate in the dataset."""
        return self.source.resample_hz or self.native_hz

    @property
    def gap_s(self) -> float:
        """Longest gap that is interpolated."""
        return _GAP_PERIODS / self.native_hz if self.source.max_gap_s is None else self.source.max_gap_s

    def modality(self, length_s: float) -> ModalitySpec:
        """Return its `dataset.json` entry for windows of this length."""
        source = self.source
        return ModalitySpec(
            name=self.name,
            kind=source.modality_kind,
            channels=tuple(self.columns),
            unit=source.unit,
            rate_hz=self.rate_hz,
            samples=max(1, round(length_s * self.rate_hz)),
            height=source.height,
            width=source.width,
            range=source.range,
            normalise=source.normalise,
        )

    def with_label(self, files: Iterable[FoundFile], column: str) -> ImportedSensor:
        """Return a sensor that reads a column of labels too, if one of its files has it."""
        if self.source.modality_kind == "video":
            return self
        has_label = any(column in _file_reader(self.source, file.path)[0].names(file.path) for file in files)
        return replace(self, facts=(*self.facts, column), label=column) if has_label else self

    def with_target(self, first: FoundFile, column: str) -> ImportedSensor | None:
        """Return a sensor of one column to predict in the same files; None without that column."""
        source = self.source
        if source.modality_kind == "video" or source.tag:
            return None
        if column not in _file_reader(source, first.path)[0].names(first.path):
            return None
        target = msgspec.structs.replace(
            source,
            modality=TARGET,
            kind="series",
            channels={column: column},
            scale=1.0,
            file_scale={},
            range=None,
            normalise="none",
            resample_hz=None,
            resample="linear" if source.resample == "polyphase" else source.resample,
        )
        return replace(open_source(target, first, facts=()), files_of=source.modality)

    def read(
        self,
        files: Sequence[FoundFile],
        folder: Path,
        stack: ExitStack,
        *,
        most_bytes: int,
        tell: Callable[[int], None],
    ) -> SourceSamples:
        """Read one recording, with scratch files in `folder`. Raise DatasetError with the faulty line."""
        kind = _FrameReading if self.source.modality_kind == "video" else _Reading
        reading = kind(self, folder, stack, most_bytes)
        for file in files:
            reading.add_file(file)
            tell(file.path.stat().st_size)
        return reading.samples(files[0].path)


def open_source(source: SensorSource, first: FoundFile, *, facts: Sequence[str], label: str = "") -> ImportedSensor:
    """Open a source's first file, for the `facts` that it has. Raise DatasetError if a column is missing."""
    if source.modality_kind == "video":
        container_hz, height, width = video_facts(first.path)
        _refuse_outside(first.path, source.region, height, width)
        if source.rate_hz is None and not 0 < container_hz < float("inf"):
            raise DatasetError(f"{first.path}: expected a container that knows its rate, got none; set 'rate_hz'")
        rate_hz, resample = source.rate_hz or float(f"{container_hz:.{_CONTAINER_DIGITS}g}"), source.resample
        channels, facts = dict.fromkeys(source.channels or ("gray",), ""), ()
    else:
        reader, place = _file_reader(source, first.path)
        names = reader.names(first.path)
        facts = tuple(name for name in facts if name in names)
        used = [name for name in (source.time, source.tag, source.value, source.quality) if name]
        require_columns(place, names, used)
        others = [name for name in names if name not in (*used, *facts, label)]
        given = source.channels or others
        channels = dict(given) if isinstance(given, dict) else {name: name for name in given}
        if not channels:
            raise DatasetError(f"{place}: no columns are left for channels beside {', '.join(used)}; name 'channels'")
        if not source.tag:
            require_columns(place, names, list(channels.values()))
        for file, factors in source.file_scale.items():
            require_columns(f"'file_scale' of {file}", list(channels), list(factors))
        rate_hz = _rate(source, reader, first.path, [] if source.tag else list(channels.values())[:1])
        # Without a filter, sound above half the new rate would be folded into it.
        is_resampled_sound = source.modality_kind == "audio" and source.resample_hz not in (None, rate_hz)
        resample = "polyphase" if is_resampled_sound else source.resample
    if text := rate_problem(rate_hz):
        raise DatasetError(f"{first.path}: rate in Hz: {text}")
    if resample == "polyphase" and rate_hz > MAX_THINNING * (source.resample_hz or rate_hz):
        raise DatasetError(
            f"{first.path}: expected 'resample_hz' of {rate_hz / MAX_THINNING:g} or more for {rate_hz:g} Hz, got"
            f" {source.resample_hz:g}; raise it, or set resample = 'linear'"
        )
    return ImportedSensor(
        source=source,
        columns=channels,
        native_hz=rate_hz,
        resample=resample,
        files_of=source.modality,
        facts=tuple(facts),
        label=label,
        first_file=first.path,
    )


class _Reading:
    def __init__(self, sensor: ImportedSensor, folder: Path, stack: ExitStack, most_bytes: int) -> None:
        self._sensor, self._source, self._most_bytes = sensor, sensor.source, most_bytes
        self._columns = tuple(sensor.columns.values())
        # Tags of a tall table have a series each, with its times.
        widths = [1] * len(self._columns) if self._source.tag else [len(self._columns)]
        self._spools = [Spool(folder, (width,), np.float32) for width in widths]
        for spool in self._spools:
            stack.callback(spool.close)
        self._last: list[int | None] = [None] * len(widths)
        self._runs = {name: _RunCollector() for name in sensor.facts}
        self._origin_ns: int | None = None
        self._count, self._is_utc = 0, True
        self._files, self._is_new_file = list[Path](), False
        self._has_value = np.zeros(len(self._columns), dtype=bool)

    def add_file(self, file: FoundFile) -> None:
        source, native_hz, first_file = self._source, self._sensor.native_hz, self._sensor.first_file
        reader, place = _file_reader(source, file.path)
        names = reader.names(file.path)
        facts = [name for name in self._runs if name in names or name != self._sensor.label]
        columns = [source.time, source.tag, source.value, source.quality, *facts]
        columns += [] if source.tag else self._columns
        columns = list(dict.fromkeys(name for name in columns if name))
        is_first = file.path == first_file
        out = f"; or leave the recording out: {exclude_text(file.name)}"
        like, cure = ("", "") if is_first else (f" as in {first_file}", out)
        require_columns(place, names, columns, like=like, cure=cure)
        if reader.rate_hz and not source.time and not is_first and reader.rate_hz(file.path) != native_hz:
            raise DatasetError(
                f"{file.path}: expected {native_hz:g} Hz as in {first_file}, got {reader.rate_hz(file.path):g};"
                " resample it, or make it a source of its own"
            )
        clock = TimeColumn(source, source.time)
        before = self._count
        if reader.rows is not None:
            self._refuse_rows(file.path, reader.rows(file.path, columns))
        self._files.append(file.path)
        self._is_new_file = not source.tag
        for block in reader.blocks(file.path, columns):
            if source.time:
                times = clock.read(block)
            else:  # they are counted from the start
                if self._origin_ns is None:
                    text = with_parts(source.start, file.parts)
                    self._origin_ns = start_ns(text, source, place=str(file.path)) if text else 0
                refuse_late(file.path, self._count + len(block.frame), native_hz)
                steps = np.arange(self._count, self._count + len(block.frame), dtype=np.float64)
                times = self._origin_ns + np.rint(steps * (SECOND_NS / native_hz)).astype(np.int64)
            self._is_utc &= clock.is_utc if source.time else bool(source.start)
            self._add(block, file.name, times + round(source.offset_s * SECOND_NS))
            self._count += len(times)
            self._refuse_rows(file.path, 0)
        if self._count == before:
            raise DatasetError(f"{file.path}: has no rows; remove the file, or write it again")

    def _refuse_rows(self, file: Path, more: int) -> None:
        """Refuse rows that were read, and `more` of a file, if their samples with times are too large."""
        row_bytes = max(spool.row_bytes for spool in self._spools)  # a row of a tall table is of one tag
        refuse_more(
            sum(spool.size_bytes for spool in self._spools) + more * row_bytes,
            self._most_bytes,
            where=str(file),
            what=f"its first {self._count + more:,} rows",
            cure="look whether it was unpacked from few bytes",
        )

    def _add(self, block: RowBlock, file: str, times: Times) -> None:
        source, columns = self._source, self._columns
        values = numbers(block, [source.value] if source.tag else columns, source)
        factors = source.file_scale.get(file, {})
        scale = np.array([factors.get(channel, 1.0) for channel in self._sensor.columns], dtype=np.float32)
        with np.errstate(over="ignore"):
            values = values * scale if factors and not source.tag else values
        if source.quality:
            is_good = np.isin(texts(block, source.quality, source), source.quality_ok)
            values = np.where(is_good[:, None], values, np.float32(np.nan))
        if source.tag:
            tags = np.array(texts(block, source.tag, source), dtype=object)
            for number, tag in enumerate(columns):
                self._append(number, block, times, values * scale[number], np.flatnonzero(tags == tag))
        else:
            self._append(0, block, times, values, np.arange(len(times)))
        for name, collector in self._runs.items():
            has_column = name in block.frame.columns
            collector.add(times, texts(block, name, source) if has_column else [""] * len(times), block)

    def _append(self, number: int, block: RowBlock, times: Times, values: Floats, rows: Times) -> None:
        if not len(rows):
            return
        times, values, last = times[rows], values[rows], self._last[number]
        steps = np.diff(times, prepend=int(times[0]) - 1 if last is None else last)
        if self._is_new_file and last is not None and steps[0] < 0 and self._source.unsorted == "error":
            raise DatasetError(
                f"{block.place(int(rows[0]))}: timestamps go back to {self._time_text(int(times[0]))} from"
                f" {self._time_text(last)}, the end of {self._files[-2]}; both are one recording, as files that differ"
                f" in no part of 'files' follow each other: write a part{suggest_part(self._source.files, 'run')}, or"
                " set unsorted = 'sort'"
            )
        self._is_new_file = False
        for is_wrong, words, cure in (
            ((steps < 0) & (self._source.unsorted == "error"), "go back", "sort the file, or set unsorted = 'sort'"),
            ((steps == 0) & (self._source.duplicates == "error"), "repeat", _SET_DUPLICATES),
        ):
            wrong = np.flatnonzero(is_wrong)
            if len(wrong):
                row = int(wrong[0])
                again = "again" if steps[row] == 0 else f"after {self._time_text(int(times[row] - steps[row]))}"
                raise DatasetError(
                    f"{block.place(int(rows[row]))}: timestamps {words}: {self._time_text(int(times[row]))} {again}"
                    f" ({len(wrong)} such from there on); {cure}"
                )
        self._last[number] = int(times[-1])
        channels = slice(number, number + 1) if self._source.tag else slice(None)
        self._has_value[channels] |= ~np.isnan(values).all(axis=0)
        with np.errstate(over="ignore"):  # infinity, which no dataset may have
            values = values if self._source.scale == 1.0 else values * np.float32(self._source.scale)
        self._spools[number].append(times, values)

    def _time_text(self, time_ns: int) -> str:
        return time_text(time_ns / SECOND_NS, "milliseconds") if self._is_utc else f"{time_ns / SECOND_NS:g} s"

    def samples(self, file: Path) -> SourceSamples:
        source, is_sorted = self._source, self._source.unsorted == "sort"
        series = [in_order(spool.series(), duplicates=source.duplicates, sort=is_sorted) for spool in self._spools]
        for samples in series if is_sorted and source.duplicates == "error" else ():
            same = np.flatnonzero(np.diff(samples.times) == 0)
            if len(same):
                time = self._time_text(int(samples.times[same[0]]))
                raise DatasetError(f"{file}: timestamps repeat: {time} again ({len(same)} such); {_SET_DUPLICATES}")
        if not any(map(len, series)):
            raise DatasetError(f"{file}: has no samples of {', '.join(self._columns)}; correct 'channels'")
        end_ns = max(int(samples.times[-1]) for samples in series if len(samples))
        end_ns += round(SECOND_NS / self._sensor.native_hz)
        runs = {name: collector.close(end_ns) for name, collector in self._runs.items()}
        empty = [name for name, has_value in zip(self._sensor.columns, self._has_value, strict=True) if not has_value]
        return SourceSamples(series=series, runs=runs, is_utc=self._is_utc, empty=empty)


class _RunCollector:
    def __init__(self) -> None:
        self._open: tuple[int, str, str] | None = None
        self._intervals: list[Interval] = []

    def add(self, times: Times, values: Sequence[str], block: RowBlock) -> None:
        array = np.asarray(values, dtype=object)
        for row in np.flatnonzero(np.append(True, array[1:] != array[:-1])[: len(array)]).tolist():
            if self._open is None or self._open[1] != values[row]:
                self.close(int(times[row]))
                self._open = (int(times[row]), values[row], block.place(row))

    def close(self, end_ns: int) -> list[Interval]:
        if self._open is not None and end_ns > self._open[0]:
            start_ns, value, place = self._open
            self._intervals.append(Interval(start_ns=start_ns, end_ns=end_ns, value=value, place=place))
        self._open = None
        return self._intervals


def _file_reader(source: SensorSource, file: Path) -> tuple[Reader, str]:
    form = find_format(file) if source.format == "auto" else source.format
    if form is None:
        raise DatasetError(f"{file}: expected a suffix of {', '.join(suffixes())}; set 'format'")
    return choose_reader(form, source), f"{file}:1" if form == "csv" else str(file)


def _rate(source: SensorSource, reader: Reader, file: Path, channels: Sequence[str]) -> float:
    if reader.rate_hz is not None and not source.time:
        rate_hz = reader.rate_hz(file)
        if source.rate_hz is not None and rate_hz != source.rate_hz:
            raise DatasetError(f"{file}: expected {source.rate_hz:g} Hz as 'rate_hz' says, got {rate_hz:g}; correct it")
        return rate_hz
    if source.rate_hz is not None:
        return source.rate_hz
    clock = TimeColumn(source, source.time)
    blocks: list[Times] = [np.zeros(0, dtype=np.int64)]
    # With a channel: some formats have a clock for each.
    for block in reader.blocks(file, list(dict.fromkeys([source.time, *channels]))):
        blocks.append(clock.read(block))
        if sum(map(len, blocks)) >= _RATE_ROWS:
            break
    times = np.unique(np.concatenate(blocks))
    facts = clock_facts(SampleSeries(times=times, values=np.zeros((0, 0))), max_gap_s=None)
    if not np.isfinite(facts.rate_hz):
        raise DatasetError(f"{file}: has {facts.samples} rows, too few to measure a rate; set 'rate_hz'")
    return float(f"{facts.rate_hz:.{_RATE_DIGITS}g}")


class _FrameReading:
    def __init__(self, sensor: ImportedSensor, folder: Path, stack: ExitStack, max_bytes: int) -> None:
        self._source, self._rate_hz, self._max_bytes = sensor.source, sensor.native_hz, max_bytes
        self._shape = sensor.modality(1.0).shape[1:]
        self._spool = Spool(folder, self._shape, np.uint8)
        stack.callback(self._spool.close)
        self._next_ns: int | None = None
        self._repeated = 0

    def add_file(self, file: FoundFile) -> None:
        """Append a file's frames."""
        source, (height, width, channels), path = self._source, self._shape, file.path
        if self._next_ns is None:
            text = with_parts(source.start, file.parts)
            self._next_ns = round(source.offset_s * SECOND_NS) + (
                start_ns(text, source, place=str(path)) if text else 0
            )
        count, first_s, last_s, before = 0, 0.0, 0.0, None
        for container_s, pixels in video_frames(path):
            _refuse_outside(path, source.region, *pixels.shape[:2])
            first_s = first_s if count else container_s
            refuse_late(path, count, self._rate_hz)
            # Some containers have no times: all are 0.
            time_s = container_s - first_s if container_s else count / self._rate_hz
            if count and time_s <= last_s:
                raise DatasetError(
                    f"{path}: frame {count}: expected times that increase, got {time_s:g} s after {last_s:g} s; encode"
                    f" it anew (ffmpeg -i {path.name} -r {self._rate_hz:g} {path.stem}-new.mp4)"
                )
            self._repeated += before is not None and np.array_equal(before, pixels)
            frame = cut_out(pixels, source.region, height=height, width=width, is_gray=channels == 1)
            self._spool.append(np.array([self._next_ns + round(time_s * SECOND_NS)]), frame[None])
            before, last_s, count = pixels, time_s, count + 1
            what, cure = f"its first {count:,} frames", "lower 'height' and 'width'"
            refuse_more(self._spool.size_bytes, self._max_bytes, where=str(path), what=what, cure=cure)
        if not count:
            raise DatasetError(f"{path}: expected frames, got none; remove the file, or copy it again")
        self._next_ns += round((last_s + 1 / self._rate_hz) * SECOND_NS)

    def samples(self, file: Path) -> SourceSamples:
        is_utc = bool(self._source.start)
        return SourceSamples(series=[self._spool.series()], runs={}, is_utc=is_utc, repeated=self._repeated)


def _refuse_outside(file: Path, region: Region | None, height: int, width: int) -> None:
    if region is not None and (region[0] + region[2] > width or region[1] + region[3] > height):
        raise DatasetError(
            f"{file}: expected frames that hold the region {list(region)}, got frames of {width}x{height};"
            " correct 'region'"
        )
