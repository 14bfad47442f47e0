"""The work folder of an import, beside its output: what was finished when it ended is kept, and not done again."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mmkd_edge import __version__
from mmkd_edge.bundle.files import write_file
from mmkd_models.data.importing.patterns import FoundFile
from mmkd_models.data.importing.recipe import Region
from mmkd_models.data.importing.recorded import SPOOL_SUFFIXES, FileClock, ImportedRecording, Interval, ReadingState
from mmkd_models.data.importing.timing.align import Proposal
from mmkd_models.data.importing.timing.grids import Placed

_CONTENT = "kept"
_TIMES_COST = 10  # after writing what is kept, nothing is written again for so many times as long

Marks = Mapping[str, Sequence[tuple[str, int, int]]]
"""By source, the path, size and time of change of each file."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A recording that lies in the grids; as `Placed`, and what was told of its clocks."""

    marks: Marks
    origin_ns: int
    first: dict[str, int]
    lengths: dict[str, int]
    absent: tuple[str, ...]
    runs: dict[str, list[Interval]]
    is_utc: bool
    clocks: tuple[FileClock, ...]
    proposals: tuple[Proposal, ...]

    def placed(self, recorded: ImportedRecording) -> Placed:
        """Return the recording on its grids, with the name, parts and labels that it has now."""
        return Placed(
            recorded=ImportedRecording(
                name=recorded.name,
                series={},
                parts=recorded.parts,
                labels=recorded.labels,
                runs=self.runs,
                is_utc=self.is_utc,
            ),
            origin_ns=self.origin_ns,
            first=self.first,
            lengths=self.lengths,
            absent=self.absent,
        )


