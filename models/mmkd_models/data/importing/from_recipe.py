"""A recipe carried out: files read block by block, their clocks checked, laid on grids, and made a dataset."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.build import BuiltReport, build_dataset, training_recordings
from mmkd_models.data.importing.camera import CameraReader
from mmkd_models.data.importing.cutting.labels import LabelledIntervals, read_intervals
from mmkd_models.data.importing.limits import written_limit
from mmkd_models.data.importing.patterns import FoundFile, RecipeFolder
from mmkd_models.data.importing.read_source import ReadSource, SourceReader
from mmkd_models.data.importing.recipe import TARGET, ImportRecipe, Region, SensorSource, refuse
from mmkd_models.data.importing.recorded import (
    FileClock,
    ImportedRecording,
    ImportedSensor,
    Interval,
    ReadingState,
    Samples,
)
from mmkd_models.data.importing.recording_files import FoundFiles, facts_wanted, find_recordings
from mmkd_models.data.importing.timing.align import Proposal, proposed
from mmkd_models.data.importing.timing.grids import Grids, Placed
from mmkd_models.data.importing.work_folder import KeptRecordings, Marks, Piece, key_of_parts, marks_of, work_folder

Reader = SourceReader | CameraReader
Tell = Callable[[int, int], None]
"""Is told how many bytes are read of all that are to be."""
Note = Callable[[str], None]
"""Is told what is kept of an import that ended early, and what is not."""

_RATE_TOLERANCE = 0.01  # a declared rate that is off by more is another rate
_LEAST_STEPS = 10  # from which a rate can be told


@dataclass(frozen=True, kw_only=True)
class RecipeReport:
    """What came of a recipe.

    Attributes:
        proposals: with the whole `offset_s` to write into the recipe.
        regions: of cameras whose region was to be found, in pixels of the recorded frames.
    """

    built: BuiltReport
    sensors: tuple[ImportedSensor, ...]
    clocks: tuple[FileClock, ...]
    proposals: tuple[Proposal, ...]
    files: Mapping[str, int]
    total_bytes: int
    regions: Mapping[str, Region]


def import_recipe(
    recipe: ImportRecipe,
    folder: Path,
    path: Path,
    *,
    outside: Sequence[Path] = (),
    most_bytes: int | None = None,
    tell: Tell | None = None,
    note: Note | None = None,
) -> RecipeReport:
    """Carry a recipe out, or goes on where another run with the same `path` ended.

    Args:
        folder: where its patterns begin; nothing outside is read.
        path: the dataset directory to make.
        outside: further folders that may be read.
        most_bytes: what may be written; None follows from the size of the recordings.
        tell: is told how far the reading is.

    Raise DatasetError with every file's first fault; `path` is not written, and recordings that were finished are
    kept beside it.
    """
    place = RecipeFolder(folder, outside)
    found = find_recordings(recipe, place)
    most_bytes = written_limit(found.total_bytes) if most_bytes is None else most_bytes
    with work_folder(path, note or (lambda _: None)) as kept:
        readers, found = _readers(recipe, found)
        intervals = read_intervals(place, recipe.labels) if recipe.labels.files else []
        _check_names(recipe, found, readers, intervals)
        work = _Work(folder=place, found=found, intervals=intervals, most_bytes=most_bytes, tell=tell)
        readers, regions = _with_regions(recipe, work, readers, kept)
        kept.of_key(_key(recipe, found, readers)).use(work.marks)
        sensors = [reader.sensor for reader in readers]
        with (
            Grids(kept.folder, sensors, cover=recipe.windows.cover, filled=kept.filled, most_bytes=most_bytes) as grids,
            tempfile.TemporaryDirectory(prefix="windows.", dir=kept.folder) as scratch,
        ):
            built = build_dataset(
                path,
                work.placed(readers, grids, kept),
                grids,
                scratch=Path(scratch),
                windows=recipe.windows,
                labels=recipe.labels,
                split=recipe.split,
                facts=recipe.dataset,
            )
    return RecipeReport(
        built=built,
        sensors=tuple(sensor for sensor in sensors if sensor.name != TARGET),
        clocks=tuple(work.clocks),
        proposals=tuple(work.proposals),
        files=found.files,
        total_bytes=found.total_bytes,
        regions=regions,
    )


def try_recipe(
    recipe: ImportRecipe,
    folder: Path,
    *,
    outside: Sequence[Path] = (),
    most_bytes: int | None = None,
    tell: Tell | None = None,
) -> RecipeReport:
    """Carry a recipe out in the system's temporary folder, where nothing is kept: errors as `import_recipe`."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "dataset"
        return import_recipe(recipe, folder, path, outside=outside, most_bytes=most_bytes, tell=tell)


