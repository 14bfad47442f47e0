"""The work folder of an import, beside its output: what was finished when it ended is not done again.

A recording is reused while the recipe's sources and its files (size and time of change) stay as they are.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from mmkd_edge import __version__
from mmkd_edge.bundle.files import write_file
from mmkd_models.data.importing.patterns import FoundFile
from mmkd_models.data.importing.recipe import Region
from mmkd_models.data.importing.recorded import (
    SPOOL_SUFFIXES,
    FileClock,
    ImportedRecording,
    Interval,
    ReadingState,
)
from mmkd_models.data.importing.timing.align import Proposal
from mmkd_models.data.importing.timing.grids import Placed

_PROGRESS = "kept"
_TIMES_COST = 10  # after writing the progress, it is not written again for so many times as long

FileMark = tuple[str, int, int]
"""Path, size and time of change of a file."""
Marks = Mapping[str, Sequence[FileMark]]
"""The files of each source."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A recording that lies in the grids: as `Placed`, with what was measured of its clocks."""

    marks: Marks
    origin_ns: int
    first: Mapping[str, int]
    lengths: Mapping[str, int]
    absent: tuple[str, ...]
    runs: Mapping[str, Sequence[Interval]]
    is_utc: bool
    clocks: Sequence[FileClock]
    proposals: Sequence[Proposal]

    def placed(self, recorded: ImportedRecording) -> Placed:
        """Return the recording on its grids, with the name, parts and labels that it has now."""
        return Placed(
            recorded=replace(recorded, runs=self.runs, is_utc=self.is_utc),
            origin_ns=self.origin_ns,
            first=self.first,
            lengths=self.lengths,
            absent=self.absent,
        )


class _PartlyRead(msgspec.Struct, frozen=True, kw_only=True):
    """A source of a recording, some of whose files are read."""

    marks: Sequence[FileMark]
    state: ReadingState


class _Content(msgspec.Struct, kw_only=True):
    """The progress file: `key` identifies the sources, `regions_key` the recipe and files of the regions."""

    key: str
    pieces: dict[str, Piece] = {}
    partly_read: dict[str, _PartlyRead] = {}
    regions: dict[str, Region] = {}
    regions_key: str = ""


