"""A recipe carried out: files are read block by block, their clocks checked, laid on grids, and made a dataset.

A fault in a file does not hide those in others, and what is finished is kept if the import ends early.
"""

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
from mmkd_models.data.importing.recorded import FileClock, ImportedRecording, ImportedSensor, Interval, Samples
from mmkd_models.data.importing.recording_files import RecordingFiles, extra_columns, find_recordings
from mmkd_models.data.importing.timing.align import Proposal, propose_offset
from mmkd_models.data.importing.timing.grids import Grids, Placed
from mmkd_models.data.importing.work_folder import (
    ImportProgress,
    Marks,
    Piece,
    ReadingPlace,
    key_of_parts,
    marks_of,
    work_folder,
)

Reader = SourceReader | CameraReader
_RATE_TOLERANCE = 0.01  # a declared rate that is off by more is another rate
_LEAST_STEPS = 10  # to measure a rate


@dataclass(frozen=True, kw_only=True)
class RecipeReport:
    """What came of a recipe.

    Attributes:
        proposals: with the whole `offset_s` to write into the recipe.
        regions: of cameras with `region = "auto"`, in pixels of the recorded frames.
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
    tell: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> RecipeReport:
    """Carry a recipe out, or continue where another run with the same `path` ended.

    Args:
        folder: where patterns start; nothing outside it and `outside` is read.
        most_bytes: what may be written; None follows from the size of the recordings.
        tell: called with the bytes that are read, and all that will be.
        note: called with what is kept of an import that ended early.

    Raise DatasetError with every file's first fault; `path` is not written, and finished recordings are kept beside it.
    """
    place = RecipeFolder(folder, outside)
    files = find_recordings(recipe, place)
    most_bytes = written_limit(files.total_bytes) if most_bytes is None else most_bytes
    with work_folder(path, note or (lambda _: None)) as progress:
        readers, files = _open_readers(recipe, files)
        intervals = read_intervals(place, recipe.labels) if recipe.labels.files else []
        _check_names(recipe, files, readers, intervals)
        work = _Work(folder=place, files=files, intervals=intervals, most_bytes=most_bytes, tell=tell)
        readers, regions = _find_regions(recipe, work, readers, progress)
        # The grids depend on this beside the files; labels, windows and split are computed anew.
        parts = [
            (reader.source, reader.sensor, reader.facts, reader.region if isinstance(reader, CameraReader) else None)
            for reader in readers
        ]
        progress.use(key_of_parts(files.parts, recipe.windows.cover, parts), work.marks)
        sensors = [reader.sensor for reader in readers]
        cover, filled = recipe.windows.cover, progress.filled
        with (
            Grids(progress.folder, sensors, cover=cover, filled=filled, most_bytes=most_bytes) as grids,
            tempfile.TemporaryDirectory(prefix="windows.", dir=progress.folder) as scratch,
        ):
            built = build_dataset(
                path,
                work.placed(readers, grids, progress),
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
        files=files.counts,
        total_bytes=files.total_bytes,
        regions=regions,
    )


def try_recipe(
    recipe: ImportRecipe,
    folder: Path,
    *,
    outside: Sequence[Path] = (),
    most_bytes: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> RecipeReport:
    """Carry a recipe out in the system's temporary folder, where nothing is kept: errors as `import_recipe`."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "dataset"
        return import_recipe(recipe, folder, path, outside=outside, most_bytes=most_bytes, tell=tell)


def _open_readers(recipe: ImportRecipe, files: RecordingFiles) -> tuple[list[Reader], RecordingFiles]:
    """A reader for each source, and one more, of the same files, for the column of a regression's number."""

    def first_file(source: SensorSource) -> FoundFile:
        return next(sources[source.modality][0] for sources in files.recordings.values() if source.modality in sources)

    columns = extra_columns(recipe, files)
    readers: list[Reader] = [
        CameraReader.opened(source, first_file(source))
        if source.modality_kind == "video"
        else SourceReader.opened(source, first_file(source), facts=columns, apart=recipe.labels.column)
        for source in recipe.source
    ]
    column = recipe.labels.column if recipe.labels.task == "regression" else ""
    if not column:
        return readers, files
    for reader in readers:
        target = reader.with_target(first_file(reader.source), column) if isinstance(reader, SourceReader) else None
        if target is not None:
            return [*readers, target], files.read_twice(reader.source.modality, TARGET)
    raise DatasetError(
        f"'labels.column': no source has a column {column!r}; correct it (a tag of a tall table cannot be a label)"
    )


