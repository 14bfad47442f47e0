"""One source of a recipe: which columns its files have, and how they become series, with the line of every fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.cutting.labels import RunCollector, changes
from mmkd_models.data.importing.limits import MOST_THINNING, refuse_late, refuse_more
from mmkd_models.data.importing.patterns import FoundFile, with_parts
from mmkd_models.data.importing.readers.formats import Reader, format_of, reader_of, suffixes
from mmkd_models.data.importing.readers.table import RowBlock, numbers, require_columns, texts
from mmkd_models.data.importing.recipe import TARGET, SensorSource, rate_problem
from mmkd_models.data.importing.recorded import (
    SECOND_NS,
    ClockFacts,
    Floats,
    ImportedSensor,
    Interval,
    ReadingState,
    Samples,
    SampleSeries,
    Spool,
    Times,
    clock_facts,
    in_order,
)
from mmkd_models.data.importing.timing.clock import TimeColumn, start_ns, time_text
from mmkd_models.data.importing.work_folder import ReadingPlace

_RATE_DIGITS = 4
_RATE_ROWS = 1 << 20  # by which a rate is measured
_SET_DUPLICATES = "set duplicates = 'first', 'last' or 'mean', or correct the times"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadSource:
    """What the files of one sensor gave for one recording.

    Attributes:
        repeated: frames of a camera that are equal to the one before.
    """

    series: Sequence[Samples]
    runs: Mapping[str, list[Interval]]
    is_utc: bool
    repeated: int = 0


@dataclass(frozen=True, kw_only=True)
class SourceReader:
    """A source with its columns known.

    Attributes:
        columns: of the samples, in the order of the sensor's channels; of a tall table its tags.
        facts: columns that are needed beside the samples and are in its files.
        rate_origin: who declares its rate, for messages.
    """

    source: SensorSource
    sensor: ImportedSensor
    columns: tuple[str, ...]
    facts: tuple[str, ...]
    first_file: Path
    rate_origin: str

    @staticmethod
    def opened(source: SensorSource, first: FoundFile, *, facts: Sequence[str], apart: str = "") -> SourceReader:
        """Look into the first file.

        Args:
            facts: columns that are needed beside the samples, if this source has them.
            apart: a column that is no channel, unless 'channels' names it.

        Raise DatasetError if a column is missing.
        """
        reader, place = _file_reader(source, first.path)
        names = reader.names(first.path)
        facts = tuple(name for name in facts if name in names)
        used = [name for name in (source.time, source.tag, source.value, source.quality) if name]
        require_columns(place, names, used)
        if isinstance(source.channels, dict):
            channels = dict(source.channels)
        else:
            channels = {
                name: name for name in source.channels or names if source.channels or name not in (*used, *facts, apart)
            }
        if not channels:
            raise DatasetError(f"{place}: no columns are left for channels beside {', '.join(used)}; name 'channels'")
        if not source.tag:
            require_columns(place, names, list(channels.values()))
        rate_hz, origin = _rate(source, first.path, beside=[] if source.tag else list(channels.values())[:1])
        if text := rate_problem(rate_hz):
            raise DatasetError(f"{first.path}: rate in Hz, {origin}: {text}")
        # Without a filter, sound above half the new rate would be folded into it.
        is_resampled_sound = source.modality_kind == "audio" and source.resample_hz not in (None, rate_hz)
        resample = "polyphase" if is_resampled_sound else source.resample
        if resample == "polyphase" and rate_hz > MOST_THINNING * (source.resample_hz or rate_hz):
            raise DatasetError(
                f"{first.path}: expected 'resample_hz' of {rate_hz / MOST_THINNING:g} or more for {rate_hz:g} Hz, got"
                f" {source.resample_hz:g}; raise it, or set resample = 'linear'"
            )
        sensor = ImportedSensor(
            name=source.modality,
            kind=source.modality_kind,
            channels=tuple(channels),
            rate_hz=source.resample_hz or rate_hz,
            unit=source.unit,
            range=source.range,
            normalise=source.normalise,
            native_hz=rate_hz,
            max_gap_s=source.max_gap_s,
            resample=resample,
            hold_s=source.hold_s,
        )
        return SourceReader(
            source=source,
            sensor=sensor,
            columns=tuple(channels.values()),
            facts=facts,
            first_file=first.path,
            rate_origin=origin,
        )

    def with_target(self, first: FoundFile, column: str) -> SourceReader | None:
        """Return a reader of one column of the same files, a number to be predicted; None if they do not have it."""
        source = self.source
        if source.tag or column not in _file_reader(source, first.path)[0].names(first.path):
            return None
        target = msgspec.structs.replace(
            source,
            modality=TARGET,
            kind="series",
            channels={column: column},
            unit="",
            scale=1.0,
            range=None,
            normalise="none",
            resample_hz=None,
            align_on=None,
            resample="linear" if source.resample == "polyphase" else source.resample,
        )
        return SourceReader.opened(target, first, facts=())

    @property
    def has_clock(self) -> bool:
        """Whether samples come with times of a clock that may run wrong."""
        return bool(self.source.time) and self.source.resample != "hold"

    def clock_facts(self, series: Samples) -> ClockFacts:
        """Measure the clock of a series of this sensor."""
        return clock_facts(series, max_gap_s=self.sensor.gap_s)

    def read(
        self, files: Sequence[FoundFile], place: ReadingPlace, stack: ExitStack, *, told: Callable[[int], None]
    ) -> ReadSource:
        """Read the files of one recording one behind the other, without those that an earlier run read.

        Args:
            stack: closes the scratch files of the series.
            told: called with the size of each file when it is read.

        Raise DatasetError with the line of the first fault.
        """
        done, state = place.partly_read()
        if state is not None and not all(
            Spool.holds(place.folder, f"{place.name}-{number}", (self.width,), np.float32, count=count)
            for number, count in enumerate(state.collected)
        ):
            done, state = 0, None
        reading = _Reading(self, place, stack, state)
        for number, file in enumerate(files):
            if number >= done:
                reading.add_file(file)
                place.add_file(number + 1, reading.state, reading.secure)
            told(file.path.stat().st_size)
        return reading.finished(files[0].path)

    @property
    def width(self) -> int:
        """Channels of each scratch file: tags of a tall table have one each."""
        return 1 if self.source.tag else len(self.columns)


class _Reading:
    """The reading of one recording: what is known between blocks and files."""

    def __init__(self, reader: SourceReader, place: ReadingPlace, stack: ExitStack, state: ReadingState | None) -> None:
        self._reader, self._source, self._most_bytes = reader, reader.source, place.most_bytes
        spools = len(reader.columns) if self._source.tag else 1
        if state is None:
            state = ReadingState(
                collected=(0,) * spools,
                last_ns=(None,) * spools,
                origin_ns=None,
                count=0,
                is_utc=True,
                open_runs=dict.fromkeys(reader.facts),
                runs={name: [] for name in reader.facts},
            )
        self._spools = [
            stack.enter_context(Spool(place.folder, f"{place.name}-{number}", (reader.width,), np.float32, count=count))
            for number, count in enumerate(state.collected)
        ]
        self._runs = {name: RunCollector(state.open_runs[name], state.runs[name]) for name in reader.facts}
        self._last = list(state.last_ns)
        self._origin_ns, self._count, self._is_utc = state.origin_ns, state.count, state.is_utc

    @property
    def state(self) -> ReadingState:
        """How far it is, between two files."""
        return ReadingState(
            collected=tuple(spool.count for spool in self._spools),
            last_ns=tuple(self._last),
            origin_ns=self._origin_ns,
            count=self._count,
            is_utc=self._is_utc,
            open_runs={name: collector.still_open for name, collector in self._runs.items()},
            runs={name: list(collector.intervals) for name, collector in self._runs.items()},
        )

    def secure(self) -> None:
        """Return when everything that was read is on the disk."""
        for spool in self._spools:
            spool.secure()

    def add_file(self, file: FoundFile) -> None:
        source, reader = self._source, self._reader
        own, place = _file_reader(source, file.path)
        columns = [source.time, source.tag, source.value, source.quality, *reader.facts]
        columns += [] if source.tag else list(reader.columns)
        columns = list(dict.fromkeys(name for name in columns if name))
        is_first = file.path == reader.first_file
        require_columns(place, own.names(file.path), columns, like="" if is_first else f" as in {reader.first_file}")
        rate_hz = own.rate_hz(file.path) if own.rate_hz and not source.time and not is_first else reader.sensor.own_hz
        if rate_hz != reader.sensor.own_hz:
            raise DatasetError(
                f"{file.path}: expected {reader.sensor.own_hz:g} Hz as in {reader.first_file}, got {rate_hz:g};"
                " resample it, or make it a source of its own"
            )
        clock = TimeColumn(source, source.time)
        before = self._count
        for block in own.blocks(file.path, columns):
            times, usable = clock.read(block) if source.time else self._count_times(block, file)
            self._is_utc = self._is_utc and (clock.is_utc if source.time else bool(source.start))
            self._add(block, self._correct(times), usable)
            self._count += len(times)
            refuse_more(
                sum(spool.size_bytes for spool in self._spools),
                self._most_bytes,
                where=str(file.path),
                what=f"its first {self._count:,} rows",
                cure="look whether it was unpacked from few bytes",
            )
        if self._count == before:
            raise DatasetError(f"{file.path}: has no rows; remove the file, or write it again")

    def _count_times(self, block: RowBlock, file: FoundFile) -> tuple[Times, npt.NDArray[np.bool_]]:
        """Times of samples that have none, one behind the other, also from file to file of a recording."""
        if self._origin_ns is None and self._source.start:
            text = with_parts(self._source.start, file.parts)
            self._origin_ns = start_ns(text, self._source, place=str(file.path))
        rate_hz = self._reader.sensor.own_hz
        refuse_late(file.path, self._count + len(block.frame), rate_hz)
        steps = np.arange(self._count, self._count + len(block.frame), dtype=np.float64)
        times = (self._origin_ns or 0) + np.rint(steps * (SECOND_NS / rate_hz)).astype(np.int64)
        return times, np.ones(len(times), dtype=bool)

    def _correct(self, times: Times) -> Times:
        """Times by a clock that is neither early nor fast."""
        if self._origin_ns is None and len(times):
            self._origin_ns = int(times[0])
        if self._source.clock_ppm:
            assert self._origin_ns is not None
            since = (times - self._origin_ns).astype(np.float64) / (1 + self._source.clock_ppm * 1e-6)
            times = self._origin_ns + np.rint(since).astype(np.int64)
        return times + round(self._source.offset_s * SECOND_NS)

    def _add(self, block: RowBlock, times: Times, usable: npt.NDArray[np.bool_]) -> None:
        source, reader = self._source, self._reader
        if source.tag:
            tags = np.array(texts(block, source.tag, source), dtype=object)
            values = numbers(block, [source.value], source)
            if source.quality:
                qualities = np.array(texts(block, source.quality, source), dtype=object)
                values = np.where(np.isin(qualities, list(source.quality_ok))[:, None], values, np.float32(np.nan))
            for number, tag in enumerate(reader.columns):
                self._append(number, block, times, values, np.flatnonzero((tags == tag) & usable))
        else:
            self._append(0, block, times, numbers(block, reader.columns, source), np.flatnonzero(usable))
        for name, collector in self._runs.items():
            column = texts(block, name, source)
            collector.add(times, column, {row: block.place(row) for row in changes(column)})

    def _append(self, number: int, block: RowBlock, times: Times, values: Floats, rows: Times) -> None:
        if not len(rows):
            return
        times, values, last = times[rows], values[rows], self._last[number]
        steps = np.diff(times, prepend=int(times[0]) - 1 if last is None else last)
        for is_wrong, words, cure in (
            ((steps < 0) & (self._source.unsorted == "error"), "go back", "sort the file, or set unsorted = 'sort'"),
            ((steps == 0) & (self._source.duplicates == "error"), "repeat", _SET_DUPLICATES),
        ):
            wrong = np.flatnonzero(is_wrong)
            if len(wrong):
                row = int(wrong[0])
                time, before = int(times[row]), int(times[row] - steps[row])
                again = "again" if steps[row] == 0 else f"after {self._time_text(before)}"
                raise DatasetError(
                    f"{block.place(int(rows[row]))}: timestamps {words}: {self._time_text(time)} {again}"
                    f" ({len(wrong)} such from there on); {cure}"
                )
        self._last[number] = int(times[-1])
        with np.errstate(over="ignore"):  # infinity, which no dataset may have
            values = values if self._source.scale == 1.0 else values * np.float32(self._source.scale)
        self._spools[number].append(times, values)

    def _time_text(self, time_ns: int) -> str:
        return time_text(time_ns) if self._is_utc else f"{time_ns / SECOND_NS:g} s"

    def finished(self, file: Path) -> ReadSource:
        source = self._source
        is_sorted = source.unsorted == "sort"
        collected = (
            SampleSeries(times=times, values=values) for times, values in (s.collected() for s in self._spools)
        )
        series = [in_order(samples, duplicates=source.duplicates, sort=is_sorted) for samples in collected]
        for samples in series if is_sorted and source.duplicates == "error" else ():
            same = np.flatnonzero(np.diff(samples.times) == 0)
            if len(same):
                time = self._time_text(int(samples.times[same[0]]))
                raise DatasetError(f"{file}: timestamps repeat: {time} again ({len(same)} such); {_SET_DUPLICATES}")
        if not any(map(len, series)):
            raise DatasetError(f"{file}: has no samples of {', '.join(self._reader.columns)}; correct 'channels'")
        end_ns = max(int(samples.times[-1]) for samples in series if len(samples))
        period_ns = round(SECOND_NS / self._reader.sensor.own_hz)
        for collector in self._runs.values():
            collector.close(end_ns + period_ns)
        runs = {name: collector.intervals for name, collector in self._runs.items()}
        return ReadSource(series=series, runs=runs, is_utc=self._is_utc)


def _file_reader(source: SensorSource, file: Path) -> tuple[Reader, str]:
    """The reader of a file, and how messages name its head."""
    form = format_of(file) if source.format == "auto" else source.format
    if form is None:
        raise DatasetError(f"{file}: expected a suffix of {', '.join(suffixes())}; set 'format'")
    return reader_of(form, source), f"{file}:1" if form == "csv" else str(file)


def _rate(source: SensorSource, file: Path, *, beside: Sequence[str]) -> tuple[float, str]:
    """The rate of the samples and who declares it; measured if the recipe does not."""
    reader, _ = _file_reader(source, file)
    if reader.rate_hz is not None and not source.time:
        rate_hz = reader.rate_hz(file)
        if source.rate_hz is not None and rate_hz != source.rate_hz:
            raise DatasetError(f"{file}: expected {source.rate_hz:g} Hz as 'rate_hz' says, got {rate_hz:g}; correct it")
        return rate_hz, f"as {file} says"
    if source.rate_hz is not None:
        return source.rate_hz, "as 'rate_hz' says"
    clock = TimeColumn(source, source.time)
    blocks: list[Times] = [np.zeros(0, dtype=np.int64)]
    # With a channel beside it: in some formats it says whose clock is meant.
    for block in reader.blocks(file, list(dict.fromkeys([source.time, *beside]))):
        blocks.append(clock.read(block)[0])
        if sum(map(len, blocks)) >= _RATE_ROWS:
            break
    times = np.unique(np.concatenate(blocks))
    facts = clock_facts(SampleSeries(times=times, values=np.zeros((0, 0), dtype=np.float32)), max_gap_s=None)
    if not np.isfinite(facts.rate_hz):
        raise DatasetError(f"{file}: has {facts.samples} rows, too few to measure a rate; set 'rate_hz'")
    return float(f"{facts.rate_hz:.{_RATE_DIGITS}g}"), f"as measured in {file}"