class _Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A source of a recording of whose files some are read."""

    marks: Sequence[tuple[str, int, int]]
    state: ReadingState


class _Content(msgspec.Struct, kw_only=True):
    """What is kept. `key` says of which sources, `regions_of` of which recipe and files the regions are."""

    key: str
    pieces: dict[str, Piece] = {}
    begun: dict[str, _Begun] = {}
    regions: dict[str, Region] = {}
    regions_of: str = ""


@dataclass(kw_only=True, eq=False)
class KeptRecordings:
    """What is kept in one folder.

    Attributes:
        secure: brings on the disk what pieces lie in, before they are told to be finished.
    """

    folder: Path
    note: Callable[[str], None]
    secure: Callable[[], None] = lambda: None
    _content: _Content = field(default_factory=lambda: _Content(key=""))
    _next_s: float = 0.0

    def of_key(self, key: str) -> KeptRecordings:
        """Throw away, and says so, what was kept of another recipe; gives itself."""
        if self._content.key and self._content.key != key:
            self.note("the sources of the recipe have changed since: nothing of what was kept is used")
        if self._content.key != key:
            found = self._content
            self._content = _Content(key=key, regions=found.regions, regions_of=found.regions_of)
        return self

    @property
    def filled(self) -> dict[str, int]:
        """For each sensor, how many samples of its grid are kept."""
        found: dict[str, int] = {}
        for piece in self._content.pieces.values():
            for name, first in piece.first.items():
                found[name] = max(found.get(name, 0), first + piece.lengths[name])
        return found

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that another run could use."""
        return not (self._content.pieces or self._content.begun or self._content.regions)

    def use(self, marks: Mapping[str, Marks]) -> None:
        """Throw away pieces whose files have changed or are gone, and says how much is left.

        Args:
            marks: of the files that there are, by recording.
        """
        pieces = self._content.pieces
        if not pieces:
            return
        left = {name: piece for name, piece in pieces.items() if marks.get(name, {}) == piece.marks}
        self._content.pieces = left
        gone = sorted(set(pieces) - set(left))
        self.note(f"{len(left)} of {len(marks)} recordings are kept from before")
        if gone:
            more = f" and {len(gone) - 1} others" if len(gone) > 1 else ""
            self.note(
                f"files of {gone[0] or 'the recording'}{more} have changed since: what was kept of them is not used"
            )

    def piece(self, recording: str) -> Piece | None:
        """Return a recording that is finished."""
        return self._content.pieces.get(recording)

    def add(self, recording: str, piece: Piece) -> None:
        """Keep a recording that was added to the grids."""
        self._content.pieces[recording] = piece
        self._content.begun = {}
        self.write(self.secure)

    def begun(self, name: str, marks: Sequence[tuple[str, int, int]]) -> tuple[int, ReadingState | None]:
        """Return how many of these files of a source were read, and how far; 0 where another file was read."""
        found = self._content.begun.get(name)
        if found is None or marks[: len(found.marks)] != found.marks:
            return 0, None
        return len(found.marks), found.state

    def go_on(
        self, name: str, marks: Sequence[tuple[str, int, int]], state: ReadingState, secure: Callable[[], None]
    ) -> None:
        """Keep how far the reading of a source is, after these files."""
        self._content.begun[name] = _Begun(marks=marks, state=state)
        self.write(secure)

    def forget_begun(self) -> None:
        """Keep nothing of a recording that was not finished."""
        self._content.begun = {}

    def tidy(self) -> None:
        """Remove scratch files that no run goes on with."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix in SPOOL_SUFFIXES and path.stem.rpartition("-")[0] not in self._content.begun:
                path.unlink()

    def regions(self, key: str) -> dict[str, Region]:
        """Return the regions that were found for this recipe and these files."""
        return self._content.regions if self._content.regions_of == key else {}

    def add_regions(self, key: str, regions: Mapping[str, Region]) -> None:
        """Keep regions, which all files were read for."""
        self._content.regions, self._content.regions_of = dict(regions), key
        self.write(lambda: None, at_once=True)

    def write(self, secure: Callable[[], None], *, at_once: bool = False) -> None:
        """Write what is kept, unless that was done a moment ago.

        Args:
            secure: brings on the disk what it tells of.
        """
        begun_s = time.monotonic()
        if not at_once and begun_s < self._next_s:
            return
        secure()
        write_file(self.folder / _CONTENT, msgspec.msgpack.encode(self._content))
        self._next_s = time.monotonic() + _TIMES_COST * (time.monotonic() - begun_s)


@contextmanager
def work_folder(path: Path, note: Callable[[str], None]) -> Iterator[KeptRecordings]:
    """Yield the work folder of an output, with what an earlier run kept in it; removes it at success.

    Where the block fails, what is finished is kept for the same command, and that is said.
    """
    folder = path.parent / f".{path.name}.import"
    folder.mkdir(parents=True, exist_ok=True)
    kept = KeptRecordings(folder=folder, note=note, _content=_read(folder / _CONTENT))
    kept.tidy()
    try:
        yield kept
    except BaseException:
        if kept.is_empty:
            shutil.rmtree(folder)
        else:
            kept.write(kept.secure, at_once=True)
            kept.tidy()
            note(f"what was read is kept in {folder}; the same command goes on from there")
        raise
    shutil.rmtree(folder)


def _read(file: Path) -> _Content:
    try:
        return msgspec.msgpack.decode(file.read_bytes(), type=_Content)
    except FileNotFoundError:
        return _Content(key="")
    except msgspec.DecodeError:  # of another version, whose pieces would not be taken either
        return _Content(key="another")


def key_of_parts(*parts: object) -> str:
    """Return a key of what a piece depends on: everything that these say, and the version of this package."""
    return hashlib.sha256(repr((__version__, *parts)).encode()).hexdigest()


def marks_of(files: Sequence[FoundFile], folder: Path) -> list[tuple[str, int, int]]:
    """Return path, size and time of change of each file."""
    found = []
    for file in files:
        facts = file.path.stat()
        found.append((file.path.relative_to(folder).as_posix(), facts.st_size, facts.st_mtime_ns))
    return found