def _find_regions(
    recipe: ImportRecipe, work: _Work, readers: Sequence[Reader], progress: ImportProgress
) -> tuple[list[Reader], dict[str, Region]]:
    """The readers with every region known; reads all files once more if one is to be found."""
    cameras = [reader for reader in readers if isinstance(reader, CameraReader) and reader.motions is not None]
    if not cameras:
        return list(readers), {}
    labelled = work.folder.files(recipe.labels.files, key="labels.files") if recipe.labels.files else []
    key = key_of_parts(recipe, work.marks, marks_of(labelled, work.folder.path), work.files.facts)
    regions = progress.regions(key)
    if not regions:
        sensors = [reader.sensor for reader in readers]
        with (
            tempfile.TemporaryDirectory(prefix="regions.", dir=progress.folder) as scratch,
            Grids(Path(scratch), sensors, cover=recipe.windows.cover, most_bytes=work.most_bytes) as grids,
        ):
            placed = (grids.add(recorded) for recorded in work.read_all(readers, Path(scratch)))
            numbers = training_recordings(
                placed, grids, windows=recipe.windows, labels=recipe.labels, split=recipe.split
            )
        recordings = [list(work.files.recordings.values())[number] for number in numbers]
        for camera in cameras:
            name = camera.source.modality
            regions[name] = camera.find_region([files[name][0].path for files in recordings if name in files])
        progress.add_regions(key, regions)
    return [
        reader.with_region(regions[reader.source.modality])
        if isinstance(reader, CameraReader) and reader.source.modality in regions
        else reader
        for reader in readers
    ], regions


def _check_names(
    recipe: ImportRecipe, files: RecordingFiles, readers: Sequence[Reader], intervals: Sequence[LabelledIntervals]
) -> None:
    """Refuse parts and columns that do not exist, and labels of recordings that do not."""
    problems = []
    known = f"the paths have {', '.join(files.parts) or 'none'}"
    if recipe.labels.path and recipe.labels.path not in files.parts:
        problems.append(f"'labels.path': {recipe.labels.path!r} is no part of all paths; {known}")
    columns = {name for reader in readers for name in reader.facts}
    for name in extra_columns(recipe, files):
        if name not in columns:
            problems.append(f"{name!r} is neither a part of the path nor a column of a source; {known}")
    recordings = [dict(zip(files.parts, key, strict=True)) for key in files.recordings]
    for labelled in intervals:
        if not any(labelled.is_of(parts) for parts in recordings):
            name = ", ".join(f"{part} {value!r}" for part, value in labelled.parts.items())
            problems.append(f"{labelled.interval.place}: there is no recording of {name}; correct or remove the line")
            break
    refuse("recipe", problems)


