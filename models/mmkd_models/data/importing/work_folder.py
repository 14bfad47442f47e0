"""The work folder of an interrupted import, next to its output.

A recording is reused while the recipe's sources and its files (size and time of change) stay as they are.
"""

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
from mmkd_models.data.importing.grids import GridRecording
from mmkd_models.data.importing.recording import ClockFacts

_PROGRESS = "kept"
_TIMES_COST = 10  # pause between writes of the progress, in durations of a write

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
        changed = sorted(name for name, piece in content.pieces.items() if marks.get(name, {}) != piece.marks)
        content.pieces = {name: piece for name, piece in content.pieces.items() if name not in changed}
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
            self._write()
            self._next_s = time.monotonic() + _TIMES_COST * (time.monotonic() - begun_s)

    def _write(self) -> None:
        self.secure()
        write_file(self.folder / _PROGRESS, msgspec.msgpack.encode(self._content))

    def close(self) -> None:
        """Keep the finished recordings and say so, or remove the folder."""
        if not self._content.pieces:
            shutil.rmtree(self.folder)
            return
        self._write()
        self.note(f"what was read is kept in {self.folder}; run the same command to continue")


@contextmanager
def work_folder(path: Path, note: Callable[[str], None]) -> Iterator[ImportProgress]:
    """Yield an earlier run's progress; remove the folder at success."""
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
        progress.close()
        raise
    shutil.rmtree(folder)
