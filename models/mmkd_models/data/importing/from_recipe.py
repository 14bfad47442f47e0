"""Import by recipe, with a work folder next to the output from which an interrupted import goes on.

A recording is reused while the recipe's sources and its files (size and time of change) stay as they are.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path

import msgspec
import numpy as np

from mmkd_edge import __version__
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import DatasetError
from mmkd_models.data.dataset import Dataset
from mmkd_models.data.importing.build import build_dataset
from mmkd_models.data.importing.clock import UNITS, ClockFacts, Interval, SampleSeries, clock_facts
from mmkd_models.data.importing.grids import GridRecording, Grids
from mmkd_models.data.importing.keys import MAX_WRITTEN_BYTES, MAX_WRITTEN_RATIO
from mmkd_models.data.importing.patterns import (
    FoundFile,
    RecipeFolder,
    natural_key,
    path_parts,
    plain_value,
    suggest_part,
)
from mmkd_models.data.importing.readers.csv_file import has_decimal_commas
from mmkd_models.data.importing.recipe import TARGET, ImportRecipe
from mmkd_models.data.importing.source import ImportedSensor, SourceSamples, open_source
from mmkd_models.data.importing.window_labels import read_intervals, read_table
from mmkd_models.data.spec import refuse, window_bytes

_RATE_TOLERANCE = 0.01  # of a declared rate
_MAX_NEAR = 5  # values that a message names
_MIN_STEPS = 10  # to measure a rate
_Intervals = Sequence[tuple[Mapping[str, str], Interval]]
_Recordings = Mapping[tuple[str, ...], Mapping[str, Sequence[FoundFile]]]
_PROGRESS = "kept"
_TIMES_COST = 10  # pause between writes of the progress, in durations of a write


@dataclass(frozen=True, kw_only=True)
class RecipeReport:
    """The dataset, and what its import found, by sensor the number of files and those with decimal commas."""

    recipe: ImportRecipe
    folder: Path
    dataset: Dataset
    recordings: Sequence[GridRecording]
    sensors: Sequence[ImportedSensor]
    clocks: Sequence[ClockFacts]
    files: Mapping[str, int]
    decimal_commas: Mapping[str, Sequence[str]] = field(default_factory=dict)


def import_recipe(
    recipe: ImportRecipe,
    folder: Path,
    path: Path | None,
    *,
    outside: Sequence[Path] = (),
    most_bytes: int | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda _: None,
) -> RecipeReport:
    """Run a recipe, or continue an earlier run with the same `path`; None tries it and keeps nothing.

    Args:
        folder: where patterns start; only it and `outside` are read.
        most_bytes: maximum to write; None follows from the recordings' size.
        tell: called with bytes read and their total.

    Raise DatasetError with every file's first fault; `path` is not written, and finished recordings are kept.
    """
    if path is None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / (folder.resolve().name or "dataset")  # a recipe chooses no path
            try:
                return import_recipe(recipe, folder, path, outside=outside, most_bytes=most_bytes, tell=tell)
            except DatasetError as error:
                raise DatasetError(str(error).replace(f"{scratch}/", "")) from error
    place = RecipeFolder(folder, outside, recipe.exclude)
    files = _find_recordings(recipe, place)
    if most_bytes is None:
        most_bytes = max(MAX_WRITTEN_BYTES, MAX_WRITTEN_RATIO * files.total_bytes)
    with work_folder(path, note) as progress:
        by_part = [dict(zip(files.parts, key, strict=True)) for key in files.recordings]
        intervals = [
            (_part_values(recipe, named, by_part), interval)
            for named, interval in (read_intervals(place, recipe.labels) if recipe.labels.files else ())
        ]
        sensors = _open_sensors(recipe, files, intervals)
        marks: dict[str, dict[str, list[tuple[str, int, int]]]] = {}
        for key, sources in files.recordings.items():
            for source, chosen in sources.items():
                stats = [(file.path.relative_to(folder).as_posix(), file.path.stat()) for file in chosen]
                marks.setdefault("/".join(key), {})[source] = [(name, s.st_size, s.st_mtime_ns) for name, s in stats]
        cover = recipe.windows.cover
        progress.use((files.parts, cover, sensors), marks)
        work = _Work(files=files, sensors=sensors, intervals=intervals, marks=marks, most_bytes=most_bytes, tell=tell)
        modalities = [sensor.modality(recipe.windows.length_s) for sensor in sensors if sensor.name != TARGET]
        is_regular = recipe.windows.at == "stride"
        per_s = sum(map(window_bytes, modalities)) / recipe.windows.hop_s if is_regular else 0.0
        with (
            Grids(
                progress.folder,
                sensors,
                cover=cover,
                filled=progress.filled,
                most_bytes=most_bytes,
                window_bytes_per_s=per_s,
            ) as grids,
            tempfile.TemporaryDirectory(prefix="windows.", dir=progress.folder) as scratch,
        ):
            dataset, recordings = build_dataset(
                path, work.recordings(grids, progress), grids, recipe, scratch=Path(scratch)
            )
    return RecipeReport(
        recipe=recipe,
        folder=folder,
        dataset=dataset,
        recordings=recordings,
        sensors=[sensor for sensor in sensors if sensor.name != TARGET],
        clocks=work.clocks,
        files=files.counts,
        decimal_commas={sensor.name: list(_decimal_commas(sensor, files)) for sensor in sensors},
    )


def _decimal_commas(sensor: ImportedSensor, files: _RecordingFiles) -> Iterator[str]:
    """Yield the files of a sensor whose decimal sign was found to be a comma."""
    source = sensor.source
    if source.file_format == "csv" and source.decimal == "auto":
        for file in files.of(sensor.files_of):
            if has_decimal_commas(file.path, source):
                yield file.name


@dataclass(frozen=True, kw_only=True)
class _RecordingFiles:
    folder: Path
    parts: tuple[str, ...]
    recordings: _Recordings
    facts: Mapping[tuple[str, ...], Mapping[str, str]]
    counts: Mapping[str, int]
    total_bytes: int

    def first(self, source: str) -> FoundFile:
        return next(self.of(source))

    def of(self, source: str) -> Iterator[FoundFile]:
        return (file for files in self.recordings.values() for file in files.get(source, ()))


def _find_recordings(recipe: ImportRecipe, folder: RecipeFolder) -> _RecordingFiles:
    by_source: dict[str, list[FoundFile]] = {}
    problems: list[str] = []
    for number, source in enumerate(recipe.source):
        by_source[source.modality] = folder.files(source.files, key=f"source[{number}].files")
        if not by_source[source.modality]:
            problems.append(
                f"'source[{number}].files': expected files, found none at {folder.path / source.files}"
                f"{folder.like(source.files)}; correct the pattern"
            )
        names = {file.name for file in by_source[source.modality]}
        problems += [
            f"'source[{number}].file_scale': expected files of the source, got {name!r}; correct its path"
            for name in source.file_scale
            if name not in names
        ]
    refuse(folder.path, problems)
    named = [path_parts(source.files) for source in recipe.source]
    parts = tuple(name for name in named[0] if all(name in names for names in named))
    labels = recipe.labels
    expected = [("labels.files", name) for name in path_parts(labels.files)]
    expected += [("labels.match", name) for name in labels.match] + [("labels.path", labels.path)]
    lacking = [(key, name) for key, name in expected if name and name not in parts]
    text = "{!r}: {!r} is no part of all paths; {}{}"
    refuse("recipe", [text.format(key, name, _parts_text(parts), _cure_part(recipe, name)) for key, name in lacking])
    recordings: dict[tuple[str, ...], dict[str, list[FoundFile]]] = {}
    for modality, files in by_source.items():
        for file in files:
            key = tuple(file.parts[name] for name in parts)
            recordings.setdefault(key, {}).setdefault(modality, []).append(file)
    ordered = sorted(recordings, key=lambda key: natural_key("/".join(key)))
    return _RecordingFiles(
        folder=folder.path,
        parts=parts,
        recordings={key: recordings[key] for key in ordered},
        facts=_table_facts(recipe, folder, parts, recordings) if recipe.labels.table else {},
        counts={modality: len(files) for modality, files in by_source.items()},
        total_bytes=sum(file.path.stat().st_size for files in by_source.values() for file in files),
    )


def _parts_text(parts: Sequence[str]) -> str:
    return f"the paths have {', '.join(parts) or 'none'}"


def _cure_part(recipe: ImportRecipe, name: str) -> str:
    """Return how a part of the path that some sources lack gets into their `files`."""
    for source in recipe.source:
        if name not in path_parts(source.files):
            return f"; write {{{name}}} into 'files' of {source.modality}{suggest_part(source.files, name)}"
    return ""


def _part_values(
    recipe: ImportRecipe, named: Mapping[str, str], recordings: Sequence[Mapping[str, str]]
) -> dict[str, str]:
    """Return the parts of the path that a line names: `A` also where it has `site_A` for `site_{site}`."""
    values = dict[str, str]()
    for part, value in named.items():
        plain = (plain_value(source.files, part, value) for source in recipe.source)
        known = {recording.get(part) for recording in recordings}
        values[part] = next((text for text in plain if text in known), value) if value not in known else value
    return values


def _nearest_text(named: Mapping[str, str], recordings: Sequence[Mapping[str, str]]) -> str:
    """Return `; the paths have machine 'M1', 'M2'` with the values nearest to those of a line without a recording."""
    for part, value in named.items():
        known = {recording[part] for recording in recordings if part in recording}
        if value not in known:
            return f"; the paths have {part} {', '.join(map(repr, _nearest(value, known)))}"
    names = {_parts_of({part: recording[part] for part in named}) for recording in recordings}
    return f"; the nearest has {_nearest(_parts_of(named), names)[0]}"


def _nearest(name: str, names: Collection[str]) -> list[str]:
    ordered = sorted(names, key=natural_key)
    return sorted(ordered, key=lambda other: -SequenceMatcher(None, name, other).ratio())[:_MAX_NEAR]


def _parts_of(named: Mapping[str, str]) -> str:
    return ", ".join(f"{part} {value!r}" for part, value in named.items())


def _table_facts(
    recipe: ImportRecipe, folder: RecipeFolder, parts: Sequence[str], recordings: _Recordings
) -> dict[tuple[str, ...], Mapping[str, str]]:
    rule, table = recipe.labels, dict[tuple[str, ...], Mapping[str, str]]()
    places, lost = dict[tuple[str, ...], str](), dict[str, str]()
    by_file = {
        file.path.relative_to(folder.path).as_posix(): key
        for key, sources in recordings.items()
        for files in sources.values()
        for file in files
    }
    by_part = [dict(zip(parts, key, strict=True)) for key in recordings]
    for facts, place in read_table(folder, rule):
        own = {part: facts[column] for part, column in rule.match.items()}
        named = _part_values(recipe, own, by_part)
        if named:
            keys = [key for key, its in zip(recordings, by_part, strict=True) if named.items() <= its.items()]
            lost |= {} if keys else {place: f"{_parts_of(own)}, found none{_nearest_text(named, by_part)}"}
        else:
            name = facts[rule.file]
            keys = [by_file[name]] if name in by_file else []
            near = ", ".join(map(repr, _nearest(name, by_file)))
            lost |= {} if keys else {place: f"file {name!r}, found none; there are {near}"}
        for key in keys:
            if key in table:
                raise DatasetError(
                    f"{place}: expected each recording once, got again that of {places[key]}; remove a line"
                )
            table[key], places[key] = facts, place
    for place, text in lost.items():
        rule_key = "match" if rule.match else "file"
        cure = "correct it, or remove the line" if table else f"no line has a recording: correct 'labels.{rule_key}'"
        raise DatasetError(f"{place}: expected a recording of {text}; {cure}")
    for key, sources in recordings.items():
        if key not in table:
            file = next(iter(sources.values()))[0].path
            raise DatasetError(
                f"{folder.path / rule.table}: expected a line for every recording, found none for {file}; add it, or"
                " remove the file"
            )
    return table


def _open_sensors(recipe: ImportRecipe, files: _RecordingFiles, intervals: _Intervals) -> list[ImportedSensor]:
    labels, problems = recipe.labels, list[str]()
    target = labels.column if labels.task == "regression" else ""
    names = ["" if target else labels.column, *recipe.split.groups, recipe.split.column, *recipe.windows.metadata]
    known = {"", *files.parts, *(name for facts in files.facts.values() for name in facts)}
    columns = [name for name in dict.fromkeys(names) if name not in known]
    sensors = [
        open_source(source, files.first(source.modality), facts=columns, label=labels.column)
        for source in recipe.source
    ]
    parts = _parts_text(files.parts)
    for name in columns:
        if not any(name in sensor.facts for sensor in sensors) and name == labels.column:  # some files may lack it
            sensors = [sensor.with_label(files.of(sensor.name), name) for sensor in sensors]
        if not any(name in sensor.facts for sensor in sensors):
            cure = "" if name == labels.column else _cure_part(recipe, name)
            problems.append(f"{name!r} is neither a part of the path nor a column of a source; {parts}{cure}")
    recordings = [dict(zip(files.parts, key, strict=True)) for key in files.recordings]
    for its_parts, interval in intervals:
        if not any(its_parts.items() <= recording.items() for recording in recordings):
            text = f"{_parts_of(its_parts)}{_nearest_text(its_parts, recordings)}"
            is_any = any(some.items() <= recording.items() for some, _ in intervals for recording in recordings)
            key = "match" if labels.match else "files"
            cure = "correct or remove the line" if is_any else f"no line has a recording: correct 'labels.{key}'"
            problems.append(f"{interval.place}: there is no recording of {text}; {cure}")
            break
    refuse("recipe", problems)
    if not target:
        return sensors
    for sensor in sensors:
        if with_target := sensor.with_target(files.first(sensor.name), target):
            return [*sensors, with_target]
    raise DatasetError(
        f"'labels.column': no source has a column {target!r}; correct it (a tag of a tall table cannot be a label)"
    )


@dataclass(kw_only=True)
class _Work:
    files: _RecordingFiles
    sensors: Sequence[ImportedSensor]
    intervals: _Intervals
    marks: Mapping[str, Marks]
    most_bytes: int
    tell: Callable[[int, int], None]
    clocks: list[ClockFacts] = field(default_factory=list)
    done_bytes: int = 0
    total_bytes: int = 0

    def recordings(self, grids: Grids, progress: ImportProgress) -> Iterator[GridRecording]:
        """Yield each recording on the grids. Raise DatasetError at the end if files have faults."""
        progress.secure = grids.secure
        missing = [marks for name, marks in self.marks.items() if progress.piece(name) is None]
        self.total_bytes = sum(size for sources in missing for files in sources.values() for _, size, _ in files)
        problems: list[str] = []
        for key in self.files.recordings:
            name = "/".join(key)
            parts = {**self.files.facts.get(key, {}), **dict(zip(self.files.parts, key, strict=True))}
            title = self._title(next(iter(self.files.recordings[key].values())))
            piece = progress.piece(name)
            if piece is None:
                piece = self._read(key, title, grids, progress.folder, problems)
                if piece is not None:
                    progress.add(name, piece)
            if piece is not None and not problems:
                self.clocks += piece.clocks
                labels = [interval for its_parts, interval in self.intervals if its_parts.items() <= parts.items()]
                titles = {source: self._title(files) for source, files in self.files.recordings[key].items()}
                yield replace(piece.recording, name=title, parts=parts, labels=labels, files=titles)
        if len(problems) == 1:
            raise DatasetError(problems[0])
        refuse("recordings", problems)

    def _title(self, files: Sequence[FoundFile]) -> str:
        """Return the name of one source's files: `M1/acc.csv`, `M1/acc_1.csv to acc_3.csv`."""
        name = files[0].path.relative_to(self.files.folder).as_posix()
        return name if len(files) == 1 else f"{name} to {files[-1].path.name}"

    def _read(self, key: tuple[str, ...], title: str, grids: Grids, folder: Path, problems: list[str]) -> Piece | None:
        series: dict[str, Sequence[SampleSeries]] = {}
        runs: dict[str, Sequence[Interval]] = {}
        is_utc, clocks, empty = True, list[ClockFacts](), list[str]()
        with ExitStack() as stack:
            for sensor in self.sensors:
                files = self.files.recordings[key].get(sensor.files_of)
                if not files:
                    continue
                is_target = sensor.name == TARGET  # its files are counted already
                tell = (lambda _: None) if is_target else self._count_bytes
                try:
                    samples = sensor.read(files, folder, stack, most_bytes=self.most_bytes, tell=tell)
                    clocks += _check_clocks(sensor, samples, self._title(files), files[0].path)
                except DatasetError as error:
                    if str(error) not in problems:  # the same line twice, if a file is read for a target too
                        problems.append(str(error))
                    continue
                series[sensor.name] = samples.series
                empty += [f"{sensor.name} {channel}" for channel in samples.empty if not is_target]
                runs = {**samples.runs, **runs}
                is_utc = is_utc and samples.is_utc
            if problems:
                return None
            recording = grids.add(title, series, runs=runs, is_utc=is_utc, empty=empty)
        return Piece(recording=recording, marks=self.marks["/".join(key)], clocks=clocks)

    def _count_bytes(self, count: int) -> None:
        self.done_bytes += count
        self.tell(self.done_bytes, self.total_bytes)