class _Work:
    """The reading of all recordings, one after the other."""

    def __init__(
        self,
        *,
        folder: RecipeFolder,
        files: RecordingFiles,
        intervals: Sequence[LabelledIntervals],
        most_bytes: int,
        tell: Callable[[int, int], None] | None,
    ) -> None:
        self.folder, self.files, self.most_bytes = folder, files, most_bytes
        self._intervals, self._tell = intervals, tell
        self._done_bytes = self._total_bytes = 0
        self.clocks: list[FileClock] = []
        self.proposals: list[Proposal] = []
        self._numbers = {key: number for number, key in enumerate(files.recordings)}
        self.marks: dict[str, Marks] = {
            "/".join(key): {source: marks_of(chosen, folder.path) for source, chosen in sources.items()}
            for key, sources in files.recordings.items()
        }

    def read_all(self, readers: Sequence[Reader], scratch: Path) -> Iterator[ImportedRecording]:
        """Read each recording and keep nothing; raise DatasetError at the end if a file has a fault."""
        keys = list(self.files.recordings)
        self._start(keys)
        return self._read_these(keys, readers, scratch, None)

    def placed(self, readers: Sequence[Reader], grids: Grids, progress: ImportProgress) -> Iterator[Placed]:
        """Yield each recording on the grids, finished earlier or read now; errors as `read_all`."""
        progress.secure = grids.secure
        names = {key: "/".join(key) for key in self.files.recordings}
        missing = [key for key in names if progress.piece(names[key]) is None]
        self._start(missing)
        reading = self._read_these(missing, readers, progress.folder, progress)
        for key, name in names.items():
            piece = progress.piece(name)
            if piece is not None:
                self.clocks += piece.clocks
                self.proposals += piece.proposals
                yield piece.placed(self._describe(key))
                continue
            clocks, proposals = len(self.clocks), len(self.proposals)
            placed = grids.add(next(reading))
            progress.add(
                name,
                Piece(
                    marks=self.marks[name],
                    origin_ns=placed.origin_ns,
                    first=placed.first,
                    lengths=placed.lengths,
                    absent=placed.absent,
                    runs=placed.recorded.runs,
                    is_utc=placed.recorded.is_utc,
                    clocks=self.clocks[clocks:],
                    proposals=self.proposals[proposals:],
                ),
            )
            yield placed
        next(reading, None)  # raises the faults of files

    def _start(self, keys: Sequence[tuple[str, ...]]) -> None:
        self.clocks, self.proposals = [], []
        self._done_bytes = 0
        marks = [self.marks["/".join(key)] for key in keys]
        self._total_bytes = sum(size for sources in marks for files in sources.values() for _, size, _ in files)

    def _describe(self, key: tuple[str, ...]) -> ImportedRecording:
        """A recording without its samples."""
        parts = {**self.files.facts.get(key, {}), **dict(zip(self.files.parts, key, strict=True))}
        name = ", ".join(f"{part} {parts[part]}" for part in self.files.parts) or "the recording"
        labels = [labelled.interval for labelled in self._intervals if labelled.is_of(parts)]
        return ImportedRecording(name=name, parts=parts, series={}, labels=labels)

    def _read_these(
        self, keys: Sequence[tuple[str, ...]], readers: Sequence[Reader], scratch: Path, progress: ImportProgress | None
    ) -> Iterator[ImportedRecording]:
        problems: list[str] = []
        for key in keys:
            with ExitStack() as stack:
                recorded = self._read(key, readers, (scratch, progress), stack, problems)
                if not problems:
                    yield recorded
                elif progress is not None:
                    progress.forget_partly_read()
        if len(problems) == 1:
            raise DatasetError(problems[0])
        refuse("recordings", problems)

    def _read(
        self,
        key: tuple[str, ...],
        readers: Sequence[Reader],
        at: tuple[Path, ImportProgress | None],
        stack: ExitStack,
        problems: list[str],
    ) -> ImportedRecording:
        series: dict[str, Sequence[Samples]] = {}
        runs: dict[str, Sequence[Interval]] = {}
        is_utc = True
        recorded, marks = self._describe(key), self.marks["/".join(key)]
        for reader in readers:
            name = reader.source.modality
            files = self.files.recordings[key].get(name, ())
            if not files:
                continue
            place = ReadingPlace(
                folder=at[0],
                name=f"{name}-{self._numbers[key]}",
                most_bytes=self.most_bytes,
                marks=marks[name],
                progress=at[1],
            )
            try:
                read = reader.read(files, place, stack, told=self._count_bytes)
                self.clocks += _check_clocks(reader, read, recorded.name, files[0].path)
            except DatasetError as error:
                if str(error) not in problems:  # the same line twice, if a file is read for a target too
                    problems.append(str(error))
                continue
            series[name] = read.series
            runs = {**read.runs, **runs}
            is_utc = is_utc and read.is_utc
        self._propose_offsets(readers, recorded.name, series)
        return replace(recorded, series=series, runs=runs, is_utc=is_utc)

    def _propose_offsets(self, readers: Sequence[Reader], name: str, series: Mapping[str, Sequence[Samples]]) -> None:
        first = readers[0].source.modality
        for reader in readers[1:]:
            sensor, method = reader.source.modality, reader.source.align_on
            if method is not None and sensor in series and first in series:
                proposal = propose_offset(name, sensor, series[sensor][0], first, series[first][0], method)
                if proposal is not None:  # on times that have the recipe's own offset already
                    offset_s = reader.source.offset_s + proposal.offset_s
                    self.proposals.append(replace(proposal, offset_s=offset_s))

    def _count_bytes(self, count: int) -> None:
        self._done_bytes += count
        if self._tell is not None:
            self._tell(self._done_bytes, self._total_bytes)


def _check_clocks(reader: Reader, read: ReadSource, name: str, file: Path) -> list[FileClock]:
    """The clock of a recording. Raise DatasetError if it runs at another rate than the recipe says."""
    clocks = []
    for series in read.series if reader.has_clock else ():
        facts = replace(reader.clock_facts(series), repeated=read.repeated)
        declared = reader.sensor.own_hz
        deviation = facts.rate_hz / declared - 1
        if facts.samples > _LEAST_STEPS and abs(deviation) > _RATE_TOLERANCE:
            raise DatasetError(
                f"{file}: expected {declared:g} Hz, {reader.rate_origin}, got {facts.rate_hz:.4g} Hz by the times;"
                " correct 'rate_hz', or 'time_unit'"
            )
        drift = 1e6 * deviation if np.isfinite(deviation) else 0.0
        clocks.append(FileClock(recording=name, sensor=reader.source.modality, facts=facts, drift_ppm=drift))
    return clocks