def _readers(recipe: ImportRecipe, found: FoundFiles) -> tuple[list[Reader], FoundFiles]:
    """A reader for each source, and one more, of the same files, for the column of a regression's number."""
    readers = [_reader(source, recipe, found) for source in recipe.source]
    column = recipe.labels.column if recipe.labels.task == "regression" else ""
    if not column:
        return readers, found
    series = [reader for reader in readers if isinstance(reader, SourceReader)]
    targets = ((reader, reader.with_target(_first_file(reader.source, found), column)) for reader in series)
    beside, target = next(((reader, target) for reader, target in targets if target is not None), (None, None))
    if beside is None or target is None:
        raise DatasetError(
            f"'labels.column': expected a column of a source, got {column!r}, which none has; correct it (the value of"
            " a tag of a tall table can be no label)"
        )
    return [*readers, target], found.read_twice(beside.source.modality, TARGET)


def _reader(source: SensorSource, recipe: ImportRecipe, found: FoundFiles) -> Reader:
    first = _first_file(source, found)
    if source.modality_kind == "video":
        return CameraReader.opened(source, first)
    return SourceReader.opened(source, first, facts=facts_wanted(recipe, found), apart=recipe.labels.column)


def _first_file(source: SensorSource, found: FoundFiles) -> FoundFile:
    return next(files[source.modality][0] for files in found.recordings.values() if source.modality in files)


def _key(recipe: ImportRecipe, found: FoundFiles, readers: Sequence[Reader]) -> str:
    """What the grids depend on beside the files: not labels, windows and split, which are looked at anew."""
    regions = [reader.region if isinstance(reader, CameraReader) else None for reader in readers]
    ours = [
        (reader.source, reader.sensor, reader.facts, region) for reader, region in zip(readers, regions, strict=True)
    ]
    return key_of_parts(found.parts, recipe.windows.cover, ours)


def _with_regions(
    recipe: ImportRecipe, work: _Work, readers: Sequence[Reader], kept: KeptRecordings
) -> tuple[list[Reader], dict[str, Region]]:
    """The readers with every region known; reads all files once more where one is to be found."""
    asking = [reader for reader in readers if isinstance(reader, CameraReader) and reader.motions is not None]
    if not asking:
        return list(readers), {}
    labels = recipe.labels.files
    labelled = work.folder.files(labels, key="labels.files") if labels else []
    key = key_of_parts(recipe, work.marks, marks_of(labelled, work.folder.path), work.found.facts)
    regions = kept.regions(key)
    if not regions:
        regions = _found_regions(recipe, work, readers, asking, kept.folder)
        kept.add_regions(key, regions)
    return [
        reader.with_region(regions[reader.source.modality])
        if isinstance(reader, CameraReader) and reader.source.modality in regions
        else reader
        for reader in readers
    ], regions