def _check_clocks(sensor: ImportedSensor, samples: SourceSamples, recording: str, file: Path) -> list[ClockFacts]:
    source = sensor.source
    has_clock = source.modality_kind == "video" or (source.time and source.resample != "hold")
    clocks = []
    for series in samples.series if has_clock else ():
        facts = clock_facts(series, max_gap_s=sensor.gap_s, expected_hz=sensor.native_hz)
        deviation = facts.rate_hz / sensor.native_hz - 1
        if facts.samples > _MIN_STEPS and abs(deviation) > _RATE_TOLERANCE:
            thousands = math.log(sensor.native_hz / facts.rate_hz, 1000)
            unit = UNITS.index(source.time_unit) + round(thousands) if source.time_unit in UNITS else -1
            is_unit = abs(1000 ** (thousands - round(thousands)) - 1) < _RATE_TOLERANCE and 0 <= unit < len(UNITS)
            cure = f"set time_unit = {UNITS[unit]!r}" if is_unit else "correct 'rate_hz', or 'time_unit'"
            raise DatasetError(
                f"{file}: expected {sensor.native_hz:g} Hz, as 'rate_hz' or the first file says, got"
                f" {facts.rate_hz:.4g} Hz by the times; {cure}"
            )
        drift = 1e6 * deviation if np.isfinite(deviation) else 0.0
        name, repeated = sensor.name, samples.repeated
        clocks.append(replace(facts, recording=recording, sensor=name, drift_ppm=drift, repeated=repeated))
    return clocks


