"""One source of a recipe: which columns its files have, and how they become series."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.cutting.labels import RunCollector, changes
from mmkd_models.data.importing.limits import MOST_THINNING, refuse_late, refuse_more
from mmkd_models.data.importing.patterns import FoundFile, with_parts
from mmkd_models.data.importing.readers.formats import Format, Reader, format_of, reader_of, suffixes
from mmkd_models.data.importing.readers.table import RowBlock, numbers, require_columns, texts
from mmkd_models.data.importing.recipe import TARGET, SensorSource, rate_problem
from mmkd_models.data.importing.recorded import (
    SECOND_NS,
    ClockFacts,
    Floats,
    ImportedSensor,
    Interval,
    ReadingPlace,
    ReadingState,
    Resample,
    Samples,
    SampleSeries,
    Spool,
    Times,
    clock_facts,
    in_order,
)
from mmkd_models.data.importing.timing.clock import TimeColumn, start_ns, time_text

_RATE_DIGITS = 4
_RATE_ROWS = 1 << 20  # by which a rate is told


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
        facts: columns that are asked for beside the samples and are in its files.
        rate_origin: who says which rate it has, for messages.
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
            facts: columns that are wanted beside the samples, where this source has them.
            apart: a column that is no channel, unless 'channels' names it.

        Raise DatasetError if a column is missing.
        """
        names = _file_reader(source, first.path).names(first.path)
        found = tuple(name for name in facts if name in names)
        place = f"{first.path}:1" if _format(source, first.path) == "csv" else str(first.path)
        used = [name for name in (source.time, source.tag, source.value, source.quality) if name]
        require_columns(place, names, used)
        channels = _channels(source, [name for name in names if name not in {*used, *found, apart}])
        if not channels:
            raise DatasetError(
                f"{place}: expected channels beside {', '.join(used)}, got none; name them in 'channels'"
            )
        if not source.tag:
            require_columns(place, names, list(channels.values()))
        rate_hz, origin = _rate(source, first.path, beside=[] if source.tag else list(channels.values())[:1])
        if text := rate_problem(rate_hz):
            raise DatasetError(f"{first.path}: rate in Hz, {origin}: {text}")
        resample = _resample(source, rate_hz)
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
            facts=found,
            first_file=first.path,
            rate_origin=origin,
        )

    def with_target(self, first: FoundFile, column: str) -> SourceReader | None:
        """Return a reader of one column of the same files, a number to be predicted; None if they have no such.

        Args:
            first: the first file.
        """
        source = self.source
        if source.tag or column not in _file_reader(source, first.path).names(first.path):
            return None
        apart = msgspec.structs.replace(
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
        return SourceReader.opened(apart, first, facts=())

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
        """Read the files of one recording one behind the other.

        Args:
            place: of the scratch files; where an earlier run read some of the files, the others alone are read.
            stack: closes the scratch files of the series.
            told: is told the size of each file when it is read.

        Raise DatasetError with the line of the first fault.
        """
        done, state = place.begun()
        if state is not None and not self._is_there(place, state):
            done, state = 0, None
        reading = _Reading(self, place, stack, state)
        for number, file in enumerate(files):
            if number >= done:
                reading.add_file(file)
                place.go_on(number + 1, reading.state, reading.secure)
            told(file.path.stat().st_size)
        return reading.finished(files[0].path)

    def _is_there(self, place: ReadingPlace, state: ReadingState) -> bool:
        """Whether the scratch files of an earlier run are."""
        return all(
            Spool.holds(place.folder, f"{place.name}-{number}", (self.width,), np.float32, count=count)
            for number, count in enumerate(state.collected)
        )

    @property
    def width(self) -> int:
        """Channels of each scratch file: tags of a tall table have one each."""
        return 1 if self.source.tag else len(self.columns)


class _Reading:
    """The reading of one recording: what is known between blocks and files."""

    def __init__(self, reader: SourceReader, place: ReadingPlace, stack: ExitStack, state: ReadingState | None) -> None:
        self._reader, self._source, self._most_bytes = reader, reader.source, place.most_bytes
        tall = bool(self._source.tag)
        spools = len(reader.columns) if tall else 1
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
        self._runs = {
            name: RunCollector(still_open=state.open_runs[name], ended=state.runs[name]) for name in reader.facts
        }
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
        names = _file_reader(source, file.path).names(file.path)
        wanted = [source.time, source.tag, source.value, source.quality, *reader.facts]
        wanted += [] if source.tag else list(reader.columns)
        wanted = list(dict.fromkeys(name for name in wanted if name))
        place = f"{file.path}:1" if _format(source, file.path) == "csv" else str(file.path)
        require_columns(
            place, names, wanted, like="" if file.path == reader.first_file else f" as in {reader.first_file}"
        )
        _refuse_other_rate(reader, file.path)
        clock = TimeColumn(source, source.time)
        before = self._count
        for block in _file_reader(source, file.path).blocks(file.path, wanted):
            times, kept = clock.read(block) if source.time else self._counted(block, file)
            self._is_utc = self._is_utc and (clock.is_utc if source.time else bool(source.start))
            self._add(block, self._corrected(times), kept)
            self._count += len(times)
            refuse_more(
                sum(spool.size_bytes for spool in self._spools),
                self._most_bytes,
                where=str(file.path),
                what=f"its first {self._count:,} rows",
                cure="look whether it was unpacked from few bytes",
            )
        if self._count == before:
            raise DatasetError(f"{file.path}: expected rows, got none; remove the file, or write it again")

    def _counted(self, block: RowBlock, file: FoundFile) -> tuple[Times, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Times of samples that have none, one behind the other, all files of a recording too."""
        if self._origin_ns is None and self._source.start:
            text = with_parts(self._source.start, file.parts)
            self._origin_ns = start_ns(text, self._source, place=str(file.path))
        rate_hz = self._reader.sensor.own_hz
        refuse_late(file.path, self._count + len(block.frame), rate_hz)
        steps = np.arange(self._count, self._count + len(block.frame), dtype=np.float64)
        times = (self._origin_ns or 0) + np.rint(steps * (SECOND_NS / rate_hz)).astype(np.int64)
        return times, np.ones(len(times), dtype=bool)

    def _corrected(self, times: Times) -> Times:
        """Times by a clock that is neither early nor fast."""
        source = self._source
        if self._origin_ns is None and len(times):
            self._origin_ns = int(times[0])
        if source.clock_ppm:
            assert self._origin_ns is not None
            since = (times - self._origin_ns).astype(np.float64) / (1 + source.clock_ppm * 1e-6)
            times = self._origin_ns + np.rint(since).astype(np.int64)
        return times + round(source.offset_s * SECOND_NS)

    def _add(self, block: RowBlock, times: Times, kept: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        source, reader = self._source, self._reader
        if source.tag:
            tags = np.array(texts(block, source.tag, source), dtype=object)
            values = _good_values(block, source)
            for number, tag in enumerate(reader.columns):
                rows = np.flatnonzero((tags == tag) & kept)
                self._append(number, block, times[rows], values[rows], rows)
        else:
            rows = np.flatnonzero(kept)
            values = numbers(block, reader.columns, source)
            self._append(0, block, times[rows], values[rows], rows)
        for name, collector in self._runs.items():
            column = texts(block, name, source)
            places = {row: block.place(row) for row in changes(column)}
            collector.add(times, column, places)

    def _append(self, number: int, block: RowBlock, times: Times, values: Floats, rows: Times) -> None:
        if not len(times):
            return
        self._check_order(number, block, times, rows)
        self._last[number] = int(times[-1])
        with np.errstate(over="ignore"):  # infinity, which no dataset may have
            values = values if self._source.scale == 1.0 else values * np.float32(self._source.scale)
        self._spools[number].append(times, values)

    def _check_order(self, number: int, block: RowBlock, times: Times, rows: Times) -> None:
        source = self._source
        last = self._last[number]
        steps = np.diff(times, prepend=int(times[0]) - 1 if last is None else last)
        back = np.flatnonzero(steps < 0) if source.unsorted == "error" else np.zeros(0, dtype=np.int64)
        same = np.flatnonzero(steps == 0) if source.duplicates == "error" else np.zeros(0, dtype=np.int64)
        for found, words, cure in (
            (back, "times that increase", "sort the file, or set unsorted = 'sort'"),
            (same, "each time once", "set duplicates = 'first', 'last' or 'mean', or correct the times"),
        ):
            if len(found):
                row = int(found[0])
                before = int(times[row] - steps[row])
                again = "again" if steps[row] == 0 else f"after {self._told_time(before)}"
                raise DatasetError(
                    f"{block.place(int(rows[row]))}: expected {words}, got {self._told_time(int(times[row]))} {again}"
                    f" ({len(found)} such from there on); {cure}"
                )

    def _told_time(self, time_ns: int) -> str:
        return time_text(time_ns) if self._is_utc else f"{time_ns / SECOND_NS:g} s"

    def finished(self, file: Path) -> ReadSource:
        source = self._source
        series = [
            in_order(
                SampleSeries(times=times, values=values), duplicates=source.duplicates, sort=source.unsorted == "sort"
            )
            for times, values in (spool.collected() for spool in self._spools)
        ]
        if source.unsorted == "sort" and source.duplicates == "error":
            for one in series:
                same = np.flatnonzero(np.diff(one.times) == 0)
                if len(same):
                    raise DatasetError(
                        f"{file}: expected each time once, got {self._told_time(int(one.times[same[0]]))} again"
                        f" ({len(same)} such); set duplicates = 'first', 'last' or 'mean', or correct the times"
                    )
        if not any(map(len, series)):
            raise DatasetError(
                f"{file}: expected samples of {', '.join(self._reader.columns)}, got none; correct 'channels'"
            )
        end_ns = max(int(one.times[-1]) for one in series if len(one))
        period_ns = round(SECOND_NS / self._reader.sensor.own_hz)
        for collector in self._runs.values():
            collector.close(end_ns + period_ns)
        runs = {name: collector.intervals for name, collector in self._runs.items()}
        return ReadSource(series=series, runs=runs, is_utc=self._is_utc)


def _refuse_other_rate(reader: SourceReader, file: Path) -> None:
    own = _file_reader(reader.source, file)
    if own.rate_hz is None or reader.source.time or file == reader.first_file:
        return
    rate_hz = own.rate_hz(file)
    if rate_hz != reader.sensor.own_hz:
        raise DatasetError(
            f"{file}: expected {reader.sensor.own_hz:g} Hz as in {reader.first_file}, got {rate_hz:g}; resample it, or"
            " make it a source of its own"
        )


def _good_values(block: RowBlock, source: SensorSource) -> Floats:
    """The values of a tall table (rows, 1), NaN where the quality is none that counts."""
    values = numbers(block, [source.value], source)
    if source.quality:
        bad = ~np.isin(np.array(texts(block, source.quality, source), dtype=object), list(source.quality_ok))
        values = np.where(bad[:, None], np.float32(np.nan), values)
    return values


def _format(source: SensorSource, file: Path) -> Format:
    if source.format != "auto":
        return source.format
    found = format_of(file)
    if found is None:
        raise DatasetError(f"{file}: expected a name that ends in {', '.join(suffixes())}; set 'format'")
    return found


def _file_reader(source: SensorSource, file: Path) -> Reader:
    return reader_of(_format(source, file), source)


def _resample(source: SensorSource, rate_hz: float) -> Resample:
    """Sound is filtered before it is thinned: without that, what lies above half the new rate is folded into it."""
    is_other_rate = source.resample_hz is not None and source.resample_hz != rate_hz
    return "polyphase" if source.modality_kind == "audio" and is_other_rate else source.resample


def _channels(source: SensorSource, left: Sequence[str]) -> dict[str, str]:
    """The name of each channel and its column."""
    if isinstance(source.channels, dict):
        return dict(source.channels)
    return {name: name for name in source.channels or left}


def _rate(source: SensorSource, file: Path, *, beside: Sequence[str]) -> tuple[float, str]:
    """The rate of the samples and who says so; measured where the recipe does not say."""
    reader = _file_reader(source, file)
    if reader.rate_hz is not None and not source.time:
        rate_hz = reader.rate_hz(file)
        if source.rate_hz is not None and rate_hz != source.rate_hz:
            raise DatasetError(f"{file}: expected {source.rate_hz:g} Hz as 'rate_hz' says, got {rate_hz:g}; correct it")
        return rate_hz, f"as {file} says"
    if source.rate_hz is not None:
        return source.rate_hz, "as 'rate_hz' says"
    clock = TimeColumn(source, source.time)
    # With a channel beside it: in some formats it says whose clock is meant.
    wanted = list(dict.fromkeys([source.time, *beside]))
    blocks: list[Times] = [np.zeros(0, dtype=np.int64)]
    for block in reader.blocks(file, wanted):
        blocks.append(clock.read(block)[0])
        if sum(map(len, blocks)) >= _RATE_ROWS:
            break
    times = np.concatenate(blocks)
    facts = clock_facts(SampleSeries(times=np.unique(times), values=np.zeros((0, 0), dtype=np.float32)), max_gap_s=None)
    if not np.isfinite(facts.rate_hz):
        raise DatasetError(
            f"{file}: expected two rows or more, to tell the rate by, got {facts.samples}; set 'rate_hz'"
        )
    return float(f"{facts.rate_hz:.{_RATE_DIGITS}g}"), f"as measured in {file}"
