"""A recipe carried out: files found, read block by block, their clocks checked, and handed on as recordings.

Owns what a recipe's keys do to a file. A fault in a file does not hide those in the others: all are told together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.build import BuiltReport, import_recordings, training_recordings
from mmkd_models.data.importing.clocks.align import Proposal, proposed
from mmkd_models.data.importing.intervals import Labelled, TableLine, read_intervals, read_table
from mmkd_models.data.importing.patterns import FoundFile, found_files, key_of, natural_key, parts_of
from mmkd_models.data.importing.read_source import ReadSource, SourceReader
from mmkd_models.data.importing.recipe import Recipe, Region, Source, refuse
from mmkd_models.data.importing.recorded import Interval, Recorded, Sensor
from mmkd_models.data.importing.series import ClockFacts, Samples
from mmkd_models.data.importing.video.read_camera import CameraReader

Reader = SourceReader | CameraReader
Tell = Callable[[int, int], None]
"""Is told how many bytes of all are read."""

_RATE_TOLERANCE = 0.01  # a declared rate that is off by more is another rate
_LEAST_STEPS = 10  # from which a rate can be told


@dataclass(frozen=True, kw_only=True)
class FileClock:
    """The clock of one recording of one sensor, for the report."""

    recording: str
    sensor: str
    facts: ClockFacts
    drift_ppm: float


@dataclass(frozen=True, kw_only=True)
class RecipeReport:
    """What came of a recipe.

    Attributes:
        proposals: with the whole `offset_s` to write into the recipe.
        regions: of cameras whose region was to be found, in pixels of the recorded frames.
    """

    built: BuiltReport
    sensors: tuple[Sensor, ...]
    clocks: tuple[FileClock, ...]
    proposals: tuple[Proposal, ...]
    files: Mapping[str, int]
    total_bytes: int
    regions: Mapping[str, Region]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The files of a recipe.

    Attributes:
        parts: names of the parts of the path that make a recording.
        facts: of each recording, from the table of labels; empty without one.
        recordings: by these parts, the files of each source.
    """

    parts: tuple[str, ...]
    recordings: Mapping[tuple[str, ...], Mapping[str, Sequence[FoundFile]]]
    facts: Mapping[tuple[str, ...], Mapping[str, str]]
    files: Mapping[str, int]
    total_bytes: int