Marks = Mapping[str, Sequence[tuple[str, int, int]]]
"""For each source the path, size and time of change of its files."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A recording in the grids, its files' marks, and its clocks."""

    recording: GridRecording
    marks: Marks
    clocks: Sequence[ClockFacts]


class _Content(msgspec.Struct, kw_only=True):
    key: str
    pieces: dict[str, Piece] = {}


@dataclass(kw_only=True, eq=False)
class ImportProgress:
    """Finished part of an import; `secure` puts the grids on disk before recordings count as finished."""

    folder: Path
    note: Callable[[str], None]
    secure: Callable[[], None] = lambda: None
    _content: _Content = field(default_factory=lambda: _Content(key=""))
    _next_s: float = 0.0

    def use(self, parts: Sequence[object], marks: Mapping[str, Marks]) -> None:
        """Drop, with a note, progress of other sources (`parts`) and of changed files."""
        content, key = self._content, hashlib.sha256(repr((__version__, *parts)).encode()).hexdigest()
        if content.key != key:
            if content.key:
                self.note("the sources of the recipe have changed since: everything is read again")
            content.key, content.pieces = key, {}
        if not content.pieces:
            return
        pieces = {name: piece for name, piece in content.pieces.items() if name in marks}  # others are left out by now
        changed = sorted(name for name, piece in pieces.items() if marks[name] != piece.marks)
        content.pieces = {name: piece for name, piece in pieces.items() if name not in changed}
        self.note(f"{len(content.pieces)} of {len(marks)} recordings are kept from before")
        if changed:
            more = f" and {len(changed) - 1} others" if len(changed) > 1 else ""
            self.note(f"files of {changed[0] or 'the recording'}{more} have changed since: they are read again")

    @property
    def filled(self) -> dict[str, int]:
        """Finished samples by sensor."""
        filled: dict[str, int] = {}
        for piece in self._content.pieces.values():
            for name, first in piece.recording.first.items():
                filled[name] = max(filled.get(name, 0), first + piece.recording.lengths[name])
        return filled

    def piece(self, recording: str) -> Piece | None:
        """Return a finished recording."""
        return self._content.pieces.get(recording)

    def add(self, recording: str, piece: Piece) -> None:
        """Add a recording; the progress file is written at intervals."""
        self._content.pieces[recording] = piece
        begun_s = time.monotonic()
        if begun_s >= self._next_s:
            self.write()
            self._next_s = time.monotonic() + _TIMES_COST * (time.monotonic() - begun_s)

    def write(self) -> None:
        """Put the finished recordings on disk."""
        self.secure()
        write_file(self.folder / _PROGRESS, msgspec.msgpack.encode(self._content))


@contextmanager
def work_folder(path: Path, note: Callable[[str], None]) -> Iterator[ImportProgress]:
    """Yield an earlier run's progress; remove the folder at success, or if no recording was finished."""
    folder = path.parent / f".{path.name}.import"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        content = msgspec.msgpack.decode((folder / _PROGRESS).read_bytes(), type=_Content)
    except FileNotFoundError:
        content = _Content(key="")
    except msgspec.DecodeError:  # of another version, whose pieces cannot be used
        content = _Content(key="another")
    for scratch in folder.iterdir():
        if scratch.is_dir():
            shutil.rmtree(scratch)
    progress = ImportProgress(folder=folder, note=note, _content=content)
    try:
        yield progress
    except BaseException:
        if content.pieces:
            progress.write()
            note(f"what was read is kept in {folder}; the same command continues from it")
        else:
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