@dataclass(kw_only=True, eq=False)
class ImportProgress:
    """What an import has finished.

    Attributes:
        secure: puts on the disk what pieces lie in, before they count as finished.
    """

    folder: Path
    note: Callable[[str], None]
    secure: Callable[[], None] = lambda: None
    _content: _Content = field(default_factory=lambda: _Content(key=""))
    _next_s: float = 0.0

    def use(self, key: str, marks: Mapping[str, Marks]) -> None:
        """Drop the progress of another recipe, and recordings whose files have changed or are gone; say so."""
        content = self._content
        if content.key != key:
            if content.key:
                self.note("the sources of the recipe have changed since: everything is read again")
            content.key, content.pieces, content.partly_read = key, {}, {}
        if not content.pieces:
            return
        changed = sorted(name for name, piece in content.pieces.items() if marks.get(name, {}) != piece.marks)
        content.pieces = {name: piece for name, piece in content.pieces.items() if name not in changed}
        self.note(f"{len(content.pieces)} of {len(marks)} recordings are kept from before")
        if changed:
            more = f" and {len(changed) - 1} others" if len(changed) > 1 else ""
            self.note(f"files of {changed[0] or 'the recording'}{more} have changed since: they are read again")

    @property
    def filled(self) -> dict[str, int]:
        """Samples of each sensor's grid that are finished."""
        filled: dict[str, int] = {}
        for piece in self._content.pieces.values():
            for name, first in piece.first.items():
                filled[name] = max(filled.get(name, 0), first + piece.lengths[name])
        return filled

    def piece(self, recording: str) -> Piece | None:
        """Return a finished recording."""
        return self._content.pieces.get(recording)

    def add(self, recording: str, piece: Piece) -> None:
        """Add a recording that lies in the grids."""
        self._content.pieces[recording] = piece
        self._content.partly_read = {}
        self.write(self.secure)

    def partly_read(self, name: str, marks: Sequence[FileMark]) -> tuple[int, ReadingState | None]:
        """Return how many of these files of a source are read, and the state after them."""
        part = self._content.partly_read.get(name)
        if part is None or marks[: len(part.marks)] != part.marks:
            return 0, None
        return len(part.marks), part.state

    def add_file(self, name: str, marks: Sequence[FileMark], state: ReadingState, secure: Callable[[], None]) -> None:
        """Set how far the reading of a source is, after these files."""
        self._content.partly_read[name] = _PartlyRead(marks=marks, state=state)
        self.write(secure)

    def forget_partly_read(self) -> None:
        """Drop the recording that is being read."""
        self._content.partly_read = {}

    def regions(self, key: str) -> dict[str, Region]:
        """Return the regions that were found for this recipe and these files."""
        return self._content.regions if self._content.regions_key == key else {}

    def add_regions(self, key: str, regions: Mapping[str, Region]) -> None:
        """Add regions, for which all files were read."""
        self._content.regions, self._content.regions_key = dict(regions), key
        self.write(lambda: None, at_once=True)

    def write(self, secure: Callable[[], None], *, at_once: bool = False) -> None:
        """Write the progress, unless that was done a moment ago; `secure` first puts the data on the disk."""
        begun_s = time.monotonic()
        if not at_once and begun_s < self._next_s:
            return
        secure()
        write_file(self.folder / _PROGRESS, msgspec.msgpack.encode(self._content))
        self._next_s = time.monotonic() + _TIMES_COST * (time.monotonic() - begun_s)

    def tidy(self) -> None:
        """Remove scratch files that no later run can use."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix in SPOOL_SUFFIXES and path.stem.rpartition("-")[0] not in self._content.partly_read:
                path.unlink()

    def close(self) -> None:
        """Keep what another run can use, and say so; else remove the folder."""
        if not (self._content.pieces or self._content.partly_read or self._content.regions):
            shutil.rmtree(self.folder)
            return
        self.write(self.secure, at_once=True)
        self.tidy()
        self.note(f"what was read is kept in {self.folder}; run the same command to continue")


@dataclass(frozen=True, kw_only=True)
class ReadingPlace:
    """Where the samples of a source of a recording are collected; `progress` is None if nothing is to be kept."""

    folder: Path
    name: str
    most_bytes: int
    marks: Sequence[FileMark] = ()
    progress: ImportProgress | None = None

    def partly_read(self) -> tuple[int, ReadingState | None]:
        """Return how many files an earlier run read, and the state after them."""
        return (0, None) if self.progress is None else self.progress.partly_read(self.name, self.marks)

    def add_file(self, files: int, state: ReadingState, secure: Callable[[], None]) -> None:
        """Set how far the reading is after so many files."""
        if self.progress is not None:
            self.progress.add_file(self.name, self.marks[:files], state, secure)


@contextmanager
def work_folder(path: Path, note: Callable[[str], None]) -> Iterator[ImportProgress]:
    """Yield the progress of an earlier run; remove the folder at success."""
    folder = path.parent / f".{path.name}.import"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        content = msgspec.msgpack.decode((folder / _PROGRESS).read_bytes(), type=_Content)
    except FileNotFoundError:
        content = _Content(key="")
    except msgspec.DecodeError:  # of another version, whose pieces would not be taken either
        content = _Content(key="another")
    progress = ImportProgress(folder=folder, note=note, _content=content)
    progress.tidy()
    try:
        yield progress
    except BaseException:
        progress.close()
        raise
    shutil.rmtree(folder)


def key_of_parts(*parts: object) -> str:
    """Return a key of everything that these say, and of the version of this package."""
    return hashlib.sha256(repr((__version__, *parts)).encode()).hexdigest()


def marks_of(files: Sequence[FoundFile], folder: Path) -> list[FileMark]:
    """Return path, size and time of change of each file."""
    stats = [(file.path.relative_to(folder).as_posix(), file.path.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