def _found_regions(
    recipe: ImportRecipe, work: _Work, readers: Sequence[Reader], asking: Sequence[CameraReader], folder: Path
) -> dict[str, Region]:
    """Where things move in the recordings that train, which only a whole import tells."""
    sensors = [reader.sensor for reader in readers]
    with (
        tempfile.TemporaryDirectory(prefix="regions.", dir=folder) as scratch,
        Grids(Path(scratch), sensors, cover=recipe.windows.cover, most_bytes=work.most_bytes) as grids,
    ):
        placed = (grids.add(recorded) for recorded in work.read_all(readers, Path(scratch)))
        chosen = training_recordings(placed, grids, windows=recipe.windows, labels=recipe.labels, split=recipe.split)
    recordings = list(work.found.recordings.values())
    regions: dict[str, Region] = {}
    for reader in asking:
        name = reader.source.modality
        first_files = [recordings[number][name][0].path for number in chosen if name in recordings[number]]
        regions[name] = reader.found_region(first_files)
    return regions


def _check_names(
    recipe: ImportRecipe, found: FoundFiles, readers: Sequence[Reader], intervals: Sequence[LabelledIntervals]
) -> None:
    """Refuse parts and columns that are nowhere, and labels of recordings that there are not."""
    problems = []
    if recipe.labels.path and recipe.labels.path not in found.parts:
        problems.append(
            f"'labels.path': expected a part of the path that all sources name in braces, got {recipe.labels.path!r};"
            f" choose among {', '.join(found.parts) or 'none'}"
        )
    columns = {name for reader in readers for name in reader.facts}
    for name in facts_wanted(recipe, found):
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


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a source of a recording is read; see `ReadingPlace`."""

    folder: Path
    name: str
    most_bytes: int
    marks: Sequence[tuple[str, int, int]]
    kept: KeptRecordings | None

    def begun(self) -> tuple[int, ReadingState | None]:
        return (0, None) if self.kept is None else self.kept.begun(self.name, self.marks)

    def go_on(self, files: int, state: ReadingState, secure: Callable[[], None]) -> None:
        if self.kept is not None:
            self.kept.go_on(self.name, self.marks[:files], state, secure)


class _Work:
    """The reading of all recordings, one after the other."""

    def __init__(
        self,
        *,
        folder: RecipeFolder,
        found: FoundFiles,
        intervals: Sequence[LabelledIntervals],
        most_bytes: int,
        tell: Tell | None,
    ) -> None:
        self.folder, self.found, self.most_bytes = folder, found, most_bytes
        self._intervals, self._tell = intervals, tell
        self._done_bytes = self._total_bytes = 0
        self.clocks: list[FileClock] = []
        self.proposals: list[Proposal] = []
        self._numbers = {key: number for number, key in enumerate(found.recordings)}
        self.marks: dict[str, Marks] = {
            "/".join(key): {source: marks_of(chosen, folder.path) for source, chosen in files.items()}
            for key, files in found.recordings.items()
        }

    def read_all(self, readers: Sequence[Reader], scratch: Path) -> Iterator[ImportedRecording]:
        """Read each recording and keeps nothing; raises DatasetError at the end where a file had a fault."""
        self._begin(self.marks)
        return self._read_these(list(self.found.recordings), readers, scratch, None)

    def placed(self, readers: Sequence[Reader], grids: Grids, kept: KeptRecordings) -> Iterator[Placed]:
        """Yield each recording on the grids: as it was kept, or read now; errors as of `read_all`."""
        kept.secure = grids.secure
        names = {key: "/".join(key) for key in self.found.recordings}
        missing = [key for key in self.found.recordings if kept.piece(names[key]) is None]
        self._begin({names[key]: self.marks[names[key]] for key in missing})
        read = self._read_these(missing, readers, kept.folder, kept)
        for key, name in names.items():
            piece = kept.piece(name)
            if piece is not None:
                self.clocks += piece.clocks
                self.proposals += piece.proposals
                yield piece.placed(self._known(key))
                continue
            clocks, proposals = len(self.clocks), len(self.proposals)
            placed = grids.add(next(read))
            kept.add(name, self._piece(name, placed, self.clocks[clocks:], self.proposals[proposals:]))
            yield placed
        next(read, None)  # tells of files with a fault

    def _begin(self, marks: Mapping[str, Marks]) -> None:
        self.clocks, self.proposals = [], []
        self._done_bytes = 0
        self._total_bytes = sum(size for one in marks.values() for files in one.values() for _, size, _ in files)

    def _piece(self, name: str, placed: Placed, clocks: Sequence[FileClock], proposals: Sequence[Proposal]) -> Piece:
        return Piece(
            marks=self.marks[name],
            origin_ns=placed.origin_ns,
            first=dict(placed.first),
            lengths=dict(placed.lengths),
            absent=placed.absent,
            runs={column: list(runs) for column, runs in placed.recorded.runs.items()},
            is_utc=placed.recorded.is_utc,
            clocks=tuple(clocks),
            proposals=tuple(proposals),
        )

    def _known(self, key: tuple[str, ...]) -> ImportedRecording:
        """What is known of a recording without its files."""
        parts = {**self.found.facts.get(key, {}), **dict(zip(self.found.parts, key, strict=True))}
        name = ", ".join(f"{part} {parts[part]}" for part in self.found.parts) or "the recording"
        labels = [one.interval for one in self._intervals if one.is_of(parts)]
        return ImportedRecording(name=name, parts=parts, series={}, labels=labels)

    def _read_these(
        self, keys: Sequence[tuple[str, ...]], readers: Sequence[Reader], scratch: Path, kept: KeptRecordings | None
    ) -> Iterator[ImportedRecording]:
        problems: list[str] = []
        for key in keys:
            with ExitStack() as stack:
                recorded = self._read(key, readers, (scratch, kept), stack, problems)
                if not problems:
                    yield recorded
                elif kept is not None:
                    kept.forget_begun()
        if len(problems) == 1:
            raise DatasetError(problems[0])
        if problems:
            raise DatasetError("\n  - ".join([f"recordings: {len(problems)} problems", *problems]))

    def _read(
        self,
        key: tuple[str, ...],
        readers: Sequence[Reader],
        at: tuple[Path, KeptRecordings | None],
        stack: ExitStack,
        problems: list[str],
    ) -> ImportedRecording:
        series: dict[str, Sequence[Samples]] = {}
        runs: dict[str, Sequence[Interval]] = {}
        is_utc = True
        known, marks = self._known(key), self.marks["/".join(key)]
        number = self._numbers[key]
        for reader in readers:
            source = reader.source.modality
            chosen = self.found.recordings[key].get(source, ())
            if not chosen:
                continue
            place = _Place(
                folder=at[0], name=f"{source}-{number}", most_bytes=self.most_bytes, marks=marks[source], kept=at[1]
            )
            try:
                read = reader.read(chosen, place, stack, told=self._told)
                self.clocks += _checked_clocks(reader, read, known.name, chosen[0].path)
            except DatasetError as error:
                if str(error) not in problems:  # the same line twice, where a file is read for a target too
                    problems.append(str(error))
                continue
            series[source] = read.series
            runs.update({column: found for column, found in read.runs.items() if column not in runs})
            is_utc = is_utc and read.is_utc
        self._propose(readers, known.name, series)
        return replace(known, series=series, runs=runs, is_utc=is_utc)

    def _propose(self, readers: Sequence[Reader], name: str, series: Mapping[str, Sequence[Samples]]) -> None:
        first = readers[0].source.modality
        for reader in readers[1:]:
            sensor, how = reader.source.modality, reader.source.align_on
            if how is not None and sensor in series and first in series:
                found = proposed(name, sensor, series[sensor][0], first, series[first][0], how)
                if found is not None:  # on times that have the recipe's own offset already
                    self.proposals.append(replace(found, offset_s=reader.source.offset_s + found.offset_s))

    def _told(self, count: int) -> None:
        self._done_bytes += count
        if self._tell is not None:
            self._tell(self._done_bytes, self._total_bytes)


def _checked_clocks(reader: Reader, read: ReadSource, name: str, file: Path) -> list[FileClock]:
    """The clock of a recording. Raise DatasetError if it runs at another rate than the recipe says."""
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