def import_recipe(recipe: Recipe, folder: Path, path: Path, *, tell: Tell | None = None) -> RecipeReport:
    """Carries a recipe out.

    Args:
        folder: where its patterns begin.
        path: the dataset directory to make.
        tell: is told how far the reading is.

    Raises DatasetError with every file's first fault; nothing is written.
    """
    found = _find(recipe, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        readers = [_reader(source, recipe, found) for source in recipe.source]
        intervals = read_intervals(folder, recipe.labels) if recipe.labels.files else []
        _check_names(recipe, found, readers, intervals)
        readers, regions = _with_regions(recipe, found, readers, intervals, Path(scratch), tell)
        work = _Work(found=found, readers=readers, intervals=intervals, scratch=Path(scratch), tell=tell)
        built = import_recordings(
            path,
            work.recordings(),
            sensors=[reader.sensor for reader in readers],
            windows=recipe.windows,
            labels=recipe.labels,
            split=recipe.split,
            facts=recipe.dataset,
        )
    return RecipeReport(
        built=built,
        sensors=tuple(reader.sensor for reader in readers),
        clocks=tuple(work.clocks),
        proposals=tuple(work.proposals),
        files=found.files,
        total_bytes=found.total_bytes,
        regions=regions,
    )


def try_recipe(recipe: Recipe, folder: Path, *, tell: Tell | None = None) -> RecipeReport:
    """Carries a recipe out in the system's temporary folder, where nothing is kept: errors as `import_recipe`."""
    with tempfile.TemporaryDirectory() as scratch:
        return import_recipe(recipe, folder, Path(scratch) / (recipe.dataset.name or "dataset"), tell=tell)


def _find(recipe: Recipe, folder: Path) -> _Found:
    by_source: dict[str, list[FoundFile]] = {}
    problems: list[str] = []
    for number, source in enumerate(recipe.source):
        by_source[source.modality] = found_files(folder, source.files)
        if not by_source[source.modality]:
            problems.append(
                f"'source[{number}].files': expected files, found none at {folder / source.files}; correct the pattern"
            )
    refuse(folder, problems)
    named = [parts_of(source.files) for source in recipe.source]
    parts = tuple(name for name in named[0] if all(name in names for names in named))
    recordings: dict[tuple[str, ...], dict[str, list[FoundFile]]] = {}
    for modality, files in by_source.items():
        for file in files:
            recordings.setdefault(key_of(file, parts), {}).setdefault(modality, []).append(file)
    ordered = sorted(recordings, key=lambda key: natural_key("/".join(key)))
    return _Found(
        parts=parts,
        recordings={key: recordings[key] for key in ordered},
        facts=_facts_of(recipe, folder, parts, recordings) if recipe.labels.table else {},
        files={modality: len(files) for modality, files in by_source.items()},
        total_bytes=sum(file.path.stat().st_size for files in by_source.values() for file in files),
    )


def _facts_of(
    recipe: Recipe,
    folder: Path,
    parts: Sequence[str],
    recordings: Mapping[tuple[str, ...], Mapping[str, Sequence[FoundFile]]],
) -> dict[tuple[str, ...], Mapping[str, str]]:
    """What the table of labels says of each recording. Raises DatasetError where it says nothing, or says it twice."""
    lines = read_table(folder, recipe.labels)
    found: dict[tuple[str, ...], TableLine] = {}
    by_file = {
        file.path.relative_to(folder).as_posix(): key
        for key, sources in recordings.items()
        for files in sources.values()
        for file in files
    }
    for line in lines:
        keys = [by_file[line.file]] if line.file in by_file else []
        if line.parts:
            keys = [key for key in recordings if line.parts.items() <= dict(zip(parts, key, strict=True)).items()]
        if not keys:
            told = ", ".join(f"{name} {value!r}" for name, value in line.parts.items()) or f"file {line.file!r}"
            raise DatasetError(f"{line.place}: expected a recording of {told}, found none; correct it, or remove it")
        for key in keys:
            if key in found:
                raise DatasetError(
                    f"{line.place}: expected each recording once, got again that of {found[key].place}; remove a line"
                )
            found[key] = line
    for key, sources in recordings.items():
        if key not in found:
            file = next(iter(sources.values()))[0].path
            raise DatasetError(
                f"{folder / recipe.labels.table}: expected a line for every recording, found none for {file};"
                " add it, or remove the file"
            )
    return {key: line.facts for key, line in found.items()}


def _facts_wanted(recipe: Recipe, found: _Found) -> list[str]:
    """Columns that are asked for, and are no part of the path and not in the table of labels."""
    wanted = [recipe.labels.column, recipe.split.group, recipe.split.column, *recipe.windows.columns]
    known = {*found.parts, *(name for facts in found.facts.values() for name in facts)}
    return list(dict.fromkeys(name for name in wanted if name and name not in known))


def _reader(source: Source, recipe: Recipe, found: _Found) -> Reader:
    first = next(files[source.modality][0] for files in found.recordings.values() if source.modality in files)
    if source.modality_kind == "video":
        return CameraReader.opened(source, first)
    return SourceReader.opened(source, first, facts=_facts_wanted(recipe, found))


def _with_regions(
    recipe: Recipe,
    found: _Found,
    readers: Sequence[Reader],
    intervals: Sequence[Labelled],
    scratch: Path,
    tell: Tell | None,
) -> tuple[list[Reader], dict[str, Region]]:
    """The readers with every region known; reads all files once more where one is to be found."""
    asking = [reader for reader in readers if isinstance(reader, CameraReader) and reader.motions is not None]
    if not asking:
        return list(readers), {}
    work = _Work(found=found, readers=readers, intervals=intervals, scratch=scratch, tell=tell)
    chosen = training_recordings(
        work.recordings(),
        sensors=[reader.sensor for reader in readers],
        windows=recipe.windows,
        labels=recipe.labels,
        split=recipe.split,
        scratch=scratch,
    )
    recordings = list(found.recordings.values())
    regions: dict[str, Region] = {}
    for reader in asking:
        name = reader.source.modality
        first_files = [recordings[number][name][0].path for number in chosen if name in recordings[number]]
        regions[name] = reader.found_region(first_files)
    return [
        reader.with_region(regions[reader.source.modality])
        if isinstance(reader, CameraReader) and reader.source.modality in regions
        else reader
        for reader in readers
    ], regions


def _check_names(recipe: Recipe, found: _Found, readers: Sequence[Reader], intervals: Sequence[Labelled]) -> None:
    """Refuses parts and columns that are nowhere, and labels of recordings that there are not."""
    problems = []
    if recipe.labels.path and recipe.labels.path not in found.parts:
        problems.append(
            f"'labels.path': expected a part of the path that all sources name in braces, got {recipe.labels.path!r};"
            f" choose among {', '.join(found.parts) or 'none'}"
        )
    columns = {name for reader in readers for name in reader.facts}
    for name in _facts_wanted(recipe, found):
        if name not in columns:
            problems.append(
                f"{name!r}: expected a part of the path or a column of a source, got neither; the paths have"
                f" {', '.join(found.parts) or 'none'}"
            )
    known = [dict(zip(found.parts, key, strict=True)) for key in found.recordings]
    for one in intervals:
        if not any(one.is_of(parts) for parts in known):
            told = ", ".join(f"{name} {value!r}" for name, value in one.parts.items())
            problems.append(
                f"{one.interval.place}: expected a recording of {told}, found none; correct it, or remove it"
            )
            break
    refuse("recipe", problems)


class _Work:
    """The reading of all recordings, one after the other."""

    def __init__(
        self,
        *,
        found: _Found,
        readers: Sequence[Reader],
        intervals: Sequence[Labelled],
        scratch: Path,
        tell: Tell | None,
    ) -> None:
        self._found, self._readers, self._intervals = found, readers, intervals
        self._scratch, self._tell = scratch, tell
        self._done_bytes = 0
        self.clocks: list[FileClock] = []
        self.proposals: list[Proposal] = []

    def recordings(self) -> Iterator[Recorded]:
        """Gives each recording; raises DatasetError at the end where a file had a fault."""
        problems: list[str] = []
        for key, files in self._found.recordings.items():
            parts = {**self._found.facts.get(key, {}), **dict(zip(self._found.parts, key, strict=True))}
            with ExitStack() as stack:
                recorded = self._read(parts, files, stack, problems)
                if not problems:
                    yield recorded
        if len(problems) == 1:
            raise DatasetError(problems[0])
        if problems:
            raise DatasetError("\n  - ".join([f"recordings: {len(problems)} problems", *problems]))

    def _read(
        self, parts: dict[str, str], files: Mapping[str, Sequence[FoundFile]], stack: ExitStack, problems: list[str]
    ) -> Recorded:
        series: dict[str, Sequence[Samples]] = {}
        runs: dict[str, list[Interval]] = {}
        is_utc = True
        name = ", ".join(f"{part} {parts[part]}" for part in self._found.parts) or "the recording"
        for reader in self._readers:
            chosen = files.get(reader.source.modality, ())
            if not chosen:
                continue
            try:
                read = reader.read(chosen, self._scratch, stack, told=self._told)
                self.clocks += _checked_clocks(reader, read, name, chosen[0].path)
            except DatasetError as error:
                problems.append(str(error))
                continue
            series[reader.source.modality] = read.series
            runs.update({column: found for column, found in read.runs.items() if column not in runs})
            is_utc = is_utc and read.is_utc
        self._propose(name, series)
        labels = [one.interval for one in self._intervals if one.is_of(parts)]
        return Recorded(name=name, parts=parts, series=series, labels=labels, runs=runs, is_utc=is_utc)

    def _propose(self, name: str, series: Mapping[str, Sequence[Samples]]) -> None:
        first = self._readers[0].source.modality
        for reader in self._readers[1:]:
            sensor, how = reader.source.modality, reader.source.align_on
            if how is not None and sensor in series and first in series:
                found = proposed(name, sensor, series[sensor][0], first, series[first][0], how)
                if found is not None:  # on times that have the recipe's own offset already
                    self.proposals.append(replace(found, offset_s=reader.source.offset_s + found.offset_s))

    def _told(self, count: int) -> None:
        self._done_bytes += count
        if self._tell is not None:
            self._tell(self._done_bytes, self._found.total_bytes)


def _checked_clocks(reader: Reader, read: ReadSource, name: str, file: Path) -> list[FileClock]:
    """The clock of a recording. Raises DatasetError where it runs at another rate than the recipe says."""
    if not reader.has_clock:
        return []
    clocks = []
    for series in read.series:
        facts = replace(reader.clock_facts(series), repeated=read.repeated)
        declared = reader.sensor.own_hz
        off = facts.rate_hz / declared - 1
        if facts.samples > _LEAST_STEPS and abs(off) > _RATE_TOLERANCE:
            raise DatasetError(
                f"{file}: expected {declared:g} Hz, {reader.rate_origin}, got {facts.rate_hz:.4g} Hz by the times;"
                " correct 'rate_hz', or 'time_unit'"
            )
        drift = 1e6 * off if np.isfinite(off) else 0.0
        clocks.append(FileClock(recording=name, sensor=reader.source.modality, facts=facts, drift_ppm=drift))
    return clocks
